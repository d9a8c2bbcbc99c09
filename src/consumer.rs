//! The consumer thread: reads from Kafka what it has claimed, slices it into batches, and tells Kafka what is durable.
//!
//! It never waits for the database: claims are asked of the claimer, batches are sent only where there is room, and
//! while nothing can be sent it pauses and goes on polling, so that the process stays in its group. Reading starts only
//! after the position in the database was compared with the broker's log.

mod flow;

use crate::batch::Limits;
use crate::claimer::{Claims, Question};
use crate::config::{AssignmentMode, Config};
use crate::delivery::{Committable, Dispatch, Settlement};
use crate::exit::{ExitCode, Stop};
use crate::ledger::{Claim, LogIdentity, Start};
use crate::record::{NextOffset, TopicPartition};
use crate::shutdown::Shutdown;
use crate::source::{Bounds, Source, SourceFault, TopicState};
use crate::writer::Shared;
use crossbeam_channel::{Receiver, Sender};
use flow::{Callbacks, Flow, Phase, locked};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest wait for records in one turn.
const POLL_MAX: Duration = Duration::from_millis(100);
/// The wait for a writer in a turn that can't send.
const CONGESTED_WAIT: Duration = Duration::from_millis(20);
/// How often Kafka is told what is durable.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the topics' identity is looked at, while records flow and while none do.
const TOPICS_INTERVAL_BUSY: Duration = Duration::from_secs(1);
const TOPICS_INTERVAL_IDLE: Duration = Duration::from_secs(10);
/// How long a position beyond the log's end may be a follower's lag after a failover.
const AHEAD_MAX: Duration = Duration::from_secs(30);
/// The wait after a poll that failed.
const FAILED_POLL_PAUSE: Duration = Duration::from_millis(100);
/// How long something in a log may be unreadable.
const UNREADABLE_MAX: Duration = Duration::from_secs(15);
/// How often a bounded run asks whether everything is there.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// After a stop is asked for: what is in flight may finish, then everything ends.
const FINISH_MAX: Duration = Duration::from_secs(6);
const CANCEL_MAX: Duration = Duration::from_secs(2);

/// What a consumer is made with.
pub struct Wiring {
    /// Batches to the writers.
    pub dispatches_tx: Sender<Dispatch>,
    /// Their answers. Has room for `dispatches_max` of them.
    pub durables_rx: Receiver<Settlement>,
    /// Batches that may exist at the writers and on their way.
    pub dispatches_max: usize,
    /// The claimer.
    pub claims: Claims,
    /// What the writers share.
    pub shared: Arc<Shared>,
    /// The end offsets of a bounded run.
    pub ends: Option<BTreeMap<TopicPartition, NextOffset>>,
    /// How long the brokers may stay away.
    pub outage_max: Option<Duration>,
    /// The stop request.
    pub shutdown: Shutdown,
}

/// How consuming ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// A bounded run has reached all its ends.
    ReachedEnds,
    /// Somebody asked for it.
    Asked,
}

/// Consumes until a stop is asked for, the ends are reached, or something is wrong.
pub fn run(source: &mut dyn Source, config: &Config, wiring: Wiring) -> Result<Ended, Stop> {
    let mut consumer = Consumer::new(source, config, wiring);
    consumer.source.subscribe(&consumer.topics, Arc::new(Callbacks(consumer.flow.clone())))?;
    let ended = loop {
        if consumer.shutdown.is_triggered() {
            break Ended::Asked;
        }
        match consumer.turn() {
            Ok(true) => break Ended::ReachedEnds,
            Ok(false) => {}
            Err(stop) => {
                consumer.abandon();
                return Err(stop);
            }
        }
    };
    if consumer.shutdown.is_abort() {
        consumer.abandon()
    } else {
        consumer.finish()
    }
    Ok(ended)
}

