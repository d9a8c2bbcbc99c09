//! The database layer against a real PostgreSQL, named by DATABASE_URL.
//!
//! Every test makes a schema of its own, so that they run side by side. Nothing is skipped: without a server they fail.

mod adopting;
mod faults;
mod refused;
mod relay;

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
use stock_db_writer::record::{NextOffset, Offset, TopicPartition};
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

/// A batch over partition 0, 1, … of a topic: the values of each, from an offset on.
fn batch_of(topic: &str, epoch: Epoch, parts: &[(i64, &[&str])]) -> Batch {
    let limits = Limits { rows_max: 100_000, bytes_max: 1 << 30, linger: Duration::ZERO, message_bytes_max: 1 << 20 };
    let (mut batcher, now) = (Batcher::new(limits), Instant::now());
    for (number, (from, values)) in parts.iter().enumerate() {
        let partition = TopicPartition::new(topic, number as i32);
        batcher.follow(partition.clone(), epoch, NextOffset(*from));
        for (idx, value) in values.iter().enumerate() {
            let offset = Offset(from + idx as i64);
            let value = Some(value.as_bytes());
            batcher.push(
                &partition,
                Incoming { offset, timestamp_ms: Some(1_704_207_846_000), key: Some(b"k"), value },
                now,
            );
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

#[test]
fn rows_letters_and_offsets_become_durable_together_with_every_digit() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(2);
    let long = price("BTC", "12345678901234567890.12345678901234567890");
    let small = price("SML", "0.000000000010");
    let batch = prices(epoch, &[(0, &[PRICE, "no json", &long]), (0, &[&small, ""])]);
    let mut sink = fixture.sink();
    assert!(fixture.write(&mut sink, &batch));
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', symbol, price, volume, timestamp AT TIME ZONE 'UTC', fetch_timestamp) FROM @.stock_prices ORDER BY symbol"),
        [
            "AAPL 1.50 120 2024-01-02 15:04:05.123456 1704207846",
            "BTC 12345678901234567890.12345678901234567890 120 2024-01-02 15:04:05.123456 1704207846",
            "SML 0.000000000010 120 2024-01-02 15:04:05.123456 1704207846",
        ]
    );
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', pipeline = '@', topic, partition, record_offset, element, convert_from(key, 'UTF8'), convert_from(payload, 'UTF8'), payload_bytes, reason_class, record_timestamp_ms, record_elements) FROM @.writer_dead_letters"),
        ["t stock_prices 0 1 0 k no json 7 syntax 1704207846000 1"]
    );
    let mut ledger = fixture.database.ledger();
    let standings = ledger.standings().expect("the rows can be read");
    let counts: Vec<_> = standings
        .iter()
        .map(|row| {
            (
                row.partition.partition,
                row.next.0,
                row.records_total,
                row.rows_total,
                row.dead_letters_total,
                row.records_skipped,
            )
        })
        .collect();
    assert_eq!(counts, [(0, 3, 3, 2, 1, 0), (1, 2, 2, 1, 0, 1)]);
    assert_eq!(standings[0].owner.as_deref(), Some("test-owner"));
    assert_eq!(standings[0].identity, identity());
    chrono::DateTime::parse_from_rfc3339(&standings[0].updated_at).expect("RFC 3339");
}

#[test]
fn an_interval_without_records_moves_the_offset() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[])])));
    let next = fixture.database.ledger().next_offsets(&["stock_prices".into()]).expect("readable");
    assert_eq!(next, BTreeMap::from([(TopicPartition::new("stock_prices", 0), NextOffset(1))]));
}

#[test]
fn a_payload_is_kept_once_per_record_and_a_large_one_as_length_and_digest() {
    let mut fixture = Fixture::with(&["dead_letters.payload_bytes_max=20"]);
    let epoch = fixture.claim(1);
    let batch = prices(epoch, &[(0, &["[{\"a\":1},{\"b\":2}]", "this is no json and longer than twenty bytes"])]);
    assert!(fixture.write(&mut fixture.sink(), &batch));
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', record_offset, element, coalesce(payload_bytes, -1), payload IS NULL, payload_sha256 = sha256('this is no json and longer than twenty bytes')) FROM @.writer_dead_letters ORDER BY record_offset, element"),
        ["0 0 17 f", "0 1 17 t", "1 0 44 t t"]
    );
}

#[test]
fn of_several_metrics_for_one_window_the_last_wins() {
    let mut fixture = Fixture::new();
    let ledger_start = [start("stock_metrics", 0)];
    let epoch = fixture.database.ledger().claim_or_start(&ledger_start).expect("claimed")[0].epoch;
    let metric = |window: u32, average: &str| {
        format!(
            r#"{{"symbol":"AAPL","window_start":"2024-01-02T15:0{window}:00Z","window_end":"2024-01-02T15:0{}:00Z","avg_price":{average}}}"#,
            window + 1
        )
    };
    let (first, second, other) = (metric(0, "1.0"), metric(0, "2.0"), metric(3, "9"));
    let mut sink = fixture.sink();
    assert!(fixture.write(&mut sink, &batch_of("stock_metrics", epoch, &[(0, &[&first, &other, &second])])));
    let all = "SELECT concat_ws(' ', symbol, avg_price) FROM @.stock_metrics ORDER BY window_start";
    assert_eq!(fixture.texts(all), ["AAPL 2.0", "AAPL 9"]);
    let third = metric(0, "3.00");
    assert!(fixture.write(&mut sink, &batch_of("stock_metrics", epoch, &[(3, &[&third])])));
    assert_eq!(fixture.texts(all), ["AAPL 3.00", "AAPL 9"]);
}

