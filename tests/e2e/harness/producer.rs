//! Records: what they hold, and how they get into a topic.
//!
//! Each carries a number that no other record of its test has: the price. Symbol, volume and times follow from it, so that
//! a row can be checked by itself. Most are produced by librdkafka (kcat), the transactional ones by krafka.

use super::broker;
use super::servers::{OLD, servers};
use super::stage::Stage;
use krafka::Record;
use krafka::producer::TransactionalProducer;
use std::io::{BufWriter, Write};
use std::ops::RangeInclusive;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What librdkafka can compress with; the first three are what `client = "kafka"` can read.
pub const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn codecs_of(topic: &str) -> &'static [&'static str] {
    if topic.starts_with(OLD) { &CODECS[..3] } else { &CODECS }
}

/// The time of record 0, in epoch seconds.
pub const FIRST_TIME: i64 = 1_700_000_000;

/// A word that is in every value, and may be in no log.
pub const CANARY: &str = "c4nary";

/// The symbol of a number, which is also the record's key.
pub fn symbol(id: i64) -> String {
    format!("K{}", id % 500)
}

/// The record of a number, of the `quote` profile.
pub fn quote(id: i64) -> String {
    let (volume, time) = (id * 2, FIRST_TIME + id);
    format!(
        r#"{{"symbol":"{}","price":{id},"volume":{volume},"timestamp":{time},"fetch_timestamp":{time},"note":"{CANARY}"}}"#,
        symbol(id)
    )
}

/// Produces `KEY|VALUE` lines by one kcat. Without a partition the key decides.
pub struct Kcat {
    child: Child,
    input: BufWriter<std::process::ChildStdin>,
}

impl Kcat {
    /// Starts one.
    pub fn start(topic: &str, partition: Option<i32>, codec: &str) -> Kcat {
        Kcat::start_with(topic, partition, codec, &[])
    }

    /// Starts one with further arguments, such as `-H name=value` for a header.
    pub fn start_with(topic: &str, partition: Option<i32>, codec: &str, arguments: &[&str]) -> Kcat {
        let mut command = Command::new("kcat");
        command.args(["-P", "-b", servers().brokers_of(topic), "-t", topic, "-K", "|", "-z", codec]);
        // A broker that is killed must make the producer neither give up nor repeat itself.
        command.arg("-E");
        command.args(["-X", "enable.idempotence=true", "-X", "linger.ms=20"]);
        if let Some(partition) = partition {
            command.args(["-p", &partition.to_string()]);
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("kcat is installed (dev/test does it)");
        let input = BufWriter::new(child.stdin.take().expect("stdin is a pipe"));
        Kcat { child, input }
    }

    /// Sends one line.
    pub fn line(&mut self, key: &str, value: &[u8]) {
        self.input.write_all(format!("{key}|").as_bytes()).expect("kcat reads");
        self.input.write_all(value).expect("kcat reads");
        self.input.write_all(b"\n").expect("kcat reads");
    }

    /// Sends the record of a number.
    pub fn quote(&mut self, id: i64) {
        self.line(&symbol(id), quote(id).as_bytes());
    }

    /// Hands on what is buffered here.
    pub fn flush(&mut self) {
        self.input.flush().expect("kcat reads");
    }

    /// Waits until the broker has acknowledged everything.
    pub fn finish(self) {
        let Kcat { mut child, mut input } = self;
        input.flush().expect("kcat reads");
        drop(input);
        assert!(child.wait().expect("kcat ends").success(), "kcat could not deliver everything");
    }
}

/// Produces numbers, dealt out over the partitions in turn, each partition's share by all codecs in many short runs.
pub fn produce(topic: &str, n_partitions: i32, ids: RangeInclusive<i64>) {
    let count = ids.end() - ids.start() + 1;
    // Small topics need no more runs than they have codecs.
    let (n_slices, codecs) = ((count / 2_000).clamp(1, 15), codecs_of(topic));
    thread::scope(|scope| {
        for partition in 0..n_partitions {
            let ids = ids.clone();
            scope.spawn(move || {
                for slice in 0..n_slices {
                    let codec = codecs[(slice + i64::from(partition)) as usize % codecs.len()];
                    let (from, to) =
                        (ids.start() + count * slice / n_slices, ids.start() + count * (slice + 1) / n_slices);
                    let mut kcat = Kcat::start(topic, Some(partition), codec);
                    for id in (from..to).filter(|id| id.rem_euclid(i64::from(n_partitions)) == i64::from(partition)) {
                        kcat.quote(id);
                    }
                    kcat.finish();
                }
            });
        }
    });
}

/// Produces numbers by Kafka's own Java client in one codec, without keys: it chooses the partitions.
pub fn produce_by_java(topic: &str, codec: &str, ids: RangeInclusive<i64>) {
    let arguments = ["--bootstrap-server", servers().brokers_of(topic), "--topic", topic, "--compression-codec", codec];
    let values: String = ids.map(|id| quote(id) + "\n").collect();
    // Kafka 4 has moved it.
    let class = match servers().kafka_major_of(topic) {
        ..4 => "kafka.tools.ConsoleProducer",
        _ => "org.apache.kafka.tools.ConsoleProducer",
    };
    servers().kafka_tool_of(topic, class, &arguments, values.as_bytes());
}

/// A producer that goes on for as long as the test wants.
pub struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts one: about `per_second` records of new numbers, partitioned by key.
    pub fn start(stage: &Stage, topic: &str, per_second: i64) -> Feeder {
        let stop = Arc::new(AtomicBool::new(false));
        let mut kcat = Kcat::start(topic, None, codecs_of(topic).last().expect("there are some"));
        let thread = thread::spawn({
            let (take, stop) = (stage.taker(), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for id in take(per_second.div_euclid(20).max(1)) {
                        kcat.quote(id);
                    }
                    kcat.flush();
                    thread::sleep(Duration::from_millis(50));
                }
                kcat.finish();
            }
        });
        Feeder { stop, thread: Some(thread) }
    }

    /// Ends it; everything taken has then been acknowledged.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is stopped once").join().expect("the feeder has sent everything");
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends records one after the other, in this order.
pub fn send(records: Vec<Record>) {
    let topic = topic(&records);
    broker::wait_for(async {
        let producer = broker::connect(&topic).await.producer().build().await.expect("a producer can be made");
        for record in records {
            let _ = producer.send(record).await.expect("the broker takes the record");
        }
        producer.close().await.expect("the producer closes");
    });
}

