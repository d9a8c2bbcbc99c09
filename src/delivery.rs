//! Batches on their way to the database, and what may be told to Kafka when they have arrived.
//!
//! Pure. The order of the protocol is in the types: a [`Committable`] comes out of the [`Tracker`] only, the tracker
//! takes in [`Durable`]s only, and those are made by a finished transaction only.

use crate::batch::{Batch, Epoch};
use crate::lane::Seq;
use crate::record::{NextOffset, TopicPartition};
use crate::sink::{Durable, Truth};
use std::collections::BTreeMap;

/// A batch on its way to a writer.
#[derive(Debug)]
pub struct Dispatch {
    /// Its place in the lane.
    pub seq: Seq,
    /// What it carries.
    pub batch: Batch,
}

/// What a writer answers to a dispatch.
#[derive(Debug)]
pub enum Settlement {
    /// It is in the database.
    Durable(Durable),
    /// It is not known to be in the database; what is true must be read again.
    Discarded {
        /// The dispatch.
        seq: Seq,
        /// Why.
        cause: Discard,
    },
}

/// Why a batch was given up.
#[derive(Debug, PartialEq, Eq)]
pub enum Discard {
    /// The lane was stopped, or the process is stopping.
    Cancelled,
    /// Somebody else has claimed these partitions.
    Fenced(Vec<(TopicPartition, Truth)>),
    /// The database no longer agrees with what it had confirmed.
    Disagreement,
}

/// Offsets that are safe to tell Kafka: everything below them is durable.
///
/// Committing early does not compile:
///
/// ```compile_fail,E0451
/// use stock_db_writer::delivery::Committable;
/// let early = Committable { offsets: Default::default() };
/// ```
///
/// ```compile_fail,E0308
/// use stock_db_writer::{delivery::{Committable, Dispatch}, source::Source};
/// fn commit_early(source: &mut dyn Source, dispatch: &Dispatch) {
///     source.commit_offsets(dispatch.batch.intervals());
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "offsets that nobody commits make lag look larger than it is"]
pub struct Committable {
    offsets: BTreeMap<TopicPartition, NextOffset>,
}

impl Committable {
    /// Called after a person's decision was committed in the database.
    pub(crate) fn decided(offsets: BTreeMap<TopicPartition, NextOffset>) -> Self {
        Committable { offsets }
    }

    /// The offsets by partition.
    pub fn offsets(&self) -> &BTreeMap<TopicPartition, NextOffset> {
        &self.offsets
    }
}

#[derive(Debug)]
struct Followed {
    epoch: Epoch,
    durable: NextOffset,
    /// What Kafka was told last, or what it would be told of if nothing moved.
    told: Option<NextOffset>,
}

#[derive(Debug)]
struct InFlight {
    // With the timestamp of the oldest record.
    partitions: BTreeMap<TopicPartition, Option<i64>>,
    bytes: usize,
}

/// Knows what is in flight and what is durable.
#[derive(Debug, Default)]
pub struct Tracker {
    followed: BTreeMap<TopicPartition, Followed>,
    in_flight: BTreeMap<Seq, InFlight>,
}

impl Tracker {
    /// Nothing followed, nothing in flight.
    pub fn new() -> Self {
        Tracker::default()
    }

    /// Follows a partition under a new claim; `durable` is what the claim read in the database.
    pub fn follow(&mut self, partition: TopicPartition, epoch: Epoch, durable: NextOffset) {
        let told = self.followed.get(&partition).and_then(|followed| followed.told);
        self.followed.insert(partition, Followed { epoch, durable, told });
    }

    /// Stops following a partition.
    pub fn forget(&mut self, partition: &TopicPartition) {
        self.followed.remove(partition);
    }

    /// Notes a batch that was handed to the writers.
    pub fn sent(&mut self, dispatch: &Dispatch) {
        let (partitions, bytes) = (dispatch.batch.oldest_ms(), dispatch.batch.bytes());
        self.in_flight.insert(dispatch.seq, InFlight { partitions, bytes });
    }

