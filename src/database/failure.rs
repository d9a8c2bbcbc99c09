//! Turns what the client reports into a [`Failure`]: sorted by SQLSTATE, and without anything out of a row.
//!
//! The only text ever looked into is CONTEXT's last line, `COPY <table>, <word> <number>`, which is the same in every
//! language but for the word. DETAIL is never read: it holds row values.

use crate::fault::{Failure, Fault};
use crate::handshake::Refusal;
use postgres::error::{DbError, Severity};
use std::error::Error as _;
use std::fmt;
use std::io;

/// A refusal of ours to go on with a server, on its way through the client as the cause of an I/O error.
#[derive(Debug)]
pub(super) struct Refused {
    /// What to do.
    pub(super) fault: Fault,
    /// Cause and what to do.
    pub(super) message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> io::Error {
        io::Error::other(refused)
    }
}

/// A failure of ours, or of the server's configuration, that no SQLSTATE tells of.
pub(super) fn plain(fault: Fault, message: impl Into<String>) -> Failure {
    Failure { fault, sqlstate: None, message: message.into(), origin: None }
}

/// A failure where no row can be at fault, whatever its code says: it is `instead`.
pub(super) fn not_a_row(instead: Fault, failure: Failure) -> Failure {
    match failure.fault {
        Fault::Record | Fault::UniqueKey => Failure { fault: instead, ..failure },
        _ => failure,
    }
}

/// Sorts an error of the client; `doing` is what was being done, for the message.
pub(super) fn failure(doing: &str, error: &postgres::Error) -> Failure {
    let sqlstate = error.code().map(|code| code.code().to_owned());
    if let Some((fault, why)) = refused_by_tls(error) {
        return plain(fault, format!("{doing}: {why}"));
    }
    let fault = match error.as_db_error() {
        None if is_read_only(error) => Fault::WrongNode,
        Some(db) if table_fault(db).is_some() => Fault::Schema,
        _ => Fault::of(sqlstate.as_deref()),
    };
    let why = match error.as_db_error() {
        Some(db) if let Some(what) = table_fault(db) => what,
        Some(db) => refusal(fault, db),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    Failure { fault, sqlstate, message: format!("{doing}: {why}"), origin: None }
}

/// What was refused before the server said anything with a code: by TLS, or by ourselves. None of it heals by itself.
fn refused_by_tls(error: &postgres::Error) -> Option<(Fault, String)> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    if let Some(refused) = io.get_ref().and_then(|inner| inner.downcast_ref::<Refused>()) {
        return Some((refused.fault, refused.message.clone()));
    }
    Some(match Refusal::of(io, "database")? {
        Refusal::ByUs(why) => (Fault::Schema, why),
        Refusal::ByServer(why) => (Fault::Permission, why),
    })
}

