//! An exact decimal number, kept as the text it was sent as.
//!
//! No float is involved anywhere: digits go from the message to PostgreSQL's binary numeric as they are, trailing zeros
//! included. Relies on nothing. Arithmetic is left out on purpose; only comparing is needed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write};

/// Digits before the point that PostgreSQL's numeric can hold.
const INTEGER_DIGITS_MAX: i64 = 131_072;
/// Digits after the point that PostgreSQL's numeric can hold.
const FRACTION_DIGITS_MAX: i64 = 16_383;
/// Numbers up to this many digits are encoded in a buffer on the stack.
const SHORT_DIGITS_MAX: usize = 32;
/// Four numbers of two bytes: groups of digits, weight, sign, digits after the point.
const HEADER_BYTES: usize = 8;
/// PostgreSQL's sign of a negative numeric.
const NEGATIVE: u16 = 0x4000;

/// An exact decimal number with as many digits as were sent.
#[derive(Clone)]
pub struct Decimal<'a> {
    // Digits and at most one point. No sign, no exponent, and no zeros at the front of the integer part.
    mantissa: Cow<'a, str>,
    // How many digits of the mantissa are before its point.
    point: u32,
    // The mantissa is to be multiplied by ten to this power. Never so large that a limit of numeric is passed.
    exponent: i32,
    // A minus was sent, even if the number is zero.
    negative: bool,
}

/// Why a text is no [`Decimal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalError {
    /// It is not a number in decimal notation.
    NotANumber,
    /// It has more digits before or after the point than PostgreSQL's numeric can hold.
    OutOfRange,
}

impl fmt::Display for DecimalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecimalError::NotANumber => f.write_str("is not a decimal number"),
            DecimalError::OutOfRange => write!(
                f,
                "has more than {INTEGER_DIGITS_MAX} digits before or {FRACTION_DIGITS_MAX} after the decimal point"
            ),
        }
    }
}

impl std::error::Error for DecimalError {}

impl<'a> Decimal<'a> {
    /// Nothing, without digits after the point.
    pub const ZERO: Decimal<'static> = Decimal { mantissa: Cow::Borrowed(""), point: 0, exponent: 0, negative: false };

