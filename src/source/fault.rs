//! One table of Kafka's faults: what each error code of its protocol means for the one who reads. The default is to
//! stop.
//!
//! Pure, and the same for every client: numbers in, a [`Meaning`] out.
//! <https://kafka.apache.org/43/design/protocol/#protocol_error_codes>

use crate::exit::{ExitCode, Stop};
use std::fmt;

/// Why Kafka did not answer as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceFault {
    /// No broker answers: try again.
    Away(String),
    /// A topic does not exist (yet).
    MissingTopic(String),
    /// Not allowed, or wrong credentials.
    Denied(String),
    /// The settings can't work.
    Config(String),
    /// Another process has taken our place in the group.
    Replaced(String),
    /// What the log holds can't be read, and asking again gives the same bytes.
    Unreadable(String),
    /// A code that is not in the table.
    Unlisted(String),
}

impl fmt::Display for SourceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceFault::Away(message)
            | SourceFault::Denied(message)
            | SourceFault::Config(message)
            | SourceFault::Replaced(message)
            | SourceFault::Unreadable(message)
            | SourceFault::Unlisted(message) => write!(f, "kafka: {message}"),
            SourceFault::MissingTopic(topic) => {
                write!(f, "kafka: topic {topic:?} does not exist; create it, or mend [[topics]] name")
            }
        }
    }
}

impl From<SourceFault> for Stop {
    fn from(fault: SourceFault) -> Stop {
        let code = match fault {
            SourceFault::Away(_) => ExitCode::ServerAway,
            SourceFault::MissingTopic(_) | SourceFault::Config(_) => ExitCode::Config,
            SourceFault::Denied(_) => ExitCode::Permission,
            SourceFault::Replaced(_) => ExitCode::TryLater,
            SourceFault::Unreadable(_) => ExitCode::DataNeedsDecision,
            SourceFault::Unlisted(_) => ExitCode::InvariantBroken,
        };
        Stop::new(code, fault.to_string())
    }
}

/// What an error code of the brokers means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It passes: ask again later.
    Passing,
    /// It passes, and another broker may lead the partition by now: ask who.
    Moved,
    /// The offset is not in the log.
    OffTheLog,
    /// The stored bytes are damaged.
    Damaged,
    /// Not allowed.
    Denied,
    /// The settings can't work with these brokers.
    Settings,
    /// Another process has our name.
    Replaced,
    /// Not in the table.
    Unlisted,
}

impl Meaning {
    /// Looks a code up.
    pub fn of(code: i16) -> Meaning {
        match code {
            1 => Meaning::OffTheLog,
            // CORRUPT_MESSAGE, INVALID_MESSAGE_SIZE, INVALID_RECORD: what is stored, or what came of it on the way. Whoever
            // reads asks once more before he believes it.
            2 | 4 | 87 => Meaning::Damaged,
            // UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REPLICA_NOT_AVAILABLE: an election,
            // or metadata that is older than it. Whether the topic exists is asked otherwise.
            3 | 5 | 6 | 9 => Meaning::Moved,
            // REQUEST_TIMED_OUT, BROKER_NOT_AVAILABLE, NETWORK_EXCEPTION: what the broker waited for, another may have.
            7 | 8 | 13 => Meaning::Moved,
            // KAFKA_STORAGE_ERROR: a disk of the leader's; another replica takes over.
            56 => Meaning::Moved,
            // FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, OFFSET_NOT_AVAILABLE: before and after an election.
            74 | 75 | 78 => Meaning::Moved,
            // LISTENER_NOT_FOUND: a broker that is not up yet.
            72 => Meaning::Moved,
            // UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID: brokers that have not heard of a topic's deletion or creation. That
            // the log is another one by then is found by whoever compares ids.
            100 | 103 => Meaning::Moved,
            // UNKNOWN_SERVER_ERROR: what a broker answers when it failed inside, above all while it starts or ends.
            -1 => Meaning::Passing,
            // COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR: the group's broker changes.
            14..=16 => Meaning::Passing,
            // ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, MEMBER_ID_REQUIRED, FENCED_MEMBER_EPOCH,
            // STALE_MEMBER_EPOCH: the group has gone on without us; the client joins again.
            22 | 25 | 27 | 79 | 110 | 113 => Meaning::Passing,
            // UNRELEASED_INSTANCE_ID: the one before us with our kafka.instance_id has not left, or not timed out.
            111 => Meaning::Passing,
            // NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND: somebody joins, nobody has.
            68 | 69 => Meaning::Passing,
            // FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, FETCH_SESSION_TOPIC_ID_ERROR: the client begins a new
            // session.
            70 | 71 | 106 => Meaning::Passing,
            // NOT_CONTROLLER, REASSIGNMENT_IN_PROGRESS, UNSTABLE_OFFSET_COMMIT, THROTTLING_QUOTA_EXCEEDED,
            // REBOOTSTRAP_REQUIRED.
            41 | 60 | 88 | 89 | 129 => Meaning::Passing,
            // TOPIC_, GROUP_ and CLUSTER_AUTHORIZATION_FAILED, SASL_AUTHENTICATION_FAILED.
            29..=31 | 58 => Meaning::Denied,
            // DELEGATION_TOKEN_AUTHORIZATION_FAILED, DELEGATION_TOKEN_EXPIRED.
            65 | 66 => Meaning::Denied,
            // INVALID_TOPIC_EXCEPTION, INVALID_GROUP_ID: names that Kafka does not take.
            17 | 24 => Meaning::Settings,
            // INCONSISTENT_GROUP_PROTOCOL, UNSUPPORTED_ASSIGNOR: the group's other members are of another kind.
            23 | 112 => Meaning::Settings,
            // INVALID_SESSION_TIMEOUT: group.min.session.timeout.ms and its like on the brokers say what they take.
            26 => Meaning::Settings,
            // UNSUPPORTED_SASL_MECHANISM, ILLEGAL_SASL_STATE, SECURITY_DISABLED.
            33 | 34 | 54 => Meaning::Settings,
            // UNSUPPORTED_VERSION, UNSUPPORTED_FOR_MESSAGE_FORMAT, UNSUPPORTED_COMPRESSION_TYPE: brokers, or what they store,
            // too old or too new for what is asked.
            35 | 43 | 76 => Meaning::Settings,
            // GROUP_MAX_SIZE_REACHED: group.max.size of the brokers.
            81 => Meaning::Settings,
            82 => Meaning::Replaced,
            // Everything else answers what we never ask (producing, transactions, the brokers' own affairs), or is younger
            // than this table: it would be asked for ever.
            _ => Meaning::Unlisted,
        }
    }

