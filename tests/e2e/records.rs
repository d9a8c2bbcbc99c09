//! Records as other producers make them: in every codec of Kafka's own client, with and without keys, headers and values,
//! and as large as the configuration lets them be.

use crate::harness::producer::{self, CODECS, Kcat, quote, symbol};
use crate::harness::{Invocation, Stage, servers, size};
use krafka::Record;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The numbers of the codecs in a topic's log, and in how many of its partitions there are records.
fn codecs_in_log(stage: &Stage) -> (BTreeSet<u8>, usize) {
    let data = servers().services_dir_of(&stage.name).join("kafka/data");
    let (mut codecs, mut n_partitions) = (BTreeSet::new(), 0);
    for partition in 0..stage.n_partitions {
        let segment = data.join(format!("{}-{partition}/00000000000000000000.log", stage.topic));
        let log = std::fs::read(segment).expect("the partition's only segment");
        let mut batches = &log[..];
        n_partitions += usize::from(!batches.is_empty());
        while let Some(header) = batches.first_chunk::<23>() {
            // The offset and the length of what follows, and in it the attributes, whose last bits are the codec.
            let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            codecs.insert(header[22] & 7);
            batches = batches.get(12 + length as usize..).unwrap_or_default();
        }
    }
    (codecs, n_partitions)
}

