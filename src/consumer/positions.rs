//! From an assignment to reading: claims, and comparing each position with the broker's log before it is read.
//!
//! What never happens silently is decided here: a log that has lost what was not read, that was cut, or that is another.

use super::Consumer;
use super::flow::{Phase, locked};
use crate::claimer::Question;
use crate::clock;
use crate::config::OnGap;
use crate::exit::Stop;
use crate::ledger::{AHEAD_MAX, Claim, LogIdentity, Start, below_log_start, same_log, was_truncated};
use crate::record::TopicPartition;
use crate::source::{Bounds, SourceFault, TopicState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Consumer<'_> {
    /// Asks for claims. Partitions without a row were added to their topic; they start at their oldest record.
    pub(super) fn claim(&mut self) -> Result<(), Stop> {
        let rowless: Vec<TopicPartition> = {
            let mut flow = locked(&self.flow);
            flow.claim_due(clock::now());
            let rowless = flow.owned.iter().filter(|(_, ownership)| matches!(ownership.phase, Phase::Rowless));
            rowless.map(|(partition, _)| partition.clone()).collect()
        };
        if rowless.is_empty() {
            return Ok(());
        }
        let Some((bounds, identities)) = self.away_is_none(|this| this.look_up(&rowless))? else { return Ok(()) };
        let starts = rowless.iter().filter_map(|partition| {
            let identity = identities.get(&partition.topic)?.clone();
            Some(Start { partition: partition.clone(), next: bounds.get(partition)?.start, identity })
        });
        let starts: Vec<Start> = starts.collect();
        if starts.is_empty() {
            return Ok(());
        }
        locked(&self.flow).ask_for(rowless, Question::ClaimOrStart(starts));
        Ok(())
    }

    /// Compares what was claimed with the broker's log, and starts reading it.
    pub(super) fn check_claimed(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        let due: Vec<Claim> = {
            let flow = locked(&self.flow);
            let due = flow.owned.values().filter_map(|ownership| match &ownership.phase {
                Phase::Claimed { claim, check_at, .. } if *check_at <= now => Some(claim.clone()),
                _ => None,
            });
            due.collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let partitions: Vec<_> = due.iter().map(|claim| claim.partition.clone()).collect();
        let epochs = due.iter().filter_map(|claim| Some((claim.partition.clone(), claim.leader_epoch?)));
        let epochs: Vec<_> = epochs.collect();
        let looked_up = self.away_is_none(|this| Ok((this.look_up(&partitions)?, this.source.epoch_ends(&epochs)?)))?;
        let Some(((bounds, identities), epoch_ends)) = looked_up else {
            self.check_later(&partitions, None);
            return Ok(());
        };
        self.compare_with_group(&due);
        let mut start = Vec::new();
        for claim in due {
            let Some(bounds) = bounds.get(&claim.partition) else {
                self.check_later(&[claim.partition], None);
                continue;
            };
            if let Some(now) = identities.get(&claim.partition.topic) {
                same_log(&claim.partition.topic, &claim.identity, now)?;
            }
            // The log may have grown past our position again, with other records; or begin behind it, which would
            // look as if retention had done it.
            if let Some(cut) = locked(&self.flow).cut.remove(&claim.partition)
                && cut < claim.next
            {
                return Err(was_truncated(&claim.partition, claim.next, cut));
            }
            if claim.next < bounds.start {
                match self.on_gap {
                    OnGap::Stop => return Err(below_log_start(&claim.partition, claim.next, bounds.start)),
                    OnGap::Record => {
                        let (partition, start) = (claim.partition.clone(), bounds.start);
                        // Where another question is open, it is asked in a later turn.
                        locked(&self.flow).ask_for(vec![partition], Question::Jump(claim, start));
                    }
                }
                continue;
            }
            if claim.next > bounds.high_watermark {
                self.is_ahead(&claim, bounds)?;
                continue;
            }
            let epoch_end = match (claim.leader_epoch, epoch_ends.get(&claim.partition)) {
                (Some(_), None) => {
                    self.check_later(&[claim.partition], None);
                    continue;
                }
                (_, epoch_end) => epoch_end.copied().flatten(),
            };
            // A later leader has written from there on, below our position: markers, which are no records, if the log
            // is the one that was read; else records, which would be passed over.
            let again_from = epoch_end.map(|end| end.max(bounds.start)).filter(|from| *from < claim.next);
            if let Err(fault) = self.source.seek(&claim.partition, again_from.unwrap_or(claim.next)) {
                log::debug!("partition={}: {fault}", claim.partition);
                self.check_later(&[claim.partition], None);
                continue;
            }
            let (partition, epoch, next_offset) = (&claim.partition, claim.epoch.0, claim.next.0);
            log::info!(partition:%, epoch, next_offset; "claimed");
            locked(&self.flow).read(&claim.partition, claim.epoch, claim.next, again_from);
            start.push(claim.partition);
        }
        if !self.held {
            self.source.resume(&start);
        }
        Ok(())
    }

    /// The partitions' bounds, and their topics' identities as they are now.
    #[allow(clippy::type_complexity)]
    fn look_up(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<(BTreeMap<TopicPartition, Bounds>, BTreeMap<Arc<str>, LogIdentity>), SourceFault> {
        let topics: BTreeSet<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        let cluster_id = self.source.cluster_id()?;
        let states = self.describe(&topics)?;
        // Those of a topic that is gone have none; the client would look for them for a while.
        let there: Vec<_> = partitions.iter().filter(|p| states.contains_key(&p.topic)).cloned().collect();
        let bounds = self.source.bounds(&there)?;
        self.cluster_id.clone_from(&cluster_id);
        let identity = |state: &TopicState| LogIdentity { cluster_id: cluster_id.clone(), topic_id: state.topic_id };
        let identities = states.iter().map(|(topic, state)| (topic.clone(), identity(state))).collect();
        for (topic, state) in states {
            self.identities.entry(topic).or_insert(state);
        }
        Ok((bounds, identities))
    }

    /// `None` where trying again later may help; a missing topic is waited for no longer than the grace.
    pub(super) fn away_is_none<T>(
        &mut self,
        call: impl FnOnce(&mut Self) -> Result<T, SourceFault>,
    ) -> Result<Option<T>, Stop> {
        match call(self) {
            Ok(answer) => {
                self.missing_since = None;
                Ok(Some(answer))
            }
            Err(fault @ SourceFault::MissingTopic(_)) => {
                let since = *self.missing_since.get_or_insert_with(clock::now);
                if clock::since(since) > self.grace { Err(fault.into()) } else { Ok(None) }
            }
            Err(fault @ SourceFault::Away(_)) => {
                log::debug!("{fault}");
                Ok(None)
            }
            Err(fault) => Err(fault.into()),
        }
    }

    fn check_later(&mut self, partitions: &[TopicPartition], ahead: Option<Instant>) {
        let mut flow = locked(&self.flow);
        for partition in partitions {
            if let Some(ownership) = flow.owned.get_mut(partition)
                && let Phase::Claimed { check_at, ahead_since, .. } = &mut ownership.phase
            {
                *check_at = clock::now() + Duration::from_secs(1);
                *ahead_since = ahead_since.or(ahead);
            }
        }
    }

    /// After a failover the new leader may not know its own end yet: asked again for a while.
    fn is_ahead(&mut self, claim: &Claim, bounds: &Bounds) -> Result<(), Stop> {
        let ahead_since = match locked(&self.flow).owned.get(&claim.partition).map(|ownership| &ownership.phase) {
            Some(Phase::Claimed { ahead_since, .. }) => *ahead_since,
            _ => None,
        };
        let Claim { partition, next, .. } = claim;
        let end = bounds.high_watermark;
        match ahead_since {
            Some(since) if clock::since(since) > AHEAD_MAX => Err(was_truncated(partition, *next, end)),
            Some(_) => {
                self.check_later(std::slice::from_ref(partition), None);
                Ok(())
            }
            None => {
                log::warn!(partition:%, next_offset = next.0, end_offset = end.0; "position beyond the log's end, asking again");
                self.check_later(std::slice::from_ref(partition), Some(clock::now()));
                Ok(())
            }
        }
    }

    /// Says once for each partition that the group's offset, which we don't use, is ahead.
    fn compare_with_group(&mut self, claims: &[Claim]) {
        let new: Vec<&Claim> = claims.iter().filter(|c| !self.compared_with_group.contains(&c.partition)).collect();
        if new.is_empty() {
            return;
        }
        let partitions: Vec<_> = new.iter().map(|claim| claim.partition.clone()).collect();
        match self.source.committed_offsets(&partitions) {
            Ok(committed) => {
                for Claim { partition, next, .. } in new {
                    if let Some(group) = committed.get(partition).filter(|group| *group > next) {
                        log::warn!(
                            partition:%, next_offset = next.0, group_offset = group.0,
                            why = "the group's offset in Kafka is ahead; the database wins";
                            "going back"
                        );
                    }
                }
                self.compared_with_group.extend(partitions);
            }
            Err(fault) => log::debug!("reading the group's offsets: {fault}"),
        }
    }
}
