//! `dead-letters`: shows what could not become a row, makes rows of it after all, or decides to do without.
//!
//! It only speaks to PostgreSQL, beside a running worker. What it prints holds values of records only where somebody
//! asks to see one: in `show`.

mod list;
mod redrive;

use super::output::{self, Halt, halt};
use crate::config::Config;
use crate::database::{Database, PostgresLetters};
use crate::dead_letters::{Counts, Filter, Letter, LetterId, RefusedRecord};
use crate::exit::{ExitCode, Stop};
use crate::explain::text::{PAGE_WIDTH, cut, fold, harmless, wrap};
use crate::explain::{Explained, counted, hex, value};
use crate::fault::{Failure, Fault};
use crate::outage::Outage;
use crate::progress::{Extent, Progress};
use crate::record::Record;
use crate::redrive::Plan;
use crate::row::Class;
use crate::shutdown::Shutdown;
use crate::startup::{self, NotStarted, Patience};
use chrono::{DateTime, SecondsFormat};
pub use list::list;
pub use redrive::redrive;
use std::io::{self, Write};
use std::time::Instant;

/// Letters of one transaction.
const PAGE: usize = 5000;
/// Of a value, `show` shows so much unless all of it is asked for.
const TEXT_BYTES: usize = 1000;
const HEX_BYTES: usize = 256;

/// Reads a class by its name.
pub fn class(name: &str) -> Result<Class, String> {
    let known = || Class::ALL.map(Class::as_str).join(", ");
    Class::ALL.into_iter().find(|class| class.as_str() == name).ok_or_else(|| format!("must be one of {}", known()))
}

/// An operator's access to the letters, which waits out what heals by itself.
struct Desk<'d> {
    config: &'d Config,
    letters: PostgresLetters,
    outage: &'d Outage,
    patience: Patience<'d>,
}

impl Desk<'_> {
    fn ask<T>(&mut self, mut call: impl FnMut(&mut PostgresLetters) -> Result<T, Failure>) -> Result<T, NotStarted> {
        let (letters, begun) = (&mut self.letters, Instant::now());
        // An outage has its own clock. This is for a server that answers, but never lets a page through.
        let is_too_long = |failure: &Failure| {
            matches!(failure.fault, Fault::Transaction | Fault::Lock | Fault::Statement)
                && self.outage.limit().is_some_and(|limit| begun.elapsed() > limit)
        };
        let answer = self.patience.database(self.outage, || match call(letters) {
            Err(failure) if is_too_long(&failure) => Ok(Err(failure)),
            other => other.map(Ok),
        })?;
        answer.map_err(|failure| {
            let s = begun.elapsed().as_secs();
            let what = format!("database: tried for {s} s (retry.max_outage_s), in vain: {failure}");
            Stop::new(ExitCode::ServerAway, what).into()
        })
    }

    /// Letters that are named must be there.
    fn know(&mut self, filter: &Filter) -> Result<(), Halt> {
        if filter.ids.is_empty() {
            return Ok(());
        }
        match self.ask(|letters| letters.missing(&filter.ids))?.first() {
            None => Ok(()),
            Some(id) => Err(no_such(self.config, id).into()),
        }
    }
}

fn no_such(config: &Config, id: &LetterId) -> Stop {
    let id = harmless(&id.to_string()).into_owned();
    let what = format!("pipeline {:?} has no dead letter {id}; see: dead-letters list --all", config.pipeline);
    Stop::new(ExitCode::Usage, what)
}

