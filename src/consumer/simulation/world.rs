//! Everything of a simulation but the consumers: the models, and the processes' claimers and writers between two steps.

use super::broker::Broker;
use super::database::{Database, Session};
use crate::batch::Batch;
use crate::claimer::{self, Answered, Desk};
use crate::clock::simulated;
use crate::delivery::{Dispatch, Settlement};
use crate::lane::Seq;
use crate::work::Work;
use crate::writer::Shared;
use crate::writer::attempt::{Attempt, Next, Progress};
use crossbeam_channel::{Receiver, Sender};
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often what has happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally(pub(super) BTreeMap<&'static str, u64>);

impl Tally {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: Tally) {
        for (what, n) in other.0 {
            *self.0.entry(what).or_default() += n;
        }
    }
}

/// All that is outside of the consumers.
pub(super) struct World {
    pub(super) random: RefCell<Rng>,
    pub(super) now: Cell<Instant>,
    pub(super) database: RefCell<Database>,
    pub(super) broker: RefCell<Broker>,
    /// By member.
    pub(super) processes: RefCell<Vec<Process>>,
    pub(super) tally: RefCell<Tally>,
    pub(super) faults_left: Cell<u32>,
    /// The group's offsets have moved.
    pub(super) is_told: Cell<bool>,
}

/// A process without its consumer.
pub(super) struct Process {
    pub(super) is_alive: bool,
    pub(super) is_frozen: bool,
    /// Polls that hear of nothing yet.
    pub(super) zombie_polls: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) desk: Desk,
    pub(super) ledger: Session,
    // On their way.
    pub(super) answers: VecDeque<Answered>,
    pub(super) dispatches_rx: Receiver<Dispatch>,
    pub(super) durables_tx: Sender<Settlement>,
    pub(super) writers: Vec<Writer>,
}

/// A writer between two steps.
pub(super) struct Writer {
    pub(super) session: Session,
    pub(super) current: Option<(Seq, Batch, Progress)>,
    pub(super) paused_until: Option<Instant>,
    // On its way.
    pub(super) settlement: Option<Settlement>,
}

impl Process {
    pub(super) fn runs(&self) -> bool {
        self.is_alive && !self.is_frozen
    }

    /// The claimer answers one question; the answer arrives with a later step.
    pub(super) fn claim(&mut self) {
        if let Some(answered) = self.answers.pop_front() {
            let _ = self.desk.answers_tx.send(answered);
        } else if let Ok((ticket, question)) = self.desk.questions_rx.try_recv() {
            let answer = claimer::answer(&mut self.ledger, question);
            self.answers.push_back((ticket, answer));
        }
    }

    /// One step of a writer; its settlement arrives with a later one. Answers whether one overtook another.
    pub(super) fn write(&mut self, nth: usize, now: Instant) -> bool {
        let Process { shared, writers, dispatches_rx, durables_tx, .. } = self;
        if let Some(settlement) = writers[nth].settlement.take() {
            // Of a later batch than one that another writer has not answered for.
            let seq = seq_of(&settlement);
            let overtakes =
                writers.iter().any(|other| other.settlement.as_ref().is_some_and(|other| seq_of(other) < seq));
            let _ = durables_tx.send(settlement);
            return overtakes;
        }
        let writer = &mut writers[nth];
        let (seq, batch, progress) = match writer.current.take() {
            Some(current) => current,
            None => match dispatches_rx.try_recv() {
                Ok(Dispatch { seq, batch }) => (seq, batch, Progress::new(shared, seq)),
                Err(_) => return false,
            },
        };
        if writer.paused_until.is_some_and(|until| now < until) && !shared.lane.is_cancelled(seq) {
            writer.current = Some((seq, batch, progress));
            return false;
        }
        writer.paused_until = None;
        let mut work = Work::decode(&batch, |topic| shared.topics.settings(topic));
        let mut attempt = Attempt::resume(shared, &mut writer.session, progress);
        match attempt.step(&mut work).expect("nothing here stops a process") {
            Next::Settled(settlement) => {
                writer.settlement = Some(settlement);
                return false;
            }
            Next::Pause(pause) => writer.paused_until = Some(now + pause),
            Next::Step | Next::AwaitStart | Next::AwaitTurn(_) => {}
        }
        let progress = attempt.suspend();
        drop(work);
        writer.current = Some((seq, batch, progress));
        false
    }
}

