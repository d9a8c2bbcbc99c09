//! What the process has done so far and how it stands, counted by whoever does it and read by whoever shows it.
//!
//! One registry for each run, in the format that Prometheus scrapes. No label holds a symbol or a value of a record, so
//! that the number of series is bounded by topics, partitions and the words of this program.

use crate::record::TopicPartition;
use crate::row::{Class, Skip};
use crate::work::Work;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Rows of a batch: from one to the largest `batch.rows_max`, whose records may hold several each.
const ROW_BUCKETS: &[f64] = &[1.0, 10.0, 100.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
/// Seconds of a transaction: from a row over a socket to a statement's timeout.
const TRANSACTION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds from a record's time to its commit: from less than `batch.linger_ms` to a long outage.
const LATENCY_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 86_400.0];

/// Why transactions are tried again: by a fault, or because the writer was called back, had held its locks for too long,
/// or a COMMIT turned out not to have been applied.
const RETRIED: &[&str] = &[
    "connection",
    "transaction",
    "lock",
    "statement",
    "wrong-node",
    "resource",
    "record",
    "unique-key",
    "own-key",
    "schema",
    "permission",
    "called-back",
    "held-too-long",
    "not-applied",
];

/// How an in-doubt COMMIT was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// The server had applied it.
    Applied,
    /// It had not, and the batch was sent again.
    NotApplied,
    /// The batch was given up; what is true was read with the next claim.
    Discarded,
}

impl InDoubt {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            InDoubt::Applied => "applied",
            InDoubt::NotApplied => "not-applied",
            InDoubt::Discarded => "discarded",
        }
    }
}

/// How one partition stands in Kafka.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lag {
    /// Where reading resumes, as far as it is durable.
    pub next_offset: i64,
    /// Records between there and the end.
    pub records: i64,
    /// How long the oldest of them has been in Kafka, in seconds.
    pub seconds: f64,
    /// Records behind the first transaction that is open, which nobody may read yet.
    pub uncommitted: i64,
}

/// How long the ids of one table last.
#[derive(Debug, Clone, PartialEq)]
pub struct Ids {
    /// The table.
    pub table: String,
    /// Ids that can still be drawn.
    pub left: u64,
    /// The share of all ids that can't be drawn any more, from 0 to 1.
    pub used: f64,
}

/// What has become durable by now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Records, whatever their fate.
    pub records: u64,
    /// Rows.
    pub rows: u64,
    /// Dead letters, by element.
    pub dead_letters: u64,
    /// Records that were skipped.
    pub skipped: u64,
    /// Batches.
    pub batches: u64,
    /// Seconds that their transactions took.
    pub transaction_seconds: f64,
}

/// The metrics of one run.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    prices: String,
    metrics: String,
    records: IntCounterVec,
    rows: IntCounterVec,
    dead_letters: IntCounterVec,
    skipped: IntCounterVec,
    batch_rows: Histogram,
    transaction_seconds: Histogram,
    visible_latency_seconds: Histogram,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    uncommitted_records: IntGaugeVec,
    next_offset: IntGaugeVec,
    retries: IntCounterVec,
    in_doubt: IntCounterVec,
    newest_event_timestamp_seconds: GaugeVec,
    ids_left: IntGaugeVec,
    ids_used_ratio: GaugeVec,
    /// Times the database was behind what it had confirmed.
    pub rewinds: IntCounter,
    /// Partitions lost to another process's claim.
    pub fenced: IntCounter,
    /// Times the head made the waiting writers give up their locks.
    pub yields: IntCounter,
    /// Whether PostgreSQL answers: 1 or 0.
    pub database_up: IntGauge,
    /// Whether Kafka answers: 1 or 0.
    pub kafka_up: IntGauge,
    /// Bytes between Kafka and PostgreSQL.
    pub bytes_in_flight: IntGauge,
}

