//! `client = "kafka"`, on a broker that still speaks its protocol: what it can read it reads exactly once, and what it
//! can't read ends it, with a line that says so.

use crate::harness::producer::{self, Kcat, Transactions, quote, symbol};
use crate::harness::worker::Output;
use crate::harness::{LIMIT, Stage, broker, eventually, servers, size};
use crate::{kill, outages};
use krafka::Record;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::process::Command;
use std::thread;

/// A partition's share by one kcat, in one codec.
fn send(stage: &Stage, partition: i32, codec: &str, ids: RangeInclusive<i64>) {
    let mut kcat = Kcat::start(&stage.topic, Some(partition), codec);
    ids.for_each(|id| kcat.quote(id));
    kcat.finish();
}

#[test]
fn a_backlog_on_an_old_broker_becomes_rows_and_a_second_run_adds_none() {
    let stage = Stage::old("backlog", 3);
    stage.produce(size(20_000, 200_000) as i64);
    let invocation = stage.invocation_of_old();
    let first = invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert_eq!(first.stderr.matches("sees no times of records").count(), 1, "{}", first.stderr);
    let second = invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert!(second.stderr.contains("stopped records=0 rows=0 dead_letters=0 skipped=0"), "{}", second.stderr);
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic), broker::end_offsets(&stage.topic));

    // The other commands speak by it, too.
    let check = invocation.output(&["check"]).expect_code(0);
    assert!(check.stdout.starts_with("ok: "), "{}", check.stdout);
    let status = invocation.output(&["status", "--json"]).expect_code(0);
    let ends = broker::end_offsets(&stage.topic);
    for (number, end) in &ends {
        let wanted = format!("\"end_offset\":{end},");
        let line = status.stdout.lines().find(|line| line.contains(&format!("\"partition\":{number},")));
        assert!(
            line.is_some_and(|line| line.contains(&wanted) && line.contains("\"lag_records\":0")),
            "{}",
            status.stdout
        );
    }
    let explained = invocation.output(&["explain", "--from-kafka", "7", "--json"]).expect_code(0);
    assert_eq!(explained.stdout.lines().filter(|line| line.contains("\"price\"")).count(), 7, "{}", explained.stdout);

    // Both clients share what is in the database.
    stage.produce(1_000);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.produce(1_000);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn plain_and_compressed_records_side_by_side_arrive_complete() {
    let stage = Stage::old("mixed", 1);
    // The client drops plain records before compressed ones in a fetch, so they are in one again and again.
    for n in 0..size(24, 60) as i64 {
        let codec = ["none", "gzip", "none", "snappy"][(n % 4) as usize];
        send(&stage, 0, codec, stage.take([1, 7, 300, 40, 900][(n % 5) as usize]));
    }
    let output = stage.invocation_of_old().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert!(!output.stderr.contains("holds no records"), "nothing is missing: {}", output.stderr);
}

#[test]
fn a_worker_on_an_old_broker_survives_kill_9() {
    let stage = Stage::old("kill", 3);
    let invocation = stage.invocation_of_old().set("batch.rows_max", 300);
    let (count, n_kills) = (size(20_000, 200_000) as i64, size(4, 20) as i64);
    kill::assert_prompt(&kill::drain_under_fire(&stage, &invocation, &["run"], count, n_kills));
}

#[test]
fn restarts_of_both_servers_are_survived_on_an_old_broker() {
    let stage = Stage::old_alone("outages", 3);
    let invocation = stage.invocation_of_old().set("batch.rows_max", 500);
    let kafka = |arguments: &[&str]| servers().old_service(arguments);
    outages::restarts_of_both(&stage, &invocation, kafka, size(1, 5) as usize, size(1, 3) as usize);
}

#[test]
fn an_old_broker_that_hangs_is_waited_for() {
    let stage = Stage::old_alone("hang", 3);
    outages::a_hanging_broker(&stage, &stage.invocation_of_old(), servers().old_pid_file());
}

#[test]
fn messages_of_any_size_are_fetched() {
    let stage = Stage::old_with_configs("large", 1, &[("max.message.bytes", "30000000")]);
    // Spaces around JSON are as good as none.
    let padded = |id: i64, bytes: usize| {
        let value = quote(id);
        let padding = " ".repeat(bytes.saturating_sub(value.len()));
        Record::new(stage.topic.as_str(), value + &padding).key(symbol(id)).partition(0)
    };
    let fetch = 512 << 10;
    let mut records = Vec::new();
    for bytes in [fetch - 100, fetch - 1, fetch, fetch + 1, 0, 2 * fetch, 3 << 20, 0, (8 << 20) - 1, 8 << 20] {
        records.extend(stage.take(1).map(|id| padded(id, bytes)));
    }
    for bytes in [(8 << 20) + 1, 25 << 20] {
        records.extend(stage.take_in_vain(1).map(|id| padded(id, bytes)));
        records.extend(stage.take(3).map(|id| padded(id, 0)));
    }
    producer::send_large(records);
    stage.invocation_of_old().set("dead_letters.ratio_max", 1).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.findings(), Default::default());
    let letters = stage.database().query(
        "SELECT payload_bytes, length(payload_sha256) FROM writer_dead_letters WHERE reason_class = 'too-large' ORDER BY 1",
        &[],
    );
    let letters: Vec<(i64, i32)> =
        letters.expect("the dead letters can be read").iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(letters, [((8 << 20) + 1, 32), (25 << 20, 32)]);
}

