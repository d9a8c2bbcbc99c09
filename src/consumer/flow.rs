//! What the consumer thread shares with the Kafka client's callbacks: who owns what, what is open, what is in flight.
//!
//! The callbacks run on the consumer thread, inside a poll, and may not call the client. So they only change this state
//! and wait for writers; what needs the client (pausing, checking, seeking) is done by the thread after the poll.

mod questions;

use crate::backoff::Backoff;
use crate::batch::{Batch, Batcher, Epoch, Incoming, Limits, earlier};
use crate::claimer::{Claims, Ticket};
use crate::clock;
use crate::delivery::{Discard, Dispatch, Settlement, Tracker};
use crate::exit::{ExitCode, Stop};
use crate::lane::Seq;
use crate::ledger::Claim;
use crate::record::{NextOffset, TopicPartition};
use crate::source::Assignment;
use crate::vitals::Position;
use crate::writer::Shared;
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a revocation waits for batches in flight before it cancels them; far below half the rebalance timeout.
const REVOKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long it then waits for the writers to have rolled back. They may be in COMMIT; the epoch fences what is late.
const CANCEL_WAIT_MAX: Duration = Duration::from_secs(2);

/// After being fenced nothing is claimed for so long.
const FENCED_PAUSE: Duration = Duration::from_secs(1);

/// A static member that is put out so often within a minute shares its name with another process.
const LOSSES_MAX: usize = 5;
const LOSSES_WITHIN: Duration = Duration::from_secs(60);

/// How far a partition that Kafka gave us is from being read.
#[derive(Debug)]
pub(super) enum Phase {
    /// Paused; to be claimed from this time on.
    Unclaimed { ask_at: Instant },
    /// Paused; the claimer has been asked.
    Asked(Ticket),
    /// Paused; the database has no row for it: it was added to its topic.
    Rowless,
    /// Paused; ours, but not compared with the broker's log yet.
    Claimed { claim: Claim, check_at: Instant, ahead_since: Option<Instant> },
    /// Read; `again_from` while the client is still below our position, from which it was told to read again.
    Reading { again_from: Option<NextOffset> },
}

#[derive(Debug)]
pub(super) struct Ownership {
    pub phase: Phase,
    // Between claims after being fenced: two processes that fight over a partition must not keep each other from it.
    fenced: Backoff,
}

/// Under which claim partitions are read, and up to where they are durable.
type Believed = BTreeMap<TopicPartition, (Epoch, NextOffset)>;

/// The state.
pub(super) struct Flow {
    pub batcher: Batcher,
    pub tracker: Tracker,
    pub owned: BTreeMap<TopicPartition, Ownership>,
    /// Set when every owned partition must be paused, because it is to be claimed again.
    pub pause_all: bool,
    /// Where the log of a partition turned out to be shorter than what had been read of it.
    pub cut: BTreeMap<TopicPartition, NextOffset>,
    /// Set when something has become durable.
    pub has_progressed: bool,
    /// Set when what is in flight is of no interest any more.
    pub abandoned: bool,
    /// Whether this member of the group has a name of its own (`kafka.instance_id`).
    pub is_static: bool,
    losses: VecDeque<Instant>,
    /// The newest answer to where the pipeline stands.
    pub progress: Option<BTreeMap<TopicPartition, NextOffset>>,
    /// What the last barrier has shown to be durable; empty if it failed.
    pub barrier: Option<BTreeMap<TopicPartition, NextOffset>>,
    /// Why the process has to stop.
    pub stop: Option<Stop>,
    /// Why a claim has failed though the database is there, until everything is claimed.
    pub claim_failure: Option<String>,
    /// Closed, but not known to come from the logs that are followed.
    sealed: VecDeque<Batch>,
    /// To be sent.
    ready: VecDeque<Batch>,
    shared: Arc<Shared>,
    /// Nobody else is supposed to have our partitions: being fenced ends the process.
    exclusive: bool,
    next_seq: u64,
    floor: u64,
    dispatches_max: usize,
    durables_rx: Receiver<Settlement>,
    claims: Claims,
    claim_open: Option<Ticket>,
    claim_backoff: Backoff,
    progress_open: Option<Ticket>,
    barrier_open: Option<Ticket>,
    // With what we believed when we asked.
    standings_open: Option<(Ticket, Believed)>,
    unusable_since: Option<Instant>,
}

