//! Reads what `kcat -J` prints: one JSON object a line, around each record.
//!
//! kcat hands on the bytes of keys and values that are not UTF-8 as they are, so its lines need not be UTF-8, and a
//! value comes out of one as it is in Kafka. What is wrong with a line is said without any value of it.

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A record as kcat shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Its topic, if it is said.
    pub topic: Option<String>,
    /// Its partition and offset, if both are said.
    pub place: Option<(i32, i64)>,
    /// Kafka's timestamp in milliseconds since the epoch.
    pub timestamp_ms: Option<i64>,
    /// Its key; `None`: null.
    pub key: Option<Vec<u8>>,
    /// Its value; `None`: null.
    pub payload: Option<Vec<u8>>,
}

/// How much longer a line can be than the value in it: each byte may be spelled as `\u0001`, and there are key,
/// headers and names.
pub fn line_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_mul(6).saturating_add(1 << 20)
}

/// Reads one line, or says what is wrong with it.
pub fn parse(line: &[u8]) -> Result<Envelope, String> {
    let fields: Fields = serde_json::from_slice(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => wrong_type(line),
        _ => format!("is not the JSON that kcat -J prints, from column {} on", error.column()),
    })?;
    let Fields { topic, partition, offset, ts, key, payload, key_error, payload_error } = fields;
    if key_error.is_some() || payload_error.is_some() {
        return Err("kcat could not decode this record; leave its option -s out".to_owned());
    }
    let Some(payload) = payload else {
        return Err("payload: is missing; it is what kcat -J calls the value".to_owned());
    };
    Ok(Envelope {
        topic,
        place: partition.zip(offset),
        // Kafka's "no timestamp" is -1.
        timestamp_ms: ts.filter(|ms| *ms >= 0),
        key: key.and_then(|key| key.0),
        payload: payload.0,
    })
}

#[derive(Deserialize)]
struct Fields {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    ts: Option<i64>,
    #[serde(default, deserialize_with = "present")]
    key: Option<Bytes>,
    #[serde(default, deserialize_with = "present")]
    payload: Option<Bytes>,
    key_error: Option<IgnoredAny>,
    payload_error: Option<IgnoredAny>,
}

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    Bytes::deserialize(deserializer).map(Some)
}

/// A string's bytes, UTF-8 or not, or null.
struct Bytes(Option<Vec<u8>>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nullable;
        impl<'de> Visitor<'de> for Nullable {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }

            fn visit_none<E>(self) -> Result<Bytes, E> {
                Ok(Bytes(None))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Bytes, D::Error> {
                deserializer.deserialize_bytes(self)
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(Some(bytes.to_vec())))
            }
        }
        deserializer.deserialize_option(Nullable)
    }
}

/// Says which field has another type than kcat gives it. Reads the line again; it is rare.
fn wrong_type(line: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Kinds {
        #[serde(default)]
        topic: Kind,
        #[serde(default)]
        partition: Kind,
        #[serde(default)]
        offset: Kind,
        #[serde(default)]
        ts: Kind,
        #[serde(default)]
        key: Kind,
        #[serde(default)]
        payload: Kind,
    }
    let Ok(kinds) = serde_json::from_str::<Kinds>(&String::from_utf8_lossy(line)) else {
        return "is not an object as kcat -J prints it, with each field once".to_owned();
    };
    let Kinds { topic, partition, offset, ts, key, payload } = kinds;
    let integers = [("partition", partition), ("offset", offset), ("ts", ts)];
    if let Some((name, _)) = integers.iter().find(|(_, kind)| !matches!(kind, Kind::Null | Kind::Integer)) {
        return format!("{name}: is not an integer");
    }
    if !matches!(topic, Kind::Null | Kind::String) {
        return "topic: is not a string".to_owned();
    }
    match [("key", key), ("payload", payload)].iter().find(|(_, kind)| !matches!(kind, Kind::Null | Kind::String)) {
        Some((name, _)) => {
            format!("{name}: is neither a string nor null; the worker reads bytes, so leave kcat's option -s out")
        }
        // What is left is a number that no partition has.
        None => "partition: is out of range".to_owned(),
    }
}

