//! From a configuration to two servers that answer: connecting, the schema, the first rows.
//!
//! Waits for a server that is away, for as long as the configuration says; stops at once for what waiting can't mend.

use crate::backoff::Backoff;
use crate::config::{Config, Manage};
use crate::database::{Database, InitFailure, InitOutcome};
use crate::exit::{ExitCode, Stop};
use crate::fault::{Failure, Fault};
use crate::ledger::{AHEAD_MAX, Ledger, LogIdentity, Pipeline, Standing, Start, StartFailure, same_log, was_truncated};
use crate::outage::Outage;
use crate::record::{NextOffset, StartAt, TopicPartition};
use crate::shutdown::Shutdown;
use crate::source::{self, Source, SourceFault, TopicState};
use crate::vitals::Vitals;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server may stay away from something that is supposed to end, unless the configuration says otherwise.
const BOUNDED_OUTAGE_MAX: Duration = Duration::from_secs(300);

/// Why there is nothing to go on with.
#[derive(Debug)]
pub enum NotStarted {
    /// Somebody asked for an end while a server was away.
    Asked,
    /// Something is wrong.
    Stop(Stop),
}

impl From<Stop> for NotStarted {
    fn from(stop: Stop) -> Self {
        NotStarted::Stop(stop)
    }
}

/// How long a server may stay away; `None`: for ever.
pub fn outage_max(config: &Config, bounded: bool) -> Option<Duration> {
    match config.retry.outage_max {
        Duration::ZERO if bounded => Some(BOUNDED_OUTAGE_MAX),
        Duration::ZERO => None,
        limit => Some(limit),
    }
}

/// A name for this process that no other one has.
pub fn owner_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("localhost");
    format!("{host}:{}:{:08x}", std::process::id(), fastrand::u32(..))
}

/// Waits out what heals by itself.
pub struct Patience<'a> {
    backoff: Backoff,
    shutdown: &'a Shutdown,
    vitals: Option<&'a Vitals>,
}

impl<'a> Patience<'a> {
    /// Patience as the configuration says.
    pub fn new(config: &Config, shutdown: &'a Shutdown) -> Self {
        Patience { backoff: Backoff::unseeded(config.retry.initial, config.retry.max), shutdown, vitals: None }
    }

    /// Says meanwhile that it is at work.
    pub fn seen_by(self, vitals: &'a Vitals) -> Self {
        Patience { vitals: Some(vitals), ..self }
    }

