//! The profile `finnhub`: `{"type":"trade","data":[…]}`, whose trades have the keys s, p, v and t; a ping is a
//! heartbeat.

use super::element::Element;
use super::elements::Elements;
use super::fields::Fields;
use super::profile::{Inside, Profile, Reads};
use super::refusal::Refusal;
use super::rows::{PriceParts, price_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::Skip;

const SYMBOL_OR_PRICE: Words = Words::SYMBOL.with(Words::PRICE);
const NAMES: [&str; 4] = ["s", "p", "v", "t"];

/// A message of trades.
pub(super) const TRADES: Profile = Profile {
    target: Target::Prices,
    signs: Words::only(Word::Type),
    recognizes: |element| {
        let is_array = element.object.raw(Word::Data).is_some_and(|data| data.starts_with('['));
        is_array && is_trades(element) && !element.object.has_scalar(Words::PRICE)
    },
    reads: Reads::Inside(open),
    looks: r#"a "type" of trade, and "data": an array of objects with s, p, v and t"#,
    keys: &["type", "data"],
};

/// A ping.
pub(super) const PING: Profile = Profile {
    recognizes: |element| {
        let is_nested = |word| element.object.raw(word).is_some_and(|value| value.starts_with(['{', '[']));
        let has_more = || element.object.has_any(SYMBOL_OR_PRICE) || is_nested(Word::Data) || is_nested(Word::Payload);
        element.object.text_of(Word::Type) == Some("ping") && !has_more()
    },
    reads: Reads::Itself(|element, elements| match element.object.sole_raw(element.path, Word::Type) {
        Ok(_) => elements.skip(Skip::Heartbeat),
        Err(refusal) => elements.refuse(refusal),
    }),
    looks: r#"a "type" of ping"#,
    keys: &[],
    ..TRADES
};

/// One trade, which only its message shows to be one. Another producer's can have long names.
pub(super) const TRADE: Profile = Profile {
    signs: Words::NONE,
    recognizes: |element| {
        element.around.is_some_and(|around| is_trades(around)) && !element.object.has_any(SYMBOL_OR_PRICE)
    },
    reads: Reads::Itself(read),
    looks: r#"s, p, v and t in the "data" of a message whose "type" is trade"#,
    keys: &NAMES,
    ..TRADES
};

fn is_trades(element: &Element<'_, '_>) -> bool {
    element.object.text_of(Word::Type) == Some("trade")
}

fn open<'t>(element: &Element<'_, 't>) -> Result<Inside<'t>, Refusal> {
    element.object.sole_raw(element.path, Word::Type)?;
    let data = element.object.sole_raw(element.path, Word::Data)?;
    Ok(Inside::Value("data", data.unwrap_or("null")))
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    let (path, fields) = (element.path, Fields::read(NAMES, element.object.text()));
    let parts = PriceParts {
        symbol: fields.find_not_null(path, 0),
        price: fields.need(path, 1),
        volume: fields.find(path, 2),
        time: fields.find(path, 3),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    elements.price(price_row(element, parts, elements.origin()));
}
