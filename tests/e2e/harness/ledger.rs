//! The ledger: which record was sent where, by the broker's own word, and what must become of each.
//!
//! A record is a function of its target, its partition and its number in that partition, so that the ledger keeps nothing
//! but the offsets that the broker has acknowledged. Each partition is fed by one idempotent librdkafka (kcat), which
//! keeps the order: the n-th acknowledgement is for the n-th record. What a record must become is [`Record::fate`];
//! whether it has is asked by [`super::audit`].

use super::producer::{CANARY, FIRST_TIME};
use super::servers::servers;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Prices of partition 0 begin here, those of partition 1 at twice this; their numbers follow.
pub const PARTITION_STRIDE: i64 = 1_000_000_000;
/// So many records in a row are of one window.
const RECORDS_PER_WINDOW: i64 = 3;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The topic of prices.
    Prices,
    /// The topic of windowed metrics.
    Metrics,
}

/// A record: the n-th that was sent to its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub target: Target,
    pub partition: i32,
    /// From 0.
    pub number: i64,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quote,
    /// An array of two quotes.
    Pair,
    /// An array of a quote, something without a price, and a quote.
    Flawed,
    Window,
    /// It ends in the middle.
    Syntax,
    /// It has no price.
    Missing,
    /// PostgreSQL refuses it: see [`REFUSED_CHECK`].
    Refused,
    Tombstone,
}

/// A constraint for the table of prices, so that PostgreSQL refuses what only it can refuse.
pub const REFUSED_CHECK: &str =
    "ALTER TABLE stock_prices ADD CONSTRAINT not_refused CHECK (symbol NOT LIKE 'REFUSED%')";

/// A row of stock_prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// As PostgreSQL writes it. No two elements have the same.
    pub price: String,
    pub symbol: String,
    pub volume: i64,
    pub timestamp_us: i64,
    /// A digest of the rest.
    pub fetch_timestamp: i64,
}

/// A row of stock_metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub symbol: String,
    /// Epoch seconds.
    pub start: i64,
    /// The record that the figures are from.
    pub id: i64,
    pub avg_volume: i64,
}

/// What must become of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    pub prices: Vec<Price>,
    pub window: Option<Window>,
    /// Dead letters, by element, with their class.
    pub letters: Vec<(i32, &'static str)>,
}

impl Fate {
    /// Rows, a window's included.
    pub fn n_rows(&self) -> i64 {
        self.prices.len() as i64 + i64::from(self.window.is_some())
    }
}

impl Record {
    /// Unique among all records of a target.
    pub fn id(self) -> i64 {
        (i64::from(self.partition) + 1) * PARTITION_STRIDE + self.number
    }

    fn kind(self) -> Kind {
        let dice = digest(&[self.id(), self.target as i64]) % 1000;
        match (self.target, dice) {
            (_, 0..6) => Kind::Syntax,
            (_, 6..14) => Kind::Tombstone,
            (Target::Metrics, _) => Kind::Window,
            (Target::Prices, 14..18) => Kind::Missing,
            (Target::Prices, 18..22) => Kind::Refused,
            (Target::Prices, 22..32) => Kind::Flawed,
            (Target::Prices, 32..60) => Kind::Pair,
            (Target::Prices, _) => Kind::Quote,
        }
    }

    /// The key in Kafka.
    pub fn key(self) -> String {
        self.id().to_string()
    }

