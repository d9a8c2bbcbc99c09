//! The profile `ksql-window`: a windowed table of ksqlDB, with WINDOWSTART and WINDOWEND in milliseconds and names in
//! capitals.

use super::element::{Element, Found};
use super::elements::Elements;
use super::metrics::FIGURES;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{MetricParts, metric_row};
use super::settings::{Target, TimestampUnit};
use super::time::Clock;
use super::word::{Word, Words};

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Metrics,
    signs: Words::only(Word::KsqlWindowStart).with(Words::only(Word::KsqlWindowEnd)),
    recognizes: |element| !element.object.has_any(Words::WINDOW),
    reads: Reads::Itself(read),
    looks: r#""WINDOWSTART" and "WINDOWEND" in milliseconds, and figures such as "AVG_PRICE""#,
    keys: &["WINDOWSTART", "WINDOWEND"],
};

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    let parts = MetricParts {
        symbol: element.first_not_null(Words::SYMBOL),
        window: [end(element, Word::KsqlWindowStart), end(element, Word::KsqlWindowEnd)],
        figures: FIGURES.map(|figure| element.first(figure)),
        // By ksqlDB's documentation, whatever the topic's own times are in.
        clock: Clock { unit: TimestampUnit::Millis, ..Clock::of(element.settings) },
    };
    elements.metric(metric_row(element, parts, elements.origin()));
}

fn end<'e, 't>(element: &Element<'e, 't>, word: Word) -> Result<Found<'e, 't>, Refusal> {
    element.first(Words::only(word))?.ok_or_else(|| element.missing(word.name()))
}
