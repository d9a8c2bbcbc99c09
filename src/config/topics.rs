//! `[[topics]]`: what is read, and how.

use super::reader::{Reader, non_empty, parsed, scalar};
use super::sources::Raw;
use crate::decimal::Decimal;
use crate::decode::settings::{Settings, Target};

/// One of `[[topics]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    /// The topic's name.
    pub name: String,
    /// How its messages are read.
    pub settings: Settings,
}

pub(super) fn read(reader: &mut Reader) -> Vec<Topic> {
    let mut topics: Vec<Topic> = Vec::new();
    for idx in reader.indexes("topics") {
        if idx != topics.len() {
            reader.complain(
                &[&format!("topics.{idx}.name")],
                format!("topics are numbered from 0 without a gap, the next one is {}", topics.len()),
            );
            reader.drop_section(&format!("topics.{idx}"));
            continue;
        }
        let topic = topic(reader, idx);
        if topics.iter().any(|other| other.name == topic.name && !topic.name.is_empty()) {
            reader.complain(&[&format!("topics.{idx}.name")], format!("{:?} is listed twice", topic.name));
        }
        topics.push(topic);
    }
    if topics.is_empty() {
        let prices = Settings { target: Target::Prices, ..Settings::default() };
        let metrics = Settings { target: Target::Metrics, ..Settings::default() };
        topics.push(Topic { name: "stock_prices".to_owned(), settings: prices });
        topics.push(Topic { name: "stock_metrics".to_owned(), settings: metrics });
        // So that `topics = "a"` is told what it should have been.
        reader
            .refuse("topics", "is a list of tables: write [[topics]] and below it name = \"…\", or set topics.0.name");
    }
    topics
}

fn topic(reader: &mut Reader, idx: usize) -> Topic {
    let key = |name: &str| format!("topics.{idx}.{name}");
    let name = reader.get(&key("name"), topic_name);
    if reader.is_set(&key("pattern")) {
        let what = "topics by pattern are not built into this version; name them";
        reader.refuse(&key("pattern"), what);
    } else if name.is_none() {
        reader.complain(&[&key("name")], "must be set");
    }
    let default = Settings::default();
    let settings = Settings {
        target: reader.get(&key("target"), parsed).unwrap_or(default.target),
        format: reader.get(&key("format"), parsed).unwrap_or(default.format),
        timestamp_unit: reader.get(&key("timestamp_unit"), parsed).unwrap_or(default.timestamp_unit),
        timezone: reader.get(&key("timezone"), timezone).unwrap_or(default.timezone),
        symbol: reader.get(&key("symbol"), parsed).unwrap_or(default.symbol),
        timestamp_missing: reader.get(&key("timestamp_missing"), parsed).unwrap_or(default.timestamp_missing),
        price_min: reader.get(&key("price_min"), decimal).unwrap_or(default.price_min),
    };
    if let Some(what) = settings.contradiction() {
        let what = what.strip_prefix("format: ").unwrap_or(&what);
        reader.complain(&[&key("format"), &key("target")], what);
    }
    Topic { name: name.unwrap_or_default(), settings }
}

/// What Kafka takes for a topic's name.
fn topic_name(raw: &Raw) -> Result<String, String> {
    let name = non_empty(raw)?;
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match name.len() {
        1..=249 if legal && name != "." && name != ".." => Ok(name),
        _ => Err("must be 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'".to_owned()),
    }
}

fn timezone<T: std::str::FromStr>(raw: &Raw) -> Result<T, String> {
    let text = non_empty(raw)?;
    text.parse().map_err(|_| format!("is no zone of the IANA database, such as \"America/New_York\": {text:?}"))
}

fn decimal(raw: &Raw) -> Result<Decimal<'static>, String> {
    let text = scalar(raw).unwrap_or_default();
    Decimal::parse(text.into()).map_err(|_| "must be a number".to_owned())
}
