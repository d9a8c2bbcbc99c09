//! The consumer thread: reads from Kafka what it has claimed, slices it into batches, and tells Kafka what is durable.
//!
//! It never waits for the database: claims are asked of the claimer, batches are sent only where there is room, and
//! while nothing can be sent it pauses and goes on polling, so that the process stays in its group. Reading starts only
//! after the position in the database was compared with the broker's log.

mod flow;
mod logs;
mod patterns;
mod poll;
mod positions;
mod report;
mod unread;
mod window;

use crate::batch::Limits;
use crate::claimer::Claims;
use crate::clock;
use crate::config::{AssignmentMode, Config, OnGap, Topics};
use crate::delivery::{Committable, Dispatch, Settlement};
use crate::exit::{ExitCode, Stop};
use crate::record::{NextOffset, TopicPartition};
use crate::shutdown::Shutdown;
use crate::source::{Source, SourceFault, TopicState};
use crate::writer::Shared;
use crossbeam_channel::{Receiver, Sender};
use flow::{Callbacks, Flow, locked};
use patterns::say_gone;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use unread::Unread;
use window::Window;

/// What has not come by then is not expected at any moment.
const SETTLING_MAX: Duration = Duration::from_secs(5);
/// What is allowed in memory should hold so many polls.
const POLLS_IN_MEMORY: usize = 4;
/// How often Kafka is told what is durable.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
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
    /// The topics to be read: those that are named, and those that patterns match so far.
    pub topics: BTreeMap<Arc<str>, TopicState>,
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
    let topics = wiring.topics.clone();
    let mut consumer = Consumer::new(source, config, wiring);
    consumer.announce(&topics);
    consumer.subscribe()?;
    consumer.shared.vitals.started();
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
    // What is to be read: names and patterns.
    selection: Topics,
    assignment: AssignmentMode,
    on_gap: OnGap,
    // What is subscribed to.
    topics: BTreeSet<Arc<str>>,
    names_looked_at: Instant,
    // Subscribed to by a pattern, but not there at the last look.
    absent: BTreeSet<Arc<str>>,
    dispatches_tx: Sender<Dispatch>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
    ends: Option<BTreeMap<TopicPartition, NextOffset>>,
    progress_asked_at: Option<Instant>,
    outage_max: Option<Duration>,
    memory_max: usize,
    window: Window,
    settling: Settling,
    // Reading is paused because the writers are behind.
    held: bool,
    identities: BTreeMap<Arc<str>, TopicState>,
    cluster_id: Option<String>,
    topics_checked_at: Instant,
    records_since_check: bool,
    standings_asked_at: Instant,
    missing_since: Option<Instant>,
    grace: Duration,
    reported_at: Instant,
    unread: Unread,
    committed_at: Instant,
    synchronous_commit: bool,
    // Waits for the barrier that makes it true after a crash of the server, too.
    held_back: Option<Committable>,
    compared_with_group: BTreeSet<TopicPartition>,
    // The first and the latest time that something in a log could not be read.
    unreadable: Option<(Instant, Instant)>,
}

/// Since when something is expected that doesn't end a poll.
#[derive(Debug, Default)]
struct Settling(Option<Instant>);

