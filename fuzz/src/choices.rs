//! How the first bytes of an input choose the settings and what comes with the message.
//!
//! Zeros choose the defaults, so that a seed is zeros and a message.

use crate::decimal::Decimal;
use crate::decode::settings::{Format, Settings, SymbolSource, Target, TimestampMissing, TimestampUnit};

/// How many bytes choose.
pub const N_CHOICES: usize = 9;

/// Every name a format has or will have; those that are none yet are left out.
const FORMATS: &[&str] = &[
    "auto",
    "quote",
    "bar",
    "finnhub",
    "polygon",
    "binance",
    "alpha-vantage",
    "googlefinance",
    "columnar",
    "envelope",
    "metrics",
    "spark-window",
    "ksql-window",
];

/// Zones without a change of clocks, with one of half an hour, with one at midnight, and one that left out a day.
pub const ZONES: &[&str] = &[
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Asia/Tokyo",
];

/// Units of times that are numbers.
pub const UNITS: &[TimestampUnit] =
    &[TimestampUnit::Auto, TimestampUnit::Seconds, TimestampUnit::Millis, TimestampUnit::Micros, TimestampUnit::Nanos];

const SYMBOLS: &[&str] =
    &["auto", "key", "topic", "ACME", "株式会社", "X23456789.X23456789.X23456789.X23456789.X23456789.X23456789.X23"];
const PRICES_MIN: &[&str] = &["0", "-100", "0.01", "1e300", "-0.0000000000000000000000000000000000000001"];
const KEYS: &[Option<&[u8]>] = &[
    None,
    Some(b"AAPL"),
    Some(b""),
    Some(b" ^GSPC "),
    Some(b"\"AAPL\""),
    Some(b"A\0"),
    Some(b"\xff"),
    Some(b"A\x1b[31m"),
    Some(&[b'K'; 70]),
];
const TIMESTAMPS_MS: &[Option<i64>] =
    &[Some(1_767_366_246_123), None, Some(-1), Some(0), Some(4_102_444_800_001), Some(i64::MAX), Some(i64::MIN)];

/// What is chosen.
pub struct Choices {
    /// How the message is read.
    pub settings: Settings,
    /// The record's key.
    pub key: Option<&'static [u8]>,
    /// The record's timestamp.
    pub timestamp_ms: Option<i64>,
}

impl Choices {
    /// What these bytes choose.
    pub fn of(bytes: &[u8; N_CHOICES]) -> Choices {
        let formats: Vec<Format> = FORMATS.iter().filter_map(|name| name.parse().ok()).collect();
        let settings = Settings {
            target: *pick(&[Target::Prices, Target::Metrics, Target::Auto], bytes[0]),
            format: *pick(&formats, bytes[1]),
            timestamp_unit: *pick(UNITS, bytes[2]),
            timezone: pick(ZONES, bytes[3]).parse().expect("a zone"),
            symbol: pick(SYMBOLS, bytes[4]).parse::<SymbolSource>().expect("a symbol"),
            timestamp_missing: *pick(&[TimestampMissing::Record, TimestampMissing::DeadLetter], bytes[5]),
            price_min: Decimal::parse((*pick(PRICES_MIN, bytes[6])).into()).expect("a number"),
        };
        Choices { settings, key: *pick(KEYS, bytes[7]), timestamp_ms: *pick(TIMESTAMPS_MS, bytes[8]) }
    }
}

/// One of several, by a byte.
pub fn pick<T>(all: &[T], byte: u8) -> &T {
    &all[usize::from(byte) % all.len()]
}
