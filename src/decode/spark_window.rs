//! The profile `spark-window`: an aggregation over `window(…)` in Apache Spark, whose columns may have kept the names
//! that Spark gives them, such as `avg(price)`.

use super::element::{Element, Finding};
use super::elements::Elements;
use super::fields::Fields;
use super::object::is_same_name;
use super::path::Path;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{MetricParts, metric_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::{MetricRow, Origin};
use std::ops::Range;

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Metrics,
    signs: Words::only(Word::Window),
    // A quote can have such a field, but hardly figures with it.
    recognizes: |element| {
        element.object.raw(Word::Window).is_some_and(|window| window.starts_with('{'))
            && (element.settings.target == Target::Metrics
                || !element.object.has_any(Words::PRICE)
                || figures_of(element).has_any())
    },
    reads: Reads::Itself(read),
    looks: r#"a "window" with "start" and "end", "symbol", and figures such as "avg(price)""#,
    keys: &["window", "avg(price)", "max(price)", "min(price)", "avg(volume)"],
};

/// The names of the figures; of each the first counts that is there.
const NAMES: [&str; 15] = [
    "avg(price)",
    "avg_price",
    "average_price",
    "avg(close)",
    "mean(price)",
    "max(price)",
    "max_price",
    "max(close)",
    "min(price)",
    "min_price",
    "min(close)",
    "avg(volume)",
    "avg_volume",
    "average_volume",
    "mean(volume)",
];
const FIGURES: [Range<usize>; 4] = [0..5, 5..8, 8..11, 11..15];

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    elements.metric(row(element, elements.origin()));
}

fn row<'t>(element: &Element<'_, 't>, origin: Origin) -> Result<MetricRow<'t>, Refusal> {
    let window = element.object.sole_raw(element.path, Word::Window)?.unwrap_or_default();
    let (path, ends) = (Path::Key(element.path, Word::Window.name()), Fields::read(["start", "end"], window));
    let figures = figures_of(element);
    let parts = MetricParts {
        symbol: element.first_not_null(Words::SYMBOL),
        window: [ends.need(&path, 0), ends.need(&path, 1)],
        figures: FIGURES.map(|names| first(element, &figures, names)),
        clock: Clock::of(element.settings),
    };
    metric_row(element, parts, origin)
}

fn figures_of<'t>(element: &Element<'_, 't>) -> Fields<'t, { NAMES.len() }> {
    let place_of = |key: &str| NAMES.iter().position(|name| is_same_name(name, key));
    Fields::read_by(NAMES, element.object.text(), place_of)
}

fn first<'e, 't>(
    element: &Element<'e, 't>,
    figures: &Fields<'t, { NAMES.len() }>,
    mut names: Range<usize>,
) -> Finding<'e, 't> {
    names.find_map(|name| figures.find(element.path, name).transpose()).transpose()
}
