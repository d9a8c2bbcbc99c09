//! What looks like nothing to do, and isn't: partitions that can't be claimed, transactions that stay open.

use crate::harness::producer::{Kcat, Transactions};
use crate::harness::scrape::{get, serving, value, wait_for_value};
use crate::harness::{LIMIT, Stage, eventually};
use serde_json::Value;

fn send(stage: &Stage, partition: i32, count: i64) {
    let mut kcat = Kcat::start(&stage.topic, Some(partition), "none");
    stage.take(count).for_each(|id| kcat.quote(id));
    kcat.finish();
}

#[test]
fn a_partition_that_cannot_be_claimed_holds_up_no_other_and_is_shown_and_said() {
    let stage = Stage::new("unclaimed", 2);
    send(&stage, 0, 10);
    send(&stage, 1, 10);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    let mut client = stage.database();
    let mut transaction = client.transaction().expect("PostgreSQL answers");
    transaction.execute("SELECT FROM writer_offsets WHERE partition = 1 FOR UPDATE", &[]).expect("the row is there");
    let (mut worker, address) = serving(&stage.invocation().set("database.lock_timeout_ms", 500), &["run"]);
    send(&stage, 0, 20);
    send(&stage, 1, 30);
    let lag =
        |partition: i32| format!("stock_db_writer_lag_records{{partition=\"{partition}\",topic=\"{}\"}}", stage.topic);
    eventually("the other one is written", LIMIT, || stage.rows() == 40);
    wait_for_value(&address, &lag(0), "0");
    wait_for_value(&address, &lag(1), "30");
    const SAID: &str = "ours, but it can't be claimed";
    let line = worker.wait_for_log(SAID, LIMIT);
    assert!(line.contains(&format!("partition={}/1", stage.topic)) && line.contains("lock"), "{line}");
    eventually("it is not ready", LIMIT, || {
        // The others make progress.
        send(&stage, 0, 1);
        get(&address, "/health/ready")
            .is_some_and(|(status, why)| status == 503 && why.contains("is ours and has not been read for"))
    });
    assert_eq!(worker.count(SAID), 1, "{:#?}", worker.log());
    transaction.rollback().expect("PostgreSQL answers");
    stage.wait_until_drained(LIMIT);
    eventually("it is ready", LIMIT, || get(&address, "/health/ready").is_some_and(|(status, _)| status == 200));
    wait_for_value(&address, &lag(1), "0");
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn records_behind_an_open_transaction_are_shown_though_they_are_no_lag() {
    let stage = Stage::new("open_transaction", 1);
    send(&stage, 0, 5);
    let (worker, address) = serving(&stage.invocation(), &["run"]);
    let series = |name: &str| format!("stock_db_writer_{name}{{partition=\"0\",topic=\"{}\"}}", stage.topic);
    wait_for_value(&address, &series("uncommitted_records"), "0");
    let transactions = Transactions::new(&stage.name);
    transactions.begin(&stage.topic, 0, stage.take(10));
    send(&stage, 0, 3);
    wait_for_value(&address, &series("uncommitted_records"), "13");
    assert_eq!(value(&address, &series("lag_records")).as_deref(), Some("0"));
    let status = stage.invocation().output(&["status"]).expect_code(0).stdout;
    let note = format!("{}/0: 13 records wait for an open transaction", stage.topic);
    assert!(status.lines().nth(1) == Some(&note), "{status}");
    let json = stage.invocation().output(&["status", "--json"]).expect_code(0).stdout;
    let json: Value = serde_json::from_str(&json).expect("a line is an object");
    assert_eq!((&json["uncommitted_records"], &json["lag_records"]), (&13.into(), &0.into()));
    transactions.end(true);
    stage.wait_until_drained(LIMIT);
    wait_for_value(&address, &series("uncommitted_records"), "0");
    let status = stage.invocation().output(&["status"]).expect_code(0).stdout;
    assert!(!status.contains("for an open transaction"), "{status}");
    worker.stop();
    stage.assert_exactly_once();
}