fn java_codecs_become_rows(stage: &Stage, invocation: &Invocation, codecs: &[&str]) {
    for codec in codecs {
        producer::produce_by_java(&stage.topic, codec, stage.take(size(4_000, 40_000) as i64));
    }
    let (found, n_partitions) = codecs_in_log(stage);
    assert_eq!(found, (0..codecs.len() as u8).collect(), "the producer has compressed by each codec");
    assert!(n_partitions > 1, "records without a key are dealt out");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn what_kafkas_own_producer_compresses_becomes_rows() {
    let stage = Stage::new("java", 3);
    java_codecs_become_rows(&stage, &stage.invocation(), &CODECS);
}

#[test]
fn what_kafkas_own_producer_compresses_becomes_rows_on_an_old_broker() {
    let stage = Stage::old("java", 3);
    java_codecs_become_rows(&stage, &stage.invocation_of_old(), &CODECS[..3]);
}

/// What becomes of a record.
enum Fate {
    Row,
    /// With this key.
    Letter(Option<&'static [u8]>),
    Skip,
}

/// Records with and without key, value and headers, each of which meets its fate. The client for old brokers tells null
/// from empty neither in keys nor in values.
fn each_record_meets_its_fate(stage: &Stage, invocation: &Invocation, empty_key: Option<&'static [u8]>) {
    let topic = stage.topic.as_str();
    let record = |value: String| Record::new(topic, value).partition(0);
    let with_headers = |record: Record| {
        record.header("source", "a").header("source", "b").header("empty", "").null_header("null").header("", "unnamed")
    };
    // A message that leaves its symbol to the key.
    let nameless = |id: i64| quote(id).replace(&format!("\"symbol\":\"{}\",", symbol(id)), "");
    let (mut records, mut fates) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut ids = stage.take(8);
        let mut id = || ids.next().expect("there are enough");
        let by_key = id();
        let by_key = record(nameless(by_key)).key(symbol(by_key));
        let keyed = id();
        let batch = [
            (record(quote(keyed)).key(symbol(keyed)), Fate::Row),
            (record(quote(id())), Fate::Row),
            (record(quote(id())).key(""), Fate::Row),
            (Record::tombstone(topic, "K1").partition(0), Fate::Skip),
            (with_headers(record(quote(id())).key("K1")), Fate::Row),
            (with_headers(Record::tombstone(topic, "K1").partition(0)), Fate::Skip),
            (with_headers(record(quote(id()))), Fate::Row),
            (record(nameless(1)), Fate::Letter(None)),
            (with_headers(by_key.clone()), Fate::Row),
            (record(nameless(1)).key(""), Fate::Letter(empty_key)),
            (Record::tombstone(topic, "").partition(0), Fate::Skip),
            (record(String::new()).without_value(), Fate::Skip),
            (record(String::new()).key("K1"), Fate::Skip),
            (with_headers(record(quote(id())).key("")), Fate::Row),
            (record(quote(id())).null_header("null"), Fate::Row),
        ];
        assert_eq!(ids.next(), None, "each number is in a record");
        for (record, fate) in batch {
            records.push(record);
            fates.push(fate);
        }
    }
    producer::send(records);
    // Another library's idea of headers, of null keys and of null values.
    let arguments = ["-H", "source=kcat", "-H", "empty=", "-H", "null", "-Z"];
    let mut kcat = Kcat::start_with(topic, Some(0), "none", &arguments);
    for id in stage.take(20) {
        kcat.line("", quote(id).as_bytes());
        kcat.line("K1", b"");
        fates.extend([Fate::Row, Fate::Skip]);
    }
    kcat.finish();
    invocation.output(&["run", "--until-end"]).expect_code(0);

    stage.assert_exactly_once();
    let rows = stage.database().query(
        "SELECT record_offset, key FROM writer_dead_letters WHERE reason_class = 'missing' ORDER BY record_offset",
        &[],
    );
    let rows = rows.expect("the dead letters can be read");
    let letters: Vec<(i64, Option<Vec<u8>>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let is_letter = |(offset, fate): (usize, &Fate)| match fate {
        Fate::Letter(key) => Some((offset as i64, key.map(<[u8]>::to_vec))),
        Fate::Row | Fate::Skip => None,
    };
    assert_eq!(letters, fates.iter().enumerate().filter_map(is_letter).collect::<Vec<_>>());
    let n_skipped = fates.iter().filter(|fate| matches!(fate, Fate::Skip)).count() as i64;
    let at = &stage.standings(topic)[&0];
    assert_eq!((at.records_dead, at.dead_letters_total), (letters.len() as i64, letters.len() as i64));
    assert_eq!((at.records_total, at.records_skipped), (fates.len() as i64, n_skipped));
}

#[test]
fn records_without_keys_values_or_with_headers_meet_their_fates() {
    let stage = Stage::new("fates", 1);
    each_record_meets_its_fate(&stage, &stage.invocation(), Some(b""));
}

#[test]
fn records_without_keys_values_or_with_headers_meet_their_fates_on_an_old_broker() {
    let stage = Stage::old("fates", 1);
    each_record_meets_its_fate(&stage, &stage.invocation_of_old(), None);
}

const LARGE_BYTES: usize = 20_000_000;
const LARGE: &[(&str, &str)] = &[("max.message.bytes", "30000000")];

/// A row's worth of JSON, and spaces, which are as good as none.
fn large(id: i64) -> String {
    let value = quote(id);
    let padding = " ".repeat(LARGE_BYTES - value.len());
    value + &padding
}

/// Two large messages between ordinary ones; their numbers come from the caller, who knows what they become.
fn produce_large(stage: &Stage, take_large: impl Fn() -> i64) {
    let record = |id: i64, value: String| Record::new(stage.topic.as_str(), value).key(symbol(id)).partition(0);
    let mut records = Vec::new();
    for _ in 0..2 {
        records.extend(stage.take(50).map(|id| record(id, quote(id))));
        let id = take_large();
        records.push(record(id, large(id)));
        records.extend(stage.take(50).map(|id| record(id, quote(id))));
    }
    producer::send_large(records);
}

/// What is as large as it may be is a row, and what is a byte larger is a dead letter, of which length and digest are kept.
fn large_messages_are_what_the_limit_says(stage: &Stage, invocation: &Invocation) {
    let run = |bytes_max: usize| {
        let invocation = invocation.clone().set("kafka.max_message_bytes", bytes_max);
        invocation.output(&["run", "--until-end"]).expect_code(0);
        stage.assert_exactly_once();
    };
    produce_large(stage, || *stage.take(1).start());
    run(LARGE_BYTES);
    assert_eq!(stage.standings(&stage.topic)[&0].records_dead, 0);

    let refused = RefCell::new(Vec::new());
    produce_large(stage, || {
        let id = *stage.take_in_vain(1).start();
        refused.borrow_mut().push(id);
        id
    });
    run(LARGE_BYTES - 1);
    let mut database = stage.database();
    let letters = database.query("SELECT record_offset FROM writer_dead_letters ORDER BY 1", &[]);
    let letters: Vec<i64> = letters.expect("the dead letters can be read").iter().map(|row| row.get(0)).collect();
    assert_eq!(letters, [252, 353]);
    for (offset, id) in letters.iter().zip(refused.take()) {
        let value = large(id).into_bytes();
        let letter = database.query_one(
            "SELECT reason_class, payload IS NULL, payload_bytes, payload_sha256 = sha256($2), key \
             FROM writer_dead_letters WHERE record_offset = $1",
            &[offset, &value],
        );
        let letter = letter.expect("the dead letter can be read");
        let found: (&str, bool, i64, bool) = (letter.get(0), letter.get(1), letter.get(2), letter.get(3));
        assert_eq!(found, ("too-large", true, LARGE_BYTES as i64, true));
        assert_eq!(letter.get::<_, &[u8]>(4), symbol(id).as_bytes());
    }
}

#[test]
fn large_messages_are_rows_up_to_the_limit_and_dead_letters_above() {
    let stage = Stage::with_configs("large", 1, LARGE);
    large_messages_are_what_the_limit_says(&stage, &stage.invocation());
}

#[test]
fn large_messages_are_rows_up_to_the_limit_and_dead_letters_above_on_an_old_broker() {
    let stage = Stage::old_with_configs("limit", 1, LARGE);
    large_messages_are_what_the_limit_says(&stage, &stage.invocation_of_old());
}
