//! A server that stays away: said once when it goes, once when it is back, and an end to the patience. One that comes and
//! goes all the time is said once in a while.
//!
//! Shared by all threads that speak to the server, so that a restart is two log lines and not two for each thread.

use crate::clock;
use crate::exit::{ExitCode, Stop};
use crate::fault::{Failure, Fault};
use crate::quiet::Said;
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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    // Of all outages: a server that comes and goes is spoken of once in a while.
    unreachable: Said,
    unusable: Said,
}

/// One outage. It may begin as one thing and go on as another; each is said once.
#[derive(Debug)]
struct Current {
    since: Instant,
    said_unreachable: bool,
    said_unusable: bool,
}

/// What keeps us from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No answer.
    Unreachable,
    /// An answer, and it is no.
    Unusable,
}

impl Outage {
    /// A server that is there. After `limit` of absence [`away`](Self::away) says to stop; `None`: never.
    pub fn new(what: &'static str, limit: Option<Duration>) -> Self {
        Outage { what, limit, away: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Whether the last attempt has failed.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// How long it may stay away; `None`: for ever.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Notes a failed attempt at a server that gave no answer.
    pub fn away(&self, why: &dyn Display) -> Result<(), Stop> {
        self.note(Kind::Unreachable, why)
    }

    /// Notes a failed attempt at the database: it may have answered, and then it is not unreachable.
    pub fn failed(&self, failure: &Failure) -> Result<(), Stop> {
        match failure.fault {
            Fault::Connection => self.note(Kind::Unreachable, failure),
            _ => self.note(Kind::Unusable, failure),
        }
    }

    fn note(&self, kind: Kind, why: &dyn Display) -> Result<(), Stop> {
        let what = self.what;
        let now = clock::now();
        let mut state = self.lock();
        let State { current, unreachable, unusable } = &mut *state;
        let is_new = current.is_none();
        let current =
            current.get_or_insert_with(|| Current { since: now, said_unreachable: false, said_unusable: false });
        self.away.store(true, Ordering::Release);
        let (is_said, said, words) = match kind {
            Kind::Unreachable => (&mut current.said_unreachable, unreachable, "unreachable"),
            Kind::Unusable => (&mut current.said_unusable, unusable, "answers, but can't be used"),
        };
        if !*is_said && said.may(now) {
            *is_said = true;
            log::warn!("{what} {words}, retrying: {why}");
        }
        match self.limit {
            Some(limit) if !is_new && clock::since(current.since) >= limit => {
                let words = match kind {
                    Kind::Unreachable => "stayed away",
                    Kind::Unusable => "could not be used",
                };
                let message = format!("{what} {words} for {} s (retry.max_outage_s): {why}", limit.as_secs());
                Err(Stop::new(ExitCode::ServerAway, message))
            }
            _ => Ok(()),
        }
    }

    /// Notes a success.
    pub fn back(&self) {
        if self.away.load(Ordering::Acquire)
            && let Some(Current { since, said_unreachable, said_unusable }) = self.lock().current.take()
        {
            self.away.store(false, Ordering::Release);
            let words = if said_unreachable { "reachable again" } else { "can be used again" };
            if said_unreachable || said_unusable {
                log::info!(after_s = clock::since(since).as_secs(); "{} {words}", self.what);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_server_that_answers_did_not_stay_away() {
        let outage = Outage::new("database", Some(Duration::ZERO));
        let failed = |fault| {
            let message = "planned".to_owned();
            outage.failed(&Failure { fault, sqlstate: None, message, origin: None }).map_err(|stop| stop.message)
        };
        assert_eq!(failed(Fault::Schema), Ok(()));
        let unusable = "database could not be used for 0 s (retry.max_outage_s): planned";
        for fault in [Fault::Schema, Fault::Permission, Fault::Resource, Fault::WrongNode] {
            assert_eq!(failed(fault), Err(unusable.to_owned()));
        }
        let unreachable = "database stayed away for 0 s (retry.max_outage_s): planned";
        assert_eq!(failed(Fault::Connection), Err(unreachable.to_owned()));
    }
}
