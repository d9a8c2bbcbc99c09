//! Every message shape, through a real Kafka into a real PostgreSQL: the corpus, hostile messages, windows, and the same
//! days in several vendors' shapes.

use crate::harness::corpus::{Case, corpus};
use crate::harness::producer::{Kcat, send_large};
use crate::harness::{Invocation, Stage};
use krafka::Record;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The records' timestamps are old: Kafka would delete them at any time.
const KEPT: &[(&str, &str)] = &[("retention.ms", "-1")];

/// Panics with what is only in one of two lists, each of which may be long.
#[track_caller]
fn assert_same(found: Vec<String>, expected: Vec<String>, what: &str) {
    let count = |lines: Vec<String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        lines.into_iter().for_each(|line| *counts.entry(line).or_default() += 1);
        counts
    };
    let (found, expected) = (count(found), count(expected));
    let only = |these: &BTreeMap<String, usize>, those: &BTreeMap<String, usize>| {
        let differs = these.iter().filter(|(line, n)| those.get(*line) != Some(n));
        differs.take(10).map(|(line, n)| format!("\n  {n} x {line}")).collect::<String>()
    };
    assert!(found == expected, "{what}; found:{}\nexpected:{}", only(&found, &expected), only(&expected, &found));
}

/// What names the row of a window.
fn windows(case: &Case) -> Vec<String> {
    let expect = case.expect(None);
    let rows = expect["metrics"].as_array().expect("a list");
    rows.iter().map(|row| format!("{}{}{}", row["symbol"], row["window_start"], row["window_end"])).collect()
}

#[test]
fn every_case_of_the_corpus_is_in_the_tables_as_it_says() {
    let mut left = corpus();
    // Of two cases with the same window only one would be left.
    while !left.is_empty() {
        let mut taken = BTreeSet::new();
        let (now, later) = left.into_iter().partition(|case| windows(case).into_iter().all(|key| taken.insert(key)));
        run_cases(now);
        left = later;
    }
}

fn run_cases(cases: Vec<Case>) {
    let stage = Stage::new("shapes", 1);
    let mut by_settings: BTreeMap<BTreeMap<String, String>, Vec<Case>> = BTreeMap::new();
    for case in cases {
        by_settings.entry(case.settings.clone()).or_default().push(case);
    }
    let mut invocation = stage.invocation();
    let (mut prices, mut metrics, mut letters, mut records) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (idx, (settings, cases)) in by_settings.iter().enumerate() {
        let topic = format!("{}_{idx}", stage.name);
        stage.add_topic(&topic, 1, KEPT);
        let key = |name: &str| format!("topics.{}.{name}", idx + 1);
        invocation = invocation.set(&key("name"), &topic);
        for (name, value) in settings {
            invocation = invocation.set(&key(name), value);
        }
        for (offset, case) in cases.iter().enumerate() {
            records.push(case.record(&topic));
            let expect = case.expect(Some(&topic));
            prices.extend(expect["prices"].as_array().expect("a list").iter().map(Value::to_string));
            metrics.extend(expect["metrics"].as_array().expect("a list").iter().map(Value::to_string));
            for letter in expect["dead_letters"].as_array().expect("a list") {
                letters.push(format!("{topic}/{offset} {} {}", letter["element"], letter["class"]));
            }
        }
    }
    send_large(records);
    // Nearly half of them are meant to be refused.
    invocation.set("dead_letters.ratio_max", 1).output(&["run", "--until-end"]).expect_code(0);

    assert_same(stage.prices(), prices, "prices");
    assert_same(stage.metrics(), metrics, "metrics");
    let rows = stage.database().query(
        "SELECT topic || '/' || record_offset || ' ' || element || ' ' || to_json(reason_class) FROM writer_dead_letters",
        &[],
    );
    let found = rows.expect("PostgreSQL answers").iter().map(|row| row.get(0)).collect();
    assert_same(found, letters, "dead letters");
    for (idx, cases) in by_settings.values().enumerate() {
        let standing = stage.standings(&format!("{}_{idx}", stage.name))[&0].clone();
        let n_skipped = cases.iter().filter(|case| case.expect(None)["skip"] != Value::Null).count();
        assert_eq!((standing.records_total, standing.records_skipped), (cases.len() as i64, n_skipped as i64));
    }
}

