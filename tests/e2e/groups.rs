//! Several processes: they share the work, take it over from each other, and never do it twice.

use crate::harness::producer::{self, Feeder};
use crate::harness::{Invocation, LIMIT, Proxy, Stage, Worker, broker, eventually, random, size};
use std::thread;
use std::time::Duration;

/// For a takeover from a process that was frozen while it held locks: its session has to time out.
const TAKEOVER: Duration = Duration::from_secs(240);

fn member(stage: &Stage, protocol: &str) -> Invocation {
    stage
        .invocation()
        .set("kafka.group_protocol", protocol)
        .set("kafka.session_timeout_ms", 6_000)
        .set("batch.rows_max", 200)
        .set("writers.count", 3)
}

/// How many processes own partitions.
fn n_owners(stage: &Stage) -> i64 {
    let owners = format!("SELECT count(DISTINCT owner) FROM writer_offsets WHERE pipeline = '{}'", stage.name);
    stage.number(&owners)
}

/// Waits until every partition has got on.
fn wait_for_progress_everywhere(stage: &Stage) {
    let before = stage.standings(&stage.topic);
    eventually("every partition gets on", TAKEOVER, || {
        let now = stage.standings(&stage.topic);
        before.iter().all(|(partition, at)| now[partition].next_offset > at.next_offset)
    });
}

