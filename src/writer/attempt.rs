//! Everything that is tried for one batch: the outcome table of the protocol, step by step.

use super::Shared;
use crate::backoff::Backoff;
use crate::batch::Batch;
use crate::brake::Brake;
use crate::clock;
use crate::delivery::{Discard, Settlement};
use crate::exit::{ExitCode, Stop};
use crate::fault::{Failure, Fault};
use crate::lane::{Passage, Seq};
use crate::metrics::InDoubt;
use crate::sink::{CommitFailure, Durable, Pieces, Sink, Verdict, judge};
use crate::work::Work;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More pieces than this make no statement shorter that is worth it.
const PIECES_MAX: usize = 1 << 16;
/// A batch that has failed so often is worth a line in the log.
const TRIES_QUIET: u32 = 10;
/// How often a writer looks whether the pipeline's lock has been confirmed.
const LOCK_LOOK: Duration = Duration::from_millis(50);
/// How often a writer that waits out an outage looks whether it is over.
const OUTAGE_LOOK: Duration = Duration::from_millis(500);
/// The longest pause after a lock was not had: the statement has waited for it already.
const LOCK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause between tries after a fault that an operator has to mend.
const OPERATOR_PAUSE: Duration = Duration::from_secs(5);

/// Everything that is tried for one batch, step by step.
pub(crate) struct Attempt<'a> {
    shared: &'a Shared,
    sink: &'a mut dyn Sink,
    progress: Progress,
}

/// How far an attempt is.
#[derive(Debug)]
pub(crate) struct Progress {
    seq: Seq,
    at: At,
    backoff: Backoff,
    resource_backoff: Backoff,
    begun_at: Instant,
    transaction_begun_at: Instant,
    tries: u32,
    // `None`: it is sent whole.
    pieces: Option<Pieces>,
    // What its rows met when they were last sent, until they are sent again.
    refusal: Option<Failure>,
    // What our own key refused, until the truth is known.
    own_key: Option<Failure>,
    // Statements of it that took too long.
    n_timeouts: u32,
    connection_lost_at: Option<Instant>,
    // Since when the tables or our privileges are not as they should be.
    unusable_since: Option<Instant>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Begin, when that is allowed.
    Start,
    /// Send the rows.
    Stage,
    /// Wait, holding locks, until then at most.
    Turn { until: Instant },
    /// Move the offsets.
    Advance,
    /// COMMIT.
    Commit,
    /// Ask the database what is true. A COMMIT whose answer was lost is `in_doubt`, with the time that its transaction took
    /// until then.
    Truth { in_doubt: Option<Duration> },
}

/// Where a batch has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Before its turn, or at the beginning of it, with its rows.
    Staging,
    /// In its turn, up to the answer to COMMIT.
    Turn,
    /// When the truth about it was asked for.
    Truth,
}

/// What a step asks of whoever drives it.
#[derive(Debug)]
pub(crate) enum Next {
    /// The next step, at once.
    Step,
    /// The next step, when the batch may begin.
    AwaitStart,
    /// The next step, when it is the batch's turn, or then.
    AwaitTurn(Instant),
    /// The next step, after a pause, or when the batch was cancelled.
    Pause(Duration),
    /// None.
    Settled(Settlement),
}

impl Progress {
    /// Nothing was tried yet.
    pub fn new(shared: &Shared, seq: Seq) -> Self {
        let now = clock::now();
        Progress {
            seq,
            at: At::Start,
            backoff: Backoff::unseeded(shared.retry.initial, shared.retry.max),
            resource_backoff: Backoff::unseeded(OPERATOR_PAUSE, shared.retry.max.max(OPERATOR_PAUSE)),
            begun_at: now,
            transaction_begun_at: now,
            tries: 0,
            pieces: None,
            refusal: None,
            own_key: None,
            n_timeouts: 0,
            connection_lost_at: None,
            unusable_since: None,
        }
    }
}

