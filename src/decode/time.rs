//! Reads times in every form producers send: numbers since the epoch, ISO 8601, RFC 2822, plain dates.
//!
//! Pure: the present is not known here, so that a missing time can never become "now".

use super::element::{Element, Found};
use super::object::Scalar;
use super::refusal::Refusal;
use super::settings::{Settings, TimestampMissing, TimestampUnit};
use crate::decimal::{Decimal, DecimalError};
use crate::row::{Class, Micros};
use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, TimeZone};
use chrono_tz::Tz;
use std::borrow::Cow;

/// 2100-01-01T00:00:00Z, the last time that is accepted; the first is 1970-01-01T00:00:00Z.
const LAST: Micros = Micros(4_102_444_800_000_000);
const MICROS_PER_SECOND: i64 = 1_000_000;
/// No form is longer; what is, need not be looked at.
const TEXT_BYTES_MAX: usize = 64;

/// Why a value is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeError {
    /// It has none of the known forms.
    Unreadable,
    /// The clocks of its zone were set forward over it.
    Nonexistent,
    /// It is before 1970 or after 2099.
    OutOfRange,
}

impl TimeError {
    fn as_str(self) -> &'static str {
        match self {
            TimeError::Unreadable => "is no time in a known form",
            TimeError::Nonexistent => "is a local time that does not exist in its zone",
            TimeError::OutOfRange => "is outside 1970-01-01..2100-01-01",
        }
    }
}

/// How times are read that don't say it themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Of numbers.
    pub unit: TimestampUnit,
    /// Of texts.
    pub zone: Tz,
}

impl Clock {
    /// As the topic says.
    pub(super) fn of(settings: &Settings) -> Clock {
        Clock { unit: settings.timestamp_unit, zone: settings.timezone }
    }
}

/// When a price held: what was found, else the record's timestamp.
pub(super) fn event(element: &Element<'_, '_>, found: Option<Found<'_, '_>>, clock: Clock) -> Result<Micros, Refusal> {
    const FIELD: &str = "timestamp";
    match found {
        Some(found) => read(&found, clock),
        None if element.settings.timestamp_missing == TimestampMissing::DeadLetter => {
            let what = "is missing, and the record's timestamp is not to be used";
            Err(Refusal::of_field(element.path, FIELD, Class::Missing, what))
        }
        None => record_time(element, FIELD)?.ok_or_else(|| {
            let what = "is missing, and the record has no timestamp";
            Refusal::of_field(element.path, FIELD, Class::Missing, what)
        }),
    }
}

/// When the producer fetched a price, in seconds since the epoch. The topic's unit is that of its event times: producers
/// mix milliseconds there with seconds here.
pub(super) fn fetch(element: &Element<'_, '_>, found: Option<Found<'_, '_>>) -> Result<Option<i64>, Refusal> {
    let clock = Clock { unit: TimestampUnit::Auto, zone: element.settings.timezone };
    let time = match found {
        Some(found) => Some(read(&found, clock)?),
        None => record_time(element, "fetch_timestamp")?,
    };
    Ok(time.map(|Micros(micros)| micros / MICROS_PER_SECOND))
}

/// The time that a value is.
#[inline]
pub(super) fn read(found: &Found<'_, '_>, clock: Clock) -> Result<Micros, Refusal> {
    let time = match &found.scalar {
        Scalar::Number(number) => since_epoch(number, clock.unit, clock.zone),
        Scalar::Text(text) if text.contains('\0') => return Err(found.place.refusal(Class::Encoding, "contains NUL")),
        Scalar::Text(text) => of_text(text.trim_ascii(), clock.unit, clock.zone),
        Scalar::Null | Scalar::Boolean | Scalar::Nested => Err(TimeError::Unreadable),
    };
    time.map_err(|error| found.place.refusal(Class::Time, error.as_str()))
}

fn record_time(element: &Element<'_, '_>, field: &str) -> Result<Option<Micros>, Refusal> {
    let Some(millis) = element.record.timestamp_ms else { return Ok(None) };
    let time = millis.checked_mul(1000).ok_or(TimeError::OutOfRange).and_then(in_range);
    time.map(Some).map_err(|_| {
        let what = "is missing, and the record's timestamp is outside 1970-01-01..2100-01-01";
        Refusal::of_field(element.path, field, Class::Time, what)
    })
}

