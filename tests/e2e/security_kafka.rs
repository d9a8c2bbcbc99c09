//! Every way to get into a Kafka, and every way to fail at it: docs/security.md has the table.

use crate::harness::certificates::{Authority, Certificate, For, secret_file};
use crate::harness::matrix::Matrix;
use crate::harness::producer::quote;
use crate::harness::secure_broker::{PASSWORD, SecureBroker, USER};
use crate::harness::{Invocation, Stage};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// `{"alg":"none"}.{"sub":"worker","iat":…,"exp":…}.`, valid until 2100 and until 2020.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ3b3JrZXIiLCJpYXQiOjE3MDAwMDAwMDAsImV4cCI6NDEwMjQ0NDgwMH0.";
const EXPIRED_TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ3b3JrZXIiLCJpYXQiOjE2MDAwMDAwMDAsImV4cCI6MTYwMDAwMzYwMH0.";

const N_RECORDS: i64 = 20;

struct Client<'a> {
    stage: &'a Stage,
    broker: &'a SecureBroker,
    n_pipelines: std::cell::Cell<u32>,
    ca_file: &'a Path,
}

impl Client<'_> {
    /// The worker's command line for a listener, with a pipeline that nobody has used yet.
    fn plain(&self, listener: &str) -> Invocation {
        self.n_pipelines.set(self.n_pipelines.get() + 1);
        self.stage
            .invocation_of_all()
            .set("pipeline", format!("{}_{}", self.stage.name, self.n_pipelines.get()))
            .set("kafka.brokers", self.broker.address(listener))
    }

    fn tls(&self, listener: &str) -> Invocation {
        self.plain(listener).set("kafka.tls.enable", true).set("kafka.tls.ca_file", self.ca_file.display())
    }

    fn with(&self, own: &Certificate) -> Invocation {
        let invocation = self.tls("mtls").set("kafka.tls.cert_file", own.cert_file.display());
        invocation.set("kafka.tls.key_file", own.key_file.display())
    }

    fn password(&self, invocation: Invocation, mechanism: &str, password: &str) -> Invocation {
        let file = self.stage.path(password.trim_start_matches("hunter2-"));
        secret_file(&file, password);
        let invocation = invocation.set("kafka.sasl.mechanism", mechanism).set("kafka.sasl.username", USER);
        invocation.set("kafka.sasl.password_file", file.display())
    }

    fn token(&self, invocation: Invocation, token: &str) -> Invocation {
        let file = self.stage.path("token");
        secret_file(&file, token);
        invocation.set("kafka.sasl.mechanism", "OAUTHBEARER").set("kafka.sasl.token_file", file.display())
    }
}

#[test]
fn every_way_to_kafka_ends_as_the_documentation_says() {
    let stage = Stage::new("security_kafka", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    let (ours, others) = (Authority::new(&stage.path(""), "ca"), Authority::new(&stage.path(""), "other-ca"));
    let broker = SecureBroker::start(&stage.path(""), &ours);
    broker.produce(&stage.topic, (1..=N_RECORDS).map(quote));
    let client = Client { stage: &stage, broker: &broker, n_pipelines: Default::default(), ca_file: &ours.file };
    let mut matrix = Matrix::new("Kafka");
    for secret in ["hunter2", "BEGIN PRIVATE KEY", &TOKEN[..30], &EXPIRED_TOKEN[..60]] {
        matrix.secret(secret);
    }
    for address in broker.addresses() {
        matrix.word(address, "kafka.example:9093");
    }
    matrix.word("127.0.0.1:1:", "kafka.example:9093:");
    matrix.word("127.0.0.1:1\"", "kafka.example:9093\"");
    matrix.word("127.0.0.1", "kafka.example");
    matrix.word(stage.path("").display(), "/etc/stock-db-writer/");

    matrix.case("no TLS", &client.plain("plain"), 0);
    matrix.case("TLS", &client.tls("tls"), 0);
    matrix.case("TLS, in a group", &client.tls("tls").set("kafka.assignment", "group"), 0);
    let unknown = |file: &dyn std::fmt::Display| client.tls("tls").set("kafka.tls.ca_file", file);
    matrix.case("TLS, unknown authority", &unknown(&others.file.display()), 78);
    matrix.case("TLS, unknown authority, `ca_file` not set", &unknown(&""), 78);
    matrix.case("TLS, expired", &client.tls("expired"), 78);
    matrix.case("TLS, certificate for another name", &client.tls("elsewhere"), 78);
    matrix.case("TLS to a port without it", &client.tls("plain"), 69);
    matrix.case("no TLS to a port with it", &client.plain("tls"), 69);

    let own = ours.issue("client", For::Client(USER));
    matrix.case("TLS, client certificate", &client.with(&own), 0);
    matrix.case("TLS, client certificate asked for and not set", &client.tls("mtls"), 77);
    let stranger = others.issue("stranger", For::Client(USER));
    matrix.case("TLS, client certificate of an authority that the broker doesn't know", &client.with(&stranger), 77);
    let mixed = client.with(&own).set("kafka.tls.key_file", stranger.key_file.display());
    matrix.case("TLS, a key that is not the certificate's", &mixed, 78);
    matrix.case("TLS, `ca_file` without a certificate", &unknown(&own.key_file.display()), 78);
    std::fs::set_permissions(&own.key_file, PermissionsExt::from_mode(0o644)).expect("the file is ours");
    matrix.case("the key is for everybody to read", &client.with(&own), 78);

    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let tls = |password| client.password(client.tls("sasl_tls"), mechanism, password);
        matrix.case(&format!("TLS, {mechanism}"), &tls(PASSWORD), 0);
        matrix.case(&format!("TLS, {mechanism}, wrong password"), &tls("hunter2-wrong"), 77);
    }
    matrix.case("TLS, OAUTHBEARER", &client.token(client.tls("sasl_tls"), TOKEN), 0);
    matrix.case("TLS, OAUTHBEARER, expired token", &client.token(client.tls("sasl_tls"), EXPIRED_TOKEN), 77);

    let plain = |mechanism| client.password(client.plain("sasl_plain"), mechanism, PASSWORD);
    matrix.case("no TLS, SCRAM-SHA-256", &plain("SCRAM-SHA-256"), 0);
    matrix.case("no TLS, PLAIN", &plain("PLAIN"), 78);
    let allowed = plain("PLAIN").set("kafka.sasl.allow_plaintext_password", true);
    matrix.case("no TLS, PLAIN, `allow_plaintext_password`", &allowed, 0);
    matrix.case("no TLS, OAUTHBEARER", &client.token(client.plain("sasl_plain"), TOKEN), 78);
    matrix.case("a mechanism that the broker doesn't offer", &plain("SCRAM-SHA-512"), 77);
    matrix.case("no SASL to a port with it", &client.plain("sasl_plain"), 69);
    matrix.case("SASL to a port without it", &client.password(client.tls("tls"), "SCRAM-SHA-256", PASSWORD), 77);
    let public = client.password(client.tls("sasl_tls"), "PLAIN", "hunter2-public");
    std::fs::set_permissions(stage.path("public"), PermissionsExt::from_mode(0o644)).expect("the file is ours");
    matrix.case("the file with the password is for everybody to read", &public, 78);
    matrix.case("nobody there", &client.tls("tls").set("kafka.brokers", "127.0.0.1:1"), 69);

    let n_done = stage.number(&format!("SELECT count(*) FROM writer_offsets WHERE next_offset = {N_RECORDS}"));
    let n_good = matrix.count(0);
    assert_eq!(n_done, n_good, "who gets in reads everything");
    matrix.assert_documented();
}
