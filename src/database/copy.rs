//! One COPY of rows that are encoded already, and which of them it was refused for.
//!
//! The client sends a COPY with a Sync at its beginning and another at its end. If the server refuses the COPY before
//! it asks for data, it answers both, and the client takes the second answer for that to the next statement, and so on:
//! a BEGIN's for a COMMIT's, if nobody noticed. So a connection is used again after a failed COPY only where the server
//! has certainly read data: the fault is a row's and came at the end.

use super::failure::{failure, is_without_partition, not_a_row, plain, refused_row};
use super::session::Session;
use crate::fault::{Failure, Fault};
use crate::row::Origin;
use postgres::{Client, Statement};
use std::io::Write;
use std::time::Duration;

/// What a COPY is sent in. Each piece is copied once more by the client, so a batch is never in memory twice over.
const CHUNK_BYTES: usize = 256 << 10;

/// What is to be copied.
pub(super) struct Rows<'a> {
    /// All of it, in the binary format.
    pub(super) bytes: &'a [u8],
    /// How many rows that are.
    pub(super) n_rows: usize,
    /// The table as PostgreSQL names it in a COPY's context.
    pub(super) name_in_context: &'a str,
}

/// A COPY or an upsert that failed, and the row that it was refused for.
pub(super) struct Refused {
    pub(super) failure: Failure,
    pub(super) row_idx: Option<usize>,
}

impl Refused {
    pub(super) fn whole(failure: Failure) -> Self {
        Refused { failure, row_idx: None }
    }

    pub(super) fn failure(self, origin_of: impl Fn(usize) -> Option<Origin>) -> Failure {
        Failure { origin: self.row_idx.and_then(origin_of), ..self.failure }
    }
}

/// Sends the rows. The only way out without an error is that the server has taken every one of them.
pub(super) fn copy(
    session: &mut Session,
    call_max: Duration,
    doing: &str,
    statement: &Statement,
    rows: Rows<'_>,
) -> Result<(), Refused> {
    let Rows { bytes, n_rows, name_in_context } = rows;
    match session.call_raw(call_max, |client| send_all(client, statement, bytes)) {
        Ok(CopyEnd::Taken(written)) if written == n_rows as u64 => Ok(()),
        Ok(CopyEnd::Taken(written)) => Err(Refused::whole(plain(
            Fault::Schema,
            format!("{doing}: only {written} were kept; remove the trigger or rule that drops rows"),
        ))),
        Err(error) => {
            session.poisoned = true;
            // No row was read.
            Err(Refused::whole(not_a_row(Fault::Schema, failure(doing, &error))))
        }
        Ok(CopyEnd::Refused(error)) => {
            let mut failure = failure(doing, &error);
            if failure.sqlstate.as_deref() == Some("22P03") {
                failure.message = format!("{doing}: a column has another type than in schema.sql");
            }
            let is_about_a_row = matches!(failure.fault, Fault::Record | Fault::UniqueKey);
            session.poisoned |= !is_about_a_row;
            let only_one = (n_rows == 1).then_some(0);
            let has_place = is_about_a_row || is_without_partition(&error);
            let row_idx = refused_row(&error, name_in_context, n_rows).or(only_one).filter(|_| has_place);
            Err(Refused { failure, row_idx })
        }
    }
}

/// How a COPY ended whose data was sent.
enum CopyEnd {
    /// The server counted this many rows.
    Taken(u64),
    /// It took none.
    Refused(postgres::Error),
}

/// A COPY writer that is dropped aborts the COPY without a word, so that the only way out of here is its `finish`. An
/// error from before that leaves it open where the connection stands.
fn send_all(client: &mut Client, statement: &Statement, bytes: &[u8]) -> Result<CopyEnd, postgres::Error> {
    let mut writer = client.copy_in(statement)?;
    for chunk in bytes.chunks(CHUNK_BYTES) {
        writer.write_all(chunk).map_err(client_error)?;
    }
    let end = writer.finish();
    Ok(end.map_or_else(CopyEnd::Refused, CopyEnd::Taken))
}

fn client_error(error: std::io::Error) -> postgres::Error {
    let error = error.into_inner().and_then(|error| error.downcast::<postgres::Error>().ok());
    *error.expect("the writer only wraps the client's errors")
}
