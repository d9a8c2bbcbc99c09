//! Work whose instructions `dev/instructions` counts: the steps that every record goes through, without Kafka and
//! without PostgreSQL.
//!
//! `instructions CASE N` does a case's work on N records. It does the same in every run: no clock, no random numbers, no
//! thread. What is prepared does not depend on N, so that the difference between N and 2 N records is the work alone.
//! How long the work takes is measured by `decode.rs`.

use std::fmt::Write;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use stock_db_writer::batch::{Batch, Batcher, Epoch, Incoming, Limits};
use stock_db_writer::database::binary;
use stock_db_writer::decode::decode_counted;
use stock_db_writer::decode::settings::{Settings, Target};
use stock_db_writer::record::{NextOffset, Offset, TopicPartition};
use stock_db_writer::row::Decoded;
use stock_db_writer::work::Work;

/// Different records that are decoded in turn.
const DECODED_RECORDS: usize = 100;
/// Records in a batch that is written or filled; N is a multiple of it.
const BATCH_RECORDS: usize = 2_000;
/// Elements of a record of `columnar`.
const ELEMENTS: usize = 100;
/// Symbols of a batch. Rows are sorted by them.
const SYMBOLS: usize = 500;
/// Partitions that a batch is filled from.
const PARTITIONS: usize = 6;
/// Neighbours in what a client hands out, all from one partition.
const RUN_RECORDS: usize = 250;

