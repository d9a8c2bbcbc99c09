//! The profile `metrics`: a flat object with a symbol, the ends of a window, and figures about it.

use super::element::{Element, Found};
use super::elements::Elements;
use super::envelope::holds_more;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{MetricParts, metric_row};
use super::settings::{Format, Target};
use super::time::Clock;
use super::word::{Word, Words};

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Metrics,
    signs: Words::WINDOW.with(Words::FIGURES),
    recognizes,
    reads: Reads::Itself(read),
    looks: r#""symbol", "window_start", "window_end" and figures such as "avg_price""#,
    keys: &["window_start", "window_end", "avg_price", "max_price", "min_price", "avg_volume"],
};

/// The words of the figures, in the order of a row.
pub(super) const FIGURES: [Words; 4] = [
    Words::only(Word::AvgPrice),
    Words::only(Word::MaxPrice),
    Words::only(Word::MinPrice),
    Words::only(Word::AvgVolume),
];

/// Where prices come too, figures alone are no sign: a quote can have an average price among its fields. A window without
/// figures can be that of the elements inside.
fn recognizes(element: &Element<'_, '_>) -> bool {
    let settings = element.settings;
    let is_only_metrics = settings.target == Target::Metrics || settings.format == Format::Metrics;
    let is_window_of = |element: &Element<'_, '_>| element.object.has_any(Words::WINDOW);
    let has_figures = element.object.has_any(Words::FIGURES);
    match has_figures {
        true => is_only_metrics || is_window_of(element) || element.around.is_some_and(is_window_of),
        false => is_window_of(element) && !holds_more(element),
    }
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    let parts = MetricParts {
        symbol: element.first_not_null(Words::SYMBOL),
        window: [
            end_of_window(element, Word::WindowStart, Word::KsqlWindowStart),
            end_of_window(element, Word::WindowEnd, Word::KsqlWindowEnd),
        ],
        figures: FIGURES.map(|figure| element.first(figure)),
        clock: Clock::of(element.settings),
    };
    elements.metric(metric_row(element, parts, elements.origin()));
}

/// One end can be written as ksqlDB writes it, if the other is not.
fn end_of_window<'e, 't>(element: &Element<'e, 't>, word: Word, capitals: Word) -> Result<Found<'e, 't>, Refusal> {
    let found = element.first(Words::only(word).with(Words::only(capitals)))?;
    found.ok_or_else(|| element.missing(word.name()))
}
