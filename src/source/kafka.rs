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

mod link;
mod probe;
mod reach;

use super::fault::Meaning;
use super::{Assignment, Bounds, OnRecord, Source, SourceFault, StartAt, TopicState};
use crate::batch::Incoming;
use crate::config::Kafka as KafkaConfig;
use crate::delivery::Committable;
use crate::quiet::Absence;
use crate::record::{NextOffset, Offset, TopicPartition};
use kafka::Error;
use kafka::client::fetch::Response;
use kafka::client::{CommitOffset, FetchGroupOffset, FetchOffset, FetchPartition, PartitionOffset};
use kafka::error::KafkaCode;
use link::{Abandoned, Late, Link, Room};
use reach::{Found, Reach, Sight, settle};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One request to the brokers, at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Commits are only information: a hung broker must not hold up the consumer for long.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);
/// A fetch is given up after so long, at first. A large one over a slow network takes its time, and is begun again after
/// that: so each time doubles this.
const FETCH_TIMEOUT_MIN: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to connect, to find a leader, and to read what can't be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The most that is asked for at a time: of one partition without need, of all together, of one for a large message.
/// Brokers take no larger request than 100 MiB unless they are told to.
const PARTITION_FETCH_BYTES: i32 = 512 << 10;
const PARTITION_FETCH_BYTES_MIN: i32 = 4 << 10;
const FETCH_BYTES_MAX: i32 = 8 << 20;
const LARGE_FETCH_BYTES: usize = 128 << 20;
/// What is around the largest message: its key and headers, and the set that it is in.
const OVERHEAD_BYTES: usize = 1 << 20;
/// Threads of the client that have not ended yet, at most.
const ABANDONED_MAX: usize = 8;

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

/// What is asked of one partition.
#[derive(Clone)]
struct Ask {
    partition: TopicPartition,
    from: NextOffset,
    limit: i32,
}

/// Why a fetch gave nothing.
enum Failure {
    Fault(SourceFault),
    /// Some of the bytes can't be parsed, and will not be the next time.
    Bytes(String),
}

impl From<SourceFault> for Failure {
    fn from(fault: SourceFault) -> Self {
        Failure::Fault(fault)
    }
}

/// The records of one partition within an answer.
#[derive(Clone)]
struct Records {
    answer: Rc<Response>,
    topic_idx: usize,
    partition_idx: usize,
}

impl Records {
    fn deliver(&self, mut on_record: impl FnMut(Incoming<'_>)) {
        let partition = &self.answer.topics()[self.topic_idx].partitions()[self.partition_idx];
        let Ok(data) = partition.data() else { return };
        for message in data.messages() {
            on_record(Incoming {
                offset: Offset(message.offset),
                // The protocol has none.
                timestamp_ms: None,
                // The client makes no difference between an empty one and none.
                key: (!message.key.is_empty()).then_some(message.key),
                value: Some(message.value),
            });
        }
    }
}

/// What an answer says about a partition.
struct Said {
    high_watermark: NextOffset,
    sight: Sight<Records>,
}

/// What has to be done about a partition.
enum Outcome {
    Said(Said),
    /// The broker has nothing at this offset any more, or not yet.
    OffTheLog,
    /// Another broker leads it.
    Led,
    Fault(SourceFault),
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

    /// Makes sure that there is a client which knows the cluster.
    fn open(&mut self) -> Result<(), SourceFault> {
        self.abandoned.retain(Abandoned::is_alive);
        if self.link.is_some() {
            return Ok(());
        }
        if let Some((at, fault)) = &self.refused
            && at.elapsed() < RETRY_PAUSE
        {
            return Err(fault.clone());
        }
        match self.open_any() {
            Ok(link) => {
                self.link = Some(link);
                self.refused = None;
                self.note_back();
                Ok(())
            }
            Err(fault) => {
                self.refused = Some((Instant::now(), fault.clone()));
                if let SourceFault::Away(message) = &fault {
                    self.note_away(message);
                }
                Err(fault)
            }
        }
    }

