//! The corpus of message shapes, the rules at their edges, and messages broken at random.

use super::*;
use crate::record::Offset;
use serde_json::{Value as Json, json};
use settings::{Format, SymbolSource, Target, TimestampMissing, TimestampUnit};

/// What producers send, and one case or more for each clause of each rule.
const CORPUS: &str = concat!(
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shapes/corpus.jsonl")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shapes/rules.jsonl"))
);

/// 2026-01-02T15:04:06.123Z, as in the corpus.
const RECORD_MS: i64 = 1_767_366_246_123;

fn record<'a>(value: &'a [u8]) -> Record<'a> {
    Record {
        topic: "stock_prices",
        partition: 0,
        offset: Offset(7),
        timestamp_ms: Some(RECORD_MS),
        key: None,
        value: Value::Bytes(value),
    }
}

fn metrics() -> Settings {
    Settings { target: Target::Metrics, ..Settings::default() }
}

/// Decodes as `explain --json` shows it, with the reasons, and checks what holds for every record.
fn explained(record: &Record<'_>, settings: &Settings) -> Json {
    let mut out = Decoded::default();
    let fate = decode(record, 3, settings, &mut out);
    let n_rows = out.prices.len() + out.metrics.len();
    match fate {
        Fate::Rows => assert!(n_rows > 0),
        Fate::DeadLetter => assert!(n_rows == 0 && !out.dead_letters.is_empty()),
        Fate::Skip(_) => assert!(n_rows == 0 && out.dead_letters.is_empty()),
    }
    let origins = out.prices.iter().map(|row| row.origin).chain(out.metrics.iter().map(|row| row.origin));
    let mut origins: Vec<_> = origins.chain(out.dead_letters.iter().map(|letter| letter.origin)).collect();
    origins.sort_unstable();
    assert!(origins.iter().all(|origin| origin.record_idx == 3));
    assert!(origins.windows(2).all(|pair| pair[0] < pair[1]), "two elements at one place: {origins:?}");
    serde_json::to_value(crate::explain::Json::of(fate, &out)).unwrap()
}

fn without_reasons(mut explained: Json) -> Json {
    for letter in explained["dead_letters"].as_array_mut().unwrap() {
        letter.as_object_mut().unwrap().remove("reason");
    }
    explained
}

/// One line for each thing an ordinary record of these bytes becomes, in the order of elements.
fn become_with(value: &str, settings: &Settings) -> String {
    summary(&record(value.as_bytes()), settings)
}

fn summary(record: &Record<'_>, settings: &Settings) -> String {
    let explained = explained(record, settings);
    let word = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = Vec::new();
    for row in explained["prices"].as_array().unwrap() {
        lines.push(format!(
            "{} {} {} {}",
            word(&row["symbol"]),
            word(&row["price"]),
            word(&row["volume"]),
            word(&row["timestamp"])
        ));
    }
    for row in explained["metrics"].as_array().unwrap() {
        lines.push(format!("{} {} {}", word(&row["symbol"]), word(&row["window_start"]), word(&row["window_end"])));
    }
    for letter in explained["dead_letters"].as_array().unwrap() {
        lines.push(format!("{}! {}", letter["element"], word(&letter["class"])));
    }
    if let Some(skip) = explained["skip"].as_str() {
        lines.push(format!("skip {skip}"));
    }
    lines.join("; ")
}

fn become_of(value: &str) -> String {
    become_with(value, &Settings::default())
}

/// What the time of a quote is read as.
fn time_with(json: &str, settings: &Settings) -> String {
    let summary = become_with(&format!("{{\"symbol\":\"A\",\"price\":1,\"timestamp\":{json}}}"), settings);
    summary.rsplit(' ').next().unwrap().to_owned()
}

fn time_of(json: &str) -> String {
    time_with(json, &Settings::default())
}

fn in_zone(name: &str) -> Settings {
    Settings { timezone: name.parse().unwrap(), ..Settings::default() }
}

fn reason(value: &str) -> String {
    explained(&record(value.as_bytes()), &Settings::default())["dead_letters"][0]["reason"].as_str().unwrap().to_owned()
}

struct Case {
    name: String,
    topic: String,
    key: Option<String>,
    timestamp_ms: i64,
    value: String,
    settings: Settings,
    expect: Json,
}

fn corpus() -> Vec<Case> {
    let case = |line: &str| {
        let json: Json = serde_json::from_str(line).unwrap();
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let topic = text("topic").unwrap();
        let mut settings = if topic == "stock_metrics" { metrics() } else { Settings::default() };
        for (key, value) in json["settings"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap();
            match key.as_str() {
                "timezone" => settings.timezone = value.parse().unwrap(),
                "target" => settings.target = value.parse().unwrap(),
                "format" => settings.format = value.parse().unwrap(),
                "timestamp_unit" => settings.timestamp_unit = value.parse().unwrap(),
                "symbol" => settings.symbol = value.parse().unwrap(),
                "timestamp_missing" => settings.timestamp_missing = value.parse().unwrap(),
                "price_min" => settings.price_min = crate::decimal::Decimal::parse(value.to_owned().into()).unwrap(),
                other => panic!("there is no setting {other}"),
            }
        }
        Case {
            name: text("name").unwrap(),
            topic,
            key: text("key"),
            timestamp_ms: json["record_timestamp_ms"].as_i64().unwrap(),
            value: text("value").unwrap(),
            settings,
            expect: json["expect"].clone(),
        }
    };
    CORPUS.lines().map(case).collect()
}

impl Case {
    fn record(&self) -> Record<'_> {
        Record {
            topic: &self.topic,
            key: self.key.as_ref().map(String::as_bytes),
            timestamp_ms: Some(self.timestamp_ms),
            ..record(self.value.as_bytes())
        }
    }
}

