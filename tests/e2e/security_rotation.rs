//! Secrets that are changed while the worker runs.

use crate::harness::certificates::{Authority, secret_file};
use crate::harness::producer::quote;
use crate::harness::secure_broker::{PASSWORD, SecureBroker, USER};
use crate::harness::{LIMIT, Stage, eventually};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Waits for the pipeline's lock, and has it for a while as soon as the worker gives it back: as a session of the
/// worker's own would whose end PostgreSQL has not noticed.
fn lock_between(stage: &Stage) -> JoinHandle<()> {
    let mut client = stage.database();
    let application = format!("stock-db-writer {}", stage.name);
    let key: i64 = client
        .query_one(
            "SELECT l.classid::bigint << 32 | l.objid::bigint FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = $1",
            &[&application],
        )
        .expect("the worker holds one")
        .get(0);
    thread::spawn(move || {
        client.execute("SELECT pg_advisory_lock($1)", &[&key]).expect("PostgreSQL answers");
        thread::sleep(Duration::from_secs(2));
        client.execute("SELECT pg_advisory_unlock($1)", &[&key]).expect("PostgreSQL answers");
    })
}

#[test]
fn a_password_of_kafka_that_has_changed_is_taken_at_sighup() {
    const MECHANISM: &str = "SCRAM-SHA-256";
    let stage = Stage::new("security_rotation", 1);
    let broker = SecureBroker::start(&stage.path(""), &Authority::new(&stage.path(""), "ca"));
    let file = stage.path("password");
    let rows = |n: i64| {
        eventually(&format!("{n} rows are there"), LIMIT, || stage.number("SELECT count(*) FROM stock_prices") == n);
    };
    stage.invocation().output(&["init"]).expect_code(0);
    // Without a group the process holds the pipeline's lock, which it must give back to itself.
    for (assignment, first) in [("group", 1), ("all", 101)] {
        broker.set_password(MECHANISM, PASSWORD);
        secret_file(&file, PASSWORD);
        let mut worker = stage
            .invocation()
            .set("kafka.assignment", assignment)
            .set("kafka.brokers", broker.address("sasl_plain"))
            .set("kafka.sasl.mechanism", MECHANISM)
            .set("kafka.sasl.username", USER)
            .set("kafka.sasl.password_file", file.display())
            .start(&["run"]);
        broker.produce(&stage.topic, (first..first + 50).map(quote));
        rows(first + 49);
        // Nothing has changed: nothing is done.
        worker.signal("HUP");
        worker.wait_for_log("configuration read again", LIMIT);
        broker.set_password(MECHANISM, "hunter2-new");
        secret_file(&file, "hunter2-new");
        let mark = worker.mark();
        let ghost = (assignment == "all").then(|| lock_between(&stage));
        worker.signal("HUP");
        worker.wait_for_log_after(mark, "starting over with the new secrets", LIMIT);
        if let Some(ghost) = ghost {
            ghost.join().expect("the lock was had, and given back");
        }
        worker.wait_for_log_after(mark, "claimed partition=", LIMIT);
        assert_eq!(worker.count("starting over"), 1, "{:#?}", worker.log());
        broker.produce(&stage.topic, (first + 50..first + 100).map(quote));
        rows(first + 99);
        worker.signal("TERM");
        let log = worker.output(LIMIT).expect_code(0).stderr;
        // What is counted goes on, and is said once.
        assert!(log.contains("stopped records=100 rows=100"), "{log}");
        assert_eq!(log.matches("stopped records=").count(), 1, "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}
