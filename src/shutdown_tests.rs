//! The stop request, by ordinary threads. Beside it and not inside: tests/interleavings takes the file as it is.

use super::shutdown::Shutdown;
use std::time::Duration;

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

#[test]
fn an_abort_is_not_taken_back() {
    let shutdown = Shutdown::new();
    shutdown.abort();
    shutdown.trigger();
    assert!(shutdown.is_abort() && shutdown.is_triggered());
}
