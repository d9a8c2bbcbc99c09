//! Groups records until a size limit or the linger time is reached, and says which positions each batch covers.
//!
//! Pure: the caller passes the time in. Nothing here knows about Kafka, PostgreSQL or threads. Records are copied into
//! one buffer per batch, because a client's record keeps its whole fetched batch alive.

use crate::record::{LeaderEpoch, NextOffset, Offset, Record, TopicPartition, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Counts the claims of a partition; a claim makes all work of older epochs void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// Who wrote the last record of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// There is no record in it.
    Nothing,
    /// Neither the client nor the record says.
    Unsaid,
    /// The leader of this epoch.
    By(LeaderEpoch),
}

/// The positions `[from, to)` of one partition. It covers what carries no record too: compaction holes, transaction
/// markers, aborted records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The partition.
    pub partition: TopicPartition,
    /// The first position covered.
    pub from: NextOffset,
    /// The position after the last one covered; above `from`.
    pub to: NextOffset,
    /// The claim under which it was read.
    pub epoch: Epoch,
    /// Who wrote its last record.
    pub written: Written,
}

/// When a batch is closed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records in a batch, at most.
    pub rows_max: usize,
    /// Bytes of keys and values, at most, but for a single record that is larger.
    pub bytes_max: usize,
    /// How long a batch waits for more records.
    pub linger: Duration,
    /// A value of more bytes than this is kept as length and digest only.
    pub message_bytes_max: usize,
}

/// Records and intervals that share one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    // In (topic, partition) order, the order in which their rows are locked.
    intervals: Vec<Interval>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Entry {
    interval_idx: u32,
    offset: Offset,
    timestamp_ms: Option<i64>,
    key: Option<Range<u32>>,
    value: Kept,
}

#[derive(Debug, Clone)]
enum Kept {
    Null,
    Bytes(Range<u32>),
    // Boxed because it is rare and large.
    TooLarge(Box<(u64, [u8; 32])>),
}

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = std::mem::size_of::<Entry>();

impl Batch {
    /// What it covers, in (topic, partition) order.
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it only moves positions.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * ENTRY_BYTES
    }

    /// The timestamps of its records in Kafka, in milliseconds since the epoch, where they have one.
    pub fn timestamps_ms(&self) -> impl Iterator<Item = i64> {
        self.entries.iter().filter_map(|entry| entry.timestamp_ms)
    }

    /// The partitions that it covers, each with the timestamp of its oldest record, if it has any.
    pub fn oldest_ms(&self) -> BTreeMap<TopicPartition, Option<i64>> {
        let mut oldest: Vec<Option<i64>> = vec![None; self.intervals.len()];
        for entry in &self.entries {
            let oldest = &mut oldest[entry.interval_idx as usize];
            *oldest = earlier(*oldest, entry.timestamp_ms);
        }
        self.intervals.iter().map(|interval| interval.partition.clone()).zip(oldest).collect()
    }

    /// The index of a record's interval.
    pub fn interval_of(&self, record_idx: usize) -> usize {
        self.entries[record_idx].interval_idx as usize
    }

    /// One record, with the index of its interval.
    pub fn record(&self, record_idx: usize) -> (usize, Record<'_>) {
        let entry = &self.entries[record_idx];
        let slice = |range: &Range<u32>| &self.bytes[range.start as usize..range.end as usize];
        let partition = &self.intervals[entry.interval_idx as usize].partition;
        let record = Record {
            topic: &partition.topic,
            partition: partition.partition,
            offset: entry.offset,
            timestamp_ms: entry.timestamp_ms,
            key: entry.key.as_ref().map(slice),
            value: match &entry.value {
                Kept::Null => Value::Null,
                Kept::Bytes(range) => Value::Bytes(slice(range)),
                Kept::TooLarge(digest) => Value::TooLarge { bytes: digest.0, sha256: digest.1 },
            },
        };
        (entry.interval_idx as usize, record)
    }
}

/// How far one partition has been read.
#[derive(Debug)]
struct Cursor {
    epoch: Epoch,
    /// Everything below is in a sealed batch.
    sealed: NextOffset,
    /// Everything below is in a sealed batch or in the open one.
    read: NextOffset,
    /// Who wrote the last record of the open batch.
    written: Written,
    /// The partition's number in `Batcher::entries`.
    number: u32,
}

