//! Any text, read as a time: in range, and where chrono's or jiff's own readers know the form, the same instant.
//!
//! The decoder uses chrono for RFC 2822 and for zones only; jiff has nothing in common with it.
#![no_main]

use bigdecimal::{BigDecimal, RoundingMode, Signed, ToPrimitive, Zero};
use chrono::DateTime;
use fuzz::choices::{UNITS, ZONES, pick};
use fuzz::decode::settings::{Settings, TimestampUnit};
use fuzz::grammar::is_number;
use fuzz::quote::time_of;
use fuzz::row::Class;
use jiff::tz::AmbiguousOffset;
use libfuzzer_sys::fuzz_target;
use std::str::FromStr;

/// 2100-01-01T00:00:00Z.
const LAST_MICROS: i128 = 4_102_444_800_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((&[unit, zone], text)) = input.split_first_chunk::<2>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (unit, zone) = (*pick(UNITS, unit), *pick(ZONES, zone));
    let settings = Settings { timestamp_unit: unit, timezone: zone.parse().expect("a zone"), ..Settings::default() };
    let time = time_of(text, &settings);
    match time {
        Ok(micros) => assert!((0..=LAST_MICROS).contains(&i128::from(micros))),
        // Nothing; no time; a NUL, or a symbol of a key. The record has no timestamp to stand in.
        Err(Class::Missing | Class::Time | Class::Encoding) => {}
        Err(other) => panic!("{other:?}"),
    }
    let text = text.trim_ascii();
    let time = time.ok().map(i128::from);
    compare_with_chrono(text, time);
    compare_with_jiff(text, zone, unit, time);
    compare_with_number(text, unit, time);
});

fn in_range(micros: i128) -> Option<i128> {
    (0..=LAST_MICROS).contains(&micros).then_some(micros)
}

fn compare_with_chrono(text: &str, time: Option<i128>) {
    // It reads a true minus sign, and any number of digits.
    if !text.is_ascii() || fraction_digits(text) > 9 || text.len() > 64 {
        return;
    }
    if let Ok(known) = DateTime::parse_from_rfc3339(text) {
        assert_eq!(time, in_range(known.timestamp_micros().into()), "{text:?}");
    }
}

fn compare_with_jiff(text: &str, zone: &str, unit: TimestampUnit, time: Option<i128>) {
    // It makes the last second of a leap second. Names of zones in brackets are its own.
    if text.contains("60") || text.contains('[') {
        return;
    }
    // Which jiff can take for a date: +0000061217 is one of the year 6.
    let is_number = is_number(text) && !is_date(text, unit);
    let time_of_day = text.split_once(['T', 't', ' ']).map_or("", |(_, time)| time);
    let has_zone = time_of_day.contains(['Z', 'z', '+', '-']);
    if has_zone {
        if let (Some(micros), Ok(known)) = (time, jiff::Timestamp::from_str(text)) {
            assert_eq!(micros, known.as_nanosecond().div_euclid(1000), "{text:?}");
        }
        if let (Some(micros), Ok(known)) = (time, jiff::fmt::rfc2822::parse(text)) {
            assert_eq!(micros, i128::from(known.timestamp().as_microsecond()), "{text:?}");
        }
    } else if let Ok(civil) = jiff::civil::DateTime::from_str(text)
        && !is_number
    {
        let known = jiff::tz::TimeZone::get(zone).expect("a zone").to_ambiguous_timestamp(civil);
        let offset = match known.offset() {
            AmbiguousOffset::Unambiguous { offset } => Some(offset),
            AmbiguousOffset::Gap { .. } => None,
            // The earlier instant is that of the clocks before they were set back.
            AmbiguousOffset::Fold { before, .. } => Some(before),
        };
        let known = offset.and_then(|offset| offset.to_timestamp(civil).ok());
        let known = known.and_then(|known| in_range(known.as_nanosecond().div_euclid(1000)));
        if time.is_some() || is_documented(text) {
            assert_eq!(time, known, "{text:?} in {zone}");
        }
    }
}

/// `2024-01-02T15:04`, `2024-01-02 15:04:05`, `2024-01-02T15:04:05.123456789`
fn is_documented(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let shape = shape.replacen(['t', ' '], "T", 1);
    let whole = shape.trim_end_matches('0');
    matches!(&*shape, "0000-00-00" | "0000-00-00T00:00" | "0000-00-00T00:00:00")
        || whole == "0000-00-00T00:00:00." && (1..=9).contains(&(shape.len() - whole.len()))
}

fn compare_with_number(text: &str, unit: TimestampUnit, time: Option<i128>) {
    // The text of a number is at most so long; a huge exponent would take bigdecimal a while.
    let exponent = text.split_once(['e', 'E']).map_or(Ok(0), |(_, exponent)| exponent.parse::<i64>());
    if text.len() > 64 || !is_number(text) || !exponent.is_ok_and(|exponent| exponent.saturating_abs() <= 50) {
        return;
    }
    let number = BigDecimal::from_str(text).expect("bigdecimal can read every number");
    // Minus nothing is for the decoder to judge; dates are compared with jiff.
    if is_date(text, unit) || number.is_zero() && text.starts_with('-') {
        return;
    }
    let below = |power: i64| number < BigDecimal::new(1.into(), -power);
    let power = match unit {
        TimestampUnit::Seconds => 6,
        TimestampUnit::Millis => 3,
        TimestampUnit::Micros => 0,
        TimestampUnit::Nanos => -3,
        TimestampUnit::Auto if below(11) => 6,
        TimestampUnit::Auto if below(14) => 3,
        TimestampUnit::Auto if below(17) => 0,
        TimestampUnit::Auto => -3,
    };
    let micros = (number.clone() * BigDecimal::new(1.into(), -power)).with_scale_round(0, RoundingMode::Down);
    let known = micros.to_i128().filter(|_| !number.is_negative()).and_then(in_range);
    assert_eq!(time, known, "{text:?} in {unit:?}");
}

/// Eight digits that are a date, unless a unit says that they are a number.
fn is_date(text: &str, unit: TimestampUnit) -> bool {
    unit == TimestampUnit::Auto
        && text.len() == 8
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && ("19700101"..="21000101").contains(&text)
        && jiff::civil::Date::from_str(text).is_ok()
}

fn fraction_digits(text: &str) -> usize {
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    fraction.bytes().take_while(u8::is_ascii_digit).count()
}
