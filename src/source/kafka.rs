//! The engine for old brokers: the crate `kafka`, a synchronous client of protocol version 0, for Kafka before 4.0.
//!
//! Only its low-level client is used, with our own positions: its consumer can lose records after an error. What the
//! client does silently is coded around where it bites: it drops records from a fetch (`reach`), it waits without an end
//! and can panic (`link`), it can't tell a broker that is too new from one that is away (`probe`). It never connects
//! again, so after any error there is a new one.
//!
//! What the protocol does not have: consumer groups, transactions, record timestamps, nulls, ids of topics and clusters,
//! a way past what it can't see at the end of a log (markers, what compaction left), and the codecs lz4 and zstd. A
//! record is never passed over for any of it: it ends with a fault that says what to set.

mod answer;
mod connection;
mod errors;
mod fetch;
mod link;
mod probe;
mod reach;

use super::{Assignment, Bounds, OnRecord, Source, SourceFault, StartAt, TopicState};
use crate::config::Kafka as KafkaConfig;
use crate::delivery::Committable;
use crate::quiet::Absence;
use crate::record::{LeaderEpoch, NextOffset, TopicPartition};
use answer::Outcome;
use errors::{Failed, code_fault, is_led};
use fetch::{FETCH_TIMEOUT_MIN, PARTITION_FETCH_BYTES};
use kafka::Error;
use kafka::client::{CommitOffset, FetchGroupOffset, FetchOffset, PartitionOffset};
use link::{Abandoned, Link};
use reach::Reach;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two attempts to connect, to find a leader, and to read what can't be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The crate `kafka` behind [`Source`].
pub struct KafkaSource {
    config: KafkaConfig,
    // `None` after any error.
    link: Option<Link>,
    // Offsets go to Kafka by a client of their own: waiting for a coordinator holds up nothing else.
    follower: Option<Link>,
    abandoned: Vec<Abandoned>,
    // The last attempt to connect, and why it failed.
    refused: Option<(Instant, SourceFault)>,
    // Which of the configured brokers is asked first.
    first_broker: usize,
    // As the brokers said last: the leader of each partition.
    leaders: BTreeMap<Arc<str>, Vec<Option<String>>>,
    leaders_seen_at: Instant,
    assignment: Option<Arc<dyn Assignment>>,
    cursors: BTreeMap<TopicPartition, Cursor>,
    fetch_timeout: Duration,
    // One partition at a time, because what one of them holds can't be parsed.
    separately_until: Option<Instant>,
    away: Absence,
    // What was said last of a poll that failed.
    complaint: Option<String>,
}

/// One partition that is ours.
struct Cursor {
    next: NextOffset,
    is_paused: bool,
    reach: Reach,
    // Not to be asked for before.
    later: Option<Instant>,
    // Gaps are told once for each partition; then it is known what kind of topic this is.
    has_gaps: bool,
}

impl KafkaSource {
    /// Connects; one attempt.
    pub fn connect(config: &KafkaConfig) -> Result<Self, SourceFault> {
        let mut source = KafkaSource {
            config: config.clone(),
            link: None,
            follower: None,
            abandoned: Vec::new(),
            refused: None,
            first_broker: 0,
            leaders: BTreeMap::new(),
            leaders_seen_at: Instant::now(),
            assignment: None,
            cursors: BTreeMap::new(),
            fetch_timeout: FETCH_TIMEOUT_MIN,
            separately_until: None,
            away: Absence::none("kafka"),
            complaint: None,
        };
        source.open()?;
        Ok(source)
    }

    fn offsets(
        &mut self,
        partitions: &[TopicPartition],
        at: FetchOffset,
    ) -> Result<BTreeMap<TopicPartition, i64>, SourceFault> {
        let topics: BTreeSet<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        let mut offsets = BTreeMap::new();
        for topic in topics {
            let of_topic: Vec<_> = partitions.iter().filter(|p| p.topic == topic).collect();
            let brokers = self.leaders_of(of_topic.iter().copied());
            let name = topic.clone();
            let found = self.ask(move |room| {
                brokers.iter().try_for_each(|broker| room.reach(broker)).map_err(Failed::Alike)?;
                match room.client.fetch_offsets(&[&*name], at) {
                    // Another broker leads it by now.
                    Err(Error::TopicPartitionError { error_code, .. }) if is_led(error_code) => Ok(None),
                    Err(Error::TopicPartitionError { error_code, .. }) => {
                        Err(Failed::Alike(code_fault(error_code, &name)))
                    }
                    answer => Ok(Some(answer?)),
                }
            })?;
            let Some(found) = found else {
                log::debug!("offsets of topic={topic:?}: a leader has changed");
                self.look_for_leaders()?;
                continue;
            };
            for PartitionOffset { offset, partition } in found.into_values().flatten().filter(|found| found.offset >= 0)
            {
                let partition = TopicPartition::new(topic.clone(), partition);
                if of_topic.contains(&&partition) {
                    offsets.insert(partition, offset);
                }
            }
        }
        Ok(offsets)
    }