    /// By the first of the configured brokers that answers; the next time another one is asked first.
    fn open_any(&mut self) -> Result<Link, SourceFault> {
        let mut last = None;
        for n in 0..self.config.brokers.len() {
            let broker = &self.config.brokers[(self.first_broker + n) % self.config.brokers.len()];
            if self.abandoned.len() >= ABANDONED_MAX {
                return Err(SourceFault::Away("earlier requests have not come to their end yet".to_owned()));
            }
            let mut link = Link::start(broker)?;
            let bootstrap = broker.clone();
            let loaded = link.call(REQUEST_TIMEOUT, move |room| {
                room.reach(&bootstrap)?;
                load(room)
            });
            match loaded {
                Ok(Ok(leaders)) => {
                    self.see(leaders);
                    return Ok(link);
                }
                Ok(Err(fault @ SourceFault::Away(_))) => last = Some(fault),
                Ok(Err(fault)) => return Err(fault),
                Err(Late) => {
                    self.abandoned.push(link.abandon());
                    last = Some(no_answer(REQUEST_TIMEOUT));
                }
            }
        }
        self.first_broker += 1;
        let SourceFault::Away(last) = last.expect("there is a broker in every configuration") else {
            unreachable!("every other fault has ended the search")
        };
        Err(SourceFault::Away(format!("could not connect to any of {:?}; last error: {last}", self.config.brokers)))
    }

    /// Has something done by the client, which is given up after any error.
    fn call<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut Room) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failure> {
        self.open()?;
        let mut link = self.link.take().expect("it is open");
        match link.call(limit, job) {
            Ok(Ok(answer)) => {
                self.link = Some(link);
                Ok(answer)
            }
            Ok(Err(Failed::Alike(fault))) => {
                self.link = Some(link);
                Err(Failure::Fault(fault))
            }
            Ok(Err(Failed::Bytes(why))) => Err(Failure::Bytes(why)),
            Ok(Err(Failed::Broken(fault))) => {
                // Whether the brokers are away shows when a new client is made.
                if let SourceFault::Away(_) = &fault {
                    self.open()?;
                }
                Err(Failure::Fault(fault))
            }
            Err(Late) => {
                self.abandoned.push(link.abandon());
                self.open()?;
                Err(Failure::Fault(no_answer(limit)))
            }
        }
    }

