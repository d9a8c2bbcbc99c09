//! `dead-letters`: shows what could not become a row, makes rows of it after all, or decides to do without.
//!
//! It only speaks to PostgreSQL, beside a running worker. What it prints holds values of records only where somebody
//! asks to see one: in `show`.

use super::output::{self, Halt, halt};
use crate::config::Config;
use crate::database::{Database, PostgresLetters, Written};
use crate::dead_letters::{Counts, Filter, Letter, LetterId, RefusedRecord};
use crate::exit::{ExitCode, Stop};
use crate::explain::text::{PAGE_WIDTH, cut, fold, harmless, width, wrap};
use crate::explain::{Explained, counted, hex, value};
use crate::fault::{Failure, Fault};
use crate::outage::Outage;
use crate::progress::{Extent, Progress};
use crate::record::Record;
use crate::redrive::{Plan, Stay};
use crate::row::Class;
use crate::shutdown::Shutdown;
use crate::sink::CommitFailure;
use crate::startup::{self, NotStarted, Patience};
use chrono::{DateTime, SecondsFormat};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Instant;

/// Letters that are read at once to be listed.
const LISTED_AT_ONCE: usize = 1000;
/// Letters of one transaction.
const PAGE: usize = 5000;
/// Letters that stay are told of one by one up to so many; then they are counted.
const STAYS_SHOWN: usize = 20;
/// Of a value, `show` shows so much unless all of it is asked for.
const TEXT_BYTES: usize = 1000;
const HEX_BYTES: usize = 256;
/// What a reason needs at least to stand beside the other columns.
const REASON_LEAST: usize = 20;
/// `2024-01-02T15:04`
const TO_THE_MINUTE: usize = 16;

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

/// `dead-letters list`
pub fn list(config: &Config, filter: &Filter, json: bool) -> Result<(), Stop> {
    let mut out = output::stdout()?;
    at_the_desk(config, |desk| {
        let (mut last, mut layout, mut counts) = (None, None, Counts::default());
        loop {
            let page = desk.ask(|letters| letters.after(filter, last.as_ref(), LISTED_AT_ONCE))?;
            let Some(end) = page.last() else { break };
            last = Some(end.id.clone());
            for letter in &page {
                counts.add(&letter.id.partition.topic, &letter.class, 1);
                if json {
                    writeln!(out, "{}", object(&config.pipeline, letter)).map_err(halt)?;
                }
            }
            if !json {
                let is_first = layout.is_none();
                let layout = layout.get_or_insert_with(|| Layout::of(&page, filter.closed_too));
                layout.write(&mut out, &page, is_first).map_err(halt)?;
            }
        }
        if !json {
            write_counts(&mut out, filter, &counts).map_err(halt)?;
        }
        out.flush().map_err(halt)
    })
}