    /// Reads a number: an optional sign, digits with at most one point, an optional exponent; spaces around it.
    pub fn parse(text: Cow<'a, str>) -> Result<Self, DecimalError> {
        let layout = Layout::of(text.as_bytes())?;
        let mantissa = match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[layout.start..layout.end]),
            Cow::Owned(mut text) => {
                text.truncate(layout.end);
                text.drain(..layout.start);
                Cow::Owned(text)
            }
        };
        let mut decimal = Decimal { mantissa, point: layout.point, exponent: 0, negative: layout.negative };
        if layout.exponent == 0 {
            // The usual case needs no look at the digits: leading zeros are gone.
            if i64::from(decimal.point) > INTEGER_DIGITS_MAX || decimal.fraction_digits() > FRACTION_DIGITS_MAX {
                return Err(DecimalError::OutOfRange);
            }
        } else {
            decimal.exponent = decimal.checked_exponent(layout.exponent)?;
        }
        Ok(decimal)
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative && !self.is_zero()
    }

    /// Whether it is zero, with however many digits.
    pub fn is_zero(&self) -> bool {
        self.mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'))
    }

    /// How many digits after the point were sent.
    pub fn scale(&self) -> u16 {
        // `parse` has refused what does not fit.
        (self.fraction_digits() - i64::from(self.exponent)).clamp(0, FRACTION_DIGITS_MAX) as u16
    }

    /// How many digits after the point the number needs; below zero where it ends in zeros before the point, and for
    /// nothing least of all.
    pub fn decimals(&self) -> i64 {
        self.last().map_or(i64::MIN, |last| -last)
    }

    /// How many digits before the point the number needs; below zero where zeros come behind the point, and for nothing
    /// least of all.
    pub fn integer_digits(&self) -> i64 {
        self.top().map_or(i64::MIN, |top| top + 1)
    }

    /// Compares the numbers, whatever their digits: 1.50 is equal to 1.5.
    pub fn cmp_value(&self, other: &Decimal<'_>) -> Ordering {
        match (self.top(), other.top()) {
            (None, None) => Ordering::Equal,
            (Some(_), None) if self.negative => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (None, Some(_)) if other.negative => Ordering::Greater,
            (None, Some(_)) => Ordering::Less,
            (Some(_), Some(_)) if self.negative != other.negative => other.negative.cmp(&self.negative),
            (Some(top), Some(other_top)) => {
                let lowest = self.bottom().min(other.bottom());
                let magnitude = top.cmp(&other_top).then_with(|| {
                    let pairs = (lowest..=top).rev().map(|place| (self.digit(place), other.digit(place)));
                    pairs.map(|(digit, other)| digit.cmp(&other)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
                });
                if self.negative { magnitude.reverse() } else { magnitude }
            }
        }
    }

    /// The number times ten to the `power`, cut to a whole number; `None` if that has more than 36 digits.
    pub fn scaled(&self, power: i32) -> Option<i128> {
        let Some(top) = self.top() else { return Some(0) };
        let power = i64::from(power);
        if top + power >= 36 {
            return None;
        }
        let whole = (-power..=top).rev().fold(0_i128, |whole, place| whole * 10 + i128::from(self.digit(place)));
        Some(if self.negative { -whole } else { whole })
    }

    /// The same number with a text of its own.
    pub fn into_owned(self) -> Decimal<'static> {
        Decimal { mantissa: Cow::Owned(self.mantissa.into_owned()), ..self }
    }

    /// Appends the binary form of PostgreSQL's numeric, without the length that precedes a field.
    pub fn write_numeric(&self, out: &mut Vec<u8>) {
        if self.exponent == 0 && self.mantissa.len() <= SHORT_DIGITS_MAX {
            self.write_short(out);
        } else {
            self.write_long(out);
        }
    }

    fn write_short(&self, out: &mut Vec<u8>) {
        let (integer, fraction) = self.parts();
        let mut numeric = [0_u8; HEADER_BYTES + 2 * (SHORT_DIGITS_MAX / 4 + 2)];
        let mut end = HEADER_BYTES;
        let mut weight = integer.len().div_ceil(4) as i16 - 1;
        let (head, tail) = integer.split_at(integer.len() % 4);
        let integer_groups = (!head.is_empty()).then_some(head).into_iter().chain(tail.chunks_exact(4)).map(group);
        for group in integer_groups {
            numeric[end..end + 2].copy_from_slice(&group.to_be_bytes());
            end += 2;
        }
        for digits in fraction.chunks(4) {
            let group = group(digits) * [1000, 100, 10, 1][digits.len() - 1];
            if group == 0 && end == HEADER_BYTES {
                // Zeros between the point and the first digit only move the weight.
                weight -= 1;
            } else {
                numeric[end..end + 2].copy_from_slice(&group.to_be_bytes());
                end += 2;
            }
        }
        while end > HEADER_BYTES && numeric[end - 2..end] == [0, 0] {
            end -= 2;
        }
        let n_groups = (end - HEADER_BYTES) / 2;
        numeric[..HEADER_BYTES].copy_from_slice(&self.header(n_groups, if n_groups == 0 { 0 } else { weight }));
        out.extend_from_slice(&numeric[..end]);
    }

    fn write_long(&self, out: &mut Vec<u8>) {
        let (Some(top), Some(last)) = (self.top(), self.last()) else {
            return out.extend_from_slice(&self.header(0, 0));
        };
        let (first_group, last_group) = (top.div_euclid(4), last.div_euclid(4));
        out.extend_from_slice(&self.header((first_group - last_group + 1) as usize, first_group as i16));
        for place in (last_group..=first_group).rev().map(|group| group * 4) {
            let group = (0..4).rev().fold(0, |sum: u16, digit| sum * 10 + u16::from(self.digit(place + digit)));
            out.extend_from_slice(&group.to_be_bytes());
        }
    }

    fn header(&self, n_groups: usize, weight: i16) -> [u8; HEADER_BYTES] {
        // PostgreSQL has no negative zero.
        let sign = if self.negative && n_groups > 0 { NEGATIVE } else { 0 };
        let mut header = [0; HEADER_BYTES];
        header[0..2].copy_from_slice(&(n_groups as u16).to_be_bytes());
        header[2..4].copy_from_slice(&weight.to_be_bytes());
        header[4..6].copy_from_slice(&sign.to_be_bytes());
        header[6..8].copy_from_slice(&self.scale().to_be_bytes());
        header
    }

    /// The mantissa's digits before and after its point.
    fn parts(&self) -> (&[u8], &[u8]) {
        let (integer, fraction) = self.mantissa.as_bytes().split_at(self.point as usize);
        (integer, fraction.get(1..).unwrap_or_default())
    }

    fn fraction_digits(&self) -> i64 {
        (self.mantissa.len() as i64 - i64::from(self.point) - 1).max(0)
    }

    /// The place of the first digit that isn't zero: 0 for ones, 1 for tens, -1 for tenths.
    fn top(&self) -> Option<i64> {
        let (integer, fraction) = self.parts();
        let leading = integer.iter().chain(fraction).position(|digit| *digit != b'0')?;
        Some(self.first() - leading as i64)
    }

    /// The place of the last digit that isn't zero.
    fn last(&self) -> Option<i64> {
        let (integer, fraction) = self.parts();
        let trailing = fraction.iter().rev().chain(integer.iter().rev()).position(|digit| *digit != b'0')?;
        Some(self.bottom() + trailing as i64)
    }

    /// The place of the first digit, zero or not.
    fn first(&self) -> i64 {
        i64::from(self.point) + i64::from(self.exponent) - 1
    }

    /// The place of the last digit, zero or not.
    fn bottom(&self) -> i64 {
        i64::from(self.exponent) - self.fraction_digits()
    }

    fn digit(&self, place: i64) -> u8 {
        if place > self.first() || place < self.bottom() {
            return 0;
        }
        let digit_idx = (self.first() - place) as usize;
        let byte_idx = if digit_idx < self.point as usize { digit_idx } else { digit_idx + 1 };
        self.mantissa.as_bytes()[byte_idx] - b'0'
    }

    /// The exponent as it is kept, unless it moves digits beyond a limit. Looks at `mantissa` and `point` only.
    fn checked_exponent(&self, exponent: i64) -> Result<i32, DecimalError> {
        let exponent = match self.top() {
            Some(top) if top.saturating_add(exponent) >= INTEGER_DIGITS_MAX => return Err(DecimalError::OutOfRange),
            Some(_) => exponent,
            // However far it is moved, zero has no digits before the point.
            None => exponent.min(self.fraction_digits()),
        };
        if self.fraction_digits().saturating_sub(exponent) > FRACTION_DIGITS_MAX {
            return Err(DecimalError::OutOfRange);
        }
        i32::try_from(exponent).map_err(|_| DecimalError::OutOfRange)
    }
}

