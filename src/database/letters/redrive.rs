//! Writes the rows of letters that can be decoded by now, and marks the letters.

use super::query::{PLACE, Places};
use super::{PostgresLetters, Written};
use crate::database::binary;
use crate::database::copy::{Refused, Rows, copy};
use crate::database::failure::plain;
use crate::database::names::Table;
use crate::database::statements::STAGING;
use crate::dead_letters::LetterId;
use crate::fault::{Failure, Fault};
use crate::redrive::{Anew, Stay, Unit, Why};
use crate::row::{MetricRow, PriceRow};
use postgres::types::ToSql;
use std::cmp::Reverse;

impl PostgresLetters {
    /// Writes as many units at once as PostgreSQL takes. Each refusal makes the next attempt smaller, down to one unit,
    /// which then is the one that is refused; so a page of nothing but refused rows does not take forever.
    pub(super) fn write_units<'u, 'r>(
        &mut self,
        units: &'u [Unit<'r>],
    ) -> Result<(Vec<&'u Unit<'r>>, Written), Failure> {
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
    pub(super) fn number_anew(&mut self, units: &[&Unit<'_>]) -> Result<(), Failure> {
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
    pub(super) fn set(
        &mut self,
        doing: &str,
        mark: &str,
        ids: &[impl std::borrow::Borrow<LetterId>],
    ) -> Result<(), Failure> {
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
