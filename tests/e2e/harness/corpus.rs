//! The corpus of message shapes: what producers send, and cases for each clause of each rule.

use krafka::Record;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A message, how it is read, and what it becomes.
pub struct Case {
    /// What it is about.
    pub name: String,
    /// The topic that it names.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// Its timestamp.
    pub timestamp_ms: i64,
    /// Its value.
    pub value: String,
    /// Keys of its `[[topics]]` table, `target` always.
    pub settings: BTreeMap<String, String>,
    expect: Value,
}

impl Case {
    /// What it becomes in a topic (default: its own), as `explain --json` prints it, without reasons.
    pub fn expect(&self, topic: Option<&str>) -> Value {
        let mut expect = self.expect.clone();
        if let (Some(topic), Some("topic")) = (topic, self.settings.get("symbol").map(String::as_str)) {
            for row in expect["prices"].as_array_mut().expect("a list") {
                row["symbol"] = json!(topic);
            }
        }
        expect
    }

    /// A record of a topic, in its first partition.
    pub fn record(&self, topic: &str) -> Record {
        let record = Record::new(topic, self.value.clone()).partition(0).timestamp(self.timestamp_ms);
        self.key.iter().fold(record, |record, key| record.key(key.clone()))
    }
}

/// All cases.
pub fn corpus() -> Vec<Case> {
    let lines = concat!(include_str!("../../shapes/corpus.jsonl"), include_str!("../../shapes/rules.jsonl"));
    lines.lines().map(case).collect()
}

fn case(line: &str) -> Case {
    let json: Value = serde_json::from_str(line).expect("a case is an object");
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let topic = text("topic").expect("a case has a topic");
    let target = if topic == "stock_metrics" { "metrics" } else { "prices" };
    let mut settings = BTreeMap::from([("target".to_owned(), target.to_owned())]);
    for (key, value) in json["settings"].as_object().into_iter().flatten() {
        settings.insert(key.clone(), value.as_str().expect("a setting is text").to_owned());
    }
    Case {
        name: text("name").expect("a case has a name"),
        topic,
        key: text("key"),
        timestamp_ms: json["record_timestamp_ms"].as_i64().expect("a case has a time"),
        value: text("value").expect("a case has a value"),
        settings,
        expect: json["expect"].clone(),
    }
}
