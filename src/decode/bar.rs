//! The profile `bar`: open, high, low, close and volume of an interval, with a symbol. The price is the close.

use super::elements::Elements;
use super::object::Object;
use super::profile::{Context, Profile};
use super::quote::price_row;
use super::settings::{Format, Settings, Target};
use super::word::{Word, Words};

/// The profile.
pub(super) const PROFILE: Profile = Profile { format: Format::Bar, target: Target::Prices, recognizes, read };

const CLOSE: Words = Words::only(Word::Close);
const OPEN_TO_CLOSE: Words =
    Words::only(Word::Open).with(Words::only(Word::High)).with(Words::only(Word::Low)).with(CLOSE);

/// A quote can have the bar of its day beside the price; then that price counts, unless the topic is pinned to bars.
fn recognizes(object: &Object<'_>, settings: &Settings) -> bool {
    let has_other_price = object.has_any(Words::PRICE.without(CLOSE));
    object.has_all(OPEN_TO_CLOSE) && (settings.format == Format::Bar || !has_other_price)
}

fn read<'t>(context: &Context<'_, 't>, object: &Object<'t>, elements: &mut Elements<'_, 't>) {
    let row = price_row(context, object, CLOSE, elements.origin());
    elements.price(context, row);
}
