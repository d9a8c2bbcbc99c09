//! What is in the topics becomes what is in the tables, and a bounded run ends where the topics end.

use crate::harness::producer::{self, Kcat, Transactions, quote, symbol};
use crate::harness::{LIMIT, Stage, broker, eventually, servers, size};
use krafka::Record;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_backlog_in_all_codecs_becomes_rows_and_a_second_run_adds_none() {
    let stage = Stage::new("backlog", 3);
    stage.produce(size(30_000, 200_000) as i64);
    let first = stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    let rows = stage.rows();
    println!("{rows} records in {:.1} s, start and end of the process included", first.took.as_secs_f64());
    assert!(
        first.stderr.contains(&format!("stopped records={rows} rows={rows} dead_letters=0 skipped=0")),
        "{}",
        first.stderr
    );

    let second = stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert!(second.stderr.contains("stopped records=0 rows=0 dead_letters=0 skipped=0"), "{}", second.stderr);

    // Kafka follows: whoever looks at the group's lag there sees none.
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic), broker::end_offsets(&stage.topic));
}

#[test]
fn a_backlog_is_drained_without_a_group_as_well() {
    let stage = Stage::new("backlog_all", 3);
    stage.produce(size(10_000, 100_000) as i64);
    for _ in 0..2 {
        stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
        stage.assert_exactly_once();
    }
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic), broker::end_offsets(&stage.topic));
}

#[test]
fn what_arrives_on_a_quiet_topic_is_a_row_soon_and_kafka_follows() {
    let stage = Stage::new("quiet", 3);
    let mut worker = stage.invocation().start(&["run"]);
    for _ in 0..5 {
        producer::produce(&stage.topic, 1, stage.take(1));
        stage.wait_until_drained(LIMIT);
    }
    stage.assert_exactly_once();
    eventually("the group's offsets follow", LIMIT, || {
        let group = broker::group_offsets(&stage.name, &stage.topic);
        let standings = stage.standings(&stage.topic);
        assert!(group.iter().all(|(partition, at)| *at <= standings[partition].next_offset), "{group:?} {standings:?}");
        group.get(&0) == Some(&5)
    });
    assert!(worker.alive());
    let output = worker.stop();
    assert!(output.stderr.contains("stopped records=5 rows=5 dead_letters=0 skipped=0"), "{}", output.stderr);
}

#[test]
fn a_bounded_run_on_an_empty_topic_ends() {
    let stage = Stage::new("empty", 2);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert_eq!(stage.standings(&stage.topic).len(), 2, "every partition has its row");
}

#[test]
fn aborted_records_and_transaction_markers_at_the_end_are_passed_over() {
    let stage = Stage::new("markers", 3);
    let transactions = Transactions::new(&stage.name);
    let topic = &stage.topic;
    // Partition 0 ends in aborted records, 1 in a marker, 2 holds nothing but aborted records.
    transactions.commit(topic, 0, stage.take(500));
    transactions.abort(topic, 0, stage.take_in_vain(700));
    transactions.commit(topic, 1, stage.take(300));
    transactions.abort(topic, 2, stage.take_in_vain(900));
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert_eq!(stage.progress(), 501 + 701 + 301 + 901);

    // More of the same after a restart, in the middle too.
    for _ in 0..20 {
        transactions.abort(topic, 1, stage.take_in_vain(3));
        transactions.commit(topic, 1, stage.take(2));
    }
    transactions.abort(topic, 2, stage.take_in_vain(1));
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_bounded_run_stops_before_an_open_transaction() {
    let stage = Stage::new("open", 1);
    let transactions = Transactions::new(&stage.name);
    transactions.commit(&stage.topic, 0, stage.take(100));
    let ids = stage.take(50);
    stage.forget(ids.clone());
    transactions.begin(&stage.topic, 0, ids.clone());
    // Not in the transaction, but behind its first record.
    let behind = stage.take(20);
    stage.forget(behind.clone());
    producer::produce(&stage.topic, 1, behind.clone());
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.rows(), 100);
    assert_eq!(stage.standings(&stage.topic)[&0].next_offset, 101);

    transactions.end(true);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.rows(), 170);
    stage.assert_counters(&stage.topic);
}