/// Sends one number after the other to each partition of these topics, and begins anew until none is left.
pub fn deal(topics: &[String], n_partitions: i32, mut ids: impl Iterator<Item = i64>) {
    broker::wait_for(async {
        let producer = broker::connect(&topics[0]).await.producer().build().await.expect("a producer can be made");
        let places = topics.iter().flat_map(|topic| (0..n_partitions).map(move |partition| (topic, partition)));
        let mut queued = Vec::new();
        for (topic, partition) in places.cycle() {
            let Some(id) = ids.next() else { break };
            let record = Record::new(topic.as_str(), quote(id)).key(symbol(id)).partition(partition);
            queued.push(producer.enqueue(record).await.expect("the record is queued"));
        }
        for handle in queued {
            let _ = handle.await.expect("the broker takes the record");
        }
        producer.close().await.expect("the producer closes");
    });
}

/// The same for records of any size.
pub fn send_large(records: Vec<Record>) {
    let topic = topic(&records);
    broker::wait_for(async {
        let builder = broker::connect(&topic).await.producer().max_request_size(64 << 20).buffer_memory(256 << 20);
        let producer = builder.build().await.expect("a producer can be made");
        for record in records {
            let _ = producer.send(record).await.expect("the broker takes the record");
        }
        producer.close().await.expect("the producer closes");
    });
}

/// All of them are for one broker.
fn topic(records: &[Record]) -> String {
    records.first().expect("there are records").topic.to_string()
}

/// Sends records in transactions.
pub struct Transactions {
    producer: TransactionalProducer,
}

impl Transactions {
    /// Registers with the broker.
    pub fn new(id: &str) -> Transactions {
        let producer = broker::wait_for(async {
            let builder = broker::connect(id).await.producer();
            builder.build_transactional(id).await.expect("a transactional producer can be made")
        });
        Transactions { producer }
    }

    /// One transaction that counts.
    pub fn commit(&self, topic: &str, partition: i32, ids: RangeInclusive<i64>) {
        self.begin(topic, partition, ids);
        self.end(true);
    }

    /// One transaction that never happened.
    pub fn abort(&self, topic: &str, partition: i32, ids: RangeInclusive<i64>) {
        self.begin(topic, partition, ids);
        self.end(false);
    }

    /// One transaction that stays open. All of its records are in the log.
    pub fn begin(&self, topic: &str, partition: i32, ids: RangeInclusive<i64>) {
        broker::wait_for(async {
            self.producer.begin().expect("no transaction is open");
            let mut queued = Vec::new();
            for id in ids {
                let record = Record::new(topic, quote(id)).key(symbol(id)).partition(partition);
                queued.push(self.producer.enqueue(record).await.expect("the record is queued"));
            }
            for handle in queued {
                let _ = handle.await.expect("the broker takes the record");
            }
        });
    }

    /// Ends the open transaction.
    pub fn end(&self, commit: bool) {
        broker::wait_for(async {
            let ended = if commit { self.producer.commit().await } else { self.producer.abort().await };
            ended.expect("the transaction can be ended");
        });
    }
}
