//! What a person or a script sees of `explain`: messages from files, pipes, kcat and Kafka.

use crate::harness::corpus::{Case, corpus};
use crate::harness::producer::{FIRST_TIME, Transactions, quote, send};
use crate::harness::{Invocation, LIMIT, Stage, broker, eventually, servers};
use krafka::Record;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

const AAPL: &str = r#"{"symbol":"AAPL","price":187.20,"volume":1200,"timestamp":1704207845,"fetched_at":1704207846}"#;

/// What `--json` shows of it.
const AAPL_JSON: &str = r#"{"prices":[{"symbol":"AAPL","price":"187.20","volume":"1200","timestamp":"2024-01-02T15:04:05Z","fetch_timestamp":1704207846}],"metrics":[],"skip":null,"dead_letters":[]}"#;

/// Without settings, and where no server is.
fn bare() -> Invocation {
    Invocation::new(PathBuf::from("/")).set("kafka.brokers", NOWHERE)
}

/// A file that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(content: impl AsRef<[u8]>) -> Scratch {
        let path = std::env::temp_dir().join(format!("stock-db-writer-explain-{:08x}", fastrand::u32(..)));
        std::fs::write(&path, content).expect("the file can be written");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the path is text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that has failed has worse to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The objects that were printed, one a line.