/// The records that are left in a partition, to a client's eyes.
fn visible(topic: &str) -> usize {
    let arguments = ["-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o\n"];
    let output = Command::new("kcat").args(["-b", &servers().brokers]).args(arguments).output();
    output.expect("kcat is installed").stdout.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn holes_that_compaction_left_are_passed_over_at_the_end_too() {
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "50"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "0"),
        ("max.compaction.lag.ms", "100"),
    ];
    let stage = Stage::with_configs("compacted", 1, &configs);
    let topic = &stage.topic;
    // 500 keys: of 2,000 records the last 500 stay, and of these the last 200 get tombstones.
    let overwritten = stage.take_in_vain(1_500);
    let (kept, deleted) = (stage.take(300), stage.take_in_vain(200));
    producer::produce(topic, 1, *overwritten.start()..=*deleted.end());
    producer::send(deleted.map(|id| Record::tombstone(topic.as_str(), symbol(id))).collect());
    let transactions = Transactions::new(&stage.name);
    let n_kept = kept.count();
    eventually("the log is compacted", LIMIT, || {
        // The active segment is not compacted; an aborted transaction opens another one.
        transactions.abort(topic, 0, stage.take_in_vain(1));
        std::thread::sleep(Duration::from_millis(300));
        visible(topic) == n_kept
    });
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    let at = &stage.standings(topic)[&0];
    assert_eq!((at.records_total, at.records_skipped), (300, 0), "what is gone is not counted");
}

/// A quiet partition has no record that is as young.
#[test]
fn a_new_pipeline_can_start_at_a_time() {
    let stage = Stage::with_configs("start_time", 3, &[("retention.ms", "-1")]);
    let record = |partition: i32, id: i64| {
        let time_ms = (producer::FIRST_TIME + id) * 1000;
        Record::new(stage.topic.as_str(), producer::quote(id)).partition(partition).timestamp(time_ms)
    };
    let (old, new) = (stage.take_in_vain(40), stage.take(60));
    let older = old.clone().map(|id| record(0, id)).chain(old.map(|id| record(1, id)));
    producer::send(older.chain(new.map(|id| record(1, id))).collect());
    // The time of the record with number 41.
    let invocation = stage.invocation().set("kafka.start_at", "2023-11-14T22:14:01Z");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert_eq!(stage.standings(&stage.topic)[&1].records_total, 60);
}

