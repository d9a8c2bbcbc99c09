//! What must hold for every message of every profile, tried on messages made at random: the same ones in each run.

mod json;
mod outcome;
mod profiles;
mod rows;
#[path = "../shapes/mod.rs"]
mod shapes;
mod spelling;

use json::Json;
use outcome::{FORMATS, Message, Outcome, format, pinned};
use profiles::{Metric, Price, PriceProfile, Rows};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseResult, TestRunner};
use rows::{metric, no_price, prices};
use shapes::{Case, corpus};
use stock_db_writer::decode::settings::{Format, Settings, Target};
use stock_db_writer::record::{Offset, Record, Value};

/// Runs a property on messages of a strategy.
fn hold<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let is_long = std::env::var("STOCK_DB_WRITER_TEST_SIZE").is_ok_and(|size| size == "long");
    let config = ProptestConfig {
        cases: if is_long { 200_000 } else { 4_000 },
        rng_seed: RngSeed::Fixed(1),
        // A message that fails goes into a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config).run(&strategy, property).unwrap_or_else(|error| panic!("{error}"));
}

fn auto() -> Settings {
    pinned(Format::Auto)
}

/// A message becomes these rows: by its shape alone, with its format pinned, and with none of the others.
fn becomes(message: &Message, rows: &[String], own: &str, target: Target) -> TestCaseResult {
    let rows: Vec<(u32, String)> = (0..).zip(rows.iter().cloned()).collect();
    let expect = Outcome { rows, letters: Vec::new(), skip: None };
    let decoded = |settings: &Settings| Outcome::of(&message.record(), settings);
    prop_assert_eq!(&decoded(&auto()), &expect, "{}", &message.value);
    prop_assert_eq!(&decoded(&Settings { target, ..Settings::default() }), &expect, "{}", &message.value);
    prop_assert_eq!(&decoded(&pinned(format(own))), &expect, "{} as {}", &message.value, own);
    for other in FORMATS.iter().filter(|other| **other != own) {
        prop_assert_eq!(&decoded(&pinned(format(other))).rows, &[], "{} is no {}", &message.value, other);
    }
    Ok(())
}

fn prices_survive(profile: &PriceProfile) {
    hold((prices(&profile.says), any::<u32>()), |(rows, form)| {
        let message = (profile.write)(&rows, form);
        let shown: Vec<String> = rows.iter().map(Price::shown).collect();
        becomes(&message, &shown, profile.format, Target::Prices)
    });
}

fn metrics_survive(own: &str, resolution: i64, is_symbol_in_key: bool, write: fn(&Metric, u32) -> Message) {
    hold((metric(resolution, is_symbol_in_key), any::<u32>()), |(row, form)| {
        becomes(&write(&row, form), &[row.shown()], own, Target::Metrics)
    });
}

/// Of several prices some are broken: those become dead letters, all others stay what they are.
fn neighbours_survive(profile: &PriceProfile) {
    assert_ne!(profile.says.rows, Rows::One, "it has no neighbours");
    let breaks = proptest::collection::vec(proptest::option::of(no_price()), 6);
    hold((prices(&profile.says), breaks, any::<u32>()), |(mut rows, breaks, form)| {
        let mut expect = Outcome { rows: Vec::new(), letters: Vec::new(), skip: None };
        for ((place, row), no_price) in (0..).zip(&mut rows).zip(breaks) {
            match no_price {
                Some(no_price) => {
                    row.price = no_price.to_owned();
                    expect.letters.push((place, ""));
                }
                None => expect.rows.push((place, row.shown())),
            }
        }
        let message = (profile.write)(&rows, form);
        let mut outcome = Outcome::of(&message.record(), &auto());
        outcome.letters.iter_mut().for_each(|(_, class)| *class = "");
        prop_assert_eq!(outcome, expect, "{}", &message.value);
        Ok(())
    });
}

#[test]
fn rows_survive_in_a_quote() {
    prices_survive(&profiles::QUOTE);
}

#[test]
fn rows_survive_in_a_bar() {
    prices_survive(&profiles::BAR);
}

#[test]
fn rows_survive_in_trades_of_finnhub() {
    prices_survive(&profiles::FINNHUB);
}

#[test]
fn rows_survive_in_events_of_polygon() {
    prices_survive(&profiles::POLYGON);
}

#[test]
fn rows_survive_in_events_of_binance() {
    prices_survive(&profiles::BINANCE);
}

#[test]
fn rows_survive_in_a_global_quote_of_alpha_vantage() {
    prices_survive(&profiles::ALPHA_VANTAGE_QUOTE);
}

#[test]
fn rows_survive_in_a_time_series_of_alpha_vantage() {
    prices_survive(&profiles::ALPHA_VANTAGE_SERIES);
}