#[test]
fn an_offset_that_does_not_match_writes_nothing() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(2);
    let mut sink = fixture.sink();
    // One of two partitions is somewhere else.
    assert!(!fixture.write(&mut sink, &prices(epoch, &[(0, &[PRICE]), (5, &[PRICE])])));
    assert!(!fixture.write(&mut sink, &prices(Epoch(epoch.0 - 1), &[(0, &[PRICE])])));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
    assert_eq!(fixture.number("SELECT sum(next_offset)::bigint FROM @.writer_offsets"), 0);
}

#[test]
fn a_batch_that_was_not_advanced_is_never_committed() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let (mut sink, batch) = (fixture.sink(), prices(epoch, &[(5, &[PRICE])]));
    let mut work = fixture.work(&batch);
    sink.stage(&mut work).expect("the rows are taken");
    assert!(!sink.advance(&work).expect("no error"));
    let refused = sink.commit(Seq(0), &batch);
    assert!(matches!(refused, Err(CommitFailure::NotApplied(Failure { fault: Fault::Bug, .. }))));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
}

#[test]
fn an_aborted_transaction_is_never_committed() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let (mut sink, batch) = (fixture.sink(), prices(epoch, &[(0, &[PRICE])]));
    let mut work = fixture.work(&batch);
    sink.stage(&mut work).expect("the rows are taken");
    fixture.sql("BEGIN; SELECT * FROM @.writer_offsets FOR UPDATE");
    let refused = sink.advance(&work).expect_err("the row is locked");
    assert_eq!((refused.fault, refused.sqlstate.as_deref()), (Fault::Lock, Some("55P03")));
    fixture.sql("ROLLBACK");
    let refused = sink.commit(Seq(0), &batch);
    assert!(matches!(refused, Err(CommitFailure::NotApplied(Failure { fault: Fault::Bug, .. }))));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
    assert!(fixture.write(&mut sink, &batch));
}

#[test]
fn the_guard_before_commit_refuses_an_aborted_transaction_and_none_at_all() {
    let mut client = Client::connect(&url(), NoTls).expect("the server answers");
    let mut refusal = |sql: &str| {
        let refused = client.batch_execute(sql).expect_err("refused");
        refused.code().map(|code| code.code().to_owned())
    };
    assert_eq!(refusal("BEGIN; SELECT 1 / 0").as_deref(), Some("22012"));
    assert_eq!(refusal("SAVEPOINT committing; COMMIT").as_deref(), Some("25P02"));
    client.batch_execute("COMMIT").expect("the server calls an aborted transaction's COMMIT a success");
    let refused = client.batch_execute("SAVEPOINT committing; COMMIT").expect_err("refused");
    assert_eq!(refused.code().map(|code| code.code()), Some("25P01"));
}

#[test]
fn a_deferred_constraint_makes_commit_not_applied() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE TABLE @.symbols (symbol text PRIMARY KEY); \
         ALTER TABLE @.stock_prices ADD FOREIGN KEY (symbol) REFERENCES @.symbols DEFERRABLE INITIALLY DEFERRED",
    );
    let (mut sink, batch) = (fixture.sink(), prices(epoch, &[(0, &[PRICE])]));
    let mut work = fixture.work(&batch);
    sink.stage(&mut work).expect("the rows are taken");
    assert!(sink.advance(&work).expect("no error"));
    let refused = sink.commit(Seq(0), &batch);
    assert!(
        matches!(&refused, Err(CommitFailure::NotApplied(failure)) if failure.fault == Fault::Record),
        "{refused:?}"
    );
    let truth = sink.truth(&batch).expect("readable");
    assert_eq!(judge(batch.intervals(), &truth), Verdict::NotApplied);
    fixture.sql("INSERT INTO @.symbols VALUES ('AAPL')");
    assert!(fixture.write(&mut sink, &batch));
}

#[test]
fn a_copy_that_is_refused_names_the_row() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql("ALTER TABLE @.stock_prices ADD CHECK (price < 100)");
    let (a, c) = (price("AAA", "1"), price("CCC", "3"));
    for bad_idx in 0..3 {
        let bad = price(["A", "BBB", "ZZZ"][bad_idx], "100");
        let mut values = vec![c.as_str(), &a];
        // Sent in the order of symbols, whatever the order of offsets.
        values.insert(1, &bad);
        let batch = prices(epoch, &[(0, &values)]);
        let (mut sink, mut work) = (fixture.sink(), fixture.work(&batch));
        let refused = sink.stage(&mut work).expect_err("100 is not below 100");
        assert_eq!((refused.fault, refused.origin), (Fault::Record, Some(Origin { record_idx: 1, element: 0 })));
        assert_eq!(refused.sqlstate.as_deref(), Some("23514"));
        assert!(!refused.message.contains("100") && !refused.message.contains("BBB"), "{refused}");
        work.refuse(&BTreeMap::from([(refused.origin.expect("named"), "23514".to_owned())]));
        sink.stage(&mut work).expect("the healthy neighbours are taken");
        sink.rollback();
    }
}

