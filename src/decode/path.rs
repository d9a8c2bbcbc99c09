//! Where something is in a record's value, for a person.

use std::fmt::{self, Write};

/// Places of a path that are shown, at most: a reason is short, however deep its element is.
const PLACES_MAX: usize = 6;
/// Characters of a key that are shown, at most.
const KEY_CHARS_MAX: usize = 32;

/// Where an element is in the record's value.
pub(super) enum Path<'p> {
    /// It is the value.
    Root,
    /// In an array, at a place from 0.
    Item(&'p Path<'p>, usize),
    /// In a text of several documents, at a place from 1.
    Document(&'p Path<'p>, usize),
    /// In an object, by its key.
    Key(&'p Path<'p>, &'p str),
}

impl Path<'_> {
    fn write(&self, f: &mut fmt::Formatter<'_>, n_places: usize) -> fmt::Result {
        match self {
            Path::Root => f.write_str("$"),
            _ if n_places == 0 => f.write_str("$…"),
            Path::Item(array, item_idx) => {
                array.write(f, n_places - 1)?;
                write!(f, "[{item_idx}]")
            }
            Path::Document(Path::Root, number) => write!(f, "document {number} $"),
            Path::Document(text, number) => {
                text.write(f, n_places - 1)?;
                write!(f, " document {number} $")
            }
            Path::Key(object, key) => {
                object.write(f, n_places - 1)?;
                let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if key.len() <= KEY_CHARS_MAX && !key.is_empty() && key.chars().all(is_plain) {
                    write!(f, ".{key}")
                } else {
                    write!(f, "[\"{}\"]", Shown(key))
                }
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, PLACES_MAX)
    }
}

/// A key as it may go into logs and terminals: short, and without control characters.
pub(super) struct Shown<'k>(pub &'k str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(KEY_CHARS_MAX) {
            f.write_char(if c.is_control() { '\u{FFFD}' } else { c })?;
        }
        if self.0.chars().nth(KEY_CHARS_MAX).is_some() { f.write_char('…') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_names_are_quoted() {
        let series = Path::Key(&Path::Root, "Time Series (5min)");
        let entry = Path::Key(&series, "2024-01-02");
        assert_eq!(Path::Key(&entry, "close").to_string(), "$[\"Time Series (5min)\"][\"2024-01-02\"].close");
        assert_eq!(Path::Key(&Path::Root, "").to_string(), "$[\"\"]");
    }

    #[test]
    fn keys_are_short_and_harmless() {
        let long = "\u{1b}".repeat(40);
        assert_eq!(Path::Key(&Path::Root, &long).to_string(), format!("$[\"{}…\"]", "\u{FFFD}".repeat(32)));
    }
}
