//! Reads the newest records of a topic: without a group, without writing anything, and to an end.
//!
//! Which they are is found by reading the ends of the partitions once for the records' times, then they are read again:
//! so it never holds more than their places, however large they are. It ends by position and not by count, because what
//! compaction, markers and aborted transactions have left at the end of a log is no record.

use crate::batch::Incoming;
use crate::record::{NextOffset, Offset, TopicPartition};
use crate::source::{Assignment, Bounds, Source, SourceFault};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One poll, at most.
const POLL_MAX: Duration = Duration::from_millis(500);
/// A partition that gives nothing for so long is looked at.
const STALL_MAX: Duration = Duration::from_secs(3);

/// Where the partitions of a topic start and end.
pub type Logs = BTreeMap<TopicPartition, Bounds>;

/// The offsets of some records by partition, in order.
pub type Places = BTreeMap<TopicPartition, Vec<Offset>>;

/// A record's place in the order of age.
type Age = (Option<i64>, TopicPartition, Offset);

/// All partitions start where they end: [`Newest`] seeks before it reads.
struct Ends(Vec<(TopicPartition, NextOffset)>);

impl Assignment for Ends {
    fn assigned(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        self.0.iter().filter(|(partition, _)| partitions.contains(partition)).cloned().collect()
    }

    fn revoked(&self, _: &[TopicPartition]) {}

    fn lost(&self, _: &[TopicPartition]) {}
}

/// Reads a topic from near its end.
pub struct Newest<'s> {
    source: &'s mut dyn Source,
    logs: Logs,
    away_max: Duration,
}

impl<'s> Newest<'s> {
    /// Starts to read a topic with these logs. The source must be one that reads all partitions, without a group.
    pub fn subscribe(source: &mut dyn Source, topic: &Arc<str>, logs: &Logs) -> Result<(), SourceFault> {
        let ends = logs.iter().map(|(partition, bounds)| (partition.clone(), bounds.last_stable)).collect();
        source.subscribe(std::slice::from_ref(topic), Arc::new(Ends(ends)))
    }

    /// Reads by a source that is subscribed. A cluster that is away for longer than `away_max` is not waited for.
    pub fn new(source: &'s mut dyn Source, logs: Logs, away_max: Duration) -> Self {
        Newest { source, logs, away_max }
    }

    /// Where the newest `n` records are, by time, partition and offset, among the last `n` of each partition.
    /// `on_read` is told how many have been looked at.
    pub fn find(&mut self, n: usize, on_read: &mut dyn FnMut(u64)) -> Result<Places, SourceFault> {
        let mut newest: BinaryHeap<Reverse<Age>> = BinaryHeap::new();
        let mut n_read = 0;
        for (partition, bounds) in self.logs.clone() {
            for (timestamp_ms, offset) in self.last_of(&partition, bounds, n, &mut n_read, on_read)? {
                newest.push(Reverse((timestamp_ms, partition.clone(), offset)));
                if newest.len() > n {
                    newest.pop();
                }
            }
        }
        let mut places = Places::new();
        for Reverse((_, partition, offset)) in newest {
            places.entry(partition).or_default().push(offset);
        }
        places.values_mut().for_each(|offsets| offsets.sort_unstable());
        Ok(places)
    }

    /// The last `n` records of a partition, with their times. Not every offset has one, so it goes back as far as it
    /// must, each time twice as far.
    fn last_of(
        &mut self,
        partition: &TopicPartition,
        bounds: Bounds,
        n: usize,
        n_read: &mut u64,
        on_read: &mut dyn FnMut(u64),
    ) -> Result<VecDeque<(Option<i64>, Offset)>, SourceFault> {
        let mut last = VecDeque::new();
        let mut to = bounds.last_stable;
        let mut distance = i64::try_from(n).unwrap_or(i64::MAX);
        while last.len() < n && to > bounds.start {
            let from = NextOffset(to.0.saturating_sub(distance)).max(bounds.start);
            let mut found = VecDeque::new();
            self.scan(partition, from, to, &mut |record| {
                found.push_back((record.timestamp_ms, record.offset));
                if found.len() > n - last.len() {
                    found.pop_front();
                }
                *n_read += 1;
                on_read(*n_read);
                Ok::<_, SourceFault>(())
            })?;
            found.append(&mut last);
            last = found;
            to = from;
            distance = distance.saturating_mul(2);
        }
        Ok(last)
    }

