//! Text that goes to a terminal: without anything that could steer it, and within a width.

use std::borrow::Cow;
use unicode_width::UnicodeWidthChar;

/// Columns that a page has.
pub const PAGE_WIDTH: usize = 80;

/// The text with what could steer a terminal, or hide from the reader, spelled out.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut spelled = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match is_harmful(char) {
            true => spelled.extend(char.escape_default()),
            false => spelled.push(char),
        }
    }
    Cow::Owned(spelled)
}

/// Control characters, breaks of lines, and what changes the direction of writing or has no width.
fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}')
        || matches!(char, '\u{061C}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// Columns that a text takes, character by character, as terminals count. (What is drawn as one sign of several
/// characters may take fewer or more; a sum is the same wherever a text is cut.)
pub fn width(text: &str) -> usize {
    text.chars().map(|char| char.width().unwrap_or(0)).sum()
}

/// The text, or its beginning with an ellipsis, within some columns.
pub fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..fitting(text, columns.saturating_sub(1))]))
}

/// How many bytes of a text fit into some columns.
fn fitting(text: &str, columns: usize) -> usize {
    let mut taken = 0;
    let is_beyond = |char: char| {
        taken += char.width().unwrap_or(0);
        taken > columns
    };
    text.find(is_beyond).unwrap_or(text.len())
}

/// A text in pieces of so many columns, broken wherever that is.
pub fn fold(text: &str, columns: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        // However little room there is, it goes on.
        let first = rest.chars().next()?.len_utf8();
        let (piece, tail) = rest.split_at(fitting(rest, columns).max(first));
        rest = tail;
        Some(piece)
    })
}

/// A text in lines of at most [`PAGE_WIDTH`] columns, broken between words where that is possible; all but the first
/// are indented.
pub fn wrap(text: &str, indent: usize) -> String {
    let mut wrapped = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut columns = PAGE_WIDTH;
    loop {
        if width(rest) <= columns {
            wrapped.push_str(rest.trim_end());
            return wrapped;
        }
        let end = fitting(rest, columns);
        // The space at which the line breaks may be the first that doesn't fit.
        let reach = end + rest[end..].chars().next().map_or(0, char::len_utf8);
        let lead = rest.len() - rest.trim_start().len();
        let (line, tail) = match rest[lead..reach].rfind(' ') {
            Some(space) => (&rest[..lead + space], &rest[lead + space + 1..]),
            None => rest.split_at(end.max(1)),
        };
        wrapped.push_str(line.trim_end());
        wrapped.push('\n');
        wrapped.extend(std::iter::repeat_n(' ', indent));
        rest = tail.trim_start();
        columns = PAGE_WIDTH.saturating_sub(indent).max(PAGE_WIDTH / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_spelled_out() {
        assert_eq!(harmless("株式 BRK.B é"), "株式 BRK.B é");
        assert_eq!(harmless("a\x1b[31mb\x07\n\u{9b}2J\u{7f}"), "a\\u{1b}[31mb\\u{7}\\n\\u{9b}2J\\u{7f}");
        assert_eq!(harmless("A\u{202E}B\u{200B}\u{2028}\u{FEFF}"), "A\\u{202e}B\\u{200b}\\u{2028}\\u{feff}");
    }

    #[test]
    fn a_text_is_cut_by_columns() {
        assert_eq!(cut("12345", 5), "12345");
        assert_eq!(cut("123456", 5), "1234…");
        // Each of these takes two columns.
        assert_eq!(cut("株式会社", 5), "株式…");
        assert_eq!(cut("株式会社", 8), "株式会社");
    }

    #[test]
    fn a_text_is_folded_without_losing_any_of_it() {
        assert_eq!(fold("12345株", 3).collect::<Vec<_>>(), ["123", "45", "株"]);
        assert_eq!(fold("株式", 1).collect::<Vec<_>>(), ["株", "式"]);
        assert_eq!(fold("", 3).count(), 0);
    }

    #[test]
    fn a_long_text_is_broken_between_words() {
        let text = format!("  {} {}", "a".repeat(70), "b".repeat(20));
        assert_eq!(wrap(&text, 4), format!("  {}\n    {}", "a".repeat(70), "b".repeat(20)));
        let words = ["word"; 60].join(" ");
        for line in wrap(&words, 10).lines() {
            assert!(width(line) <= PAGE_WIDTH && line.trim_start().starts_with("word"), "{line:?}");
        }
        assert_eq!(wrap(&words, 10).split_whitespace().count(), 60);
    }

    #[test]
    fn a_word_longer_than_a_line_is_broken_in_itself() {
        let wrapped = wrap(&format!("  {}", "é".repeat(300)), 6);
        assert!(wrapped.lines().all(|line| width(line) <= PAGE_WIDTH), "{wrapped}");
        assert_eq!(wrapped.chars().filter(|char| *char == 'é').count(), 300);
        assert_eq!(wrap("", 3), "");
        // Ends however little room there is.
        assert!(wrap(&"株".repeat(100), 200).lines().count() > 4);
    }
}
