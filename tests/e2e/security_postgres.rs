//! Every way to get into a PostgreSQL, and every way to fail at it: docs/security.md has the table.

use crate::harness::certificates::{Authority, Certificate, For, secret_file};
use crate::harness::matrix::Matrix;
use crate::harness::{Invocation, LIMIT, Stage, eventually, servers};
use std::collections::BTreeSet;

/// The test's server with TLS, until dropped. Whoever speaks to it in plain text notices nothing.
struct TlsServer<'s> {
    stage: &'s Stage,
}

impl<'s> TlsServer<'s> {
    /// Shows this certificate, and asks clients for theirs, which this authority must have signed.
    fn new(stage: &'s Stage, certificate: &Certificate, clients: &Authority) -> TlsServer<'s> {
        let server = TlsServer { stage };
        server.put("clients.pem", &std::fs::read_to_string(&clients.file).expect("it is there"));
        server.alter("ssl_ca_file = 'clients.pem'");
        server.show("first", certificate);
        server
    }

    /// As it was before.
    fn switch_off(&self) {
        for setting in ["ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"] {
            self.stage.execute(&format!("ALTER SYSTEM RESET {setting}"));
        }
        self.reload("ssl", "off");
    }

    /// Shows this certificate from now on.
    fn show(&self, name: &str, certificate: &Certificate) {
        self.put(&format!("{name}.pem"), &certificate.store);
        for file in ["ssl_cert_file", "ssl_key_file"] {
            self.alter(&format!("{file} = '{name}.pem'"));
        }
        self.alter("ssl = on");
        self.reload("ssl_key_file", &format!("{name}.pem"));
    }

    /// A file in the server's directory, which only it can read.
    fn put(&self, name: &str, pem: &str) {
        let lines = format!("SELECT unnest(string_to_array('{pem}', E'\\n'))");
        self.stage.execute(&format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {name}'"));
    }

    fn alter(&self, setting: &str) {
        self.stage.execute(&format!("ALTER SYSTEM SET {setting}"));
    }

    /// A new session has the postmaster's settings.
    fn reload(&self, name: &str, value: &str) {
        self.stage.execute("SELECT pg_reload_conf()");
        eventually("the server's settings", LIMIT, || {
            let row = self.stage.database().query_one(&format!("SHOW {name}"), &[]).expect("PostgreSQL answers");
            row.get::<_, &str>(0) == value
        });
    }
}

impl Drop for TlsServer<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.switch_off();
        }
    }
}

/// Roles for which the server's pg_hba.conf (dev/services) asks for something.
struct Roles<'s> {
    stage: &'s Stage,
    names: BTreeSet<String>,
}

impl<'s> Roles<'s> {
    fn new(stage: &'s Stage) -> Roles<'s> {
        Roles { stage, names: BTreeSet::new() }
    }

    /// The worker's command line as a role that is asked for `what`. Its password is `hunter2-right`.
    fn add(&mut self, what: &str) -> Invocation {
        let (role, schema) = (self.name(what), &self.stage.name);
        let encryption = if what == "md5" { "md5" } else { "scram-sha-256" };
        self.stage.execute(&format!(
            "DO $$ BEGIN CREATE ROLE needs_{what} NOLOGIN; \
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$; \
             SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN PASSWORD 'hunter2-right' IN ROLE needs_{what}; \
             GRANT USAGE ON SCHEMA {schema} TO {role}; \
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role}"
        ));
        self.names.insert(role.clone());
        let url = format!("postgresql://{role}@{}/stocks", servers().database_address());
        self.stage
            .invocation_of_all()
            .env("DATABASE_URL", url)
            .env("PGPASSWORD", "hunter2-right")
            .set("schema.manage", "validate")
            .set("pipeline", &role)
    }

    fn name(&self, what: &str) -> String {
        format!("{}_{what}", self.stage.name)
    }
}

impl Drop for Roles<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for role in &self.names {
                self.stage.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
            }
        }
    }
}

