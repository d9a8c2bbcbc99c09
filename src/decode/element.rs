//! One object of a message as a profile sees it: with what is around it.

use super::number::is_missing;
use super::object::{Object, Scalar};
use super::path::Path;
use super::refusal::Refusal;
use super::settings::Settings;
use super::word::Words;
use crate::record::Record;
use crate::row::Class;
use std::fmt;

/// An object, and all that is known of it beside its text.
pub(super) struct Element<'e, 't> {
    /// The record it is in.
    pub record: &'e Record<'t>,
    /// How its topic is read.
    pub settings: &'e Settings,
    /// The object.
    pub object: &'e Object<'t>,
    /// Where it is in the record's value.
    pub path: &'e Path<'e>,
    /// The object around it, if that is an envelope: a field that is missing inside is taken from there.
    pub around: Option<&'e Element<'e, 't>>,
}

/// Bytes of a value, as it was sent, that more than one row is to hold. Each has a copy of its own, so that a long one in
/// a message of many rows would take as much memory as both multiplied.
pub(super) const SHARED_BYTES_MAX: usize = 256;

impl<'e, 't> Element<'e, 't> {
    /// The first of the words whose value is not missing, in the order of their list; inside before around.
    pub(super) fn first(&self, words: Words) -> Finding<'e, 't> {
        self.first_unless(words, is_missing, usize::MAX)
    }

    /// As [`first`](Element::first), where only null says that there is none.
    pub(super) fn first_not_null(&self, words: Words) -> Finding<'e, 't> {
        self.first_unless(words, |scalar| *scalar == Scalar::Null, usize::MAX)
    }

    /// As [`first`](Element::first), where null and nothing but spaces say that there is none.
    pub(super) fn first_not_empty(&self, words: Words) -> Finding<'e, 't> {
        let is_empty = |scalar: &Scalar<'_>| match scalar {
            Scalar::Text(text) => text.trim_ascii().is_empty(),
            other => *other == Scalar::Null,
        };
        self.first_unless(words, is_empty, usize::MAX)
    }

    /// As [`first`](Element::first), where many rows are to hold it.
    pub(super) fn shared(&self, words: Words) -> Finding<'e, 't> {
        self.first_unless(words, is_missing, SHARED_BYTES_MAX)
    }

    /// As [`first_not_null`](Element::first_not_null), where many rows are to hold it.
    pub(super) fn shared_not_null(&self, words: Words) -> Finding<'e, 't> {
        self.first_unless(words, |scalar| *scalar == Scalar::Null, SHARED_BYTES_MAX)
    }

    #[inline]
    fn first_unless(&self, words: Words, is_missing: fn(&Scalar<'_>) -> bool, bytes_max: usize) -> Finding<'e, 't> {
        match (self.object.first(self.path, words, is_missing, bytes_max)?, self.around) {
            (None, Some(around)) => around.first_unless(words, is_missing, SHARED_BYTES_MAX),
            (found, _) => Ok(found),
        }
    }

    /// Something is wrong with it.
    #[cold]
    pub(super) fn refusal(&self, class: Class, what: impl fmt::Display) -> Refusal {
        Refusal::at(self.path, class, what)
    }

    /// A field that it has to have is not there.
    #[cold]
    pub(super) fn missing(&self, field: &str) -> Refusal {
        Refusal::of_field(self.path, field, Class::Missing, "is missing")
    }
}

/// A key in an object of the message.
#[derive(Clone, Copy)]
pub(super) struct Place<'f> {
    /// The object.
    pub path: &'f Path<'f>,
    /// Its key, or the documented name of that.
    pub field: &'f str,
}

impl Place<'_> {
    /// Refuses a value that is too long.
    #[inline]
    pub(super) fn limit(self, json: &str, bytes_max: usize) -> Result<(), Refusal> {
        match json.len() <= bytes_max {
            true => Ok(()),
            false => {
                Err(self
                    .refusal(Class::TooLarge, format_args!("has more than {bytes_max} bytes, and is for many rows")))
            }
        }
    }

    /// Something is wrong with what is there.
    #[cold]
    pub(super) fn refusal(self, class: Class, what: impl fmt::Display) -> Refusal {
        Refusal::of_field(self.path, self.field, class, what)
    }
}

/// A value, and where it was found.
pub(super) struct Found<'f, 't> {
    /// Where.
    pub place: Place<'f>,
    /// The value.
    pub scalar: Scalar<'t>,
}

/// A value that may be missing, or be there in a way that is wrong by itself.
pub(super) type Finding<'f, 't> = Result<Option<Found<'f, 't>>, Refusal>;