#[test]
fn a_new_pipeline_can_start_at_the_end() {
    let stage = Stage::new("latest", 2);
    stage.produce(100);
    stage.forget(1..=100);
    let latest = stage.invocation().set("kafka.start_at", "latest");
    latest.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    stage.produce(100);
    // The position is in the database by now: where to start is not asked again.
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    stage.produce(50);
    latest.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

/// A value, and the class of the dead letter that it becomes.
pub fn bad_values() -> Vec<(&'static str, Vec<u8>)> {
    let text = |class, value: &str| (class, value.as_bytes().to_vec());
    let long_symbol = format!(r#"{{"symbol":"{}","price":1,"timestamp":1700000000}}"#, "S".repeat(65));
    let large = format!(r#"{{"symbol":"A","price":1,"timestamp":1700000000,"note":"{}"}}"#, "x".repeat(30_000));
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    vec![
        text("syntax", r#"{"symbol":"A","price":1"#),
        text("syntax", "not JSON at all"),
        ("encoding", b"{\"symbol\":\"A\xff\xfe\",\"price\":1,\"timestamp\":1700000000}".to_vec()),
        text("encoding", r#"{"symbol":"A\u0000B","price":1,"timestamp":1700000000}"#),
        text("missing", r#"{"symbol":"A","price":"N/A","timestamp":1700000000}"#),
        text("type", r#"{"symbol":"A","price":true,"timestamp":1700000000}"#),
        text("type", r#"{"symbol":"A","price":"NaN","timestamp":1700000000}"#),
        text("range", r#"{"symbol":"A","price":0,"timestamp":1700000000}"#),
        text("range", r#"{"symbol":"A","price":-1.5,"timestamp":1700000000}"#),
        text("time", r#"{"symbol":"A","price":1,"timestamp":"yesterday"}"#),
        text("time", r#"{"symbol":"A","price":1,"timestamp":"1812-01-01T00:00:00Z"}"#),
        text("symbol", &long_symbol),
        text("ambiguous", r#"{"symbol":"A","price":1,"price":2,"timestamp":1700000000}"#),
        text("unknown-shape", r#"{"colour":"red","size_of_shoe":44}"#),
        text("too-large", &large),
        text("too-large", &deep),
    ]
}

#[test]
fn bad_records_become_dead_letters_beside_healthy_neighbours() {
    let stage = Stage::new("letters", 1);
    let record = |value: Vec<u8>| Record::new(stage.topic.as_str(), value).key("SOME KEY").partition(0);
    let healthy = |count: i64| -> Vec<Record> {
        stage.take(count).map(|id| record(quote(id).into_bytes()).key(symbol(id))).collect()
    };
    let mut records = healthy(20);
    let mut expected = BTreeMap::new();
    for (class, value) in bad_values() {
        expected.insert(records.len() as i64, (0, class.to_owned(), value.clone()));
        records.push(record(value));
        records.extend(healthy(15));
    }
    // A bad element does not take its neighbours along.
    let ids: Vec<i64> = stage.take(2).collect();
    let array = format!("[{},{{\"symbol\":\"A\"}},{}]", quote(ids[0]), quote(ids[1]));
    expected.insert(records.len() as i64, (1, "missing".to_owned(), array.clone().into_bytes()));
    records.push(record(array.into_bytes()));
    // Skips: nothing is wrong with these.
    let skipped = [
        Record::tombstone(stage.topic.as_str(), "A"),
        record(b"{}".to_vec()),
        record(b"[]".to_vec()),
        record(Vec::new()),
    ];
    let n_skipped = skipped.len() as i64;
    records.extend(skipped);
    records.extend(healthy(20));
    let n_records = records.len() as i64;
    producer::send(records);

    let output =
        stage.invocation().set("kafka.max_message_bytes", 20_000).output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    let mut found = BTreeMap::new();
    let letters = stage.database().query(
        "SELECT record_offset, element, reason_class, payload, payload_bytes, key, reason FROM writer_dead_letters \
         WHERE pipeline = $1 AND topic = $2 AND partition = 0",
        &[&stage.name, &stage.topic],
    );
    for row in letters.expect("the dead letters can be read") {
        let (offset, element, class): (i64, i32, String) = (row.get(0), row.get(1), row.get(2));
        let payload: Option<Vec<u8>> = row.get(3);
        let payload = payload.unwrap_or_else(|| expected[&offset].2.clone());
        assert_eq!(
            row.get::<_, Option<Vec<u8>>>(5).as_deref(),
            Some(&b"SOME KEY"[..]),
            "key of the letter at {offset}"
        );
        println!("{class}: {}", row.get::<_, String>(6));
        assert!(found.insert(offset, (element, class, payload)).is_none(), "two letters at {offset}");
    }
    let classes = |letters: &BTreeMap<i64, (i32, String, Vec<u8>)>| -> Vec<(i64, i32, String)> {
        letters.iter().map(|(offset, (element, class, _))| (*offset, *element, class.clone())).collect()
    };
    assert_eq!(classes(&found), classes(&expected));
    assert!(found == expected, "the payloads are the records' values");

    let at = stage.standings(&stage.topic)[&0].clone();
    let n_letters = expected.len() as i64;
    assert_eq!(at.records_total, n_records);
    assert_eq!(at.records_dead, n_letters - 1, "the array gave rows");
    assert_eq!(at.dead_letters_total, n_letters);
    assert_eq!(at.records_skipped, n_skipped);
    assert!(!output.stderr.contains("yesterday"), "no value is logged");
}

#[test]
fn of_several_records_for_one_window_the_last_one_wins() {
    let stage = Stage::new("windows", 2);
    let metrics = format!("{}_metrics", stage.name);
    stage.add_topic(&metrics, 3, &[]);
    let invocation = stage
        .invocation()
        .set("topics.1.name", &metrics)
        .set("topics.1.target", "metrics")
        .set("batch.rows_max", 100)
        .set("writers.count", 3);
    let send = |rounds: std::ops::Range<i64>| {
        for partition in 0..3 {
            let mut kcat = Kcat::start(&metrics, Some(partition), "lz4");
            for round in rounds.clone() {
                for window in 0..40 {
                    let start = 1_700_000_000 + window * 60;
                    let value = format!(
                        r#"{{"symbol":"W{partition}","window_start":{start},"window_end":{},"avg_price":{},"max_price":{},"min_price":1,"avg_volume":{round}}}"#,
                        start + 60,
                        100 + round,
                        200 + round
                    );
                    kcat.line(&format!("W{partition}"), value.as_bytes());
                }
            }
            kcat.finish();
        }
    };
    let assert_last = |round: i64| {
        assert_eq!(stage.number("SELECT count(*) FROM stock_metrics"), 120);
        let wrong = format!(
            "SELECT count(*) FROM stock_metrics WHERE (avg_price = 100 + {round} AND max_price = 200 + {round} AND \
             min_price = 1 AND avg_volume = {round} AND window_end - window_start = interval '60 s') IS NOT TRUE"
        );
        assert_eq!(stage.number(&wrong), 0, "windows that do not hold round {round}");
        stage.assert_counters(&metrics);
    };
    send(0..30);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_last(29);
    // Over what was written before, and beside prices.
    stage.produce(2_000);
    send(30..33);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_last(32);
    stage.assert_exactly_once();
    let total: i64 = stage.standings(&metrics).values().map(|at| at.records_rows).sum();
    assert_eq!(total, 33 * 120);
}
