//! Positions that do not fit the log are noticed, and never guessed away.

use crate::harness::producer::{self, Feeder};
use crate::harness::{Invocation, LIMIT, Stage, Worker, broker, eventually, random, servers, size};
use std::thread;
use std::time::{Duration, Instant};

/// Ends with 65; the cause names these.
#[track_caller]
fn assert_needs_decision(worker: Worker, named: &[&str]) {
    let output = worker.output(LIMIT).expect_code(65);
    println!("after {:.1} s: {}", output.took.as_secs_f64(), output.cause());
    for word in named {
        assert!(output.cause().contains(word), "{word} is not in: {}", output.cause());
    }
}

fn recreated_while_running(stage: &Stage, invocation: &Invocation) {
    let worker = invocation.start(&["run"]);
    stage.produce(3_000);
    stage.wait_until_drained(LIMIT);
    broker::delete_topic(&stage.topic);
    eventually("the topic is gone", LIMIT, || broker::try_create_topic(&stage.topic, stage.n_partitions).is_ok());
    // Longer than the old one: its offsets are all valid here.
    producer::produce(&stage.topic, stage.n_partitions, stage.take_in_vain(6_000));
    assert_needs_decision(worker, &[&stage.topic]);
    assert_eq!(stage.rows(), 3_000, "nothing of the new topic was taken for the old one");
}

#[test]
fn a_topic_deleted_and_created_again_is_noticed_in_a_consumer_group() {
    let stage = Stage::new("anew_consumer", 2);
    recreated_while_running(&stage, &stage.invocation().set("kafka.group_protocol", "consumer"));
}

#[test]
fn a_topic_deleted_and_created_again_is_noticed_in_a_classic_group() {
    let stage = Stage::new("anew_classic", 2);
    recreated_while_running(&stage, &stage.invocation().set("kafka.group_protocol", "classic"));
}

#[test]
fn a_topic_deleted_and_created_again_is_noticed_without_a_group() {
    let stage = Stage::new("anew_all", 2);
    recreated_while_running(&stage, &stage.invocation_of_all());
}

#[test]
fn a_topic_created_again_between_two_runs_is_noticed() {
    let stage = Stage::new("anew_stopped", 2);
    stage.produce(1_000);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    broker::delete_topic(&stage.topic);
    eventually("the topic is gone", LIMIT, || broker::try_create_topic(&stage.topic, 2).is_ok());
    producer::produce(&stage.topic, 2, stage.take_in_vain(2_000));
    for arguments in [&["run"][..], &["run", "--until-end"]] {
        assert_needs_decision(stage.invocation().start(arguments), &[&stage.topic]);
    }
    assert_eq!(stage.rows(), 1_000);
}

#[test]
fn another_cluster_is_noticed() {
    let stage = Stage::new("cluster", 2);
    stage.produce(1_000);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.execute("UPDATE writer_offsets SET cluster_id = 'another-cluster-id-00'");
    stage.produce(1_000);
    assert_needs_decision(stage.invocation().start(&["run"]), &["another-cluster-id-00"]);
    assert_eq!(stage.rows(), 1_000);
}

#[test]
fn a_position_past_the_end_of_the_log_is_not_rewound() {
    let stage = Stage::new("past", 2);
    stage.produce(1_000);
    for invocation in [stage.invocation(), stage.invocation_of_all()] {
        stage.execute(&format!("DROP SCHEMA {0} CASCADE; CREATE SCHEMA {0}", stage.name));
        invocation.output(&["run", "--until-end"]).expect_code(0);
        stage.execute("UPDATE writer_offsets SET next_offset = 777123 WHERE partition = 1");
        let command = format!("stock-db-writer reset --topic {} --partition 1 --to 500", stage.topic);
        for arguments in [&["run"][..], &["run", "--until-end"]] {
            assert_needs_decision(invocation.start(arguments), &["777123", "500", &command]);
        }
        let at = stage.standings(&stage.topic)[&1].next_offset;
        assert_eq!(at, 777_123, "the position is left for a person to decide about");
    }
}

