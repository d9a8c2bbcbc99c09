//! The small sections: `[batch]`, `[writers]`, `[retry]`, `[schema]`, `[dead_letters]`, `[metrics]` and `[log]`.

use super::reader::{Reader, integer, millis, one_of, ratio, size, text};
use super::topics::topic_name;
use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// `[batch]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Records in a batch, at most.
    pub rows_max: usize,
    /// Bytes of keys and values after which a batch is closed.
    pub bytes_max: usize,
    /// How long a batch waits for more.
    pub linger: Duration,
}

/// `[writers]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writers {
    /// Threads, each with a connection.
    pub count: usize,
    /// Bytes of batches between Kafka and PostgreSQL, at most.
    pub memory_max: usize,
    /// How long a writer holds locks while it waits for its turn.
    pub hold_max: Duration,
}

/// `[retry]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first delay, at most.
    pub initial: Duration,
    /// Every delay, at most.
    pub max: Duration,
    /// How long a server may stay away; zero: for ever (5 minutes for a bounded run).
    pub outage_max: Duration,
    /// Attempts of one batch; zero: for ever.
    pub attempts_max: u32,
}

/// `[schema]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// What is done at start.
    pub manage: Manage,
    /// How long a wrong schema or a missing topic is waited for.
    pub grace: Duration,
}

/// `schema.manage`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manage {
    /// Create and migrate, then validate.
    Create,
    /// Only validate.
    Validate,
    /// Trust the operator.
    Off,
}

/// `[dead_letters]`
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetters {
    /// More than this share of one cause stops the worker; 1: never.
    pub ratio_max: f64,
    /// A longer payload is kept as length and digest, in bytes.
    pub payload_bytes_max: usize,
    /// The topic that they are relayed to.
    pub topic: Option<String>,
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which there are, unless `RUST_LOG` says otherwise.
    pub level: LogLevel,
}

/// `log.level`: what is at least so severe is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What ends the process.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And changes of state, with a summary every minute.
    Info,
    /// And single steps.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    /// The name in the configuration and in `RUST_LOG`.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// A session that is idle in a transaction for a minute is ended by the server.
const HOLD_MS_MAX: u64 = 50_000;

pub(super) fn batch(reader: &mut Reader) -> Batch {
    Batch {
        rows_max: reader.get("batch.rows_max", integer(1, 1_000_000)).unwrap_or(10_000),
        bytes_max: reader.get("batch.bytes_max", size(KIB, GIB)).unwrap_or(8 * MIB),
        linger: reader.get("batch.linger_ms", millis(0, 60_000)).unwrap_or(Duration::from_millis(200)),
    }
}

pub(super) fn writers(reader: &mut Reader) -> Writers {
    Writers {
        count: reader.get("writers.count", integer(1, 64)).unwrap_or(2),
        memory_max: reader.get("writers.memory_max", size(MIB, 1024 * GIB)).unwrap_or(256 * MIB),
        hold_max: reader.get("writers.max_hold_ms", millis(100, HOLD_MS_MAX)).unwrap_or(Duration::from_secs(20)),
    }
}

pub(super) fn retry(reader: &mut Reader) -> Retry {
    let retry = Retry {
        initial: reader.get("retry.initial_ms", millis(1, 60_000)).unwrap_or(Duration::from_millis(100)),
        max: reader.get("retry.max_ms", millis(1, 600_000)).unwrap_or(Duration::from_secs(30)),
        outage_max: reader
            .get("retry.max_outage_s", integer(0, 31_536_000))
            .map_or(Duration::ZERO, Duration::from_secs),
        attempts_max: reader.get("retry.attempts_max", integer(0, 1_000_000_000)).unwrap_or(0),
    };
    if retry.initial > retry.max {
        let what = format!("must not be above retry.max_ms, {}", retry.max.as_millis());
        reader.complain(&["retry.initial_ms", "retry.max_ms"], what);
    }
    retry
}

pub(super) fn schema(reader: &mut Reader) -> Schema {
    let names = [("create", Manage::Create), ("validate", Manage::Validate), ("off", Manage::Off)];
    Schema {
        manage: reader.get("schema.manage", one_of(&names)).unwrap_or(Manage::Create),
        grace: reader.get("schema.grace_ms", millis(0, 3_600_000)).unwrap_or(Duration::from_secs(60)),
    }
}

pub(super) fn dead_letters(reader: &mut Reader) -> DeadLetters {
    DeadLetters {
        ratio_max: reader.get("dead_letters.ratio_max", ratio).unwrap_or(0.05),
        payload_bytes_max: reader.get("dead_letters.payload_bytes_max", size(0, GIB)).unwrap_or(MIB),
        topic: reader
            .get("dead_letters.topic", |raw| match text(raw)?.as_str() {
                "" => Ok(None),
                _ => topic_name(raw).map(Some),
            })
            .flatten(),
    }
}

pub(super) fn metrics_listen(reader: &mut Reader) -> Option<String> {
    let address = reader.get("metrics.listen", |raw| match text(raw)?.as_str() {
        "" => Ok(None),
        address => match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Some(address.to_owned())),
            _ => Err(format!("must be host:port, or empty for none, is {address:?}")),
        },
    });
    address.unwrap_or_else(|| Some("127.0.0.1:9464".to_owned()))
}

pub(super) fn log(reader: &mut Reader) -> Log {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.as_str(), level));
    Log {
        format: reader.get("log.format", one_of(&formats)).unwrap_or(LogFormat::Text),
        level: reader.get("log.level", one_of(&levels)).unwrap_or(Info),
    }
}
