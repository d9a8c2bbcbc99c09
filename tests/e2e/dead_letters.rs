//! What could not become a row, in an operator's hands: listed, shown, redriven exactly once, discarded.

use crate::backlog::bad_values;
use crate::harness::producer;
use crate::harness::{Invocation, Stage, servers};
use krafka::Record;
use serde_json::Value;

/// Above every price that is sent.
pub const NO_PRICE: i64 = 1_000_000_000;

pub fn redriven(stage: &Stage) -> i64 {
    stage.number("SELECT count(*) FROM writer_dead_letters WHERE redriven_at IS NOT NULL")
}

/// Reads all there is, whatever share of it is refused.
pub fn run(invocation: &Invocation) {
    invocation.clone().set("dead_letters.ratio_max", 1).output(&["run", "--until-end"]).expect_code(0);
}

/// A stage whose numbers are all dead letters: none is above the lowest price. `stage.invocation()` has a better one.
pub fn refused(test: &str, n_partitions: i32, count: i64) -> Stage {
    let stage = Stage::new(test, n_partitions);
    stage.produce(count);
    run(&stage.invocation().set("topics.0.price_min", NO_PRICE));
    assert_eq!((stage.rows(), open(&stage)), (0, count));
    stage
}

pub fn open(stage: &Stage) -> i64 {
    stage.number("SELECT count(*) FROM writer_dead_letters WHERE redriven_at IS NULL AND discarded_at IS NULL")
}

pub fn letters(invocation: &Invocation, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = ["dead-letters"].iter().chain(arguments).copied().collect();
    invocation.output(&arguments).expect_code(0).stdout
}

pub fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

/// Sends values to partition 0, in this order.
pub fn send(stage: &Stage, values: &[&str]) {
    let record = |value: &&str| Record::new(stage.topic.as_str(), (*value).to_owned()).key("KEY").partition(0);
    producer::send(values.iter().map(record).collect());
}