    /// Takes over what the configuration names and is not ours yet.
    fn assign(&mut self, states: &BTreeMap<Arc<str>, TopicState>) {
        let Some(assignment) = self.assignment.clone() else { return };
        let mut new = Vec::new();
        for (topic, state) in states {
            let mine = self.config.assignment.read(state.partitions).into_iter();
            let mine = mine.map(|number| TopicPartition::new(topic.clone(), number));
            new.extend(mine.filter(|partition| !self.cursors.contains_key(partition)));
        }
        if new.is_empty() {
            return;
        }
        for partition in &new {
            let reach = Reach::new(PARTITION_FETCH_BYTES);
            // Paused, so where it stands doesn't matter yet.
            let cursor = Cursor { next: NextOffset(0), is_paused: true, reach, later: None, has_gaps: false };
            self.cursors.insert(partition.clone(), cursor);
        }
        for (partition, next) in assignment.assigned(&new) {
            if let Some(cursor) = self.cursors.get_mut(&partition) {
                cursor.next = next;
            }
        }
    }

    /// Waited for; said once, unless the outage was.
    fn complain(&mut self, message: String) {
        if self.away.since().is_none() && self.complaint.as_ref() != Some(&message) {
            log::warn!("reading from kafka, trying again: {message}");
            self.complaint = Some(message);
        }
    }
}

impl Source for KafkaSource {
    fn cluster_id(&mut self) -> Result<Option<String>, SourceFault> {
        self.open().map(|()| None)
    }

    fn topic_names(&mut self) -> Result<BTreeSet<Arc<str>>, SourceFault> {
        self.look()?;
        Ok(self.leaders.keys().cloned().collect())
    }

