//! The connection to PostgreSQL breaks at the worst moments: around COMMIT.

use crate::harness::producer::Feeder;
use crate::harness::{Fault, LIMIT, Proxy, Stage, eventually, random, size};
use crate::liveness::assert_prompt_commit;
use std::thread;
use std::time::{Duration, Instant};

/// Lets `fault` fire again and again during a drain; every doubt must be resolved as one of `outcomes`.
fn doubt_is_resolved(name: &str, fault: Fault, outcomes: &[&str]) {
    let stage = Stage::new(name, 3);
    let mut random = random(&stage.name);
    let proxy = Proxy::start();
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let invocation = stage.invocation().env("DATABASE_URL", proxy.url()).set("batch.rows_max", 200);
    // Where no answer comes and nothing is cut, only these limits help.
    let invocation = invocation.set("database.statement_timeout_ms", 5_000).set("writers.max_hold_ms", 4_000);
    let mut worker = invocation.start(&["run"]);
    eventually("rows are committed", LIMIT, || proxy.row_commits() > 3);
    let n_rounds = size(3, 15) as usize;
    for round in 1..=n_rounds {
        let mark = worker.mark();
        proxy.plan(fault);
        proxy.wait_until_fired();
        assert_eq!(proxy.fired(fault), round);
        // The answer may have been faster than a cut in between: then there is no doubt, only a connection less.
        if fault != Fault::CutDuringCommit {
            worker.wait_for_log_after(mark, "commit in doubt resolved", LIMIT);
        }
        stage.wait_for_progress();
        thread::sleep(Duration::from_millis(random.u64(0..500)));
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    let output = worker.stop();
    let is_doubt = |line: &&str| line.contains("commit in doubt resolved");
    for resolved in output.stderr.lines().filter(is_doubt) {
        assert!(outcomes.iter().any(|outcome| resolved.contains(&format!("outcome={outcome}"))), "{resolved}");
    }
    let n_resolved = output.stderr.lines().filter(is_doubt).count();
    assert!(n_resolved > 0, "the fault never hit a COMMIT whose answer was still to come");
    println!("{fault:?}: fired {n_rounds} times, {n_resolved} doubts resolved as {outcomes:?}");
    stage.assert_exactly_once();
}

#[test]
fn a_commit_that_was_applied_before_its_answer_got_lost_is_not_repeated() {
    doubt_is_resolved("after", Fault::CutAfterCommit, &["applied"]);
}

#[test]
fn a_commit_that_never_arrived_is_done_again() {
    doubt_is_resolved("before", Fault::CutBeforeCommit, &["not-applied"]);
}

#[test]
fn a_commit_that_nobody_knows_about_is_resolved() {
    doubt_is_resolved("during", Fault::CutDuringCommit, &["applied", "not-applied"]);
}

#[test]
fn a_commit_whose_answer_never_comes_is_given_up_and_resolved() {
    doubt_is_resolved("swallow", Fault::SwallowAnswer, &["applied"]);
}

#[test]
fn a_bounded_run_resolves_doubts_too() {
    let stage = Stage::new("bounded_doubt", 2);
    stage.produce(5_000);
    let proxy = Proxy::start();
    for fault in [Fault::CutAfterCommit, Fault::CutBeforeCommit, Fault::CutAfterCommit] {
        proxy.plan(fault);
    }
    let invocation = stage.invocation_of_all().env("DATABASE_URL", proxy.url()).set("batch.rows_max", 100);
    let output = invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((proxy.fired(Fault::CutAfterCommit), proxy.fired(Fault::CutBeforeCommit)), (2, 1));
    assert_eq!(output.stderr.matches("commit in doubt resolved").count(), 3, "{}", output.stderr);
    stage.assert_exactly_once();
}

/// Two faults in a row leave a batch in doubt whose question is itself cut off.
#[test]
fn connections_cut_at_random_moments_lose_nothing() {
    let stage = Stage::new("cut", 3);
    let mut random = random(&stage.name);
    let proxy = Proxy::start();
    let feeder = Feeder::start(&stage, &stage.topic, 3_000);
    let invocation =
        stage.invocation().env("DATABASE_URL", proxy.url()).set("batch.rows_max", 100).set("writers.count", 4);
    let mut worker = invocation.set("retry.max_ms", 1_000).start(&["run"]);
    stage.wait_for_progress();
    let (begun, mut n_cuts) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(size(10, 120)) {
        proxy.cut();
        n_cuts += 1;
        thread::sleep(Duration::from_millis(random.u64(20..800)));
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    println!("{n_cuts} cuts of all connections, {} resolved doubts", worker.count("commit in doubt resolved"));
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn a_database_that_falls_silent_is_given_up_and_found_again() {
    let stage = Stage::new("mute", 3);
    let proxy = Proxy::start();
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let invocation = stage.invocation().env("DATABASE_URL", proxy.url()).set("batch.rows_max", 200);
    let invocation = invocation.set("database.statement_timeout_ms", 5_000).set("writers.max_hold_ms", 4_000);
    let mut worker = invocation.start(&["run"]);
    for _ in 0..size(1, 4) {
        stage.wait_for_progress();
        proxy.mute();
        worker.wait_for_log("database unreachable", LIMIT);
        thread::sleep(Duration::from_secs(2));
        // What was held back arrives now, much too late: a COMMIT may be in it.
        proxy.pass();
        assert_prompt_commit(&stage, "a database that fell silent");
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}
