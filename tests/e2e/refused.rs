//! Rows that PostgreSQL refuses become dead letters, and cost their neighbours nothing.

use crate::harness::checker::Progress;
use crate::harness::producer::{Kcat, quote, symbol};
use crate::harness::{LIMIT, Stage, eventually, random, size};
use std::thread;
use std::time::Duration;

/// Raises for the symbol of bad records, as a row trigger of this kind.
fn raising(kind: &str) -> String {
    format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.symbol LIKE 'BAD%' THEN RAISE EXCEPTION 'no % at %', NEW.symbol, NEW USING DETAIL = NEW.symbol; END IF;
             RETURN NEW; END $$;
         CREATE {kind} ON %TABLE% {} FOR EACH ROW EXECUTE FUNCTION refuse();",
        if kind.contains("CONSTRAINT") { "DEFERRABLE INITIALLY DEFERRED" } else { "" }
    )
}

/// What the table is made to refuse, and the SQLSTATE of it.
fn rules() -> Vec<(&'static str, String, &'static str)> {
    let symbols = "CREATE TABLE symbols (symbol text PRIMARY KEY);
         INSERT INTO symbols SELECT 'K' || n FROM generate_series(0, 499) AS n;
         ALTER TABLE %TABLE% ADD FOREIGN KEY (symbol) REFERENCES symbols";
    vec![
        ("check", "ALTER TABLE %TABLE% ADD CHECK (symbol NOT LIKE 'BAD%')".to_owned(), "23514"),
        ("type", "ALTER TABLE %TABLE% ADD short varchar(4) GENERATED ALWAYS AS (symbol) STORED".to_owned(), "22001"),
        ("trigger", raising("TRIGGER refuse BEFORE INSERT"), "P0001"),
        ("after", raising("TRIGGER refuse AFTER INSERT"), "P0001"),
        ("deferred", raising("CONSTRAINT TRIGGER refuse AFTER INSERT"), "P0001"),
        ("key", symbols.to_owned(), "23503"),
        ("key_deferred", format!("{symbols} DEFERRABLE INITIALLY DEFERRED"), "23503"),
    ]
}

/// What became of the records of a topic: rows and dead letters, and every counter says so.
#[track_caller]
fn assert_letters(stage: &Stage, topic: &str, n_good: i64, n_bad: i64, sqlstate: &str) {
    stage.assert_counters(topic);
    let letters = |condition: &str| {
        stage.number(&format!("SELECT count(*) FROM writer_dead_letters WHERE topic = '{topic}' AND {condition}"))
    };
    assert_eq!(letters("true"), n_bad, "dead letters of {topic}");
    let expected = format!("reason_class = 'database' AND reason_code = '{sqlstate}' AND payload IS NOT NULL");
    assert_eq!(letters(&expected), n_bad, "dead letters with SQLSTATE {sqlstate}");
    assert_eq!(letters("reason LIKE '%BAD%'"), 0, "a reason holds a value");
    let standings: Vec<_> = stage.standings(topic).into_values().collect();
    let sum = |of: fn(&crate::harness::checker::Standing) -> i64| standings.iter().map(of).sum::<i64>();
    assert_eq!((sum(|at| at.records_rows), sum(|at| at.rows_total)), (n_good, n_good));
    assert_eq!((sum(|at| at.records_dead), sum(|at| at.dead_letters_total)), (n_bad, n_bad));
}

/// One bad record after every so many good ones.
const EVERY: i64 = 40;

/// Prices, of which some are bad. Returns how many of each.
fn produce(stage: &Stage, count: i64, bad: impl Fn(i64) -> String) -> (i64, i64) {
    let mut n_bad = 0;
    for partition in 0..stage.n_partitions {
        let mut kcat = Kcat::start(&stage.topic, Some(partition), "lz4");
        for id in stage.take(count / i64::from(stage.n_partitions)) {
            kcat.quote(id);
            if id % EVERY == 0 {
                kcat.line("BADLY", bad(id).as_bytes());
                n_bad += 1;
            }
        }
        kcat.finish();
    }
    (stage.sent().count(), n_bad)
}

fn bad_price(id: i64) -> String {
    quote(id).replace(&format!("\"{}\"", symbol(id)), "\"BADLY\"")
}

fn prices_are_refused(n_writers: u32) {
    let unique = "CREATE UNIQUE INDEX ON %TABLE% (symbol, timestamp)".to_owned();
    let not_null = "ALTER TABLE %TABLE% ALTER volume SET NOT NULL".to_owned();
    let without_volume = |id: i64| bad_price(id).replace("\"volume\"", "\"remark\"");
    for (name, sql, sqlstate) in
        rules().into_iter().chain([("unique", unique, "23505"), ("not_null", not_null, "23502")])
    {
        let stage = Stage::new(&format!("refused_{name}_{n_writers}"), 2);
        let invocation = stage.invocation().set("batch.rows_max", 300).set("writers.count", n_writers);
        invocation.output(&["init"]).expect_code(0);
        stage.execute(&sql.replace("%TABLE%", "stock_prices"));
        let (n_good, n_bad) = match name {
            "unique" => produce(&stage, 3_000, quote),
            "not_null" => produce(&stage, 3_000, without_volume),
            _ => produce(&stage, 3_000, bad_price),
        };
        let output = invocation.env("RUST_LOG", "debug").output(&["run", "--until-end"]).expect_code(0);
        assert!(!output.said().contains("BADLY"), "a row's value is in the log");
        stage.assert_exactly_once();
        assert_letters(&stage, &stage.topic, n_good, n_bad, sqlstate);
        println!(
            "{name}, {n_writers} writers: {n_good} rows, {n_bad} dead letters in {:.1} s",
            output.took.as_secs_f64()
        );
    }
}

