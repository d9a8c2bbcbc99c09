//! Dead letters as an operator handles them: their names, which of them are meant, and what is kept of each.
//!
//! Knows no database; `database` finds and marks them. What they would become today is `redrive`'s business.

use crate::record::{Offset, TopicPartition};
use crate::row::Class;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The name of a dead letter: `TOPIC/PARTITION/OFFSET/ELEMENT`. Ordered by its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// The record's partition.
    pub partition: TopicPartition,
    /// The record's place in it.
    pub offset: Offset,
    /// The element's place in the record.
    pub element: u32,
}

impl LetterId {
    /// Whether both are of one record.
    pub fn is_of_record(&self, other: &LetterId) -> bool {
        self.offset == other.offset && self.partition == other.partition
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.partition, self.offset, self.element)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // From the end: whatever a topic is called, its name comes first.
        let mut parts = text.rsplitn(4, '/');
        let mut number = |max: i64| {
            let digits = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
            digits.parse::<i64>().ok().filter(|number| *number <= max)
        };
        let (element, offset, partition) = (number(i64::from(i32::MAX)), number(i64::MAX), number(i64::from(i32::MAX)));
        match (parts.next(), partition, offset, element) {
            (Some(topic), Some(partition), Some(offset), Some(element)) if !topic.is_empty() => Ok(LetterId {
                partition: TopicPartition::new(topic, partition as i32),
                offset: Offset(offset),
                element: element as u32,
            }),
            _ => Err("must be TOPIC/PARTITION/OFFSET/ELEMENT, such as stock_prices/0/1234/0".to_owned()),
        }
    }
}

/// Which letters are meant: those to which all of it applies. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these.
    pub ids: Vec<LetterId>,
    /// Only those of one of these classes.
    pub classes: Vec<Class>,
    /// Only those of one of these topics.
    pub topics: Vec<String>,
    /// Only those of one of these partitions.
    pub partitions: Vec<i32>,
    /// Only those first seen then or later.
    pub since: Option<DateTime<Utc>>,
    /// Only those first seen before then.
    pub until: Option<DateTime<Utc>>,
    /// Also those that were redriven or discarded.
    pub closed_too: bool,
}

/// What is kept of an element that could not become a row, but for the record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its name.
    pub id: LetterId,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// Kafka's timestamp of the record, in milliseconds since the epoch.
    pub timestamp_ms: Option<i64>,
    /// How long the record's value is.
    pub payload_bytes: Option<i64>,
    /// Its digest, where it was too long to be kept; on the record's lowest letter only.
    pub payload_sha256: Option<Vec<u8>>,
    /// How many elements the record had; `None`: not known.
    pub record_elements: Option<i32>,
    /// The kind of reason: a word of [`Class`], or of a later version's.
    pub class: String,
    /// A SQLSTATE where PostgreSQL refused the row, else empty.
    pub code: String,
    /// For a person.
    pub reason: String,
    /// When it was written, RFC 3339 with microseconds.
    pub first_seen: String,
    /// When it became a row after all.
    pub redriven_at: Option<String>,
    /// When somebody decided to do without it.
    pub discarded_at: Option<String>,
}

impl Letter {
    /// Whether nothing has been done about it yet.
    pub fn is_open(&self) -> bool {
        self.redriven_at.is_none() && self.discarded_at.is_none()
    }

    /// `open`, `redriven` or `discarded`.
    pub fn state(&self) -> &'static str {
        match (&self.redriven_at, &self.discarded_at) {
            (Some(_), _) => "redriven",
            (None, Some(_)) => "discarded",
            (None, None) => "open",
        }
    }
}

/// A record with letters of it that are open and meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its letters, by element. Never empty.
    pub letters: Vec<Letter>,
    /// Its value, if it was kept.
    pub payload: Option<Vec<u8>>,
}

/// Numbers of letters, by topic and class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, BTreeMap<String, u64>>);

impl Counts {
    /// So many more.
    pub fn add(&mut self, topic: &str, class: &str, n: u64) {
        // Looked up first: a name is copied once, however many letters there are.
        if !self.0.contains_key(topic) {
            self.0.insert(topic.to_owned(), BTreeMap::new());
        }
        let classes = self.0.get_mut(topic).expect("it is there now");
        match classes.get_mut(class) {
            Some(count) => *count += n,
            None => _ = classes.insert(class.to_owned(), n),
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }
}

/// `stock_metrics (missing 1), stock_prices (syntax 2, time 1)`
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, (topic, classes)) in self.0.iter().enumerate() {
            let gap = if idx == 0 { "" } else { ", " };
            let classes: Vec<String> = classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
            write!(f, "{gap}{topic} ({})", classes.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_by_topic_and_class() {
        let mut counts = Counts::default();
        for (topic, class) in [("b", "time"), ("a", "type"), ("b", "syntax"), ("b", "time")] {
            counts.add(topic, class, 1);
        }
        assert_eq!((counts.total(), counts.to_string()), (4, "a (type 1), b (syntax 1, time 2)".to_owned()));
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for text in ["stock_prices/0/1234/0", "a.b-c/2147483647/9223372036854775807/2147483647"] {
            assert_eq!(text.parse::<LetterId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        let id: LetterId = "stock_prices/3/40/5".parse().unwrap();
        assert_eq!((id.partition, id.offset, id.element), (TopicPartition::new("stock_prices", 3), Offset(40), 5));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "t",
            "t/0",
            "t/0/1",
            "/0/1/2",
            "t/0/1/2/",
            "t/0/1/",
            "t/-1/1/0",
            "t/0/+1/0",
            "t/0/1/x",
            "t/0/ 1/0",
            "t/2147483648/0/0",
            "t/0/9223372036854775808/0",
            "t/0/0/2147483648",
        ] {
            assert!(text.parse::<LetterId>().is_err(), "{text:?}");
        }
    }
}