impl Flow {
    pub fn new(
        limits: Limits,
        shared: Arc<Shared>,
        exclusive: bool,
        dispatches_max: usize,
        durables_rx: Receiver<Settlement>,
        claims: Claims,
    ) -> Self {
        let claim_backoff = Backoff::unseeded(shared.retry.initial, shared.retry.max);
        Flow {
            batcher: Batcher::new(limits),
            tracker: Tracker::new(),
            owned: BTreeMap::new(),
            pause_all: false,
            cut: BTreeMap::new(),
            has_progressed: false,
            abandoned: false,
            is_static: false,
            losses: VecDeque::new(),
            progress: None,
            barrier: None,
            stop: None,
            claim_failure: None,
            sealed: VecDeque::new(),
            ready: VecDeque::new(),
            shared,
            exclusive,
            next_seq: 0,
            floor: 0,
            dispatches_max,
            durables_rx,
            claims,
            claim_open: None,
            claim_backoff,
            progress_open: None,
            barrier_open: None,
            standings_open: None,
            unusable_since: None,
        }
    }

    /// Takes one record in, unless its partition isn't being read.
    pub fn take_in(&mut self, partition: &TopicPartition, record: Incoming<'_>, now: Instant) {
        match self.batcher.read_to(partition) {
            // Not claimed, or given up a moment ago: it will be read again by whoever owns it.
            None => {}
            Some(read_to) if read_to.is_past(record.offset) => self.note_cut(partition, NextOffset(record.offset.0)),
            Some(_) => {
                self.batcher.push(partition, record, now);
                if self.batcher.is_full() {
                    self.seal();
                }
            }
        }
    }

    /// Notes where a log was found to go on, below what had been read of it.
    pub fn note_cut(&mut self, partition: &TopicPartition, at: NextOffset) {
        let cut = self.cut.entry(partition.clone()).or_insert(at);
        *cut = at.min(*cut);
    }

    /// Notes where the client stands after a poll.
    pub fn note_position(&mut self, partition: &TopicPartition, position: NextOffset, now: Instant) {
        let Some(Ownership { phase: Phase::Reading { again_from }, .. }) = self.owned.get_mut(partition) else {
            return;
        };
        match (self.batcher.read_to(partition), *again_from) {
            (Some(read_to), _) if position >= read_to => {
                *again_from = None;
                self.batcher.advance(partition, position, now);
            }
            (Some(_), Some(from)) if position >= from => {}
            (Some(_), _) => self.note_cut(partition, position),
            (None, _) => {}
        }
    }

    /// Closes the open batch.
    pub fn seal(&mut self) {
        self.sealed.extend(self.batcher.seal());
    }

    /// The topics of closed batches that nobody has verified.
    pub fn sealed_topics(&self) -> Vec<Arc<str>> {
        let intervals = self.sealed.iter().flat_map(Batch::intervals);
        let topics: BTreeSet<Arc<str>> = intervals.map(|interval| interval.partition.topic.clone()).collect();
        topics.into_iter().collect()
    }

    /// What is closed may be sent.
    pub fn mark_verified(&mut self) {
        self.ready.append(&mut self.sealed);
    }

    /// Drops closed batches that could not be verified.
    pub fn drop_sealed(&mut self) {
        self.sealed.clear();
    }

    /// Whether everything that is ours is read, and nothing that was read is left to be written.
    pub fn is_idle(&self) -> bool {
        let is_read = |ownership: &Ownership| matches!(ownership.phase, Phase::Reading { .. });
        let is_empty = self.batcher.due_at().is_none() && !self.is_congested();
        is_empty && self.tracker.batches_in_flight() == 0 && self.owned.values().all(is_read)
    }

