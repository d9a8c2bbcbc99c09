//! The one-shot commands: each connects, looks or creates, prints to stdout and ends.

pub mod dead_letters;
pub mod explain;
mod output;
pub mod reset;

use crate::config::{Config, Manage, OnGap, Pattern};
use crate::database::{Database, schema};
use crate::exit::{ExitCode, Stop};
use crate::ledger::{Ledger, LogIdentity, Standing, below_log_start, same_log, was_truncated};
use crate::outage::Outage;
use crate::record::TopicPartition;
use crate::shutdown::Shutdown;
use crate::source::{self, Bounds, Source, SourceFault};
use crate::startup::{self, NotStarted, Patience};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

/// So many of the topics that a pattern stands for are shown.
const TOPICS_SHOWN: usize = 20;

/// `init --print`
pub fn print_schema(config: &Config) -> Result<(), Stop> {
    print(&schema::sql(&config.database))
}

/// `init`
pub fn init(config: &Config) -> Result<(), Stop> {
    let (outcome, notes, findings) = with_patience(config, |outage, patience| {
        let database = patience.database(outage, || Database::open(config, &startup::owner_name()))?;
        let outcome = startup::create(&database, outage, patience)?;
        // What was there already may not do.
        let findings = patience.database(outage, || database.validate())?;
        let notes = patience.database(outage, || database.notes())?;
        Ok((outcome, notes, findings))
    })?;
    let mut out: String = outcome.made.iter().map(|made| format!("created {made}\n")).collect();
    if outcome.made.is_empty() {
        out.push_str("everything is there already\n");
    }
    out.extend(notes.iter().map(|note| format!("note: {note}\n")));
    out.extend(findings.iter().map(|finding| format!("problem: {}\n", finding.message)));
    print(&out)?;
    match findings.first() {
        None => Ok(()),
        Some(first) => {
            let message =
                format!("the tables are not such that a run works: {} problem(s), listed above", findings.len());
            Err(Stop::new(first.code, message))
        }
    }
}

/// `status`
pub fn status(config: &Config, json: bool) -> Result<(), Stop> {
    let standings = with_patience(config, |outage, patience| {
        let database = patience.database(outage, || Database::open(config, &startup::owner_name()))?;
        let mut ledger = database.ledger();
        patience.database(outage, || ledger.standings())
    })?;
    let partitions: Vec<TopicPartition> = standings.iter().map(|standing| standing.partition.clone()).collect();
    // What the database knows is worth showing without Kafka, too.
    let bounds = match ends_of(config, &partitions) {
        Ok(bounds) => bounds,
        Err(stop) => {
            log::warn!("end offsets are not known: {stop}");
            BTreeMap::new()
        }
    };
    let mut out = String::new();
    if json {
        for standing in &standings {
            out.push_str(&format!("{}\n", status_json(standing, bounds.get(&standing.partition))));
        }
    } else if standings.is_empty() {
        out.push_str(&format!("pipeline {:?} has not started yet\n", config.pipeline));
    } else {
        out.push_str(&status_table(&standings, &bounds));
    }
    print(&out)
}

fn ends_of(config: &Config, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Bounds>, Stop> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut source = source::connect(&config.kafka)?;
    // A topic that was deleted has no end; its neighbours do.
    let topics: BTreeSet<Arc<str>> = partitions.iter().map(|partition| partition.topic.clone()).collect();
    let mut bounds = BTreeMap::new();
    for topic in topics {
        match source.topics(std::slice::from_ref(&topic)) {
            Ok(_) => {
                let of_topic: Vec<_> = partitions.iter().filter(|p| p.topic == topic).cloned().collect();
                bounds.extend(source.bounds(&of_topic)?);
            }
            Err(fault) => log::warn!("{fault}"),
        }
    }
    Ok(bounds)
}

fn lag(standing: &Standing, bounds: Option<&Bounds>) -> Option<i64> {
    bounds.map(|bounds| (bounds.last_stable.0 - standing.next.0).max(0))
}

fn status_json(standing: &Standing, bounds: Option<&Bounds>) -> serde_json::Value {
    serde_json::json!({
        "topic": &*standing.partition.topic,
        "partition": standing.partition.partition,
        "next_offset": standing.next.0,
        "end_offset": bounds.map(|bounds| bounds.last_stable.0),
        "lag_records": lag(standing, bounds),
        "epoch": standing.epoch.0,
        "owner": standing.owner,
        "records_total": standing.records_total,
        "rows_total": standing.rows_total,
        "dead_letters_total": standing.dead_letters_total,
        "records_skipped": standing.records_skipped,
        "updated_at": standing.updated_at,
    })
}

