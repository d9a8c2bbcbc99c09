//! The database can't do what it is asked, for a while: nothing becomes a dead letter, the worker stays in its group and
//! goes on by itself. Where it stays so, the worker ends at the right offset.

use crate::harness::producer::Feeder;
use crate::harness::{Invocation, LIMIT, Stage, Worker, eventually, servers};
use crate::liveness::assert_prompt_commit;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Longer than the session of a member that does not poll.
const OUTAGE: Duration = Duration::from_secs(8);

/// A role of its own for the worker, whose connections can be ended, and which can be denied what it needs.
struct Role<'s> {
    stage: &'s Stage,
    name: String,
}

impl<'s> Role<'s> {
    fn new(stage: &'s Stage, properties: &str) -> Role<'s> {
        stage.invocation().output(&["init"]).expect_code(0);
        let (name, schema) = (format!("r{}", stage.name), &stage.name);
        stage.execute(&format!(
            "CREATE ROLE {name} LOGIN {properties};
             GRANT USAGE ON SCHEMA {schema} TO {name};
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {name}"
        ));
        Role { stage, name }
    }

    fn invocation(&self, password: &str) -> Invocation {
        let (_, place) = servers().database_url.split_once('@').expect("DATABASE_URL is scheme://user@host:port/name");
        let url = format!("postgresql://{}:{password}@{place}", self.name);
        self.stage.invocation().env("DATABASE_URL", url).set("schema.manage", "validate")
    }

    /// Changes the role, and ends its sessions, since only new ones see it.
    fn alter(&self, how: &str) {
        let name = &self.name;
        self.stage.execute(&format!(
            "ALTER ROLE {name} {how};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
        ));
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stage.execute(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name));
        }
    }
}

/// Runs a worker through a fault that its log names by `sign`, and through its end.
fn is_survived(stage: &Stage, invocation: Invocation, sign: &str, fault: impl FnOnce(), heal: impl FnOnce()) {
    let invocation = invocation
        .set("kafka.group_protocol", "classic")
        .set("kafka.session_timeout_ms", 6_000)
        .set("batch.rows_max", 200)
        .set("retry.max_ms", 2_000);
    let mut worker = invocation.start(&["run"]);
    stage.produce(2_000);
    stage.wait_until_drained(LIMIT);
    let feeder = Feeder::start(stage, &stage.topic, 500);
    stage.wait_for_progress();
    fault();
    println!("{}", worker.wait_for_log(sign, LIMIT));
    thread::sleep(OUTAGE);
    assert!(worker.alive());
    heal();
    assert_prompt_commit(stage, sign);
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    for word in ["revoked partition", "lost partition", "fenced partition"] {
        assert_eq!(worker.count(word), 0, "{word}: it stays in its group");
    }
    assert_said_once(&worker);
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 0);
    worker.stop();
    stage.assert_exactly_once();
}

/// One line when it begins, one when it is over, whichever thread notices; it may be noticed as two.
#[track_caller]
fn assert_said_once(worker: &Worker) {
    let (away, back) = (worker.count("database unreachable"), worker.count("database reachable again"));
    assert_eq!(away, back, "{:#?}", worker.log());
    let n_warnings = worker.count(" WARN ") + worker.count(" ERROR ");
    assert!(away <= 3 && n_warnings <= 6, "{n_warnings} warnings are a flood: {:#?}", worker.log());
}

