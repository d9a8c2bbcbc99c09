//! The key of an entry, as it is read where the fast look-up of words is not enough.

use serde::de::{Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A key, unescaped. Half of a surrogate pair, which JSON's grammar allows, is shown as U+FFFD: such a key is none that
/// anybody looks for, and no reason to refuse its neighbours.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key<'t>(pub Cow<'t, str>);

impl<'t> Deserialize<'t> for Key<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsBytes;

        impl<'t> Visitor<'t> for AsBytes {
            type Value = Key<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_bytes<E>(self, key: &'t [u8]) -> Result<Key<'t>, E> {
                // Nearly always it is text, and to see that is quicker than to look for what isn't.
                Ok(Key(std::str::from_utf8(key).map_or_else(|_| String::from_utf8_lossy(key), Cow::Borrowed)))
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<Key<'t>, E> {
                Ok(Key(Cow::Owned(String::from_utf8_lossy(key).into_owned())))
            }
        }

        // As a string it would have to be characters.
        deserializer.deserialize_bytes(AsBytes)
    }
}