    /// Notes that a batch is durable. Work of an older claim changes nothing: the newer claim has read the truth.
    pub fn settle(&mut self, durable: Durable) {
        let known = self.in_flight.remove(&durable.seq());
        assert!(known.is_some(), "a batch settles once");
        for interval in durable.intervals() {
            if let Some(followed) = self.followed.get_mut(&interval.partition)
                && followed.epoch == interval.epoch
            {
                followed.durable = followed.durable.max(interval.to);
            }
        }
    }

    /// Notes that a batch was given up.
    pub fn discard(&mut self, seq: Seq) {
        let known = self.in_flight.remove(&seq);
        assert!(known.is_some(), "a batch settles once");
    }

    /// How many batches are in flight.
    pub fn batches_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Their bytes.
    pub fn bytes_in_flight(&self) -> usize {
        self.in_flight.values().map(|batch| batch.bytes).sum()
    }

    /// Whether a batch in flight touches any of these partitions.
    pub fn is_in_flight(&self, partitions: &[TopicPartition]) -> bool {
        self.in_flight.values().any(|batch| partitions.iter().any(|partition| batch.partitions.contains_key(partition)))
    }

    /// The timestamp of the oldest record of a partition that is in flight; `None` if there is none, or none is known.
    pub fn oldest_ms(&self, partition: &TopicPartition) -> Option<i64> {
        self.in_flight.values().filter_map(|batch| *batch.partitions.get(partition)?).min()
    }

    /// Up to where a partition is durable; `None` if it isn't followed.
    pub fn durable(&self, partition: &TopicPartition) -> Option<NextOffset> {
        self.followed.get(partition).map(|followed| followed.durable)
    }

    /// The claim under which a partition is followed, and up to where it is durable, unless something of it is in flight.
    pub fn at_rest(&self, partition: &TopicPartition) -> Option<(Epoch, NextOffset)> {
        let followed = self.followed.get(partition)?;
        (!self.is_in_flight(std::slice::from_ref(partition))).then_some((followed.epoch, followed.durable))
    }

    /// What Kafka can be told since the last call; `None` if nothing has moved.
    pub fn take_committable(&mut self) -> Option<Committable> {
        let mut offsets = BTreeMap::new();
        for (partition, followed) in &mut self.followed {
            if followed.told != Some(followed.durable) {
                followed.told = Some(followed.durable);
                offsets.insert(partition.clone(), followed.durable);
            }
        }
        (!offsets.is_empty()).then_some(Committable { offsets })
    }