    /// Repeats a call to the database while it is away, or busy with what is in our way. Neither for longer than an outage
    /// may last.
    pub fn database<T>(
        &mut self,
        outage: &Outage,
        mut call: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, NotStarted> {
        let mut busy_since: Option<Instant> = None;
        loop {
            match call() {
                Ok(answer) => {
                    outage.back();
                    self.backoff.reset();
                    return Ok(answer);
                }
                Err(failure) => match failure.fault {
                    Fault::Connection | Fault::WrongNode | Fault::Resource => outage.failed(&failure)?,
                    Fault::Transaction | Fault::Lock | Fault::Statement => match (busy_since, outage.limit()) {
                        (Some(since), Some(limit)) if since.elapsed() >= limit => {
                            let what = "database: kept waiting for";
                            let message = format!("{what} {} s (retry.max_outage_s): {failure}", limit.as_secs());
                            return Err(Stop::new(failure.fault.exit_code(), message).into());
                        }
                        (Some(_), _) => log::debug!("{failure}"),
                        (None, _) => {
                            busy_since = Some(Instant::now());
                            log::warn!("database busy, retrying: {failure}");
                        }
                    },
                    fault => return Err(Stop::new(fault.exit_code(), format!("database: {failure}")).into()),
                },
            }
            self.pause()?;
        }
    }

    /// Repeats a call to Kafka while the brokers are away, and for `grace` while a topic is missing.
    pub fn kafka<T>(
        &mut self,
        outage: &Outage,
        grace: Duration,
        mut call: impl FnMut() -> Result<T, SourceFault>,
    ) -> Result<T, NotStarted> {
        let mut missing_since: Option<Instant> = None;
        loop {
            match call() {
                Ok(answer) => {
                    outage.back();
                    self.backoff.reset();
                    return Ok(answer);
                }
                Err(fault @ SourceFault::Away(_)) => outage.away(&fault)?,
                Err(fault @ SourceFault::MissingTopic(_)) => match missing_since {
                    Some(since) if since.elapsed() >= grace => return Err(Stop::from(fault).into()),
                    Some(_) => {}
                    // A grace of nothing is no grace.
                    None if grace.is_zero() => return Err(Stop::from(fault).into()),
                    None => {
                        log::warn!("{fault}; waiting for it");
                        missing_since = Some(Instant::now());
                    }
                },
                Err(fault) => return Err(Stop::from(fault).into()),
            }
            self.pause()?;
        }
    }

    /// Waits before the next attempt.
    pub fn pause(&mut self) -> Result<(), NotStarted> {
        if let Some(vitals) = self.vitals {
            vitals.turned();
        }
        // At most a second: an operator who starts the server wants to see the worker start.
        let delay = self.backoff.next_delay().min(Duration::from_secs(1));
        if self.shutdown.sleep(delay) { Err(NotStarted::Asked) } else { Ok(()) }
    }
}

/// Opens the database, and creates or checks the tables as the configuration says.
pub fn open_database(
    config: &Config,
    owner: &str,
    outage: &Outage,
    patience: &mut Patience<'_>,
) -> Result<Database, NotStarted> {
    let database = patience.database(outage, || Database::open(config, owner))?;
    if config.schema.manage == Manage::Create {
        let made = create(&database, outage, patience)?.made;
        if !made.is_empty() {
            log::info!("created {}", made.join(", "));
        }
    }
    if config.schema.manage != Manage::Off {
        validate(&database, outage, patience)?;
    }
    Ok(database)
}

/// Stops if the tables are not such that a run works.
pub fn validate(database: &Database, outage: &Outage, patience: &mut Patience<'_>) -> Result<(), NotStarted> {
    let findings = patience.database(outage, || database.validate())?;
    let Some(first) = findings.first() else { return Ok(()) };
    let more = match findings.len() {
        1 => String::new(),
        n => format!(" (and {} more; see: stock-db-writer check)", n - 1),
    };
    Err(Stop::new(first.code, format!("database: {}{more}", first.message)).into())
}

/// Creates what is missing of the tables.
pub fn create(database: &Database, outage: &Outage, patience: &mut Patience<'_>) -> Result<InitOutcome, NotStarted> {
    let outcome = patience.database(outage, || match database.init() {
        Ok(outcome) => Ok(Ok(outcome)),
        Err(InitFailure::Database(failure)) => Err(failure),
        Err(InitFailure::Stop(stop)) => Ok(Err(stop)),
    })?;
    Ok(outcome?)
}

/// Connects to Kafka.
pub fn open_kafka(
    config: &Config,
    outage: &Outage,
    patience: &mut Patience<'_>,
) -> Result<Box<dyn Source>, NotStarted> {
    patience.kafka(outage, config.schema.grace, || source::connect(&config.kafka))
}

/// What the configuration names, and what its patterns match now, as the brokers know it; and the cluster it is in, if
/// the client can tell.
pub fn describe(config: &Config, source: &mut dyn Source) -> Result<(Option<String>, Topics), SourceFault> {
    let cluster_id = source.cluster_id()?;
    let mut topics: Vec<Arc<str>> = config.topics.names().map(Arc::from).collect();
    topics.extend(matching(config, source)?);
    loop {
        match source.topics(&topics) {
            // Deleted in between.
            Err(SourceFault::MissingTopic(missing)) if config.topics.is_by_pattern(&missing) => {
                topics.retain(|topic| **topic != *missing);
            }
            Err(fault) => return Err(fault),
            Ok(states) => {
                for (topic, state) in &states {
                    is_all_there(config, topic, state)?;
                    state.readable(topic)?;
                }
                return Ok((cluster_id, states));
            }
        }
    }
}

/// The topics that are there and that the configuration reads because of a pattern.
pub fn matching(config: &Config, source: &mut dyn Source) -> Result<Vec<Arc<str>>, SourceFault> {
    if config.topics.patterns().next().is_none() {
        return Ok(Vec::new());
    }
    Ok(source.topic_names()?.into_iter().filter(|topic| config.topics.is_by_pattern(topic)).collect())
}

/// A topic that is named must have the partitions that are listed. Patterns match topics of any size: of those the
/// partitions are read that are there.
pub fn is_all_there(config: &Config, topic: &str, state: &TopicState) -> Result<(), SourceFault> {
    match config.kafka.assignment.lacking(state.partitions).first() {
        Some(missing) if !config.topics.is_by_pattern(topic) => Err(SourceFault::Config(format!(
            "kafka.assignment names partition {missing}, but topic {topic:?} has {} partitions",
            state.partitions
        ))),
        _ => Ok(()),
    }
}

/// Topics by name.
pub type Topics = BTreeMap<Arc<str>, TopicState>;

/// Every partition of these topics that this configuration reads.
pub fn partitions(config: &Config, topics: &Topics) -> Vec<TopicPartition> {
    let mut partitions = Vec::new();
    for (topic, state) in topics {
        let read = config.kafka.assignment.read(state.partitions);
        partitions.extend(read.into_iter().map(|number| TopicPartition::new(topic.clone(), number)));
    }
    partitions
}

/// Makes the first rows of topics that have none yet, where `kafka.start_at` says. But a topic that a pattern has come to
/// match starts at its oldest record once the pipeline has any row: it may have appeared while nobody looked, and what
/// was in it by then must not be lost. That it was there all the time, and only the pattern is new, can't be told apart.
pub fn first_rows(
    config: &Config,
    source: &mut dyn Source,
    ledger: &mut dyn Ledger,
    outages: (&Outage, &Outage),
    patience: &mut Patience<'_>,
) -> Result<Topics, NotStarted> {
    let (database, kafka) = outages;
    loop {
        let (cluster_id, states) = patience.kafka(kafka, config.schema.grace, || describe(config, &mut *source))?;
        let topics: Vec<Arc<str>> = states.keys().cloned().collect();
        let mut resolve = |new: &[Arc<str>], pipeline| {
            let mut starts = Vec::new();
            for topic in new {
                let Some(state) = states.get(topic) else { continue };
                let all: Vec<_> =
                    (0..state.partitions).map(|number| TopicPartition::new(topic.clone(), number)).collect();
                let identity = LogIdentity { cluster_id: cluster_id.clone(), topic_id: state.topic_id };
                let start_at = match pipeline {
                    Pipeline::Known if config.topics.is_by_pattern(topic) => StartAt::Earliest,
                    _ => config.kafka.start_at,
                };
                for (partition, next) in source.start_offsets(&all, start_at)? {
                    starts.push(Start { partition, next, identity: identity.clone() });
                }
            }
            Ok(starts)
        };
        let started = patience.database(database, || match ledger.start(&topics, &mut resolve) {
            Ok(()) => Ok(None),
            Err(StartFailure::Database(failure)) => Err(failure),
            Err(StartFailure::Resolve(stop)) => Ok(Some(stop)),
        })?;
        match started {
            None => return Ok(states),
            // The brokers went away in between.
            Some(stop) if stop.code == ExitCode::ServerAway => kafka.away(&stop)?,
            Some(stop) => return Err(stop.into()),
        }
        patience.pause()?;
    }
}

/// Makes sure that the positions in the database are about the logs that are there: a run to the end of a log that was
/// replaced, or cut, would have nothing to do and see nothing.
pub fn check_positions(
    config: &Config,
    source: &mut dyn Source,
    ledger: &mut dyn Ledger,
    topics: &Topics,
    outages: (&Outage, &Outage),
    patience: &mut Patience<'_>,
) -> Result<(), NotStarted> {
    let (database, kafka) = outages;
    let begun = Instant::now();
    loop {
        // First: whoever writes at the same time is behind the bounds that are asked for afterwards.
        let standings = patience.database(database, || ledger.standings())?;
        let cluster_id = patience.kafka(kafka, config.schema.grace, || source.cluster_id())?;
        let followed = standings.iter().filter(|standing| topics.contains_key(&standing.partition.topic));
        let followed: Vec<&Standing> = followed.collect();
        for Standing { partition, identity, .. } in &followed {
            let topic_id = topics[&partition.topic].topic_id;
            same_log(&partition.topic, identity, &LogIdentity { cluster_id: cluster_id.clone(), topic_id })?;
        }
        let partitions: Vec<_> = followed.iter().map(|standing| standing.partition.clone()).collect();
        let bounds = patience.kafka(kafka, config.schema.grace, || source.bounds(&partitions))?;
        let is_ahead = |standing: &&&Standing| {
            bounds.get(&standing.partition).is_some_and(|bounds| standing.next > bounds.high_watermark)
        };
        let Some(Standing { partition, next, .. }) = followed.iter().find(is_ahead) else { return Ok(()) };
        let end = bounds[partition].high_watermark;
        if begun.elapsed() > AHEAD_MAX {
            return Err(was_truncated(partition, *next, end).into());
        }
        log::debug!("partition={partition} next_offset={next} is beyond the log's end {end}, asking again");
        patience.pause()?;
    }
}

/// Where each partition ends now, as far as this configuration may read.
pub fn ends(
    source: &mut dyn Source,
    partitions: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
    let bounds = source.bounds(partitions)?;
    match partitions.iter().find(|partition| !bounds.contains_key(partition)) {
        Some(partition) => Err(SourceFault::Away(format!("no broker knows where partition {partition} ends"))),
        None => Ok(bounds.into_iter().map(|(partition, bounds)| (partition, bounds.last_stable)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_lock_that_is_never_given_back_is_not_waited_for_for_ever() {
        let config = Config::load(&Sources::default()).expect("the defaults are right");
        let shutdown = Shutdown::new();
        let outage = Outage::new("database", Some(Duration::ZERO));
        for fault in [Fault::Lock, Fault::Statement, Fault::Transaction] {
            let mut n_calls = 0;
            let refused = Patience::new(&config, &shutdown).database(&outage, || {
                n_calls += 1;
                assert!(n_calls < 3, "the limit is over");
                Err::<(), _>(Failure { fault, sqlstate: None, message: "planned".to_owned(), origin: None })
            });
            let Err(NotStarted::Stop(stop)) = refused else { panic!("{refused:?}") };
            assert_eq!((stop.code, n_calls), (ExitCode::ServerAway, 2));
            assert_eq!(stop.message, "database: kept waiting for 0 s (retry.max_outage_s): planned");
        }
    }
}
