//! One table of the database's faults: what each SQLSTATE means for a batch. The default is to stop.
//!
//! Pure: codes in, a [`Fault`] out. Sorted by full code first, then by class; the text of an error is never looked at.
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>

use crate::exit::ExitCode;
use crate::row::Origin;
use std::fmt;

/// What to do about a failed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is gone: a new one; in doubt only if COMMIT was sent.
    Connection,
    /// The same transaction can succeed next time.
    Transaction,
    /// Somebody holds a lock: the head makes the others yield, all redo.
    Lock,
    /// The statement took too long or was cancelled: redo.
    Statement,
    /// A standby or a read-only primary: drop the connection, resolve the name again.
    WrongNode,
    /// The server lacks something that an operator will give back: wait and probe.
    Resource,
    /// One row is at fault: it becomes a dead letter.
    Record,
    /// A unique key of the operator's table: one row is at fault.
    UniqueKey,
    /// A unique key of our own table: whoever has claimed our partitions has written the same before us, and then the
    /// offsets say so; if they do not, stop with 70.
    OwnKey,
    /// The tables are not as they should be: a migration may be running; wait, then stop with 78.
    Schema,
    /// We may not do that: stop with 77.
    Permission,
    /// The database was dropped: stop with 78.
    DatabaseGone,
    /// Our own mistake: stop with 70.
    Bug,
    /// Damaged data files: stop with 74.
    Corruption,
    /// Not in the table: stop with 70.
    Unlisted,
}

impl Fault {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Connection => "connection",
            Fault::Transaction => "transaction",
            Fault::Lock => "lock",
            Fault::Statement => "statement",
            Fault::WrongNode => "wrong-node",
            Fault::Resource => "resource",
            Fault::Record => "record",
            Fault::UniqueKey => "unique-key",
            Fault::OwnKey => "own-key",
            Fault::Schema => "schema",
            Fault::Permission => "permission",
            Fault::DatabaseGone => "database-gone",
            Fault::Bug => "bug",
            Fault::Corruption => "corruption",
            Fault::Unlisted => "unlisted",
        }
    }

    /// Sorts a SQLSTATE. `None` is an error that did not come from the server: closed, I/O, TLS, deadline.
    pub fn of(sqlstate: Option<&str>) -> Fault {
        let Some(code) = sqlstate else { return Fault::Connection };
        match code {
            // Terminated by an administrator, a crash, or still starting: the server comes back.
            "57P01" | "57P02" | "57P03" => Fault::Connection,
            // Idle session, idle transaction and transaction timeouts: the server hung up on us.
            "57P05" | "25P03" | "25P04" => Fault::Connection,
            // Statement completion unknown: a server of several nodes, or something between us and it, has lost sight of
            // the statement. That is no answer, as with a lost connection; for COMMIT the truth must be asked for.
            "40003" => Fault::Connection,
            // Rollback without a reason, serialization failure, deadlock, snapshot too old.
            "40000" | "40001" | "40P01" | "72000" => Fault::Transaction,
            // The same because of an integrity constraint: the rows would meet it again.
            "40002" => Fault::Record,
            // Lock timeout, object in use.
            "55P03" | "55006" => Fault::Lock,
            // statement_timeout or our watchdog's cancel.
            "57014" => Fault::Statement,
            "25006" => Fault::WrongNode,
            // A COPY stream that we garbled, a statement outside a transaction or after a failed one, a wrong savepoint.
            "22P04" | "25P01" | "25P02" | "3B001" => Fault::Bug,
            // A number in binary that its column's type can't read says nothing about the row: the column has another
            // type. And a sequence that has come to its end refuses every row, until somebody widens it.
            "22P03" | "2200H" => Fault::Schema,
            "23505" => Fault::UniqueKey,
            // A view's check option, a row too large.
            "44000" | "54000" => Fault::Record,
            // What a trigger comes to because of one row: too deep a recursion, CASE without ELSE, a sub-select of several
            // rows, an action that it refuses itself. The second row of a statement that hits the same target, which is
            // only so where the table compares symbols in another way than we do.
            "54001" | "20000" | "21000" | "09000" => Fault::Record,
            // What triggers raise: PL/pgSQL by RAISE, ASSERT and STRICT, other languages by an exception.
            _ if in_class(code, &["P0", "38"]) => Fault::Record,
            // Data exceptions, and not null, check, exclusion, foreign key.
            _ if in_class(code, &["22", "23"]) => Fault::Record,
            "42501" => Fault::Permission,
            _ if in_class(code, &["28"]) => Fault::Permission,
            // A statement, ours or a trigger's, that the tables don't fit: undefined or mistyped tables, columns and
            // functions, no matching unique key, generated columns. It is the same for every row.
            _ if in_class(code, &["42"]) => Fault::Schema,
            // No such schema, what this server or this kind of table can't do, a wrong object state.
            "3F000" | "0A000" | "55000" => Fault::Schema,
            // A trigger that can't work whatever the row is: it ends without RETURN, returns what it may not, ends the
            // transaction, changes the row that it is called for.
            "2D000" | "27000" => Fault::Schema,
            _ if in_class(code, &["2F", "39"]) => Fault::Schema,
            // A prepared statement is gone: between us and the server is a pool that doesn't keep sessions.
            "26000" => Fault::Schema,
            "3D000" | "57P04" => Fault::DatabaseGone,
            // Disk full, out of memory, too many connections, a limit of the configuration; I/O errors, files that are not
            // there (an unmounted tablespace, a library of an extension): the machine's, and never a row's.
            _ if in_class(code, &["53", "58"]) => Fault::Resource,
            // Some pools report with 08P01 whatever hinders them from reaching the server.
            _ if in_class(code, &["08"]) => Fault::Connection,
            "XX001" | "XX002" => Fault::Corruption,
            // Everything else, XX000 (internal error) and 57000 (operator intervention) too: whether a row, the tables or
            // the server is the cause can't be known, and a wrong guess would lose data or retry for ever.
            _ => Fault::Unlisted,
        }
    }

    /// The exit code of a process that stops because of it.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Fault::Connection | Fault::Transaction | Fault::Lock | Fault::Statement => ExitCode::ServerAway,
            Fault::WrongNode | Fault::Resource => ExitCode::ServerAway,
            Fault::Record => ExitCode::DataNeedsDecision,
            Fault::Schema | Fault::DatabaseGone => ExitCode::Config,
            Fault::Permission => ExitCode::Permission,
            Fault::UniqueKey | Fault::OwnKey | Fault::Bug | Fault::Unlisted => ExitCode::InvariantBroken,
            Fault::Corruption => ExitCode::Corruption,
        }
    }
}

