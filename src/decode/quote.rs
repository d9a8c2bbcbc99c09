//! The profile `quote`: a flat object with a symbol and a price, maybe a volume and times, and any other fields.

use super::elements::Elements;
use super::object::Object;
use super::profile::{Context, Profile};
use super::refusal::Refusal;
use super::settings::{Format, Settings, Target};
use super::word::Words;
use super::{number, symbol, time};
use crate::row::{Class, Origin, PriceRow};
use std::cmp::Ordering;

/// The profile.
pub(super) const PROFILE: Profile = Profile { format: Format::Quote, target: Target::Prices, recognizes, read };

fn recognizes(object: &Object<'_>, _settings: &Settings) -> bool {
    object.has_any(Words::SYMBOL.with(Words::PRICE))
}

fn read<'t>(context: &Context<'_, 't>, object: &Object<'t>, elements: &mut Elements<'_, 't>) {
    let row = price_row(context, object, Words::PRICE, elements.origin());
    elements.price(context, row);
}

/// Reads a row whose price has one of the names `price`.
pub(super) fn price_row<'t>(
    context: &Context<'_, 't>,
    object: &Object<'t>,
    price: Words,
    origin: Origin,
) -> Result<PriceRow<'t>, Refusal> {
    let Context { record, settings, .. } = context;
    let symbol = symbol::resolve(object, record, settings)?;
    let (field, price) = number::first(object, price)?.ok_or_else(|| missing(price))?;
    if price.cmp_value(&settings.price_min) != Ordering::Greater {
        return Err(Refusal::at(field, Class::Range, format!("must be above {}", settings.price_min)));
    }
    let volume = match number::first(object, Words::VOLUME)? {
        Some((field, volume)) if volume.is_negative() => {
            return Err(Refusal::at(field, Class::Range, "must not be negative"));
        }
        volume => volume.map(|(_, volume)| volume),
    };
    let timestamp = time::event(object, record, settings)?;
    let fetch_timestamp = time::fetch(object, record, settings)?;
    Ok(PriceRow { origin, symbol, price, volume, timestamp, fetch_timestamp })
}

#[cold]
fn missing(price: Words) -> Refusal {
    Refusal::of_element(Class::Missing, format!("has no price by any of the names {}", price.names()))
}
