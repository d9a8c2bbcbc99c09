//! One handle that tells every thread to stop, and the only way to wait.
//!
//! Relies on nothing but a lock, and a wait ends at once: tests/interleavings takes the file as it is.

use crate::clock;
use crate::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A stop request that every thread holds a copy of.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    changed: Condvar,
}

/// What is asked for; each is more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Asked {
    #[default]
    Nothing,
    Finish,
    Abort,
}

impl Shutdown {
    /// A handle that nobody has triggered yet.
    pub fn new() -> Self {
        Shutdown::default()
    }

    /// Asks every thread to finish what it has and end. Calling it again does nothing.
    pub fn trigger(&self) {
        self.ask(Asked::Finish);
    }

    /// Asks every thread to end and to finish nothing, because something is wrong.
    pub fn abort(&self) {
        self.ask(Asked::Abort);
    }

    /// Whether nothing is to be finished.
    pub fn is_abort(&self) -> bool {
        self.asked() == Asked::Abort
    }

    /// Whether somebody has triggered it.
    pub fn is_triggered(&self) -> bool {
        self.asked() != Asked::Nothing
    }

    /// Waits; returns `true` at once when a stop is asked for.
    pub fn sleep(&self, duration: Duration) -> bool {
        let deadline = clock::now() + duration;
        let mut asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            if *asked != Asked::Nothing || left.is_zero() {
                return *asked != Asked::Nothing;
            }
            asked = self.shared.changed.wait_timeout(asked, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn asked(&self) -> Asked {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, what: Asked) {
        let mut asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = what.max(*asked);
        self.shared.changed.notify_all();
    }
}
