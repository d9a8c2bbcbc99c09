//! Why an element becomes no row, before it is known where the element is.

use crate::row::Class;
use std::borrow::Cow;

/// Why an element becomes no row.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    /// The kind of reason.
    pub class: Class,
    /// The field it is about, if it is about one.
    pub field: Option<&'static str>,
    /// What is wrong, never with a value.
    pub what: Cow<'static, str>,
}

impl Refusal {
    /// Something is wrong with a field.
    #[cold]
    pub(super) fn at(field: &'static str, class: Class, what: impl Into<Cow<'static, str>>) -> Self {
        Refusal { class, field: Some(field), what: what.into() }
    }

    /// Something is wrong with the element.
    #[cold]
    pub(super) fn of_element(class: Class, what: impl Into<Cow<'static, str>>) -> Self {
        Refusal { class, field: None, what: what.into() }
    }
}
