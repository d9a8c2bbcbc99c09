//! What a profile is: a shape of messages, how it is recognized, and how its elements are read.
//!
//! A new profile is a file of its own, its name in `settings::Format`, a line in [`PROFILES`], and cases in
//! `tests/shapes`; `docs/adding-a-shape.md` goes through it step by step.

use super::element::Element;
use super::elements::Elements;
use super::refusal::Refusal;
use super::settings::{Format, Settings, Target};
use super::word::Words;
use super::{
    alpha_vantage, bar, binance, columnar, envelope, finnhub, googlefinance, ksql_window, metrics, polygon, quote,
    spark_window,
};
use crate::row::{Class, Skip};

/// All profiles. Of several that recognize an object the first reads it: vendors before the shapes that anybody sends.
const PROFILES: &[Profile] = &[
    polygon::PROFILE,
    binance::STREAM,
    binance::PROFILE,
    finnhub::PING,
    finnhub::PROFILE,
    finnhub::TRADE,
    alpha_vantage::PROFILE,
    alpha_vantage::NOTICE,
    googlefinance::PROFILE,
    spark_window::PROFILE,
    ksql_window::PROFILE,
    metrics::PROFILE,
    columnar::PROFILE,
    bar::PROFILE,
    envelope::PROFILE,
    quote::PROFILE,
];

/// A shape of messages. A format that has several is pinned with all of them.
pub(super) struct Profile {
    /// Its name in the settings.
    pub format: Format,
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

/// The profile that reads an object, if there is one.
///
/// A pinned format does not change which shape an object has: it refuses all others.
pub(super) fn find(element: &Element<'_, '_>, format: Format) -> Option<&'static Profile> {
    let is_taken = |profile: &Profile| is_for(profile, element.settings.target);
    let found = PROFILES.iter().find(|profile| is_taken(profile) && has_shape(profile, element))?;
    (format == Format::Auto || format == found.format).then_some(found)
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
    if let Some(other) = PROFILES.iter().find(|profile| has_shape(profile, &unpinned)) {
        let what = match format {
            Format::Auto => format!("a topic whose target is {:?}", element.settings.target.as_str()),
            pinned => format!("a topic whose format is {:?}", pinned.as_str()),
        };
        let other = other.format.as_str();
        return element.refusal(
            Class::UnknownShape,
            format_args!("has the shape {other:?}, which is not for {what}; its keys: {keys}"),
        );
    }
    let lists: Vec<&[&str]> = PROFILES.iter().map(|profile| profile.keys).collect();
    let counts = element.object.n_keys_among(&lists);
    // The share of its keys counts, so that a shape with many does not always win; of several the first.
    let share = |idx: usize| counts[idx] * 1000 / PROFILES[idx].keys.len().max(1);
    let closest = (0..PROFILES.len()).rev().max_by_key(|idx| share(*idx)).filter(|idx| counts[*idx] > 0);
    let closest = match closest {
        Some(idx) => format!("; the closest is {:?}: {}", PROFILES[idx].format.as_str(), PROFILES[idx].looks),
        None => String::new(),
    };
    let what = format_args!("has a shape that no profile knows, with the keys {keys}{closest}");
    element.refusal(Class::UnknownShape, what)
}