#[test]
fn every_way_to_postgresql_ends_as_the_documentation_says() {
    let stage = Stage::new("security_pg", 1);
    stage.produce(20);
    stage.invocation().output(&["init"]).expect_code(0);
    let mut roles = Roles::new(&stage);
    let [scram, md5, cleartext, certificate, tls_only] =
        ["password", "md5", "cleartext", "certificate", "tls"].map(|what| roles.add(what));
    let (ours, others) = (Authority::new(&stage.path(""), "ca"), Authority::new(&stage.path(""), "other-ca"));
    let address = servers().database_address();
    let mut matrix = Matrix::new("PostgreSQL");
    matrix.secret("hunter2");
    matrix.secret("BEGIN PRIVATE KEY");
    for what in ["password", "md5", "cleartext", "certificate", "tls"] {
        matrix.word(roles.name(what), "worker");
    }
    matrix.word(&address, "db.example:5432");
    matrix.word("127.0.0.1:1:", "db.example:5432:");
    matrix.word("127.0.0.1", "db.example");
    matrix.word(stage.path("").display(), "/etc/stock-db-writer/");
    let tls = |invocation: &Invocation| {
        invocation.clone().set("database.tls", "verify-full").set("database.ca_file", ours.file.display())
    };
    let plain = |invocation: &Invocation| invocation.clone().set("database.tls", "disable");

    // An earlier run of this test may have failed on the same server.
    TlsServer { stage: &stage }.switch_off();
    matrix.case("no TLS, SCRAM", &plain(&scram), 0);
    matrix.case("no TLS, SCRAM, wrong password", &plain(&scram).env("PGPASSWORD", "hunter2-wrong"), 77);
    matrix.case("no TLS, no password", &plain(&scram).env("PGPASSWORD", ""), 77);
    matrix.case("no TLS, and the server asks for the MD5 digest of the password", &plain(&md5), 78);
    matrix.case("no TLS, and the server asks for the password itself", &plain(&cleartext), 78);
    matrix.case("TLS, and the server offers none", &tls(&scram), 78);

    let good = ours.issue("good", For::Names(&["localhost", "127.0.0.1"]));
    let server = TlsServer::new(&stage, &good, &ours);
    matrix.case("TLS, SCRAM", &tls(&scram), 0);
    matrix.case("TLS, SCRAM, wrong password", &tls(&scram).env("PGPASSWORD", "hunter2-wrong"), 77);
    let password_file = stage.path("password");
    secret_file(&password_file, "hunter2-right\n");
    let by_file = tls(&scram).env("PGPASSWORD", "hunter2-wrong").set("database.password_file", password_file.display());
    matrix.case("TLS, SCRAM, the password in a file", &by_file, 0);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&password_file, mode).expect("the file is ours");
    matrix.case("the file with the password is for everybody to read", &by_file, 78);
    matrix.case("TLS, MD5", &tls(&md5), 0);
    matrix.case("TLS, the password itself", &tls(&cleartext), 0);
    let url = format!("postgresql://{}@{address}/stocks?channel_binding=require", roles.name("password"));
    matrix.case("TLS, SCRAM, `channel_binding=require`", &tls(&scram).env("DATABASE_URL", url), 78);
    matrix.case("no TLS, and the server wants it", &plain(&tls_only), 77);
    matrix.case("TLS, and the server wants it", &tls(&tls_only), 0);
    let unknown = tls(&scram).set("database.ca_file", others.file.display());
    matrix.case("TLS, unknown authority", &unknown, 78);
    matrix.case("TLS, unknown authority, `ca_file` not set", &tls(&scram).set("database.ca_file", ""), 78);
    matrix.case(
        "TLS, `ca_file` without a certificate",
        &tls(&scram).set("database.ca_file", good.key_file.display()),
        78,
    );

    let with = |invocation: &Invocation, own: &Certificate| {
        let invocation = tls(invocation).set("database.cert_file", own.cert_file.display());
        invocation.set("database.key_file", own.key_file.display())
    };
    let client = ours.issue("client", For::Client(&roles.name("certificate")));
    matrix.case("TLS, client certificate", &with(&certificate, &client), 0);
    matrix.case("TLS, client certificate asked for and not set", &tls(&certificate), 77);
    let stranger = others.issue("stranger", For::Client(&roles.name("certificate")));
    matrix.case(
        "TLS, client certificate of an authority that the server doesn't know",
        &with(&certificate, &stranger),
        77,
    );
    let somebody = ours.issue("somebody", For::Client("somebody"));
    matrix.case("TLS, client certificate for another role", &with(&certificate, &somebody), 77);
    let mixed = with(&certificate, &client).set("database.key_file", somebody.key_file.display());
    matrix.case("TLS, a key that is not the certificate's", &mixed, 78);
    std::fs::set_permissions(&client.key_file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("it is ours");
    matrix.case("the key is for everybody to read", &with(&certificate, &client), 78);

    server.show("expired", &ours.issue("expired", For::NamesOfThePast(&["127.0.0.1"])));
    matrix.case("TLS, expired", &tls(&scram), 78);
    server.show("elsewhere", &ours.issue("elsewhere", For::Names(&["other.example"])));
    matrix.case("TLS, certificate for another name", &tls(&scram), 78);

    let away = tls(&scram).env("DATABASE_URL", "postgresql://worker@127.0.0.1:1/stocks");
    matrix.case("nobody there", &away, 69);
    drop(server);
    matrix.assert_documented();
}
