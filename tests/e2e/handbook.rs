//! What docs/operating.md says to do is done here, as it stands there.

use crate::harness::producer::{Feeder, Kcat, symbol};
use crate::harness::{Invocation, LIMIT, Stage, eventually};
use std::process::Command;

const DOC: &str = include_str!("../../docs/operating.md");

/// 2026-12-01T00:00:00Z, where the second month of the document begins.
const DECEMBER: i64 = 1_796_083_200;

/// The block that the document gives to this file by this name.
#[track_caller]
fn block(name: &str) -> &'static str {
    let marker = format!("<!-- tests/e2e/handbook.rs runs it: {name} -->\n```sql\n");
    DOC.split_once(&marker).and_then(|(_, rest)| rest.split_once("```")).unwrap_or_else(|| panic!("no {marker:?}")).0
}

/// Runs its statements one by one, as psql does.
#[track_caller]
fn run(stage: &Stage, name: &str) {
    let mut client = stage.database();
    for statement in block(name).split_inclusive(";\n") {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// All blocks of a language that no other test runs, without their comments.
fn others(language: &str) -> Vec<&'static str> {
    let mut blocks = Vec::new();
    let mut before = "";
    for (i, part) in DOC.split("```").enumerate() {
        // Every second part is inside of a block.
        if i % 2 == 1 && !before.trim_end().ends_with("-->") {
            blocks.extend(part.strip_prefix(language).and_then(|rest| rest.strip_prefix('\n')));
        }
        before = part;
    }
    assert!(!blocks.is_empty(), "the document has no block in {language}");
    blocks
}

/// Prices with times in December, from so many seconds on.
fn produce_in_december(stage: &Stage, seconds: std::ops::Range<i64>) {
    let mut kcat = Kcat::start(&stage.topic, None, "lz4");
    for second in seconds {
        let time = DECEMBER + second;
        let value = format!(r#"{{"symbol":"{}","price":1,"timestamp":{time}}}"#, symbol(second));
        kcat.line(&symbol(second), value.as_bytes());
    }
    kcat.finish();
}

#[test]
fn a_new_table_by_month_is_written_into() {
    let stage = Stage::new("operate_new", 2);
    run(&stage, "new");
    produce_in_december(&stage, -1_000..2_000);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    let rows = |table: &str| stage.number(&format!("SELECT count(*) FROM {table}"));
    assert_eq!((rows("stock_prices_2026_11"), rows("stock_prices_2026_12")), (1_000, 2_000));
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 0);
    stage.assert_counters(&stage.topic);
}

#[test]
fn a_full_table_becomes_one_by_month_beside_a_worker_and_loses_its_oldest_month() {
    let stage = Stage::new("operate_months", 2);
    let mut worker = stage.invocation().start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 1_000);
    stage.wait_for_progress();
    run(&stage, "convert");
    stage.wait_for_progress();
    stage.wait_for_progress();
    run(&stage, "next");
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    stage.assert_exactly_once();
    let rows = |table: &str| stage.number(&format!("SELECT count(*) FROM {table}"));
    assert_eq!((rows("stock_prices_before"), rows("stock_prices_2026_12")), (stage.sent().count(), 0));
    assert_eq!(stage.number("SELECT count(*) - count(DISTINCT id) FROM stock_prices"), 0, "ids go on where they were");

    produce_in_december(&stage, 0..1_000);
    eventually("December is written", LIMIT, || rows("stock_prices_2026_12") > 0);
    run(&stage, "drop");
    produce_in_december(&stage, 1_000..2_000);
    stage.wait_until_drained(LIMIT);
    assert_eq!((rows("stock_prices"), rows("writer_dead_letters")), (2_000, 0));
    assert!(worker.alive());
    worker.stop();
}

/// Runs a command line of the document's on the stage's schema.
#[track_caller]
fn shell(stage: &Stage, invocation_of: &str) {
    let line = others("sh").into_iter().flat_map(str::lines).find(|line| line.starts_with(invocation_of));
    let line = line.unwrap_or_else(|| panic!("no {invocation_of} in the document"));
    let line = line.replace("pg_dump ", &format!("pg_dump --schema={} ", stage.name));
    let bin = std::env::var("POSTGRES_BIN").expect("POSTGRES_BIN is set by dev/test");
    let output = Command::new("sh")
        .args(["-ec", &line])
        .current_dir(std::env::temp_dir().join(format!("stock-db-writer-{}", stage.name)))
        .env("PATH", format!("{bin}:{}", std::env::var("PATH").expect("PATH is set")))
        .env("DATABASE_URL", &crate::harness::servers().database_url)
        .output()
        .expect("sh can be started");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn a_backup_is_restored(name: &str, invocation: impl Fn(&Stage) -> Invocation) {
    let stage = Stage::new(name, 2);
    let mut worker = invocation(&stage).start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 1_000);
    stage.wait_for_progress();
    // Beside the worker, between any two of its commits.
    shell(&stage, "pg_dump");
    stage.wait_for_progress();
    stage.wait_for_progress();
    shell(&stage, "pg_restore");
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive(), "{:?}", worker.log().last());
    worker.stop();
    stage.assert_exactly_once();

    // The same while it is stopped.
    shell(&stage, "pg_restore");
    invocation(&stage).output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_dump_that_is_restored_beneath_a_worker_is_followed() {
    a_backup_is_restored("operate_backup", Stage::invocation);
}

