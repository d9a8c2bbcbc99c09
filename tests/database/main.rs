//! The database layer against a real PostgreSQL, named by DATABASE_URL.
//!
//! Every test makes a schema of its own, so that they run side by side. Nothing is skipped: without a server they fail.

mod adopting;
mod connection;
mod faults;
mod ledger;
mod refused;
mod relay;
mod schema;
mod transaction;

use crossbeam_channel::bounded;
use postgres::{Client, NoTls};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};
use stock_db_writer::batch::{Batch, Batcher, Epoch, Incoming, Limits};
use stock_db_writer::config::{Config, Sources};
use stock_db_writer::database::{Database, Finding, InitFailure, PostgresSink};
use stock_db_writer::delivery::{Dispatch, Settlement};
use stock_db_writer::exit::{ExitCode, Stop};
use stock_db_writer::fault::{Failure, Fault};
use stock_db_writer::heartbeat::{Doing, Heartbeat};
use stock_db_writer::lane::Seq;
use stock_db_writer::ledger::{Ledger, LogIdentity, Pipeline, Start, StartFailure};
use stock_db_writer::outage::Outage;
use stock_db_writer::record::{LeaderEpoch, NextOffset, Offset, TopicPartition};
use stock_db_writer::row::Origin;
use stock_db_writer::sink::{CommitFailure, Sink, Verdict, judge};
use stock_db_writer::work::Work;
use stock_db_writer::writer::{self, Shared};

const PRICE: &str = r#"{"symbol":"AAPL","price":1.50,"volume":120,"timestamp":"2024-01-02T15:04:05.123456Z","fetch_timestamp":1704207846}"#;

/// The symbol of a row that PostgreSQL is to refuse; no log may hold it.
const MARKER: &str = "MARKER7";

fn url() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL must name a PostgreSQL server: eval \"$(dev/services env)\"")
}

/// A schema of its own, gone afterwards.
struct Fixture {
    schema: String,
    config: Config,
    database: Database,
    admin: Client,
}

impl Fixture {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(set: &[&str]) -> Self {
        let fixture = Self::empty(set);
        fixture.database.init().expect("the tables can be made");
        fixture
    }

    fn empty(set: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let schema = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let config = config(&url(), &schema, set);
        let database = Database::open(&config, "test-owner").expect("the server answers");
        let admin = Client::connect(&url(), NoTls).expect("the server answers");
        Fixture { schema, config, database, admin }
    }

    /// The same tables with other settings.
    fn reopen(&mut self, set: &[&str]) {
        self.config = config(&url(), &self.schema, set);
        self.database = Database::open(&self.config, "test-owner").expect("the server answers");
    }

    fn sink(&self) -> PostgresSink {
        self.database.sink(Arc::new(Heartbeat::new("writer-0")))
    }

    fn sql(&mut self, sql: &str) {
        let sql = sql.replace("@", &self.schema);
        self.admin.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    fn texts(&mut self, sql: &str) -> Vec<String> {
        let rows = self.admin.query(&sql.replace("@", &self.schema), &[]).expect("the test's query works");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The main version of PostgreSQL, such as 15.
    fn server_major(&mut self) -> i64 {
        self.number("SELECT current_setting('server_version_num')::bigint / 10000")
    }

    fn number(&mut self, sql: &str) -> i64 {
        self.admin.query_one(&sql.replace("@", &self.schema), &[]).expect("the test's query works").get(0)
    }

    /// Makes offset rows for partitions 0.. at 0, and claims them.
    fn claim(&self, n_partitions: i32) -> Epoch {
        let starts: Vec<Start> = (0..n_partitions).map(|number| start("stock_prices", number)).collect();
        let claims = self.database.ledger().claim_or_start(&starts).expect("nobody else claims");
        assert_eq!(claims.len(), n_partitions as usize);
        claims[0].epoch
    }

    /// Whether the whole protocol applied the batch.
    fn write(&self, sink: &mut PostgresSink, batch: &Batch) -> bool {
        let mut work = self.work(batch);
        sink.stage(&mut work).expect("the rows are taken");
        match sink.advance(&work).expect("the offsets move") {
            true => {
                let durable = sink.commit(Seq(7), batch).expect("the transaction commits");
                assert_eq!((durable.seq(), durable.intervals()), (Seq(7), batch.intervals()));
                true
            }
            false => {
                sink.rollback();
                false
            }
        }
    }

    /// What one process's writers share.
    fn shared(&self) -> Shared {
        Shared::new(&self.config, "test-owner".to_owned(), Outage::new("database", None))
    }

    fn work<'a>(&self, batch: &'a Batch) -> Work<'a> {
        Work::decode(batch, |topic| self.config.topics.settings(topic))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // What a test has left open holds locks.
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'stock-db-writer {0}'; \
             DROP SCHEMA IF EXISTS {0} CASCADE",
            self.schema
        );
        let _ = self.admin.batch_execute(&sql);
    }
}

