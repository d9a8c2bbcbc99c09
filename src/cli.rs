//! The command line: what can be asked for, and which configuration it is done with.

use crate::commands::explain::{self, Messages};
use crate::commands::{self, dead_letters, reset};
use crate::config::{Config, Sources};
use crate::dead_letters::{Filter, LetterId};
use crate::exit::{ExitCode, Stop};
use crate::logger;
use crate::reset::To;
use crate::row::Class;
use crate::supervisor;
use chrono::{DateTime, Utc};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  stock-db-writer check                       would a run work? every finding at once
  stock-db-writer run                         consume until stopped
  stock-db-writer run --until-end             drain what is there now, then exit (cron)
  stock-db-writer status                      who owns what, and how far behind is it?
  stock-db-writer explain messages.jsonl      what would become of these messages?
  stock-db-writer dead-letters list           what could not become a row, and why?
  stock-db-writer reset --topic t --to earliest   what would reading it all again do?
  stock-db-writer --set kafka.brokers=k1:9092,k2:9092 --set batch.linger_ms=50 run
  STOCK_DB_WRITER__KAFKA__GROUP=prices DATABASE_URL=postgresql://db/stocks stock-db-writer status

Every key of writer.toml can be set by --set KEY=VALUE or by a variable STOCK_DB_WRITER__SECTION__KEY.
Exit codes: 0 done, 64 usage, 65 the data needs a decision, 69 a server stayed away, 70 invariant broken,
74 corruption, 75 try again later, 77 permission, 78 configuration or schema, 130/143 second signal.";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  stock-db-writer explain messages.jsonl
  tail -f messages.jsonl | stock-db-writer explain -
  stock-db-writer explain --from-kafka 20 --topic stock_prices
  kcat -C -e -J -b localhost:9092 -t stock_prices -o -100 |
    stock-db-writer explain --kcat-json
  kcat -C -e -J -b localhost:9092 -t stock_prices |
    stock-db-writer explain --kcat-json --json | jq -c '.dead_letters[]'

Each line of FILE is one message; an empty line is an empty message. They are
read as [[topics]] in the configuration says. The database is not asked: what
only it would refuse is not seen here.

--from-kafka takes the newest N by time, and shows them partition by partition
in the order of offsets. It reads up to where the topic ends when it starts,
joins no group, and writes nothing.

Exit codes: 0 whatever becomes of the messages, 65 a line is not what kcat -J
prints, 69 Kafka stayed away, 78 the topic is not configured or does not exist.";

const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  stock-db-writer dead-letters list --class time --topic stock_prices
  stock-db-writer dead-letters list --json | jq -r .reason | sort | uniq -c
  stock-db-writer dead-letters show stock_prices/0/1234/0
  stock-db-writer dead-letters redrive --dry-run
  stock-db-writer dead-letters redrive --class time
  stock-db-writer dead-letters discard stock_prices/0/1234/0 --yes

A dead letter is named TOPIC/PARTITION/OFFSET/ELEMENT: the record, and the
element of it, from 0. All of it is about the letters of the configuration's
pipeline, and can be done while a worker runs.

Exit codes: 0 done, also where letters stay as they are, 64 there is no letter
of that name, 69 PostgreSQL stayed away, 77 the role may not read or mark
letters (it needs SELECT and UPDATE), 78 there are no such tables.";

const REDRIVE_HELP: &str = "\
Decodes records again by today's configuration. A letter whose element gives a
row now is marked as redriven in the transaction that writes the row: broken
off at any time, it can be run again, and no row is there twice. All others
stay as they are, with the reason they were written for.

Only the letter's own element is taken. Where a record has another number of
elements than it had (another format reads it), it is taken as a whole, if all
of its elements are among these letters: elements that are refused now have
letters then. A window that is there already is never overwritten; its letter
counts as redriven. The counts of `status` are about the log, and stay.

Without IDs and filters all open letters are meant.";

const RESET_HELP: &str = "\
Examples:
  stock-db-writer reset --topic stock_prices --to earliest
  stock-db-writer reset --topic stock_prices --to earliest --yes
  stock-db-writer reset --topic stock_prices --partition 3 --to 1200000 --yes
  stock-db-writer reset --topic stock_prices --to 2024-01-02T00:00:00Z --yes

Back: records are read again. Their dead letters are removed, and written again
where they must be. Prices are added a second time, so delete or truncate what
is to be replaced first; windows take the place of what is there.

Forward: records are passed over. writer_gaps says which, and who decided it.

It is also how to go on after a topic was deleted and created again, was
truncated, or is in another cluster: the log that is there now is followed then.
Open dead letters of records that are not there any more must be redriven or
discarded first.

A worker may run meanwhile: it notices, and goes on at the new position; with
assignment = \"all\" or a list it ends with 75 instead, and is to be started again.
Killed at any moment, it has happened or it has not. The role needs SELECT and
DELETE on writer_dead_letters, and SELECT, INSERT, UPDATE and DELETE on
writer_gaps; where a new topic has fewer partitions, DELETE on writer_offsets.