struct Consumer<'a> {
    source: &'a mut dyn Source,
    flow: Arc<Mutex<Flow>>,
    topics: Vec<Arc<str>>,
    dispatches_tx: Sender<Dispatch>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
    ends: Option<BTreeMap<TopicPartition, NextOffset>>,
    progress_asked_at: Option<Instant>,
    outage_max: Option<Duration>,
    memory_max: usize,
    // Reading is paused because the writers are behind.
    held: bool,
    identities: BTreeMap<Arc<str>, TopicState>,
    cluster_id: Option<String>,
    topics_checked_at: Instant,
    records_since_check: bool,
    missing_since: Option<Instant>,
    grace: Duration,
    committed_at: Instant,
    synchronous_commit: bool,
    // Waits for the barrier that makes it true after a crash of the server, too.
    held_back: Option<Committable>,
    compared_with_group: BTreeSet<TopicPartition>,
    // The first and the latest time that something in a log could not be read.
    unreadable: Option<(Instant, Instant)>,
}

impl<'a> Consumer<'a> {
    fn new(source: &'a mut dyn Source, config: &Config, wiring: Wiring) -> Self {
        let limits = Limits {
            rows_max: config.batch.rows_max,
            bytes_max: config.batch.bytes_max,
            linger: config.batch.linger,
            message_bytes_max: config.kafka.message_bytes_max,
        };
        let exclusive = config.kafka.assignment != AssignmentMode::Group;
        let flow = Flow::new(
            limits,
            wiring.shared.clone(),
            exclusive,
            wiring.dispatches_max,
            wiring.durables_rx,
            wiring.claims,
        );
        Consumer {
            source,
            flow: Arc::new(Mutex::new(flow)),
            topics: config.topics.iter().map(|topic| Arc::from(topic.name.as_str())).collect(),
            dispatches_tx: wiring.dispatches_tx,
            shared: wiring.shared,
            shutdown: wiring.shutdown,
            ends: wiring.ends,
            progress_asked_at: None,
            outage_max: wiring.outage_max,
            // The batch that is being filled and the client's own buffer are on top of what is in flight.
            memory_max: config.writers.memory_max.saturating_sub(config.batch.bytes_max),
            held: false,
            identities: BTreeMap::new(),
            cluster_id: None,
            topics_checked_at: Instant::now(),
            records_since_check: false,
            missing_since: None,
            grace: config.schema.grace,
            committed_at: Instant::now(),
            synchronous_commit: config.database.synchronous_commit,
            held_back: None,
            compared_with_group: BTreeSet::new(),
            unreadable: None,
        }
    }

    /// One turn of the loop; `true` when a bounded run has reached its ends.
    fn turn(&mut self) -> Result<bool, Stop> {
        self.take_news()?;
        self.claim()?;
        self.check_claimed()?;
        self.watch_topics()?;
        self.hold_or_release();
        self.commit_offsets();
        if self.has_reached_ends() {
            return Ok(true);
        }
        self.poll()?;
        {
            let mut flow = locked(&self.flow);
            if flow.batcher.due_at().is_some_and(|due_at| due_at <= Instant::now()) {
                flow.seal();
            }
        }
        self.verify_sealed()?;
        locked(&self.flow).dispatch(&self.dispatches_tx);
        Ok(false)
    }

