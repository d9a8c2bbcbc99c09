//! How often one thing is said: a state when it begins and when it ends, but whatever comes again and again once in a while.
//!
//! Pure: the caller passes the time in.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// What has been said is not said again for so long.
pub const QUIET: Duration = Duration::from_secs(10);

/// When something was last said.
#[derive(Debug, Default)]
pub struct Said(Option<Instant>);

impl Said {
    /// Whether it may be said; it counts as said then.
    pub fn may(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

/// Whether a server is away. One that comes and goes is spoken of once in a while; one that stays away always is.
#[derive(Debug)]
pub struct Absence {
    what: &'static str,
    since: Option<Instant>,
    // This absence.
    is_said: bool,
    said: Said,
}

impl Absence {
    /// A server that is there.
    pub fn none(what: &'static str) -> Self {
        Absence { what, since: None, is_said: false, said: Said::default() }
    }

    /// Since when it is away.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Notes a failed attempt.
    pub fn away(&mut self, why: &dyn Display, now: Instant) {
        self.since.get_or_insert(now);
        if !self.is_said && self.said.may(now) {
            self.is_said = true;
            log::warn!("{} unreachable, retrying: {why}", self.what);
        }
    }

    /// Notes a success.
    pub fn back(&mut self, now: Instant) {
        if let Some(since) = self.since.take()
            && std::mem::take(&mut self.is_said)
        {
            log::info!(after_s = now.saturating_duration_since(since).as_secs(); "{} reachable again", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_again_until_it_was_quiet_for_a_while() {
        let (mut said, begun) = (Said::default(), Instant::now());
        assert!(said.may(begun) && !said.may(begun + QUIET / 2));
        assert!(said.may(begun + QUIET) && !said.may(begun + QUIET + QUIET / 2));
    }

    #[test]
    fn a_server_that_flaps_is_spoken_of_once_in_a_while_and_one_that_stays_away_always() {
        let (mut absence, begun) = (Absence::none("kafka"), Instant::now());
        let mut is_said_at = |seconds| {
            absence.away(&"refused", begun + Duration::from_secs(seconds));
            absence.is_said
        };
        assert!(is_said_at(0));
        absence.back(begun + Duration::from_secs(1));
        assert_eq!(absence.since(), None);
        let mut is_said_at = |seconds| {
            absence.away(&"refused", begun + Duration::from_secs(seconds));
            absence.is_said
        };
        assert!(!is_said_at(2) && !is_said_at(9) && is_said_at(11));
        assert_eq!(absence.since(), Some(begun + Duration::from_secs(2)));
    }
}
