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
    recognizes: |element| matches!(event(element), Some("T" | "A" | "AM" | "Q" | "status")),
    reads: Reads::Itself(read),
    looks: r#"an "ev" of T, A, AM, Q or status, and with T or A "sym" and their short keys"#,
    keys: &["ev", "sym"],
};

fn event<'t>(element: &Element<'_, 't>) -> Option<&'t str> {
    element.object.text_of(Word::Event)
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    let row = match event(element) {
        Some("Q") => return elements.skip(Skip::NotAPrice),
        Some("status") => return elements.skip(Skip::Status),
        Some("T") => price(element, ["ev", "sym", "p", "s", "t"], elements.origin()),
        _ => price(element, ["ev", "sym", "c", "v", "e"], elements.origin()),
    };
    elements.price(row);
}

fn price<'t>(element: &Element<'_, 't>, names: [&'static str; 5], origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let (path, fields) = (element.path, Fields::read(names, element.object.text()));
    // Two kinds of event at once are none.
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