    fn topics(&mut self, names: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, TopicState>, SourceFault> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.look()?;
        let mut states = BTreeMap::new();
        for name in names {
            let Some(leaders) = self.leaders.get(name) else {
                return Err(SourceFault::MissingTopic(name.to_string()));
            };
            if leaders.is_empty() {
                return Err(SourceFault::Away(format!("no broker knows the partitions of topic {name:?}")));
            }
            let partitions = i32::try_from(leaders.len()).unwrap_or(i32::MAX);
            states.insert(name.clone(), TopicState { topic_id: None, partitions, may_read: true });
        }
        Ok(states)
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Bounds>, SourceFault> {
        let starts = self.offsets(partitions, FetchOffset::Earliest)?;
        let ends = self.offsets(partitions, FetchOffset::Latest)?;
        let bounds = |partition: &TopicPartition| {
            let end = NextOffset(*ends.get(partition)?);
            Some(Bounds { start: NextOffset(*starts.get(partition)?), last_stable: end, high_watermark: end })
        };
        Ok(partitions.iter().filter_map(|partition| Some((partition.clone(), bounds(partition)?))).collect())
    }

    fn epoch_ends(
        &mut self,
        epochs: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>, SourceFault> {
        // The client has no such request.
        Ok(epochs.iter().map(|(partition, _)| (partition.clone(), None)).collect())
    }

    fn start_offsets(
        &mut self,
        partitions: &[TopicPartition],
        start_at: StartAt,
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        let bounds = self.bounds(partitions)?;
        if let Some(partition) = partitions.iter().find(|partition| !bounds.contains_key(partition)) {
            return Err(SourceFault::Away(format!("no broker knows the offsets of partition {partition}")));
        }
        let committed = match start_at {
            StartAt::KafkaGroup => self.committed_offsets(partitions)?,
            _ => BTreeMap::new(),
        };
        let start = |partition: &TopicPartition| match start_at {
            StartAt::Earliest => Ok(bounds[partition].start),
            StartAt::Latest => Ok(bounds[partition].high_watermark),
            StartAt::KafkaGroup => Ok(committed.get(partition).copied().unwrap_or(bounds[partition].start)),
            StartAt::TimeMs(_) => {
                Err(SourceFault::Config("client = \"kafka\" can't look for a time; use client = \"krafka\"".to_owned()))
            }
        };
        partitions.iter().map(|partition| Ok((partition.clone(), start(partition)?))).collect()
    }

    fn committed_offsets(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (group, wanted) = (self.config.group.clone(), partitions.to_vec());
        let found = self.follow(move |room| {
            let wanted = wanted.iter().map(|wanted| FetchGroupOffset::new(&wanted.topic, wanted.partition));
            room.client.fetch_group_offsets(&group, wanted)
        })?;
        let mut committed = BTreeMap::new();
        for (topic, offsets) in found {
            let topic: Arc<str> = topic.into();
            // -1: none.
            for PartitionOffset { offset, partition } in offsets.into_iter().filter(|found| found.offset >= 0) {
                committed.insert(TopicPartition::new(topic.clone(), partition), NextOffset(offset));
            }
        }
        Ok(committed)
    }

    fn subscribe(&mut self, topics: &[Arc<str>], assignment: Arc<dyn Assignment>) -> Result<(), SourceFault> {
        let states = self.topics(topics)?;
        if self.assignment.is_none() {
            log::info!(
                "client=\"kafka\" sees no times of records: a message without a time becomes a dead letter (missing), and \
                 a fetch time that is missing stays NULL"
            );
        }
        self.assignment = Some(assignment);
        self.cursors.clear();
        self.assign(&states);
        Ok(())
    }

    fn resubscribe(&mut self, states: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        let gone = self.cursors.keys().filter(|partition| !states.contains_key(&partition.topic));
        let gone: Vec<TopicPartition> = gone.cloned().collect();
        if let (Some(assignment), false) = (&self.assignment, gone.is_empty()) {
            assignment.revoked(&gone);
        }
        self.cursors.retain(|partition, _| states.contains_key(&partition.topic));
        self.assign(states);
        Ok(())
    }

    fn partitions_added(&mut self, counts: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        self.assign(counts);
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, on_record: &mut OnRecord<'_>) -> Result<Vec<TopicPartition>, SourceFault> {
        let begun_at = Instant::now();
        let (asks, share) = self.asks();
        let fetched = if asks.is_empty() { self.open().map(|()| Vec::new()) } else { self.fetch_all(&asks, timeout) };
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(SourceFault::Away(message)) => {
                self.complain(message);
                Vec::new()
            }
            Err(fault) => return Err(fault),
        };
        let (mut off_the_log, mut first_fault, mut are_led) = (Vec::new(), None, fetched.len() < asks.len());
        let has_answers = !fetched.is_empty();
        for (ask, outcome) in fetched {
            let taken = match outcome {
                Outcome::Said(said) if said.high_watermark < ask.from => {
                    off_the_log.push(ask.partition);
                    Ok(())
                }
                Outcome::Said(said) => self.take_in(&ask, said, (asks.len() > 1, share), on_record),
                Outcome::OffTheLog => {
                    off_the_log.push(ask.partition);
                    Ok(())
                }
                Outcome::Led => {
                    are_led = true;
                    Ok(())
                }
                Outcome::Fault(fault) => Err(fault),
            };
            match taken {
                Ok(()) => {}
                Err(SourceFault::Away(message)) => self.complain(message),
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        if are_led
            && self.away.since().is_none()
            && let Err(fault) = self.look_for_leaders()
        {
            log::debug!("looking for leaders: {fault}");
        }
        if let Some(fault) = first_fault {
            return Err(fault);
        }
        if has_answers && !are_led {
            self.complaint = None;
        } else {
            // Nothing to wait for at a broker; the caller counts on having waited.
            std::thread::sleep(timeout.saturating_sub(begun_at.elapsed()));
        }
        Ok(off_the_log)
    }

    fn positions(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        let position = |partition: &TopicPartition| Some((partition.clone(), self.cursors.get(partition)?.next));
        partitions.iter().filter_map(position).collect()
    }

    fn seek(&mut self, partition: &TopicPartition, next: NextOffset) -> Result<(), SourceFault> {
        match self.cursors.get_mut(partition) {
            Some(cursor) => {
                (cursor.next, cursor.later) = (next, None);
                Ok(())
            }
            None => Err(SourceFault::Away(format!("partition {partition} is not assigned any more"))),
        }
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.set_paused(partitions, true);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.set_paused(partitions, false);
    }

    fn commit_offsets(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        let group = self.config.group.clone();
        let offsets: Vec<_> = committable.offsets().iter().map(|(p, next)| (p.clone(), next.0)).collect();
        self.follow(move |room| {
            let offsets = offsets.iter().map(|(p, next)| CommitOffset::new(&p.topic, p.partition, *next));
            room.client.commit_offsets(&group, offsets)
        })
    }

    fn commit_from_outside(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        // It is no member anyway.
        self.commit_offsets(committable)
    }

    fn away_since(&self) -> Option<Instant> {
        self.away.since()
    }

    fn close(&mut self) {
        // There is no group to leave; the threads end with their channels.
        (self.link, self.follower) = (None, None);
        self.cursors.clear();
    }
}

impl KafkaSource {
    fn set_paused(&mut self, partitions: &[TopicPartition], is_paused: bool) {
        for partition in partitions {
            if let Some(cursor) = self.cursors.get_mut(partition) {
                cursor.is_paused = is_paused;
            }
        }
    }
}
