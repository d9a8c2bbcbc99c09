//! The profile `polygon`: the events of Polygon's streams, told apart by `ev`. They come in arrays.
//!
//! A trade has a price; of an aggregate it is the close, and its time the window's end. A quote has bids, not a price.

use super::element::Element;
use super::elements::Elements;
use super::fields::Fields;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{PriceParts, price_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::{Origin, PriceRow, Skip};

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Prices,
    signs: Words::only(Word::Event),
    // A relay's quote, with a price by a long name, can have kept it.
    recognizes: |element| {
        matches!(event(element), Some("T" | "A" | "AM" | "Q" | "status")) && !element.object.has_scalar(Words::PRICE)
    },
    reads: Reads::Itself(read),
    looks: r#"an "ev" of T, A, AM, Q or status, and with T or A "sym" and their short keys"#,
    keys: &["ev", "sym"],
};

fn event<'t>(element: &Element<'_, 't>) -> Option<&'t str> {
    element.object.text_of(Word::Event)
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    // Two kinds of event at once are none.
    if let Err(refusal) = element.object.sole_raw(element.path, Word::Event) {
        return elements.refuse(refusal);
    }
    let row = match event(element) {
        Some("Q") => return elements.skip(Skip::NotAPrice),
        Some("status") => return elements.skip(Skip::Status),
        Some("T") => price(element, ["sym", "p", "s", "t"], elements.origin()),
        _ => price(element, ["sym", "c", "v", "e"], elements.origin()),
    };
    elements.price(row);
}

fn price<'t>(element: &Element<'_, 't>, names: [&'static str; 4], origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let (path, fields) = (element.path, Fields::read(names, element.object.text()));
    let parts = PriceParts {
        symbol: fields.find_not_null(path, 0),
        price: fields.need(path, 1),
        volume: fields.find(path, 2),
        time: fields.find(path, 3),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    price_row(element, parts, origin)
}
