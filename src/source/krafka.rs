//! The default engine: krafka, an async client driven by one thread.
//!
//! The runtime lives and ends in here. krafka has silent traps, each coded around where it bites: a position past the
//! log's end is rewound (the consumer checks bounds before it resumes), a topic created again is read on (it compares
//! topic ids), added partitions are not seen in a classic group (`partitions_added`), a changed subscription can be lost
//! on its way to the group (`membership`), an outage looks like no records and fetching sleeps on after it
//! (`watch_outage`), and `poll` may outlive its timeout (`within`).

mod assignment;
mod client;
mod listener;
mod membership;
mod outage;
mod relay;
mod wire;

use super::{Assignment, Bounds, OnRecord, Source, SourceFault, StartAt, TopicState};
use crate::batch::Incoming;
use crate::config::{AssignmentMode, Isolation, Kafka as KafkaConfig};
use crate::delivery::Committable;
use crate::quiet::Absence;
use crate::record::{LeaderEpoch, NextOffset, Offset, TopicPartition};
use client::client;
use krafka::admin::{
    AdminClient, AlterConsumerGroupOffsetsOptions, DescribeTopicsOptions, ListConsumerGroupOffsetsOptions,
    ListOffsetsOptions, ListTopicsOptions, OffsetForLeaderEpochOptions, OffsetSpec,
};
use krafka::consumer::{Consumer, GroupProtocol as WireProtocol, OffsetAndMetadata};
use krafka::error::{ErrorCode, KrafkaError};
use krafka::{CloseOptions, Kafka};
use membership::Unconfirmed;
use outage::PROBE_INTERVAL;
pub use relay::KrafkaRelay;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use wire::{SLACK, fault, ours, wire, within};

/// One request to the brokers, at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// One look at the topics, at most: taken before every batch is sent, so it must not hold up the consumer for long.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The names of all topics, at most: they can be many.
const NAMES_TIMEOUT: Duration = Duration::from_secs(3);
/// Commits are only information: a hung broker must not hold up the consumer for long.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);
/// A poll is cut off after so long, at first. With a hung broker it would take half a minute; but a large fetch over a
/// slow network takes its time, and is begun again after a cut: so each cut doubles this.
const POLL_CUT_MIN: Duration = Duration::from_secs(1);
const POLL_CUT_MAX: Duration = Duration::from_secs(30);
/// A group that goes on refusing what the client sends it for so long, while no record comes, does so for good.
const REFUSED_MAX: Duration = Duration::from_secs(60);
/// What the client says where a broker has answered -1, under a code that brokers use for something else.
const NO_OFFSET: &str = "the broker reported no offset for this spec";
/// READ among a topic's authorized operations: bit 3, by the number of Kafka's `AclOperation`.
const OPERATION_READ: i32 = 1 << 3;

/// krafka behind [`Source`].
pub struct KrafkaSource {
    config: KafkaConfig,
    runtime: Runtime,
    kafka: Kafka,
    admin: AdminClient,
    consumer: Option<Arc<Consumer>>,
    assignment: Option<Arc<dyn Assignment>>,
    protocol: Option<WireProtocol>,
    subscribed: Vec<Arc<str>>,
    // A change of what is subscribed to that the group may not know of.
    unconfirmed: Option<Unconfirmed>,
    // Since when a change waits for a member that may be joining.
    joining_since: Option<Instant>,
    // Partition counts that the current assignment was made with.
    counts: BTreeMap<Arc<str>, i32>,
    paused: BTreeSet<TopicPartition>,
    sought: BTreeSet<TopicPartition>,
    errors_seen: u64,
    probed_at: Instant,
    away: Absence,
    poll_cut: Duration,
    // What was said last of a poll that failed.
    complaint: Option<String>,
    // Since when the group has refused what the client sent it.
    refused_since: Option<Instant>,
}

