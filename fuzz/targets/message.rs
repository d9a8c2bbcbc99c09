//! Any bytes, read by any settings: whatever they are, what every row, dead letter and skip promises is kept.
#![no_main]

use fuzz::batch::{Batch, Batcher, Epoch, Incoming, Limits};
use fuzz::binary;
use fuzz::choices::{Choices, N_CHOICES};
use fuzz::decode::decode;
use fuzz::decode::settings::{Settings, Target};
use fuzz::mutation::{Random, mutated};
use fuzz::record::{NextOffset, Offset, Record, TopicPartition, Value};
use fuzz::row::{DeadLetter, Decoded, Fate, MetricRow, Micros, Origin, PriceRow};
use fuzz::work::Work;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use std::cmp::Ordering;
use std::time::{Duration, Instant};

const TOPIC: &str = "prices";
const RECORD_IDX: u32 = 7;
/// 2100-01-01T00:00:00Z.
const LAST_MICROS: i64 = 4_102_444_800_000_000;
/// Bytes of a reason, at most: it goes into logs and terminals.
const REASON_BYTES_MAX: usize = 4096;
/// Bytes sent to PostgreSQL for a byte of the message, at most. A row has about 130 that are not in the message, and an
/// element at least three.
const GROWTH_MAX: usize = 64;
/// Put into every string that is a value; no name has it.
const MARKER: &str = "zqmarkerqz";

fuzz_target!(|input: &[u8]| {
    let Some((choices, value)) = input.split_first_chunk::<N_CHOICES>() else { return };
    let Choices { settings, key, timestamp_ms } = Choices::of(choices);
    // Refused when the configuration is read.
    if settings.contradiction().is_some() {
        return;
    }
    let record =
        Record { topic: TOPIC, partition: 0, offset: Offset(0), timestamp_ms, key, value: Value::Bytes(value) };
    let mut decoded = Decoded::default();
    let fate = decode(&record, RECORD_IDX, &settings, &mut decoded);
    check(fate, &decoded, &settings, value.len());

    let mut again = Decoded::default();
    assert_eq!(decode(&record, RECORD_IDX, &settings, &mut again), fate);
    assert_eq!(again, decoded, "decoding has a memory");

    check_encoding(&record, &settings, &decoded);

    let marked = with_markers(value);
    let record = Record { value: Value::Bytes(&marked), ..record };
    let mut decoded = Decoded::default();
    decode(&record, RECORD_IDX, &settings, &mut decoded);
    for letter in &decoded.dead_letters {
        assert!(!letter.reason.contains(MARKER), "a value in a reason: {}", letter.reason);
    }
});

// Half of all changes are to the message as JSON, a few are to the settings, all others are libFuzzer's own.
fuzz_mutator!(|input: &mut [u8], size: usize, size_max: usize, seed: u32| {
    let mut random = Random::new(seed);
    let changes = random.below(16);
    if changes < 8
        && let Some((_, message)) = input[..size].split_first_chunk::<N_CHOICES>()
        && let Ok(message) = std::str::from_utf8(message)
    {
        let mut changed = mutated(message, &mut random);
        for _ in 0..random.below(3) {
            changed = mutated(&changed, &mut random);
        }
        if N_CHOICES + changed.len() <= size_max {
            input[N_CHOICES..N_CHOICES + changed.len()].copy_from_slice(changed.as_bytes());
            return N_CHOICES + changed.len();
        }
    }
    if changes == 8 && size > N_CHOICES {
        input[random.below(N_CHOICES)] = random.below(256) as u8;
        return size;
    }
    fuzzer_mutate(input, size, size_max)
});

fn check(fate: Fate, decoded: &Decoded<'_>, settings: &Settings, message_bytes: usize) {
    let Decoded { prices, metrics, dead_letters } = decoded;
    let n_rows = prices.len() + metrics.len();
    match fate {
        Fate::Rows => assert!(n_rows > 0),
        Fate::DeadLetter => assert!(n_rows == 0 && !dead_letters.is_empty()),
        Fate::Skip(_) => assert!(n_rows == 0 && dead_letters.is_empty()),
    }
    match settings.target {
        Target::Prices => assert!(metrics.is_empty()),
        Target::Metrics => assert!(prices.is_empty()),
        Target::Auto => {}
    }
    let of_prices: Vec<Origin> = prices.iter().map(|row| row.origin).collect();
    let of_metrics: Vec<Origin> = metrics.iter().map(|row| row.origin).collect();
    let of_letters: Vec<Origin> = dead_letters.iter().map(|letter| letter.origin).collect();
    for origins in [&of_prices, &of_metrics, &of_letters] {
        assert!(origins.is_sorted(), "origins in disorder: {origins:?}");
    }
    let mut origins = [of_prices, of_metrics, of_letters].concat();
    origins.sort_unstable();
    assert!(origins.windows(2).all(|pair| pair[0] < pair[1]), "two elements at one place: {origins:?}");
    assert!(origins.iter().all(|origin| origin.record_idx == RECORD_IDX));
    assert!(origins.iter().all(|origin| (origin.element as usize) < message_bytes.max(1)), "more elements than bytes");
    prices.iter().for_each(|row| check_price(row, settings));
    metrics.iter().for_each(check_metric);
    dead_letters.iter().for_each(check_letter);
}

