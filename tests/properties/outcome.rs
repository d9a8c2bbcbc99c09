//! What a message becomes, in a form that is compared and printed.

use stock_db_writer::decode::decode;
use stock_db_writer::decode::settings::{Format, Settings, Target};
use stock_db_writer::record::{Offset, Record, Value};
use stock_db_writer::row::{Decoded, Fate};

/// 2026-01-02T15:04:06.123Z
pub const RECORD_MS: i64 = 1_767_366_246_123;

/// Every format that is a shape. A test says so if one of them can't be named in the settings.
pub const FORMATS: &[&str] = &[
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

/// A message as it is sent.
#[derive(Debug, Clone)]
pub struct Message {
    pub value: String,
    pub key: Option<String>,
}

impl Message {
    /// The message as a record.
    pub fn record(&self) -> Record<'_> {
        Record {
            topic: "stock_prices",
            partition: 0,
            offset: Offset(0),
            timestamp_ms: Some(RECORD_MS),
            key: self.key.as_ref().map(String::as_bytes),
            value: Value::Bytes(self.value.as_bytes()),
        }
    }
}

/// What became of a message: rows and dead letters by element, each as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub rows: Vec<(u32, String)>,
    pub letters: Vec<(u32, &'static str)>,
    pub skip: Option<&'static str>,
}

impl Outcome {
    /// Decodes a record.
    pub fn of(record: &Record<'_>, settings: &Settings) -> Outcome {
        let mut decoded = Decoded::default();
        let fate = decode(record, 0, settings, &mut decoded);
        let mut rows: Vec<(u32, String)> = Vec::new();
        for row in &decoded.prices {
            let (price, volume) = (Some(&row.price), row.volume.as_ref());
            let figures = [price, volume].map(|number| number.map(ToString::to_string));
            rows.push((row.origin.element, shown(&row.symbol, &[row.timestamp.0], &figures, row.fetch_timestamp)));
        }
        for row in &decoded.metrics {
            let figures = [&row.avg_price, &row.max_price, &row.min_price, &row.avg_volume];
            let figures = figures.map(|number| number.as_ref().map(ToString::to_string));
            let window = [row.window_start.0, row.window_end.0];
            rows.push((row.origin.element, shown(&row.symbol, &window, &figures, None)));
        }
        rows.sort();
        let letters = decoded.dead_letters.iter().map(|letter| (letter.origin.element, letter.class.as_str()));
        let skip = match fate {
            Fate::Skip(skip) => Some(skip.as_str()),
            Fate::Rows | Fate::DeadLetter => None,
        };
        Outcome { letters: letters.collect(), rows, skip }
    }

    /// The same wherever the elements were in the message.
    pub fn without_places(mut self) -> Outcome {
        self.rows.iter_mut().for_each(|(element, _)| *element = 0);
        self.letters.iter_mut().for_each(|(element, _)| *element = 0);
        self.rows.sort();
        self.letters.sort_unstable();
        self
    }
}

/// A row as text: symbol, times in microseconds, figures, and when it was fetched.
pub fn shown(symbol: &str, micros: &[i64], figures: &[Option<String>], fetched: Option<i64>) -> String {
    format!("{symbol:?} {micros:?} {figures:?} {fetched:?}")
}

/// Settings without any but the shape.
pub fn pinned(format: Format) -> Settings {
    Settings { format, target: Target::Auto, ..Settings::default() }
}

/// A format by its name in writer.toml.
pub fn format(name: &str) -> Format {
    name.parse().unwrap_or_else(|error| panic!("format {name:?}: {error}"))
}
