//! `dead-letters redrive`: what was refused once is decoded again, exactly once.

use crate::dead_letters::{NO_PRICE, letters, open, redriven, refused, run, send};
use crate::harness::checker::Findings;
use crate::harness::producer::{Feeder, Kcat};
use crate::harness::{Fault, Invocation, LIMIT, Proxy, Stage, eventually, random, size};
use std::thread;
use std::time::Duration;

/// Every number sent is one row, though not by the log's own counts.
#[track_caller]
fn assert_rows_exactly_once(stage: &Stage) {
    assert_eq!(stage.findings(), Findings::default());
    assert_eq!(stage.rows(), stage.sent().count());
}

#[test]
fn letters_that_can_be_decoded_by_now_become_rows_exactly_once() {
    let stage = Stage::new("letters_redrive", 3);
    stage.produce(3_000);
    send(&stage, &[r#"{"symbol":"A"}"#]);
    run(&stage.invocation().set("topics.0.price_min", 1_000));
    let (n_open, counters) = (open(&stage), stage.standings(&stage.topic));
    assert_eq!((stage.rows(), n_open), (2_000, 1_001));
    let invocation = stage.invocation();

    let said = letters(&invocation, &["redrive", "--dry-run"]);
    println!("{said}");
    assert!(said.contains("would be redriven: 1000 letters, 1000 rows"), "{said}");
    assert_eq!((stage.rows(), open(&stage)), (2_000, n_open), "a dry run changes nothing");
    assert!(letters(&invocation, &["redrive", "--class", "time"]).contains("redriven: 0 letters, 0 rows"));

    let said = letters(&invocation, &["redrive"]);
    println!("{said}");
    assert!(said.contains("redriven: 1000 letters, 1000 rows"), "{said}");
    assert!(
        said.contains("still dead letters: 1 letter (missing 1)") && said.contains("was missing, is still: "),
        "{said}"
    );
    assert_rows_exactly_once(&stage);
    assert_eq!((open(&stage), redriven(&stage)), (1, 1_000));
    let again = letters(&invocation, &["redrive"]);
    assert!(again.contains("redriven: 0 letters, 0 rows"), "{again}");
    assert_rows_exactly_once(&stage);
    assert_eq!(stage.standings(&stage.topic), counters, "the counters are the log's");
    assert_eq!(letters(&invocation, &["list", "--json", "--all"]).lines().count(), 1_001);
    // The log is read on where it was.
    stage.produce(100);
    run(&invocation);
    assert_rows_exactly_once(&stage);
}

#[test]
fn letters_are_redriven_by_name() {
    let stage = refused("letters_named", 1, 20);
    let invocation = stage.invocation();
    let name = |offset: i64| format!("{}/0/{offset}/0", stage.topic);
    let said = letters(&invocation, &["redrive", &name(3), &name(4), &name(4)]);
    assert!(said.contains("redriven: 2 letters, 2 rows"), "{said}");
    assert_eq!((stage.rows(), open(&stage)), (2, 18));
    let said = letters(&invocation, &["redrive", &name(4), &name(5)]);
    assert!(said.contains("redriven: 1 letter, 1 row\n") && said.contains("discarded before: 1 letter"), "{said}");
    // One that isn't there: nothing is done.
    let arguments = ["dead-letters", "redrive", &name(6), &name(77)];
    let output = invocation.output(&arguments).expect_code(64);
    assert!(output.cause().contains(&name(77)), "{}", output.stderr);
    invocation.output(&["dead-letters", "redrive", &name(6), "--class", "time"]).expect_code(64);
    assert_eq!((stage.rows(), open(&stage)), (3, 17));
}

#[test]
fn one_bad_element_between_good_ones_is_redriven_alone() {
    let stage = Stage::new("letters_element", 1);
    let time = "2024-03-10 02:30:00";
    let value = |t: &str| {
        format!(
            r#"[{{"symbol":"A","price":1,"timestamp":1}},{{"symbol":"B","price":2,"timestamp":"{t}"}},
                {{"symbol":"C"}},{{"symbol":"D","price":4,"timestamp":1}}]"#
        )
    };
    send(&stage, &[&value(time), &format!("[{0},{0}]", value(time))]);
    // There is no such time in New York.
    run(&stage.invocation().set("topics.0.timezone", "America/New_York"));
    assert_eq!((stage.rows(), open(&stage)), (6, 6));
    let said = letters(&stage.invocation(), &["redrive"]);
    assert!(said.contains("redriven: 3 letters, 3 rows"), "{said}");
    let rows = |symbol: &str| stage.number(&format!("SELECT count(*) FROM stock_prices WHERE symbol = '{symbol}'"));
    assert_eq!([rows("A"), rows("B"), rows("C"), rows("D")], [3, 3, 0, 3]);
    let wrong = "SELECT count(*) FROM stock_prices WHERE symbol = 'B' AND \"timestamp\" <> '2024-03-10 02:30:00Z'";
    assert_eq!((stage.number(wrong), open(&stage)), (0, 3));
}

#[test]
fn a_record_that_another_format_reads_as_many_elements_is_taken_whole_or_not_at_all() {
    let stage = Stage::new("letters_format", 1);
    let trades = r#"{"type":"trade","data":[{"s":"A","p":1,"t":1700000000000},{"s":"B","p":2,"t":1700000000000}]}"#;
    let bad = trades.replace("\"p\":2", "\"p\":-2");
    let mixed = format!(r#"[{trades},{{"symbol":"C","price":3}}]"#);
    send(&stage, &[trades, &bad, &mixed]);
    run(&stage.invocation().set("topics.0.format", "quote"));
    assert_eq!((stage.rows(), open(&stage)), (1, 3));
    let id = |offset: i64, element: i64| format!("{}/0/{offset}/{element}", stage.topic);
    assert!(letters(&stage.invocation(), &["show", &id(0, 0)]).contains("the whole record becomes 2 rows by"));
    assert!(letters(&stage.invocation(), &["show", &id(1, 0)]).contains("becomes 1 row and 1 letter by"));
    let said = letters(&stage.invocation(), &["redrive", "--dry-run"]);
    assert!(said.contains("would be redriven: 2 letters, 3 rows"), "{said}");
    let said = letters(&stage.invocation(), &["redrive"]);
    println!("{said}");
    assert!(said.contains("redriven: 2 letters, 3 rows"), "{said}");
    assert!(said.contains("still dead letters: 2 letters (range 1, renumbered 1)"), "{said}");
    assert_eq!((stage.rows(), open(&stage)), (4, 2));
    // What is refused of a record that was taken as a whole has a letter of its own, and is redriven by itself.
    let shown = letters(&stage.invocation(), &["show", &id(1, 1)]);
    assert!(shown.contains("1 of 2, from 0") && shown.contains("range"), "{shown}");
    assert!(letters(&stage.invocation(), &["redrive"]).contains("redriven: 0 letters, 0 rows"));
    let said = letters(&stage.invocation().set("topics.0.price_min", -10), &["redrive"]);
    assert!(said.contains("redriven: 1 letter, 1 row\n"), "{said}");
    assert_eq!((stage.rows(), open(&stage)), (5, 1));
    assert_eq!(stage.number("SELECT count(DISTINCT (symbol, price)) FROM stock_prices"), 4);
}

#[test]
fn a_letter_whose_element_is_another_one_by_now_is_not_done_with() {
    let stage = Stage::new("letters_anew", 1);
    let trades = r#"{"type":"trade","data":[{"s":"A","p":-1,"t":1700000000000},{"s":"B","p":2,"t":1700000000000}]}"#;
    send(&stage, &[trades]);
    run(&stage.invocation().set("topics.0.format", "quote"));
    assert_eq!((stage.rows(), open(&stage)), (0, 1));
    for n_rows in [1, 0] {
        let said = letters(&stage.invocation(), &["redrive"]);
        assert!(said.contains(&format!("redriven: 0 letters, {n_rows} row")), "{said}");
        assert!(said.contains("still dead letters: 1 letter (range 1)"), "{said}");
        assert_eq!((stage.rows(), open(&stage)), (1, 1));
    }
    letters(&stage.invocation().set("topics.0.price_min", -10), &["redrive"]);
    assert_eq!((stage.rows(), open(&stage)), (2, 0));
}

#[test]
fn a_value_that_was_not_kept_is_refused_by_name() {
    let stage = Stage::new("letters_large", 1);
    let large = format!(r#"{{"symbol":"A","price":2,"note":"{}"}}"#, "x".repeat(3_000));
    send(&stage, &[&large, r#"{"symbol":"A","price":3}"#]);
    let invocation = stage.invocation().set("dead_letters.payload_bytes_max", 1_000);
    run(&invocation.clone().set("topics.0.price_min", NO_PRICE));
    let said = letters(&invocation, &["redrive"]);
    println!("{said}");
    assert!(
        said.contains("redriven: 1 letter, 1 row\n") && said.contains("still dead letters: 1 letter (not-kept 1)"),
        "{said}"
    );
    assert!(said.contains(&format!("{}/0/0/0: was range, not-kept", stage.topic)), "{said}");
    assert!(said.contains("dead_letters.payload_bytes_max"), "{said}");
    assert_eq!((stage.rows(), open(&stage)), (1, 1));
    assert!(letters(&invocation, &["show", &format!("{}/0/0/0", stage.topic)]).contains("too long to be kept"));
    // A topic that nobody reads any more.
    run(&stage.invocation());
    let elsewhere = stage.invocation().set("topics.0.name", "another");
    let said = letters(&elsewhere, &["redrive"]);
    assert!(said.contains("no-topic 1"), "{said}");
}

#[test]
fn a_row_that_postgresql_refuses_again_does_not_hold_back_its_neighbours() {
    let stage = refused("letters_check", 2, 2_000);
    stage.execute("ALTER TABLE stock_prices ADD CONSTRAINT no_hundreds CHECK (price % 100 <> 0)");
    let said = letters(&stage.invocation(), &["redrive"]);
    println!("{said}");
    assert!(said.contains("redriven: 1980 letters, 1980 rows"), "{said}");
    assert!(said.contains("still dead letters: 20 letters (database 20)") && said.contains("no_hundreds"), "{said}");
    assert_eq!((stage.rows(), open(&stage)), (1_980, 20));
    let said = letters(&stage.invocation(), &["redrive"]);
    assert!(said.contains("redriven: 0 letters") && said.contains("database 20"), "{said}");
    stage.execute("ALTER TABLE stock_prices DROP CONSTRAINT no_hundreds");
    letters(&stage.invocation(), &["redrive"]);
    assert_rows_exactly_once(&stage);
    assert_eq!(open(&stage), 0);
}

#[test]
fn a_page_of_nothing_but_refused_rows_comes_to_an_end() {
    let stage = refused("letters_all_bad", 2, 6_000);
    stage.execute("ALTER TABLE stock_prices ADD CONSTRAINT none CHECK (price = 77)");
    let output = stage.invocation().output(&["dead-letters", "redrive"]).expect_code(0);
    assert!(output.stdout.contains("redriven: 1 letter, 1 row\n"), "{}", output.stdout);
    assert!(output.stdout.contains("database 5999") && output.stdout.contains("… and 5979 more"), "{}", output.stdout);
    println!("6,000 letters, all but one refused: {:?}", output.took);
}

/// Letters of windows: of each, partition 0 has `avg_price` 1, then 2, then 3.
fn windows(stage: &Stage, n_windows: i64) -> Invocation {
    let metrics = format!("{}_metrics", stage.name);
    stage.add_topic(&metrics, 1, &[]);
    let mut kcat = Kcat::start(&metrics, Some(0), "lz4");
    for round in 1..=3 {
        for window in 0..n_windows {
            let start = 1_700_000_000 + window * 60;
            let end = start + 60;
            let value = format!(r#"{{"symbol":"W","window_start":{start},"window_end":{end},"avg_price":{round}}}"#);
            kcat.line("W", value.as_bytes());
        }
    }
    kcat.finish();
    let invocation = stage.invocation().set("topics.1.name", &metrics).set("topics.1.target", "metrics");
    // None of them is of this format.
    run(&invocation.clone().set("topics.1.format", "spark-window"));
    assert_eq!(open(stage), 3 * n_windows);
    invocation
}

#[test]
fn a_window_is_never_overwritten_and_of_several_letters_the_newest_counts() {
    let stage = Stage::new("letters_windows", 1);
    // More than one transaction takes.
    let invocation = windows(&stage, 4_000);
    stage.execute(
        "INSERT INTO stock_metrics (symbol, window_start, window_end, avg_price) \
         SELECT 'W', to_timestamp(1700000000 + n * 60), to_timestamp(1700000060 + n * 60), 99 FROM generate_series(0, 9) n",
    );
    let said = letters(&invocation, &["redrive"]);
    println!("{said}");
    assert!(said.contains("redriven: 12000 letters, 3990 rows, and 8010 windows"), "{said}");
    let count = |price: i64| stage.number(&format!("SELECT count(*) FROM stock_metrics WHERE avg_price = {price}"));
    assert_eq!([count(99), count(3), count(2), count(1)], [10, 3_990, 0, 0]);
    assert_eq!((open(&stage), redriven(&stage)), (0, 12_000));
}

#[test]
fn a_window_that_postgresql_refuses_keeps_its_letter() {
    let stage = Stage::new("letters_window_check", 1);
    let invocation = windows(&stage, 50);
    stage.execute("ALTER TABLE stock_metrics ADD CHECK (avg_price <> 3 OR window_start <> to_timestamp(1700000060))");
    let said = letters(&invocation, &["redrive"]);
    println!("{said}");
    assert!(said.contains("redriven: 149 letters, 50 rows") && said.contains("database 1"), "{said}");
    let count = |price: i64| stage.number(&format!("SELECT count(*) FROM stock_metrics WHERE avg_price = {price}"));
    assert_eq!([count(3), count(2), count(1), open(&stage)], [49, 1, 0, 1]);
}

/// After kill -9 whatever is marked is a row, and whatever is not is none.
#[test]
fn a_redrive_survives_kill_9_at_any_moment() {
    let count = size(40_000, 200_000) as i64;
    let stage = refused("letters_kill", 3, count);
    // However fast the machine, a page takes so long that it can be killed in its middle.
    stage.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END$$;
         CREATE TRIGGER slow AFTER INSERT ON stock_prices FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    );
    let mut random = random(&stage.name);
    let n_rounds = size(8, 40);
    let (mut n_killed, mut n_in_the_middle) = (0, 0);
    for round in 0..n_rounds {
        let before = stage.rows();
        if open(&stage) == 0 {
            break;
        }
        let mut redrive = stage.invocation().start(&["dead-letters", "redrive"]);
        if round == 0 || random.bool() {
            // Right after a page, in the next one.
            eventually("a page is redriven", LIMIT, || stage.rows() > before || !redrive.alive());
        }
        thread::sleep(Duration::from_millis(random.u64(0..200)));
        n_killed += u64::from(redrive.alive());
        redrive.kill9();
        // What the server does for the dead is done once nobody but us is connected.
        let others =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stock-db-writer {}'", stage.name);
        eventually("the server has noticed", LIMIT, || stage.number(&others) == 0);
        n_in_the_middle += u64::from(stage.rows() > 0 && stage.rows() < count);
        assert_eq!(stage.rows(), redriven(&stage), "rows against marks");
        assert_eq!(stage.findings().doubled, Vec::<i64>::new());
    }
    letters(&stage.invocation(), &["redrive"]);
    assert_rows_exactly_once(&stage);
    assert_eq!((open(&stage), redriven(&stage)), (0, count));
    println!("{n_killed} kills, after {n_in_the_middle} of them some were redriven and some not");
    assert!(
        n_killed > 1 && n_in_the_middle > 0,
        "{n_killed} kills, {n_in_the_middle} of them in the middle, show nothing"
    );
}

#[test]
fn two_redrives_beside_a_worker_double_nothing() {
    let count = 20_000;
    let stage = refused("letters_two", 3, count);
    let feeder = Feeder::start(&stage, &stage.topic, 1_000);
    let mut worker = stage.invocation().set("batch.rows_max", 200).start(&["run"]);
    stage.wait_for_progress();
    let both = [0, 1].map(|_| stage.invocation().start(&["dead-letters", "redrive"]));
    let said = both.map(|redrive| redrive.output(LIMIT).expect_code(0).stdout);
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    let number = |said: &String| -> i64 {
        let (_, rest) = said.split_once("redriven: ").expect("it says how many");
        rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    };
    println!("{} and {} of {count}", number(&said[0]), number(&said[1]));
    assert_eq!(said.iter().map(number).sum::<i64>(), count, "{said:?}");
    assert_rows_exactly_once(&stage);
    assert_eq!((open(&stage), redriven(&stage)), (0, count));
}

#[test]
fn a_redrive_whose_commit_is_in_doubt_counts_right_and_doubles_nothing() {
    let count = 20_000;
    let stage = refused("letters_doubt", 3, count);
    let proxy = Proxy::start();
    for fault in [Fault::CutAfterCommit, Fault::CutBeforeCommit, Fault::CutAfterCommit] {
        proxy.plan(fault);
    }
    let invocation = stage.invocation().env("DATABASE_URL", proxy.url());
    let output = invocation.output(&["dead-letters", "redrive"]).expect_code(0);
    assert_eq!((proxy.fired(Fault::CutAfterCommit), proxy.fired(Fault::CutBeforeCommit)), (2, 1));
    assert_eq!(output.stderr.matches("commit in doubt resolved").count(), 3, "{}", output.stderr);
    assert!(output.stdout.contains("redriven: 20000 letters, 20000 rows"), "{}", output.stdout);
    assert_rows_exactly_once(&stage);
}

#[test]
fn a_letter_that_somebody_else_has_locked_is_passed_over_and_said() {
    let stage = refused("letters_locked", 1, 30);
    let mut client = stage.database();
    let mut transaction = client.transaction().expect("PostgreSQL answers");
    let lock = "SELECT FROM writer_dead_letters WHERE record_offset < 10 FOR UPDATE";
    transaction.batch_execute(lock).expect("the letters can be locked");
    let said = letters(&stage.invocation(), &["redrive"]);
    assert!(said.contains("redriven: 20 letters") && said.contains("not looked at: 10 letters"), "{said}");
    transaction.rollback().expect("PostgreSQL answers");
    letters(&stage.invocation(), &["redrive"]);
    assert_rows_exactly_once(&stage);
}

#[test]
fn a_table_that_stays_locked_is_not_waited_for_for_ever() {
    let stage = refused("letters_table", 1, 30);
    let mut client = stage.database();
    let mut transaction = client.transaction().expect("PostgreSQL answers");
    transaction.batch_execute("LOCK TABLE writer_dead_letters").expect("the table can be locked");
    let invocation = stage.invocation().set("retry.max_outage_s", 1).set("database.lock_timeout_ms", 500);
    let output = invocation.output(&["dead-letters", "redrive"]).expect_code(69);
    assert!(output.cause().contains("retry.max_outage_s"), "{}", output.stderr);
    transaction.rollback().expect("PostgreSQL answers");
    letters(&stage.invocation(), &["redrive"]);
    assert_rows_exactly_once(&stage);
}