    /// The value in Kafka. Empty: none at all.
    pub fn value(self) -> String {
        match self.kind() {
            Kind::Quote => self.quote(0),
            Kind::Pair => format!("[{},{}]", self.quote(0), self.quote(1)),
            Kind::Flawed => format!("[{},{},{}]", self.quote(0), self.without_price(), self.quote(2)),
            Kind::Window => {
                let Window { symbol, start, id, avg_volume } = self.window();
                let (end, max, min) = (start + 60, id + 1, id - 1);
                format!(
                    r#"{{"symbol":"{symbol}","window_start":{start},"window_end":{end},"avg_price":{id},"max_price":{max},"min_price":{min},"avg_volume":{avg_volume}}}"#
                )
            }
            Kind::Syntax => format!(r#"{{"symbol":"{CANARY}","price":"#),
            Kind::Missing => self.without_price(),
            Kind::Refused => self.quote(0).replace(r#""symbol":""#, r#""symbol":"REFUSED"#),
            Kind::Tombstone => String::new(),
        }
    }

    /// What must become of it.
    pub fn fate(self) -> Fate {
        let prices = |elements: &[i64]| Fate {
            prices: elements.iter().map(|element| self.price(*element)).collect(),
            ..Fate::default()
        };
        let letter = |element, class| Fate { letters: vec![(element, class)], ..Fate::default() };
        match self.kind() {
            Kind::Quote => prices(&[0]),
            Kind::Pair => prices(&[0, 1]),
            Kind::Flawed => Fate { letters: vec![(1, "missing")], ..prices(&[0, 2]) },
            Kind::Window => Fate { window: Some(self.window()), ..Fate::default() },
            Kind::Syntax => letter(0, "syntax"),
            Kind::Missing => letter(0, "missing"),
            Kind::Refused => letter(0, "database"),
            Kind::Tombstone => Fate::default(),
        }
    }

    fn price(self, element: i64) -> Price {
        let quarter = ["", ".25", ".50", ".75"][element as usize];
        let symbol = format!("{CANARY}{}.{}", self.partition, self.number % 97);
        let volume = self.number * 3 + element;
        let timestamp_us = FIRST_TIME * 1_000_000 + self.number * 1_000;
        let fetch_timestamp = FIRST_TIME + (digest(&[self.id(), element, volume, timestamp_us]) % 1_000_000_000) as i64;
        Price { price: format!("{}{quarter}", self.id()), symbol, volume, timestamp_us, fetch_timestamp }
    }

    fn quote(self, element: i64) -> String {
        let Price { price, symbol, volume, timestamp_us, fetch_timestamp } = self.price(element);
        let timestamp_ms = timestamp_us / 1_000;
        format!(
            r#"{{"symbol":"{symbol}","price":{price},"volume":{volume},"timestamp":{timestamp_ms},"fetch_timestamp":{fetch_timestamp}}}"#
        )
    }

    fn without_price(self) -> String {
        let Price { symbol, volume, fetch_timestamp, .. } = self.price(1);
        format!(r#"{{"symbol":"{symbol}","volume":{volume},"timestamp":{fetch_timestamp}}}"#)
    }

    fn window(self) -> Window {
        let window = self.number / RECORDS_PER_WINDOW;
        Window {
            symbol: format!("{CANARY}W{}", self.partition),
            start: FIRST_TIME + window * 60,
            id: self.id(),
            avg_volume: self.number,
        }
    }
}

/// FNV-1a: anything that mixes well.
fn digest(numbers: &[i64]) -> u64 {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One partition's page.
#[derive(Debug)]
pub struct Page {
    pub target: Target,
    pub topic: String,
    pub partition: i32,
    sent: AtomicI64,
    /// By number.
    acknowledged: Mutex<Vec<i64>>,
}

impl Page {
    /// How many records were handed to the producer.
    pub fn n_sent(&self) -> i64 {
        self.sent.load(Ordering::Acquire)
    }

    /// How many records are acknowledged, and the offset after the last of them.
    pub fn n_acknowledged(&self) -> (i64, i64) {
        let offsets = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        (offsets.len() as i64, offsets.last().map_or(0, |last| last + 1))
    }

    /// How many of the acknowledged records lie before an offset.
    pub fn n_before(&self, next_offset: i64) -> i64 {
        let offsets = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        offsets.partition_point(|offset| *offset < next_offset) as i64
    }

    /// The n-th record.
    pub fn record(&self, number: i64) -> Record {
        Record { target: self.target, partition: self.partition, number }
    }

    /// All that is acknowledged, with its offset.
    pub fn records(&self) -> Vec<(i64, Record)> {
        let offsets = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        offsets.iter().enumerate().map(|(number, offset)| (*offset, self.record(number as i64))).collect()
    }
}

/// All pages, and the producers that write them.
#[derive(Debug, Default)]
pub struct Ledger {
    pages: Mutex<BTreeMap<(String, i32), Arc<Page>>>,
    feeders: Mutex<Vec<JoinHandle<()>>>,
    stop: Arc<AtomicBool>,
    // lz4 if not set.
    codec: Option<&'static str>,
}

impl Ledger {
    /// One whose records are compressed by this codec.
    pub fn compressed_by(codec: &'static str) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.codec = Some(codec);
        ledger
    }

    /// Begins to feed a partition, with about so many records a second.
    pub fn feed(&self, target: Target, topic: &str, partition: i32, per_second: i64) {
        let page = Arc::new(Page {
            target,
            topic: topic.to_owned(),
            partition,
            sent: AtomicI64::new(0),
            acknowledged: Mutex::default(),
        });
        let known = self
            .pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((topic.to_owned(), partition), page.clone());
        assert!(known.is_none(), "{topic}/{partition} is fed once");
        let (stop, codec) = (Arc::clone(&self.stop), self.codec.unwrap_or("lz4"));
        let feeder = thread::spawn(move || feed(&page, codec, per_second, &stop));
        self.feeders.lock().unwrap_or_else(PoisonError::into_inner).push(feeder);
    }

    /// The pages as they are now.
    pub fn pages(&self) -> Vec<Arc<Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One page.
    pub fn page(&self, topic: &str, partition: i32) -> Option<Arc<Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(&(topic.to_owned(), partition)).cloned()
    }

    /// Sends nothing more; all that was sent is acknowledged afterwards.
    pub fn finish(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for feeder in self.feeders.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            feeder.join().expect("the broker takes every record");
        }
        for page in self.pages() {
            assert_eq!(page.n_acknowledged().0, page.n_sent(), "records of {}/{}", page.topic, page.partition);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn feed(page: &Page, codec: &str, per_second: i64, stop: &AtomicBool) {
    let mut child = Command::new("kcat")
        .args(["-P", "-b", servers().brokers_of(&page.topic), "-t", &page.topic, "-p", &page.partition.to_string()])
        // A null for an empty value; a line for each acknowledgement; no end for a broker that is away.
        .args(["-K", "|", "-Z", "-z", codec, "-vvv", "-E", "-X", "topic.produce.offset.report=true"])
        .args(["-X", "enable.idempotence=true", "-X", "linger.ms=20", "-X", "message.timeout.ms=0"])
        // A mute broker is given up before its partitions have been led by another one for long.
        .args(["-X", "reconnect.backoff.max.ms=1000", "-X", "socket.timeout.ms=10000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kcat is installed (dev/test does it)");
    let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
    let mut input = BufWriter::new(child.stdin.take().expect("stdin is a pipe"));
    let said = Mutex::new(String::new());
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for line in stderr.lines().map_while(Result::ok) {
                let offset = line.strip_prefix("% Message delivered").and_then(|rest| {
                    rest.split_once("(offset ").and_then(|(_, rest)| rest.split_once(')')).map(|(offset, _)| offset)
                });
                if let Some(offset) = offset {
                    let offset: i64 = offset.parse().expect("an offset is a number");
                    page.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(offset);
                }
                assert!(!line.contains("Delivery failed"), "{line}");
                *said.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        let pause = Duration::from_millis(50);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..(per_second / 20).max(1) {
                // Counted first: it may be in the database before we look again.
                let record = page.record(page.sent.fetch_add(1, Ordering::AcqRel));
                let line = format!("{}|{}\n", record.key(), record.value());
                if let Err(error) = input.write_all(line.as_bytes()).and_then(|()| input.flush()) {
                    panic!("kcat does not read: {error}; its last words: {:?}", said.lock());
                }
            }
            thread::sleep(pause);
        }
        drop(input);
        reader.join().expect("every record is acknowledged");
    });
    assert!(child.wait().expect("kcat ends").success(), "kcat could not deliver everything");
}
