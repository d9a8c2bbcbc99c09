//! What moving a pipeline's positions by hand changes, partition by partition.
//!
//! Pure. A position that goes back makes its records be read again; one that goes on passes over records, which is a gap
//! to be recorded. Of another log (its topic or its cluster was replaced) no offset means what it meant.

use crate::ledger::{LogIdentity, same_log};
use crate::record::{NextOffset, StartAt, TopicPartition};
use chrono::DateTime;
use std::str::FromStr;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The oldest record that is there.
    Earliest,
    /// Behind the newest record.
    Latest,
    /// This offset.
    Offset(i64),
    /// The first record at or after this time, in milliseconds since the epoch.
    TimeMs(i64),
}

impl To {
    /// In the words of a start; `None` for an offset.
    pub fn start_at(self) -> Option<StartAt> {
        match self {
            To::Earliest => Some(StartAt::Earliest),
            To::Latest => Some(StartAt::Latest),
            To::TimeMs(time_ms) => Some(StartAt::TimeMs(time_ms)),
            To::Offset(_) => None,
        }
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<To, String> {
        let offset = |text: &str| text.parse().ok().filter(|offset: &i64| *offset >= 0 && !text.starts_with('+'));
        match text {
            "earliest" => Ok(To::Earliest),
            "latest" => Ok(To::Latest),
            _ => match (offset(text), DateTime::parse_from_rfc3339(text)) {
                (Some(offset), _) => Ok(To::Offset(offset)),
                (None, Ok(time)) => Ok(To::TimeMs(time.timestamp_millis())),
                (None, Err(_)) => {
                    Err("must be earliest, latest, an offset, or a time like 2024-01-02T15:04:05Z".to_owned())
                }
            },
        }
    }
}

/// Where a partition is to be, and the log that it is in now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The partition.
    pub partition: TopicPartition,
    /// Where reading resumes.
    pub to: NextOffset,
    /// The log.
    pub identity: LogIdentity,
    /// Its oldest offset.
    pub start: NextOffset,
    /// Its end.
    pub end: NextOffset,
}

/// A topic's log as the brokers have it, and where its partitions are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The partitions that are meant, by number.
    pub targets: Vec<Target>,
    /// How many the topic has.
    pub n_partitions: i32,
}

/// What changes for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The partition.
    pub partition: TopicPartition,
    /// Where it stood; `None` if the pipeline has not begun with it.
    pub from: Option<NextOffset>,
    /// Where it will stand.
    pub to: NextOffset,
    /// Its topic or cluster is another one than was followed.
    pub is_other_log: bool,
    /// The topic that is there now has fewer partitions: this one's position is removed.
    pub is_gone: bool,
    /// Offsets that are read again, from the target on.
    pub n_again: u64,
    /// Offsets that are passed over: from the first to before the second.
    pub gap: Option<(NextOffset, NextOffset)>,
    /// Dead letters of records from here on can't come again: the records are not in this log.
    pub unrepeatable: NextOffset,
}

/// Compares where a partition stands with where it is to be.
pub fn effect(standing: Option<(NextOffset, &LogIdentity)>, target: &Target) -> Effect {
    let Target { partition, to, identity, start, end } = target;
    let is_other_log = standing.is_some_and(|(_, followed)| same_log(&partition.topic, followed, identity).is_err());
    let from = standing.map(|(next, _)| next);
    let (n_again, passed_from) = match from {
        // Where a pipeline begins is its start, and no gap.
        None => (0, *to),
        Some(_) if is_other_log => (0, *start),
        // What was cut off the log is not read again.
        Some(from) => ((*end).min(from).0 - to.0, from),
    };
    Effect {
        partition: partition.clone(),
        from,
        to: *to,
        is_other_log,
        is_gone: false,
        n_again: u64::try_from(n_again).unwrap_or(0),
        gap: (passed_from < *to).then_some((passed_from, *to)),
        unrepeatable: if is_other_log { *to } else { *end },
    }
}

/// A partition that the topic has no more: only one that was deleted and created again can have lost it. A partition of
/// that number that is added later begins at its first record.
pub fn gone(partition: TopicPartition, from: NextOffset) -> Effect {
    Effect {
        partition,
        from: Some(from),
        to: NextOffset(0),
        is_other_log: true,
        is_gone: true,
        n_again: 0,
        gap: None,
        unrepeatable: NextOffset(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(topic_id: u8) -> LogIdentity {
        LogIdentity { cluster_id: Some("c".to_owned()), topic_id: Some([topic_id; 16]) }
    }

    /// A log that holds the offsets from 10 to before 100.
    fn target(to: i64) -> Target {
        Target {
            partition: TopicPartition::new("t", 0),
            to: NextOffset(to),
            identity: identity(1),
            start: NextOffset(10),
            end: NextOffset(100),
        }
    }

    fn of(from: i64, to: i64) -> (u64, Option<(i64, i64)>) {
        let effect = effect(Some((NextOffset(from), &identity(1))), &target(to));
        assert!(!effect.is_other_log && effect.unrepeatable == NextOffset(100));
        (effect.n_again, effect.gap.map(|(from, to)| (from.0, to.0)))
    }

    #[test]
    fn back_is_read_again_and_forward_is_a_gap() {
        assert_eq!(of(50, 20), (30, None));
        assert_eq!(of(50, 80), (0, Some((50, 80))));
        assert_eq!(of(50, 50), (0, None));
    }

    #[test]
    fn what_retention_took_is_a_gap() {
        assert_eq!(of(3, 10), (0, Some((3, 10))));
    }

    #[test]
    fn what_was_cut_off_is_not_read_again() {
        assert_eq!(of(130, 90), (10, None));
        assert_eq!(of(130, 100), (0, None));
    }

    #[test]
    fn in_another_log_no_offset_means_what_it_meant() {
        let other = |to| effect(Some((NextOffset(50), &identity(2))), &target(to));
        assert!(other(10).is_other_log);
        assert_eq!((other(10).n_again, other(10).gap), (0, None));
        assert_eq!(other(30).gap, Some((NextOffset(10), NextOffset(30))));
        assert_eq!(other(30).unrepeatable, NextOffset(30));
    }

    #[test]
    fn of_a_partition_that_is_gone_nothing_can_be_read_again() {
        let effect = gone(TopicPartition::new("t", 7), NextOffset(50));
        assert!(effect.is_gone && effect.is_other_log);
        assert_eq!((effect.n_again, effect.gap, effect.unrepeatable), (0, None, NextOffset(0)));
    }

    #[test]
    fn a_start_is_no_gap() {
        let effect = effect(None, &target(70));
        assert_eq!((effect.from, effect.n_again, effect.gap), (None, 0, None));
    }

    #[test]
    fn targets_are_words_offsets_and_times() {
        assert_eq!("earliest".parse(), Ok(To::Earliest));
        assert_eq!("latest".parse(), Ok(To::Latest));
        assert_eq!("0".parse(), Ok(To::Offset(0)));
        assert_eq!("9223372036854775807".parse(), Ok(To::Offset(i64::MAX)));
        assert_eq!("2024-01-02T16:04:05.5+01:00".parse(), Ok(To::TimeMs(1_704_207_845_500)));
        for wrong in ["", "-1", "+1", "1e3", "9223372036854775808", "yesterday", "2024-01-02", "2024-01-02T15:04:05"] {
            assert!(wrong.parse::<To>().is_err(), "{wrong}");
        }
    }
}