impl Metrics {
    /// Nothing counted yet. The tables are those of prices and of metrics, as the configuration names them.
    pub fn new(prices: &str, metrics: &str) -> Self {
        let new = Register(Registry::new());
        let by_partition = &["topic", "partition"];
        let build = new.int_gauge_vec("build_info", "Always 1, with the version that runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let made = Metrics {
            prices: prices.to_owned(),
            metrics: metrics.to_owned(),
            records: new.counter_vec("records_total", "Records that are durable, whatever their fate.", &["topic"]),
            rows: new.counter_vec("rows_total", "Rows that are durable.", &["table"]),
            dead_letters: new.counter_vec("dead_letters_total", "Dead letters that are durable.", &["class"]),
            skipped: new.counter_vec("skipped_total", "Records that rightly gave no row.", &["reason"]),
            batch_rows: new.histogram("batch_rows", "Rows of one transaction.", ROW_BUCKETS),
            transaction_seconds: new.histogram(
                "transaction_seconds",
                "From the BEGIN of a transaction to the answer to its COMMIT.",
                TRANSACTION_BUCKETS,
            ),
            visible_latency_seconds: new.histogram(
                "visible_latency_seconds",
                "From a record's timestamp in Kafka until its rows are visible.",
                LATENCY_BUCKETS,
            ),
            lag_records: new.int_gauge_vec("lag_records", "Records in Kafka that are not durable yet.", by_partition),
            lag_seconds: new.gauge_vec(
                "lag_seconds",
                "How long the oldest record that is not durable yet has been in Kafka.",
                by_partition,
            ),
            uncommitted_records: new.int_gauge_vec(
                "uncommitted_records",
                "Records in Kafka that can't be read yet, because a producer's transaction before them is open.",
                by_partition,
            ),
            next_offset: new.int_gauge_vec("next_offset", "The offset at which reading resumes.", by_partition),
            retries: new.counter_vec("retries_total", "Transactions that were tried again.", &["class"]),
            in_doubt: new.counter_vec("commits_in_doubt_total", "COMMITs whose answer was lost.", &["outcome"]),
            newest_event_timestamp_seconds: new.gauge_vec(
                "newest_event_timestamp_seconds",
                "The latest time of a row that this process has written, since the epoch.",
                &["table"],
            ),
            ids_left: new.int_gauge_vec("ids_left", "Ids that the table's id column can still give.", &["table"]),
            ids_used_ratio: new.gauge_vec("ids_used_ratio", "The share of the ids that are used up.", &["table"]),
            rewinds: new.counter("rewinds_total", "Times the database was behind what it had confirmed."),
            fenced: new.counter("fenced_total", "Partitions lost to the claim of another process."),
            yields: new.counter("yields_total", "Times that waiting writers gave up their locks."),
            database_up: new.gauge("database_up", "Whether PostgreSQL answers."),
            kafka_up: new.gauge("kafka_up", "Whether Kafka answers."),
            bytes_in_flight: new.gauge("bytes_in_flight", "Bytes between Kafka and PostgreSQL."),
            registry: new.0,
        };
        let process = ProcessCollector::for_self();
        made.registry.register(Box::new(process)).expect("each name is used once");
        // A series that is there from the start shows its first increase.
        for table in [prices, metrics] {
            made.rows.with_label_values(&[table]);
        }
        for outcome in [InDoubt::Applied, InDoubt::NotApplied, InDoubt::Discarded] {
            made.in_doubt.with_label_values(&[outcome.as_str()]);
        }
        for class in Class::ALL {
            made.dead_letters.with_label_values(&[class.as_str()]);
        }
        for reason in Skip::ALL {
            made.skipped.with_label_values(&[reason.as_str()]);
        }
        for class in RETRIED {
            made.retries.with_label_values(&[class]);
        }
        made
    }

    /// Counts a durable batch, whose transaction took so long. `now_ms` is the time of day since the epoch.
    pub fn durable(&self, work: &Work<'_>, took: Duration, now_ms: i64) {
        let mut n_rows = 0;
        for (tally, interval) in work.tallies().iter().zip(work.batch.intervals()) {
            self.records.with_label_values(&[&*interval.partition.topic]).inc_by(tally.records());
            n_rows += tally.rows;
        }
        let (prices, metrics) = (&work.decoded.prices, &work.decoded.metrics);
        self.rows.with_label_values(&[&self.prices]).inc_by(prices.len() as u64);
        self.rows.with_label_values(&[&self.metrics]).inc_by(metrics.len() as u64);
        for letter in &work.decoded.dead_letters {
            self.dead_letters.with_label_values(&[letter.class.as_str()]).inc();
        }
        for (reason, n) in work.skipped() {
            self.skipped.with_label_values(&[reason.as_str()]).inc_by(n);
        }
        self.batch_rows.observe(n_rows as f64);
        self.transaction_seconds.observe(took.as_secs_f64());
        let latency = self.visible_latency_seconds.local();
        for timestamp_ms in work.batch.timestamps_ms() {
            latency.observe((now_ms - timestamp_ms).max(0) as f64 / 1e3);
        }
        latency.flush();
        self.newest(&self.prices, prices.iter().map(|row| row.timestamp.0).max());
        self.newest(&self.metrics, metrics.iter().map(|row| row.window_end.0).max());
    }

