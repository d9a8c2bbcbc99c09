//! What dead letters become when their records are decoded once more, by today's settings.
//!
//! Pure. The decoder numbers a record's elements in one order, so that a letter's number finds its element again. But
//! only while an object has the same shape: what was one unknown object may be five hundred trades today. Each letter
//! says how many elements its record had, and where that has changed, the record is taken as a whole or not at all:
//! as a whole, if every element of it is such a letter, so that no row of it is in the tables yet. Then its elements are
//! numbered anew: those that give rows are done with, those that are refused have letters, old or new.

use crate::dead_letters::{Letter, LetterId, RefusedRecord};
use crate::decode::settings::Settings;
use crate::decode::{Outcome, decode_counted};
use crate::explain::{counted, value};
use crate::fit::Fit;
use crate::record::Record;
use crate::row::{Class, DeadLetter, Decoded, MetricRow, Origin, PriceRow};
use std::fmt;

/// What is to be done about a page of letters.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// What can be written, the newest first.
    pub units: Vec<Unit<'a>>,
    /// What can't.
    pub stays: Vec<Stay>,
}

/// Letters and their rows, which are written together or not at all.
#[derive(Debug)]
pub struct Unit<'a> {
    /// The letters, with the class that each was refused for. Never empty; all are of one record.
    pub letters: Vec<(LetterId, String)>,
    /// Set where the record's elements are numbered anew.
    pub anew: Option<Anew>,
    /// Their rows for the prices table.
    pub prices: Vec<PriceRow<'a>>,
    /// Their rows for the metrics table, in the order of the record.
    pub metrics: Vec<MetricRow<'a>>,
}

/// A record whose elements are numbered in another way than its letters are.
#[derive(Debug)]
pub struct Anew {
    /// How many there are.
    pub n_elements: u32,
    /// Those that are refused, by element. They have letters afterwards, and only they.
    pub refused: Vec<DeadLetter>,
}

impl Unit<'_> {
    /// The letters that are done with when it is written.
    pub fn done(&self) -> impl Iterator<Item = &LetterId> {
        let refused = self.refused();
        let is_refused = |id: &&LetterId| refused.binary_search_by_key(&id.element, |l| l.origin.element).is_ok();
        self.letters.iter().map(|(id, _)| id).filter(move |id| !is_refused(id))
    }

    /// Elements that have letters when it is written.
    pub fn refused(&self) -> &[DeadLetter] {
        self.anew.as_ref().map_or(&[], |anew| &anew.refused)
    }

    /// What is to be told of them.
    pub fn stays(&self) -> impl Iterator<Item = Stay> {
        let (first, was) = self.letters.first().expect("a unit has letters");
        self.refused().iter().map(move |letter| Stay {
            id: LetterId { element: letter.origin.element, ..first.clone() },
            was: was.clone(),
            why: Why::Undecodable(letter.class, letter.reason.clone()),
        })
    }

    /// Its rows in both tables.
    pub fn n_rows(&self) -> usize {
        self.prices.len() + self.metrics.len()
    }
}

/// A letter that stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// Its name.
    pub id: LetterId,
    /// The class that it was refused for.
    pub was: String,
    /// Why it can't become a row today.
    pub why: Why,
}

/// Why a letter can't become a row today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The decoder refuses it.
    Undecodable(Class, String),
    /// PostgreSQL does, with this SQLSTATE and these words.
    Refused(String, String),
    /// Its element is neither a row nor a dead letter any more.
    Nothing,
    /// The value was too long to be kept: so many bytes.
    NotKept(Option<i64>),
    /// The configuration has no such topic.
    NoTopic,
    /// The record had another number of elements than today, and some of them may be rows already, or are not among the
    /// letters that are meant.
    Renumbered {
        /// How many it had.
        then: i32,
        /// How many it has.
        now: u32,
    },
}

