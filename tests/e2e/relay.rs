//! Dead letters relayed to a topic: each at least once, whatever is killed or missing, and in nobody's way.

use crate::harness::producer::{self, Kcat};
use crate::harness::{Invocation, LIMIT, Stage, broker, eventually, random, size};
use krafka::Record;
use krafka::consumer::AutoOffsetReset;
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

/// A record of the relay's topic.
#[derive(Debug)]
struct Relayed {
    key: String,
    value: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
}

/// All records of a topic of one partition.
fn read(topic: &str) -> Vec<Relayed> {
    let end = broker::end_offsets(topic)[&0];
    broker::wait_for(async {
        let kafka = broker::connect(topic).await;
        let consumer = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest);
        let consumer = consumer.max_partition_fetch_bytes(8 << 20).build().await.expect("a consumer can be made");
        consumer.assign(topic, vec![0]).await.expect("the partition is there");
        consumer.seek(topic, 0, 0).await.expect("it begins at 0");
        let mut relayed = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
        while (relayed.len() as i64) < end {
            for record in consumer.poll(Duration::from_millis(200)).await.expect("the broker answers") {
                let headers = record.headers.iter();
                relayed.push(Relayed {
                    key: text(record.key.as_deref().expect("each has a key")),
                    value: record.value.as_deref().map(<[u8]>::to_vec),
                    headers: headers
                        .map(|(name, value)| (name.clone(), text(value.as_deref().expect("no header is null"))))
                        .collect(),
                });
            }
        }
        relayed
    })
}

/// A stage whose tables are there from the beginning.
fn with_tables(test: &str, n_partitions: i32) -> Stage {
    let stage = Stage::new(test, n_partitions);
    stage.invocation().output(&["init"]).expect_code(0);
    stage
}

fn relay_topic(stage: &Stage) -> String {
    format!("{}_letters", stage.name)
}

fn invocation(stage: &Stage) -> Invocation {
    stage.invocation().set("dead_letters.topic", relay_topic(stage)).set("dead_letters.ratio_max", 1)
}

fn letters(stage: &Stage) -> i64 {
    stage.number("SELECT count(*) FROM writer_dead_letters")
}

fn waiting(stage: &Stage) -> i64 {
    stage.number("SELECT count(*) FROM writer_dead_letters WHERE relayed_at IS NULL")
}

fn wait_until_relayed(stage: &Stage, count: i64) {
    eventually("all letters are relayed", LIMIT, || letters(stage) == count && waiting(stage) == 0);
}

