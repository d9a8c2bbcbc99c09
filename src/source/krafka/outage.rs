//! Noticing that the brokers are away, and waking the client when they are back.

use super::wire::{SLACK, as_tried, within};
use super::{KrafkaSource, NAMES_TIMEOUT};
use crate::record::TopicPartition;
use crate::source::SourceFault;
use krafka::admin::{DescribeClusterOptions, ListTopicsOptions};
use krafka::consumer::Consumer;
use std::time::{Duration, Instant};

/// How often the client's error count is looked at, and a silent broker probed.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

impl KrafkaSource {
    /// An outage looks like "no records". When the client has counted an error, or a poll hung, a probe tells; and
    /// when the brokers are back, a seek to where we are wakes fetching, which may else sleep for another 30 s.
    pub(super) fn watch_outage(&mut self, poll_hung: bool) {
        let Some(consumer) = self.consumer.clone() else { return };
        if self.probed_at.elapsed() < PROBE_INTERVAL && !poll_hung {
            return;
        }
        self.probed_at = Instant::now();
        let errors = consumer.metrics().consumer.errors;
        if errors == self.errors_seen && self.away.since().is_none() && !poll_hung {
            return;
        }
        self.errors_seen = errors;
        match self.cluster_within(PROBE_INTERVAL) {
            // Some of the brokers may have been away, or one that leads ours: its partitions would sleep on, too.
            Ok(_) => {
                self.away.back(Instant::now());
                self.ask_who_leads();
                self.wake(&consumer);
            }
            Err(fault) => self.note_away(&fault),
        }
    }

    /// Of a consumer; while starting, the caller says it.
    pub(super) fn note_away(&mut self, why: &dyn std::fmt::Display) {
        if self.consumer.is_some() {
            self.away.away(why, Instant::now());
        }
    }

    /// The client would go on asking a broker that is dead or mute, for as long as it is, though others lead its
    /// partitions by now: only an answer tells it to look again.
    fn ask_who_leads(&self) {
        let options = ListTopicsOptions::default().timeout(NAMES_TIMEOUT);
        if let Err(fault) = self.runtime.block_on(within(NAMES_TIMEOUT, self.admin.list_topics(options))) {
            log::debug!("asking who leads: {fault}");
        }
    }

    fn wake(&self, consumer: &Consumer) {
        self.runtime.block_on(async {
            for (topic, partitions) in consumer.assignment().await {
                for partition in partitions {
                    let known = TopicPartition::new(topic.as_str(), partition);
                    if self.paused.contains(&known) {
                        continue;
                    }
                    if let Ok(Some(position)) = tokio::time::timeout(SLACK, consumer.position(&topic, partition)).await
                        && let Err(error) = consumer.seek(&topic, partition, position).await
                    {
                        log::debug!("waking partition={known}: {error}");
                    }
                }
            }
        });
    }

    pub(super) fn cluster_within(&self, timeout: Duration) -> Result<String, SourceFault> {
        let options = DescribeClusterOptions::default().timeout(timeout);
        let described = self.runtime.block_on(within(timeout, self.admin.describe_cluster(options)));
        described.map(|cluster| cluster.cluster_id).map_err(|fault| as_tried(&self.config, fault))
    }
}
