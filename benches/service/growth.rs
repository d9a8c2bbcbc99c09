//! Whether a row costs more as the work grows: one question at a time, everything else as it is.
//!
//! The topics of a question are all sent first, then drained by two writers in rounds, size by size. Where the LIMIT
//! could grow as well (more rows and more symbols are a matter of the indexes), it is measured beside.
//!
//! What a row costs at the begin and at the end: at the first and at the last size. Where the number of rows itself grows,
//! what a run costs once would hide it: there it is what the rows between two sizes took.

use crate::backlog::{Keys, Load};
use crate::contest::{self, Runs, USAGE};
use crate::limit::Limit;
use crate::options::Options;
use crate::report::{Line, Range, Report, rounded};
use crate::services::Services;
use crate::worker::Worker;
use crate::{Outcome, say};
use serde_json::json;

const ROUNDS_MAX: u64 = 3;
const WRITERS: u64 = 2;
const PARTITIONS: i32 = 3;
const SYMBOLS: u64 = 500;

/// Something that grows.
struct Question {
    name: &'static str,
    grows: &'static str,
    /// Whether the LIMIT is measured beside.
    beside_limit: bool,
    points: Vec<Point>,
}

/// One size of it.
struct Point {
    size: u64,
    records: u64,
    partitions: i32,
    symbols: u64,
    rows_max: Option<u64>,
}

impl Point {
    /// Points with the same backlog have the same topic.
    fn topic(&self) -> String {
        format!("bench_growth_{}_{}_{}", self.records, self.partitions, self.symbols)
    }

    fn load(&self, codec: &str) -> Load {
        let (records, symbols) = (self.records, self.symbols);
        Load { records, symbols, keys: Keys::Number, codec: codec.to_owned(), padding: 0, batch_bytes: None }
    }
}

fn questions(options: &Options) -> Vec<Question> {
    let records = if options.quick { 200_000 } else { 1_000_000 };
    let point = |size: u64| Point { size, records, partitions: PARTITIONS, symbols: SYMBOLS, rows_max: None };
    let largest = if options.quick { records } else { options.growth_max };
    let mut rows: Vec<u64> = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000].into();
    rows.retain(|&n| n < largest);
    rows.push(largest);
    vec![
        Question {
            name: "rows",
            grows: "rows",
            beside_limit: true,
            points: rows.into_iter().map(|n| Point { records: n, ..point(n) }).collect(),
        },
        Question {
            name: "partitions",
            grows: "partitions",
            beside_limit: false,
            points: [1, 3, 30, 300].into_iter().map(|n| Point { partitions: n, ..point(n as u64) }).collect(),
        },
        Question {
            name: "symbols",
            grows: "symbols",
            beside_limit: true,
            points: [1, 10, 10_000].into_iter().map(|n| Point { symbols: n, ..point(n) }).collect(),
        },
        Question {
            name: "batch",
            grows: "batch.rows_max",
            beside_limit: false,
            points: [100, 1_000, 10_000, 50_000].into_iter().map(|n| Point { rows_max: Some(n), ..point(n) }).collect(),
        },
    ]
}

/// All questions, a table for each.
pub fn measure(options: &Options, services: &Services, report: &mut Report) -> Outcome<()> {
    for question in questions(options).iter().filter(|question| options.asks(question.name)) {
        ask(question, options, services, report)?;
    }
    Ok(())
}

