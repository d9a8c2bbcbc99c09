//! What the writers need of a database: one open transaction at a time, and the truth about what has been applied.
//!
//! Holds the proof that a transaction is durable, and the pure judgement of what a batch's offset rows say about it.
//! Knows no database client; `database` implements [`Sink`].

use crate::batch::{Batch, Epoch, Interval};
use crate::fault::Failure;
use crate::lane::Seq;
use crate::record::{NextOffset, TopicPartition};
use crate::work::Work;
use std::collections::BTreeMap;

/// The proof that a batch's transaction is in the database for good. Only an implementation of [`Sink`] inside this
/// crate can make one; it is used up by the tracker.
///
/// ```compile_fail,E0451
/// let durable = stock_db_writer::sink::Durable { seq: todo!(), intervals: vec![] };
/// ```
#[derive(Debug)]
#[must_use = "a durable batch that nobody settles holds back Kafka's offsets"]
pub struct Durable {
    seq: Seq,
    intervals: Vec<Interval>,
}

impl Durable {
    /// Called after COMMIT was answered, or after a locking read showed that it had been applied.
    pub(crate) fn witnessed(seq: Seq, batch: &Batch) -> Self {
        Durable { seq, intervals: batch.intervals().to_vec() }
    }

    /// The batch's place in the lane.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// What is durable.
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }
}

/// Why a COMMIT did not end well.
#[derive(Debug)]
pub enum CommitFailure {
    /// The server answered with an error: nothing was applied.
    NotApplied(Failure),
    /// No answer: the transaction may have been applied or not.
    InDoubt(Failure),
}

/// What the offset row of a partition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// Where reading resumes.
    pub next: NextOffset,
    /// The newest claim.
    pub epoch: Epoch,
    /// Who made it.
    pub owner: String,
}

/// How a batch is staged that can't be sent whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// Each piece goes all the way: it is upserted, and whatever could wait for COMMIT is checked. In the turn only.
    pub in_turn: bool,
    /// How many there are at least.
    pub n_min: usize,
}

