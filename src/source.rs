//! What the consumer needs of Kafka: records from positions that we choose, and news about who owns what.
//!
//! No client's types pass through here. Where reading starts is always our decision: an engine never uses the offsets
//! that Kafka keeps for the group, and never resets a position by itself.

pub mod fault;
#[cfg(feature = "client-kafka")]
pub mod kafka;
#[cfg(feature = "client-krafka")]
pub mod krafka;
pub mod relay;

pub use crate::record::StartAt;
pub use fault::SourceFault;

use crate::batch::Incoming;
use crate::config::{Client, Kafka};
use crate::delivery::Committable;
use crate::record::{LeaderEpoch, NextOffset, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A topic as the brokers describe it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Changes when a topic is deleted and created again; `None` where the brokers or the client know no ids.
    pub topic_id: Option<[u8; 16]>,
    /// Partitions, numbered from 0.
    pub partitions: i32,
    /// Whether the brokers let us read it, as far as they say. A fetch that is denied looks like no records.
    pub may_read: bool,
}

impl TopicState {
    /// A fault if we may not read it.
    pub fn readable(&self, topic: &str) -> Result<(), SourceFault> {
        match self.may_read {
            true => Ok(()),
            false => Err(SourceFault::Denied(format!(
                "topic {topic:?} may be described but not read; give our Kafka user READ on it"
            ))),
        }
    }
}

/// The ends of a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset still there.
    pub start: NextOffset,
    /// Where a reader that skips open transactions ends.
    pub last_stable: NextOffset,
    /// The broker's end of the partition.
    pub high_watermark: NextOffset,
}

/// Connects by the client that the configuration names; one attempt.
pub fn connect(config: &Kafka) -> Result<Box<dyn Source>, SourceFault> {
    match config.client {
        #[cfg(feature = "client-krafka")]
        Client::Krafka => Ok(Box::new(krafka::KrafkaSource::connect(config)?)),
        #[cfg(feature = "client-kafka")]
        Client::Kafka => Ok(Box::new(kafka::KafkaSource::connect(config)?)),
    }
}

/// Told of changes of ownership, from inside [`Source`]'s methods that change a subscription, poll, or close.
pub trait Assignment: Send + Sync {
    /// These partitions are ours now. Answers where to read from; what isn't in the answer is not to be read yet. All
    /// of them start paused.
    fn assigned(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)>;

    /// These partitions are about to be somebody else's, who waits until this returns.
    fn revoked(&self, partitions: &[TopicPartition]);

    /// These partitions are somebody else's already.
    fn lost(&self, partitions: &[TopicPartition]);
}

/// Takes in what a poll hands out.
pub type OnRecord<'a> = dyn FnMut(&TopicPartition, Incoming<'_>) + 'a;

/// A Kafka client. Used by one thread.
pub trait Source {
    /// The identity of the cluster; `None` where the client can't tell.
    fn cluster_id(&mut self) -> Result<Option<String>, SourceFault>;

    /// The names of all topics that we may see, asked of the brokers now.
    fn topic_names(&mut self) -> Result<BTreeSet<Arc<str>>, SourceFault>;

    /// The topics as the brokers know them now, never from a cache. One that does not exist is a fault.
    fn topics(&mut self, names: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, TopicState>, SourceFault>;

    /// The ends of some partitions' logs, asked of the brokers now. A partition whose leader does not answer is absent.
    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Bounds>, SourceFault>;

    /// Where in each partition's log, as its leader has it now, the records end that were written in this leader epoch or
    /// before it; the end of the log where no later leader has written anything (KIP-320). `Some(None)` where the
    /// client or the brokers can't tell; a partition whose leader does not answer is absent.
    fn epoch_ends(
        &mut self,
        epochs: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>, SourceFault>;

    /// Resolves where a new pipeline starts.
    fn start_offsets(
        &mut self,
        partitions: &[TopicPartition],
        start_at: StartAt,
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault>;

    /// Where the group's offsets in Kafka are; a partition without one is absent. Information only.
    fn committed_offsets(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault>;

    /// Starts reading these topics as the configuration says: what the group gives us, all partitions, or of the listed
    /// ones those that exist. May be none, if [`resubscribe`](Self::resubscribe) is to follow.
    fn subscribe(&mut self, topics: &[Arc<str>], assignment: Arc<dyn Assignment>) -> Result<(), SourceFault>;

    /// Reads these topics from now on, and none of the others that were subscribed to; `states` is what
    /// [`topics`](Self::topics) said. Whatever changes hands is told by the callbacks, from in here or from the next
    /// polls; also partitions of topics that stay may be given up and assigned again. After a fault it is to be called
    /// again.
    fn resubscribe(&mut self, states: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault>;

    /// Makes a topic's newly added partitions known to the assignment; `counts` is what [`topics`](Self::topics) said.
    fn partitions_added(&mut self, counts: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault>;

    /// Waits at most `timeout` for records of partitions that are not paused. An outage is not an error: it looks like
    /// no records, and [`away_since`](Self::away_since) tells. Returns the partitions whose position the broker no
    /// longer has.
    fn poll(&mut self, timeout: Duration, on_record: &mut OnRecord<'_>) -> Result<Vec<TopicPartition>, SourceFault>;

    /// Where these partitions have been read to. Exact right after a poll: everything below was handed out or carries
    /// no record.
    fn positions(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)>;

    /// Reads a partition from here on.
    fn seek(&mut self, partition: &TopicPartition, next: NextOffset) -> Result<(), SourceFault>;

    /// Hands out no records of these partitions until resumed.
    fn pause(&mut self, partitions: &[TopicPartition]);

    /// The opposite of [`pause`](Self::pause).
    fn resume(&mut self, partitions: &[TopicPartition]);

    /// Tells Kafka what is durable, for those who watch the group's lag. Never read to decide where to start.
    fn commit_offsets(&mut self, committable: &Committable) -> Result<(), SourceFault>;

    /// The same for one that is no member: an administrator, who moves a group that has none. A group that has members
    /// refuses it.
    fn commit_from_outside(&mut self, committable: &Committable) -> Result<(), SourceFault>;

    /// Since when no broker has answered.
    fn away_since(&self) -> Option<Instant>;

    /// Leaves the group.
    fn close(&mut self);
}