/// Fills one batch at a time.
#[derive(Debug)]
pub struct Batcher {
    limits: Limits,
    cursors: BTreeMap<TopicPartition, Cursor>,
    next_number: u32,
    // `interval_idx` holds the cursor's number until the batch is sealed.
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    // Set while there is anything to seal.
    opened_at: Option<Instant>,
}

impl Batcher {
    /// An empty batcher that follows no partition.
    pub fn new(limits: Limits) -> Self {
        Batcher {
            limits,
            cursors: BTreeMap::new(),
            next_number: 0,
            entries: Vec::new(),
            bytes: Vec::new(),
            opened_at: None,
        }
    }

    /// Follows a partition from `next` on, under the claim `epoch`; forgets what was read of it before.
    pub fn follow(&mut self, partition: TopicPartition, epoch: Epoch, next: NextOffset) {
        self.forget(&partition);
        let number = self.next_number;
        self.next_number += 1;
        self.cursors.insert(partition, Cursor { epoch, sealed: next, read: next, written: Written::Nothing, number });
    }

    /// Stops following a partition and cuts it out of the open batch.
    pub fn forget(&mut self, partition: &TopicPartition) {
        let Some(cursor) = self.cursors.remove(partition) else { return };
        // Its bytes stay in the buffer until the batch is sealed: rare, and bounded by the batch's own limit.
        self.entries.retain(|entry| entry.interval_idx != cursor.number);
        self.settle_opened_at();
    }

    /// Where the partition has been read to; `None` if it isn't followed.
    pub fn read_to(&self, partition: &TopicPartition) -> Option<NextOffset> {
        self.cursors.get(partition).map(|cursor| cursor.read)
    }

    /// Below which position everything is in a closed batch; `None` if the partition isn't followed.
    pub fn sealed_to(&self, partition: &TopicPartition) -> Option<NextOffset> {
        self.cursors.get(partition).map(|cursor| cursor.sealed)
    }

    /// Takes one record in. The caller has made sure that its partition is followed and that it isn't below
    /// [`read_to`](Self::read_to).
    pub fn push(&mut self, partition: &TopicPartition, record: Incoming<'_>, now: Instant) {
        let cursor = self.cursors.get_mut(partition).expect("only records of followed partitions are pushed");
        assert!(record.offset.0 >= cursor.read.0, "a record is never taken in twice");
        cursor.read = record.offset.next();
        cursor.written = record.leader_epoch.map_or(Written::Unsaid, Written::By);
        let interval_idx = cursor.number;
        let key = record.key.map(|key| self.keep(key));
        let value = match record.value {
            None => Kept::Null,
            Some(value) if value.len() > self.limits.message_bytes_max => {
                Kept::TooLarge(Box::new((value.len() as u64, Sha256::digest(value).into())))
            }
            Some(value) => Kept::Bytes(self.keep(value)),
        };
        self.entries.push(Entry { interval_idx, offset: record.offset, timestamp_ms: record.timestamp_ms, key, value });
        self.opened_at.get_or_insert(now);
    }

    /// Notes that a partition has been read to `position`, with or without records.
    pub fn advance(&mut self, partition: &TopicPartition, position: NextOffset, now: Instant) {
        if let Some(cursor) = self.cursors.get_mut(partition)
            && position > cursor.read
        {
            cursor.read = position;
            self.opened_at.get_or_insert(now);
        }
    }

