//! Why an element becomes no row.

use super::path::Path;
use crate::row::Class;
use std::fmt;

/// Why an element becomes no row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    /// The kind of reason.
    pub class: Class,
    /// Where and what, never with a value.
    pub reason: String,
}

impl Refusal {
    /// Something is wrong with what is at a place.
    #[cold]
    pub(super) fn at(path: &Path<'_>, class: Class, what: impl fmt::Display) -> Self {
        Refusal { class, reason: format!("{path}: {what}") }
    }

    /// Something is wrong with a field of the object at a place, or with its absence.
    #[cold]
    pub(super) fn of_field(path: &Path<'_>, field: &str, class: Class, what: impl fmt::Display) -> Self {
        Refusal::at(&Path::Key(path, field), class, what)
    }
}