impl Why {
    /// A word to count by.
    pub fn label(&self) -> &'static str {
        match self {
            Why::Undecodable(class, _) => class.as_str(),
            Why::Refused(..) => Class::Database.as_str(),
            Why::Nothing => "nothing",
            Why::NotKept(_) => "not-kept",
            Why::NoTopic => "no-topic",
            Why::Renumbered { .. } => "renumbered",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Undecodable(_, reason) => f.write_str(reason),
            Why::Refused(sqlstate, reason) => write!(f, "{reason} (SQLSTATE {sqlstate})"),
            Why::Nothing => f.write_str("its element is rightly skipped today; discard it"),
            Why::NotKept(bytes) => {
                f.write_str("its value")?;
                bytes.map_or(Ok(()), |bytes| write!(f, " of {bytes} bytes"))?;
                f.write_str(" was too long to be kept (dead_letters.payload_bytes_max, kafka.max_message_bytes)")?;
                f.write_str("; it must be produced again")
            }
            Why::NoTopic => f.write_str("its topic is not in [[topics]]"),
            Why::Renumbered { then, now } => write!(
                f,
                "its record had {} and has {now} today, so that it can only be taken as a whole, and not all of it is \
                 among these letters",
                counted(*then as u64, "element")
            ),
        }
    }
}

impl<'a> Plan<'a> {
    /// Decodes a record once more, by the settings of its topic if it has any, and adds what its letters become.
    pub fn add(&mut self, record: &'a RefusedRecord, settings: Option<&Settings>, message_bytes_max: usize) {
        let letters = &record.letters;
        let Some(settings) = settings else { return self.stay(letters, |_| Why::NoTopic) };
        let Some(payload) = &record.payload else { return self.stay(letters, |l| Why::NotKept(l.payload_bytes)) };
        let first = letters.first().expect("a record is here because of its letters");
        let source = Record {
            topic: &first.id.partition.topic,
            partition: first.id.partition.partition,
            offset: first.id.offset,
            timestamp_ms: first.timestamp_ms,
            key: first.key.as_deref(),
            value: value(payload, message_bytes_max),
        };
        let mut decoded = Decoded::default();
        let Outcome { n_elements: now, .. } = decode_counted(&source, 0, settings, &mut decoded);
        match first.record_elements {
            Some(then) if then as u32 != now => self.add_whole(letters, decoded, then, now),
            _ => self.add_elements(letters, decoded),
        }
    }

    /// Takes out what the columns of the tables can't hold: it is refused as by the decoder.
    pub fn fit(&mut self, prices: Option<&Fit>, metrics: Option<&Fit>) {
        if prices.is_none() && metrics.is_none() {
            return;
        }
        for mut unit in std::mem::take(&mut self.units) {
            let mut misfits = prices.map(|fit| fit.prices(&unit.prices)).unwrap_or_default();
            misfits.extend(metrics.map(|fit| fit.metrics(&unit.metrics)).unwrap_or_default());
            let Some(first) = misfits.first().cloned() else {
                self.units.push(unit);
                continue;
            };
            let fits = |origin: Origin| misfits.iter().all(|misfit| misfit.origin != origin);
            unit.prices.retain(|row| fits(row.origin));
            unit.metrics.retain(|row| fits(row.origin));
            match &mut unit.anew {
                // Its healthy elements become rows.
                Some(anew) if !unit.prices.is_empty() || !unit.metrics.is_empty() => {
                    anew.refused.extend(misfits);
                    anew.refused.sort_by_key(|letter| letter.origin);
                    self.units.push(unit);
                }
                _ => self.stays.extend(unit.letters.into_iter().map(|(id, was)| {
                    let why = Why::Undecodable(first.class, first.reason.clone());
                    Stay { id, was, why }
                })),
            }
        }
    }

    /// Each letter's own element, from the last to the first.
    fn add_elements(&mut self, letters: &[Letter], decoded: Decoded<'a>) {
        let Decoded { prices, metrics, dead_letters } = decoded;
        // All of them are by element.
        let (mut prices, mut metrics) = (prices.into_iter().rev().peekable(), metrics.into_iter().rev().peekable());
        let mut refused = dead_letters.into_iter().rev().peekable();
        for letter in letters.iter().rev() {
            let element = letter.id.element;
            while prices.next_if(|row| row.origin.element > element).is_some() {}
            while metrics.next_if(|row| row.origin.element > element).is_some() {}
            while refused.next_if(|other| other.origin.element > element).is_some() {}
            let prices: Vec<_> = prices.next_if(|row| row.origin.element == element).into_iter().collect();
            let metrics: Vec<_> = metrics.next_if(|row| row.origin.element == element).into_iter().collect();
            let refused = refused.next_if(|other| other.origin.element == element);
            match refused {
                Some(again) => self.stay_one(letter, Why::Undecodable(again.class, again.reason)),
                None if prices.is_empty() && metrics.is_empty() => self.stay_one(letter, Why::Nothing),
                None => self.units.push(Unit { letters: vec![name(letter)], anew: None, prices, metrics }),
            }
        }
    }