/// The last line names partition and offset, and the way out.
#[track_caller]
fn assert_unreadable(output: Output, stage: &Stage, offset: i64) {
    let output = output.expect_code(65);
    let cause = output.cause();
    println!("{cause}");
    assert!(cause.contains(&format!("partition {}/0", stage.topic)), "{cause}");
    assert!(cause.contains(&format!("offset {offset}")) && cause.contains("set client = \"krafka\""), "{cause}");
}

#[test]
fn what_it_can_not_read_ends_it_with_everything_before_written() {
    // Dropped last.
    let turn = Stage::old("turn", 1);
    let stages: Vec<(Stage, &str)> =
        ["lz4", "zstd", "marker"].into_iter().map(|what| (turn.another_old(what, 2, &[]), what)).collect();
    for (stage, what) in &stages {
        send(stage, 0, "none", stage.take(100));
        match *what {
            "marker" => Transactions::new(&stage.name).commit(&stage.topic, 0, stage.take(50)),
            codec => {
                let ids = stage.take(50);
                stage.forget(ids.clone());
                send(stage, 0, codec, ids);
            }
        }
        // A neighbour is not held up.
        send(stage, 1, "gzip", stage.take(100));
    }
    // The end of a compressed batch may be missing: then nothing shows where the next one begins.
    let compacted = turn.another_old("compacted_gzip", 1, &COMPACTED);
    compact(&compacted, "gzip");
    // Side by side: each tries for a while.
    let compacted_worker = compacted.invocation_of_old().start(&["run", "--until-end"]);
    let workers: Vec<_> =
        stages.iter().map(|(stage, _)| stage.invocation_of_old().start(&["run", "--until-end"])).collect();
    for ((stage, what), worker) in stages.iter().zip(workers) {
        assert_unreadable(worker.output(LIMIT), stage, if *what == "marker" { 150 } else { 100 });
        assert_eq!(stage.findings(), Default::default(), "{what}: nothing is lost or doubled");
    }
    let output = compacted_worker.output(LIMIT);
    let next = compacted.standings(&compacted.topic)[&0].next_offset;
    assert_unreadable(output, &compacted, next);
    let before = visible(&compacted.topic).iter().filter(|offset| **offset < next).count();
    assert!(before > 0, "it has read the first batch");
    assert_eq!(compacted.rows(), before as i64, "everything up to there is written");
    // The other client goes on where this one had to stop.
    compacted.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(compacted.findings(), Default::default());
    for (stage, _) in &stages {
        stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
        assert_eq!(stage.rows(), 250);
        stage.assert_counters(&stage.topic);
    }
}

#[test]
fn markers_between_records_are_passed_over() {
    let stage = Stage::old("between", 1);
    let transactions = Transactions::new(&stage.name);
    for n in 0..4 {
        transactions.commit(&stage.topic, 0, stage.take(3));
        send(&stage, 0, ["none", "gzip"][n % 2], stage.take(5));
    }
    let output = stage.invocation_of_old().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.findings(), Default::default());
    stage.assert_counters(&stage.topic);
    println!("{}", output.stderr);
}

/// The offsets that are left in partition 0, to another client's eyes.
fn visible(topic: &str) -> Vec<i64> {
    let arguments = ["-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o\n"];
    let output = Command::new("kcat").args(["-b", servers().brokers_of(topic)]).args(arguments).output();
    let printed = String::from_utf8(output.expect("kcat is installed").stdout).expect("numbers are printed");
    printed.lines().map(|line| line.parse().expect("a number is printed")).collect()
}

