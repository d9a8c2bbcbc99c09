//! Positions are moved by hand: shown first, then done, and every record is accounted for.

use crate::harness::checker::Findings;
use crate::harness::producer;
use crate::harness::worker::Output;
use crate::harness::{Fault, Invocation, LIMIT, Proxy, Stage, broker, eventually, random};
use krafka::Record;
use std::thread;
use std::time::Duration;

/// `reset` of the stage's topic.
#[track_caller]
fn reset(invocation: &Invocation, stage: &Stage, arguments: &[&str], code: i32) -> Output {
    let output = invocation.output(&[&["reset", "--topic", &stage.topic], arguments].concat()).expect_code(code);
    println!("{arguments:?}:\n{}{}", output.stdout, output.stderr);
    output
}

#[track_caller]
fn assert_says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.said().contains(word), "{word} is not in:\n{}", output.said());
    }
}

/// The counters of a partition go on counting when it is read again; the rows are what matters.
#[track_caller]
fn assert_every_row_once(stage: &Stage) {
    assert_eq!(stage.findings(), Findings::default());
    assert_eq!(stage.rows(), stage.sent().count());
    stage.assert_counters(&stage.topic);
}

/// Where the partitions stand.
fn positions(stage: &Stage) -> Vec<i64> {
    stage.standings(&stage.topic).values().map(|standing| standing.next_offset).collect()
}

/// Gaps: partition, from, to.
fn gaps(stage: &Stage) -> Vec<(i32, i64, i64)> {
    let rows = stage.database().query("SELECT partition, from_offset, to_offset FROM writer_gaps ORDER BY 1, 2", &[]);
    rows.expect("PostgreSQL answers").iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// A topic of two partitions, with so many records in each, all written.
fn drained(test: &str, n: i64) -> Stage {
    let stage = Stage::new(test, 2);
    stage.produce(2 * n);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(positions(&stage), [n, n]);
    stage
}

#[test]
fn back_to_the_beginning_is_shown_first_and_fills_a_truncated_table_again() {
    let stage = drained("reset_earliest", 500);
    let shown = reset(&stage.invocation(), &stage, &["--to", "earliest"], 0);
    assert_says(&shown, &["/0: from 500 to 0, 500 offsets read again", "about 1000 rows", "nothing was changed"]);
    assert_eq!(positions(&stage), [500, 500]);
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic).len(), 2);

    stage.execute("TRUNCATE stock_prices");
    let done = reset(&stage.invocation(), &stage, &["--to", "earliest", "--yes"], 0);
    assert_says(&done, &["is empty: no row is doubled", "done; the group's offsets in Kafka were moved, too"]);
    assert_eq!(positions(&stage), [0, 0]);
    assert!(broker::group_offsets(&stage.name, &stage.topic).values().all(|offset| *offset == 0));
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
}

#[test]
fn forward_is_a_gap_and_back_over_it_is_none_any_more() {
    let stage = drained("reset_forward", 100);
    // One producer each: the records of partition 0 get the first half of the numbers.
    let passed = stage.take_in_vain(200);
    producer::produce(&stage.topic, 2, passed.clone());
    let latest = reset(&stage.invocation(), &stage, &["--to", "latest", "--yes"], 0);
    assert_says(&latest, &["/0: from 100 to 200, offsets 100 to 199 passed over"]);
    assert_eq!(gaps(&stage), [(0, 100, 200), (1, 100, 200)]);
    stage.produce(200);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);

    // Into the middle of the gap, and of one partition only.
    let middle = reset(&stage.invocation(), &stage, &["--partition", "0", "--to", "150", "--yes"], 0);
    assert_says(&middle, &["/0: from 300 to 150, 150 offsets read again", "about 150 rows"]);
    assert_eq!(gaps(&stage), [(0, 100, 150), (1, 100, 200)]);
    assert_eq!(positions(&stage), [150, 300]);
    reset(&stage.invocation(), &stage, &["--partition", "0", "--to", "20", "--yes"], 0);
    assert_eq!(gaps(&stage), [(1, 100, 200)]);
}

