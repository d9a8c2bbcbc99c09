//! Whether the tables are such that a `run` works: reads catalogs, changes nothing.
//!
//! Everything that is wrong is found at once. What the operator may decide otherwise is left alone: further
//! columns with a default, further indexes, constraints, triggers. They make dead letters of rows, they don't lose any.

use super::Database;
use super::adopting::{COUNT_MAX, WINDOW, clean_windows, repeated_windows};
use super::names::{Names, Table, quoted};
use super::schema::{SCHEMA_VERSION, newer, version};
use super::session::Session;
use crate::config::{Config, OnGap};
use crate::exit::ExitCode;
use crate::fault::Failure;
use postgres::Client;
use std::time::Duration;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The exit code of a `run` that meets it.
    pub code: ExitCode,
    /// Cause, place and what to do, on one line.
    pub message: String,
    /// Whether `init` makes what is missing.
    pub is_absence: bool,
}

impl Finding {
    fn config(message: String) -> Self {
        Finding { code: ExitCode::Config, message, is_absence: false }
    }
}

/// What we need of one table.
pub(super) struct Needed<'a> {
    pub(super) table: &'a Table,
    // Name and type, as in schema.sql.
    columns: &'static [(&'static str, &'static str)],
    // Whether the worker writes into it at all.
    is_written: bool,
    // Whether somebody else may have made it, with columns that hold less.
    is_adoptable: bool,
    pub(super) privileges: &'static [&'static str],
}

/// What the configuration wants beyond the ordinary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uses {
    /// Dead letters are handed on.
    pub(super) relays: bool,
    /// What Kafka has deleted is passed over.
    pub(super) records_gaps: bool,
}

impl Uses {
    /// What this configuration wants.
    pub(super) fn of(config: &Config) -> Self {
        Uses { relays: config.dead_letters.topic.is_some(), records_gaps: config.kafka.on_gap == OnGap::Record }
    }
}

/// Columns that tables of before have not, and that `init` adds.
const ADDED_BY_INIT: &[&str] = &["relayed_at"];

const DEAD_LETTERS: &[(&str, &str)] = &[
    ("pipeline", "text"),
    ("topic", "text"),
    ("partition", "int4"),
    ("record_offset", "int8"),
    ("element", "int4"),
    ("key", "bytea"),
    ("payload", "bytea"),
    ("payload_bytes", "int8"),
    ("payload_sha256", "bytea"),
    ("reason_class", "text"),
    ("reason_code", "text"),
    ("reason", "text"),
    ("record_timestamp_ms", "int8"),
    ("record_elements", "int4"),
    ("redriven_at", "timestamptz"),
    ("discarded_at", "timestamptz"),
    // The last: only the relay needs it.
    ("relayed_at", "timestamptz"),
];

pub(super) fn needed(names: &Names, uses: Uses) -> [Needed<'_>; 6] {
    let (letters_columns, letters_privileges): (_, &[&str]) = match uses.relays {
        true => (DEAD_LETTERS, &["SELECT", "INSERT", "UPDATE"]),
        false => (&DEAD_LETTERS[..DEAD_LETTERS.len() - 1], &["INSERT"]),
    };
    let written =
        |table, columns, privileges| Needed { table, columns, is_written: true, is_adoptable: false, privileges };
    let rows = |table, columns, privileges| Needed { is_adoptable: true, ..written(table, columns, privileges) };
    [
        rows(
            &names.prices,
            &[
                ("symbol", "text"),
                ("price", "numeric"),
                ("volume", "numeric"),
                ("timestamp", "timestamptz"),
                ("fetch_timestamp", "int8"),
            ],
            &["INSERT"],
        ),
        rows(
            &names.metrics,
            &[
                ("symbol", "text"),
                ("window_start", "timestamptz"),
                ("window_end", "timestamptz"),
                ("avg_price", "numeric"),
                ("max_price", "numeric"),
                ("min_price", "numeric"),
                ("avg_volume", "numeric"),
            ],
            &["SELECT", "INSERT", "UPDATE"],
        ),
        written(
            &names.offsets,
            &[
                ("pipeline", "text"),
                ("topic", "text"),
                ("partition", "int4"),
                ("next_offset", "int8"),
                ("epoch", "int8"),
                ("cluster_id", "text"),
                ("topic_id", "uuid"),
                ("records_rows", "int8"),
                ("records_dead", "int8"),
                ("records_skipped", "int8"),
                ("records_total", "int8"),
                ("rows_total", "int8"),
                ("dead_letters_total", "int8"),
                ("owner", "text"),
                ("claimed_at", "timestamptz"),
                ("updated_at", "timestamptz"),
            ],
            &["SELECT", "INSERT", "UPDATE"],
        ),
        written(&names.dead_letters, letters_columns, letters_privileges),
        written(
            &names.gaps,
            &[
                ("pipeline", "text"),
                ("topic", "text"),
                ("partition", "int4"),
                ("from_offset", "int8"),
                ("to_offset", "int8"),
                ("reason", "text"),
                ("decided_by", "text"),
                ("at", "timestamptz"),
            ],
            if uses.records_gaps { &["SELECT", "INSERT", "UPDATE"] } else { &[] },
        ),
        Needed {
            table: &names.meta,
            columns: &[("schema_version", "int4")],
            is_written: false,
            is_adoptable: false,
            privileges: &["SELECT"],
        },
    ]
}

