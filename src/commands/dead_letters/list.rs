//! `dead-letters list`: a line for each letter, and how many there are.

use super::{at_the_desk, digits, write_counts};
use crate::commands::output::{self, halt};
use crate::config::Config;
use crate::dead_letters::{Counts, Filter, Letter};
use crate::exit::Stop;
use crate::explain::text::{PAGE_WIDTH, cut, harmless, width};
use std::io::{self, Write};

/// Letters that are read at once to be listed.
const LISTED_AT_ONCE: usize = 1000;
/// What a reason needs at least to stand beside the other columns.
const REASON_LEAST: usize = 20;

/// `2024-01-02T15:04`
const TO_THE_MINUTE: usize = 16;

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
}