#[test]
fn a_row_is_named_behind_a_trigger_and_a_unique_key_and_among_many() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE UNIQUE INDEX ON @.stock_prices (symbol); \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN IF NEW.symbol = 'S1777' THEN RAISE EXCEPTION 'secret %', NEW.price; END IF; RETURN NEW; END $$; \
         INSERT INTO @.stock_prices (symbol, price, timestamp) VALUES ('S1234', 1, now())",
    );
    let values: Vec<String> = (1000..2500).map(|number| price(&format!("S{number}"), "1")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let batch = prices(epoch, &[(0, &values)]);
    let mut work = fixture.work(&batch);
    let mut sink = fixture.sink();
    let refused = sink.stage(&mut work).expect_err("the key is taken");
    assert_eq!((refused.fault, refused.origin.map(|origin| origin.record_idx)), (Fault::UniqueKey, Some(234)));
    work.refuse(&BTreeMap::from([(refused.origin.expect("named"), "23505".to_owned())]));
    fixture.sql("CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()");
    let refused = sink.stage(&mut work).expect_err("the trigger raises");
    assert_eq!((refused.fault, refused.origin.map(|origin| origin.record_idx)), (Fault::Record, Some(777)));
    assert!(!refused.message.contains("secret"), "{refused}");
}

#[test]
fn a_metric_that_its_column_cannot_hold_becomes_a_dead_letter_before_it_is_sent() {
    let mut fixture = Fixture::new();
    fixture.sql("ALTER TABLE @.stock_metrics ALTER COLUMN symbol TYPE varchar(4)");
    let epoch = fixture.database.ledger().claim_or_start(&[start("stock_metrics", 0)]).expect("claimed")[0].epoch;
    let metric = |symbol: &str| {
        format!(
            r#"{{"symbol":"{symbol}","window_start":"2024-01-02T15:00:00Z","window_end":"2024-01-02T15:01:00Z","avg_price":1}}"#
        )
    };
    let (good, bad) = (metric("AAPL"), metric("LONGER"));
    let batch = batch_of("stock_metrics", epoch, &[(0, &[&bad, &good, &good])]);
    assert!(fixture.write(&mut fixture.sink(), &batch));
    assert_eq!(fixture.texts("SELECT symbol::text FROM @.stock_metrics"), ["AAPL"]);
    assert_eq!(
        fixture.texts(
            "SELECT concat_ws(' ', record_offset, reason_class, replace(reason, '@', 'S')) FROM @.writer_dead_letters"
        ),
        ["0 symbol symbol has more than 4 characters, the column S.stock_metrics.symbol is character varying(4)"]
    );
}

#[test]
fn a_trigger_that_drops_rows_is_noticed() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
    );
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let refused = fixture.sink().stage(&mut fixture.work(&batch)).expect_err("the row is gone");
    assert_eq!(refused.fault, Fault::Schema);
}

#[test]
fn a_missing_table_is_a_schema_fault_and_a_column_of_another_type_too() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut sink = fixture.sink();
    fixture.sql("ALTER TABLE @.stock_prices ALTER COLUMN price TYPE float8");
    assert_eq!(sink.stage(&mut fixture.work(&batch)).expect_err("numeric is no float8").fault, Fault::Schema);
    fixture.sql("ALTER TABLE @.stock_prices RENAME TO gone");
    assert_eq!(sink.stage(&mut fixture.work(&batch)).expect_err("no table").fault, Fault::Schema);
    fixture
        .sql("ALTER TABLE @.gone RENAME TO stock_prices; ALTER TABLE @.stock_prices ALTER COLUMN price TYPE numeric");
    assert!(fixture.write(&mut sink, &batch), "it goes on after a migration");
}

#[test]
fn a_copy_refused_at_its_beginning_never_mixes_up_later_answers() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let mut sink = fixture.sink();
    for offset in 0..30 {
        let batch = prices(epoch, &[(offset, &[PRICE])]);
        let mut work = fixture.work(&batch);
        let (away, back) = match offset % 2 {
            0 => ("ALTER TABLE @.stock_prices RENAME TO gone", "ALTER TABLE @.gone RENAME TO stock_prices"),
            _ => {
                ("ALTER TABLE @.stock_prices RENAME volume TO gone", "ALTER TABLE @.stock_prices RENAME gone TO volume")
            }
        };
        fixture.sql(away);
        assert_eq!(sink.stage(&mut work).expect_err("refused").fault, Fault::Schema);
        fixture.sql(back);
        assert!(fixture.write(&mut sink, &batch));
        assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), offset + 1);
    }
}

