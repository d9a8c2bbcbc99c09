//! The tables: schema.sql with the configured names, and making what is missing of it.
//!
//! schema.sql is a script that can be run again and again; here only those of its statements are run whose object is
//! missing, so that a role without CREATE can start a pipeline whose tables are all there. Secondary indexes are made
//! together with their table, or with the column that they are about: on a table that is there already, the others are the
//! operator's decision, and making one can take hours. The unique index that ON CONFLICT needs is made in any case; on a
//! table that is there already, beside whoever reads and writes it.

use super::Database;
use super::adopting::{WINDOW, repeated_windows};
use super::failure::plain;
use super::ledger::lock_key;
use super::names::{Names, Table, quoted};
use super::pool::Held;
use super::validate::has_upsert_index;
use crate::config;
use crate::exit::{ExitCode, Stop};
use crate::fault::{Failure, Fault};
use postgres::Client;
use std::fmt;
use std::time::Duration;

/// The version of schema.sql that this program knows.
pub const SCHEMA_VERSION: i32 = 1;

const SCRIPT: &str = include_str!("../../schema.sql");
/// The index that the upsert of metrics infers.
const UPSERT_INDEX: &str = "stock_metrics_symbol_window_key";
/// How long the making of one object may take; an index on a large table takes a while.
const CREATE_MAX: Duration = Duration::from_secs(3600);

/// What [`Database::init`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOutcome {
    /// What was made, for a person; empty if everything was there.
    pub made: Vec<String>,
}

/// Why [`Database::init`] failed.
#[derive(Debug)]
pub enum InitFailure {
    /// The database did.
    Database(Failure),
    /// The tables are not ours to change.
    Stop(Stop),
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitFailure::Database(failure) => failure.fmt(f),
            InitFailure::Stop(stop) => stop.fmt(f),
        }
    }
}

impl From<Failure> for InitFailure {
    fn from(failure: Failure) -> Self {
        InitFailure::Database(failure)
    }
}

/// The script with the configured names, to be read or run with psql.
pub fn sql(config: &config::Database) -> String {
    let names = Names::new(config);
    let mut script = String::new();
    for schema in schemas(&names) {
        script.push_str(&create_schema(schema));
        script.push_str(";\n\n");
    }
    script.push_str(&named(SCRIPT, &names));
    script
}

/// The schemas that a fresh database doesn't have.
fn schemas(names: &Names) -> Vec<&str> {
    let mut schemas: Vec<&str> =
        names.all().iter().map(|table| &*table.schema).filter(|name| *name != "public").collect();
    schemas.sort_unstable();
    schemas.dedup();
    schemas
}

fn create_schema(schema: &str) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema))
}

/// Puts the configured names in the place of the script's own.
fn named(script: &str, names: &Names) -> String {
    let mut out = String::with_capacity(script.len() * 2);
    let mut rest = script;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |length| start + length);
        out.push_str(&rest[..start]);
        out.push_str(&name_of(&rest[start..end], names).unwrap_or_else(|| rest[start..end].to_owned()));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

fn name_of(word: &str, names: &Names) -> Option<String> {
    if let Some(table) = word.strip_prefix("public.") {
        return table_of(table, names).map(|table| table.sql.clone());
    }
    let is_index = word.ends_with("_idx") || word.ends_with("_key");
    let (table, suffix) = match is_index {
        true => [
            ("stock_prices", &names.prices),
            ("stock_metrics", &names.metrics),
            ("writer_dead_letters", &names.dead_letters),
        ]
        .into_iter()
        .find_map(|(default, table)| Some((table, word.strip_prefix(default)?)))?,
        false => return None,
    };
    // PostgreSQL cuts what is longer, and would cut the part that tells one index from another.
    let mut kept = table.bare.as_str();
    while kept.len() + suffix.len() > 63 {
        kept = &kept[..kept.floor_char_boundary(kept.len() - 1)];
    }
    Some(quoted(&format!("{kept}{suffix}")))
}

fn table_of<'a>(default: &str, names: &'a Names) -> Option<&'a Table> {
    let tables = [
        ("stock_prices", &names.prices),
        ("stock_metrics", &names.metrics),
        ("writer_offsets", &names.offsets),
        ("writer_dead_letters", &names.dead_letters),
        ("writer_gaps", &names.gaps),
        ("writer_meta", &names.meta),
    ];
    tables.into_iter().find(|(name, _)| *name == default).map(|(_, table)| table)
}

