//! `writer_dead_letters` for an operator: finding letters, writing the rows that they become, marking them.
//!
//! A page of letters is one transaction: its rows and its marks are there together or not at all, so that it can be
//! broken off anywhere and begun again. Letters are locked before they are decoded, and passed over where somebody else
//! has locked them. One process at a time works on a page of a pipeline, by an advisory lock, and from the newest letter
//! to the oldest: of two letters for one window the newer is then written first, and the older one finds it there. A
//! running worker is in nobody's way: it only adds letters, and its relay (`relay`) marks them in a moment.
//!
//! Pages are found by the primary key, so that a million letters need no more memory than a page.

mod relay;

pub use relay::Unrelayed;

use super::binary;
use super::columns::{self, Fingerprint, Target, lock_and_look, look};
use super::commit::{self, End};
use super::copy::{Refused, Rows, copy};
use super::failure::plain;
use super::ledger::lock_key;
use super::names::{Names, Table};
use super::pool::{Held, Pool};
use super::session::Session;
use super::sink::unreadable;
use super::statements::{STAGING, Statements};
use crate::dead_letters::{Counts, Filter, Letter, LetterId, RefusedRecord};
use crate::fault::{Failure, Fault};
use crate::record::{Offset, TopicPartition};
use crate::redrive::{Anew, Plan, Stay, Unit, Why};
use crate::row::{MetricRow, PriceRow};
use crate::sink::CommitFailure;
use postgres::types::ToSql;
use postgres::{Client, Row};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// How long a ROLLBACK may take before the connection is given up instead.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
/// Values of a page, in bytes, at most, but for a single record that has more.
const PAGE_BYTES_MAX: i64 = 16 << 20;

/// What is read of a letter; see [`letter`].
const COLUMNS: &str = "d.topic, d.partition, d.record_offset, d.element, d.key, d.record_timestamp_ms, d.payload_bytes, \
     d.payload_sha256, d.record_elements, d.reason_class, d.reason_code, d.reason, \
     to_char(d.first_seen AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     to_char(d.redriven_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     to_char(d.discarded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
