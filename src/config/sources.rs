//! Where a setting comes from: the file, the environment or a flag, brought into one flat map of dotted keys.
//!
//! Knows no key by name. Later places win: file, environment, flag.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// What the operator gave us. Holds secrets: `Debug` shows names only.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--set`, as given.
    pub set: Vec<String>,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<&str> = self.set.iter().filter_map(|setting| Some(setting.split_once('=')?.0)).collect();
        let environment: Vec<&String> = self.environment.keys().collect();
        let mut shown = f.debug_struct("Sources");
        shown.field("file", &self.file).field("set", &set).field("environment", &environment).finish()
    }
}

/// Where a value was found. The order is that of complaints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// libpq's variables, the last resort.
    PgVariable(String),
    /// A line of the file, from 1.
    File(String, usize),
    /// `DATABASE_URL`.
    DatabaseUrl,
    /// A variable of our own.
    Variable(String),
    /// `--set`.
    Flag,
}

impl Place {
    /// How much a value from here weighs; two of one place weigh the same.
    pub fn weight(&self) -> u8 {
        match self {
            Place::PgVariable(_) => 0,
            Place::File(..) => 1,
            Place::DatabaseUrl => 2,
            Place::Variable(_) => 3,
            Place::Flag => 4,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(name, line) => write!(f, "{name}:{line}"),
            Place::PgVariable(name) | Place::Variable(name) => f.write_str(name),
            Place::DatabaseUrl => f.write_str("DATABASE_URL"),
            Place::Flag => f.write_str("--set"),
        }
    }
}

/// A value as it was written. May be a secret: has no `Debug`.
#[derive(Clone, PartialEq)]
pub(super) enum Raw {
    /// From a flag or a variable: typed only by who reads it.
    Text(String),
    String(String),
    Integer(i64),
    /// With its digits as written.
    Float(String),
    Boolean(bool),
    List(Vec<Raw>),
}

/// A value and where it was found.
#[derive(Clone)]
pub(super) struct Entry {
    pub place: Place,
    pub raw: Raw,
}

/// One thing that is wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub(super) place: Option<Place>,
    pub(super) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

const PREFIX: &str = "STOCK_DB_WRITER__";
const CONFIG_VARIABLE: &str = "STOCK_DB_WRITER_CONFIG";
const USUAL_FILES: [&str; 2] = ["writer.toml", "/etc/stock-db-writer/writer.toml"];

/// Everything that was set, by dotted key.
pub(super) fn gather(sources: &Sources) -> (BTreeMap<String, Entry>, Vec<Problem>) {
    let (mut entries, mut problems) = (BTreeMap::new(), Vec::new());
    if let Some(path) = file(sources, |path| path.is_file()) {
        read_file(&path, &mut entries, &mut problems);
    }
    let mut set = |key: &str, place: Place, value: &str| {
        entries.insert(key.to_owned(), Entry { place, raw: Raw::Text(value.to_owned()) });
    };
    if let Some(url) = sources.environment.get("DATABASE_URL").filter(|url| !url.is_empty()) {
        set("database.url", Place::DatabaseUrl, url);
    }
    for (name, value) in &sources.environment {
        if let Some(key) = name.strip_prefix(PREFIX) {
            set(&key.to_ascii_lowercase().replace("__", "."), Place::Variable(name.clone()), value);
        }
    }
    for setting in &sources.set {
        match setting.split_once('=') {
            Some((key, value)) => set(key.trim(), Place::Flag, value),
            None => problems.push(Problem {
                place: Some(Place::Flag),
                message: "expected KEY=VALUE, as in --set batch.rows_max=5000".to_owned(),
            }),
        }
    }
    (entries, problems)
}