/// Plain digits as they were sent, in the form PostgreSQL prints: no exponent, no zeros in front, no minus before zero.
impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.top();
        if self.negative && top.is_some() {
            f.write_char('-')?;
        }
        for place in (0..=top.unwrap_or(0).max(0)).rev() {
            f.write_char(char::from(b'0' + self.digit(place)))?;
        }
        let scale = i64::from(self.scale());
        if scale > 0 {
            f.write_char('.')?;
        }
        for place in 1..=scale {
            f.write_char(char::from(b'0' + self.digit(-place)))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decimal({self})")
    }
}

/// Equal digits: 120000000 is equal to 1.2E8, and 1.50 is not equal to 1.5.
impl<'b> PartialEq<Decimal<'b>> for Decimal<'_> {
    fn eq(&self, other: &Decimal<'b>) -> bool {
        self.scale() == other.scale() && self.cmp_value(other).is_eq()
    }
}

/// Four digits at most, as a number.
fn group(digits: &[u8]) -> u16 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
}

/// Where the parts of a number are in its text.
struct Layout {
    start: usize,
    end: usize,
    point: u32,
    exponent: i64,
    negative: bool,
}

impl Layout {
    fn of(text: &[u8]) -> Result<Layout, DecimalError> {
        let mut at = text.len() - text.trim_ascii_start().len();
        let text = text.trim_ascii_end();
        let negative = text.get(at) == Some(&b'-');
        if matches!(text.get(at), Some(b'-' | b'+')) {
            at += 1;
        }
        let first = at;
        while text.get(at) == Some(&b'0') {
            at += 1;
        }
        let start = at;
        while text.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        let mut n_digits = at - first;
        let point = u32::try_from(at - start).map_err(|_| DecimalError::OutOfRange)?;
        if text.get(at) == Some(&b'.') {
            at += 1;
            let fraction = at;
            while text.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            n_digits += at - fraction;
        }
        if n_digits == 0 {
            return Err(DecimalError::NotANumber);
        }
        let end = at;
        let exponent = if at == text.len() { 0 } else { exponent(&text[at..])? };
        Ok(Layout { start, end, point, exponent, negative })
    }
}

/// Reads `e`, a sign and digits up to the end; what is too large to matter is held at a limit.
fn exponent(text: &[u8]) -> Result<i64, DecimalError> {
    let (negative, digits) = match text {
        [b'e' | b'E', b'-', digits @ ..] => (true, digits),
        [b'e' | b'E', b'+', digits @ ..] | [b'e' | b'E', digits @ ..] => (false, digits),
        _ => return Err(DecimalError::NotANumber),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(DecimalError::NotANumber);
    }
    let size = digits.iter().fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    Ok(if negative { -size } else { size })
}

#[cfg(test)]
mod tests;
