//! One writer's connection: COPY, the counted UPDATE, COMMIT, and the truth afterwards.
//!
//! The transaction is driven by plain BEGIN and COMMIT on a held connection rather than by the client's `Transaction`,
//! whose destructor waits for the server. COMMIT is sent only after the counted UPDATE has succeeded as the last
//! statement, and no result is ignored; more about it in `commit`, and about COPY in `copy`.

mod pieces;

use super::binary;
use super::columns::{self, Fingerprint, Target};
use super::commit::{self, End};
use super::copy::{Refused, Rows, copy};
use super::failure::{not_a_row, plain};
use super::names::{Names, Table};
use super::pool::{Held, Pool};
use super::session::Session;
use super::statements::{BEGIN, STAGING, Statements, leader_epoch};
use crate::batch::{Batch, Epoch};
use crate::fault::{Failure, Fault};
use crate::fit::Fit;
use crate::heartbeat::{Doing, Heartbeat};
use crate::lane::Seq;
use crate::record::{NextOffset, TopicPartition};
use crate::row::{MetricRow, Origin, PriceRow};
use crate::sink::{CommitFailure, Durable, Pieces, Sink, Truth};
use crate::work::{Tally, Work};
use postgres::types::ToSql;
use postgres::{Client, Statement};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long a ROLLBACK may take before the connection is given up instead.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
/// A database as one writer sees it.
pub struct PostgresSink {
    pool: Pool,
    heartbeat: Arc<Heartbeat>,
    pipeline: String,
    payload_bytes_max: usize,
    // How long one call may take: beyond what the server allows itself, and below the watchdog's hard limit.
    call_max: Duration,
    sql: Statements,
    held: Option<Held>,
    transaction: Transaction,
    // The rows of one COPY; reused.
    buffer: Vec<u8>,
}

/// Where the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    /// There is none.
    None,
    /// Begun; rows may have been sent.
    Open,
    /// Begun, and nothing is left to be upserted.
    Upserted,
    /// Every offset row has moved: only now may it be committed.
    Advanced,
}

impl PostgresSink {
    pub(super) fn new(
        pool: Pool,
        heartbeat: Arc<Heartbeat>,
        names: Arc<Names>,
        pipeline: String,
        payload_bytes_max: usize,
        call_max: Duration,
    ) -> Self {
        PostgresSink {
            pool,
            heartbeat,
            pipeline,
            payload_bytes_max,
            call_max,
            sql: Statements::new(names),
            held: None,
            transaction: Transaction::None,
            buffer: Vec::new(),
        }
    }

    /// The connection, made anew if there is none or it is bad.
    fn connect(&mut self) -> Result<(), Failure> {
        if self.held.as_ref().is_some_and(|held| held.is_good()) {
            return Ok(());
        }
        self.disconnect();
        let _calling = Calling::new(&self.heartbeat, "connect");
        let held = self.pool.get()?;
        self.heartbeat.set_canceller(Some(held.canceller()));
        self.held = Some(held);
        Ok(())
    }

    fn session(&mut self) -> &mut Session {
        self.held.as_mut().expect("a transaction is open on it")
    }

