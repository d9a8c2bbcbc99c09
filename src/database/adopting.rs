//! Tables of rows that somebody else has made: what is different in them, what that means, and how long their ids last.
//!
//! Everything here is fine for a run, or the operator's decision; what a run can't work with is in `validate`. Reads
//! catalogs and a few rows by their ids, changes nothing.

use super::Database;
use super::columns::{self, TYPE, TYPE_FROM};
use super::names::{Table, quoted};
use crate::capacity::{Capacity, Pace};
use crate::fault::Failure;
use crate::fit::Limit;
use postgres::{Client, GenericClient};
use std::time::Duration;

/// Indexes of schema.sql that a run doesn't need.
const PRICE_INDEXES: &[&[&str]] = &[&["symbol", "timestamp"], &["timestamp"]];
const METRIC_INDEXES: &[&[&str]] = &[&["window_start", "window_end"]];
/// What a window is told by.
pub(super) const WINDOW: &str = "symbol, window_start, window_end";
/// How far back the pace of the ids is measured.
const PACE_SECONDS: f64 = 86_400.0;
/// How long [`repeated_windows`] may take.
pub(super) const COUNT_MAX: Duration = Duration::from_secs(3600);

impl Database {
    /// What is worth knowing about the tables of rows, for a person.
    pub fn notes(&self) -> Result<Vec<String>, Failure> {
        let names = self.shared.names.clone();
        let mut session = self.session()?;
        let mut notes = Vec::new();
        for (table, written, rounds, indexes) in [
            (&names.prices, columns::PRICES, names.prices_round, PRICE_INDEXES),
            (&names.metrics, columns::METRICS, names.metrics_round, METRIC_INDEXES),
        ] {
            let found = session.call("looking at the tables", self.call_max(), |client| {
                let mut found = narrow_columns(client, table, written, rounds)?;
                found.extend(missing_indexes(client, table, indexes)?);
                found.extend(partitions(client, table)?);
                found.extend(triggers(client, table)?);
                Ok(found)
            })?;
            notes.extend(found);
        }
        drop(session);
        notes.extend(self.capacities()?.iter().map(ToString::to_string));
        Ok(notes)
    }

    /// How long the ids last that PostgreSQL draws for the tables of rows, where they can run out.
    pub fn capacities(&self) -> Result<Vec<Capacity>, Failure> {
        let names = self.shared.names.clone();
        let mut session = self.session()?;
        session.call("looking at the tables' ids", self.call_max(), |client| {
            let mut capacities = Vec::new();
            for table in [&names.prices, &names.metrics] {
                capacities.extend(ids(client, table)?);
            }
            Ok(capacities)
        })
    }
}

/// What can't be written into a column, and what to do about it.
fn narrow_columns(
    client: &mut Client,
    table: &Table,
    written: &[&str],
    rounds: bool,
) -> Result<Vec<String>, postgres::Error> {
    let sql = format!(
        "SELECT a.attname::text, {TYPE} FROM {TYPE_FROM} JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attname::text = ANY($3::text[]) ORDER BY a.attnum"
    );
    let mut notes = Vec::new();
    for row in client.query(&sql, &[&table.schema, &table.bare, &written])? {
        let (name, base, shown): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let Ok(limit) = columns::limit(&base, row.try_get(3)?) else { continue };
        let (meaning, wider) = match (limit, base.as_str()) {
            (Some(Limit::Characters(max)), _) => {
                (format!("a symbol of more than {max} characters becomes a dead letter (symbol)"), "text")
            }
            (Some(Limit::Digits { precision, scale }), _) => {
                let integers = (precision - scale).max(0);
                let what = match rounds {
                    true => format!(
                        "more than {scale} decimals are rounded (round = true), and what has more than {integers} digits \
                         before the point becomes a dead letter (range)"
                    ),
                    false => format!(
                        "what has more than {scale} decimals, or more than {integers} digits before the point, becomes a dead \
                         letter (range)"
                    ),
                };
                (what, "numeric")
            }
            (Some(Limit::SecondDecimals(max)), _) => {
                let what = match rounds {
                    true => format!("more than {max} decimals of a second are rounded (round = true)"),
                    false => format!("a time with more than {max} decimals of a second becomes a dead letter (range)"),
                };
                (what, "timestamptz")
            }
            (None, "timestamp") => ("it has no zone, times are written into it in UTC".to_owned(), "timestamptz"),
            (None, _) => continue,
        };
        let zone = if base == "timestamp" && limit.is_some() { "; times are written into it in UTC" } else { "" };
        let prelude = if wider == "timestamptz" { "SET TimeZone = 'UTC'; " } else { "" };
        notes.push(format!(
            "table {table}: column {name:?} is {shown}: {meaning}{zone}; for more: {prelude}ALTER TABLE {table} \
             ALTER COLUMN {} TYPE {wider}",
            quoted(&name)
        ));
    }
    Ok(notes)
}