/// The file to read: one that was named must be there, the others are taken where they are.
fn file(sources: &Sources, is_there: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let variable = || sources.environment.get(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = || USUAL_FILES.map(PathBuf::from).into_iter().find(|path| is_there(path));
    sources.file.clone().or_else(variable).or_else(usual)
}

fn read_file(path: &Path, entries: &mut BTreeMap<String, Entry>, problems: &mut Vec<Problem>) {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => File { shown, text: &text, entries, problems }.read(),
        Err(error) => problems.push(Problem { place: None, message: format!("{shown}: {error}") }),
    }
}

struct File<'a> {
    shown: String,
    text: &'a str,
    entries: &'a mut BTreeMap<String, Entry>,
    problems: &'a mut Vec<Problem>,
}

impl File<'_> {
    fn read(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        // A file that isn't TOML has only that said about it: what the parser made of the rest is a guess.
        if errors.is_empty() {
            self.flatten("", table.get_ref());
        }
        for error in errors {
            let place = self.place(error.span().map_or(0, |span| span.start));
            // Only the first line: the rest quotes the file, which may hold a password.
            let message = error.message().lines().next().unwrap_or("not TOML").to_owned();
            self.problems.push(Problem { place: Some(place), message });
        }
    }

    fn place(&self, at: usize) -> Place {
        let line = self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        Place::File(self.shown.clone(), line)
    }

    fn wrong(&mut self, place: Place, key: &str, what: &str) {
        self.problems.push(Problem { place: Some(place), message: format!("{key}: {what}") });
    }

    fn flatten(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let place = self.place(name.span().start);
            let name = name.get_ref();
            let key = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            match value.get_ref() {
                DeValue::Table(inner) => self.flatten(&key, inner),
                DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                    for (idx, item) in items.iter().enumerate() {
                        let key = format!("{key}.{idx}");
                        let place = self.place(item.span().start);
                        match item.get_ref() {
                            DeValue::Table(inner) if inner.is_empty() => self.wrong(place, &key, "is empty"),
                            DeValue::Table(inner) => self.flatten(&key, inner),
                            _ => self.wrong(place, &key, "must be a table, as its neighbours are"),
                        }
                    }
                }
                other => match raw(other) {
                    Some(raw) => {
                        self.entries.insert(key, Entry { place, raw });
                    }
                    None => self.wrong(place, &key, "a value of this type is not expected here"),
                },
            }
        }
    }
}

fn raw(value: &DeValue<'_>) -> Option<Raw> {
    Some(match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(number) => Raw::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => Raw::Float(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Raw::Boolean(*yes),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect::<Option<_>>()?),
        // An unquoted time, as in `start_at = 2024-01-02T15:04:05Z`.
        DeValue::Datetime(time) => Raw::String(time.to_string()),
        DeValue::Table(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_comes_before_the_usual_ones() {
        let usual = |there: &'static str| move |path: &Path| path == Path::new(there);
        let mut sources = Sources::default();
        assert_eq!(file(&sources, |_| false), None);
        assert_eq!(file(&sources, |_| true), Some(PathBuf::from("writer.toml")));
        let system = "/etc/stock-db-writer/writer.toml";
        assert_eq!(file(&sources, usual(system)), Some(PathBuf::from(system)));
        sources.environment.insert(CONFIG_VARIABLE.to_owned(), "by-variable.toml".to_owned());
        assert_eq!(file(&sources, |_| true), Some(PathBuf::from("by-variable.toml")));
        sources.file = Some(PathBuf::from("by-flag.toml"));
        assert_eq!(file(&sources, |_| false), Some(PathBuf::from("by-flag.toml")));
    }

    #[test]
    fn sources_show_names_and_no_values() {
        let sources = Sources {
            file: None,
            set: vec!["database.url=hunter2".to_owned(), "hunter2".to_owned()],
            environment: BTreeMap::from([("PGPASSWORD".to_owned(), "hunter2".to_owned())]),
        };
        let shown = format!("{sources:?}");
        assert!(shown.contains("PGPASSWORD") && shown.contains("database.url"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