fn status_table(standings: &[Standing], bounds: &BTreeMap<TopicPartition, Bounds>) -> String {
    let header = ["PARTITION", "NEXT", "END", "LAG", "ROWS", "DEAD", "EPOCH", "OWNER"].map(str::to_owned);
    let unknown = || "?".to_owned();
    let mut lines = vec![header];
    for standing in standings {
        let bounds = bounds.get(&standing.partition);
        lines.push([
            standing.partition.to_string(),
            standing.next.to_string(),
            bounds.map_or_else(unknown, |bounds| bounds.last_stable.to_string()),
            lag(standing, bounds).map_or_else(unknown, |lag| lag.to_string()),
            standing.rows_total.to_string(),
            standing.dead_letters_total.to_string(),
            standing.epoch.0.to_string(),
            standing.owner.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut table = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            // Names to the left, numbers to the right, nothing behind the last column.
            match column {
                0 => table.push_str(&format!("{cell:<width$}")),
                7 => table.push_str(&format!("  {cell}")),
                _ => table.push_str(&format!("  {cell:>width$}")),
            }
        }
        table.push('\n');
    }
    table
}

/// `check`: what patterns match and every finding on stdout, the worst finding as the exit code.
pub fn check(config: &Config) -> Result<(), Stop> {
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    let standings = check_database(config, &mut findings, &mut notes);
    check_kafka(config, &standings, &mut findings, &mut notes);
    let mut out: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
    for finding in &findings {
        out.push_str(&format!("problem: {}\n", finding.message));
    }
    if findings.is_empty() {
        out.push_str("ok: configuration, PostgreSQL, schema, privileges, Kafka, topics and offsets\n");
    }
    print(&out)?;
    let order = [ExitCode::Config, ExitCode::Permission, ExitCode::DataNeedsDecision, ExitCode::ServerAway];
    let worst = order.into_iter().find(|code| findings.iter().any(|finding| finding.code == *code));
    match worst.or_else(|| findings.first().map(|finding| finding.code)) {
        None => Ok(()),
        Some(code) => Err(Stop::new(code, format!("check found {} problem(s), listed above", findings.len()))),
    }
}

fn check_database(config: &Config, findings: &mut Vec<Stop>, notes: &mut Vec<String>) -> Vec<Standing> {
    let found = Database::open(config, &startup::owner_name()).and_then(|database| {
        let mut schema = database.validate()?;
        notes.extend(database.notes()?);
        // Without the tables there are no offsets to look at.
        let standings = if schema.is_empty() { database.ledger().standings()? } else { Vec::new() };
        if config.schema.manage == Manage::Create {
            let (made, left): (Vec<_>, Vec<_>) = schema.into_iter().partition(|finding| finding.is_absence);
            let made = made.into_iter().map(|finding| format!("a run makes what is missing: {}", finding.message));
            notes.extend(made);
            schema = left;
        }
        Ok((schema, standings))
    });
    match found {
        Ok((schema, standings)) => {
            findings.extend(schema.into_iter().map(|f| Stop::new(f.code, format!("database: {}", f.message))));
            standings
        }
        Err(failure) => {
            findings.push(Stop::new(failure.fault.exit_code(), format!("database: {failure}")));
            Vec::new()
        }
    }
}

fn check_kafka(config: &Config, standings: &[Standing], findings: &mut Vec<Stop>, notes: &mut Vec<String>) {
    let mut source = match source::connect(&config.kafka) {
        Ok(source) => source,
        Err(fault) => return findings.push(fault.into()),
    };
    let cluster_id = match source.cluster_id() {
        Ok(cluster_id) => cluster_id,
        Err(fault) => return findings.push(fault.into()),
    };
    check_relay(config, source.as_mut(), findings);
    let mut topics: Vec<Arc<str>> = config.topics.names().map(Arc::from).collect();
    match startup::matching(config, source.as_mut()) {
        Ok(matching) => {
            notes.extend(config.topics.patterns().map(|pattern| note(config, pattern, &matching)));
            topics.extend(matching);
        }
        Err(fault) => findings.push(fault.into()),
    }
    for topic in topics {
        let found = source.topics(std::slice::from_ref(&topic)).and_then(|states| {
            let followed: Vec<&Standing> = standings.iter().filter(|s| s.partition.topic == topic).collect();
            let partitions: Vec<_> = followed.iter().map(|standing| standing.partition.clone()).collect();
            Ok((followed, source.bounds(&partitions)?, states))
        });
        match found {
            // Deleted in between.
            Err(SourceFault::MissingTopic(missing)) if config.topics.is_by_pattern(&missing) => {}
            Err(fault) => findings.push(fault.into()),
            Ok((followed, bounds, states)) => {
                let lacking =
                    states.iter().find_map(|(topic, state)| startup::is_all_there(config, topic, state).err());
                findings.extend(lacking.map(Stop::from));
                let unreadable = states.iter().find_map(|(topic, state)| state.readable(topic).err());
                findings.extend(unreadable.map(Stop::from));
                let now = LogIdentity {
                    cluster_id: cluster_id.clone(),
                    topic_id: states.values().next().and_then(|state| state.topic_id),
                };
                // Offsets of another log say nothing about this one.
                match followed.iter().find_map(|standing| same_log(&topic, &standing.identity, &now).err()) {
                    Some(other_log) => findings.push(other_log),
                    None => {
                        let off = |s: &&Standing| off_the_log(s, bounds.get(&s.partition)?);
                        let is_passed = |s: &&Standing| {
                            let is_gone = bounds.get(&s.partition).is_some_and(|bounds| s.next < bounds.start);
                            is_gone && config.kafka.on_gap == OnGap::Record
                        };
                        let (gaps, rest): (Vec<&Standing>, Vec<_>) = followed.iter().copied().partition(is_passed);
                        notes.extend(gaps.iter().map(|Standing { partition, next, .. }| {
                            format!(
                                "partition {partition}: Kafka has deleted records from {next} on; a run passes over them and \
                                 records the gap (kafka.on_gap)"
                            )
                        }));
                        findings.extend(rest.iter().filter_map(off));
                    }
                }
            }
        }
    }
}

/// A relay topic that is missing keeps no run from working, but its letters wait.
fn check_relay(config: &Config, source: &mut dyn Source, findings: &mut Vec<Stop>) {
    let Some(topic) = config.dead_letters.topic.as_deref().map(Arc::<str>::from) else { return };
    findings.extend(match source.topics(std::slice::from_ref(&topic)) {
        Ok(_) => None,
        Err(SourceFault::MissingTopic(topic)) => Some(source::relay::missing(&topic).into()),
        Err(fault) => {
            let stop = Stop::from(fault);
            Some(Stop::new(stop.code, format!("dead_letters.topic: {}", stop.message)))
        }
    });
}

/// What a pattern stands for now. None is no problem: topics may appear later.
fn note(config: &Config, pattern: &Pattern, matching: &[Arc<str>]) -> String {
    let is_its_own = |topic: &&Arc<str>| config.topics.pattern(topic) == Some(pattern);
    let topics: Vec<&Arc<str>> = matching.iter().filter(is_its_own).collect();
    let shown: Vec<String> = topics.iter().take(TOPICS_SHOWN).map(ToString::to_string).collect();
    let more = if topics.len() > shown.len() { ", …" } else { "" };
    match topics.len() {
        0 => format!("pattern {:?} stands for no topic yet", pattern.as_str()),
        1 => format!("pattern {:?} stands for 1 topic: {}", pattern.as_str(), shown[0]),
        n => format!("pattern {:?} stands for {n} topics: {}{more}", pattern.as_str(), shown.join(", ")),
    }
}

fn off_the_log(standing: &Standing, bounds: &Bounds) -> Option<Stop> {
    let Standing { partition, next, .. } = standing;
    let Bounds { start, high_watermark: end, .. } = bounds;
    if next < start {
        Some(below_log_start(partition, *next, *start))
    } else {
        (next > end).then(|| was_truncated(partition, *next, *end))
    }
}

fn with_patience<T>(
    config: &Config,
    work: impl FnOnce(&Outage, &mut Patience<'_>) -> Result<T, NotStarted>,
) -> Result<T, Stop> {
    let shutdown = Shutdown::new();
    let outage = Outage::new("database", startup::outage_max(config, true));
    match work(&outage, &mut Patience::new(config, &shutdown)) {
        Ok(answer) => Ok(answer),
        Err(NotStarted::Stop(stop)) => Err(stop),
        Err(NotStarted::Asked) => unreachable!("nobody triggers a one-shot command's shutdown"),
    }
}

/// To stdout; a reader that has gone (a closed pipe) wants no more of it.
fn print(text: &str) -> Result<(), Stop> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Stop::new(ExitCode::ServerAway, format!("writing to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