/// Each letter is in the topic at least once, and nothing else is. Answers how often altogether.
#[track_caller]
fn assert_relayed(stage: &Stage) -> usize {
    let relayed = read(&relay_topic(stage));
    let mut keys: Vec<&str> = relayed.iter().map(|record| record.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    let sql = "SELECT concat_ws('/', topic, partition, record_offset, element) FROM writer_dead_letters";
    let rows = stage.database().query(sql, &[]).expect("PostgreSQL answers");
    let mut places: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    places.sort_unstable();
    assert_eq!(keys, places);
    relayed.len()
}

fn bad(stage: &Stage, count: i64) {
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    for n in 0..count {
        kcat.line("KEY", format!("no json {n}").as_bytes());
    }
    kcat.finish();
}

#[test]
fn a_letter_is_relayed_with_its_value_and_says_where_it_is_from_and_why() {
    let stage = with_tables("relay", 1);
    stage.add_topic(&relay_topic(&stage), 1, &[("max.message.bytes", "5000")]);
    stage.execute("ALTER TABLE stock_prices ADD CHECK (symbol <> 'NEVER')");
    let array = r#"[{"symbol":"A","price":1},{"x":2},{"y":3}]"#;
    let never = r#"{"symbol":"NEVER","price":1}"#;
    // Longer than what is kept, and longer than what the topic takes.
    let (unkept, long) = (format!("no json {}", "x".repeat(20_000)), format!("no json {}", "y".repeat(8_000)));
    let values = [array, never, &unkept, &long, "no json"];
    producer::send(values.iter().map(|v| Record::new(stage.topic.as_str(), v.to_string()).partition(0)).collect());
    let invocation = invocation(&stage).set("dead_letters.payload_bytes_max", 10_000);
    let mut worker = invocation.start(&["run"]);
    wait_until_relayed(&stage, 6);
    let warning = worker.wait_for_log("without their values", LIMIT);
    assert!(warning.contains("max.message.bytes"), "{warning}");
    worker.stop();

    let relayed: BTreeMap<String, Relayed> =
        read(&relay_topic(&stage)).into_iter().map(|record| (record.key.clone(), record)).collect();
    assert_eq!(relayed.len(), 6);
    let at = |place: &str| &relayed[&format!("{}/0/{place}", stage.topic)];
    let value = |place: &str| at(place).value.as_deref().map(|value| std::str::from_utf8(value).expect("text"));
    assert_eq!((value("0/1"), value("0/2"), value("1/0")), (Some(array), Some(array), Some(never)));
    assert_eq!((value("2/0"), value("3/0"), value("4/0")), (None, None, Some("no json")));
    for (key, record) in &relayed {
        println!("{key}: {:?}", record.headers);
        assert_eq!((&record.headers["place"], &record.headers["pipeline"]), (key, &stage.name));
        assert_eq!(record.headers.len(), 5);
    }
    assert_eq!((&*at("1/0").headers["class"], &*at("1/0").headers["code"]), ("database", "23514"));
    assert_eq!((&*at("4/0").headers["class"], &*at("4/0").headers["code"]), ("syntax", ""));
    assert!(!at("4/0").headers["reason"].is_empty());
}

#[test]
fn a_run_to_the_end_relays_what_it_and_earlier_runs_have_refused() {
    let stage = with_tables("relay_bounded", 1);
    stage.add_topic(&relay_topic(&stage), 1, &[]);
    bad(&stage, 700);
    stage.invocation().set("dead_letters.ratio_max", 1).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((letters(&stage), waiting(&stage)), (700, 700));
    bad(&stage, 800);
    invocation(&stage).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!((letters(&stage), waiting(&stage)), (1_500, 0));
    assert_eq!(assert_relayed(&stage), 1_500);
    // Nothing is relayed again.
    invocation(&stage).output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(assert_relayed(&stage), 1_500);
}

#[test]
fn while_the_topic_is_missing_letters_wait_also_over_a_kill_9() {
    let stage = with_tables("relay_missing", 1);
    let (topic, invocation) = (relay_topic(&stage), invocation(&stage).set("retry.max_ms", 500));
    let check = invocation.output(&["check"]).expect_code(78);
    assert!(check.stdout.contains("dead_letters.topic") && check.stdout.contains(&topic), "{}", check.stdout);
    bad(&stage, 50);
    stage.produce(1_000);
    let mut worker = invocation.start(&["run"]);
    let line = worker.wait_for_log("dead_letters.topic unreachable", LIMIT);
    assert!(line.contains(&topic) && line.contains("does not exist"), "{line}");
    eventually("rows and letters are committed", LIMIT, || letters(&stage) == 50 && stage.rows() == 1_000);
    // Some attempts later it is still one line.
    bad(&stage, 50);
    eventually("further letters are committed", LIMIT, || letters(&stage) == 100);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(worker.count("dead_letters.topic"), 1, "{}", worker.log().join("\n"));
    assert_eq!(waiting(&stage), 100);
    // Committed, and not relayed.
    worker.kill9();

    let mut worker = invocation.start(&["run"]);
    worker.wait_for_log("dead_letters.topic unreachable", LIMIT);
    stage.add_topic(&topic, 1, &[]);
    wait_until_relayed(&stage, 100);
    worker.wait_for_log("dead_letters.topic reachable again", LIMIT);
    assert_eq!(worker.count("dead_letters.topic"), 2, "{}", worker.log().join("\n"));
    worker.stop();
    assert_relayed(&stage);
    let check = invocation.output(&["check"]).expect_code(0);
    assert!(check.stdout.contains("ok:"), "{}", check.stdout);
}

#[test]
fn a_topic_that_may_not_be_written_is_said_once_and_holds_up_nothing() {
    let stage = with_tables("relay_denied", 1);
    let topic = relay_topic(&stage);
    stage.add_topic(&topic, 1, &[]);
    broker::deny_topic(&topic, "Write");
    let mut worker = invocation(&stage).set("retry.max_ms", 500).start(&["run"]);
    bad(&stage, 50);
    worker.wait_for_log("dead_letters.topic unreachable", LIMIT);
    stage.produce(5_000);
    eventually("the rows are written", LIMIT, || stage.rows() == 5_000);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(worker.count("dead_letters.topic"), 1, "{}", worker.log().join("\n"));
    assert_eq!((letters(&stage), waiting(&stage)), (50, 50));
    broker::allow_topic(&topic);
    wait_until_relayed(&stage, 50);
    worker.wait_for_log("dead_letters.topic reachable again", LIMIT);
    worker.stop();
    assert_relayed(&stage);
}

#[test]
fn a_letter_that_has_arrived_but_is_not_marked_when_the_worker_is_killed_is_relayed_again() {
    let stage = with_tables("relay_kill_before_mark", 1);
    let topic = relay_topic(&stage);
    stage.add_topic(&topic, 1, &[]);
    stage.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'; \
         CREATE TRIGGER slow BEFORE UPDATE ON writer_dead_letters FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    bad(&stage, 20);
    let worker = invocation(&stage).start(&["run"]);
    eventually("the letters arrive", LIMIT, || broker::end_offsets(&topic)[&0] == 20);
    worker.kill9();
    assert_eq!((letters(&stage), waiting(&stage)), (20, 20));
    // What the server still does for the dead worker is ended, as it would end by itself after a while.
    stage.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'UPDATE%relayed_at%' \
           AND query LIKE '%' || current_schema() || '%' AND pid <> pg_backend_pid()",
    );
    stage.execute("DROP TRIGGER slow ON writer_dead_letters");
    let worker = invocation(&stage).start(&["run"]);
    wait_until_relayed(&stage, 20);
    worker.stop();
    assert_eq!(assert_relayed(&stage), 40);
}

