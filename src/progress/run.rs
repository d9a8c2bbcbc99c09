//! How a run gets on: records, records a second, what is left, and how long that will take.

use super::{BAR_INTERVAL, BARS, LINE_INTERVAL};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const BAR: &str = "{wide_bar} {percent:>3}%  {msg}";
/// The pace is that of so long.
const PACE_OVER: Duration = Duration::from_secs(10);

/// Shows on stderr how a run gets on: a bar on a terminal, else a line every ten seconds.
pub struct RunProgress {
    // `None`: no terminal.
    bar: Option<ProgressBar>,
    shown_at: Instant,
    // Looks of the last seconds: when, and how many records were durable.
    looks: VecDeque<(Instant, u64)>,
}

impl RunProgress {
    /// Begins. On a terminal a bar is drawn; elsewhere lines are written.
    pub fn start() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = BARS.add(ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()));
            bar.set_style(ProgressStyle::with_template(BAR).expect("the template is well formed"));
            bar
        });
        RunProgress { bar, shown_at: Instant::now(), looks: VecDeque::from([(Instant::now(), 0)]) }
    }

    /// `n_durable` records are durable, and `n_left` wait in Kafka, as far as that is known.
    pub fn reached(&mut self, n_durable: u64, n_left: Option<u64>) {
        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        if self.shown_at.elapsed() < interval {
            return;
        }
        self.shown_at = Instant::now();
        let text = text(n_durable, n_left, self.pace(self.shown_at, n_durable));
        match &self.bar {
            Some(bar) => {
                bar.set_length(n_durable + n_left.unwrap_or(0));
                bar.set_position(n_durable);
                bar.set_message(text);
            }
            // Nobody is left to be told that stderr is closed.
            None => drop(writeln!(std::io::stderr(), "run: {text}")),
        }
    }

    /// Records a second.
    fn pace(&mut self, now: Instant, n_durable: u64) -> f64 {
        while self.looks.len() > 1 && self.looks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= PACE_OVER) {
            self.looks.pop_front();
        }
        self.looks.push_back((now, n_durable));
        let (since, before) = self.looks[0];
        n_durable.saturating_sub(before) as f64 / now.duration_since(since).as_secs_f64().max(0.001)
    }
}

/// The bar goes; what the run has come to is in the log.
impl Drop for RunProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `1,200 records, 300/s, lag 3,800, 13 seconds left`
fn text(n_durable: u64, n_left: Option<u64>, pace: f64) -> String {
    let left = n_left.map_or("?".to_owned(), |n_left| HumanCount(n_left).to_string());
    let mut text = format!("{} records, {}/s, lag {left}", HumanCount(n_durable), HumanCount(pace.round() as u64));
    if let Some(n_left) = n_left
        && n_left > 0
        && let Ok(eta) = Duration::try_from_secs_f64(n_left as f64 / pace)
    {
        text.push_str(&format!(", {} left", HumanDuration(eta)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_how_fast_how_far_behind_and_for_how_long() {
        assert_eq!(text(1_200, Some(3_900), 300.0), "1,200 records, 300/s, lag 3,900, 13 seconds left");
        assert_eq!(text(1_200, Some(0), 0.4), "1,200 records, 0/s, lag 0");
        assert_eq!(text(0, Some(5), 0.0), "0 records, 0/s, lag 5");
        assert_eq!(text(7, None, 1.0), "7 records, 1/s, lag ?");
    }

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let begun = Instant::now();
        let looks = VecDeque::from([(begun, 0)]);
        let mut progress = RunProgress { bar: None, shown_at: begun, looks };
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(progress.pace(at(2), 200), 100.0);
        // A long pause is not remembered for ever.
        for seconds in 3..40 {
            progress.pace(at(seconds), 200);
        }
        assert_eq!(progress.pace(at(40), 1_200), 100.0);
    }
}
