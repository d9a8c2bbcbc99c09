//! Shows on stderr how far long work has come: a bar on a terminal, else a line every ten seconds.
//!
//! The only place that draws. Work that is done before anybody could wonder shows nothing at all.

mod run;

pub use run::RunProgress;

use indicatif::{HumanBytes, HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Between two looks at the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const BAR: &str = "{wide_bar} {percent:>3}%  {msg}  {eta} left";
const SPINNER: &str = "{spinner} {msg}";

/// All that is drawn, so that log lines can be written above it.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// stderr, for whole lines: what is drawn there goes away for as long as they are written.
#[derive(Debug, Clone, Copy)]
pub struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// What "all of it" is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// So many bytes; things are counted beside them.
    Bytes(u64),
    /// So many things.
    Things(u64),
    /// Not known: there is only a count of things, and only on a terminal, because what has no end would fill a log.
    Unknown,
}

/// How far some work has come.
pub struct Progress {
    // What the lines begin with, and what is counted, in the plural.
    names: Option<(&'static str, &'static str)>,
    extent: Extent,
    // Hidden where stderr is no terminal.
    bar: ProgressBar,
    begun: Instant,
    shown: Instant,
}

impl Progress {
    /// Shows nothing.
    pub fn none() -> Self {
        let now = Instant::now();
        Progress { names: None, extent: Extent::Unknown, bar: ProgressBar::hidden(), begun: now, shown: now }
    }

    /// Begins: `work` is done on `things`, such as "explain" on "messages".
    pub fn start(work: &'static str, things: &'static str, extent: Extent) -> Self {
        let (length, template) = match extent {
            Extent::Bytes(length) | Extent::Things(length) => (Some(length), BAR),
            Extent::Unknown => (None, SPINNER),
        };
        let bar = BARS.add(ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden()));
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are well formed"));
        Progress { names: Some((work, things)), extent, bar, ..Progress::none() }
    }

    /// `n_things` are done, and `bytes`, which only matter where the extent is in bytes.
    pub fn reached(&mut self, n_things: u64, bytes: u64) {
        let Some((work, things)) = self.names else { return };
        let is_bar = !self.bar.is_hidden();
        let interval = if is_bar { BAR_INTERVAL } else { LINE_INTERVAL };
        if self.shown.elapsed() < interval || (!is_bar && self.extent == Extent::Unknown) {
            return;
        }
        self.shown = Instant::now();
        let elapsed = self.begun.elapsed();
        if is_bar {
            self.bar.set_message(count(self.extent, things, n_things, bytes, elapsed));
            self.bar.set_position(if let Extent::Bytes(_) = self.extent { bytes } else { n_things });
        } else {
            let left = left(self.extent, n_things, bytes, elapsed);
            self.say(&format!("{work}: {}{left}", count(self.extent, things, n_things, bytes, elapsed)));
        }
    }

    /// Says something on stderr, in a line of its own.
    pub fn say(&self, line: &str) {
        // Nobody is left to be told that stderr is closed.
        let _ = AboveBars.write_all(format!("{line}\n").as_bytes());
    }
}

/// The bar goes; what the work has come to is said elsewhere.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `1,200 of 5,000 records, 300/s`
fn count(extent: Extent, things: &str, n_things: u64, bytes: u64, elapsed: Duration) -> String {
    let rate = HumanCount((n_things as f64 / elapsed.as_secs_f64().max(0.001)) as u64);
    let done = HumanCount(n_things);
    match extent {
        Extent::Bytes(all) => format!("{} of {}, {done} {things}, {rate}/s", HumanBytes(bytes), HumanBytes(all)),
        Extent::Things(all) => format!("{done} of {} {things}, {rate}/s", HumanCount(all)),
        Extent::Unknown => format!("{done} {things}, {rate}/s"),
    }
}

/// `, 3 minutes left`
fn left(extent: Extent, n_things: u64, bytes: u64, elapsed: Duration) -> String {
    let (done, all) = match extent {
        Extent::Bytes(all) => (bytes, all),
        Extent::Things(all) => (n_things, all),
        Extent::Unknown => return String::new(),
    };
    let left = elapsed.as_secs_f64() * all.saturating_sub(done) as f64 / done.max(1) as f64;
    match Duration::try_from_secs_f64(left) {
        Ok(left) if done > 0 => format!(", {} left", HumanDuration(left)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much_and_how_fast() {
        let elapsed = Duration::from_secs(10);
        let records = Extent::Things(5_000);
        assert_eq!(count(records, "records", 1_200, 0, elapsed), "1,200 of 5,000 records, 120/s");
        assert_eq!(left(records, 1_250, 0, elapsed), ", 30 seconds left");
        let bytes = Extent::Bytes(3 << 20);
        assert_eq!(count(bytes, "messages", 7, 1 << 20, elapsed), "1.00 MiB of 3.00 MiB, 7 messages, 0/s");
        assert_eq!(left(bytes, 7, 1 << 20, elapsed), ", 20 seconds left");
        assert_eq!(count(Extent::Unknown, "records", 7, 0, Duration::ZERO), "7 records, 7,000/s");
        // A file that has grown, and one that has just been begun.
        assert_eq!(left(bytes, 7, 5 << 20, elapsed), ", 0 seconds left");
        assert_eq!(left(bytes, 0, 0, elapsed) + &left(Extent::Unknown, 7, 0, elapsed), "");
    }

    #[test]
    fn the_templates_are_well_formed_and_short_work_shows_nothing() {
        for extent in [Extent::Bytes(10), Extent::Things(10), Extent::Unknown] {
            let mut progress = Progress::start("test", "things", extent);
            progress.reached(10, 10);
            assert!(progress.shown.elapsed() < BAR_INTERVAL || progress.bar.position() == 0);
        }
    }
}