fn a_zombie_doubles_nothing(protocol: &str) {
    let stage = Stage::new(&format!("zombie_{protocol}"), 4);
    let mut random = random(&stage.name);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let mut workers: Vec<Worker> = Vec::new();
    for _ in 0..2 {
        let mut worker = member(&stage, protocol).start(&["run"]);
        worker.wait_for_log("claimed partition=", LIMIT);
        workers.push(worker);
    }
    eventually("both own partitions", LIMIT, || n_owners(&stage) == 2);
    for round in 0..size(2, 8) as usize {
        stage.wait_for_progress();
        thread::sleep(Duration::from_millis(random.u64(0..300)));
        let (zombie, other) = (round % 2, 1 - round % 2);
        workers[zombie].signal("STOP");
        eventually("the other one takes over", TAKEOVER, || n_owners(&stage) == 1);
        wait_for_progress_everywhere(&stage);
        let mark = workers[zombie].mark();
        workers[zombie].signal("CONT");
        let said = workers[zombie].wait_for_any_log_after(mark, &["fenced partition=", "lost partition="], LIMIT);
        println!("{protocol}: the thawed one says: {said}");
        eventually("both own partitions again", TAKEOVER, || n_owners(&stage) == 2);
        wait_for_progress_everywhere(&stage);
        assert!(workers[zombie].alive() && workers[other].alive());
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    for worker in workers {
        worker.stop();
    }
    stage.assert_exactly_once();
}

#[test]
fn a_frozen_member_of_a_classic_group_doubles_nothing_when_it_thaws() {
    a_zombie_doubles_nothing("classic");
}

#[test]
fn a_frozen_member_of_a_consumer_group_doubles_nothing_when_it_thaws() {
    a_zombie_doubles_nothing("consumer");
}

/// Frozen with a backlog in its buffers, and nobody takes over but time passes: it only goes on.
#[test]
fn a_frozen_process_that_nobody_replaced_goes_on() {
    let stage = Stage::new("frozen", 2);
    let mut worker = stage.invocation_of_all().set("batch.rows_max", 100).start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    stage.wait_for_progress();
    worker.signal("STOP");
    thread::sleep(Duration::from_secs(size(8, 90)));
    worker.signal("CONT");
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

fn members_come_and_go(protocol: &str) {
    let stage = Stage::new(&format!("come_{protocol}"), 3);
    let mut random = random(&stage.name);
    stage.produce(10_000);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let mut workers = vec![member(&stage, protocol).start(&["run"])];
    stage.wait_for_progress();
    for step in 0..size(8, 40) {
        match (workers.len(), random.u32(0..6)) {
            // A fourth one finds no partition, and must bear that.
            (1, _) | (2..4, 0..3) => workers.push(member(&stage, protocol).start(&["run"])),
            (n, 5) => drop(workers.swap_remove(random.usize(0..n)).kill9()),
            (n, _) => drop(workers.swap_remove(random.usize(0..n)).stop()),
        }
        thread::sleep(Duration::from_millis(random.u64(0..2_500)));
        if step % 3 == 2 {
            wait_for_progress_everywhere(&stage);
        }
        for worker in &mut workers {
            assert!(worker.alive(), "a worker has ended: {}", worker.log().join("\n"));
        }
    }
    feeder.stop();
    stage.wait_until_drained(TAKEOVER);
    for worker in workers {
        worker.stop();
    }
    stage.assert_exactly_once();
}

#[test]
fn members_of_a_classic_group_come_and_go_during_a_drain() {
    members_come_and_go("classic");
}

#[test]
fn members_of_a_consumer_group_come_and_go_during_a_drain() {
    members_come_and_go("consumer");
}

#[test]
fn a_second_worker_of_all_partitions_is_sent_away() {
    let stage = Stage::new("second", 2);
    let mut first = stage.invocation_of_all().start(&["run"]);
    stage.produce(100);
    stage.wait_until_drained(LIMIT);
    let second = stage.invocation_of_all().output(&["run"]).expect_code(75);
    println!("{}", second.cause());
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(75);
    assert!(first.alive());
    stage.produce(100);
    stage.wait_until_drained(LIMIT);
    first.stop();
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_second_bounded_run_is_sent_away() {
    let stage = Stage::new("bounded", 2);
    stage.produce(20_000);
    let proxy = Proxy::start();
    let invocation = stage.invocation().set("batch.rows_max", 100);
    let first = invocation.clone().env("DATABASE_URL", proxy.url()).start(&["run", "--until-end"]);
    stage.wait_for_progress();
    proxy.mute();
    let second = invocation.output(&["run", "--until-end"]).expect_code(75);
    println!("{}", second.cause());
    proxy.pass();
    first.output(LIMIT).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_bounded_run_beside_a_member_of_the_group_ends() {
    let stage = Stage::new("beside", 3);
    let mut member = stage.invocation().start(&["run"]);
    stage.produce(10_000);
    stage.wait_for_progress();
    stage.produce(10_000);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.wait_until_drained(LIMIT);
    assert!(member.alive());
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    member.stop();
    stage.assert_exactly_once();
}

/// Another claim, as a second copy would make it.
fn claim_by_hand(stage: &Stage) {
    stage.execute("UPDATE writer_offsets SET epoch = epoch + 1, owner = 'somebody else'");
}

#[test]
fn a_member_that_is_fenced_claims_again_and_goes_on() {
    let stage = Stage::new("fenced", 3);
    let mut worker = stage.invocation().set("batch.rows_max", 100).start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    for _ in 0..size(2, 10) {
        stage.wait_for_progress();
        let mark = worker.mark();
        claim_by_hand(&stage);
        // That it was fenced is said once in a while only.
        println!("{}", worker.wait_for_log_after(mark, "claimed partition=", LIMIT));
        wait_for_progress_everywhere(&stage);
    }
    assert!(worker.count("fenced partition=") > 0);
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn a_worker_of_all_partitions_that_is_fenced_ends_with_75() {
    let stage = Stage::new("fenced_all", 3);
    let invocation = stage.invocation_of_all().set("batch.rows_max", 100);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let worker = invocation.start(&["run"]);
    stage.wait_for_progress();
    claim_by_hand(&stage);
    let output = worker.output(LIMIT).expect_code(75);
    println!("{}", output.cause());
    feeder.stop();
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

/// A mistake in a configuration: Kafka gives every partition to both of them.
#[test]
fn two_groups_on_one_pipeline_double_nothing() {
    let stage = Stage::new("two_groups", 3);
    let feeder = Feeder::start(&stage, &stage.topic, 3_000);
    let group = |number: i32| {
        let invocation = stage.invocation().set("kafka.group", format!("{}_{number}", stage.name));
        invocation.set("batch.rows_max", 100).set("writers.count", 3).start(&["run"])
    };
    let mut workers = vec![group(1), group(2)];
    thread::sleep(Duration::from_secs(size(15, 120)));
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained(TAKEOVER);
    let n_fenced: usize = workers.iter().map(|worker| worker.count("fenced partition=")).sum();
    println!("{n_fenced} partitions were fenced, {} records", stage.sent().count());
    assert!(n_fenced > 0, "they never met");
    assert!(workers.iter_mut().all(Worker::alive));
    for worker in workers {
        worker.stop();
    }
    stage.assert_exactly_once();
}

/// Another one: a group's member, and a worker that takes all partitions for itself.
#[test]
fn a_member_and_a_worker_of_all_partitions_double_nothing() {
    let stage = Stage::new("mixed", 3);
    let feeder = Feeder::start(&stage, &stage.topic, 3_000);
    let member = stage.invocation().set("batch.rows_max", 100).start(&["run"]);
    stage.wait_for_progress();
    let mut taker = stage.invocation_of_all().set("batch.rows_max", 100).start(&["run"]);
    thread::sleep(Duration::from_secs(size(8, 60)));
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained(TAKEOVER);
    if taker.alive() {
        taker.stop();
    } else {
        taker.output(LIMIT).expect_code(75);
    }
    member.stop();
    stage.assert_exactly_once();
}

fn added_partitions_are_read(name: &str, settings: &[(&str, &str)]) {
    let stage = Stage::new(name, 2);
    let invocation = settings.iter().fold(stage.invocation(), |invocation, (key, value)| invocation.set(key, value));
    let mut worker = invocation.start(&["run"]);
    // A start at the end is decided by now.
    eventually("the partitions are claimed", LIMIT, || stage.standings(&stage.topic).len() == 2);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    broker::add_partitions(&stage.topic, 5);
    producer::produce(&stage.topic, 5, stage.take(5_000));
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    assert_eq!(stage.standings(&stage.topic).len(), 5);
    worker.stop();
    stage.assert_exactly_once();
}

#[test]
fn partitions_added_while_running_are_read_in_a_classic_group() {
    added_partitions_are_read("added_classic", &[("kafka.group_protocol", "classic")]);
}

#[test]
fn partitions_added_while_running_are_read_in_a_consumer_group() {
    added_partitions_are_read("added_consumer", &[("kafka.group_protocol", "consumer")]);
}

#[test]
fn partitions_added_while_running_are_read_without_a_group() {
    added_partitions_are_read("added_all", &[("kafka.assignment", "all")]);
}

/// `start_at = "latest"` is about the first start only.
#[test]
fn partitions_added_later_are_read_from_their_beginning() {
    added_partitions_are_read("added_latest", &[("kafka.start_at", "latest"), ("batch.linger_ms", "20")]);
}

#[test]
fn two_processes_with_one_instance_id_do_not_fight_for_ever() {
    let stage = Stage::new("one_name", 3);
    stage.produce(1_000);
    let invocation = member(&stage, "classic").set("kafka.instance_id", "writer-1");
    let (mut first, mut second) = (invocation.start(&["run"]), invocation.start(&["run"]));
    // Each puts the other out; whoever is put out too often goes.
    eventually("one of them gives up", LIMIT, || !first.alive() || !second.alive());
    let (gone, other) = if first.alive() { (second, first) } else { (first, second) };
    assert!(gone.output(LIMIT).expect_code(75).cause().contains("kafka.instance_id"));
    // The other may have given up in the same moment.
    drop(other);
    let alone = invocation.start(&["run"]);
    stage.wait_until_drained(LIMIT);
    drop(alone);
    stage.assert_exactly_once();
}
