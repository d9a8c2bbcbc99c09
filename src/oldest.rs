//! Since when records wait: reads the first record from a position on, of many partitions at once, without a group.

use crate::record::{NextOffset, TopicPartition};
use crate::source::{Assignment, Source, SourceFault};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One poll, at most.
const POLL_MAX: Duration = Duration::from_millis(200);

/// Where the partitions are read from. One that is not known is paused, and where it stands does not matter.
struct Positions(BTreeMap<TopicPartition, NextOffset>);

impl Assignment for Positions {
    fn assigned(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        let position = |partition: &TopicPartition| self.0.get(partition).copied().unwrap_or(NextOffset(0));
        partitions.iter().map(|partition| (partition.clone(), position(partition))).collect()
    }

    fn revoked(&self, _: &[TopicPartition]) {}

    fn lost(&self, _: &[TopicPartition]) {}
}

/// The timestamps, in milliseconds since the epoch, of the first records at or after these positions, for the
/// partitions of `ends` and below the end that is given there. Those of which none is found within `limit`, or which
/// have none, are absent. The source must be one that reads all partitions, without a group.
pub fn timestamps_ms(
    source: &mut dyn Source,
    positions: BTreeMap<TopicPartition, NextOffset>,
    ends: &BTreeMap<TopicPartition, NextOffset>,
    limit: Duration,
) -> Result<BTreeMap<TopicPartition, Option<i64>>, SourceFault> {
    let mut found = BTreeMap::new();
    if ends.is_empty() {
        return Ok(found);
    }
    let mut topics: Vec<Arc<str>> = ends.keys().map(|partition| partition.topic.clone()).collect();
    topics.dedup();
    source.subscribe(&topics, Arc::new(Positions(positions)))?;
    let mut waiting: Vec<TopicPartition> = ends.keys().cloned().collect();
    let deadline = Instant::now() + limit;
    let mut has_resumed = false;
    while !waiting.is_empty() && Instant::now() < deadline {
        source.poll(POLL_MAX, &mut |partition, record| {
            found.entry(partition.clone()).or_insert(record.timestamp_ms);
        })?;
        if !has_resumed {
            // They are ours from the first poll on, at the latest.
            source.resume(&waiting);
            has_resumed = true;
        }
        let read_to: BTreeMap<_, _> = source.positions(&waiting).into_iter().collect();
        let is_done = |partition: &TopicPartition| {
            // Nothing but markers and what compaction has left: there is no record to be found.
            let is_at_end = read_to.get(partition).is_some_and(|position| *position >= ends[partition]);
            found.contains_key(partition) || is_at_end
        };
        let (done, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_done);
        source.pause(&done);
        waiting = left;
    }
    Ok(found)
}