/// One statement of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement<'a> {
    /// Makes this table.
    Table(&'a str),
    /// Adds this column to this table.
    Column(&'a str, &'a str),
    /// Makes this index on this table.
    Index(&'a str, &'a str),
    /// Notes the version.
    Version,
}

/// A table's name in the script.
fn own(word: &str) -> Option<&str> {
    word.strip_prefix("public.")
}

/// The script's statements, without comments before them, with what they make.
fn statements(script: &str) -> Vec<(Statement<'_>, &str)> {
    let mut found = Vec::new();
    for text in script.split(";\n") {
        let start =
            text.lines().take_while(|line| line.is_empty() || line.starts_with("--")).map(|line| line.len() + 1).sum();
        let text = text.get(start..).unwrap_or_default();
        let mut words = text.split_whitespace();
        let statement = if text.starts_with("CREATE TABLE") {
            words.nth(5).and_then(own).map(Statement::Table)
        } else if text.starts_with("ALTER TABLE") {
            let table = words.nth(2).and_then(own);
            table.and_then(|table| Some(Statement::Column(words.nth(5)?, table)))
        } else if text.starts_with("CREATE") {
            let index = words.find(|word| word.ends_with("_idx") || word.ends_with("_key"));
            index.and_then(|index| Some(Statement::Index(index, own(words.nth(1)?)?)))
        } else if text.starts_with("INSERT") {
            Some(Statement::Version)
        } else {
            None
        };
        if let Some(statement) = statement {
            found.push((statement, text));
        }
    }
    found
}

impl Database {
    /// Makes what is missing of the tables, in one transaction that no other process can run beside. With everything
    /// there, no DDL is tried.
    pub fn init(&self) -> Result<InitOutcome, InitFailure> {
        let mut session = self.session()?;
        let result = self.init_on(&mut session);
        if result.is_err() {
            // Rare enough to need no ROLLBACK that might fail as well.
            session.poisoned = true;
        }
        drop(session);
        let mut outcome = result?;
        outcome.made.extend(self.index_windows()?);
        Ok(outcome)
    }