fn config(url: &str, schema: &str, set: &[&str]) -> Config {
    let own = [
        format!("database.tables.bookkeeping={schema}"),
        format!("database.tables.prices={schema}.stock_prices"),
        format!("database.tables.metrics={schema}.stock_metrics"),
        format!("pipeline={schema}"),
    ];
    let sources = Sources {
        file: None,
        set: own.into_iter().chain(set.iter().map(|set| (*set).to_owned())).collect(),
        environment: BTreeMap::from([("DATABASE_URL".to_owned(), url.to_owned())]),
    };
    Config::load(&sources).expect("the test's configuration is right")
}

fn identity() -> LogIdentity {
    LogIdentity { cluster_id: Some("cluster".to_owned()), topic_id: Some(*b"0123456789abcdef") }
}

fn start(topic: &str, number: i32) -> Start {
    Start { partition: TopicPartition::new(topic, number), next: NextOffset(0), identity: identity() }
}

/// Everything in one batch.
const LIMITS: Limits =
    Limits { rows_max: 100_000, bytes_max: 1 << 30, linger: Duration::ZERO, message_bytes_max: 1 << 20 };

/// A record of which only the place and the value matter.
const INCOMING: Incoming<'static> = Incoming {
    offset: Offset(0),
    leader_epoch: None,
    timestamp_ms: Some(1_704_207_846_000),
    key: Some(b"k"),
    value: None,
};

/// A batch over partition 0, 1, … of a topic: the values of each, from an offset on.
fn batch_of(topic: &str, epoch: Epoch, parts: &[(i64, &[&str])]) -> Batch {
    let (mut batcher, now) = (Batcher::new(LIMITS), Instant::now());
    for (number, (from, values)) in parts.iter().enumerate() {
        let partition = TopicPartition::new(topic, number as i32);
        batcher.follow(partition.clone(), epoch, NextOffset(*from));
        for (idx, value) in values.iter().enumerate() {
            let offset = Offset(from + idx as i64);
            batcher.push(&partition, Incoming { offset, value: Some(value.as_bytes()), ..INCOMING }, now);
        }
        if values.is_empty() {
            batcher.advance(&partition, NextOffset(from + 1), now);
        }
    }
    batcher.seal().expect("there is something in it")
}

fn prices(epoch: Epoch, parts: &[(i64, &[&str])]) -> Batch {
    batch_of("stock_prices", epoch, parts)
}

fn price(symbol: &str, price: &str) -> String {
    PRICE.replace("AAPL", symbol).replace("1.50", price)
}

fn metric(symbol: &str, minute: i64, average: &str) -> String {
    let at = |minute: i64| format!("2024-01-{:02}T{:02}:{:02}:00Z", 2 + minute / 1440, minute / 60 % 24, minute % 60);
    let (start, end) = (at(minute), at(minute + 1));
    format!(r#"{{"symbol":"{symbol}","window_start":"{start}","window_end":"{end}","avg_price":{average}}}"#)
}

/// A batch of partition 0 from its beginning, just claimed: symbols S0, S1 and so on, but the marker at these places.
fn marked(fixture: &Fixture, topic: &str, n_rows: usize, bad: &[usize]) -> Batch {
    let claims = fixture.database.ledger().claim_or_start(&[start(topic, 0)]).expect("nobody else claims");
    let symbol = |row: usize| if bad.contains(&row) { MARKER.to_owned() } else { format!("S{row}") };
    let figure = |row: usize| if bad.contains(&row) { "777.25" } else { "1.50" };
    let values: Vec<String> = (0..n_rows)
        .map(|row| match topic {
            "stock_metrics" => metric(&symbol(row), row as i64, figure(row)),
            _ => price(&symbol(row), figure(row)),
        })
        .collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    batch_of(topic, claims[0].epoch, &[(0, &values)])
}

/// The real writer with one batch: whether it became durable.
fn run_writer(shared: &Shared, database: &Database, batch: Batch) -> Result<bool, Stop> {
    let heartbeat = Arc::new(Heartbeat::new("writer-0"));
    let (dispatches_tx, dispatches_rx) = bounded(1);
    let (durables_tx, durables_rx) = bounded(1);
    dispatches_tx.send(Dispatch { seq: Seq(0), batch }).expect("there is room");
    drop(dispatches_tx);
    writer::run(shared, &mut database.sink(heartbeat.clone()), &heartbeat, &dispatches_rx, &durables_tx)?;
    let settlement = durables_rx.try_recv().expect("every batch is settled");
    Ok(matches!(settlement, Settlement::Durable(_)))
}

/// Keeps what is logged, down to the last detail, by thread.
struct Recorder;

static LOGGED: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());

impl log::Log for Recorder {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(thread) = std::thread::current().name() {
            let mut logged = LOGGED.lock().expect("no panic");
            logged.entry(thread.to_owned()).or_default().push(stock_db_writer::logger::line::text(record));
        }
    }

    fn flush(&self) {}
}

fn record_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Recorder).expect("there is no other");
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// What a thread of that name has logged.
fn logged_by(thread: &str) -> Vec<String> {
    LOGGED.lock().expect("no panic").get(thread).cloned().unwrap_or_default()
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < end, "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}