    /// Whether the open batch has reached a size limit.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.limits.rows_max || self.bytes.len() >= self.limits.bytes_max
    }

    /// When the open batch's linger ends; `None` while there is nothing to seal.
    pub fn due_at(&self) -> Option<Instant> {
        self.opened_at.map(|opened_at| opened_at + self.limits.linger)
    }

    /// The timestamp of the oldest record of each partition in the open batch.
    pub fn open_oldest_ms(&self) -> BTreeMap<TopicPartition, Option<i64>> {
        let mut oldest: BTreeMap<u32, Option<i64>> = BTreeMap::new();
        for entry in &self.entries {
            let oldest = oldest.entry(entry.interval_idx).or_default();
            *oldest = earlier(*oldest, entry.timestamp_ms);
        }
        let of =
            |(partition, cursor): (&TopicPartition, &Cursor)| Some((partition.clone(), *oldest.get(&cursor.number)?));
        self.cursors.iter().filter_map(of).collect()
    }

    /// What the open batch takes in memory.
    pub fn open_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * ENTRY_BYTES
    }

    /// Closes the open batch over everything read so far, of all partitions; `None` if nothing has moved.
    pub fn seal(&mut self) -> Option<Batch> {
        self.opened_at.take()?;
        let mut intervals = Vec::new();
        let mut index_of_number = BTreeMap::new();
        for (partition, cursor) in &mut self.cursors {
            if cursor.read > cursor.sealed {
                index_of_number.insert(cursor.number, intervals.len() as u32);
                intervals.push(Interval {
                    partition: partition.clone(),
                    from: cursor.sealed,
                    to: cursor.read,
                    epoch: cursor.epoch,
                    written: std::mem::replace(&mut cursor.written, Written::Nothing),
                });
                cursor.sealed = cursor.read;
            }
        }
        let (mut last, mut entries) = ((u32::MAX, 0), std::mem::take(&mut self.entries));
        for entry in &mut entries {
            if entry.interval_idx != last.0 {
                last = (entry.interval_idx, index_of_number[&entry.interval_idx]);
            }
            entry.interval_idx = last.1;
        }
        let bytes = std::mem::take(&mut self.bytes);
        (!intervals.is_empty()).then_some(Batch { intervals, entries, bytes })
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let range = u32::try_from(start).and_then(|start| Ok(start..u32::try_from(self.bytes.len())?));
        range.expect("a batch ends at bytes_max plus one message, far below 4 GiB")
    }

    fn settle_opened_at(&mut self) {
        if self.cursors.values().all(|cursor| cursor.read == cursor.sealed) {
            self.opened_at = None;
        }
    }
}

/// The earlier of two times, as far as they are known.
pub fn earlier(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    [a, b].into_iter().flatten().min()
}

