//! What is in the topics, and the same as rows for the LIMIT.
//!
//! Record n, from 1, says the same wherever it is made. librdkafka (kcat) sends it: fast, in batches as producers make them.

use crate::Outcome;
use crate::services::Services;
use std::io::{BufWriter, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The time of record 0, in epoch seconds.
const FIRST_TIME: u64 = 1_700_000_000;

/// By what the producer shares records out over the partitions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// As feeds do. Few symbols are in few partitions.
    Symbol,
    /// So that each partition has as much as the next.
    Number,
}

/// Records to send.
#[derive(Clone)]
pub struct Load {
    pub records: u64,
    pub symbols: u64,
    pub keys: Keys,
    pub codec: String,
    /// Bytes of a field that the worker has no use for.
    pub padding: usize,
    /// Bytes of a batch before it is compressed, at most, if not librdkafka's own megabyte.
    pub batch_bytes: Option<u64>,
}

impl Load {
    /// Sends all of it.
    pub fn send(&self, services: &Services, topic: &str) -> Outcome<()> {
        let mut settings = vec!["linger.ms=50".to_owned(), "batch.num.messages=10000".to_owned()];
        if let Some(n) = self.batch_bytes {
            settings.extend([format!("message.max.bytes={n}"), format!("batch.size={n}"), "linger.ms=1000".to_owned()]);
        }
        let mut kcat = Kcat::start(services, topic, &self.codec, &settings)?;
        let padding = match self.padding {
            0 => String::new(),
            n => format!(",\"note\":\"{}\"", "well compressing ".repeat(n / 17)),
        };
        for i in 1..=self.records {
            let symbol = i % self.symbols;
            match self.keys {
                Keys::Symbol => write!(kcat.input, "S{symbol}")?,
                Keys::Number => write!(kcat.input, "{i}")?,
            }
            writeln!(
                kcat.input,
                r#"|{{"symbol":"S{symbol}","price":{}.{:02},"volume":{},"timestamp":{},"fetch_timestamp":{}{padding}}}"#,
                100 + i % 900,
                i % 100,
                i % 10_000,
                FIRST_TIME + i,
                FIRST_TIME + i + 1,
            )?;
        }
        kcat.finish()
    }

    /// The rows of records `from` to `to`, as a query.
    pub fn rows(&self, from: u64, to: u64) -> String {
        format!(
            "SELECT 'S' || i % {}, ((100 + i % 900) || '.' || lpad((i % 100)::text, 2, '0'))::numeric, \
             (i % 10000)::numeric, to_timestamp({FIRST_TIME} + i), {FIRST_TIME}::bigint + i + 1 \
             FROM generate_series({from}, {to}) AS i",
            self.symbols
        )
    }
}

/// Produces `KEY|VALUE` lines.
struct Kcat {
    child: Child,
    input: BufWriter<ChildStdin>,
}

impl Kcat {
    /// Starts one with settings of librdkafka.
    fn start(services: &Services, topic: &str, codec: &str, settings: &[String]) -> Outcome<Kcat> {
        let mut command = Command::new("kcat");
        command.args(["-P", "-b", &services.brokers, "-t", topic, "-K", "|", "-z", codec]);
        settings.iter().for_each(|setting| _ = command.args(["-X", setting]));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("kcat can't be started: {error}"))?;
        let input = BufWriter::with_capacity(1 << 16, child.stdin.take().ok_or("kcat has no stdin")?);
        Ok(Kcat { child, input })
    }

    /// Waits until the broker has acknowledged everything.
    fn finish(self) -> Outcome<()> {
        let Kcat { mut child, mut input } = self;
        input.flush()?;
        drop(input);
        if child.wait()?.success() { Ok(()) } else { Err("kcat could not deliver everything".into()) }
    }
}