    /// A record whose elements are numbered in another way today.
    fn add_whole(&mut self, letters: &[Letter], decoded: Decoded<'a>, then: i32, now: u32) {
        let Decoded { prices, metrics, dead_letters } = decoded;
        // Then none of it is in the tables.
        let is_whole = letters.len() == then as usize;
        let has_rows = !prices.is_empty() || !metrics.is_empty();
        match &dead_letters[..] {
            _ if is_whole && has_rows => {
                let anew = Some(Anew { n_elements: now, refused: dead_letters });
                self.units.push(Unit { letters: letters.iter().map(name).collect(), anew, prices, metrics });
            }
            [] if is_whole => self.stay(letters, |_| Why::Nothing),
            [first, ..] if !has_rows => {
                self.stay(letters, |_| Why::Undecodable(first.class, first.reason.clone()));
            }
            _ => self.stay(letters, |_| Why::Renumbered { then, now }),
        }
    }

    fn stay(&mut self, letters: &[Letter], why: impl Fn(&Letter) -> Why) {
        for letter in letters.iter().rev() {
            self.stay_one(letter, why(letter));
        }
    }

    fn stay_one(&mut self, letter: &Letter, why: Why) {
        let (id, was) = name(letter);
        self.stays.push(Stay { id, was, why });
    }
}