impl<'a> Attempt<'a> {
    /// Nothing was tried yet.
    pub fn new(shared: &'a Shared, sink: &'a mut dyn Sink, seq: Seq) -> Self {
        Attempt::resume(shared, sink, Progress::new(shared, seq))
    }

    /// Goes on.
    pub fn resume(shared: &'a Shared, sink: &'a mut dyn Sink, progress: Progress) -> Self {
        Attempt { shared, sink, progress }
    }

    /// How far it is.
    #[cfg(test)]
    pub fn suspend(self) -> Progress {
        self.progress
    }

    /// All steps, with their waits.
    pub fn write(mut self, batch: &Batch) -> Result<Settlement, Stop> {
        let mut work = Work::decode(batch, |topic| self.shared.topics.settings(topic));
        let (lane, seq) = (&self.shared.lane, self.progress.seq);
        loop {
            match self.step(&mut work)? {
                Next::Step => {}
                Next::AwaitStart => _ = lane.wait_to_start(seq),
                Next::AwaitTurn(until) => _ = lane.wait_for_turn(seq, until.saturating_duration_since(clock::now())),
                Next::Pause(pause) => self.pause(pause),
                Next::Settled(settlement) => return Ok(settlement),
            }
        }
    }

    /// One step: of what can take long, or be seen by others, at most one thing.
    pub fn step(&mut self, work: &mut Work<'_>) -> Result<Next, Stop> {
        match self.progress.at {
            At::Start => Ok(self.start()),
            At::Stage => {
                self.progress.transaction_begun_at = clock::now();
                match self.stage(work) {
                    Ok(true) => Ok(self.go_on(At::Turn { until: clock::now() + self.shared.hold_max })),
                    Ok(false) => Ok(self.again("called-back")),
                    Err(failure) => self.failed(failure, work, Step::Staging),
                }
            }
            At::Turn { until } => Ok(self.pass(until)),
            At::Advance => self.advance(work),
            At::Commit => self.commit(work),
            At::Truth { in_doubt } => self.resolve(work, in_doubt),
        }
    }

    fn start(&mut self) -> Next {
        let (lane, seq) = (&self.shared.lane, self.progress.seq);
        let lost_at = self.progress.connection_lost_at;
        if self.shared.pipeline_lock.as_ref().is_some_and(|lock| !lock.is_held(clock::now(), lost_at)) {
            return if lane.is_cancelled(seq) { self.discarded(Discard::Cancelled) } else { Next::Pause(LOCK_LOOK) };
        }
        match lane.try_start(seq) {
            None => Next::AwaitStart,
            Some(false) => self.discarded(Discard::Cancelled),
            Some(true) => self.go_on(At::Stage),
        }
    }

    fn pass(&mut self, until: Instant) -> Next {
        match self.shared.lane.try_pass(self.progress.seq, until) {
            None => Next::AwaitTurn(until),
            Some(Passage::Turn) => self.go_on(At::Advance),
            Some(Passage::Cancelled) => {
                self.sink.rollback();
                self.discarded(Discard::Cancelled)
            }
            Some(passage @ (Passage::Yield | Passage::HeldTooLong)) => {
                self.sink.rollback();
                self.again(if passage == Passage::Yield { "called-back" } else { "held-too-long" })
            }
        }
    }

    fn advance(&mut self, work: &Work<'_>) -> Result<Next, Stop> {
        if let Some(flood) = self.brake().judge(work) {
            self.sink.rollback();
            return Err(Stop::new(ExitCode::DataNeedsDecision, flood.to_string()));
        }
        match self.sink.advance(work) {
            Ok(true) => Ok(self.go_on(At::Commit)),
            Ok(false) => {
                self.sink.rollback();
                Ok(self.go_on(At::Truth { in_doubt: None }))
            }
            Err(failure) => self.failed(failure, work, Step::Turn),
        }
    }

