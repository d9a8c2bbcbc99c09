//! Memory has a limit, however long the backlog.

use crate::harness::checker::Progress;
use crate::harness::producer::{Kcat, quote, symbol};
use crate::harness::{LIMIT, Stage, long, size};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn mean(samples: &[u64]) -> f64 {
    samples.iter().sum::<u64>() as f64 / samples.len() as f64
}

fn a_long_backlog_fits(name: &str, memory_max: u64) {
    let stage = Stage::new(name, 3);
    let count = size(500_000, 3_000_000) as i64;
    for _ in 0..10 {
        stage.produce(count / 10);
    }
    let invocation = stage.invocation_of_all().set("writers.memory_max", format!("{}MiB", memory_max / MIB));
    let begun = Instant::now();
    let mut worker = invocation.start(&["run"]);
    let mut progress = Progress::new(&stage);
    let mut samples = Vec::new();
    // What has been read is measured up to the last record; an idle worker would make the last third look good.
    while progress.now() < count {
        assert!(worker.alive(), "the worker ended");
        samples.push(worker.status("VmRSS:"));
        thread::sleep(Duration::from_millis(size(20, 250)));
    }
    let took = begun.elapsed().as_secs_f64();
    let peak = worker.status("VmHWM:");
    let third = samples.len() / 3;
    let (middle, last) = (mean(&samples[third..2 * third]), mean(&samples[2 * third..]));
    let every = (samples.len() / 30).max(1);
    let shown: Vec<u64> = samples.iter().step_by(every).map(|bytes| bytes / MIB).collect();
    println!("{count} records in {took:.1} s, {:.0} a second", count as f64 / took);
    println!("resident MiB over time: {shown:?}");
    println!(
        "peak {} MiB, middle third {:.1} MiB, last third {:.1} MiB",
        peak / MIB,
        middle / MIB as f64,
        last / MIB as f64
    );
    worker.stop();
    stage.assert_exactly_once();
    assert!(peak < 64 * MIB + memory_max, "peak of {} MiB", peak / MIB);
    // A short drain has hardly begun when it ends.
    let growth_max = if long() { 1.1 } else { 1.4 };
    assert!(last < middle * growth_max, "it grows");
}

#[test]
fn a_backlog_fits_into_the_default_memory() {
    a_long_backlog_fits("memory", 256 * MIB);
}

#[test]
fn a_backlog_fits_into_little_memory() {
    a_long_backlog_fits("memory_small", 32 * MIB);
}

#[test]
fn partitions_whose_messages_expand_a_lot_take_turns_and_fit() {
    let stage = Stage::new("memory_expanding", 16);
    let padding = "long and dull ".repeat(7_000);
    let ids = stage.take(2_400);
    for partition in 0..16 {
        let mut kcat = Kcat::start(&stage.topic, Some(partition), "zstd");
        for id in ids.clone().filter(|id| id % 16 == i64::from(partition)) {
            let quote = quote(id);
            let object = quote.strip_suffix('}').expect("it is an object");
            kcat.line(&symbol(id), format!(r#"{object},"note":"{padding}"}}"#).as_bytes());
        }
        kcat.finish();
    }
    let invocation = stage.invocation().set("writers.memory_max", "64MiB").set("batch.bytes_max", "4MiB");
    let mut worker = invocation.start(&["run"]);
    stage.wait_until_drained(LIMIT);
    let peak = worker.status("VmHWM:");
    println!("peak {} MiB of {} MiB of messages", peak / MIB, 2_400 * padding.len() as u64 / MIB);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
    assert!(peak < 128 * MIB, "peak of {} MiB", peak / MIB);
}