fn ask(question: &Question, options: &Options, services: &Services, report: &mut Report) -> Outcome<()> {
    let mut topics = Vec::new();
    for point in &question.points {
        let topic = point.topic();
        if !topics.contains(&topic) {
            say(&format!("growth, {}: sending {} records to {topic}", question.name, point.records));
            services.create_topics(std::slice::from_ref(&topic), point.partitions)?;
            point.load(&options.codec).send(services, &topic)?;
            topics.push(topic);
        }
    }
    let limits: Vec<Option<Limit>> = question
        .points
        .iter()
        .map(|point| {
            let prepare =
                || Limit::prepare(services, &point.load(&options.codec), &format!("growth_{}", point.size), 1);
            question.beside_limit.then(prepare).transpose()
        })
        .collect::<Outcome<_>>()?;
    let n_rounds = options.rounds().min(ROUNDS_MAX);
    let mut runs: Vec<(Runs, Runs)> = question.points.iter().map(|_| Default::default()).collect();
    for round in 1..=n_rounds {
        for ((point, limit), (drains, copies)) in question.points.iter().zip(&limits).zip(&mut runs) {
            say(&format!("growth, {} {}: round {round} of {n_rounds}", question.name, point.size));
            if let Some(limit) = limit {
                let copy = || limit.copy(services).map(|()| None);
                copies.0.push(contest::measure(services, point.records, copy)?);
            }
            let pipeline = format!("bench_growth_{}_{}_{round}", question.name, point.size);
            let worker = Worker::reading(services, &pipeline, &point.topic()).set("writers.count", WRITERS);
            let worker = match point.rows_max {
                Some(n) => worker.set("batch.rows_max", n),
                None => worker,
            };
            let drain = || worker.run_once(&["run", "--until-end"]).map(Some);
            drains.0.push(contest::measure(services, point.records, drain)?);
        }
    }
    services.delete_topics(&topics)?;
    show(question, &runs, n_rounds, report);
    Ok(())
}

fn show(question: &Question, runs: &[(Runs, Runs)], n_rounds: u64, report: &mut Report) {
    let points = &question.points;
    let medians: Vec<f64> = runs.iter().filter_map(|(drains, _)| Some(drains.seconds()?.median)).collect();
    let lines: Vec<Line> = points
        .iter()
        .zip(runs)
        .enumerate()
        .map(|(i, (point, (drains, copies)))| {
            let seconds = drains.seconds();
            let us = seconds.map_or(0.0, |seconds| seconds.median * 1e6 / point.records as f64);
            let line = Line::new("growth", "size", &point.size.to_string())
                .with_range(seconds, 2, "seconds")
                .with(format!("{us:.2}"), "us_per_row", rounded(us))
                .with_median(further(question, &medians, i).and_then(|us| Range::of([us])), 2, "us_per_further_row")
                .with_median(drains.ratio_of(copies), 2, "ratio_limit_1");
            drains.usage(line, point.records).also("question", question.name).also("records", point.records)
        })
        .collect();
    let [worker, backends, rss] = USAGE;
    report.title(&format!(
        "growth: {} ({} records if not varied, {WRITERS} writers, rounds: {n_rounds})",
        question.grows,
        points.last().map_or(0, |point| point.records)
    ));
    report.table(&[question.grows, "seconds", "us/row", "further", "LIMIT", worker, backends, rss], &lines);
    note(question, "drain", runs.iter().map(|(drains, _)| drains), report);
    note(question, "LIMIT", runs.iter().map(|(_, copies)| copies), report);
}

/// The slope of one kind of runs, if there were any.
fn note<'r>(question: &Question, what: &str, runs: impl Iterator<Item = &'r Runs>, report: &mut Report) {
    let seconds: Option<Vec<f64>> = runs.map(|runs| Some(runs.seconds()?.median)).collect();
    let Some((begin, end)) = seconds.and_then(|seconds| slope(question, &seconds)) else { return };
    let text = format!("{what}: begin {begin:.2} us/row, end {end:.2} us/row, end / begin {:.2}", end / begin);
    let json = json!({
        "part": "growth", "question": question.name, "of": what,
        "us_per_row_begin": rounded(begin), "us_per_row_end": rounded(end), "ratio": rounded(end / begin),
    });
    report.note(&text, json);
}

/// Microseconds a row at the begin and at the end.
fn slope(question: &Question, seconds: &[f64]) -> Option<(f64, f64)> {
    let n = seconds.len();
    if question.name == "rows" {
        return (n >= 3).then(|| Some((further(question, seconds, 1)?, further(question, seconds, n - 1)?)))?;
    }
    let us = |i: usize| Some(seconds.get(i)? * 1e6 / question.points.get(i)?.records as f64);
    Some((us(0)?, us(n.checked_sub(1)?)?))
}

/// Microseconds for each row that this size has more than the one before.
fn further(question: &Question, seconds: &[f64], i: usize) -> Option<f64> {
    let records = |i: usize| Some(question.points.get(i)?.records as f64);
    let (before, is_about_rows) = (i.checked_sub(1)?, question.name == "rows");
    is_about_rows.then(|| Some((seconds.get(i)? - seconds.get(before)?) * 1e6 / (records(i)? - records(before)?)))?
}
