//! Tables that another program has made, with its rows in them: told, cleaned, and written into.

use crate::harness::producer::{Kcat, quote, symbol};
use crate::harness::{Invocation, LIMIT, Stage, eventually};

/// What the Python service before this program made, and some of its rows; windows were written again and again.
const OLD_TABLES: &str = "CREATE TABLE stock_prices (id serial PRIMARY KEY, symbol varchar(10) NOT NULL, \
       price numeric(10,2) NOT NULL, volume numeric(20,2), timestamp timestamp NOT NULL, fetch_timestamp bigint, \
       created_at timestamp DEFAULT CURRENT_TIMESTAMP); \
     CREATE INDEX idx_symbol_time ON stock_prices (symbol, timestamp DESC); \
     CREATE TABLE stock_metrics (id serial PRIMARY KEY, symbol varchar(10) NOT NULL, window_start timestamp NOT NULL, \
       window_end timestamp NOT NULL, avg_price numeric(10,2), max_price numeric(10,2), min_price numeric(10,2), \
       avg_volume numeric(20,2), created_at timestamp DEFAULT CURRENT_TIMESTAMP); \
     INSERT INTO stock_prices (symbol, price, timestamp, fetch_timestamp) \
       SELECT 'OLD', 0.01 * n, timestamp '2023-01-01' + n * interval '1 min', 1672531200 + n * 60 FROM generate_series(1, 5000) AS n; \
     INSERT INTO stock_metrics (symbol, window_start, window_end, avg_price) \
       SELECT 'OLD', timestamp '2023-01-01' + n % 100 * interval '1 min', timestamp '2023-01-01' + (n % 100 + 1) * interval '1 min', n \
       FROM generate_series(1, 1000) AS n";

/// With a topic of metrics.
fn invocation(stage: &Stage, metrics: &str) -> Invocation {
    stage.add_topic(metrics, 1, &[]);
    stage.invocation().set("topics.1.name", metrics).set("topics.1.target", "metrics").set("schema.grace_ms", 0)
}

/// What is printed behind this, up to its end.
#[track_caller]
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin:?} in {text}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} in {rest}")).0
}

