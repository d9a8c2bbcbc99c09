//! Any text, read as a number: accepted by a grammar written down once more, and the digits of PostgreSQL's binary form
//! and of the printed form are those that bigdecimal reads in the text.
#![no_main]

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::{BigInt, Sign};
use fuzz::decimal::{Decimal, DecimalError};
use fuzz::grammar::is_number;
use libfuzzer_sys::fuzz_target;
use std::str::FromStr;

/// Longer numbers are not printed and not compared: one would take as long as a thousand others.
const PLACES_MAX: i64 = 1_000;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Two numbers are compared, too.
    let (text, other) = text.split_once('|').unwrap_or((text, "0"));
    let Some(number) = check(text) else { return };
    let Some(other_number) = check(other) else { return };
    if is_short(text) && is_short(other) {
        let (value, other_value) = (read(text), read(other));
        assert_eq!(number.cmp_value(&other_number), value.cmp(&other_value), "{text:?} and {other:?}");
        assert_eq!(other_number.cmp_value(&number), other_value.cmp(&value), "{other:?} and {text:?}");
    }
});

fn check(text: &str) -> Option<Decimal<'_>> {
    let number = match Decimal::parse(text.into()) {
        Err(DecimalError::NotANumber) => {
            assert!(!is_number(text), "{text:?} is a number");
            return None;
        }
        Err(DecimalError::OutOfRange) => {
            assert!(is_number(text), "{text:?} is no number");
            assert!(!is_surely_in_range(text), "{text:?} is in range");
            return None;
        }
        Ok(number) => number,
    };
    assert!(is_number(text), "{text:?} is no number");

    let mut numeric = vec![0xAA];
    number.write_numeric(&mut numeric);
    assert_eq!(numeric.remove(0), 0xAA);
    let binary = Binary::read(&numeric);
    assert_eq!(i64::from(binary.scale), i64::from(number.scale()));
    assert_eq!(number.is_zero(), binary.digits.sign() == Sign::NoSign);
    assert_eq!(number.is_negative(), binary.digits.sign() == Sign::Minus);

    if has_short_exponent(text) {
        let value = read(text);
        let (digits, scale) = value.as_bigint_and_exponent();
        assert_eq!(i64::from(number.scale()), scale.max(0), "{text:?}");
        assert_eq!(ends_stripped(&digits, -scale), ends_stripped(&binary.digits, binary.exponent), "{text:?}");
        let owned = number.clone().into_owned();
        assert_eq!(owned, number);
    }
    if is_short(text) {
        let shown = number.to_string();
        let again = Decimal::parse(shown.as_str().into()).expect("what is printed is a number");
        assert_eq!(again, number, "{text:?} is printed as {shown}");
        assert_eq!(again.to_string(), shown);
        assert_eq!(read(&shown), read(text), "{text:?} is printed as {shown}");
        let canonical = shown.strip_prefix('-').unwrap_or(&shown);
        assert!(canonical.starts_with(|c: char| c.is_ascii_digit()) && !canonical.ends_with('.'), "{shown}");
        assert!(!canonical.starts_with('0') || canonical == "0" || canonical.starts_with("0."), "{shown}");
    }
    Some(number)
}

/// PostgreSQL's binary numeric, by its documentation in numeric.c.
struct Binary {
    digits: BigInt,
    // The digits are to be multiplied by ten to this power.
    exponent: i64,
    scale: u16,
}

impl Binary {
    fn read(numeric: &[u8]) -> Binary {
        let word = |idx: usize| u16::from_be_bytes([numeric[2 * idx], numeric[2 * idx + 1]]);
        let (n_groups, weight, sign, scale) = (word(0), word(1) as i16, word(2), word(3));
        assert_eq!(numeric.len(), 8 + 2 * usize::from(n_groups));
        assert!(scale <= 16_383);
        let groups: Vec<u16> = (0..usize::from(n_groups)).map(|idx| word(4 + idx)).collect();
        assert!(groups.iter().all(|group| *group < 10_000));
        assert_ne!(groups.first(), Some(&0), "a group of zeros in front");
        assert_ne!(groups.last(), Some(&0), "a group of zeros at the end");
        let exponent = 4 * (i64::from(weight) - i64::from(n_groups) + 1);
        let digits: String = groups.iter().map(|group| format!("{group:04}")).collect();
        let is_whole =
            digits.bytes().rev().take((-exponent - i64::from(scale)).max(0) as usize).all(|digit| digit == b'0');
        assert!(is_whole, "digits beyond the scale");
        let digits = if digits.is_empty() {
            assert_eq!((weight, sign), (0, 0), "zero in a form of its own");
            BigInt::ZERO
        } else {
            BigInt::from_str(&digits).expect("digits")
        };
        let digits = match sign {
            0 => digits,
            0x4000 => -digits,
            _ => panic!("sign {sign:x}"),
        };
        Binary { digits, exponent, scale }
    }
}

fn read(text: &str) -> BigDecimal {
    BigDecimal::from_str(text.trim_ascii()).unwrap_or_else(|error| panic!("bigdecimal can't read {text:?}: {error}"))
}

/// A number in its only form without zeros at the end.
fn ends_stripped(digits: &BigInt, exponent: i64) -> (String, i64) {
    let text = digits.to_string();
    let stripped = text.trim_end_matches('0');
    match stripped {
        "" => (String::new(), 0),
        _ => (stripped.to_owned(), exponent + (text.len() - stripped.len()) as i64),
    }
}

fn exponent(text: &str) -> Option<i64> {
    text.trim_ascii().split_once(['e', 'E']).map_or(Some(0), |(_, exponent)| exponent.parse().ok())
}

/// bigdecimal can read it: its scales are of 64 bits.
fn has_short_exponent(text: &str) -> bool {
    exponent(text).is_some_and(|exponent| exponent.saturating_abs() < 1 << 40)
}

fn is_short(text: &str) -> bool {
    text.len() < 1000 && exponent(text).is_some_and(|exponent| exponent.saturating_abs() < PLACES_MAX)
}

/// So few places that neither limit of numeric can be passed.
fn is_surely_in_range(text: &str) -> bool {
    exponent(text).is_some_and(|exponent| text.len() as i64 + exponent.saturating_abs().min(1 << 40) < 16_383)
}
