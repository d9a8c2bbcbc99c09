//! The search for the rows that a database refuses, where it doesn't say which: what to send next.
//!
//! Pure: row numbers in, ranges out. What was refused together is halved; a row is blamed only when it was refused by
//! name or all alone, with every healthy row before it in place, so that rows which are at fault only together, or only
//! because they are many, cost no healthy one. With each culprit the pieces get smaller, as one n-th of all rows after
//! the n-th: a single one costs log₂ statements, and if all are bad no more than a few for each row are needed.

use std::collections::BTreeSet;
use std::ops::Range;

/// What is known about the rows of one table so far.
#[derive(Debug)]
pub struct Sift {
    n_rows: usize,
    // Into so many pieces at least.
    n_pieces: usize,
    // All rows before it are in, or refused.
    next: usize,
    // From `next` to here, at least one row is refused, or rows are that stand together.
    bad_to: Option<usize>,
    // How often the search has come to an end, at a culprit or at nothing.
    n_ends: usize,
    // May hold rows after `next`: those that were refused by name.
    refused: BTreeSet<usize>,
}

impl Sift {
    /// Nothing is known. `n_pieces` is how many pieces the rows are to be sent in at least.
    pub fn new(n_rows: usize, n_pieces: usize) -> Self {
        Sift { n_rows, n_pieces, next: 0, bad_to: None, n_ends: 0, refused: BTreeSet::new() }
    }

    /// What to send next; never empty. `None` when every row is in or refused.
    pub fn piece(&self) -> Option<Range<usize>> {
        let end = self.refused.range(self.next..).next().copied().unwrap_or(self.n_rows);
        let len = match self.bad_to {
            Some(bad_to) => (bad_to - self.next).div_ceil(2),
            None => self.n_rows.div_ceil(self.n_pieces.max(self.n_ends).max(1)),
        };
        let piece = self.next..end.min(self.next + len);
        (!piece.is_empty()).then_some(piece)
    }

    /// The piece is in.
    pub fn taken(&mut self) {
        let piece = self.piece().expect("a piece was sent");
        self.next = piece.end;
        if self.bad_to == Some(self.next) {
            // Its last row was taken alone, after the others: nothing of it was to blame.
            self.end_search();
        }
        self.pass_refused();
    }

    /// The piece was refused, for the row at this number if the database said so. The culprit, if it is known now.
    pub fn refused(&mut self, named: Option<usize>) -> Option<usize> {
        let piece = self.piece().expect("a piece was sent");
        let named = named.filter(|row| piece.contains(row));
        let culprit = named.or((piece.len() == 1).then_some(piece.start));
        match culprit {
            Some(row) => {
                self.refused.insert(row);
                self.end_search();
                self.pass_refused();
            }
            None => self.bad_to = Some(piece.end),
        }
        culprit
    }

