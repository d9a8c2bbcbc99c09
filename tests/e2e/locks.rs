//! Locks between our own transactions, which PostgreSQL cannot see as a deadlock, don't hang the worker.

use crate::harness::producer::{self, Feeder, quote, symbol};
use crate::harness::{LIMIT, Stage, size};
use krafka::Record;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn alter_table_during_a_drain_does_not_hang_it() {
    let stage = Stage::new("ddl", 3);
    let feeder = Feeder::start(&stage, &stage.topic, 3_000);
    let invocation = stage.invocation().set("batch.rows_max", 100).set("writers.count", 4);
    let mut worker = invocation.start(&["run"]);
    stage.wait_for_progress();
    let mut client = stage.database();
    let (begun, mut n_done, mut n_refused) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(size(10, 90)) {
        for sql in ["ALTER TABLE stock_prices ADD COLUMN note text", "ALTER TABLE stock_prices DROP COLUMN note"] {
            // The statement itself may be the victim of a deadlock: it is tried again.
            while client.batch_execute(sql).is_err() {
                n_refused += 1;
            }
            n_done += 1;
            thread::sleep(Duration::from_millis(300));
        }
    }
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    println!("{n_done} ALTER TABLE ({n_refused} refused) beside {} rows", stage.rows());
    assert!(n_done >= 10, "too few to show anything");
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn a_trigger_that_updates_one_shared_row_does_not_hang_the_drain() {
    let stage = Stage::new("trigger", 3);
    stage.invocation().output(&["init"]).expect_code(0);
    stage.execute(
        "CREATE TABLE tally (n bigint);
         INSERT INTO tally VALUES (0);
         CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE tally SET n = n + 1; RETURN NULL; END $$;
         CREATE TRIGGER bump AFTER INSERT ON stock_prices FOR EACH STATEMENT EXECUTE FUNCTION bump();",
    );
    // The trigger runs in the worker's session, whose search path does not lead here.
    stage.execute(&format!("ALTER FUNCTION bump() SET search_path = {}", stage.name));
    stage.produce(size(10_000, 100_000) as i64);
    let invocation = stage.invocation().set("batch.rows_max", 200).set("writers.count", 4);
    let worker = invocation.start(&["run", "--until-end"]);
    stage.wait_for_progress();
    let output = worker.output(Duration::from_secs(size(180, 1_200))).expect_code(0);
    println!("{}", output.stderr);
    stage.assert_exactly_once();
    assert!(stage.number("SELECT n FROM tally") > 0, "the trigger has run");
}

#[test]
fn a_unique_key_of_the_operator_makes_dead_letters_and_no_hang() {
    let stage = Stage::new("unique", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    stage.execute("CREATE UNIQUE INDEX ON stock_prices (price)");
    let record = |id: i64| Record::new(stage.topic.as_str(), quote(id)).key(symbol(id)).partition(0);
    let mut records = Vec::new();
    for id in stage.take(1_000) {
        records.push(record(id));
        // Some at once, some in a later batch that another writer has at the same time.
        if id % 40 == 0 {
            records.push(record(id));
        }
        if id % 50 == 0 {
            records.push(record(id - 15));
        }
    }
    producer::send(records);
    let invocation = stage.invocation().set("batch.rows_max", 10).set("writers.count", 4);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    let at = stage.standings(&stage.topic)[&0].clone();
    assert_eq!((at.records_rows, at.records_dead, at.dead_letters_total), (1_000, 45, 45));
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters WHERE reason_class = 'database'"), 45);
}

/// Row locks on the bookkeeping are waited for, whoever holds them.
#[test]
fn a_lock_on_the_bookkeeping_is_waited_for() {
    let stage = Stage::new("held", 2);
    let feeder = Feeder::start(&stage, &stage.topic, 1_000);
    let mut worker = stage.invocation().set("batch.rows_max", 100).start(&["run"]);
    stage.wait_for_progress();
    let mut client = stage.database();
    let mut transaction = client.transaction().expect("PostgreSQL answers");
    transaction.batch_execute("SELECT FROM writer_offsets FOR UPDATE").expect("the rows can be locked");
    thread::sleep(Duration::from_secs(size(6, 40)));
    transaction.rollback().expect("PostgreSQL answers");
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}
