//! What the process has done so far, counted by whoever does it and read by whoever shows it.
//!
//! Plain counters without locks.

use crate::work::Work;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How an in-doubt COMMIT was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// The server had applied it.
    Applied,
    /// It had not, and the batch was sent again.
    NotApplied,
    /// The batch was given up; what is true was read with the next claim.
    Discarded,
}

impl InDoubt {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            InDoubt::Applied => "applied",
            InDoubt::NotApplied => "not-applied",
            InDoubt::Discarded => "discarded",
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Stats {
    /// Durable batches.
    pub batches: AtomicU64,
    /// Durable records, whatever their fate.
    pub records: AtomicU64,
    /// Durable rows.
    pub rows: AtomicU64,
    /// Durable dead letters, by element.
    pub dead_letters: AtomicU64,
    /// Records skipped.
    pub skipped: AtomicU64,
    /// In-doubt COMMITs that had been applied.
    pub in_doubt_applied: AtomicU64,
    /// In-doubt COMMITs that had not.
    pub in_doubt_not_applied: AtomicU64,
    /// In-doubt COMMITs of batches that were given up.
    pub in_doubt_discarded: AtomicU64,
    /// Times the database was behind what it had confirmed.
    pub rewinds: AtomicU64,
    /// Partitions lost to another process's claim.
    pub fenced: AtomicU64,
    /// Times the head made the waiting writers give up their locks.
    pub yields: AtomicU64,
    /// Transactions that were tried again.
    pub retries: AtomicU64,
}

impl Stats {
    /// Counts a durable batch.
    pub fn durable(&self, work: &Work<'_>) {
        add(&self.batches, 1);
        for tally in work.tallies() {
            add(&self.records, tally.records());
            add(&self.rows, tally.rows);
            add(&self.dead_letters, tally.dead_letters);
            add(&self.skipped, tally.records_skipped);
        }
    }

    /// Counts a resolved COMMIT.
    pub fn resolved(&self, outcome: InDoubt) {
        let counter = match outcome {
            InDoubt::Applied => &self.in_doubt_applied,
            InDoubt::NotApplied => &self.in_doubt_not_applied,
            InDoubt::Discarded => &self.in_doubt_discarded,
        };
        add(counter, 1);
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// `key=value`, without the counters of trouble that did not happen.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (records, rows) = (of(&self.records), of(&self.rows));
        write!(f, "records={records} rows={rows} ")?;
        let (dead, skipped) = (of(&self.dead_letters), of(&self.skipped));
        write!(f, "dead_letters={dead} skipped={skipped} batches={}", of(&self.batches))?;
        let trouble = [
            ("retries", &self.retries),
            ("yields", &self.yields),
            ("commits_in_doubt_applied", &self.in_doubt_applied),
            ("commits_in_doubt_not_applied", &self.in_doubt_not_applied),
            ("commits_in_doubt_discarded", &self.in_doubt_discarded),
            ("rewinds", &self.rewinds),
            ("fenced", &self.fenced),
        ];
        for (name, counter) in trouble.map(|(name, counter)| (name, of(counter))) {
            if counter > 0 {
                write!(f, " {name}={counter}")?;
            }
        }
        Ok(())
    }
}
