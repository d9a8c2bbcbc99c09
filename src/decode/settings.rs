//! How the messages of one topic are read: the keys of `[[topics]]` that are about decoding.
//!
//! Relies on `decimal`. Every value is checked where it is made, so that decoding has no doubts about them.

pub use super::profile::Format;

use super::symbol;
use crate::decimal::Decimal;
use chrono_tz::Tz;
use std::str::FromStr;

/// How the messages of one topic are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which table the rows are for.
    pub target: Target,
    /// Which shape the messages have. One that is named decides alone, whatever the target; see
    /// [`contradiction`](Settings::contradiction).
    pub format: Format,
    /// The unit of event times and windows that are sent as a number.
    pub timestamp_unit: TimestampUnit,
    /// The zone of times that are sent without one.
    pub timezone: Tz,
    /// Where the symbol is.
    pub symbol: SymbolSource,
    /// What happens to a price without a time.
    pub timestamp_missing: TimestampMissing,
    /// A price must be above this.
    pub price_min: Decimal<'static>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            target: Target::Prices,
            format: Format::Auto,
            timestamp_unit: TimestampUnit::Auto,
            timezone: Tz::UTC,
            symbol: SymbolSource::Auto,
            timestamp_missing: TimestampMissing::Record,
            price_min: Decimal::ZERO,
        }
    }
}

impl Settings {
    /// What is wrong with the settings together, if anything is: a format whose rows are not for the target.
    pub fn contradiction(&self) -> Option<String> {
        let fits = self.format.is_for(self.target);
        (!fits).then(|| format!("format: {:?} has no rows for target {:?}", self.format.as_str(), self.target.as_str()))
    }
}

/// Makes an enum whose variants are words of writer.toml.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident, $listed:literal, $($(#[$variant_about:meta])* $variant:ident = $word:literal,)+) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_about])* $variant,)+
        }

        impl $name {
            /// The word in writer.toml.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(format!(concat!("must be ", $listed, ", is {:?}"), text)),
                }
            }
        }
    };
}

choice! {
    /// `target`
    Target, r#""prices", "metrics" or "auto""#,
    /// The prices table.
    Prices = "prices",
    /// The metrics table.
    Metrics = "metrics",
    /// Told apart message by message.
    Auto = "auto",
}

choice! {
    /// `timestamp_unit`
    TimestampUnit, r#""auto", "s", "ms", "us" or "ns""#,
    /// By magnitude.
    Auto = "auto",
    /// Seconds.
    Seconds = "s",
    /// Milliseconds.
    Millis = "ms",
    /// Microseconds.
    Micros = "us",
    /// Nanoseconds.
    Nanos = "ns",
}

choice! {
    /// `timestamp_missing`
    TimestampMissing, r#""record" or "dead-letter""#,
    /// The Kafka record's timestamp is taken.
    Record = "record",
    /// The element becomes a dead letter.
    DeadLetter = "dead-letter",
}

/// `symbol`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SymbolSource {
    /// In the value, else in the record's key.
    Auto,
    /// The record's key, whatever the value says.
    Key,
    /// The topic's name.
    Topic,
    /// Always this one. Keeps the rules of a symbol.
    Constant(String),
}

impl FromStr for SymbolSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(SymbolSource::Auto),
            "key" => Ok(SymbolSource::Key),
            "topic" => Ok(SymbolSource::Topic),
            constant => match symbol::problem(constant.trim()) {
                None => Ok(SymbolSource::Constant(constant.trim().to_owned())),
                Some((_, problem)) => {
                    Err(format!("must be \"auto\", \"key\", \"topic\" or a symbol, is {constant:?}, which {problem}"))
                }
            },
        }
    }
}
