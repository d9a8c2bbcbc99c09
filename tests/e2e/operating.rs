//! What an operator sees of a running worker: metrics, probes, progress, summaries, and what a signal does.

use crate::harness::producer::Kcat;
use crate::harness::scrape::{get, serving, value, wait_for_value};
use crate::harness::{LIMIT, Proxy, Stage, eventually, eventually_some};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn metrics_say_what_was_done_and_how_it_stands() {
    let stage = Stage::new("metrics", 2);
    stage.produce(1_000);
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    for value in ["{", "[]"] {
        kcat.line("key", value.as_bytes());
    }
    kcat.finish();
    let (worker, address) = serving(&stage.invocation(), &["run"]);
    let topic = &stage.topic;
    wait_for_value(&address, &format!("stock_db_writer_records_total{{topic=\"{topic}\"}}"), "1002");
    let name = |suffix: &str| format!("stock_db_writer_{suffix}");
    wait_for_value(&address, &name("dead_letters_total{class=\"syntax\"}"), "1");
    wait_for_value(&address, &name("skipped_total{reason=\"empty\"}"), "1");
    wait_for_value(&address, &name("visible_latency_seconds_count"), "1002");
    wait_for_value(&address, &name("database_up"), "1");
    wait_for_value(&address, &name("kafka_up"), "1");
    for partition in 0..2 {
        let labels = format!("{{partition=\"{partition}\",topic=\"{topic}\"}}");
        wait_for_value(&address, &name(&format!("lag_records{labels}")), "0");
        wait_for_value(&address, &name(&format!("lag_seconds{labels}")), "0");
    }
    // Both partitions together stand where everything ends.
    let next = |partition: i32| {
        let series = name(&format!("next_offset{{partition=\"{partition}\",topic=\"{topic}\"}}"));
        value(&address, &series).and_then(|value| value.parse::<i64>().ok())
    };
    eventually("both offsets are shown", LIMIT, || matches!((next(0), next(1)), (Some(a), Some(b)) if a + b == 1_002));
    assert_eq!(get(&address, "/health/ready"), Some((200, "ready\n".to_owned())));
    assert_eq!(get(&address, "/health/live"), Some((200, "live\n".to_owned())));
    assert_eq!(get(&address, "/").map(|(status, _)| status), Some(404));
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
}

#[test]
fn probes_tell_of_a_database_that_is_away_and_of_its_return() {
    let stage = Stage::new("probes", 1);
    let proxy = Proxy::start();
    let mut worker =
        stage.invocation().set("metrics.listen", "127.0.0.1:0").env("DATABASE_URL", proxy.url()).start(&["run"]);
    let line = worker.wait_for_log("serving metrics address=", LIMIT);
    let address = line.rsplit_once('=').expect("the line ends with the address").1.to_owned();
    let ready = |expected: u16, why: &str| {
        eventually(&format!("/health/ready is {expected} {why:?}"), LIMIT, || {
            get(&address, "/health/ready").is_some_and(|(status, body)| status == expected && body.contains(why))
        });
    };
    ready(200, "ready");
    proxy.refuse();
    stage.produce(10);
    ready(503, "PostgreSQL");
    assert_eq!(value(&address, "stock_db_writer_database_up").as_deref(), Some("0"));
    assert_eq!(get(&address, "/health/live").map(|(status, _)| status), Some(200), "restarting would not help");
    let probe = stage.invocation().set("metrics.listen", &address).output(&["health"]).expect_code(69);
    assert!(probe.cause().starts_with("not ready: PostgreSQL"), "{}", probe.stderr);
    stage.invocation().set("metrics.listen", &address).output(&["health", "--live"]).expect_code(0);
    proxy.pass();
    ready(200, "ready");
    let probe = stage.invocation().set("metrics.listen", &address).output(&["health"]).expect_code(0);
    assert_eq!(probe.stdout.trim(), "ready");
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
    let nobody = stage.invocation().set("metrics.listen", &address).output(&["health"]).expect_code(69);
    assert!(nobody.cause().contains(&address), "{}", nobody.stderr);
    let off = stage.invocation().set("metrics.listen", "").output(&["health"]).expect_code(78);
    assert!(off.cause().contains("metrics.listen"), "{}", off.stderr);
    // The worker listens somewhere then, but nobody else can know where.
    let anywhere = stage.invocation().set("metrics.listen", "127.0.0.1:0").output(&["health"]).expect_code(78);
    assert!(anywhere.cause().starts_with("metrics.listen: 127.0.0.1:0 "), "{}", anywhere.stderr);
}

