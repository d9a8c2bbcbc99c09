//! How the process ends: one exit code and one line.
//!
//! Codes follow sysexits.h where it has one. Nothing here ends the process; only `main` does.

use std::fmt;

/// The exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// The command line is wrong (EX_USAGE).
    Usage = 64,
    /// The data needs a person's decision (EX_DATAERR).
    DataNeedsDecision = 65,
    /// A server stayed away for too long (EX_UNAVAILABLE).
    ServerAway = 69,
    /// The program caught itself in a mistake (EX_SOFTWARE).
    InvariantBroken = 70,
    /// The database reports damaged data, or a file can't be read or written to its end (EX_IOERR).
    Corruption = 74,
    /// The same command may work later (EX_TEMPFAIL).
    TryLater = 75,
    /// A server refuses us (EX_NOPERM).
    Permission = 77,
    /// The configuration or the schema is wrong (EX_CONFIG).
    Config = 78,
    /// A second SIGINT: ended at once.
    Interrupted = 130,
    /// A second SIGTERM: ended at once.
    Terminated = 143,
}

/// Why the process has to stop: cause, place and what to do, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The exit code.
    pub code: ExitCode,
    /// One line, lower case, no row value and no secret.
    pub message: String,
}

impl Stop {
    /// A reason to stop.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Stop { code, message: message.into() }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}