impl Stage {
    /// Every row of the prices table, as `explain --json` would print it.
    fn prices(&self) -> Vec<String> {
        let rows = self.database().query(
            "SELECT symbol, price::text, volume::text, to_char(\"timestamp\" AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.US'), fetch_timestamp FROM stock_prices",
            &[],
        );
        let rows = rows.expect("PostgreSQL answers");
        let row = |row: &postgres::Row| {
            json!({
                "symbol": row.get::<_, &str>(0), "price": row.get::<_, &str>(1),
                "volume": row.get::<_, Option<&str>>(2), "timestamp": shown(row.get(3)),
                "fetch_timestamp": row.get::<_, Option<i64>>(4),
            })
            .to_string()
        };
        rows.iter().map(row).collect()
    }

    /// The same for the metrics table.
    fn metrics(&self) -> Vec<String> {
        let format = "'YYYY-MM-DD\"T\"HH24:MI:SS.US'";
        let rows = self.database().query(
            &format!(
                "SELECT symbol, to_char(window_start AT TIME ZONE 'UTC', {format}), \
                 to_char(window_end AT TIME ZONE 'UTC', {format}), avg_price::text, max_price::text, min_price::text, \
                 avg_volume::text FROM stock_metrics"
            ),
            &[],
        );
        let rows = rows.expect("PostgreSQL answers");
        let row = |row: &postgres::Row| {
            let text = |idx: usize| row.get::<_, Option<&str>>(idx);
            json!({
                "symbol": text(0), "window_start": shown(row.get(1)), "window_end": shown(row.get(2)),
                "avg_price": text(3), "max_price": text(4), "min_price": text(5), "avg_volume": text(6),
            })
            .to_string()
        };
        rows.iter().map(row).collect()
    }
}

/// As many digits after the point as needed.
fn shown(time: &str) -> String {
    format!("{}Z", time.trim_end_matches('0').trim_end_matches('.'))
}

