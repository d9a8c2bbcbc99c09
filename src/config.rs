//! The configuration, read once into types with no doubts left.
//!
//! `sources` finds what was set, `reader` types it and keeps every complaint; each section knows its own keys and their
//! defaults, and this file what contradicts what. Nothing here connects to anything.

mod connection_string;
mod database;
mod kafka;
mod limits;
mod reader;
mod secret;
mod sources;
mod topics;

pub use self::kafka::{AssignmentMode, Client, GroupProtocol, Isolation, Kafka, KafkaTls, OnGap, Sasl, SaslMechanism};
pub use database::{Database, DatabaseTls, TableName};
pub use limits::{Batch, DeadLetters, Log, LogFormat, LogLevel, Manage, Retry, Schema, Writers};
pub use secret::{Secret, refuse_public};
pub use sources::{Problem, Sources};
pub use topics::{Pattern, Selector, Topic, Topics};

use reader::{Reader, name};
use std::fmt;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Names this pipeline's rows in the bookkeeping tables.
    pub pipeline: String,
    /// Where records come from.
    pub kafka: Kafka,
    /// What is read and how. Never empty; names and patterns differ.
    pub topics: Topics,
    /// Where rows go to.
    pub database: Database,
    /// When a batch is closed.
    pub batch: Batch,
    /// Who writes.
    pub writers: Writers,
    /// How failures are retried.
    pub retry: Retry,
    /// Who takes care of the tables.
    pub schema: Schema,
    /// What happens to what can't become a row.
    pub dead_letters: DeadLetters,
    /// Where metrics and health are served, `host:port`; `None`: nowhere.
    pub metrics_listen: Option<String>,
    /// How log lines look, and which there are.
    pub log: Log,
}

/// All that is wrong with a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads file, environment and flags; reports everything that is wrong at once.
    pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
        Config::load_without(sources, &[])
    }

    /// As [`load`](Config::load), for a command that does without some sections: they stay at their defaults, whatever
    /// is set. So it runs where their files aren't, and secrets of others are not looked for.
    pub fn load_without(sources: &Sources, sections: &[&str]) -> Result<Config, ConfigErrors> {
        let (mut entries, problems) = sources::gather(sources);
        let is_in = |key: &str, section: &str| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
        entries.retain(|key, _| !sections.iter().any(|section| is_in(key, section)));
        let mut reader = Reader::new(entries, problems);
        // libpq's variables are about the database, and beside them nothing else is read of the environment any more.
        let without_variables = Sources::default();
        let without_database = sections.contains(&"database");
        let config = Config::read(&mut reader, if without_database { &without_variables } else { sources });
        contradictions(&config, &mut reader);
        match reader.finish() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigErrors(problems)),
        }
    }

    fn read(reader: &mut Reader, sources: &Sources) -> Config {
        Config {
            pipeline: reader.get("pipeline", name).unwrap_or_else(|| "stock-db-writer".to_owned()),
            kafka: self::kafka::read(reader),
            topics: topics::read(reader),
            database: database::read(reader, &sources.environment),
            batch: limits::batch(reader),
            writers: limits::writers(reader),
            retry: limits::retry(reader),
            schema: limits::schema(reader),
            dead_letters: limits::dead_letters(reader),
            metrics_listen: limits::metrics_listen(reader),
            log: limits::log(reader),
        }
    }
}

/// What contradicts what across sections.
fn contradictions(config: &Config, reader: &mut Reader) {
    // A batch ends at `bytes_max` or with the message that crosses it, so one of them may be a whole message longer.
    let batches = config.batch.bytes_max.saturating_mul(config.writers.count + 1);
    let least = batches.saturating_add(config.kafka.message_bytes_max);
    if config.writers.memory_max < least {
        reader.complain(
            &["writers.memory_max", "batch.bytes_max", "writers.count", "kafka.max_message_bytes"],
            format!(
                "must hold a batch of batch.bytes_max for each writer, one more, and a message of \
                 kafka.max_message_bytes: {least} bytes, is {}",
                config.writers.memory_max
            ),
        );
    }
    if let Some(topic) = &config.dead_letters.topic {
        relay_contradictions(topic, config, reader);
    }
    let statement_timeout = config.database.statement_timeout;
    if config.writers.hold_max >= statement_timeout {
        reader.complain(
            &["writers.max_hold_ms", "database.statement_timeout_ms"],
            format!("must be below database.statement_timeout_ms, {}", statement_timeout.as_millis()),
        );
    }
}

fn relay_contradictions(topic: &str, config: &Config, reader: &mut Reader) {
    if config.topics.names().any(|name| name == topic) || config.topics.is_by_pattern(topic) {
        let what = format!("{topic:?} is one of the topics that are read: its letters would be read as records");
        reader.complain(&["dead_letters.topic"], what);
    }
    #[cfg(feature = "client-kafka")]
    if config.kafka.client == Client::Kafka {
        let what = "client = \"kafka\" sends no headers: leave it empty, or use client = \"krafka\"";
        reader.complain(&["dead_letters.topic", "kafka.client"], what);
    }
}

#[cfg(test)]
mod tests;
