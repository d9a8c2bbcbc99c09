//! The profile `metrics`: a flat object with a symbol, the ends of a window, and figures about it.

use super::elements::Elements;
use super::object::Object;
use super::profile::{Context, Profile};
use super::refusal::Refusal;
use super::settings::{Format, Settings, Target};
use super::word::{Word, Words};
use super::{number, symbol, time};
use crate::decimal::Decimal;
use crate::row::{Class, MetricRow, Micros, Origin};

/// The profile.
pub(super) const PROFILE: Profile = Profile { format: Format::Metrics, target: Target::Metrics, recognizes, read };

/// Where prices come too, figures alone are no sign: a quote can have an average price among its fields.
fn recognizes(object: &Object<'_>, settings: &Settings) -> bool {
    let is_only_metrics = settings.target == Target::Metrics || settings.format == Format::Metrics;
    object.has_any(Words::WINDOW) || is_only_metrics && object.has_any(Words::FIGURES)
}

fn read<'t>(context: &Context<'_, 't>, object: &Object<'t>, elements: &mut Elements<'_, 't>) {
    let row = metric_row(context, object, elements.origin());
    elements.metric(context, row);
}

fn metric_row<'t>(context: &Context<'_, 't>, object: &Object<'t>, origin: Origin) -> Result<MetricRow<'t>, Refusal> {
    let symbol = symbol::resolve(object, context.record, context.settings)?;
    let window_start = end_of_window(context, object, Word::WindowStart)?;
    let window_end = end_of_window(context, object, Word::WindowEnd)?;
    if window_end <= window_start {
        return Err(Refusal::at("window_end", Class::Range, "must be after window_start"));
    }
    let row = MetricRow {
        origin,
        symbol,
        window_start,
        window_end,
        avg_price: figure(object, Word::AvgPrice)?,
        max_price: figure(object, Word::MaxPrice)?,
        min_price: figure(object, Word::MinPrice)?,
        avg_volume: figure(object, Word::AvgVolume)?,
    };
    if [&row.avg_price, &row.max_price, &row.min_price, &row.avg_volume].into_iter().all(Option::is_none) {
        let what = format!("has none of {}", Words::FIGURES.names());
        return Err(Refusal::of_element(Class::Missing, what));
    }
    Ok(row)
}

fn end_of_window(context: &Context<'_, '_>, object: &Object<'_>, word: Word) -> Result<Micros, Refusal> {
    time::window_end(object, Words::only(word), context.settings)?
        .ok_or_else(|| Refusal::at(word.name(), Class::Missing, "is missing"))
}

fn figure<'t>(object: &Object<'t>, word: Word) -> Result<Option<Decimal<'t>>, Refusal> {
    Ok(number::first(object, Words::only(word))?.map(|(_, figure)| figure))
}