/// Reads a string.
fn of_text(text: &str, unit: TimestampUnit, zone: Tz) -> Result<Micros, TimeError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TimeError::Unreadable);
    }
    match since_epoch(text, unit, zone) {
        Err(TimeError::Unreadable) => match Civil::read(text) {
            Some(civil) => civil.micros(zone).and_then(in_range),
            None => DateTime::parse_from_rfc2822(text)
                .map_err(|_| TimeError::Unreadable)
                .and_then(|time| in_range(time.timestamp_micros())),
        },
        known => known,
    }
}

/// Reads a number since the epoch, or the eight digits of a date.
fn since_epoch(text: &str, unit: TimestampUnit, zone: Tz) -> Result<Micros, TimeError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TimeError::Unreadable);
    }
    let Some(number) = whole(text) else { return fraction_since_epoch(text, unit) };
    // What doesn't fit is too much even for nanoseconds.
    let number = i64::try_from(number).map_err(|_| TimeError::OutOfRange)?;
    if text.len() == 8
        && unit == TimestampUnit::Auto
        && (19_700_101..=21_000_101).contains(&number)
        && let Some(date) =
            NaiveDate::from_ymd_opt((number / 10_000) as i32, (number / 100 % 100) as u32, (number % 100) as u32)
    {
        return Civil::midnight(date).micros(zone).and_then(in_range);
    }
    let micros = match by_magnitude(unit, i128::from(number)) {
        TimestampUnit::Auto | TimestampUnit::Seconds => number.checked_mul(MICROS_PER_SECOND),
        TimestampUnit::Millis => number.checked_mul(1000),
        TimestampUnit::Micros => Some(number),
        TimestampUnit::Nanos => Some(number / 1000),
    };
    in_range(micros.ok_or(TimeError::OutOfRange)?)
}

/// A number of digits alone, in one pass. Nineteen fit into an u64.
fn whole(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.bytes().try_fold(0, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| sum * 10 + u64::from(digit))
    })
}

/// The rarer numbers: negative, very long, with a point or an exponent.
fn fraction_since_epoch(text: &str, unit: TimestampUnit) -> Result<Micros, TimeError> {
    let number = match Decimal::parse(Cow::Borrowed(text)) {
        Ok(number) => number,
        Err(DecimalError::NotANumber) => return Err(TimeError::Unreadable),
        Err(DecimalError::OutOfRange) => return Err(TimeError::OutOfRange),
    };
    if number.is_negative() {
        return Err(TimeError::OutOfRange);
    }
    let whole = number.scaled(0).ok_or(TimeError::OutOfRange)?;
    let power = match by_magnitude(unit, whole) {
        TimestampUnit::Auto | TimestampUnit::Seconds => 6,
        TimestampUnit::Millis => 3,
        TimestampUnit::Micros => 0,
        TimestampUnit::Nanos => -3,
    };
    let micros = number.scaled(power).and_then(|micros| i64::try_from(micros).ok());
    in_range(micros.ok_or(TimeError::OutOfRange)?)
}

/// The unit of a number, unless the topic names it.
fn by_magnitude(unit: TimestampUnit, whole: i128) -> TimestampUnit {
    match unit {
        TimestampUnit::Auto if whole < 100_000_000_000 => TimestampUnit::Seconds,
        TimestampUnit::Auto if whole < 100_000_000_000_000 => TimestampUnit::Millis,
        TimestampUnit::Auto if whole < 100_000_000_000_000_000 => TimestampUnit::Micros,
        TimestampUnit::Auto => TimestampUnit::Nanos,
        named => named,
    }
}

fn in_range(micros: i64) -> Result<Micros, TimeError> {
    if (0..=LAST.0).contains(&micros) { Ok(Micros(micros)) } else { Err(TimeError::OutOfRange) }
}

