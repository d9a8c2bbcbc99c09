//! Arguments, configuration, logger, command, exit code.

use std::io::Write;
use std::process::ExitCode;
use stock_db_writer::cli;

fn main() -> ExitCode {
    // A variable that isn't UTF-8 can't be one of ours, and must not end us.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match cli::run(std::env::args_os(), environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            for line in stop.message.lines() {
                // Not by eprintln, which panics where stderr is on a full disk; then the code alone must say it.
                let _ = writeln!(std::io::stderr(), "stock-db-writer: {line}");
            }
            ExitCode::from(stop.code as u8)
        }
    }
}
