//! Tells a flood of dead letters from bad data: too many of one cause mean a broken producer or a wrong setting.
//!
//! Pure. Asked before a batch is committed and told after it was, in the order of the lane. Counts per topic and cause,
//! batch by batch, so the window is 10,000 records or a little more.

use crate::row::{Class, Origin};
use crate::work::Work;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// The share is taken of so many of a topic's latest records.
const WINDOW_RECORDS: u64 = 10_000;
/// Fewer records than this are never a flood.
const FLOOD_RECORDS_MIN: u64 = 100;

/// Why an element became no row: its class, and the SQLSTATE where PostgreSQL refused it.
type Cause = (Class, String);

/// What a batch holds of one topic.
#[derive(Debug, Default)]
struct Seen {
    records: u64,
    // Records with at least one dead letter of that cause, and the first of them.
    causes: BTreeMap<Cause, (u64, Origin)>,
}

/// Watches the share of dead letters.
#[derive(Debug)]
pub struct Brake {
    ratio_max: f64,
    topics: BTreeMap<String, VecDeque<Seen>>,
}

/// Too many dead letters for one cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    topic: String,
    cause: Cause,
    records_dead: u64,
    records: u64,
    first: String,
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flood { topic, cause: (class, code), records_dead, records, first } = self;
        let class = class.as_str();
        let code = if code.is_empty() { String::new() } else { format!(" {code}") };
        write!(
            f,
            "topic {topic:?}: {records_dead} of its last {records} records can't become rows for one cause, \
             {class}{code}, here first at {first}; nothing of this batch was written: mend the producer or the topic's \
             settings, or set dead_letters.ratio_max = 1 to keep them all as dead letters"
        )
    }
}

impl Brake {
    /// Allows `ratio_max` of the records to be dead letters for one cause; 1 allows all.
    pub fn new(ratio_max: f64) -> Self {
        Brake { ratio_max, topics: BTreeMap::new() }
    }

    /// Whether committing this batch would let a flood in.
    pub fn judge(&self, work: &Work<'_>) -> Option<Flood> {
        if self.ratio_max >= 1.0 || work.decoded.dead_letters.is_empty() {
            return None;
        }
        let seen = seen(work);
        seen.iter().find_map(|(topic, batch)| {
            let known = self.topics.get(topic);
            let records = batch.records + known.map_or(0, |known| known.iter().map(|seen| seen.records).sum());
            batch.causes.iter().find_map(|(cause, (in_batch, first))| {
                let of = |seen: &Seen| seen.causes.get(cause).map_or(0, |(count, _)| *count);
                let records_dead = in_batch + known.map_or(0, |known| known.iter().map(of).sum());
                let is_share =
                    records_dead >= FLOOD_RECORDS_MIN && records_dead as f64 > self.ratio_max * records as f64;
                let is_whole_batch = *in_batch == batch.records && batch.records >= FLOOD_RECORDS_MIN;
                (is_share || is_whole_batch).then(|| {
                    let record = work.batch.record(first.record_idx as usize).1;
                    let first = format!("partition {} offset {}", record.partition, record.offset);
                    Flood { topic: topic.clone(), cause: cause.clone(), records_dead, records, first }
                })
            })
        })
    }

    /// Counts a batch that is durable.
    pub fn durable(&mut self, work: &Work<'_>) {
        if self.ratio_max >= 1.0 {
            return;
        }
        for (topic, batch) in seen(work) {
            let window = self.topics.entry(topic).or_default();
            let mut records: u64 = window.iter().map(|seen| seen.records).sum::<u64>() + batch.records;
            window.push_back(batch);
            while let Some(oldest) = window.front()
                && records - oldest.records >= WINDOW_RECORDS
            {
                records -= oldest.records;
                window.pop_front();
            }
        }
    }
}

fn seen(work: &Work<'_>) -> BTreeMap<String, Seen> {
    let mut topics: BTreeMap<String, Seen> = BTreeMap::new();
    for (interval, tally) in work.batch.intervals().iter().zip(work.tallies()) {
        topics.entry(interval.partition.topic.to_string()).or_default().records += tally.records();
    }
    // Letters are in the order of their records: a record's letters of one cause are counted once.
    let mut last: BTreeMap<Cause, u32> = BTreeMap::new();
    for letter in &work.decoded.dead_letters {
        let cause = (letter.class, letter.code.clone());
        let record_idx = letter.origin.record_idx;
        if last.insert(cause.clone(), record_idx) != Some(record_idx) {
            let topic = work.batch.record(record_idx as usize).1.topic;
            let seen = topics.entry(topic.to_owned()).or_default();
            seen.causes.entry(cause).or_insert((0, letter.origin)).0 += 1;
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batch, Batcher, Epoch, Incoming, Limits};
    use crate::decode::settings::Settings;
    use crate::record::{NextOffset, Offset, TopicPartition};
    use std::time::{Duration, Instant};

    /// `good` records, then `bad` ones without a price.
    fn batch(good: i64, bad: i64) -> Batch {
        let limits = Limits { rows_max: 99_999, bytes_max: 1 << 30, linger: Duration::ZERO, message_bytes_max: 999 };
        let (mut batcher, partition) = (Batcher::new(limits), TopicPartition::new("t", 7));
        batcher.follow(partition.clone(), Epoch(1), NextOffset(0));
        for offset in 0..good + bad {
            let value: &[u8] =
                if offset < good { br#"{"symbol":"A","price":1}"# } else { br#"{"symbol":"A","price":""}"# };
            let record = Incoming {
                offset: Offset(offset),
                leader_epoch: None,
                timestamp_ms: Some(0),
                key: None,
                value: Some(value),
            };
            batcher.push(&partition, record, Instant::now());
        }
        batcher.seal().expect("records were pushed")
    }

    /// Commits the batches one by one; the first flood, if any.
    fn flood(ratio_max: f64, batches: &[(i64, i64)]) -> Option<Flood> {
        let settings = Settings::default();
        let mut brake = Brake::new(ratio_max);
        batches.iter().find_map(|(good, bad)| {
            let batch = batch(*good, *bad);
            let work = Work::decode(&batch, |_| Some(&settings));
            let flood = brake.judge(&work);
            brake.durable(&work);
            flood
        })
    }

    #[test]
    fn a_few_bad_records_are_no_flood() {
        assert_eq!(flood(0.05, &[(0, 99), (9000, 300)]), None);
    }

    #[test]
    fn more_than_the_share_is_a_flood_also_over_several_batches() {
        let flood = flood(0.05, &[(1000, 40), (1000, 40), (1000, 90)]).expect("170 of 3170 are more than 5 %");
        assert_eq!((flood.records_dead, flood.records), (170, 3170));
        assert!(flood.to_string().contains("missing, here first at partition 7 offset 1000;"), "{flood}");
    }

    #[test]
    fn a_whole_batch_is_a_flood_whatever_came_before() {
        assert!(flood(0.05, &[(9990, 0), (0, 100)]).is_some());
        assert_eq!(flood(0.05, &[(9990, 0), (0, 99)]), None);
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        assert!(flood(0.05, &[(9000, 450), (500, 60)]).is_some());
        assert_eq!(flood(0.05, &[(9000, 450), (10_000, 0), (500, 60)]), None);
    }

    #[test]
    fn a_share_of_one_switches_it_off() {
        assert_eq!(flood(1.0, &[(0, 5000)]), None);
    }
}
