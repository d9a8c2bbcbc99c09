//! The command line: which parts are measured, and at which size.

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;
use std::str::FromStr;

/// sysexits(3), as the worker itself uses them.
const USAGE: u8 = 64;

const COLUMNS: &str = "\
Without a part: --drain --latency; with --quick: --drain. Each row of figures is
the median of the rounds, with the least and the most in parentheses.

drain     seconds from the start of the process to its end; the time of the LIMIT
          with one and with two backends divided by it, in the same round (above
          1: faster than PostgreSQL alone). CPU time a row, in us: of the worker,
          and of the backends that it used. MiB: the worker's largest resident set.
latency   milliseconds from producing a record to a reader that sees its row.
          CPU as % of one core; `machine` is that of all cores together.
growth    one table per question; `further`: us for each row more than one size
          before; `begin`, `end`: us a row at the first and at the last size (for
          rows: the first and the last `further`), and end / begin.
indexes   `time`: that of a drain divided by that into a table with its primary key
          alone, in the same round; MiB of the table and its indexes for a million rows.
memory    the largest resident set, beside 64 MiB + writers.memory_max.

environment: SERVICES_DIR (default .services/bench), and what dev/services reads";

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Drain,
    Latency,
    Growth,
    Indexes,
    Memory,
}

/// Measures the worker as a whole, on servers that are started for it and ended afterwards.
#[derive(Parser)]
#[command(bin_name = "dev/bench", after_help = COLUMNS, max_term_width = 90)]
pub struct Options {
    /// 100,000 records, 3 rounds, 2 writers; the other parts at a fifth of their size
    #[arg(long)]
    pub quick: bool,
    /// Every part
    #[arg(long)]
    all: bool,
    /// How fast a backlog is drained, against PostgreSQL's own COPY
    #[arg(long)]
    drain: bool,
    /// How soon a record is a row, at --rates, at one a second; and an idle worker
    #[arg(long)]
    latency: bool,
    /// What a row costs as the work grows; all questions, or one
    #[arg(long, value_name = "QUESTION", num_args = 0..=1, require_equals = true, default_missing_value = "all",
        value_parser = ["all", "rows", "partitions", "symbols", "batch"])]
    growth: Option<String>,
    /// What each index of the table costs a drain, and a table by month
    #[arg(long)]
    indexes: bool,
    /// The largest resident set under hard loads; all loads, or one
    #[arg(long, value_name = "LOAD", num_args = 0..=1, require_equals = true, default_missing_value = "all",
        value_parser = ["all", "partitions", "zstd", "lz4", "zstd-batches", "rows"])]
    memory: Option<String>,
    /// One JSON object a line instead of tables
    #[arg(long)]
    pub json: bool,
    /// Drain: records in the backlog [default: 1000000]
    #[arg(long, value_name = "N", value_parser = count())]
    records: Option<u64>,
    /// Drain: rounds [default: 5]; growth takes 3 of them at most
    #[arg(long, value_name = "N", value_parser = count())]
    rounds: Option<u64>,
    /// Drain: partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Drain: symbols in the records
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count())]
    pub symbols: u64,
    /// Drain and growth: what the producer compresses with
    #[arg(long, default_value = "lz4", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    pub codec: String,
    /// Drain: one contestant for each number of writers [default: "1 2 3"]
    #[arg(long, value_name = "LIST")]
    writers: Option<Numbers>,
    /// Latency: records a second
    #[arg(long, value_name = "LIST", default_value = "1000 10000")]
    pub rates: Numbers,
    /// Latency: how long each rate is measured, after a warm-up
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = count())]
    pub seconds: u64,
    /// Growth: rows at the end of that question
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = count())]
    pub growth_max: u64,
    /// Only whether these arguments can be understood
    #[arg(long, hide = true)]
    check_arguments: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=999_999_999)
}

impl Options {
    /// Of this process. Otherwise what it is to end with.
    pub fn parse() -> Result<Options, ExitCode> {
        let options = Options::try_parse().map_err(|error| {
            // Where stdout is closed there is nobody to tell.
            let _ = error.print();
            let is_answer = matches!(error.kind(), ErrorKind::DisplayHelp);
            if is_answer { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
        })?;
        if options.check_arguments { Err(ExitCode::SUCCESS) } else { Ok(options) }
    }

    /// What is to be measured, in this order.
    pub fn parts(&self) -> Vec<Part> {
        let none = !(self.drain || self.latency || self.growth.is_some() || self.indexes || self.memory.is_some());
        [
            (Part::Drain, self.drain || none),
            (Part::Latency, self.latency || none && !self.quick),
            (Part::Growth, self.growth.is_some()),
            (Part::Indexes, self.indexes),
            (Part::Memory, self.memory.is_some()),
        ]
        .into_iter()
        .filter(|(_, wanted)| *wanted || self.all)
        .map(|(part, _)| part)
        .collect()
    }

    /// Records in the backlog of the drain.
    pub fn records(&self) -> u64 {
        self.records.unwrap_or(if self.quick { 100_000 } else { 1_000_000 })
    }

    /// Rounds of the drain.
    pub fn rounds(&self) -> u64 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// Numbers of writers in the drain.
    pub fn writers(&self) -> Vec<u64> {
        match &self.writers {
            Some(writers) => writers.0.clone(),
            None if self.quick => vec![2],
            None => vec![1, 2, 3],
        }
    }

    /// Whether this question of the growth is asked.
    pub fn asks(&self, question: &str) -> bool {
        self.growth.as_deref().is_none_or(|asked| asked == "all" || asked == question)
    }

    /// Whether this load of the memory part is wanted.
    pub fn loads(&self, load: &str) -> bool {
        self.memory.as_deref().is_none_or(|wanted| wanted == "all" || wanted == load)
    }
}

/// Numbers above 0, separated by spaces or commas. Never empty.
#[derive(Clone)]
pub struct Numbers(pub Vec<u64>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let numbers: Option<Vec<u64>> =
            words.map(|word| word.parse().ok().filter(|n| (1..=999_999_999).contains(n))).collect();
        match numbers {
            Some(numbers) if !numbers.is_empty() => Ok(Numbers(numbers)),
            _ => Err("numbers from 1 to 999999999 are wanted, separated by spaces".to_owned()),
        }
    }
}
