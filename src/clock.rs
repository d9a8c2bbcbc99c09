//! What time it is: the time of day as Kafka counts it, and the monotonic time of whatever waits and gives up.
//!
//! The simulation runs all threads' work in one, and has a monotonic time of its own in it.

use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, for differences to the times of records. A clock that is set before that shows 0.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Now.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::NOW.get() {
        return now;
    }
    Instant::now()
}

/// How long ago that was.
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Waits for what comes through a channel, until then.
pub fn receive<T>(receiver: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
    #[cfg(test)]
    if simulated::NOW.get().is_some() {
        return simulated::receive(receiver, deadline);
    }
    receiver.recv_deadline(deadline)
}

/// This thread's own time, and what goes on in it while somebody waits.
#[cfg(test)]
pub mod simulated {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    thread_local! {
        pub(super) static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
        static MEANWHILE: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
    }

    /// Sets the time; `None` gives the system's back.
    pub fn set(now: Option<Instant>) {
        NOW.set(now);
    }

    /// Sets what is done again and again while somebody waits. It moves the time.
    pub fn set_meanwhile(meanwhile: Option<Rc<dyn Fn()>>) {
        MEANWHILE.set(meanwhile);
    }

    pub(super) fn receive<T>(receiver: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
        let meanwhile = MEANWHILE.with_borrow(Clone::clone);
        loop {
            if let Ok(received) = receiver.try_recv() {
                return Ok(received);
            }
            match &meanwhile {
                Some(meanwhile) if now() < deadline => meanwhile(),
                _ => return Err(RecvTimeoutError::Timeout),
            }
        }
    }
}
