//! The servers go away and come back; the worker stays.

use crate::harness::producer::Feeder;
use crate::harness::worker::signal;
use crate::harness::{Invocation, LIMIT, Stage, random, servers, size};
use crate::liveness::assert_prompt_commit;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// `kafka` calls `dev/services` about the broker that the stage is on.
pub fn restarts_of_both(
    stage: &Stage,
    invocation: &Invocation,
    kafka: impl Fn(&[&str]),
    n_restarts: usize,
    n_kills: usize,
) {
    let mut random = random(&stage.name);
    stage.produce(size(10_000, 100_000) as i64);
    let feeder = Feeder::start(stage, &stage.topic, 1_000);
    let mut worker = invocation.start(&["run"]);
    let pid = worker.pid();
    stage.wait_for_progress();
    let mut outages = vec!["postgres"; n_restarts];
    outages.extend(vec!["kafka"; n_kills]);
    random.shuffle(&mut outages);
    for server in &outages {
        match *server {
            "postgres" => servers().service(&["restart", "postgres", "--mode", "immediate"]),
            _ => {
                kafka(&["kill", "kafka"]);
                // An outage of a second or two passes as slowness, and nobody needs to read of it.
                thread::sleep(Duration::from_millis(random.u64(4_000..8_000)));
                kafka(&["start", "kafka"]);
            }
        }
        assert_prompt_commit(stage, &format!("an outage of {server}"));
        assert!(worker.alive(), "the worker ended at the outage of {server}");
        thread::sleep(Duration::from_millis(random.u64(0..1_500)));
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive() && worker.pid() == pid);
    // One line for each change, whoever noticed it; a restart may be seen as two outages, and two that follow each other
    // closely are said as one.
    for (server, n_outages) in [("database", n_restarts), ("kafka", n_kills)] {
        let away = worker.count(&format!("{server} unreachable"));
        let back = worker.count(&format!("{server} reachable again after_s="));
        assert_eq!(away, back, "{server}: lines that say it went away against those that say it is back");
        assert!((1..=2 * n_outages).contains(&away), "{away} lines for {n_outages} outages of {server}");
    }
    let n_lines = worker.log().len();
    println!(
        "{n_restarts} restarts of PostgreSQL, {n_kills} of Kafka, {} records, {n_lines} log lines",
        stage.sent().count()
    );
    assert!(n_lines < 100 + 60 * outages.len(), "{n_lines} lines are a flood");
    worker.stop();
    stage.assert_exactly_once();
}

fn kafka(arguments: &[&str]) {
    servers().service(arguments);
}

#[test]
fn restarts_of_both_servers_are_survived_by_the_same_process() {
    let stage = Stage::alone("outages", 3);
    let invocation = stage.invocation().set("batch.rows_max", 500);
    restarts_of_both(&stage, &invocation, kafka, size(3, 5) as usize, size(1, 3) as usize);
}

#[test]
fn restarts_of_both_servers_are_survived_without_a_group() {
    let stage = Stage::alone("outages_all", 3);
    let invocation = stage.invocation_of_all().set("batch.rows_max", 500);
    restarts_of_both(&stage, &invocation, kafka, size(1, 5) as usize, size(1, 3) as usize);
}

#[test]
fn restarts_of_both_servers_are_survived_by_a_static_member() {
    let stage = Stage::alone("outages_static", 3);
    let invocation = stage.invocation().set("batch.rows_max", 500).set("kafka.instance_id", "writer-1");
    restarts_of_both(&stage, &invocation, kafka, size(1, 5) as usize, size(1, 3) as usize);
}

#[test]
fn a_broker_that_hangs_is_waited_for() {
    let stage = Stage::alone("hang", 3);
    a_hanging_broker(&stage, &stage.invocation(), &servers().kafka_pid_file);
}

pub fn a_hanging_broker(stage: &Stage, invocation: &Invocation, pid_file: &Path) {
    let mut worker = invocation.clone().set("batch.rows_max", 500).start(&["run"]);
    stage.produce(3_000);
    stage.wait_until_drained(LIMIT);
    let pid = std::fs::read_to_string(pid_file).expect("the broker has a pid file");
    let pid = pid.trim().parse().expect("it holds a number");
    let feeder = Feeder::start(stage, &stage.topic, 500);
    signal(pid, "STOP");
    // Its kernel goes on taking what is sent: only a deadline tells.
    worker.wait_for_log("kafka unreachable", LIMIT);
    thread::sleep(Duration::from_secs(size(3, 40)));
    signal(pid, "CONT");
    assert_prompt_commit(stage, "a hanging broker");
    worker.wait_for_log("kafka reachable again", LIMIT);
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn a_bounded_run_gives_up_when_the_broker_stays_away() {
    let stage = Stage::alone("gone", 2);
    stage.produce(5_000);
    let invocation = stage.invocation().set("batch.rows_max", 20).set("retry.max_outage_s", 3);
    let worker = invocation.start(&["run", "--until-end"]);
    stage.wait_for_progress();
    servers().service(&["kill", "kafka"]);
    let output = worker.output(LIMIT);
    // It may have read everything before the broker went.
    assert!(output.code == 69 || output.code == 0, "{} {}", output.code, output.stderr);
    if output.code == 69 {
        println!("{}", output.cause());
    }
    servers().service(&["start", "kafka"]);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}
