//! How fast, how soon and at what cost the whole worker moves rows: the real binary, a real Kafka, a real PostgreSQL.
//!
//! `dev/bench` builds it, starts servers of its own for it and calls it. Here is what it measures, part by part:
//!
//! - [`drain`]: how fast a backlog is drained, against the LIMIT: PostgreSQL's own COPY of the same rows from a file on
//!   its side, in the order in which they arrive, into the same table with the same indexes. Round by round, so that the
//!   ratios of a round are comparable on a noisy machine. **Another contestant is one more line in `drain::contestants`.**
//! - [`latency`]: how soon a record is a row that a reader sees, at an even rate; and what an idle worker costs.
//! - [`growth`]: whether a row costs more when there are more rows, partitions or symbols, or with other batches.
//! - [`indexes`]: what each index of the table costs, and a table by month.
//! - [`memory`]: the largest resident set under loads that are hard to hold.
//!
//! What they stand on: [`services`] (addresses, topics, tables), [`backlog`] (what is in the topics), [`worker`] (the
//! process), [`limit`] (the COPY), [`contest`] (one measured run), [`processes`] (CPU and memory by /proc), [`report`].
//!
//! Relies on Linux, kcat and setpriv. Nothing here knows the worker's code but for the defaults of its settings.

mod backlog;
mod contest;
mod drain;
mod growth;
mod indexes;
mod latency;
mod limit;
mod memory;
mod options;
mod processes;
mod report;
mod services;
mod worker;

use options::{Options, Part};
use report::Report;
use services::Services;
use std::error::Error;
use std::process::ExitCode;

/// Whatever went wrong ends the program: half a measurement is none.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(code) => return code,
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = format!("bench: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                line.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let services = Services::from_environment()?;
    let mut report = Report::new(options.json);
    for part in options.parts() {
        match part {
            Part::Drain => drain::measure(options, &services, &mut report)?,
            Part::Latency => latency::measure(options, &services, &mut report)?,
            Part::Growth => growth::measure(options, &services, &mut report)?,
            Part::Indexes => indexes::measure(options, &services, &mut report)?,
            Part::Memory => memory::measure(options, &services, &mut report)?,
        }
    }
    Ok(())
}

/// What is going on, for whoever waits.
fn say(message: &str) {
    eprintln!("bench: {message}");
}