    fn commit(&mut self, work: &Work<'_>) -> Result<Next, Stop> {
        match self.sink.commit(self.progress.seq, work.batch) {
            Ok(durable) => {
                self.shared.database.back();
                Ok(self.durable(durable, work, clock::since(self.progress.transaction_begun_at)))
            }
            Err(CommitFailure::NotApplied(failure)) => self.failed(failure, work, Step::Turn),
            Err(CommitFailure::InDoubt(failure)) => {
                log::warn!(seq = self.progress.seq.0, cause:% = failure; "commit in doubt");
                self.progress.connection_lost_at = Some(clock::now());
                self.sink.disconnect();
                self.shared.database.failed(&failure)?;
                let took = clock::since(self.progress.transaction_begun_at);
                Ok(self.go_on(At::Truth { in_doubt: Some(took) }))
            }
        }
    }

    fn go_on(&mut self, at: At) -> Next {
        self.progress.at = at;
        Next::Step
    }

    /// From the beginning, because of this, in a word.
    fn again(&mut self, why: &'static str) -> Next {
        self.shared.metrics.retried(why);
        self.go_on(At::Start)
    }

    /// Sends the batch, whole or in pieces. `false` if it was called back meanwhile.
    fn stage(&mut self, work: &mut Work<'_>) -> Result<bool, Failure> {
        let (lane, seq, refusal) = (&self.shared.lane, self.progress.seq, self.progress.refusal.take());
        match self.progress.pieces {
            None => self.sink.stage(work).map(|()| true),
            Some(pieces) => {
                self.sink.stage_in_pieces(work, pieces, refusal.as_ref(), &mut || !lane.is_called_back(seq))
            }
        }
    }

    fn brake(&self) -> MutexGuard<'a, Brake> {
        self.shared.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable(&mut self, durable: Durable, work: &Work<'_>, took: Duration) -> Next {
        // Before the next batch asks it.
        self.brake().durable(work);
        self.shared.lane.advance(self.progress.seq);
        log::debug!(seq = self.progress.seq.0, records = work.batch.len(), took_ms = took.as_millis() as u64; "durable");
        self.shared.metrics.durable(work, took, clock::now_ms());
        Next::Settled(Settlement::Durable(durable))
    }

    fn discarded(&self, cause: Discard) -> Next {
        Next::Settled(Settlement::Discarded { seq: self.progress.seq, cause })
    }

    /// Asks the database what is true, and acts on it.
    fn resolve(&mut self, work: &Work<'_>, in_doubt: Option<Duration>) -> Result<Next, Stop> {
        let (shared, seq) = (self.shared, self.progress.seq);
        let resolved = |outcome: InDoubt| {
            if in_doubt.is_some() {
                shared.metrics.resolved(outcome);
                log::info!(outcome = outcome.as_str(), seq = seq.0; "commit in doubt resolved");
            }
        };
        if shared.lane.is_cancelled(seq) {
            resolved(InDoubt::Discarded);
            return Ok(self.discarded(Discard::Cancelled));
        }
        let truth = match self.sink.truth(work.batch) {
            Ok(truth) => truth,
            Err(failure) => return self.failed(failure, work, Step::Truth),
        };
        self.shared.database.back();
        let verdict = judge(work.batch.intervals(), &truth);
        resolved(match verdict {
            Verdict::Applied => InDoubt::Applied,
            Verdict::NotApplied => InDoubt::NotApplied,
            _ => InDoubt::Discarded,
        });
        Ok(match verdict {
            Verdict::Applied => {
                self.durable(Durable::witnessed(self.progress.seq, work.batch), work, in_doubt.unwrap_or_default())
            }
            Verdict::NotApplied => match self.progress.own_key.take() {
                None => self.again("not-applied"),
                Some(failure) => return Err(stop(&failure)),
            },
            // Our own newer claim: whoever made it knows what is true.
            Verdict::Fenced(fenced) if fenced.iter().all(|(_, truth)| truth.owner == self.shared.owner) => {
                self.discarded(Discard::Cancelled)
            }
            Verdict::Fenced(fenced) => {
                for (partition, truth) in &fenced {
                    self.shared.metrics.fenced.inc();
                    let (owner, epoch) = (&truth.owner, truth.epoch.0);
                    log::warn!(partition:%, owner, epoch, why = "nothing of ours was written"; "fenced");
                }
                self.discarded(Discard::Fenced(fenced))
            }
            Verdict::Rewound(partition, next) => {
                self.shared.metrics.rewinds.inc();
                let next = next.map_or("none".to_owned(), |next| next.to_string());
                let why = "the database is behind what it had confirmed";
                log::warn!(partition:%, next_offset = next, why; "rewind");
                self.discarded(Discard::Disagreement)
            }
            Verdict::Mixed => {
                log::warn!(seq = self.progress.seq.0; "offset rows of one batch contradict each other, reading them again");
                self.discarded(Discard::Disagreement)
            }
            Verdict::Impossible(partition, next) => {
                return Err(Stop::new(
                    ExitCode::InvariantBroken,
                    format!(
                        "partition {partition} stands at {next}, inside a batch: writer_offsets was changed by hand?"
                    ),
                ));
            }
        })
    }

