//! What the brokers answer to a fetch, sorted by partition.

use super::errors::{code_fault, is_led};
use super::reach::Sight;
use crate::batch::Incoming;
use crate::record::{NextOffset, Offset, TopicPartition};
use crate::source::SourceFault;
use kafka::Error;
use kafka::client::fetch::Response;
use kafka::error::KafkaCode;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The records of one partition within an answer.
#[derive(Clone)]
pub(super) struct Records {
    pub(super) answer: Rc<Response>,
    topic_idx: usize,
    partition_idx: usize,
}

impl Records {
    pub(super) fn deliver(&self, mut on_record: impl FnMut(Incoming<'_>)) {
        let partition = &self.answer.topics()[self.topic_idx].partitions()[self.partition_idx];
        let Ok(data) = partition.data() else { return };
        for message in data.messages() {
            on_record(Incoming {
                offset: Offset(message.offset),
                leader_epoch: None,
                // The protocol has none.
                timestamp_ms: None,
                // The client makes no difference between an empty one and none.
                key: (!message.key.is_empty()).then_some(message.key),
                value: Some(message.value),
            });
        }
    }
}

/// What an answer says about a partition.
pub(super) struct Said {
    pub(super) high_watermark: NextOffset,
    pub(super) sight: Sight<Records>,
}

/// What has to be done about a partition.
pub(super) enum Outcome {
    Said(Said),
    /// The broker has nothing at this offset any more, or not yet.
    OffTheLog,
    /// Another broker leads it.
    Led,
    Fault(SourceFault),
}

/// Sorts answers by partition.
pub(super) fn outcomes(answers: Vec<Response>) -> HashMap<TopicPartition, Outcome> {
    let mut outcomes = HashMap::new();
    for answer in answers.into_iter().map(Rc::new) {
        for (topic_idx, topic) in answer.topics().iter().enumerate() {
            let name: Arc<str> = topic.topic().into();
            for (partition_idx, partition) in topic.partitions().iter().enumerate() {
                let outcome = match partition.data() {
                    Err(error) => refusal(&error, topic.topic()),
                    Ok(data) => {
                        let records = Records { answer: answer.clone(), topic_idx, partition_idx };
                        Outcome::Said(Said {
                            high_watermark: NextOffset(data.highwatermark_offset()),
                            sight: match data.messages().first() {
                                None => Sight::Nothing,
                                Some(first) => Sight::From(first.offset, records),
                            },
                        })
                    }
                };
                outcomes.insert(TopicPartition::new(name.clone(), partition.partition()), outcome);
            }
        }
    }
    outcomes
}

/// What a broker means that gives no records of a partition.
fn refusal(error: &Error, topic: &str) -> Outcome {
    let refused =
        |why: &str| Outcome::Said(Said { high_watermark: NextOffset(i64::MAX), sight: Sight::Refused(why.to_owned()) });
    match error {
        Error::ArcSelf(inner) => refusal(inner, topic),
        Error::Kafka(KafkaCode::OffsetOutOfRange) => Outcome::OffTheLog,
        Error::Kafka(code) if is_led(*code) => Outcome::Led,
        Error::Kafka(KafkaCode::CorruptMessage) => refused("its bytes are damaged"),
        Error::Kafka(KafkaCode::UnsupportedVersion) => {
            refused("the broker does not convert this topic for old clients (message.downconversion.enable)")
        }
        // Codes that are younger than the client have no other name in it.
        Error::Kafka(KafkaCode::Unknown) => refused("the broker can't convert it for old clients, as with zstd"),
        Error::Kafka(code) => Outcome::Fault(code_fault(*code, topic)),
        _ => Outcome::Led,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_move() {
        let denied = refusal(&Error::Kafka(KafkaCode::TopicAuthorizationFailed), "t");
        assert!(matches!(denied, Outcome::Fault(SourceFault::Denied(_))));
        let moved = refusal(&Error::ArcSelf(Arc::new(Error::Kafka(KafkaCode::NotLeaderForPartition))), "t");
        assert!(matches!(moved, Outcome::Led));
    }
}