const USAGE: &str = "usage: instructions CASE N, where CASE is flat, array-of-one, window, columnar, write or take-in, \
                     and N a multiple of 2000 for the last two";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [case, n_records] => n_records.parse().ok().and_then(|n_records| run(case, n_records)),
        _ => None,
    };
    match done {
        Some(()) => ExitCode::SUCCESS,
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run(case: &str, n_records: usize) -> Option<()> {
    let (prices, metrics) = (Settings::default(), Settings { target: Target::Metrics, ..Settings::default() });
    match case {
        "flat" => decode(flat, 1, &prices, n_records),
        "array-of-one" => decode(array_of_one, 1, &prices, n_records),
        "window" => decode(window, 1, &metrics, n_records),
        "columnar" => decode(columnar, ELEMENTS, &prices, n_records),
        "write" if n_records.is_multiple_of(BATCH_RECORDS) => write(&prices, n_records / BATCH_RECORDS),
        "take-in" if n_records.is_multiple_of(BATCH_RECORDS) => take_in(n_records / BATCH_RECORDS),
        _ => return None,
    }
    Some(())
}

/// Decodes records, one after the other.
fn decode(message: fn(usize) -> String, n_rows: usize, settings: &Settings, n_records: usize) {
    let mut batcher = batcher(DECODED_RECORDS);
    fill(&mut batcher, &messages(DECODED_RECORDS, message), 0, Instant::now());
    let batch = batcher.seal().expect("it has records");
    let mut decoded = Decoded::default();
    for number in 0..n_records {
        let record_idx = number % DECODED_RECORDS;
        let (_, record) = black_box(&batch).record(record_idx);
        decode_counted(&record, record_idx as u32, settings, &mut decoded);
        assert_eq!(black_box(&decoded).prices.len() + decoded.metrics.len(), n_rows, "every element becomes a row");
        decoded.prices.clear();
        decoded.metrics.clear();
    }
}

/// Decodes, sorts and encodes batches, as a writer does it, which keeps its buffer.
fn write(settings: &Settings, n_batches: usize) {
    let mut batcher = batcher(BATCH_RECORDS);
    fill(&mut batcher, &messages(BATCH_RECORDS, flat), 0, Instant::now());
    let batch = batcher.seal().expect("it has records");
    let mut buffer = Vec::new();
    for _ in 0..n_batches {
        let work = Work::decode(black_box(&batch), |_| Some(settings));
        assert_eq!(work.decoded.prices.len(), BATCH_RECORDS, "every record becomes a row");
        binary::prices(&mut buffer, &work.decoded.prices);
        black_box(&buffer);
    }
}

/// Fills batches with what a client has fetched, as the consumer thread does it, and closes them.
fn take_in(n_batches: usize) {
    let messages = messages(BATCH_RECORDS, flat);
    let (mut batcher, now) = (batcher(BATCH_RECORDS), Instant::now());
    for batch_idx in 0..n_batches {
        fill(&mut batcher, &messages, batch_idx, now);
        let batch: Option<Batch> = batcher.seal();
        assert_eq!(black_box(batch).expect("it has records").len(), BATCH_RECORDS, "none is left out");
    }
}

fn partition(number: usize) -> TopicPartition {
    TopicPartition::new("stock_prices", number as i32)
}

/// A batcher that follows some partitions.
fn batcher(rows_max: usize) -> Batcher {
    let limits = Limits { rows_max, bytes_max: 64 << 20, linger: Duration::ZERO, message_bytes_max: 1 << 20 };
    let mut batcher = Batcher::new(limits);
    for number in 0..PARTITIONS {
        batcher.follow(partition(number), Epoch(0), NextOffset(0));
    }
    batcher
}

/// Takes these messages in for the n-th time.
fn fill(batcher: &mut Batcher, messages: &[String], round: usize, now: Instant) {
    for (run_idx, run) in messages.chunks(RUN_RECORDS).enumerate() {
        let partition = partition(run_idx % PARTITIONS);
        for (place, message) in run.iter().enumerate() {
            let number = round * messages.len() + run_idx * RUN_RECORDS + place;
            let offset = Offset(number as i64);
            let is_read = batcher.read_to(&partition).is_none_or(|read_to| read_to.is_past(offset));
            assert!(!is_read && !batcher.is_full(), "every record is taken in");
            let timestamp_ms = Some(1_704_207_845_000 + number as i64);
            let incoming = Incoming {
                offset,
                leader_epoch: None,
                timestamp_ms,
                key: Some(b"AAPL"),
                value: Some(message.as_bytes()),
            };
            batcher.push(&partition, black_box(incoming), now);
        }
    }
}

fn messages(n_messages: usize, message: fn(usize) -> String) -> Vec<String> {
    (0..n_messages).map(message).collect()
}

/// Four letters, in an order that is far from sorted.
fn symbol(number: usize) -> String {
    let mut rest = number * 7_919 % SYMBOLS * 911;
    let letter = |_| {
        let letter = char::from(b'A' + (rest % 26) as u8);
        rest /= 26;
        letter
    };
    (0..4).map(letter).collect()
}

/// `187.02` and the like.
fn price(number: usize) -> String {
    format!("{}.{:02}", 100 + number * 37 % 400, number % 100)
}

fn flat(number: usize) -> String {
    let (symbol, price) = (symbol(number), price(number));
    let (volume, time) = (1_000 + number % 9_000, 1_704_207_845 + number);
    format!(
        r#"{{"symbol": "{symbol}", "price": {price}, "volume": {volume}, "timestamp": {time}, "fetch_timestamp": {}}}"#,
        time + 1
    )
}

/// With the fields of a vendor's quote of which no column is made.
fn array_of_one(number: usize) -> String {
    let (symbol, price) = (symbol(number), price(number));
    let (volume, time) = (25_258_633 + number, 1_704_229_202 + number);
    format!(
        r#"[{{"symbol":"{symbol}","name":"Example Corporation","price":{price},"changesPercentage":-1.3734,"change":-5.17,"dayLow":366.7701,"dayHigh":375.9,"yearHigh":384.3,"yearLow":222.31,"marketCap":2756297117600,"priceAvg50":367.6122,"exchange":"NASDAQ","volume":{volume},"avgVolume":26486014,"open":373.86,"previousClose":376.04,"eps":10.34,"pe":35.87,"earningsAnnouncement":"2024-01-22T00:00:00.000+0000","sharesOutstanding":7431979999,"timestamp":{time},"fetch_timestamp":{}}}]"#,
        time + 58
    )
}

fn window(number: usize) -> String {
    let (symbol, price, minute) = (symbol(number), price(number), number % 50 + 5);
    format!(
        r#"{{"symbol": "{symbol}", "window_start": "2024-01-02T15:00:00.000Z", "window_end": "2024-01-02T15:{minute:02}:00.000Z", "avg_price": {price}, "max_price": 588, "min_price": 86.5, "avg_volume": 1200.5}}"#
    )
}

/// A data frame by column, whose labels are times.
fn columnar(number: usize) -> String {
    let mut message = format!(r#"{{"symbol": "{}""#, symbol(number));
    for (column, name) in ["Open", "High", "Low", "Close", "Volume"].into_iter().enumerate() {
        for element in 0..ELEMENTS {
            let begin = if element == 0 { format!(r#", "{name}": {{"#) } else { ", ".to_owned() };
            let (time, value) = (1_704_205_800_000 + element * 60_000, price(number + element + column));
            write!(message, r#"{begin}"{time}": {value}"#).expect("text takes any text");
        }
        message.push('}');
    }
    message + "}"
}