    /// Decides by the table of faults. Waits where waiting helps; what stops the process is the error.
    fn failed(&mut self, failure: Failure, work: &Work<'_>, step: Step) -> Result<Next, Stop> {
        let shared = self.shared;
        let why = failure.fault.as_str();
        log::debug!(seq = self.progress.seq.0, fault = why, why:% = failure; "failed");
        if !matches!(failure.fault, Fault::Record | Fault::UniqueKey) {
            self.count_try(&failure)?;
        }
        let pause = match failure.fault {
            Fault::Connection | Fault::WrongNode => {
                self.progress.connection_lost_at = Some(clock::now());
                self.sink.disconnect();
                shared.database.failed(&failure)?;
                self.progress.backoff.next_delay()
            }
            Fault::Resource => {
                self.sink.rollback();
                shared.database.failed(&failure)?;
                self.progress.resource_backoff.next_delay()
            }
            Fault::Transaction | Fault::Lock | Fault::Statement => {
                self.sink.rollback();
                if failure.fault == Fault::Statement && step != Step::Truth {
                    self.progress.n_timeouts += 1;
                    if self.progress.n_timeouts > 1 {
                        // The batch is one transaction, but nothing asks it to be one statement.
                        let n_min =
                            self.progress.pieces.map_or(1, |pieces| pieces.n_min).saturating_mul(2).min(PIECES_MAX);
                        self.take_pieces(n_min, step);
                    }
                }
                if failure.fault != Fault::Statement && shared.lane.is_head(self.progress.seq) {
                    shared.metrics.yields.inc();
                    if shared.lane.yield_to(self.progress.seq) {
                        log::warn!(
                            "a lock is held against us, writing batches one after the other for a while: {failure}"
                        );
                    }
                }
                self.progress.backoff.next_delay().min(LOCK_PAUSE_MAX)
            }
            Fault::Record | Fault::UniqueKey => {
                self.sink.rollback();
                // Whatever a row can do has been done in its piece already, or no row was asked.
                let is_known = self.progress.pieces.is_some_and(|pieces| pieces.in_turn || step == Step::Staging);
                if is_known || step == Step::Truth {
                    return Err(self.inseparable(&failure, work));
                }
                self.take_pieces(self.progress.pieces.map_or(1, |pieces| pieces.n_min), step);
                self.progress.refusal = Some(failure);
                return Ok(self.again(why));
            }
            Fault::OwnKey => {
                self.sink.rollback();
                // Before our turn the offsets say nothing about us: a batch before this one may have to move them.
                if shared.lane.is_head(self.progress.seq) {
                    self.progress.own_key = Some(failure);
                    return Ok(self.go_on(At::Truth { in_doubt: None }));
                }
                self.progress.backoff.next_delay()
            }
            Fault::Schema | Fault::Permission => {
                self.sink.disconnect();
                let since = *self.progress.unusable_since.get_or_insert_with(clock::now);
                let failure = placed(failure, work);
                if clock::since(since) >= shared.grace {
                    return Err(stop(&failure));
                }
                shared.database.failed(&failure)?;
                self.progress.resource_backoff.next_delay().min(shared.grace)
            }
            Fault::DatabaseGone | Fault::Bug | Fault::Corruption | Fault::Unlisted => return Err(stop(&failure)),
        };
        // The truth is asked for again until it is known.
        if step != Step::Truth {
            self.again(why);
        }
        Ok(Next::Pause(pause))
    }

