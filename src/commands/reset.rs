//! `reset`: moves a pipeline's positions by hand, after showing what that does.

use super::output::{self, Halt, halt};
use crate::clock;
use crate::config::Config;
use crate::database::{Database, Reset};
use crate::decode::settings::Target as Table;
use crate::delivery::Committable;
use crate::exit::{ExitCode, Stop};
use crate::explain::counted;
use crate::ledger::LogIdentity;
use crate::outage::Outage;
use crate::record::{NextOffset, TopicPartition};
use crate::reset::{Effect, Look, Target, To};
use crate::shutdown::Shutdown;
use crate::source::{Bounds, Source, SourceFault};
use crate::startup::{self, Patience};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// What is asked for.
pub struct Request {
    /// The topic.
    pub topic: String,
    /// One of its partitions; `None`: all.
    pub partition: Option<i32>,
    /// Where to.
    pub to: To,
    /// Do it, and don't only show it.
    pub yes: bool,
}

/// `reset`
pub fn run(config: &Config, request: &Request) -> Result<(), Stop> {
    match reset(config, request) {
        Ok(()) | Err(Halt::ReaderGone) => Ok(()),
        Err(Halt::Stop(stop)) => Err(stop),
    }
}

fn reset(config: &Config, request: &Request) -> Result<(), Halt> {
    let Some(settings) = config.topics.settings(&request.topic) else {
        let what = format!("topic {:?} is not one that [[topics]] of the configuration names", request.topic);
        return Err(Stop::new(ExitCode::Config, what).into());
    };
    let shutdown = Shutdown::new();
    let mut patience = Patience::new(config, &shutdown);
    let outage_max = startup::outage_max(config, true);
    let (kafka, postgres) = (Outage::new("kafka", outage_max), Outage::new("database", outage_max));
    let mut source = startup::open_kafka(config, &kafka, &mut patience)?;
    let grace = Duration::ZERO;
    // Once before anything is locked: what is wrong is known by then, and an outage is waited out.
    patience.kafka(&kafka, grace, || look(source.as_mut(), request))??;
    let database = patience.database(&postgres, || Database::open(config, &startup::owner_name()))?;
    // Before anything is changed: afterwards only what was done is to be told.
    let has_prices = match settings.target {
        Table::Metrics => None,
        Table::Prices | Table::Auto => patience.database(&postgres, || database.has_prices())?,
    };
    let mut desk = database.resets(&request.topic, request.partition);
    let resets = loop {
        let mut look = || look(source.as_mut(), request).map_err(Stop::from)?;
        let answer = patience.database(&postgres, || match request.yes {
            true => desk.apply(&mut look),
            false => desk.show(&mut look),
        })?;
        match answer {
            Ok(resets) => break resets,
            // Kafka went away in between.
            Err(stop) if stop.code == ExitCode::ServerAway => kafka.away(&stop)?,
            Err(stop) => return Err(stop.into()),
        }
        patience.pause()?;
    };
    let lost: i64 = resets.iter().map(|reset| reset.n_unrepeatable).sum();
    let is_done = request.yes && lost == 0;
    // Before anything is printed: a reader that has gone must not keep Kafka from hearing of it.
    let told = is_done.then(|| tell_kafka(source.as_mut(), &resets));
    source.close();

    let mut out = output::stdout()?;
    for reset in &resets {
        writeln!(out, "{}", line(reset)).map_err(halt)?;
    }
    let n_again: u64 = resets.iter().map(|reset| reset.effect.n_again).sum();
    if n_again > 0 {
        let twice = match settings.target {
            Table::Metrics => {
                "windows that are written again take the place of what is there: none is doubled".to_owned()
            }
            Table::Prices | Table::Auto => doubled(has_prices, database.prices_name(), &resets),
        };
        writeln!(out, "{twice}").map_err(halt)?;
    }
    match told {
        Some(told) => writeln!(out, "done; {told}").map_err(halt)?,
        None if lost > 0 => writeln!(out, "nothing was changed").map_err(halt)?,
        None => writeln!(out, "nothing was changed; with --yes it is done").map_err(halt)?,
    }
    out.flush().map_err(halt)?;
    match lost {
        0 => Ok(()),
        n => {
            let letters = counted(n.unsigned_abs(), "open dead letter");
            let what = format!(
                "{letters} of topic {:?} would be lost, because their records are not in the log any more; redrive or discard \
                 them first: stock-db-writer dead-letters list --topic {}",
                request.topic, request.topic
            );
            Err(Stop::new(ExitCode::DataNeedsDecision, what).into())
        }
    }
}

