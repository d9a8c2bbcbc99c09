//! The profile `bar`: open, high, low, close and volume of an interval, with a symbol. The price is the close.

use super::element::Element;
use super::elements::Elements;
use super::profile::{Profile, Reads};
use super::quote::flat_row;
use super::settings::{Format, Target};
use super::word::{Word, Words};

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Prices,
    signs: CLOSE,
    recognizes,
    reads: Reads::Itself(read),
    looks: r#""open", "high", "low" and "close", maybe "symbol", "volume" and "timestamp""#,
    keys: &["open", "high", "low", "close"],
};

const CLOSE: Words = Words::only(Word::Close);
const OPEN_TO_CLOSE: Words =
    Words::only(Word::Open).with(Words::only(Word::High)).with(Words::only(Word::Low)).with(CLOSE);

/// A quote can have the bar of its day beside the price; then that price counts, unless the topic is pinned to bars.
fn recognizes(element: &Element<'_, '_>) -> bool {
    let has_other_price = element.object.has_any(Words::PRICE.without(CLOSE));
    element.object.has_all(OPEN_TO_CLOSE) && (element.settings.format == Format::Bar || !has_other_price)
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    elements.price(flat_row(element, CLOSE, elements.origin()));
}
