//! COMMIT, and what its end says: done, refused, or in doubt.
//!
//! The client reports success for an aborted transaction: the server answers that with ROLLBACK, which is no error. So
//! COMMIT is preceded, in the same message, by a SAVEPOINT, which an aborted transaction and no transaction at all both
//! refuse with an error, and by a token, which shows that the answer is to this message.

use super::failure::{failure, is_answer, plain};
use super::session::Session;
use crate::fault::{Failure, Fault};
use postgres::SimpleQueryMessage;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Commits so far. Each has another token.
static N_COMMITS: AtomicU64 = AtomicU64::new(0);

/// How a COMMIT ended.
pub(super) enum End {
    /// It is done.
    Committed,
    /// The server has refused it: nothing was applied. The transaction may be open still.
    Refused(Failure),
    /// Nobody knows. The connection must be given up.
    InDoubt(Failure),
}

/// Commits the open transaction.
pub(super) fn commit(session: &mut Session, call_max: Duration) -> End {
    let token = format!("commit {}", N_COMMITS.fetch_add(1, Ordering::Relaxed));
    // Nothing comes after COMMIT: it could fail, or be cancelled, when all is applied.
    let guarded = format!("SAVEPOINT committing; SELECT '{token}'; COMMIT");
    match session.call_raw(call_max, |client| client.simple_query(&guarded)) {
        Ok(answer) if has_token(&answer, &token) => End::Committed,
        Ok(_) => End::InDoubt(plain(Fault::Connection, "committing: the server's answer is to something else")),
        // A refused COMMIT has ended the transaction, a refused SAVEPOINT has not.
        Err(error) if is_answer(&error) && session.is_good() => End::Refused(failure("committing", &error)),
        Err(error) => End::InDoubt(failure("committing", &error)),
    }
}

/// Whether this is the answer to the COMMIT with that token.
fn has_token(answer: &[SimpleQueryMessage], token: &str) -> bool {
    answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(token)))
}
