//! What a person or a script sees: exit codes, one clear line, and never a secret.

use crate::harness::producer::Feeder;
use crate::harness::{Invocation, LIMIT, Proxy, Stage, eventually, servers};
use serde_json::Value;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// Without servers and without settings.
fn bare() -> Invocation {
    Invocation::new(PathBuf::from("/"))
}

fn unreachable_database() -> String {
    servers().database_url_at(NOWHERE)
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = bare().output(&["--help"]).expect_code(0);
    for word in ["run", "init", "check", "explain", "dead-letters", "status", "--config", "--set", "DATABASE_URL"] {
        assert!(help.stdout.contains(word), "{word} is not in the help:\n{}", help.stdout);
    }
    assert_eq!(help.stderr, "");
    let version = bare().output(&["--version"]).expect_code(0);
    assert_eq!(version.stdout.trim(), format!("stock-db-writer {}", env!("CARGO_PKG_VERSION")));
    assert!(bare().output(&["run", "--help"]).expect_code(0).stdout.contains("--until-end"));
    let help = bare().output(&["dead-letters", "--help"]).expect_code(0).stdout;
    for word in ["list", "show", "redrive", "discard", "Examples:", "TOPIC/PARTITION/OFFSET/ELEMENT"] {
        assert!(help.contains(word), "{word} is not in the help:\n{help}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in [&["frobnicate"][..], &["run", "--frobnicate"], &[], &["run", "surplus"], &["--set"]] {
        let output = bare().output(arguments).expect_code(64);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}: usage errors go to stderr");
    }
}

#[test]
fn a_wrong_setting_is_78_and_all_of_them_are_named_at_once() {
    let wrong = bare().set("kafka.brokerz", "x").set("batch.rows_max", 0).set("batch.linger_ms", "soon");
    let output = wrong.env("DATABASE_URL", &servers().database_url).output(&["run"]).expect_code(78);
    for key in ["kafka.brokerz", "batch.rows_max", "batch.linger_ms"] {
        assert!(output.stderr.contains(key), "{key} is not named:\n{}", output.stderr);
    }
    assert!(output.stderr.contains("must be at least 1, is 0"), "{}", output.stderr);
    bare().output(&["--set", "no-equals-sign", "run"]).expect_code(78);
    let missing = bare().output(&["--config", "/nonexistent/writer.toml", "run"]).expect_code(78);
    assert!(missing.stderr.contains("/nonexistent/writer.toml"), "{}", missing.stderr);
    let variable = bare().env("STOCK_DB_WRITER__BATCH__ROWS_MAX", "-5").output(&["run"]).expect_code(78);
    assert!(variable.stderr.contains("STOCK_DB_WRITER__BATCH__ROWS_MAX"), "{}", variable.stderr);
}