/// All columns but the value.
fn object(pipeline: &str, letter: &Letter) -> serde_json::Value {
    let key = letter.key.as_deref();
    serde_json::json!({
        "id": letter.id.to_string(),
        "pipeline": pipeline,
        "topic": &*letter.id.partition.topic,
        "partition": letter.id.partition.partition,
        "record_offset": letter.id.offset.0,
        "element": letter.id.element,
        "record_elements": letter.record_elements,
        // A key that is no text is in the other form only.
        "key": key.and_then(|key| std::str::from_utf8(key).ok()),
        "key_hex": key.map(digits),
        "record_timestamp_ms": letter.timestamp_ms,
        "reason_class": letter.class,
        "reason_code": letter.code,
        "reason": letter.reason,
        "payload_bytes": letter.payload_bytes,
        "payload_sha256": letter.payload_sha256.as_deref().map(digits),
        "first_seen": letter.first_seen,
        "redriven_at": letter.redriven_at,
        "discarded_at": letter.discarded_at,
    })
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How wide the columns of a list are: what comes later is unknown when its beginning is printed.
struct Layout {
    id: usize,
    class: usize,
    // Only where there are letters that are not open.
    state: usize,
    // 0: it has a line of its own.
    reason: usize,
}

impl Layout {
    fn of(letters: &[Letter], with_state: bool) -> Layout {
        let widest = |head: &str, cell: &dyn Fn(&Letter) -> usize| {
            letters.iter().map(cell).chain([width(head)]).max().unwrap_or(0)
        };
        let id = widest("ID", &|letter| width(&harmless(&letter.id.to_string())));
        let class = widest("CLASS", &|letter| width(&harmless(&letter.class)));
        let state = if with_state { "discarded  ".len() } else { 0 };
        let taken = id + 2 + class + 2 + TO_THE_MINUTE + 2 + state;
        let reason = PAGE_WIDTH.saturating_sub(taken);
        Layout { id, class, state, reason: if reason < REASON_LEAST { 0 } else { reason } }
    }

    fn write(&self, out: &mut impl Write, letters: &[Letter], with_heads: bool) -> io::Result<()> {
        if with_heads {
            self.write_line(out, ["ID", "CLASS", "FIRST SEEN (UTC)", "STATE", "REASON"])?;
        }
        for letter in letters {
            let id = letter.id.to_string();
            let seen = minute(&letter.first_seen);
            let cells = [&harmless(&id), &harmless(&letter.class), &*seen, letter.state(), &harmless(&letter.reason)];
            self.write_line(out, cells)?;
        }
        Ok(())
    }

    fn write_line(&self, out: &mut impl Write, [id, class, seen, state, reason]: [&str; 5]) -> io::Result<()> {
        let padded = |cell: &str, columns: usize| format!("{cell}{}", " ".repeat(columns.saturating_sub(width(cell))));
        let (id, class, state) = (padded(id, self.id), padded(class, self.class), padded(state, self.state));
        let state = if self.state == 0 { "" } else { &state };
        let line = format!("{id}  {class}  {seen}  {state}");
        match self.reason {
            0 => writeln!(out, "{}\n    {}", line.trim_end(), cut(reason, PAGE_WIDTH - 4)),
            columns => writeln!(out, "{}", format!("{line}{}", cut(reason, columns)).trim_end()),
        }
    }
}

/// `2024-01-02 15:04`
fn minute(time: &str) -> String {
    time.get(..TO_THE_MINUTE).unwrap_or(time).replace('T', " ")
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

/// `dead-letters redrive`
pub fn redrive(config: &Config, filter: &Filter, dry_run: bool) -> Result<(), Stop> {
    let mut out = output::stdout()?;
    at_the_desk(config, |desk| {
        desk.know(filter)?;
        let n_meant = desk.ask(|letters| letters.count(filter))?.total();
        let mut progress = Progress::start("redrive", "letters", Extent::Things(n_meant));
        let (mut below, mut in_doubt, mut report) = (None, None, Report::default());
        let outcome = loop {
            let page = desk.ask(|letters| match dry_run {
                true => look(letters, config, filter, below.as_ref()),
                false => write(letters, config, filter, below.as_ref(), &mut in_doubt),
            });
            match page {
                Ok(Some(page)) => {
                    below = Some(page.last.clone());
                    report.add(page);
                    progress.reached(report.n_letters(), 0);
                }
                Ok(None) => break Ok(()),
                // What is done by now is done for good, and is told.
                Err(not_started) => break Err(Halt::from(not_started)),
            }
        };
        drop(progress);
        let left = match &outcome {
            Ok(()) if !dry_run => desk.ask(|letters| letters.count(filter))?.total(),
            _ => 0,
        };
        let n_closed = if filter.ids.is_empty() { 0 } else { filter.ids.len() as u64 - n_meant };
        report.write(&mut out, dry_run, n_closed, left).and_then(|()| out.flush()).map_err(halt)?;
        outcome
    })
}

/// What became of one transaction's letters.
#[derive(Debug, Clone)]
struct Page {
    /// The last of them.
    last: LetterId,
    written: Written,
    stays: Vec<Stay>,
}

fn plan_of<'a>(config: &Config, records: &'a [RefusedRecord]) -> Plan<'a> {
    let mut plan = Plan::default();
    for record in records {
        let settings = config.topics.settings(&record.letters[0].id.partition.topic);
        plan.add(record, settings, config.kafka.message_bytes_max);
    }
    plan
}

/// The oldest letter of a page: the lowest one of its last record.
fn last_of(records: &[RefusedRecord]) -> Option<LetterId> {
    records.last().map(|record| record.letters[0].id.clone())
}

fn look(
    letters: &mut PostgresLetters,
    config: &Config,
    filter: &Filter,
    below: Option<&LetterId>,
) -> Result<Option<Page>, Failure> {
    let records = letters.look(filter, below, PAGE)?;
    let Some(last) = last_of(&records) else { return Ok(None) };
    let mut plan = plan_of(config, &records);
    letters.fit(&mut plan)?;
    let n_letters = plan.units.iter().map(|unit| unit.done().count() as u64).sum();
    let n_rows = plan.units.iter().map(|unit| unit.n_rows() as u64).sum();
    let anew = plan.units.iter().flat_map(|unit| unit.stays()).collect();
    Ok(Some(Page { last, written: Written { n_letters, n_rows, anew, ..Written::default() }, stays: plan.stays }))
}

fn write(
    letters: &mut PostgresLetters,
    config: &Config,
    filter: &Filter,
    below: Option<&LetterId>,
    in_doubt: &mut Option<Page>,
) -> Result<Option<Page>, Failure> {
    if let Some(page) = &*in_doubt
        && let Some(witness) = &page.written.witness
    {
        let was_applied = letters.is_redriven(witness)?;
        log::info!("commit in doubt resolved outcome={}", if was_applied { "applied" } else { "not-applied" });
        if let (Some(page), true) = (in_doubt.take(), was_applied) {
            return Ok(Some(page));
        }
    }
    let records = letters.take(filter, below, PAGE)?;
    let mut plan = plan_of(config, &records);
    let written = letters.write(&mut plan)?;
    let page = last_of(&records).map(|last| Page { last, written, stays: plan.stays });
    match letters.commit() {
        Ok(()) => Ok(page),
        Err(CommitFailure::NotApplied(failure)) => Err(failure),
        Err(CommitFailure::InDoubt(failure)) => {
            log::warn!("commit in doubt cause={failure}");
            *in_doubt = page;
            Err(failure)
        }
    }
}

