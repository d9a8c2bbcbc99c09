//! Reads a JSON object once and keeps the values of the words in it.
//!
//! Values stay text until a profile asks for them; all others are only checked to be JSON. What is rare, a word that is
//! there twice or a shape nobody knows, reads the object's text again.

use super::element::{Finding, Found, Place};
use super::key::Key;
use super::number::is_missing;
use super::path::{Path, Shown};
use super::refusal::Refusal;
use super::syntax::Broken;
use super::word::{N_WORDS, Word, Words};
use crate::row::Class;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Names listed for an unknown shape, at most.
const NAMES_MAX: usize = 16;

/// One JSON object.
pub(super) struct Object<'t> {
    // The whole object.
    text: &'t str,
    // By place in the list of words; only those of `seen` are from this object.
    values: [&'t str; N_WORDS],
    seen: Words,
    // Those that are there more than once; the next two are of these.
    repeated: Words,
    // By the very same key.
    twice: Words,
    // In several spellings whose values disagree.
    contested: Words,
    is_empty: bool,
}

impl<'t> Object<'t> {
    /// To be filled by [`read`](Object::read), as often as there are objects.
    pub(super) fn new() -> Self {
        let (seen, repeated, twice, contested) = (Words::NONE, Words::NONE, Words::NONE, Words::NONE);
        Object { text: "", values: [""; N_WORDS], seen, repeated, twice, contested, is_empty: true }
    }

    /// Reads the object that `text` begins with, and gives the number of its bytes.
    pub(super) fn read(&mut self, text: &'t str) -> Result<usize, Broken> {
        (self.seen, self.repeated, self.is_empty) = (Words::NONE, Words::NONE, true);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let filling = Filling { object: self, takes_any_key: false };
        if let Err(error) = filling.deserialize(&mut deserializer) {
            // Half of a surrogate pair in a key is no reason to refuse an object.
            (self.seen, self.repeated, self.is_empty) = (Words::NONE, Words::NONE, true);
            deserializer = serde_json::Deserializer::from_str(text);
            let filling = Filling { object: self, takes_any_key: true };
            filling.deserialize(&mut deserializer).map_err(|_| Broken::new(&error, text))?;
        }
        // The only way to ask serde_json for its position.
        let end = deserializer.into_iter::<IgnoredAny>().byte_offset();
        self.text = &text[..end];
        (self.twice, self.contested) = (Words::NONE, Words::NONE);
        if !self.repeated.is_empty() {
            self.settle();
        }
        Ok(end)
    }

    /// The object as it was sent.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// Whether it has no keys at all.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Whether any of the words is a key of it.
    pub(super) fn has_any(&self, words: Words) -> bool {
        !self.seen.and(words).is_empty()
    }

    /// Whether each of the words is a key of it.
    pub(super) fn has_all(&self, words: Words) -> bool {
        self.seen.and(words) == words
    }

    /// Whether any of the words has a value that is neither null nor nested.
    pub(super) fn has_scalar(&self, words: Words) -> bool {
        self.seen.and(words).places().any(|idx| !matches!(self.values[idx].as_bytes(), [b'{' | b'[' | b'n', ..]))
    }

    /// The words whose value is an object, in the order of their list.
    pub(super) fn nested(&self, words: Words) -> impl Iterator<Item = Word> {
        let places = self.seen.and(words).places();
        places.filter(|idx| self.values[*idx].starts_with('{')).map(Word::at)
    }

