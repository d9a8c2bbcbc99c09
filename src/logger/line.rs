//! What one log line says: words, and fields beside them.

use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use serde_json::Map;
use std::fmt::Write;

/// The field that is an explanation, and stands at the end of a line.
const WHY: &str = "why";

/// `claimed partition=stock_prices/0 epoch=3`, and after a colon why. A field that is empty is left out.
pub fn text(record: &Record<'_>) -> String {
    let mut fields = Fields::default();
    // The visitor takes every field.
    let _ = record.key_values().visit(&mut fields);
    let mut text = record.args().to_string();
    for (key, value) in fields.0.iter().filter(|(key, value)| *key != WHY && !is_empty(value)) {
        let value = match value.as_str() {
            Some(words) if words.contains(' ') && !words.starts_with(['[', '{', '"']) => format!("{words:?}"),
            Some(word) => word.to_owned(),
            None => value.to_string(),
        };
        // Writing into a text does not fail.
        let _ = write!(text, " {key}={value}");
    }
    for why in fields.0.iter().filter(|(key, _)| *key == WHY).filter_map(|(_, value)| value.as_str()) {
        let _ = write!(text, ": {why}");
    }
    text
}

/// One object: `time`, `level`, `thread`, `message`, and the fields; how many lines like it were left out, if any.
pub fn json(record: &Record<'_>, time: &str, thread: &str, left_out: u64) -> String {
    let mut fields = Fields::default();
    // The visitor takes every field.
    let _ = record.key_values().visit(&mut fields);
    let mut object: Map<String, serde_json::Value> = fields.0.into_iter().collect();
    let message = record.args().to_string();
    for (key, value) in [("time", time), ("level", record.level().as_str()), ("thread", thread), ("message", &message)]
    {
        object.insert(key.to_owned(), value.into());
    }
    if left_out > 0 {
        object.insert("left_out".to_owned(), left_out.into());
    }
    serde_json::Value::Object(object).to_string()
}

fn is_empty(value: &serde_json::Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
}

/// In the order in which they were given.
#[derive(Default)]
struct Fields(Vec<(String, serde_json::Value)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = serde_json::to_value(&value).unwrap_or_else(|_| value.to_string().into());
        self.0.push((key.to_string(), value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use log::kv::Source;

    fn record<'a>(args: std::fmt::Arguments<'a>, fields: &'a dyn Source) -> Record<'a> {
        Record::builder().args(args).level(Level::Warn).key_values(fields).build()
    }

    #[test]
    fn fields_follow_the_words_and_why_is_last() {
        let fields = [
            ("partition", Value::from("stock_prices/0")),
            (WHY, Value::from("nothing of ours was written")),
            ("epoch", Value::from(3)),
            ("trouble", Value::from("")),
            ("cause", Value::from("connection closed")),
        ];
        let text = text(&record(format_args!("fenced"), &fields));
        let expected =
            "fenced partition=stock_prices/0 epoch=3 cause=\"connection closed\": nothing of ours was written";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_numbers_as_numbers() {
        let fields = [("epoch", Value::from(3)), ("lag_s", Value::from(1.5)), ("topics", Value::from_debug(&["a"]))];
        let line = json(&record(format_args!("a \"b\""), &fields), "2024-01-02T15:04:05Z", "main", 0);
        let object: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(object["message"], "a \"b\"");
        assert_eq!((&object["epoch"], &object["lag_s"]), (&3.into(), &1.5.into()));
        assert_eq!((&object["level"], &object["thread"]), (&"WARN".into(), &"main".into()));
        assert_eq!(object["topics"], "[\"a\"]");
    }
}