fn missing_indexes(client: &mut Client, table: &Table, wanted: &[&[&str]]) -> Result<Vec<String>, postgres::Error> {
    const SQL: &str = "SELECT c.relkind = 'p', array(SELECT \
           array_to_string(array(SELECT a.attname FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place) \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number ORDER BY k.place), ',') \
           FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let Some(row) = client.query_opt(SQL, &[&table.schema, &table.bare])? else { return Ok(Vec::new()) };
    let (is_partitioned, found): (bool, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    let (how, price) = match is_partitioned {
        true => ("", ", which keeps writers waiting"),
        false => (" CONCURRENTLY", ""),
    };
    let is_there = |columns: &[&str]| {
        let wanted = columns.join(",");
        found.iter().any(|index| *index == wanted || index.starts_with(&format!("{wanted},")))
    };
    let missing = wanted.iter().filter(|columns| !is_there(columns));
    let notes = missing.map(|columns| {
        let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let columns = columns.join(", ");
        format!(
            "table {table} has no index on ({columns}), which a run doesn't need and readers may; it is left to you: \
             CREATE INDEX{how} ON {table} ({columns}){price}"
        )
    });
    Ok(notes.collect())
}

fn partitions(client: &mut Client, table: &Table) -> Result<Option<String>, postgres::Error> {
    const SQL: &str = "SELECT p.partdefid <> 0 FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let Some(row) = client.query_opt(SQL, &[&table.schema, &table.bare])? else { return Ok(None) };
    Ok((!row.try_get::<_, bool>(0)?).then(|| {
        format!(
            "table {table} is partitioned, without a partition for everything (DEFAULT): a row outside of its partitions \
             makes the worker wait for schema.grace_ms and then end with 78, and is never lost"
        )
    }))
}

fn triggers(client: &mut Client, table: &Table) -> Result<Option<String>, postgres::Error> {
    const SQL: &str = "SELECT t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 1";
    let rows = client.query(SQL, &[&table.schema, &table.bare])?;
    let names: Vec<String> = rows.iter().map(|row| row.try_get::<_, &str>(0).map(quoted)).collect::<Result<_, _>>()?;
    Ok((!names.is_empty()).then(|| {
        format!(
            "table {table} has triggers: {}; a row that one refuses becomes a dead letter, one that drops rows ends the \
             worker with 78",
            names.join(", ")
        )
    }))
}

/// Integer columns of a table that PostgreSQL fills from a sequence.
fn ids(client: &mut Client, table: &Table) -> Result<Vec<Capacity>, postgres::Error> {
    const SQL: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
           least(s.seqmax, CASE t.typname WHEN 'int2' THEN 32767 ELSE 2147483647 END), s.seqincrement, \
           CASE WHEN has_sequence_privilege(s.seqrelid, 'USAGE') OR has_sequence_privilege(s.seqrelid, 'SELECT') \
             THEN coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart - s.seqincrement) END, \
           has_column_privilege(c.oid, a.attnum, 'SELECT') AND EXISTS (SELECT FROM pg_index i \
             WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND (i.indkey::int2[])[0] = a.attnum), \
           (SELECT CASE f.attname WHEN 'created_at' THEN 'extract(epoch FROM created_at)::float8' \
               ELSE 'fetch_timestamp::float8' END FROM pg_attribute f JOIN pg_type g ON g.oid = f.atttypid \
             WHERE f.attrelid = c.oid AND has_column_privilege(c.oid, f.attnum, 'SELECT') \
               AND (f.attname = 'created_at' AND g.typname IN ('timestamp', 'timestamptz') \
                 OR f.attname = 'fetch_timestamp' AND g.typname IN ('int4', 'int8')) ORDER BY f.attname LIMIT 1) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
         CROSS JOIN LATERAL ( \
           SELECT d.refobjid AS sequence FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass \
               AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass \
             WHERE f.adrelid = c.oid AND f.adnum = a.attnum \
           UNION SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'i' \
               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum) q \
         JOIN pg_sequence s ON s.seqrelid = q.sequence \
         WHERE n.nspname = $1 AND c.relname = $2 AND t.typname IN ('int2', 'int4') AND s.seqincrement > 0 \
         ORDER BY a.attnum";
    let mut capacities = Vec::new();
    for row in client.query(SQL, &[&table.schema, &table.bare])? {
        let (column, shown): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (most, increment, last): (i64, i64, Option<i64>) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        // Who may not ask the sequence can't draw from it either, which is a finding.
        let Some(last) = last else { continue };
        let time: Option<String> = row.try_get(6)?;
        let pace = match time {
            Some(time) if row.try_get::<_, bool>(5)? => pace(client, table, &column, &time, increment)?,
            _ => None,
        };
        let ids = (most / increment).max(0) as u64;
        let ids_left = (most.saturating_sub(last) / increment).max(0) as u64;
        let column_sql = quoted(&column);
        let name = format!("{}.{}", table.schema, table.bare);
        capacities.push(Capacity { name, table: table.sql.clone(), column, column_sql, shown, ids, ids_left, pace });
    }
    Ok(capacities)
}

