//! One handle that tells every thread to stop, and the only way to wait.
//!
//! Relies on nothing. There is no flag to poll: the handle is a channel whose sender is dropped, so a wait ends at once.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A stop request that every thread holds a copy of.
#[derive(Debug, Clone)]
pub struct Shutdown {
    stop_rx: Receiver<()>,
    // Dropped by `trigger`; nothing is ever sent.
    stop_tx: Arc<Mutex<Option<Sender<()>>>>,
    is_abort: Arc<AtomicBool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown::new()
    }
}

impl Shutdown {
    /// A handle that nobody has triggered yet.
    pub fn new() -> Self {
        let (stop_tx, stop_rx) = bounded(0);
        Shutdown { stop_rx, stop_tx: Arc::new(Mutex::new(Some(stop_tx))), is_abort: Arc::default() }
    }

    /// Asks every thread to finish what it has and end. Calling it again does nothing.
    pub fn trigger(&self) {
        self.stop_tx.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks every thread to end and to finish nothing, because something is wrong.
    pub fn abort(&self) {
        self.is_abort.store(true, Ordering::Release);
        self.trigger();
    }

    /// Whether nothing is to be finished.
    pub fn is_abort(&self) -> bool {
        self.is_abort.load(Ordering::Acquire)
    }

    /// Whether somebody has triggered it.
    pub fn is_triggered(&self) -> bool {
        self.sleep(Duration::ZERO)
    }

    /// Waits; returns `true` at once when a stop is asked for.
    pub fn sleep(&self, duration: Duration) -> bool {
        matches!(self.stop_rx.recv_timeout(duration), Err(RecvTimeoutError::Disconnected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_wakes_every_copy_at_once() {
        let shutdown = Shutdown::new();
        let copy = shutdown.clone();
        let sleeper = std::thread::spawn(move || copy.sleep(Duration::from_secs(600)));
        shutdown.trigger();
        shutdown.trigger();
        assert!(sleeper.join().expect("the sleeper does not panic"));
        assert!(shutdown.is_triggered());
    }

    #[test]
    fn a_sleep_that_nobody_interrupts_says_so() {
        assert!(!Shutdown::new().sleep(Duration::from_millis(1)));
    }
}