    /// How many rows there are, whatever became of them.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn end_search(&mut self) {
        self.bad_to = None;
        self.n_ends += 1;
    }

    fn pass_refused(&mut self) {
        while self.refused.contains(&self.next) {
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that refuses a piece by what is in it, given what it has taken already.
    struct Server<F: Fn(&BTreeSet<usize>, &Range<usize>) -> bool> {
        refuses: F,
        n_statements: usize,
        rows_sent: usize,
        taken: BTreeSet<usize>,
    }

    impl<F: Fn(&BTreeSet<usize>, &Range<usize>) -> bool> Server<F> {
        fn new(refuses: F) -> Self {
            Server { refuses, n_statements: 0, rows_sent: 0, taken: BTreeSet::new() }
        }

        fn run(&mut self, n_rows: usize, n_pieces: usize, name: impl Fn(&Range<usize>) -> Option<usize>) -> Vec<usize> {
            let mut sift = Sift::new(n_rows, n_pieces);
            while let Some(piece) = sift.piece() {
                self.n_statements += 1;
                self.rows_sent += piece.len();
                if (self.refuses)(&self.taken, &piece) {
                    sift.refused(name(&piece));
                } else {
                    self.taken.extend(piece);
                    sift.taken();
                }
            }
            sift.refused.into_iter().collect()
        }
    }

    /// Beyond the one statement that clean rows need, and as a multiple of the rows; all unnamed.
    fn cost_of(n_rows: usize, bad: &BTreeSet<usize>) -> (usize, f64) {
        let mut server = Server::new(|_, piece| bad.range(piece.clone()).next().is_some());
        let refused = server.run(n_rows, 1, |_| None);
        assert_eq!(refused, bad.iter().copied().collect::<Vec<_>>());
        assert_eq!(server.taken.len() + bad.len(), n_rows);
        (server.n_statements - 1, server.rows_sent as f64 / n_rows as f64)
    }

    #[test]
    fn one_bad_row_costs_a_bisection_and_two_statements_wherever_it_is() {
        for n_rows in [1, 2, 3, 7, 100, 1024] {
            let limit = (n_rows as f64).log2().ceil() as usize + 2;
            for row in 0..n_rows {
                let (n_statements, _) = cost_of(n_rows, &BTreeSet::from([row]));
                assert!(n_statements <= limit, "row {row} of {n_rows}: {n_statements} statements");
            }
        }
    }

    #[test]
    fn one_bad_row_in_ten_thousand_sends_at_most_three_times_the_rows() {
        for row in (0..10_000).step_by(97) {
            let (n_statements, rows) = cost_of(10_000, &BTreeSet::from([row]));
            assert!(n_statements <= 16 && rows <= 3.01, "row {row}: {n_statements} statements, {rows} times the rows");
        }
    }

    #[test]
    fn many_bad_rows_cost_less_each() {
        let mut random = fastrand::Rng::with_seed(7);
        for n_bad in [2, 3, 10, 100, 1_000, 10_000] {
            for clustered in [false, true] {
                let mut bad = BTreeSet::new();
                while bad.len() < n_bad {
                    bad.insert(if clustered { 10_000 - n_bad + bad.len() } else { random.usize(0..10_000) });
                }
                let (n_statements, rows) = cost_of(10_000, &bad);
                assert!(n_statements <= n_bad * 16, "{n_bad} bad rows: {n_statements} statements");
                assert!(rows <= 4.0 + 2.0 * (n_bad as f64).ln(), "{n_bad} bad rows: {rows} times the rows");
            }
        }
    }

    #[test]
    fn a_row_that_is_named_costs_three_statements_at_most() {
        let bad: BTreeSet<usize> = (0..10_000).step_by(100).collect();
        let mut server = Server::new(|_, piece| bad.range(piece.clone()).next().is_some());
        let refused = server.run(10_000, 1, |piece| bad.range(piece.clone()).next().copied());
        assert_eq!(refused, bad.iter().copied().collect::<Vec<_>>());
        assert!(server.n_statements <= 3 * bad.len(), "{}", server.n_statements);
    }

    #[test]
    fn a_row_that_is_named_outside_what_was_sent_is_not_believed() {
        let mut server = Server::new(|_, piece| piece.contains(&3));
        assert_eq!(server.run(10, 1, |_| Some(77)), [3]);
    }

    #[test]
    fn of_rows_that_are_at_fault_together_the_later_one_is_refused() {
        let mut server = Server::new(|taken, piece| {
            let has = |row| taken.contains(&row) || piece.contains(&row);
            has(5) && has(9) && (piece.contains(&5) || piece.contains(&9))
        });
        assert_eq!(server.run(20, 1, |_| None), [9]);
    }

    #[test]
    fn rows_that_are_refused_only_because_they_are_many_all_get_in() {
        let mut server = Server::new(|_, piece| piece.len() > 1);
        assert!(server.run(1_000, 1, |_| None).is_empty());
        assert!(server.n_statements < 4_000, "{}", server.n_statements);
    }

    #[test]
    fn what_is_refused_by_chance_still_ends() {
        for seed in 0..200 {
            let random = std::cell::RefCell::new(fastrand::Rng::with_seed(seed));
            let mut server = Server::new(|_, _| random.borrow_mut().bool());
            let refused = server.run(300, 1, |piece| {
                let mut random = random.borrow_mut();
                random.bool().then(|| random.usize(piece.clone()))
            });
            assert_eq!(refused.len() + server.taken.len(), 300);
            assert!(refused.iter().all(|row| !server.taken.contains(row)));
        }
    }

    #[test]
    fn rows_can_be_sent_in_pieces_from_the_start() {
        let mut server = Server::new(|_, piece| piece.len() > 4);
        assert!(server.run(10, 3, |_| None).is_empty());
        assert_eq!(server.n_statements, 3);
    }
}
