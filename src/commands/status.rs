//! `status`: where each partition stands, who owns it, and how far behind it is.

use super::output::{BAD, HEADING, WARN};
use super::{print, print_styled, with_patience};
use crate::clock;
use crate::config::{AssignmentMode, Config, Kafka};
use crate::database::Database;
use crate::exit::Stop;
use crate::ledger::{Ledger, Standing};
use crate::oldest;
use crate::record::{NextOffset, TopicPartition};
use crate::source::{self, Bounds};
use crate::startup;
use anstyle::Style;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the oldest records that wait are looked for.
const OLDEST_MAX: Duration = Duration::from_secs(10);

/// What Kafka says of one partition.
struct Behind {
    bounds: Bounds,
    records: i64,
    // `None`: the record was not found in time, or has no timestamp.
    seconds: Option<f64>,
}

impl Behind {
    /// Records that can't be read until a producer ends its transaction. They are no lag.
    fn uncommitted(&self) -> i64 {
        (self.bounds.high_watermark.0 - self.bounds.last_stable.0).max(0)
    }
}

/// The cells of one line.
type Line = [(String, Style); 8];

type AllBehind = BTreeMap<TopicPartition, Behind>;

/// Prints it: for people, or one JSON object a line.
pub fn run(config: &Config, json: bool) -> Result<(), Stop> {
    let standings = with_patience(config, |outage, patience| {
        let database = patience.database(outage, || Database::open(config, &startup::owner_name()))?;
        let mut ledger = database.ledger();
        patience.database(outage, || ledger.standings())
    })?;
    // What the database knows is worth showing without Kafka, too.
    let behind = behind(config, &standings).unwrap_or_else(|stop| {
        log::warn!("end offsets are not known: {stop}");
        BTreeMap::new()
    });
    if json {
        let line = |standing: &Standing| format!("{}\n", as_json(standing, behind.get(&standing.partition)));
        return print(&standings.iter().map(line).collect::<String>());
    }
    if standings.is_empty() {
        return print(&format!("pipeline {:?} has not started yet\n", config.pipeline));
    }
    print_styled(&table(&config.pipeline, &standings, &behind))
}

fn behind(config: &Config, standings: &[Standing]) -> Result<AllBehind, Stop> {
    if standings.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Everything, and no part in the group.
    let kafka = Kafka { assignment: AssignmentMode::All, instance_id: None, ..config.kafka.clone() };
    let mut source = source::connect(&kafka)?;
    // A topic that was deleted has no end; its neighbours do.
    let topics: BTreeSet<Arc<str>> = standings.iter().map(|standing| standing.partition.topic.clone()).collect();
    let (mut behind, mut positions) = (BTreeMap::new(), BTreeMap::new());
    for topic in topics {
        if let Err(fault) = source.topics(std::slice::from_ref(&topic)) {
            log::warn!("{fault}");
            continue;
        }
        let next: BTreeMap<TopicPartition, NextOffset> = standings
            .iter()
            .filter(|standing| standing.partition.topic == topic)
            .map(|standing| (standing.partition.clone(), standing.next))
            .collect();
        let partitions: Vec<TopicPartition> = next.keys().cloned().collect();
        for (partition, bounds) in source.bounds(&partitions)? {
            let records = (bounds.last_stable.0 - next[&partition].0).max(0);
            let seconds = (records == 0).then_some(0.0);
            positions.insert(partition.clone(), next[&partition].max(bounds.start));
            behind.insert(partition, Behind { bounds, records, seconds });
        }
    }
    let waiting = behind.iter().filter(|(_, behind)| behind.records > 0);
    let ends: BTreeMap<_, _> = waiting.map(|(p, behind)| (p.clone(), behind.bounds.last_stable)).collect();
    match oldest::timestamps_ms(source.as_mut(), &positions, &ends, OLDEST_MAX) {
        Ok(oldest) => {
            let now_ms = clock::now_ms();
            for (partition, timestamp_ms) in oldest {
                if let Some(behind) = behind.get_mut(&partition) {
                    behind.seconds = timestamp_ms.map(|at| (now_ms - at).max(0) as f64 / 1e3);
                }
            }
        }
        Err(fault) => log::warn!("since when records wait is not known: {fault}"),
    }
    source.close();
    Ok(behind)
}

fn as_json(standing: &Standing, behind: Option<&Behind>) -> serde_json::Value {
    serde_json::json!({
        "topic": &*standing.partition.topic,
        "partition": standing.partition.partition,
        "next_offset": standing.next.0,
        "end_offset": behind.map(|behind| behind.bounds.last_stable.0),
        "lag_records": behind.map(|behind| behind.records),
        "uncommitted_records": behind.map(Behind::uncommitted),
        "lag_seconds": behind.and_then(|behind| behind.seconds),
        "epoch": standing.epoch.0,
        "owner": standing.owner,
        "records_total": standing.records_total,
        "rows_total": standing.rows_total,
        "dead_letters_total": standing.dead_letters_total,
        "records_skipped": standing.records_skipped,
        "updated_at": standing.updated_at,
    })
}

