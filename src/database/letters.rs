//! `writer_dead_letters` for an operator: finding letters, writing the rows that they become, marking them.
//!
//! A page of letters is one transaction: its rows and its marks are there together or not at all, so that it can be
//! broken off anywhere and begun again. Letters are locked before they are decoded, and passed over where somebody else
//! has locked them. One process at a time works on a page of a pipeline, by an advisory lock, and from the newest letter
//! to the oldest: of two letters for one window the newer is then written first, and the older one finds it there. A
//! running worker is in nobody's way: it only adds letters, and its relay (`relay`) marks them in a moment.
//!
//! Pages are found by the primary key, so that a million letters need no more memory than a page.

mod query;
mod redrive;
mod relay;

pub use relay::Unrelayed;

use super::columns::{self, Fingerprint, Target, lock_and_look, look};
use super::commit::{self, End};
use super::ledger::lock_key;
use super::names::{Names, Table};
use super::pool::{Held, Pool};
use super::session::Session;
use super::sink::unreadable;
use super::statements::Statements;
use crate::dead_letters::{Counts, Filter, Letter, LetterId, RefusedRecord};
use crate::fault::Failure;
use crate::redrive::{Plan, Stay};
use crate::sink::CommitFailure;
use postgres::Client;
use query::{COLUMNS, Chosen, PLACE, Places, descending, id, letter};
use std::sync::Arc;
use std::time::Duration;

/// How long a ROLLBACK may take before the connection is given up instead.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
/// Values of a page, in bytes, at most, but for a single record that has more.
const PAGE_BYTES_MAX: i64 = 16 << 20;

/// What a page of letters has come to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Written {
    /// Letters that are marked.
    pub n_letters: u64,
    /// Letters of elements that were numbered anew and are refused.
    pub anew: Vec<Stay>,
    /// Rows that are new.
    pub n_rows: u64,
    /// Windows that were there already, or in a newer letter, and were left as they are.
    pub n_windows_kept: u64,
    /// One of the letters that are marked.
    pub witness: Option<LetterId>,
    /// Letters that PostgreSQL has refused again.
    pub refused: Vec<Stay>,
}

/// Dead letters of one pipeline.
pub struct PostgresLetters {
    pool: Pool,
    names: Arc<Names>,
    sql: Statements,
    // Otherwise the session is told to.
    commits_synchronously: bool,
    pipeline: String,
    call_max: Duration,
    held: Option<Held>,
    // The rows of one COPY; reused.
    buffer: Vec<u8>,
}

impl PostgresLetters {
    pub(super) fn new(
        pool: Pool,
        names: Arc<Names>,
        commits_synchronously: bool,
        pipeline: String,
        call_max: Duration,
    ) -> Self {
        let sql = Statements::new(names.clone());
        PostgresLetters { pool, names, sql, commits_synchronously, pipeline, call_max, held: None, buffer: Vec::new() }
    }