#[test]
fn hostile_messages_become_rows_or_dead_letters_and_their_neighbours_rows() {
    const LARGE: &[(&str, &str)] = &[("max.message.bytes", "33554432")];
    let stage = Stage::with_configs("hostile", 1, LARGE);
    let quote = |fields: &str| format!(r#"{{"symbol":"A","price":1,"ts":1704207845{fields}}}"#);
    let padded = |bytes: usize| {
        let pad = bytes - quote(r#","pad":"""#).len();
        quote(&format!(r#","pad":"{}""#, "x".repeat(pad)))
    };
    let elements: Vec<String> =
        (0..100_000).map(|idx| if idx % 1000 == 7 { "{\"symbol\":\"A\"}".to_owned() } else { quote("") }).collect();
    let bomb = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let limit = 8 << 20;
    // The message, and how many rows and letters of which class it becomes.
    let cases: Vec<(&str, Vec<u8>, i64, i64, &str)> = vec![
        ("a depth bomb", bomb(100_000).into_bytes(), 0, 1, "too-large"),
        ("a depth bomb in a field", quote(&format!(",\"x\":{}", bomb(5_000))).into_bytes(), 0, 1, "too-large"),
        ("an array of 100,000", format!("[{}]", elements.join(",")).into_bytes(), 99_900, 100, "missing"),
        ("exactly the limit", padded(limit).into_bytes(), 1, 0, ""),
        ("one byte more", padded(limit + 1).into_bytes(), 0, 1, "too-large"),
        ("a symbol of 1 MB", quote("").replace('A', &"A".repeat(1_000_000)).into_bytes(), 0, 1, "symbol"),
        (
            "a price of 1 MB",
            quote("").replace(":1,", &format!(":{},", "1".repeat(1_000_000))).into_bytes(),
            0,
            1,
            "range",
        ),
        ("a key twice", quote(",\"price\":2").into_bytes(), 0, 1, "ambiguous"),
        ("NUL in a kept field", quote("").replace('A', "A\\u0000").into_bytes(), 0, 1, "encoding"),
        ("a bare NUL", quote("").replace('A', "A\0").into_bytes(), 0, 1, "syntax"),
        ("half of a surrogate pair", quote("").replace('A', "\\ud83d").into_bytes(), 0, 1, "encoding"),
        ("half of a surrogate pair in a key", quote(",\"\\udc00\":1").into_bytes(), 1, 0, ""),
        ("a BOM", format!("\u{feff}{}", quote("")).into_bytes(), 1, 0, ""),
        ("a bare NaN", quote(",\"volume\":NaN").into_bytes(), 0, 1, "syntax"),
        ("bytes that are not UTF-8", b"\xff\xfe{}".to_vec(), 0, 1, "encoding"),
    ];
    let mut records = Vec::new();
    for (_, value, ..) in &cases {
        records.push(Record::new(&stage.topic, value.clone()).partition(0));
    }
    let with_headers = (0..10_000).fold(Record::new(&stage.topic, quote("")).partition(0), |record, idx| {
        record.header(format!("header-{idx}"), "x".repeat(20))
    });
    records.push(with_headers);
    send_large(records);
    let invocation = stage.invocation().set("dead_letters.ratio_max", 1);
    let output = invocation.output(&["run", "--until-end"]).expect_code(0);
    assert!(!output.said().contains("xxxx"), "no value is in a log:\n{}", output.said());

    let mut rows_total = 0;
    for (offset, (name, value, n_rows, n_letters, class)) in cases.iter().enumerate() {
        rows_total += n_rows;
        let letters = stage.database().query(
            "SELECT reason_class, payload, payload_bytes, reason FROM writer_dead_letters WHERE record_offset = $1 \
             ORDER BY element",
            &[&(offset as i64)],
        );
        let letters = letters.expect("PostgreSQL answers");
        assert_eq!(letters.len() as i64, *n_letters, "{name}");
        assert!(letters.iter().all(|letter| letter.get::<_, &str>(0) == *class), "{name}");
        for letter in letters.iter().take(1) {
            // Above 1 MiB only length and digest are kept.
            let kept = (value.len() <= 1 << 20).then_some(&value[..]);
            assert_eq!(letter.get::<_, Option<&[u8]>>(1), kept, "{name}");
            assert_eq!(letter.get::<_, Option<i64>>(2), Some(value.len() as i64), "{name}");
            println!("{name}: {}", letter.get::<_, &str>(3));
        }
    }
    // The last one is the record with its headers.
    assert_eq!(stage.number("SELECT count(*) FROM stock_prices WHERE symbol = 'A' AND price = 1"), rows_total + 1);
    stage.assert_counters(&stage.topic);
}

#[test]
fn a_window_sent_a_thousand_times_in_one_batch_is_one_row() {
    let stage = Stage::new("one_window", 1);
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    for round in 1..=1_000 {
        let value = format!(r#"{{"symbol":"A","window_start":60,"window_end":120,"avg_price":{round}}}"#);
        kcat.line("A", value.as_bytes());
    }
    kcat.finish();
    let invocation = stage.invocation().set("topics.0.target", "metrics").set("batch.linger_ms", 2_000);
    let output = invocation.set("batch.rows_max", 1_000).output(&["run", "--until-end"]).expect_code(0);
    assert!(output.stderr.contains("records=1000 rows=1000 dead_letters=0 skipped=0 batches=1"), "{}", output.stderr);
    assert_eq!(stage.number("SELECT avg_price::bigint FROM stock_metrics"), 1_000);
    assert_eq!(stage.number("SELECT count(*) FROM stock_metrics"), 1);
    assert_eq!(stage.standings(&stage.topic)[&0].records_rows, 1_000);
}

/// A day of the demo's real data, digits as they were sent.
struct Day<'a> {
    date: &'a str,
    figures: BTreeMap<&'a str, &'a str>,
}

fn days(lines: &str) -> Vec<Day<'_>> {
    let field = |line: &'_ str, name: &str| -> (usize, usize) {
        let start = line.find(&format!("\"{name}\":")).expect("a day has the field") + name.len() + 3;
        (start, start + line[start..].find([',', '}']).expect("a field ends"))
    };
    let text = |line: &'_ str, name: &str| {
        let (start, end) = field(line, name);
        start..end
    };
    let names = ["open", "high", "low", "close", "volume"];
    lines
        .lines()
        .map(|line| Day {
            date: line[text(line, "date")].trim_matches('"'),
            figures: names.iter().map(|name| (*name, &line[text(line, name)])).collect(),
        })
        .collect()
}

#[test]
fn the_same_days_in_several_vendors_shapes_are_the_same_rows() {
    let text = include_str!("../../demo/sp500.jsonl");
    let days: Vec<Day<'_>> = days(text).into_iter().take(250).collect();
    let bars = text.lines().take(days.len()).map(str::to_owned).collect();
    let entry = |day: &Day<'_>| {
        let numbered = ["open", "high", "low", "close", "volume"].iter().enumerate();
        let fields: Vec<String> =
            numbered.map(|(idx, name)| format!("\"{}. {name}\":\"{}\"", idx + 1, day.figures[name])).collect();
        format!("\"{}\":{{{}}}", day.date, fields.join(","))
    };
    let series = format!(
        r#"{{"Meta Data":{{"1. Information":"Daily Prices","2. Symbol":"^GSPC","5. Time Zone":"UTC"}},"Time Series (Daily)":{{{}}}}}"#,
        days.iter().map(entry).collect::<Vec<_>>().join(",")
    );
    let column = |name: &str| {
        let cells: Vec<String> =
            days.iter().map(|day| format!("\"{}T00:00:00.000Z\":{}", day.date, day.figures[name])).collect();
        format!("{{{}}}", cells.join(","))
    };
    let columns: Vec<String> =
        [("Open", "open"), ("High", "high"), ("Low", "low"), ("Close", "close"), ("Volume", "volume")]
            .iter()
            .map(|(title, name)| format!("\"{title}\":{}", column(name)))
            .collect();
    let columnar = format!("{{{}}}", columns.join(","));
    let debezium = |day: &Day<'_>| {
        let fields: Vec<String> = day.figures.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!(
            r#"{{"schema":null,"payload":{{"before":null,"after":{{"ticker":"^GSPC","date":"{}",{}}},"op":"c"}}}}"#,
            day.date,
            fields.join(",")
        )
    };
    let shapes: Vec<(&str, Vec<String>)> = vec![
        ("bar", bars),
        ("alpha-vantage", vec![series]),
        ("columnar", vec![columnar]),
        ("envelope", days.iter().map(debezium).collect()),
    ];
    let mut all = Vec::new();
    for (format, messages) in &shapes {
        let stage = Stage::with_configs("days", 1, KEPT);
        let record = |message: &String| {
            Record::new(&stage.topic, message.clone()).key("^GSPC").partition(0).timestamp(1_767_366_246_123)
        };
        send_large(messages.iter().map(record).collect());
        // Found without a word about it, and pinned.
        run_to_the_end(stage.invocation());
        let found = stage.prices();
        stage.execute("TRUNCATE stock_prices; DELETE FROM writer_offsets");
        run_to_the_end(stage.invocation().set("topics.0.format", format));
        assert_eq!(found.len(), days.len(), "{format}");
        assert_same(stage.prices(), found.clone(), &format!("{format}, pinned and not"));
        all.push(found);
    }
    for (rows, (format, _)) in all.iter().zip(&shapes) {
        assert_same(rows.clone(), all[0].clone(), &format!("{format} and bar"));
    }
}

fn run_to_the_end(invocation: Invocation) {
    invocation.output(&["run", "--until-end"]).expect_code(0);
}
