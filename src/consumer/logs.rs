//! Whether the logs are still those that are followed: ids, partitions, positions.

use super::Consumer;
use super::flow::locked;
use crate::clock;
use crate::exit::Stop;
use crate::ledger::{LogIdentity, same_log};
use crate::source::{SourceFault, TopicState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the topics' identity is looked at, while records flow and while none do.
const TOPICS_INTERVAL_BUSY: Duration = Duration::from_secs(1);
const TOPICS_INTERVAL_IDLE: Duration = Duration::from_secs(10);
/// How often what is in the database is compared with what we believe of it.
const STANDINGS_INTERVAL: Duration = Duration::from_secs(10);

impl Consumer<'_> {
    /// Makes sure that what was read came from the logs that are followed. A topic that was deleted and created again is
    /// read on at the old offset without a word; but its old id never comes back, so the old id *after* the last record
    /// was read proves where the records came from.
    pub(super) fn verify_sealed(&mut self) -> Result<(), Stop> {
        let mut topics = locked(&self.flow).sealed_topics();
        while !topics.is_empty() {
            match self.source.topics(&topics) {
                Ok(states) => {
                    self.compare_ids(&states)?;
                    break;
                }
                // Deleted and not there again: what was read is the last of it.
                Err(SourceFault::MissingTopic(missing)) => topics.retain(|topic| **topic != *missing),
                Err(fault @ SourceFault::Away(_)) => {
                    log::debug!("{fault}");
                    return Ok(());
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        locked(&self.flow).mark_verified();
        Ok(())
    }

    fn compare_ids(&self, states: &BTreeMap<Arc<str>, TopicState>) -> Result<(), Stop> {
        for (topic, state) in states {
            state.readable(topic)?;
            let Some(known) = self.identities.get(topic) else { continue };
            let of = |topic_id| LogIdentity { cluster_id: None, topic_id };
            same_log(topic, &of(known.topic_id), &of(state.topic_id))?;
        }
        Ok(())
    }

    /// Notices topics that were deleted and created again, or have got more partitions.
    pub(super) fn watch_topics(&mut self) -> Result<(), Stop> {
        let interval = if self.records_since_check { TOPICS_INTERVAL_BUSY } else { TOPICS_INTERVAL_IDLE };
        if clock::since(self.topics_checked_at) < interval || self.source.away_since().is_some() {
            return Ok(());
        }
        (self.topics_checked_at, self.records_since_check) = (clock::now(), false);
        let topics = self.topics.clone();
        let Some(states) = self.away_is_none(|this| this.describe(&topics))? else { return Ok(()) };
        self.compare_ids(&states)?;
        self.away_is_none(|this| this.source.partitions_added(&states))?;
        Ok(())
    }

    /// Notices positions that were moved beneath us while there was nothing to write.
    pub(super) fn watch_standings(&mut self) {
        if clock::since(self.standings_asked_at) >= STANDINGS_INTERVAL {
            self.standings_asked_at = clock::now();
            locked(&self.flow).ask_standings();
        }
    }
}
