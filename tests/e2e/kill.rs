//! kill -9 at any moment loses nothing and doubles nothing.

use crate::harness::checker::Progress;
use crate::harness::{Invocation, LIMIT, Stage, eventually, random, size};
use std::thread;
use std::time::{Duration, Instant};

/// Drains at least `count` records and kills the worker `n_kills` times while it does so. Answers how long each restart
/// took until its first commit.
pub fn drain_under_fire(
    stage: &Stage,
    invocation: &Invocation,
    arguments: &[&str],
    count: i64,
    n_kills: i64,
) -> Vec<Duration> {
    let mut random = random(&stage.name);
    stage.produce(count);
    let share = count / (n_kills + 1);
    let mut progress = Progress::new(stage);
    let (mut resumed, mut while_draining) = (Vec::new(), 0);
    for kill in 0..n_kills {
        let before = progress.now();
        // A fast drain must not be over before the last kill.
        if stage.sent().count() - before < 2 * share {
            stage.produce(2 * share);
        }
        let begun = Instant::now();
        let mut worker = invocation.start(arguments);
        if kill % 4 == 3 {
            // At any moment after the start, before the first commit as well.
            thread::sleep(Duration::from_millis(random.u64(0..400)));
        } else {
            // Some time after the first commit: always in the middle of it.
            eventually("the restarted worker commits", LIMIT, || progress.now() > before || !worker.alive());
            if kill > 0 {
                resumed.push(begun.elapsed());
            }
            let target = before + random.i64(0..share);
            while progress.now() < target && worker.alive() {
                thread::sleep(Duration::from_millis(2));
            }
            thread::sleep(Duration::from_millis(random.u64(0..20)));
        }
        let alive = worker.alive();
        let log = worker.kill9();
        if progress.now() < stage.sent().count() {
            while_draining += 1;
        }
        // A bounded run may just have finished.
        assert!(
            alive || log.iter().any(|line| line.contains("stopped records=")),
            "the worker ended: {}",
            log.join("\n")
        );
        // What the server was about to do for the dead worker is done by now: it does not count as a resumption.
        thread::sleep(Duration::from_millis(200));
    }
    let worker = invocation.start(&["run"]);
    stage.wait_until_drained(LIMIT);
    worker.stop();
    stage.assert_exactly_once();
    resumed.sort();
    println!(
        "{}: {} records, {while_draining} of {n_kills} kills hit a drain; first commit after a restart: {resumed:?}",
        stage.name,
        stage.sent().count()
    );
    assert!(while_draining * 4 >= n_kills * 3, "the drain was over too soon to show anything");
    resumed
}

/// Far above the five seconds that it takes, far below the session timeout of 45 s that it would take otherwise.
pub fn assert_prompt(resumed: &[Duration]) {
    assert!(resumed.iter().all(|took| *took < Duration::from_secs(20)), "{resumed:?}");
    assert!(resumed[resumed.len() / 2] < Duration::from_secs(5), "{resumed:?}");
}

#[test]
fn a_worker_of_all_partitions_survives_kill_9() {
    let stage = Stage::new("kill_all", 3);
    let invocation = stage.invocation_of_all().set("batch.rows_max", 300);
    let (count, n_kills) = (size(30_000, 300_000) as i64, size(6, 20) as i64);
    assert_prompt(&drain_under_fire(&stage, &invocation, &["run"], count, n_kills));
}

#[test]
fn a_static_member_of_a_group_survives_kill_9() {
    let stage = Stage::new("kill_static", 3);
    let invocation = stage.invocation().set("kafka.instance_id", "writer-1").set("batch.rows_max", 300);
    let (count, n_kills) = (size(30_000, 300_000) as i64, size(6, 20) as i64);
    assert_prompt(&drain_under_fire(&stage, &invocation, &["run"], count, n_kills));
}

#[test]
fn a_member_of_a_group_survives_kill_9() {
    let stage = Stage::new("kill_group", 3);
    let invocation = stage.invocation().set("batch.rows_max", 300);
    // Each restart waits for the broker to give up the dead member.
    drain_under_fire(&stage, &invocation, &["run"], size(15_000, 100_000) as i64, size(2, 8) as i64);
}

#[test]
fn a_bounded_run_survives_kill_9() {
    let stage = Stage::new("kill_bounded", 3);
    let invocation = stage.invocation_of_all().set("batch.rows_max", 300).set("writers.count", 4);
    let arguments = ["run", "--until-end"];
    drain_under_fire(&stage, &invocation, &arguments, size(30_000, 300_000) as i64, size(4, 20) as i64);
    invocation.output(&arguments).expect_code(0);
    stage.assert_exactly_once();
}