Exit codes: 0 done or shown, 64 there is no such partition or offset, 65 dead
letters are in the way, 69 a server stayed away, 77 the role may not, 78 the topic
is not configured or does not exist.";

const INIT_HELP: &str = "\
Examples:
  stock-db-writer init
  stock-db-writer init --print | psql --single-transaction --set ON_ERROR_STOP=1
  stock-db-writer init --print --writer-role app | psql --set ON_ERROR_STOP=1

With a role of its own, which may write and neither change nor remove what was
written, the worker needs schema.manage = \"validate\".";

const CHECK_HELP: &str = "\
Prints every finding at once, each with what to do about it. A price, metrics
and a dead letter are written the way a run writes them, into your tables, and
rolled back: nobody sees them, but they take an id each. 0 means that a run
would work. May be done while a worker runs.

Exit codes, of several findings the first of these: 78 configuration or schema,
77 permission, 65 the data needs a decision, 69 a server does not answer.";

const HEALTH_HELP: &str = "\
Asks http://ADDRESS/health/ready (with --live: /health/live), where ADDRESS is
metrics.listen of the configuration, and prints the answer. Ready: both servers
answer, and there is progress or nothing to do. Live: the threads turn.

Exit codes: 0 yes, 69 no, or nobody answers, 78 metrics.listen is
off, or has no fixed port.";

