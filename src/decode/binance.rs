//! The profile `binance`: the events of Binance's streams, told apart by `e`, bare or in `{"stream":…,"data":…}`.
//!
//! Of a ticker the price is the last one and the volume that of its 24 hours; of a kline they are its close, its volume
//! and its close time.

use super::element::Element;
use super::elements::Elements;
use super::fields::Fields;
use super::path::Path;
use super::profile::{Inside, Profile, Reads};
use super::refusal::Refusal;
use super::rows::{PriceParts, price_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::{Origin, PriceRow};

/// A bare event.
pub(super) const EVENT: Profile = Profile {
    target: Target::Prices,
    signs: Words::only(Word::BinanceEvent),
    // A quote can have such a field, too.
    recognizes: |element| {
        element.object.text_of(Word::BinanceEvent).is_some_and(is_event) && !element.object.has_scalar(Words::PRICE)
    },
    reads: Reads::Itself(read),
    looks: r#"an "e" of trade, aggTrade, 24hrTicker or kline, with "s" and the short keys of that event"#,
    keys: &["e", "E", "s", "k"],
};

/// An event of a combined stream.
pub(super) const STREAM: Profile = Profile {
    signs: Words::only(Word::Stream),
    // Whether it is one of ours is seen when it is opened; this is enough to tell it from other envelopes.
    recognizes: |element| {
        let holds_event = |data: &str| data.starts_with(['{', '[']) && data.contains("\"e\"");
        element.object.raw(Word::Data).is_some_and(holds_event) && !element.object.has_scalar(Words::PRICE)
    },
    reads: Reads::Inside(open),
    looks: r#"a "stream" and the "data" of its event or events"#,
    keys: &["stream", "data"],
    ..EVENT
};

fn is_event(name: &str) -> bool {
    matches!(name, "trade" | "aggTrade" | "24hrTicker" | "24hrMiniTicker" | "kline")
}

fn open<'t>(element: &Element<'_, 't>) -> Result<Inside<'t>, Refusal> {
    let data = element.object.sole_raw(element.path, Word::Data)?;
    Ok(Inside::Value("data", data.unwrap_or("null")))
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    let row = match element.object.text_of(Word::BinanceEvent) {
        Some("kline") => kline(element, elements.origin()),
        Some("trade" | "aggTrade") => event(element, ["e", "s", "p", "q", "T"], elements.origin()),
        _ => event(element, ["e", "s", "c", "v", "E"], elements.origin()),
    };
    elements.price(row);
}

fn event<'t>(element: &Element<'_, 't>, names: [&'static str; 5], origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let (path, fields) = (element.path, Fields::read(names, element.object.text()));
    fields.need(path, 0)?;
    let parts = PriceParts {
        symbol: fields.find_not_null(path, 1),
        price: fields.need(path, 2),
        volume: fields.find(path, 3),
        time: fields.find(path, 4),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    price_row(element, parts, origin)
}

fn kline<'t>(element: &Element<'_, 't>, origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let outer = Fields::read(["e", "s", "k"], element.object.text());
    outer.need(element.path, 0)?;
    let (place, inner) = outer.object(element.path, 2)?.ok_or_else(|| element.missing("k"))?;
    let (path, fields) = (Path::Key(element.path, place.field), Fields::read(["c", "v", "T", "s"], inner));
    let symbol = match outer.find_not_null(element.path, 1)? {
        None => fields.find_not_null(&path, 3),
        found => Ok(found),
    };
    let parts = PriceParts {
        symbol,
        price: fields.need(&path, 0),
        volume: fields.find(&path, 1),
        time: fields.find(&path, 2),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    price_row(element, parts, origin)
}
