//! What a run has done and seen, and what may be in no log.

use crate::harness::producer::CANARY;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// In the database's URL of every worker.
pub const PASSWORD: &str = "s3cret-of-the-database";
/// The same cause is said once in this time.
const QUIET: Duration = Duration::from_secs(10);

/// Counters by name. Names beginning with the same word stand together.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
    longest_recovery: Mutex<BTreeMap<String, Duration>>,
}

impl Tally {
    /// Counts.
    pub fn add(&self, name: impl Into<String>, n: u64) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default() += n;
    }

    /// How long after a fault was healed the next commit came.
    pub fn recovered(&self, source: &str, took: Duration) {
        let mut longest = self.longest_recovery.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = longest.entry(source.to_owned()).or_default();
        *longest = took.max(*longest);
    }

    /// A counter.
    pub fn get(&self, name: &str) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or_default()
    }

    /// Takes in what a worker has logged in its life, after looking for what it may not say.
    pub fn read_log(&self, log: &[String]) {
        for line in log {
            for secret in [CANARY, PASSWORD, "REFUSED"] {
                assert!(!line.contains(secret), "a log holds {secret}: {line}");
            }
        }
        self.add("seen: log lines searched", log.len() as u64);
        assert_no_flood(log);
    }

    /// Takes in what a worker has counted in its life.
    pub fn read_metrics(&self, text: &str) {
        for (series, name) in [
            ("commits_in_doubt_total{outcome=\"applied\"}", "commits in doubt, applied"),
            ("commits_in_doubt_total{outcome=\"not-applied\"}", "commits in doubt, not applied"),
            ("commits_in_doubt_total{outcome=\"discarded\"}", "commits in doubt, read again"),
            ("rewinds_total", "rewinds"),
            ("fenced_total", "fenced"),
            ("yields_total", "yields"),
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix("stock_db_writer_")?.strip_prefix(series));
            let n = line.and_then(|number| number.trim().parse().ok());
            self.add(format!("seen: {name}"), n.unwrap_or_default());
        }
    }

    /// The report, as a Markdown table.
    pub fn table(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = self.longest_recovery.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = "| what | times | longest until the next commit |\n|---|---:|---:|\n".to_owned();
        for (name, n) in &*counts {
            let took = name.strip_prefix("fault: ").and_then(|source| longest.get(source));
            let took = took.map_or(String::new(), |took| format!("{:.1} s", took.as_secs_f64()));
            table.push_str(&format!("| {name} | {n} | {took} |\n"));
        }
        table
    }
}

/// Warnings and errors of one cause (the line without its time and its numbers; each partition has its own) come once in
/// ten seconds.
fn assert_no_flood(log: &[String]) {
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    for line in log {
        let Some((time, rest)) = line.split_once(' ') else { continue };
        if !(rest.starts_with("WARN") || rest.starts_with("ERROR")) {
            continue;
        }
        let Some(at) = seconds_of_day(time) else { continue };
        let is_partition = |word: &&str| word.starts_with("partition=");
        let partition = rest.split_whitespace().find(is_partition).unwrap_or_default();
        let words: String = rest.chars().filter(|c| !c.is_ascii_digit()).collect();
        let before = last.insert(format!("{words} {partition}"), at);
        let since = before.map(|before| (at - before).rem_euclid(86_400.0));
        assert!(
            since.is_none_or(|since| since >= QUIET.as_secs_f64()),
            "said again after {since:?} s: {line}\n{}",
            log.join("\n")
        );
    }
}

/// `2026-01-02T03:04:05.678Z`.
fn seconds_of_day(time: &str) -> Option<f64> {
    let (_, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let numbers: Vec<f64> = clock.split(':').map_while(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = numbers[..] else { return None };
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}