/// A table as the catalogs have it.
struct Found {
    oid: u32,
    kind: String,
    is_logged: bool,
    is_guarded: bool,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    // Without its modifier; that of a domain is the type beneath.
    base: String,
    shown: String,
    modifier: i32,
    is_required: bool,
    is_generated: bool,
}

impl Database {
    /// Looks for everything that would keep a `run` from working.
    pub fn validate(&self) -> Result<Vec<Finding>, Failure> {
        let mut session = self.session()?;
        Look { session: &mut session, call_max: self.call_max() }.at(&self.shared.names, self.shared.uses)
    }
}

struct Look<'a> {
    session: &'a mut Session,
    call_max: Duration,
}

impl Look<'_> {
    fn ask<T>(&mut self, call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Result<T, Failure> {
        self.session.call("checking the tables", self.call_max, call)
    }

    fn at(&mut self, names: &Names, uses: Uses) -> Result<Vec<Finding>, Failure> {
        let mut findings = Vec::new();
        self.database(&mut findings)?;
        for needed in needed(names, uses) {
            let table = needed.table;
            let Some(found) = self.ask(|client| find(client, table))? else {
                let message = format!("table {table} does not exist; run `stock-db-writer init`");
                findings.push(Finding { code: ExitCode::Config, message, is_absence: true });
                continue;
            };
            let n_before = findings.len();
            shape(&needed, &found, &mut findings);
            // A table without these columns has no windows; of other types they may not even be comparable.
            let has_windows = windows_fit(&needed, &found);
            self.privileges(&needed, &found, &mut findings)?;
            if std::ptr::eq(table, &names.metrics)
                && matches!(found.kind.as_str(), "r" | "p")
                && !self.ask(|client| has_upsert_index(client, table))?
            {
                findings.push(self.no_upsert_index(table, found.kind == "p", has_windows)?);
            }
            // Only a table that is as it should be can be asked.
            if std::ptr::eq(table, &names.meta) && findings.len() == n_before {
                self.version(names, &mut findings)?;
            }
        }
        Ok(findings)
    }

    /// What to do about windows that nothing keeps apart.
    fn no_upsert_index(&mut self, table: &Table, is_partitioned: bool, has_windows: bool) -> Result<Finding, Failure> {
        let what = format!("table {table} has no unique index on ({WINDOW}) over all rows");
        let how = if is_partitioned { "" } else { " CONCURRENTLY" };
        let create = format!("CREATE UNIQUE INDEX{how} ON {table} ({WINDOW})");
        let may_read = has_windows && {
            const SQL: &str = "SELECT has_table_privilege($1::text::regclass, 'SELECT')";
            self.ask(|client| client.query_one(SQL, &[&table.sql])?.try_get(0))?
        };
        let n_repeated = if may_read { self.repeated_windows(table)? } else { 0 };
        if n_repeated > 0 {
            let clean = self.ask(|client| clean_windows(client, table))?;
            return Ok(Finding::config(format!(
                "{what}, and {n_repeated} of its rows are for a window that has another row; stop whoever else writes to it; \
                 {clean}; then run `stock-db-writer init`"
            )));
        }
        match is_partitioned {
            true => Ok(Finding::config(format!("{what}; run, while nobody writes: {create}"))),
            false => {
                let message = format!("{what}; run `stock-db-writer init`, or: {create}");
                Ok(Finding { is_absence: has_windows, ..Finding::config(message) })
            }
        }
    }

    /// Counts rows of a large table without an index, perhaps.
    fn repeated_windows(&mut self, table: &Table) -> Result<i64, Failure> {
        self.session.call("counting repeated windows", COUNT_MAX, |client| {
            // Its end is the end of the setting, too, whatever comes of the question.
            let mut transaction = client.build_transaction().read_only(true).start()?;
            transaction.batch_execute("SET LOCAL statement_timeout = 0")?;
            let n_repeated = repeated_windows(&mut transaction, table)?;
            transaction.rollback()?;
            Ok(n_repeated)
        })
    }

    fn database(&mut self, findings: &mut Vec<Finding>) -> Result<(), Failure> {
        let (encoding, has_temporary): (String, bool) = self.ask(|client| {
            let row = client.query_one(
                "SELECT current_setting('server_encoding'), has_database_privilege(current_database(), 'TEMPORARY')",
                &[],
            )?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        })?;
        if encoding != "UTF8" {
            findings.push(Finding::config(format!(
                "the database's encoding is {encoding}, which can't hold every symbol; use one with UTF8"
            )));
        }
        if !has_temporary {
            findings.push(Finding {
                code: ExitCode::Permission,
                message: "no right to temporary tables in this database; GRANT TEMPORARY ON DATABASE".to_owned(),
                is_absence: false,
            });
        }
        Ok(())
    }

    fn version(&mut self, names: &Names, findings: &mut Vec<Finding>) -> Result<(), Failure> {
        match self.ask(|client| version(client, names))? {
            Some(found) if found == SCHEMA_VERSION => {}
            Some(found) => findings.push(match newer(found) {
                Some(stop) => Finding { code: stop.code, message: stop.message, is_absence: false },
                None => Finding::config(format!(
                    "the database has schema version {found}, this program needs {SCHEMA_VERSION}; \
                     run `stock-db-writer init`"
                )),
            }),
            None => findings.push(Finding::config(format!(
                "table {} holds no schema version; run `stock-db-writer init`",
                names.meta
            ))),
        }
        Ok(())
    }

    fn privileges(&mut self, needed: &Needed<'_>, found: &Found, findings: &mut Vec<Finding>) -> Result<(), Failure> {
        const SQL: &str = "SELECT has_schema_privilege(n.oid, 'USAGE'), \
               array(SELECT p FROM unnest($2::text[]) p WHERE NOT has_table_privilege(c.oid, p)), \
               array(SELECT d.refobjid::regclass::text FROM pg_attrdef a \
                 JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid \
                   AND d.refclassid = 'pg_class'::regclass \
                 JOIN pg_class s ON s.oid = d.refobjid \
                 WHERE a.adrelid = c.oid \
                   AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END) \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
        let (oid, asked) = (found.oid, needed.privileges);
        let (has_schema, missing, sequences): (bool, Vec<String>, Vec<String>) = self.ask(|client| {
            let row = client.query_one(SQL, &[&oid, &asked])?;
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
        })?;
        let table = needed.table;
        let mut lack = |what: String| {
            let message = format!("no right to use table {table}; GRANT {what}");
            findings.push(Finding { code: ExitCode::Permission, message, is_absence: false });
        };
        if !has_schema {
            lack(format!("USAGE ON SCHEMA {}", quoted(&table.schema)));
        }
        if !missing.is_empty() {
            lack(format!("{} ON {table}", missing.join(", ")));
        }
        for sequence in sequences {
            lack(format!("USAGE ON SEQUENCE {sequence}"));
        }
        Ok(())
    }
}

