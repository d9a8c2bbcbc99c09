//! The profile `envelope`: Debezium's and Kafka Connect's, or any object with the message in `payload` or `data`.
//!
//! What is inside has any other shape; a field that is missing there is taken from around it.

use super::element::Element;
use super::profile::{Inside, Profile, Reads};
use super::refusal::Refusal;
use super::settings::Target;
use super::word::{Word, Words};
use crate::row::Skip;

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Auto,
    signs: Words::only(Word::After).with(Words::only(Word::Payload)).with(Words::only(Word::Data)),
    // A quote can have such a field, too. Its symbol can be the record's key, so that one with nothing inside is none.
    recognizes: |element| {
        !is_quote(element)
            && inside(element)
                .is_some_and(|word| !element.object.has_scalar(Words::PRICE) || has_content(element, word))
    },
    reads: Reads::Inside(open),
    looks: r#"a message of another shape in "payload", "data" or, with "op", in "after""#,
    keys: &["payload", "data", "after", "op", "schema"],
};

/// Whether it has another object or array inside, in which the elements are.
pub(super) fn holds_more(element: &Element<'_, '_>) -> bool {
    [Word::After, Word::Payload, Word::Data]
        .iter()
        .any(|word| element.object.raw(*word).is_some_and(|value| value.starts_with(['{', '['])))
}

fn is_quote(element: &Element<'_, '_>) -> bool {
    element.object.has_scalar(Words::SYMBOL) && element.object.has_scalar(Words::PRICE)
}

/// Which field holds the message: Debezium's, else the first that is not empty, else the first.
fn inside(element: &Element<'_, '_>) -> Option<Word> {
    let object = element.object;
    let is_debezium = object.has_all(Words::only(Word::After).with(Words::only(Word::Operation)));
    let is_connect = object.has_any(Words::only(Word::Schema));
    let holds = |word: Word| match object.raw(word).map(str::as_bytes) {
        Some([b'{' | b'[', ..]) => true,
        // A string that holds JSON begins like it. An escape begins a white space or a string that is escaped twice.
        Some([b'"', b'{' | b'[' | b'\\' | b' ', ..]) => true,
        Some(b"null") => word == Word::After && is_debezium || word == Word::Payload && is_connect,
        _ => false,
    };
    let holding = || [Word::After, Word::Payload, Word::Data].into_iter().filter(|word| holds(*word));
    let with_content = holding().find(|word| *word == Word::After && is_debezium || has_content(element, *word));
    with_content.or_else(|| holding().next())
}

fn has_content(element: &Element<'_, '_>, word: Word) -> bool {
    let is_nothing = |byte: u8| b"{}[]\"".contains(&byte) || byte.is_ascii_whitespace();
    element.object.raw(word).is_some_and(|value| value != "null" && !value.bytes().all(is_nothing))
}

fn open<'t>(element: &Element<'_, 't>) -> Result<Inside<'t>, Refusal> {
    let word = inside(element).unwrap_or(Word::Payload);
    let value = element.object.sole_raw(element.path, word)?;
    if word == Word::After {
        element.object.sole_raw(element.path, Word::Operation)?;
        match element.object.text_of(Word::Operation) {
            Some("d") => return Ok(Inside::Nothing(Skip::Tombstone)),
            // Only a delete leaves nothing. MongoDB's connector can send an update without its document.
            _ if value == Some("null") => return Err(element.missing(word.name())),
            _ => {}
        }
    }
    Ok(Inside::Value(word.name(), value.unwrap_or("null")))
}