fn objects(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

/// What each message became, in short.
fn fates(stdout: &str) -> Vec<String> {
    let fate = |object: &Value| match (object["skip"].as_str(), object["dead_letters"][0]["class"].as_str()) {
        (Some(skip), None) => format!("skip {skip}"),
        (None, Some(class)) => class.to_owned(),
        (None, None) => object["prices"][0]["symbol"].as_str().expect("a price has a symbol").to_owned(),
        both => panic!("{both:?} in {object}"),
    };
    objects(stdout).iter().map(fate).collect()
}

fn prices(stdout: &str) -> Vec<i64> {
    let price = |object: &Value| object["prices"][0]["price"].as_str()?.parse().ok();
    objects(stdout).iter().map(|object| price(object).expect("a price")).collect()
}

fn without_reasons(mut object: Value) -> Value {
    for letter in object["dead_letters"].as_array_mut().expect("there are dead letters, or none") {
        letter.as_object_mut().expect("a dead letter is an object").remove("reason").expect("it has a reason");
    }
    object
}

/// Reads messages of a topic as a case's are read.
fn invocation(case: &Case, topic: &str) -> Invocation {
    let named = bare().set("topics.0.name", topic);
    case.settings.iter().fold(named, |invocation, (key, value)| invocation.set(&format!("topics.0.{key}"), value))
}

/// All cases have become what they should, or it says which have not.
fn assert_as_expected(cases: &[Case], topic: Option<&str>, stdout_of: impl Fn(usize, &Case) -> String) {
    let mut wrong = Vec::new();
    for (idx, case) in cases.iter().enumerate() {
        let stdout = stdout_of(idx, case);
        let got: Vec<Value> = objects(&stdout).into_iter().map(without_reasons).collect();
        if got != [case.expect(topic)] {
            wrong.push(format!("{}:\n  expected {}\n  got      {stdout}", case.name, case.expect(topic)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn every_case_of_the_corpus_is_explained_from_a_pipe() {
    // A message of several lines can't come by lines.
    let cases: Vec<Case> = corpus().into_iter().filter(|case| !case.value.contains('\n')).collect();
    assert_as_expected(&cases, None, |_, case| {
        let time = case.timestamp_ms.to_string();
        let mut arguments = vec!["explain", "--json", "--topic", &case.topic, "--record-timestamp", &time];
        arguments.extend(case.key.iter().flat_map(|key| ["--key", key]));
        let input = format!("{}\n", case.value);
        invocation(case, &case.topic).input(&input).output(&arguments).expect_code(0).stdout
    });
}

#[test]
fn every_case_of_the_corpus_is_explained_from_kcat() {
    let stage = Stage::with_configs("explain_corpus", 1, &[("retention.ms", "-1")]);
    let cases = corpus();
    send(cases.iter().map(|case| case.record(&stage.topic)).collect());
    let printed = kcat(&stage.topic);
    let lines: Vec<&[u8]> = printed.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), cases.len());
    assert_as_expected(&cases, Some(&stage.topic), |idx, case| {
        let arguments = ["explain", "--json", "--kcat-json"];
        invocation(case, &stage.topic).input(lines[idx]).output(&arguments).expect_code(0).stdout
    });
}

/// All of a topic, as `kcat -J` prints it.
fn kcat(topic: &str) -> Vec<u8> {
    let output = Command::new("kcat")
        .args(["-C", "-e", "-q", "-J", "-o", "beginning", "-b", &servers().brokers, "-t", topic])
        .stdin(Stdio::null())
        .output()
        .expect("kcat is installed (dev/test does it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_file_a_pipe_and_a_dash_are_read_alike_and_no_server_is_needed() {
    let lines = format!("{AAPL}\n{AAPL}");
    let file = Scratch::new(&lines);
    let expected = format!("{AAPL_JSON}\n{AAPL_JSON}");
    // Also where the database's settings are not complete, or lead nowhere.
    let anywhere = [
        bare(),
        bare().env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing"),
        bare().set("database.name", "stocks").set("database.password_file", "/nonexistent/password"),
        bare().env("PGUSER", "somebody").env("PGPORT", "many"),
        bare().set("kafka.sasl.mechanism", "PLAIN").set("kafka.tls.ca_file", "/nonexistent/ca.pem"),
    ];
    for invocation in anywhere {
        let piped = invocation.clone().input(&lines);
        for output in [
            invocation.output(&["explain", "--json", file.path()]),
            piped.output(&["explain", "--json", "-"]),
            piped.output(&["explain", "--json"]),
        ] {
            let output = output.expect_code(0);
            assert_eq!((output.stdout.as_str(), output.stderr.as_str()), (expected.as_str(), ""));
        }
    }
}

#[test]
fn a_message_is_a_line_whatever_is_in_it() {
    let lines = [&b"\n \t\r\n"[..], AAPL.as_bytes(), b"\r\n\xff\xfe\nnull\n{\"a\":\x00}\n", AAPL.as_bytes()].concat();
    let output = bare().input(lines).output(&["explain", "--json"]).expect_code(0);
    let expected = ["skip empty", "skip empty", "AAPL", "encoding", "skip tombstone", "syntax", "AAPL"];
    assert_eq!(fates(&output.stdout), expected);
    assert_eq!(output.stderr, "");
    assert_eq!(bare().input("").output(&["explain", "--json"]).expect_code(0).stdout, "");
    assert_eq!(bare().output(&["explain"]).expect_code(0).stdout, "no messages");
}

#[test]
fn a_person_sees_a_table_for_each_message_and_a_summary() {
    let lines = format!("{AAPL}\n[]\n{{\"symbol\":\"A\"}}\n");
    let output = bare().input(lines).output(&["explain"]).expect_code(0);
    let (first, rest) = output.stdout.split_once("\n\n").expect("messages are apart");
    assert_eq!(
        first,
        "line 1: 1 row (quote)\n  \
           SYMBOL   PRICE  VOLUME             TIMESTAMP     FETCHED\n  \
           AAPL    187.20    1200  2024-01-02T15:04:05Z  1704207846"
    );
    let rest: Vec<&str> = rest.split("\n\n").collect();
    assert_eq!(rest[0], "line 2: skip empty");
    assert!(rest[1].starts_with("line 3: 1 dead letter (quote)\n  element 0: missing: $"), "{}", output.stdout);
    assert_eq!(rest[2], "3 messages: 1 row, 1 dead letter (missing 1), 1 skipped (empty 1)");
    assert_eq!(output.stderr, "");
}

#[test]
fn a_key_a_time_and_a_topic_can_be_given() {
    let value = bare().input(r#"{"price":5}"#);
    let arguments = ["explain", "--json", "--key", "TSLA", "--record-timestamp", "1700000000500"];
    let object = &objects(&value.output(&arguments).expect_code(0).stdout)[0];
    assert_eq!(object["prices"][0]["symbol"], "TSLA");
    assert_eq!(object["prices"][0]["timestamp"], "2023-11-14T22:13:20.5Z");
    // Without any time there is no row; without the option the time is now.
    let none = value.output(&["explain", "--json", "--key", "TSLA", "--record-timestamp", "-1"]).expect_code(0);
    assert_eq!(fates(&none.stdout), ["missing"]);
    let now = value.output(&["explain", "--json", "--key", "TSLA"]).expect_code(0);
    assert!(objects(&now.stdout)[0]["prices"][0]["timestamp"].as_str() > Some("2024"), "{}", now.stdout);
    let window = r#"{"symbol":"A","window_start":0,"window_end":60,"avg_price":1}"#;
    let metrics = bare().input(window).output(&["explain", "--json", "--topic", "stock_metrics"]).expect_code(0);
    assert_eq!(objects(&metrics.stdout)[0]["metrics"][0]["window_end"], "1970-01-01T00:01:00Z");
}

#[test]
fn each_message_is_explained_as_soon_as_it_is_there() {
    for arguments in [&["explain", "--json", "-"][..], &["explain"]] {
        let mut worker = bare().input_by_hand().start(arguments);
        for n in 1..=3 {
            worker.write(format!("{AAPL}\n"));
            let is_shown = |line: &&String| line.contains("187.20");
            eventually("the message is explained", LIMIT, || worker.printed().iter().filter(is_shown).count() == n);
        }
        // The last one has no newline.
        worker.write(AAPL);
        worker.end_input();
        let output = worker.output(LIMIT).expect_code(0);
        assert_eq!(output.stdout.matches("187.20").count(), 4);
    }
}

#[test]
fn a_line_that_is_too_long_is_not_held_in_memory() {
    const MIB: usize = 1 << 20;
    let invocation = bare().set("kafka.max_message_bytes", "64KiB").input_by_hand();
    let mut worker = invocation.start(&["explain", "--json"]);
    worker.write(format!("{AAPL}\n"));
    eventually("it reads", LIMIT, || worker.printed().len() == 1);
    for _ in 0..48 {
        worker.write(vec![b'x'; MIB]);
    }
    worker.write(format!("\n{AAPL}\n"));
    eventually("the next message is explained", LIMIT, || worker.printed().len() == 3);
    let peak = worker.status("VmHWM:") as usize;
    worker.end_input();
    let output = worker.output(LIMIT).expect_code(0);
    assert_eq!(fates(&output.stdout), ["AAPL", "too-large", "AAPL"]);
    assert!(output.stdout.contains(&format!("{} bytes", 48 * MIB)), "{}", output.stdout);
    assert!(peak < 40 * MIB, "{} MiB", peak / MIB);
}

#[test]
fn a_reader_that_has_gone_ends_it_quietly() {
    let lines = format!("{AAPL}\n").repeat(20_000);
    for arguments in [&["explain", "--json"][..], &["explain"]] {
        let head = ["bash", "-o", "pipefail", "-c", "\"$0\" \"$@\" | head -n 2"];
        let output = bare().input(&lines).under(&head).output(arguments).expect_code(0);
        assert_eq!((output.stdout.lines().count(), output.stderr.as_str()), (2, ""));
    }
}

#[test]
fn a_wrong_command_line_of_explain_is_64_and_an_unknown_topic_78() {
    for arguments in [
        &["explain", "-", "--from-kafka", "3"][..],
        &["explain", "--kcat-json", "--key", "K"],
        &["explain", "--kcat-json", "--from-kafka", "3"],
        &["explain", "--record-timestamp", "1", "--from-kafka", "3"],
        &["explain", "--record-timestamp", "yesterday"],
        &["explain", "--record-timestamp", "-2"],
        &["explain", "--from-kafka", "0"],
        &["explain", "--from-kafka", "1000001"],
        &["explain", "a", "b"],
    ] {
        let output = bare().output(arguments).expect_code(64);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {}", output.said());
    }
    for (path, what) in [("/nonexistent/messages", "No such file"), ("/", "is a directory")] {
        let output = bare().output(&["explain", path]).expect_code(64);
        assert!(output.cause().starts_with(path) && output.cause().contains(what), "{}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1);
    }
    // A file that can be opened, but not read.
    let unreadable = bare().output(&["explain", "/proc/self/mem"]).expect_code(74);
    assert!(unreadable.cause().starts_with("/proc/self/mem: "), "{}", unreadable.stderr);
    // What is no text in a path does no harm.
    let steering = bare().output(&["explain", "/nonexistent/\x1b[31m\nred"]).expect_code(64);
    assert!(steering.cause().contains("\\u{1b}[31m\\nred"), "{:?}", steering.stderr);
    for invocation in [bare().input(AAPL), bare()] {
        let output = invocation.output(&["explain", "--topic", "no_such_topic"]).expect_code(78);
        assert!(output.cause().contains("\"no_such_topic\"") && output.cause().contains("stock_prices"));
    }
    let help = bare().output(&["explain", "--help"]).expect_code(0);
    for word in ["kcat -C -e -J", "--from-kafka", "--record-timestamp", "now", "empty line"] {
        assert!(help.stdout.contains(word), "{word} is not in the help:\n{}", help.stdout);
    }
}

#[test]
fn without_a_file_at_a_terminal_it_says_what_to_give() {
    let binary = env!("CARGO_BIN_EXE_stock-db-writer");
    let output = Command::new("script")
        .args(["-qec", &format!("{binary} explain"), "/dev/null"])
        .current_dir("/")
        .output()
        .expect("script is there, as on every Linux");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("FILE") && said.contains("--from-kafka"), "{said}");
}

#[test]
fn a_long_file_shows_a_bar_on_a_terminal_and_nothing_elsewhere() {
    let file = Scratch::new(format!("{AAPL}\n").repeat(60_000));
    let out = Scratch::new("");
    let binary = env!("CARGO_BIN_EXE_stock-db-writer");
    let on_terminal = |command: String| {
        let output = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir("/")
            .env("TERM", "xterm")
            .output()
            .expect("script is there, as on every Linux");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        said
    };
    // stderr is the terminal, stdout is not; and its reader lets it wait, so that the work takes long on any machine.
    let bar = on_terminal(format!("{binary} explain --json {} | {{ sleep 1; cat > {}; }}", file.path(), out.path()));
    assert!(bar.contains("messages") && bar.contains("%  ") && bar.contains("/s"), "{bar:?}");
    assert_eq!(std::fs::read_to_string(&out.0).expect("it can be read").lines().count(), 60_000);
    // Both are: the tables show how far it is.
    let table = on_terminal(format!("{binary} explain {}", file.path()));
    assert!(table.contains("60000 messages: 60000 rows") && !table.contains("messages, "), "{:?}", &table[..2000]);
    let silent = bare().output(&["explain", "--json", file.path()]).expect_code(0);
    assert_eq!(silent.stderr, "");
}

#[test]
fn what_kcat_prints_is_read_byte_for_byte() {
    let stage = Stage::with_configs("explain_kcat", 1, &[("retention.ms", "-1")]);
    let record =
        |value: &[u8]| Record::new(stage.topic.as_str(), value.to_vec()).partition(0).timestamp(1_700_000_000_000);
    let headers = record(AAPL.as_bytes()).key("k").header("a", "x\"y").header("a", "").null_header("n");
    let no_symbol = br#"{"price":5}"#;
    send(vec![
        record(AAPL.as_bytes()),
        record(no_symbol).key("TSLA"),
        record(no_symbol).key(""),
        record(no_symbol).key(vec![0xff, 0x01]),
        record(b"").key("k"),
        record(b"").without_value().key("k"),
        record(b"").without_value(),
        headers,
        record(b"{\"symbol\":\"A\xff\",\"price\":1}"),
        record("{\"symbol\":\"é\\u00e9\\\\ \\\"/\t\u{7f}\",\"price\":1}".as_bytes()),
        record("{\"symbol\":\"株\",\"price\":1}\r\n{\"symbol\":\"é\",\"price\":2}".as_bytes()),
        record(b"\x00\x01\x02"),
        record(&vec![b' '; 2000]),
    ]);
    let invocation = stage.invocation().set("kafka.max_message_bytes", 1999).set("kafka.brokers", NOWHERE);
    let printed = invocation.clone().input(kcat(&stage.topic));
    let output = printed.output(&["explain", "--json", "--kcat-json"]).expect_code(0);
    let expected = [
        "AAPL",
        "TSLA",
        "missing",
        "missing",
        "skip empty",
        "skip tombstone",
        "skip tombstone",
        "AAPL",
        "encoding",
        "syntax",
        "株",
        "syntax",
        "too-large",
    ];
    assert_eq!(fates(&output.stdout), expected);
    assert_eq!(objects(&output.stdout)[1]["prices"][0]["timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(objects(&output.stdout)[10]["prices"][1]["symbol"], "é");
    assert_eq!(output.stderr, "");
    // Straight from Kafka they are the same.
    let from_kafka = stage.invocation().set("kafka.max_message_bytes", 1999);
    let from_kafka = from_kafka.output(&["explain", "--json", "--from-kafka", "100"]).expect_code(0);
    assert_eq!(from_kafka.stdout, output.stdout);
    let table = printed.output(&["explain", "--kcat-json"]).expect_code(0);
    assert!(table.stdout.starts_with(&format!("{}/0@0: 1 row (quote)\n", stage.topic)), "{}", table.stdout);
    assert!(table.stdout.contains(&format!("\n{}/0@5: skip tombstone\n", stage.topic)), "{}", table.stdout);
    // Nothing of a stranger's topic is guessed, unless one is named.
    let stranger = invocation.clone().set("topics.0.name", "another").input(kcat(&stage.topic));
    let refused = stranger.output(&["explain", "--json", "--kcat-json"]).expect_code(78);
    assert!(
        refused.cause().starts_with(&format!("stdin:1: topic {:?} is in no [[topics]]", stage.topic)),
        "{}",
        refused.stderr
    );
    let named = stranger.output(&["explain", "--json", "--kcat-json", "--topic", "another"]).expect_code(0);
    assert_eq!(named.stdout, output.stdout);
}

#[test]
fn a_line_that_kcat_did_not_print_is_65_and_the_others_are_read() {
    let envelope = |payload: &Value| json!({"topic": "stock_prices", "ts": 0, "payload": payload}).to_string();
    let good = envelope(&json!(AAPL));
    let lines = [good.as_str(), AAPL, "", "% Reached end", &envelope(&json!({"SECRET": 1})), &good].join("\n");
    let file = Scratch::new(&lines);
    let output = bare().output(&["explain", "--json", "--kcat-json", file.path()]).expect_code(65);
    assert_eq!(output.stdout, format!("{AAPL_JSON}\n{AAPL_JSON}"));
    let said: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(said.len(), 4, "{}", output.stderr);
    for (line, (number, what)) in
        said.iter().zip([(2, "payload: is missing"), (4, "is not the JSON"), (5, "payload: ")])
    {
        assert!(line.starts_with(&format!("stock-db-writer: {}:{number}: {what}", file.path())), "{line}");
    }
    assert!(output.cause().contains('3') && !output.stderr.contains("SECRET"), "{}", output.stderr);
    // However many there are.
    let flood = bare().input("x\n".repeat(1000)).output(&["explain", "--kcat-json"]).expect_code(65);
    assert!(flood.stderr.lines().count() < 30 && flood.cause().contains("1000"), "{}", flood.stderr);
}

fn newest(invocation: &Invocation, n: usize) -> Vec<i64> {
    let output = invocation.output(&["explain", "--json", "--from-kafka", &n.to_string()]).expect_code(0);
    assert_eq!(output.stderr, "");
    prices(&output.stdout)
}

#[test]
fn the_newest_records_are_those_of_all_partitions_up_to_the_end() {
    let stage = Stage::with_configs("explain_newest", 4, &[("retention.ms", "-1")]);
    // The times of the records decide, not where they are. The third partition stays empty.
    let record = |id: i64, partition| {
        Record::new(stage.topic.as_str(), quote(id)).partition(partition).timestamp((FIRST_TIME + id) * 1000)
    };
    let deal = |id: i64| record(id, [0, 1, 3][(id % 3) as usize]);
    send((1..=300).map(deal).collect());
    // Neither does what holds only the database or the group.
    let invocation = stage.invocation().env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing");
    let invocation = invocation.set("retry.max_outage_s", 60);
    assert_eq!(newest(&invocation, 1), [300]);
    // Partition by partition, in the order of offsets.
    assert_eq!(newest(&invocation, 6), [297, 300, 295, 298, 296, 299]);
    let mut all = newest(&invocation, 1_000_000);
    all.sort_unstable();
    assert_eq!(all, (1..=300).collect::<Vec<_>>());
    let table = invocation.output(&["explain", "--from-kafka", "2"]).expect_code(0);
    assert!(table.stdout.starts_with(&format!("{}/0@99: 1 row (quote)", stage.topic)), "{}", table.stdout);
    assert!(table.stdout.ends_with("2 messages: 2 rows"), "{}", table.stdout);
    // What has been deleted is not waited for.
    broker::delete_records(&stage.topic, 0, 99);
    broker::delete_records(&stage.topic, 1, 100);
    assert_eq!(newest(&invocation, 4), [300, 293, 296, 299]);
    // Nobody joined a group, and nobody committed an offset.
    assert_eq!(broker::group_offsets(&stage.name, &stage.topic).len(), 0);
}

#[test]
fn the_newest_records_of_a_log_end_where_aborted_ones_follow() {
    let stage = Stage::new("explain_aborted", 2);
    let transactions = Transactions::new(&stage.name);
    transactions.commit(&stage.topic, 0, 1..=10);
    transactions.abort(&stage.topic, 0, 1000..=1999);
    transactions.abort(&stage.topic, 0, 2000..=2000);
    transactions.abort(&stage.topic, 1, 3000..=3099);
    assert_eq!(newest(&stage.invocation(), 3), [8, 9, 10]);
    assert_eq!(newest(&stage.invocation(), 500), (1..=10).collect::<Vec<_>>());
    // One that is open hides itself and what comes after it.
    transactions.begin(&stage.topic, 1, 4000..=4009);
    assert_eq!(newest(&stage.invocation(), 500), (1..=10).collect::<Vec<_>>());
    let uncommitted = stage.invocation().set("kafka.isolation", "read_uncommitted");
    assert_eq!(newest(&uncommitted, 3), [4007, 4008, 4009]);
    transactions.end(true);
    assert_eq!(newest(&stage.invocation(), 3), [4007, 4008, 4009]);
}

#[test]
fn the_newest_records_are_read_beside_a_running_group() {
    let stage = Stage::new("explain_group", 2);
    stage.produce(100);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    let committed = broker::group_offsets(&stage.name, &stage.topic);
    assert_eq!(committed.values().sum::<i64>(), 100);
    // It is read whatever the configuration says about who owns what.
    for assignment in ["group", "all", "1"] {
        let invocation = stage.invocation().set("kafka.assignment", assignment);
        assert_eq!(newest(&invocation, 1000).len(), 100);
    }
    let member = stage.invocation().set("kafka.instance_id", "one").start(&["run"]);
    stage.produce(100);
    stage.wait_until_drained(LIMIT);
    assert_eq!(newest(&stage.invocation().set("kafka.instance_id", "one"), 1000).len(), 200);
    member.stop();
    let ends = broker::end_offsets(&stage.topic);
    assert_eq!(ends.values().sum::<i64>(), 200, "nothing was written");
    stage.assert_exactly_once();
}

#[test]
fn an_empty_topic_has_no_messages_and_a_missing_one_is_78() {
    let stage = Stage::new("explain_empty", 3);
    assert_eq!(stage.invocation().output(&["explain", "--from-kafka", "5"]).expect_code(0).stdout, "no messages");
    assert!(newest(&stage.invocation(), 5).is_empty());
    let missing = format!("{}_missing", stage.name);
    let invocation = stage.invocation().set("topics.1.name", &missing);
    let output = invocation.output(&["explain", "--from-kafka", "5", "--topic", &missing]).expect_code(78);
    assert!(output.cause().contains(&missing), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}

#[test]
fn without_kafka_only_the_newest_records_are_not_explained() {
    let away = bare().set("retry.max_outage_s", 1);
    let output = away.output(&["explain", "--from-kafka", "5"]).expect_code(69);
    assert!(output.cause().contains(NOWHERE), "{}", output.stderr);
    assert_eq!(output.stdout, "");
    assert_eq!(away.input(AAPL).output(&["explain", "--json"]).expect_code(0).stdout, AAPL_JSON);
}
