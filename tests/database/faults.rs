//! The table of faults, line by line: PostgreSQL is made to answer with each SQLSTATE, and the real writer shows what it
//! does about it. What can't be had on a healthy server is raised with that code by a trigger.

use super::{Fixture, MARKER, eventually, logged_by, marked, record_logs, run_writer};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stock_db_writer::exit::ExitCode;
use stock_db_writer::fault::Fault;
use stock_db_writer::metrics::InDoubt;

/// What the writer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// One dead letter, and its neighbours are rows.
    Letter,
    /// Tries again; once the cause is gone, every row is there and no dead letter.
    Retries,
    /// The same, but when its patience ends, the process does.
    RetriesThenStops(ExitCode),
    /// The process ends at once, with nothing written.
    Stops(ExitCode),
}

/// How PostgreSQL is made to say it.
#[derive(Debug, Clone, Copy)]
enum How {
    /// A trigger raises it for one row.
    Raised,
    /// The body of a row trigger on the prices, for one row.
    Trigger(&'static str),
    /// Statements before and, where it can heal, after.
    Prices(&'static str, &'static str),
    /// The same with a batch of metrics.
    Metrics(&'static str, &'static str),
}

use Done::{Letter, Retries, RetriesThenStops, Stops};
use How::{Metrics, Prices, Raised, Trigger};

const CASES: &[(&str, How, Fault, Done)] = &[
    ("08000", Raised, Fault::Connection, Retries),
    ("08006", Raised, Fault::Connection, Retries),
    ("08P01", Raised, Fault::Connection, Retries),
    ("57P01", Trigger("PERFORM pg_terminate_backend(pg_backend_pid());"), Fault::Connection, Retries),
    ("57P02", Raised, Fault::Connection, Retries),
    ("57P03", Raised, Fault::Connection, Retries),
    ("57P05", Raised, Fault::Connection, Retries),
    ("25P03", Raised, Fault::Connection, Retries),
    ("25P04", Raised, Fault::Connection, Retries),
    ("40003", Raised, Fault::Connection, Retries),
    ("40000", Raised, Fault::Transaction, Retries),
    ("40001", Raised, Fault::Transaction, Retries),
    ("40P01", Raised, Fault::Transaction, Retries),
    ("72000", Raised, Fault::Transaction, Retries),
    ("55P03", Prices("BEGIN; LOCK TABLE @.stock_prices IN ACCESS EXCLUSIVE MODE", "COMMIT"), Fault::Lock, Retries),
    ("55006", Raised, Fault::Lock, Retries),
    ("57014", Trigger("PERFORM pg_sleep(60);"), Fault::Statement, Retries),
    ("25006", Trigger("PERFORM set_config('transaction_read_only', 'on', true);"), Fault::WrongNode, Retries),
    ("53000", Raised, Fault::Resource, Retries),
    ("53100", Raised, Fault::Resource, Retries),
    ("53200", Raised, Fault::Resource, Retries),
    ("53300", Raised, Fault::Resource, Retries),
    (
        "53400",
        Trigger(
            "PERFORM set_config('work_mem', '64kB', true), set_config('temp_file_limit', '64kB', true); \
             PERFORM * FROM generate_series(1, 100000) AS n ORDER BY -n;",
        ),
        Fault::Resource,
        Retries,
    ),
    ("58000", Raised, Fault::Resource, Retries),
    ("58030", Raised, Fault::Resource, Retries),
    ("58P01", Trigger("PERFORM pg_read_file('/no/such/file');"), Fault::Resource, Retries),
    ("58P02", Raised, Fault::Resource, Retries),
    // By columns of others: what ours can't hold is never sent.
    (
        "22001",
        Prices("ALTER TABLE @.stock_prices ADD short varchar(4) GENERATED ALWAYS AS (symbol) STORED", ""),
        Fault::Record,
        Letter,
    ),
    (
        "22003",
        Prices("ALTER TABLE @.stock_prices ADD small numeric(6,4) GENERATED ALWAYS AS (price) STORED", ""),
        Fault::Record,
        Letter,
    ),
    ("22008", Trigger("PERFORM make_date(2024, 13, 1);"), Fault::Record, Letter),
    ("22012", Trigger("PERFORM 1 / 0;"), Fault::Record, Letter),
    ("22023", Raised, Fault::Record, Letter),
    ("22P02", Trigger("PERFORM NEW.symbol::int;"), Fault::Record, Letter),
    ("22P05", Trigger("PERFORM convert_to(U&'\\65E5', 'LATIN1');"), Fault::Record, Letter),
    ("23000", Raised, Fault::Record, Letter),
    ("23502", Trigger("NEW.price := NULL;"), Fault::Record, Letter),
    (
        "23503",
        Prices(
            "CREATE TABLE @.symbols (symbol text PRIMARY KEY); \
             INSERT INTO @.symbols SELECT 'S' || n FROM generate_series(0, 99) AS n; \
             ALTER TABLE @.stock_prices ADD FOREIGN KEY (symbol) REFERENCES @.symbols",
            "",
        ),
        Fault::Record,
        Letter,
    ),
    ("23514", Prices("ALTER TABLE @.stock_prices ADD CHECK (symbol <> '#')", ""), Fault::Record, Letter),
    (
        "23P01",
        Prices(
            "ALTER TABLE @.stock_prices ADD EXCLUDE USING btree (symbol WITH =); \
             INSERT INTO @.stock_prices (symbol, price, timestamp) VALUES ('#', 1, now())",
            "",
        ),
        Fault::Record,
        Letter,
    ),
    (
        "23505",
        Prices(
            "CREATE UNIQUE INDEX ON @.stock_prices (symbol); \
             INSERT INTO @.stock_prices (symbol, price, timestamp) VALUES ('#', 1, now())",
            "",
        ),
        Fault::UniqueKey,
        Letter,
    ),
    (
        "44000",
        Prices(
            "CREATE VIEW @.others AS SELECT symbol, price, timestamp FROM @.other_prices WHERE symbol <> '#' WITH CHECK OPTION; \
             CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               INSERT INTO @.others VALUES (NEW.symbol, NEW.price, NEW.timestamp); RETURN NEW; END $$; \
             CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
            "",
        ),
        Fault::Record,
        Letter,
    ),
    (
        "54000",
        Trigger("NEW.symbol := (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) AS n);"),
        Fault::Record,
        Letter,
    ),
    (
        "54001",
        Prices(
            "CREATE FUNCTION @.deep(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN @.deep(n + 1); END $$; \
             CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               IF NEW.symbol = '#' THEN PERFORM @.deep(0); END IF; RETURN NEW; END $$; \
             CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
            "",
        ),
        Fault::Record,
        Letter,
    ),
    ("20000", Trigger("CASE NEW.volume WHEN -1 THEN NULL; END CASE;"), Fault::Record, Letter),
    ("21000", Trigger("NEW.price := (SELECT n FROM generate_series(1, 2) AS n);"), Fault::Record, Letter),
    ("09000", Raised, Fault::Record, Letter),
    ("40002", Raised, Fault::Record, Letter),
    ("38000", Raised, Fault::Record, Letter),
    ("P0001", Raised, Fault::Record, Letter),
    ("P0002", Trigger("SELECT 1 INTO STRICT NEW.price WHERE false;"), Fault::Record, Letter),
    ("P0003", Trigger("SELECT n INTO STRICT NEW.price FROM generate_series(1, 2) AS n;"), Fault::Record, Letter),
    ("P0004", Trigger("ASSERT NEW.price < 0, 'no ' || NEW.symbol;"), Fault::Record, Letter),
    (
        // A column of another type is noticed before anything is sent; PostgreSQL itself would say this.
        "22P03",
        Raised,
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "2200H",
        Prices(
            "ALTER TABLE @.stock_prices ALTER id SET MAXVALUE 3",
            "ALTER TABLE @.stock_prices ALTER id SET NO MAXVALUE",
        ),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "42P01",
        Prices("ALTER TABLE @.stock_prices RENAME TO gone", "ALTER TABLE @.gone RENAME TO stock_prices"),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "42703",
        Prices("ALTER TABLE @.stock_prices RENAME volume TO gone", "ALTER TABLE @.stock_prices RENAME gone TO volume"),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "42804",
        Metrics(
            "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               INSERT INTO @.stock_prices (symbol, price, timestamp) VALUES (NEW.symbol, NEW.window_start, now()); \
               RETURN NEW; END $$; \
             CREATE TRIGGER t BEFORE INSERT ON @.stock_metrics FOR EACH ROW EXECUTE FUNCTION @.f()",
            "DROP TRIGGER t ON @.stock_metrics",
        ),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "42601",
        Trigger("EXECUTE 'SELECT ' || NEW.symbol || ' ' || NEW.price || ' FROM';"),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    ("42883", Trigger("PERFORM no_such_function(NEW.symbol);"), Fault::Schema, RetriesThenStops(ExitCode::Config)),
    (
        "42P10",
        Metrics(
            "DROP INDEX @.stock_metrics_symbol_window_key",
            "CREATE UNIQUE INDEX stock_metrics_symbol_window_key ON @.stock_metrics (symbol, window_start, window_end)",
        ),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "428C9",
        Metrics(
            "ALTER TABLE @.stock_metrics DROP avg_volume, ADD avg_volume numeric GENERATED ALWAYS AS (1) STORED",
            "ALTER TABLE @.stock_metrics DROP avg_volume, ADD avg_volume numeric",
        ),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "3F000",
        Prices("ALTER SCHEMA @ RENAME TO @_gone", "ALTER SCHEMA @_gone RENAME TO @"),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    (
        "0A000",
        Metrics("CREATE RULE r AS ON INSERT TO @.stock_metrics DO ALSO SELECT 1", "DROP RULE r ON @.stock_metrics"),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    ("55000", Trigger("PERFORM currval('@.never_used');"), Fault::Schema, RetriesThenStops(ExitCode::Config)),
    ("2D000", Trigger("COMMIT;"), Fault::Schema, RetriesThenStops(ExitCode::Config)),
    ("27000", Raised, Fault::Schema, RetriesThenStops(ExitCode::Config)),
    (
        "2F005",
        Prices(
            "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.symbol <> '#' THEN RETURN NEW; END IF; END $$; \
             CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
            "DROP TRIGGER t ON @.stock_prices",
        ),
        Fault::Schema,
        RetriesThenStops(ExitCode::Config),
    ),
    ("39P01", Raised, Fault::Schema, RetriesThenStops(ExitCode::Config)),
    ("26000", Raised, Fault::Schema, RetriesThenStops(ExitCode::Config)),
    (
        "42501",
        Prices(
            "CREATE TABLE @.hidden (n int); \
             CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
               $$ BEGIN PERFORM * FROM @.hidden; RETURN NEW; END $$; \
             GRANT USAGE ON SCHEMA @ TO pg_monitor; \
             ALTER FUNCTION @.f() OWNER TO pg_monitor; \
             CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
            "GRANT SELECT ON @.hidden TO pg_monitor",
        ),
        Fault::Permission,
        RetriesThenStops(ExitCode::Permission),
    ),
    ("28000", Raised, Fault::Permission, RetriesThenStops(ExitCode::Permission)),
    ("28P01", Raised, Fault::Permission, RetriesThenStops(ExitCode::Permission)),
    ("3D000", Raised, Fault::DatabaseGone, Stops(ExitCode::Config)),
    ("57P04", Raised, Fault::DatabaseGone, Stops(ExitCode::Config)),
    ("22P04", Raised, Fault::Bug, Stops(ExitCode::InvariantBroken)),
    ("25P01", Raised, Fault::Bug, Stops(ExitCode::InvariantBroken)),
    ("25P02", Raised, Fault::Bug, Stops(ExitCode::InvariantBroken)),
    ("3B001", Raised, Fault::Bug, Stops(ExitCode::InvariantBroken)),
    ("XX001", Raised, Fault::Corruption, Stops(ExitCode::Corruption)),
    ("XX002", Raised, Fault::Corruption, Stops(ExitCode::Corruption)),
    ("XX000", Raised, Fault::Unlisted, Stops(ExitCode::InvariantBroken)),
    ("57000", Raised, Fault::Unlisted, Stops(ExitCode::InvariantBroken)),
    ("F0000", Raised, Fault::Unlisted, Stops(ExitCode::InvariantBroken)),
    ("0L000", Raised, Fault::Unlisted, Stops(ExitCode::InvariantBroken)),
    ("0P000", Raised, Fault::Unlisted, Stops(ExitCode::InvariantBroken)),
    ("HV000", Raised, Fault::Unlisted, Stops(ExitCode::InvariantBroken)),
];

/// So often does a trigger raise what is to heal.
const TRIES: i64 = 2;
const N_ROWS: i64 = 12;

/// Makes PostgreSQL answer with the code; returns what heals it.
fn provoke(fixture: &mut Fixture, code: &str, how: How, heals: bool) -> &'static str {
    let raise =
        format!("RAISE EXCEPTION 'no % for %', NEW.price, NEW.symbol USING ERRCODE = '{code}', DETAIL = NEW.symbol;");
    let (body, heal) = match how {
        Raised => (raise.as_str(), ""),
        Trigger(body) => (body, ""),
        Prices(before, after) | Metrics(before, after) => {
            fixture.sql("CREATE TABLE @.other_prices (symbol text, price numeric, timestamp timestamptz)");
            fixture.sql(&before.replace('#', MARKER));
            return after;
        }
    };
    // A sequence moves on also where the transaction is rolled back.
    let times = if heals { format!(" AND nextval('@.tries') <= {TRIES}") } else { String::new() };
    fixture.sql(&format!(
        "CREATE SEQUENCE @.tries; CREATE SEQUENCE @.never_used; \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN \
           IF NEW.symbol = '{MARKER}'{times} THEN {body} END IF; RETURN NEW; END $f$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()"
    ));
    heal
}

/// One line of the table, shown to be true; returns it for people.
fn show(code: &str, how: How, fault: Fault, done: Done, patience: Duration) -> String {
    let mut fixture = Fixture::new();
    let grace = format!("schema.grace_ms={}", patience.as_millis());
    fixture.reopen(&[
        "database.lock_timeout_ms=300",
        "database.statement_timeout_ms=2000",
        "writers.max_hold_ms=500",
        &grace,
    ]);
    let heals = matches!(done, Retries | RetriesThenStops(_)) && !patience.is_zero();
    let topic = if matches!(how, Metrics(..)) { "stock_metrics" } else { "stock_prices" };
    let batch = marked(&fixture, topic, N_ROWS as usize, &[5]);
    let heal = provoke(&mut fixture, code, how, heals);
    let thread = format!("{code} {}", fixture.schema);
    let (shared, database) = (fixture.shared(), fixture.database.clone());
    let run = std::thread::scope(|scope| {
        let writer = std::thread::Builder::new().name(thread.clone());
        let writer = writer.spawn_scoped(scope, || run_writer(&shared, &database, batch));
        let writer = writer.expect("a thread can be started");
        if heals && !heal.is_empty() {
            eventually("a retry", || shared.metrics.retries() > 0 || writer.is_finished());
            fixture.sql(heal);
        }
        let result = writer.join().expect("no panic");
        (result, shared.metrics.retries())
    });
    let lines = logged_by(&thread);
    let ours = lines.iter().filter(|line| line.contains("seq=")).collect::<Vec<_>>();
    let sign = format!("fault={}: ", fault.as_str());
    // What PostgreSQL 13 called a syntax error: a value for a generated column.
    let code = if code == "428C9" && fixture.server_major() < 14 { "42601" } else { code };
    let seen = lines.iter().find(|line| line.contains(&format!("(SQLSTATE {code})"))).cloned();
    let seen = seen.unwrap_or_else(|| panic!("{code} was never seen: {ours:#?}"));
    assert!(seen.contains(&sign), "{code}: {seen}");
    if !heal.is_empty() && !heals {
        fixture.sql(heal);
    }
    // The tables are named like their topics. Some cases put a row of their own there, without a fetch time.
    let of_ours = if topic == "stock_prices" { "WHERE fetch_timestamp IS NOT NULL" } else { "" };
    let rows = fixture.number(&format!("SELECT count(*) FROM @.{topic} {of_ours}"));
    let letters =
        fixture.texts("SELECT reason_class || ' ' || reason_code || ' ' || reason FROM @.writer_dead_letters");
    let (result, retries) = run;
    let outcome = match (done, result) {
        (Letter, Ok(true)) => {
            let reason = format!("database {code} PostgreSQL refused the row with SQLSTATE {code}");
            assert_eq!((rows, &letters[..]), (N_ROWS - 1, &[reason][..]), "{code}");
            format!("1 dead letter, {rows} rows")
        }
        (Retries | RetriesThenStops(_), Ok(true)) if heals => {
            assert_eq!((rows, letters.len()), (N_ROWS, 0), "{code}");
            assert!(retries > 0);
            format!("retried {retries} times, 0 dead letters, {rows} rows")
        }
        (Stops(exit) | RetriesThenStops(exit), Err(stop)) if !heals => {
            assert_eq!((stop.code, rows, letters.len()), (exit, 0, 0), "{code}: {}", stop.message);
            assert!(!stop.message.contains(MARKER), "{}", stop.message);
            format!("exit {}, 0 dead letters, 0 rows", exit as u8)
        }
        (done, result) => panic!("{code}: expected {done:?}, {result:?} after {ours:#?}"),
    };
    let leaked: Vec<_> = lines.iter().filter(|line| line.contains(MARKER) || line.contains("777.25")).collect();
    assert!(leaked.is_empty(), "{code}: a row's values are in the log: {leaked:#?}");
    let provoked = match how {
        Raised => "raised by a trigger",
        Trigger(_) => "inside a trigger",
        Prices(..) => "by the tables or a lock",
        Metrics(..) => "by the tables, in the turn",
    };
    format!("{code}  {provoked:<26} {:<13} {outcome}", format!("{fault:?}"))
}

#[test]
fn every_line_of_the_table_of_faults_is_true_on_a_real_server() {
    record_logs();
    const PATIENT: Duration = Duration::from_secs(60);
    let impatient = CASES.iter().filter(|(.., done)| matches!(done, RetriesThenStops(_)));
    let all: Vec<_> =
        CASES.iter().map(|case| (case, PATIENT)).chain(impatient.map(|case| (case, Duration::ZERO))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let shown = std::sync::Mutex::new(Vec::new());
    // Most of the time is spent in pauses: many side by side, each with three connections at most.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(((code, how, fault, done), patience)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let line = show(code, *how, *fault, *done, *patience);
                    shown.lock().expect("no panic").push(line);
                }
            });
        }
    });
    let mut shown = shown.into_inner().expect("no panic");
    shown.sort();
    println!("code   provoked by                seen as       what the writer did\n{}", shown.join("\n"));
    assert_eq!(shown.len(), all.len());
}