    /// Makes sure that what was read came from the logs that are followed. A topic that was deleted and created again is
    /// read on at the old offset without a word; but its old id never comes back, so the old id *after* the last record
    /// was read proves where the records came from.
    fn verify_sealed(&mut self) -> Result<(), Stop> {
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
            let Some(known) = self.identities.get(topic) else { continue };
            let of = |topic_id| LogIdentity { cluster_id: None, topic_id };
            same_log(topic, &of(known.topic_id), &of(state.topic_id))?;
        }
        Ok(())
    }

    fn take_news(&mut self) -> Result<(), Stop> {
        let mut flow = locked(&self.flow);
        flow.settle_all();
        flow.take_answers();
        if let Some(stop) = flow.stop.take() {
            return Err(stop);
        }
        flow.dispatch(&self.dispatches_tx);
        if std::mem::take(&mut flow.pause_all) {
            let owned: Vec<_> = flow.owned.keys().cloned().collect();
            drop(flow);
            self.source.pause(&owned);
        }
        let away = self.source.away_since().map(|since| since.elapsed());
        match (away, self.outage_max) {
            (Some(away), Some(limit)) if away > limit => Err(Stop::new(
                ExitCode::ServerAway,
                format!("kafka stayed away for {} s (retry.max_outage_s)", limit.as_secs()),
            )),
            _ => Ok(()),
        }
    }

    /// Asks for claims. Partitions without a row were added to their topic; they start at their oldest record.
    fn claim(&mut self) -> Result<(), Stop> {
        let rowless: Vec<TopicPartition> = {
            let mut flow = locked(&self.flow);
            flow.claim_due(Instant::now());
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
        locked(&self.flow).ask_for(rowless, Question::ClaimOrStart(starts));
        Ok(())
    }

    /// Compares what was claimed with the broker's log, and starts reading it.
    fn check_claimed(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
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
        let looked_up = self.away_is_none(|this| this.look_up(&partitions))?;
        let Some((bounds, identities)) = looked_up else {
            self.check_later(&partitions, None);
            return Ok(());
        };
        self.compare_with_group(&due);
        let mut start = Vec::new();
        for claim in due {
            let Some(bounds) = bounds.get(&claim.partition) else { continue };
            if let Some(now) = identities.get(&claim.partition.topic) {
                same_log(&claim.partition.topic, &claim.identity, now)?;
            }
            if claim.next < bounds.start {
                return Err(below_log_start(&claim, bounds));
            }
            if claim.next > bounds.high_watermark {
                self.is_ahead(&claim, bounds)?;
                continue;
            }
            if let Err(fault) = self.source.seek(&claim.partition, claim.next) {
                log::debug!("partition={}: {fault}", claim.partition);
                self.check_later(&[claim.partition], None);
                continue;
            }
            log::info!("claimed partition={} epoch={} next_offset={}", claim.partition, claim.epoch.0, claim.next);
            locked(&self.flow).read(&claim.partition, claim.epoch, claim.next);
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
        let cluster_id = Some(self.source.cluster_id()?);
        let states = self.source.topics(&topics.into_iter().collect::<Vec<_>>())?;
        let bounds = self.source.bounds(partitions)?;
        self.cluster_id.clone_from(&cluster_id);
        let identity = |state: &TopicState| LogIdentity { cluster_id: cluster_id.clone(), topic_id: state.topic_id };
        let identities = states.iter().map(|(topic, state)| (topic.clone(), identity(state))).collect();
        for (topic, state) in states {
            self.identities.entry(topic).or_insert(state);
        }
        Ok((bounds, identities))
    }

    /// `None` where trying again later may help; a missing topic is waited for no longer than the grace.
    fn away_is_none<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, SourceFault>) -> Result<Option<T>, Stop> {
        match call(self) {
            Ok(answer) => {
                self.missing_since = None;
                Ok(Some(answer))
            }
            Err(fault @ SourceFault::MissingTopic(_)) => {
                let since = *self.missing_since.get_or_insert_with(Instant::now);
                if since.elapsed() > self.grace { Err(fault.into()) } else { Ok(None) }
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
                *check_at = Instant::now() + Duration::from_secs(1);
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
            Some(since) if since.elapsed() > AHEAD_MAX => Err(Stop::new(
                ExitCode::DataNeedsDecision,
                format!(
                    "partition {partition}: the database is at offset {next}, but the log ends at {end}: it was \
                     truncated; decide what to do about the difference, then set its next_offset in writer_offsets"
                ),
            )),
            Some(_) => {
                self.check_later(std::slice::from_ref(partition), None);
                Ok(())
            }
            None => {
                log::warn!("partition={partition} next_offset={next} is beyond the log's end {end}, asking again");
                self.check_later(std::slice::from_ref(partition), Some(Instant::now()));
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
                            "partition={partition} next_offset={next} group_offset={group}: the group's offset in \
                             Kafka is ahead; the database wins"
                        );
                    }
                }
                self.compared_with_group.extend(partitions);
            }
            Err(fault) => log::debug!("reading the group's offsets: {fault}"),
        }
    }

    /// Notices topics that were deleted and created again, or have got more partitions.
    fn watch_topics(&mut self) -> Result<(), Stop> {
        let interval = if self.records_since_check { TOPICS_INTERVAL_BUSY } else { TOPICS_INTERVAL_IDLE };
        if self.topics_checked_at.elapsed() < interval || self.source.away_since().is_some() {
            return Ok(());
        }
        (self.topics_checked_at, self.records_since_check) = (Instant::now(), false);
        let topics = self.topics.clone();
        let Some(states) = self.away_is_none(|this| this.source.topics(&topics))? else { return Ok(()) };
        self.compare_ids(&states)?;
        self.away_is_none(|this| this.source.partitions_added(&states))?;
        Ok(())
    }

    /// Stops fetching while the writers are behind, and goes on when they have caught up.
    fn hold_or_release(&mut self) {
        let (must_hold, reading) = {
            let flow = locked(&self.flow);
            let must_hold = flow.is_congested() || flow.bytes() > self.memory_max;
            (must_hold, if must_hold == self.held { Vec::new() } else { flow.reading() })
        };
        if must_hold == self.held {
            return;
        }
        if must_hold {
            self.source.pause(&reading);
        } else {
            self.source.resume(&reading);
        }
        self.held = must_hold;
    }

    fn poll(&mut self) -> Result<(), Stop> {
        let wait = {
            let mut flow = locked(&self.flow);
            if self.held {
                flow.settle_within(CONGESTED_WAIT);
                Duration::from_millis(1)
            } else {
                let due_in = flow.batcher.due_at().map(|due_at| due_at.saturating_duration_since(Instant::now()));
                due_in.map_or(POLL_MAX, |due_in| due_in.clamp(Duration::from_millis(1), POLL_MAX))
            }
        };
        let flow = self.flow.clone();
        let mut records = 0_u64;
        // Locked with the first record: until then the client's callbacks may want it.
        let mut guard = None;
        let polled = self.source.poll(wait, &mut |partition, record| {
            records += 1;
            guard.get_or_insert_with(|| locked(&flow)).take_in(partition, record, Instant::now());
        });
        drop(guard);
        self.records_since_check |= records > 0;
        let off_the_log = match polled {
            Ok(off_the_log) => off_the_log,
            Err(fault @ (SourceFault::Denied(_) | SourceFault::Config(_))) => return Err(fault.into()),
            Err(fault) => {
                if matches!(fault, SourceFault::Unreadable(_)) {
                    self.is_unreadable(fault)?;
                } else {
                    log::debug!("{fault}");
                }
                // It may have failed at once.
                self.shutdown.sleep(FAILED_POLL_PAUSE);
                Vec::new()
            }
        };
        let reading = locked(&self.flow).reading();
        let positions = self.source.positions(&reading);
        let now = Instant::now();
        let mut flow = locked(&self.flow);
        for (partition, position) in positions {
            match flow.batcher.read_to(&partition) {
                Some(read_to) if position < read_to => flow.regressed = Some(partition),
                _ => flow.batcher.advance(&partition, position, now),
            }
        }
        let regressed = flow.regressed.take();
        if let Some(partition) = off_the_log.iter().find(|partition| reading.contains(partition)).or(regressed.as_ref())
        {
            log::warn!("partition={partition}: its log is not where it was, reading the positions again");
            flow.start_over();
        }
        Ok(())
    }

    /// Once may be the network's fault; other partitions go on meanwhile.
    fn is_unreadable(&mut self, fault: SourceFault) -> Result<(), Stop> {
        let now = Instant::now();
        let (since, last) = self.unreadable.get_or_insert_with(|| {
            log::warn!("{fault}; trying again");
            (now, now)
        });
        if now.duration_since(*last) > UNREADABLE_MAX {
            *since = now;
        }
        *last = now;
        if now.duration_since(*since) > UNREADABLE_MAX { Err(fault.into()) } else { Ok(()) }
    }

    fn commit_offsets(&mut self) {
        let mut flow = locked(&self.flow);
        match (flow.barrier.take(), self.held_back.take()) {
            (Some(true), Some(committable)) => {
                drop(flow);
                return self.tell(committable);
            }
            (Some(false), Some(committable)) => flow.tracker.not_told(committable),
            (_, held_back) => self.held_back = held_back,
        }
        if self.committed_at.elapsed() < COMMIT_INTERVAL
            || self.held_back.is_some()
            || self.source.away_since().is_some()
        {
            return;
        }
        self.committed_at = Instant::now();
        let Some(committable) = flow.tracker.take_committable() else { return };
        if self.synchronous_commit {
            drop(flow);
            self.tell(committable);
        } else {
            self.held_back = Some(committable);
            flow.ask_barrier();
        }
    }

    fn tell(&mut self, committable: Committable) {
        if let Err(fault) = self.source.commit_offsets(&committable) {
            log::debug!("committing offsets: {fault}");
            locked(&self.flow).tracker.not_told(committable);
        }
    }

    fn has_reached_ends(&mut self) -> bool {
        let Some(ends) = &self.ends else { return false };
        let mut flow = locked(&self.flow);
        if let Some(progress) = flow.progress.take()
            && ends.iter().all(|(partition, end)| progress.get(partition).is_some_and(|next| next >= end))
        {
            return true;
        }
        let behind = |(partition, end): (&TopicPartition, &NextOffset)| {
            flow.tracker.durable(partition).is_some_and(|durable| durable < *end)
        };
        let due = self.progress_asked_at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
        if due && !ends.iter().any(behind) {
            self.progress_asked_at = Some(Instant::now());
            flow.ask_progress(&self.topics);
        }
        false
    }

    /// Gives up what is in flight and leaves the group.
    fn abandon(self) {
        locked(&self.flow).start_over();
        self.source.close();
    }

    /// Writes what has been read, for a bounded time, tells Kafka, and leaves. Nothing depends on it: what isn't
    /// finished is read again.
    fn finish(mut self) {
        let deadline = Instant::now() + FINISH_MAX;
        let reading = locked(&self.flow).reading();
        self.source.pause(&reading);
        locked(&self.flow).seal();
        let verified = self.verify_sealed();
        let mut flow = locked(&self.flow);
        if let Err(stop) = verified {
            // The next start says it again, and why.
            log::warn!("not writing what was read last: {stop}");
            flow.start_over();
        }
        loop {
            flow.settle_all();
            flow.dispatch(&self.dispatches_tx);
            let left = deadline.saturating_duration_since(Instant::now());
            if (!flow.is_congested() && flow.tracker.batches_in_flight() == 0) || left.is_zero() {
                break;
            }
            flow.settle_within(left.min(Duration::from_millis(50)));
        }
        // The writers end with what is in their channel.
        drop(self.dispatches_tx);
        if flow.tracker.batches_in_flight() > 0 {
            log::warn!("stopping with batches={} in flight: they are rolled back", flow.tracker.batches_in_flight());
            flow.start_over();
            let deadline = Instant::now() + CANCEL_MAX;
            while flow.tracker.batches_in_flight() > 0 && Instant::now() < deadline {
                flow.settle_within(Duration::from_millis(50));
            }
        }
        let committable = flow.tracker.take_committable().filter(|_| self.synchronous_commit);
        drop(flow);
        if let Some(committable) = committable
            && self.source.away_since().is_none()
            && let Err(fault) = self.source.commit_offsets(&committable)
        {
            log::debug!("committing offsets: {fault}");
        }
        self.source.close();
        log::info!("stopped {}", self.shared.stats);
    }
}