    /// Waits before the next attempt, unless the batch is cancelled. Once somebody else has seen the database come back
    /// there is nothing to wait for.
    fn pause(&self, pause: Duration) {
        let shared = self.shared;
        let (until, was_away) = (clock::now() + pause, shared.database.is_away());
        loop {
            let left = until.saturating_duration_since(clock::now());
            let is_cancelled = shared.lane.sleep(self.progress.seq, left.min(OUTAGE_LOOK));
            if is_cancelled || left <= OUTAGE_LOOK || (was_away && !shared.database.is_away()) {
                return;
            }
        }
    }

    /// Ends what is tried too often or for too long.
    fn count_try(&mut self, failure: &Failure) -> Result<(), Stop> {
        self.progress.tries += 1;
        if self.progress.tries == TRIES_QUIET {
            log::warn!("a batch has failed {TRIES_QUIET} times, still trying: {failure}");
        }
        let tries_max = self.shared.retry.attempts_max;
        if tries_max > 0 && self.progress.tries >= tries_max {
            let message =
                format!("database: a batch failed {} times (retry.attempts_max): {failure}", self.progress.tries);
            return Err(Stop::new(ExitCode::ServerAway, message));
        }
        // What an outage is has its own clock; this is a server that answers, but never lets the batch through.
        if let Some(limit) = self.shared.database.limit()
            && clock::since(self.progress.begun_at) > limit
            && matches!(failure.fault, Fault::Transaction | Fault::Lock | Fault::Statement)
        {
            let message = format!("database: a batch failed for {} s (retry.max_outage_s): {failure}", limit.as_secs());
            return Err(Stop::new(ExitCode::ServerAway, message));
        }
        Ok(())
    }

    /// From now on the batch is sent in pieces. What fails in the turn is redone in it, and alone.
    fn take_pieces(&mut self, n_min: usize, step: Step) {
        let in_turn = step == Step::Turn || self.progress.pieces.is_some_and(|pieces| pieces.in_turn);
        self.progress.pieces = Some(Pieces { in_turn, n_min });
        if in_turn && self.shared.lane.clear_behind(self.progress.seq) {
            self.shared.metrics.yields.inc();
        }
    }

    fn inseparable(&self, failure: &Failure, work: &Work<'_>) -> Stop {
        let first =
            work.batch.intervals().first().map(|interval| format!("{} at {}", interval.partition, interval.from));
        let place = first.unwrap_or_default();
        Stop::new(
            ExitCode::DataNeedsDecision,
            format!(
                "PostgreSQL refuses the batch from {place}, but none of its rows alone: {failure}; look for a trigger or a \
                 deferred constraint that schema.sql doesn't have"
            ),
        )
    }
}

/// Says where the row came from that a table has no place for.
fn placed(mut failure: Failure, work: &Work<'_>) -> Failure {
    if let Some(origin) = failure.origin {
        let record = work.batch.record(origin.record_idx as usize).1;
        let place = format!("{}/{} at {}", record.topic, record.partition, record.offset);
        failure.message.push_str(&format!("; first met with the record of {place}"));
    }
    failure
}

fn stop(failure: &Failure) -> Stop {
    Stop::new(failure.fault.exit_code(), format!("database: {failure}"))
}