#[test]
fn the_tables_of_the_python_service_are_cleaned_as_printed_and_then_written_into() {
    let stage = Stage::new("adopt", 2);
    let metrics = format!("{}_metrics", stage.name);
    let invocation = invocation(&stage, &metrics);
    stage.execute(OLD_TABLES);

    let said = invocation.output(&["check"]).expect_code(78).said();
    for words in [
        "column \"price\" is numeric(10,2): what has more than 2 decimals",
        "column \"symbol\" is character varying(10)",
        "column \"timestamp\" is timestamp without time zone: it has no zone, times are written into it in UTC",
        "has no index on (\"window_start\", \"window_end\")",
        "column \"id\" is integer: 2147478647 ids are left",
        "900 of its rows are for a window that has another row",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    // Neither `init` nor a run touches them.
    let said = invocation.output(&["init"]).expect_code(78).said();
    assert!(said.contains("created table") && said.contains("writer_offsets"), "{said}");
    let run = invocation.output(&["run", "--until-end"]).expect_code(78);
    let clean = between(run.cause(), "keep the newest row of each window: ", "; then run");
    assert_eq!(between(&said, "keep the newest row of each window: ", "; then run"), clean);
    assert_eq!(stage.number("SELECT count(*) FROM stock_metrics"), 1_000);

    stage.execute(clean);
    assert_eq!(stage.number("SELECT count(*) FROM stock_metrics"), 100);
    assert_eq!(stage.number("SELECT count(*) FROM stock_metrics WHERE avg_price > 900"), 100, "the newest are left");
    let said = invocation.output(&["check"]).expect_code(0).said();
    assert!(said.contains("ok: configuration"), "{said}");
    let said = invocation.output(&["init"]).expect_code(0).said();
    assert!(said.contains("created an index on") && said.contains("stock_metrics_symbol_window_key"), "{said}");
    assert!(said.contains("it is left to you: CREATE INDEX CONCURRENTLY"), "{said}");

    const FINE: i64 = 25;
    let (mut n_bad, mut good) = (0, Vec::new());
    for partition in 0..2 {
        let mut kcat = Kcat::start(&stage.topic, Some(partition), "lz4");
        for id in stage.take(2_000) {
            match id % FINE {
                0 => kcat.line(&symbol(id), quote(id).replace("\"price\":", "\"price\":0.000").as_bytes()),
                1 => kcat.line(&symbol(id), quote(id).replace("\"K", "\"TOO_LONG_A_SYMBOL").as_bytes()),
                _ => kcat.quote(id),
            }
            if id % FINE < 2 { n_bad += 1 } else { good.push(id) }
        }
        kcat.finish();
    }
    let window = |minute: i64, price: &str| {
        let at = 1_672_531_200 + minute * 60;
        format!(r#"{{"symbol":"OLD","window_start":{at},"window_end":{},"avg_price":{price}}}"#, at + 60)
    };
    let mut kcat = Kcat::start(&metrics, Some(0), "none");
    for (minute, price) in [(5, "7.25"), (5, "7.5"), (6, "7.125"), (200, "8")] {
        kcat.line("OLD", window(minute, price).as_bytes());
    }
    kcat.finish();
    // An eighth of the records, for two causes.
    let invocation = invocation.set("dead_letters.ratio_max", 0.2);
    invocation.output(&["run", "--until-end"]).expect_code(0);

    stage.assert_counters(&stage.topic);
    assert_eq!(stage.number("SELECT count(*) FROM stock_prices WHERE symbol = 'OLD'"), 5_000);
    let exact = "SELECT count(DISTINCT price) FROM stock_prices WHERE symbol = 'K' || price::bigint % 500 \
         AND volume = price * 2 AND timestamp = timestamp '1970-01-01' + (1700000000 + price::bigint) * interval '1 s' \
         AND fetch_timestamp = 1700000000 + price";
    let n_good = good.len() as i64;
    assert_eq!((stage.number(exact), stage.rows()), (n_good, 5_000 + n_good));
    assert_eq!(stage.number("SELECT max(id)::bigint - 5000 FROM stock_prices"), n_good);
    let letters = |class: &str, words: &str| {
        stage.number(&format!(
            "SELECT count(*) FROM writer_dead_letters WHERE reason_class = '{class}' AND reason LIKE '%{words}%'"
        ))
    };
    let (range, symbols) = (
        letters("range", "price has % decimals, the column %.stock_prices.price is numeric(10,2)"),
        letters(
            "symbol",
            "symbol has more than 10 characters, the column %.stock_prices.symbol is character varying(10)",
        ),
    );
    assert_eq!((range + symbols, letters("range", "avg_price has 3 decimals")), (n_bad, 1));
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), n_bad + 1);
    let kept = |minute: i64| {
        stage.number(&format!(
        "SELECT (avg_price * 100)::bigint FROM stock_metrics WHERE window_start = timestamp '2023-01-01' + {minute} * interval '1 min'"
    ))
    };
    assert_eq!((kept(5), kept(6), kept(200)), (750, 906 * 100, 800));
    assert_eq!(stage.number("SELECT count(*) FROM stock_metrics"), 101);

    redriven(&stage, &invocation, range, symbols);
    let said = invocation.output(&["check"]).expect_code(0).said();
    assert!(said.contains("at the pace of the last") || said.contains("for how long is not known"), "{said}");
}

