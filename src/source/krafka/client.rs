//! The client: connected, and tuned to what we hold in memory.

use super::wire::{as_tried, security, within};
use super::{KrafkaSource, REQUEST_TIMEOUT};
use crate::config::{Isolation, Kafka as KafkaConfig};
use crate::source::SourceFault;
use krafka::Kafka;
use krafka::consumer::{AutoOffsetReset, ConsumerBuilder, IsolationLevel};
use std::time::Duration;
use tokio::runtime::Runtime;

/// One connection attempt, at most.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the client believes its picture of the topics.
const METADATA_AGE_MAX: Duration = Duration::from_secs(10);

/// How old the files that TLS needs may be in memory.
const TLS_AGE_MAX: Duration = Duration::from_secs(60);
/// Records of one poll and of the client's buffer, and bytes of one partition's fetch: measured to go well together.
/// The client throws away what it fetched beyond its buffer. The bytes are compressed ones: what they expand to is held
/// in memory, so that few of them keep a well compressing topic small; a local broker is read no slower for it.
const POLL_RECORDS_MAX: i32 = 5000;
const PARTITION_FETCH_BYTES: i32 = 256 << 10;

const FETCH_BYTES_MAX: i32 = 8 << 20;

impl KrafkaSource {
    pub(super) fn tuned(&self, builder: ConsumerBuilder) -> ConsumerBuilder {
        let builder = match &self.config.rack {
            // The leader then names the replica to read from, if one in our rack has what we ask for.
            Some(rack) => builder.client_rack(rack.as_str()),
            None => builder,
        };
        builder
            .auto_offset_reset(AutoOffsetReset::None)
            .enable_auto_commit(false)
            .isolation_level(match self.config.isolation {
                Isolation::ReadCommitted => IsolationLevel::ReadCommitted,
                Isolation::ReadUncommitted => IsolationLevel::ReadUncommitted,
            })
            .max_poll_records(POLL_RECORDS_MAX)
            .max_buffered_records(POLL_RECORDS_MAX)
            .max_partition_fetch_bytes(PARTITION_FETCH_BYTES)
            .fetch_max_bytes(FETCH_BYTES_MAX)
            .fetch_max_wait(Duration::from_millis(500))
            .metrics_push(false)
    }
}

/// A runtime of its own, and in it a client that has reached a broker.
pub(super) fn client(config: &KafkaConfig) -> Result<(Runtime, Kafka), SourceFault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("kafka-io")
        .enable_all()
        .build()
        .map_err(|error| SourceFault::Away(format!("starting the client's runtime: {error}")))?;
    let mut builder = Kafka::builder(config.brokers.join(","))
        .client_id("stock-db-writer")
        .connect_timeout(CONNECT_TIMEOUT)
        .request_timeout(REQUEST_TIMEOUT)
        .metadata_max_age(METADATA_AGE_MAX);
    if let Some(security) = security(config)? {
        // Of certificates that are renewed; a connection that is there goes on with the old ones.
        builder = builder.security(security).tls_reload_interval(config.tls.as_ref().map(|_| TLS_AGE_MAX));
    }
    let connected = runtime.block_on(within(CONNECT_TIMEOUT * 2, builder.connect()));
    let kafka = connected.map_err(|fault| as_tried(config, fault))?;
    Ok((runtime, kafka))
}