#[test]
fn a_time_is_the_first_record_at_or_after_it() {
    let stage = Stage::with_configs("reset_time", 1, &[("retention.ms", "-1")]);
    let at = |second: i64| (producer::FIRST_TIME + second) * 1000;
    let record = |id: i64| Record::new(stage.topic.as_str(), producer::quote(id)).partition(0).timestamp(at(id));
    producer::send(stage.take(100).map(record).collect());
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.execute("TRUNCATE stock_prices");
    let time = "2023-11-14T22:14:01Z";
    assert_eq!(at(41), 1_700_000_041_000);
    let shown = reset(&stage.invocation(), &stage, &["--to", time], 0);
    assert_says(&shown, &["/0: from 100 to 40, 60 offsets read again"]);
    let past_all = reset(&stage.invocation(), &stage, &["--to", "2024-01-01T00:00:00Z"], 0);
    assert_says(&past_all, &["/0: is at 100 already"]);
    let to_come = reset(&stage.invocation(), &stage, &["--to", "2999-01-01T00:00:00Z"], 64);
    assert_says(&to_come, &["--to latest"]);
}

#[test]
fn what_can_not_be_is_refused_in_one_line_and_changes_nothing() {
    let stage = drained("reset_wrong", 50);
    broker::delete_records(&stage.topic, 0, 10);
    let invocation = stage.invocation();
    for (arguments, code, words) in [
        (&["--to", "51", "--yes"][..], 64, &["offset 51 is not in its log, which is from 10 to 50"][..]),
        (&["--partition", "0", "--to", "9", "--yes"], 64, &["offset 9 is not in its log, which is from 10 to 50"]),
        (&["--partition", "2", "--to", "earliest", "--yes"], 64, &["has no partition 2: it has 2"]),
        (&["--to", "yesterday"], 64, &["earliest, latest, an offset, or a time like 2024"]),
        (&["--partition", "-1", "--to", "latest"], 64, &["-1"]),
    ] {
        assert_says(&reset(&invocation, &stage, arguments, code), words);
    }
    let unknown = invocation.output(&["reset", "--topic", "somewhere_else", "--to", "latest"]).expect_code(78);
    assert_says(&unknown, &["somewhere_else", "[[topics]]"]);
    let missing = format!("{}_missing", stage.name);
    let absent = invocation.set("topics.1.name", &missing).output(&["reset", "--topic", &missing, "--to", "latest"]);
    assert_says(&absent.expect_code(78), &[&missing, "does not exist"]);
    assert_eq!(positions(&stage), [50, 50]);
    assert_eq!(gaps(&stage), []);
}

#[test]
fn a_partition_that_has_not_begun_begins_there() {
    let stage = Stage::new("reset_new", 2);
    stage.produce(200);
    stage.invocation().output(&["init"]).expect_code(0);
    let begun = reset(&stage.invocation(), &stage, &["--to", "100", "--yes"], 0);
    assert_says(&begun, &["/0: begins at 100", "/1: begins at 100"]);
    stage.produce(50);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.rows(), 50);
    assert_eq!(gaps(&stage), []);
}

/// Records that are wrong, and a letter each.
fn spoil(stage: &Stage, n: i64) {
    let wrong = |idx: i64| {
        let value = format!("{{\"symbol\": \"X{idx}\", \"price\": \"no price\", \"timestamp\": 1700000000}}");
        Record::new(stage.topic.as_str(), value).partition(0)
    };
    producer::send((0..n).map(wrong).collect());
}

#[test]
fn dead_letters_of_what_is_read_again_are_written_again() {
    let stage = drained("reset_letters", 100);
    spoil(&stage, 30);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.execute("UPDATE writer_dead_letters SET discarded_at = now() WHERE record_offset < 110");
    stage.execute("TRUNCATE stock_prices");
    let shown = reset(&stage.invocation(), &stage, &["--to", "earliest"], 0);
    assert_says(&shown, &["30 dead letters of these records removed"]);
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 30);
    reset(&stage.invocation(), &stage, &["--to", "earliest", "--yes"], 0);
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 0);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters WHERE discarded_at IS NULL"), 30);
}

