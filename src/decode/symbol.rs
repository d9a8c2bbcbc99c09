//! Finds an element's symbol, in its value, in the record's key or in the topic's settings, and checks it.

use super::element::{Element, Finding, Found, Place};
use super::object::Scalar;
use super::refusal::Refusal;
use super::settings::SymbolSource;
use super::word::Words;
use crate::row::Class;
use std::borrow::Cow;

/// Bytes of a symbol, at most.
const SYMBOL_BYTES_MAX: usize = 64;
/// Bytes of a key that is plausible as a symbol, at most.
const PLAUSIBLE_BYTES_MAX: usize = 32;
/// Bytes of a key, with the spaces around it, that is read as a symbol, at most: each element of a record looks at it.
const KEY_BYTES_MAX: usize = 1024;
/// How a symbol is named in reasons if it isn't in the value.
const FIELD: &str = "symbol";

/// The symbol of an element: as the settings say, or the one that its profile has found, or around it, or the key.
#[inline]
pub(super) fn resolve<'t>(element: &Element<'_, 't>, found: Finding<'_, 't>) -> Result<Cow<'t, str>, Refusal> {
    let Element { record, settings, .. } = element;
    let here = Place { path: element.path, field: FIELD };
    match &settings.symbol {
        SymbolSource::Auto => {
            let found = match (found?, element.around) {
                (None, Some(around)) => around.shared_not_null(Words::SYMBOL)?,
                (found, _) => found,
            };
            match (found, record.key.filter(|key| is_plausible(key)).map(std::str::from_utf8)) {
                (Some(found), _) => of_value(found),
                (None, Some(Ok(key))) => Ok(Cow::Borrowed(key)),
                _ => Err(here.refusal(Class::Missing, "is missing, and the record's key is no plausible symbol")),
            }
        }
        SymbolSource::Key if record.key.is_some_and(|key| key.len() > KEY_BYTES_MAX) => {
            Err(here.refusal(Class::Symbol, "the record's key is too long for a symbol"))
        }
        SymbolSource::Key => match record.key.map(std::str::from_utf8) {
            None | Some(Ok("")) => Err(here.refusal(Class::Missing, "the record has no key")),
            Some(Err(_)) => Err(here.refusal(Class::Encoding, "the record's key is not UTF-8")),
            Some(Ok(key)) => checked(here, Cow::Borrowed(key)),
        },
        SymbolSource::Topic => checked(here, Cow::Borrowed(record.topic)),
        // Checked when the settings were read.
        SymbolSource::Constant(symbol) => Ok(Cow::Owned(symbol.clone())),
    }
}

fn of_value<'t>(Found { place, scalar }: Found<'_, 't>) -> Result<Cow<'t, str>, Refusal> {
    match scalar {
        Scalar::Text(text) => checked(place, text),
        _ => Err(place.refusal(Class::Type, "is not a string")),
    }
}

/// What is wrong with a trimmed symbol, if anything is.
pub(super) fn problem(symbol: &str) -> Option<(Class, &'static str)> {
    if symbol.is_empty() {
        return Some((Class::Symbol, "is empty"));
    }
    if symbol.len() > SYMBOL_BYTES_MAX {
        return Some((Class::Symbol, "has more than 64 bytes"));
    }
    if symbol.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return None;
    }
    if symbol.contains('\0') {
        return Some((Class::Encoding, "contains NUL"));
    }
    symbol.chars().any(char::is_control).then_some((Class::Symbol, "has control characters"))
}

fn checked<'t>(place: Place<'_>, text: Cow<'t, str>) -> Result<Cow<'t, str>, Refusal> {
    let symbol = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    };
    match problem(&symbol) {
        None => Ok(symbol),
        Some((class, what)) => Err(place.refusal(class, what)),
    }
}

/// Whether a record's key looks like a symbol: `[A-Za-z0-9^][A-Za-z0-9.:^=/_-]{0,31}`.
fn is_plausible(key: &[u8]) -> bool {
    let Some((first, rest)) = key.split_first() else { return false };
    key.len() <= PLAUSIBLE_BYTES_MAX
        && (first.is_ascii_alphanumeric() || *first == b'^')
        && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b".:^=/_-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_plausible_if_it_looks_like_a_symbol() {
        let longest = "A".repeat(32);
        for key in ["AAPL", "^GSPC", "BRK.B", "BINANCE:BTC/USDT", "EURUSD=X", "0700", "a_b-c", &longest] {
            assert!(is_plausible(key.as_bytes()), "{key}");
        }
        let too_long = "A".repeat(33);
        for key in ["", ".A", "A B", "\"AAPL\"", "{\"symbol\":\"A\"}", "Ä", "A\n", &too_long] {
            assert!(!is_plausible(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn symbols_have_no_control_characters() {
        assert_eq!(problem("BRK.B"), None);
        assert_eq!(problem("株式"), None);
        assert_eq!(problem("A\tB"), Some((Class::Symbol, "has control characters")));
        assert_eq!(problem("A\u{85}B"), Some((Class::Symbol, "has control characters")));
        assert_eq!(problem("A\u{7f}"), Some((Class::Symbol, "has control characters")));
        assert_eq!(problem("A\0"), Some((Class::Encoding, "contains NUL")));
    }

    #[test]
    fn symbols_have_at_most_64_bytes() {
        assert_eq!(problem(&"é".repeat(32)), None);
        assert_eq!(problem(&"é".repeat(33)), Some((Class::Symbol, "has more than 64 bytes")));
        assert_eq!(problem(""), Some((Class::Symbol, "is empty")));
    }
}
