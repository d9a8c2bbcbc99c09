//! Makes rows of the parts that a profile has found: the rules that hold for all profiles are here.

use super::element::{Element, Finding, Found};
use super::refusal::Refusal;
use super::time::Clock;
use super::word::Words;
use super::{number, symbol, time};
use crate::decimal::Decimal;
use crate::row::{Class, MetricRow, Origin, PriceRow};
use std::cmp::Ordering;

/// What a price is made of. What a profile does not find is looked for around its element, then in the record.
pub(super) struct PriceParts<'f, 't> {
    /// What is traded.
    pub symbol: Finding<'f, 't>,
    /// For how much.
    pub price: Result<Found<'f, 't>, Refusal>,
    /// How much of it.
    pub volume: Finding<'f, 't>,
    /// When the price held.
    pub time: Finding<'f, 'f>,
    /// When the producer fetched it.
    pub fetch_time: Finding<'f, 'f>,
    /// How the time is read.
    pub clock: Clock,
}

/// A row of the prices table.
#[inline]
pub(super) fn price_row<'t>(
    element: &Element<'_, 't>,
    parts: PriceParts<'_, 't>,
    origin: Origin,
) -> Result<PriceRow<'t>, Refusal> {
    let settings = element.settings;
    let symbol = symbol::resolve(element, parts.symbol)?;
    let found = parts.price?;
    let place = found.place;
    let price = number::read(found)?;
    if price.cmp_value(&settings.price_min) != Ordering::Greater {
        return Err(place.refusal(Class::Range, format_args!("must be above {}", settings.price_min)));
    }
    let volume = or_around(element, parts.volume, Words::VOLUME)?.map(volume).transpose()?;
    let timestamp = time::event(element, or_around(element, parts.time, Words::TIME)?, parts.clock)?;
    let fetch_timestamp = time::fetch(element, parts.fetch_time?)?;
    Ok(PriceRow { origin, symbol, price, volume, timestamp, fetch_timestamp })
}

fn volume<'t>(found: Found<'_, 't>) -> Result<Decimal<'t>, Refusal> {
    let place = found.place;
    match number::read(found)? {
        volume if volume.is_negative() => Err(place.refusal(Class::Range, "must not be negative")),
        volume => Ok(volume),
    }
}

/// What a row of figures is made of.
pub(super) struct MetricParts<'f, 't> {
    /// What was traded.
    pub symbol: Finding<'f, 't>,
    /// The start of the window, and its end.
    pub window: [Result<Found<'f, 't>, Refusal>; 2],
    /// Average, highest and lowest price, and average volume.
    pub figures: [Finding<'f, 't>; 4],
    /// How the window is read.
    pub clock: Clock,
}

/// A row of the metrics table.
pub(super) fn metric_row<'t>(
    element: &Element<'_, 't>,
    parts: MetricParts<'_, 't>,
    origin: Origin,
) -> Result<MetricRow<'t>, Refusal> {
    let symbol = symbol::resolve(element, parts.symbol)?;
    let [start, end] = parts.window;
    let window_start = time::read(&start?, parts.clock)?;
    let end = end?;
    let window_end = time::read(&end, parts.clock)?;
    if window_end <= window_start {
        return Err(end.place.refusal(Class::Range, "must be after the window's start"));
    }
    let [avg_price, max_price, min_price, avg_volume] = parts.figures.map(figure);
    let row = MetricRow {
        origin,
        symbol,
        window_start,
        window_end,
        avg_price: avg_price?,
        max_price: max_price?,
        min_price: min_price?,
        avg_volume: avg_volume?,
    };
    if [&row.avg_price, &row.max_price, &row.min_price, &row.avg_volume].into_iter().all(Option::is_none) {
        return Err(element.refusal(Class::Missing, format_args!("has none of {}", Words::FIGURES.names())));
    }
    Ok(row)
}

fn figure<'t>(found: Finding<'_, 't>) -> Result<Option<Decimal<'t>>, Refusal> {
    found?.map(number::read).transpose()
}

/// What was found, else what is around the element by one of the words.
fn or_around<'f, 't: 'f>(element: &'f Element<'_, 't>, found: Finding<'f, 't>, words: Words) -> Finding<'f, 't> {
    match (found?, element.around) {
        (None, Some(around)) => around.shared(words),
        (found, _) => Ok(found),
    }
}