    /// The value of a word as it was sent; if there are several, the first that is not missing.
    pub(super) fn raw(&self, word: Word) -> Option<&'t str> {
        self.has_any(Words::only(word)).then(|| self.values[word.idx()])
    }

    /// The text of a word whose value is a string without escapes; of several as [`raw`](Object::raw).
    pub(super) fn text_of(&self, word: Word) -> Option<&'t str> {
        self.raw(word)?.strip_prefix('"')?.strip_suffix('"')
    }

    /// The value of a word as it was sent, if there is just one.
    pub(super) fn sole_raw(&self, path: &Path<'_>, word: Word) -> Result<Option<&'t str>, Refusal> {
        self.check_sole(Place { path, field: word.name() }, word.idx())?;
        Ok(self.raw(word))
    }

    fn check_sole(&self, place: Place<'_>, idx: usize) -> Result<(), Refusal> {
        if self.twice.has(idx) {
            return Err(place.refusal(Class::Ambiguous, "the key is there more than once"));
        }
        if self.contested.has(idx) {
            return Err(place.refusal(Class::Ambiguous, "is there in several spellings that disagree"));
        }
        Ok(())
    }

    /// The first of the words whose value is not missing, in the order of their list. It may have so many bytes.
    #[inline]
    pub(super) fn first<'f>(
        &self,
        path: &'f Path<'f>,
        words: Words,
        is_missing: fn(&Scalar<'_>) -> bool,
        bytes_max: usize,
    ) -> Finding<'f, 't> {
        for idx in self.seen.and(words).places() {
            let place = Place { path, field: super::word::name(idx) };
            self.check_sole(place, idx)?;
            place.limit(self.values[idx], bytes_max)?;
            let scalar = Scalar::of(self.values[idx]).map_err(|what| place.refusal(Class::Encoding, what))?;
            if !is_missing(&scalar) {
                return Ok(Some(Found { place, scalar }));
            }
        }
        Ok(None)
    }

    /// For each list of names, how many of its keys are in it, without regard to case and underscores in long names.
    pub(super) fn n_keys_among(&self, lists: &[&[&str]]) -> Vec<usize> {
        let mut counting = Counting { lists, n_keys: vec![0; lists.len()] };
        // It has been read before, so it is a JSON object.
        let _ = serde_json::Deserializer::from_str(self.text).deserialize_map(&mut counting);
        counting.n_keys
    }

    /// The names of its keys, for a person.
    pub(super) fn names(&self) -> String {
        let mut names = Names { listed: String::new(), n_keys: 0 };
        // It has been read before, so it is a JSON object.
        let _ = serde_json::Deserializer::from_str(self.text).deserialize_map(&mut names);
        let Names { mut listed, n_keys } = names;
        if n_keys > NAMES_MAX {
            listed += &format!(" and {} more", n_keys - NAMES_MAX);
        }
        listed
    }

    /// Finds out about the words that are there more than once: by the very same key, or by keys that differ in case or
    /// underscores only, whose values may agree but for those that are missing. Once for all who ask: an envelope is
    /// asked by each of its elements.
    #[cold]
    fn settle(&mut self) {
        let mut entries = Entries { of: self.repeated, found: Vec::new() };
        // It has been read before, so it is a JSON object.
        let _ = serde_json::Deserializer::from_str(self.text).deserialize_map(&mut entries);
        let mut found = entries.found;
        // Stable: of one word and key the first stays in front.
        found.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        for of_word in found.chunk_by(|one, other| one.0 == other.0) {
            let idx = of_word[0].0;
            if of_word.windows(2).any(|pair| pair[0].1 == pair[1].1) {
                self.twice = self.twice.with(Words::only(Word::at(idx)));
                continue;
            }
            let mut values = of_word.iter().map(|(_, _, value)| *value).filter(|value| !says_nothing(value));
            if let Some(first) = values.next() {
                self.values[idx] = first;
                if values.any(|value| value != first) {
                    self.contested = self.contested.with(Words::only(Word::at(idx)));
                }
            }
        }
    }
}

/// Whether a value is missing, as far as it can be read.
fn says_nothing(json: &str) -> bool {
    Scalar::of(json).is_ok_and(|scalar| is_missing(&scalar))
}