fn seq_of(settlement: &Settlement) -> Seq {
    match settlement {
        Settlement::Durable(durable) => durable.seq(),
        Settlement::Discarded { seq, .. } => *seq,
    }
}

impl World {
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(super) fn pass(&self, by: Duration) {
        self.now.set(self.now.get() + by);
        simulated::set(Some(self.now.get()));
    }

    pub(super) fn below(&self, n: u64) -> u64 {
        self.random.borrow_mut().u64(0..n)
    }

    /// Whether a fault strikes here: once in so many times, as long as there are some left.
    pub(super) fn strikes(&self, what: &'static str, one_in: u64) -> bool {
        let strikes = self.faults_left.get() > 0 && self.below(one_in) == 0;
        if strikes {
            self.faults_left.set(self.faults_left.get() - 1);
            self.tally.borrow_mut().count(what);
        }
        strikes
    }

    /// Whether a client that has thawed has not heard of anything yet.
    pub(super) fn is_zombie(&self, member: usize) -> bool {
        let polls = &mut self.processes.borrow_mut()[member].zombie_polls;
        *polls = polls.saturating_sub(1);
        *polls > 0
    }

    pub(super) fn members_but(&self, member: usize) -> Vec<usize> {
        let processes = self.processes.borrow();
        let others = processes.iter().enumerate().filter(|(number, process)| *number != member && process.is_alive);
        others.map(|(number, _)| number).collect()
    }

    pub(super) fn running(&self) -> Vec<usize> {
        let processes = self.processes.borrow();
        processes.iter().enumerate().filter(|(_, process)| process.runs()).map(|(number, _)| number).collect()
    }

    pub(super) fn any_running(&self) -> Option<usize> {
        let running = self.running();
        (!running.is_empty()).then(|| running[self.below(running.len() as u64) as usize])
    }

    /// One step of a claimer or a writer of any process.
    pub(super) fn step_background(&self) {
        if let Some(member) = self.any_running() {
            let n_writers = self.processes.borrow()[member].writers.len();
            let which = self.below(n_writers as u64 + 1) as usize;
            let process = &mut self.processes.borrow_mut()[member];
            let Some(writer) = which.checked_sub(1) else { return process.claim() };
            if process.write(writer, self.now()) {
                self.tally.borrow_mut().count("settlements that overtook others");
            }
        }
    }

    /// While a consumer waits, the others go on.
    pub(super) fn meanwhile(&self) {
        self.pass(Duration::from_millis(1 + self.below(100)));
        self.step_background();
        self.check();
    }

    /// The promise.
    pub(super) fn check(&self) {
        let mut database = self.database.borrow_mut();
        let broker = self.broker.borrow();
        let mut has_changed = self.is_told.take();
        if let Some(partitions) = database.changed() {
            has_changed = true;
            for (number, next, data) in partitions {
                let log = &broker.logs[number as usize];
                let due = &log[..log.partition_point(|offset| *offset < next)];
                assert!(data == due, "partition {number} at {next} holds {data:?}, and should hold {due:?}");
            }
        }
        if has_changed {
            for (number, committed) in broker.committed.iter().enumerate() {
                let durable = database.flushed_next(number as i32);
                assert!(
                    *committed <= durable,
                    "the group is at {committed} of partition {number}, durable is {durable}"
                );
            }
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        let (database, broker) = (self.database.borrow(), self.broker.borrow());
        broker
            .ends
            .iter()
            .enumerate()
            .all(|(number, end)| database.next(number as i32) == *end && broker.committed[number] == *end)
    }
}
