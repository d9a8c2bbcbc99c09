//! A server that stays away: said once when it goes, once when it is back, and an end to the patience.
//!
//! Shared by all threads that speak to the server, so that a restart is two log lines and not two for each thread.

use crate::exit::{ExitCode, Stop};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether one server is away, and since when.
#[derive(Debug)]
pub struct Outage {
    /// "database" or "kafka".
    what: &'static str,
    // `None`: for ever.
    limit: Option<Duration>,
    away: AtomicBool,
    since: Mutex<Option<Instant>>,
}

impl Outage {
    /// A server that is there. After `limit` of absence [`away`](Self::away) says to stop; `None`: never.
    pub fn new(what: &'static str, limit: Option<Duration>) -> Self {
        Outage { what, limit, away: AtomicBool::new(false), since: Mutex::new(None) }
    }

    /// How long it may stay away; `None`: for ever.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Notes a failed attempt.
    pub fn away(&self, why: &dyn Display) -> Result<(), Stop> {
        let what = self.what;
        let mut since = self.lock();
        let Some(since) = *since else {
            *since = Some(Instant::now());
            self.away.store(true, Ordering::Release);
            log::warn!("{what} unreachable, retrying: {why}");
            return Ok(());
        };
        match self.limit {
            Some(limit) if since.elapsed() >= limit => {
                let message = format!("{what} stayed away for {} s (retry.max_outage_s): {why}", limit.as_secs());
                Err(Stop::new(ExitCode::ServerAway, message))
            }
            _ => Ok(()),
        }
    }

    /// Notes a success.
    pub fn back(&self) {
        if self.away.load(Ordering::Acquire)
            && let Some(since) = self.lock().take()
        {
            self.away.store(false, Ordering::Release);
            log::info!("{} reachable again after_s={}", self.what, since.elapsed().as_secs());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_after_the_limit_and_starts_over_with_a_success() {
        let outage = Outage::new("database", Some(Duration::ZERO));
        assert_eq!(outage.away(&"refused"), Ok(()));
        assert_eq!(outage.away(&"refused").map_err(|stop| stop.code), Err(ExitCode::ServerAway));
        outage.back();
        assert_eq!(outage.away(&"refused"), Ok(()));
    }

    #[test]
    fn without_a_limit_patience_never_ends() {
        let outage = Outage::new("database", None);
        assert!((0..100).all(|_| outage.away(&"refused").is_ok()));
    }
}
