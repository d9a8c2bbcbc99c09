//! A model of the database: the offset rows, the rows of data, open transactions and their locks.
//!
//! It stands for what the statements do (compare-and-set under the row's lock, a locking read, a claim), and can lose its
//! answers, its connections and, without synchronous commit, its newest commits. Each guard can be taken out, to show that
//! the checks of the simulation see what it is for.

use super::Flaw;
use super::world::{Tally, World};
use crate::batch::{Batch, Epoch, Interval, Written};
use crate::fault::{Failure, Fault};
use crate::ledger::{Claim, Ledger, LogIdentity, Resolve, Standing, Start, StartFailure};
use crate::record::{LeaderEpoch, NextOffset, TopicPartition};
use crate::sink::{CommitFailure, Durable, Pieces, Sink, Truth};
use crate::work::Work;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One partition's row.
#[derive(Debug, Clone)]
pub struct Row {
    pub next: i64,
    epoch: i64,
    leader_epoch: Option<LeaderEpoch>,
    owner: String,
}

/// What is committed.
#[derive(Debug, Clone, Default)]
struct State {
    rows: BTreeMap<i32, Row>,
    // Offsets of records, in the order in which they were committed.
    data: BTreeMap<i32, Vec<i64>>,
}

/// An open transaction.
#[derive(Debug, Default)]
struct Tx {
    staged: Vec<(i32, i64)>,
    moves: Vec<Interval>,
    holds_shared: bool,
    is_committing: bool,
}

/// The server.
#[derive(Debug, Default)]
pub struct Database {
    state: State,
    // What a crash may go back to: the states since the last flush.
    unflushed: Vec<State>,
    is_asynchronous: bool,
    /// Every transaction updates one row that all share, as a trigger does.
    has_shared_row: bool,
    flaw: Flaw,
    // By session. A connection of an earlier life is found broken when it is used.
    open: BTreeMap<usize, Tx>,
    connected: BTreeMap<usize, u32>,
    life: u32,
    // Of connections that the server doesn't know to be gone.
    ghosts: Vec<Tx>,
    down_until: Option<Instant>,
    is_dirty: bool,
}

pub fn topic() -> Arc<str> {
    Arc::from("prices")
}

pub fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: topic(), partition: number }
}

fn fails(fault: Fault, message: &str) -> Failure {
    Failure { fault, sqlstate: None, message: message.to_owned(), origin: None }
}

impl Database {
    pub fn new(n_partitions: i32, is_asynchronous: bool, has_shared_row: bool, flaw: Flaw) -> Self {
        let row = |number| (number, Row { next: 0, epoch: 0, leader_epoch: None, owner: String::new() });
        let state = State {
            rows: (0..n_partitions).map(row).collect(),
            data: (0..n_partitions).map(|number| (number, Vec::new())).collect(),
        };
        Database { state, is_asynchronous, has_shared_row, flaw, ..Database::default() }
    }

    /// Where a partition stands.
    pub fn next(&self, partition: i32) -> i64 {
        self.state.rows[&partition].next
    }

    /// Where it would stand after a crash.
    pub fn flushed_next(&self, partition: i32) -> i64 {
        self.unflushed.iter().map(|state| state.rows[&partition].next).fold(self.next(partition), i64::min)
    }

    /// What is committed of a partition, if anything has changed since the last call.
    pub fn changed(&mut self) -> Option<impl Iterator<Item = (i32, i64, &[i64])>> {
        std::mem::take(&mut self.is_dirty).then(|| {
            self.state.rows.iter().map(|(number, row)| (*number, row.next, self.state.data[number].as_slice()))
        })
    }

    /// The server dies, and is back after a while.
    pub fn crash(&mut self, random: &mut fastrand::Rng, until: Instant, tally: &mut Tally) {
        let all = std::mem::take(&mut self.open).into_values().chain(std::mem::take(&mut self.ghosts));
        for tx in all.collect::<Vec<_>>() {
            if tx.is_committing && random.bool() {
                self.apply(&tx);
            }
        }
        if !self.unflushed.is_empty() {
            let state = random.usize(0..self.unflushed.len());
            self.state = self.unflushed.swap_remove(state);
            self.is_dirty = true;
            tally.count("crashes that lost commits");
        }
        self.unflushed.clear();
        self.life += 1;
        self.down_until = Some(until);
    }

    /// What is committed survives from now on.
    pub fn flush(&mut self) {
        self.unflushed.clear();
    }

    /// One connection breaks. The server may take a while to notice.
    pub fn cut(&mut self, session: usize, random: &mut fastrand::Rng) {
        self.connected.insert(session, u32::MAX);
        self.leave(session, random);
    }

    /// A connection ends from the client's side.
    pub fn leave(&mut self, session: usize, random: &mut fastrand::Rng) {
        if let Some(tx) = self.open.remove(&session)
            && random.bool()
        {
            self.ghosts.push(tx);
        }
    }