/// A JSON value that is not looked into.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar<'t> {
    /// `null`
    Null,
    /// A number's text.
    Number(&'t str),
    /// A string, unescaped; spaces around it are still there.
    Text(Cow<'t, str>),
    /// `true` or `false`
    Boolean,
    /// An object or an array.
    Nested,
}

impl<'t> Scalar<'t> {
    /// The value of a piece of JSON.
    pub(super) fn of(json: &'t str) -> Result<Scalar<'t>, &'static str> {
        match json.as_bytes() {
            [b'"', .., b'"'] => unescaped(json).map(Scalar::Text),
            [b'-' | b'0'..=b'9', ..] => Ok(Scalar::Number(json)),
            [b'n', ..] => Ok(Scalar::Null),
            [b't' | b'f', ..] => Ok(Scalar::Boolean),
            _ => Ok(Scalar::Nested),
        }
    }
}

/// What is in a JSON string; borrowed if nothing in it is escaped. It has been read before, so that the only possible
/// mistake is half of a surrogate pair.
pub(super) fn unescaped(json: &str) -> Result<Cow<'_, str>, &'static str> {
    if json.as_bytes().contains(&b'\\') {
        serde_json::from_str::<String>(json).map(Cow::Owned).map_err(|_| "has an escape that is no character")
    } else {
        Ok(Cow::Borrowed(&json[1..json.len() - 1]))
    }
}

/// Fills an object.
struct Filling<'o, 't> {
    object: &'o mut Object<'t>,
    // Slower.
    takes_any_key: bool,
}

impl<'t> DeserializeSeed<'t> for Filling<'_, 't> {
    type Value = ();

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'t> Visitor<'t> for Filling<'_, 't> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        let Filling { object, takes_any_key } = self;
        let next_word = |map: &mut A| match takes_any_key {
            false => Ok(map.next_key::<FastKey>()?.map(|FastKey(word)| word)),
            true => match map.next_key::<Key<'t>>()? {
                // Read as bytes, it was not looked at for these.
                Some(Key(key)) if key.contains(|c: char| c < ' ') => Err(A::Error::custom("control character")),
                key => Ok(key.map(|Key(key)| Word::of(&key))),
            },
        };
        while let Some(word) = next_word(&mut map)? {
            object.is_empty = false;
            let Some(word) = word else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&'t RawValue>()?.get();
            let only = Words::only(word);
            if object.has_any(only) {
                object.repeated = object.repeated.with(only);
            } else {
                object.seen = object.seen.with(only);
                object.values[word.idx()] = value;
            }
        }
        Ok(())
    }
}

/// A key, looked up before anything of it is kept.
struct FastKey(Option<Word>);

impl<'t> Deserialize<'t> for FastKey {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FastKey(None))
    }
}

impl Visitor<'_> for FastKey {
    type Value = FastKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<FastKey, E> {
        Ok(FastKey(Word::of(key)))
    }
}

/// Collects all keys and values of some words, with each word's place in the list.
struct Entries<'t> {
    of: Words,
    found: Vec<(usize, Cow<'t, str>, &'t str)>,
}

impl<'t> Visitor<'t> for &mut Entries<'t> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value::<&'t RawValue>()?.get();
            if let Some(word) = Word::of(&key).filter(|word| self.of.has(word.idx())) {
                self.found.push((word.idx(), key, value));
            }
        }
        Ok(())
    }
}

/// Lists the first few keys.
struct Names {
    listed: String,
    n_keys: usize,
}

impl<'t> Visitor<'t> for &mut Names {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            map.next_value::<IgnoredAny>()?;
            self.n_keys += 1;
            if self.n_keys > NAMES_MAX {
                continue;
            }
            if self.n_keys > 1 {
                self.listed.push_str(", ");
            }
            self.listed += &Shown(&key).to_string();
        }
        Ok(())
    }
}

/// Counts keys that are among some names.
struct Counting<'n> {
    lists: &'n [&'n [&'n str]],
    n_keys: Vec<usize>,
}

impl<'t> Visitor<'t> for &mut Counting<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            map.next_value::<IgnoredAny>()?;
            for (list, n_keys) in self.lists.iter().zip(&mut self.n_keys) {
                *n_keys += usize::from(list.iter().any(|name| is_same_name(name, &key)));
            }
        }
        Ok(())
    }
}

/// Whether a key is a name; of a long name, case and underscores don't count.
pub(super) fn is_same_name(name: &str, key: &str) -> bool {
    fn letters(name: &str) -> impl Iterator<Item = u8> {
        name.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase())
    }
    name == key || name.len() > 2 && letters(name).eq(letters(key))
}