const COMPLETIONS_HELP: &str = "\
Examples:
  stock-db-writer completions bash > /etc/bash_completion.d/stock-db-writer
  stock-db-writer completions zsh > ~/.zfunc/_stock-db-writer
  stock-db-writer completions fish > ~/.config/fish/completions/stock-db-writer.fish";

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
        /// Show on stderr how it gets on: a bar on a terminal, elsewhere a line every 10 s. auto: the bar on a terminal,
        /// lines with --until-end only
        #[arg(long, value_name = "WHEN", default_value = "auto")]
        progress: When,
    },
    /// Look at configuration, both servers, schema, privileges and offsets, and write a row that is rolled back
    #[command(after_help = CHECK_HELP)]
    Check,
    /// Create or migrate the tables
    #[command(after_help = INIT_HELP)]
    Init {
        /// Only show the SQL; connects to nothing
        #[arg(long)]
        print: bool,
        /// With it the GRANTs for this role, so that a worker can run as one that owns no tables
        #[arg(long, value_name = "ROLE", requires = "print", value_parser = role)]
        writer_role: Option<String>,
    },
    /// Show what messages become: their rows, or why there are none; needs no server
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// Messages, one a line; - is stdin, and so is no FILE where stdin is no terminal
        #[arg(conflicts_with = "from_kafka")]
        file: Option<PathBuf>,
        /// Read them as this topic's settings say [default: the first, with --kcat-json each record's own]
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Their key
        #[arg(long, conflicts_with_all = ["kcat_json", "from_kafka"])]
        key: Option<String>,
        /// Their record timestamp in milliseconds since the epoch, which stands in for a missing time; -1: none
        /// [default: now]
        #[arg(long, value_name = "MS", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
        #[arg(conflicts_with_all = ["kcat_json", "from_kafka"])]
        record_timestamp: Option<i64>,
        /// Each line is what `kcat -J` prints: topic, key, ts, payload
        #[arg(long, conflicts_with = "from_kafka")]
        kcat_json: bool,
        /// Instead of FILE: the newest N records of the topic
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        from_kafka: Option<u32>,
        /// One JSON object a message
        #[arg(long)]
        json: bool,
    },
    /// Show what could not become a row, make rows of it after all, or do without
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    DeadLetters {
        #[command(subcommand)]
        action: DeadLetters,
    },
    /// Move the positions of a topic; without --yes only shows what that would do
    #[command(after_help = RESET_HELP)]
    Reset {
        /// The topic
        #[arg(long)]
        topic: String,
        /// Only this partition of it
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        partition: Option<i32>,
        /// earliest, latest, an offset, or a time (RFC 3339): the first record at or after it
        #[arg(long, value_name = "WHERE")]
        to: To,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Show for each partition where it stands, who owns it and how far it lags
    Status {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Ask the worker that runs on this machine whether it is ready; for probes
    #[command(after_help = HEALTH_HELP)]
    Health {
        /// Ask whether its threads turn, and not whether there is progress
        #[arg(long)]
        live: bool,
    },
    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// When something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// List the open ones
    List {
        #[command(flatten)]
        filter: FilterArguments,
        /// Also those that were redriven or discarded
        #[arg(long)]
        all: bool,
        /// One JSON object a line: all columns but the value
        #[arg(long)]
        json: bool,
    },
    /// Show one: the record's value, and what would become of it today
    Show {
        /// TOPIC/PARTITION/OFFSET/ELEMENT
        id: LetterId,
        /// All of the value, however long it is
        #[arg(long)]
        full: bool,
    },
    /// Make rows of those that can be decoded by now
    #[command(after_help = REDRIVE_HELP)]
    Redrive {
        /// Only these: TOPIC/PARTITION/OFFSET/ELEMENT
        #[arg(value_name = "ID", conflicts_with = "FilterArguments")]
        ids: Vec<LetterId>,
        #[command(flatten)]
        filter: FilterArguments,
        /// Only say what would become of them; changes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Mark them as not needed; without --yes only shows how many
    #[command(after_help = "They stay in the table. Without IDs and filters all open letters are meant.")]
    Discard {
        /// Only these: TOPIC/PARTITION/OFFSET/ELEMENT
        #[arg(value_name = "ID", conflicts_with = "FilterArguments")]
        ids: Vec<LetterId>,
        #[command(flatten)]
        filter: FilterArguments,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// PostgreSQL cuts what is longer, silently.
fn role(name: &str) -> Result<String, String> {
    match name.len() {
        1..=63 => Ok(name.to_owned()),
        _ => Err("must have 1 to 63 bytes".to_owned()),
    }
}

/// Which letters are meant.
#[derive(Debug, Args)]
struct FilterArguments {
    /// Only those of this class, such as missing, time or database; may be repeated
    #[arg(long, value_name = "CLASS", alias = "reason", value_parser = dead_letters::class)]
    class: Vec<Class>,
    /// Only those of this topic; may be repeated
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Only those of partitions with this number; may be repeated
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Only those written at this time or later, RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Only those written before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
}

impl FilterArguments {
    fn filter(self, ids: Vec<LetterId>, closed_too: bool) -> Filter {
        let FilterArguments { class: classes, topic: topics, partition: partitions, since, until } = self;
        let mut ids = ids;
        ids.sort();
        ids.dedup();
        Filter { ids, classes, topics, partitions, since, until, closed_too }
    }
}

impl Command {
    /// Sections of the configuration about servers that it does not speak to.
    fn does_without(&self) -> &'static [&'static str] {
        match self {
            Command::Explain { from_kafka: None, .. } => &["database", "kafka.tls", "kafka.sasl"],
            Command::Explain { .. } => &["database"],
            Command::DeadLetters { .. } => &["kafka.tls", "kafka.sasl"],
            Command::Health { .. } => &["database", "kafka.tls", "kafka.sasl"],
            _ => &[],
        }
    }
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
    if let Command::Completions { shell } = arguments.command {
        // It needs no configuration, and none that is wrong keeps it from its work.
        let mut out = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "stock-db-writer", &mut out);
        return commands::print(&String::from_utf8_lossy(&out));
    }
    let config = Config::load_without(&sources, arguments.command.does_without())
        .map_err(|errors| Stop::new(ExitCode::Config, errors.to_string()))?;
    logger::set(config.log);
    let command = arguments.command;
    let reload = || Config::load(&sources);
    // The threads of `run` are looked after by its supervisor; everything else is done on this one.
    catch_unwind(AssertUnwindSafe(|| execute(command, &config, &reload)))
        .unwrap_or_else(|_| Err(Stop::new(ExitCode::InvariantBroken, "the command panicked; its message is above")))
}

fn execute(command: Command, config: &Config, reload: &supervisor::Reload<'_>) -> Result<(), Stop> {
    match command {
        Command::Run { until_end, progress } => {
            let progress = match progress {
                When::Auto => until_end || std::io::stderr().is_terminal(),
                When::Always => true,
                When::Never => false,
            };
            supervisor::run(config, supervisor::Request { bounded: until_end, progress }, reload)
        }
        Command::Check => commands::check::run(config),
        Command::Init { print: true, writer_role } => commands::print_schema(config, writer_role.as_deref()),
        Command::Init { print: false, .. } => commands::init(config),
        Command::Explain { file, topic, key, record_timestamp, kcat_json, from_kafka, json } => {
            let messages = match from_kafka {
                Some(n) => Messages::Newest(n as usize),
                None if kcat_json => Messages::Kcat { file },
                None => Messages::Lines { file, key, timestamp_ms: record_timestamp },
            };
            explain::run(config, &explain::Request { messages, topic, json })
        }
        Command::DeadLetters { action } => match action {
            DeadLetters::List { filter, all, json } => {
                dead_letters::list(config, &filter.filter(Vec::new(), all), json)
            }
            DeadLetters::Show { id, full } => dead_letters::show(config, &id, full),
            DeadLetters::Redrive { ids, filter, dry_run } => {
                dead_letters::redrive(config, &filter.filter(ids, false), dry_run)
            }
            DeadLetters::Discard { ids, filter, yes } => dead_letters::discard(config, &filter.filter(ids, false), yes),
        },
        Command::Reset { topic, partition, to, yes } => {
            reset::run(config, &reset::Request { topic, partition, to, yes })
        }
        Command::Status { json } => commands::status::run(config, json),
        Command::Health { live } => commands::health(config, live),
        Command::Completions { .. } => unreachable!("it is done without a configuration"),
    }
}
