//! The keys that a vendor has for himself, read where one of his objects was recognized.
//!
//! Short keys collide between vendors: `s` is a symbol, a size or a start. So they are no words that count everywhere;
//! each profile names the few it reads. The object is read a second time for them.

use super::element::{Finding, Found, Place, SHARED_BYTES_MAX};
use super::key::Key;
use super::number::is_missing;
use super::object::Scalar;
use super::path::Path;
use super::refusal::Refusal;
use crate::row::Class;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The values of N keys of one object.
pub(super) struct Fields<'t, const N: usize> {
    names: [&'static str; N],
    values: [Option<(&'t str, &'t str)>; N],
    is_repeated: [bool; N],
}

impl<'t, const N: usize> Fields<'t, N> {
    /// The keys with exactly these names. What `json` is was checked before: an object.
    pub(super) fn read(names: [&'static str; N], json: &'t str) -> Self {
        Fields::read_by(names, json, |key| names.iter().position(|name| *name == key))
    }

    /// The keys that `place_of` finds a place for among the names.
    pub(super) fn read_by(names: [&'static str; N], json: &'t str, place_of: impl Fn(&str) -> Option<usize>) -> Self {
        let mut fields = Fields { names, values: [None; N], is_repeated: [false; N] };
        // It has been read before, so it is a JSON object.
        let _ = serde_json::Deserializer::from_str(json).deserialize_map(Filling { fields: &mut fields, place_of });
        fields
    }

    /// The key that was found for a name, else the name.
    pub(super) fn key(&self, place: usize) -> &'t str {
        self.values[place].map_or(self.names[place], |(key, _)| key)
    }

    /// Whether any of the keys is there.
    pub(super) fn has_any(&self) -> bool {
        self.values.iter().any(Option::is_some)
    }

    /// A value that is not missing.
    pub(super) fn find<'f>(&self, path: &'f Path<'f>, place: usize) -> Finding<'f, 't>
    where
        't: 'f,
    {
        self.find_unless(path, place, is_missing, usize::MAX)
    }

    /// A value that is not null.
    pub(super) fn find_not_null<'f>(&self, path: &'f Path<'f>, place: usize) -> Finding<'f, 't>
    where
        't: 'f,
    {
        self.find_unless(path, place, |scalar| *scalar == Scalar::Null, usize::MAX)
    }

    /// As [`find_not_null`](Fields::find_not_null), where many rows are to hold it.
    pub(super) fn shared_not_null<'f>(&self, path: &'f Path<'f>, place: usize) -> Finding<'f, 't>
    where
        't: 'f,
    {
        self.find_unless(path, place, |scalar| *scalar == Scalar::Null, SHARED_BYTES_MAX)
    }

    fn find_unless<'f>(
        &self,
        path: &'f Path<'f>,
        place: usize,
        is_missing: fn(&Scalar<'_>) -> bool,
        bytes_max: usize,
    ) -> Finding<'f, 't>
    where
        't: 'f,
    {
        let Some((place, value)) = self.sole(path, place)? else { return Ok(None) };
        place.limit(value, bytes_max)?;
        let scalar = Scalar::of(value).map_err(|what| place.refusal(Class::Encoding, what))?;
        Ok((!is_missing(&scalar)).then_some(Found { place, scalar }))
    }

    /// The text of a value, wherever it is there once.
    fn sole<'f>(&self, path: &'f Path<'f>, place: usize) -> Result<Option<(Place<'f>, &'t str)>, Refusal>
    where
        't: 'f,
    {
        let Some((field, value)) = self.values[place] else { return Ok(None) };
        let place = match self.is_repeated[place] {
            true => return Err(Refusal::of_field(path, field, Class::Ambiguous, "is there more than once")),
            false => Place { path, field },
        };
        Ok(Some((place, value)))
    }

    /// A value that must be there.
    pub(super) fn need<'f>(&self, path: &'f Path<'f>, place: usize) -> Result<Found<'f, 't>, Refusal>
    where
        't: 'f,
    {
        self.find(path, place)?.ok_or_else(|| Refusal::of_field(path, self.names[place], Class::Missing, "is missing"))
    }

    /// The object at a key, as text; `None` if there is nothing.
    pub(super) fn object<'f>(&self, path: &'f Path<'f>, place: usize) -> Result<Option<(Place<'f>, &'t str)>, Refusal>
    where
        't: 'f,
    {
        match self.sole(path, place)? {
            None | Some((_, "null")) => Ok(None),
            Some((place, value)) if !value.starts_with('{') => Err(place.refusal(Class::Type, "is no object")),
            found => Ok(found),
        }
    }
}

struct Filling<'o, 't, P, const N: usize> {
    fields: &'o mut Fields<'t, N>,
    place_of: P,
}

impl<'t, P: Fn(&str) -> Option<usize>, const N: usize> Visitor<'t> for Filling<'_, 't, P, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        let Filling { fields, place_of } = self;
        while let Some(Key(key)) = map.next_key()? {
            let Some(place) = place_of(&key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&'t RawValue>()?.get();
            if fields.values[place].is_some() {
                fields.is_repeated[place] = true;
            } else {
                let key = match key {
                    Cow::Borrowed(key) => key,
                    // With escapes in it: shown by its name.
                    Cow::Owned(_) => fields.names[place],
                };
                fields.values[place] = Some((key, value));
            }
        }
        Ok(())
    }
}
