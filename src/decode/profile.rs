//! What a profile is: a shape of messages, how it is recognized, and how its elements are read; and the list of all.
//!
//! A new profile is a file of its own, a line in the list, and cases in `tests/shapes`; `docs/adding-a-shape.md` goes
//! through it step by step.

use super::element::Element;
use super::elements::Elements;
use super::refusal::Refusal;
use super::settings::{Settings, Target};
use super::word::Words;
use super::{
    alpha_vantage, bar, binance, columnar, envelope, finnhub, googlefinance, ksql_window, metrics, polygon, quote,
    spark_window,
};
use crate::row::{Class, Skip};
use std::str::FromStr;

/// Declares the formats, and which profiles each has.
macro_rules! formats {
    ($($(#[$about:meta])* $format:ident = $name:literal: [$($profile:path),+],)+) => {
        /// Which shape a topic's messages have: `format`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Format {
            /// Told apart message by message.
            Auto,
            $($(#[$about])* $format,)+
        }

        impl Format {
            const ALL: &[Format] = &[Format::Auto, $(Format::$format,)+];

            /// The word in writer.toml.
            pub fn as_str(self) -> &'static str {
                match self {
                    Format::Auto => "auto",
                    $(Format::$format => $name,)+
                }
            }
        }

        const PROFILES: &[(Format, Profile)] = &[$($((Format::$format, $profile),)+)+];
    };
}

// Of several that recognize an object the first reads it: vendors before the shapes that anybody sends.
formats! {
    /// Polygon's events.
    Polygon = "polygon": [polygon::PROFILE],
    /// Binance's events.
    Binance = "binance": [binance::STREAM, binance::EVENT],
    /// Finnhub's trades and pings.
    Finnhub = "finnhub": [finnhub::PING, finnhub::TRADES, finnhub::TRADE],
    /// Alpha Vantage's quotes, series and notices.
    AlphaVantage = "alpha-vantage": [alpha_vantage::ANSWER, alpha_vantage::NOTICE],
    /// What the Python package googlefinance returns.
    Googlefinance = "googlefinance": [googlefinance::PROFILE],
    /// A windowed aggregation of Apache Spark.
    SparkWindow = "spark-window": [spark_window::PROFILE],
    /// A windowed table of ksqlDB.
    KsqlWindow = "ksql-window": [ksql_window::PROFILE],
    /// A flat object with a window and figures.
    Metrics = "metrics": [metrics::PROFILE],
    /// A DataFrame dumped by column.
    Columnar = "columnar": [columnar::PROFILE],
    /// A flat object with open, high, low and close.
    Bar = "bar": [bar::PROFILE],
    /// Any other shape inside of Debezium's or Kafka Connect's envelope, or in `payload` or `data`.
    Envelope = "envelope": [envelope::PROFILE],
    /// A flat object with a symbol and a price.
    Quote = "quote": [quote::PROFILE],
}

impl Format {
    /// Whether its rows are for a target.
    pub(super) fn is_for(self, target: Target) -> bool {
        PROFILES.iter().all(|(format, profile)| *format != self || is_for(profile, target))
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Format::ALL.iter().find(|format| format.as_str() == text).copied().ok_or_else(|| {
            let names: Vec<&str> = Format::ALL.iter().map(|format| format.as_str()).collect();
            format!("must be one of {}, is {text:?}", names.join(", "))
        })
    }
}

/// A shape of messages. A format that has several is pinned with all of them.
pub(super) struct Profile {
    /// Where its rows go; `Auto`: wherever those of what is in it go.
    pub target: Target,
    /// It recognizes only objects that have one of these; none: any object.
    pub signs: Words,
    /// Whether an object with a sign has this shape. Asked of every message: cheap.
    pub recognizes: fn(&Element<'_, '_>) -> bool,
    /// How such an object is read.
    pub reads: Reads,
    /// What the shape looks like, for a person whose message nearly has it.
    pub looks: &'static str,
    /// The keys that it reads, to tell which shape came closest.
    pub keys: &'static [&'static str],
}

/// How an object is read.
pub(super) enum Reads {
    /// By itself: at least one row, dead letter or skip.
    Itself(for<'t> fn(&Element<'_, 't>, &mut Elements<'_, 't>)),
    /// By what is in it.
    Inside(for<'t> fn(&Element<'_, 't>) -> Result<Inside<'t>, Refusal>),
}

/// What is in an envelope.
pub(super) enum Inside<'t> {
    /// A value, with its key.
    Value(&'static str, &'t str),
    /// Nothing, and rightly so.
    Nothing(Skip),
}

/// The profile that reads an object, if there is one, and its format.
///
/// A pinned format does not change which shape an object has: it refuses all others.
pub(super) fn find(element: &Element<'_, '_>, format: Format) -> Option<&'static (Format, Profile)> {
    let found =
        PROFILES.iter().find(|(_, profile)| is_for(profile, element.settings.target) && has_shape(profile, element))?;
    (format == Format::Auto || format == found.0).then_some(found)
}

fn is_for(profile: &Profile, target: Target) -> bool {
    target == Target::Auto || profile.target == Target::Auto || profile.target == target
}

fn has_shape(profile: &Profile, element: &Element<'_, '_>) -> bool {
    (profile.signs.is_empty() || element.object.has_any(profile.signs)) && (profile.recognizes)(element)
}

/// Why no profile reads an object, and which comes closest.
#[cold]
pub(super) fn unknown(element: &Element<'_, '_>, format: Format) -> Refusal {
    let keys = element.object.names();
    let settings = Settings { target: Target::Auto, format: Format::Auto, ..element.settings.clone() };
    let unpinned = Element { settings: &settings, ..*element };
    if let Some((other, _)) = PROFILES.iter().find(|(_, profile)| has_shape(profile, &unpinned)) {
        let topic = match format {
            Format::Auto => format!("target is {:?}", element.settings.target.as_str()),
            pinned => format!("format is {:?}", pinned.as_str()),
        };
        let what = format_args!("has the shape {:?}, but the topic's {topic}; its keys: {keys}", other.as_str());
        return element.refusal(Class::UnknownShape, what);
    }
    let lists: Vec<&[&str]> = PROFILES.iter().map(|(_, profile)| profile.keys).collect();
    let counts = element.object.n_keys_among(&lists);
    // The share of its keys counts, so that a shape with many does not always win; of several the first.
    let share = |idx: usize| counts[idx] * 1000 / lists[idx].len().max(1);
    let closest = (0..PROFILES.len()).rev().max_by_key(|idx| share(*idx)).filter(|idx| counts[*idx] > 0);
    let closest = closest.map_or_else(String::new, |idx| {
        let (format, profile) = &PROFILES[idx];
        format!("; the closest is {:?}: {}", format.as_str(), profile.looks)
    });
    let what = format_args!("has a shape that no profile knows, with the keys {keys}{closest}");
    element.refusal(Class::UnknownShape, what)
}
