//! What was measured, as tables or as one JSON object a line; and medians.
//!
//! Tables are for people: right-aligned, a line at a time, so that an interrupted run has shown what it had.

use serde_json::{Map, Value as Json};

/// Where results go: stdout.
pub struct Report {
    json: bool,
}

impl Report {
    pub fn new(json: bool) -> Report {
        Report { json }
    }

    /// A part begins.
    pub fn title(&self, title: &str) {
        if !self.json {
            println!("\n{title}");
        }
    }

    /// A table with these columns and the object of each line. A column is as wide as what is longest in it.
    pub fn table(&self, columns: &[&str], lines: &[Line]) {
        if self.json {
            lines.iter().for_each(|line| println!("{}", Json::Object(line.json.clone())));
            return;
        }
        let cell = |line: &Line, i: usize| line.cells.get(i).cloned().unwrap_or_default();
        let width = |i: usize| {
            let widest = lines.iter().map(|line| cell(line, i).chars().count()).max().unwrap_or_default();
            widest.max(columns[i].chars().count())
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let print = |cells: Vec<String>| {
            let cells: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(i, (cell, &width))| if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
                .collect();
            println!("{}", cells.join("  ").trim_end());
        };
        print(columns.iter().map(ToString::to_string).collect());
        lines.iter().for_each(|line| print((0..columns.len()).map(|i| cell(line, i)).collect()));
    }

    /// One line that is no table, and its object.
    pub fn note(&self, text: &str, json: Json) {
        if self.json { println!("{json}") } else { println!("{text}") }
    }
}

/// A line of a table, for both kinds of readers.
pub struct Line {
    cells: Vec<String>,
    json: Map<String, Json>,
}

impl Line {
    /// Of this part; the first cell names the line under this key.
    pub fn new(part: &str, key: &str, name: &str) -> Line {
        let mut json = Map::new();
        json.insert("part".to_owned(), part.into());
        json.insert(key.to_owned(), name.into());
        Line { cells: vec![name.to_owned()], json }
    }

    /// A figure: shown so, and under this key.
    pub fn with(mut self, shown: impl Into<String>, key: &str, value: impl Into<Json>) -> Line {
        self.cells.push(shown.into());
        self.json.insert(key.to_owned(), value.into());
        self
    }

    /// A median with its range, each with so many decimals. What was not measured is a dash, and null.
    pub fn with_range(self, range: Option<Range>, decimals: usize, key: &str) -> Line {
        let Some(Range { median, least, most }) = range else { return self.with("-", key, Json::Null) };
        self.with(format!("{median:.decimals$} ({least:.decimals$}-{most:.decimals$})"), key, rounded(median))
            .also(&format!("{key}_min"), rounded(least))
            .also(&format!("{key}_max"), rounded(most))
    }

    /// One figure of many, as its median.
    pub fn with_median(self, range: Option<Range>, decimals: usize, key: &str) -> Line {
        match range {
            Some(range) => self.with(format!("{:.decimals$}", range.median), key, rounded(range.median)),
            None => self.with("-", key, Json::Null),
        }
    }

    /// What only the object holds.
    pub fn also(mut self, key: &str, value: impl Into<Json>) -> Line {
        self.json.insert(key.to_owned(), value.into());
        self
    }
}

/// To a millionth: more digits than that are noise.
pub fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// The median of some figures, their least and their most.
#[derive(Clone, Copy)]
pub struct Range {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Range {
    /// None of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Range> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let (least, most) = (*values.first()?, *values.last()?);
        let median = if n % 2 == 1 { values[n / 2] } else { (values[n / 2 - 1] + values[n / 2]) / 2.0 };
        Some(Range { median, least, most })
    }
}