    /// Makes the unique index of a metrics table that was there without it, so that nobody who reads or writes waits.
    /// Leaves alone what `validate` then tells: repeated windows, a partitioned table.
    fn index_windows(&self) -> Result<Option<String>, InitFailure> {
        const DOING: &str = "looking at the metrics table";
        let (names, call_max) = (&*self.shared.names, self.call_max());
        let table = &names.metrics;
        let mut session = self.session()?;
        if !session.call(DOING, call_max, |client| lacks_upsert_index(client, table))? {
            return Ok(None);
        }
        // The index is made outside of any transaction, by a session that nobody gets afterwards: with its end, the
        // lock and the settings are gone, too.
        session.poisoned = true;
        let key = lock_key("index", &[&table.schema, &table.bare]);
        let is_ours: bool = session
            .call(DOING, call_max, |client| client.query_one("SELECT pg_try_advisory_lock($1)", &[&key])?.try_get(0))?;
        if !is_ours {
            // Not waited for in PostgreSQL: the index is only done when every older transaction is.
            let what = "making the unique index of the metrics table: another process is at it";
            return Err(plain(Fault::Lock, what).into());
        }
        if !session.call(DOING, call_max, |client| lacks_upsert_index(client, table))? {
            return Ok(None);
        }
        let repeated = session.call("counting repeated windows", CREATE_MAX, |client| {
            client.batch_execute("SET statement_timeout = 0; SET lock_timeout = 0")?;
            repeated_windows(client, table)
        })?;
        if repeated > 0 {
            return Ok(None);
        }
        let name = name_of(UPSERT_INDEX, names).expect("it is the script's");
        let what = format!("an index on {table}, {name}");
        log::info!("making {what}");
        let full_name = format!("{}.{name}", quoted(&table.schema));
        let made = session.call(&format!("making {what}"), CREATE_MAX, |client| {
            // What an attempt that was broken off has left.
            if is_invalid(client, &full_name)? {
                client.batch_execute(&format!("DROP INDEX CONCURRENTLY {full_name}"))?;
            }
            client.batch_execute(&format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({WINDOW})"))
        });
        match made {
            Ok(()) => Ok(Some(what)),
            Err(failure) => {
                // It would cost each writer, and help nobody. That this fails as well is only said.
                let undone = session.call("removing an index that was not completed", CREATE_MAX, |client| {
                    match is_invalid(client, &full_name)? {
                        true => client.batch_execute(&format!("DROP INDEX CONCURRENTLY {full_name}")),
                        false => Ok(()),
                    }
                });
                if let Err(failure) = undone {
                    log::warn!("{failure}");
                }
                match failure.fault {
                    // Somebody has written a window once more meanwhile: `validate` counts them.
                    Fault::UniqueKey => Ok(None),
                    _ => Err(in_need(failure)),
                }
            }
        }
    }

    fn init_on(&self, session: &mut Held) -> Result<InitOutcome, InitFailure> {
        const DOING: &str = "looking for the tables";
        let (names, call_max) = (&*self.shared.names, self.call_max());
        let key = lock_key("init", &[]);
        session.call(DOING, call_max, |client| {
            client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on")?;
            // Another process may be making an index: it is waited for longer than for a row.
            client.batch_execute(&format!(
                "SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock({key}); SET LOCAL lock_timeout = '{} ms'",
                self.shared.settings.lock_timeout.as_millis()
            ))
        })?;
        let version = session.call(DOING, call_max, |client| version(client, names))?;
        if let Some(stop) = version.and_then(newer) {
            return Err(InitFailure::Stop(stop));
        }
        let mut made = Vec::new();
        let mut make = |session: &mut Held, what: String, sql: &str| {
            let doing = format!("making {what}");
            let done = session.call(&doing, CREATE_MAX, |client| {
                client.batch_execute("SET LOCAL statement_timeout = 0")?;
                client.batch_execute(sql)
            });
            done.map_err(in_need)?;
            made.push(what);
            Ok::<(), InitFailure>(())
        };
        for schema in schemas(names) {
            if !session.call(DOING, call_max, |client| has_schema(client, schema))? {
                make(session, format!("schema {}", quoted(schema)), &create_schema(schema))?;
            }
        }
        let mut fresh = Vec::new();
        for (statement, text) in statements(SCRIPT) {
            let sql = named(text, names);
            match statement {
                Statement::Table(default) => {
                    let table = table_of(default, names).expect("the script makes only tables that have names");
                    if !session.call(DOING, call_max, |client| has_table(client, table))? {
                        make(session, format!("table {table}"), &sql)?;
                        fresh.push(default);
                    }
                }
                Statement::Column(column, default) => {
                    let table = table_of(default, names).expect("the script changes only tables that have names");
                    if !session.call(DOING, call_max, |client| has_column(client, table, column))? {
                        make(session, format!("column {} of table {table}", quoted(column)), &sql)?;
                        fresh.push(default);
                    }
                }
                Statement::Index(index, default) => {
                    let table = table_of(default, names).expect("the script makes only indexes on its tables");
                    if fresh.contains(&default) {
                        make(
                            session,
                            format!("an index on {table}, {}", name_of(index, names).unwrap_or_default()),
                            &sql,
                        )?;
                    }
                }
                Statement::Version if version.is_none() => make(session, "the schema's version".to_owned(), &sql)?,
                Statement::Version => {}
            }
        }
        session.call("making tables", call_max, |client| client.batch_execute("SAVEPOINT committing; COMMIT"))?;
        Ok(InitOutcome { made })
    }
}

/// Says what to do where the reason is plain.
fn in_need(failure: Failure) -> InitFailure {
    match failure.fault {
        Fault::Permission => InitFailure::Database(plain(
            Fault::Permission,
            format!("{}; let a role that may run `init`, and set schema.manage = \"validate\"", failure.message),
        )),
        _ => InitFailure::Database(failure),
    }
}

/// Why a newer schema is left alone.
pub(super) fn newer(version: i32) -> Option<Stop> {
    (version > SCHEMA_VERSION).then(|| {
        let message = format!(
            "the database has schema version {version}, this program knows {SCHEMA_VERSION}; install the newer program"
        );
        Stop::new(ExitCode::Config, message)
    })
}

/// The schema's version; `None` before the first `init`.
pub(super) fn version(client: &mut Client, names: &Names) -> Result<Option<i32>, postgres::Error> {
    if !has_table(client, &names.meta)? {
        return Ok(None);
    }
    let rows = client.query(&format!("SELECT max(schema_version) FROM {}", names.meta), &[])?;
    rows.first().map_or(Ok(None), |row| row.try_get(0))
}

/// Whether windows are not kept apart in a table that an index can be made on beside its writers, and that is one: with
/// columns of other types, which may have no order at all, it is for `validate` to tell.
fn lacks_upsert_index(client: &mut Client, table: &Table) -> Result<bool, postgres::Error> {
    const SQL: &str = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r' AND 3 = (SELECT count(*) FROM pg_attribute a \
           JOIN pg_type t ON t.oid = a.atttypid \
           LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
           WHERE a.attrelid = c.oid AND (a.attname, coalesce(b.typname, t.typname)) IN ( \
             ('symbol', 'text'), ('symbol', 'varchar'), ('window_start', 'timestamptz'), ('window_start', 'timestamp'), \
             ('window_end', 'timestamptz'), ('window_end', 'timestamp')))";
    let is_table = !client.query(SQL, &[&table.schema, &table.bare])?.is_empty();
    Ok(is_table && !has_upsert_index(client, table)?)
}