    /// The same for what is not about the bytes of records.
    fn ask<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Room) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, SourceFault> {
        self.call(REQUEST_TIMEOUT, job).map_err(|failure| match failure {
            Failure::Fault(fault) => fault,
            Failure::Bytes(why) => SourceFault::Away(why),
        })
    }

    /// Asks the brokers for all topics and leaders, and for no topic by name: that would create it where
    /// `auto.create.topics.enable` is set.
    fn look(&mut self) -> Result<(), SourceFault> {
        let leaders = self.ask(|room| load(room).map_err(Failed::Broken))?;
        self.see(leaders);
        Ok(())
    }

    fn see(&mut self, leaders: BTreeMap<Arc<str>, Vec<Option<String>>>) {
        (self.leaders, self.leaders_seen_at) = (leaders, Instant::now());
    }

    /// Somebody leads a partition no more: asks who does, not more often than makes sense.
    fn look_for_leaders(&mut self) -> Result<(), SourceFault> {
        if self.leaders_seen_at.elapsed() < RETRY_PAUSE { Ok(()) } else { self.look() }
    }

    fn leaders_of<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> BTreeSet<String> {
        let leader = |partition: &TopicPartition| {
            self.leaders.get(&partition.topic)?.get(usize::try_from(partition.partition).ok()?)?.clone()
        };
        partitions.filter_map(leader).collect()
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

    /// Has the follower do something.
    fn follow<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Room) -> kafka::Result<T> + Send + 'static,
    ) -> Result<T, SourceFault> {
        self.open()?;
        match self.follower.take() {
            Some(link) if link.is_busy() => {
                self.follower = Some(link);
                return Err(SourceFault::Away("an earlier request of the group has no answer yet".to_owned()));
            }
            // What was late may have failed.
            Some(link) if link.was_late() => {}
            other => self.follower = other,
        }
        let is_new = self.follower.is_none();
        let broker = self.config.brokers[self.first_broker % self.config.brokers.len()].clone();
        let mut link = match self.follower.take() {
            Some(link) => link,
            None => Link::start(&broker)?,
        };
        let done = link.call(COMMIT_TIMEOUT, move |room| {
            if is_new {
                room.reach(&broker)?;
                room.client.load_metadata_all().map_err(fault)?;
            }
            job(room).map_err(fault)
        });
        match done {
            Ok(Ok(answer)) => {
                self.follower = Some(link);
                Ok(answer)
            }
            Ok(Err(fault)) => Err(fault),
            Err(Late) => {
                self.follower = Some(link);
                Err(no_answer(COMMIT_TIMEOUT))
            }
        }
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

    /// The most that is asked for of one partition.
    fn fetch_bytes_max(&self) -> i32 {
        let large = LARGE_FETCH_BYTES.max(self.config.message_bytes_max + OVERHEAD_BYTES);
        i32::try_from(large).unwrap_or(i32::MAX)
    }

    /// What may be asked for now. Paused partitions are left alone, and so are those that something is wrong with.
    fn asks(&self) -> (Vec<Ask>, i32) {
        let now = Instant::now();
        let due = |cursor: &Cursor| !cursor.is_paused && cursor.later.is_none_or(|later| later <= now);
        let asks = self.cursors.iter().filter(|(_, cursor)| due(cursor)).map(|(partition, cursor)| Ask {
            partition: partition.clone(),
            from: cursor.next,
            limit: cursor.reach.limit(),
        });
        let mut asks: Vec<Ask> = asks.collect();
        let share = FETCH_BYTES_MAX / i32::try_from(asks.len().max(1)).unwrap_or(i32::MAX);
        let share = share.clamp(PARTITION_FETCH_BYTES_MIN, PARTITION_FETCH_BYTES);
        // What needs more is asked for alone, once nothing has come this way: so several large messages are not in
        // memory at a time.
        asks.iter_mut().for_each(|ask| ask.limit = ask.limit.min(share));
        (asks, share)
    }

    fn fetch(&mut self, asks: Vec<Ask>, wait: Duration) -> Result<HashMap<TopicPartition, Outcome>, Failure> {
        let brokers = self.leaders_of(asks.iter().map(|ask| &ask.partition));
        let wait = wait / u32::try_from(brokers.len().max(1)).unwrap_or(u32::MAX);
        let limit = wait + self.fetch_timeout;
        let fetched = self.call(limit, move |room| {
            brokers.iter().try_for_each(|broker| room.reach(broker)).map_err(Failed::Alike)?;
            room.client.set_fetch_max_wait_time(wait)?;
            let wanted = asks.iter().map(|ask| {
                FetchPartition::new(&ask.partition.topic, ask.partition.partition, ask.from.0).with_max_bytes(ask.limit)
            });
            Ok(room.client.fetch_messages(wanted)?)
        });
        self.fetch_timeout = match &fetched {
            Err(Failure::Fault(SourceFault::Away(_))) => self.fetch_timeout * 2,
            _ => self.fetch_timeout.mul_f64(0.99),
        };
        self.fetch_timeout = self.fetch_timeout.clamp(FETCH_TIMEOUT_MIN, FETCH_TIMEOUT_MAX);
        Ok(outcomes(fetched?))
    }

    /// What a fetch of one partition alone shows. `None` where it says nothing for now.
    fn fetch_one(&mut self, ask: Ask, wait: Duration) -> Result<Option<Outcome>, SourceFault> {
        let partition = ask.partition.clone();
        match self.fetch(vec![ask], wait) {
            Ok(mut outcomes) => Ok(outcomes.remove(&partition)),
            Err(Failure::Fault(fault)) => Err(fault),
            Err(Failure::Bytes(why)) => {
                let high_watermark = NextOffset(i64::MAX);
                Ok(Some(Outcome::Said(Said { high_watermark, sight: Sight::Refused(why) })))
            }
        }
    }

    /// Fetches all together, or, while one of them can't be parsed, each alone.
    fn fetch_all(&mut self, asks: &[Ask], wait: Duration) -> Result<Vec<(Ask, Outcome)>, SourceFault> {
        let separately = self.separately_until.is_some_and(|until| Instant::now() < until);
        if asks.len() > 1 && !separately {
            match self.fetch(asks.to_vec(), wait) {
                Ok(mut outcomes) => {
                    let of = |ask: &Ask| Some((ask.clone(), outcomes.remove(&ask.partition)?));
                    return Ok(asks.iter().filter_map(of).collect());
                }
                Err(Failure::Fault(fault)) => return Err(fault),
                Err(Failure::Bytes(_)) => self.separately_until = Some(Instant::now() + RETRY_PAUSE * 10),
            }
        }
        let wait = wait / u32::try_from(asks.len().max(1)).unwrap_or(u32::MAX);
        let mut fetched = Vec::new();
        for ask in asks {
            if let Some(outcome) = self.fetch_one(ask.clone(), wait)? {
                fetched.push((ask.clone(), outcome));
            }
        }
        Ok(fetched)
    }

    /// Takes in what was said of one partition, alone or beside others.
    fn take_in(
        &mut self,
        ask: &Ask,
        said: Said,
        (mut are_others, share): (bool, i32),
        on_record: &mut OnRecord<'_>,
    ) -> Result<(), SourceFault> {
        let mut ask = ask.clone();
        let Said { mut high_watermark, mut sight } = said;
        let asked = ask.from.0;
        // Others may have used up what the broker gives at a time, so it is asked alone; then the next set is larger than
        // what was asked for, or there is none.
        while matches!(sight, Sight::Nothing) && high_watermark > ask.from {
            let max = self.fetch_bytes_max();
            let Some(cursor) = self.cursors.get_mut(&ask.partition) else { return Ok(()) };
            let is_larger = ask.limit < cursor.reach.limit() || cursor.reach.was_empty(max);
            if !is_larger && !are_others {
                cursor.later = Some(Instant::now() + RETRY_PAUSE);
                return Err(stuck(&ask, high_watermark, max));
            }
            (ask.limit, are_others) = (cursor.reach.limit(), false);
            match self.fetch_one(ask.clone(), Duration::ZERO)? {
                Some(Outcome::Said(said)) => Said { high_watermark, sight } = said,
                Some(Outcome::Fault(fault)) => return Err(fault),
                // The next poll says it again.
                _ => return Ok(()),
            }
        }
        let (limit, found) = match sight {
            Sight::Nothing => return Ok(()),
            Sight::From(first, records) if first == asked => (None, Found::Records(ask.limit, records)),
            sight => {
                let mut aside = None;
                let found = settle(asked, ask.limit, sight, |limit| {
                    match self.fetch_one(Ask { limit, ..ask.clone() }, Duration::ZERO)? {
                        Some(Outcome::Said(said)) => Ok(said.sight),
                        Some(Outcome::Fault(fault)) => Err(fault),
                        // The leader has changed, say.
                        other => {
                            aside = other;
                            Err(SourceFault::Away("the partition has moved meanwhile".to_owned()))
                        }
                    }
                });
                if let (Err(SourceFault::Away(_)), Some(_)) = (&found, aside) {
                    return self.look_for_leaders();
                }
                (Some(ask.limit), found?)
            }
        };
        let Some(cursor) = self.cursors.get_mut(&ask.partition) else { return Ok(()) };
        let (at, first, records) = match found {
            Found::Records(at, records) => (at, asked, records),
            Found::Gap(first, records) => {
                let partition = &ask.partition;
                let level = if cursor.has_gaps { log::Level::Debug } else { log::Level::Info };
                cursor.has_gaps = true;
                log::log!(
                    level,
                    "partition={partition} offsets={asked}..{first}: Kafka holds no records there (compacted, or markers \
                     of transactions)"
                );
                (ask.limit, first, records)
            }
            Found::Unreadable(why) => {
                cursor.later = Some(Instant::now() + RETRY_PAUSE);
                return Err(unreadable(&ask, &why));
            }
            Found::Unsettled => {
                self.complain(format!("partition {}: what is at offset {asked} is not clear yet", ask.partition));
                return Ok(());
            }
        };
        let (mut next, mut bytes, mut is_in_order) = (NextOffset(first), 0, true);
        records.deliver(|record| {
            is_in_order &= record.offset.0 >= next.0;
            if is_in_order {
                next = record.offset.next();
                // As the protocol counts: offset, size, checksum, two attributes, two lengths.
                bytes += 26 + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                on_record(&ask.partition, record);
            }
        });
        cursor.next = next;
        match limit {
            Some(_) => cursor.reach.was_found(at),
            None => cursor.reach.was_read(bytes, high_watermark > next, share),
        }
        match is_in_order {
            true => Ok(()),
            false => Err(unreadable(&Ask { from: next, ..ask }, "its offsets go backwards")),
        }
    }

    fn note_away(&mut self, why: &str) {
        // While starting, the caller says it.
        if self.assignment.is_some() {
            self.away.away(&why, Instant::now());
        }
    }

    fn note_back(&mut self) {
        self.away.back(Instant::now());
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

/// Why the client could not do what it was asked to.
enum Failed {
    /// The client is to be replaced.
    Broken(SourceFault),
    /// Nothing is wrong with the client.
    Alike(SourceFault),
    /// What it was given to parse.
    Bytes(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match unreadable_bytes(&error) {
            Some(why) => Failed::Bytes(why.to_owned()),
            None => Failed::Broken(fault(error)),
        }
    }
}

/// What the client can't parse, in words for people; `None` if that is not what is wrong.
fn unreadable_bytes(error: &Error) -> Option<&'static str> {
    match error {
        Error::ArcSelf(inner) => unreadable_bytes(inner),
        Error::UnsupportedCompression => Some("it is compressed, and neither by gzip nor by snappy"),
        Error::UnsupportedProtocol => Some("it is in a format that is newer than this protocol"),
        Error::Kafka(KafkaCode::CorruptMessage) => Some("its bytes are damaged"),
        Error::InvalidSnappy(_) => Some("it can't be decompressed"),
        // The decompressors speak like this, sockets never do.
        Error::Io(error)
            if matches!(error.kind(), ErrorKind::Other | ErrorKind::InvalidData | ErrorKind::InvalidInput) =>
        {
            Some("it can't be decompressed")
        }
        _ => None,
    }
}

fn fault(error: Error) -> SourceFault {
    match error {
        Error::Kafka(code) => code_fault(code, "the brokers"),
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => SourceFault::Away(
            "a broker has closed the connection (if it expects TLS or SASL, set client = \"krafka\")".to_owned(),
        ),
        other => SourceFault::Away(other.to_string()),
    }
}

fn code_fault(code: KafkaCode, who: &str) -> SourceFault {
    match code {
        KafkaCode::UnsupportedVersion => SourceFault::Config(format!(
            "{who}: the old protocol of client = \"kafka\" is not spoken here; set client = \"krafka\""
        )),
        _ => Meaning::of(code as i16).fault(format!("{who}: {code:?}")),
    }
}

/// Whether it helps to ask again who leads a partition.
fn is_led(code: KafkaCode) -> bool {
    Meaning::of(code as i16) == Meaning::Moved
}

fn no_answer(limit: Duration) -> SourceFault {
    SourceFault::Away(format!("no answer within {} s", limit.as_secs()))
}

/// Asks for all topics.
fn load(room: &mut Room) -> Result<BTreeMap<Arc<str>, Vec<Option<String>>>, SourceFault> {
    room.client.load_metadata_all().map_err(fault)?;
    let topics = room.client.topics();
    let leader = |broker: Option<&kafka::client::metadata::Broker>| broker.map(|broker| broker.host().to_owned());
    let leaders = topics.iter().map(|topic| {
        let leaders = topic.partitions().iter().map(|partition| leader(partition.leader())).collect();
        (topic.name().into(), leaders)
    });
    Ok(leaders.collect())
}

/// Sorts answers by partition.
fn outcomes(answers: Vec<Response>) -> HashMap<TopicPartition, Outcome> {
    let mut outcomes = HashMap::new();
    for answer in answers.into_iter().map(Rc::new) {
        for (topic_idx, topic) in answer.topics().iter().enumerate() {
            let name: Arc<str> = topic.topic().into();
            for (partition_idx, partition) in topic.partitions().iter().enumerate() {
                let outcome = match partition.data() {
                    Err(error) => refusal(&error, topic.topic()),
                    Ok(data) => {
                        let records = Records { answer: answer.clone(), topic_idx, partition_idx };
                        Outcome::Said(Said {
                            high_watermark: NextOffset(data.highwatermark_offset()),
                            sight: match data.messages().first() {
                                None => Sight::Nothing,
                                Some(first) => Sight::From(first.offset, records),
                            },
                        })
                    }
                };
                outcomes.insert(TopicPartition::new(name.clone(), partition.partition()), outcome);
            }
        }
    }
    outcomes
}

/// What a broker means that gives no records of a partition.
fn refusal(error: &Error, topic: &str) -> Outcome {
    let refused =
        |why: &str| Outcome::Said(Said { high_watermark: NextOffset(i64::MAX), sight: Sight::Refused(why.to_owned()) });
    match error {
        Error::ArcSelf(inner) => refusal(inner, topic),
        Error::Kafka(KafkaCode::OffsetOutOfRange) => Outcome::OffTheLog,
        Error::Kafka(code) if is_led(*code) => Outcome::Led,
        Error::Kafka(KafkaCode::CorruptMessage) => refused("its bytes are damaged"),
        Error::Kafka(KafkaCode::UnsupportedVersion) => {
            refused("the broker does not convert this topic for old clients (message.downconversion.enable)")
        }
        // Codes that are younger than the client have no other name in it.
        Error::Kafka(KafkaCode::Unknown) => refused("the broker can't convert it for old clients, as with zstd"),
        Error::Kafka(code) => Outcome::Fault(code_fault(*code, topic)),
        _ => Outcome::Led,
    }
}

fn unreadable(ask: &Ask, why: &str) -> SourceFault {
    let Ask { partition, from, .. } = ask;
    SourceFault::Unreadable(format!(
        "partition {partition}: client = \"kafka\" can't read what is at offset {from}: {why}; set client = \"krafka\""
    ))
}

/// A broker that goes on, and gives nothing.
fn stuck(ask: &Ask, high_watermark: NextOffset, bytes_max: i32) -> SourceFault {
    let Ask { partition, from, .. } = ask;
    SourceFault::Unreadable(format!(
        "partition {partition}: Kafka gives client = \"kafka\" nothing from offset {from} on, though the log goes on to \
         {high_watermark}: it may be a marker of a transaction, a hole that compaction has left, or a message of more than \
         {} MiB or of the broker's fetch.max.bytes, and this client can't tell which; set client = \"krafka\", or, for a \
         message, raise these limits (ours is kafka.max_message_bytes)",
        bytes_max >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_parsed_is_told_from_what_breaks_a_connection() {
        let io = |kind: ErrorKind| Failed::from(Error::Io(kind.into()));
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::TimedOut, ErrorKind::WouldBlock] {
            assert!(matches!(io(kind), Failed::Broken(SourceFault::Away(_))), "{kind}");
        }
        for kind in [ErrorKind::Other, ErrorKind::InvalidData, ErrorKind::InvalidInput] {
            assert!(matches!(io(kind), Failed::Bytes(_)), "{kind}");
        }
        for error in [
            Error::UnsupportedCompression,
            Error::UnsupportedProtocol,
            Error::Kafka(KafkaCode::CorruptMessage),
            Error::ArcSelf(Arc::new(Error::UnsupportedCompression)),
        ] {
            assert!(matches!(Failed::from(error), Failed::Bytes(_)));
        }
    }

    #[test]
    fn what_waiting_cannot_mend_is_not_away() {
        assert!(matches!(fault(Error::Kafka(KafkaCode::GroupAuthorizationFailed)), SourceFault::Denied(_)));
        assert!(matches!(fault(Error::Kafka(KafkaCode::UnsupportedVersion)), SourceFault::Config(_)));
        assert!(matches!(fault(Error::Kafka(KafkaCode::GroupLoadInProgress)), SourceFault::Away(_)));
        assert!(matches!(fault(Error::NoHostReachable), SourceFault::Away(_)));
        let denied = refusal(&Error::Kafka(KafkaCode::TopicAuthorizationFailed), "t");
        assert!(matches!(denied, Outcome::Fault(SourceFault::Denied(_))));
        let moved = refusal(&Error::ArcSelf(Arc::new(Error::Kafka(KafkaCode::NotLeaderForPartition))), "t");
        assert!(matches!(moved, Outcome::Led));
    }
}