/// What a value is, without the value.
#[derive(Default, Clone, Copy)]
enum Kind {
    #[default]
    Null,
    String,
    Integer,
    Other,
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }

            fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
                Ok(Kind::String)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
                Ok(Kind::Integer)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Kind, E> {
                Ok(if i64::try_from(number).is_ok() { Kind::Integer } else { Kind::Other })
            }

            fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
                Ok(Kind::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
                Ok(Kind::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kind::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kcat 1.7.1 prints them.
    fn line(end: &[u8]) -> Vec<u8> {
        let start = br#"{"topic":"kj","partition":2,"offset":40,"tstype":"create","ts":1795629659862,"broker":1,"#;
        [&start[..], end].concat()
    }

    fn key_and_payload(end: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let envelope = parse(&line(end)).unwrap();
        assert_eq!(envelope.topic.as_deref(), Some("kj"));
        assert_eq!((envelope.place, envelope.timestamp_ms), (Some((2, 40)), Some(1_795_629_659_862)));
        (envelope.key, envelope.payload)
    }

    fn some(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    #[test]
    fn bytes_come_out_as_they_are_in_kafka() {
        assert_eq!(key_and_payload(br#""key":"k1","payload":"{\"a\":1}"}"#), (some(b"k1"), some(b"{\"a\":1}")));
        assert_eq!(key_and_payload(b"\"key\":\"\xff\\u0001\",\"payload\":\"\xff\xfe\x80abc\"}").0, some(b"\xff\x01"));
        assert_eq!(key_and_payload(b"\"key\":null,\"payload\":\"\xff\xfe\x80abc\"}"), (None, some(b"\xff\xfe\x80abc")));
        let escapes = "\"key\":\"\",\"payload\":\"\\u0000\\u001F\\t\\\"\\\\\\/ü\\u00fc\\ud83d\\ude00\u{7f}\"}";
        assert_eq!(key_and_payload(escapes.as_bytes()).1, some("\0\u{1f}\t\"\\/üü😀\u{7f}".as_bytes()));
    }

    #[test]
    fn null_is_not_the_empty_string() {
        assert_eq!(key_and_payload(br#""key":null,"payload":null}"#), (None, None));
        assert_eq!(key_and_payload(br#""key":"","payload":""}"#), (some(b""), some(b"")));
    }

    #[test]
    fn headers_do_not_matter() {
        let (key, payload) = key_and_payload(b"\"headers\":[\"a\",\"1\",\"b\",null],\"key\":\"k\",\"payload\":\"v\"}");
        assert_eq!((key, payload), (some(b"k"), some(b"v")));
        let as_map = b"\"headers\":{\"a\":[\"x\\\"y\"]},\"key\":\"k\",\"payload\":\"v\"}\r";
        assert_eq!(key_and_payload(as_map).1, some(b"v"));
    }

    #[test]
    fn a_line_may_have_less_than_kcat_prints() {
        let envelope = Envelope { topic: None, place: None, timestamp_ms: None, key: None, payload: some(b"x") };
        assert_eq!(parse(br#"{"payload":"x"}"#), Ok(envelope));
        assert_eq!(parse(br#"{"topic":"t","ts":-1,"offset":3,"payload":"x"}"#).unwrap().timestamp_ms, None);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said_without_its_values() {
        for (line, what) in [
            (&b"hello SECRET"[..], "is not the JSON that kcat -J prints, from column 1 on"),
            (b"", "is not the JSON that kcat -J prints, from column 0 on"),
            (br#"{"topic":"t","payload":"SECRET"#, "is not the JSON that kcat -J prints, from column 30 on"),
            (br#"{"topic":"t","payload":"v"} SECRET"#, "is not the JSON that kcat -J prints, from column 29 on"),
            (br#""SECRET""#, "is not an object as kcat -J prints it, with each field once"),
            (
                br#"{"topic":"t","payload":"SECRET","payload":"v"}"#,
                "is not an object as kcat -J prints it, with each field once",
            ),
            (br#"{"topic":"t","key":"SECRET"}"#, "payload: is missing; it is what kcat -J calls the value"),
            (br#"{"topic":17,"payload":"v"}"#, "topic: is not a string"),
            (br#"{"topic":"t","ts":"SECRET","payload":"v"}"#, "ts: is not an integer"),
            (br#"{"topic":"t","offset":1.5,"payload":"v"}"#, "offset: is not an integer"),
            (br#"{"topic":"t","partition":4294967296,"payload":"v"}"#, "partition: is out of range"),
            (
                br#"{"topic":"t","payload":null,"payload_error":"SECRET"}"#,
                "kcat could not decode this record; leave its option -s out",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err(), what, "{}", String::from_utf8_lossy(line));
        }
        for value in ["{\"a\":[1]}", "[1]", "5", "true"] {
            let what = parse(format!("{{\"topic\":\"t\",\"payload\":{value}}}").as_bytes()).unwrap_err();
            assert!(what.starts_with("payload: is neither a string nor null"), "{what}");
        }
    }

    #[test]
    fn a_line_has_room_for_its_value_however_it_is_spelled() {
        let value = vec![1u8; 1000];
        let spelled = format!("{{\"payload\":\"{}\"}}", "\\u0001".repeat(1000));
        assert!(spelled.len() <= line_bytes_max(1000));
        assert_eq!(parse(spelled.as_bytes()).unwrap().payload, Some(value));
    }
}
