//! The watchdog thread: notices a writer that a silent server keeps waiting.
//!
//! A synchronous client has no deadline for reads, and keepalive does not help where the peer's kernel still answers.
//! Ending the process is always safe: whoever starts next reads the truth.

use crate::exit::{ExitCode, Stop};
use crate::heartbeat::{Doing, Heartbeat};
use crate::shutdown::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A look that comes so much later than the last one was held up by more than a busy machine.
const BREAK_MIN: Duration = Duration::from_secs(5);

/// Watches until a stop is asked for. A call longer than `soft` is cancelled; one longer than `hard` ends the process,
/// COMMIT too.
pub fn run(heartbeats: &[Arc<Heartbeat>], soft: Duration, hard: Duration, shutdown: &Shutdown) -> Result<(), Stop> {
    let mut awake = Awake::new(Instant::now());
    while !shutdown.sleep(INTERVAL) {
        let awake_for = awake.looked(Instant::now());
        for heartbeat in heartbeats {
            if awake_for > soft && heartbeat.cancel_after(soft) {
                log::warn!("{heartbeat:?}: cancelling it");
            }
            let (doing, since) = heartbeat.state();
            let since = since.min(awake_for);
            if doing != Doing::Waiting && since > hard {
                log::error!("{heartbeats:?}");
                let message = format!(
                    "{}: the database has not answered for {} s; start again, nothing is lost",
                    heartbeat.name,
                    since.as_secs()
                );
                return Err(Stop::new(ExitCode::TryLater, message));
            }
        }
    }
    Ok(())
}

/// Since when this process runs without a break: one that was stopped, or a machine that slept, must not take its own
/// silence for the server's.
struct Awake {
    since: Instant,
    looked_at: Instant,
}

impl Awake {
    fn new(now: Instant) -> Self {
        Awake { since: now, looked_at: now }
    }

    /// Notes a look; how long it has run by now.
    fn looked(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.looked_at) > BREAK_MIN {
            self.since = now;
        }
        self.looked_at = now;
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_is_not_counted() {
        let begun = Instant::now();
        let (mut awake, at) = (Awake::new(begun), |seconds| begun + Duration::from_secs(seconds));
        assert_eq!(awake.looked(at(1)), Duration::from_secs(1));
        assert_eq!(awake.looked(at(5)), Duration::from_secs(5));
        assert_eq!(awake.looked(at(600)), Duration::ZERO);
        assert_eq!(awake.looked(at(601)), Duration::from_secs(1));
    }

    #[test]
    fn a_silent_commit_ends_the_process_with_try_later() {
        let heartbeat = Arc::new(Heartbeat::new("writer-0"));
        heartbeat.enter(Doing::Committing);
        let stop = run(&[heartbeat], Duration::ZERO, Duration::ZERO, &Shutdown::new()).expect_err("it is overdue");
        assert_eq!(stop.code, ExitCode::TryLater);
    }

    #[test]
    fn a_waiting_writer_is_left_alone() {
        let (heartbeat, shutdown) = (Arc::new(Heartbeat::new("writer-0")), Shutdown::new());
        let watch = {
            let shutdown = shutdown.clone();
            std::thread::spawn(move || run(&[heartbeat], Duration::ZERO, Duration::ZERO, &shutdown))
        };
        std::thread::sleep(INTERVAL + Duration::from_millis(300));
        shutdown.trigger();
        assert_eq!(watch.join().expect("no panic"), Ok(()));
    }
}
