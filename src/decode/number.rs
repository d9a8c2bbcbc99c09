//! Reads numbers: prices, volumes and figures, from their text and never through a float.

use super::element::Found;
use super::object::Scalar;
use super::refusal::Refusal;
use crate::decimal::{Decimal, DecimalError};
use crate::row::Class;
use std::borrow::Cow;

/// Whether a value says that there is none.
pub(super) fn is_missing(scalar: &Scalar<'_>) -> bool {
    match scalar {
        Scalar::Null => true,
        Scalar::Text(text) => matches!(text.trim_ascii(), "" | "None" | "N/A" | "-"),
        _ => false,
    }
}

/// A number, or a string that holds one.
#[inline]
pub(super) fn read<'t>(Found { place, scalar }: Found<'_, 't>) -> Result<Decimal<'t>, Refusal> {
    let text = match scalar {
        Scalar::Number(text) => Cow::Borrowed(text),
        Scalar::Text(text) => text,
        Scalar::Null | Scalar::Boolean | Scalar::Nested => return Err(place.refusal(Class::Type, "is not a number")),
    };
    // A string that has been unescaped is the only one that can hold a NUL, and is owned.
    let has_nul = matches!(&text, Cow::Owned(text) if text.contains('\0'));
    Decimal::parse(text).map_err(|error| match error {
        DecimalError::NotANumber if has_nul => place.refusal(Class::Encoding, "contains NUL"),
        DecimalError::NotANumber => place.refusal(Class::Type, error),
        DecimalError::OutOfRange => place.refusal(Class::Range, error),
    })
}