    /// What to do about it; `message` says who has answered what.
    pub fn fault(self, message: String) -> SourceFault {
        match self {
            Meaning::Passing | Meaning::Moved | Meaning::OffTheLog => SourceFault::Away(message),
            Meaning::Damaged => SourceFault::Unreadable(format!("{message}: the stored bytes are damaged")),
            Meaning::Denied => SourceFault::Denied(message),
            Meaning::Settings => SourceFault::Config(message),
            Meaning::Replaced => SourceFault::Replaced(format!(
                "another process runs with the same kafka.instance_id; give each its own ({message})"
            )),
            Meaning::Unlisted => {
                SourceFault::Unlisted(format!("{message}: not an answer that this program knows what to do about"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of Kafka 4.3, with what becomes of a process that meets them; those left out stop it with 70.
    #[test]
    fn what_waiting_can_mend_is_waited_for_and_nothing_else() {
        let codes =
            |meaning: Meaning| -> Vec<i16> { (-1..=133).filter(|code| Meaning::of(*code) == meaning).collect() };
        assert_eq!(codes(Meaning::OffTheLog), [1]);
        assert_eq!(codes(Meaning::Damaged), [2, 4, 87]);
        assert_eq!(codes(Meaning::Moved), [3, 5, 6, 7, 8, 9, 13, 56, 72, 74, 75, 78, 100, 103]);
        assert_eq!(
            codes(Meaning::Passing),
            [-1, 14, 15, 16, 22, 25, 27, 41, 60, 68, 69, 70, 71, 79, 88, 89, 106, 110, 111, 113, 129]
        );
        assert_eq!(codes(Meaning::Denied), [29, 30, 31, 58, 65, 66]);
        assert_eq!(codes(Meaning::Settings), [17, 23, 24, 26, 33, 34, 35, 43, 54, 76, 81, 112]);
        assert_eq!(codes(Meaning::Replaced), [82]);
        assert_eq!(Meaning::of(i16::MAX), Meaning::Unlisted);
    }

    #[test]
    fn each_meaning_has_its_exit_code() {
        let code = |meaning: Meaning| Stop::from(meaning.fault("a broker: planned".to_owned())).code;
        assert_eq!(code(Meaning::Passing), ExitCode::ServerAway);
        assert_eq!(code(Meaning::Moved), ExitCode::ServerAway);
        assert_eq!(code(Meaning::Damaged), ExitCode::DataNeedsDecision);
        assert_eq!(code(Meaning::Denied), ExitCode::Permission);
        assert_eq!(code(Meaning::Settings), ExitCode::Config);
        assert_eq!(code(Meaning::Replaced), ExitCode::TryLater);
        assert_eq!(code(Meaning::Unlisted), ExitCode::InvariantBroken);
    }
}
