//! What the client tells of changes of ownership.

use super::wire::ours;
use crate::record::TopicPartition;
use crate::source::Assignment;
use krafka::consumer::{Consumer, ConsumerRebalanceListener, TopicPartition as WirePartition};
use std::sync::{Arc, OnceLock, Weak};

/// Hands changes of ownership on, from inside the client's poll. It must not wait on anything of the client's: a poll
/// that is cut off there can lose the change. `seek` and `pause` never wait.
pub(super) struct Listener {
    pub(super) assignment: Arc<dyn Assignment>,
    pub(super) consumer: Arc<OnceLock<Weak<Consumer>>>,
}

impl Listener {
    /// For a consumer that exists already.
    pub(super) fn of(assignment: Arc<dyn Assignment>, consumer: &Arc<Consumer>) -> Self {
        let cell = OnceLock::from(Arc::downgrade(consumer));
        Listener { assignment, consumer: Arc::new(cell) }
    }

    /// Pauses partitions that are ours now, and puts them where they are to be read from.
    pub(super) async fn take_over(&self, partitions: &[TopicPartition]) {
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return };
        for partition in partitions {
            consumer.pause(&partition.topic, &[partition.partition]).await;
        }
        let known = self.assignment.assigned(partitions);
        for partition in partitions {
            // A partition without a position would be looked up in the group's offsets. It is paused, so where it
            // stands until it is claimed doesn't matter.
            let next = known.iter().find(|(claimed, _)| claimed == partition).map_or(0, |(_, next)| next.0);
            if let Err(error) = consumer.seek(&partition.topic, partition.partition, next).await {
                log::debug!("seeking partition={partition}: {error}");
            }
        }
    }
}

impl ConsumerRebalanceListener for Listener {
    async fn on_partitions_assigned(&self, partitions: &[WirePartition]) {
        let partitions: Vec<_> = partitions.iter().map(ours).collect();
        self.take_over(&partitions).await;
    }

    async fn on_partitions_revoked(&self, partitions: &[WirePartition]) {
        self.assignment.revoked(&partitions.iter().map(ours).collect::<Vec<_>>());
    }

    async fn on_partitions_lost(&self, partitions: &[WirePartition]) {
        self.assignment.lost(&partitions.iter().map(ours).collect::<Vec<_>>());
    }
}
