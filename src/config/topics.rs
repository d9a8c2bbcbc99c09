//! `[[topics]]`: what is read, and how; and which of these tables a topic belongs to.
//!
//! Pure: which topics exist is not known here.

use super::reader::{Reader, non_empty, parsed, scalar, text};
use super::sources::Raw;
use crate::decimal::Decimal;
use crate::decode::settings::{Settings, Target};
use regex::bytes::{Regex, RegexBuilder};
use std::fmt;

/// Kafka's own topics, and by custom those of tools around it. Read by name only.
const INTERNAL_PREFIX: &str = "__";

/// All of `[[topics]]`, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Topics(Vec<Topic>);

/// One of `[[topics]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    /// Which topics it is about.
    pub selector: Selector,
    /// How their messages are read.
    pub settings: Settings,
}

/// `name` or `pattern`
#[derive(Debug, Clone, PartialEq)]
pub enum Selector {
    /// The topic of this name.
    Name(String),
    /// Every topic that matches and has no table by name.
    Pattern(Pattern),
}

impl Selector {
    /// As it stands in the configuration.
    pub fn as_str(&self) -> &str {
        match self {
            Selector::Name(name) => name,
            Selector::Pattern(pattern) => pattern.as_str(),
        }
    }
}

/// A regular expression for topics' names. It matches anywhere in a name unless it is anchored.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Reads a pattern; the error is one line.
    pub fn new(text: &str) -> Result<Pattern, String> {
        // Names of topics are ASCII, so the tables for everything else are left out: `\w` and `(?i)` go without them.
        match RegexBuilder::new(text).unicode(false).build() {
            Ok(regex) => Ok(Pattern { text: text.to_owned(), regex }),
            Err(error) => {
                // A drawing of the place comes first, the cause is the last line.
                let shown = error.to_string();
                let cause = shown.lines().last().unwrap_or_default();
                Err(format!("is no regular expression: {}: {text:?}", cause.strip_prefix("error: ").unwrap_or(cause)))
            }
        }
    }

    /// As it stands in the configuration.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a topic of this name is meant.
    pub fn matches(&self, topic: &str) -> bool {
        !topic.starts_with(INTERNAL_PREFIX) && self.regex.is_match(topic.as_bytes())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl FromIterator<Topic> for Topics {
    fn from_iter<I: IntoIterator<Item = Topic>>(topics: I) -> Topics {
        Topics(topics.into_iter().collect())
    }
}

impl Topics {
    /// The tables, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter()
    }

    /// The table that a topic is read by: the one with its name, else the first whose pattern matches.
    fn table(&self, topic: &str) -> Option<&Topic> {
        let by_name = self.iter().find(|table| matches!(&table.selector, Selector::Name(name) if name == topic));
        let by_pattern =
            || self.iter().find(|table| matches!(&table.selector, Selector::Pattern(p) if p.matches(topic)));
        by_name.or_else(by_pattern)
    }

    /// How a topic's messages are read; `None` if it isn't read at all.
    pub fn settings(&self, topic: &str) -> Option<&Settings> {
        self.table(topic).map(|table| &table.settings)
    }

    /// The topics that are named.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().filter_map(|table| match &table.selector {
            Selector::Name(name) => Some(name.as_str()),
            Selector::Pattern(_) => None,
        })
    }

    /// The patterns, in the order of the file.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.iter().filter_map(|table| match &table.selector {
            Selector::Pattern(pattern) => Some(pattern),
            Selector::Name(_) => None,
        })
    }

    /// The pattern that a topic is read because of; `None` if it is named, or not read at all.
    pub fn pattern(&self, topic: &str) -> Option<&Pattern> {
        self.table(topic).and_then(|table| match &table.selector {
            Selector::Pattern(pattern) => Some(pattern),
            Selector::Name(_) => None,
        })
    }

    /// Whether a topic is read because of a pattern, and so may come and go.
    pub fn is_by_pattern(&self, topic: &str) -> bool {
        self.pattern(topic).is_some()
    }

    /// Whether topics may come and go at all.
    pub fn has_patterns(&self) -> bool {
        self.patterns().next().is_some()
    }
}

