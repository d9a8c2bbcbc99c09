//! Words for what Kafka holds: where a record sits, where reading resumes, and the record itself.
//!
//! Relies on nothing; everything else relies on it. Numbers that mean different things have different types, and
//! `+ 1` is written in one place.

use std::fmt;
use std::sync::Arc;

/// Where a record sits in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

/// Where reading resumes: every record below it has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextOffset(pub i64);

impl Offset {
    /// The position after this record.
    pub fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

impl NextOffset {
    /// Whether a record at `offset` has already been dealt with.
    pub fn is_past(self, offset: Offset) -> bool {
        offset.0 < self.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the leaders of a partition: the broker that wrote a record was the leader of this epoch (KIP-101).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

/// Where a new pipeline starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// The first record at or after this time, in milliseconds since the epoch.
    TimeMs(i64),
    /// Where the group's committed offsets are; earliest for a partition without one.
    KafkaGroup,
}

/// One partition of one topic. Ordered by topic, then number: the order in which offset rows are locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name, shared by all who speak of it.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Kafka's null: a tombstone.
    Null,
    /// The bytes as they were sent.
    Bytes(&'a [u8]),
    /// More than `kafka.max_message_bytes`: only its length and digest were kept.
    TooLarge {
        /// Length in bytes.
        bytes: u64,
        /// SHA-256 of the whole value.
        sha256: [u8; 32],
    },
}

/// One record as it is read, borrowed from its batch.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The topic it came from.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: Offset,
    /// Kafka's timestamp in milliseconds since the epoch; `None` where the client or the record has none.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Value<'a>,
}
