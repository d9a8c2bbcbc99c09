//! The corpus of message shapes, the rules at their edges, and messages broken at random.

mod syntax;
mod time;

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
