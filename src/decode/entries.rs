//! All entries of an object whose keys are data: the times of a series, the labels of a column.

use super::key::Key;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cmp::Ordering;
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
pub(super) struct Entries<'t> {
    in_order: Vec<Entry<'t>>,
    // Which way each key differs from the one before it, as times do; `Equal` while there are fewer than two.
    direction: Ordering,
    // All keys, once one has come that goes another way. Until then none can be there twice.
    by_key: Option<HashMap<Cow<'t, str>, usize>>,
}

impl<'t> Entries<'t> {
    /// Reads an object, which `json` is known to be.
    pub(super) fn read(json: &'t str) -> Self {
        let mut entries = Entries { in_order: Vec::new(), direction: Ordering::Equal, by_key: None };
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
            _ => self.place(key).map(|idx| &self.in_order[idx]),
        }
    }

    fn place(&self, key: &str) -> Option<usize> {
        match (&self.by_key, self.direction) {
            (Some(by_key), _) => by_key.get(key).copied(),
            (None, Ordering::Greater) => self.in_order.binary_search_by(|entry| key.cmp(&entry.key)).ok(),
            (None, _) => self.in_order.binary_search_by(|entry| (*entry.key).cmp(key)).ok(),
        }
    }

    /// Whether the key goes on in the direction of those before it.
    fn goes_on(&mut self, key: &str) -> bool {
        let Some(last) = self.in_order.last() else { return true };
        let step = (*last.key).cmp(key);
        if self.direction == Ordering::Equal {
            self.direction = step;
        }
        step == self.direction && step != Ordering::Equal
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
            if self.by_key.is_none() && self.goes_on(&key) {
                self.in_order.push(Entry { key, value, is_repeated: false });
                continue;
            }
            let by_key = self.by_key.get_or_insert_with(|| {
                self.in_order.iter().enumerate().map(|(idx, entry)| (entry.key.clone(), idx)).collect()
            });
            match by_key.entry(key.clone()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of one digit, each with its place as value.
    fn entries(keys: &str) -> String {
        let entries: Vec<_> = keys.chars().enumerate().map(|(place, key)| format!("\"{key}\": {place}")).collect();
        format!("{{{}}}", entries.join(","))
    }

    #[test]
    fn every_key_is_found_whatever_the_order_of_the_keys() {
        for keys in ["", "5", "55", "13579", "97531", "15973", "13579531", "97531159", "11357", "99751", "5511"] {
            let json = entries(keys);
            let found = Entries::read(&json);
            let firsts: Vec<char> =
                keys.char_indices().filter(|(at, key)| keys.find(*key) == Some(*at)).map(|(_, key)| key).collect();
            assert_eq!(found.iter().map(|entry| &*entry.key).collect::<String>(), String::from_iter(&firsts), "{keys}");
            for key in firsts {
                let entry = found.get(&key.to_string(), usize::MAX).unwrap_or_else(|| panic!("{key} of {keys}"));
                assert_eq!(*entry.key, key.to_string());
                assert_eq!(entry.value, keys.find(key).expect("it is one of them").to_string());
                assert_eq!(entry.is_repeated, keys.matches(key).count() > 1, "{key} of {keys}");
            }
            for key in ["0", "2", "6", "x", ""] {
                assert!(found.get(key, usize::MAX).is_none() && found.get(key, 0).is_none(), "{key:?} of {keys}");
            }
        }
    }
}
