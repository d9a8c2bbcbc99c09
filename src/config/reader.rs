//! Takes typed values out of the flat map, and keeps every complaint.

use super::secret::refuse_public;
use super::sources::{Entry, Place, Problem, Raw};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Reads keys one by one; whatever is left in the end is an unknown key.
pub(super) struct Reader {
    entries: BTreeMap<String, Entry>,
    // Of every key that was set, also after it has been read.
    places: BTreeMap<String, Place>,
    known: BTreeSet<String>,
    // Read and refused: what follows from its value is not worth a second complaint.
    wrong: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    pub fn new(entries: BTreeMap<String, Entry>, problems: Vec<Problem>) -> Self {
        let places = entries.iter().map(|(key, entry)| (key.clone(), entry.place.clone())).collect();
        Reader { entries, places, known: BTreeSet::new(), wrong: BTreeSet::new(), problems }
    }

    /// The value of a key, or `None` if it isn't set or is wrong; wrong ones are complained about.
    pub fn get<T>(&mut self, key: &str, read: impl FnOnce(&Raw) -> Result<T, String>) -> Option<T> {
        self.get_placed(key, read).map(|(value, _)| value)
    }

    /// As [`get`](Self::get), with where the value was set.
    pub fn get_placed<T>(&mut self, key: &str, read: impl FnOnce(&Raw) -> Result<T, String>) -> Option<(T, Place)> {
        self.known.insert(key.to_owned());
        let entry = self.entries.remove(key)?;
        match read(&entry.raw) {
            Ok(value) => Some((value, entry.place)),
            Err(what) => {
                self.complain(&[key], what);
                self.wrong.insert(key.to_owned());
                None
            }
        }
    }