#[test]
fn a_position_before_the_start_of_the_log_is_no_silent_jump() {
    let stage = Stage::new("before_start", 2);
    stage.produce(1_000);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.produce(1_000);
    broker::delete_records(&stage.topic, 0, 813);
    for arguments in [&["run"][..], &["run", "--until-end"]] {
        let command = format!("stock-db-writer reset --topic {} --partition 0 --to earliest", stage.topic);
        assert_needs_decision(stage.invocation().start(arguments), &["500", "813", &command]);
    }
    assert_eq!(stage.standings(&stage.topic)[&0].next_offset, 500);
}

/// Retention overtakes a worker that is too slow.
#[test]
fn records_deleted_ahead_of_a_running_worker_are_no_silent_jump() {
    let stage = Stage::new("overtaken", 1);
    stage.produce(1_000);
    let worker = stage.invocation_of_all().start(&["run"]);
    stage.wait_until_drained(LIMIT);
    worker.signal("STOP");
    stage.produce(5_000);
    broker::delete_records(&stage.topic, 0, 5_500);
    worker.signal("CONT");
    let output = worker.output(LIMIT);
    // What a fetch had got before the deletion may still come; then its position is at the end and all is well.
    let at = stage.standings(&stage.topic)[&0].clone();
    assert_eq!(output.code, 65, "{at:?} {}", output.stderr);
    assert_eq!(at.next_offset, at.records_total, "no record was jumped over");
    println!("{}", output.cause());
}

/// What is in `writer_gaps`: partition, from, to, who decided.
fn gaps(stage: &Stage) -> Vec<(i32, i64, i64, String)> {
    let rows = stage.database().query(
        "SELECT partition, from_offset, to_offset, reason || ': ' || split_part(decided_by, ',', 1) \
         FROM writer_gaps ORDER BY 1, 2",
        &[],
    );
    let gap = |row: &postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3));
    rows.expect("PostgreSQL answers").iter().map(gap).collect()
}

fn a_gap_is_recorded(stage: &Stage, invocation: &Invocation) {
    let decided = || "retention: kafka.on_gap".to_owned();
    let invocation = invocation.clone().set("kafka.on_gap", "record");
    // One record a number: those of partition 0 are the first half.
    producer::produce(&stage.topic, 2, stage.take(1_000));
    invocation.output(&["run", "--until-end"]).expect_code(0);
    let lost = stage.take_in_vain(800);
    producer::produce(&stage.topic, 2, lost);
    broker::delete_records(&stage.topic, 0, 900);
    broker::delete_records(&stage.topic, 1, 900);
    producer::produce(&stage.topic, 2, stage.take(100));
    let check = invocation.output(&["check"]).expect_code(0);
    assert!(check.stdout.contains("Kafka has deleted records from 500 on"), "{}", check.stdout);
    let output = invocation.output(&["run", "--until-end"]).expect_code(0);
    let said = |partition: i32| format!("gap partition={}/{partition} from_offset=500 to_offset=900", stage.topic);
    assert!((0..2).all(|partition| output.stderr.contains(&said(partition))), "{}", output.stderr);
    assert_eq!(gaps(stage), [(0, 500, 900, decided()), (1, 500, 900, decided())]);
    stage.assert_exactly_once();
}

#[test]
fn a_gap_is_recorded_where_that_is_what_the_configuration_says() {
    let stage = Stage::new("on_gap", 2);
    a_gap_is_recorded(&stage, &stage.invocation());
}

#[test]
fn a_gap_is_recorded_by_the_old_client() {
    let stage = Stage::old("on_gap", 2);
    a_gap_is_recorded(&stage, &stage.invocation_of_old());
}