/// A letter's name, as the primary key has it behind the pipeline.
const PLACE: &str = "d.topic, d.partition, d.record_offset, d.element";

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

    /// Writes as many units at once as PostgreSQL takes. Each refusal makes the next attempt smaller, down to one unit,
    /// which then is the one that is refused; so a page of nothing but refused rows does not take forever.
    fn write_units<'u, 'r>(&mut self, units: &'u [Unit<'r>]) -> Result<(Vec<&'u Unit<'r>>, Written), Failure> {
        let (mut taken, mut written) = (Vec::new(), Written::default());
        let mut left: Vec<&Unit<'r>> = units.iter().rev().collect();
        let mut n_at_once = left.len();
        while !left.is_empty() {
            let n = n_at_once.clamp(1, left.len());
            let start = left.len() - n;
            match self.write_at_once(&left[start..])? {
                Attempt::Taken { n_rows, n_windows_kept } => {
                    written.n_rows += n_rows;
                    written.n_windows_kept += n_windows_kept;
                    taken.extend(left.drain(start..));
                    n_at_once = n * 2;
                }
                Attempt::Refused { unit_idx: Some(idx), sqlstate, reason } => {
                    n_at_once = n / 2;
                    written.refused.extend(left.remove(start + idx).letters.iter().map(|(id, was)| Stay {
                        id: id.clone(),
                        was: was.clone(),
                        why: Why::Refused(sqlstate.clone(), reason.clone()),
                    }));
                }
                Attempt::Refused { unit_idx: None, .. } => n_at_once = n / 2,
            }
        }
        Ok((taken, written))
    }

    /// The units stand from the oldest to the newest.
    fn write_at_once(&mut self, units: &[&Unit<'_>]) -> Result<Attempt, Failure> {
        self.call("beginning to write", |client| client.batch_execute("SAVEPOINT units"))?;
        let refusal = match self.copy_prices(units).and_then(|n_prices| Ok((n_prices, self.insert_metrics(units)?))) {
            Ok((n_prices, (n_windows, n_windows_kept))) => {
                self.call("going on", |client| client.batch_execute("RELEASE SAVEPOINT units"))?;
                return Ok(Attempt::Taken { n_rows: n_prices + n_windows, n_windows_kept });
            }
            Err(refusal) => refusal,
        };
        let Refused { failure, row_idx: unit_idx } = refusal;
        if !matches!(failure.fault, Fault::Record | Fault::UniqueKey) {
            return Err(failure);
        }
        self.call("taking back", |client| {
            client.batch_execute("ROLLBACK TO SAVEPOINT units; RELEASE SAVEPOINT units")
        })?;
        let unit_idx = unit_idx.or((units.len() == 1).then_some(0));
        Ok(Attempt::Refused { unit_idx, sqlstate: failure.sqlstate.unwrap_or_default(), reason: failure.message })
    }

    /// How many. A refused row is named by its unit.
    fn copy_prices(&mut self, units: &[&Unit<'_>]) -> Result<u64, Refused> {
        let mut rows: Vec<(usize, &PriceRow<'_>)> = rows_of(units, |unit| &unit.prices);
        if rows.is_empty() {
            return Ok(0);
        }
        // Neighbours in the index are neighbours in the COPY, as a writer's are.
        rows.sort_by(|(_, a), (_, b)| (&a.symbol, a.timestamp).cmp(&(&b.symbol, b.timestamp)));
        binary::prices(&mut self.buffer, rows.iter().map(|(_, row)| *row));
        let (table, sql) = (self.names.prices.clone(), self.sql.copy_prices.clone());
        let copied = self.copy(&table, &table.bare, rows.len(), &sql);
        copied.map_err(|refused| Refused { row_idx: refused.row_idx.map(|idx| rows[idx].0), ..refused })?;
        Ok(rows.len() as u64)
    }

    /// How many windows are new, and how many rows were for one that is there already.
    fn insert_metrics(&mut self, units: &[&Unit<'_>]) -> Result<(u64, u64), Refused> {
        let mut rows: Vec<(usize, &MetricRow<'_>)> = rows_of(units, |unit| &unit.metrics);
        let n_all = rows.len() as u64;
        if n_all == 0 {
            return Ok((0, 0));
        }
        // Of several for one window, the newest.
        rows.sort_by_key(|(unit_idx, row)| {
            (&row.symbol, row.window_start, row.window_end, Reverse((*unit_idx, row.origin.element)))
        });
        rows.dedup_by_key(|(_, row)| (&row.symbol, row.window_start, row.window_end));
        let n_windows = rows.len();
        binary::metrics(&mut self.buffer, 0, rows.iter().map(|(_, row)| *row));
        let (table, sql) = (self.names.metrics.clone(), self.sql.copy_metrics.clone());
        let copied = self.copy(&table, STAGING, n_windows, &sql);
        copied.map_err(|refused| Refused { row_idx: refused.row_idx.map(|idx| rows[idx].0), ..refused })?;
        let doing = format!("inserting into {table}");
        let columns = binary::METRIC_COLUMNS;
        let insert = format!(
            "INSERT INTO {table} ({columns}) SELECT {columns} FROM pg_temp.{STAGING} \
             ORDER BY symbol, window_start, window_end ON CONFLICT (symbol, window_start, window_end) DO NOTHING"
        );
        let absent = format!(
            "SELECT count(*) FROM pg_temp.{STAGING} s WHERE NOT EXISTS (SELECT FROM {table} m \
             WHERE m.symbol = s.symbol AND m.window_start = s.window_start AND m.window_end = s.window_end)"
        );
        let inserted = self.call(&doing, |client| client.execute(&insert, &[])).map_err(Refused::whole)?;
        let n_absent: i64 = match inserted == n_windows as u64 {
            true => 0,
            false => {
                let absent = self.call(&doing, |client| client.query_one(&absent, &[]));
                absent.map_err(Refused::whole)?.get(0)
            }
        };
        if n_absent > 0 {
            let what = format!("{doing}: {n_absent} were not kept; remove the trigger or rule that drops rows");
            return Err(Refused::whole(plain(Fault::Schema, what)));
        }
        let clear = format!("DELETE FROM pg_temp.{STAGING}");
        self.call(&doing, |client| client.batch_execute(&clear)).map_err(Refused::whole)?;
        Ok((inserted, n_all - inserted))
    }

    fn copy(&mut self, table: &Table, name_in_context: &str, n_rows: usize, sql: &str) -> Result<(), Refused> {
        // Without their number: it is said of each row that is refused.
        let doing = format!("writing to {table}");
        let call_max = self.call_max;
        let session = self.held.as_mut().expect("the letters are taken on it");
        let statement = session.prepared(&doing, call_max, sql).map_err(Refused::whole)?;
        let rows = Rows { bytes: &self.buffer, n_rows, name_in_context };
        copy(session, call_max, &doing, &statement, rows)
    }

    /// Letters of the elements that are refused in records that are numbered anew: those that are there say so now, the
    /// others are made. The value stays where it is, with the record's lowest letter.
    fn number_anew(&mut self, units: &[&Unit<'_>]) -> Result<(), Failure> {
        const DOING: &str = "numbering a record's letters anew";
        let sql = format!(
            "INSERT INTO {0} AS d (pipeline, topic, partition, record_offset, element, key, payload_bytes, reason_class, \
               reason_code, reason, record_timestamp_ms, record_elements) \
             SELECT l.pipeline, l.topic, l.partition, l.record_offset, w.element, l.key, l.payload_bytes, \
               w.reason_class, '', w.reason, l.record_timestamp_ms, $9 \
             FROM {0} l, unnest($6::int[], $7::text[], $8::text[]) AS w(element, reason_class, reason) \
             WHERE l.pipeline = $1 AND l.topic = $2 AND l.partition = $3 AND l.record_offset = $4 AND l.element = $5 \
             ON CONFLICT (pipeline, topic, partition, record_offset, element) DO UPDATE SET \
               reason_class = EXCLUDED.reason_class, reason_code = '', reason = EXCLUDED.reason, \
               record_elements = EXCLUDED.record_elements",
            self.names.dead_letters
        );
        for unit in units {
            let Some(Anew { n_elements, refused }) = unit.anew.as_ref().filter(|anew| !anew.refused.is_empty()) else {
                continue;
            };
            let (LetterId { partition, offset, element }, _) = unit.letters.first().expect("a unit has letters");
            let elements: Vec<i32> = refused.iter().map(|letter| letter.origin.element as i32).collect();
            let classes: Vec<&str> = refused.iter().map(|letter| letter.class.as_str()).collect();
            // The one character that PostgreSQL can't store.
            let reasons: Vec<String> = refused.iter().map(|l| l.reason.replace('\0', "\u{fffd}")).collect();
            let (pipeline, number) = (self.pipeline.clone(), partition.partition);
            let (source, n_elements) = (*element as i32, *n_elements as i32);
            let parameters: [&(dyn ToSql + Sync); 9] = [
                &pipeline,
                &&*partition.topic,
                &number,
                &offset.0,
                &source,
                &elements,
                &classes,
                &reasons,
                &n_elements,
            ];
            let n_written = self.call(DOING, |client| client.execute(&sql, &parameters))?;
            if n_written != refused.len() as u64 {
                let what =
                    format!("{DOING}: only {n_written} of {} were kept; remove the trigger or rule", refused.len());
                return Err(plain(Fault::Schema, what));
            }
        }
        Ok(())
    }

    /// Sets one of the two marks of letters that are locked.
    fn set(&mut self, doing: &str, mark: &str, ids: &[impl std::borrow::Borrow<LetterId>]) -> Result<(), Failure> {
        let ids: Vec<&LetterId> = ids.iter().map(|id| id.borrow()).collect();
        let (Some(lowest), Some(highest)) = (ids.iter().min(), ids.iter().max()) else { return Ok(()) };
        let sql = format!(
            "UPDATE {} d SET {mark} = now() \
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::int[]) AS w(topic, partition, record_offset, element) \
             WHERE d.pipeline = $1 AND ({PLACE}) >= ($6, $7, $8, $9) AND ({PLACE}) <= ($10, $11, $12, $13) \
               AND d.topic = w.topic AND d.partition = w.partition \
               AND d.record_offset = w.record_offset AND d.element = w.element \
               AND d.redriven_at IS NULL AND d.discarded_at IS NULL",
            self.names.dead_letters
        );
        let pipeline = self.pipeline.clone();
        let Places { topics, partitions, offsets, elements } = Places::new(ids.iter().copied());
        let ends = Places::new([*lowest, *highest].into_iter());
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&pipeline, &topics, &partitions, &offsets, &elements];
        for end in 0..2 {
            parameters.push(&ends.topics[end]);
            parameters.push(&ends.partitions[end]);
            parameters.push(&ends.offsets[end]);
            parameters.push(&ends.elements[end]);
        }
        let marked = self.call(doing, |client| {
            // Where the planner expects a handful of letters it likes a loop in a loop best; but both sides are a page.
            client.batch_execute("SET LOCAL enable_nestloop = off")?;
            client.execute(&sql, &parameters)
        })?;
        match marked == ids.len() as u64 {
            true => Ok(()),
            false => Err(plain(
                Fault::Schema,
                format!(
                    "{doing}: only {marked} of {} could be marked; remove the trigger or rule that keeps rows of {} as \
                     they are",
                    ids.len(),
                    self.names.dead_letters
                ),
            )),
        }
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

/// What became of writing some units at once.
enum Attempt {
    Taken {
        n_rows: u64,
        n_windows_kept: u64,
    },
    /// Nothing was written.
    Refused {
        unit_idx: Option<usize>,
        sqlstate: String,
        reason: String,
    },
}

/// All rows of one table, each with the index of its unit.
fn rows_of<'u, T>(units: &[&'u Unit<'_>], rows: impl Fn(&'u Unit<'_>) -> &'u [T]) -> Vec<(usize, &'u T)> {
    units.iter().enumerate().flat_map(|(unit_idx, unit)| rows(unit).iter().map(move |row| (unit_idx, row))).collect()
}

/// The order in which letters are redriven.
fn descending() -> String {
    PLACE.split(", ").map(|column| format!("{column} DESC")).collect::<Vec<_>>().join(", ")
}

/// A condition on letters, with its parameters.
struct Chosen {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync>>,
}

impl Chosen {
    fn new(pipeline: &str, filter: &Filter) -> Self {
        let mut chosen = Chosen { sql: "d.pipeline = $1".to_owned(), values: vec![Box::new(pipeline.to_owned())] };
        let Filter { ids, classes, topics, partitions, since, until, closed_too } = filter;
        if !closed_too {
            chosen.sql.push_str(" AND d.redriven_at IS NULL AND d.discarded_at IS NULL");
        }
        if !ids.is_empty() {
            let Places { topics, partitions, offsets, elements } = Places::new(ids.iter());
            let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
            let n = chosen.values.len();
            chosen.sql.push_str(&format!(
                " AND ({PLACE}) IN (SELECT * FROM unnest(${}::text[], ${}::int[], ${}::bigint[], ${}::int[]))",
                n + 1,
                n + 2,
                n + 3,
                n + 4
            ));
            chosen.values.extend([
                Box::new(topics) as Box<dyn ToSql + Sync>,
                Box::new(partitions),
                Box::new(offsets),
                Box::new(elements),
            ]);
        }
        if !classes.is_empty() {
            let classes: Vec<&'static str> = classes.iter().map(|class| class.as_str()).collect();
            chosen.and("d.reason_class = ANY({}::text[])", classes);
        }
        if !topics.is_empty() {
            chosen.and("d.topic = ANY({}::text[])", topics.clone());
        }
        if !partitions.is_empty() {
            chosen.and("d.partition = ANY({}::int[])", partitions.clone());
        }
        if let Some(since) = since {
            chosen.and("d.first_seen >= {}::text::timestamptz", since.to_rfc3339());
        }
        if let Some(until) = until {
            chosen.and("d.first_seen < {}::text::timestamptz", until.to_rfc3339());
        }
        chosen
    }

    /// `{}` stands for the parameter.
    fn and(&mut self, condition: &str, value: impl ToSql + Sync + 'static) {
        self.values.push(Box::new(value));
        self.sql.push_str(" AND ");
        self.sql.push_str(&condition.replace("{}", &format!("${}", self.values.len())));
    }

    /// Only letters that stand before or after that one.
    fn beyond(&mut self, comparison: &str, id: &LetterId) {
        let n = self.values.len();
        self.values.push(Box::new(id.partition.topic.to_string()));
        self.values.push(Box::new(id.partition.partition));
        self.values.push(Box::new(id.offset.0));
        self.values.push(Box::new(id.element as i32));
        self.sql.push_str(&format!(" AND ({PLACE}) {comparison} (${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4));
    }

    /// Only letters of this one's record.
    fn of_record(&mut self, id: &LetterId) {
        self.and("d.topic = {}", id.partition.topic.to_string());
        self.and("d.partition = {}", id.partition.partition);
        self.and("d.record_offset = {}", id.offset.0);
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value).collect()
    }
}

/// Names of letters, column by column.
struct Places<'a> {
    topics: Vec<&'a str>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    elements: Vec<i32>,
}

impl<'a> Places<'a> {
    fn new(ids: impl Iterator<Item = &'a LetterId> + Clone) -> Self {
        Places {
            topics: ids.clone().map(|id| &*id.partition.topic).collect(),
            partitions: ids.clone().map(|id| id.partition.partition).collect(),
            offsets: ids.clone().map(|id| id.offset.0).collect(),
            elements: ids.map(|id| id.element as i32).collect(),
        }
    }
}

/// Reads [`PLACE`].
fn id(row: &Row) -> Result<LetterId, postgres::Error> {
    Ok(LetterId {
        partition: TopicPartition::new(row.try_get::<_, &str>(0)?, row.try_get(1)?),
        offset: Offset(row.try_get(2)?),
        element: row.try_get::<_, i32>(3)? as u32,
    })
}

/// Reads [`COLUMNS`].
fn letter(row: &Row) -> Result<Letter, postgres::Error> {
    Ok(Letter {
        id: id(row)?,
        key: row.try_get(4)?,
        timestamp_ms: row.try_get(5)?,
        payload_bytes: row.try_get(6)?,
        payload_sha256: row.try_get(7)?,
        record_elements: row.try_get(8)?,
        class: row.try_get(9)?,
        code: row.try_get(10)?,
        reason: row.try_get(11)?,
        first_seen: row.try_get(12)?,
        redriven_at: row.try_get(13)?,
        discarded_at: row.try_get(14)?,
    })
}
