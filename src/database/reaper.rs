//! Gives up connections in a thread of its own.
//!
//! Dropping a client says goodbye to the server and waits until that is sent, and, if a statement is still running, for
//! its answer. A writer that has just found the server silent must not wait for it once more.

use super::wire::Deadline;
use crossbeam_channel::{Sender, TrySendError, bounded};
use postgres::Client;
use std::time::Duration;

/// How long the goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Connections that wait for theirs, at most.
const WAITING_MAX: usize = 64;

/// Where clients are handed to. The thread ends with the last copy.
#[derive(Debug, Clone)]
pub(super) struct Reaper {
    clients_tx: Sender<(Client, Deadline)>,
}

impl Reaper {
    /// Starts the thread.
    pub(super) fn start() -> Reaper {
        let (clients_tx, clients_rx) = bounded::<(Client, Deadline)>(WAITING_MAX);
        let thread = std::thread::Builder::new().name("database-reaper".to_owned());
        let started = thread.spawn(move || {
            for (client, deadline) in clients_rx {
                deadline.set(GOODBYE_MAX);
                drop(client);
            }
        });
        if let Err(error) = started {
            log::warn!("no thread to end database connections in, they end with the process: {error}");
        }
        Reaper { clients_tx }
    }

    /// Ends a connection, some time. Never waits.
    pub(super) fn bury(&self, client: Client, deadline: Deadline) {
        if let Err(TrySendError::Full((client, _)) | TrySendError::Disconnected((client, _))) =
            self.clients_tx.try_send((client, deadline))
        {
            // The socket stays open until the process ends: rarer and smaller than a writer that hangs.
            log::warn!("too many database connections wait to be ended; leaving one open");
            std::mem::forget(client);
        }
    }
}