/// Killed at any moment of it, the gap and the jump are both there, or neither.
#[test]
fn kill_9_around_a_gap_leaves_no_jump_without_its_row() {
    let stage = Stage::new("on_gap_killed", 1);
    let invocation = stage.invocation_of_all().set("kafka.on_gap", "record");
    let mut random = random(&stage.name);
    let mut n_killed_before = 0;
    for round in 1..=12_i64 {
        stage.produce(50);
        invocation.output(&["run", "--until-end"]).expect_code(0);
        let before = stage.standings(&stage.topic)[&0].next_offset;
        producer::produce(&stage.topic, 1, stage.take_in_vain(50));
        broker::delete_records(&stage.topic, 0, before + 50);
        let worker = invocation.start(&["run"]);
        std::thread::sleep(Duration::from_millis(random.u64(20..250)));
        worker.kill9();
        let (at, n_gaps) = (stage.standings(&stage.topic)[&0].next_offset, gaps(&stage).len() as i64);
        assert_eq!((at == before, at == before + 50), (n_gaps < round, n_gaps == round), "{at} {before} {n_gaps}");
        n_killed_before += i64::from(at == before);
    }
    println!("killed before: {n_killed_before}");
    stage.produce(10);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(gaps(&stage).len(), 12);
    stage.assert_exactly_once();
}

/// Retention is the only loss that may be recorded.
#[test]
fn a_cut_log_or_another_topic_still_needs_a_decision_where_gaps_are_recorded() {
    let stage = Stage::new("on_gap_other", 2);
    let invocation = stage.invocation().set("kafka.on_gap", "record");
    stage.produce(1_000);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.execute("UPDATE writer_offsets SET next_offset = 900 WHERE partition = 0");
    assert_needs_decision(invocation.start(&["run"]), &["900", "500"]);
    stage.execute("UPDATE writer_offsets SET next_offset = 500, topic_id = gen_random_uuid() WHERE partition = 0");
    assert_needs_decision(invocation.start(&["run"]), &["deleted and created again", "reset --topic"]);
    assert_eq!(gaps(&stage), []);
}

#[test]
fn a_group_offset_ahead_of_the_database_is_said_and_overwritten() {
    let stage = Stage::new("group_ahead", 1);
    stage.produce(1_000);
    let invocation = stage.invocation().set("kafka.group_protocol", "classic");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    restore(&stage, 300);
    let output = invocation.output(&["run", "--until-end"]).expect_code(0);
    let said = format!("partition={}/0 next_offset=300 group_offset=1000", stage.topic);
    assert!(output.stderr.contains(&said), "{}", output.stderr);
    stage.assert_exactly_once();
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic)[&0], 1_000);
}