#[test]
fn a_topic_created_again_is_followed_after_its_letters_are_dealt_with() {
    let stage = drained("reset_anew", 100);
    spoil(&stage, 3);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    broker::delete_topic(&stage.topic);
    eventually("the topic is gone", LIMIT, || broker::try_create_topic(&stage.topic, 2).is_ok());
    stage.produce(60);
    let refused = stage.invocation().output(&["run", "--until-end"]).expect_code(65);
    let command = refused.cause().split("stock-db-writer ").last().expect("there is a command").to_owned();
    println!("the command that decides: {command}");
    let mut arguments: Vec<&str> = command.split_whitespace().collect();
    assert_says(
        &stage.invocation().output(&arguments).expect_code(65),
        &["open dead letters in the way", "redrive or discard"],
    );
    arguments.push("--yes");
    stage.invocation().output(&arguments).expect_code(65);
    assert_eq!(positions(&stage), [103, 100], "nothing is moved while letters would be lost");
    stage.invocation().output(&["dead-letters", "discard", "--yes"]).expect_code(0);
    let done = stage.invocation().output(&arguments).expect_code(0);
    assert_says(&done, &["from 103 of another log to 0 of this one"]);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
}

fn beside_a_running_worker(name: &str, protocol: &str) {
    let stage = Stage::new(name, 2);
    let mut worker = stage.invocation().set("kafka.group_protocol", protocol).start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    for _ in 0..2 {
        let mark = worker.mark();
        // It is idle: it finds out by itself.
        stage.execute("TRUNCATE stock_prices");
        let done = reset(&stage.invocation(), &stage, &["--to", "earliest", "--yes"], 0);
        assert_says(&done, &["the group's offsets in Kafka follow"]);
        println!("{}", worker.wait_for_log_after(mark, "fenced partition=", LIMIT));
        stage.wait_until_drained(LIMIT);
        assert_every_row_once(&stage);
    }
    eventually("the group's offsets follow", LIMIT, || {
        broker::group_offsets(&stage.name, &stage.topic).values().sum::<i64>() == 1_000
    });
    assert!(worker.alive());
}

#[test]
fn a_running_member_of_a_classic_group_goes_on_at_the_new_position() {
    beside_a_running_worker("reset_classic", "classic");
}

#[test]
fn a_running_member_of_a_group_of_the_new_protocol_goes_on_at_the_new_position() {
    beside_a_running_worker("reset_consumer", "consumer");
}

#[test]
fn a_running_worker_without_a_group_ends_with_75_and_goes_on_when_it_is_started_again() {
    let stage = Stage::new("reset_all", 2);
    let worker = stage.invocation_of_all().start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    stage.execute("TRUNCATE stock_prices");
    let done = reset(&stage.invocation_of_all(), &stage, &["--to", "earliest", "--yes"], 0);
    assert_says(&done, &["done;"]);
    worker.output(LIMIT).expect_code(75);
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
}