    /// The server ends a transaction whose client is gone.
    pub fn end_ghost(&mut self, random: &mut fastrand::Rng) {
        if !self.ghosts.is_empty() {
            let tx = self.ghosts.swap_remove(random.usize(0..self.ghosts.len()));
            if tx.is_committing && random.bool() {
                self.apply(&tx);
            }
        }
    }

    fn begin(&mut self, session: usize, now: Instant) -> Result<(), Failure> {
        if self.down_until.is_some_and(|until| now < until) {
            return Err(fails(Fault::Connection, "refused"));
        }
        match self.connected.insert(session, self.life) {
            Some(life) if life != self.life => {
                self.connected.remove(&session);
                Err(fails(Fault::Connection, "closed"))
            }
            _ => Ok(()),
        }
    }

    fn others(&self, session: usize) -> impl Iterator<Item = &Tx> {
        self.open.iter().filter(move |(number, _)| **number != session).map(|(_, tx)| tx).chain(&self.ghosts)
    }

    fn is_locked(&self, session: usize, partition: i32) -> bool {
        self.others(session).any(|tx| tx.moves.iter().any(|moved| moved.partition.partition == partition))
    }

    fn stage(&mut self, session: usize, batch: &Batch) -> Result<(), Failure> {
        if self.has_shared_row && self.others(session).any(|tx| tx.holds_shared) {
            return Err(fails(Fault::Lock, "the shared row is locked"));
        }
        let records = (0..batch.len()).map(|idx| batch.record(idx).1);
        let staged = records.map(|record| (record.partition, record.offset.0)).collect();
        self.open.insert(session, Tx { staged, holds_shared: self.has_shared_row, ..Tx::default() });
        Ok(())
    }

    fn advance(&mut self, session: usize, intervals: &[Interval]) -> Result<bool, Failure> {
        if intervals.iter().any(|interval| self.is_locked(session, interval.partition.partition)) {
            return Err(fails(Fault::Lock, "an offset row is locked"));
        }
        let flaw = self.flaw;
        let matches = |interval: &Interval| {
            let row = &self.state.rows[&interval.partition.partition];
            (row.next == interval.from.0 || flaw == Flaw::NoCompareAndSet)
                && (row.epoch == interval.epoch.0 || flaw == Flaw::NoEpoch)
        };
        let all_match = intervals.iter().all(matches);
        if all_match {
            self.open.get_mut(&session).expect("it was staged").moves = intervals.to_vec();
        }
        Ok(all_match)
    }

    fn apply(&mut self, tx: &Tx) {
        if self.is_asynchronous {
            self.unflushed.push(self.state.clone());
        }
        for moved in &tx.moves {
            let row = self.state.rows.get_mut(&moved.partition.partition).expect("every partition has a row");
            assert!(
                moved.epoch.0 >= row.epoch,
                "{} was committed under an epoch that was claimed over",
                moved.partition
            );
            row.next = moved.to.0;
            match moved.written {
                Written::Nothing => {}
                Written::Unsaid => row.leader_epoch = None,
                Written::By(leader_epoch) => row.leader_epoch = Some(leader_epoch),
            }
        }
        for (partition, offset) in &tx.staged {
            self.state.data.get_mut(partition).expect("every partition has data").push(*offset);
        }
        self.is_dirty = true;
    }

    fn truth(&self, session: usize, batch: &Batch) -> Result<BTreeMap<TopicPartition, Truth>, Failure> {
        let intervals = batch.intervals();
        if intervals.iter().any(|interval| self.is_locked(session, interval.partition.partition)) {
            return Err(fails(Fault::Lock, "an offset row is locked"));
        }
        let truth = intervals.iter().map(|interval| {
            let row = &self.state.rows[&interval.partition.partition];
            let (next, epoch) = (NextOffset(row.next), Epoch(row.epoch));
            (interval.partition.clone(), Truth { next, epoch, owner: row.owner.clone() })
        });
        Ok(truth.collect())
    }

    fn claim(&mut self, session: usize, owner: &str, partitions: &[TopicPartition]) -> Result<Vec<Claim>, Failure> {
        if partitions.iter().any(|partition| self.is_locked(session, partition.partition)) {
            return Err(fails(Fault::Lock, "an offset row is locked"));
        }
        let claims = partitions.iter().map(|partition| {
            let row = self.state.rows.get_mut(&partition.partition).expect("every partition has a row");
            row.epoch += 1;
            owner.clone_into(&mut row.owner);
            let identity = LogIdentity { cluster_id: None, topic_id: None };
            Claim {
                partition: partition.clone(),
                epoch: Epoch(row.epoch),
                next: NextOffset(row.next),
                identity,
                leader_epoch: row.leader_epoch,
            }
        });
        let claims = claims.collect();
        // Claims are always synchronous, and take all before them along.
        self.flush();
        Ok(claims)
    }
}

/// One session of a process, as a writer or the claimer has it.
pub struct Session {
    pub world: Rc<World>,
    pub number: usize,
    pub owner: String,
}

