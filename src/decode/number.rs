//! Reads the numbers of an object: prices, volumes and figures, from their text and never through a float.

use super::object::{Found, Object, Scalar};
use super::refusal::Refusal;
use super::word::Words;
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

/// The number of the first of the words that has one, with the word's name.
pub(super) fn first<'t>(object: &Object<'t>, words: Words) -> Result<Option<(&'static str, Decimal<'t>)>, Refusal> {
    let Some(Found { field, scalar }) = object.first(words, is_missing)? else { return Ok(None) };
    let text = match scalar {
        Scalar::Number(text) => Cow::Borrowed(text),
        Scalar::Text(text) => text,
        Scalar::Null | Scalar::Boolean | Scalar::Nested => {
            return Err(Refusal::at(field, Class::Type, "is not a number"));
        }
    };
    // A string that has been unescaped is the only one that can hold a NUL, and is owned.
    let has_nul = matches!(&text, Cow::Owned(text) if text.contains('\0'));
    match Decimal::parse(text) {
        Ok(number) => Ok(Some((field, number))),
        Err(DecimalError::NotANumber) if has_nul => Err(Refusal::at(field, Class::Encoding, "contains NUL")),
        Err(DecimalError::NotANumber) => Err(Refusal::at(field, Class::Type, "is not a decimal number")),
        Err(error @ DecimalError::OutOfRange) => Err(Refusal::at(field, Class::Range, error.to_string())),
    }
}
