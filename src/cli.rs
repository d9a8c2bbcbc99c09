//! The command line: what can be asked for, and which configuration it is done with.

use crate::commands;
use crate::config::{Config, Sources};
use crate::exit::{ExitCode, Stop};
use crate::logger;
use crate::supervisor;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  stock-db-writer check                       would a run work? every finding at once
  stock-db-writer run                         consume until stopped
  stock-db-writer run --until-end             drain what is there now, then exit (cron)
  stock-db-writer --set kafka.brokers=k1:9092,k2:9092 --set batch.linger_ms=50 run
  STOCK_DB_WRITER__KAFKA__GROUP=prices DATABASE_URL=postgresql://db/stocks stock-db-writer status

Every key of writer.toml can be set by --set KEY=VALUE or by a variable STOCK_DB_WRITER__SECTION__KEY.
Exit codes: 0 done, 64 usage, 65 the data needs a decision, 69 a server stayed away, 70 invariant broken,
74 corruption, 75 try again later, 77 permission, 78 configuration or schema, 130/143 second signal.";

/// Moves stock prices and windowed metrics from Kafka into PostgreSQL, every record exactly once.
#[derive(Debug, Parser)]
#[command(name = "stock-db-writer", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    /// Configuration file [default: $STOCK_DB_WRITER_CONFIG, ./writer.toml or /etc/stock-db-writer/writer.toml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Sets one key of the configuration, over file and environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Consume until stopped
    #[command(after_help = "SIGTERM or SIGINT finishes what is open within 10 s; a second one ends at once.")]
    Run {
        /// Drain to the end offsets captured at start, then exit 0; 75 if another such run holds the pipeline
        #[arg(long)]
        until_end: bool,
    },
    /// Look at configuration, both servers, schema, privileges and offsets; 0 means that a run would work
    Check,
    /// Create or migrate the tables
    Init {
        /// Only show the SQL; connects to nothing
        #[arg(long)]
        print: bool,
    },
    /// Show for each partition where it stands, who owns it and how far it lags
    Status {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// Does what the command line asks for. The error's message may have several lines, one for each thing that is wrong.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(), Stop> {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // --help and --version. A reader that has gone wants no more of it.
            let _ = error.print();
            return Ok(());
        }
        Err(error) => {
            let text = error.render().to_string();
            return Err(Stop::new(ExitCode::Usage, text.trim().trim_start_matches("error: ").to_owned()));
        }
    };
    let sources =
        Sources { file: arguments.config, set: arguments.set, environment: environment.into_iter().collect() };
    let config = Config::load(&sources).map_err(|errors| Stop::new(ExitCode::Config, errors.to_string()))?;
    logger::start(config.log_format);
    match arguments.command {
        Command::Run { until_end } => supervisor::run(config, until_end),
        Command::Check => commands::check(&config),
        Command::Init { print: true } => commands::print_schema(&config),
        Command::Init { print: false } => commands::init(&config),
        Command::Status { json } => commands::status(&config, json),
    }
}
