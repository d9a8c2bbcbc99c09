//! The profile `quote`: a flat object with a symbol and a price, maybe a volume and times, and any other fields.

use super::element::Element;
use super::elements::Elements;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{PriceParts, price_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::{Class, Origin, PriceRow};

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Prices,
    signs: Words::SYMBOL.with(Words::PRICE),
    // A window that has come to a topic of prices is none without a price.
    recognizes: |element| element.object.has_any(Words::PRICE) || !element.object.has_any(WINDOWED),
    reads: Reads::Itself(read),
    looks: r#"a "symbol" and a "price", maybe "volume", "timestamp" and "fetch_timestamp""#,
    keys: &["volume", "size", "quantity", "timestamp", "ts", "time", "datetime", "date", "fetch_timestamp"],
};

const WINDOWED: Words = Words::WINDOW.with(Words::only(Word::KsqlWindowStart)).with(Words::only(Word::KsqlWindowEnd));

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    elements.price(flat_row(element, Words::PRICE, elements.origin()));
}

/// A row whose price has one of the names `price`.
pub(super) fn flat_row<'t>(element: &Element<'_, 't>, price: Words, origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let parts = PriceParts {
        symbol: element.first_not_null(Words::SYMBOL),
        price: element.first(price).and_then(|found| found.ok_or_else(|| missing(element, price))),
        volume: element.first(Words::VOLUME),
        time: element.first(Words::TIME),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    price_row(element, parts, origin)
}

#[cold]
fn missing(element: &Element<'_, '_>, price: Words) -> Refusal {
    element.refusal(Class::Missing, format_args!("has no price by any of the names {}", price.names()))
}