/// A redrive obeys the columns as a run does, and finds them wider when they are.
fn redriven(stage: &Stage, invocation: &Invocation, range: i64, symbols: i64) {
    let open = || stage.number("SELECT count(*) FROM writer_dead_letters WHERE redriven_at IS NULL");
    let n_all = open();
    for arguments in [&["dead-letters", "redrive", "--dry-run"][..], &["dead-letters", "redrive"]] {
        let said = invocation.output(arguments).expect_code(0).said();
        assert!(said.contains("redriven: 0 letters, 0 rows"), "{said}");
        assert!(said.contains("numeric(10,2)") || said.contains("varying(10)"), "{said}");
        assert_eq!(open(), n_all);
    }
    stage.execute("ALTER TABLE stock_prices ALTER price TYPE numeric");
    let said = invocation.output(&["dead-letters", "redrive"]).expect_code(0).said();
    assert!(said.contains(&format!("redriven: {range} letters, {range} rows")), "{said}");
    assert_eq!(stage.number("SELECT count(*) FROM stock_prices WHERE scale(price) > 2"), range);
    let rounding = invocation.clone().set("database.tables.metrics.round", true);
    let said = rounding
        .output(&["dead-letters", "redrive", "--topic", &format!("{}_metrics", stage.name)])
        .expect_code(0)
        .said();
    assert!(said.contains("redriven: 1 letter, 0 rows, and 1 window there already"), "{said}");
    assert_eq!(open(), symbols);
}

#[test]
fn a_table_by_month_waits_for_its_missing_partition_and_makes_no_dead_letter() {
    let stage = Stage::new("adopt_months", 1);
    // 1,700,000,000 is 2023-11-14; a million seconds later it is the 26th.
    stage.execute(
        "CREATE TABLE stock_prices (id bigserial, symbol text NOT NULL, price numeric NOT NULL, volume numeric, \
           timestamp timestamptz NOT NULL, fetch_timestamp bigint) PARTITION BY RANGE (timestamp); \
         CREATE TABLE p1 PARTITION OF stock_prices FOR VALUES FROM ('2023-11-14 00:00Z') TO ('2023-11-15 00:00Z')",
    );
    let invocation = stage.invocation().set("batch.rows_max", 500).set("schema.grace_ms", 1_000);
    let said = invocation.output(&["check"]).expect_code(0).said();
    assert!(said.contains("is partitioned, without a partition for everything (DEFAULT)"), "{said}");
    stage.produce(10_000);
    let output = invocation.output(&["run", "--until-end"]).expect_code(78);
    assert!(output.cause().contains("\"stock_prices\" has no partition for a row"), "{}", output.cause());
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 0);

    let mut worker = invocation.set("schema.grace_ms", 600_000).start(&["run", "--until-end"]);
    worker.wait_for_log("has no partition for a row", LIMIT);
    stage.execute(
        "CREATE TABLE p2 PARTITION OF stock_prices FOR VALUES FROM ('2023-11-15 00:00Z') TO ('2023-12-01 00:00Z')",
    );
    assert_eq!(worker.wait(LIMIT), 0);
    stage.assert_exactly_once();
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 0);
}

#[test]
fn check_tells_the_unique_key_that_a_run_will_make() {
    let stage = Stage::new("adopt_key", 1);
    stage.invocation().output(&["init"]).expect_code(0);
    let said = stage.invocation().output(&["check"]).expect_code(0).stdout;
    assert!(!said.contains("a run makes"), "{said}");
    stage.execute("DROP INDEX stock_metrics_symbol_window_key");
    let said = stage.invocation().output(&["check"]).expect_code(0).stdout;
    let line = said.lines().find(|line| line.starts_with("note: a run makes what is missing: ")).expect(&said);
    assert!(line.contains("has no unique index on (symbol, window_start, window_end)"), "{line}");
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    let said = stage.invocation().output(&["check"]).expect_code(0).stdout;
    assert!(!said.contains("a run makes"), "{said}");
    // Where a run makes nothing, it is a problem.
    stage.execute("DROP INDEX stock_metrics_symbol_window_key");
    let said = stage.invocation().set("schema.manage", "validate").output(&["check"]).expect_code(78).stdout;
    assert!(said.contains("problem: database: table") && said.contains("has no unique index"), "{said}");
}