    /// The name of a file that must exist.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.path_placed(key).map(|(path, _)| path)
    }

    /// As [`path`](Self::path), with where it was set.
    pub fn path_placed(&mut self, key: &str) -> Option<(PathBuf, Place)> {
        let (path, place) = self.get_placed(key, path)?;
        Some((path?, place))
    }

    /// As [`path_placed`](Self::path_placed), of a file with a secret, which must not be open to everybody.
    pub fn secret_path_placed(&mut self, key: &str) -> Option<(PathBuf, Place)> {
        let (path, place) = self.get_placed(key, |raw| match path(raw)? {
            Some(path) => refuse_public(&path).map(|()| Some(path)),
            None => Ok(None),
        })?;
        Some((path?, place))
    }

    /// As [`secret_path_placed`](Self::secret_path_placed), without the place.
    pub fn secret_path(&mut self, key: &str) -> Option<PathBuf> {
        self.secret_path_placed(key).map(|(path, _)| path)
    }

    /// A key of the interface of which this version has built one value: any other is refused rather than silently
    /// without effect.
    pub fn only(&mut self, key: &str, built: &str) {
        self.get(key, |raw| match scalar(raw).as_deref() {
            Some(value) if value == built => Ok(()),
            _ if built.is_empty() => Err("is not built into this version; leave it empty".to_owned()),
            _ => Err(format!("only {built:?} is built into this version")),
        });
    }

    /// A key that has no place here, whatever its value.
    pub fn refuse(&mut self, key: &str, what: &str) {
        self.get(key, |_| Err::<(), _>(what.to_owned()));
    }

    /// The numbers N of the keys `PREFIX.N.…`.
    pub fn indexes(&self, prefix: &str) -> BTreeSet<usize> {
        let keys = self.entries.keys();
        keys.filter_map(|key| key.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse().ok()).collect()
    }

    /// Forgets the keys `PREFIX.…`.
    pub fn drop_section(&mut self, prefix: &str) {
        self.entries.retain(|key, _| !in_section(key, prefix));
    }

    /// Whether a key was set, well or badly.
    pub fn is_set(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// A complaint about the first of these keys, which contradicts the others. Its place is that of the first which
    /// was set, or else of the section. Says nothing if the value of one of them was refused.
    pub fn complain(&mut self, keys: &[&str], what: impl Into<String>) {
        if keys.iter().any(|key| self.wrong.contains(*key)) {
            return;
        }
        let key = keys[0];
        let place = keys.iter().find_map(|key| self.places.get(*key)).or_else(|| {
            let (section, _) = key.rsplit_once('.')?;
            self.places.iter().filter(|(key, _)| in_section(key, section)).map(|(_, place)| place).min()
        });
        self.problems.push(Problem { place: place.cloned(), message: format!("{key}: {}", what.into()) });
    }

    /// A complaint about something that is no key of ours, such as a variable of libpq.
    pub fn complain_of_variable(&mut self, name: &str, what: impl Into<String>) {
        let place = Some(Place::PgVariable(name.to_owned()));
        self.problems.push(Problem { place, message: what.into() });
    }

    /// All complaints, unknown keys included, in the order of their places.
    pub fn finish(mut self) -> Vec<Problem> {
        for (key, entry) in std::mem::take(&mut self.entries) {
            let what = self.unknown(&key);
            self.problems.push(Problem { place: Some(entry.place), message: format!("{key}: {what}") });
        }
        self.problems.sort();
        self.problems
    }

    fn unknown(&self, key: &str) -> String {
        if self.known.iter().any(|known| in_section(known, key)) {
            return "is a section of keys, not a value".to_owned();
        }
        let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
        let near = self.known.iter().map(|known| (distance(key, known), known)).min();
        // A key in the wrong section is further away than a misspelt one.
        let elsewhere = self.known.iter().find(|known| last(known) == last(key));
        match (near, elsewhere) {
            (Some((steps, known)), _) if steps <= 3 => format!("there is no such key; did you mean {known}?"),
            (_, Some(known)) => format!("there is no such key; did you mean {known}?"),
            _ => "there is no such key".to_owned(),
        }
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub fn known(&self) -> &BTreeSet<String> {
        &self.known
    }
}

fn in_section(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The number of single letters to change, add or take away (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

pub(super) fn text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Text(text) | Raw::String(text) => Ok(text.clone()),
        _ => Err("must be a string in quotes".to_owned()),
    }
}

pub(super) fn non_empty(raw: &Raw) -> Result<String, String> {
    let text = text(raw)?;
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}

/// A name that goes into tables and messages.
pub(super) fn name(raw: &Raw) -> Result<String, String> {
    let name = non_empty(raw)?;
    if name.len() > 249 || name.chars().any(char::is_control) {
        return Err("must have at most 249 bytes and no control characters".to_owned());
    }
    Ok(name)
}

/// An empty name means no file.
fn path(raw: &Raw) -> Result<Option<PathBuf>, String> {
    let text = text(raw)?;
    match std::fs::metadata(&text) {
        _ if text.is_empty() => Ok(None),
        Ok(metadata) if metadata.is_dir() => Err(format!("{text} is a directory")),
        Ok(_) => Ok(Some(PathBuf::from(text))),
        Err(error) => Err(format!("{text}: {error}")),
    }
}

pub(super) fn one_of<T: Clone>(names: &[(&str, T)]) -> impl FnOnce(&Raw) -> Result<T, String> {
    move |raw| {
        let given = text(raw)?;
        let known = || names.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(" or ");
        let found = names.iter().find(|(name, _)| *name == given);
        found.map(|(_, value)| value.clone()).ok_or_else(|| format!("must be {}, is {given:?}", known()))
    }
}

pub(super) fn parsed<T: FromStr>(raw: &Raw) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text(raw)?.parse().map_err(|error: T::Err| error.to_string())
}

pub(super) fn boolean(raw: &Raw) -> Result<bool, String> {
    match scalar(raw).as_deref() {
        Some("true") if !matches!(raw, Raw::String(_)) => Ok(true),
        Some("false") if !matches!(raw, Raw::String(_)) => Ok(false),
        _ => Err("must be true or false, without quotes".to_owned()),
    }
}

/// A whole number from `min` to `max`.
pub(super) fn integer<T>(min: T, max: T) -> impl Fn(&Raw) -> Result<T, String>
where
    T: Copy + PartialOrd + TryFrom<i64> + std::fmt::Display,
{
    move |raw| {
        let number: i64 = match raw {
            Raw::Integer(number) => *number,
            Raw::Text(text) => text.trim().parse().map_err(|_| "must be a whole number".to_owned())?,
            _ => return Err("must be a whole number".to_owned()),
        };
        match T::try_from(number) {
            Ok(fits) if (min..=max).contains(&fits) => Ok(fits),
            Ok(fits) if fits < min => Err(format!("must be at least {min}, is {number}")),
            // An unsigned T has no place for it.
            Err(_) if number < 0 => Err(format!("must be at least {min}, is {number}")),
            _ => Err(format!("must be at most {max}, is {number}")),
        }
    }
}

