//! The watchdog thread: notices a writer that a silent server keeps waiting.
//!
//! A synchronous client has no deadline for reads, and keepalive does not help where the peer's kernel still answers.
//! Ending the process is always safe: whoever starts next reads the truth.

use crate::exit::{ExitCode, Stop};
use crate::heartbeat::{Doing, Heartbeat};
use crate::shutdown::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches until a stop is asked for. A call longer than `soft` is cancelled; one longer than `hard` ends the process,
/// COMMIT too.
pub fn run(heartbeats: &[Arc<Heartbeat>], soft: Duration, hard: Duration, shutdown: &Shutdown) -> Result<(), Stop> {
    while !shutdown.sleep(INTERVAL) {
        for heartbeat in heartbeats {
            if heartbeat.cancel_after(soft) {
                log::warn!("{heartbeat:?}: cancelling it");
            }
            let (doing, since) = heartbeat.state();
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

#[cfg(test)]
mod tests {
    use super::*;

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
