//! Turns a record into rows, dead letters or a skip.
//!
//! Pure and total: whatever the bytes are, each record has one fate, nothing panics, nothing recurses without limit, and
//! memory stays within a multiple of the message. This file takes a message apart into elements; what an object means
//! is the business of the profiles, one file each, listed in `profile`.

mod alpha_vantage;
mod bar;
mod binance;
mod columnar;
mod element;
mod elements;
mod entries;
mod envelope;
mod fields;
mod finnhub;
mod googlefinance;
mod key;
mod ksql_window;
mod metrics;
mod number;
mod object;
mod path;
mod polygon;
mod profile;
mod quote;
mod refusal;
mod rows;
pub mod settings;
mod spark_window;
mod symbol;
mod syntax;
mod time;
mod word;

use crate::record::{Record, Value};
use crate::row::{Class, Decoded, Fate, Skip};
use element::Element;
use elements::Elements;
use object::{Object, unescaped};
use path::Path;
use profile::{Inside, Reads};
use refusal::Refusal;
use settings::{Format, Settings};
use syntax::{Broken, DEPTH_MAX, is_by_lines, is_deeper, skip_space, too_deep, value_at};

/// JSON strings in JSON strings that are opened, at most.
const UNWRAPS_MAX: u32 = 2;

/// Decodes a record, appends its rows and dead letters to `out`, and gives its fate.
///
/// `record_idx` is the record's place in its batch, which every row and every dead letter carries.
pub fn decode<'a>(record: &Record<'a>, record_idx: u32, settings: &Settings, out: &mut Decoded<'a>) -> Fate {
    read(record, record_idx, settings, out, None).fate
}

/// As [`decode`], and counts the record's elements.
pub fn decode_counted<'a>(record: &Record<'a>, record_idx: u32, settings: &Settings, out: &mut Decoded<'a>) -> Outcome {
    read(record, record_idx, settings, out, None)
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Its fate.
    pub fate: Fate,
    /// Its elements: rows, dead letters, and what was rightly skipped.
    pub n_elements: u32,
}

/// What became of a record, and how it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What became of it.
    pub fate: Fate,
    /// Its elements: rows, dead letters, and what was rightly skipped.
    pub n_elements: u32,
    /// The shapes that its objects have, each once, in the order of their first appearance.
    pub formats: Vec<Format>,
}

/// As [`decode`], and says by which formats the record's objects were read.
pub fn explain<'a>(record: &Record<'a>, settings: &Settings, out: &mut Decoded<'a>) -> Explanation {
    let mut formats = Vec::new();
    let Outcome { fate, n_elements } = read(record, 0, settings, out, Some(&mut formats));
    Explanation { fate, n_elements, formats }
}

fn read<'a>(
    record: &Record<'a>,
    record_idx: u32,
    settings: &Settings,
    out: &mut Decoded<'a>,
    formats: Option<&mut Vec<Format>>,
) -> Outcome {
    let n_bytes = if let Value::Bytes(bytes) = record.value { bytes.len() } else { 0 };
    let mut elements = Elements::new(out, record_idx, n_bytes, formats);
    match record.value {
        Value::Null => elements.skip(Skip::Tombstone),
        Value::TooLarge { bytes, .. } => {
            let what = format_args!("has {bytes} bytes, more than kafka.max_message_bytes");
            elements.refuse(Refusal::at(&Path::Root, Class::TooLarge, what));
        }
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => {
                let format = settings.format;
                let elements = &mut elements;
                Walk { record, settings, format, around: None, object: Object::new(), elements }.message(text);
            }
            Err(error) => {
                let what = format_args!("is not UTF-8 from byte {} on", error.valid_up_to());
                elements.refuse(Refusal::at(&Path::Root, Class::Encoding, what));
            }
        },
    }
    elements.finish()
}

/// How far inside a message a text is.
#[derive(Clone, Copy)]
struct Level {
    // Arrays around it.
    depth: usize,
    // JSON strings around it.
    unwraps: u32,
    // It is in an object that is known to be not too deep.
    is_measured: bool,
}

