//! Syntax: documents, lines, elements, and what is broken.

use super::*;

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
