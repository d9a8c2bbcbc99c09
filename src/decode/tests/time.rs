//! Times: units, forms, zones, and records without one.

use super::*;

fn in_zone(name: &str) -> Settings {
    Settings { timezone: name.parse().unwrap(), ..Settings::default() }
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
