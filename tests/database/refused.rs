//! Rows that PostgreSQL refuses without saying which: found in pieces, and written beside their healthy neighbours.

use super::{Fixture, MARKER, batch_of, logged_by, marked, metric, record_logs, run_writer, start};
use std::sync::Arc;
use std::time::Instant;
use stock_db_writer::batch::Batch;
use stock_db_writer::exit::{ExitCode, Stop};
use stock_db_writer::ledger::Ledger;
use stock_db_writer::metrics::Metrics;

/// Refuses the marker at the end of each statement, where no line of a COPY is told.
const AFTER_ROW: &str = "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
       IF NEW.symbol = 'MARKER7' THEN RAISE EXCEPTION 'no %', NEW.symbol USING DETAIL = NEW.symbol; END IF; RETURN NULL; END $$; \
     CREATE TRIGGER t AFTER INSERT OR UPDATE ON @.TABLE FOR EACH ROW EXECUTE FUNCTION @.f()";
/// The same at the end of the transaction.
const DEFERRED: &str = "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
       IF NEW.symbol = 'MARKER7' THEN RAISE EXCEPTION 'no %', NEW.symbol; END IF; RETURN NULL; END $$; \
     CREATE CONSTRAINT TRIGGER t AFTER INSERT ON @.TABLE DEFERRABLE INITIALLY DEFERRED \
       FOR EACH ROW EXECUTE FUNCTION @.f()";
/// Counts statements, also those that are rolled back.
const COUNT: &str = "CREATE SEQUENCE @.statements; \
     CREATE FUNCTION @.count() RETURNS trigger LANGUAGE plpgsql AS \
       $$ BEGIN PERFORM nextval('@.statements'); RETURN NULL; END $$; \
     CREATE TRIGGER count BEFORE INSERT ON @.TABLE FOR EACH STATEMENT EXECUTE FUNCTION @.count()";

/// Statements for the table of a topic.
fn on(topic: &str, sql: &str) -> String {
    sql.replace("@.TABLE", &format!("@.{topic}"))
}

/// What one batch came to.
struct Run {
    fixture: Fixture,
    result: Result<bool, Stop>,
    metrics: Arc<Metrics>,
    seconds: f64,
}

impl Run {
    /// One batch of so many rows, with the marker at these places, into a table that was prepared by this.
    fn new(topic: &str, n_rows: usize, bad: &[usize], sql: &[&str]) -> Run {
        let mut fixture = Fixture::new();
        sql.iter().for_each(|sql| fixture.sql(&on(topic, sql)));
        let batch = marked(&fixture, topic, n_rows, bad);
        Run::with(fixture, batch)
    }

    fn with(fixture: Fixture, batch: Batch) -> Run {
        let (shared, begun) = (fixture.shared(), Instant::now());
        let result = run_writer(&shared, &fixture.database, batch);
        Run { fixture, result, metrics: shared.metrics.clone(), seconds: begun.elapsed().as_secs_f64() }
    }

    /// Everything is a row but the marker's, which are dead letters, and all counters agree.
    #[track_caller]
    fn assert_letters(&mut self, topic: &str, n_rows: usize, bad: &[usize], sqlstate: &str) -> &mut Run {
        assert_eq!(self.result, Ok(true));
        let fixture = &mut self.fixture;
        let letters = fixture.texts(
            "SELECT concat_ws(' ', record_offset, element, reason_class, reason_code, payload IS NOT NULL) \
             FROM @.writer_dead_letters ORDER BY record_offset",
        );
        let expected: Vec<String> = bad.iter().map(|offset| format!("{offset} 0 database {sqlstate} t")).collect();
        assert_eq!(letters, expected);
        let n_good = n_rows - bad.len();
        let count = |what: &str| format!("SELECT count({what}) FROM @.{topic} WHERE symbol <> '{MARKER}'");
        assert_eq!(fixture.number(&count("*")), n_good as i64);
        assert_eq!(fixture.number(&count("DISTINCT symbol")), n_good as i64);
        assert_eq!(fixture.number(&format!("SELECT count(*) FROM @.{topic}")), n_good as i64);
        let counters = fixture.texts(
            "SELECT concat_ws(' ', next_offset, records_total, records_rows, records_dead, records_skipped, rows_total, \
             dead_letters_total) FROM @.writer_offsets",
        );
        assert_eq!(counters, [format!("{n_rows} {n_rows} {n_good} {0} 0 {n_good} {0}", bad.len())]);
        assert_eq!(self.metrics.totals().dead_letters, bad.len() as u64);
        self
    }

    fn statements(&mut self) -> usize {
        self.fixture.number("SELECT last_value FROM @.statements") as usize
    }
}

