//! The observer thread: asks both servers from time to time how things stand, for gauges and the log's summary.
//!
//! It has connections of its own and is waited for by nobody. What it can't find out is not shown.

use crate::capacity::Capacity;
use crate::clock;
use crate::config::Kafka;
use crate::database::Database;
use crate::ledger::Ledger;
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
        let (lags, is_all) = match self.lags_now() {
            Ok(lags) => lags,
            Err(fault) => {
                log::debug!("observing: {fault}");
                self.source = None;
                (BTreeMap::new(), false)
            }
        };
        let before: BTreeSet<TopicPartition> = self.lags.keys().cloned().collect();
        self.metrics.set_lags(&lags, &before);
        if !self.is_bounded {
            // What some of them are behind is not what all are.
            self.vitals.set_lag_records(is_all.then(|| lags.values().map(|lag| lag.records).sum()));
        }
        self.lags = lags;
    }

    /// How far the partitions are behind, and whether that is known of all that are ours.
    fn lags_now(&mut self) -> Result<(BTreeMap<TopicPartition, Lag>, bool), SourceFault> {
        let (positions, is_all) = self.positions();
        let partitions: Vec<TopicPartition> = positions.keys().cloned().collect();
        if partitions.is_empty() {
            return Ok((BTreeMap::new(), is_all));
        }
        let source = match &mut self.source {
            Some(source) => source,
            None => self.source.insert(source::connect(&self.kafka)?),
        };
        let bounds = source.bounds(&partitions)?;
        self.unread_since.retain(|partition, _| positions.contains_key(partition));
        let now_ms = clock::now_ms();
        let mut lags = BTreeMap::new();
        let n_ours = positions.len();
        for (partition, (next, oldest_ms)) in positions {
            let Some(bounds) = bounds.get(&partition) else { continue };
            let records = (bounds.last_stable.0 - next.0).max(0);
            let seconds = self.age(&partition, next, oldest_ms, records, now_ms);
            let uncommitted = (bounds.high_watermark.0 - bounds.last_stable.0).max(0);
            lags.insert(partition, Lag { next_offset: next.0, records, seconds, uncommitted });
        }
        let is_all = is_all && lags.len() == n_ours;
        Ok((lags, is_all))
    }

    /// How far the partitions are that are ours, by the database's word where they were never read; and whether that is
    /// known of all of them.
    fn positions(&self) -> (BTreeMap<TopicPartition, (NextOffset, Option<i64>)>, bool) {
        let ours = self.vitals.positions();
        let standings = match ours.values().all(|position| position.next.is_some()) {
            true => Vec::new(),
            false => self.database.ledger().standings().unwrap_or_else(|failure| {
                log::debug!("observing: {failure}");
                Vec::new()
            }),
        };
        let recorded: BTreeMap<_, _> = standings.into_iter().map(|at| (at.partition, at.next)).collect();
        let n_ours = ours.len();
        let placed = ours.into_iter().filter_map(|(partition, Position { next, oldest_ms })| {
            let next = next.or_else(|| recorded.get(&partition).copied())?;
            Some((partition, (next, oldest_ms)))
        });
        let placed: BTreeMap<_, _> = placed.collect();
        let is_all = placed.len() == n_ours;
        (placed, is_all)
    }

    /// How long the oldest record that isn't durable has been in Kafka. Of those that nobody has read yet the time is
    /// not known: for how long they have been seen is the least that it can be.
    fn age(
        &mut self,
        partition: &TopicPartition,
        next: NextOffset,
        oldest_ms: Option<i64>,
        records: i64,
        now_ms: i64,
    ) -> f64 {
        if records == 0 || oldest_ms.is_some() {
            self.unread_since.remove(partition);
        }
        match oldest_ms {
            _ if records == 0 => 0.0,
            Some(oldest_ms) => (now_ms - oldest_ms).max(0) as f64 / 1e3,
            None => {
                let now = (next, Instant::now());
                let since = self.unread_since.entry(partition.clone()).or_insert(now);
                // What waited then has been written.
                if since.0 != next {
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
            lag_records:serde = self.vitals.lag_records(),
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
