//! Words for what PostgreSQL holds: rows, dead letters and skips, and where each came from.
//!
//! Relies on `decimal`. Everything borrows from the batch's bytes, so that decoding a row allocates nothing.

use crate::decimal::Decimal;
use std::borrow::Cow;

/// Where a row or a dead letter came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The record's index in its batch.
    pub record_idx: u32,
    /// The element's place in an array message, from 0; 0 for a message that is no array.
    pub element: u32,
}

/// An instant in microseconds since 1970-01-01T00:00:00Z, PostgreSQL's own resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

/// A row of the prices table.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceRow<'a> {
    /// Where it came from.
    pub origin: Origin,
    /// Trimmed, not empty, at most 64 bytes, no control characters.
    pub symbol: Cow<'a, str>,
    /// The price, digits as sent.
    pub price: Decimal<'a>,
    /// The volume, if one was sent.
    pub volume: Option<Decimal<'a>>,
    /// When the price held.
    pub timestamp: Micros,
    /// When the producer fetched it, in epoch seconds; `None` only where Kafka gave no timestamp either.
    pub fetch_timestamp: Option<i64>,
}

/// A row of the metrics table: one symbol's figures over one window.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRow<'a> {
    /// Where it came from.
    pub origin: Origin,
    /// As in [`PriceRow::symbol`].
    pub symbol: Cow<'a, str>,
    /// Inclusive start of the window.
    pub window_start: Micros,
    /// End of the window, after its start.
    pub window_end: Micros,
    /// Average price.
    pub avg_price: Option<Decimal<'a>>,
    /// Highest price.
    pub max_price: Option<Decimal<'a>>,
    /// Lowest price.
    pub min_price: Option<Decimal<'a>>,
    /// Average volume.
    pub avg_volume: Option<Decimal<'a>>,
}

/// Why an element became no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Not JSON.
    Syntax,
    /// Not UTF-8, or a NUL in a kept field.
    Encoding,
    /// A needed field is absent.
    Missing,
    /// A field has a value of the wrong kind.
    Type,
    /// A number outside what is allowed or representable.
    Range,
    /// A time that can't be read, does not exist, or is out of range.
    Time,
    /// A symbol that is empty, too long or has control characters.
    Symbol,
    /// The same key twice.
    Ambiguous,
    /// JSON that no profile knows.
    UnknownShape,
    /// Too many bytes or too deep.
    TooLarge,
    /// Refused by PostgreSQL.
    Database,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 11] = [
        Class::Syntax,
        Class::Encoding,
        Class::Missing,
        Class::Type,
        Class::Range,
        Class::Time,
        Class::Symbol,
        Class::Ambiguous,
        Class::UnknownShape,
        Class::TooLarge,
        Class::Database,
    ];

    /// The name in tables, metrics and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Syntax => "syntax",
            Class::Encoding => "encoding",
            Class::Missing => "missing",
            Class::Type => "type",
            Class::Range => "range",
            Class::Time => "time",
            Class::Symbol => "symbol",
            Class::Ambiguous => "ambiguous",
            Class::UnknownShape => "unknown-shape",
            Class::TooLarge => "too-large",
            Class::Database => "database",
        }
    }
}

/// An element that could not become a row, with the reason. Its payload stays in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it came from.
    pub origin: Origin,
    /// The kind of reason.
    pub class: Class,
    /// A SQLSTATE where PostgreSQL refused the row, else empty.
    pub code: String,
    /// For a person: the JSON path and what is wrong with it, never a value.
    pub reason: String,
}

/// Why a record rightly gave neither a row nor a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// A null value, or a Debezium delete.
    Tombstone,
    /// A vendor's ping.
    Heartbeat,
    /// A vendor's status event.
    Status,
    /// A vendor's notice in place of data.
    Notice,
    /// Zero bytes, an empty array or object.
    Empty,
    /// A quote without a trade.
    NotAPrice,
}

impl Skip {
    /// All of them.
    pub const ALL: [Skip; 6] =
        [Skip::Tombstone, Skip::Heartbeat, Skip::Status, Skip::Notice, Skip::Empty, Skip::NotAPrice];

    /// The name in metrics and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Tombstone => "tombstone",
            Skip::Heartbeat => "heartbeat",
            Skip::Status => "status",
            Skip::Notice => "notice",
            Skip::Empty => "empty",
            Skip::NotAPrice => "not-a-price",
        }
    }
}

/// The one fate of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// At least one element became a row.
    Rows,
    /// No row, at least one dead letter.
    DeadLetter,
    /// Neither.
    Skip(Skip),
}

/// What decoding a run of records gave.
#[derive(Debug, Default, PartialEq)]
pub struct Decoded<'a> {
    /// Rows for the prices table.
    pub prices: Vec<PriceRow<'a>>,
    /// Rows for the metrics table.
    pub metrics: Vec<MetricRow<'a>>,
    /// Elements that became no row.
    pub dead_letters: Vec<DeadLetter>,
}
