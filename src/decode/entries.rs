//! All entries of an object whose keys are data: the times of a series, the labels of a column.

use super::key::Key;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map;
use std::fmt;

/// One entry.
pub(super) struct Entry<'t> {
    /// Its key, unescaped.
    pub key: Cow<'t, str>,
    /// Its value as it was sent; the first if the key is there several times.
    pub value: &'t str,
    /// Whether the key is there several times.
    pub is_repeated: bool,
}

/// The entries of one object, each key once, in the order of their first appearance.
#[derive(Default)]
pub(super) struct Entries<'t> {
    in_order: Vec<Entry<'t>>,
    by_key: HashMap<Cow<'t, str>, usize>,
}

impl<'t> Entries<'t> {
    /// Reads an object, which `json` is known to be.
    pub(super) fn read(json: &'t str) -> Self {
        let mut entries = Entries::default();
        let _ = serde_json::Deserializer::from_str(json).deserialize_map(&mut entries);
        entries
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<'t>> {
        self.in_order.iter()
    }

    /// The entry of a key. `guess` is where it is if the entries of two objects go together.
    pub(super) fn get(&self, key: &str, guess: usize) -> Option<&Entry<'t>> {
        match self.in_order.get(guess) {
            Some(entry) if entry.key == key => Some(entry),
            _ => self.by_key.get(key).map(|idx| &self.in_order[*idx]),
        }
    }
}

impl<'t> Visitor<'t> for &mut Entries<'t> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value::<&'t RawValue>()?.get();
            match self.by_key.entry(key.clone()) {
                hash_map::Entry::Occupied(known) => self.in_order[*known.get()].is_repeated = true,
                hash_map::Entry::Vacant(new) => {
                    new.insert(self.in_order.len());
                    self.in_order.push(Entry { key, value, is_repeated: false });
                }
            }
        }
        Ok(())
    }
}
