//! What every end-to-end test stands on.
//!
//! A test takes a [`Stage`]: topics, a PostgreSQL schema, a pipeline and a group of its own on the servers that
//! `dev/test` has started. It produces records that carry unique numbers, runs the real binary as a [`Worker`], and
//! compares what is in the tables with what it sent. Nothing here knows the worker's code; names of settings, tables and
//! log lines are all it relies on.

pub mod audit;
pub mod audited;
pub mod broker;
pub mod certificates;
pub mod checker;
pub mod cluster;
pub mod corpus;
pub mod ledger;
pub mod matrix;
pub mod producer;
pub mod proxy;
pub mod scrape;
pub mod secure_broker;
pub mod servers;
pub mod stage;
pub mod worker;

pub use proxy::{Fault, Proxy};
pub use servers::servers;
pub use stage::Stage;
pub use worker::{Invocation, Worker};

use std::thread;
use std::time::{Duration, Instant};

/// For what takes seconds on an idle machine. A limit, never a measure.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How long a test waits between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `probe` is true; panics with `what` at the limit.
pub fn eventually(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    eventually_some(what, limit, || probe().then_some(()));
}

/// Waits until `probe` has an answer; panics with `what` at the limit.
pub fn eventually_some<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        thread::sleep(LOOK);
    }
}

/// Whether the full sizes are asked for: STOCK_DB_WRITER_TEST_SIZE=long.
pub fn long() -> bool {
    match std::env::var("STOCK_DB_WRITER_TEST_SIZE").as_deref() {
        Ok("long") => true,
        Err(_) | Ok("" | "short") => false,
        Ok(other) => panic!("STOCK_DB_WRITER_TEST_SIZE must be short or long, is {other}"),
    }
}

/// One size for everyday, one for the full run.
pub fn size(short: u64, full: u64) -> u64 {
    if long() { full } else { short }
}

/// Random numbers that can be had again: STOCK_DB_WRITER_TEST_SEED sets the seed, which is printed.
pub fn random(test: &str) -> fastrand::Rng {
    let seed = match std::env::var("STOCK_DB_WRITER_TEST_SEED") {
        Ok(text) => text.parse().expect("STOCK_DB_WRITER_TEST_SEED must be a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("{test}: STOCK_DB_WRITER_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
