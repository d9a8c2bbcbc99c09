//! Log lines on stderr: text for people or JSON for machines. Their level is the configuration's, or `RUST_LOG`'s.

pub mod line;
mod repeats;

use crate::config::{Log, LogFormat};
use crate::progress;
use chrono::{SecondsFormat, Utc};
use env_logger::{Builder, Logger, Target};
use log::{Metadata, Record};
use repeats::Repeats;
use std::io::Write;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Instant;

/// What is logged whatever the level. The Kafka clients log every poll at info and repeat every failure at warn; what
/// matters of it the source says itself, once.
const QUIET: &str = "krafka=off,kafka=off,tracing=off,rustls=warn,r2d2=off,hyper=warn,ureq=off";

/// The one logger of the process, which can be replaced by one of another level.
static LOGGER: OnceLock<Replaceable> = OnceLock::new();

/// What was said by whichever logger.
static REPEATS: Repeats = Repeats::new();

struct Replaceable(RwLock<Logger>);

impl log::Log for Replaceable {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).log(record);
    }

    fn flush(&self) {}
}

/// What `RUST_LOG` asks for, which outweighs the configuration's level; `None`: nothing.
pub fn environment() -> Option<String> {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    Some(asked.trim().to_owned()).filter(|asked| !asked.is_empty())
}

/// Starts logging, or goes on with another level or format.
pub fn set(log: Log) {
    let logger = build(log);
    let filter = logger.filter();
    match LOGGER.get() {
        Some(current) => *current.0.write().unwrap_or_else(PoisonError::into_inner) = logger,
        None => {
            let current = LOGGER.get_or_init(|| Replaceable(RwLock::new(logger)));
            // A second logger is refused; the first goes on.
            let _ = log::set_logger(current);
        }
    }
    log::set_max_level(filter);
}

fn build(log: Log) -> Logger {
    // Later directives win, so the operator's come last.
    let filter = match environment() {
        None => format!("{},{QUIET}", log.level.as_str()),
        Some(asked) => format!("{},{QUIET},{asked}", log.level.as_str()),
    };
    let mut builder = Builder::new();
    builder.parse_filters(&filter);
    builder.target(Target::Pipe(Box::new(progress::AboveBars)));
    builder.format(move |out, record| {
        let Some(left_out) = REPEATS.admit(record, Instant::now()) else { return Ok(()) };
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("-");
        match log.format {
            LogFormat::Text => {
                let text = line::text(record);
                let left_out = if left_out > 0 { format!(" (and {left_out} like it before)") } else { String::new() };
                writeln!(out, "{time} {:<5} {thread} {text}{left_out}", record.level())
            }
            LogFormat::Json => writeln!(out, "{}", line::json(record, &time, thread, left_out)),
        }
    });
    builder.build()
}