#[test]
fn kill_9_at_any_moment_leaves_no_letter_out() {
    let count = size(20_000, 200_000) as i64;
    let stage = with_tables("relay_kills", 1);
    stage.add_topic(&relay_topic(&stage), 1, &[]);
    let mut random = random(&stage.name);
    bad(&stage, count);
    let mut n_while_relaying = 0;
    for _ in 0..6 {
        let relayed = || stage.number("SELECT count(*) FROM writer_dead_letters WHERE relayed_at IS NOT NULL");
        let before = relayed();
        let worker = invocation(&stage).start(&["run"]);
        eventually("some more are relayed", LIMIT, || relayed() > before || before == count);
        thread::sleep(Duration::from_millis(random.u64(0..50)));
        worker.kill9();
        n_while_relaying += i32::from(waiting(&stage) > 0 || letters(&stage) < count);
    }
    let worker = invocation(&stage).start(&["run"]);
    wait_until_relayed(&stage, count);
    worker.stop();
    let n = assert_relayed(&stage);
    println!("{count} letters, {n} records, {n_while_relaying} of 6 kills while relaying");
    assert!(n_while_relaying >= 2, "all was relayed too soon to show anything");
}

#[test]
fn of_two_processes_one_relays_a_letter() {
    let stage = with_tables("relay_twice", 2);
    stage.add_topic(&relay_topic(&stage), 1, &[]);
    let workers = [invocation(&stage).start(&["run"]), invocation(&stage).start(&["run"])];
    for round in 1..=10 {
        bad(&stage, 100);
        wait_until_relayed(&stage, round * 100);
    }
    workers.into_iter().for_each(|worker| _ = worker.stop());
    assert_eq!(assert_relayed(&stage), 1_000);
}

#[test]
fn what_cannot_be_relayed_to_is_refused_by_name() {
    let stage = Stage::new("relay_refused", 1);
    let consumed = stage.invocation().set("dead_letters.topic", &stage.topic).output(&["run"]).expect_code(78);
    assert!(
        consumed.stderr.contains("dead_letters.topic: ") && consumed.stderr.contains("are read"),
        "{}",
        consumed.stderr
    );
    let old = stage.invocation_of_old().set("dead_letters.topic", "letters").output(&["run"]).expect_code(78);
    assert!(old.stderr.contains("dead_letters.topic: client = \"kafka\" sends no headers"), "{}", old.stderr);
}

#[test]
fn a_database_that_refuses_the_relay_is_not_a_topic_that_is_away() {
    let stage = with_tables("relay_refused", 1);
    stage.add_topic(&relay_topic(&stage), 1, &[]);
    let mut worker = invocation(&stage).start(&["run"]);
    bad(&stage, 1);
    wait_until_relayed(&stage, 1);
    stage.execute("ALTER TABLE writer_dead_letters RENAME relayed_at TO relayed");
    let line = worker.wait_for_log("relaying dead letters: the database answers, but can't be used", LIMIT);
    assert!(line.contains("relayed_at"), "{line}");
    stage.execute("ALTER TABLE writer_dead_letters RENAME relayed TO relayed_at");
    worker.wait_for_log("relaying dead letters: the database can be used again", LIMIT);
    assert_eq!(worker.count("dead_letters.topic unreachable"), 0, "{:#?}", worker.log());
    bad(&stage, 1);
    wait_until_relayed(&stage, 2);
    worker.stop();
}