/// A date and a time of day, as written.
struct Civil {
    date: NaiveDate,
    // Since midnight. A leap second is the first of the next minute.
    micros: i64,
    // Seconds east of Greenwich; `None` for a time in the topic's zone.
    offset: Option<i64>,
}

impl Civil {
    fn midnight(date: NaiveDate) -> Civil {
        Civil { date, micros: 0, offset: None }
    }

    /// Reads ISO 8601: a date, then maybe `T` or a space, a time, and a zone.
    fn read(text: &str) -> Option<Civil> {
        let mut rest = Digits(text.as_bytes());
        let year = rest.two()? * 100 + rest.two()?;
        let is_extended = rest.skip(b"-");
        let month = rest.two()?;
        if is_extended && !rest.skip(b"-") {
            return None;
        }
        let date = NaiveDate::from_ymd_opt(year as i32, month as u32, rest.two()? as u32)?;
        if rest.is_empty() {
            return Some(Civil::midnight(date));
        }
        if !rest.skip(b"Tt ") {
            return None;
        }
        let hour = rest.two_up_to(23)?;
        let with_colons = rest.skip(b":");
        let minute = rest.two_up_to(59)?;
        let has_seconds = if with_colons { rest.skip(b":") } else { rest.starts_with_digit() };
        let second = if has_seconds { rest.two_up_to(60)? } else { 0 };
        let fraction = if has_seconds && rest.skip(b".,") { rest.fraction_micros()? } else { 0 };
        let micros = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + fraction;
        let offset = rest.offset()?;
        Some(Civil { date, micros, offset })
    }

    fn micros(self, zone: Tz) -> Result<i64, TimeError> {
        let local = NaiveDateTime::from(self.date).and_utc().timestamp() * MICROS_PER_SECOND + self.micros;
        match self.offset {
            Some(offset) => Ok(local - offset * MICROS_PER_SECOND),
            None if zone == Tz::UTC => Ok(local),
            None => {
                let naive = DateTime::from_timestamp_micros(local).ok_or(TimeError::OutOfRange)?.naive_utc();
                match zone.from_local_datetime(&naive) {
                    LocalResult::Single(time) => Ok(time.timestamp_micros()),
                    LocalResult::Ambiguous(one, other) => Ok(one.min(other).timestamp_micros()),
                    LocalResult::None => Err(TimeError::Nonexistent),
                }
            }
        }
    }
}

/// Takes a text apart from the front.
struct Digits<'t>(&'t [u8]);

impl Digits<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn starts_with_digit(&self) -> bool {
        self.0.first().is_some_and(u8::is_ascii_digit)
    }

    /// Passes over one byte if it is one of these.
    fn skip(&mut self, any: &[u8]) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if any.contains(first) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn two(&mut self) -> Option<i64> {
        match self.0 {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] => {
                self.0 = rest;
                Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
            }
            _ => None,
        }
    }

    fn two_up_to(&mut self, max: i64) -> Option<i64> {
        self.two().filter(|number| *number <= max)
    }

    /// One to nine digits; those after the sixth are cut off.
    fn fraction_micros(&mut self) -> Option<i64> {
        let n_digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=9).contains(&n_digits) {
            return None;
        }
        let (digits, rest) = self.0.split_at(n_digits);
        self.0 = rest;
        Some((0..6).fold(0, |sum, idx| sum * 10 + digits.get(idx).map_or(0, |digit| i64::from(digit - b'0'))))
    }

    /// The end of the text: nothing, `Z`, or hours and minutes from Greenwich, in seconds.
    fn offset(&mut self) -> Option<Option<i64>> {
        if self.is_empty() {
            return Some(None);
        }
        // As Ruby and Java print it.
        self.skip(b" ");
        if self.skip(b"Zz") {
            return self.is_empty().then_some(Some(0));
        }
        let is_west = self.0.first() == Some(&b'-');
        if !self.skip(b"+-") {
            return None;
        }
        let hours = self.two_up_to(23)?;
        let minutes = if self.is_empty() {
            0
        } else {
            self.skip(b":");
            self.two_up_to(59)?
        };
        let seconds = (hours * 60 + minutes) * 60;
        self.is_empty().then_some(Some(if is_west { -seconds } else { seconds }))
    }
}
