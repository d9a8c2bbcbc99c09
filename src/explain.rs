//! What a record becomes, to be shown: as a JSON object for programs, as a table for a person.
//!
//! Pure, and the one place that knows the form of `explain --json`. Decoding is the worker's own; here it is only shown.
//! Where the messages come from is the caller's business, but their forms are here: lines, and what `kcat -J` prints.

pub mod hex;
pub mod kcat;
pub mod lines;
mod summary;
mod table;
pub mod text;

pub use summary::{Summary, counted};

use crate::decimal::Decimal;
use crate::decode::settings::Settings;
use crate::decode::{self, Explanation};
use crate::record::{Record, Value};
use crate::row::{DeadLetter, Decoded, Fate, MetricRow, Micros, PriceRow};
use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;

/// A record with all that it becomes.
#[derive(Debug)]
pub struct Explained<'a> {
    /// Its fate, and the formats that its objects were read by.
    pub explanation: Explanation,
    /// Its rows and dead letters.
    pub decoded: Decoded<'a>,
}

impl<'a> Explained<'a> {
    /// Decodes a record as the worker does.
    pub fn of(record: &Record<'a>, settings: &Settings) -> Self {
        let mut decoded = Decoded::default();
        let explanation = decode::explain(record, settings, &mut decoded);
        Explained { explanation, decoded }
    }

    /// The object that `explain --json` prints.
    pub fn json(&self) -> Json<'_> {
        Json::of(self.explanation.fate, &self.decoded)
    }
}

/// A value as the worker keeps it: of one that is too large, only length and digest.
pub fn value(bytes: &[u8], bytes_max: usize) -> Value<'_> {
    match bytes.len() <= bytes_max {
        true => Value::Bytes(bytes),
        false => Value::TooLarge { bytes: bytes.len() as u64, sha256: Sha256::digest(bytes).into() },
    }
}

/// The object that `explain --json` prints. Written as it is read: no copy of the rows is made.
#[derive(Debug, Serialize)]
pub struct Json<'e> {
    #[serde(serialize_with = "prices")]
    prices: &'e [PriceRow<'e>],
    #[serde(serialize_with = "metrics")]
    metrics: &'e [MetricRow<'e>],
    skip: Option<&'static str>,
    #[serde(serialize_with = "dead_letters")]
    dead_letters: &'e [DeadLetter],
}

impl<'e> Json<'e> {
    /// Of one record: its fate, and what was decoded of it and of nothing else.
    pub fn of(fate: Fate, decoded: &'e Decoded<'e>) -> Self {
        let skip = match fate {
            Fate::Skip(skip) => Some(skip.as_str()),
            Fate::Rows | Fate::DeadLetter => None,
        };
        Json { prices: &decoded.prices, metrics: &decoded.metrics, skip, dead_letters: &decoded.dead_letters }
    }
}

/// Shown as a JSON string.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn prices<S: Serializer>(rows: &&[PriceRow<'_>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Price<'r> {
        symbol: &'r str,
        price: Text<&'r Decimal<'r>>,
        volume: Option<Text<&'r Decimal<'r>>>,
        timestamp: Text<Rfc3339>,
        fetch_timestamp: Option<i64>,
    }
    serializer.collect_seq(rows.iter().map(|row| Price {
        symbol: &row.symbol,
        price: Text(&row.price),
        volume: row.volume.as_ref().map(Text),
        timestamp: Text(Rfc3339(row.timestamp)),
        fetch_timestamp: row.fetch_timestamp,
    }))
}

fn metrics<S: Serializer>(rows: &&[MetricRow<'_>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Metric<'r> {
        symbol: &'r str,
        window_start: Text<Rfc3339>,
        window_end: Text<Rfc3339>,
        avg_price: Option<Text<&'r Decimal<'r>>>,
        max_price: Option<Text<&'r Decimal<'r>>>,
        min_price: Option<Text<&'r Decimal<'r>>>,
        avg_volume: Option<Text<&'r Decimal<'r>>>,
    }
    serializer.collect_seq(rows.iter().map(|row| Metric {
        symbol: &row.symbol,
        window_start: Text(Rfc3339(row.window_start)),
        window_end: Text(Rfc3339(row.window_end)),
        avg_price: row.avg_price.as_ref().map(Text),
        max_price: row.max_price.as_ref().map(Text),
        min_price: row.min_price.as_ref().map(Text),
        avg_volume: row.avg_volume.as_ref().map(Text),
    }))
}

fn dead_letters<S: Serializer>(letters: &&[DeadLetter], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Letter<'r> {
        element: u32,
        class: &'static str,
        reason: &'r str,
    }
    serializer.collect_seq(letters.iter().map(|letter| Letter {
        element: letter.origin.element,
        class: letter.class.as_str(),
        reason: &letter.reason,
    }))
}