impl KrafkaSource {
    /// Connects; one attempt.
    pub fn connect(config: &KafkaConfig) -> Result<Self, SourceFault> {
        let (runtime, kafka) = client(config)?;
        let admin = kafka.admin();
        Ok(KrafkaSource {
            config: config.clone(),
            runtime,
            kafka,
            admin,
            consumer: None,
            assignment: None,
            protocol: None,
            subscribed: Vec::new(),
            unconfirmed: None,
            joining_since: None,
            counts: BTreeMap::new(),
            paused: BTreeSet::new(),
            sought: BTreeSet::new(),
            errors_seen: 0,
            probed_at: Instant::now(),
            away: Absence::none("kafka"),
            poll_cut: POLL_CUT_MIN,
            complaint: None,
            refused_since: None,
        })
    }

    fn consumer(&self) -> Result<Arc<Consumer>, SourceFault> {
        self.consumer.clone().ok_or_else(|| SourceFault::Config("not subscribed yet".to_owned()))
    }

    /// Tells the group what is durable.
    fn tell(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        // Without a membership the consumer's own commit says Ok and stores nothing.
        if self.config.assignment != AssignmentMode::Group {
            return self.tell_from_outside(committable);
        }
        let consumer = self.consumer()?;
        let offsets = committable.offsets().iter();
        let offsets: Vec<_> = offsets.map(|(p, next)| (wire(p), OffsetAndMetadata::new(next.0))).collect();
        self.runtime.block_on(within(COMMIT_TIMEOUT, consumer.commit_offsets(offsets)))
    }

    fn tell_from_outside(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        let offsets: Vec<_> = committable.offsets().iter().map(|(p, next)| (wire(p), next.0)).collect();
        let options = AlterConsumerGroupOffsetsOptions::default().timeout(COMMIT_TIMEOUT);
        let call = self.admin.alter_consumer_group_offsets(self.config.group.as_str(), offsets, options);
        let answers = self.runtime.block_on(within(COMMIT_TIMEOUT, call))?;
        answers.into_values().try_for_each(|answer| answer.map_err(fault))
    }

    fn offsets(
        &self,
        partitions: &[TopicPartition],
        spec: OffsetSpec,
        read_committed: bool,
    ) -> Result<BTreeMap<TopicPartition, i64>, SourceFault> {
        let options = ListOffsetsOptions::default().timeout(REQUEST_TIMEOUT).read_committed(read_committed);
        let specs: Vec<_> = partitions.iter().map(|partition| (wire(partition), spec)).collect();
        let listed = self.runtime.block_on(within(REQUEST_TIMEOUT, self.admin.list_offsets(specs, options)))?;
        let mut offsets = BTreeMap::new();
        for (partition, offset) in listed {
            // The client's word for the broker's -1: no record is as young.
            if matches!(&offset, Err(KrafkaError::Broker { message, .. }) if message == NO_OFFSET) {
                offsets.insert(ours(&partition), -1);
                continue;
            }
            match offset.map_err(fault) {
                Ok(offset) => {
                    offsets.insert(ours(&partition), offset.offset);
                }
                // Without a leader for now; its neighbours have one.
                Err(SourceFault::Away(message)) => log::debug!("offsets of partition={}: {message}", ours(&partition)),
                Err(other) => return Err(other),
            }
        }
        Ok(offsets)
    }
}

impl Source for KrafkaSource {
    fn cluster_id(&mut self) -> Result<Option<String>, SourceFault> {
        self.cluster_within(REQUEST_TIMEOUT).map(Some)
    }

    fn topic_names(&mut self) -> Result<BTreeSet<Arc<str>>, SourceFault> {
        // Renews the client's own picture of all topics, too, so that it can follow to the new ones at once.
        let options = ListTopicsOptions::default().timeout(NAMES_TIMEOUT);
        let listed = self.runtime.block_on(within(NAMES_TIMEOUT, self.admin.list_topics(options)));
        if let Err(SourceFault::Away(message)) = &listed {
            self.note_away(message);
        }
        Ok(listed?.into_iter().map(Arc::from).collect())
    }

