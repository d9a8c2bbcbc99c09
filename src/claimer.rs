//! The claimer thread: asks the database on the consumer's behalf, one question at a time.
//!
//! The consumer must never block on the database, because it keeps the process in its group; and inside the Kafka
//! client's callbacks a synchronous database client could not be called at all. So questions and answers are channels.

use crate::exit::{ExitCode, Stop};
use crate::fault::{Failure, Fault};
use crate::ledger::{Claim, Ledger, Standing, Start};
use crate::outage::Outage;
use crate::pipeline_lock::PipelineLock;
use crate::record::{NextOffset, TopicPartition};
use crate::shutdown::Shutdown;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the session that holds the pipeline's lock is looked at.
const LOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Room for the questions that a consumer can have open at once: a claim, the progress, the standings, a barrier.
const QUESTIONS_MAX: usize = 8;

/// What the consumer wants to know or done.
#[derive(Debug)]
pub enum Question {
    /// Claim partitions; those without a row are absent from the answer.
    Claim(Vec<TopicPartition>),
    /// Claim partitions, making their rows where there are none.
    ClaimOrStart(Vec<Start>),
    /// Go on at this offset, beyond what Kafka has deleted.
    Jump(Claim, NextOffset),
    /// Where all partitions of these topics stand.
    NextOffsets(Vec<Arc<str>>),
    /// The same with who owns them, of the whole pipeline.
    Standings,
    /// Make earlier asynchronous commits durable.
    Barrier(Vec<Arc<str>>),
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// The partitions claimed.
    Claims(Vec<Claim>),
    /// The jump was made, or is not ours to make any more.
    Jumped,
    /// By partition.
    NextOffsets(BTreeMap<TopicPartition, NextOffset>),
    /// All rows.
    Standings(Vec<Standing>),
    /// Everything committed before the question is durable.
    Durable(BTreeMap<TopicPartition, NextOffset>),
}

/// Tells an answer's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// One attempt's answer.
pub type Answered = (Ticket, Result<Answer, Failure>);

/// The consumer's end.
#[derive(Debug)]
pub struct Claims {
    questions_tx: Sender<(Ticket, Question)>,
    /// Answers, in the order of their questions.
    pub answers_rx: Receiver<Answered>,
    last: u64,
}

impl Claims {
    /// Asks, without waiting; `None` if too many questions are open.
    pub fn ask(&mut self, question: Question) -> Option<Ticket> {
        self.last += 1;
        self.questions_tx.try_send((Ticket(self.last), question)).ok().map(|()| Ticket(self.last))
    }
}

/// The claimer's end.
#[derive(Debug)]
pub struct Desk {
    pub(crate) questions_rx: Receiver<(Ticket, Question)>,
    pub(crate) answers_tx: Sender<Answered>,
}

/// Both ends.
pub fn channels() -> (Claims, Desk) {
    let (questions_tx, questions_rx) = bounded(QUESTIONS_MAX);
    // One more than can be open: the claimer never waits for a consumer that waits for it.
    let (answers_tx, answers_rx) = bounded(QUESTIONS_MAX + 1);
    (Claims { questions_tx, answers_rx, last: 0 }, Desk { questions_rx, answers_tx })
}

/// Answers until the consumer has gone. With a `lock` the pipeline's session lock, which the caller has taken
/// through the same ledger, is looked after as well; `grace` is how long a wrong schema or a missing right is waited for.
pub fn run(
    ledger: &mut dyn Ledger,
    desk: &Desk,
    database: &Outage,
    lock: Option<&PipelineLock>,
    grace: Duration,
    shutdown: &Shutdown,
) -> Result<(), Stop> {
    let mut lock_checked_at = Instant::now();
    // Since when the tables or our rights are not as they should be.
    let mut unusable_since: Option<Instant> = None;
    loop {
        match desk.questions_rx.recv_timeout(LOCK_CHECK_INTERVAL) {
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Ok((ticket, question)) => {
                // The consumer is on its way out: nothing that is claimed now would be read.
                let claims = matches!(question, Question::Claim(_) | Question::ClaimOrStart(_));
                if claims && shutdown.is_triggered() {
                    continue;
                }
                let answer = answer(ledger, question);
                match &answer {
                    Ok(_) => database.back(),
                    Err(failure) if is_outage(failure.fault) => database.failed(failure)?,
                    Err(_) => {}
                }
                if desk.answers_tx.send((ticket, answer)).is_err() {
                    return Ok(());
                }
            }
        }
        if let Some(lock) = lock
            && lock_checked_at.elapsed() >= LOCK_CHECK_INTERVAL
        {
            lock_checked_at = Instant::now();
            match ledger.lock_pipeline() {
                Ok(true) => {
                    lock.confirm();
                    database.back();
                    unusable_since = None;
                }
                Ok(false) => {
                    let message = "another process has taken the pipeline's lock; run this one again later";
                    return Err(Stop::new(ExitCode::TryLater, message));
                }
                Err(failure) if is_outage(failure.fault) => {
                    let is_unusable = matches!(failure.fault, Fault::Schema | Fault::Permission);
                    if is_unusable && unusable_since.get_or_insert_with(Instant::now).elapsed() > grace {
                        return Err(Stop::new(failure.fault.exit_code(), format!("database: {failure}")));
                    }
                    database.failed(&failure)?;
                }
                Err(failure) if is_retried(failure.fault) => {}
                Err(failure) => return Err(Stop::new(failure.fault.exit_code(), format!("database: {failure}"))),
            }
        }
    }
}

/// Whether the server, or what we need of it, is not there.
fn is_outage(fault: Fault) -> bool {
    matches!(fault, Fault::Connection | Fault::WrongNode | Fault::Resource | Fault::Schema | Fault::Permission)
}

/// Whether asking again can help.
pub fn is_retried(fault: Fault) -> bool {
    is_outage(fault) || matches!(fault, Fault::Transaction | Fault::Lock | Fault::Statement)
}

pub(crate) fn answer(ledger: &mut dyn Ledger, question: Question) -> Result<Answer, Failure> {
    Ok(match question {
        Question::Claim(partitions) => Answer::Claims(ledger.claim(&partitions)?),
        Question::ClaimOrStart(starts) => Answer::Claims(ledger.claim_or_start(&starts)?),
        Question::Jump(claim, to) => {
            let Claim { partition, next, .. } = &claim;
            if ledger.jump(&claim, to)? {
                log::warn!(
                    partition:%, from_offset = next.0, to_offset = to.0,
                    why = "Kafka has deleted these records before they were read; recorded in writer_gaps (kafka.on_gap)";
                    "gap"
                );
            }
            Answer::Jumped
        }
        Question::Standings => Answer::Standings(match ledger.standings() {
            // The connection was idle, and may have been cut long ago: that is no outage of now.
            Err(failure) if failure.fault == Fault::Connection => ledger.standings()?,
            answer => answer?,
        }),
        Question::NextOffsets(topics) => Answer::NextOffsets(ledger.next_offsets(&topics)?),
        Question::Barrier(topics) => Answer::Durable(ledger.barrier(&topics)?),
    })
}