fn check_price(row: &PriceRow<'_>, settings: &Settings) {
    check_symbol(&row.symbol);
    assert_eq!(row.price.cmp_value(&settings.price_min), Ordering::Greater, "{row:?}");
    assert!(row.volume.as_ref().is_none_or(|volume| !volume.is_negative()), "{row:?}");
    check_time(row.timestamp);
    assert!(row.fetch_timestamp.is_none_or(|seconds| (0..=LAST_MICROS / 1_000_000).contains(&seconds)), "{row:?}");
}

fn check_metric(row: &MetricRow<'_>) {
    check_symbol(&row.symbol);
    check_time(row.window_start);
    check_time(row.window_end);
    assert!(row.window_start < row.window_end, "{row:?}");
    assert!([&row.avg_price, &row.max_price, &row.min_price, &row.avg_volume].into_iter().any(Option::is_some));
}

fn check_symbol(symbol: &str) {
    assert!(!symbol.is_empty() && symbol.len() <= 64 && symbol.trim() == symbol, "{symbol:?}");
    assert!(!symbol.chars().any(char::is_control), "{symbol:?}");
}

fn check_time(Micros(micros): Micros) {
    assert!((0..=LAST_MICROS).contains(&micros), "{micros}");
}

fn check_letter(letter: &DeadLetter) {
    let DeadLetter { code, reason, .. } = letter;
    assert!(code.is_empty(), "only PostgreSQL has codes");
    assert!(!reason.is_empty() && reason.len() <= REASON_BYTES_MAX, "{} bytes: {reason}", reason.len());
    assert!(!reason.chars().any(char::is_control), "{reason:?}");
}

/// The writer's way to PostgreSQL has the same rows, and its bytes don't outgrow the message.
fn check_encoding(record: &Record<'_>, settings: &Settings, decoded: &Decoded<'_>) {
    let batch = batch_of(record);
    let work = Work::decode(&batch, |_| Some(settings));
    let Decoded { prices, metrics, dead_letters } = &work.decoded;
    assert_eq!(prices.len(), decoded.prices.len());
    assert_eq!(metrics.len(), decoded.metrics.len());
    assert_eq!(dead_letters.len(), decoded.dead_letters.len());
    let tallies = work.tallies();
    assert_eq!(tallies.iter().map(|tally| tally.records()).sum::<u64>(), 1);
    assert_eq!(tallies[0].rows as usize, prices.len() + metrics.len());
    assert_eq!(tallies[0].dead_letters as usize, dead_letters.len());

    let Value::Bytes(value) = record.value else { unreachable!("made of bytes") };
    let bytes_max = value.len() * GROWTH_MAX + REASON_BYTES_MAX;
    let mut out = Vec::new();
    binary::prices(&mut out, prices);
    assert!(out.len() <= bytes_max, "{} bytes of prices for {} bytes", out.len(), value.len());
    binary::metrics(&mut out, 0, metrics.iter());
    assert!(out.len() <= bytes_max, "{} bytes of metrics for {} bytes", out.len(), value.len());
    // How long a reason is, is bounded; that there is one for each element, too.
    binary::dead_letters(&mut out, "pipeline", &work, 1 << 20);
}

fn batch_of(record: &Record<'_>) -> Batch {
    let Value::Bytes(value) = record.value else { unreachable!("made of bytes") };
    let limits = Limits { rows_max: 1, bytes_max: 1, linger: Duration::ZERO, message_bytes_max: 1 << 20 };
    let (mut batcher, now) = (Batcher::new(limits), Instant::now());
    let partition = TopicPartition::new(TOPIC, 0);
    batcher.follow(partition.clone(), Epoch(0), NextOffset(0));
    let incoming = Incoming {
        offset: record.offset,
        leader_epoch: None,
        timestamp_ms: record.timestamp_ms,
        key: record.key,
        value: Some(value),
    };
    batcher.push(&partition, incoming, now);
    batcher.seal().expect("it has a record")
}

/// The message with a marker at the start of each string that is the value of a key. In JSON it becomes part of no name:
/// where it would, the quotation mark ended a name, and what follows is no JSON any more.
fn with_markers(value: &[u8]) -> Vec<u8> {
    let mut marked = Vec::with_capacity(value.len() * 2);
    let mut last = b' ';
    for &byte in value {
        marked.push(byte);
        if byte == b'"' && last == b':' {
            marked.extend_from_slice(MARKER.as_bytes());
        }
        if !byte.is_ascii_whitespace() {
            last = byte;
        }
    }
    marked
}