#[test]
fn a_full_disk_is_waited_for() {
    let stage = Stage::alone("disk_full", 2);
    stage.invocation().output(&["init"]).expect_code(0);
    let mut database = stage.database();
    let row = database.query_one("SHOW unix_socket_directories", &[]).expect("PostgreSQL answers");
    let small = PathBuf::from(row.get::<_, String>(0)).join("small");
    let space = format!("s{}", stage.name);
    // Outside of a transaction, each by itself.
    for sql in [
        format!("CREATE TABLESPACE {space} LOCATION '{}'", small.display()),
        format!("ALTER TABLE stock_prices SET TABLESPACE {space}"),
        format!("CREATE TABLE filler (x text) TABLESPACE {space}; ALTER TABLE filler ALTER x SET STORAGE PLAIN"),
    ] {
        database.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let fill = || {
        let fill = "INSERT INTO filler SELECT repeat('x', 4000) FROM generate_series(1, 100000)";
        let error = stage.database().batch_execute(fill).expect_err("the disk is small: see dev/services");
        assert_eq!(error.code().map(|code| code.code()), Some("53100"), "{error:?}");
    };
    is_survived(&stage, stage.invocation(), "SQLSTATE 53100", fill, || stage.execute("DROP TABLE filler"));
    for sql in ["ALTER TABLE stock_prices SET TABLESPACE pg_default".to_owned(), format!("DROP TABLESPACE {space}")] {
        database.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[test]
fn too_many_connections_are_waited_for() {
    let stage = Stage::new("connections", 2);
    let role = Role::new(&stage, "");
    is_survived(
        &stage,
        role.invocation(""),
        "SQLSTATE 53300",
        || role.alter("CONNECTION LIMIT 0"),
        || role.alter("CONNECTION LIMIT -1"),
    );
}

#[test]
fn a_server_that_is_read_only_after_a_failover_is_waited_for() {
    let stage = Stage::new("read_only", 2);
    let role = Role::new(&stage, "");
    is_survived(
        &stage,
        role.invocation(""),
        "database answers, but can't be used",
        || role.alter("SET default_transaction_read_only = on"),
        || role.alter("RESET default_transaction_read_only"),
    );
}

/// As when a standby is promoted and demoted beneath open connections.
#[test]
fn a_server_that_becomes_read_only_beneath_an_open_connection_is_waited_for() {
    let stage = Stage::alone("read_only_open", 2);
    let all = |value: &str| {
        let mut database = stage.database();
        let sql = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        database.batch_execute("SET default_transaction_read_only = off").expect("PostgreSQL answers");
        database.batch_execute(&sql).expect("PostgreSQL answers");
        database.batch_execute("SELECT pg_reload_conf()").expect("PostgreSQL answers");
    };
    is_survived(&stage, stage.invocation(), "database answers, but can't be used", || all("on"), || all("off"));
}

/// Roles that must show a password; see dev/services.
fn with_password(stage: &Stage) -> Role<'_> {
    stage.execute(
        "DO $$ BEGIN CREATE ROLE needs_password NOLOGIN; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    );
    Role::new(stage, "PASSWORD 'first' IN ROLE needs_password")
}

#[test]
fn a_password_that_is_changed_and_changed_back_is_waited_for() {
    let stage = Stage::new("password_back", 2);
    let role = with_password(&stage);
    is_survived(
        &stage,
        role.invocation("first"),
        "SQLSTATE 28P01",
        || role.alter("PASSWORD 'second'"),
        || role.alter("PASSWORD 'first'"),
    );
}

#[test]
fn a_password_file_is_read_again() {
    let stage = Stage::new("password_file", 2);
    let role = with_password(&stage);
    let path = std::env::temp_dir().join(format!("{}.password", stage.name));
    let write = |password: &str| std::fs::write(&path, password).expect("the file can be written");
    write("first");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    let invocation = role.invocation("unused").set("database.password_file", path.display());
    is_survived(&stage, invocation, "SQLSTATE 28P01", || role.alter("PASSWORD 'second'"), || write("second"));
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn a_password_that_stays_wrong_is_77_after_the_grace() {
    let stage = Stage::new("password_wrong", 2);
    let role = with_password(&stage);
    let worker = role.invocation("first").set("schema.grace_ms", 3_000).start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    role.alter("PASSWORD 'second'");
    stage.produce(1_000);
    let output = worker.output(LIMIT).expect_code(77);
    println!("{}", output.cause());
    assert!(output.cause().contains("28P01") && !output.stderr.contains("first"), "{}", output.stderr);
    assert_eq!(stage.rows(), 1_000);
    role.invocation("second").output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_table_that_is_locked_is_waited_for() {
    let stage = Stage::new("lock_table", 2);
    stage.invocation().output(&["init"]).expect_code(0);
    let mut holder = stage.database();
    let mut other = stage.database();
    let lock = || holder.batch_execute("BEGIN; LOCK TABLE stock_prices").expect("the lock is taken");
    is_survived(&stage, stage.invocation(), "a lock is held against us", lock, || {
        other
            .batch_execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
                 AND relation = 'stock_prices'::regclass",
            )
            .expect("PostgreSQL answers");
    });
}

/// A migration in the middle of a run: the table is not as it should be, and then it is.
fn a_migration_is_waited_for(name: &str, sign: &str, away: &str, back: &str) {
    let stage = Stage::new(name, 2);
    stage.invocation().output(&["init"]).expect_code(0);
    is_survived(&stage, stage.invocation(), sign, || stage.execute(away), || stage.execute(back));
}

#[test]
fn a_column_that_is_dropped_and_added_again_is_waited_for() {
    let stage = Stage::new("column_dropped", 2);
    stage.invocation().output(&["init"]).expect_code(0);
    // What the column held is the operator's to put back.
    let away = "BEGIN; LOCK TABLE stock_prices; CREATE TABLE kept AS SELECT id, volume FROM stock_prices; \
                ALTER TABLE stock_prices DROP COLUMN volume; COMMIT";
    let back = "BEGIN; ALTER TABLE stock_prices ADD COLUMN volume numeric; \
                UPDATE stock_prices p SET volume = k.volume FROM kept k WHERE k.id = p.id; DROP TABLE kept; COMMIT";
    is_survived(&stage, stage.invocation(), "SQLSTATE 42703", || stage.execute(away), || stage.execute(back));
}

#[test]
fn a_column_that_is_renamed_and_renamed_back_is_waited_for() {
    a_migration_is_waited_for(
        "column_renamed",
        "SQLSTATE 42703",
        "ALTER TABLE stock_prices RENAME volume TO amount",
        "ALTER TABLE stock_prices RENAME amount TO volume",
    );
}

#[test]
fn a_column_of_another_type_is_waited_for() {
    a_migration_is_waited_for(
        "column_retyped",
        "column \"timestamp\" has become integer",
        "ALTER TABLE stock_prices ALTER \"timestamp\" TYPE integer USING extract(epoch FROM \"timestamp\")",
        "ALTER TABLE stock_prices ALTER \"timestamp\" TYPE timestamptz USING to_timestamp(\"timestamp\")",
    );
}

#[test]
fn a_table_that_is_renamed_and_renamed_back_is_waited_for() {
    a_migration_is_waited_for(
        "table_renamed",
        "SQLSTATE 42P01",
        "ALTER TABLE stock_prices RENAME TO stock_prices_old",
        "ALTER TABLE stock_prices_old RENAME TO stock_prices",
    );
}

#[test]
fn a_table_that_is_dropped_and_put_back_is_waited_for() {
    a_migration_is_waited_for(
        "table_dropped",
        "SQLSTATE 42P01",
        "BEGIN; LOCK TABLE stock_prices; CREATE TABLE kept AS TABLE stock_prices; DROP TABLE stock_prices; COMMIT",
        "BEGIN; CREATE TABLE stock_prices (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, symbol text NOT NULL, \
         price numeric NOT NULL, volume numeric, \"timestamp\" timestamptz NOT NULL, fetch_timestamp bigint); \
         INSERT INTO stock_prices (symbol, price, volume, \"timestamp\", fetch_timestamp) \
         SELECT symbol, price, volume, \"timestamp\", fetch_timestamp FROM kept; DROP TABLE kept; COMMIT",
    );
}

#[test]
fn a_schema_that_stays_wrong_is_78_after_the_grace_and_nothing_is_committed_past_it() {
    let stage = Stage::new("schema_wrong", 2);
    let invocation = stage.invocation().set("schema.grace_ms", 3_000).set("batch.rows_max", 200);
    let worker = invocation.start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    stage.execute("ALTER TABLE stock_prices RENAME price TO cost");
    stage.produce(1_000);
    let output = worker.output(LIMIT).expect_code(78);
    println!("{}", output.cause());
    assert!(output.cause().contains("42703"), "{}", output.cause());
    let next: i64 = stage.standings(&stage.topic).values().map(|standing| standing.next_offset).sum();
    assert_eq!((next, stage.rows()), (1_000, 1_000));
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 0);
    invocation.output(&["run", "--until-end"]).expect_code(78);
    stage.execute("ALTER TABLE stock_prices RENAME cost TO price");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

/// Half an hour is a matter of patience; that it is without a limit is what is seen here.
#[test]
fn a_server_that_is_down_is_waited_for() {
    let stage = Stage::alone("server_down", 2);
    is_survived(
        &stage,
        stage.invocation(),
        "database unreachable",
        || servers().service(&["stop", "postgres"]),
        || {
            servers().service(&["start", "postgres"]);
            eventually("PostgreSQL answers", LIMIT, || stage.rows() > 0);
        },
    );
}
