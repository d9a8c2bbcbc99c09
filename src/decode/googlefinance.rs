//! The profile `googlefinance`: what the Python package of that name returns, all of it strings.

use super::element::Element;
use super::elements::Elements;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{PriceParts, price_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::{Origin, PriceRow};

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Prices,
    signs: PRICE,
    // A quote can have it among its fields.
    recognizes: |element| !element.object.has_any(Words::PRICE),
    reads: Reads::Itself(read),
    looks: r#""StockSymbol", "LastTradePrice" and "LastTradeDateTime""#,
    keys: &["StockSymbol", "LastTradePrice", "LastTradeDateTime"],
};

const PRICE: Words = Words::only(Word::LastTradePrice);

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    elements.price(row(element, elements.origin()));
}

fn row<'t>(element: &Element<'_, 't>, origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let price = element.first(PRICE)?;
    let parts = PriceParts {
        // All values are strings; empty is missing.
        symbol: element.first_not_empty(Words::SYMBOL),
        price: price.ok_or_else(|| element.missing(Word::LastTradePrice.name())),
        volume: element.first(Words::VOLUME),
        time: element.first(Words::only(Word::LastTradeDateTime)),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    price_row(element, parts, origin)
}
