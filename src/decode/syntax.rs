//! JSON as text: where documents begin and end, how deep they are, and where they are broken.
//!
//! serde_json reads objects; the brackets around them are followed here, so that elements are read in place and nothing
//! is read twice.

use super::path::Path;
use super::refusal::Refusal;
use crate::row::Class;
use serde_json::value::RawValue;

/// Objects and arrays in one another, at most.
pub(super) const DEPTH_MAX: usize = 64;

/// A place where a text stops being JSON.
#[derive(Debug)]
pub(super) struct Broken {
    /// In bytes from the start of the text it was found in.
    pub at: usize,
    what: String,
}

impl Broken {
    /// Something other than what must be at a place.
    #[cold]
    pub(super) fn expected(what: &str, at: usize) -> Broken {
        Broken { at, what: format!("expected {what}") }
    }

    /// What serde_json found in `text`.
    #[cold]
    pub(super) fn new(error: &serde_json::Error, text: &str) -> Broken {
        let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let at = (line_start + error.column().saturating_sub(1)).min(text.len());
        // Other errors can quote the message, and are not expected here.
        let what = match error.classify() {
            serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
                let mut what = error.to_string();
                what.truncate(what.rfind(" at line ").unwrap_or(what.len()));
                what
            }
            _ => "unexpected value".to_owned(),
        };
        Broken { at, what }
    }

    /// The same place in a text that begins `start` bytes earlier.
    pub(super) fn after(self, start: usize) -> Broken {
        Broken { at: self.at + start, ..self }
    }

    /// Why the document of `text` that begins at `start` becomes no row. Lines and columns are those of the document:
    /// counting from the start of the text would take too long if thousands of documents are broken.
    #[cold]
    pub(super) fn refusal(&self, text: &str, start: usize, path: &Path<'_>) -> Refusal {
        let before = &text.as_bytes()[start..self.at];
        if nesting(before) > DEPTH_MAX {
            return too_deep(path);
        }
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let column = before.len() - line_start + 1;
        let what = match before.iter().filter(|byte| **byte == b'\n').count() {
            0 => format!("{} at column {column}", self.what),
            n_newlines => format!("{} at line {} column {column}", self.what, n_newlines + 1),
        };
        Refusal::at(path, Class::Syntax, what)
    }
}

/// Why an element that is nested too deeply becomes no row.
#[cold]
pub(super) fn too_deep(path: &Path<'_>) -> Refusal {
    Refusal::at(path, Class::TooLarge, format_args!("is nested more than {DEPTH_MAX} deep"))
}

/// The first byte from `at` on that is no white space.
pub(super) fn skip_space(text: &str, mut at: usize) -> usize {
    let bytes = text.as_bytes();
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The JSON value that begins at `at`, whatever it is.
pub(super) fn value_at(text: &str, at: usize) -> Result<&str, Broken> {
    let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<&RawValue>();
    match values.next() {
        Some(Ok(value)) => Ok(value.get()),
        Some(Err(error)) => Err(Broken::new(&error, &text[at..]).after(at)),
        None => Err(Broken::expected("a value", text.len())),
    }
}

/// Whether a JSON text is more than `max` deep.
pub(super) fn is_deeper(json: &str, max: usize) -> bool {
    // Brackets inside of strings are counted too: a message with so few of them need not be looked at closely.
    // Small counts of small chunks, because the compiler can then do many bytes at once.
    let is_opening = |byte: &u8| u8::from(byte | (b'{' ^ b'[') == b'{');
    let n_opening: usize =
        json.as_bytes().chunks(128).map(|chunk| usize::from(chunk.iter().map(is_opening).sum::<u8>())).sum();
    n_opening > max && nesting(json.as_bytes()) > max
}

/// The greatest depth in a JSON text, broken or not.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    deepest
}

/// Whether a broken text is documents line by line, rather than one document over several lines: a line of it is whole,
/// and none is only a part.
pub(super) fn is_by_lines(text: &str) -> bool {
    let is_whole =
        |line: &str| line.starts_with('{') && line.ends_with('}') || line.starts_with('[') && line.ends_with(']');
    let is_part = |line: &str| line.ends_with(',') || matches!(line, "{" | "[" | "}" | "]");
    let lines = || text.lines().map(str::trim);
    lines().any(|line| line.len() > 1 && is_whole(line)) && !lines().any(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_does_not_count_brackets_in_strings() {
        assert_eq!(nesting(br#"{"a":["[[[",{"b\"[":1}],"c":[]}"#), 3);
        assert!(is_deeper(&"[".repeat(65), 64));
        assert!(!is_deeper(&"[".repeat(64), 64));
        assert!(!is_deeper(&format!("[\"{}\"]", "[".repeat(100)), 64));
    }

    #[test]
    fn a_document_over_several_lines_is_told_from_documents_line_by_line() {
        assert!(is_by_lines("{\"a\":1}\nnonsense\n{\"a\":2}\n"));
        assert!(is_by_lines("{\"a\":\n\n[{\"a\":2}]"));
        assert!(!is_by_lines("{\n \"a\": 1,\n \"b\": NaN\n}"));
        assert!(!is_by_lines("[\n{\"a\":1},\n{\"a\":NaN}\n]"));
        assert!(!is_by_lines("nonsense\nmore of it"));
    }
}
