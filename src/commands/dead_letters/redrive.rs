//! `dead-letters redrive`: page by page, the newest first, and what stays with its reasons.

use super::{PAGE, at_the_desk};
use crate::commands::output::{self, Halt, halt};
use crate::config::Config;
use crate::database::{PostgresLetters, Written};
use crate::dead_letters::{Filter, LetterId, RefusedRecord};
use crate::exit::Stop;
use crate::explain::counted;
use crate::explain::text::{harmless, wrap};
use crate::fault::Failure;
use crate::progress::{Extent, Progress};
use crate::redrive::{Plan, Stay};
use crate::sink::CommitFailure;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Letters that stay are told of one by one up to so many; then they are counted.
const STAYS_SHOWN: usize = 20;

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