impl Settling {
    fn is_awaited(&mut self, is_settling: bool) -> bool {
        if !is_settling {
            self.0 = None;
            return false;
        }
        clock::since(*self.0.get_or_insert_with(clock::now)) < SETTLING_MAX
    }
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
        let mut flow = Flow::new(
            limits,
            wiring.shared.clone(),
            exclusive,
            wiring.dispatches_max,
            wiring.durables_rx,
            wiring.claims,
        );
        flow.is_static = config.kafka.instance_id.is_some();
        Consumer {
            source,
            flow: Arc::new(Mutex::new(flow)),
            selection: config.topics.clone(),
            assignment: config.kafka.assignment.clone(),
            on_gap: config.kafka.on_gap,
            topics: wiring.topics.into_keys().collect(),
            names_looked_at: clock::now(),
            absent: BTreeSet::new(),
            dispatches_tx: wiring.dispatches_tx,
            shared: wiring.shared,
            shutdown: wiring.shutdown,
            ends: wiring.ends,
            progress_asked_at: None,
            outage_max: wiring.outage_max,
            // The batch that is being filled is on top of what is in flight.
            memory_max: config.writers.memory_max.saturating_sub(config.batch.bytes_max),
            window: Window::new(config.writers.memory_max / POLLS_IN_MEMORY),
            settling: Settling::default(),
            held: false,
            identities: BTreeMap::new(),
            cluster_id: None,
            topics_checked_at: clock::now(),
            records_since_check: false,
            standings_asked_at: clock::now(),
            missing_since: None,
            grace: config.schema.grace,
            reported_at: clock::now(),
            unread: Unread::default(),
            committed_at: clock::now(),
            synchronous_commit: config.database.synchronous_commit,
            held_back: None,
            compared_with_group: BTreeSet::new(),
            unreadable: None,
        }
    }

    /// Kafka may have gone away since it was asked last.
    fn subscribe(&mut self) -> Result<(), Stop> {
        let begun_at = clock::now();
        loop {
            let callbacks = Arc::new(Callbacks(self.flow.clone()));
            let topics: Vec<_> = self.topics.iter().cloned().collect();
            let Err(fault) = self.source.subscribe(&topics, callbacks) else { return Ok(()) };
            if let SourceFault::MissingTopic(missing) = &fault
                && self.selection.is_by_pattern(missing)
            {
                say_gone(missing);
                self.topics.retain(|topic| **topic != **missing);
                self.forget_ends();
                continue;
            }
            let patience = match fault {
                SourceFault::Away(_) => self.outage_max,
                SourceFault::MissingTopic(_) => Some(self.grace),
                _ => Some(Duration::ZERO),
            };
            if patience.is_some_and(|patience| clock::since(begun_at) >= patience) {
                return Err(fault.into());
            }
            log::warn!("subscribing, trying again: {fault}");
            if self.shutdown.sleep(Duration::from_secs(1)) {
                return Ok(());
            }
        }
    }

    /// One turn of the loop; `true` when a bounded run has reached its ends.
    fn turn(&mut self) -> Result<bool, Stop> {
        self.take_news()?;
        self.claim()?;
        self.check_claimed()?;
        self.watch_topics()?;
        self.follow_patterns()?;
        self.watch_standings();
        self.hold_or_release();
        self.commit_offsets();
        if self.has_reached_ends() {
            return Ok(true);
        }
        self.poll()?;
        {
            let mut flow = locked(&self.flow);
            let is_due = flow.batcher.due_at().is_some_and(|due_at| due_at <= clock::now());
            let is_last = self.ends.as_ref().is_some_and(|ends| flow.is_last_before(ends));
            if is_due || is_last {
                flow.seal();
            }
        }
        self.verify_sealed()?;
        locked(&self.flow).dispatch(&self.dispatches_tx);
        self.report();
        Ok(false)
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
        let away = self.source.away_since().map(clock::since);
        match (away, self.outage_max) {
            (Some(away), Some(limit)) if away > limit => Err(Stop::new(
                ExitCode::ServerAway,
                format!("kafka stayed away for {} s (retry.max_outage_s)", limit.as_secs()),
            )),
            _ => Ok(()),
        }
    }

    /// Stops fetching while the writers are behind, or what a poll may bring has no room, and goes on when they have
    /// caught up.
    fn hold_or_release(&mut self) {
        let (must_hold, reading) = {
            let flow = locked(&self.flow);
            let bytes = flow.bytes();
            let is_full = bytes > 0 && bytes + self.window.appetite() > self.memory_max;
            let must_hold = flow.is_congested() || is_full;
            (must_hold, if must_hold == self.held { Vec::new() } else { flow.reading() })
        };
        if must_hold == self.held {
            return;
        }
        if must_hold {
            self.source.pause(&reading);
        } else {
            self.source.resume(&reading);
            self.window.forget();
        }
        self.held = must_hold;
    }

    fn commit_offsets(&mut self) {
        let mut flow = locked(&self.flow);
        match (flow.barrier.take(), self.held_back.take()) {
            (Some(durable), Some(committable)) => {
                let Some(committable) = flow.tracker.confirm(committable, &durable) else { return };
                drop(flow);
                return self.tell(committable);
            }
            (_, held_back) => self.held_back = held_back,
        }
        if clock::since(self.committed_at) < COMMIT_INTERVAL
            || self.held_back.is_some()
            || self.source.away_since().is_some()
        {
            return;
        }
        self.committed_at = clock::now();
        let Some(committable) = flow.tracker.take_committable() else { return };
        if self.synchronous_commit {
            drop(flow);
            self.tell(committable);
        } else {
            self.held_back = Some(committable);
            flow.ask_barrier(self.topics.iter().cloned().collect());
        }
    }

    fn tell(&mut self, committable: Committable) {
        if let Err(fault) = self.source.commit_offsets(&committable) {
            // A member that the group has put out hears of it by its next poll.
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
        if ends.iter().any(behind) {
            // To be asked as soon as that has changed.
            self.progress_asked_at = None;
        } else if self.progress_asked_at.is_none_or(|at| clock::since(at) >= PROGRESS_INTERVAL) {
            self.progress_asked_at = Some(clock::now());
            flow.ask_progress(self.topics.iter().cloned().collect());
        }
        false
    }

    /// Gives up what is in flight and leaves the group.
    fn abandon(self) {
        {
            let mut flow = locked(&self.flow);
            // A writer that has ended answers for its batch no more.
            flow.abandoned = true;
            flow.start_over();
        }
        self.source.close();
    }

    /// Writes what has been read, for a bounded time, tells Kafka, and leaves. Nothing depends on it: what isn't
    /// finished is read again.
    fn finish(mut self) {
        let deadline = clock::now() + FINISH_MAX;
        let reading = locked(&self.flow).reading();
        self.source.pause(&reading);
        locked(&self.flow).seal();
        let verified = if self.source.away_since().is_none() { self.verify_sealed() } else { Ok(()) };
        let mut flow = locked(&self.flow);
        // What could not be verified is read again.
        flow.drop_sealed();
        if let Err(stop) = verified {
            // The next start says it again, and why.
            log::warn!("not writing what was read last: {stop}");
            flow.start_over();
        }
        loop {
            flow.settle_all();
            flow.dispatch(&self.dispatches_tx);
            let left = deadline.saturating_duration_since(clock::now());
            if (!flow.is_congested() && flow.tracker.batches_in_flight() == 0) || left.is_zero() {
                break;
            }
            flow.settle_within(left.min(Duration::from_millis(50)));
        }
        // The writers end with what is in their channel.
        drop(self.dispatches_tx);
        if flow.tracker.batches_in_flight() > 0 {
            let batches = flow.tracker.batches_in_flight();
            log::warn!(batches, why = "they are rolled back"; "stopping with batches in flight");
            flow.start_over();
            let deadline = clock::now() + CANCEL_MAX;
            while flow.tracker.batches_in_flight() > 0 && clock::now() < deadline {
                flow.settle_within(Duration::from_millis(50));
            }
            flow.abandoned = true;
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
    }
}

#[cfg(test)]
mod simulation;