    /// How many letters are meant.
    pub fn count(&mut self, filter: &Filter) -> Result<Counts, Failure> {
        const DOING: &str = "counting dead letters";
        let chosen = Chosen::new(&self.pipeline, filter);
        let sql = format!(
            "SELECT d.topic, d.reason_class, count(*) FROM {} d WHERE {} GROUP BY 1, 2",
            self.names.dead_letters, chosen.sql
        );
        let rows = self.call(DOING, |client| client.query(&sql, &chosen.parameters()))?;
        let mut counts = Counts::default();
        for row in rows {
            let count = (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<_, i64>(2)?)))();
            let (topic, class, n) = count.map_err(|error| unreadable(DOING, &error))?;
            counts.add(topic, class, n as u64);
        }
        Ok(counts)
    }

    /// The next letters that are meant, in the order of their names, after that one; `None`: the first.
    pub fn after(&mut self, filter: &Filter, last: Option<&LetterId>, n: usize) -> Result<Vec<Letter>, Failure> {
        let mut chosen = Chosen::new(&self.pipeline, filter);
        if let Some(last) = last {
            chosen.beyond(">", last);
        }
        let sql = self.select(&chosen, &format!("ORDER BY {PLACE} LIMIT {n}"));
        self.letters(&sql, &chosen)
    }

    /// Those of these letters that are not there, open or not.
    pub fn missing(&mut self, ids: &[LetterId]) -> Result<Vec<LetterId>, Failure> {
        let filter = Filter { ids: ids.to_vec(), closed_too: true, ..Filter::default() };
        let found = self.after(&filter, None, ids.len())?;
        Ok(ids.iter().filter(|id| !found.iter().any(|letter| letter.id == **id)).cloned().collect())
    }

    /// A letter, and its record with the letters of it that are open.
    pub fn find(&mut self, id: &LetterId) -> Result<Option<(Letter, RefusedRecord)>, Failure> {
        let filter = Filter { ids: vec![id.clone()], closed_too: true, ..Filter::default() };
        let Some(letter) = self.after(&filter, None, 1)?.pop() else { return Ok(None) };
        let mut open = Chosen::new(&self.pipeline, &Filter::default());
        open.of_record(id);
        let sql = self.select(&open, &format!("ORDER BY {PLACE}"));
        let letters = self.letters(&sql, &open)?;
        let payload = self.payloads(std::slice::from_ref(id))?.pop().flatten();
        Ok(Some((letter, RefusedRecord { letters, payload })))
    }

    /// The next open letters that are meant, below that one, from the newest on: whole records with their values.
    /// Nothing is locked.
    pub fn look(&mut self, filter: &Filter, below: Option<&LetterId>, n: usize) -> Result<Vec<RefusedRecord>, Failure> {
        self.page(filter, below, n, "")
    }

    /// As [`look`](Self::look), and locks them, in a transaction that [`commit`](Self::commit) ends.
    pub fn take(&mut self, filter: &Filter, below: Option<&LetterId>, n: usize) -> Result<Vec<RefusedRecord>, Failure> {
        let begun = self.begin_to_write();
        let taken = begun.and_then(|()| self.page(filter, below, n, "FOR UPDATE OF d SKIP LOCKED"));
        if taken.is_err() {
            self.rollback();
        }
        taken
    }

    /// Writes the rows of a plan for the letters that were taken, and marks these. A row that PostgreSQL refuses takes
    /// only its own letters out of the plan; what the columns can't hold stays a letter. The transaction is open still, but
    /// after an error.
    pub fn write(&mut self, plan: &mut Plan<'_>) -> Result<Written, Failure> {
        let written = self.fit(plan).and_then(|()| self.write_units(&plan.units)).and_then(|(taken, mut written)| {
            self.number_anew(&taken)?;
            let marks: Vec<&LetterId> = taken.iter().flat_map(|unit| unit.done()).collect();
            written.n_letters = marks.len() as u64;
            written.witness = marks.first().map(|id| (*id).clone());
            written.anew = taken.iter().flat_map(|unit| unit.stays()).collect();
            self.set("marking dead letters", "redriven_at", &marks).map(|()| written)
        });
        if written.is_err() {
            self.rollback();
        }
        written
    }

    /// Commits what was written.
    pub fn commit(&mut self) -> Result<(), CommitFailure> {
        let call_max = self.call_max;
        match commit::commit(self.held.as_mut().expect("the letters are taken on it"), call_max) {
            End::Committed => Ok(()),
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

    /// Whether a letter is redriven, after a COMMIT in doubt: under the lock that the transaction in doubt holds for as
    /// long as it isn't over.
    pub fn is_redriven(&mut self, id: &LetterId) -> Result<bool, Failure> {
        let mut chosen = Chosen::new(&self.pipeline, &Filter { closed_too: true, ..Filter::default() });
        chosen.of_record(id);
        chosen.and("d.element = {}", id.element as i32);
        let sql = self.select(&chosen, "");
        let letters = self.begin().and_then(|()| self.letters(&sql, &chosen));
        self.rollback();
        Ok(letters?.first().is_some_and(|letter| letter.redriven_at.is_some()))
    }

    /// Marks the next open letters that are meant, below that one, as discarded. How many, and the last of them; `None`:
    /// there are no more.
    pub fn discard(
        &mut self,
        filter: &Filter,
        below: Option<&LetterId>,
        n: usize,
    ) -> Result<Option<(u64, LetterId)>, Failure> {
        const DOING: &str = "discarding dead letters";
        let discarded = self.begin().and_then(|()| {
            let mut chosen = Chosen::new(&self.pipeline, filter);
            if let Some(last) = below {
                chosen.beyond("<", last);
            }
            let page = format!("ORDER BY {} LIMIT {n} FOR UPDATE OF d SKIP LOCKED", descending());
            let sql = format!("SELECT {PLACE} FROM {} d WHERE {} {page}", self.names.dead_letters, chosen.sql);
            let rows = self.call(DOING, |client| client.query(&sql, &chosen.parameters()))?;
            let ids = rows.iter().map(id).collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(DOING, &error))?;
            self.set(DOING, "discarded_at", &ids)?;
            self.call(DOING, |client| client.batch_execute("SAVEPOINT committing; COMMIT"))?;
            Ok(ids)
        });
        match discarded {
            Ok(ids) => Ok(ids.last().map(|last| (ids.len() as u64, last.clone()))),
            Err(failure) => {
                self.rollback();
                Err(failure)
            }
        }
    }

    fn session(&mut self) -> Result<&mut Session, Failure> {
        if !self.held.as_ref().is_some_and(|held| held.is_good()) {
            self.disconnect();
            let mut held = self.pool.get()?;
            // Pages are read by the primary key. Without statistics, which a table has not yet when a flood has just come
            // in, the planner would read and sort all that is left for each of them.
            held.call("setting up a session", self.call_max, |client| {
                client.batch_execute("SET enable_bitmapscan = off; SET enable_sort = off")
            })?;
            if !self.commits_synchronously {
                held.call("setting up a session", self.call_max, |client| {
                    client.batch_execute("SET synchronous_commit = on")
                })?;
            }
            self.held = Some(held);
        }
        Ok(self.held.as_mut().expect("it was just set"))
    }

    fn call<T>(
        &mut self,
        doing: &str,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Failure> {
        let call_max = self.call_max;
        self.session()?.call(doing, call_max, call)
    }

    fn disconnect(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.poisoned = true;
        }
    }

    /// Gives up a connection on which it can't roll back.
    fn rollback(&mut self) {
        let Some(held) = &mut self.held else { return };
        let is_ended = held.is_good()
            && held.call("rolling back", ROLLBACK_MAX, |client| client.batch_execute("ROLLBACK")).is_ok();
        if !is_ended {
            self.disconnect();
        }
    }

    /// Begins the transaction of a page, in which no other process works on one of this pipeline.
    fn begin(&mut self) -> Result<(), Failure> {
        let key = lock_key("dead letters", &[&self.pipeline, &self.names.dead_letters.schema]);
        self.call("beginning a page of dead letters", |client| {
            // A constraint that waits for COMMIT would name no row.
            client.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET CONSTRAINTS ALL IMMEDIATE; \
                 SELECT pg_advisory_xact_lock({key})"
            ))
        })
    }

    /// Begins the transaction of a page that rows are written in: the columns of the tables stay as they are, and those of
    /// the table that metrics are staged in are the same. That one is made outside, so that it survives a rollback.
    fn begin_to_write(&mut self) -> Result<(), Failure> {
        loop {
            self.begin()?;
            let metrics = self.look_at_columns(lock_and_look)?.1;
            if self.session()?.staging.as_ref() == Some(&metrics) {
                return Ok(());
            }
            self.rollback();
            let create = self.sql.create_staging.clone();
            self.session()?.staging = None;
            self.call("creating the table that metrics are staged in", |client| client.batch_execute(&create))?;
            self.session()?.staging = Some(metrics);
        }
    }

    /// The fingerprints of the prices table and the metrics table.
    fn look_at_columns(&mut self, look: fn(&Table, &[&str]) -> String) -> Result<(Fingerprint, Fingerprint), Failure> {
        let names = self.names.clone();
        let sql = format!("{}; {}", look(&names.prices, columns::PRICES), look(&names.metrics, columns::METRICS));
        let answer = self.call("looking at the columns", |client| client.simple_query(&sql))?;
        let mut looks = columns::fingerprints(&answer, 2)?.into_iter();
        let mut next = || looks.next().expect("there are two");
        Ok((next(), next()))
    }

    /// Takes out of a plan what the columns of the tables can't hold.
    pub fn fit(&mut self, plan: &mut Plan<'_>) -> Result<(), Failure> {
        let (prices, metrics) = self.look_at_columns(look)?;
        let (names, call_max) = (self.names.clone(), self.call_max);
        let session = self.session()?;
        let prices = columns::fit(session, call_max, &names, Target::Prices, prices)?;
        let metrics = columns::fit(session, call_max, &names, Target::Metrics, metrics)?;
        plan.fit(prices.as_deref(), metrics.as_deref());
        Ok(())
    }

    fn select(&self, chosen: &Chosen, rest: &str) -> String {
        format!("SELECT {COLUMNS} FROM {} d WHERE {} {rest}", self.names.dead_letters, chosen.sql)
    }

    fn letters(&mut self, sql: &str, chosen: &Chosen) -> Result<Vec<Letter>, Failure> {
        const DOING: &str = "reading dead letters";
        let rows = self.call(DOING, |client| client.query(sql, &chosen.parameters()))?;
        rows.iter().map(letter).collect::<Result<_, _>>().map_err(|error| unreadable(DOING, &error))
    }

    fn page(
        &mut self,
        filter: &Filter,
        below: Option<&LetterId>,
        n: usize,
        lock: &str,
    ) -> Result<Vec<RefusedRecord>, Failure> {
        let mut chosen = Chosen::new(&self.pipeline, filter);
        if let Some(last) = below {
            chosen.beyond("<", last);
        }
        let order = format!("ORDER BY {}", descending());
        let sql = self.select(&chosen, &format!("{order} LIMIT {n} {lock}"));
        let mut letters = self.letters(&sql, &chosen)?;
        if letters.len() == n
            && let Some(last) = letters.last().map(|letter| letter.id.clone())
        {
            // The rest of the last record.
            let mut chosen = Chosen::new(&self.pipeline, filter);
            chosen.of_record(&last);
            chosen.and("d.element < {}", last.element as i32);
            let sql = self.select(&chosen, &format!("{order} {lock}"));
            letters.extend(self.letters(&sql, &chosen)?);
        }
        let mut records: Vec<RefusedRecord> = Vec::new();
        let mut bytes = 0;
        for letter in letters {
            let is_of = |record: &RefusedRecord| record.letters[0].id.is_of_record(&letter.id);
            match records.last_mut().filter(|record| is_of(record)) {
                Some(record) => record.letters.push(letter),
                None => {
                    bytes += letter.payload_bytes.unwrap_or(0);
                    if bytes > PAGE_BYTES_MAX && !records.is_empty() {
                        // Its lock is given back with the page's; it is taken again with the next one.
                        break;
                    }
                    records.push(RefusedRecord { letters: vec![letter], payload: None });
                }
            }
        }
        let ids: Vec<LetterId> = records.iter().map(|record| record.letters[0].id.clone()).collect();
        for (record, payload) in records.iter_mut().zip(self.payloads(&ids)?) {
            record.payload = payload;
            record.letters.reverse();
        }
        Ok(records)
    }

    /// The values of the records that these letters are of, in the same order: each is with its record's lowest letter,
    /// whatever has become of that one.
    fn payloads(&mut self, ids: &[LetterId]) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        const DOING: &str = "reading the values of dead letters";
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT (SELECT d.payload FROM {} d WHERE d.pipeline = $1 AND d.topic = w.topic \
               AND d.partition = w.partition AND d.record_offset = w.record_offset ORDER BY d.element LIMIT 1) \
             FROM unnest($2::text[], $3::int[], $4::bigint[]) WITH ORDINALITY \
               AS w(topic, partition, record_offset, number) ORDER BY w.number",
            self.names.dead_letters
        );
        let Places { topics, partitions, offsets, .. } = Places::new(ids.iter());
        let pipeline = self.pipeline.clone();
        let rows = self.call(DOING, |client| client.query(&sql, &[&pipeline, &topics, &partitions, &offsets]))?;
        let payloads = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<_>, _>>();
        payloads.map_err(|error| unreadable(DOING, &error))
    }
}

impl Drop for PostgresLetters {
    fn drop(&mut self) {
        // Its settings, and a transaction that is open perhaps, must not come to whoever gets the connection next.
        self.disconnect();
    }
}

impl std::fmt::Debug for PostgresLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLetters").field("pipeline", &self.pipeline).finish()
    }
}