/// More than are served at a time; none of them finishes its request.
fn silent_clients(address: &str) -> Vec<TcpStream> {
    let silent = || {
        let mut client = TcpStream::connect(address).expect("the worker listens");
        // It may have been put out already, to make room for the next one.
        let _ = client.write_all(b"GET /metrics HTTP/1.1\r\nHost:");
        client
    };
    (0..200).map(|_| silent()).collect()
}

#[test]
fn clients_that_never_read_keep_neither_records_nor_probes_waiting() {
    let stage = Stage::new("slow_clients", 1);
    let (worker, address) = serving(&stage.invocation(), &["run"]);
    let clients = silent_clients(&address);
    stage.produce(5_000);
    stage.wait_until_drained(LIMIT);
    assert_eq!(get(&address, "/health/live").map(|(status, _)| status), Some(200));
    assert!(get(&address, "/metrics").is_some_and(|(status, _)| status == 200));
    drop(clients);
    // Among many attempts one meets a machine that has a moment to spare. Nobody would be quick behind a queue.
    let took = (0..10).map(|_| {
        let clients = silent_clients(&address);
        let asked_at = Instant::now();
        assert_eq!(get(&address, "/health/live").map(|(status, _)| status), Some(200));
        let took = asked_at.elapsed();
        drop(clients);
        took
    });
    let quickest = took.min().expect("there were attempts");
    assert!(quickest < Duration::from_secs(1), "no probe was answered in less than {quickest:?}");
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
}

#[test]
fn an_address_that_is_taken_keeps_no_record_waiting() {
    let stage = Stage::new("taken", 1);
    let (first, address) = serving(&stage.invocation(), &["run"]);
    let mut second = stage.invocation().set("metrics.listen", &address).start(&["run"]);
    let line = second.wait_for_log("metrics are not served", LIMIT);
    assert!(line.contains(&address) && line.contains("metrics.listen") && line.contains("trying again"), "{line}");
    stage.produce(100);
    stage.wait_until_drained(LIMIT);
    // It takes over when the other one has gone.
    first.signal("TERM");
    first.output(LIMIT).expect_code(0);
    second.wait_for_log("serving metrics address=", LIMIT);
    second.signal("TERM");
    second.output(LIMIT).expect_code(0);
}