fn name(letter: &Letter) -> (LetterId, String) {
    (letter.id.clone(), letter.class.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::settings::{Format, Target};

    fn record(value: &str, elements: &[u32], record_elements: i32) -> RefusedRecord {
        let letter = |element: &u32| Letter {
            id: format!("t/0/5/{element}").parse().unwrap(),
            key: Some(b"KEY".to_vec()),
            timestamp_ms: Some(1_700_000_000_000),
            payload_bytes: Some(value.len() as i64),
            payload_sha256: None,
            record_elements: Some(record_elements),
            class: "missing".to_owned(),
            code: String::new(),
            reason: "$: is wrong".to_owned(),
            first_seen: String::new(),
            redriven_at: None,
            discarded_at: None,
        };
        RefusedRecord { letters: elements.iter().map(letter).collect(), payload: Some(value.as_bytes().to_vec()) }
    }

    fn planned<'a>(record: &'a RefusedRecord, settings: &Settings) -> Plan<'a> {
        let mut plan = Plan::default();
        plan.add(record, Some(settings), 1 << 20);
        plan
    }

    /// `[letters] -> symbols`
    fn units(plan: &Plan<'_>) -> Vec<String> {
        let of = |unit: &Unit<'_>| {
            let elements: Vec<u32> = unit.letters.iter().map(|(id, _)| id.element).collect();
            let symbols: Vec<&str> =
                unit.prices.iter().map(|r| &*r.symbol).chain(unit.metrics.iter().map(|r| &*r.symbol)).collect();
            format!("{elements:?} {}", symbols.join(" "))
        };
        plan.units.iter().map(of).collect()
    }

    fn stays(plan: &Plan<'_>) -> Vec<String> {
        plan.stays.iter().map(|stay| format!("{} {}", stay.id.element, stay.why.label())).collect()
    }

    const FIVE: &str =
        r#"[{"symbol":"A","price":1},{"symbol":"B","price":2},{"symbol":"C"},{},{"symbol":"E","price":5}]"#;

    #[test]
    fn only_the_elements_of_the_letters_are_taken_the_last_first() {
        let record = record(FIVE, &[0, 2, 3, 4], 5);
        let plan = planned(&record, &Settings::default());
        assert_eq!(units(&plan), ["[4] E", "[0] A"]);
        assert_eq!(stays(&plan), ["3 nothing", "2 missing"]);
    }

    #[test]
    fn windows_are_elements_too() {
        let value = r#"[{"symbol":"A","window_start":0,"window_end":60,"avg_price":1},{"symbol":"B","window_start":0,"window_end":60}]"#;
        let record = record(value, &[0, 1], 2);
        let plan = planned(&record, &Settings { target: Target::Metrics, ..Settings::default() });
        assert_eq!((units(&plan), stays(&plan)), (vec!["[0] A".to_owned()], vec!["1 missing".to_owned()]));
    }

    #[test]
    fn the_key_and_the_time_of_the_record_are_decoded_again() {
        let record = record(r#"{"price":1}"#, &[0], 1);
        let plan = planned(&record, &Settings::default());
        assert_eq!(plan.units[0].prices[0].symbol, "KEY");
        assert_eq!(plan.units[0].prices[0].timestamp.0, 1_700_000_000_000_000);
    }

    const TRADES: &str =
        r#"{"type":"trade","data":[{"s":"A","p":1,"t":1700000000000},{"s":"B","p":2,"t":1700000000000}]}"#;

    #[test]
    fn a_record_that_was_one_letter_and_is_many_elements_is_taken_as_a_whole() {
        let record = record(TRADES, &[0], 1);
        assert_eq!(units(&planned(&record, &Settings::default())), ["[0] A B"]);
        let pinned = Settings { format: Format::Quote, ..Settings::default() };
        assert_eq!(stays(&planned(&record, &pinned)), ["0 unknown-shape"]);
    }

    #[test]
    fn a_record_of_other_elements_than_then_is_not_taken_where_rows_of_it_may_be_there() {
        let both = format!(r#"[{TRADES},{{"symbol":"C","price":3}}]"#);
        let (of_both, of_one) = (record(&both, &[0], 2), record(&both, &[0, 1], 2));
        assert_eq!(stays(&planned(&of_both, &Settings::default())), ["0 renumbered"]);
        assert_eq!(units(&planned(&of_one, &Settings::default())), ["[0, 1] A B C"]);
    }

    #[test]
    fn of_a_record_that_is_taken_as_a_whole_the_refused_elements_have_letters_afterwards() {
        let told = |value: &str| {
            let record = record(value, &[0], 1);
            let plan = planned(&record, &Settings::default());
            let done: Vec<u32> = plan.units[0].done().map(|id| id.element).collect();
            let stays: Vec<String> =
                plan.units[0].stays().map(|stay| format!("{} {}", stay.id, stay.why.label())).collect();
            (units(&plan), done, stays)
        };
        let last = told(&TRADES.replace("\"p\":2", "\"p\":-2"));
        assert_eq!(last, (vec!["[0] A".to_owned()], vec![0], vec!["t/0/5/1 range".to_owned()]));
        // The letter that is there is about this one now.
        let first = told(&TRADES.replace("\"p\":1", "\"p\":-1"));
        assert_eq!(first, (vec!["[0] B".to_owned()], vec![], vec!["t/0/5/0 range".to_owned()]));
        // Nothing is gained by it.
        let record = record(&TRADES.replace("\"p\":", "\"p\":-"), &[0], 1);
        assert_eq!(stays(&planned(&record, &Settings::default())), ["0 range"]);
    }

    #[test]
    fn a_record_that_is_rightly_skipped_by_now_stays_for_somebody_to_discard() {
        let record = record(r#"{"type":"ping"}"#, &[0], 1);
        assert_eq!(stays(&planned(&record, &Settings::default())), ["0 nothing"]);
    }

    #[test]
    fn without_a_value_or_settings_there_is_nothing_to_decode() {
        let record = RefusedRecord { payload: None, ..record("", &[0, 7], 9) };
        let mut plan = planned(&record, &Settings::default());
        plan.add(&record, None, 1 << 20);
        assert_eq!(stays(&plan), ["7 not-kept", "0 not-kept", "7 no-topic", "0 no-topic"]);
    }

    #[test]
    fn a_value_above_todays_limit_is_too_large() {
        let record = record(r#"{"symbol":"A","price":1}"#, &[0], 1);
        let mut plan = Plan::default();
        plan.add(&record, Some(&Settings::default()), 3);
        assert_eq!(stays(&plan), ["0 too-large"]);
    }
}