/// A record as a client hands it out.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its place.
    pub offset: Offset,
    /// Which leader wrote it, as far as it and the client say.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Its timestamp in milliseconds since the epoch, if it has one.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(200);

    fn batcher(rows_max: usize) -> Batcher {
        Batcher::new(Limits { rows_max, bytes_max: 1000, linger: LINGER, message_bytes_max: 100 })
    }

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    fn push(batcher: &mut Batcher, number: i32, offset: i64, value: Option<&[u8]>, now: Instant) {
        let record =
            Incoming { offset: Offset(offset), leader_epoch: None, timestamp_ms: Some(5), key: Some(b"k"), value };
        batcher.push(&partition(number), record, now);
    }

    fn intervals(batch: &Batch) -> Vec<(i32, i64, i64)> {
        batch.intervals().iter().map(|i| (i.partition.partition, i.from.0, i.to.0)).collect()
    }

    #[test]
    fn intervals_form_an_unbroken_chain_over_holes() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(5));
        push(&mut batcher, 0, 7, Some(b"a"), now);
        assert_eq!(intervals(&batcher.seal().expect("a record was pushed")), [(0, 5, 8)]);
        push(&mut batcher, 0, 9, Some(b"b"), now);
        batcher.advance(&partition(0), NextOffset(12), now);
        assert_eq!(intervals(&batcher.seal().expect("a record was pushed")), [(0, 8, 12)]);
        assert!(batcher.seal().is_none());
    }

    #[test]
    fn a_partition_that_has_not_moved_is_not_in_the_batch() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        for number in 0..3 {
            batcher.follow(partition(number), Epoch(1), NextOffset(0));
        }
        push(&mut batcher, 1, 0, Some(b"a"), now);
        push(&mut batcher, 2, 0, Some(b"b"), now);
        let batch = batcher.seal().expect("records were pushed");
        assert_eq!(intervals(&batch), [(1, 0, 1), (2, 0, 1)]);
        assert_eq!([batch.interval_of(0), batch.interval_of(1)], [0, 1]);
    }

    #[test]
    fn the_oldest_record_of_a_partition_counts() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(0));
        for (offset, timestamp_ms) in [(0, None), (1, Some(7)), (2, Some(3)), (3, Some(9))] {
            let record = Incoming { offset: Offset(offset), leader_epoch: None, timestamp_ms, key: None, value: None };
            batcher.push(&partition(0), record, now);
        }
        let batch = batcher.seal().expect("records were pushed");
        assert_eq!(batch.oldest_ms(), [(partition(0), Some(3))].into());
        assert!(batch.bytes() >= 4 * ENTRY_BYTES && batch.bytes() < 64 * ENTRY_BYTES, "{}", batch.bytes());
    }

    #[test]
    fn a_position_that_moves_without_records_is_sealed_after_the_linger() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(0));
        assert_eq!(batcher.due_at(), None);
        batcher.advance(&partition(0), NextOffset(3), now);
        assert_eq!(batcher.due_at(), Some(now + LINGER));
        let batch = batcher.seal().expect("the position moved");
        assert!(batch.is_empty());
        assert_eq!(intervals(&batch), [(0, 0, 3)]);
    }

    #[test]
    fn a_forgotten_partition_is_cut_out_and_its_neighbours_stay() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        for number in 0..3 {
            batcher.follow(partition(number), Epoch(1), NextOffset(0));
            push(&mut batcher, number, 0, Some(&[number as u8]), now);
        }
        batcher.forget(&partition(1));
        let batch = batcher.seal().expect("two partitions are left");
        assert_eq!(intervals(&batch), [(0, 0, 1), (2, 0, 1)]);
        let (idx, record) = batch.record(1);
        assert_eq!((idx, record.partition, record.value, record.key), (1, 2, Value::Bytes(&[2]), Some(&b"k"[..])));
    }

    #[test]
    fn forgetting_the_last_partition_leaves_nothing_to_seal() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(0));
        push(&mut batcher, 0, 0, None, now);
        batcher.forget(&partition(0));
        assert_eq!(batcher.due_at(), None);
        assert!(batcher.seal().is_none());
    }

    #[test]
    fn the_last_record_of_an_interval_says_who_wrote_it() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(0));
        let (by_3, by_4) = (Some(LeaderEpoch(3)), Some(LeaderEpoch(4)));
        for (n, (epochs, written)) in [
            (vec![by_3, by_4], Written::By(LeaderEpoch(4))),
            (vec![], Written::Nothing),
            (vec![by_4, None], Written::Unsaid),
        ]
        .into_iter()
        .enumerate()
        {
            for (idx, leader_epoch) in epochs.into_iter().enumerate() {
                let offset = Offset((10 * n + idx) as i64);
                let record = Incoming { offset, leader_epoch, timestamp_ms: None, key: None, value: None };
                batcher.push(&partition(0), record, now);
            }
            batcher.advance(&partition(0), NextOffset((10 * n + 9) as i64), now);
            assert_eq!(batcher.seal().expect("the position moved").intervals()[0].written, written);
        }
    }

    #[test]
    fn a_batch_is_full_by_records_or_by_bytes() {
        let (mut by_rows, now) = (batcher(2), Instant::now());
        by_rows.follow(partition(0), Epoch(1), NextOffset(0));
        push(&mut by_rows, 0, 0, Some(b"a"), now);
        assert!(!by_rows.is_full());
        push(&mut by_rows, 0, 1, None, now);
        assert!(by_rows.is_full());
        let mut by_bytes = batcher(1000);
        by_bytes.follow(partition(0), Epoch(1), NextOffset(0));
        for offset in 0..10 {
            assert!(!by_bytes.is_full());
            push(&mut by_bytes, 0, offset, Some(&[0; 100]), now);
        }
        assert!(by_bytes.is_full());
    }

    #[test]
    fn a_message_over_the_limit_is_kept_as_length_and_digest() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(0));
        push(&mut batcher, 0, 0, Some(&[0; 101]), now);
        push(&mut batcher, 0, 1, Some(&[0; 100]), now);
        let batch = batcher.seal().expect("records were pushed");
        assert!(matches!(batch.record(0).1.value, Value::TooLarge { bytes: 101, .. }));
        assert!(matches!(batch.record(1).1.value, Value::Bytes(value) if value.len() == 100));
    }

    #[test]
    fn following_again_starts_over_under_the_new_epoch() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(0));
        push(&mut batcher, 0, 0, None, now);
        batcher.follow(partition(0), Epoch(2), NextOffset(0));
        assert_eq!(batcher.read_to(&partition(0)), Some(NextOffset(0)));
        push(&mut batcher, 0, 0, None, now);
        let batch = batcher.seal().expect("a record was pushed");
        assert_eq!((batch.len(), batch.intervals()[0].epoch), (1, Epoch(2)));
    }

    #[test]
    #[should_panic(expected = "never taken in twice")]
    fn a_record_below_the_position_is_a_bug() {
        let (mut batcher, now) = (batcher(10), Instant::now());
        batcher.follow(partition(0), Epoch(1), NextOffset(5));
        push(&mut batcher, 0, 4, None, now);
    }
}