#[test]
fn rows_survive_in_quotes_of_googlefinance() {
    prices_survive(&profiles::GOOGLEFINANCE);
}

#[test]
fn rows_survive_in_columns() {
    prices_survive(&profiles::COLUMNAR);
}

#[test]
fn rows_survive_in_envelopes() {
    prices_survive(&profiles::ENVELOPE);
}

#[test]
fn rows_survive_in_flat_metrics() {
    metrics_survive("metrics", 1, false, profiles::metrics);
}

#[test]
fn rows_survive_in_a_window_of_spark() {
    metrics_survive("spark-window", 1, false, profiles::spark_window);
}

#[test]
fn rows_survive_in_a_window_of_ksql() {
    metrics_survive("ksql-window", 1000, true, profiles::ksql_window);
}

#[test]
fn a_broken_quote_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::QUOTE);
}

#[test]
fn a_broken_bar_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::BAR);
}

#[test]
fn a_broken_trade_of_finnhub_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::FINNHUB);
}

#[test]
fn a_broken_event_of_polygon_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::POLYGON);
}

#[test]
fn a_broken_entry_of_a_time_series_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::ALPHA_VANTAGE_SERIES);
}

#[test]
fn a_broken_quote_of_googlefinance_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::GOOGLEFINANCE);
}

#[test]
fn a_broken_cell_of_a_column_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::COLUMNAR);
}

#[test]
fn a_broken_element_in_an_envelope_does_not_remove_its_neighbours() {
    neighbours_survive(&profiles::ENVELOPE);
}

#[test]
fn what_is_no_object_does_not_remove_its_neighbours() {
    let strangers =
        proptest::sample::select(vec!["5", "\"x\"", "true", "[7]", "{\"temperature\":21.5}", "{\"s\":\"A\",\"p\":1}"]);
    let strangers = proptest::collection::vec((0..6_usize, strangers), 0..4);
    hold((prices(&profiles::QUOTE.says), strangers), |(rows, strangers)| {
        let message = |rows: &[Price]| (profiles::QUOTE.write)(rows, 0).value;
        let mut elements: Vec<(String, Option<String>)> =
            rows.iter().map(|row| (message(std::slice::from_ref(row)), Some(row.shown()))).collect();
        for (place, stranger) in strangers {
            elements.insert(place.min(elements.len()), (stranger.to_owned(), None));
        }
        // An array that begins with a plain value and has no object at all is one element.
        let texts: Vec<&str> = elements.iter().map(|(text, _)| text.as_str()).collect();
        let message = Message { value: format!("[{}]", texts.join(",")), key: None };
        let mut expect = Outcome { rows: Vec::new(), letters: Vec::new(), skip: None };
        for (place, (_, row)) in (0..).zip(elements) {
            match row {
                Some(row) => expect.rows.push((place, row)),
                None => expect.letters.push((place, "unknown-shape")),
            }
        }
        prop_assert_eq!(Outcome::of(&message.record(), &auto()), expect, "{}", &message.value);
        Ok(())
    });
}

fn record_of<'a>(case: &'a Case, value: &'a str) -> Record<'a> {
    Record {
        topic: &case.topic,
        partition: 0,
        offset: Offset(0),
        timestamp_ms: Some(case.timestamp_ms),
        key: case.key.as_ref().map(String::as_bytes),
        value: Value::Bytes(value.as_bytes()),
    }
}

#[test]
fn every_case_of_the_corpus_has_one_format_and_no_other_reads_it() {
    let mut wrong = Vec::new();
    for case in corpus() {
        let with = |format: Format| {
            let settings = Settings { format, target: Target::Auto, ..case.settings.clone() };
            Outcome::of(&record_of(&case, &case.value), &settings)
        };
        let unpinned = with(Format::Auto);
        let readers: Vec<&str> = FORMATS.iter().copied().filter(|name| !with(format(name)).rows.is_empty()).collect();
        match readers[..] {
            [] if case.n_rows() == 0 => {}
            [reader] if with(format(reader)) == unpinned && unpinned.rows.len() == case.n_rows() => {}
            _ => wrong.push(format!("{}: {} rows, read as {readers:?}", case.name, case.n_rows())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn order_space_and_unknown_fields_change_nothing() {
    for case in corpus() {
        let Some(json) = Json::parse(&case.value) else { continue };
        let expect = Outcome::of(&record_of(&case, &case.value), &case.settings).without_places();
        hold(any::<u64>(), |seed| {
            let value = json.disturbed(&mut fastrand::Rng::with_seed(seed));
            let outcome = Outcome::of(&record_of(&case, &value), &case.settings).without_places();
            prop_assert_eq!(&outcome, &expect, "{}: {}", &case.name, &value);
            Ok(())
        });
    }
}