fn at_the_desk(config: &Config, work: impl FnOnce(&mut Desk<'_>) -> Result<(), Halt>) -> Result<(), Stop> {
    let shutdown = Shutdown::new();
    let outage = Outage::new("database", startup::outage_max(config, true));
    let mut patience = Patience::new(config, &shutdown);
    let opened = patience.database(&outage, || Database::open(config, &startup::owner_name()));
    let worked = opened
        .map_err(Halt::from)
        .and_then(|database| work(&mut Desk { config, letters: database.letters(), outage: &outage, patience }));
    match worked {
        Ok(()) | Err(Halt::ReaderGone) => Ok(()),
        Err(Halt::Stop(stop)) => Err(stop),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_counts(out: &mut impl Write, filter: &Filter, counts: &Counts) -> io::Result<()> {
    let kind = if filter.closed_too { "dead letter" } else { "open dead letter" };
    match counts.total() {
        0 => writeln!(out, "no {kind}s"),
        n => writeln!(out, "\n{}", wrap(&format!("{}: {}", counted(n, kind), harmless(&counts.to_string())), 2)),
    }
}

/// `dead-letters show`
pub fn show(config: &Config, id: &LetterId, full: bool) -> Result<(), Stop> {
    let mut out = output::stdout()?;
    at_the_desk(config, |desk| {
        let Some((letter, record)) = desk.ask(|letters| letters.find(id))? else {
            return Err(no_such(config, id).into());
        };
        let mut plan = Plan::default();
        let settings = config.topics.settings(&letter.id.partition.topic);
        // Otherwise it may be that no letter of the record is open.
        if letter.is_open() && !record.letters.is_empty() {
            plan.add(&record, settings, config.kafka.message_bytes_max);
            desk.ask(|letters| letters.fit(&mut plan))?;
        }
        let shown = write_letter(&mut out, config, &letter)
            .and_then(|()| write_value(&mut out, &letter, record.payload.as_deref(), full))
            .and_then(|()| write_today(&mut out, config, &letter, &record, &plan));
        shown.and_then(|()| out.flush()).map_err(halt)
    })
}

fn write_letter(out: &mut impl Write, config: &Config, letter: &Letter) -> io::Result<()> {
    writeln!(out, "{}: {}", harmless(&letter.id.to_string()), letter.state())?;
    let key = match &letter.key {
        None => "none".to_owned(),
        Some(key) => match std::str::from_utf8(key) {
            Ok(text) => format!("\"{}\"", cut(&harmless(text), PAGE_WIDTH)),
            Err(_) => format!("{} bytes, no text: {}", key.len(), cut(&digits(key), PAGE_WIDTH)),
        },
    };
    let elements = match letter.record_elements {
        Some(n) => format!("{} of {n}, from 0", letter.id.element),
        None => letter.id.element.to_string(),
    };
    let code = if letter.code.is_empty() { String::new() } else { format!(" {}", harmless(&letter.code)) };
    let timestamp = match letter.timestamp_ms.map(|ms| (ms, DateTime::from_timestamp_millis(ms))) {
        None => "none".to_owned(),
        Some((_, Some(time))) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        Some((ms, None)) => format!("{ms} ms since 1970"),
    };
    let mut fields = vec![
        ("pipeline", harmless(&config.pipeline).into_owned()),
        ("element", elements),
        ("class", format!("{}{code}", harmless(&letter.class))),
        ("reason", harmless(&letter.reason).into_owned()),
        ("record key", key),
        ("record time", timestamp),
        ("first seen", letter.first_seen.clone()),
    ];
    fields.extend(letter.redriven_at.clone().map(|time| ("redriven", time)));
    fields.extend(letter.discarded_at.clone().map(|time| ("discarded", time)));
    for (name, text) in fields {
        writeln!(out, "{}", wrap(&format!("  {name:<13}{text}"), 15))?;
    }
    Ok(())
}

fn write_value(out: &mut impl Write, letter: &Letter, payload: Option<&[u8]>, full: bool) -> io::Result<()> {
    let Some(payload) = payload else {
        let bytes = letter.payload_bytes.map_or_else(String::new, |bytes| format!(" of {bytes} bytes"));
        let digest = letter.payload_sha256.as_deref();
        let digest = digest.map_or_else(String::new, |digest| format!("; its SHA-256 is {}", digits(digest)));
        let text = format!("the record's value{bytes} was too long to be kept{digest}");
        return writeln!(out, "\n{}", wrap(&text, 2));
    };
    let part = |max: usize| &payload[..if full { payload.len() } else { payload.len().min(max) }];
    let more = |shown: &[u8]| match payload.len() - shown.len() {
        0 => String::new(),
        n => format!(", and {n} bytes more (--full)"),
    };
    let text = part(TEXT_BYTES);
    writeln!(out, "\nthe record's value, {} bytes, as text{}", payload.len(), more(text))?;
    for line in fold(&harmless(&String::from_utf8_lossy(text)), PAGE_WIDTH - 2) {
        writeln!(out, "  {line}")?;
    }
    let bytes = part(HEX_BYTES);
    writeln!(out, "\nin hexadecimal{}", more(bytes))?;
    hex::write(out, bytes, "  ")
}

/// What `explain` and `redrive` would say.
fn write_today(
    out: &mut impl Write,
    config: &Config,
    letter: &Letter,
    record: &RefusedRecord,
    plan: &Plan<'_>,
) -> io::Result<()> {
    let id = &letter.id;
    let settings = config.topics.settings(&id.partition.topic);
    if let (Some(settings), Some(payload)) = (settings, &record.payload) {
        let source = Record {
            topic: &id.partition.topic,
            partition: id.partition.partition,
            offset: id.offset,
            timestamp_ms: letter.timestamp_ms,
            key: letter.key.as_deref(),
            value: value(payload, config.kafka.message_bytes_max),
        };
        writeln!(out, "\nby today's configuration")?;
        Explained::of(&source, settings).write_table(out, &format!("{}@{}", id.partition, id.offset))?;
    }
    if !letter.is_open() {
        return Ok(());
    }
    let unit = plan.units.iter().find(|unit| unit.letters.iter().any(|(other, _)| other == id));
    let stay = plan.stays.iter().find(|stay| stay.id == *id);
    let text = match (unit, stay) {
        (Some(unit), _) if unit.anew.is_none() => {
            format!("element {}, which this letter is about, becomes a row by dead-letters redrive", id.element)
        }
        (Some(unit), _) => {
            let (n_rows, n_refused) = (unit.n_rows() as u64, unit.refused().len() as u64);
            let rest = if n_refused == 0 { String::new() } else { format!(" and {}", counted(n_refused, "letter")) };
            format!("the whole record becomes {}{rest} by dead-letters redrive", counted(n_rows, "row"))
        }
        (None, Some(stay)) => {
            let why = harmless(&stay.why.to_string()).into_owned();
            format!("element {}, which this letter is about, stays: {}: {why}", id.element, stay.why.label())
        }
        // Somebody has dealt with it between two looks.
        (None, None) => return Ok(()),
    };
    writeln!(out, "\n{}", wrap(&text, 2))
}

/// `dead-letters discard`
pub fn discard(config: &Config, filter: &Filter, yes: bool) -> Result<(), Stop> {
    let mut out = output::stdout()?;
    at_the_desk(config, |desk| {
        desk.know(filter)?;
        let counts = desk.ask(|letters| letters.count(filter))?;
        let what = match counts.total() {
            0 => "no open dead letters".to_owned(),
            n => format!("{}: {}", counted(n, "dead letter"), harmless(&counts.to_string())),
        };
        if !yes {
            let shown = writeln!(out, "{}", wrap(&format!("would discard {what}"), 2));
            let hint = if counts.total() == 0 { "" } else { "nothing was changed; add --yes to discard them\n" };
            return shown.and_then(|()| write!(out, "{hint}")).and_then(|()| out.flush()).map_err(halt);
        }
        let mut progress = Progress::start("discard", "letters", Extent::Things(counts.total()));
        let (mut below, mut n_discarded) = (None, 0);
        while let Some((n, last)) = desk.ask(|letters| letters.discard(filter, below.as_ref(), PAGE))? {
            below = Some(last);
            n_discarded += n;
            progress.reached(n_discarded, 0);
        }
        drop(progress);
        let written = writeln!(out, "discarded: {}", counted(n_discarded, "letter"));
        written.and_then(|()| out.flush()).map_err(halt)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_known_by_its_name() {
        for known in Class::ALL {
            assert_eq!(class(known.as_str()), Ok(known));
        }
        assert!(class("mising").unwrap_err().contains("missing"));
    }
}