impl Session {
    /// Talks to the server. The connection may break before, or after.
    fn call<T>(&self, work: impl FnOnce(&mut Database) -> Result<T, Failure>) -> Result<T, Failure> {
        let breaks_before = self.world.strikes("connections cut before a statement", 60);
        let breaks_after = self.world.strikes("answers lost", 60);
        let mut database = self.world.database.borrow_mut();
        if breaks_before {
            database.cut(self.number, &mut self.world.random.borrow_mut());
        }
        database.begin(self.number, self.world.now())?;
        let result = work(&mut database)?;
        if breaks_after {
            database.cut(self.number, &mut self.world.random.borrow_mut());
            return Err(fails(Fault::Connection, "closed"));
        }
        Ok(result)
    }
}

impl Sink for Session {
    fn stage(&mut self, work: &mut Work<'_>) -> Result<(), Failure> {
        self.rollback();
        self.call(|database| database.stage(self.number, work.batch))
    }

    fn stage_in_pieces(
        &mut self,
        work: &mut Work<'_>,
        _: Pieces,
        _: Option<&Failure>,
        _: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Failure> {
        self.stage(work).map(|()| true)
    }

    fn advance(&mut self, work: &Work<'_>) -> Result<bool, Failure> {
        if self.world.strikes("lock timeouts", 40) {
            return Err(fails(Fault::Lock, "somebody's lock"));
        }
        self.call(|database| match database.open.contains_key(&self.number) {
            true => database.advance(self.number, work.batch.intervals()),
            false => Err(fails(Fault::Connection, "closed")),
        })
    }

    fn commit(&mut self, seq: crate::lane::Seq, batch: &Batch) -> Result<Durable, CommitFailure> {
        let is_doubtful = self.world.strikes("commits in doubt", 12);
        let mut random = self.world.random.borrow_mut();
        let mut database = self.world.database.borrow_mut();
        let Some(mut tx) = database.open.remove(&self.number) else {
            return Err(CommitFailure::InDoubt(fails(Fault::Connection, "closed")));
        };
        if !is_doubtful {
            database.apply(&tx);
            return Ok(Durable::witnessed(seq, batch));
        }
        let mut tally = self.world.tally.borrow_mut();
        match random.u32(0..3) {
            0 => {
                tally.count("commits in doubt, applied");
                database.apply(&tx);
            }
            1 => tally.count("commits in doubt, not applied"),
            _ => {
                tally.count("commits in doubt, decided later");
                tx.is_committing = true;
                database.ghosts.push(tx);
            }
        }
        database.connected.insert(self.number, u32::MAX);
        Err(CommitFailure::InDoubt(fails(Fault::Connection, "closed")))
    }

    fn rollback(&mut self) {
        self.world.database.borrow_mut().open.remove(&self.number);
    }

    fn truth(&mut self, batch: &Batch) -> Result<BTreeMap<TopicPartition, Truth>, Failure> {
        self.call(|database| database.truth(self.number, batch))
    }

    fn disconnect(&mut self) {
        let mut database = self.world.database.borrow_mut();
        database.leave(self.number, &mut self.world.random.borrow_mut());
        database.connected.remove(&self.number);
    }
}

impl Ledger for Session {
    fn lock_pipeline(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }

    fn start(&mut self, _: &[Arc<str>], _: &mut Resolve<'_>) -> Result<(), StartFailure> {
        Ok(())
    }

    fn claim(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Claim>, Failure> {
        let claims = self.call(|database| database.claim(self.number, &self.owner, partitions));
        // The next one connects again.
        if claims.as_ref().is_err_and(|failure| failure.fault == Fault::Connection) {
            self.disconnect();
        }
        claims
    }

    fn claim_or_start(&mut self, _: &[Start]) -> Result<Vec<Claim>, Failure> {
        unreachable!("every partition has a row from the start")
    }

    fn jump(&mut self, _: &Claim, _: NextOffset) -> Result<bool, Failure> {
        unreachable!("nothing is deleted from the log")
    }

    fn next_offsets(&mut self, _: &[Arc<str>]) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure> {
        unreachable!("no run has an end")
    }

    fn standings(&mut self) -> Result<Vec<Standing>, Failure> {
        self.call(|database| {
            let standing = |(number, row): (&i32, &Row)| Standing {
                partition: partition(*number),
                next: NextOffset(row.next),
                epoch: Epoch(row.epoch),
                identity: LogIdentity { cluster_id: None, topic_id: None },
                owner: Some(row.owner.clone()),
                records_total: 0,
                rows_total: 0,
                dead_letters_total: 0,
                records_skipped: 0,
                updated_at: String::new(),
            };
            Ok(database.state.rows.iter().map(standing).collect())
        })
    }

    fn barrier(&mut self, _: &[Arc<str>]) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure> {
        self.call(|database| {
            database.flush();
            let next = |(number, row): (&i32, &Row)| (partition(*number), NextOffset(row.next));
            Ok(database.state.rows.iter().map(next).collect())
        })
    }
}

/// How long the server is away after a crash, at most.
pub const DOWN_MAX: Duration = Duration::from_secs(3);
