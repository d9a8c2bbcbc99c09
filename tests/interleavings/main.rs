//! The turnstile and the stop request under every order in which threads can come to their locks.
//!
//! These are the files of the worker itself, with other locks and another clock below them: a scheduler runs one thread at a time
//! and chooses the next one at each of them. Its waits never time out, so that a lost wake-up is a deadlock that it reports.
//! STOCK_DB_WRITER_TEST_SIZE=long tries many more.

#[path = "../../src"]
#[allow(dead_code, reason = "the worker uses the rest of it")]
mod worker {
    pub mod lane;
    pub mod shutdown;
}

mod sync {
    pub use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub use std::sync::PoisonError;
}

mod clock {
    /// Nothing is ever late here.
    pub fn now() -> std::time::Instant {
        static BEGUN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        *BEGUN
    }
}

use shuttle::sync::Mutex;
use shuttle::thread;
use std::sync::Arc;
use std::time::Duration;
use worker::lane::{Lane, Passage, Seq};
use worker::shutdown::Shutdown;

const LONG: Duration = Duration::from_secs(600);

/// Runs `work` in very many orders.
fn in_every_order(work: impl Fn() + Send + Sync + 'static) {
    let n_orders = match std::env::var("STOCK_DB_WRITER_TEST_SIZE").as_deref() {
        Ok("long") => 500_000,
        _ => 20_000,
    };
    // Few changes of thread at the worst places find most; chance finds the rest.
    let work = Arc::new(work);
    let again = work.clone();
    shuttle::check_pct(move || again(), n_orders, 3);
    shuttle::check_random(move || work(), n_orders);
}

/// What a writer does with one batch. `true` if it passed.
fn write(lane: &Lane, seq: Seq, meets_a_lock: bool, passed: &Mutex<Vec<u64>>) -> bool {
    loop {
        if !lane.wait_to_start(seq) {
            return false;
        }
        if meets_a_lock && lane.is_head(seq) {
            lane.yield_to(seq);
        }
        match lane.wait_for_turn(seq, LONG) {
            Passage::Turn => {
                passed.lock().expect("nobody panics").push(seq.0);
                lane.advance(seq);
                return true;
            }
            Passage::Cancelled => return false,
            Passage::Yield | Passage::HeldTooLong => {}
        }
    }
}

#[test]
fn batches_pass_in_their_order_and_nobody_waits_for_ever() {
    in_every_order(|| {
        let (lane, passed) = (Arc::new(Lane::new()), Arc::new(Mutex::new(Vec::new())));
        let writers: Vec<_> = (0..4)
            .map(|seq| {
                let (lane, passed) = (lane.clone(), passed.clone());
                thread::spawn(move || assert!(write(&lane, Seq(seq), seq % 2 == 0, &passed)))
            })
            .collect();
        for writer in writers {
            writer.join().expect("no writer panics");
        }
        assert_eq!(*passed.lock().expect("nobody panics"), [0, 1, 2, 3]);
    });
}

/// Two writers take what comes, as from a channel, while the consumer stops the lane and goes on behind.
#[test]
fn a_stopped_lane_lets_everybody_go_and_takes_what_comes_after() {
    in_every_order(|| {
        let (lane, passed) = (Arc::new(Lane::new()), Arc::new(Mutex::new(Vec::new())));
        let next = Arc::new(Mutex::new(0));
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (lane, passed, next) = (lane.clone(), passed.clone(), next.clone());
                thread::spawn(move || {
                    loop {
                        let seq = {
                            let mut next = next.lock().expect("nobody panics");
                            *next += 1;
                            *next - 1
                        };
                        if seq >= 6 {
                            return;
                        }
                        write(&lane, Seq(seq), seq == 1, &passed);
                    }
                })
            })
            .collect();
        lane.stop_below(Seq(3));
        for writer in writers {
            writer.join().expect("no writer panics");
        }
        let passed = passed.lock().expect("nobody panics");
        // One of those before may be in COMMIT when the lane is stopped; what it does then is fenced, and nobody waits for it.
        let (before, after): (Vec<u64>, Vec<u64>) = passed.iter().partition(|seq| **seq < 3);
        assert!(before.is_sorted(), "{passed:?}");
        assert_eq!(after, [3, 4, 5], "{passed:?}");
    });
}

#[test]
fn whoever_pauses_is_woken_by_a_stop() {
    in_every_order(|| {
        let lane = Arc::new(Lane::new());
        let sleepers: Vec<_> = (0..3)
            .map(|seq| {
                let lane = lane.clone();
                thread::spawn(move || assert!(lane.sleep(Seq(seq), LONG)))
            })
            .collect();
        lane.stop_below(Seq(3));
        for sleeper in sleepers {
            sleeper.join().expect("no sleeper panics");
        }
    });
}

#[test]
fn a_stop_reaches_everybody_who_waits_or_is_about_to() {
    in_every_order(|| {
        let shutdown = Shutdown::new();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let shutdown = shutdown.clone();
                thread::spawn(move || assert!(shutdown.sleep(LONG) && shutdown.is_triggered()))
            })
            .collect();
        let second = {
            let shutdown = shutdown.clone();
            thread::spawn(move || shutdown.abort())
        };
        shutdown.trigger();
        for thread in waiting.into_iter().chain([second]) {
            thread.join().expect("nobody panics");
        }
        assert!(shutdown.is_abort(), "whichever came first");
    });
}

/// As the supervisor ends: it stops the lane and asks for a stop; a writer that pauses, one that waits for its turn and a
/// thread that only sleeps all end.
#[test]
fn all_threads_end_when_the_lane_is_stopped_and_a_stop_is_asked_for() {
    in_every_order(|| {
        let (lane, shutdown, passed) = (Arc::new(Lane::new()), Shutdown::new(), Arc::new(Mutex::new(Vec::new())));
        let sleeper = {
            let shutdown = shutdown.clone();
            thread::spawn(move || assert!(shutdown.sleep(LONG)))
        };
        let pausing = {
            let lane = lane.clone();
            thread::spawn(move || assert!(lane.sleep(Seq(0), LONG)))
        };
        let waiting = {
            let lane = lane.clone();
            thread::spawn(move || assert!(!write(&lane, Seq(1), true, &passed)))
        };
        shutdown.trigger();
        lane.stop_below(Seq(2));
        for thread in [sleeper, pausing, waiting] {
            thread.join().expect("nobody panics");
        }
    });
}

/// The scheduler finds what it is there to find.
#[test]
#[should_panic(expected = "deadlock")]
fn a_wake_up_that_is_lost_is_found() {
    shuttle::check_random(
        || {
            let lane = Arc::new(Lane::new());
            let waiting = {
                let lane = lane.clone();
                thread::spawn(move || lane.wait_for_turn(Seq(1), LONG))
            };
            // Nobody advances.
            let _ = waiting.join();
        },
        100,
    );
}