#[test]
fn a_wrong_file_is_78_with_its_line() {
    let stage = Stage::new("file", 1);
    let path = std::env::temp_dir().join(format!("{}.toml", stage.name));
    std::fs::write(&path, "[batch]\nlinger_ms = 5\nrows_max = 0\n\n[kafka]\nbroker = \"x\"\n")
        .expect("the file can be written");
    let shown = path.to_str().expect("the path is text").to_owned();
    let output = stage.invocation().output(&["--config", &shown, "run"]).expect_code(78);
    for line in [format!("{shown}:3: batch.rows_max: "), format!("{shown}:6: kafka.broker: ")] {
        assert!(output.stderr.contains(&line), "{line} is not in:\n{}", output.stderr);
    }
    std::fs::write(&path, "[batch]\nrows_max = 7\n").expect("the file can be written");
    stage.produce(100);
    stage.invocation().output(&["--config", &shown, "run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    std::fs::remove_file(&path).expect("the file can be removed");
}

#[test]
fn a_bounded_run_gives_up_on_an_unreachable_kafka_with_69() {
    let stage = Stage::new("no_kafka", 1);
    let invocation = stage.invocation().set("kafka.brokers", NOWHERE).set("retry.max_outage_s", 2);
    for arguments in [&["run", "--until-end"][..], &["run"], &["status"], &["check"]] {
        let output = invocation.output(arguments);
        // `status` may know something without Kafka.
        if arguments != ["status"] {
            let output = output.expect_code(69);
            assert!(output.said().contains(NOWHERE), "{arguments:?}: {}", output.said());
            println!("{arguments:?}: {}", output.stderr.lines().next_back().unwrap_or_default());
        }
    }
}

#[test]
fn a_bounded_run_gives_up_on_an_unreachable_database_with_69() {
    let stage = Stage::new("no_database", 1);
    let invocation = stage.invocation().env("DATABASE_URL", unreachable_database()).set("retry.max_outage_s", 2);
    for arguments in [&["run", "--until-end"][..], &["run"], &["init"], &["status"], &["check"]] {
        let output = invocation.output(arguments).expect_code(69);
        println!("{arguments:?}: {}", output.stderr.lines().next_back().unwrap_or_default());
        assert!(output.stderr.lines().count() < 30, "{arguments:?}: a flood:\n{}", output.stderr);
    }
    let silent = invocation.set("retry.max_outage_s", 3);
    let proxy = Proxy::start();
    proxy.mute();
    silent.env("DATABASE_URL", proxy.url()).output(&["run", "--until-end"]).expect_code(69);
}

#[test]
fn a_bounded_run_gives_up_when_the_database_goes_away_in_the_middle() {
    let stage = Stage::new("middle", 2);
    stage.produce(20_000);
    let proxy = Proxy::start();
    let invocation = stage.invocation().set("batch.rows_max", 50).set("retry.max_outage_s", 3);
    let worker = invocation.clone().env("DATABASE_URL", proxy.url()).start(&["run", "--until-end"]);
    stage.wait_for_progress();
    proxy.refuse();
    let output = worker.output(LIMIT).expect_code(69);
    println!("{}", output.cause());
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_daemon_waits_for_a_database_that_is_not_there_yet() {
    let stage = Stage::new("early", 1);
    stage.produce(500);
    let proxy = Proxy::start();
    proxy.refuse();
    let mut worker = stage.invocation().env("DATABASE_URL", proxy.url()).set("retry.max_ms", 500).start(&["run"]);
    worker.wait_for_log("database unreachable", LIMIT);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(worker.count("database unreachable"), 1, "once for each change");
    proxy.pass();
    stage.wait_until_drained(LIMIT);
    worker.wait_for_log("database reachable again after_s=", LIMIT);
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn a_missing_topic_is_78_after_the_grace() {
    let stage = Stage::new("no_topic", 1);
    let missing = format!("{}_missing", stage.name);
    let invocation = stage.invocation().set("topics.0.name", &missing).set("schema.grace_ms", 1_500);
    for arguments in [&["run", "--until-end"][..], &["run"], &["check"]] {
        let output = invocation.output(arguments).expect_code(78);
        assert!(output.said().contains(&missing), "{arguments:?}: {}", output.said());
    }
    let all = invocation.set("kafka.assignment", "all").output(&["run"]).expect_code(78);
    println!("{}", all.cause());
}

#[test]
fn a_topic_that_appears_within_the_grace_is_read() {
    let stage = Stage::new("late_topic", 1);
    let late = format!("{}_late", stage.name);
    for (turn, assignment) in ["group", "all"].into_iter().enumerate() {
        let late = format!("{late}{turn}");
        let invocation = stage.invocation().set("topics.1.name", &late).set("kafka.assignment", assignment);
        let mut worker = invocation.start(&["run"]);
        thread::sleep(Duration::from_secs(3));
        stage.add_topic(&late, 2, &[]);
        crate::harness::producer::produce(&late, 2, stage.take(200));
        stage.wait_until_drained_of(&late, LIMIT);
        assert!(worker.alive());
        worker.stop();
    }
    assert_eq!(stage.findings(), Default::default());
}

#[test]
fn init_prints_its_sql_without_a_server() {
    let stage = Stage::new("print", 1);
    let printed =
        stage.invocation().env("DATABASE_URL", unreachable_database()).output(&["init", "--print"]).expect_code(0);
    assert!(printed.stdout.contains("CREATE TABLE"), "{}", printed.stdout);
    // What is printed is what is needed: a run that may not create anything is content with it.
    stage.execute(&printed.stdout);
    stage.produce(100);
    stage.invocation().set("schema.manage", "validate").output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn init_can_be_repeated_and_raced() {
    let stage = Stage::new("init", 1);
    let racing: Vec<_> = (0..4).map(|_| stage.invocation().start(&["init"])).collect();
    for worker in racing {
        worker.output(LIMIT).expect_code(0);
    }
    stage.invocation().output(&["init"]).expect_code(0);
    for table in
        ["stock_prices", "stock_metrics", "writer_offsets", "writer_dead_letters", "writer_gaps", "writer_meta"]
    {
        assert_eq!(
            stage.number(&format!(
                "SELECT count(*) FROM pg_tables WHERE schemaname = '{}' AND tablename = '{table}'",
                stage.name
            )),
            1,
            "{table}"
        );
    }
}

#[test]
fn an_unlogged_target_is_refused() {
    let stage = Stage::new("unlogged", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    stage.execute("ALTER TABLE stock_prices SET UNLOGGED");
    for arguments in [&["init"][..], &["run", "--until-end"], &["check"]] {
        let output = stage.invocation().set("schema.grace_ms", 500).output(arguments).expect_code(78);
        assert!(output.said().to_lowercase().contains("unlogged"), "{arguments:?}: {}", output.said());
    }
}

#[test]
fn a_newer_schema_and_a_missing_table_are_78() {
    let stage = Stage::new("schema", 1);
    let invocation = stage.invocation().set("schema.manage", "validate").set("schema.grace_ms", 500);
    let output = invocation.output(&["run", "--until-end"]).expect_code(78);
    println!("{}", output.cause());
    stage.invocation().output(&["init"]).expect_code(0);
    stage.execute("UPDATE writer_meta SET schema_version = 99999");
    let output = stage.invocation().set("schema.grace_ms", 500).output(&["run", "--until-end"]).expect_code(78);
    assert!(output.cause().contains("99999"), "{}", output.cause());
}

#[test]
fn status_and_init_do_not_wait_for_a_lock_for_ever() {
    let stage = Stage::new("locked_out", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    let mut holder = stage.database();
    let mut lock = holder.transaction().expect("PostgreSQL answers");
    lock.batch_execute("LOCK TABLE writer_offsets, writer_meta IN ACCESS EXCLUSIVE MODE").expect("nobody has them");
    let invocation = stage.invocation().set("retry.max_outage_s", 1).set("database.lock_timeout_ms", 100);
    for command in ["status", "init"] {
        let output = invocation.output(&[command]).expect_code(69);
        let words = ["kept waiting for 1 s (retry.max_outage_s)", "SQLSTATE 55P03"];
        assert!(words.iter().all(|word| output.cause().contains(word)), "{command}: {}", output.cause());
    }
    lock.rollback().expect("PostgreSQL answers");
    invocation.output(&["status"]).expect_code(0);
}

#[test]
fn check_is_content_when_a_run_would_work() {
    let stage = Stage::new("check", 1);
    stage.produce(10);
    stage.invocation().output(&["init"]).expect_code(0);
    stage.invocation().output(&["check"]).expect_code(0);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.invocation().output(&["check"]).expect_code(0);
    stage.execute("UPDATE writer_offsets SET next_offset = 777123");
    let output = stage.invocation().output(&["check"]).expect_code(65);
    assert!(output.said().contains("777123"), "{}", output.said());
    // Every finding at once.
    let both = stage.invocation().set("kafka.brokers", NOWHERE).env("DATABASE_URL", unreachable_database());
    let output = both.set("retry.max_outage_s", 1).output(&["check"]).expect_code(69);
    let said = output.said().to_lowercase();
    assert!(said.contains("kafka") && said.contains("database"), "{said}");
}

#[test]
fn status_shows_every_partition() {
    let (stage, begun) = (Stage::new("status", 3), Instant::now());
    stage.produce(300);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    // More than a client hands out of one partition at once.
    stage.produce(60_000);
    let table = stage.invocation().output(&["status"]).expect_code(0);
    assert!(table.stdout.contains(&stage.topic), "{}", table.stdout);
    let lines = stage.invocation().output(&["status", "--json"]).expect_code(0).stdout;
    let objects: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect();
    assert_eq!(objects.len(), 3, "{lines}");
    for object in &objects {
        assert_eq!(object["topic"], stage.topic.as_str(), "{object}");
        assert_eq!(object["next_offset"], 100, "{object}");
        assert_eq!(object["end_offset"], 20_100, "{object}");
        assert_eq!(object["lag_records"], 20_000, "{object}");
        // The first of them was sent after the run had ended.
        let seconds = object["lag_seconds"].as_f64().expect("the oldest record is found");
        assert!((0.0..begun.elapsed().as_secs_f64()).contains(&seconds), "{object}");
    }
}

#[test]
fn sigterm_ends_a_drain_with_0_and_nothing_is_lost() {
    let stage = Stage::new("term", 3);
    stage.produce(20_000);
    for signal in ["TERM", "INT", "TERM"] {
        let worker = stage.invocation().set("batch.rows_max", 100).start(&["run"]);
        stage.wait_for_progress();
        worker.signal(signal);
        let output = worker.output(LIMIT).expect_code(0);
        assert!(output.took < Duration::from_secs(12), "took {:?}", output.took);
        stage.produce(5_000);
    }
    let bounded = stage.invocation().set("batch.rows_max", 10).start(&["run", "--until-end"]);
    stage.wait_for_progress();
    bounded.signal("TERM");
    let code = bounded.output(LIMIT).code;
    // It may have been done just before.
    assert!(code == 75 || code == 0, "exit code {code}");
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

fn sigterm_without_a_database(name: &str, take_away: impl Fn(&Proxy)) {
    let stage = Stage::new(name, 3);
    let proxy = Proxy::start();
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let invocation = stage.invocation().set("batch.rows_max", 100);
    let mut worker = invocation.clone().env("DATABASE_URL", proxy.url()).start(&["run"]);
    stage.wait_for_progress();
    take_away(&proxy);
    thread::sleep(Duration::from_secs(3));
    assert!(worker.alive());
    worker.signal("TERM");
    let output = worker.output(LIMIT).expect_code(0);
    println!("{name}: ended {:.1} s after SIGTERM", output.took.as_secs_f64());
    assert!(output.took < Duration::from_secs(12), "took {:?}", output.took);
    feeder.stop();
    // What was held back, a COMMIT perhaps, is lost with its connections.
    drop(proxy);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn sigterm_ends_with_0_while_the_database_refuses() {
    sigterm_without_a_database("term_refused", Proxy::refuse);
}

#[test]
fn sigterm_ends_with_0_while_the_database_is_silent() {
    sigterm_without_a_database("term_silent", Proxy::mute);
}

/// As timeout(1) does it: it signals the process, and then the process's group.
#[test]
fn a_signal_that_comes_twice_is_one() {
    let stage = Stage::new("echo", 1);
    stage.produce(100);
    let worker = stage.invocation().start(&["run"]);
    stage.wait_until_drained(LIMIT);
    worker.signal("TERM");
    worker.signal("TERM");
    worker.output(LIMIT).expect_code(0);
}

#[test]
fn a_second_signal_ends_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let stage = Stage::new("twice", 1);
        let proxy = Proxy::start();
        let feeder = Feeder::start(&stage, &stage.topic, 2_000);
        let invocation = stage.invocation().set("batch.rows_max", 100);
        let worker = invocation.clone().env("DATABASE_URL", proxy.url()).start(&["run"]);
        stage.wait_for_progress();
        // Something is in flight that will not end.
        proxy.mute();
        thread::sleep(Duration::from_secs(1));
        worker.signal(signal);
        // Not so soon that it is taken for an echo; the worker would wait for six seconds.
        thread::sleep(Duration::from_secs(2));
        worker.signal(signal);
        worker.output(LIMIT).expect_code(code);
        feeder.stop();
        drop(proxy);
        invocation.output(&["run", "--until-end"]).expect_code(0);
        stage.assert_exactly_once();
    }
}

#[test]
fn sigterm_while_waiting_for_the_servers_ends_with_0() {
    let stage = Stage::new("term_early", 1);
    for invocation in [
        stage.invocation().set("kafka.brokers", NOWHERE),
        stage.invocation().env("DATABASE_URL", unreachable_database()),
    ] {
        let mut worker = invocation.start(&["run"]);
        worker.wait_for_log("unreachable", LIMIT);
        worker.signal("TERM");
        let output = worker.output(LIMIT).expect_code(0);
        assert!(output.took < Duration::from_secs(12), "took {:?}", output.took);
    }
}

#[test]
fn no_password_is_in_any_output() {
    const SECRET: &str = "s3cr3t-0f-the-d4tabase";
    let stage = Stage::new("secret", 1);
    stage.produce(200);
    let address = servers().database_address();
    let with_password = |address: &str| {
        let url = servers().database_url_at(address);
        let (user, rest) = url.split_once('@').expect("a user is in the URL");
        format!("{user}:{SECRET}@{rest}")
    };
    // The server trusts everybody: this password is right.
    let good = stage.invocation().env("DATABASE_URL", with_password(&address)).env("RUST_LOG", "trace");
    let away = stage
        .invocation()
        .env("DATABASE_URL", with_password(NOWHERE))
        .env("RUST_LOG", "trace")
        .set("retry.max_outage_s", 1);
    // A user who may not come in, and a URL that is none.
    let wrong = stage.invocation().env("DATABASE_URL", with_password(&address).replace("postgres:", "nobody-we-know:"));
    let broken =
        stage.invocation().env("DATABASE_URL", with_password(&address).replace("/stocks", "/stocks?sslmode=perhaps"));
    let flag = stage.invocation().set("database.url", with_password(&address));
    let mut outputs = Vec::new();
    for invocation in [good, away, wrong.set("retry.max_outage_s", 1), broken, flag] {
        for arguments in
            [&["init"][..], &["run", "--until-end"], &["check"], &["status", "--json"], &["init", "--print"]]
        {
            outputs.push((arguments, invocation.output(arguments)));
        }
    }
    for (arguments, output) in &outputs {
        let said = output.said();
        let line = said.lines().find(|line| line.contains(SECRET));
        assert_eq!(line, None, "{arguments:?}");
    }
    for (arguments, output) in outputs.split_off(outputs.len() - 15) {
        assert!(output.code != 0 || arguments == ["init", "--print"], "{arguments:?}: {}", output.stderr);
        println!("{} {arguments:?}: {}", output.code, output.stderr.lines().next_back().unwrap_or_default());
    }
    stage.assert_exactly_once();
}

#[test]
fn a_role_without_privileges_is_77() {
    let stage = Stage::new("role", 1);
    stage.produce(10);
    stage.invocation().output(&["init"]).expect_code(0);
    let role = format!("{}_reader", stage.name);
    stage.execute(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {0} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {role}", stage.name));
    let invocation = stage.invocation().set("database.user", &role);
    let url = servers().database_url.replace("postgres@", &format!("{role}@"));
    for arguments in [&["run", "--until-end"][..], &["check"]] {
        let output = invocation.clone().env("DATABASE_URL", &url).output(arguments).expect_code(77);
        println!("{}", output.stderr.lines().next_back().unwrap_or_default());
    }
    // Enough of them, and not one more than the documentation says.
    stage.execute(&format!(
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {0} TO {role}; GRANT USAGE ON ALL SEQUENCES IN SCHEMA {0} TO {role}",
        stage.name
    ));
    invocation.env("DATABASE_URL", &url).output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    stage.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn the_worker_needs_no_more_connections_than_it_says() {
    let stage = Stage::new("connections", 3);
    let feeder = Feeder::start(&stage, &stage.topic, 1_000);
    let proxy = Proxy::start();
    let worker = stage.invocation().env("DATABASE_URL", proxy.url()).set("writers.count", 3).start(&["run"]);
    stage.wait_for_progress();
    let mut most = 0;
    for _ in 0..40 {
        most = most.max(proxy.connections());
        thread::sleep(Duration::from_millis(50));
    }
    assert!((2..=5).contains(&most), "{most} connections for 3 writers; writers + 2 are promised");
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    worker.stop();
    eventually("all connections are closed", LIMIT, || proxy.connections() == 0);
    stage.assert_exactly_once();
}
