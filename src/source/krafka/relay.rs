//! Sends dead letters. The topic is looked for first and never created.
//!
//! Without idempotence, which needs a right of its own on older brokers: a letter may arrive twice anyway.

use super::client::{CONNECT_TIMEOUT, client};
use super::wire::{fault, within};
use super::{DESCRIBE_TIMEOUT, REQUEST_TIMEOUT};
use crate::config::Kafka as KafkaConfig;
use crate::source::SourceFault;
use crate::source::relay::{Outlet, Posting, missing};
use krafka::Compression;
use krafka::admin::DescribeTopicsOptions;
use krafka::error::{ErrorCode, KrafkaError};
use krafka::producer::{Acks, Producer, Record};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long a record may be tried for; the client wants it above one request.
const DELIVERY_MAX: Duration = Duration::from_secs(12);
/// How long many of them may take together: far below the minute after which PostgreSQL ends an idle transaction.
const SEND_MAX: Duration = Duration::from_secs(30);
/// Longer values are not tried.
const VALUE_BYTES_MAX: usize = 16 << 20;
/// Of records that are on their way.
const BUFFER_BYTES: usize = 64 << 20;

/// krafka behind [`Outlet`].
pub struct KrafkaRelay {
    topic: String,
    producer: Producer,
    // Last, so that it is dropped last.
    runtime: Runtime,
}

impl KrafkaRelay {
    /// Connects; one attempt.
    pub fn connect(config: &KafkaConfig, topic: &str) -> Result<Self, SourceFault> {
        let (runtime, kafka) = client(config)?;
        let options = DescribeTopicsOptions::default().timeout(DESCRIBE_TIMEOUT);
        let admin = kafka.admin();
        let described = runtime.block_on(within(DESCRIBE_TIMEOUT, admin.describe_topics([topic], options)))?;
        match described.into_values().next() {
            None | Some(Err(KrafkaError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. })) => {
                return Err(missing(topic));
            }
            Some(answer) => answer.map_err(fault)?,
        };
        let producer = kafka
            .producer()
            .acks(Acks::All)
            .idempotent(false)
            .compression(Compression::None)
            .linger(Duration::from_millis(5))
            .batch_size(256 << 10)
            .buffer_memory(BUFFER_BYTES)
            .max_block(REQUEST_TIMEOUT)
            .delivery_timeout(DELIVERY_MAX)
            .metrics_push(false);
        let producer = runtime.block_on(within(CONNECT_TIMEOUT, producer.build()))?;
        Ok(KrafkaRelay { topic: topic.to_owned(), producer, runtime })
    }

    fn record(&self, posting: &Posting, with_value: bool) -> Record {
        let value = posting.value.as_ref().filter(|value| with_value && value.len() <= VALUE_BYTES_MAX);
        let record = match value {
            Some(value) => Record::new(self.topic.as_str(), value.clone()).key(posting.key.clone()),
            None => Record::tombstone(self.topic.as_str(), posting.key.clone()),
        };
        posting.headers.iter().fold(record, |record, (name, value)| record.header(*name, value.clone()))
    }

    async fn send_all(&self, postings: &[Posting]) -> krafka::Result<usize> {
        let mut handles = Vec::with_capacity(postings.len());
        for posting in postings {
            handles.push(self.producer.enqueue(self.record(posting, true)).await?);
        }
        let is_cut = |posting: &&Posting| posting.value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX);
        let mut n_left_out = postings.iter().filter(is_cut).count();
        for (posting, handle) in postings.iter().zip(handles) {
            match handle.await {
                // That is said of a batch: its other records are not the ones that are too long.
                Err(error) if is_too_long(&error) => n_left_out += self.send_alone(posting).await?,
                answer => _ = answer?,
            }
        }
        Ok(n_left_out)
    }

    /// Answers how many values were left out. Where a record is in the topic is of no interest.
    async fn send_alone(&self, posting: &Posting) -> krafka::Result<usize> {
        match self.producer.send(self.record(posting, true)).await {
            Err(error) if is_too_long(&error) && posting.value.is_some() => {
                _ = self.producer.send(self.record(posting, false)).await?;
                Ok(1)
            }
            answer => answer.map(|_| 0),
        }
    }
}

fn is_too_long(error: &KrafkaError) -> bool {
    matches!(error, KrafkaError::Broker { code: ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge, .. })
}

impl Outlet for KrafkaRelay {
    fn send(&mut self, postings: &[Posting]) -> Result<usize, SourceFault> {
        self.runtime.block_on(within(SEND_MAX, self.send_all(postings)))
    }
}
