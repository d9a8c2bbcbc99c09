//! How long a message takes from its bytes in a batch to PostgreSQL's bytes: decoded, sorted and encoded as a writer
//! does it, and beside it what serde_json takes for nothing but a tree of the same messages.
//!
//! `cargo bench --bench decode` measures every profile by its messages in the corpus and ends with a table; an argument
//! picks profiles by their names.

#[path = "../tests/shapes/mod.rs"]
mod shapes;

use criterion::{Criterion, Throughput};
use serde_json::Value as Json;
use shapes::{Case, corpus};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stock_db_writer::batch::{Batch, Batcher, Epoch, Incoming, Limits};
use stock_db_writer::database::binary;
use stock_db_writer::decode::settings::Settings;
use stock_db_writer::record::{NextOffset, Offset, TopicPartition, Value};
use stock_db_writer::work::Work;

/// Messages in a batch: enough that what a batch costs once is no part of the figure.
const BATCH_RECORDS: usize = 4_000;
/// Symbols in a batch. Rows are sorted by them.
const SYMBOLS: usize = 500;

/// The profiles, each with the case of the corpus that it is measured by.
const PROFILES: &[(&str, &str)] = &[
    ("quote", "seed flat"),
    ("quote-array-of-one", "fmp array of one"),
    ("bar", "daily bar"),
    ("finnhub", "finnhub twice encoded"),
    ("polygon", "polygon mixed"),
    ("binance", "binance trade"),
    ("binance-wrapped", "binance wrapped kline"),
    ("alpha-vantage-quote", "alpha vantage quote"),
    ("alpha-vantage-series", "alpha vantage series"),
    ("googlefinance", "googlefinance"),
    ("columnar", "columnar"),
    ("envelope-debezium", "debezium"),
    ("envelope-connect", "connect envelope"),
    ("metrics", "seed metrics"),
    ("spark-window", "spark window"),
    ("ksql-window", "ksql window"),
];

const WRITER: &str = "writer";
const SERDE_JSON: &str = "serde_json";

fn main() {
    let estimates = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion");
    let mut criterion = Criterion::default()
        .output_directory(&estimates)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    let corpus = corpus();
    let benchmarks: Vec<Benchmark> =
        PROFILES.iter().map(|(profile, name)| Benchmark::new(profile, name, &corpus)).collect();
    let begun = std::time::SystemTime::now();
    benchmarks.iter().for_each(|benchmark| benchmark.measure(&mut criterion));
    criterion.final_summary();
    print_table(&benchmarks, &estimates, begun);
}

/// A batch of one profile's messages.
struct Benchmark {
    profile: &'static str,
    batch: Batch,
    settings: Settings,
    // `None` if the messages do not become the rows that the corpus expects.
    n_rows: Option<usize>,
}

impl Benchmark {
    fn new(profile: &'static str, name: &str, corpus: &[Case]) -> Benchmark {
        let case = corpus.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case is named {name:?}"));
        let batch = batch_of(case);
        let settings = case.settings.clone();
        let decoded = Work::decode(&batch, |_| Some(&settings)).decoded;
        let n_rows = decoded.prices.len() + decoded.metrics.len();
        // What becomes no row is quick to do, and no figure for the profile.
        let n_rows = (n_rows == case.n_rows() * BATCH_RECORDS).then_some(n_rows);
        Benchmark { profile, batch, settings, n_rows }
    }

    fn measure(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group(self.profile);
        group.throughput(Throughput::Elements(BATCH_RECORDS as u64));
        let mut buffer = Vec::new();
        group.bench_function(WRITER, |bencher| bencher.iter(|| self.write(&mut buffer)));
        group.bench_function(SERDE_JSON, |bencher| bencher.iter(|| self.parse()));
        group.finish();
    }

    /// As a writer does it, which keeps its buffer.
    fn write(&self, buffer: &mut Vec<u8>) {
        let work = Work::decode(black_box(&self.batch), |_| Some(&self.settings));
        binary::prices(buffer, &work.decoded.prices);
        black_box(&buffer);
        binary::metrics(buffer, 0, work.decoded.metrics.iter());
        black_box(&buffer);
    }

    fn parse(&self) {
        for record_idx in 0..self.batch.len() {
            let Value::Bytes(value) = self.batch.record(record_idx).1.value else { unreachable!("made of bytes") };
            black_box(serde_json::from_slice::<Json>(black_box(value)).expect("JSON"));
        }
    }
}

/// The case's message again and again, each time about other symbols.
fn batch_of(case: &Case) -> Batch {
    let limits =
        Limits { rows_max: BATCH_RECORDS, bytes_max: 1 << 30, linger: Duration::ZERO, message_bytes_max: 1 << 20 };
    let (mut batcher, now) = (Batcher::new(limits), Instant::now());
    let partition = TopicPartition::new(case.topic.as_str(), 0);
    batcher.follow(partition.clone(), Epoch(0), NextOffset(0));
    let mut random = fastrand::Rng::with_seed(1);
    let symbols: Vec<String> = (0..SYMBOLS).map(|_| (0..20).map(|_| random.uppercase()).collect()).collect();
    for offset in 0..BATCH_RECORDS {
        let (mut value, mut key) = (case.value.clone(), case.key.clone());
        for row in ["prices", "metrics"].iter().flat_map(|table| case.expect[table].as_array().expect("rows")) {
            let old = row["symbol"].as_str().expect("a symbol");
            let new = &symbols[random.usize(..SYMBOLS)][..old.len()];
            value = value.replace(old, new);
            key = key.map(|key| key.replace(old, new));
        }
        let incoming = Incoming {
            offset: Offset(offset as i64),
            leader_epoch: None,
            timestamp_ms: Some(case.timestamp_ms),
            key: key.as_ref().map(String::as_bytes),
            value: Some(value.as_bytes()),
        };
        batcher.push(&partition, incoming, now);
    }
    batcher.seal().expect("it has records")
}

/// The medians that criterion has just found.
fn print_table(benchmarks: &[Benchmark], estimates: &Path, begun: std::time::SystemTime) {
    let median = |benchmark: &Benchmark, function: &str| -> Option<f64> {
        let file: PathBuf = estimates.join(benchmark.profile).join(function).join("new/estimates.json");
        // Those of profiles that were not picked are from an earlier run.
        let modified = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
        let json: Json = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        json["median"]["point_estimate"].as_f64().filter(|_| modified >= begun)
    };
    println!("\n{:<22} {:>10} {:>10} {:>15} {:>7}", "profile", "ns/message", "ns/row", "ns/serde_json", "ratio");
    for benchmark in benchmarks {
        let (Some(writer), Some(parse)) = (median(benchmark, WRITER), median(benchmark, SERDE_JSON)) else { continue };
        let per_row = benchmark.n_rows.map_or("not read".to_owned(), |n_rows| format!("{:.0}", writer / n_rows as f64));
        let (per_message, parse_message) = (writer / BATCH_RECORDS as f64, parse / BATCH_RECORDS as f64);
        let (profile, ratio) = (benchmark.profile, writer / parse);
        println!("{profile:<22} {per_message:>10.0} {per_row:>10} {parse_message:>15.0} {ratio:>7.2}");
    }
}
