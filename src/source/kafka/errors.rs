//! What an error of the client means: for the client, for the bytes, for us.

use super::fetch::Ask;
use crate::record::NextOffset;
use crate::source::SourceFault;
use crate::source::fault::Meaning;
use kafka::Error;
use kafka::error::KafkaCode;
use std::io::ErrorKind;
use std::time::Duration;

/// Why the client could not do what it was asked to.
pub(super) enum Failed {
    /// The client is to be replaced.
    Broken(SourceFault),
    /// Nothing is wrong with the client.
    Alike(SourceFault),
    /// What it was given to parse.
    Bytes(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match unreadable_bytes(&error) {
            Some(why) => Failed::Bytes(why.to_owned()),
            None => Failed::Broken(fault(error)),
        }
    }
}

/// What the client can't parse, in words for people; `None` if that is not what is wrong.
fn unreadable_bytes(error: &Error) -> Option<&'static str> {
    match error {
        Error::ArcSelf(inner) => unreadable_bytes(inner),
        Error::UnsupportedCompression => Some("it is compressed, and neither by gzip nor by snappy"),
        Error::UnsupportedProtocol => Some("it is in a format that is newer than this protocol"),
        Error::Kafka(KafkaCode::CorruptMessage) => Some("its bytes are damaged"),
        Error::InvalidSnappy(_) => Some("it can't be decompressed"),
        // The decompressors speak like this, sockets never do.
        Error::Io(error)
            if matches!(error.kind(), ErrorKind::Other | ErrorKind::InvalidData | ErrorKind::InvalidInput) =>
        {
            Some("it can't be decompressed")
        }
        _ => None,
    }
}

pub(super) fn fault(error: Error) -> SourceFault {
    match error {
        Error::Kafka(code) => code_fault(code, "the brokers"),
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => SourceFault::Away(
            "a broker has closed the connection (if it expects TLS or SASL, set client = \"krafka\")".to_owned(),
        ),
        other => SourceFault::Away(other.to_string()),
    }
}

pub(super) fn code_fault(code: KafkaCode, who: &str) -> SourceFault {
    match code {
        KafkaCode::UnsupportedVersion => SourceFault::Config(format!(
            "{who}: the old protocol of client = \"kafka\" is not spoken here; set client = \"krafka\""
        )),
        _ => Meaning::of(code as i16).fault(format!("{who}: {code:?}")),
    }
}

/// Whether it helps to ask again who leads a partition.
pub(super) fn is_led(code: KafkaCode) -> bool {
    Meaning::of(code as i16) == Meaning::Moved
}

pub(super) fn no_answer(limit: Duration) -> SourceFault {
    SourceFault::Away(format!("no answer within {} s", limit.as_secs()))
}

pub(super) fn unreadable(ask: &Ask, why: &str) -> SourceFault {
    let Ask { partition, from, .. } = ask;
    SourceFault::Unreadable(format!(
        "partition {partition}: client = \"kafka\" can't read what is at offset {from}: {why}; set client = \"krafka\""
    ))
}

/// A broker that goes on, and gives nothing.
pub(super) fn stuck(ask: &Ask, high_watermark: NextOffset, bytes_max: i32) -> SourceFault {
    let Ask { partition, from, .. } = ask;
    SourceFault::Unreadable(format!(
        "partition {partition}: Kafka gives client = \"kafka\" nothing from offset {from} on, though the log goes on to \
         {high_watermark}: it may be a marker of a transaction, a hole that compaction has left, or a message of more than \
         {} MiB or of the broker's fetch.max.bytes, and this client can't tell which; set client = \"krafka\", or, for a \
         message, raise these limits (ours is kafka.max_message_bytes)",
        bytes_max >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_can_not_be_parsed_is_told_from_what_breaks_a_connection() {
        let io = |kind: ErrorKind| Failed::from(Error::Io(kind.into()));
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::TimedOut, ErrorKind::WouldBlock] {
            assert!(matches!(io(kind), Failed::Broken(SourceFault::Away(_))), "{kind}");
        }
        for kind in [ErrorKind::Other, ErrorKind::InvalidData, ErrorKind::InvalidInput] {
            assert!(matches!(io(kind), Failed::Bytes(_)), "{kind}");
        }
        for error in [
            Error::UnsupportedCompression,
            Error::UnsupportedProtocol,
            Error::Kafka(KafkaCode::CorruptMessage),
            Error::ArcSelf(Arc::new(Error::UnsupportedCompression)),
        ] {
            assert!(matches!(Failed::from(error), Failed::Bytes(_)));
        }
    }

    #[test]
    fn what_waiting_cannot_mend_is_not_away() {
        assert!(matches!(fault(Error::Kafka(KafkaCode::GroupAuthorizationFailed)), SourceFault::Denied(_)));
        assert!(matches!(fault(Error::Kafka(KafkaCode::UnsupportedVersion)), SourceFault::Config(_)));
        assert!(matches!(fault(Error::Kafka(KafkaCode::GroupLoadInProgress)), SourceFault::Away(_)));
        assert!(matches!(fault(Error::NoHostReachable), SourceFault::Away(_)));
    }
}
