//! The columns of the two tables of rows, as they are at the moment: whether they are those of schema.sql, and else what
//! they can't hold.
//!
//! Asked anew in every transaction that writes rows, under the lock that writing takes anyway, so that a column that is
//! made narrower beside a running worker rounds nothing. It goes with BEGIN in one message, and for columns as in
//! schema.sql the answer is empty.

use super::failure::plain;
use super::names::{Names, Table};
use super::session::Session;
use crate::fault::{Failure, Fault};
use crate::fit::{Fit, Limit, Narrow};
use postgres::{Client, SimpleQueryMessage};
use std::sync::Arc;
use std::time::Duration;

/// What is written to the prices table.
pub(super) const PRICES: &[&str] = &["symbol", "price", "volume", "timestamp", "fetch_timestamp"];
/// What is written to the metrics table.
pub(super) const METRICS: &[&str] =
    &["symbol", "window_start", "window_end", "avg_price", "max_price", "min_price", "avg_volume"];

/// Those columns of a table that are not as in schema.sql, by name, type and modifier. The same text, the same columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fingerprint(pub(super) Vec<String>);

/// Locks a table against changes of its columns, as a COPY into it does, and asks for its fingerprint.
pub(super) fn lock_and_look(table: &Table, columns: &[&str]) -> String {
    // Only the table itself: its columns can't be changed in its partitions alone.
    format!("LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE; {}", look(table, columns))
}

/// Asks for a table's fingerprint. One scan of an index: no joins, whose planning would cost more than they do.
pub(super) fn look(table: &Table, columns: &[&str]) -> String {
    // text, numeric, timestamptz and int8 have had these numbers for ever.
    format!(
        "SELECT attname || ' ' || atttypid || ' ' || atttypmod FROM pg_attribute WHERE attrelid = {}::regclass \
         AND attname IN ('{}') AND NOT (atttypmod < 0 AND atttypid IN (25, 1700, 1184, 20)) ORDER BY attnum",
        literal(&table.sql),
        columns.join("', '")
    )
}

/// The fingerprints in the answer to such statements: so many, one for each SELECT, in their order. What is no such answer
/// is not taken for one about columns as in schema.sql.
pub(super) fn fingerprints(answer: &[SimpleQueryMessage], n: usize) -> Result<Vec<Fingerprint>, Failure> {
    let mut fingerprints = Vec::new();
    let mut rows = None;
    for message in answer {
        match message {
            SimpleQueryMessage::RowDescription(_) => rows = Some(Vec::new()),
            SimpleQueryMessage::Row(row) => {
                rows.get_or_insert_default().extend(row.get(0).map(str::to_owned));
            }
            SimpleQueryMessage::CommandComplete(_) => fingerprints.extend(rows.take().map(Fingerprint)),
            _ => {}
        }
    }
    match fingerprints.len() == n {
        true => Ok(fingerprints),
        false => Err(plain(Fault::Connection, "looking at the columns: the server's answer is to something else")),
    }
}

/// A column as it is.
struct Column {
    name: String,
    // Without its modifier; that of a domain is the type beneath.
    base: String,
    shown: String,
    modifier: i32,
}

/// The type beneath a domain, with its modifier. One level is enough for whoever makes domains for prices.
pub(super) const TYPE: &str = "coalesce(b.typname, t.typname)::text, format_type(a.atttypid, a.atttypmod), \
     CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END";
/// Where that comes from.
pub(super) const TYPE_FROM: &str = "pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
     LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype";

/// What a column as it is can't hold. `Err`: it can't be written at all, because the binary form is another one.
pub(super) fn limit(base: &str, modifier: i32) -> Result<Option<Limit>, ()> {
    match base {
        "varchar" if modifier >= 4 => Ok(Some(Limit::Characters((modifier - 4) as u32))),
        "numeric" if modifier >= 4 => {
            let (precision, scale) = (((modifier - 4) >> 16) & 0xffff, (modifier - 4) & 0x7ff);
            // Eleven bits with a sign; before PostgreSQL 15 there was none, and at most 1000.
            Ok(Some(Limit::Digits { precision, scale: (scale ^ 1024) - 1024 }))
        }
        // The same eight bytes: microseconds, which without a zone are those of UTC here.
        "timestamp" | "timestamptz" if (0..6).contains(&modifier) => Ok(Some(Limit::SecondDecimals(modifier as u8))),
        "text" | "varchar" | "numeric" | "timestamp" | "timestamptz" | "int8" => Ok(None),
        _ => Err(()),
    }
}