    /// One call on the open connection, visible to the watchdog.
    fn call<T>(
        &mut self,
        what: &'static str,
        doing: &str,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Failure> {
        let (heartbeat, call_max) = (self.heartbeat.clone(), self.call_max);
        let _calling = Calling::new(&heartbeat, what);
        self.session().call(doing, call_max, call)
    }

    fn prepared(&mut self, doing: &str, text: fn(&Statements) -> &str) -> Result<Statement, Failure> {
        let (heartbeat, call_max) = (self.heartbeat.clone(), self.call_max);
        let _calling = Calling::new(&heartbeat, "prepare");
        let session = self.held.as_mut().expect("a transaction is open on it");
        session.prepared(doing, call_max, text(&self.sql))
    }

    /// Begins a transaction in which the columns of the tables stay as they are, and takes the rows that don't fit into
    /// them out of the work.
    fn begin(&mut self, work: &mut Work<'_>) -> Result<(), Failure> {
        let (has_prices, has_metrics) = (!work.decoded.prices.is_empty(), !work.decoded.metrics.is_empty());
        let (prices, metrics) = loop {
            let (prices, metrics) = self.begin_and_look(has_prices, has_metrics)?;
            if metrics.is_none() || self.session().staging == metrics {
                break (prices, metrics);
            }
            // Outside the transaction, so that it survives a rollback.
            self.rollback();
            self.connect()?;
            self.session().staging = None;
            let create = self.sql.create_staging.clone();
            self.call("stage", "creating the table that metrics are staged in", |client| {
                client.batch_execute(&create)
            })?;
            self.session().staging = metrics;
        };
        if let Some(fit) = self.fit(Target::Prices, prices)? {
            work.bury(fit.prices(&work.decoded.prices));
        }
        if let Some(fit) = self.fit(Target::Metrics, metrics)? {
            work.bury(fit.metrics(&work.decoded.metrics));
        }
        Ok(())
    }

    fn begin_and_look(
        &mut self,
        has_prices: bool,
        has_metrics: bool,
    ) -> Result<(Option<Fingerprint>, Option<Fingerprint>), Failure> {
        let begin = match (has_prices, has_metrics) {
            (true, true) => self.sql.begin_both.clone(),
            (true, false) => self.sql.begin_prices.clone(),
            (false, true) => self.sql.begin_metrics.clone(),
            (false, false) => BEGIN.to_owned(),
        };
        // Before the call: what fails after its BEGIN has a transaction to end.
        self.transaction = Transaction::Open;
        let answer = self.call("begin", "beginning a transaction", |client| client.simple_query(&begin))?;
        let n = usize::from(has_prices) + usize::from(has_metrics);
        let mut looks = columns::fingerprints(&answer, n)?.into_iter();
        Ok((if has_prices { looks.next() } else { None }, if has_metrics { looks.next() } else { None }))
    }

    /// What a table's columns can't hold, by the fingerprint that they have now.
    fn fit(&mut self, target: Target, now: Option<Fingerprint>) -> Result<Option<Arc<Fit>>, Failure> {
        let Some(now) = now else { return Ok(None) };
        let (heartbeat, names, call_max) = (self.heartbeat.clone(), self.sql.names.clone(), self.call_max);
        let _calling = Calling::new(&heartbeat, "columns");
        columns::fit(self.session(), call_max, &names, target, now)
    }

    fn send(&mut self, work: &mut Work<'_>) -> Result<(), Failure> {
        self.begin(work)?;
        let prices = &work.decoded.prices;
        self.copy_prices(prices).map_err(|refused| refused.failure(|row_idx| Some(prices[row_idx].origin)))?;
        let last = last_of_each_window(&work.decoded.metrics, &BTreeSet::new());
        self.copy_metrics(0, &last).map_err(|refused| refused.failure(|row_idx| Some(last[row_idx].origin)))?;
        self.copy_dead_letters(work)
    }

    fn copy_prices(&mut self, rows: &[PriceRow<'_>]) -> Result<(), Refused> {
        if rows.is_empty() {
            return Ok(());
        }
        binary::prices(&mut self.buffer, rows);
        let table = self.sql.names.prices.clone();
        self.copy(&table, &table.bare, rows.len(), |sql| &sql.copy_prices)
    }

    /// Sends metrics into the table where they wait for the upsert, at places from `place` on.
    fn copy_metrics(&mut self, place: i32, rows: &[&MetricRow<'_>]) -> Result<(), Refused> {
        if rows.is_empty() {
            return Ok(());
        }
        binary::metrics(&mut self.buffer, place, rows.iter().copied());
        let table = self.sql.names.metrics.clone();
        self.copy(&table, STAGING, rows.len(), |sql| &sql.copy_metrics)
    }

    fn copy_dead_letters(&mut self, work: &Work<'_>) -> Result<(), Failure> {
        let letters = &work.decoded.dead_letters;
        if letters.is_empty() {
            return Ok(());
        }
        binary::dead_letters(&mut self.buffer, &self.pipeline, work, self.payload_bytes_max);
        let table = self.sql.names.dead_letters.clone();
        let copied = self.copy(&table, &table.bare, letters.len(), |sql| &sql.copy_dead_letters);
        // What is kept of a record must always fit: there is nowhere else to put it.
        copied.map_err(|Refused { failure, .. }| match failure.fault {
            // A frozen process that thaws writes what the next owner has written.
            Fault::UniqueKey => Failure { fault: Fault::OwnKey, ..failure },
            _ => not_a_row(Fault::Bug, failure),
        })
    }

    /// Sends the buffer's rows. The only way out without an error is that the server has taken every one of them.
    fn copy(
        &mut self,
        table: &Table,
        name_in_context: &str,
        n_rows: usize,
        text: fn(&Statements) -> &str,
    ) -> Result<(), Refused> {
        let doing = format!("writing {n_rows} rows to {table}");
        let statement = self.prepared(&doing, text).map_err(Refused::whole)?;
        let buffer = std::mem::take(&mut self.buffer);
        let (heartbeat, call_max) = (self.heartbeat.clone(), self.call_max);
        let calling = Calling::new(&heartbeat, "copy");
        let rows = Rows { bytes: &buffer, n_rows, name_in_context };
        let result = copy(self.session(), call_max, &doing, &statement, rows);
        drop(calling);
        self.buffer = buffer;
        result
    }

    /// Upserts the metrics at these places, which are so many.
    fn upsert(&mut self, places: Range<i32>, n_rows: usize) -> Result<(), Refused> {
        let doing = format!("upserting {n_rows} rows in {}", self.sql.names.metrics);
        let statement = self.prepared(&doing, |sql| &sql.upsert_metrics).map_err(Refused::whole)?;
        let upserted = self.call("upsert", &doing, |client| client.execute(&statement, &[&places.start, &places.end]));
        match upserted {
            Ok(upserted) if upserted == n_rows as u64 => Ok(()),
            Ok(upserted) => Err(Refused::whole(plain(
                Fault::Schema,
                format!("{doing}: only {upserted} were kept; remove the trigger or rule that drops rows"),
            ))),
            Err(failure) => Err(Refused { failure, row_idx: (n_rows == 1).then_some(0) }),
        }
    }

    fn upsert_all(&mut self, work: &Work<'_>) -> Result<(), Failure> {
        let last = last_of_each_window(&work.decoded.metrics, &BTreeSet::new());
        if last.is_empty() {
            return Ok(());
        }
        // Where some were refused on the way here, their places are empty.
        let upserted = self.upsert(0..i32::MAX, last.len());
        upserted.map_err(|refused| refused.failure(|row_idx| Some(last[row_idx].origin)))
    }

    fn move_offsets(&mut self, work: &Work<'_>) -> Result<u64, Failure> {
        let (intervals, tallies) = (work.batch.intervals(), work.tallies());
        let topics: Vec<&str> = intervals.iter().map(|interval| &*interval.partition.topic).collect();
        let partitions: Vec<i32> = intervals.iter().map(|interval| interval.partition.partition).collect();
        let from: Vec<i64> = intervals.iter().map(|interval| interval.from.0).collect();
        let to: Vec<i64> = intervals.iter().map(|interval| interval.to.0).collect();
        let epochs: Vec<i64> = intervals.iter().map(|interval| interval.epoch.0).collect();
        let counted =
            |count: fn(&Tally) -> u64| -> Vec<i64> { tallies.iter().map(|tally| count(tally) as i64).collect() };
        let (rows, dead) = (counted(|tally| tally.records_rows), counted(|tally| tally.records_dead));
        let (skipped, n_rows) = (counted(|tally| tally.records_skipped), counted(|tally| tally.rows));
        let n_letters = counted(|tally| tally.dead_letters);
        let leader_epochs: Vec<Option<i32>> = intervals.iter().map(|interval| leader_epoch(interval.written)).collect();
        let statement = self.prepared("moving offsets", |sql| &sql.advance)?;
        let pipeline = self.pipeline.clone();
        let parameters: [&(dyn ToSql + Sync); 12] = [
            &pipeline,
            &topics,
            &partitions,
            &from,
            &to,
            &epochs,
            &rows,
            &dead,
            &skipped,
            &n_rows,
            &n_letters,
            &leader_epochs,
        ];
        let moved = self.call("update", "moving offsets", |client| client.execute(&statement, &parameters));
        moved.map_err(|failure| not_a_row(Fault::Bug, failure))
    }

    fn read_truth(&mut self, batch: &Batch) -> Result<BTreeMap<TopicPartition, Truth>, Failure> {
        const DOING: &str = "reading offsets under lock";
        let topics: Vec<&str> = batch.intervals().iter().map(|interval| &*interval.partition.topic).collect();
        let partitions: Vec<i32> = batch.intervals().iter().map(|interval| interval.partition.partition).collect();
        self.call("begin", DOING, |client| client.batch_execute(BEGIN))?;
        self.transaction = Transaction::Open;
        let statement = self.prepared(DOING, |sql| &sql.truth)?;
        let pipeline = self.pipeline.clone();
        let rows = self.call("truth", DOING, |client| client.query(&statement, &[&pipeline, &topics, &partitions]))?;
        let truth = rows.iter().map(|row| {
            let partition = TopicPartition::new(row.try_get::<_, &str>(0)?, row.try_get(1)?);
            let truth =
                Truth { next: NextOffset(row.try_get(2)?), epoch: Epoch(row.try_get(3)?), owner: row.try_get(4)? };
            Ok((partition, truth))
        });
        truth.collect::<Result<_, _>>().map_err(|error| unreadable(DOING, &error))
    }
}

impl Sink for PostgresSink {
    fn stage(&mut self, work: &mut Work<'_>) -> Result<(), Failure> {
        self.rollback();
        self.connect()?;
        let sent = self.send(work);
        if sent.is_err() {
            self.rollback();
        }
        sent
    }

    fn stage_in_pieces(
        &mut self,
        work: &mut Work<'_>,
        pieces: Pieces,
        refusal: Option<&Failure>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Failure> {
        self.rollback();
        self.connect()?;
        let sent = self.send_in_pieces(work, pieces, refusal, go_on);
        if !matches!(sent, Ok(true)) {
            self.rollback();
        }
        sent
    }

    fn advance(&mut self, work: &Work<'_>) -> Result<bool, Failure> {
        match self.transaction {
            Transaction::Open => self.upsert_all(work)?,
            Transaction::Upserted => {}
            Transaction::None | Transaction::Advanced => panic!("a batch is staged before its turn, and has one"),
        }
        let all_moved = self.move_offsets(work)? == work.batch.intervals().len() as u64;
        if all_moved {
            self.transaction = Transaction::Advanced;
        }
        Ok(all_moved)
    }

    fn commit(&mut self, seq: Seq, batch: &Batch) -> Result<Durable, CommitFailure> {
        if self.transaction != Transaction::Advanced {
            self.rollback();
            let message = "committing: not every offset has moved; the transaction was rolled back";
            return Err(CommitFailure::NotApplied(plain(Fault::Bug, message)));
        }
        let (heartbeat, call_max) = (self.heartbeat.clone(), self.call_max);
        heartbeat.enter(Doing::Committing);
        let end = commit::commit(self.session(), call_max);
        heartbeat.enter(Doing::Waiting);
        match end {
            End::Committed => {
                self.transaction = Transaction::None;
                Ok(Durable::witnessed(seq, batch))
            }
            End::Refused(failure) => {
                self.rollback();
                Err(CommitFailure::NotApplied(failure))
            }
            End::InDoubt(failure) => {
                self.disconnect();
                Err(CommitFailure::InDoubt(failure))
            }
        }
    }

    fn rollback(&mut self) {
        if self.transaction == Transaction::None {
            return;
        }
        self.transaction = Transaction::None;
        let Some(held) = &mut self.held else { return };
        let is_ended = held.is_good() && {
            let _calling = Calling::new(&self.heartbeat, "rollback");
            held.call("rolling back", ROLLBACK_MAX, |client| client.batch_execute("ROLLBACK")).is_ok()
        };
        if !is_ended {
            self.disconnect();
        }
    }

    fn truth(&mut self, batch: &Batch) -> Result<BTreeMap<TopicPartition, Truth>, Failure> {
        self.rollback();
        self.connect()?;
        let truth = self.read_truth(batch);
        // Gives the locks back; nothing was changed.
        self.rollback();
        truth
    }

    fn disconnect(&mut self) {
        self.transaction = Transaction::None;
        if let Some(mut held) = self.held.take() {
            self.heartbeat.set_canceller(None);
            held.poisoned = true;
        }
    }
}

impl Drop for PostgresSink {
    fn drop(&mut self) {
        self.heartbeat.set_canceller(None);
        if self.transaction != Transaction::None {
            // Ending the connection ends the transaction, without waiting for the server.
            self.disconnect();
        }
    }
}

impl std::fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let session: Option<&Session> = self.held.as_deref();
        f.debug_struct("PostgresSink").field("transaction", &self.transaction).field("session", &session).finish()
    }
}

/// Tells the watchdog that a call runs, until it is dropped.
struct Calling<'a> {
    heartbeat: &'a Heartbeat,
}

impl<'a> Calling<'a> {
    fn new(heartbeat: &'a Heartbeat, what: &'static str) -> Self {
        heartbeat.enter(Doing::Calling(what));
        Calling { heartbeat }
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.heartbeat.enter(Doing::Waiting);
    }
}

/// A row of a bookkeeping table that isn't as schema.sql makes it.
pub(super) fn unreadable(doing: &str, error: &postgres::Error) -> Failure {
    plain(Fault::Schema, format!("{doing}: {error}; the table is not as in schema.sql"))
}

/// Rows are sorted by symbol, window and origin: of several for one window the last that isn't refused is the newest.
fn last_of_each_window<'a, 'b>(rows: &'a [MetricRow<'b>], refused: &BTreeSet<Origin>) -> Vec<&'a MetricRow<'b>> {
    let mut last: Vec<&MetricRow<'_>> = Vec::new();
    for row in rows.iter().filter(|row| refused.is_empty() || !refused.contains(&row.origin)) {
        let window = |row: &'a MetricRow<'b>| (&*row.symbol, row.window_start, row.window_end);
        match last.last_mut() {
            Some(earlier) if window(earlier) == window(row) => *earlier = row,
            _ => last.push(row),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Micros;

    #[test]
    fn of_several_rows_for_one_window_the_last_is_sent_that_is_not_refused() {
        let origin = |record_idx| Origin { record_idx, element: 0 };
        let row = |symbol: &'static str, start, record_idx| MetricRow {
            origin: origin(record_idx),
            symbol: symbol.into(),
            window_start: Micros(start),
            window_end: Micros(start + 1),
            avg_price: None,
            max_price: None,
            min_price: None,
            avg_volume: None,
        };
        let rows = [row("a", 0, 1), row("a", 0, 4), row("a", 5, 0), row("b", 0, 2), row("b", 0, 3)];
        let last = |rows, refused: &[u32]| -> Vec<u32> {
            let refused = refused.iter().copied().map(origin).collect();
            last_of_each_window(rows, &refused).iter().map(|row| row.origin.record_idx).collect()
        };
        assert_eq!(last(&rows, &[]), [4, 0, 3]);
        assert_eq!(last(&rows, &[4, 0]), [1, 3]);
        assert!(last(&[], &[]).is_empty());
    }
}