#[test]
fn a_few_bad_rows_in_ten_thousand_cost_a_bisection_each() {
    const N_ROWS: usize = 10_000;
    for (topic, sql) in [
        ("stock_prices", AFTER_ROW),
        ("stock_prices", DEFERRED),
        ("stock_metrics", AFTER_ROW),
        ("stock_metrics", DEFERRED),
    ] {
        let mut clean = Run::new(topic, N_ROWS, &[], &[sql, COUNT]);
        assert_eq!((clean.result.clone(), clean.statements()), (Ok(true), 1));
        for bad in [&[0][..], &[6_000], &[N_ROWS - 1], &[17, 4_711, 9_000]] {
            let mut run = Run::new(topic, N_ROWS, bad, &[sql, COUNT]);
            let n_statements = run.assert_letters(topic, N_ROWS, bad, "P0001").statements();
            // log₂ 10,000 is 13.3. The first statement is the clean batch's own.
            assert!(n_statements <= 1 + bad.len() * 16, "{bad:?}: {n_statements} statements");
            let kind = if sql == DEFERRED { "at COMMIT" } else { "at the end of a statement" };
            println!(
                "{topic}, refused {kind}, rows {bad:?} of {N_ROWS}: {n_statements} statements, {:.2} times the clean {:.0} ms",
                run.seconds / clean.seconds,
                clean.seconds * 1000.0
            );
        }
    }
}

#[test]
fn named_rows_cost_three_statements_each_at_most() {
    let bad: Vec<usize> = (0..50).map(|idx| idx * 97).collect();
    let mut run = Run::new("stock_prices", 5_000, &bad, &["ALTER TABLE @.TABLE ADD CHECK (price < 100)", COUNT]);
    let n_statements = run.assert_letters("stock_prices", 5_000, &bad, "23514").statements();
    assert!(n_statements <= 1 + 3 * bad.len(), "{n_statements} statements");
}

#[test]
fn a_foreign_key_a_narrow_column_and_a_constraint_of_metrics_are_found_too() {
    let keys = "CREATE TABLE @.symbols (symbol text PRIMARY KEY); \
         INSERT INTO @.symbols SELECT 'S' || n FROM generate_series(0, 999) AS n; \
         ALTER TABLE @.TABLE ADD FOREIGN KEY (symbol) REFERENCES @.symbols";
    for (topic, sql, sqlstate) in [
        ("stock_prices", keys.to_owned(), "23503"),
        ("stock_prices", format!("{keys} DEFERRABLE INITIALLY DEFERRED"), "23503"),
        ("stock_metrics", keys.to_owned(), "23503"),
        ("stock_metrics", "ALTER TABLE @.TABLE ADD CHECK (avg_price < 100)".to_owned(), "23514"),
        (
            "stock_metrics",
            "ALTER TABLE @.TABLE ADD short varchar(6) GENERATED ALWAYS AS (symbol) STORED".to_owned(),
            "22001",
        ),
    ] {
        let mut run = Run::new(topic, 300, &[0, 7, 8, 299], &[&sql]);
        run.assert_letters(topic, 300, &[0, 7, 8, 299], sqlstate);
        assert_eq!(run.metrics.retries(), 1, "{topic} {sqlstate}: found at the first attempt");
    }
}

#[test]
fn where_the_newest_row_of_a_window_is_refused_the_one_before_it_stands() {
    let mut fixture = Fixture::new();
    fixture.sql("ALTER TABLE @.stock_metrics ADD CHECK (avg_price < 100)");
    let epoch = fixture.database.ledger().claim_or_start(&[start("stock_metrics", 0)]).expect("claimed")[0].epoch;
    let values =
        [metric("A", 1, "1"), metric("A", 1, "2"), metric("A", 1, "300"), metric("A", 1, "400"), metric("B", 1, "500")];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let mut run = Run::with(fixture, batch_of("stock_metrics", epoch, &[(0, &values)]));
    assert_eq!(run.result, Ok(true));
    assert_eq!(run.fixture.texts("SELECT symbol || ' ' || avg_price FROM @.stock_metrics"), ["A 2"]);
    let letters = run.fixture.texts("SELECT record_offset || ' ' || reason_code FROM @.writer_dead_letters ORDER BY 1");
    assert_eq!(letters, ["2 23514", "3 23514", "4 23514"]);
    let counters =
        "SELECT concat_ws(' ', records_rows, records_dead, rows_total, dead_letters_total) FROM @.writer_offsets";
    assert_eq!(run.fixture.texts(counters), ["2 3 2 3"]);
}

#[test]
fn rows_that_are_refused_only_side_by_side_are_written_one_by_one() {
    const NO_PAIRS: &str = "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF (SELECT count(*) FROM fresh) > 1 THEN RAISE EXCEPTION 'one at a time'; END IF; RETURN NULL; END $$; \
         CREATE TRIGGER t AFTER INSERT ON @.TABLE REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION @.f()";
    for topic in ["stock_prices", "stock_metrics"] {
        Run::new(topic, 200, &[], &[NO_PAIRS]).assert_letters(topic, 200, &[], "");
    }
}

