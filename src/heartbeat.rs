//! What a writer thread is doing and since when, for the watchdog.
//!
//! Pure synchronisation. A synchronous database client has no deadline for reads: somebody else must notice.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a writer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Waiting for a batch or for its turn: may last.
    Waiting,
    /// A call that only reads or can be repeated: may be cancelled.
    Calling(&'static str),
    /// COMMIT: never cancelled, because its answer is the truth we want.
    Committing,
}

/// Asks the server to cancel what the connection is running.
pub type Canceller = Box<dyn Fn() + Send>;

/// One writer's sign of life.
pub struct Heartbeat {
    /// The writer's name.
    pub name: String,
    state: Mutex<State>,
}

struct State {
    doing: Doing,
    since: Instant,
    cancelled: bool,
    canceller: Option<Canceller>,
}

impl Heartbeat {
    /// A writer that waits.
    pub fn new(name: impl Into<String>) -> Self {
        let state = State { doing: Doing::Waiting, since: Instant::now(), cancelled: false, canceller: None };
        Heartbeat { name: name.into(), state: Mutex::new(state) }
    }

    /// Notes what the writer begins to do now.
    pub fn enter(&self, doing: Doing) {
        let mut state = self.lock();
        (state.doing, state.since, state.cancelled) = (doing, Instant::now(), false);
    }

    /// Sets how the writer's connection is cancelled; `None` while it has none.
    pub fn set_canceller(&self, canceller: Option<Canceller>) {
        self.lock().canceller = canceller;
    }

    /// What the writer is doing, and for how long.
    pub fn state(&self) -> (Doing, Duration) {
        let state = self.lock();
        (state.doing, state.since.elapsed())
    }

    /// Cancels a call that has lasted longer than `limit`, once. `true` if it did.
    pub fn cancel_after(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        let overdue = matches!(state.doing, Doing::Calling(_)) && state.since.elapsed() > limit && !state.cancelled;
        if overdue && let Some(canceller) = &state.canceller {
            canceller();
            state.cancelled = true;
            return true;
        }
        false
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (doing, since) = self.state();
        write!(f, "{}: {doing:?} for {} ms", self.name, since.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn counted(heartbeat: &Heartbeat) -> Arc<AtomicU32> {
        let calls = Arc::new(AtomicU32::new(0));
        let counter = calls.clone();
        heartbeat.set_canceller(Some(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })));
        calls
    }

    #[test]
    fn a_long_call_is_cancelled_once() {
        let heartbeat = Heartbeat::new("writer-0");
        let calls = counted(&heartbeat);
        heartbeat.enter(Doing::Calling("copy"));
        assert!(!heartbeat.cancel_after(Duration::from_secs(600)));
        std::thread::sleep(Duration::from_millis(2));
        assert!(heartbeat.cancel_after(Duration::ZERO));
        assert!(!heartbeat.cancel_after(Duration::ZERO));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_commit_is_never_cancelled() {
        let heartbeat = Heartbeat::new("writer-0");
        let calls = counted(&heartbeat);
        heartbeat.enter(Doing::Committing);
        std::thread::sleep(Duration::from_millis(2));
        assert!(!heartbeat.cancel_after(Duration::ZERO));
        assert_eq!(calls.load(Ordering::Relaxed), 0);
    }
}