    /// How far the partitions are that are ours; one that was never read stands where only the database knows.
    pub fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        let closed: Vec<_> = self.ready.iter().chain(&self.sealed).map(Batch::oldest_ms).collect();
        let open = self.batcher.open_oldest_ms();
        let position = |partition: TopicPartition| {
            let waiting = closed.iter().chain([&open]).filter_map(|batch| *batch.get(&partition)?).min();
            let oldest_ms = earlier(waiting, self.tracker.oldest_ms(&partition));
            (partition.clone(), Position { next: self.tracker.durable(&partition), oldest_ms })
        };
        self.owned.keys().cloned().map(position).collect()
    }

    /// Whether a closed batch waits.
    pub fn is_congested(&self) -> bool {
        !self.ready.is_empty() || !self.sealed.is_empty()
    }

    /// Bytes of everything between Kafka and the database.
    pub fn bytes(&self) -> usize {
        let closed: usize = self.ready.iter().chain(&self.sealed).map(Batch::bytes).sum();
        self.batcher.open_bytes() + closed + self.tracker.bytes_in_flight()
    }

    /// Hands closed batches to the writers, as many as there is room for.
    pub fn dispatch(&mut self, dispatches_tx: &Sender<Dispatch>) {
        while self.tracker.batches_in_flight() < self.dispatches_max
            && !dispatches_tx.is_full()
            && let Some(batch) = self.ready.pop_front()
        {
            let dispatch = Dispatch { seq: Seq(self.next_seq), batch };
            self.next_seq += 1;
            self.tracker.sent(&dispatch);
            // Nobody else sends, so there is room; and writers that have gone end the process anyway.
            let _ = dispatches_tx.try_send(dispatch);
        }
    }

    /// Takes in what the writers have answered.
    pub fn settle_all(&mut self) {
        while let Ok(settlement) = self.durables_rx.try_recv() {
            self.settle(settlement);
        }
    }

    /// Waits for one answer of the writers; `false` if none came, or none can come any more.
    pub fn settle_within(&mut self, limit: Duration) -> bool {
        let settlement = clock::receive(&self.durables_rx, clock::now() + limit);
        settlement.is_ok_and(|settlement| {
            self.settle(settlement);
            true
        })
    }

    fn settle(&mut self, settlement: Settlement) {
        match settlement {
            Settlement::Durable(durable) => {
                for interval in durable.intervals() {
                    if let Some(ownership) = self.owned.get_mut(&interval.partition) {
                        ownership.fenced.reset();
                    }
                }
                self.tracker.settle(durable);
                self.has_progressed = true;
            }
            Settlement::Discarded { seq, cause } => {
                self.tracker.discard(seq);
                // Below the floor: all of this has been acted on already.
                if seq.0 < self.floor {
                    return;
                }
                match cause {
                    Discard::Cancelled | Discard::Disagreement => self.start_over(),
                    Discard::Fenced(fenced) => {
                        self.start_over();
                        self.fenced(&fenced.into_iter().map(|(partition, _)| partition).collect::<Vec<_>>());
                    }
                }
            }
        }
    }

    fn fenced(&mut self, partitions: &[TopicPartition]) {
        if self.exclusive {
            let message = format!(
                "another process has claimed partition {}, or `reset` has moved it, though this one is assigned it by its \
                 own configuration; if there is another one, end one of them, else start this one again",
                partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            );
            self.stop = Some(Stop::new(ExitCode::TryLater, message));
        }
        // Not at once, none of them: if the group has moved on without us, the next polls say so, and a claim would
        // only fence the rightful owner.
        let now = clock::now();
        for (partition, ownership) in &mut self.owned {
            let delay = if partitions.contains(partition) { ownership.fenced.next_delay() } else { FENCED_PAUSE };
            ownership.phase = Phase::Unclaimed { ask_at: now + delay.max(FENCED_PAUSE) };
        }
    }

    /// The one answer to everything irregular: stop the lane, drop what isn't durable, claim everything again. A claim
    /// reads what is true, and makes work of the older claim void.
    pub fn start_over(&mut self) {
        self.floor = self.next_seq;
        self.shared.lane.stop_below(Seq(self.next_seq));
        self.ready.clear();
        self.sealed.clear();
        self.pause_all = true;
        let now = clock::now();
        for (partition, ownership) in &mut self.owned {
            self.batcher.forget(partition);
            ownership.phase = Phase::Unclaimed { ask_at: now };
        }
    }

    /// Gives partitions up; what is open of them is cut away. Closed batches can't be cut, so they are read again.
    fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.owned.remove(partition);
            self.cut.remove(partition);
            self.batcher.forget(partition);
            self.tracker.forget(partition);
        }
        let touched = |batch: &Batch| batch.intervals().iter().any(|i| partitions.contains(&i.partition));
        if self.ready.iter().chain(&self.sealed).any(touched) {
            self.start_over();
        }
    }

    /// Starts reading a claimed partition.
    pub fn read(&mut self, partition: &TopicPartition, epoch: Epoch, next: NextOffset, again_from: Option<NextOffset>) {
        self.batcher.follow(partition.clone(), epoch, next);
        self.tracker.follow(partition.clone(), epoch, next);
        if let Some(ownership) = self.owned.get_mut(partition) {
            ownership.phase = Phase::Reading { again_from };
        }
    }

    /// The partitions being read.
    pub fn reading(&self) -> Vec<TopicPartition> {
        let reading = self.owned.iter().filter(|(_, ownership)| matches!(ownership.phase, Phase::Reading { .. }));
        reading.map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether what is ours has been read up to these positions.
    pub fn has_read_to(&self, ends: &BTreeMap<TopicPartition, NextOffset>) -> bool {
        ends.iter().all(|(partition, end)| self.batcher.read_to(partition).is_none_or(|read_to| read_to >= *end))
    }

    /// Whether the open batch is the last one before these positions: there is nothing that it could wait for.
    pub fn is_last_before(&self, ends: &BTreeMap<TopicPartition, NextOffset>) -> bool {
        let is_open = |(partition, end): (&TopicPartition, &NextOffset)| {
            self.batcher.sealed_to(partition).is_some_and(|sealed_to| sealed_to < *end)
        };
        self.has_read_to(ends) && ends.iter().any(is_open)
    }

    /// Whether partitions are still to come, or to be read.
    pub fn is_settling(&self) -> bool {
        self.owned.is_empty() || self.owned.values().any(|ownership| !matches!(ownership.phase, Phase::Reading { .. }))
    }

    /// Two processes with one name put each other out of the group, again and again: nobody would make progress.
    fn count_loss(&mut self, now: Instant) {
        self.losses.push_back(now);
        while self.losses.front().is_some_and(|first| now.duration_since(*first) > LOSSES_WITHIN) {
            self.losses.pop_front();
        }
        if self.is_static && self.losses.len() >= LOSSES_MAX {
            let message = "the group puts this member out again and again: another process runs with the same \
                           kafka.instance_id; give each its own";
            self.stop = Some(Stop::new(ExitCode::TryLater, message));
        }
    }

    /// Lets what is in flight of these partitions finish, for a bounded time, then cancels it.
    fn wait_for_flight(&mut self, partitions: &[TopicPartition]) {
        let mut deadline = clock::now() + REVOKE_WAIT_MAX;
        let mut cancelled = false;
        while self.tracker.is_in_flight(partitions) && !self.abandoned {
            let left = deadline.saturating_duration_since(clock::now());
            if !left.is_zero() {
                self.settle_within(left.min(Duration::from_millis(100)));
            } else if cancelled {
                return;
            } else {
                log::warn!("partitions are revoked while the database does not answer, giving up what is in flight");
                self.start_over();
                (cancelled, deadline) = (true, clock::now() + CANCEL_WAIT_MAX);
            }
        }
    }
}