/// Whether there is such an index, and nobody can use it.
fn is_invalid(client: &mut Client, name: &str) -> Result<bool, postgres::Error> {
    const SQL: &str = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid";
    Ok(!client.query(SQL, &[&name])?.is_empty())
}

fn has_schema(client: &mut Client, schema: &str) -> Result<bool, postgres::Error> {
    Ok(!client.query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema])?.is_empty())
}

pub(super) fn has_table(client: &mut Client, table: &Table) -> Result<bool, postgres::Error> {
    const SQL: &str = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2";
    Ok(!client.query(SQL, &[&table.schema, &table.bare])?.is_empty())
}

/// Whether a table, which is there, has a column of this name.
fn has_column(client: &mut Client, table: &Table, column: &str) -> Result<bool, postgres::Error> {
    const SQL: &str = "SELECT 1 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped";
    Ok(!client.query(SQL, &[&table.schema, &table.bare, &column])?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TableName;

    fn names(prices: &str) -> Names {
        let mut names = Names::new(&settings());
        names.prices = Table::from(&TableName { schema: "md".to_owned(), name: prices.to_owned() });
        names
    }

    fn settings() -> config::Database {
        let sources = config::Sources::default();
        config::Config::load(&sources).expect("the defaults are right").database
    }

    #[test]
    fn every_statement_of_the_script_is_understood() {
        let script = statements(SCRIPT);
        let tables = script.iter().filter(|(statement, _)| matches!(statement, Statement::Table(_))).count();
        let indexes = script.iter().filter(|(statement, _)| matches!(statement, Statement::Index(..))).count();
        assert_eq!((tables, indexes, script.len()), (6, 5, 13));
        assert!(script.iter().any(|(s, _)| *s == Statement::Column("relayed_at", "writer_dead_letters")));
        assert_eq!(script.len(), SCRIPT.matches(";\n").count());
        assert!(script.contains(&(Statement::Index(UPSERT_INDEX, "stock_metrics"), script[4].1)));
    }

    #[test]
    fn configured_names_are_put_in_quoted_everywhere() {
        let script = named(SCRIPT, &names("Ticks"));
        assert!(script.contains("CREATE TABLE IF NOT EXISTS \"md\".\"Ticks\" ("));
        assert!(script.contains("\"Ticks_symbol_timestamp_idx\" ON \"md\".\"Ticks\" (symbol, \"timestamp\")"));
        assert!(!script.contains("public."));
        let longest = "x".repeat(63);
        let script = named(SCRIPT, &names(&longest));
        assert!(script.contains(&format!("\"{}_timestamp_idx\"", &longest[.."_timestamp_idx".len().abs_diff(63)])));
    }

    #[test]
    fn the_scripts_version_is_the_programs() {
        assert!(SCRIPT.contains(&format!("VALUES ({SCHEMA_VERSION})")));
    }
}