#[test]
fn a_busy_worker_and_resets_lose_no_record() {
    let stage = Stage::new("reset_busy", 2);
    let mut worker = stage.invocation().set("batch.rows_max", 100).start(&["run"]);
    let feeder = producer::Feeder::start(&stage, &stage.topic, 2_000);
    for to in ["earliest", "500", "0"] {
        stage.wait_for_progress();
        eventually("both partitions have come far enough", LIMIT, || positions(&stage).iter().all(|next| *next > 500));
        reset(&stage.invocation(), &stage, &["--to", to, "--yes"], 0);
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    // Read again means written again; but none is missing.
    let missing = stage.findings();
    assert!(missing.lost.is_empty() && missing.strangers.is_empty() && missing.garbled.is_empty(), "{missing:?}");
    assert!(!missing.doubled.is_empty(), "something was read twice");
}

#[test]
fn a_reset_killed_anywhere_has_happened_or_has_not() {
    let stage = drained("reset_killed", 200);
    spoil(&stage, 50);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    let mut random = random(&stage.name);
    let (mut n_done, mut n_not) = (0, 0);
    for _ in 0..30 {
        let child = stage.invocation().start(&["reset", "--topic", &stage.topic, "--to", "100", "--yes"]);
        thread::sleep(Duration::from_millis(random.u64(0..60)));
        child.kill9();
        let letters = stage.number("SELECT count(*) FROM writer_dead_letters");
        match (&positions(&stage)[..], letters) {
            ([100, 100], 0) => {
                n_done += 1;
                stage.invocation().output(&["run", "--until-end"]).expect_code(0);
            }
            ([250, 200], 50) => n_not += 1,
            other => panic!("half of it: {other:?}"),
        }
    }
    println!("done {n_done}, not {n_not}");
    assert!(n_not > 0, "some were killed before");
}

#[test]
fn a_reset_whose_commit_is_in_doubt_is_done_once() {
    let stage = drained("reset_doubt", 200);
    let epochs = || stage.standings(&stage.topic).values().map(|standing| standing.epoch).sum::<i64>();
    for (fault, to) in [(Fault::CutAfterCommit, 150), (Fault::CutBeforeCommit, 120), (Fault::CutDuringCommit, 90)] {
        let (proxy, before) = (Proxy::start(), epochs());
        proxy.plan_at_any_commit(fault);
        let through = stage.invocation().env("DATABASE_URL", proxy.url());
        let done = reset(&through, &stage, &["--to", &to.to_string(), "--yes"], 0);
        assert_eq!(proxy.fired(fault), 1);
        assert_says(&done, &[&format!(" to {to}, "), "done;"]);
        assert_eq!((positions(&stage), epochs()), (vec![to, to], before + 2), "{fault:?}");
    }
    assert_eq!(gaps(&stage), []);
}

/// The answer to COMMIT stays away for so long that the worker has read everything again by then.
#[test]
fn a_reset_in_doubt_does_not_throw_back_a_worker_that_has_gone_on() {
    let stage = Stage::new("reset_doubt_late", 2);
    let worker = stage.invocation().start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    stage.execute("TRUNCATE stock_prices");
    let proxy = Proxy::start();
    proxy.plan_at_any_commit(Fault::SwallowAnswer);
    let through = stage
        .invocation()
        .env("DATABASE_URL", proxy.url())
        .set("database.statement_timeout_ms", 15_000)
        .set("writers.max_hold_ms", 5_000);
    let resetting = through.start(&["reset", "--topic", &stage.topic, "--to", "earliest", "--yes"]);
    proxy.wait_until_fired();
    // Something to write, so that it notices at once.
    stage.produce(10);
    stage.wait_until_drained(LIMIT);
    assert_every_row_once(&stage);
    let done = resetting.output(LIMIT).expect_code(0);
    assert_says(&done, &["/0: from 500 to 0", "done;"]);
    stage.wait_until_drained(LIMIT);
    worker.stop();
    assert_every_row_once(&stage);
}

/// The end of the log is looked at while the positions are locked: a worker that goes on meanwhile is not thrown back.
#[test]
fn to_the_end_beside_a_busy_worker_reads_nothing_again() {
    let stage = Stage::new("reset_latest_busy", 2);
    let invocation = stage.invocation().set("batch.rows_max", 100).set("batch.linger_ms", 1);
    let mut worker = invocation.start(&["run"]);
    let feeder = producer::Feeder::start(&stage, &stage.topic, 4_000);
    stage.wait_for_progress();
    for _ in 0..6 {
        // The reset is progress by itself.
        let before = stage.rows();
        eventually("the worker writes", LIMIT, || stage.rows() > before);
        let done = reset(&stage.invocation(), &stage, &["--to", "latest", "--yes"], 0);
        assert!(!done.stdout.contains("read again"), "{}", done.stdout);
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    let Findings { doubled, strangers, garbled, .. } = stage.findings();
    assert_eq!((doubled, strangers, garbled), (vec![], vec![], vec![]));
    let passed = stage.number("SELECT coalesce(sum(to_offset - from_offset), 0)::bigint FROM writer_gaps");
    println!("passed over: {passed} of {}", stage.sent().count());
    assert_eq!(stage.rows() + passed, stage.sent().count(), "what is no row is in writer_gaps");
}

/// Its position would say for ever that the topic is another one.
#[test]
fn a_partition_that_the_new_topic_does_not_have_holds_up_nobody() {
    let stage = drained("reset_fewer", 100);
    broker::delete_topic(&stage.topic);
    eventually("the topic is gone", LIMIT, || broker::try_create_topic(&stage.topic, 1).is_ok());
    producer::produce(&stage.topic, 1, stage.take(60));
    stage.invocation().output(&["run", "--until-end"]).expect_code(65);
    let shown = reset(&stage.invocation(), &stage, &["--to", "earliest"], 0);
    assert_says(&shown, &["/1: the topic has no such partition any more", "nothing was changed"]);
    assert_eq!(positions(&stage), [100, 100]);
    reset(&stage.invocation(), &stage, &["--to", "earliest", "--yes"], 0);
    assert_eq!(positions(&stage), [0]);
    stage.invocation().output(&["check"]).expect_code(0);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
    // One that is added later is read from its first record.
    broker::add_partitions(&stage.topic, 2);
    stage.produce(40);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
}

/// The command that the worker's last line ends with, up to a remark behind it.
fn decides(output: &Output) -> Vec<String> {
    let command = output.cause().split("stock-db-writer ").last().expect("there is a command");
    let command = command.split(" (or").next().expect("there is a command");
    command.split_whitespace().chain(["--yes"]).map(str::to_owned).collect()
}

#[test]
fn the_command_that_a_stopped_worker_names_goes_on_exactly_once() {
    let stage = drained("reset_named", 500);
    let stopped_and_decided = || {
        let stopped = stage.invocation().output(&["run", "--until-end"]).expect_code(65);
        let command = decides(&stopped);
        let done = stage.invocation().output(&command.iter().map(String::as_str).collect::<Vec<_>>()).expect_code(0);
        println!("{command:?}:\n{}", done.stdout);
    };
    // Retention was faster.
    producer::produce(&stage.topic, 1, stage.take_in_vain(100));
    broker::delete_records(&stage.topic, 0, 600);
    stopped_and_decided();
    assert_eq!(gaps(&stage), [(0, 500, 600)]);
    stage.produce(100);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
    // The log ends before what was read, as one does that was truncated.
    stage.execute("UPDATE writer_offsets SET next_offset = 700 WHERE partition = 0");
    stopped_and_decided();
    stage.produce(100);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
    assert_eq!(gaps(&stage), [(0, 500, 600)]);
}

#[test]
fn a_topic_that_a_pattern_matches_is_reset_by_its_name_and_windows_are_not_doubled() {
    let stage = drained("reset_pattern", 100);
    let by_pattern = stage.invocation().set("topics.0.name", "").set("topics.0.pattern", format!("^{}$", stage.topic));
    let shown = reset(&by_pattern, &stage, &["--to", "40"], 0);
    assert_says(&shown, &["/1: from 100 to 40, 60 offsets read again", "about 120 rows"]);
    let windows = by_pattern.set("topics.0.target", "metrics");
    assert_says(&reset(&windows, &stage, &["--to", "40"], 0), &["none is doubled"]);
    assert_eq!(positions(&stage), [100, 100]);
}

#[test]
fn the_old_client_resets_to_everything_but_a_time() {
    let stage = Stage::old("reset", 2);
    stage.produce(200);
    let invocation = stage.invocation_of_old();
    invocation.output(&["run", "--until-end"]).expect_code(0);
    let refused = reset(&invocation, &stage, &["--to", "2024-01-01T00:00:00Z", "--yes"], 78);
    assert_says(&refused, &["can't look for a time", "krafka"]);
    reset(&invocation, &stage, &["--to", "latest", "--yes"], 0);
    assert_eq!(positions(&stage), [100, 100]);
    stage.execute("TRUNCATE stock_prices");
    reset(&invocation, &stage, &["--to", "earliest", "--yes"], 0);
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic).values().sum::<i64>(), 0);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_every_row_once(&stage);
}