#[test]
fn prices_that_postgresql_refuses_become_dead_letters_with_one_writer() {
    prices_are_refused(1);
}

#[test]
fn prices_that_postgresql_refuses_become_dead_letters_with_four_writers() {
    prices_are_refused(4);
}

fn metrics_are_refused(n_writers: u32) {
    const N_GOOD: i64 = 2_000;
    for (name, sql, sqlstate) in rules() {
        let stage = Stage::new(&format!("refused_metric_{name}_{n_writers}"), 2);
        let metrics = format!("{}_metrics", stage.name);
        stage.add_topic(&metrics, 2, &[]);
        let invocation = stage
            .invocation()
            .set("topics.1.name", &metrics)
            .set("topics.1.target", "metrics")
            .set("batch.rows_max", 300)
            .set("writers.count", n_writers);
        invocation.output(&["init"]).expect_code(0);
        stage.execute(&sql.replace("%TABLE%", "stock_metrics"));
        for partition in 0..2 {
            let mut kcat = Kcat::start(&metrics, Some(partition), "lz4");
            for window in (0..N_GOOD).filter(|window| window % 2 == i64::from(partition)) {
                let value = |symbol: &str| {
                    let start = 1_700_000_000 + window * 60;
                    format!(
                        r#"{{"symbol":"{symbol}","window_start":{start},"window_end":{},"avg_price":{window}}}"#,
                        start + 60
                    )
                };
                let symbol = format!("K{}", window % 500);
                kcat.line(&symbol, value(&symbol).as_bytes());
                if window % EVERY < 2 {
                    kcat.line("BADLY", value("BADLY").as_bytes());
                }
            }
            kcat.finish();
        }
        // In the same batches.
        stage.produce(2_000);
        let output = invocation.env("RUST_LOG", "debug").output(&["run", "--until-end"]).expect_code(0);
        assert!(!output.said().contains("BADLY"), "a row's value is in the log");
        stage.assert_exactly_once();
        assert_letters(&stage, &metrics, N_GOOD, N_GOOD / EVERY * 2, sqlstate);
        let kept = stage.number("SELECT count(DISTINCT avg_price) FROM stock_metrics WHERE symbol LIKE 'K%'");
        assert_eq!((kept, stage.number("SELECT count(*) FROM stock_metrics")), (N_GOOD, N_GOOD));
        println!("{name}, {n_writers} writers: {:.1} s", output.took.as_secs_f64());
    }
}

#[test]
fn metrics_that_postgresql_refuses_become_dead_letters_with_one_writer() {
    metrics_are_refused(1);
}

#[test]
fn metrics_that_postgresql_refuses_become_dead_letters_with_four_writers() {
    metrics_are_refused(4);
}

/// Each batch holds several bad rows, which are searched for before the turn, or in it. A sequence counts how often one
/// was met; it moves on whatever becomes of the transaction.
fn survives_kill_9(name: &str, kind: &str) {
    let stage = Stage::new(name, 2);
    let mut random = random(&stage.name);
    let invocation = stage.invocation_of_all().set("batch.rows_max", 500).set("writers.count", 2);
    invocation.output(&["init"]).expect_code(0);
    let count = format!("THEN PERFORM nextval('{}.met'); RAISE", stage.name);
    let sql = raising(kind).replace("%TABLE%", "stock_prices").replace("THEN RAISE", &count);
    stage.execute(&format!("CREATE SEQUENCE met; {sql}"));
    let met = || stage.number("SELECT last_value FROM met");
    let (mut n_bad, mut progress, mut n_searching) = (0, Progress::new(&stage), 0);
    for _ in 0..size(4, 20) {
        n_bad += produce(&stage, 4_000, bad_price).1;
        let before = met();
        let mut worker = invocation.start(&["run"]);
        eventually("a search", LIMIT, || {
            assert!(worker.alive(), "the worker ended");
            met() > before + 3
        });
        thread::sleep(Duration::from_millis(random.u64(0..60)));
        worker.kill9();
        n_searching += i64::from(progress.now() < stage.sent().count() + n_bad);
    }
    println!("{}: {n_searching} kills with rows still to be found", stage.name);
    assert!(n_searching > 0, "every kill came too late to show anything");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert_letters(&stage, &stage.topic, stage.sent().count(), n_bad, "P0001");
}

#[test]
fn kill_9_while_a_refused_row_is_searched_for_loses_and_doubles_nothing() {
    survives_kill_9("kill_search", "TRIGGER refuse AFTER INSERT");
}

#[test]
fn kill_9_while_a_refused_row_is_searched_for_in_the_turn_loses_and_doubles_nothing() {
    survives_kill_9("kill_search_turn", "CONSTRAINT TRIGGER refuse AFTER INSERT");
}