#[test]
fn what_can_be_no_target_is_refused_and_what_can_is_written_into() {
    let table = "CREATE TABLE t (id bigserial, symbol text, price numeric, volume numeric, timestamp timestamptz, fetch_timestamp bigint)";
    let stage = Stage::new("adopt_targets", 1);
    let invocation = stage.invocation().set("schema.grace_ms", 0);
    stage.produce(1_000);
    for (sql, words) in [
        (format!("{table}; CREATE VIEW stock_prices AS SELECT * FROM t"), "is a view; rows go into a table"),
        (
            table
                .replace("volume numeric", "volume numeric GENERATED ALWAYS AS (price * 2) STORED")
                .replace("TABLE t", "TABLE stock_prices"),
            "column \"volume\" is generated",
        ),
    ] {
        stage.execute(&sql);
        for command in [&["check"][..], &["init"], &["run", "--until-end"]] {
            let output = invocation.output(command).expect_code(78);
            assert!(output.said().contains(words), "{command:?}: {}", output.said());
        }
        stage.execute("DROP TABLE IF EXISTS t CASCADE");
        stage.execute("DROP TABLE IF EXISTS stock_prices CASCADE");
    }
    stage.execute(&format!(
        "{}; ALTER TABLE stock_prices ADD venue text NOT NULL DEFAULT 'X', ADD twice numeric GENERATED ALWAYS AS (price * 2) STORED; \
         CREATE TABLE seen (symbol text, n bigint); \
         CREATE FUNCTION count_symbol() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO {}.seen VALUES (NEW.symbol, 1); RETURN NEW; END $$; \
         CREATE TRIGGER counting AFTER INSERT ON stock_prices FOR EACH ROW EXECUTE FUNCTION count_symbol()",
        table.replace("TABLE t", "TABLE stock_prices"),
        stage.name
    ));
    let said = invocation.output(&["check"]).expect_code(0).said();
    assert!(said.contains("has triggers: \"counting\""), "{said}");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    assert_eq!(stage.number("SELECT count(*) FROM stock_prices WHERE venue = 'X' AND twice = price * 2"), 1_000);
    assert_eq!(stage.number("SELECT sum(n)::bigint FROM seen"), 1_000);
}

#[test]
fn a_table_that_may_round_is_rounded_and_one_that_becomes_narrow_under_a_worker_is_not() {
    let stage = Stage::new("adopt_round", 1);
    stage.execute(OLD_TABLES);
    stage.execute("DELETE FROM stock_metrics");
    let send = |price: &str| {
        let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
        kcat.line("A", format!(r#"{{"symbol":"A","price":{price},"timestamp":1700000000}}"#).as_bytes());
        kcat.finish();
    };
    let letters = || stage.number("SELECT count(*) FROM writer_dead_letters");
    let hundredths = "SELECT coalesce(sum(price * 10000), 0)::bigint FROM stock_prices WHERE symbol = 'A'";
    send("1.2351");
    stage.invocation().set("database.tables.prices.round", true).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((stage.number(hundredths), letters()), (12_400, 0));
    stage.execute("ALTER TABLE stock_prices ALTER price TYPE numeric");
    let worker = stage.invocation().start(&["run"]);
    send("1.2351");
    eventually("a row with every digit", LIMIT, || stage.number(hundredths) == 24_751);
    stage.execute(
        "UPDATE stock_prices SET price = 2 WHERE symbol = 'A'; ALTER TABLE stock_prices ALTER price TYPE numeric(10,2)",
    );
    send("1.2351");
    eventually("a dead letter", LIMIT, || letters() == 1);
    assert_eq!(stage.number(hundredths), 40_000);
    worker.stop().expect_code(0);
}