#[test]
fn a_statement_that_is_refused_whatever_its_rows_are_is_a_flood() {
    const NEVER: &str = "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'never'; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.TABLE FOR EACH STATEMENT EXECUTE FUNCTION @.f()";
    for topic in ["stock_prices", "stock_metrics"] {
        let mut run = Run::new(topic, 150, &[], &[NEVER]);
        let stop = run.result.expect_err("every row is refused");
        assert_eq!(stop.code, ExitCode::DataNeedsDecision);
        assert!(
            stop.message.contains("150 of its last 150 records") && stop.message.contains("database P0001"),
            "{stop}"
        );
        assert_eq!(run.fixture.number("SELECT count(*) FROM @.writer_dead_letters"), 0);
        assert_eq!(run.fixture.number("SELECT next_offset FROM @.writer_offsets"), 0);
    }
}

#[test]
fn a_batch_of_refused_rows_alone_costs_three_statements_a_row_and_is_a_flood() {
    for sql in ["ALTER TABLE @.TABLE ADD CHECK (price > 100)", &AFTER_ROW.replace("= 'MARKER7'", "<> 'MARKER7'")] {
        let mut run = Run::new("stock_prices", 2_000, &[], &[sql, COUNT]);
        let n_statements = run.statements();
        println!("2000 refused rows: {n_statements} statements, {:.1} s", run.seconds);
        assert_eq!(run.result.expect_err("a flood").code, ExitCode::DataNeedsDecision);
        assert!(n_statements < 6_000, "{n_statements} statements");
    }
}

#[test]
fn what_only_commit_refuses_stops_with_one_line_and_never_loops() {
    // Behind SET CONSTRAINTS ALL IMMEDIATE: a trigger defers its own refusal again.
    let mut fixture = Fixture::new();
    fixture.sql(
        "CREATE TABLE @.checks (n int); \
         CREATE FUNCTION @.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'MARKER7'; END $$; \
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON @.checks DEFERRABLE INITIALLY DEFERRED \
           FOR EACH ROW EXECUTE FUNCTION @.refuse(); \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           SET CONSTRAINTS ALL DEFERRED; INSERT INTO @.checks VALUES (1); RETURN NULL; END $$; \
         CREATE TRIGGER t AFTER INSERT ON @.stock_prices FOR EACH STATEMENT EXECUTE FUNCTION @.f()",
    );
    let batch = marked(&fixture, "stock_prices", 4, &[]);
    let mut run = Run::with(fixture, batch);
    let stop = run.result.expect_err("no row can be blamed");
    assert_eq!(stop.code, ExitCode::DataNeedsDecision);
    assert!(stop.message.contains("none of its rows alone") && !stop.message.contains(MARKER), "{stop}");
    assert_eq!(run.fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
}

#[test]
fn a_batch_that_takes_too_long_is_sent_in_shorter_statements() {
    const SLOW: &str = "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.TABLE FOR EACH ROW EXECUTE FUNCTION @.f()";
    for topic in ["stock_prices", "stock_metrics"] {
        let mut fixture = Fixture::new();
        fixture.sql(&on(topic, SLOW));
        fixture.reopen(&[
            "database.statement_timeout_ms=1000",
            "database.lock_timeout_ms=500",
            "writers.max_hold_ms=500",
        ]);
        let batch = marked(&fixture, topic, 120, &[]);
        let mut run = Run::with(fixture, batch);
        run.assert_letters(topic, 120, &[], "");
        assert!(run.metrics.retries() >= 2, "2.4 s of sleep don't fit into 1 s");
    }
}

#[test]
fn no_value_of_a_refused_row_is_logged() {
    const TAKEN: &str = "CREATE UNIQUE INDEX ON @.TABLE (symbol); \
         INSERT INTO @.stock_prices (symbol, price, timestamp) VALUES ('MARKER7', 1, now()); \
         INSERT INTO @.stock_metrics (symbol, window_start, window_end) VALUES ('MARKER7', 'epoch', 'infinity')";
    record_logs();
    let thread = "no value is logged";
    for topic in ["stock_prices", "stock_metrics"] {
        for sql in [AFTER_ROW, DEFERRED, TAKEN] {
            let mut fixture = Fixture::new();
            fixture.sql(&on(topic, sql));
            let batch = marked(&fixture, topic, 20, &[3]);
            let run = std::thread::Builder::new().name(thread.to_owned());
            let run = run.spawn(|| Run::with(fixture, batch)).expect("a thread can be started");
            let mut run = run.join().expect("no panic");
            assert_eq!(run.result, Ok(true));
            assert_eq!(run.fixture.number("SELECT count(*) FROM @.writer_dead_letters"), 1);
            let reason = run.fixture.texts("SELECT reason FROM @.writer_dead_letters").remove(0);
            assert!(reason.starts_with("PostgreSQL refused the row with SQLSTATE ") && !reason.contains(MARKER));
        }
    }
    let lines = logged_by(thread);
    for sign in ["fault=record", "fault=unique-key"] {
        assert!(lines.iter().any(|line| line.contains(sign)), "{sign} was never logged");
    }
    let leaked: Vec<_> = lines.iter().filter(|line| line.contains(MARKER) || line.contains("777.25")).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
}