/// Goes through a text of documents.
struct Walk<'w, 'o, 't> {
    record: &'w Record<'t>,
    settings: &'w Settings,
    // Of what is to come; inside of an envelope any is fine.
    format: Format,
    // The envelope.
    around: Option<&'w Element<'w, 't>>,
    // One for all objects of the message, because it is large.
    object: Object<'t>,
    elements: &'w mut Elements<'o, 't>,
}

impl<'t> Walk<'_, '_, 't> {
    fn message(&mut self, text: &'t str) {
        self.documents(text, Level { depth: 0, unwraps: 0, is_measured: false }, &Path::Root);
    }

    /// One document, or several that are separated by newlines.
    fn documents(&mut self, text: &'t str, level: Level, path: &Path<'_>) {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        // How far a document can reach; a line, once the text is known to be broken into lines.
        let mut by_lines = false;
        let mut at = skip_space(text, 0);
        for number in 1.. {
            if at == text.len() {
                return;
            }
            let limit = if by_lines { end_of_line(text, at) } else { text.len() };
            let numbered = Path::Document(path, number);
            let path = if number == 1 { path } else { &numbered };
            let mark = self.elements.mark();
            let document = self.value(&text[..limit], at, level, path);
            match document.and_then(|end| end_of_document(&text[..limit], end)) {
                Ok(end) => at = skip_space(text, end),
                Err(broken) => {
                    self.elements.roll_back(mark);
                    self.elements.refuse_with(|| broken.refusal(text, at, path));
                    by_lines = by_lines || is_by_lines(text);
                    at = if by_lines { skip_space(text, end_of_line(text, at)) } else { text.len() };
                }
            }
        }
    }

    /// The value that begins at `at`; gives its end.
    fn value(&mut self, text: &'t str, at: usize, level: Level, path: &Path<'_>) -> Result<usize, Broken> {
        match text.as_bytes().get(at) {
            Some(b'{') => self.object(text, at, level, path),
            Some(b'[') => self.array(text, at, level, path),
            Some(b'"') => self.string(text, at, level, path),
            _ => {
                let value = value_at(text, at)?;
                match value {
                    "null" => self.elements.skip(Skip::Tombstone),
                    _ => self.refuse_shape(path, "is a single value"),
                }
                Ok(at + value.len())
            }
        }
    }

    fn object(&mut self, text: &'t str, at: usize, level: Level, path: &Path<'_>) -> Result<usize, Broken> {
        let end = at + self.object.read(&text[at..]).map_err(|broken| broken.after(at))?;
        let Walk { record, settings, format, around, object, elements } = self;
        if !level.is_measured && is_deeper(object.text(), DEPTH_MAX - level.depth) {
            elements.refuse(too_deep(path));
            return Ok(end);
        }
        if object.is_empty() {
            elements.skip(Skip::Empty);
            return Ok(end);
        }
        let element = Element { record, settings, object, path, around: *around };
        let Some((found, profile)) = profile::find(&element, *format) else {
            elements.refuse_with(|| profile::unknown(&element, *format));
            return Ok(end);
        };
        elements.note_format(*found);
        match profile.reads {
            Reads::Itself(read) => read(&element, elements),
            Reads::Inside(open) => {
                match open(&element) {
                    Ok(Inside::Value(key, value)) => {
                        let format = if *found == Format::Envelope { Format::Auto } else { *format };
                        Walk { record, settings, format, around: Some(&element), object: Object::new(), elements }
                            .inside(value, level, &Path::Key(path, key));
                    }
                    Ok(Inside::Nothing(reason)) => elements.skip(reason),
                    Err(refusal) => elements.refuse(refusal),
                }
            }
        }
        Ok(end)
    }

    /// A value inside of an envelope. That it is JSON was seen before, but not whether each string in it is text.
    fn inside(&mut self, value: &'t str, level: Level, path: &Path<'_>) {
        let mark = self.elements.mark();
        let level = Level { depth: level.depth + 1, is_measured: true, ..level };
        if let Err(broken) = self.value(value, 0, level, path) {
            self.elements.roll_back(mark);
            self.elements.refuse(broken.refusal(value, 0, path));
        }
    }