fn in_class(code: &str, classes: &[&str]) -> bool {
    classes.iter().any(|class| code.starts_with(class))
}

/// A failed statement, with what may be told about it: never a value of a row.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What to do.
    pub fault: Fault,
    /// The SQLSTATE, if the server said one.
    pub sqlstate: Option<String>,
    /// What was being done and what went wrong.
    pub message: String,
    /// The row that the server refused, where it said which.
    pub origin: Option<Origin>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sqlstate {
            Some(code) => write!(f, "{} (SQLSTATE {code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_codes_go_before_their_class() {
        assert_eq!(Fault::of(Some("22003")), Fault::Record);
        assert_eq!(Fault::of(Some("22P04")), Fault::Bug);
        assert_eq!(Fault::of(Some("08006")), Fault::Connection);
    }

    #[test]
    fn a_wrong_statement_is_never_a_bad_row_and_a_missing_right_no_wrong_statement() {
        assert_eq!(Fault::of(Some("42883")), Fault::Schema);
        assert_eq!(Fault::of(Some("42501")), Fault::Permission);
    }

    #[test]
    fn an_error_without_a_code_is_a_lost_connection() {
        assert_eq!(Fault::of(None), Fault::Connection);
    }

    #[test]
    fn what_a_class_would_get_wrong_is_listed_in_full() {
        let listed = [
            (&["57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "40003"][..], Fault::Connection),
            (&["40000", "40001", "40P01", "72000"], Fault::Transaction),
            (&["55P03", "55006"], Fault::Lock),
            (&["57014"], Fault::Statement),
            (&["25006"], Fault::WrongNode),
            (&["22P03", "2200H", "3F000", "0A000", "55000", "2D000", "27000", "26000"], Fault::Schema),
            (&["44000", "54000", "54001", "20000", "21000", "09000", "40002"], Fault::Record),
            (&["22P04", "25P01", "25P02", "3B001"], Fault::Bug),
            (&["3D000", "57P04"], Fault::DatabaseGone),
            (&["XX001", "XX002"], Fault::Corruption),
            (&["23505"], Fault::UniqueKey),
        ];
        for (codes, fault) in listed {
            for code in codes {
                assert_eq!(Fault::of(Some(code)), fault, "{code}");
            }
        }
    }

    #[test]
    fn a_full_disk_is_never_a_bad_row() {
        assert_eq!(Fault::of(Some("53100")), Fault::Resource);
    }

    #[test]
    fn what_is_not_listed_stops() {
        assert_eq!(
            (Fault::of(Some("F0001")), Fault::Unlisted.exit_code()),
            (Fault::Unlisted, ExitCode::InvariantBroken)
        );
    }
}