/// One of the two tables of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Prices,
    Metrics,
}

impl Target {
    /// Its table, what is written to it, and whether its columns may round.
    fn of(self, names: &Names) -> (&Table, &'static [&'static str], bool) {
        match self {
            Target::Prices => (&names.prices, PRICES, names.prices_round),
            Target::Metrics => (&names.metrics, METRICS, names.metrics_round),
        }
    }
}

/// What is known of one table's columns on one connection.
#[derive(Debug, Default)]
pub(super) struct Known {
    // `None`: nothing is known.
    fingerprint: Option<Fingerprint>,
    fit: Option<Arc<Fit>>,
}

/// What the columns of a table can't hold, which have this fingerprint now; asks only if it is another one than the last
/// time.
pub(super) fn fit(
    session: &mut Session,
    call_max: Duration,
    names: &Names,
    target: Target,
    now: Fingerprint,
) -> Result<Option<Arc<Fit>>, Failure> {
    if now.0.is_empty() {
        return Ok(None);
    }
    let known = match target {
        Target::Prices => &session.prices,
        Target::Metrics => &session.metrics,
    };
    if known.fingerprint.as_ref() == Some(&now) {
        return Ok(known.fit.clone());
    }
    let (table, written, rounds) = target.of(names);
    let columns = session.call("looking at the columns", call_max, |client| narrow_or_wrong(client, table, written))?;
    let narrow = columns.into_iter().map(|(column, limit)| match limit {
        Ok(limit) => Ok(limit.map(|limit| Narrow { column: column.name, shown: column.shown, limit })),
        Err(()) => {
            let Column { name, shown, .. } = column;
            let what = format!("table {table}: column {name:?} has become {shown}; change its type as in schema.sql");
            Err(plain(Fault::Schema, what))
        }
    });
    let narrow: Vec<Narrow> = narrow.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let fit = Fit::new(&table.plain(), rounds, narrow).map(Arc::new);
    let known = Known { fingerprint: Some(now), fit: fit.clone() };
    match target {
        Target::Prices => session.prices = known,
        Target::Metrics => session.metrics = known,
    }
    Ok(fit)
}

/// The columns that rows are written to, each with what it can't hold; `Err`: it can't be written at all.
type Limits = Vec<(Column, Result<Option<Limit>, ()>)>;

fn narrow_or_wrong(client: &mut Client, table: &Table, written: &[&str]) -> Result<Limits, postgres::Error> {
    let sql = format!(
        "SELECT a.attname::text, {TYPE} FROM {TYPE_FROM} \
         WHERE a.attrelid = $1::text::regclass AND a.attname::text = ANY($2::text[]) ORDER BY a.attnum"
    );
    let rows = client.query(&sql, &[&table.sql, &written])?;
    let columns = rows.iter().map(|row| {
        let column =
            Column { name: row.try_get(0)?, base: row.try_get(1)?, shown: row.try_get(2)?, modifier: row.try_get(3)? };
        let limit = limit(&column.base, column.modifier);
        Ok((column, limit))
    });
    columns.collect()
}

/// A text as a statement needs it.
pub(super) fn literal(text: &str) -> String {
    // The second form is needed for a backslash only where standard_conforming_strings is off, and right everywhere.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_read_as_postgresql_packs_them() {
        let numeric = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        for (precision, scale) in [(10, 2), (20, 2), (1000, 1000), (2, -3), (2, 4), (1000, -1000)] {
            let limit = limit("numeric", numeric(precision, scale));
            assert_eq!(limit, Ok(Some(Limit::Digits { precision, scale })));
        }
        assert_eq!(limit("varchar", 14), Ok(Some(Limit::Characters(10))));
        assert_eq!(limit("timestamp", 3), Ok(Some(Limit::SecondDecimals(3))));
        assert_eq!(limit("timestamptz", 6), Ok(None));
        assert_eq!(limit("float8", -1), Err(()));
    }

    #[test]
    fn a_quote_or_a_backslash_in_a_name_stays_in_it() {
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
    }
}