#[test]
fn a_commit_whose_outcome_the_server_does_not_know_is_in_doubt() {
    let mut fixture = Fixture::new();
    let batch = marked(&fixture, "stock_prices", 3, &[1]);
    fixture.sql(&format!(
        "CREATE SEQUENCE @.tries; \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF NEW.symbol = '{MARKER}' AND nextval('@.tries') <= {TRIES} THEN RAISE EXCEPTION USING ERRCODE = '40003'; END IF; \
           RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER t AFTER INSERT ON @.stock_prices DEFERRABLE INITIALLY DEFERRED \
           FOR EACH ROW EXECUTE FUNCTION @.f()"
    ));
    let shared = fixture.shared();
    assert_eq!(run_writer(&shared, &fixture.database, batch), Ok(true));
    assert_eq!(shared.metrics.in_doubt(InDoubt::NotApplied), TRIES as u64);
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 3);
}

#[test]
fn no_line_of_the_table_of_faults_is_left_out() {
    let source = include_str!("../../src/fault.rs");
    let table = source.split("match code {").nth(1).and_then(|rest| rest.split("pub fn exit_code").next());
    let table = table.expect("the table is where it was");
    let is_code = |word: &&str| {
        matches!(word.len(), 2 | 5) && word.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
    };
    let code = table.lines().filter(|line| !line.trim_start().starts_with("//"));
    let listed: BTreeSet<&str> = code.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(is_code).collect();
    assert!(listed.len() > 40, "{listed:?}");
    let shown: BTreeSet<&str> = CASES.iter().map(|(code, ..)| *code).collect();
    for code in listed {
        assert!(shown.iter().any(|shown| shown.starts_with(code)), "{code} is shown nowhere");
    }
}
