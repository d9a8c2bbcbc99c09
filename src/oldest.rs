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
    positions: &BTreeMap<TopicPartition, NextOffset>,
    ends: &BTreeMap<TopicPartition, NextOffset>,
    limit: Duration,
) -> Result<BTreeMap<TopicPartition, Option<i64>>, SourceFault> {
    let mut found = BTreeMap::new();
    if ends.is_empty() {
        return Ok(found);
    }
    let mut topics: Vec<Arc<str>> = ends.keys().map(|partition| partition.topic.clone()).collect();
    topics.dedup();
    source.subscribe(&topics, Arc::new(Positions(positions.clone())))?;
    let deadline = Instant::now() + limit;
    // They are ours from the first poll on, at the latest.
    source.poll(POLL_MAX, &mut |_, _| {})?;
    // One after the other: a client may hand out all that it has of one before it turns to the next.
    for (partition, end) in ends {
        let this = std::slice::from_ref(partition);
        source.seek(partition, positions[partition])?;
        source.resume(this);
        while Instant::now() < deadline {
            source.poll(POLL_MAX, &mut |of, record| {
                found.entry(of.clone()).or_insert(record.timestamp_ms);
            })?;
            // At its end there were only markers, and what compaction has left.
            let mut is_at_end = || source.positions(this).iter().any(|(_, position)| position >= end);
            if found.contains_key(partition) || is_at_end() {
                break;
            }
        }
        source.pause(this);
        // What the client has fetched beyond is of no interest, and would be handed out before the next one's.
        source.seek(partition, *end)?;
    }
    Ok(found)
}