/// How many ids lie between the newest row and that of a day before it. Rows are in order of time by their ids, roughly;
/// so the one of a day before is found by some twenty looks into the index.
fn pace(
    client: &mut Client,
    table: &Table,
    column: &str,
    time: &str,
    increment: i64,
) -> Result<Option<Pace>, postgres::Error> {
    let column = quoted(column);
    let newest = format!("SELECT {column}::bigint, {time} FROM {table} ORDER BY {column} DESC LIMIT 1");
    let from =
        format!("SELECT {column}::bigint, {time} FROM {table} WHERE {column} >= $1::bigint ORDER BY {column} LIMIT 1");
    let Some(row) = client.query_opt(&newest, &[])? else { return Ok(None) };
    let (newest, Some(end)): (i64, Option<f64>) = (row.try_get(0)?, row.try_get(1)?) else { return Ok(None) };
    let (mut low, mut high, mut begin) = (0, newest, end);
    let mut first = newest;
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(row) = client.query_opt(&from, &[&middle])? else { return Ok(None) };
        let (id, at): (i64, Option<f64>) = (row.try_get(0)?, row.try_get(1)?);
        match at {
            Some(at) if at >= end - PACE_SECONDS => {
                (first, begin) = if id < first { (id, at) } else { (first, begin) };
                high = middle;
            }
            _ => low = middle + 1,
        }
    }
    let seconds = end - begin;
    Ok((seconds > 0.0).then(|| Pace { ids: ((newest - first) / increment) as u64, seconds }))
}

/// How many rows stand for a window that a newer row stands for as well.
pub(super) fn repeated_windows(client: &mut impl GenericClient, table: &Table) -> Result<i64, postgres::Error> {
    // NULL is never equal to NULL in a unique key.
    let sql = format!(
        "SELECT coalesce(sum(n - 1), 0)::bigint FROM (SELECT count(*) AS n FROM {table} WHERE {IS_WHOLE} \
         GROUP BY {WINDOW} HAVING count(*) > 1) AS repeated"
    );
    client.query_one(&sql, &[])?.try_get(0)
}

const IS_WHOLE: &str = "symbol IS NOT NULL AND window_start IS NOT NULL AND window_end IS NOT NULL";

/// How to keep the newest row of each window, and of which rows that can't be told. Never deletes by a guess: a number
/// that a sequence draws and the time of an insertion have an order, an id of another type has none.
pub(super) fn clean_windows(client: &mut Client, table: &Table) -> Result<String, postgres::Error> {
    const SQL: &str = "SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid \
         WHERE n.nspname = $1 AND c.relname = $2 AND NOT a.attisdropped \
           AND (a.attname = 'id' AND t.typname IN ('int2', 'int4', 'int8') \
             OR a.attname = 'created_at' AND t.typname IN ('timestamp', 'timestamptz')) \
         ORDER BY a.attname DESC LIMIT 1";
    let Some(row) = client.query_opt(SQL, &[&table.schema, &table.bare])? else {
        return Ok(format!(
            "no column of it tells which row of a window is the newest (that would be an integer id, or a timestamp \
             created_at), so keep one row of each ({WINDOW}) by your own decision"
        ));
    };
    let age: &str = row.try_get(0)?;
    // Rows that were made at the same time have the same rank.
    let (number, rest) = match age {
        "id" => ("row_number", ""),
        _ => ("rank", "; of rows made at the same time all are kept, keep one by your own decision"),
    };
    let age = quoted(age);
    Ok(format!(
        "keep the newest row of each window: DELETE FROM {table} WHERE (tableoid, ctid) IN (SELECT tableoid, ctid FROM \
         (SELECT tableoid, ctid, {number}() OVER (PARTITION BY {WINDOW} ORDER BY {age} DESC NULLS LAST) AS n FROM {table} \
         WHERE {IS_WHOLE}) AS r WHERE n > 1){rest}"
    ))
}