    fn topics(&mut self, names: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, TopicState>, SourceFault> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let options = DescribeTopicsOptions::default().timeout(DESCRIBE_TIMEOUT);
        let names: BTreeMap<&str, &Arc<str>> = names.iter().map(|name| (&**name, name)).collect();
        let described =
            self.runtime.block_on(within(DESCRIBE_TIMEOUT, self.admin.describe_topics(names.keys(), options)));
        // While nothing is fetched, because the writers are behind, nobody else notices.
        if let Err(SourceFault::Away(message)) = &described {
            self.note_away(message);
        }
        let described = described?;
        let mut states = BTreeMap::new();
        for (name, description) in described {
            let Some(known) = names.get(name.as_str()) else { continue };
            let description = match description {
                Err(KrafkaError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. }) => {
                    return Err(SourceFault::MissingTopic(name));
                }
                Err(KrafkaError::Broker { code: ErrorCode::TopicAuthorizationFailed, .. }) => {
                    return Err(SourceFault::Denied(format!(
                        "topic {name:?} may not be described; give our Kafka user DESCRIBE and READ on it"
                    )));
                }
                other => other.map_err(fault)?,
            };
            let topic_id = (description.topic_id != [0; 16]).then_some(description.topic_id);
            let partitions = i32::try_from(description.partitions.len()).unwrap_or(i32::MAX);
            // Brokers of before Kafka 3.7 don't say.
            let may_read = description.authorized_operations.is_none_or(|allowed| allowed & OPERATION_READ != 0);
            states.insert((*known).clone(), TopicState { topic_id, partitions, may_read });
        }
        Ok(states)
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Bounds>, SourceFault> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let starts = self.offsets(partitions, OffsetSpec::Earliest, false)?;
        let ends = self.offsets(partitions, OffsetSpec::Latest, false)?;
        let stable = match self.config.isolation {
            Isolation::ReadCommitted => self.offsets(partitions, OffsetSpec::Latest, true)?,
            Isolation::ReadUncommitted => ends.clone(),
        };
        let bounds = |partition: &TopicPartition| {
            Some(Bounds {
                start: NextOffset(*starts.get(partition)?),
                last_stable: NextOffset(*stable.get(partition)?),
                high_watermark: NextOffset(*ends.get(partition)?),
            })
        };
        Ok(partitions.iter().filter_map(|partition| Some((partition.clone(), bounds(partition)?))).collect())
    }

    fn epoch_ends(
        &mut self,
        epochs: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>, SourceFault> {
        if epochs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let options = OffsetForLeaderEpochOptions::default().timeout(REQUEST_TIMEOUT);
        let asked: Vec<_> = epochs.iter().map(|(partition, epoch)| (wire(partition), epoch.0)).collect();
        let call = self.admin.offset_for_leader_epoch(asked, options);
        let answers = self.runtime.block_on(within(REQUEST_TIMEOUT, call))?;
        let mut ends = BTreeMap::new();
        for (partition, answer) in answers {
            let partition = ours(&partition);
            match answer.map_err(fault) {
                // -1: a log in a format without epochs.
                Ok(end) => _ = ends.insert(partition, (end.end_offset >= 0).then_some(NextOffset(end.end_offset))),
                Err(SourceFault::Away(message)) => log::debug!("leader epochs of partition={partition}: {message}"),
                Err(other) => return Err(other),
            }
        }
        Ok(ends)
    }

    fn start_offsets(
        &mut self,
        partitions: &[TopicPartition],
        start_at: StartAt,
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        let bounds = self.bounds(partitions)?;
        complete(partitions, &bounds)?;
        let chosen: BTreeMap<TopicPartition, i64> = match start_at {
            StartAt::Earliest => BTreeMap::new(),
            StartAt::Latest => bounds.iter().map(|(partition, b)| (partition.clone(), b.last_stable.0)).collect(),
            StartAt::TimeMs(time_ms) => {
                let found = self.offsets(partitions, OffsetSpec::Timestamp(time_ms), false)?;
                complete(partitions, &found)?;
                // -1: every record is older.
                let end = |partition: &TopicPartition| bounds[partition].last_stable.0;
                found.into_iter().map(|(p, offset)| (p.clone(), if offset < 0 { end(&p) } else { offset })).collect()
            }
            StartAt::KafkaGroup => {
                self.committed_offsets(partitions)?.into_iter().map(|(partition, next)| (partition, next.0)).collect()
            }
        };
        let start = |partition: &TopicPartition| {
            NextOffset(chosen.get(partition).copied().unwrap_or(bounds[partition].start.0))
        };
        Ok(partitions.iter().map(|partition| (partition.clone(), start(partition))).collect())
    }

    fn committed_offsets(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        let options = ListConsumerGroupOffsetsOptions::default().timeout(REQUEST_TIMEOUT);
        let call = self.admin.list_consumer_group_offsets(self.config.group.as_str(), options);
        let listed = self.runtime.block_on(within(REQUEST_TIMEOUT, call))?;
        let mut committed = BTreeMap::new();
        for (partition, offset) in listed {
            let partition = ours(&partition);
            if partitions.contains(&partition)
                && let Some(offset) = offset.map_err(fault)?.offset
            {
                committed.insert(partition, NextOffset(offset));
            }
        }
        Ok(committed)
    }

    fn subscribe(&mut self, topics: &[Arc<str>], assignment: Arc<dyn Assignment>) -> Result<(), SourceFault> {
        let counts = self.topics(topics)?;
        self.subscribed = topics.to_vec();
        self.assignment = Some(assignment.clone());
        if self.config.assignment == AssignmentMode::Group {
            self.join_group(&counts, assignment)?;
        } else {
            let builder = self.tuned(self.kafka.consumer_without_group());
            self.consumer = Some(Arc::new(self.runtime.block_on(within(REQUEST_TIMEOUT, builder.build()))?));
            // An earlier attempt may have come half the way, with another consumer.
            self.sought.clear();
            self.assign(&counts)?;
        }
        self.counts = counts.into_iter().map(|(topic, state)| (topic, state.partitions)).collect();
        Ok(())
    }

    fn resubscribe(&mut self, states: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        if self.config.assignment == AssignmentMode::Group {
            self.tell_group(&states.keys().cloned().collect::<Vec<_>>())?;
        } else {
            let gone = self.subscribed.iter().filter(|topic| !states.contains_key(*topic));
            for topic in gone.cloned().collect::<Vec<_>>() {
                self.unassign(&topic)?;
            }
            self.assign(states)?;
        }
        self.subscribed = states.keys().cloned().collect();
        self.counts = states.iter().map(|(topic, state)| (topic.clone(), state.partitions)).collect();
        Ok(())
    }

    fn partitions_added(&mut self, counts: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        let grown = |known: &BTreeMap<Arc<str>, i32>| {
            counts.iter().any(|(topic, state)| known.get(topic).is_some_and(|count| state.partitions > *count))
        };
        if !grown(&self.counts) {
            return Ok(());
        }
        if self.config.assignment != AssignmentMode::Group {
            self.assign(counts)?;
        } else {
            let consumer = self.consumer()?;
            for topic in self.subscribed.iter().filter(|topic| counts.contains_key(*topic)) {
                // The client answers from its cache for a while; subscribing again before it knows is in vain.
                let known =
                    self.runtime.block_on(within(REQUEST_TIMEOUT, consumer.fetch_metadata(Some(topic.as_ref()))))?;
                let known = known.topics.iter().find(|info| info.name.as_str() == &**topic);
                let wanted = counts.get(topic).map_or(0, |state| state.partitions);
                if known.is_none_or(|info| (info.partitions_iter().count() as i32) < wanted) {
                    return Ok(());
                }
            }
            // A classic member never rejoins by itself when partitions are added; a KIP-848 member does.
            if self.group_protocol()? == WireProtocol::Classic {
                log::info!(topics:serde = self.subscribed; "partitions were added, joining the group again");
                self.runtime.block_on(async {
                    within(REQUEST_TIMEOUT * 2, consumer.unsubscribe()).await?;
                    within(REQUEST_TIMEOUT, consumer.subscribe(&self.subscribed)).await
                })?;
            }
        }
        self.counts = counts.iter().map(|(topic, state)| (topic.clone(), state.partitions)).collect();
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, on_record: &mut OnRecord<'_>) -> Result<Vec<TopicPartition>, SourceFault> {
        let consumer = self.consumer()?;
        let polled = self.runtime.block_on(async {
            // Cancel-safe: records leave the client's buffer only with the answer.
            tokio::time::timeout(timeout + self.poll_cut, consumer.poll(timeout)).await
        });
        self.poll_cut = match polled {
            Err(_) => self.poll_cut * 2,
            Ok(_) => self.poll_cut.mul_f64(0.99),
        };
        self.poll_cut = self.poll_cut.clamp(POLL_CUT_MIN, POLL_CUT_MAX);
        self.watch_outage(polled.is_err());
        self.confirm_subscription();
        let records = match polled {
            Err(_) | Ok(Err(KrafkaError::Wakeup)) => return Ok(Vec::new()),
            Ok(Err(KrafkaError::NoOffset { partitions, .. })) => {
                return Ok(partitions.into_iter().map(|(topic, number)| TopicPartition::new(topic, number)).collect());
            }
            Ok(Err(error)) => {
                let fault = self.passing_refusal(&error).unwrap_or_else(|| fault(error));
                let SourceFault::Away(message) = &fault else { return Err(fault) };
                // Waited for; said once, unless the outage watch has.
                if self.away.since().is_none() && self.complaint.as_ref() != Some(message) {
                    log::warn!("reading from kafka, trying again: {message}");
                    self.complaint = Some(message.clone());
                }
                return Ok(Vec::new());
            }
            Ok(Ok(records)) => records,
        };
        if !records.is_empty() {
            (self.complaint, self.refused_since) = (None, None);
        }
        let mut partition = TopicPartition::new("", -1);
        // Each is dropped once it is taken in, so that its fetched batch is not kept longer than needed.
        for record in records {
            if partition.partition != record.partition || *partition.topic != *record.topic {
                partition = TopicPartition::new(record.topic.clone(), record.partition);
            }
            let incoming = Incoming {
                offset: Offset(record.offset),
                // -1: written in a format that has none.
                leader_epoch: record.leader_epoch.filter(|epoch| *epoch >= 0).map(LeaderEpoch),
                // Kafka's "no timestamp" is -1.
                timestamp_ms: (record.timestamp >= 0).then_some(record.timestamp),
                key: record.key.as_deref(),
                value: record.value.as_deref(),
            };
            on_record(&partition, incoming);
        }
        Ok(Vec::new())
    }

    fn positions(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        let Some(consumer) = &self.consumer else { return Vec::new() };
        self.runtime.block_on(async {
            let mut positions = Vec::with_capacity(partitions.len());
            for partition in partitions {
                // A plain read after a seek; without a position the client would ask the brokers for one.
                let position = consumer.position(&partition.topic, partition.partition);
                if let Ok(Some(position)) = tokio::time::timeout(SLACK, position).await {
                    positions.push((partition.clone(), NextOffset(position)));
                }
            }
            positions
        })
    }

    fn seek(&mut self, partition: &TopicPartition, next: NextOffset) -> Result<(), SourceFault> {
        let consumer = self.consumer()?;
        self.runtime.block_on(consumer.seek(&partition.topic, partition.partition, next.0)).map_err(fault)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        let Some(consumer) = &self.consumer else { return };
        for partition in partitions {
            self.paused.insert(partition.clone());
            self.runtime.block_on(consumer.pause(&partition.topic, &[partition.partition]));
        }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        let Some(consumer) = &self.consumer else { return };
        for partition in partitions {
            self.paused.remove(partition);
            self.runtime.block_on(consumer.resume(&partition.topic, &[partition.partition]));
        }
    }

    fn commit_offsets(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        let told = self.tell(committable);
        if let Err(SourceFault::Away(message)) = &told
            && self.cluster_within(PROBE_INTERVAL).is_err()
        {
            self.note_away(message);
        }
        told
    }

    fn commit_from_outside(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        self.tell_from_outside(committable)
    }

    fn away_since(&self) -> Option<Instant> {
        self.away.since()
    }

    fn close(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            let options = CloseOptions::new().timeout(Duration::from_millis(1500));
            if let Err(error) = self.runtime.block_on(consumer.close_with(options)) {
                log::debug!("leaving the group: {error}");
            }
        }
    }
}

/// Where a partition would start must be known of all of them.
fn complete<T>(partitions: &[TopicPartition], known: &BTreeMap<TopicPartition, T>) -> Result<(), SourceFault> {
    match partitions.iter().find(|partition| !known.contains_key(partition)) {
        Some(partition) => Err(SourceFault::Away(format!("no broker knows the offsets of partition {partition}"))),
        None => Ok(()),
    }
}