/// What the code calls a row's fault, and is the table's: it would be the same for every such row, so that it must not
/// become a flood of dead letters. Told by the server's own word for where it was raised, never by its text.
fn table_fault(error: &DbError) -> Option<String> {
    let table = || error.table().unwrap_or("the table");
    match (error.code().code(), error.routine()?) {
        ("23514", "ExecFindPartition") => Some(format!(
            "{:?} has no partition for a row; create the partition, or one with DEFAULT (the decision is yours: no row \
             becomes a dead letter for it)",
            table()
        )),
        ("23514", "ExecPartitionCheckEmitError") => Some(format!(
            "{:?} is itself a partition, and a row is not in its bounds; name the partitioned table in [database.tables]",
            table()
        )),
        // Our rows hold no eight bytes that become four. Inside of a trigger it may be a row's fault.
        ("22003", "int84") if !is_inside(error) => Some(
            "the ids of an integer column are used up; make it bigint (stock-db-writer check names the column)"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Whether it was raised inside of a trigger or a function.
fn is_inside(error: &DbError) -> bool {
    error.where_().is_some_and(|context| context.lines().any(|line| !line.starts_with("COPY ")))
}

/// What the server said, as far as it can't hold a row's values: those are in the message of every data error, in
/// whatever a trigger raises, and in what is said about statements that a trigger has put together.
fn refusal(fault: Fault, error: &DbError) -> String {
    let is_about_values = matches!(fault, Fault::Record | Fault::UniqueKey | Fault::Unlisted);
    let is_about_statements = matches!(fault, Fault::Schema | Fault::Permission | Fault::DatabaseGone);
    // The server's own words for what runs RAISE and its like: such a message is the trigger's, whatever its code.
    let is_raised = error.routine().is_some_and(|routine| RAISING.contains(&routine));
    let is_inside = is_inside(error);
    let may_hold_values = is_raised || is_about_values || (is_about_statements && is_inside);
    if !may_hold_values {
        return error.message().lines().next().unwrap_or_default().to_owned();
    }
    let mut why = "refused by PostgreSQL".to_owned();
    if is_inside {
        why.push_str(" inside a trigger or function");
    }
    for (what, name) in [("constraint", error.constraint()), ("column", error.column()), ("table", error.table())] {
        if let Some(name) = name {
            why.push_str(&format!(", {what} {name:?}"));
        }
    }
    why
}

/// What raises in PL/pgSQL, PL/Python, PL/Perl and PL/Tcl.
const RAISING: [&str; 4] = ["exec_stmt_raise", "PLy_output", "do_util_elog", "pltcl_elog"];

/// Whether the server answered with an error that ended only the statement, not the session. Such an answer to COMMIT
/// means that nothing was applied: after its record is written, the server doesn't fail with less than a panic.
pub(super) fn is_answer(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        // One that reports a lost connection or an unknown outcome is none.
        db.parsed_severity() == Some(Severity::Error) && Fault::of(Some(db.code().code())) != Fault::Connection
    })
}

/// The client's own answer to `target_session_attrs`: no SQLSTATE, and no number from the operating system either.
fn is_read_only(error: &postgres::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied && io.raw_os_error().is_none())
}

/// Whether the table has no place for a row, and every other might have one.
pub(super) fn is_without_partition(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| db.code().code() == "23514" && table_fault(db).is_some())
}

/// The index of the row that a COPY into `table` was refused for.
pub(super) fn refused_row(error: &postgres::Error, table: &str, n_rows: usize) -> Option<usize> {
    row_in_context(error.as_db_error()?.where_()?, table).filter(|row_idx| *row_idx < n_rows)
}

/// The outermost context is the last line: what a trigger or a function did is above it.
fn row_in_context(context: &str, table: &str) -> Option<usize> {
    let place = context.lines().last()?.strip_prefix("COPY ")?.strip_prefix(table)?.strip_prefix(", ")?;
    let number = place.split([' ', ',']).nth(1)?;
    number.parse::<usize>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_in_the_context_of_any_language() {
        assert_eq!(row_in_context("COPY stock_prices, line 3, column price", "stock_prices"), Some(2));
        assert_eq!(row_in_context("COPY stock_prices, Zeile 12", "stock_prices"), Some(11));
        assert_eq!(row_in_context("COPY stock_prices, 行 1, 列 price", "stock_prices"), Some(0));
    }

    #[test]
    fn only_the_outermost_line_of_the_context_counts() {
        let context = "PL/pgSQL function f() line 7 at RAISE\nCOPY t, line 2";
        assert_eq!(row_in_context(context, "t"), Some(1));
        assert_eq!(row_in_context("COPY t, line 2\nSQL statement \"…\"", "t"), None);
    }

    #[test]
    fn another_table_or_no_number_is_no_row() {
        assert_eq!(row_in_context("COPY tt, line 2", "t"), None);
        assert_eq!(row_in_context("COPY t", "t"), None);
        assert_eq!(row_in_context("COPY t, line 0", "t"), None);
        assert_eq!(row_in_context("", "t"), None);
    }

    #[test]
    fn a_table_with_a_comma_in_its_name_is_still_found() {
        assert_eq!(row_in_context("COPY a, line 9, line 2", "a, line 9"), Some(1));
    }
}
