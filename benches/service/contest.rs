//! One measured run: empty tables, a checkpoint, the run, and a look whether every row is there.

use crate::Outcome;
use crate::processes::Backends;
use crate::report::{Line, Range, rounded};
use crate::services::Services;
use crate::worker::Used;
use std::time::{Duration, Instant};

/// What a run took.
#[derive(Clone, Copy)]
pub struct Run {
    pub took: Duration,
    /// `None` where no worker took part.
    pub worker: Option<Used>,
    pub backends_cpu: Duration,
    pub rest_cpu: Duration,
}

/// Measures `run`, which must leave `records` rows.
pub fn measure(services: &Services, records: u64, run: impl FnOnce() -> Outcome<Option<Used>>) -> Outcome<Run> {
    services.execute("TRUNCATE stock_prices, writer_offsets")?;
    services.execute("CHECKPOINT")?;
    let backends = Backends::before(services.postmaster)?;
    let begun = Instant::now();
    let worker = run()?;
    let took = begun.elapsed();
    let postgres = backends.after()?;
    let n = services.number("SELECT count(*) FROM stock_prices")?;
    if n != records as i64 {
        return Err(format!("{n} rows instead of {records}").into());
    }
    Ok(Run { took, worker, backends_cpu: postgres.backends, rest_cpu: postgres.rest })
}

/// The runs of one contestant, round by round.
#[derive(Default)]
pub struct Runs(pub Vec<Run>);

impl Runs {
    /// Seconds.
    pub fn seconds(&self) -> Option<Range> {
        Range::of(self.0.iter().map(|run| run.took.as_secs_f64()))
    }

    /// The other's time divided by this one's, each in the same round.
    pub fn ratio_of(&self, other: &Runs) -> Option<Range> {
        Range::of(other.0.iter().zip(&self.0).map(|(other, own)| other.took.as_secs_f64() / own.took.as_secs_f64()))
    }

    /// The largest resident set of any round, in MiB.
    pub fn peak_rss_mib(&self) -> Option<f64> {
        let bytes = self.0.iter().filter_map(|run| Some(run.worker?.peak_rss)).max()?;
        Some(bytes as f64 / f64::from(1 << 20))
    }

    /// The columns of CPU time and memory, [`USAGE`]. What the rest of PostgreSQL took is next to nothing: JSON only.
    pub fn usage(&self, line: Line, records: u64) -> Line {
        let per_row = |used: Duration| used.as_secs_f64() * 1e6 / records as f64;
        let worker = Range::of(self.0.iter().filter_map(|run| Some(per_row(run.worker?.cpu))));
        let backends = Range::of(self.0.iter().map(|run| per_row(run.backends_cpu)));
        let rest = Range::of(self.0.iter().map(|run| per_row(run.rest_cpu)));
        let rss = self.peak_rss_mib();
        line.with_median(worker, 2, "worker_cpu_us_per_row")
            .with_median(backends, 2, "backends_cpu_us_per_row")
            .also("postgres_rest_cpu_us_per_row", rest.map(|rest| rounded(rest.median)))
            .with_median(rss.and_then(|rss| Range::of([rss])), 0, "worker_rss_mib")
    }
}

/// The names of the columns of [`Runs::usage`].
pub const USAGE: [&str; 3] = ["worker us", "backends us", "MiB"];