/// What a redrive has come to.
#[derive(Debug, Default)]
struct Report {
    n_redriven: u64,
    n_rows: u64,
    n_windows_kept: u64,
    stays: BTreeMap<&'static str, u64>,
    shown: Vec<Stay>,
}

impl Report {
    fn add(&mut self, page: Page) {
        let Page { written: Written { n_letters, n_rows, n_windows_kept, refused, anew, .. }, stays, .. } = page;
        self.n_redriven += n_letters;
        self.n_rows += n_rows;
        self.n_windows_kept += n_windows_kept;
        for stay in refused.into_iter().chain(anew).chain(stays) {
            *self.stays.entry(stay.why.label()).or_default() += 1;
            if self.shown.len() < STAYS_SHOWN {
                self.shown.push(stay);
            }
        }
    }

    fn n_stay(&self) -> u64 {
        self.stays.values().sum()
    }

    fn n_letters(&self) -> u64 {
        self.n_redriven + self.n_stay()
    }

    fn write(&self, out: &mut impl Write, dry_run: bool, n_closed: u64, left: u64) -> io::Result<()> {
        for stay in &self.shown {
            let Stay { id, was, why } = stay;
            let text = format!("{id}: was {was}, {}: {why}", if why.label() == was { "is still" } else { why.label() });
            writeln!(out, "{}", wrap(&harmless(&text), 2))?;
        }
        match self.n_stay().saturating_sub(self.shown.len() as u64) {
            0 => {}
            more => writeln!(out, "… and {more} more")?,
        }
        if !self.shown.is_empty() {
            writeln!(out)?;
        }
        let done = if dry_run { "would be redriven" } else { "redriven" };
        let mut text = format!("{done}: {}, {}", counted(self.n_redriven, "letter"), counted(self.n_rows, "row"));
        if self.n_windows_kept > 0 {
            let windows = counted(self.n_windows_kept, "window");
            text.push_str(&format!(", and {windows} there already, kept as they are"));
        }
        writeln!(out, "{}", wrap(&text, 2))?;
        if self.n_stay() > 0 {
            let reasons: Vec<String> = self.stays.iter().map(|(label, n)| format!("{label} {n}")).collect();
            let text = format!("still dead letters: {} ({})", counted(self.n_stay(), "letter"), reasons.join(", "));
            writeln!(out, "{}", wrap(&text, 2))?;
        }
        if n_closed > 0 {
            writeln!(out, "redriven or discarded before: {}", counted(n_closed, "letter"))?;
        }
        if left > self.n_stay() {
            let others = counted(left - self.n_stay(), "letter");
            let text = format!("not looked at: {others}, new or locked by somebody else; run it again");
            writeln!(out, "{}", wrap(&text, 2))?;
        }
        if dry_run {
            writeln!(out, "nothing was changed, and PostgreSQL was not asked whether it takes the rows")?;
        }
        Ok(())
    }
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

    fn letter(id: &str, reason: &str) -> Letter {
        Letter {
            id: id.parse().expect("an id"),
            key: None,
            timestamp_ms: None,
            payload_bytes: None,
            payload_sha256: None,
            record_elements: Some(1),
            class: "missing".to_owned(),
            code: String::new(),
            reason: reason.to_owned(),
            first_seen: "2024-01-02T15:04:05.123456Z".to_owned(),
            redriven_at: None,
            discarded_at: None,
        }
    }

    fn listed(letters: &[Letter], with_state: bool) -> String {
        let mut out = Vec::new();
        Layout::of(letters, with_state).write(&mut out, letters, true).unwrap();
        let list = String::from_utf8(out).unwrap();
        assert!(!list.contains(|char: char| char.is_control() && char != '\n'), "{list:?}");
        list
    }

    #[test]
    fn a_list_fits_a_page() {
        let letters = [letter("stock_prices/0/5/0", "$.price: is missing"), letter("p/1/17/3", &"long ".repeat(40))];
        let list = listed(&letters, false);
        assert!(list.lines().all(|line| width(line) <= PAGE_WIDTH), "{list}");
        assert_eq!(list.lines().nth(1), Some("stock_prices/0/5/0  missing  2024-01-02 15:04  $.price: is missing"));
        assert!(list.lines().nth(2).unwrap().ends_with('…'), "{list}");
        assert!(listed(&letters, true).lines().nth(1).unwrap().contains("  open  "));
    }

    #[test]
    fn a_long_id_is_not_cut_and_control_characters_are_harmless() {
        let id = format!("{}/0/9223372036854775807/0", "t".repeat(249));
        let list = listed(&[letter(&id, "$[\"\u{1b}[31m\"]: is missing")], false);
        assert!(list.contains(&id), "{list}");
        assert!(list.contains("\n    $[\"\\u{1b}[31m\"]: is missing"), "{list}");
    }

    #[test]
    fn every_class_is_known_by_its_name() {
        for known in Class::ALL {
            assert_eq!(class(known.as_str()), Ok(known));
        }
        assert!(class("mising").unwrap_err().contains("missing"));
    }
}