/// Fills a compacted topic with 2,000 records of which 500 are left, and some more behind them.
fn compact(stage: &Stage, codec: &str) {
    // The keys come again after 500 records. Those that stay are dealt out over the batches of the others.
    let (mut overwritten, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        kept.extend(stage.take(1));
        overwritten.extend(stage.take_in_vain(3));
    }
    let mut kcat = Kcat::start(&stage.topic, Some(0), codec);
    for (n, id) in kept.iter().enumerate() {
        kcat.line(&format!("kept {id}"), quote(*id).as_bytes());
        overwritten[n * 3..][..3].iter().for_each(|id| kcat.line("overwritten", quote(*id).as_bytes()));
    }
    kcat.finish();
    eventually("the log is compacted", LIMIT, || {
        // The active segment is not compacted; one more record opens another one.
        let mut kcat = Kcat::start(&stage.topic, Some(0), codec);
        kcat.line("overwritten", b"{}");
        kcat.finish();
        visible(&stage.topic).iter().filter(|offset| **offset < 2_000).count() == 500
    });
}

const COMPACTED: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "50"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("max.compaction.lag.ms", "100"),
];

#[test]
fn holes_in_a_compacted_topic_are_told_from_lost_records() {
    let stage = Stage::old_with_configs("compacted", 1, &COMPACTED);
    compact(&stage, "none");
    let output = stage.invocation_of_old().output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(output.stderr.matches("Kafka holds no records there").count(), 1, "{}", output.stderr);
    assert_eq!(stage.findings(), Default::default());
    let at = &stage.standings(&stage.topic)[&0];
    assert_eq!((at.records_rows, at.next_offset), (500, broker::end_offsets(&stage.topic)[&0]));
}

#[test]
fn new_partitions_and_topics_are_read_from_an_old_broker() {
    let stage = Stage::old("growing", 1);
    let later = format!("{}_later", stage.name);
    let invocation =
        stage.invocation_of_old().set("topics.0.name", "").set("topics.0.pattern", format!("^{}_", stage.name));
    let mut worker = invocation.start(&["run"]);
    stage.produce(500);
    stage.wait_until_drained(LIMIT);
    broker::add_partitions(&stage.topic, 3);
    producer::produce(&stage.topic, 3, stage.take(600));
    stage.add_topic(&later, 2, &[]);
    producer::produce(&later, 2, stage.take(400));
    stage.wait_until_drained(LIMIT);
    stage.wait_until_drained_of(&later, LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once_from(&[&stage.topic, &later]);
}

#[test]
fn what_its_protocol_does_not_have_is_refused_in_a_line_each() {
    let stage = Stage::old("refused", 1);
    let old = stage.invocation_of_old();
    for (key, value) in [
        ("kafka.assignment", "group"),
        ("kafka.tls.enable", "true"),
        ("kafka.isolation", "read_committed"),
        ("kafka.group_protocol", "consumer"),
        ("kafka.instance_id", "writer-1"),
        ("kafka.rack", "rack-1"),
        ("kafka.start_at", "2024-01-02T15:04:05Z"),
    ] {
        let output = old.clone().set(key, value).output(&["run"]).expect_code(78);
        let cause = output.cause();
        assert!(cause.contains(&format!("--set: {key}: client = \"kafka\" ")), "{cause}");
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
    // A broker that has left the old protocol behind.
    for arguments in [&["run"][..], &["run", "--until-end"], &["check"], &["explain", "--from-kafka", "1"]] {
        let output = old.clone().set("kafka.brokers", &servers().brokers).output(arguments).expect_code(78);
        assert!(output.said().contains("set client = \"krafka\""), "{}", output.said());
    }
}

/// A broker that names a partition which can't be: the client counts on it and panics.
fn broken_broker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, address.port()));
        }
    });
    address.to_string()
}

fn answer(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        let mut request = vec![0; u32::from_be_bytes(size) as usize];
        stream.read_exact(&mut request)?;
        let mut body = request[4..8].to_vec();
        match i16::from_be_bytes([request[0], request[1]]) {
            18 => {
                body.extend([0, 0, 0, 0, 0, 3]);
                (1..4_i16).for_each(|key| body.extend([key.to_be_bytes(), [0; 2], [0; 2]].concat()));
            }
            _ => {
                // One broker, number 1; one topic, "t", of one partition, number 7.
                body.extend([0, 0, 0, 1, 0, 0, 0, 1, 0, 9]);
                body.extend(b"127.0.0.1");
                body.extend(u32::from(port).to_be_bytes());
                body.extend([0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 1]);
                body.extend([0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        stream.write_all(&(body.len() as u32).to_be_bytes())?;
        stream.write_all(&body)?;
    }
}

#[test]
fn a_panic_inside_the_client_ends_the_process() {
    let stage = Stage::old("panic", 1);
    let invocation = stage.invocation_of_old().set("kafka.brokers", broken_broker());
    for arguments in [&["run"][..], &["check"], &["explain", "--from-kafka", "1"]] {
        let output = invocation.clone().output(arguments).expect_code(70);
        assert!(output.stderr.contains("index out of bounds"), "{}", output.stderr);
    }
}