#[test]
fn the_truth_waits_for_a_doubtful_transaction() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let (mut doubtful, mut asking) = (fixture.sink(), fixture.sink());
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    doubtful.stage(&mut work).expect("the rows are taken");
    assert!(doubtful.advance(&work).expect("no error"));
    let asked = Instant::now();
    let refused = asking.truth(&batch).expect_err("the row is locked");
    assert_eq!((refused.fault, refused.sqlstate.as_deref()), (Fault::Lock, Some("55P03")));
    assert!(asked.elapsed() > Duration::from_millis(1900));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| asking.truth(&batch).expect("answered once it is over"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asking.is_finished());
        let _ = doubtful.commit(Seq(0), &batch).expect("commits");
        let truth = asking.join().expect("no panic");
        assert_eq!(judge(batch.intervals(), &truth), Verdict::Applied);
        let owners: Vec<&str> = truth.values().map(|truth| truth.owner.as_str()).collect();
        assert_eq!(owners, ["test-owner"]);
    });
}

#[test]
fn a_claim_raises_the_epoch_and_fences_the_older_one() {
    let fixture = Fixture::new();
    let first = fixture.claim(2);
    assert_eq!(first, Epoch(1));
    let partitions = [TopicPartition::new("stock_prices", 1), TopicPartition::new("stock_prices", 0)];
    let unknown = TopicPartition::new("stock_prices", 9);
    let asked = [partitions[0].clone(), partitions[1].clone(), unknown];
    let claims = fixture.database.ledger().claim(&asked).expect("claimed");
    assert_eq!(claims.iter().map(|claim| claim.epoch).collect::<Vec<_>>(), [Epoch(2), Epoch(2)]);
    assert!(claims.iter().all(|claim| claim.identity == identity()));
    let old = prices(first, &[(0, &[PRICE])]);
    let mut sink = fixture.sink();
    assert!(!fixture.write(&mut sink, &old));
    let truth = sink.truth(&old).expect("readable");
    assert!(matches!(judge(old.intervals(), &truth), Verdict::Fenced(lost) if lost.len() == 1));
    assert!(fixture.write(&mut sink, &prices(Epoch(2), &[(0, &[PRICE])])));
}

#[test]
fn claims_at_once_wait_for_each_other_and_get_an_epoch_each() {
    let fixture = Fixture::with(&["writers.count=8", "database.lock_timeout_ms=20000"]);
    let starts: Vec<Start> = (0..20).map(|number| start("t", number)).collect();
    let mut backwards: Vec<TopicPartition> = starts.iter().map(|start| start.partition.clone()).collect();
    backwards.reverse();
    fixture.database.ledger().claim_or_start(&starts).expect("claimed");
    let epochs: Vec<Vec<Epoch>> = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..8)
            .map(|idx| {
                let (database, starts, backwards) = (&fixture.database, &starts, &backwards);
                scope.spawn(move || {
                    let mut ledger = database.ledger();
                    let claims = (0..10).map(|_| match idx % 2 {
                        0 => ledger.claim(backwards).expect("no deadlock"),
                        _ => ledger.claim_or_start(starts).expect("no deadlock"),
                    });
                    claims.map(|claims| claims.iter().map(|claim| claim.epoch).max().expect("claimed")).collect()
                })
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().expect("no panic")).collect()
    });
    let mut epochs: Vec<i64> = epochs.into_iter().flatten().map(|epoch| epoch.0).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (2..=81).collect::<Vec<_>>());
}

#[test]
fn an_identity_is_filled_in_once_and_never_replaced() {
    let fixture = Fixture::new();
    let mut ledger = fixture.database.ledger();
    let nameless = LogIdentity { cluster_id: None, topic_id: None };
    let with = |identity: LogIdentity| [Start { identity, ..start("t", 0) }];
    assert_eq!(ledger.claim_or_start(&with(nameless.clone())).expect("claimed")[0].identity, nameless);
    assert_eq!(ledger.claim_or_start(&with(identity())).expect("claimed")[0].identity, identity());
    let other = LogIdentity { cluster_id: Some("other".to_owned()), topic_id: Some([9; 16]) };
    let claim = &ledger.claim_or_start(&with(other)).expect("claimed")[0];
    assert_eq!((claim.identity.clone(), claim.epoch), (identity(), Epoch(3)));
}

#[test]
fn two_that_start_at_once_make_one_set_of_rows() {
    let mut fixture = Fixture::new();
    let resolved = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for next in [100, 200] {
            let (database, resolved) = (&fixture.database, &resolved);
            scope.spawn(move || {
                let mut resolve = |topics: &[Arc<str>], _| {
                    resolved.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(200));
                    let numbered = topics.iter().flat_map(|topic| (0..3).map(move |number| start(topic, number)));
                    Ok(numbered.map(|start| Start { next: NextOffset(next), ..start }).collect())
                };
                let topics = ["a".into(), "b".into()];
                database.ledger().start(&topics, &mut resolve).expect("both succeed");
            });
        }
    });
    assert_eq!(resolved.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_offsets WHERE epoch = 0 AND owner IS NULL"), 6);
    assert_eq!(fixture.number("SELECT count(DISTINCT next_offset) FROM @.writer_offsets"), 1);
}

#[test]
fn a_start_that_cannot_be_resolved_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    let mut ledger = fixture.database.ledger();
    let topics = ["a".into()];
    let failed = ledger.start(&topics, &mut |_, _| Err(Stop::new(ExitCode::ServerAway, "kafka is away")));
    assert!(matches!(failed, Err(StartFailure::Resolve(_))));
    ledger.start(&topics, &mut |_, _| Ok(vec![start("a", 0)])).expect("the lock was given back");
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_offsets"), 1);
    ledger.start(&topics, &mut |_, _| panic!("nobody asks again")).expect("it is all there");
}

