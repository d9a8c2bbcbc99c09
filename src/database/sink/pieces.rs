//! A batch that can't be sent whole, because of its rows or of its length: sent in pieces, each under a savepoint.
//!
//! What is refused is taken out by `sift`, and what is healthy stays in the transaction, so that it is sent once more
//! only. The pieces share the transaction: a batch moves its offsets once.

use super::{PostgresSink, Refused, Transaction, last_of_each_window};
use crate::fault::{Failure, Fault};
use crate::row::{MetricRow, Origin};
use crate::sift::Sift;
use crate::sink::Pieces;
use crate::work::Work;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Between two pieces.
const KEEP: &str = "RELEASE SAVEPOINT piece; SAVEPOINT piece";
const UNDO: &str = "ROLLBACK TO SAVEPOINT piece";

/// Rows by their number, with the SQLSTATE they were refused with.
type RefusedRows = BTreeMap<usize, String>;

impl PostgresSink {
    /// `false` if `go_on` said so. Leaves a failed transaction to the caller.
    pub(super) fn send_in_pieces(
        &mut self,
        work: &mut Work<'_>,
        pieces: Pieces,
        refusal: Option<&Failure>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Failure> {
        self.begin(work)?;
        // Whatever may wait for COMMIT is then checked at the end of each piece, where it can still be undone. A row that
        // only a later one would have justified is refused too; nothing but rows of one table is written here.
        let begin = match pieces.in_turn {
            true => "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT piece",
            false => "SAVEPOINT piece",
        };
        self.savepoint(begin)?;
        let mut refused = BTreeMap::new();
        let is_done = self.send_prices(work, pieces, refusal, go_on, &mut refused)?
            && self.send_metrics(work, pieces, refusal, go_on, &mut refused)?;
        if !is_done {
            return Ok(false);
        }
        if pieces.in_turn {
            self.transaction = Transaction::Upserted;
        }
        work.refuse(&refused);
        self.copy_dead_letters(work)?;
        Ok(true)
    }

    fn send_prices(
        &mut self,
        work: &Work<'_>,
        pieces: Pieces,
        refusal: Option<&Failure>,
        go_on: &mut dyn FnMut() -> bool,
        refused: &mut BTreeMap<Origin, String>,
    ) -> Result<bool, Failure> {
        let rows = &work.decoded.prices;
        // Before the turn only this table has triggers and keys; in it, only a batch without metrics accuses it.
        let is_suspect = !pieces.in_turn || work.decoded.metrics.is_empty();
        let suspicion = Suspicion::of(refusal, is_suspect, |origin| rows.iter().position(|row| row.origin == origin));
        let sift = Sift::new(rows.len(), pieces.n_min);
        let sent = self.sift(sift, suspicion, go_on, |sink, piece| sink.copy_prices(&rows[piece]))?;
        let Some(found) = sent else { return Ok(false) };
        refused.extend(found.into_iter().map(|(row_idx, sqlstate)| (rows[row_idx].origin, sqlstate)));
        Ok(true)
    }

    fn send_metrics(
        &mut self,
        work: &Work<'_>,
        pieces: Pieces,
        refusal: Option<&Failure>,
        go_on: &mut dyn FnMut() -> bool,
        refused: &mut BTreeMap<Origin, String>,
    ) -> Result<bool, Failure> {
        let (mut sent, mut out) = (BTreeSet::new(), BTreeSet::new());
        let mut refusal = refusal;
        loop {
            // In the second round, those whose newer row for the same window was refused in the first, and so on.
            let mut rows = last_of_each_window(&work.decoded.metrics, &out);
            rows.retain(|row| !sent.contains(&row.origin));
            if rows.is_empty() {
                return Ok(true);
            }
            let place = sent.len() as i32;
            sent.extend(rows.iter().map(|row| row.origin));
            let named = |rows: &[&MetricRow<'_>], origin| rows.iter().position(|row| row.origin == origin);
            // The staging table has neither triggers nor keys, so that its refusals always have a name.
            let suspicion = match pieces.in_turn {
                true => None,
                false => Suspicion::of(refusal, false, |origin| named(&rows, origin)),
            };
            let copy =
                |sink: &mut Self, piece: Range<usize>| sink.copy_metrics(place + piece.start as i32, &rows[piece]);
            let copied = self.sift(Sift::new(rows.len(), pieces.n_min), suspicion, go_on, copy)?;
            let Some(mut found) = copied else { return Ok(false) };
            if pieces.in_turn {
                let staged: Vec<usize> = (0..rows.len()).filter(|row_idx| !found.contains_key(row_idx)).collect();
                let is_suspect = work.decoded.prices.is_empty();
                let suspicion = Suspicion::of(refusal, is_suspect, |origin| {
                    named(&rows, origin).and_then(|row_idx| staged.binary_search(&row_idx).ok())
                });
                let upsert = |sink: &mut Self, piece: Range<usize>| {
                    let at = |row_idx: usize| place + row_idx as i32;
                    sink.upsert(at(staged[piece.start])..at(staged[piece.end - 1]) + 1, piece.len())
                };
                let upserted = self.sift(Sift::new(staged.len(), pieces.n_min), suspicion, go_on, upsert)?;
                let Some(more) = upserted else { return Ok(false) };
                found.extend(more.into_iter().map(|(staged_idx, sqlstate)| (staged[staged_idx], sqlstate)));
            }
            out.extend(found.keys().map(|row_idx| rows[*row_idx].origin));
            refused.extend(found.into_iter().map(|(row_idx, sqlstate)| (rows[row_idx].origin, sqlstate)));
            refusal = None;
        }
    }

    /// Sends all rows that the sift asks for. `None` if `go_on` said no.
    fn sift(
        &mut self,
        mut sift: Sift,
        suspicion: Option<Suspicion>,
        go_on: &mut dyn FnMut() -> bool,
        mut send: impl FnMut(&mut Self, Range<usize>) -> Result<(), Refused>,
    ) -> Result<Option<RefusedRows>, Failure> {
        let mut sqlstates = RefusedRows::new();
        if let Some(Suspicion { row_idx, sqlstate }) = suspicion
            && sift.piece() == Some(0..sift.n_rows())
            // A single row without a name is asked again: COMMIT may have refused something else.
            && (row_idx.is_some() || sift.n_rows() > 1)
        {
            sqlstates.extend(sift.refused(row_idx).map(|row_idx| (row_idx, sqlstate)));
        }
        while let Some(piece) = sift.piece() {
            if !go_on() {
                return Ok(None);
            }
            let first = piece.start;
            match send(self, piece) {
                Ok(()) => {
                    self.savepoint(KEEP)?;
                    sift.taken();
                }
                Err(Refused { failure, row_idx }) if matches!(failure.fault, Fault::Record | Fault::UniqueKey) => {
                    self.savepoint(UNDO)?;
                    let culprit = sift.refused(row_idx.map(|row_idx| first + row_idx));
                    sqlstates.extend(culprit.map(|row_idx| (row_idx, failure.sqlstate.unwrap_or_default())));
                }
                Err(refused) => return Err(refused.failure),
            }
        }
        Ok(Some(sqlstates))
    }

    fn savepoint(&mut self, sql: &str) -> Result<(), Failure> {
        self.call("savepoint", "setting a savepoint", |client| client.batch_execute(sql))
    }
}

/// What is known about a table's rows because they were refused when they were sent whole.
struct Suspicion {
    /// The culprit, if it has a name.
    row_idx: Option<usize>,
    sqlstate: String,
}

impl Suspicion {
    /// A named row accuses its own table only, and no name whatever `is_suspect`.
    fn of(
        refusal: Option<&Failure>,
        is_suspect: bool,
        find: impl FnOnce(Origin) -> Option<usize>,
    ) -> Option<Suspicion> {
        let refusal = refusal?;
        let row_idx = match refusal.origin {
            Some(origin) => Some(find(origin)?),
            None if is_suspect => None,
            None => return None,
        };
        Some(Suspicion { row_idx, sqlstate: refusal.sqlstate.clone().unwrap_or_default() })
    }
}