/// An instant in RFC 3339, UTC, with as many digits of a fraction as it needs.
struct Rfc3339(Micros);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rfc3339(Micros(micros)) = *self;
        let format = if micros % 1_000_000 == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
        match DateTime::from_timestamp_micros(micros) {
            Some(time) => {
                let text = time.to_rfc3339_opts(format, true);
                match format {
                    SecondsFormat::Secs => f.write_str(&text),
                    _ => write!(f, "{}Z", text.trim_end_matches('Z').trim_end_matches('0')),
                }
            }
            // Hundreds of thousands of years away, where the calendar ends.
            None => write!(f, "{micros} us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Offset;

    fn record(value: Value<'_>) -> Record<'_> {
        Record { topic: "t", partition: 0, offset: Offset(0), timestamp_ms: Some(1_700_000_000_000), key: None, value }
    }

    fn shown(value: &str) -> String {
        let record = record(Value::Bytes(value.as_bytes()));
        serde_json::to_string(&Explained::of(&record, &Settings::default()).json()).unwrap()
    }

    #[test]
    fn a_price_is_shown_in_the_documented_form() {
        assert_eq!(
            shown(r#"{"symbol":"AAPL","price":187.20,"volume":1.2E3,"timestamp":1704207845,"fetched_at":1704207846}"#),
            r#"{"prices":[{"symbol":"AAPL","price":"187.20","volume":"1200","timestamp":"2024-01-02T15:04:05Z","fetch_timestamp":1704207846}],"metrics":[],"skip":null,"dead_letters":[]}"#
        );
    }

    #[test]
    fn metrics_are_shown_with_what_is_missing_as_null() {
        let value = r#"{"symbol":"A","window_start":0,"window_end":1.5,"avg_price":2}"#;
        let settings = Settings { target: crate::decode::settings::Target::Metrics, ..Settings::default() };
        let record = record(Value::Bytes(value.as_bytes()));
        assert_eq!(
            serde_json::to_string(&Explained::of(&record, &settings).json()).unwrap(),
            r#"{"prices":[],"metrics":[{"symbol":"A","window_start":"1970-01-01T00:00:00Z","window_end":"1970-01-01T00:00:01.5Z","avg_price":"2","max_price":null,"min_price":null,"avg_volume":null}],"skip":null,"dead_letters":[]}"#
        );
    }

    #[test]
    fn a_skip_and_a_dead_letter_are_shown_by_name() {
        assert_eq!(shown("[]"), r#"{"prices":[],"metrics":[],"skip":"empty","dead_letters":[]}"#);
        let letter = shown(r#"[{"symbol":"A","price":1},{"symbol":"B"}]"#);
        assert!(
            letter.contains(r#""skip":null,"dead_letters":[{"element":1,"class":"missing","reason":"$[1]"#),
            "{letter}"
        );
    }

    #[test]
    fn a_value_over_the_limit_is_kept_as_length_and_digest() {
        assert_eq!(value(b"abc", 3), Value::Bytes(b"abc"));
        let Value::TooLarge { bytes, sha256 } = value(b"abc", 2) else { panic!("it is over the limit") };
        assert_eq!((bytes, sha256[..3].to_vec()), (3, vec![0xba, 0x78, 0x16]));
        let explained = Explained::of(&record(value(b"abc", 2)), &Settings::default());
        assert_eq!(explained.decoded.dead_letters[0].class.as_str(), "too-large");
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        let shown = |micros| Rfc3339(Micros(micros)).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(1_704_207_840_000_000), "2024-01-02T15:04:00Z");
        assert_eq!(shown(1_704_207_845_120_000), "2024-01-02T15:04:05.12Z");
        assert_eq!(shown(1_704_207_845_000_001), "2024-01-02T15:04:05.000001Z");
        assert_eq!(shown(i64::MAX), "9223372036854775807 us");
    }
}