#[test]
fn a_start_knows_whether_the_pipeline_has_rows_of_other_topics() {
    let fixture = Fixture::new();
    let mut ledger = fixture.database.ledger();
    for (topics, known) in [(&["a"][..], Pipeline::New), (&["a", "b"], Pipeline::Known), (&["c"], Pipeline::Known)] {
        let topics: Vec<Arc<str>> = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let mut asked = None;
        let mut resolve = |new: &[Arc<str>], pipeline| {
            asked = Some((new.to_vec(), pipeline));
            Ok(new.iter().map(|topic| start(topic, 0)).collect())
        };
        ledger.start(&topics, &mut resolve).expect("the rows are made");
        assert_eq!(asked, Some((topics[topics.len() - 1..].to_vec(), known)));
    }
}

#[test]
fn a_pipeline_has_one_lock_that_ends_with_its_holder() {
    let mut fixture = Fixture::new();
    let (mut first, mut second) = (fixture.database.ledger(), fixture.database.ledger());
    assert!(first.lock_pipeline().expect("free"));
    assert!(first.lock_pipeline().expect("ours already"));
    assert!(!second.lock_pipeline().expect("an answer"));
    // The connection dies: the holder notices at its next call, and takes the lock anew.
    let ended = fixture.number(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid IN \
         (SELECT pid FROM pg_stat_activity WHERE application_name = 'stock-db-writer @')",
    );
    assert_eq!(ended, 1);
    let lost = first.lock_pipeline().expect_err("its connection is gone");
    assert_eq!(lost.fault, Fault::Connection);
    assert!(first.lock_pipeline().expect("taken anew"));
    drop(first);
    eventually("the lock's end", || second.lock_pipeline().expect("an answer"));
}

#[test]
fn a_barrier_makes_asynchronous_commits_durable() {
    let mut fixture = Fixture::with(&["database.synchronous_commit=off"]);
    let epoch = fixture.claim(1);
    let mut ledger = fixture.database.ledger();
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE])])));
    let written = fixture.texts("SELECT pg_current_wal_insert_lsn()::text").remove(0);
    ledger.barrier().expect("written");
    let flushed = fixture.number(&format!("SELECT (pg_current_wal_flush_lsn() >= '{written}'::pg_lsn)::int::bigint"));
    assert_eq!(flushed, 1);
}

#[test]
fn init_twice_or_at_once_makes_everything_once() {
    let mut fixture = Fixture::empty(&[]);
    let made: Vec<usize> = std::thread::scope(|scope| {
        let inits: Vec<_> =
            [(); 2].map(|()| scope.spawn(|| fixture.database.init().expect("both succeed").made.len())).into();
        inits.into_iter().map(|init| init.join().expect("no panic")).collect()
    });
    assert!(made.contains(&0) && made.contains(&13), "{made:?}");
    assert_eq!(fixture.database.init().expect("again").made, Vec::<String>::new());
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    // The printed script makes the same, and can be run over it.
    let script = stock_db_writer::database::schema::sql(&fixture.config.database);
    fixture.sql(&script);
    fixture.sql("DROP SCHEMA @ CASCADE");
    fixture.sql(&script);
    assert_eq!(fixture.database.init().expect("all there").made, Vec::<String>::new());
    assert_eq!(fixture.database.validate().expect("an answer"), []);
}

#[test]
fn a_newer_schema_is_left_alone() {
    let mut fixture = Fixture::new();
    fixture.sql("UPDATE @.writer_meta SET schema_version = 99");
    assert!(matches!(fixture.database.init(), Err(InitFailure::Stop(stop)) if stop.code == ExitCode::Config));
    let findings = fixture.database.validate().expect("an answer");
    assert!(matches!(&findings[..], [Finding { code: ExitCode::Config, message, .. }] if message.contains("99")));
}

#[test]
fn init_adds_the_unique_index_to_a_table_that_lacks_it_and_says_why_it_cannot() {
    let mut fixture = Fixture::new();
    fixture.sql("DROP INDEX @.stock_metrics_symbol_window_key");
    let twice = "INSERT INTO @.stock_metrics (symbol, window_start, window_end) VALUES ('A', 'epoch', 'epoch')";
    fixture.sql(&format!("{twice}, ('A', 'epoch', 'epoch')"));
    assert_eq!(fixture.database.init().expect("the rest is there").made, Vec::<String>::new());
    let findings = fixture.database.validate().expect("an answer");
    let [Finding { code: ExitCode::Config, message, is_absence: false }] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert!(message.contains("1 of its rows are for a window that has another row"), "{message}");
    let (_, clean) = message.split_once("keep the newest row of each window: ").expect("a statement");
    let (clean, _) = clean.split_once("; then run").expect("its end");
    fixture.sql(clean);
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_metrics"), 1);
    assert_eq!(fixture.database.init().expect("made").made.len(), 1);
    assert_eq!(fixture.database.validate().expect("an answer"), []);
}

