//! `check`: would a run work? Looks at everything a run needs, and does once what a run does, without effect.

use super::output::{BAD, GOOD, NOTE};
use super::print_styled;
use crate::batch::{Batch, Batcher, Epoch, Incoming, Limits};
use crate::config::{Config, Manage, OnGap, Pattern};
use crate::database::Database;
use crate::decode::settings::{Settings, Target};
use crate::exit::{ExitCode, Stop};
use crate::fault::{Failure, Fault};
use crate::heartbeat::Heartbeat;
use crate::ledger::{Ledger, LogIdentity, Standing, below_log_start, same_log, was_truncated};
use crate::record::{NextOffset, Offset, TopicPartition};
use crate::sink::Sink;
use crate::source::{self, Bounds, Source, SourceFault};
use crate::startup;
use crate::work::Work;
use chrono::{Duration as Age, SecondsFormat, Utc};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many of the topics that a pattern stands for are shown.
const TOPICS_SHOWN: usize = 20;
/// The symbol of rows that are rolled back. No exchange lists it.
const SYMBOL: &str = "stock-db-writer-check";
/// No topic can have this name, and so no pipeline has a row of it.
const TOPIC: &str = "stock-db-writer check";

/// `check`: what patterns match and every finding on stdout, the worst finding as the exit code.
pub fn run(config: &Config) -> Result<(), Stop> {
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    let (standings, has_rehearsed) = check_database(config, &mut findings, &mut notes);
    check_kafka(config, &standings, &mut findings, &mut notes);
    let mut out: String = notes.iter().map(|note| format!("{NOTE}note:{NOTE:#} {note}\n")).collect();
    for finding in &findings {
        out.push_str(&format!("{BAD}problem:{BAD:#} {}\n", finding.message));
    }
    if findings.is_empty() {
        // Not into tables that a run has to make first.
        let rehearsed = if has_rehearsed { ", rows written and rolled back" } else { "" };
        out.push_str(&format!(
            "{GOOD}ok:{GOOD:#} configuration, PostgreSQL, schema, privileges{rehearsed}, Kafka, topics and offsets\n"
        ));
    }
    print_styled(&out)?;
    let order = [ExitCode::Config, ExitCode::Permission, ExitCode::DataNeedsDecision, ExitCode::ServerAway];
    let worst = order.into_iter().find(|code| findings.iter().any(|finding| finding.code == *code));
    match worst.or_else(|| findings.first().map(|finding| finding.code)) {
        None => Ok(()),
        Some(code) => Err(Stop::new(code, format!("check found {} problem(s), listed above", findings.len()))),
    }
}

/// Where the pipeline stands, and whether rows were written.
fn check_database(config: &Config, findings: &mut Vec<Stop>, notes: &mut Vec<String>) -> (Vec<Standing>, bool) {
    let found = Database::open(config, &startup::owner_name()).and_then(|database| {
        let mut schema = database.validate()?;
        notes.extend(database.notes()?);
        let has_rehearsed = schema.is_empty();
        if has_rehearsed {
            notes.extend(rehearse(&database)?);
        }
        // Without the tables there are no offsets to look at.
        let standings = if schema.is_empty() { database.ledger().standings()? } else { Vec::new() };
        if config.schema.manage == Manage::Create {
            let (made, left): (Vec<_>, Vec<_>) = schema.into_iter().partition(|finding| finding.is_absence);
            let made = made.into_iter().map(|finding| format!("a run makes what is missing: {}", finding.message));
            notes.extend(made);
            schema = left;
        }
        Ok((schema, standings, has_rehearsed))
    });
    match found {
        Ok((schema, standings, has_rehearsed)) => {
            findings.extend(schema.into_iter().map(|f| Stop::new(f.code, format!("database: {}", f.message))));
            (standings, has_rehearsed)
        }
        Err(failure) => {
            findings.push(Stop::new(failure.fault.exit_code(), format!("database: {failure}")));
            (Vec::new(), false)
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

/// Writes a price, metrics and a dead letter as a run does, and moves an offset that isn't there; then rolls it back.
/// What is refused because of the row itself is no problem of the configuration, but worth knowing.
fn rehearse(database: &Database) -> Result<Option<String>, Failure> {
    let batch = rehearsal();
    let settings = Settings { target: Target::Auto, ..Settings::default() };
    let mut work = Work::decode(&batch, |_| Some(&settings));
    let mut sink = database.sink(Arc::new(Heartbeat::new("check")));
    let outcome = sink.stage(&mut work).and_then(|()| sink.advance(&work));
    sink.rollback();
    match outcome {
        Ok(_) => Ok(None),
        Err(failure) if matches!(failure.fault, Fault::Record | Fault::UniqueKey) => {
            let what = "a test row was refused, as a record like it would be (a run makes a dead letter of it)";
            Ok(Some(format!("{what}: {failure}")))
        }
        Err(failure) => Err(failure),
    }
}

fn rehearsal() -> Batch {
    let now = Utc::now();
    let time = |age: i64| (now - Age::seconds(age)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let price = serde_json::json!({ "symbol": SYMBOL, "price": "1", "volume": 1, "timestamp": time(0) });
    let metrics = serde_json::json!({
        "symbol": SYMBOL, "window_start": time(60), "window_end": time(0),
        "avg_price": "1", "max_price": "1", "min_price": "1", "avg_volume": "1",
    });
    let letter = serde_json::json!({ "symbol": SYMBOL });
    let limits = Limits { rows_max: 3, bytes_max: 1 << 20, linger: Duration::ZERO, message_bytes_max: 1 << 20 };
    let (mut batcher, partition) = (Batcher::new(limits), TopicPartition::new(TOPIC, 0));
    batcher.follow(partition.clone(), Epoch(0), NextOffset(0));
    for (message, offset) in [price, metrics, letter].iter().zip(0..) {
        let (value, timestamp_ms) = (message.to_string(), Some(now.timestamp_millis()));
        let record = Incoming {
            offset: Offset(offset),
            leader_epoch: None,
            timestamp_ms,
            key: None,
            value: Some(value.as_bytes()),
        };
        batcher.push(&partition, record, Instant::now());
    }
    batcher.seal().expect("records were pushed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rehearsal_writes_into_every_table() {
        let (batch, settings) = (rehearsal(), Settings { target: Target::Auto, ..Settings::default() });
        let decoded = Work::decode(&batch, |_| Some(&settings)).decoded;
        assert_eq!((decoded.prices.len(), decoded.metrics.len(), decoded.dead_letters.len()), (1, 1, 1));
    }
}
