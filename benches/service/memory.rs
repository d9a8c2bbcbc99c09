//! The largest resident set of a worker under loads that are hard to hold, beside what the README lets it have.
//!
//! The kernel keeps the peak (VmHWM); it is read while the worker drains the load with its defaults.

use crate::backlog::{Keys, Load};
use crate::contest::{self, Runs, USAGE};
use crate::options::Options;
use crate::report::{Line, Report};
use crate::services::Services;
use crate::worker::Worker;
use crate::{Outcome, say};

const MIB: f64 = (1 << 20) as f64;
/// Beside writers.memory_max.
const ALLOWED_MIB: f64 = 64.0;

/// A load, over topics that are all alike.
struct Hard {
    name: &'static str,
    what: &'static str,
    topics: u64,
    partitions: i32,
    load: Load,
}

fn loads(options: &Options) -> Vec<Hard> {
    let records = |n: u64| if options.quick { n / 5 } else { n };
    let ordinary = |n: u64| Load {
        records: records(n),
        symbols: 500,
        keys: Keys::Number,
        codec: options.codec.clone(),
        padding: 0,
        batch_bytes: None,
    };
    let large = |codec: &str| Load { codec: codec.to_owned(), padding: 100_000, ..ordinary(15_000) };
    vec![
        Hard {
            name: "partitions",
            what: "1,000 partitions over 20 topics",
            topics: 20,
            partitions: 50,
            load: ordinary(50_000),
        },
        Hard { name: "zstd", what: "100 KB a message, zstd", topics: 1, partitions: 3, load: large("zstd") },
        Hard { name: "lz4", what: "100 KB a message, lz4", topics: 1, partitions: 3, load: large("lz4") },
        Hard {
            name: "zstd-batches",
            what: "the same in batches of 16 MB, zstd",
            topics: 1,
            partitions: 3,
            // As producers make them that measure a batch by what it is compressed.
            load: Load { batch_bytes: Some(16_000_000), ..large("zstd") },
        },
        Hard { name: "rows", what: "one partition", topics: 1, partitions: 1, load: ordinary(1_000_000) },
    ]
}

/// One line for each load.
pub fn measure(options: &Options, services: &Services, report: &mut Report) -> Outcome<()> {
    let limit_mib = ALLOWED_MIB + services.defaults.writers.memory_max as f64 / MIB;
    let mut lines = Vec::new();
    for hard in loads(options).iter().filter(|hard| options.loads(hard.name)) {
        lines.push(hold(hard, limit_mib, services)?);
    }
    let [worker, backends, _] = USAGE;
    report.title("memory: the worker's largest resident set");
    report.table(&["", "records", "seconds", worker, backends, "MiB", "limit", "fits"], &lines);
    Ok(())
}

fn hold(hard: &Hard, limit_mib: f64, services: &Services) -> Outcome<Line> {
    let records = hard.load.records * hard.topics;
    say(&format!("memory, {}: sending {records} records", hard.what));
    let topics: Vec<String> = (0..hard.topics).map(|i| format!("bench_memory_{}_{i}", hard.name)).collect();
    services.create_topics(&topics, hard.partitions)?;
    for topic in &topics {
        hard.load.send(services, topic)?;
    }
    say(&format!("memory, {}: draining", hard.what));
    let pipeline = format!("bench_memory_{}", hard.name);
    let worker = topics.iter().enumerate().fold(Worker::new(services, &pipeline), |worker, (i, topic)| {
        worker.set(&format!("topics.{i}.name"), topic).set(&format!("topics.{i}.target"), "prices")
    });
    let run = contest::measure(services, records, || worker.run_once(&["run", "--until-end"]).map(Some))
        .map_err(|error| format!("{}: {error}", hard.what))?;
    services.delete_topics(&topics)?;
    let runs = Runs(vec![run]);
    let peak = runs.peak_rss_mib().unwrap_or_default();
    let line = Line::new("memory", "load", hard.what).with(records.to_string(), "records", records).with_median(
        runs.seconds(),
        2,
        "seconds",
    );
    Ok(runs.usage(line, records).with(format!("{limit_mib:.0}"), "limit_mib", limit_mib).with(
        if peak <= limit_mib { "yes" } else { "NO" },
        "fits",
        peak <= limit_mib,
    ))
}