fn find(client: &mut Client, table: &Table) -> Result<Option<Found>, postgres::Error> {
    const TABLE: &str = "SELECT c.oid, c.relkind::text, c.relpersistence = 'p' AND NOT EXISTS ( \
             SELECT 1 FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid \
             WHERE p.relpersistence <> 'p'), \
           row_security_active(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    // The type of a domain is the one beneath; one level is enough for whoever makes domains for prices.
    const COLUMNS: &str = "SELECT a.attname::text, coalesce(b.typname, t.typname)::text, \
           format_type(a.atttypid, a.atttypmod), CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, \
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated <> '' \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let Some(row) = client.query_opt(TABLE, &[&table.schema, &table.bare])? else { return Ok(None) };
    let oid: u32 = row.try_get(0)?;
    let columns = client.query(COLUMNS, &[&oid])?;
    let columns = columns.iter().map(|row| {
        Ok(Column {
            name: row.try_get(0)?,
            base: row.try_get(1)?,
            shown: row.try_get(2)?,
            modifier: row.try_get(3)?,
            is_required: row.try_get(4)?,
            is_generated: row.try_get(5)?,
        })
    });
    Ok(Some(Found {
        oid,
        kind: row.try_get(1)?,
        is_logged: row.try_get(2)?,
        is_guarded: row.try_get(3)?,
        columns: columns.collect::<Result<_, postgres::Error>>()?,
    }))
}

