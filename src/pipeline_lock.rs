//! Whether this process still holds the pipeline's lock, as far as it knows.
//!
//! The claimer's session holds the lock and confirms it again and again; a writer commits only on a fresh word. Two
//! processes that both believe in the lock would still fence each other by their claims: this keeps it from coming to that.

use crate::clock;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a confirmation may be: some times the claimer's interval.
const CONFIRMED_FOR: Duration = Duration::from_secs(5);

/// The pipeline's lock.
#[derive(Debug)]
pub struct PipelineLock {
    confirmed_at: Mutex<Instant>,
}

impl PipelineLock {
    /// A lock that was taken just now.
    pub fn taken() -> Self {
        PipelineLock { confirmed_at: Mutex::new(clock::now()) }
    }

    /// The session that holds it was there a moment ago.
    pub fn confirm(&self) {
        *self.confirmed_at.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
    }

    /// Whether it was confirmed lately, and after the writer's own connection was lost, if it was: then the session
    /// that holds the lock may have been lost as well.
    pub fn is_held(&self, now: Instant, connection_lost_at: Option<Instant>) -> bool {
        let confirmed_at = *self.confirmed_at.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(confirmed_at) < CONFIRMED_FOR
            && connection_lost_at.is_none_or(|lost_at| confirmed_at > lost_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_grows_old_and_a_lost_connection_outdates_it() {
        let lock = PipelineLock::taken();
        let lost_at = Instant::now();
        assert!(lock.is_held(lost_at, None));
        assert!(!lock.is_held(lost_at + CONFIRMED_FOR * 2, None));
        assert!(!lock.is_held(lost_at, Some(lost_at)));
        std::thread::sleep(Duration::from_millis(1));
        lock.confirm();
        assert!(lock.is_held(Instant::now(), Some(lost_at)));
    }
}