    /// Reads the records at these places, partition by partition, in the order of offsets. What has been deleted in
    /// the meantime is left out.
    pub fn read<E: From<SourceFault>>(
        &mut self,
        places: &Places,
        on_record: &mut dyn FnMut(&TopicPartition, Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (partition, offsets) in places {
            let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { continue };
            self.scan(partition, NextOffset(first.0), last.next(), &mut |record| match offsets
                .binary_search(&record.offset)
            {
                Ok(_) => on_record(partition, record),
                Err(_) => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Hands on the records of one partition in `[from, to)`.
    fn scan<E: From<SourceFault>>(
        &mut self,
        partition: &TopicPartition,
        from: NextOffset,
        mut to: NextOffset,
        on_record: &mut dyn FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let this = std::slice::from_ref(partition);
        self.source.seek(partition, from)?;
        self.source.resume(this);
        let (mut read_to, mut moved_at) = (from, Instant::now());
        let mut looked_at = moved_at;
        while read_to < to {
            let before = read_to;
            let mut outcome = Ok(());
            let out_of_range = self.source.poll(POLL_MAX, &mut |of, record| {
                // Another one's, or read before.
                if of != partition || read_to.is_past(record.offset) || outcome.is_err() {
                    return;
                }
                read_to = record.offset.next();
                if to.is_past(record.offset) {
                    outcome = on_record(record);
                }
            })?;
            outcome?;
            for (_, position) in self.source.positions(this) {
                read_to = read_to.max(position);
            }
            if read_to > before {
                moved_at = Instant::now();
            } else if let Some(since) = self.source.away_since() {
                self.check_patience(since, "the cluster")?;
            } else if !out_of_range.is_empty() || looked_at.max(moved_at).elapsed() > STALL_MAX {
                looked_at = Instant::now();
                self.check_patience(moved_at, &format!("partition {partition}"))?;
                (read_to, to) = self.look(partition, read_to, to)?;
            }
        }
        // What the client has fetched beyond is of no interest.
        self.source.pause(this);
        self.source.seek(partition, to)?;
        Ok(())
    }

    fn check_patience(&self, since: Instant, who: &str) -> Result<(), SourceFault> {
        match since.elapsed() > self.away_max {
            true => {
                let limit_s = self.away_max.as_secs();
                Err(SourceFault::Away(format!("{who} gave nothing for {limit_s} s (retry.max_outage_s)")))
            }
            false => Ok(()),
        }
    }

    /// Why does a partition give nothing? Its log may have lost its beginning or its end, or the topic is gone.
    fn look(
        &mut self,
        partition: &TopicPartition,
        read_to: NextOffset,
        to: NextOffset,
    ) -> Result<(NextOffset, NextOffset), SourceFault> {
        let this = std::slice::from_ref(partition);
        let bounds = match self.source.topics(std::slice::from_ref(&partition.topic)) {
            Ok(_) => self.source.bounds(this),
            Err(fault) => Err(fault),
        };
        match bounds {
            Ok(bounds) => {
                let Some(bounds) = bounds.get(partition) else { return Ok((read_to, to)) };
                if bounds.start > read_to {
                    self.source.seek(partition, bounds.start)?;
                }
                Ok((read_to.max(bounds.start), to.min(bounds.high_watermark)))
            }
            // The next poll notices.
            Err(SourceFault::Away(_)) => Ok((read_to, to)),
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests;
