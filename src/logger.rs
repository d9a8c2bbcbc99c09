//! Log lines on stderr: text for people or JSON for machines; the level by `RUST_LOG`.

use crate::config::LogFormat;
use chrono::{SecondsFormat, Utc};
use std::io::Write;

/// What is logged where `RUST_LOG` says nothing. The Kafka client logs every poll at info and repeats every failure at
/// warn; what matters of it the source says itself, once.
const DEFAULT_FILTER: &str = "info,krafka=off,kafka=off,tracing=off,rustls=warn,r2d2=off";

/// Starts logging. Called once, by `main`.
pub fn start(format: LogFormat) {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    // Later directives win, so the operator's come last.
    let filter =
        if filter.trim().is_empty() { DEFAULT_FILTER.to_owned() } else { format!("{DEFAULT_FILTER},{filter}") };
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filter);
    builder.format(move |out, record| {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("-");
        match format {
            LogFormat::Text => writeln!(out, "{time} {:<5} {thread} {}", record.level(), record.args()),
            LogFormat::Json => {
                let line = serde_json::json!({
                    "time": time,
                    "level": record.level().as_str(),
                    "thread": thread,
                    "message": record.args().to_string(),
                });
                writeln!(out, "{line}")
            }
        }
    });
    // A second logger is refused; the first goes on.
    let _ = builder.try_init();
}
