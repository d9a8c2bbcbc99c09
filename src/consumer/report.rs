//! What the consumer says of itself after each turn, for probes and gauges.

use super::Consumer;
use super::flow::{Phase, locked};
use crate::clock;
use std::time::Duration;

/// How often the positions are said: for a gauge that is looked at every few seconds.
const POSITIONS_INTERVAL: Duration = Duration::from_secs(1);

impl Consumer<'_> {
    pub(super) fn report(&mut self) {
        let (vitals, metrics) = (&self.shared.vitals, &self.shared.metrics);
        vitals.turned();
        metrics.kafka_up.set(i64::from(self.source.away_since().is_none()));
        let mut flow = locked(&self.flow);
        metrics.bytes_in_flight.set(i64::try_from(flow.bytes()).unwrap_or(i64::MAX));
        if std::mem::take(&mut flow.has_progressed) {
            vitals.progressed();
        } else if flow.is_idle() {
            vitals.idle();
        }
        if clock::since(self.reported_at) >= POSITIONS_INTERVAL {
            self.reported_at = clock::now();
            vitals.set_positions(flow.positions());
            let is_read = |phase: &Phase| matches!(phase, Phase::Reading { .. });
            let unread = flow.owned.iter().filter(|(_, ownership)| !is_read(&ownership.phase));
            self.unread.look(unread.map(|(partition, _)| partition), self.reported_at);
            vitals.set_unread(self.unread.oldest());
            // That the database is away is said elsewhere.
            if let Some(why) = &flow.claim_failure {
                for partition in self.unread.take_overdue(self.reported_at) {
                    log::warn!(partition:%, why; "ours, but it can't be claimed, trying again");
                }
            }
        }
        if let Some(ends) = &self.ends {
            let left = |(partition, end): (_, &crate::record::NextOffset)| {
                flow.tracker.durable(partition).map_or(0, |durable| (end.0 - durable.0).max(0))
            };
            vitals.set_lag_records(Some(ends.iter().map(left).sum()));
        }
    }
}
