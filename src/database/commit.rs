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

#[cfg(test)]
mod tests {
    //! On a real server, and here because nothing outside can bring about what the guard is for.

    use super::*;
    use crate::config::{Config, Sources};
    use crate::database::Database;
    use std::collections::BTreeMap;

    const CALL_MAX: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_aborted_or_not_there_is_never_called_committed() {
        let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names a PostgreSQL for tests; run dev/test");
        let environment = BTreeMap::from([("DATABASE_URL".to_owned(), url)]);
        let config = Config::load(&Sources { file: None, set: Vec::new(), environment }).expect("a URL is enough");
        let mut session = Database::open(&config, "me").expect("the server answers").session().expect("connected");
        let mut end = |before: &str| {
            let _ = session.call_raw(CALL_MAX, |client| client.batch_execute(before));
            commit(&mut session, CALL_MAX)
        };
        for before in ["BEGIN; SELECT 1 / 0", "ROLLBACK"] {
            assert!(!matches!(end(before), End::Committed), "called committed after: {before}");
        }
        assert!(matches!(end("ROLLBACK; BEGIN"), End::Committed));
    }
}