pub(super) fn read(reader: &mut Reader) -> Topics {
    let mut topics: Vec<Topic> = Vec::new();
    let mut read = 0;
    for idx in reader.indexes("topics") {
        if idx != read {
            reader.complain(
                &[&format!("topics.{idx}.name")],
                format!("topics are numbered from 0 without a gap, the next one is {read}"),
            );
            reader.drop_section(&format!("topics.{idx}"));
            continue;
        }
        read += 1;
        let (selector, settings) = (selector(reader, idx), settings(reader, idx));
        let Some(selector) = selector else { continue };
        if topics.iter().any(|other| other.selector == selector) {
            let (key, what) = match &selector {
                Selector::Name(name) => ("name", name.as_str()),
                Selector::Pattern(pattern) => ("pattern", pattern.as_str()),
            };
            reader.complain(&[&format!("topics.{idx}.{key}")], format!("{what:?} is listed twice"));
        }
        topics.push(Topic { selector, settings });
    }
    if read == 0 {
        for (name, target) in [("stock_prices", Target::Prices), ("stock_metrics", Target::Metrics)] {
            let settings = Settings { target, ..Settings::default() };
            topics.push(Topic { selector: Selector::Name(name.to_owned()), settings });
        }
        // So that `topics = "a"` is told what it should have been.
        reader
            .refuse("topics", "is a list of tables: write [[topics]] and below it name = \"…\", or set topics.0.name");
    }
    Topics(topics)
}

/// `None` after a complaint.
fn selector(reader: &mut Reader, idx: usize) -> Option<Selector> {
    let (name_key, pattern_key) = (format!("topics.{idx}.name"), format!("topics.{idx}.pattern"));
    let has_pattern = reader.is_set(&pattern_key);
    let name = reader.get(&name_key, |raw| match text(raw)?.is_empty() && has_pattern {
        // So that a flag can put a pattern in the place of the file's name.
        true => Ok(None),
        false => topic_name(raw).map(Some),
    });
    // Empty means none, as it stands in the shipped file.
    let pattern = reader.get(&pattern_key, |raw| match text(raw)?.as_str() {
        "" => Ok(None),
        pattern => Pattern::new(pattern).map(Some),
    });
    match (name.flatten(), pattern.flatten()) {
        (Some(_), Some(_)) => {
            reader.complain(&[&pattern_key, &name_key], "a topic has a name or a pattern, not both");
            None
        }
        (Some(name), None) => Some(Selector::Name(name)),
        (None, Some(pattern)) => Some(Selector::Pattern(pattern)),
        (None, None) => {
            reader.complain(&[&name_key, &pattern_key], format!("must be set, or {pattern_key} instead"));
            None
        }
    }
}

fn settings(reader: &mut Reader, idx: usize) -> Settings {
    let key = |name: &str| format!("topics.{idx}.{name}");
    let default = Settings::default();
    let settings = Settings {
        target: reader.get(&key("target"), parsed).unwrap_or(default.target),
        format: reader.get(&key("format"), parsed).unwrap_or(default.format),
        timestamp_unit: reader.get(&key("timestamp_unit"), parsed).unwrap_or(default.timestamp_unit),
        timezone: reader.get(&key("timezone"), timezone).unwrap_or(default.timezone),
        symbol: reader.get(&key("symbol"), parsed).unwrap_or(default.symbol),
        timestamp_missing: reader.get(&key("timestamp_missing"), parsed).unwrap_or(default.timestamp_missing),
        price_min: reader.get(&key("price_min"), decimal).unwrap_or(default.price_min),
    };
    if let Some(what) = settings.contradiction() {
        let what = what.strip_prefix("format: ").unwrap_or(&what);
        reader.complain(&[&key("format"), &key("target")], what);
    }
    settings
}

/// What Kafka takes for a topic's name.
pub(super) fn topic_name(raw: &Raw) -> Result<String, String> {
    let name = non_empty(raw)?;
    let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match name.len() {
        1..=249 if legal && name != "." && name != ".." => Ok(name),
        _ => Err("must be 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'".to_owned()),
    }
}

fn timezone<T: std::str::FromStr>(raw: &Raw) -> Result<T, String> {
    let text = non_empty(raw)?;
    text.parse().map_err(|_| format!("is no zone of the IANA database, such as \"America/New_York\": {text:?}"))
}

fn decimal(raw: &Raw) -> Result<Decimal<'static>, String> {
    let text = scalar(raw).unwrap_or_default();
    Decimal::parse(text.into()).map_err(|_| "must be a number".to_owned())
}
