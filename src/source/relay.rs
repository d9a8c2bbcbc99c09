//! What the relay of dead letters needs of Kafka: sending, and knowing that it has arrived.

use super::SourceFault;
use crate::config::{Client, Kafka};

/// One record to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// Its key.
    pub key: String,
    /// Its value; `None`: null.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
}

/// A Kafka client that sends to one topic. Used by one thread, and given up after a fault.
pub trait Outlet: Send {
    /// Sends all of them, and returns when all replicas that must have them do. A value that the topic doesn't take
    /// because of its length is left out; answers how many were. After a fault some may have arrived.
    fn send(&mut self, postings: &[Posting]) -> Result<usize, SourceFault>;
}

/// Connects by the client that the configuration names; one attempt. A topic that does not exist is a fault.
pub fn connect(config: &Kafka, topic: &str) -> Result<Box<dyn Outlet>, SourceFault> {
    match config.client {
        #[cfg(feature = "client-krafka")]
        Client::Krafka => Ok(Box::new(super::krafka::KrafkaRelay::connect(config, topic)?)),
        #[cfg(feature = "client-kafka")]
        Client::Kafka => {
            Err(SourceFault::Config(format!("dead_letters.topic {topic:?}: client = \"kafka\" sends no headers")))
        }
    }
}

/// The fault of a topic that is not there.
pub fn missing(topic: &str) -> SourceFault {
    SourceFault::Config(format!("dead_letters.topic: topic {topic:?} does not exist; create it, or mend the name"))
}