#[test]
fn sighup_reads_the_log_level_again_and_nothing_else() {
    let stage = Stage::new("sighup", 1);
    let directory = std::env::temp_dir().join(format!("stock-db-writer-sighup-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("the temporary directory takes directories");
    let file = directory.join("writer.toml");
    let write = |text: &str| fs::write(&file, text).expect("the directory takes files");
    write("[log]\nlevel = \"info\"\n");
    let file_name = file.to_str().expect("the name is UTF-8");
    let mut worker = stage.invocation().env("RUST_LOG", "").start(&["--config", file_name, "run"]);
    stage.produce(10);
    stage.wait_until_drained(LIMIT);
    assert_eq!(worker.count(" DEBUG "), 0, "{:#?}", worker.log());
    write("[log]\nlevel = \"debug\"\n");
    worker.signal("HUP");
    worker.wait_for_log("configuration read again log_level=debug", LIMIT);
    stage.produce(10);
    stage.wait_until_drained(LIMIT);
    eventually("something is said at debug", LIMIT, || worker.count(" DEBUG ") > 0);
    // What is wrong changes nothing, and is said.
    write("[log]\nlevel = \"loud\"\n");
    worker.signal("HUP");
    let line = worker.wait_for_log("going on as before", LIMIT);
    assert!(line.contains("log.level"), "{line}");
    write("[log]\nlevel = \"info\"\n[batch]\nrows_max = 7\n");
    worker.signal("HUP");
    worker.wait_for_log("that needs a restart", LIMIT);
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
    // What is logged is what RUST_LOG says, whatever the file says.
    let mut worker = stage.invocation().env("RUST_LOG", "info").start(&["--config", file_name, "run"]);
    worker.wait_for_log("claimed partition=", LIMIT);
    write("[log]\nlevel = \"debug\"\n");
    worker.signal("HUP");
    let line = worker.wait_for_log("configuration read again", LIMIT);
    assert!(line.contains("RUST_LOG=\"info\" outweighs log.level") && !line.contains("log_level=debug"), "{line}");
    worker.stop();
    fs::remove_dir_all(&directory).expect("the directory is ours");
}

#[test]
fn a_busy_minute_ends_with_a_summary() {
    let stage = Stage::new("summary", 1);
    let mut worker = stage.invocation().set("log.format", "json").start(&["run"]);
    let summary = eventually_some("a summary", Duration::from_secs(300), || {
        stage.produce(50);
        assert!(worker.alive(), "{:#?}", worker.log());
        worker.log().into_iter().find(|line| line.contains("\"message\":\"summary\""))
    });
    let line: Value = serde_json::from_str(&summary).expect("a line is an object");
    for field in ["rows", "rows_per_s", "lag_records", "lag_s", "rows_per_batch", "transaction_ms"] {
        assert!(line[field].is_number(), "{field} in {line}");
    }
    // Changes of state, not turns of a loop.
    assert_eq!(worker.count("\"message\":\"summary\""), 1);
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
}

#[test]
fn progress_without_a_terminal_is_a_line_now_and_then() {
    let stage = Stage::new("progress", 1);
    stage.produce(2_000);
    let silent = stage.invocation().output(&["run", "--until-end", "--progress", "never"]).expect_code(0);
    assert!(!silent.stderr.contains("run: "), "{}", silent.stderr);
    let mut worker = stage.invocation().start(&["run", "--progress", "always"]);
    let line = worker.wait_for_log("run: ", LIMIT);
    assert!(line.contains(" records, ") && line.contains("/s, lag "), "{line}");
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
    let wrong = stage.invocation().output(&["run", "--progress", "sometimes"]).expect_code(64);
    assert!(wrong.stderr.contains("auto, always, never"), "{}", wrong.stderr);
}

#[test]
fn completions_need_neither_configuration_nor_servers() {
    let stage = Stage::new("completions", 1);
    for (shell, mark) in [("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let invocation = stage.invocation().set("batch.rows_max", "nonsense");
        let printed = invocation.output(&["completions", shell]).expect_code(0).stdout;
        assert!(printed.contains(mark) && printed.contains("dead-letters"), "{printed}");
    }
    stage.invocation().output(&["completions", "cmd"]).expect_code(64);
}

#[test]
fn check_writes_rows_and_leaves_none() {
    let stage = Stage::new("rehearsal", 1);
    // Into tables that are not there nothing can be written, and it doesn't say so.
    let without = stage.invocation().output(&["check"]).expect_code(0).stdout;
    assert!(without.contains("ok: ") && !without.contains("rolled back"), "{without}");
    stage.invocation().output(&["init"]).expect_code(0);
    let with = stage.invocation().output(&["check"]).expect_code(0).stdout;
    assert!(with.contains("rows written and rolled back"), "{with}");
    for table in ["stock_prices", "stock_metrics", "writer_dead_letters"] {
        assert_eq!(stage.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    // What only a write can show.
    stage.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'not today'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON stock_prices FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let refused = stage.invocation().output(&["check"]).expect_code(77);
    assert!(refused.stdout.contains("problem: database: "), "{}", refused.stdout);
}

/// Gives what follows a terminal of 80 columns, and hands on what appears there.
const TERMINAL: &str = "import fcntl, os, pty, struct, sys, termios
pid, master = pty.fork()
if pid == 0:
    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    try:
        shown = os.read(master, 65536)
    except OSError:
        break
    if not shown:
        break
    os.write(1, shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";

#[test]
fn a_terminal_gets_a_bar_and_log_lines_above_it() {
    let stage = Stage::new("bar", 1);
    stage.produce(20_000);
    let on_terminal = || stage.invocation().under(&["python3", "-c", TERMINAL]).env("TERM", "xterm-256color");
    let shown = on_terminal().set("batch.rows_max", 200).output(&["run", "--until-end"]).expect_code(0).stdout;
    assert!(shown.contains(" records, ") && shown.contains("/s, lag ") && shown.contains('%'), "{shown:?}");
    assert!(shown.contains("INFO  main stopped records=20000"), "{shown:?}");
    // Each line of the log begins where a line begins, whatever is drawn.
    for line in shown.lines().filter(|line| line.contains(" INFO ")) {
        let plain = line.rsplit(['\r', 'K', 'A', 'J']).find(|part| part.contains(" INFO ")).unwrap_or(line);
        assert!(plain.starts_with("20"), "{line:?}");
    }
    let table = on_terminal().output(&["status"]).expect_code(0).stdout;
    assert!(table.contains("\x1b[1m"), "{table:?}");
    let plain = on_terminal().env("NO_COLOR", "1").output(&["status"]).expect_code(0).stdout;
    assert!(!plain.contains('\x1b'), "{plain:?}");
    let piped = stage.invocation().output(&["status"]).expect_code(0).stdout;
    assert!(!piped.contains('\x1b'), "{piped:?}");
}
