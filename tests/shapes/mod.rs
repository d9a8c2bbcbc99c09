//! The corpus of message shapes: one case a line of corpus.jsonl.

use serde_json::Value as Json;
use stock_db_writer::decimal::Decimal;
use stock_db_writer::decode::settings::{Settings, Target};

/// A message, how it is read, and what it becomes.
pub struct Case {
    pub name: String,
    pub topic: String,
    pub key: Option<String>,
    pub timestamp_ms: i64,
    pub value: String,
    pub settings: Settings,
    /// As `explain --json` prints it, without reasons.
    pub expect: Json,
}

impl Case {
    /// How many rows it becomes.
    pub fn n_rows(&self) -> usize {
        ["prices", "metrics"].iter().map(|table| self.expect[table].as_array().map_or(0, Vec::len)).sum()
    }
}

/// All cases.
pub fn corpus() -> Vec<Case> {
    include_str!("corpus.jsonl").lines().map(case).collect()
}

fn case(line: &str) -> Case {
    let json: Json = serde_json::from_str(line).expect("the corpus is JSON");
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let topic = text("topic").expect("a case has a topic");
    let target = if topic == "stock_metrics" { Target::Metrics } else { Target::Prices };
    let mut settings = Settings { target, ..Settings::default() };
    for (key, value) in json["settings"].as_object().into_iter().flatten() {
        let value = value.as_str().expect("settings are strings");
        match key.as_str() {
            "timezone" => settings.timezone = value.parse().expect("a zone"),
            "target" => settings.target = value.parse().expect("a target"),
            "format" => settings.format = value.parse().expect("a format"),
            "timestamp_unit" => settings.timestamp_unit = value.parse().expect("a unit"),
            "symbol" => settings.symbol = value.parse().expect("a symbol"),
            "timestamp_missing" => settings.timestamp_missing = value.parse().expect("a choice"),
            "price_min" => settings.price_min = Decimal::parse(value.to_owned().into()).expect("a number"),
            other => panic!("there is no setting {other}"),
        }
    }
    Case {
        name: text("name").expect("a case has a name"),
        key: text("key"),
        timestamp_ms: json["record_timestamp_ms"].as_i64().expect("a case has a timestamp"),
        value: text("value").expect("a case has a value"),
        expect: json["expect"].clone(),
        topic,
        settings,
    }
}