#[test]
fn the_statements_can_be_run() {
    let stage = Stage::new("operate_sql", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    for sql in others("sql") {
        let sql = format!("BEGIN; CREATE ROLE writer; {sql}; ROLLBACK");
        stage.execute(&sql);
    }
}

#[test]
fn the_command_lines_are_understood() {
    let stage = Stage::new("operate_cli", 1);
    let mut n = 0;
    for line in others("sh").into_iter().flat_map(str::lines) {
        let line = line.split(" #").next().unwrap_or_default();
        let Some(arguments) = line.strip_prefix("stock-db-writer ") else { continue };
        let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
        arguments.push("--help");
        stage.invocation().output(&arguments).expect_code(0);
        n += 1;
    }
    assert!(n >= 5, "{n} command lines");
}

/// One in front of the server, which drops what it is told to ignore.
struct PgBouncer {
    process: std::process::Child,
    url: String,
}

impl PgBouncer {
    /// As the servers' own user.
    fn start(stage: &Stage, mode: &str, ignored: &str) -> PgBouncer {
        let server: postgres::Config =
            crate::harness::servers().database_url.parse().expect("the servers' url is right");
        PgBouncer::start_as(stage, mode, ignored, server.get_user().expect("a user"))
    }

    fn start_as(stage: &Stage, mode: &str, ignored: &str, user: &str) -> PgBouncer {
        let server: postgres::Config =
            crate::harness::servers().database_url.parse().expect("the servers' url is right");
        let (server_port, port) = (server.get_ports()[0], free_port());
        let name = server.get_dbname().expect("a database");
        let directory = std::env::temp_dir().join(format!("stock-db-writer-{}", stage.name));
        let settings = directory.join(format!("pgbouncer-{port}.ini"));
        let text = format!(
            "[databases]\n{name} = host=127.0.0.1 port={server_port} user={user} dbname={name}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n\
             ignore_startup_parameters = {ignored}\n"
        );
        std::fs::write(&settings, text).expect("the test's directory can be written");
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let mut command = Command::new("pgbouncer");
        // It refuses to run as root.
        command.args(if is_root { &["-u", "nobody"][..] } else { &[] }).arg(&settings);
        let process = command.stderr(std::process::Stdio::null()).spawn().expect("pgbouncer can be started");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        eventually("pgbouncer listens", LIMIT, || std::net::TcpStream::connect(address).is_ok());
        PgBouncer { process, url: format!("postgresql://{user}@127.0.0.1:{port}/{name}") }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

#[test]
fn a_pooler_that_drops_the_sessions_settings_is_refused() {
    let stage = Stage::new("operate_pooler", 1);
    for mode in ["transaction", "session"] {
        let pooler = PgBouncer::start(&stage, mode, "options");
        let output =
            stage.invocation().env("DATABASE_URL", &pooler.url).output(&["run", "--until-end"]).expect_code(78);
        let said = "lock_timeout is \"0\" and not \"2000\"): a connection pooler in between drops its settings";
        assert!(output.cause().contains(said), "{mode}: {}", output.cause());
    }
    let pooler = PgBouncer::start(&stage, "session", "");
    let said = stage.invocation().env("DATABASE_URL", &pooler.url).output(&["check"]).expect_code(69).said();
    assert!(said.contains("unsupported startup parameter: options (SQLSTATE 08P01)"), "{said}");
}

#[test]
fn a_pooler_that_keeps_sessions_can_be_used_where_the_settings_come_from_the_role() {
    let stage = Stage::new("operate_sessions", 2);
    let role = &stage.name;
    stage.execute(&format!("CREATE ROLE {role} SUPERUSER LOGIN"));
    let settings =
        others("sql").into_iter().find(|sql| sql.contains("ALTER ROLE writer SET")).expect("the block is there");
    stage.execute(&settings.replace("ALTER ROLE writer ", &format!("ALTER ROLE {role} ")));
    let pooler = PgBouncer::start_as(&stage, "session", "options", role);
    stage.produce(20_000);
    stage.invocation().env("DATABASE_URL", &pooler.url).output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    drop(pooler);
    stage.execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"));
}