#[test]
fn validation_finds_everything_at_once() {
    let mut fixture = Fixture::new();
    fixture.sql(
        "ALTER TABLE @.stock_prices SET UNLOGGED; \
         ALTER TABLE @.stock_prices DROP COLUMN volume; \
         ALTER TABLE @.stock_prices ALTER COLUMN price TYPE numeric(10,2); \
         ALTER TABLE @.stock_prices ALTER COLUMN fetch_timestamp TYPE int; \
         ALTER TABLE @.stock_prices ADD COLUMN venue text NOT NULL; \
         DROP INDEX @.stock_metrics_symbol_window_key; \
         CREATE UNIQUE INDEX ON @.stock_metrics (symbol, window_start, window_end) WHERE symbol > ''; \
         DROP TABLE @.writer_gaps",
    );
    let findings = fixture.database.validate().expect("an answer");
    assert!(findings.iter().all(|finding| finding.code == ExitCode::Config));
    let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    let expected = [
        "UNLOGGED",
        "no column \"volume\"",
        "\"fetch_timestamp\" is integer",
        "\"venue\" is NOT NULL",
        "no unique index",
        "does not exist",
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
    for (message, expected) in messages.iter().zip(expected) {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_unlogged_partition_is_found_too() {
    let mut fixture = Fixture::new();
    fixture.sql(
        "DROP TABLE @.stock_prices; \
         CREATE TABLE @.stock_prices (id bigserial, symbol text NOT NULL, price numeric, volume numeric, \
           timestamp timestamptz NOT NULL, fetch_timestamp bigint) PARTITION BY RANGE (timestamp); \
         CREATE UNLOGGED TABLE @.all_prices PARTITION OF @.stock_prices DEFAULT",
    );
    let findings = fixture.database.validate().expect("an answer");
    assert!(matches!(&findings[..], [finding] if finding.message.contains("UNLOGGED")), "{findings:?}");
    fixture.sql("ALTER TABLE @.all_prices SET LOGGED");
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    let epoch = fixture.claim(1);
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE])])));
}

#[test]
fn a_role_without_rights_is_told_what_to_grant_and_can_run_with_that() {
    let mut fixture = Fixture::new();
    let role = format!("{}_role", fixture.schema);
    fixture.sql(&format!("CREATE ROLE {role} LOGIN"));
    let without_user = url().replace("postgres@", &format!("{role}@"));
    let config = config(&without_user, &fixture.schema.clone(), &[]);
    let database = Database::open(&config, "other").expect("the server trusts everybody");
    let findings = database.validate().expect("an answer");
    let code = |finding: &Finding| finding.code == ExitCode::Permission;
    assert!(!findings.is_empty() && findings.iter().all(code), "{findings:?}");
    fixture.sql(&format!(
        "GRANT USAGE ON SCHEMA @ TO {role}; GRANT INSERT ON @.stock_prices, @.writer_dead_letters TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON @.stock_metrics, @.writer_offsets TO {role}; \
         GRANT SELECT ON @.writer_meta TO {role}"
    ));
    assert_eq!(database.validate().expect("an answer"), []);
    // Where gaps are recorded, their table is written, too.
    let recording = self::config(&without_user, &fixture.schema.clone(), &["kafka.on_gap=record"]);
    let recording = Database::open(&recording, "other").expect("the server trusts everybody");
    let findings = recording.validate().expect("an answer");
    assert!(matches!(&findings[..], [finding] if finding.message.contains("writer_gaps")), "{findings:?}");
    fixture.sql(&format!("GRANT SELECT, INSERT, UPDATE ON @.writer_gaps TO {role}"));
    assert_eq!(recording.validate().expect("an answer"), []);
    let claim = recording.ledger().claim_or_start(&[start("stock_metrics", 0)]).expect("claimed").remove(0);
    let to = NextOffset(claim.next.0 + 7);
    assert!(recording.ledger().jump(&claim, to).expect("that is enough"));
    assert!(!recording.ledger().jump(&claim, to).expect("an answer"), "it stands elsewhere by now");
    // With everything there no DDL is tried, which this role could not do.
    assert_eq!(database.init().expect("nothing to do").made, Vec::<String>::new());
    let mut ledger = database.ledger();
    let epoch = ledger.claim_or_start(&[start("stock_prices", 0)]).expect("claimed")[0].epoch;
    ledger.barrier().expect("anybody may");
    fixture.database = database;
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE, "bad"])])));
    fixture.sql(&format!("REVOKE INSERT ON @.stock_prices FROM {role}"));
    let refused = fixture.sink().stage(&mut fixture.work(&prices(epoch, &[(2, &[PRICE])]))).expect_err("not allowed");
    assert_eq!(refused.fault, Fault::Permission);
    fixture.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_killed_connection_is_a_connection_fault_and_the_next_batch_reconnects() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let mut sink = fixture.sink();
    let kill =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'stock-db-writer @'";
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    // Between two batches.
    sink.stage(&mut work).expect("the rows are taken");
    sink.rollback();
    assert!(fixture.number(kill) > 0);
    assert_eq!(sink.stage(&mut work).expect_err("killed").fault, Fault::Connection);
    // Before the offsets move.
    sink.stage(&mut work).expect("a new connection");
    assert!(fixture.number(kill) > 0);
    assert_eq!(sink.advance(&work).expect_err("killed").fault, Fault::Connection);
    sink.rollback();
    // Before COMMIT is answered: in doubt, and the truth says what happened.
    sink.stage(&mut work).expect("a new connection");
    assert!(sink.advance(&work).expect("no error"));
    assert!(fixture.number(kill) > 0);
    let doubt = sink.commit(Seq(0), &batch);
    assert!(matches!(&doubt, Err(CommitFailure::InDoubt(failure)) if failure.fault == Fault::Connection), "{doubt:?}");
    let truth = sink.truth(&batch).expect("a new connection");
    assert_eq!(judge(batch.intervals(), &truth), Verdict::NotApplied);
    assert!(fixture.write(&mut sink, &batch));
}