/// Whether a column holds what is written into it, one that is narrower in part.
fn is_kin(column: &Column, expected: &str) -> bool {
    column.base == expected
        || matches!((expected, column.base.as_str()), ("text", "varchar") | ("timestamptz", "timestamp"))
}

/// Whether the columns are there that tell windows apart, so that PostgreSQL can.
fn windows_fit(needed: &Needed<'_>, found: &Found) -> bool {
    let fits = |(name, expected): &(&str, &str)| {
        found.columns.iter().any(|column| column.name == *name && is_kin(column, expected))
    };
    let tells_windows = |(name, _): &&(&str, &str)| WINDOW.split(", ").any(|column| column == *name);
    needed.columns.iter().filter(tells_windows).all(fits)
}

/// Kind, durability and columns.
fn shape(needed: &Needed<'_>, found: &Found, findings: &mut Vec<Finding>) {
    let table = needed.table;
    if !matches!(found.kind.as_str(), "r" | "p") {
        let what = match found.kind.as_str() {
            "v" => "a view",
            "m" => "a materialized view",
            "f" => "a foreign table",
            _ => "no table",
        };
        findings.push(Finding::config(format!(
            "{table} is {what}; rows go into a table or a partitioned table only, so name the one behind it in \
             [database.tables]"
        )));
        return;
    }
    if !found.is_logged {
        findings.push(Finding::config(format!(
            "table {table} is UNLOGGED, so a crash empties it; run ALTER TABLE {table} SET LOGGED"
        )));
    }
    if found.is_guarded && needed.is_written {
        findings.push(Finding::config(format!(
            "table {table} has row security for this role, and COPY does not work with it; use a role with BYPASSRLS"
        )));
    }
    for (name, expected) in needed.columns {
        let Some(column) = found.columns.iter().find(|column| column.name == *name) else {
            let is_absence = ADDED_BY_INIT.contains(name);
            let remedy = if is_absence { "run `stock-db-writer init`, or " } else { "" };
            let message = format!(
                "table {table} has no column {name:?}; {remedy}ALTER TABLE {table} ADD COLUMN {} {expected}",
                quoted(name)
            );
            findings.push(Finding { code: ExitCode::Config, message, is_absence });
            continue;
        };
        if column.is_generated && needed.is_adoptable {
            findings.push(Finding::config(format!(
                "table {table}: column {name:?} is generated, so that nothing can be written into it; make it a plain column"
            )));
            continue;
        }
        // What is narrower is kept in mind row by row, but in the bookkeeping tables everything must fit.
        let is_text = *expected == "text" && column.base == "varchar";
        let is_wide = (column.base == *expected || is_text) && column.modifier < 0;
        let is_fine = is_wide || (is_kin(column, expected) && needed.is_adoptable);
        if !is_fine {
            let zone = if *expected == "timestamptz" { " (first: SET TimeZone to that of its times)" } else { "" };
            findings.push(Finding::config(format!(
                "table {table}: column {name:?} is {}; ALTER TABLE {table} ALTER COLUMN {} TYPE {expected}{zone}",
                column.shown,
                quoted(name)
            )));
        }
    }
    let known = |name: &str| needed.columns.iter().any(|(column, _)| *column == name);
    for column in found.columns.iter().filter(|column| column.is_required && needed.is_written && !known(&column.name))
    {
        findings.push(Finding::config(format!(
            "table {table}: column {:?} is NOT NULL and has no default, so that no row can be written; give it one",
            column.name
        )));
    }
}

/// Whether ON CONFLICT (symbol, window_start, window_end) finds an index: unique, at once, valid, over all rows.
pub(super) fn has_upsert_index(client: &mut Client, table: &Table) -> Result<bool, postgres::Error> {
    const SQL: &str = "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indimmediate AND i.indisvalid \
           AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 3 \
           AND array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid \
             AND a.attnum = ANY((i.indkey::int2[])[0:2]) ORDER BY 1) = '{symbol,window_end,window_start}'::text[]";
    Ok(!client.query(SQL, &[&table.schema, &table.bare])?.is_empty())
}
