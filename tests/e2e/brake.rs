//! A flood of refused records of one cause stops the worker before anything of it is committed; bad data does not.

use crate::harness::producer::{self, Kcat};
use crate::harness::worker::Output;
use crate::harness::{Invocation, Stage};

/// Records of the only partition that can't be decoded: they have no price.
fn spoil(stage: &Stage, n: i64) {
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    (0..n).for_each(|_| kcat.line("A", br#"{"symbol":"A","cost":1}"#));
    kcat.finish();
}

fn n_letters(stage: &Stage) -> i64 {
    stage.number("SELECT count(*) FROM writer_dead_letters")
}

fn next_offset(stage: &Stage) -> i64 {
    stage.standings(&stage.topic)[&0].next_offset
}

#[track_caller]
fn assert_cause(output: &Output, words: &[&str]) {
    println!("{}", output.cause());
    for word in words {
        assert!(output.cause().contains(word), "{word} is not in: {}", output.cause());
    }
}

fn batches_of(stage: &Stage, rows_max: i64, n_writers: i64) -> Invocation {
    // Slow to seal, so that batches are full and their borders known.
    let invocation = stage.invocation_of_all().set("batch.rows_max", rows_max).set("batch.linger_ms", 5_000);
    invocation.set("writers.count", n_writers)
}

fn a_whole_batch_stops_before_it(n_writers: i64) {
    let stage = Stage::new(&format!("brake_whole_{n_writers}"), 1);
    stage.produce(500);
    spoil(&stage, 1_000);
    stage.produce(500);
    let invocation = batches_of(&stage, 250, n_writers);
    let output = invocation.output(&["run", "--until-end"]).expect_code(65);
    assert_cause(
        &output,
        &["250 of its last 750 records", "missing", "partition 0 offset 500", "dead_letters.ratio_max"],
    );
    assert_eq!((next_offset(&stage), n_letters(&stage), stage.rows()), (500, 0, 500));
    // Again and again the same: nothing slips through.
    invocation.output(&["run", "--until-end"]).expect_code(65);
    assert_eq!((next_offset(&stage), n_letters(&stage), stage.rows()), (500, 0, 500));
    // Switched off, they are all kept.
    invocation.set("dead_letters.ratio_max", 1).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((next_offset(&stage), n_letters(&stage)), (2_000, 1_000));
    stage.assert_exactly_once();
}

#[test]
fn a_whole_batch_of_one_cause_stops_one_writer_before_it() {
    a_whole_batch_stops_before_it(1);
}

#[test]
fn a_whole_batch_of_one_cause_stops_four_writers_before_it() {
    a_whole_batch_stops_before_it(4);
}

#[test]
fn a_share_of_the_latest_records_stops_before_the_batch_that_crosses_the_line() {
    let stage = Stage::new("brake_share", 1);
    stage.produce(3_000);
    // 180 of 4,500 are less than 5 %, and 280 of 5,000 are more.
    for _ in 0..3 {
        stage.produce(440);
        spoil(&stage, 60);
    }
    stage.produce(400);
    spoil(&stage, 100);
    stage.produce(500);
    let output = batches_of(&stage, 500, 3).output(&["run", "--until-end"]).expect_code(65);
    assert_cause(&output, &["280 of its last 5000 records", "missing", "partition 0 offset 4900"]);
    assert_eq!((next_offset(&stage), n_letters(&stage)), (4_500, 180));
}

#[test]
fn fewer_than_a_hundred_are_no_flood() {
    let stage = Stage::new("brake_few", 1);
    spoil(&stage, 99);
    batches_of(&stage, 500, 2).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((next_offset(&stage), n_letters(&stage)), (99, 99));
}

#[test]
fn causes_are_counted_each_by_itself() {
    let stage = Stage::new("brake_causes", 1);
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    for _ in 0..90 {
        for value in [&br#"{"symbol":"A","cost":1}"#[..], br#"{"symbol":"A","price":-1}"#, br#"{"symbol":"A","#] {
            kcat.line("A", value);
        }
    }
    kcat.finish();
    batches_of(&stage, 500, 2).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(n_letters(&stage), 270);
}

/// A constraint that nobody told the producers of.
fn a_constraint_that_refuses_everything(n_writers: i64) {
    let stage = Stage::new(&format!("brake_check_{n_writers}"), 1);
    stage.invocation().output(&["init"]).expect_code(0);
    producer::produce(&stage.topic, 1, stage.take(500));
    stage.execute("ALTER TABLE stock_prices ADD CONSTRAINT only_small CHECK (price <= 500)");
    producer::produce(&stage.topic, 1, stage.take(1_000));
    let invocation = batches_of(&stage, 250, n_writers);
    let output = invocation.output(&["run", "--until-end"]).expect_code(65);
    assert_cause(&output, &["250 of its last 750 records", "database 23514", "partition 0 offset 500"]);
    assert_eq!((next_offset(&stage), n_letters(&stage), stage.rows()), (500, 0, 500));
    stage.execute("ALTER TABLE stock_prices DROP CONSTRAINT only_small");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_constraint_that_refuses_everything_stops_one_writer_before_the_flood() {
    a_constraint_that_refuses_everything(1);
}

#[test]
fn a_constraint_that_refuses_everything_stops_three_writers_before_the_flood() {
    a_constraint_that_refuses_everything(3);
}

#[test]
fn without_the_brake_everything_that_postgresql_refuses_becomes_a_dead_letter() {
    let stage = Stage::new("brake_off", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    stage.execute("ALTER TABLE stock_prices ADD CONSTRAINT none_at_all CHECK (price < 0)");
    producer::produce(&stage.topic, 1, stage.take_in_vain(600));
    let invocation = batches_of(&stage, 200, 2).set("dead_letters.ratio_max", 1);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((n_letters(&stage), stage.rows()), (600, 0));
    // And back, when the constraint has gone.
    stage.execute("ALTER TABLE stock_prices DROP CONSTRAINT none_at_all");
    stage.invocation_of_all().output(&["dead-letters", "redrive"]).expect_code(0);
    assert_eq!(stage.rows(), 600);
}