#[test]
fn a_watchdog_can_cancel_what_a_writer_runs() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
    );
    let heartbeat = Arc::new(Heartbeat::new("writer-0"));
    let mut sink = fixture.database.sink(heartbeat.clone());
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (sink.stage(&mut work).expect_err("cancelled"), sink));
        eventually(
            "a copy",
            || matches!(heartbeat.state(), (Doing::Calling("copy"), since) if since.as_millis() > 200),
        );
        assert!(heartbeat.cancel_after(Duration::ZERO));
        let (cancelled, mut sink) = writer.join().expect("no panic");
        assert_eq!((cancelled.fault, cancelled.sqlstate.as_deref()), (Fault::Statement, Some("57014")));
        assert_eq!(heartbeat.state().0, Doing::Waiting);
        fixture.sql("DROP TRIGGER t ON @.stock_prices");
        assert!(fixture.write(&mut sink, &batch));
    });
}

#[test]
fn a_session_has_its_settings_from_the_first_statement_on() {
    let mut fixture = Fixture::with(&["database.lock_timeout_ms=1500", "database.statement_timeout_ms=34000"]);
    // A function sees the settings of whoever calls it.
    fixture.sql(
        "CREATE TABLE @.seen (name text, value text); \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO @.seen SELECT name, current_setting(name) FROM pg_settings; RETURN NEW; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
    );
    let epoch = fixture.claim(1);
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE])])));
    let seen = fixture.texts(
        "SELECT name || '=' || value FROM @.seen WHERE name IN ('lock_timeout', 'statement_timeout', 'TimeZone', \
         'idle_in_transaction_session_timeout', 'client_connection_check_interval', 'tcp_keepalives_idle', \
         'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout', 'search_path', 'DateStyle', \
         'synchronous_commit', 'default_transaction_isolation') ORDER BY name COLLATE \"C\"",
    );
    assert_eq!(
        seen,
        [
            "DateStyle=ISO, YMD",
            "TimeZone=UTC",
            "client_connection_check_interval=5s",
            "default_transaction_isolation=read committed",
            "idle_in_transaction_session_timeout=1min",
            "lock_timeout=1500ms",
            "search_path=pg_catalog",
            "statement_timeout=34s",
            "synchronous_commit=on",
            "tcp_keepalives_count=3",
            "tcp_keepalives_idle=10",
            "tcp_keepalives_interval=5",
            "tcp_user_timeout=20000",
        ]
    );
}

#[test]
fn connections_are_held_and_counted() {
    let mut fixture = Fixture::with(&["writers.count=1"]);
    let epoch = fixture.claim(1);
    let (mut sink, mut ledger) = (fixture.sink(), fixture.database.ledger());
    for offset in 0..5 {
        assert!(fixture.write(&mut sink, &prices(epoch, &[(offset, &[PRICE])])));
        ledger.standings().expect("readable");
    }
    let open = fixture.number("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stock-db-writer @'");
    assert!(open <= 3, "{open} connections for one writer");
    let others = [fixture.sink(), fixture.sink()];
    let mut refused = Vec::new();
    for mut other in others {
        refused.extend(other.truth(&prices(epoch, &[(0, &[])])).err());
        std::mem::forget(other);
    }
    assert!(matches!(&refused[..], [Failure { fault: Fault::Resource, .. }]), "{refused:?}");
}

#[test]
fn a_mute_server_is_given_up_in_time_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let accepted = std::thread::spawn(move || {
        // Held open, never answered.
        let sockets: Vec<_> = listener.incoming().take(3).collect();
        std::thread::sleep(Duration::from_secs(60));
        drop(sockets);
    });
    let config = config(&format!("postgresql://u@127.0.0.1:{port}/x"), "unused", &[]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let began = Instant::now();
                let refused = Database::open(&config, "test").expect_err("nobody answers");
                assert_eq!(refused.fault, Fault::Connection);
                assert!(refused.message.contains(&format!("database \"x\" at 127.0.0.1:{port}")), "{refused}");
                let took = began.elapsed();
                assert!(took > Duration::from_secs(9) && took < Duration::from_secs(12), "{took:?}");
            });
        }
    });
    assert!(!accepted.is_finished());
}