#[test]
fn every_case_of_the_corpus_becomes_what_it_expects() {
    let wrong: Vec<String> = corpus()
        .iter()
        .filter_map(|case| {
            let explained = explained(&case.record(), &case.settings);
            let is_right = without_reasons(explained.clone()) == case.expect;
            (!is_right).then(|| format!("{}\n  {explained}\n  {}", case.name, case.expect))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn auto_target_tells_metrics_from_prices() {
    // Where nothing becomes a row, it can be for the target.
    for case in corpus().iter().filter(|case| case.expect["dead_letters"] == json!([])) {
        let settings = Settings { target: Target::Auto, ..case.settings.clone() };
        assert_eq!(without_reasons(explained(&case.record(), &settings)), case.expect, "{}", case.name);
    }
}

#[test]
fn a_quote_with_an_average_among_its_fields_is_a_quote() {
    let value = r#"{"symbol":"A","price":2,"avg_price":3,"timestamp":1704207845}"#;
    let auto = Settings { target: Target::Auto, ..Settings::default() };
    assert_eq!(become_with(value, &auto), "A 2 null 2024-01-02T15:04:05Z");
    assert_eq!(become_with(value, &metrics()), "0! missing");
}

#[test]
fn a_pinned_format_refuses_all_other_shapes() {
    let pinned = |format| Settings { format, target: Target::Auto, ..Settings::default() };
    let quote = r#"{"symbol":"A","price":2,"timestamp":1704207845}"#;
    let bar = r#"{"symbol":"A","open":1,"high":2,"low":1,"close":1.5,"volume":3,"timestamp":1704207845}"#;
    let window = r#"{"symbol":"A","window_start":0,"window_end":1,"avg_price":1}"#;
    assert_eq!(become_with(quote, &pinned(Format::Bar)), "0! unknown-shape");
    assert_eq!(become_with(quote, &pinned(Format::Metrics)), "0! unknown-shape");
    assert_eq!(become_with(bar, &pinned(Format::Bar)), "A 1.5 3 2024-01-02T15:04:05Z");
    assert_eq!(become_with(bar, &pinned(Format::Metrics)), "0! unknown-shape");
    assert_eq!(become_with(window, &pinned(Format::Metrics)), "A 1970-01-01T00:00:00Z 1970-01-01T00:00:01Z");
    assert_eq!(become_with(window, &pinned(Format::Bar)), "0! unknown-shape");
}

#[test]
fn the_first_name_of_a_group_wins_unless_it_is_missing() {
    assert_eq!(
        become_of(r#"{"last":3,"price":2,"ticker":"B","symbol":"A","ts":1,"timestamp":0}"#),
        "A 2 null 1970-01-01T00:00:00Z"
    );
    assert_eq!(
        become_of(r#"{"last":3,"price":null,"ticker":"B","symbol":null,"ts":1,"timestamp":"N/A"}"#),
        "B 3 null 1970-01-01T00:00:01Z"
    );
    assert_eq!(become_of(r#"{"last":3,"price":"x","symbol":"A"}"#), "0! type");
}

#[test]
fn a_bar_beside_a_price_does_not_hide_the_price() {
    let value = r#"{"symbol":"A","price":9,"open":1,"high":2,"low":1,"close":1.5,"timestamp":0}"#;
    assert_eq!(become_of(value), "A 9 null 1970-01-01T00:00:00Z");
    let pinned = Settings { format: Format::Bar, ..Settings::default() };
    assert_eq!(become_with(value, &pinned), "A 1.5 null 1970-01-01T00:00:00Z");
}

#[test]
fn names_count_without_regard_to_case_and_underscores() {
    let value = r#"{"StockSymbol":"A","LAST_PRICE":2,"lastSize":3,"eventTime":5,"FetchedAt":6}"#;
    assert_eq!(become_of(value), "A 2 3 1970-01-01T00:00:05Z");
    assert_eq!(become_of(r#"{"\u0073ymbol":"A","pr\u0069ce":2,"ts":0}"#), "A 2 null 1970-01-01T00:00:00Z");
}

#[test]
fn short_names_are_not_fields_of_a_quote() {
    assert_eq!(become_of(r#"{"s":"A","p":2,"t":0}"#), "0! unknown-shape");
}

#[test]
fn a_key_twice_is_ambiguous_only_where_it_is_read() {
    assert_eq!(become_of(r#"{"symbol":"A","price":1,"price":1,"ts":0}"#), "0! ambiguous");
    assert_eq!(become_of(r#"{"symbol":"A","symbol":"B","price":1,"ts":0}"#), "0! ambiguous");
    assert_eq!(
        become_of(r#"{"symbol":"A","price":1,"ts":0,"x":1,"x":2,"window_start":1,"window_start":2}"#),
        "A 1 null 1970-01-01T00:00:00Z"
    );
    assert_eq!(become_of(r#"{"symbol":"A","price":1,"last":2,"last":3,"ts":0}"#), "A 1 null 1970-01-01T00:00:00Z");
    assert_eq!(become_of(r#"{"symbol":"A","pr\u0069ce":1,"price":1,"ts":0}"#), "0! ambiguous");
}

#[test]
fn two_spellings_of_a_key_are_ambiguous_if_they_disagree() {
    assert_eq!(become_of(r#"{"symbol":"A","lastPrice":1,"last_price":2,"ts":0}"#), "0! ambiguous");
    assert_eq!(become_of(r#"{"symbol":"A","lastPrice":1,"last_price":1,"ts":0}"#), "A 1 null 1970-01-01T00:00:00Z");
    assert_eq!(become_of(r#"{"symbol":"A","lastPrice":null,"last_price":1,"ts":0}"#), "A 1 null 1970-01-01T00:00:00Z");
    assert_eq!(become_of(r#"{"symbol":"A","lastPrice":1,"last_price":1,"lastPrice":1,"ts":0}"#), "0! ambiguous");
}

#[test]
fn a_field_around_thousands_of_elements_is_looked_for_once() {
    // Work that grows with the square of the size would not come to an end here.
    let around = r#""fetched_at":7,"fetchedAt":7"#;
    let prices = vec![r#"{"price":1}"#; 50_000].join(",");
    let value = format!(r#"{{{around},"symbol":"A","data":[{prices}]}}"#);
    let mut out = Decoded::default();
    assert_eq!(decode(&record(value.as_bytes()), 0, &Settings::default(), &mut out), Fate::Rows);
    assert_eq!(out.prices.len(), 50_000);
    assert!(out.prices.iter().all(|row| row.fetch_timestamp == Some(7)));
}

#[test]
fn markers_of_nothing_are_missing() {
    for marker in [r#""""#, r#""  ""#, r#""None""#, r#""N/A""#, r#""N\/A""#, r#"" - ""#, "null"] {
        assert_eq!(
            become_of(&format!("{{\"symbol\":\"A\",\"price\":1,\"volume\":{marker},\"ts\":0}}")),
            "A 1 null 1970-01-01T00:00:00Z"
        );
        assert_eq!(become_of(&format!("{{\"symbol\":\"A\",\"price\":{marker},\"ts\":0}}")), "0! missing");
        assert_eq!(time_of(marker), "2026-01-02T15:04:06.123Z");
    }
}

#[test]
fn what_is_no_number_is_a_wrong_type() {
    for wrong in [
        "true",
        "false",
        "{}",
        "[1]",
        r#""NaN""#,
        r#""Infinity""#,
        r#""0x10""#,
        r#""1,000""#,
        r#""1 2""#,
        r#""none""#,
        r#""$5""#,
        r#""1e""#,
    ] {
        assert_eq!(become_of(&format!("{{\"symbol\":\"A\",\"price\":{wrong}}}")), "0! type", "{wrong}");
        assert_eq!(become_of(&format!("{{\"symbol\":\"A\",\"price\":1,\"volume\":{wrong}}}")), "0! type", "{wrong}");
    }
    for wrong in ["Infinity", "-NaN", "+1", "01", "1.", ".5", "0x10", "None"] {
        assert_eq!(become_of(&format!("{{\"symbol\":\"A\",\"price\":{wrong}}}")), "0! syntax", "{wrong}");
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    for wrong in ["-1", "0.000", "-0", "\"-0.0\"", "1e999999999", "1e-999999999", "1e131072", "1e-16384"] {
        assert_eq!(become_of(&format!("{{\"symbol\":\"A\",\"price\":{wrong}}}")), "0! range", "{wrong}");
    }
    assert_eq!(become_of(r#"{"symbol":"A","price":1,"volume":-1}"#), "0! range");
    assert_eq!(become_of(r#"{"symbol":"A","price":1,"volume":-0.0,"ts":0}"#), "A 1 0.0 1970-01-01T00:00:00Z");
}

#[test]
fn the_lowest_price_is_the_topics_choice() {
    let from = |price_min: &'static str| Settings {
        price_min: crate::decimal::Decimal::parse(price_min.into()).unwrap(),
        ..Settings::default()
    };
    let value = r#"{"symbol":"CL=F","price":-37.63,"ts":0}"#;
    assert_eq!(become_with(value, &from("-100")), "CL=F -37.63 null 1970-01-01T00:00:00Z");
    assert_eq!(become_with(value, &from("-37.630")), "0! range");
    assert_eq!(become_with(value, &from("-37.6300001")), "CL=F -37.63 null 1970-01-01T00:00:00Z");
}

#[test]
fn the_unit_of_a_time_is_told_by_its_magnitude() {
    assert_eq!(time_of("4102444800"), "2100-01-01T00:00:00Z");
    assert_eq!(time_of("4102444801"), "time");
    assert_eq!(time_of("99999999999"), "time");
    assert_eq!(time_of("100000000000"), "1973-03-03T09:46:40Z");
    assert_eq!(time_of("100000000000000"), "1973-03-03T09:46:40Z");
    assert_eq!(time_of("100000000000000000"), "1973-03-03T09:46:40Z");
    assert_eq!(time_of("4102444800000000000"), "2100-01-01T00:00:00Z");
    assert_eq!(time_of("9223372036854775808"), "time");
    assert_eq!(time_of("1704207845.1234567"), "2024-01-02T15:04:05.123456Z");
    assert_eq!(time_of("1.704207845123e12"), "2024-01-02T15:04:05.123Z");
    assert_eq!(time_of("\" +1704207845 \""), "2024-01-02T15:04:05Z");
    for wrong in ["-1", "-0.5", "1e400000", "1e-400000", "1e30", "true", "{}", "[]", r#""abc""#, r#""17o4207845""#] {
        assert_eq!(time_of(wrong), "time", "{wrong}");
    }
}

#[test]
fn a_pinned_unit_is_taken_at_its_word() {
    let pinned = |timestamp_unit| Settings { timestamp_unit, ..Settings::default() };
    assert_eq!(time_with("86400", &pinned(TimestampUnit::Millis)), "1970-01-01T00:01:26.4Z");
    assert_eq!(time_with("86400", &pinned(TimestampUnit::Micros)), "1970-01-01T00:00:00.0864Z");
    assert_eq!(time_with("86400.9", &pinned(TimestampUnit::Nanos)), "1970-01-01T00:00:00.000086Z");
    assert_eq!(time_with("1704207845123", &pinned(TimestampUnit::Seconds)), "time");
    assert_eq!(time_with("20240102", &pinned(TimestampUnit::Seconds)), "1970-08-23T06:15:02Z");
    assert_eq!(time_with("\"2024-01-02\"", &pinned(TimestampUnit::Millis)), "2024-01-02T00:00:00Z");
}

#[test]
fn the_unit_of_a_fetch_time_is_always_told_by_its_magnitude() {
    let pinned = Settings { timestamp_unit: TimestampUnit::Millis, ..Settings::default() };
    let fetched = |json: &str, settings: &Settings| {
        let value = format!("{{\"symbol\":\"A\",\"price\":1,\"fetch_timestamp\":{json}}}");
        explained(&record(value.as_bytes()), settings)["prices"][0]["fetch_timestamp"].clone()
    };
    for json in ["1704207846", "1704207846999", "1704207846999999", "\"2024-01-02T15:04:06.999Z\"", "1704207846.9"] {
        assert_eq!(fetched(json, &Settings::default()), json!(1_704_207_846), "{json}");
        assert_eq!(fetched(json, &pinned), json!(1_704_207_846), "{json}");
    }
    assert_eq!(fetched("null", &pinned), json!(RECORD_MS / 1000));
    assert_eq!(become_of(r#"{"symbol":"A","price":1,"fetched_at":"yesterday"}"#), "0! time");
}

#[test]
fn times_are_read_in_every_documented_form() {
    for text in [
        "2024-01-02T15:04:05Z",
        "2024-01-02 15:04:05",
        "2024-01-02t15:04:05z",
        "2024-01-02T10:04:05-05",
        "2024-01-02T10:04:05-0500",
        "2024-01-02T10:04:05-05:00",
        "2024-01-02 15:04:05 +0000",
        "2024-01-02T20:34:05+05:30",
        "20240102T150405Z",
        "  2024-01-02T15:04:05.000000000Z ",
        "Tue, 02 Jan 2024 15:04:05 +0000",
        "Tue, 02 Jan 2024 15:04:05 GMT",
        "2 Jan 2024 10:04:05 -0500",
    ] {
        assert_eq!(time_of(&format!("{text:?}")), "2024-01-02T15:04:05Z", "{text}");
    }
    assert_eq!(time_of(r#""2024-01-02T15:04Z""#), "2024-01-02T15:04:00Z");
    assert_eq!(time_of(r#""2024-01-02T15:04:05.1""#), "2024-01-02T15:04:05.1Z");
    assert_eq!(time_of(r#""2024-01-02T15:04:05,123456789""#), "2024-01-02T15:04:05.123456Z");
    assert_eq!(time_of(r#""2016-12-31T23:59:60Z""#), "2017-01-01T00:00:00Z");
    assert_eq!(time_of("20240102"), "2024-01-02T00:00:00Z");
    assert_eq!(time_of("\"20240102\""), "2024-01-02T00:00:00Z");
    assert_eq!(time_of("20241302"), "1970-08-23T06:35:02Z");
    assert_eq!(time_of("19700101"), "1970-01-01T00:00:00Z");
    assert_eq!(time_of("21000101"), "2100-01-01T00:00:00Z");
    assert_eq!(time_of("21000102"), "1970-09-01T01:21:42Z");
}

#[test]
fn what_is_no_time_is_refused() {
    for text in [
        "2024-02-30",
        "2024-1-2",
        "2024-01",
        "24-01-02",
        "2024/01/02",
        "2024-01-02T",
        "2024-01-02T24:00:00",
        "2024-01-02T15:60:00",
        "2024-01-02T15:04:61",
        "2024-01-02T15:04:05.",
        "2024-01-02T15:04:05.1234567890",
        "2024-01-02T15:04:05+24:00",
        "2024-01-02T15:04:05+5",
        "2024-01-02T15:04:05 EST",
        "2024-01-02T15:04:05Zz",
        "2024-01-02  15:04:05",
        "202401-02",
        "2024-0102",
        "Mon, 02 Jan 2024 15:04:05 +0000",
        "1969-12-31T23:59:59Z",
        "2100-01-01T00:00:00.000001Z",
        "now",
        "2024-01-0２",
    ] {
        assert_eq!(time_of(&format!("{text:?}")), "time", "{text}");
    }
    assert_eq!(time_of(&format!("\"{}\"", "(".repeat(100_000))), "time");
    assert_eq!(time_of(&"1".repeat(100_000)), "time");
}

#[test]
fn times_without_a_zone_are_in_the_topics_zone() {
    let new_york = in_zone("America/New_York");
    assert_eq!(time_with(r#""2024-01-02""#, &new_york), "2024-01-02T05:00:00Z");
    assert_eq!(time_with("20240702", &new_york), "2024-07-02T04:00:00Z");
    assert_eq!(time_with(r#""2024-07-02T10:00:00+02:00""#, &new_york), "2024-07-02T08:00:00Z");
    assert_eq!(time_with(r#""1970-01-01""#, &in_zone("Asia/Tokyo")), "time");
    assert_eq!(time_with(r#""2100-01-01""#, &new_york), "time");
}

#[test]
fn a_local_time_that_the_clocks_skip_is_refused_and_a_doubled_one_is_the_earlier() {
    let new_york = in_zone("America/New_York");
    assert_eq!(time_with(r#""2024-03-10T01:59:59""#, &new_york), "2024-03-10T06:59:59Z");
    assert_eq!(time_with(r#""2024-03-10T02:30:00""#, &new_york), "time");
    assert_eq!(time_with(r#""2024-03-10T03:00:00""#, &new_york), "2024-03-10T07:00:00Z");
    assert_eq!(time_with(r#""2024-11-03T01:30:00""#, &new_york), "2024-11-03T05:30:00Z");
    assert_eq!(time_with(r#""2024-11-03T01:30:00-05:00""#, &new_york), "2024-11-03T06:30:00Z");
    assert_eq!(time_with(r#""2018-11-04""#, &in_zone("America/Sao_Paulo")), "time");
}

#[test]
fn odd_texts_are_never_more_than_no_time() {
    let new_york = in_zone("America/New_York");
    for text in ["0000-01-01", "9999-12-31T23:59:60", "99991231T000000", &"(".repeat(60), "1 Jan 0000 00:00:00 -2359"] {
        assert_eq!(time_with(&format!("{text:?}"), &new_york), "time", "{text}");
    }
    let mut random = fastrand::Rng::with_seed(4);
    let known = ["2024-03-10T02:30:00.5+05:30", "Tue, 02 Jan 2024 15:04:05 +0000", "1704207845.25", "20240102T150405Z"];
    for _ in 0..20_000 {
        let mut text = known[random.usize(..known.len())].as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..text.len());
            text[at] = b"0123456789+-:.,TZe ()A"[random.usize(..22)];
        }
        let text = String::from_utf8(text).unwrap();
        let time = time_with(&format!("{text:?}"), &new_york);
        assert!(time == "time" || time.ends_with('Z'), "{text} {time}");
    }
}

#[test]
fn many_broken_lines_take_no_longer_than_their_bytes() {
    // Work that grows with the square of the size would not come to an end here.
    let value = format!("[1]\n{}", "x\n".repeat(200_000));
    let mut out = Decoded::default();
    assert_eq!(decode(&record(value.as_bytes()), 0, &Settings::default(), &mut out), Fate::DeadLetter);
    assert_eq!(out.dead_letters.len(), 13_500);
    let last = &out.dead_letters.last().unwrap().reason;
    assert!(last.ends_with("(and 186501 more elements were refused, which have no letters)"), "{last}");
}

#[test]
fn what_is_around_many_elements_is_not_multiplied_by_them() {
    let value = |price: &str, more: &str| {
        format!(r#"{{"price":{price}{more},"data":[{{"symbol":"A","ts":0}},{{"symbol":"B","ts":0}}]}}"#)
    };
    let row = |symbol| format!("{symbol} 12.5 null 1970-01-01T00:00:00Z");
    assert_eq!(become_of(&value("12.5", "")), format!("{}; {}", row("A"), row("B")));
    assert_eq!(become_of(&value(&"1".repeat(257), "")), "0! too-large; 1! too-large");
    // Twice around, it is looked for once and not for each element.
    assert_eq!(become_of(&value("1", r#","price":1"#)), "0! ambiguous; 1! ambiguous");
    assert_eq!(become_of(&value("12.5", r#","PRICE":12.5"#)), format!("{}; {}", row("A"), row("B")));
    let many = format!(r#"{{"price":1,"price":1,"data":[{}{{}}]}}"#, r#"{"symbol":"A"},"#.repeat(200_000));
    // Work that grows with the square of the size would not come to an end here.
    let mut out = Decoded::default();
    assert_eq!(decode(&record(many.as_bytes()), 0, &Settings::default(), &mut out), Fate::DeadLetter);
}

#[test]
fn elements_that_have_no_letters_do_not_remove_their_neighbours() {
    let row = r#"{"symbol":"A","price":1,"ts":0}"#;
    let value = format!("[{row},{}{row}]", r#""{\"s\"}",1,"#.repeat(1000));
    let mut out = Decoded::default();
    let fate = decode(&record(value.as_bytes()), 0, &Settings::default(), &mut out);
    assert_eq!(fate, Fate::Rows, "{:?}", out.dead_letters.last());
    let elements: Vec<u32> = out.prices.iter().map(|row| row.origin.element).collect();
    assert_eq!(elements, [0, 2001]);
    assert_eq!(out.dead_letters.len(), 1000 + value.len() / 32);
}

#[test]
fn a_missing_time_is_the_records_or_a_dead_letter() {
    let value = br#"{"symbol":"A","price":1}"#;
    let strict = Settings { timestamp_missing: TimestampMissing::DeadLetter, ..Settings::default() };
    assert_eq!(summary(&record(value), &Settings::default()), "A 1 null 2026-01-02T15:04:06.123Z");
    assert_eq!(summary(&record(value), &strict), "0! missing");
    let without = Record { timestamp_ms: None, ..record(value) };
    assert_eq!(summary(&without, &Settings::default()), "0! missing");
    for timestamp_ms in [-1, i64::MIN, i64::MAX, 4_102_444_800_001] {
        let odd = Record { timestamp_ms: Some(timestamp_ms), ..record(value) };
        assert_eq!(summary(&odd, &Settings::default()), "0! time");
    }
}

#[test]
fn without_a_record_timestamp_a_missing_fetch_time_is_null() {
    let record = Record { timestamp_ms: None, ..record(br#"{"symbol":"A","price":1,"ts":0}"#) };
    assert_eq!(explained(&record, &Settings::default())["prices"][0]["fetch_timestamp"], Json::Null);
}

#[test]
fn symbols_keep_their_rules() {
    let of = |json: &str| {
        become_of(&format!("{{\"symbol\":{json},\"price\":1,\"ts\":0}}")).replace(" 1 null 1970-01-01T00:00:00Z", "")
    };
    assert_eq!(of(r#"" brk.B ""#), "brk.B");
    assert_eq!(of(r#""\u00e9\/x""#), "é/x");
    assert_eq!(of(r#""""#), "0! symbol");
    assert_eq!(of(r#""  ""#), "0! symbol");
    assert_eq!(of(r#""A\tB""#), "0! symbol");
    assert_eq!(of(&format!("{:?}", "A".repeat(65))), "0! symbol");
    assert_eq!(of(&format!("{:?}", "A".repeat(64))), "A".repeat(64));
    assert_eq!(of(r#""A\u0000""#), "0! encoding");
    assert_eq!(of(r#""A\ud800""#), "0! encoding");
    assert_eq!(of("700"), "0! type");
    assert_eq!(of("true"), "0! type");
    assert_eq!(of(r#"["A"]"#), "0! type");
}

#[test]
fn a_missing_symbol_is_the_key_if_that_looks_like_one() {
    let with_key = |key: &'static [u8], value: &'static str| {
        summary(&Record { key: Some(key), ..record(value.as_bytes()) }, &Settings::default())
    };
    let value = r#"{"price":1,"ts":0}"#;
    assert_eq!(with_key(b"BTC-USD", value), "BTC-USD 1 null 1970-01-01T00:00:00Z");
    assert_eq!(with_key(b"BTC-USD", r#"{"symbol":null,"price":1,"ts":0}"#), "BTC-USD 1 null 1970-01-01T00:00:00Z");
    assert_eq!(with_key(b"BTC-USD", r#"{"symbol":"A","price":1,"ts":0}"#), "A 1 null 1970-01-01T00:00:00Z");
    for key in [&b""[..], b"two words", b"\"AAPL\"", b"\xff\xfe", b"{}"] {
        assert_eq!(with_key(key, value), "0! missing");
    }
    assert_eq!(become_of(value), "0! missing");
}

#[test]
fn the_symbols_source_can_be_pinned() {
    let pinned = |symbol: &str| Settings { symbol: symbol.parse().unwrap(), ..Settings::default() };
    let value = br#"{"symbol":"A","price":1,"ts":0}"#;
    let with_key = |key: Option<&'static [u8]>| Record { key, ..record(value) };
    let row = |symbol: &str| format!("{symbol} 1 null 1970-01-01T00:00:00Z");
    assert_eq!(summary(&with_key(Some(b" Key 1 ")), &pinned("key")), row("Key 1"));
    assert_eq!(summary(&with_key(None), &pinned("key")), "0! missing");
    assert_eq!(summary(&with_key(Some(b" ")), &pinned("key")), "0! symbol");
    assert_eq!(summary(&with_key(Some(b"\xff")), &pinned("key")), "0! encoding");
    assert_eq!(summary(&record(value), &pinned("topic")), row("stock_prices"));
    assert_eq!(summary(&record(value), &pinned("^GSPC")), row("^GSPC"));
    assert_eq!(become_with(r#"[{"price":1,"ts":0}]"#, &pinned("^GSPC")), row("^GSPC"));
}

#[test]
fn windows_end_after_their_start_and_have_a_figure() {
    let of = |fields: &str| become_with(&format!("{{\"symbol\":\"A\",{fields}}}"), &metrics());
    let row = "A 1970-01-01T00:00:01Z 1970-01-01T00:00:02Z";
    assert_eq!(of(r#""window_start":1,"window_end":2,"avg_price":1"#), row);
    assert_eq!(of(r#""windowStart":1,"WINDOWEND":2,"Max_Price":"N/A","min_price":1"#), row);
    assert_eq!(of(r#""window_start":1,"window_end":1,"avg_price":1"#), "0! range");
    assert_eq!(of(r#""window_start":2,"window_end":1,"avg_price":1"#), "0! range");
    assert_eq!(of(r#""window_start":1,"window_end":2"#), "0! missing");
    assert_eq!(of(r#""window_start":1,"window_end":2,"avg_price":null,"avg_volume":"""#), "0! missing");
    assert_eq!(of(r#""window_end":2,"avg_price":1"#), "0! missing");
    assert_eq!(of(r#""window_start":1,"avg_price":1"#), "0! missing");
    assert_eq!(of(r#""avg_price":1"#), "0! missing");
    assert_eq!(of(r#""price":1"#), "0! unknown-shape");
    assert_eq!(of(r#""window_start":1,"window_end":"x","avg_price":1"#), "0! time");
    assert_eq!(of(r#""window_start":1,"window_end":2,"avg_price":"x""#), "0! type");
    assert_eq!(of(r#""window_start":1,"window_end":2,"avg_price":1,"avg_price":1"#), "0! ambiguous");
}

#[test]
fn a_record_without_content_is_skipped() {
    assert_eq!(summary(&Record { value: Value::Null, ..record(b"") }, &Settings::default()), "skip tombstone");
    for (value, skip) in [
        ("", "empty"),
        (" \r\n\t", "empty"),
        ("\u{FEFF}", "empty"),
        ("[]", "empty"),
        ("{}", "empty"),
        (" [ ] ", "empty"),
        ("[{},[]]", "empty"),
        ("null", "tombstone"),
        ("[null]", "tombstone"),
        ("\"[]\"", "empty"),
    ] {
        assert_eq!(become_of(value), format!("skip {skip}"), "{value:?}");
    }
}

#[test]
fn elements_are_numbered_through_arrays_documents_and_strings() {
    let row = r#"{"symbol":"A","price":1,"ts":0}"#;
    let shown = "A 1 null 1970-01-01T00:00:00Z";
    assert_eq!(become_of(&format!("[{row},{row}]")), format!("{shown}; {shown}"));
    assert_eq!(
        become_of(&format!("{row}\n{row}\r\n\n[{row},5,{row}]\n")),
        format!("{shown}; {shown}; {shown}; {shown}; 3! unknown-shape")
    );
    assert_eq!(become_of(&format!("\u{FEFF}[[{row}],[{{}},7]]")), format!("{shown}; 2! unknown-shape"));
    let string = serde_json::to_string(&format!("{row}\n{row}")).unwrap();
    assert_eq!(become_of(&format!("[{string},true,{row}]")), format!("{shown}; {shown}; {shown}; 2! unknown-shape"));
}

#[test]
fn json_in_strings_is_opened_twice_at_most() {
    let mut value = r#"{"symbol":"A\"é","price":1,"ts":0}"#.to_owned();
    for expected in ["A\"é 1 null 1970-01-01T00:00:00Z"; 3].into_iter().chain(["0! unknown-shape"; 2]) {
        assert_eq!(become_of(&value), expected);
        value = serde_json::to_string(&value).unwrap();
    }
    assert_eq!(become_of(r#""{\"symbol\":""#), "0! syntax");
    assert_eq!(become_of(r#""\ud800{}""#), "0! encoding");
}

#[test]
fn other_json_is_one_dead_letter() {
    for value in [
        "5",
        "true",
        "1e999",
        "\"AAPL\"",
        "\"\"",
        "[1,2,3]",
        "[\"AAPL\",1e999,null]",
        "[[1,2]]",
        r#"{"a":{"symbol":1}}"#,
    ] {
        assert_eq!(become_of(value), "0! unknown-shape", "{value}");
    }
}

#[test]
fn broken_json_is_one_dead_letter() {
    for value in [
        "{",
        "[",
        "\"",
        "nul",
        "NaN",
        "{a:1}",
        "{'a':1}",
        "[1,]",
        "[{\"symbol\":\"A\",\"price\":1}",
        "{} {}",
        "{}x",
        "]",
        ",",
        "\u{0}",
        "[{\"symbol\":\"A\",\"price\":1,\"ts\":0} {}]",
        "{\n\"symbol\":\"A\",\n\"price\":NaN,\n\"x\":{}\n}",
        "[\n{\"symbol\":\"A\",\"price\":1},\n{]\n]",
        "{\"symbol\":\"A\u{1}\",\"price\":1}",
        "{\"symbol\":\"\\x\",\"price\":1}",
        "{\"price\":1,}",
    ] {
        assert_eq!(become_of(value), "0! syntax", "{value:?}");
    }
}

#[test]
fn a_broken_line_does_not_hold_back_its_neighbours() {
    let row = r#"{"symbol":"A","price":1,"ts":0}"#;
    let shown = "A 1 null 1970-01-01T00:00:00Z";
    assert_eq!(become_of(&format!("{row}\nnonsense\n{row}\n")), format!("{shown}; {shown}; 1! syntax"));
    assert_eq!(
        become_of(&format!("{{\"symbol\":\"A\",\"price\":\n{row}\n[{row}")),
        format!("{shown}; 0! syntax; 2! syntax")
    );
    assert_eq!(become_of(&format!("{row}\n{row} {row}\n{row}")), format!("{shown}; {shown}; 1! syntax"));
}

#[test]
fn bytes_that_are_not_utf_8_are_a_dead_letter() {
    assert_eq!(summary(&record(b"{\"symbol\":\"\xff\"}"), &Settings::default()), "0! encoding");
    assert_eq!(summary(&record(b"\xff\xfe{\0}\0"), &Settings::default()), "0! encoding");
}

#[test]
fn nul_in_a_field_that_is_read_is_a_dead_letter() {
    for field in ["symbol", "price", "volume", "ts", "fetched_at"] {
        let value = format!("{{\"{field}\":\"1\\u0000\"{}}}", if field == "price" { "" } else { ",\"price\":1" });
        let keyed = Record { key: Some(b"A"), ..record(value.as_bytes()) };
        assert_eq!(summary(&keyed, &Settings::default()), "0! encoding", "{field}");
    }
    assert_eq!(become_of(r#"{"symbol":"A","price":1,"ts":0,"note":"\u0000\ud800"}"#), "A 1 null 1970-01-01T00:00:00Z");
}

#[test]
fn deep_nesting_is_too_large() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(become_of(&nested(64)), "skip empty");
    assert_eq!(become_of(&nested(65)), "0! too-large");
    assert_eq!(become_of(&nested(1_000_000)), "0! too-large");
    assert_eq!(become_of(&"[".repeat(1_000_000)), "0! too-large");
    assert_eq!(become_of(&"{\"a\":".repeat(1_000_000)), "0! too-large");
    let beside = |depth: usize| format!("{{\"symbol\":\"A\",\"price\":1,\"ts\":0,\"x\":{}}}", nested(depth));
    assert_eq!(become_of(&beside(63)), "A 1 null 1970-01-01T00:00:00Z");
    assert_eq!(become_of(&beside(64)), "0! too-large");
    assert_eq!(become_of(&format!("[{},{}]", beside(62), beside(63))), "A 1 null 1970-01-01T00:00:00Z; 1! too-large");
    let brackets = format!("{{\"symbol\":\"A\",\"price\":1,\"ts\":0,\"x\":\"{}\"}}", "[".repeat(1000));
    assert_eq!(become_of(&brackets), "A 1 null 1970-01-01T00:00:00Z");
}

#[test]
fn a_value_that_was_not_kept_is_too_large() {
    let record = Record { value: Value::TooLarge { bytes: 9_000_000, sha256: [0; 32] }, ..record(b"") };
    assert_eq!(summary(&record, &Settings::default()), "0! too-large");
}

#[test]
fn reasons_say_where_and_what_but_never_a_value() {
    assert_eq!(reason(r#"{"symbol":"A","price":"SECRET"}"#), "$.price: is not a decimal number");
    assert_eq!(reason(r#"[{},{"symbol":"A","last":-5}]"#), "$[1].last: must be above 0");
    assert_eq!(
        reason("{}\n[[{\"symbol\":\"A\",\"price\":1,\"ts\":\"SECRET\"}]]"),
        "document 2 $[0][0].ts: is no time in a known form"
    );
    assert_eq!(reason("{\"symbol\":\"AAPL\",\"price\":"), "$: EOF while parsing a value at column 25");
    assert_eq!(reason("{}\n  {\"symbol\":SECRET}"), "document 2 $: expected value at column 11");
    assert_eq!(reason("{\n\"symbol\":\n  SECRET}"), "$: expected value at line 3 column 3");
    assert_eq!(
        reason(&format!("{}5,{{}}{}", "[".repeat(50), "]".repeat(50))),
        "$…[0][0][0][0][0][0]: is a single value"
    );
    assert_eq!(reason("[{} SECRET]"), "$: expected `,` or `]` at column 5");
    assert_eq!(
        reason(r#"{"temperature":21.5,"sensor":"SECRET"}"#),
        "$: has a shape that no profile knows, with the keys temperature, sensor"
    );
}

#[test]
fn the_names_of_an_unknown_shape_are_bounded() {
    let keys: Vec<String> = (0..1000).map(|idx| format!("\"{idx}\\u001b{}\":1", "é".repeat(1000))).collect();
    let reason = reason(&format!("{{{}}}", keys.join(",")));
    assert!(reason.len() < 2_000, "{}", reason.len());
    assert!(reason.ends_with("… and 984 more"), "{reason}");
    assert!(!reason.contains('\u{1b}'));
}

#[test]
fn rows_borrow_what_is_not_escaped() {
    let value = r#"[{"symbol":"A","price":"1","ts":0}]"#;
    let record = record(value.as_bytes());
    let mut out = Decoded::default();
    decode(&record, 0, &Settings::default(), &mut out);
    assert!(matches!(out.prices[0].symbol, std::borrow::Cow::Borrowed("A")));
}

#[test]
fn settings_are_read_from_their_words() {
    assert_eq!("auto".parse(), Ok(Target::Auto));
    assert_eq!("x".parse::<Target>(), Err("must be \"prices\", \"metrics\" or \"auto\", is \"x\"".to_owned()));
    assert_eq!("bar".parse(), Ok(Format::Bar));
    assert_eq!("us".parse(), Ok(TimestampUnit::Micros));
    assert_eq!("dead-letter".parse(), Ok(TimestampMissing::DeadLetter));
    assert_eq!("key".parse(), Ok(SymbolSource::Key));
    assert_eq!("^GSPC".parse(), Ok(SymbolSource::Constant("^GSPC".to_owned())));
    assert_eq!(
        " ".parse::<SymbolSource>(),
        Err("must be \"auto\", \"key\", \"topic\" or a symbol, is \" \", which is empty".to_owned())
    );
}

#[test]
fn a_format_that_has_no_rows_for_the_target_is_a_contradiction() {
    assert_eq!(Settings::default().contradiction(), None);
    assert_eq!(Settings { format: Format::Metrics, ..metrics() }.contradiction(), None);
    assert_eq!(
        Settings { format: Format::Bar, ..metrics() }.contradiction(),
        Some("format: \"bar\" has no rows for target \"metrics\"".to_owned())
    );
}

/// Mutates the corpus; `explained` checks the counts.
#[test]
fn broken_messages_never_panic_and_have_one_fate() {
    let mut random = fastrand::Rng::with_seed(20_240_102);
    let pieces: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\",
        b",",
        b":",
        b"null",
        b"1e99999999999999999999",
        b"\\u0000",
        b"\\ud800",
        b"\n",
        b"\xEF\xBB\xBF",
        b"\xff",
        b"\"symbol\":\"A\",",
        b"\"price\":1,",
        b"-",
        b"NaN",
        b"9999999999999999999999",
        b"\"2024-03-10T02:30:00\"",
        b"\"\"",
    ];
    let all_settings = [
        Settings::default(),
        metrics(),
        Settings {
            target: Target::Auto,
            timezone: chrono_tz::America::New_York,
            symbol: SymbolSource::Key,
            ..Settings::default()
        },
        Settings {
            timestamp_unit: TimestampUnit::Nanos,
            timestamp_missing: TimestampMissing::DeadLetter,
            ..Settings::default()
        },
    ];
    let corpus = corpus();
    let mut n_compared = 0;
    for _ in 0..20_000 {
        let case = &corpus[random.usize(..corpus.len())];
        let mut value = case.value.clone().into_bytes();
        for _ in 0..random.usize(..6) {
            let at = random.usize(..=value.len());
            match random.u8(..5) {
                0 => value.truncate(at),
                1 if at < value.len() => value[at] = random.u8(..),
                2 => drop(value.drain(at..value.len().min(at + random.usize(..9)))),
                3 => {
                    let from = random.usize(..=value.len());
                    let copied = value[from..value.len().min(from + random.usize(..40))].to_vec();
                    value.splice(at..at, copied);
                }
                _ => drop(value.splice(at..at, pieces[random.usize(..pieces.len())].iter().copied())),
            }
        }
        for settings in &all_settings {
            let explained = explained(&Record { value: Value::Bytes(&value), ..case.record() }, settings);
            if let Some(is_json) = is_one_document(&value) {
                let letters = explained["dead_letters"].as_array().unwrap();
                let is_syntax = letters.iter().any(|letter| letter["class"] == "syntax");
                assert_eq!(is_syntax, !is_json, "{}", String::from_utf8_lossy(&value));
                assert!(is_json || letters.len() == 1 && explained["prices"] == json!([]));
                n_compared += 1;
            }
        }
    }
    assert!(n_compared > 10_000, "{n_compared}");
}

/// Whether serde_json takes a text, where that is the question: not for lines, strings in strings and their like.
fn is_one_document(value: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(value).ok()?;
    let others = ["\n", "\u{FEFF}", "\"{", "\"[", "\"\\", "\\ud", "[[[["];
    let is_plain = !text.trim().is_empty() && !others.iter().any(|other| text.contains(other));
    is_plain.then(|| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

#[test]
fn rows_letters_and_skips_are_counted_as_elements() {
    for (value, n) in [
        (r#"{"symbol":"A","price":1}"#, 1),
        (r#"[{"symbol":"A","price":1},{"symbol":"B"},{}]"#, 3),
        (r#"{"type":"trade","data":[{"s":"A","p":1,"t":1700000000000},{"s":"B","p":2,"t":1700000000000}]}"#, 2),
        // What is broken at its end is one letter, whatever came before.
        (r#"[{"symbol":"A","price":1},{"symbol":"B"}"#, 1),
        ("", 0),
    ] {
        let outcome = decode_counted(&record(value.as_bytes()), 0, &Settings::default(), &mut Decoded::default());
        assert_eq!(outcome.n_elements, n, "{value}");
    }
}
