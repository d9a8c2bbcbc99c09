//! Arguments, configuration, logger, command, exit code.

use std::process::ExitCode;
use stock_db_writer::cli;

fn main() -> ExitCode {
    match cli::run(std::env::args_os(), std::env::vars()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            for line in stop.message.lines() {
                eprintln!("stock-db-writer: {line}");
            }
            ExitCode::from(stop.code as u8)
        }
    }
}