pub(super) fn millis(min: u64, max: u64) -> impl Fn(&Raw) -> Result<Duration, String> {
    move |raw| Ok(Duration::from_millis(integer(min, max)(raw)?))
}

pub(super) fn ratio(raw: &Raw) -> Result<f64, String> {
    let text = match raw {
        Raw::String(_) => None,
        _ => scalar(raw),
    };
    let number = text.and_then(|text| text.trim().parse().ok());
    number.filter(|number| (0.0..=1.0).contains(number)).ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// A size in bytes: a whole number, or one with KiB, MiB, GiB, kB, MB or GB.
pub(super) fn size(min: usize, max: usize) -> impl Fn(&Raw) -> Result<usize, String> {
    move |raw| {
        let text = scalar(raw).unwrap_or_default();
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let unit = match text[digits..].trim() {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            "kB" | "KB" => Some(1_000),
            "MB" => Some(1_000_000),
            "GB" => Some(1_000_000_000),
            _ => None,
        };
        let bytes = unit.and_then(|unit: usize| text[..digits].parse::<usize>().ok()?.checked_mul(unit));
        match bytes {
            None => Err(format!("must be a size such as \"8MiB\", is {text:?}")),
            Some(bytes) if bytes < min => Err(format!("must be at least {min} bytes, is {bytes}")),
            Some(bytes) if bytes > max => Err(format!("must be at most {max} bytes, is {bytes}")),
            Some(bytes) => Ok(bytes),
        }
    }
}

/// A list of strings; commas separate them in a flag or a variable.
pub(super) fn list(raw: &Raw) -> Result<Vec<String>, String> {
    let items: Vec<String> = match raw {
        Raw::Text(joined) => joined.split(',').map(|item| item.trim().to_owned()).collect(),
        Raw::List(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        _ => return Err("must be a list of strings, such as [\"a\", \"b\"]".to_owned()),
    };
    if items.is_empty() || items.iter().any(|item| item.trim().is_empty()) {
        return Err("must name at least one, and none may be empty".to_owned());
    }
    Ok(items)
}

/// A single value as it was written; `None` for a list.
pub(super) fn scalar(raw: &Raw) -> Option<String> {
    match raw {
        Raw::Text(text) | Raw::String(text) | Raw::Float(text) => Some(text.clone()),
        Raw::Integer(number) => Some(number.to_string()),
        Raw::Boolean(yes) => Some(yes.to_string()),
        Raw::List(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let read = |text: &str| size(1, usize::MAX)(&Raw::String(text.to_owned()));
        assert_eq!(read("8MiB"), Ok(8 << 20));
        assert_eq!(read("10 kB"), Ok(10_000));
        assert_eq!(read("2GB"), Ok(2_000_000_000));
        assert_eq!(read("7"), Ok(7));
        assert_eq!(size(1, 100)(&Raw::Integer(64)), Ok(64));
        for wrong in ["", "MiB", "8 miles", "-1", "0", "1.5MiB", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whole_numbers_name_the_limit_they_break() {
        let read = |number| integer::<u16>(1, 60_000)(&Raw::Integer(number));
        assert_eq!(read(1), Ok(1));
        assert_eq!(read(60_000), Ok(60_000));
        for too_small in [0, -1, i64::MIN] {
            assert_eq!(read(too_small), Err(format!("must be at least 1, is {too_small}")));
        }
        for too_large in [60_001, 70_000, i64::MAX] {
            assert_eq!(read(too_large), Err(format!("must be at most 60000, is {too_large}")));
        }
    }

    #[test]
    fn ratios_end_at_one() {
        for (text, read) in [("0", Some(0.0)), ("1", Some(1.0)), ("0.05", Some(0.05)), ("5e-2", Some(0.05))] {
            assert_eq!(ratio(&Raw::Text(text.to_owned())).ok(), read);
        }
        for wrong in ["nan", "inf", "1.01", "-0.1", "half", ""] {
            assert!(ratio(&Raw::Text(wrong.to_owned())).is_err(), "{wrong}");
        }
    }

    #[test]
    fn distances_are_single_letters() {
        assert_eq!(distance("batch.row_max", "batch.rows_max"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
