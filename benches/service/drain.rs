//! How fast a backlog is drained, by each contestant in each round.

use crate::backlog::{Keys, Load};
use crate::contest::{self, Runs, USAGE};
use crate::limit::Limit;
use crate::options::Options;
use crate::report::{Line, Report};
use crate::services::Services;
use crate::worker::{Used, Worker};
use crate::{Outcome, say};

const TOPIC: &str = "bench_drain";
const LIMIT_1: &str = "limit-1";
const LIMIT_2: &str = "limit-2";

/// Moves all rows into the empty table, in whatever way; it is given the round.
type Contest<'a> = Box<dyn Fn(u64) -> Outcome<Option<Used>> + 'a>;

/// In the order in which they run in each round. Both LIMITs must be among them.
fn contestants<'a>(options: &Options, services: &'a Services, limits: &'a [Limit; 2]) -> Vec<(String, Contest<'a>)> {
    let mut contestants: Vec<(String, Contest)> = Vec::new();
    let mut add = |name: String, contest: Contest<'a>| contestants.push((name, contest));
    add(LIMIT_1.to_owned(), Box::new(|_| limits[0].copy(services).map(|()| None)));
    for n_writers in options.writers() {
        add(
            format!("drain-{n_writers}"),
            Box::new(move |round| {
                let worker = Worker::reading(services, &format!("bench_{n_writers}_{round}"), TOPIC);
                worker.set("writers.count", n_writers).run_once(&["run", "--until-end"]).map(Some)
            }),
        );
    }
    add(LIMIT_2.to_owned(), Box::new(|_| limits[1].copy(services).map(|()| None)));
    contestants
}

/// All rounds, and their table.
pub fn measure(options: &Options, services: &Services, report: &mut Report) -> Outcome<()> {
    let load = Load {
        records: options.records(),
        symbols: options.symbols,
        keys: Keys::Symbol,
        codec: options.codec.clone(),
        padding: 0,
        batch_bytes: None,
    };
    say(&format!("drain: sending {} records to {} partitions ({})", load.records, options.partitions, load.codec));
    let topics = [TOPIC.to_owned()];
    services.create_topics(&topics, options.partitions)?;
    load.send(services, TOPIC)?;
    let limits = [Limit::prepare(services, &load, "drain", 1)?, Limit::prepare(services, &load, "drain", 2)?];
    let contestants = contestants(options, services, &limits);
    let mut runs: Vec<Runs> = contestants.iter().map(|_| Runs::default()).collect();
    for round in 1..=options.rounds() {
        say(&format!("drain: round {round} of {}", options.rounds()));
        for ((name, contest), runs) in contestants.iter().zip(&mut runs) {
            let run = contest::measure(services, load.records, || contest(round));
            runs.0.push(run.map_err(|error| format!("{name}: {error}"))?);
        }
    }
    services.delete_topics(&topics)?;
    let of = |name: &str| contestants.iter().position(|(other, _)| other == name).map(|i| &runs[i]);
    let (one, two) = (of(LIMIT_1).ok_or("no LIMIT")?, of(LIMIT_2).ok_or("no LIMIT")?);
    let lines: Vec<Line> = contestants
        .iter()
        .zip(&runs)
        .map(|((name, _), runs)| {
            let seconds = runs.seconds();
            let rows_per_second = seconds.map_or(0.0, |seconds| load.records as f64 / seconds.median);
            let line = Line::new("drain", "contestant", name)
                .with_range(seconds, 2, "seconds")
                .with(format!("{rows_per_second:.0}"), "rows_per_second", rows_per_second.round())
                .with_range(runs.ratio_of(one), 2, "ratio_limit_1")
                .with_range(runs.ratio_of(two), 2, "ratio_limit_2");
            runs.usage(line, load.records).also("records", load.records).also("rounds", options.rounds())
        })
        .collect();
    let [worker, backends, rss] = USAGE;
    report.title(&format!(
        "drain: {} records, {} partitions, {} symbols, {}, rounds: {}",
        load.records,
        options.partitions,
        load.symbols,
        load.codec,
        options.rounds()
    ));
    report.table(&["", "seconds", "rows/s", "LIMIT 1 backend", "2 backends", worker, backends, rss], &lines);
    Ok(())
}
