//! The turnstile: writers COPY side by side, but pass one at a time, in the order of their batches.
//!
//! Pure synchronisation: no database, no Kafka. It also carries the lock rule. A writer that waits here holds locks in
//! the database; if the head blocks on them, the database can't see the cycle, because half of it is this turnstile.
//! So the head, when it runs into a lock timeout, makes all waiting writers roll back at once; they redo after it.

use crate::clock;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A batch's place in the lane, from 0, without holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// What a wait at the turnstile came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It is this batch's turn.
    Turn,
    /// The head blocks on locks: roll back, and come again through [`Lane::wait_to_start`].
    Yield,
    /// The lane was stopped: roll back and discard the batch.
    Cancelled,
    /// Locks were held for too long: roll back, and come again through [`Lane::wait_to_start`].
    HeldTooLong,
}

#[derive(Debug)]
struct State {
    /// The batch that may pass.
    turn: Seq,
    /// Batches below this one were cancelled.
    floor: Seq,
    /// Set while the head asks that nobody behind it holds locks.
    yield_to: Option<Seq>,
    /// Since the last conflict.
    serial: Option<Serial>,
}

/// Batches that begin only when they are the head, because there was a conflict a moment ago.
#[derive(Debug, Clone, Copy)]
struct Serial {
    /// The last of them.
    until: Seq,
    /// How many the conflict made serial.
    len: u64,
}

impl State {
    /// Whether a batch may begin; `None` while it has to wait.
    fn start(&self, seq: Seq) -> Option<bool> {
        let is_held_back =
            self.yield_to.is_some_and(|head| head < seq) || self.serial.is_some_and(|serial| seq <= serial.until);
        if seq < self.floor {
            return Some(false);
        }
        (self.turn >= seq || !is_held_back).then_some(true)
    }

    /// What a batch that holds locks has to do; `None` while it has to wait.
    fn passage(&self, seq: Seq, is_overdue: bool) -> Option<Passage> {
        if seq < self.floor {
            Some(Passage::Cancelled)
        } else if self.turn == seq {
            Some(Passage::Turn)
        } else if self.yield_to.is_some_and(|head| head < seq) {
            Some(Passage::Yield)
        } else {
            is_overdue.then_some(Passage::HeldTooLong)
        }
    }
}

/// The first conflict makes so many batches serial; each one that follows closely doubles it.
const SERIAL_LEN_MIN: u64 = 2;
const SERIAL_LEN_MAX: u64 = 256;

/// The turnstile of one process.
#[derive(Debug)]
pub struct Lane {
    state: Mutex<State>,
    moved: Condvar,
    yields: bool,
}

impl Default for Lane {
    fn default() -> Self {
        Lane::new()
    }
}

impl Lane {
    /// A lane whose first batch has sequence number 0.
    pub fn new() -> Self {
        let state = State { turn: Seq(0), floor: Seq(0), yield_to: None, serial: None };
        Lane { state: Mutex::new(state), moved: Condvar::new(), yields: true }
    }

    /// A lane without the lock rule, to show that the rule is needed.
    #[cfg(test)]
    pub fn without_lock_rule() -> Self {
        Lane { yields: false, ..Lane::new() }
    }

    /// Waits until the batch may begin its transaction: not while the head has asked for its locks, nor, for a while
    /// after that, before it is the head itself. `false` when the batch was cancelled. Holds nothing, so it needs no
    /// deadline: the head ends, or the lane is stopped.
    pub fn wait_to_start(&self, seq: Seq) -> bool {
        let mut state = self.lock();
        loop {
            if let Some(may_start) = state.start(seq) {
                return may_start;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same without waiting: `None` while it has to wait.
    pub fn try_start(&self, seq: Seq) -> Option<bool> {
        self.lock().start(seq)
    }

    /// Waits, holding locks in the database, for the batch's turn; at most `hold_max`.
    pub fn wait_for_turn(&self, seq: Seq, hold_max: Duration) -> Passage {
        let deadline = clock::now() + hold_max;
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            if let Some(passage) = state.passage(seq, left.is_zero() && self.yields) {
                return passage;
            }
            let left = left.max(Duration::from_millis(100));
            state = self.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same without waiting: `None` while it has to wait. From the deadline on locks were held for too long.
    pub fn try_pass(&self, seq: Seq, deadline: Instant) -> Option<Passage> {
        self.lock().passage(seq, clock::now() >= deadline && self.yields)
    }

    /// Waits before another try; returns `true` at once when the batch is cancelled.
    pub fn sleep(&self, seq: Seq, duration: Duration) -> bool {
        let deadline = clock::now() + duration;
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            if seq < state.floor || left.is_zero() {
                return seq < state.floor;
            }
            state = self.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether nothing is before this batch any more.
    pub fn is_head(&self, seq: Seq) -> bool {
        self.lock().turn == seq
    }

    /// Whether the batch was cancelled.
    pub fn is_cancelled(&self, seq: Seq) -> bool {
        seq < self.lock().floor
    }

    /// The head asks all writers behind it to give up their locks until it has passed. What makes batches conflict once
    /// (a trigger on a shared row, a migration) makes them conflict again, and each time costs the lock timeout: so for
    /// a while they are written one after the other. Returns `true` when that begins.
    pub fn yield_to(&self, head: Seq) -> bool {
        let mut state = self.lock();
        if !self.yields || state.turn != head || state.yield_to == Some(head) {
            return false;
        }
        state.yield_to = Some(head);
        let earlier = state.serial.filter(|serial| head.0 <= serial.until.0 + SERIAL_LEN_MIN);
        let len = earlier.map_or(SERIAL_LEN_MIN, |serial| (serial.len * 2).min(SERIAL_LEN_MAX));
        state.serial = Some(Serial { until: Seq(head.0 + len), len });
        self.moved.notify_all();
        earlier.is_none()
    }

    /// The same where the head has not met a lock, but redoes its batch with care: whoever waits behind it would hold
    /// locks for long, and might hold them against it. Nothing says that the next batch will be like that. Returns `true`
    /// when it was not asked before.
    pub fn clear_behind(&self, head: Seq) -> bool {
        let mut state = self.lock();
        if !self.yields || state.turn != head || state.yield_to == Some(head) {
            return false;
        }
        state.yield_to = Some(head);
        self.moved.notify_all();
        true
    }

    /// Whether the batch is to be rolled back at once, by whoever is busy with it for long.
    pub fn is_called_back(&self, seq: Seq) -> bool {
        let state = self.lock();
        seq < state.floor || state.yield_to.is_some_and(|head| head < seq)
    }

    /// Opens the turnstile for the batch after `seq`, whose transaction has ended.
    pub fn advance(&self, seq: Seq) {
        let mut state = self.lock();
        if seq < state.floor {
            return; // Cancelled while it was in COMMIT; the turn has already moved past it.
        }
        assert_eq!(state.turn, seq, "a batch passes only in its turn");
        state.turn = Seq(seq.0 + 1);
        state.yield_to = None;
        self.moved.notify_all();
    }

    /// Cancels every batch below `next`, which will be the next one dispatched.
    pub fn stop_below(&self, next: Seq) {
        let mut state = self.lock();
        state.floor = state.floor.max(next);
        state.turn = state.turn.max(next);
        state.yield_to = None;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panicking writer ends the process; until then the plain numbers in here are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