/// The callbacks' end of the state.
pub(super) struct Callbacks(pub Arc<Mutex<Flow>>);

/// Locks the state. A thread that panics ends the process.
pub(super) fn locked(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Assignment for Callbacks {
    fn assigned(&self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        let mut flow = locked(&self.0);
        if partitions.is_empty() {
            return Vec::new();
        }
        let now = clock::now();
        for partition in partitions {
            log::debug!(partition:%; "assigned");
            flow.batcher.forget(partition);
            let fenced = Backoff::unseeded(Duration::from_secs(1), Duration::from_secs(30));
            flow.owned.insert(partition.clone(), Ownership { phase: Phase::Unclaimed { ask_at: now }, fenced });
        }
        flow.claim_due(now);
        flow.wait_for_claim();
        let claimed = partitions.iter().filter_map(|partition| match &flow.owned.get(partition)?.phase {
            Phase::Claimed { claim, .. } => Some((partition.clone(), claim.next)),
            _ => None,
        });
        claimed.collect()
    }

    fn revoked(&self, partitions: &[TopicPartition]) {
        let mut flow = locked(&self.0);
        for partition in partitions {
            log::info!(partition:%; "revoked");
            flow.batcher.forget(partition);
        }
        flow.wait_for_flight(partitions);
        flow.forget(partitions);
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        let mut flow = locked(&self.0);
        for partition in partitions {
            log::warn!(partition:%, why = "the group has given it to another member"; "lost");
        }
        flow.forget(partitions);
        flow.count_loss(clock::now());
    }
}

#[cfg(test)]
mod tests;
