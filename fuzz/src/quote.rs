//! Asks the decoder for one field of a quote.

use crate::decode::decode;
use crate::decode::settings::Settings;
use crate::record::{Offset, Record, Value};
use crate::row::{Class, Decoded, Fate};

/// A record without key and timestamp.
pub fn record(value: &[u8]) -> Record<'_> {
    Record {
        topic: "prices",
        partition: 0,
        offset: Offset(0),
        timestamp_ms: None,
        key: None,
        value: Value::Bytes(value),
    }
}

/// What a text is read as where a time is expected: microseconds since 1970, or why there are none.
pub fn time_of(text: &str, settings: &Settings) -> Result<i64, Class> {
    let text = serde_json::to_string(text).expect("a string is JSON");
    let value = format!(r#"{{"symbol":"A","price":1,"timestamp":{text}}}"#);
    let mut out = Decoded::default();
    match decode(&record(value.as_bytes()), 0, settings, &mut out) {
        Fate::Rows => Ok(out.prices[0].timestamp.0),
        Fate::DeadLetter => Err(out.dead_letters[0].class),
        Fate::Skip(reason) => panic!("a quote is skipped: {reason:?}"),
    }
}