#[test]
fn letters_of_every_class_are_listed_and_shown() {
    let stage = Stage::new("letters_list", 2);
    stage.invocation().output(&["init"]).expect_code(0);
    stage.execute("ALTER TABLE stock_prices ADD CHECK (symbol <> 'NEVER')");
    let record = |value: Vec<u8>| Record::new(stage.topic.as_str(), value).key("K\x1b[31m").partition(0);
    let mut records: Vec<Record> = bad_values().into_iter().map(|(_, value)| record(value)).collect();
    records.push(record(br#"{"symbol":"NEVER","price":1}"#.to_vec()));
    let n_first = records.len() as i64;
    records.push(record(br#"[{"symbol":"A","price":1},{"\u001b[31m":2}]"#.to_vec()).partition(1));
    producer::send(records);
    let invocation = stage.invocation().set("kafka.max_message_bytes", 20_000);
    run(&invocation);

    let listed = objects(&letters(&invocation, &["list", "--json"]));
    assert_eq!(listed.len() as i64, open(&stage));
    for class in [
        "syntax",
        "encoding",
        "missing",
        "type",
        "range",
        "time",
        "symbol",
        "ambiguous",
        "unknown-shape",
        "too-large",
        "database",
    ] {
        let of_class = objects(&letters(&invocation, &["list", "--json", "--class", class]));
        assert!(!of_class.is_empty(), "no letter is of class {class}");
        assert!(of_class.iter().all(|letter| letter["reason_class"] == class), "{of_class:?}");
        let is_meant = |letter: &&Value| letter["reason_class"] == class;
        assert_eq!(listed.iter().filter(is_meant).count(), of_class.len());
    }
    let (first, last) = (&listed[0], &listed[listed.len() - 1]);
    assert_eq!((&first["id"], &first["partition"]), (&format!("{}/0/0/0", stage.topic).into(), &0.into()));
    assert_eq!((&first["key"], &first["key_hex"]), (&"K\u{1b}[31m".into(), &"4b1b5b33316d".into()));
    assert_eq!(first["redriven_at"], Value::Null);
    assert_eq!((&last["id"], &last["record_elements"]), (&format!("{}/1/0/1", stage.topic).into(), &2.into()));
    let too_large = listed.iter().find(|letter| letter["payload_sha256"] != Value::Null).expect("one was not kept");
    assert_eq!(too_large["reason_class"], "too-large");
    let database = listed.iter().find(|letter| letter["reason_class"] == "database").expect("one was refused");
    assert_eq!(database["reason_code"], "23514");

    // Whatever is in a message, it does nothing to a terminal.
    let table = letters(&invocation, &["list"]);
    println!("{table}");
    assert!(!table.contains('\u{1b}') && table.contains("FIRST SEEN (UTC)"), "{table}");
    assert!(table.ends_with(')') && table.contains(&format!("{} open dead letters: {}", listed.len(), stage.topic)));
    assert!(table.lines().all(|line| line.chars().count() <= 80 || line.starts_with(&stage.topic)), "{table}");

    // Filters.
    let count = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["list", "--json"].iter().chain(arguments).copied().collect();
        letters(&invocation, &arguments).lines().count() as i64
    };
    assert_eq!(count(&["--partition", "0"]), n_first);
    assert_eq!(count(&["--partition", "1", "--topic", &stage.topic]), 1);
    assert_eq!(count(&["--topic", "another"]), 0);
    assert_eq!(count(&["--since", "2024-01-01T00:00:00Z"]), listed.len() as i64);
    assert_eq!(count(&["--until", "2024-01-01T00:00:00Z"]), 0);
    assert!(letters(&invocation, &["list", "--topic", "another"]).contains("no open dead letters"));
    // Of this pipeline only.
    assert_eq!(letters(&invocation.clone().set("pipeline", "another"), &["list", "--json", "--all"]), "");

    for letter in &listed {
        let id = letter["id"].as_str().expect("an id is text");
        let shown = letters(&invocation, &["show", id]);
        println!("{shown}\n");
        assert!(shown.starts_with(&format!("{id}: open")) && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains(letter["reason_class"].as_str().expect("a class is text")), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80 || line.contains(&stage.topic)), "{shown}");
    }
    let shown = letters(&invocation, &["show", last["id"].as_str().expect("an id is text")]);
    for part in
        ["1 of 2, from 0", "1 row, 1 dead letter", "00000000  5b 7b 22 73", "\\u001b[31m", "stays: unknown-shape"]
    {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let unknown = invocation.output(&["dead-letters", "show", &format!("{}/0/9999/0", stage.topic)]).expect_code(64);
    assert!(unknown.cause().contains("has no dead letter"), "{}", unknown.stderr);
}

#[test]
fn a_long_value_is_shown_whole_if_asked_for() {
    let stage = Stage::new("letters_full", 1);
    let value = format!(r#"{{"symbol":"A","note":"{}","end":"here"}}"#, "x".repeat(5_000));
    send(&stage, &[&value]);
    run(&stage.invocation());
    let id = format!("{}/0/0/0", stage.topic);
    let shown = letters(&stage.invocation(), &["show", &id]);
    assert!(shown.contains("bytes more (--full)") && !shown.contains("here"), "{shown}");
    let shown = letters(&stage.invocation(), &["show", &id, "--full"]);
    assert!(shown.contains("here") && !shown.contains("--full"), "{shown}");
}

#[test]
fn discarded_letters_stay_and_are_left_alone() {
    let stage = refused("letters_discard", 2, 12_000);
    send(&stage, &["no json"]);
    run(&stage.invocation());
    let invocation = stage.invocation();
    let said = letters(&invocation, &["discard", "--class", "syntax"]);
    println!("{said}");
    assert!(said.contains("would discard 1 dead letter: ") && said.contains("--yes"), "{said}");
    assert_eq!(open(&stage), 12_001, "without --yes nothing is changed");
    let said = letters(&invocation, &["discard", "--class", "syntax", "--yes"]);
    assert!(said.contains("discarded: 1 letter"), "{said}");
    assert_eq!(letters(&invocation, &["list", "--json", "--class", "syntax"]), "");
    let all = objects(&letters(&invocation, &["list", "--json", "--class", "syntax", "--all"]));
    assert!(all.len() == 1 && all[0]["discarded_at"].is_string(), "{all:?}");
    assert!(letters(&invocation, &["list", "--class", "syntax", "--all"]).contains("discarded"));
    assert!(letters(&invocation, &["show", all[0]["id"].as_str().expect("an id is text")]).contains(": discarded"));
    // More than one transaction takes, and never what is a row.
    letters(&invocation, &["redrive", "--partition", "1"]);
    let n_rows = stage.rows();
    assert!(letters(&invocation, &["discard", "--yes"]).contains(&format!("discarded: {} letters", 12_000 - n_rows)));
    assert!(letters(&invocation, &["redrive"]).contains("redriven: 0 letters"));
    assert_eq!((stage.rows(), open(&stage), redriven(&stage)), (n_rows, 0, n_rows));
}

#[test]
fn what_stops_it_has_the_code_of_every_command() {
    let stage = refused("letters_codes", 1, 10);
    let away = stage.invocation().env("DATABASE_URL", servers().database_url_at("127.0.0.1:1"));
    let elsewhere = stage.invocation().set("database.tables.bookkeeping", format!("{}_not_here", stage.name));
    let role = format!("{}_writer", stage.name);
    stage.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {0} TO {role}; \
         GRANT INSERT ON {0}.stock_prices, {0}.writer_dead_letters TO {role}",
        stage.name
    ));
    let weak = stage.invocation().set("database.user", &role);
    let weak = weak.env("DATABASE_URL", servers().database_url.replace("postgres@", &format!("{role}@")));
    for (invocation, code) in [(away.set("retry.max_outage_s", 1), 69), (elsewhere, 78), (weak, 77)] {
        for arguments in [&["list"][..], &["show", "t/0/0/0"], &["redrive"], &["discard", "--yes"]] {
            let arguments: Vec<&str> = ["dead-letters"].iter().chain(arguments).copied().collect();
            let output = invocation.output(&arguments).expect_code(code);
            println!("{code} {arguments:?}: {}", output.cause());
            assert_eq!(output.stdout, "");
        }
    }
    for arguments in [&["show", "t/0/0"][..], &["list", "--class", "mising"], &["redrive", "--since", "soon"], &[]] {
        let arguments: Vec<&str> = ["dead-letters"].iter().chain(arguments).copied().collect();
        stage.invocation().output(&arguments).expect_code(64);
    }
    assert_eq!((stage.rows(), open(&stage)), (0, 10));
    stage.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_list() {
    let stage = refused("letters_pipe", 1, 5_000);
    let output = stage.invocation().under(&["bash", "-o", "pipefail", "-c", "\"$@\" | head -n 3", "bash"]);
    let output = output.output(&["dead-letters", "list", "--json"]).expect_code(0);
    assert_eq!((output.stdout.lines().count(), output.stderr.as_str()), (3, ""));
}
