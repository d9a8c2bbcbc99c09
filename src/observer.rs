//! The observer thread: asks both servers from time to time how things stand, for gauges and the log's summary.
//!
//! It has connections of its own and is waited for by nobody. What it can't find out is not shown.

use crate::capacity::Capacity;
use crate::clock;
use crate::config::Kafka;
use crate::database::Database;
use crate::metrics::{Ids, Lag, Metrics, Totals};
use crate::record::{NextOffset, TopicPartition};
use crate::shutdown::Shutdown;
use crate::source::{self, Source, SourceFault};
use crate::vitals::{Position, Vitals};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at the ends of the logs.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at the ids, which last for months.
const IDS_INTERVAL: Duration = Duration::from_secs(600);
/// Between two lines of summary.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// Looks on while a run goes its way.
pub struct Observer {
    kafka: Kafka,
    // `None` after any fault.
    source: Option<Box<dyn Source>>,
    database: Database,
    metrics: Arc<Metrics>,
    vitals: Arc<Vitals>,
    // The ends of a bounded run are known: its lag is not ours to tell.
    is_bounded: bool,
    lags: BTreeMap<TopicPartition, Lag>,
    // Since when records wait of which none has been read, and where the partition stood then.
    unread_since: BTreeMap<TopicPartition, (NextOffset, Instant)>,
    asked_ids_at: Option<Instant>,
    summed_up: (Instant, Totals),
}

impl Observer {
    /// Looks at these servers.
    pub fn new(kafka: Kafka, database: Database, metrics: Arc<Metrics>, vitals: Arc<Vitals>, is_bounded: bool) -> Self {
        let summed_up = (Instant::now(), metrics.totals());
        Observer {
            kafka,
            source: None,
            database,
            metrics,
            vitals,
            is_bounded,
            lags: BTreeMap::new(),
            unread_since: BTreeMap::new(),
            asked_ids_at: None,
            summed_up,
        }
    }

    /// Looks until a stop is asked for.
    pub fn run(&mut self, shutdown: &Shutdown) {
        while !shutdown.sleep(LAG_INTERVAL) {
            self.look_at_lag();
            if self.asked_ids_at.is_none_or(|at| at.elapsed() >= IDS_INTERVAL) {
                self.asked_ids_at = Some(Instant::now());
                self.look_at_ids();
            }
            if self.summed_up.0.elapsed() >= SUMMARY_INTERVAL {
                self.sum_up();
            }
        }
        // The next one to look knows nothing of what this one has shown.
        self.metrics.set_lags(&BTreeMap::new(), &self.lags.keys().cloned().collect());
        if let Some(source) = &mut self.source {
            source.close();
        }
    }

    fn look_at_lag(&mut self) {
        let lags = match self.lags_now() {
            Ok(lags) => lags,
            Err(fault) => {
                log::debug!("observing: {fault}");
                self.source = None;
                BTreeMap::new()
            }
        };
        let before: BTreeSet<TopicPartition> = self.lags.keys().cloned().collect();
        self.metrics.set_lags(&lags, &before);
        if !self.is_bounded {
            self.vitals.set_lag_records(lags.values().map(|lag| lag.records).sum());
        }
        self.lags = lags;
    }

    fn lags_now(&mut self) -> Result<BTreeMap<TopicPartition, Lag>, SourceFault> {
        let positions = self.vitals.positions();
        let partitions: Vec<TopicPartition> = positions.keys().cloned().collect();
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let source = match &mut self.source {
            Some(source) => source,
            None => self.source.insert(source::connect(&self.kafka)?),
        };
        let bounds = source.bounds(&partitions)?;
        self.unread_since.retain(|partition, _| positions.contains_key(partition));
        let now_ms = clock::now_ms();
        let mut lags = BTreeMap::new();
        for (partition, position) in positions {
            let Some(bounds) = bounds.get(&partition) else { continue };
            let records = (bounds.last_stable.0 - position.next.0).max(0);
            let seconds = self.age(&partition, position, records, now_ms);
            lags.insert(partition, Lag { next_offset: position.next.0, records, seconds });
        }
        Ok(lags)
    }

    /// How long the oldest record that isn't durable has been in Kafka. Of those that nobody has read yet the time is
    /// not known: for how long they have been seen is the least that it can be.
    fn age(&mut self, partition: &TopicPartition, position: Position, records: i64, now_ms: i64) -> f64 {
        if records == 0 || position.oldest_ms.is_some() {
            self.unread_since.remove(partition);
        }
        match position.oldest_ms {
            _ if records == 0 => 0.0,
            Some(oldest_ms) => (now_ms - oldest_ms).max(0) as f64 / 1e3,
            None => {
                let now = (position.next, Instant::now());
                let since = self.unread_since.entry(partition.clone()).or_insert(now);
                // What waited then has been written.
                if since.0 != position.next {
                    *since = now;
                }
                since.1.elapsed().as_secs_f64()
            }
        }
    }

    fn look_at_ids(&self) {
        match self.database.capacities() {
            Ok(capacities) => self.metrics.set_ids(&capacities.iter().map(ids).collect::<Vec<_>>()),
            Err(failure) => log::debug!("observing: {failure}"),
        }
    }

    /// A line for those who read logs, about a minute in which something was done.
    fn sum_up(&mut self) {
        let (since, before) = self.summed_up;
        let (seconds, now) = (since.elapsed().as_secs_f64(), self.metrics.totals());
        self.summed_up = (Instant::now(), now);
        if now.records == before.records {
            return;
        }
        let (n_rows, n_batches) = (now.rows - before.rows, (now.batches - before.batches).max(1));
        let lag_seconds = self.lags.values().map(|lag| lag.seconds).fold(0.0, f64::max);
        log::info!(
            records = now.records - before.records,
            rows = n_rows,
            rows_per_s = rounded(n_rows as f64 / seconds, 0),
            dead_letters = now.dead_letters - before.dead_letters,
            skipped = now.skipped - before.skipped,
            lag_records = self.vitals.lag_records(),
            lag_s = rounded(lag_seconds, 1),
            batches = now.batches - before.batches,
            rows_per_batch = rounded(n_rows as f64 / n_batches as f64, 0),
            transaction_ms = rounded((now.transaction_seconds - before.transaction_seconds) * 1e3 / n_batches as f64, 1);
            "summary"
        );
    }
}

fn ids(capacity: &Capacity) -> Ids {
    let used = 1.0 - capacity.ids_left as f64 / capacity.ids.max(1) as f64;
    Ids { table: capacity.name.clone(), left: capacity.ids_left, used: used.clamp(0.0, 1.0) }
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}