/// A database as one writer sees it: at most one open transaction.
pub trait Sink {
    /// Begins a transaction and sends the rows and dead letters. Leaves the transaction open; on an error it is rolled
    /// back or its connection is given up. What is upserted waits for [`advance`](Self::advance). Rows that the tables'
    /// columns can't hold become dead letters of the work.
    fn stage(&mut self, work: &mut Work<'_>) -> Result<(), Failure>;

    /// The same piece by piece, until every row is in that PostgreSQL takes; the others become dead letters of the work.
    /// `refusal` is what the rows met when they were last sent, if they are the same still. Asks `go_on` between two
    /// pieces; `false`, and the transaction is rolled back, if it says no.
    fn stage_in_pieces(
        &mut self,
        work: &mut Work<'_>,
        pieces: Pieces,
        refusal: Option<&Failure>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Failure>;

    /// In the turn: upserts, unless the pieces have done that, and moves the offset rows under compare-and-set. `false` if any of them did not match;
    /// the transaction is open still and must be rolled back.
    fn advance(&mut self, work: &Work<'_>) -> Result<bool, Failure>;

    /// Commits the open transaction.
    fn commit(&mut self, seq: Seq, batch: &Batch) -> Result<Durable, CommitFailure>;

    /// Ends the open transaction, if any, without effect. Gives up the connection if that fails.
    fn rollback(&mut self);

    /// Reads the batch's offset rows under lock, in a transaction of its own, so that no doubtful transaction can
    /// still change them. A partition without a row is absent.
    fn truth(&mut self, batch: &Batch) -> Result<BTreeMap<TopicPartition, Truth>, Failure>;

    /// Gives up the connection, so that the next call makes a new one.
    fn disconnect(&mut self);
}

/// What the offset rows say about a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the database.
    Applied,
    /// It is not, and may be sent again.
    NotApplied,
    /// Somebody has claimed at least one of its partitions since.
    Fenced(Vec<(TopicPartition, Truth)>),
    /// The database is behind what it had confirmed.
    Rewound(TopicPartition, Option<NextOffset>),
    /// Some partitions say applied and some say not: no verdict.
    Mixed,
    /// A position inside the batch: nothing that this program does can lead there.
    Impossible(TopicPartition, NextOffset),
}

/// Judges a batch by its offset rows, read under lock. All partitions are judged together, because the batch is one
/// transaction.
pub fn judge(intervals: &[Interval], truth: &BTreeMap<TopicPartition, Truth>) -> Verdict {
    let mut fenced = Vec::new();
    let (mut applied, mut not_applied) = (0, 0);
    let (mut rewound, mut impossible) = (None, None);
    for interval in intervals {
        match truth.get(&interval.partition) {
            None => rewound = Some((interval.partition.clone(), None)),
            Some(row) if row.epoch > interval.epoch => fenced.push((interval.partition.clone(), row.clone())),
            // Epochs only rise, unless an older state of the database was restored.
            Some(row) if row.epoch < interval.epoch => rewound = Some((interval.partition.clone(), Some(row.next))),
            Some(row) if row.next >= interval.to => applied += 1,
            Some(row) if row.next == interval.from => not_applied += 1,
            Some(row) if row.next < interval.from => rewound = Some((interval.partition.clone(), Some(row.next))),
            Some(row) => impossible = Some((interval.partition.clone(), row.next)),
        }
    }
    if !fenced.is_empty() {
        return Verdict::Fenced(fenced);
    }
    match (impossible, rewound) {
        (Some((partition, next)), _) => Verdict::Impossible(partition, next),
        (None, Some((partition, next))) => Verdict::Rewound(partition, next),
        (None, None) if not_applied == 0 => Verdict::Applied,
        (None, None) if applied == 0 => Verdict::NotApplied,
        (None, None) => Verdict::Mixed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Written;

    fn interval(number: i32, from: i64, to: i64) -> Interval {
        let partition = TopicPartition::new("t", number);
        Interval { partition, from: NextOffset(from), to: NextOffset(to), epoch: Epoch(3), written: Written::Nothing }
    }

    fn verdict(rows: &[(i32, i64, i64)]) -> Verdict {
        let truth = rows.iter().map(|(number, next, epoch)| {
            let truth = Truth { next: NextOffset(*next), epoch: Epoch(*epoch), owner: "other".to_owned() };
            (TopicPartition::new("t", *number), truth)
        });
        judge(&[interval(0, 10, 20), interval(1, 5, 8)], &truth.collect())
    }

    #[test]
    fn all_partitions_at_their_end_is_applied() {
        assert_eq!(verdict(&[(0, 20, 3), (1, 8, 3)]), Verdict::Applied);
        assert_eq!(verdict(&[(0, 25, 3), (1, 8, 3)]), Verdict::Applied);
    }

    #[test]
    fn all_partitions_at_their_start_is_not_applied() {
        assert_eq!(verdict(&[(0, 10, 3), (1, 5, 3)]), Verdict::NotApplied);
    }

    #[test]
    fn partitions_that_contradict_each_other_give_no_verdict() {
        assert_eq!(verdict(&[(0, 20, 3), (1, 5, 3)]), Verdict::Mixed);
    }

    #[test]
    fn a_newer_claim_outweighs_everything() {
        assert!(matches!(verdict(&[(0, 20, 4), (1, 2, 3)]), Verdict::Fenced(lost) if lost.len() == 1));
    }

    #[test]
    fn a_position_below_the_start_or_no_row_is_a_rewind() {
        let partition = TopicPartition::new("t", 1);
        assert_eq!(verdict(&[(0, 20, 3), (1, 4, 3)]), Verdict::Rewound(partition.clone(), Some(NextOffset(4))));
        assert_eq!(verdict(&[(0, 20, 3)]), Verdict::Rewound(partition, None));
    }

    #[test]
    fn an_older_claim_is_a_rewind_too() {
        let partition = TopicPartition::new("t", 1);
        assert_eq!(verdict(&[(0, 10, 3), (1, 5, 2)]), Verdict::Rewound(partition, Some(NextOffset(5))));
    }

    #[test]
    fn a_position_inside_the_batch_is_impossible() {
        assert_eq!(verdict(&[(0, 15, 3), (1, 8, 3)]), Verdict::Impossible(TopicPartition::new("t", 0), NextOffset(15)));
    }
}