/// A topic that was deleted and created again has the same name and another id.
fn same_log(topic: &str, followed: &LogIdentity, now: &LogIdentity) -> Result<(), Stop> {
    let differ = |a: Option<String>, b: Option<String>| a.is_some() && b.is_some() && a != b;
    let hex = |id: Option<[u8; 16]>| id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let (what, was, is) = if differ(followed.cluster_id.clone(), now.cluster_id.clone()) {
        ("this is another cluster", followed.cluster_id.clone(), now.cluster_id.clone())
    } else if differ(hex(followed.topic_id), hex(now.topic_id)) {
        ("it was deleted and created again", hex(followed.topic_id), hex(now.topic_id))
    } else {
        return Ok(());
    };
    Err(Stop::new(
        ExitCode::DataNeedsDecision,
        format!(
            "topic {topic:?}: {what} (id {}, was {}), so the offsets in the database are not those of its log; to start \
             over with it, delete the topic's rows from writer_offsets",
            is.unwrap_or_default(),
            was.unwrap_or_default()
        ),
    ))
}

fn below_log_start(claim: &Claim, bounds: &Bounds) -> Stop {
    let Claim { partition, next, .. } = claim;
    let start = bounds.start;
    Stop::new(
        ExitCode::DataNeedsDecision,
        format!(
            "partition {partition}: the database is at offset {next}, but the log starts at {start}: records {next} to \
             {} are gone from Kafka; accept the loss by setting its next_offset in writer_offsets to {start}",
            start.0 - 1
        ),
    )
}