/// Stands between a client and the server, and can fall silent.
struct Proxy {
    port: u16,
    is_frozen: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = url();
        let server = server.rsplit_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a host in the URL").0;
        let (server, port) = (server.to_owned(), listener.local_addr().expect("bound").port());
        let proxy = Proxy { port, is_frozen: Arc::default(), clients: Arc::default() };
        let (is_frozen, clients) = (proxy.is_frozen.clone(), proxy.clients.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("accepted");
                let backend = TcpStream::connect(&server).expect("the server answers");
                let clone = |stream: &TcpStream| stream.try_clone().expect("cloned");
                clients.lock().expect("no panic").push(clone(&client));
                for (from, to) in [(clone(&client), clone(&backend)), (backend, client)] {
                    let is_frozen = is_frozen.clone();
                    std::thread::spawn(move || forward(from, to, &is_frozen));
                }
            }
        });
        proxy
    }

    /// A database behind it, with the fixture's tables.
    fn open(&self, fixture: &Fixture, set: &[&str]) -> Database {
        let url = url();
        let (before, after) = (url.split_once("127.0.0.1:").expect("a loopback server"), url.rsplit_once('/'));
        let url = format!("{}127.0.0.1:{}/{}", before.0, self.port, after.expect("a database in the URL").1);
        Database::open(&config(&url, &fixture.schema, set), "behind a proxy").expect("the server answers")
    }

    fn freeze(&self) {
        self.is_frozen.store(true, Ordering::SeqCst);
    }

    /// Ends the clients' connections; the server hears nothing of it.
    fn cut(&self) {
        self.freeze();
        // Longer than a read lasts.
        std::thread::sleep(Duration::from_millis(100));
        for client in self.clients.lock().expect("no panic").drain(..) {
            client.shutdown(Shutdown::Both).expect("it was open");
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, is_frozen: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(20))).expect("settable");
    let mut buffer = [0; 1 << 16];
    loop {
        if is_frozen.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(600));
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_server_that_falls_silent_keeps_nobody_waiting_for_ever() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let proxy = Proxy::new();
    let set = ["database.statement_timeout_ms=1000", "database.lock_timeout_ms=500", "writers.max_hold_ms=500"];
    let database = proxy.open(&fixture, &set);
    let sink = || database.sink(Arc::new(Heartbeat::new("writer-0")));
    let (mut staging, mut rolling_back, mut ledger) = (sink(), sink(), database.ledger());
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    for sink in [&mut staging, &mut rolling_back] {
        sink.stage(&mut work).expect("the rows are taken");
    }
    staging.rollback();
    ledger.standings().expect("readable");
    proxy.freeze();
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    rolling_back.rollback();
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    let silent = |failure: Failure| {
        assert_eq!(failure.fault, Fault::Connection);
        assert!(began.elapsed() < Duration::from_secs(22), "{:?}", began.elapsed());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| silent(ledger.standings().expect_err("nobody answers")));
        scope.spawn(|| silent(staging.stage(&mut work).expect_err("nobody answers")));
    });
    let began = Instant::now();
    drop((staging, rolling_back, ledger, database));
    assert!(began.elapsed() < Duration::from_millis(500), "giving up waits for nothing");
}

#[test]
fn our_own_lost_session_is_no_second_process() {
    let fixture = Fixture::new();
    let proxy = Proxy::new();
    let mut ledger = proxy.open(&fixture, &[]).ledger();
    assert!(ledger.lock_pipeline().expect("free"));
    proxy.cut();
    assert_eq!(ledger.lock_pipeline().expect_err("cut").fault, Fault::Connection);
    let other = fixture.database.ledger().lock_pipeline();
    assert!(!other.expect("an answer"), "the server has not noticed, and its session holds the lock still");
    proxy.is_frozen.store(false, Ordering::SeqCst);
    assert_eq!(ledger.lock_pipeline().expect_err("it is being ended").fault, Fault::Lock);
    eventually("the lock", || ledger.lock_pipeline().unwrap_or(false));
}

#[test]
fn what_is_wrong_with_a_connection_is_known_at_once_by_its_name() {
    let server = url();
    let failure = |url: &str, set: &[&str]| Database::open(&config(url, "unused", set), "test").expect_err("refused");
    let at = |database: &str| format!("{}/{database}", server.rsplit_once('/').expect("a database in the URL").0);
    assert_eq!(failure(&at("no_such_database"), &[]).fault, Fault::DatabaseGone);
    let nobody = server.replace("postgres@", "no_such_role:hunter2@");
    let refused = failure(&nobody, &[]);
    assert_eq!((refused.fault, refused.sqlstate.as_deref()), (Fault::Permission, Some("28000")));
    assert!(!refused.message.contains("hunter2"));
    let closed = failure("postgresql://u@127.0.0.1:1/x", &[]);
    assert_eq!(closed.fault, Fault::Connection);
    assert!(closed.message.contains("refused"), "{closed}");
    // Plain text is never a fallback.
    let plain = failure(&server, &["database.tls=verify-full"]);
    assert!(plain.message.contains("offers no TLS"), "{plain}");
}

#[test]
fn a_read_only_server_is_the_wrong_node() {
    let mut fixture = Fixture::empty(&[]);
    let role = format!("{}_role", fixture.schema);
    fixture.sql(&format!("CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET default_transaction_read_only = on"));
    let reader = url().replace("postgres@", &format!("{role}@"));
    let refused = Database::open(&config(&reader, "unused", &[]), "test").expect_err("read only");
    fixture.sql(&format!("DROP ROLE {role}"));
    assert_eq!(refused.fault, Fault::WrongNode);
}