    fn array(&mut self, text: &'t str, at: usize, level: Level, path: &Path<'_>) -> Result<usize, Broken> {
        if level.depth == DEPTH_MAX {
            let array = value_at(text, at)?;
            self.elements.refuse(too_deep(path));
            return Ok(at + array.len());
        }
        let inner = Level { depth: level.depth + 1, ..level };
        let start = at;
        let mut at = skip_space(text, at + 1);
        match text.as_bytes().get(at) {
            Some(b']') => {
                self.elements.skip(Skip::Empty);
                return Ok(at + 1);
            }
            Some(b'{' | b'[') => {}
            // Millions of plain values would be as many dead letters.
            _ => {
                if let Some(end) = end_of_plain_array(text, start)? {
                    self.refuse_shape(path, "is an array without objects");
                    return Ok(end);
                }
            }
        }
        for item_idx in 0.. {
            at = skip_space(text, self.value(text, at, inner, &Path::Item(path, item_idx))?);
            match text.as_bytes().get(at) {
                Some(b',') => at = skip_space(text, at + 1),
                Some(b']') => return Ok(at + 1),
                _ => break,
            }
        }
        Err(Broken::expected("`,` or `]`", at))
    }

    /// A string, which may hold JSON.
    fn string(&mut self, text: &'t str, at: usize, level: Level, path: &Path<'_>) -> Result<usize, Broken> {
        let json = value_at(text, at)?;
        let end = at + json.len();
        match unescaped(json) {
            Err(what) => self.elements.refuse(Refusal::at(path, Class::Encoding, what)),
            Ok(inner) if !holds_json(&inner) => self.refuse_shape(path, "is a string that holds no JSON"),
            Ok(_) if level.unwraps == UNWRAPS_MAX => {
                self.refuse_shape(path, "is JSON in a string in a string in a string");
            }
            Ok(inner) => {
                let Walk { record, settings, format, around, elements, .. } = self;
                let level = Level { unwraps: level.unwraps + 1, is_measured: false, ..level };
                elements.with_shorter(&inner, |inner, elements| {
                    let (format, around) = (*format, *around);
                    Walk { record, settings, format, around, object: Object::new(), elements }
                        .documents(inner, level, path);
                });
            }
        }
        Ok(end)
    }

    #[cold]
    fn refuse_shape(&mut self, path: &Path<'_>, what: &'static str) {
        self.elements.refuse_with(|| Refusal::at(path, Class::UnknownShape, what));
    }
}

fn end_of_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |length| at + length)
}

/// After a document there is only white space up to the end of its line.
fn end_of_document(text: &str, end: usize) -> Result<usize, Broken> {
    let next = skip_space(text, end);
    if next == text.len() || text.as_bytes()[end..next].contains(&b'\n') {
        Ok(next)
    } else {
        Err(Broken::expected("a newline or the end after the value", next))
    }
}

/// Whether the content of a string is to be read as JSON again.
fn holds_json(content: &str) -> bool {
    let content = content.strip_prefix('\u{FEFF}').unwrap_or(content);
    matches!(content.as_bytes().get(skip_space(content, 0)), Some(b'{' | b'[' | b'"'))
}

/// The end of an array of plain values; `None` if something in it can be an element, or all of it is missing.
fn end_of_plain_array(text: &str, start: usize) -> Result<Option<usize>, Broken> {
    let mut is_missing = true;
    let mut at = skip_space(text, start + 1);
    loop {
        // Found without reading on, so that arrays in arrays are not read once for each that is around them.
        if matches!(text.as_bytes().get(at), Some(b'{' | b'[')) {
            return Ok(None);
        }
        let value = value_at(text, at)?;
        if value.starts_with('"') && unescaped(value).is_ok_and(|content| holds_json(&content)) {
            return Ok(None);
        }
        is_missing = is_missing && value == "null";
        at = skip_space(text, at + value.len());
        match text.as_bytes().get(at) {
            Some(b',') => at = skip_space(text, at + 1),
            Some(b']') => return Ok((!is_missing).then_some(at + 1)),
            _ => return Err(Broken::expected("`,` or `]`", at)),
        }
    }
}

#[cfg(test)]
mod tests;
