//! Partitions that the configuration assigns, without a group.

use super::listener::Listener;
use super::wire::within;
use super::{KrafkaSource, REQUEST_TIMEOUT};
use crate::record::TopicPartition;
use crate::source::{SourceFault, TopicState};
use std::collections::BTreeMap;
use std::sync::Arc;

impl KrafkaSource {
    /// Assigns what the configuration names and is not assigned yet.
    pub(super) fn assign(&mut self, counts: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        let (Some(consumer), Some(assignment)) = (self.consumer.clone(), self.assignment.clone()) else {
            return Ok(());
        };
        let mut taken = Vec::new();
        let assigned = counts.iter().try_for_each(|(topic, state)| {
            let mine = self.config.assignment.read(state.partitions);
            let new: Vec<TopicPartition> = mine
                .iter()
                .map(|number| TopicPartition::new(topic.clone(), *number))
                .filter(|partition| !self.sought.contains(partition))
                .collect();
            if !new.is_empty() {
                self.runtime.block_on(within(REQUEST_TIMEOUT, consumer.assign(topic, mine)))?;
                taken.extend(new);
            }
            Ok(())
        });
        // At once, whatever came of the others: a partition without a position would keep every poll from reading.
        if !taken.is_empty() {
            self.runtime.block_on(Listener::of(assignment, &consumer).take_over(&taken));
            self.sought.extend(taken);
        }
        assigned
    }

    /// Gives up all partitions of a topic.
    pub(super) fn unassign(&mut self, topic: &Arc<str>) -> Result<(), SourceFault> {
        let (consumer, Some(assignment)) = (self.consumer()?, self.assignment.clone()) else { return Ok(()) };
        let partitions: Vec<TopicPartition> = self.sought.iter().filter(|p| p.topic == *topic).cloned().collect();
        assignment.revoked(&partitions);
        self.runtime.block_on(within(REQUEST_TIMEOUT, consumer.assign(topic, Vec::new())))?;
        for partition in &partitions {
            self.sought.remove(partition);
            self.paused.remove(partition);
        }
        Ok(())
    }
}