const HEADER: [&str; 8] = ["PARTITION", "NEXT", "END", "LAG", "BEHIND", "ROWS", "DEAD", "EPOCH"];

/// One block for each owner: their names are long, and would not fit beside the numbers.
fn table(pipeline: &str, standings: &[Standing], all_behind: &AllBehind) -> String {
    let mut by_owner: BTreeMap<Option<&str>, Vec<Line>> = BTreeMap::new();
    for standing in standings {
        let line = line(standing, all_behind.get(&standing.partition));
        by_owner.entry(standing.owner.as_deref()).or_default().push(line);
    }
    let width = |column: usize| {
        let cells = by_owner.values().flatten().map(|line| line[column].0.chars().count());
        cells.chain([HEADER[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut out = summary(pipeline, standings, all_behind);
    out.extend(all_behind.iter().filter_map(|(partition, behind)| uncommitted(partition, behind)));
    for (owner, lines) in &by_owner {
        let owner = owner.map_or("nobody has claimed yet".to_owned(), |owner| format!("owner {owner}"));
        out.push_str(&format!("\n{owner}\n"));
        let header = HEADER.map(|name| (name.to_owned(), HEADING));
        for line in [&header].into_iter().chain(lines) {
            for (column, (cell, style)) in line.iter().enumerate() {
                // Names to the left, numbers to the right.
                let cell = match column {
                    0 => format!("{cell:<width$}", width = widths[column]),
                    _ => format!("{cell:>width$}", width = widths[column]),
                };
                let gap = if column == 0 { "" } else { "  " };
                out.push_str(&format!("{gap}{style}{cell}{style:#}"));
            }
            out.push('\n');
        }
    }
    out
}

fn summary(pipeline: &str, standings: &[Standing], all_behind: &AllBehind) -> String {
    let n = standings.len();
    let plural = if n == 1 { "" } else { "s" };
    let dead: i64 = standings.iter().map(|standing| standing.dead_letters_total).sum();
    let lag = match all_behind.len() == n {
        true => {
            let records: i64 = all_behind.values().map(|behind| behind.records).sum();
            format!("{records} records behind ({})", oldest(all_behind))
        }
        false => "lag not known".to_owned(),
    };
    format!("pipeline {pipeline:?}: {n} partition{plural}, {lag}, {dead} dead letters so far\n")
}

/// What looks like nothing to do, and isn't.
fn uncommitted(partition: &TopicPartition, behind: &Behind) -> Option<String> {
    let n = behind.uncommitted();
    let waits = if n == 1 { "record waits" } else { "records wait" };
    (n > 0).then(|| format!("{partition}: {n} {waits} for an open transaction\n"))
}

/// The age of the oldest record that waits. Of some it may not be known: then it is the least that it can be.
fn oldest(all_behind: &AllBehind) -> String {
    let known = all_behind.values().filter(|behind| behind.records > 0).map(|behind| behind.seconds);
    let is_all_known = known.clone().all(|seconds| seconds.is_some());
    match (known.flatten().reduce(f64::max), is_all_known) {
        (seconds, true) => age(seconds.unwrap_or(0.0)),
        (Some(seconds), false) => format!("{} or more", age(seconds)),
        (None, false) => "?".to_owned(),
    }
}

fn line(standing: &Standing, behind: Option<&Behind>) -> Line {
    let unknown = || "?".to_owned();
    let plain = Style::new();
    let lag_style = if behind.is_some_and(|behind| behind.records > 0) { WARN } else { plain };
    let dead_style = if standing.dead_letters_total > 0 { BAD } else { plain };
    [
        (standing.partition.to_string(), plain),
        (standing.next.to_string(), plain),
        (behind.map_or_else(unknown, |behind| behind.bounds.last_stable.to_string()), plain),
        (behind.map_or_else(unknown, |behind| behind.records.to_string()), lag_style),
        (behind.and_then(|behind| behind.seconds).map_or_else(unknown, age), lag_style),
        (standing.rows_total.to_string(), plain),
        (standing.dead_letters_total.to_string(), dead_style),
        (standing.epoch.0.to_string(), plain),
    ]
}

/// `4 s`, `12 min`, `3 h`, `20 d`
fn age(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6_000.0 => format!("{:.0} min", s / 60.0),
        s if s < 100.0 * 3600.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests;