/// Where the partitions are to be, by what the brokers say of them.
fn look(source: &mut dyn Source, request: &Request) -> Result<Result<Look, Stop>, SourceFault> {
    let topic: Arc<str> = request.topic.as_str().into();
    let cluster_id = source.cluster_id()?;
    let states = source.topics(std::slice::from_ref(&topic))?;
    let Some(state) = states.get(&topic) else { return Err(SourceFault::MissingTopic(request.topic.clone())) };
    let numbers = match request.partition {
        None => 0..state.partitions,
        Some(number) if number < state.partitions => number..number + 1,
        Some(number) => {
            let what = format!("topic {topic:?} has no partition {number}: it has {}", state.partitions);
            return Ok(Err(Stop::new(ExitCode::Usage, what)));
        }
    };
    let partitions: Vec<_> = numbers.map(|number| TopicPartition::new(topic.clone(), number)).collect();
    if let To::TimeMs(time_ms) = request.to
        && time_ms > clock::now_ms()
    {
        let what = "--to is a time to come; behind the newest record is: --to latest";
        return Ok(Err(Stop::new(ExitCode::Usage, what)));
    }
    let positions = match request.to.start_at() {
        Some(start_at) => source.start_offsets(&partitions, start_at)?,
        None => BTreeMap::new(),
    };
    // After the positions: a log that grows meanwhile still holds what was its end a moment ago.
    let bounds = source.bounds(&partitions)?;
    if let Some(partition) = partitions.iter().find(|partition| !bounds.contains_key(partition)) {
        return Err(SourceFault::Away(format!("no broker knows where partition {partition} ends")));
    }
    let identity = LogIdentity { cluster_id, topic_id: state.topic_id };
    let target = |partition: TopicPartition| {
        let Bounds { start, high_watermark: end, .. } = bounds[&partition];
        let to = match request.to {
            To::Offset(offset) => NextOffset(offset),
            // Its start may have moved on, too.
            _ => positions[&partition].max(start),
        };
        match start <= to && to <= end {
            true => Ok(Target { partition, to, identity: identity.clone(), start, end }),
            false => Err(Stop::new(
                ExitCode::Usage,
                format!("partition {partition}: offset {to} is not in its log, which is from {start} to {end}"),
            )),
        }
    };
    let targets: Result<_, Stop> = partitions.into_iter().map(target).collect();
    Ok(targets.map(|targets| Look { targets, n_partitions: state.partitions }))
}

fn line(reset: &Reset) -> String {
    let Effect { partition, from, to, is_other_log, is_gone, n_again, gap, .. } = &reset.effect;
    let mut line = match from {
        _ if *is_gone => format!("{partition}: the topic has no such partition any more, its position is removed"),
        None => format!("{partition}: begins at {to}"),
        Some(from) if *is_other_log => format!("{partition}: from {from} of another log to {to} of this one"),
        Some(from) if from == to => format!("{partition}: is at {to} already"),
        Some(from) => format!("{partition}: from {from} to {to}"),
    };
    if *n_again > 0 {
        line.push_str(&format!(", {} read again", counted(*n_again, "offset")));
    }
    if let Some((from, to)) = gap {
        line.push_str(&format!(", offsets {from} to {} passed over, as writer_gaps says then", to.0 - 1));
    }
    match (reset.n_unrepeatable, reset.n_letters) {
        (0, 0) => {}
        (0, n) => line.push_str(&format!(", {} of these records removed", counted(n.unsigned_abs(), "dead letter"))),
        (lost, _) => line.push_str(&format!(", {} in the way", counted(lost.unsigned_abs(), "open dead letter"))),
    }
    line
}

/// What reading again does to a table that rows are only added to.
fn doubled(has_rows: Option<bool>, table: &str, resets: &[Reset]) -> String {
    if has_rows == Some(false) {
        return format!("{table} is empty: no row is doubled");
    }
    // Rows don't say which record they are from: the share is that of all records so far.
    let share =
        |reset: &Reset| reset.rows_total as f64 * reset.effect.n_again as f64 / reset.records_total.max(1) as f64;
    let n_rows = resets.iter().map(share).sum::<f64>().round() as u64;
    format!(
        "about {} will be in {table} twice, unless it is truncated, or they are deleted, before that",
        counted(n_rows, "row")
    )
}

/// Whoever watches the group's lag in Kafka shall see it. Nothing depends on it.
fn tell_kafka(source: &mut dyn Source, resets: &[Reset]) -> String {
    let there = resets.iter().filter(|reset| !reset.effect.is_gone);
    let offsets = there.map(|reset| (reset.effect.partition.clone(), reset.effect.to)).collect();
    match source.commit_from_outside(&Committable::decided(offsets)) {
        Ok(()) => "the group's offsets in Kafka were moved, too".to_owned(),
        Err(SourceFault::Away(_)) => "the group's offsets in Kafka follow when a worker writes next".to_owned(),
        Err(fault) => format!("the group's offsets in Kafka were not moved: {fault}"),
    }
}