    fn newest(&self, table: &str, micros: Option<i64>) {
        if let Some(micros) = micros {
            let gauge = self.newest_event_timestamp_seconds.with_label_values(&[table]);
            gauge.set(gauge.get().max(micros as f64 / 1e6));
        }
    }

    /// Counts a transaction that is tried again; the class is the fault's name.
    pub fn retried(&self, class: &str) {
        self.retries.with_label_values(&[class]).inc();
    }

    /// Counts a resolved COMMIT.
    pub fn resolved(&self, outcome: InDoubt) {
        self.in_doubt.with_label_values(&[outcome.as_str()]).inc();
    }

    /// How many transactions were tried again.
    pub fn retries(&self) -> u64 {
        sum(&self.retries)
    }

    /// How many in-doubt COMMITs were resolved in this way.
    pub fn in_doubt(&self, outcome: InDoubt) -> u64 {
        self.in_doubt.with_label_values(&[outcome.as_str()]).get()
    }

    /// Shows how these partitions stand, and no other one any more.
    pub fn set_lags(&self, lags: &BTreeMap<TopicPartition, Lag>, before: &BTreeSet<TopicPartition>) {
        for gone in before.iter().filter(|partition| !lags.contains_key(partition)) {
            let number = gone.partition.to_string();
            let labels = [&*gone.topic, &*number];
            // One that is not there is not there already.
            let _ = self.lag_records.remove_label_values(&labels);
            let _ = self.lag_seconds.remove_label_values(&labels);
            let _ = self.uncommitted_records.remove_label_values(&labels);
            let _ = self.next_offset.remove_label_values(&labels);
        }
        for (partition, lag) in lags {
            let number = partition.partition.to_string();
            let labels = [&*partition.topic, &*number];
            self.lag_records.with_label_values(&labels).set(lag.records);
            self.lag_seconds.with_label_values(&labels).set(lag.seconds);
            self.uncommitted_records.with_label_values(&labels).set(lag.uncommitted);
            self.next_offset.with_label_values(&labels).set(lag.next_offset);
        }
    }

    /// Shows how long the ids of the tables last.
    pub fn set_ids(&self, ids: &[Ids]) {
        self.ids_left.reset();
        self.ids_used_ratio.reset();
        for Ids { table, left, used } in ids {
            self.ids_left.with_label_values(&[table]).set(i64::try_from(*left).unwrap_or(i64::MAX));
            self.ids_used_ratio.with_label_values(&[table]).set(*used);
        }
    }

    /// What has become durable by now.
    pub fn totals(&self) -> Totals {
        Totals {
            records: sum(&self.records),
            rows: sum(&self.rows),
            dead_letters: sum(&self.dead_letters),
            skipped: sum(&self.skipped),
            batches: self.batch_rows.get_sample_count(),
            transaction_seconds: self.transaction_seconds.get_sample_sum(),
        }
    }

    /// What went wrong and was mended, in words; empty where nothing did.
    pub fn trouble(&self) -> String {
        let trouble = [
            ("retries", self.retries()),
            ("yields", self.yields.get()),
            ("commits in doubt that were applied", self.in_doubt(InDoubt::Applied)),
            ("commits in doubt that were not applied", self.in_doubt(InDoubt::NotApplied)),
            ("commits in doubt that were discarded", self.in_doubt(InDoubt::Discarded)),
            ("rewinds", self.rewinds.get()),
            ("fenced", self.fenced.get()),
        ];
        let trouble: Vec<String> =
            trouble.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
        trouble.join(", ")
    }

    /// All of it in Prometheus' text format, version 0.0.4.
    pub fn encode(&self) -> String {
        let families = self.registry.gather();
        TextEncoder::new().encode_to_string(&families).expect("names and labels are well formed, and memory takes them")
    }
}

/// Makes metrics and registers them. Their names and labels are constants of this program: that they are well formed,
/// and each is there once, does not depend on anything from outside.
struct Register(Registry);

impl Register {
    fn add<M: Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        let metric = made.expect("the names are well formed");
        self.0.register(Box::new(metric.clone())).expect("each name is used once");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(opts(name, help)))
    }

    fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(opts(name, help)))
    }

    fn int_gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(opts(name, help), labels))
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: opts(name, help), buckets: buckets.to_vec() };
        self.add(Histogram::with_opts(opts))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("stock_db_writer_{name}"), help)
}

fn sum(counters: &IntCounterVec) -> u64 {
    let families = counters.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    metrics.map(|metric| metric.get_counter().get_value() as u64).sum()
}

#[cfg(test)]
mod tests;