    /// Keeps of it what has been seen to be durable, and takes back the rest. A crash of the server may have lost what had
    /// been committed.
    pub fn confirm(
        &mut self,
        committable: Committable,
        durable: &BTreeMap<TopicPartition, NextOffset>,
    ) -> Option<Committable> {
        let is_durable = |partition: &TopicPartition, offset: &NextOffset| {
            durable.get(partition).is_some_and(|durable| durable >= offset)
        };
        let (confirmed, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            committable.offsets.into_iter().partition(|(partition, offset)| is_durable(partition, offset));
        self.not_told(Committable { offsets: lost });
        (!confirmed.is_empty()).then_some(Committable { offsets: confirmed })
    }

    /// Takes back what Kafka could not be told, so that it is offered again.
    pub fn not_told(&mut self, committable: Committable) {
        for partition in committable.offsets.keys() {
            if let Some(followed) = self.followed.get_mut(partition) {
                followed.told = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Batcher, Incoming, Limits};
    use crate::record::Offset;
    use std::time::{Duration, Instant};

    fn partition() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn dispatch(seq: u64, epoch: i64, from: i64, to: i64) -> Dispatch {
        let limits =
            Limits { rows_max: 10, bytes_max: 1000, linger: Duration::from_millis(1), message_bytes_max: 1000 };
        let mut batcher = Batcher::new(limits);
        batcher.follow(partition(), Epoch(epoch), NextOffset(from));
        let record =
            Incoming { offset: Offset(to - 1), leader_epoch: None, timestamp_ms: None, key: None, value: Some(b"x") };
        batcher.push(&partition(), record, Instant::now());
        Dispatch { seq: Seq(seq), batch: batcher.seal().expect("a record was pushed") }
    }

    fn tracker() -> Tracker {
        let mut tracker = Tracker::new();
        tracker.follow(partition(), Epoch(2), NextOffset(10));
        let _ = tracker.take_committable();
        tracker
    }

    fn told(tracker: &mut Tracker) -> Option<i64> {
        tracker.take_committable().map(|committable| committable.offsets()[&partition()].0)
    }

    #[test]
    fn offsets_become_committable_only_when_durable() {
        let (mut tracker, batch) = (tracker(), dispatch(0, 2, 10, 20));
        tracker.sent(&batch);
        assert_eq!(told(&mut tracker), None);
        assert!(tracker.is_in_flight(&[partition()]) && tracker.bytes_in_flight() > 0);
        tracker.settle(Durable::witnessed(batch.seq, &batch.batch));
        assert_eq!(told(&mut tracker), Some(20));
        assert_eq!((told(&mut tracker), tracker.batches_in_flight()), (None, 0));
    }

    #[test]
    fn settlements_that_overtake_each_other_never_move_an_offset_back() {
        let (mut tracker, first, second) = (tracker(), dispatch(0, 2, 10, 20), dispatch(1, 2, 20, 30));
        tracker.sent(&first);
        tracker.sent(&second);
        tracker.settle(Durable::witnessed(second.seq, &second.batch));
        tracker.settle(Durable::witnessed(first.seq, &first.batch));
        assert_eq!(told(&mut tracker), Some(30));
    }

    #[test]
    fn a_settlement_of_an_older_claim_changes_nothing() {
        let (mut tracker, batch) = (tracker(), dispatch(0, 2, 10, 20));
        tracker.sent(&batch);
        tracker.follow(partition(), Epoch(3), NextOffset(10));
        tracker.settle(Durable::witnessed(batch.seq, &batch.batch));
        assert_eq!(tracker.durable(&partition()), Some(NextOffset(10)));
    }

    #[test]
    fn what_kafka_was_not_told_is_offered_again() {
        let (mut tracker, batch) = (tracker(), dispatch(0, 2, 10, 20));
        tracker.sent(&batch);
        tracker.settle(Durable::witnessed(batch.seq, &batch.batch));
        let committable = tracker.take_committable().expect("the batch is durable");
        tracker.not_told(committable);
        assert_eq!(told(&mut tracker), Some(20));
    }

    #[test]
    fn what_a_crash_has_lost_is_not_told() {
        let (mut tracker, batch) = (tracker(), dispatch(0, 2, 10, 20));
        tracker.sent(&batch);
        tracker.settle(Durable::witnessed(batch.seq, &batch.batch));
        for lost in [BTreeMap::new(), [(partition(), NextOffset(19))].into()] {
            let committable = tracker.take_committable().expect("the batch is durable, as far as is known");
            assert_eq!(tracker.confirm(committable, &lost), None);
        }
        let committable = tracker.take_committable().expect("it was offered again");
        assert!(tracker.confirm(committable, &[(partition(), NextOffset(20))].into()).is_some());
        assert_eq!(told(&mut tracker), None);
    }

    #[test]
    #[should_panic(expected = "settles once")]
    fn settling_twice_is_a_bug() {
        let (mut tracker, batch) = (tracker(), dispatch(0, 2, 10, 20));
        tracker.sent(&batch);
        tracker.settle(Durable::witnessed(batch.seq, &batch.batch));
        tracker.discard(batch.seq);
    }
}
