//! Warnings and errors of one cause, which come once in a while only, however often it strikes.

use super::line;
use crate::quiet::QUIET;
use log::{Level, Record};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// With more causes than that, the oldest are forgotten.
const CAUSES_MAX: usize = 1_000;

/// When which cause was last said, and how often it has come since.
#[derive(Debug)]
pub struct Repeats(Mutex<BTreeMap<String, (Instant, u64)>>);

impl Repeats {
    /// Nothing was said.
    pub const fn new() -> Self {
        Repeats(Mutex::new(BTreeMap::new()))
    }

    /// Whether a line is to be said: `Some` with how many like it were left out before it.
    pub fn admit(&self, record: &Record<'_>, now: Instant) -> Option<u64> {
        match record.level() {
            Level::Error | Level::Warn => self.admit_cause(cause(record), now),
            _ => Some(0),
        }
    }

    fn admit_cause(&self, cause: String, now: Instant) -> Option<u64> {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if causes.len() >= CAUSES_MAX {
            causes.retain(|_, (said_at, _)| now.saturating_duration_since(*said_at) < QUIET);
        }
        match causes.get_mut(&cause) {
            Some((said_at, left_out)) if now.saturating_duration_since(*said_at) < QUIET => {
                *left_out += 1;
                None
            }
            Some(known) => Some(std::mem::replace(known, (now, 0)).1),
            None => {
                causes.insert(cause, (now, 0));
                Some(0)
            }
        }
    }
}

/// What a line says without its numbers; each partition and each topic has causes of its own.
fn cause(record: &Record<'_>) -> String {
    let mut cause: String = line::text(record).chars().filter(|c| !c.is_ascii_digit()).collect();
    for name in ["partition", "topic"] {
        if let Some(value) = record.key_values().get(name.into()) {
            cause.push_str(&format!(" {value}"));
        }
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(repeats: &Repeats, level: Level, partition: &str, seq: u64, now: Instant) -> Option<u64> {
        let fields: [(&str, log::kv::Value<'_>); 2] = [("partition", partition.into()), ("seq", seq.into())];
        let text = format!("fenced {seq}");
        let arguments = format_args!("{text}");
        repeats.admit(&Record::builder().level(level).args(arguments).key_values(&fields).build(), now)
    }

    #[test]
    fn one_cause_is_said_once_in_a_while_with_how_often_it_came() {
        let (repeats, now) = (Repeats::new(), Instant::now());
        assert_eq!(admitted(&repeats, Level::Warn, "t/0", 1, now), Some(0));
        assert_eq!(admitted(&repeats, Level::Warn, "t/0", 2, now + QUIET / 2), None);
        assert_eq!(admitted(&repeats, Level::Warn, "t/1", 3, now + QUIET / 2), Some(0), "another partition");
        assert_eq!(admitted(&repeats, Level::Warn, "t/0", 4, now + QUIET), Some(1));
        assert_eq!(admitted(&repeats, Level::Warn, "t/0", 5, now + QUIET * 3), Some(0));
    }

    #[test]
    fn what_is_no_warning_is_always_said() {
        let (repeats, now) = (Repeats::new(), Instant::now());
        assert!((0..10).all(|seq| admitted(&repeats, Level::Info, "t/0", seq, now) == Some(0)));
    }
}