/// Looks for so long whether Kafka knows of an offset that the database doesn't have yet.
fn assert_kafka_is_not_ahead(stage: &Stage, length: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        // In this order: what is durable only grows meanwhile.
        let told = broker::group_offsets(&stage.name, &stage.topic);
        let durable = stage.standings(&stage.topic);
        for (partition, told) in told {
            let durable = durable[&partition].next_offset;
            assert!(told <= durable, "Kafka was told {told} of partition {partition}, durable is {durable}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The order of the protocol, seen from outside: while batches are on their way and can't arrive, and across kills.
#[test]
fn kafka_is_never_told_more_than_the_database_holds() {
    let stage = Stage::new("told", 3);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    let invocation = stage.invocation_of_all().set("batch.rows_max", 100);
    let mut worker = invocation.start(&["run"]);
    for round in 0..size(2, 10) {
        stage.wait_for_progress();
        let mut client = stage.database();
        let mut transaction = client.transaction().expect("PostgreSQL answers");
        transaction.batch_execute("SELECT FROM writer_offsets FOR UPDATE").expect("the rows can be locked");
        // Kafka is told every second.
        assert_kafka_is_not_ahead(&stage, Duration::from_millis(2_500));
        if round % 2 == 1 {
            worker.kill9();
            worker = invocation.start(&["run"]);
        }
        transaction.rollback().expect("PostgreSQL answers");
        assert_kafka_is_not_ahead(&stage, Duration::from_secs(1));
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    worker.stop();
    stage.assert_exactly_once();
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic), broker::end_offsets(&stage.topic), "told at the end");
}

/// Puts the tables back to where they were at `offset` of the only partition, as a restored backup would.
fn restore(stage: &Stage, offset: i64) {
    stage.execute(&format!(
        "BEGIN;
         SELECT FROM writer_offsets FOR UPDATE;
         DELETE FROM stock_prices WHERE price > {offset};
         UPDATE writer_offsets SET next_offset = {offset}, records_rows = {offset}, rows_total = {offset};
         COMMIT;"
    ));
}

fn a_restored_database_is_followed(name: &str, invocation: impl Fn(&Stage) -> Invocation) {
    // One partition, one producer: the record at offset n has the number n + 1.
    let stage = Stage::new(name, 1);
    let mut worker = invocation(&stage).set("batch.rows_max", 100).start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    for _ in 0..3 {
        stage.wait_for_progress();
        let mark = worker.mark();
        restore(&stage, stage.progress() / 2);
        // That the database went back is said once in a while only.
        println!("{}", worker.wait_for_log_after(mark, "claimed partition=", LIMIT));
        stage.wait_for_progress();
    }
    assert!(worker.count("rewind partition=") > 0);
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();

    // Restored while it was stopped: the same, without a word.
    restore(&stage, 123);
    invocation(&stage).output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_database_restored_from_a_backup_is_filled_again() {
    a_restored_database_is_followed("restored", Stage::invocation);
}

#[test]
fn a_database_restored_from_a_backup_is_filled_again_without_a_group() {
    a_restored_database_is_followed("restored_all", Stage::invocation_of_all);
}

/// The worker is idle when the database goes back; the next record shows it.
#[test]
fn a_restore_beneath_an_idle_worker_is_noticed_with_the_next_record() {
    let stage = Stage::new("restored_idle", 1);
    let worker = stage.invocation().start(&["run"]);
    producer::produce(&stage.topic, 1, stage.take(1_000));
    stage.wait_until_drained(LIMIT);
    restore(&stage, 400);
    producer::produce(&stage.topic, 1, stage.take(10));
    stage.wait_until_drained(Duration::from_secs(120));
    worker.stop();
    stage.assert_exactly_once();
}

/// Restored to before its first row, while nothing comes that would show it.
#[test]
fn a_row_that_vanishes_beneath_an_idle_worker_is_noticed_without_a_record() {
    let stage = Stage::new("vanished_idle", 2);
    let mut worker = stage.invocation().start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    let mark = worker.mark();
    stage.execute("BEGIN; DELETE FROM writer_offsets; DELETE FROM stock_prices; COMMIT");
    println!("{}", worker.wait_for_log_after(mark, "next_offset=none", LIMIT));
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

/// Turns one bit of the last batch of partition 0 around, while the broker is down.
fn damage(stage: &Stage) {
    let services_dir = std::env::var("SERVICES_DIR").expect("dev/test sets SERVICES_DIR");
    let segment = format!("{services_dir}/kafka/data/{}-0/00000000000000000000.log", stage.topic);
    servers().service(&["stop", "kafka"]);
    let mut bytes = std::fs::read(&segment).expect("the partition's only segment");
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("the segment can be written");
    servers().service(&["start", "kafka"]);
}

#[test]
fn damaged_bytes_are_no_silent_end_of_the_log() {
    let stage = Stage::alone("damaged", 1);
    stage.produce(1_000);
    stage.produce(1_000);
    damage(&stage);
    let invocation = stage.invocation_of_all();
    assert_needs_decision(invocation.start(&["run", "--until-end"]), &["undecodable record batch", "offset 1"]);
    assert!((1_000..2_000).contains(&stage.rows()), "what is before the damage is written");
    damage(&stage);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}
