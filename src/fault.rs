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
    /// A unique key: a row's, unless it is one of our own tables'.
    UniqueKey,
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
    /// Sorts a SQLSTATE. `None` is an error that did not come from the server: closed, I/O, TLS, deadline.
    pub fn of(sqlstate: Option<&str>) -> Fault {
        let Some(code) = sqlstate else { return Fault::Connection };
        match code {
            // Terminated by an administrator, a crash, or still starting: the server comes back.
            "57P01" | "57P02" | "57P03" => Fault::Connection,
            // Idle session and idle transaction timeouts: the server hung up on us.
            "57P05" | "25P03" | "25P04" => Fault::Connection,
            // Serialization failure and deadlock.
            "40001" | "40P01" => Fault::Transaction,
            // Lock timeout, object in use.
            "55P03" | "55006" => Fault::Lock,
            // statement_timeout or our watchdog's cancel.
            "57014" => Fault::Statement,
            "25006" => Fault::WrongNode,
            // Disk full, out of memory, too many connections, a limit of the configuration, I/O errors.
            "53100" | "53200" | "53300" | "53400" | "58000" | "58030" => Fault::Resource,
            // A COPY stream that we garbled, a statement after a failed one.
            "22P04" | "25P02" => Fault::Bug,
            "23505" => Fault::UniqueKey,
            // Not null, check, exclusion, foreign key, a view's check option, a trigger's exception, a row too large.
            "23502" | "23514" | "23P01" | "23503" | "44000" | "P0001" | "54000" => Fault::Record,
            // Undefined or mistyped tables and columns, no matching unique key, generated columns, wrong object state.
            "42P01" | "42703" | "42804" | "42601" | "42P10" | "428C9" | "3F000" | "0A000" | "55000" => Fault::Schema,
            "42501" | "28000" | "28P01" => Fault::Permission,
            "3D000" | "57P04" => Fault::DatabaseGone,
            "XX001" | "XX002" => Fault::Corruption,
            _ if code.starts_with("08") => Fault::Connection,
            // Data exceptions: a value that its column can't hold.
            _ if code.starts_with("22") => Fault::Record,
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
            Fault::UniqueKey | Fault::Bug | Fault::Unlisted => ExitCode::InvariantBroken,
            Fault::Corruption => ExitCode::Corruption,
        }
    }
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
    fn an_error_without_a_code_is_a_lost_connection() {
        assert_eq!(Fault::of(None), Fault::Connection);
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
