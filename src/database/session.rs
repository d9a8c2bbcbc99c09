//! One connection with what it remembers: its prepared statements, its deadline, and whether it is still good.

use super::columns::{Fingerprint, Known};
use super::failure::failure;
use super::reaper::Reaper;
use super::wire::{Deadline, Dialer};
use crate::fault::{Failure, Fault};
use crate::heartbeat::Canceller;
use postgres::{Client, NoTls, Statement};
use std::collections::HashMap;
use std::time::Duration;

/// A connection to PostgreSQL.
pub(super) struct Session {
    // Taken by the destructor only.
    client: Option<Client>,
    deadline: Deadline,
    // `None` for a unix socket.
    cancel: Option<Dialer>,
    reaper: Reaper,
    /// Set when the connection must not be used again.
    pub(super) poisoned: bool,
    /// The temporary table for metrics is there, made for columns of these types.
    pub(super) staging: Option<Fingerprint>,
    /// What is known of the columns of the prices table.
    pub(super) prices: Known,
    /// What is known of the columns of the metrics table.
    pub(super) metrics: Known,
    /// The pipeline's session lock is held.
    pub(super) has_lock: bool,
    // By their text.
    statements: HashMap<String, Statement>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("poisoned", &self.poisoned).finish()
    }
}

impl Session {
    /// Wraps a client whose socket has this deadline.
    pub(super) fn new(client: Client, deadline: Deadline, cancel: Option<Dialer>, reaper: Reaper) -> Self {
        Session {
            client: Some(client),
            deadline,
            cancel,
            reaper,
            poisoned: false,
            staging: None,
            prices: Known::default(),
            metrics: Known::default(),
            has_lock: false,
            statements: HashMap::new(),
        }
    }

    /// Whether the next statement has a chance. A server that hung up on an idle connection is noticed by that
    /// statement only.
    pub(super) fn is_good(&self) -> bool {
        !self.poisoned && self.client.as_ref().is_some_and(|client| !client.is_closed())
    }

    /// Runs one call, for at most `limit`. After an error that the connection doesn't survive it is poisoned.
    pub(super) fn call<T>(
        &mut self,
        doing: &str,
        limit: Duration,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Failure> {
        self.call_raw(limit, call).map_err(|error| failure(doing, &error))
    }

    /// The same, with the client's own error for those who must look into it.
    pub(super) fn call_raw<T>(
        &mut self,
        limit: Duration,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let client = self.client.as_mut().expect("only the destructor takes the client");
        self.deadline.set(limit);
        let result = call(client);
        self.deadline.clear();
        if let Err(error) = &result {
            let fault = failure("", error).fault;
            self.poisoned |= client.is_closed() || matches!(fault, Fault::Connection | Fault::WrongNode);
        }
        result
    }

    /// A statement, prepared once per connection.
    pub(super) fn prepared(&mut self, doing: &str, limit: Duration, sql: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.call(doing, limit, |client| client.prepare(sql))?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Cancels what this connection runs, in a thread of its own, because the caller must not wait.
    pub(super) fn canceller(&self) -> Canceller {
        let token = self.client.as_ref().expect("only the destructor takes the client").cancel_token();
        let dialer = self.cancel.clone();
        Box::new(move || {
            let (token, dialer) = (token.clone(), dialer.clone());
            let thread = std::thread::Builder::new().name("database-cancel".to_owned());
            let started = thread.spawn(move || {
                let cancelled = match dialer {
                    Some(dialer) => token.cancel_query(dialer),
                    None => token.cancel_query(NoTls),
                };
                if let Err(error) = cancelled {
                    log::warn!("{}", failure("cancelling a statement", &error));
                }
            });
            if let Err(error) = started {
                log::warn!("cancelling a statement: starting a thread: {error}");
            }
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Statements say goodbye too; theirs is only queued.
        self.statements.clear();
        if let Some(client) = self.client.take() {
            self.reaper.bury(client, self.deadline.clone());
        }
    }
}
