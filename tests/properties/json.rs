//! JSON as a tree that keeps what readers usually drop: the order of keys, keys that are there twice, numbers as text.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// A JSON value.
pub enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    Text(String),
    /// A number, `true`, `false` or `null`, as it was written.
    Plain(String),
}

impl Json {
    /// Reads one document; `None` if the text is none.
    pub fn parse(text: &str) -> Option<Json> {
        let text = serde_json::from_str::<&RawValue>(text).ok()?.get();
        Some(match text.as_bytes()[0] {
            b'{' => {
                let entries = serde_json::Deserializer::from_str(text).deserialize_map(Entries).ok()?;
                let entries = entries.into_iter().map(|(key, value)| Some((key, Json::parse(value.get())?)));
                Json::Object(entries.collect::<Option<_>>()?)
            }
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                Json::Array(items.into_iter().map(|item| Json::parse(item.get())).collect::<Option<_>>()?)
            }
            b'"' => Json::Text(serde_json::from_str(text).ok()?),
            _ => Json::Plain(text.to_owned()),
        })
    }

    /// Another text that says the same: keys in another order, with white space, and with fields that nobody knows.
    pub fn disturbed(&self, random: &mut fastrand::Rng) -> String {
        let mut out = String::new();
        self.write(random, &mut out);
        out
    }

    fn write(&self, random: &mut fastrand::Rng, out: &mut String) {
        space(random, out);
        match self {
            Json::Object(entries) => {
                let mut entries: Vec<(String, String)> = entries
                    .iter()
                    .map(|(key, value)| (serde_json::to_string(key).expect("a key"), value.disturbed(random)))
                    .collect();
                // Where keys are times, or numbered, another one would be a row, or is none of the vendor's.
                if !entries.iter().any(|(key, _)| key.as_bytes()[1].is_ascii_digit()) {
                    for number in 0..random.usize(..3) {
                        entries.push((format!("\"zz_{number}_{}\"", random.u8(..)), unknown(random)));
                    }
                }
                random.shuffle(&mut entries);
                between(random, out, '{', '}', entries.iter(), |random, out, (key, value)| {
                    out.push_str(key);
                    space(random, out);
                    out.push(':');
                    out.push_str(value);
                });
            }
            Json::Array(items) => {
                between(random, out, '[', ']', items.iter(), |random, out, item| item.write(random, out));
            }
            Json::Text(text) => {
                // A message in a message.
                let inner = if text.starts_with(['{', '[']) { Json::parse(text) } else { None };
                let text = inner.map_or_else(|| text.clone(), |inner| inner.disturbed(random));
                out.push_str(&serde_json::to_string(&text).expect("a string"));
            }
            Json::Plain(text) => out.push_str(text),
        }
        space(random, out);
    }
}

fn between<T>(
    random: &mut fastrand::Rng,
    out: &mut String,
    open: char,
    close: char,
    items: impl Iterator<Item = T>,
    write: impl Fn(&mut fastrand::Rng, &mut String, T),
) {
    out.push(open);
    space(random, out);
    for (idx, item) in items.enumerate() {
        if idx > 0 {
            out.push(',');
            space(random, out);
        }
        write(random, out, item);
    }
    space(random, out);
    out.push(close);
}

fn space(random: &mut fastrand::Rng, out: &mut String) {
    for _ in 0..random.usize(..3).saturating_sub(1) {
        out.push(*random.choice([' ', '\t', '\n', '\r'].iter()).expect("not empty"));
    }
}

/// The value of a field that nobody knows, even if what is inside has names that are known elsewhere.
fn unknown(random: &mut fastrand::Rng) -> String {
    const VALUES: &[&str] = &[
        "null",
        "true",
        "-1.5e300",
        "\"\"",
        "\"a \\\"b\\\" \\u00e9 {[\"",
        "{}",
        "[]",
        "[[],{\"a\":[1,2]}]",
        r#"{"symbol":"WRONG","price":9,"volume":9,"timestamp":9}"#,
        r#"{"s":"WRONG","p":9,"v":9,"t":9,"e":"trade","ev":"T"}"#,
        r#"[{"symbol":"WRONG","price":9}]"#,
    ];
    (*random.choice(VALUES.iter()).expect("not empty")).to_owned()
}

struct Entries;

impl<'t> Visitor<'t> for Entries {
    type Value = Vec<(String, &'t RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}
