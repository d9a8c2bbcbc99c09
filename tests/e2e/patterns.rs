//! Topics by pattern: what matches is read, whenever it appears; what is gone holds up nobody.

use crate::harness::producer::{self, Feeder};
use crate::harness::{Invocation, LIMIT, Stage, Worker, broker, eventually, size};

/// The stage's own topic does not match; these do.
fn matching(stage: &Stage, word: &str) -> String {
    format!("{}_{word}_1m_data", stage.name)
}

fn add(stage: &Stage, word: &str, n_partitions: i32) -> String {
    let topic = matching(stage, word);
    stage.add_topic(&topic, n_partitions, &[]);
    topic
}

fn by_pattern(stage: &Stage) -> Invocation {
    let pattern = format!("^{}_[a-z]+_1m_data$", stage.name);
    stage.invocation().set("topics.0.name", "").set("topics.0.pattern", pattern).set("batch.linger_ms", 20)
}

fn sees_its_partitions(stage: &Stage, topic: &str, n_partitions: usize) {
    eventually(&format!("{topic} has its rows"), LIMIT, || stage.standings(topic).len() == n_partitions);
}

#[test]
fn what_matches_is_read_and_nothing_else() {
    let stage = Stage::new("matching", 2);
    let (one, two) = (add(&stage, "one", 2), add(&stage, "two", 3));
    producer::produce(&one, 2, stage.take(1_000));
    producer::produce(&two, 3, stage.take(1_000));
    producer::produce(&stage.topic, 2, stage.take_in_vain(1_000));
    let invocation = by_pattern(&stage);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once_from(&[&one, &two]);
    assert!(stage.standings(&stage.topic).is_empty());

    let check = invocation.output(&["check"]).expect_code(0);
    assert!(check.stdout.contains(&format!("stands for 2 topics: {one}, {two}\n")), "{}", check.stdout);
    let status = invocation.output(&["status"]).expect_code(0);
    assert!(status.stdout.contains(&one) && status.stdout.contains(&two), "{}", status.stdout);
    // The offsets of what is matched are compared as those of what is named.
    stage.execute("UPDATE writer_offsets SET next_offset = 777123 WHERE topic LIKE '%two%' AND partition = 1");
    let check = invocation.output(&["check"]).expect_code(65);
    assert!(check.stdout.contains("777123"), "{}", check.stdout);
}

#[test]
fn a_name_outweighs_a_pattern_and_the_first_pattern_the_others() {
    let stage = Stage::new("tables", 1);
    for word in ["named", "first", "second"] {
        producer::produce(&add(&stage, word, 1), 1, stage.take(100));
    }
    let symbols =
        [(format!("{}_f[a-z]+_1m_data", stage.name), "FIRST"), (format!("^{}_[a-z]+_1m_data$", stage.name), "SECOND")];
    let mut invocation = stage.invocation().set("topics.0.name", "");
    for (idx, (pattern, symbol)) in symbols.iter().enumerate() {
        let key = |name: &str| format!("topics.{idx}.{name}");
        invocation = invocation.set(&key("pattern"), pattern).set(&key("symbol"), symbol);
    }
    let invocation = invocation.set("topics.2.name", matching(&stage, "named")).set("topics.2.symbol", "NAMED");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    for (symbol, word) in [("NAMED", "named"), ("FIRST", "first"), ("SECOND", "second")] {
        let rows = format!("SELECT count(*) FROM stock_prices WHERE symbol = '{symbol}'");
        assert_eq!((stage.number(&rows), stage.rows()), (100, 300), "{word}");
        stage.assert_counters(&matching(&stage, word));
    }
}

#[test]
fn a_run_waits_while_nothing_matches() {
    let stage = Stage::new("unmatched", 1);
    let invocation = by_pattern(&stage);
    let ended = invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(ended.stderr.matches("no topic matches").count(), 1, "{}", ended.stderr);
    let check = invocation.output(&["check"]).expect_code(0);
    assert!(check.stdout.contains("stands for no topic yet\nok: "), "{}", check.stdout);

    let mut workers: Vec<Worker> = ["classic", "consumer"]
        .map(|protocol| {
            invocation
                .clone()
                .set("kafka.group_protocol", protocol)
                .set("kafka.group", protocol.to_owned() + &stage.name)
        })
        .iter()
        .zip([1, 2])
        .map(|(invocation, number)| {
            invocation.clone().set("pipeline", format!("{}_{number}", stage.name)).start(&["run"])
        })
        .collect();
    for worker in &mut workers {
        worker.wait_for_log("no topic matches", LIMIT);
    }
    let topic = add(&stage, "late", 2);
    producer::produce(&topic, 2, stage.take(1_000));
    // Two pipelines of one stage: each writes every record.
    eventually("both read it", LIMIT, || stage.rows() == 2_000);
    for mut worker in workers {
        assert!(worker.alive());
        assert_eq!(worker.count("no topic matches"), 1);
        worker.stop();
    }
    assert!(stage.findings().lost.is_empty());
}

/// A topic that appears is noticed by all, and what was in it by then is not lost, though everything else started at the
/// end.
fn later_topics_are_read(name: &str, settings: &[(&str, &str)], n_workers: usize, n_topics: u64) {
    let stage = Stage::new(name, 1);
    let busy = add(&stage, "busy", 3);
    let invocation = by_pattern(&stage).set("kafka.start_at", "latest");
    let invocation = settings.iter().fold(invocation, |invocation, (key, value)| invocation.set(key, value));
    let mut workers: Vec<Worker> = (0..n_workers).map(|_| invocation.start(&["run"])).collect();
    // The start at the end is decided by now.
    sees_its_partitions(&stage, &busy, 3);
    let feeder = Feeder::start(&stage, &busy, 2_000);
    for worker in &mut workers {
        worker.wait_for_log("claimed partition=", LIMIT);
    }
    stage.wait_for_progress();
    let mut topics = vec![busy];
    for letter in ('a'..='z').take(size(n_topics, 10) as usize) {
        let later = add(&stage, &format!("later{letter}"), 2);
        producer::produce(&later, 2, stage.take(3_000));
        let begun = std::time::Instant::now();
        stage.wait_until_drained_of(&later, LIMIT);
        println!("{name}: read {:.1} s after it was filled", begun.elapsed().as_secs_f64());
        topics.push(later);
    }
    stage.wait_for_progress();
    feeder.stop();
    stage.wait_until_drained_of(&topics[0], LIMIT);
    for mut worker in workers {
        assert!(worker.alive());
        for topic in &topics[1..] {
            worker.wait_for_log(&format!("topic matches a pattern topic={topic}"), LIMIT);
            assert_eq!(worker.count(&format!(" topic={topic}:")), 1, "said once");
        }
        worker.stop();
    }
    stage.assert_exactly_once_from(&topics.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_topic_that_appears_is_read_without_a_group() {
    later_topics_are_read("later_all", &[("kafka.assignment", "all")], 1, 1);
}

#[test]
fn a_topic_that_appears_is_read_in_a_classic_group() {
    later_topics_are_read("later_classic", &[("kafka.group_protocol", "classic")], 2, 2);
}

#[test]
fn a_topic_that_appears_is_read_in_a_consumer_group() {
    later_topics_are_read("later_consumer", &[("kafka.group_protocol", "consumer")], 2, 2);
}

#[test]
fn a_topic_that_appears_is_read_by_a_static_member() {
    later_topics_are_read("later_static", &[("kafka.instance_id", "writer-1")], 1, 1);
}

#[test]
fn a_topic_that_appeared_while_nobody_ran_is_read_from_its_beginning() {
    let stage = Stage::new("meanwhile", 1);
    let early = add(&stage, "early", 1);
    let invocation = by_pattern(&stage).set("kafka.start_at", "latest");
    producer::produce(&early, 1, stage.take_in_vain(100));
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.rows(), 0, "it starts at the end");
    let late = add(&stage, "late", 2);
    producer::produce(&late, 2, stage.take(1_000));
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once_from(&[&late]);
}

fn a_deleted_topic_is_let_go(name: &str, settings: &[(&str, &str)]) {
    let stage = Stage::new(name, 1);
    let (busy, doomed) = (add(&stage, "busy", 2), add(&stage, "doomed", 2));
    let invocation = settings.iter().fold(by_pattern(&stage), |invocation, (key, value)| invocation.set(key, value));
    producer::produce(&doomed, 2, stage.take(1_000));
    let feeder = Feeder::start(&stage, &busy, 2_000);
    // With no grace for a topic that is named, one that was matched still ends nothing.
    let invocation = invocation.set("schema.grace_ms", 0);
    let mut worker = invocation.start(&["run"]);
    stage.wait_until_drained_of(&doomed, LIMIT);
    let ends = broker::end_offsets(&doomed);
    stage.delete_topic(&doomed);
    worker.wait_for_log(&format!("topic is gone topic={doomed}"), LIMIT);
    stage.wait_for_progress();
    assert!(worker.alive());
    assert_eq!(worker.count(&format!(" topic={doomed}:")), 1, "said once");
    let standings = stage.standings(&doomed);
    assert!(ends.iter().all(|(partition, end)| standings[partition].next_offset == *end), "{standings:?} {ends:?}");
    // The same name, another topic: the offsets in the database are not those of its log.
    stage.add_topic(&doomed, 2, &[]);
    let output = worker.output(LIMIT).expect_code(65);
    assert!(output.cause().contains(&doomed), "{}", output.cause());
    feeder.stop();
    stage.execute(&format!("DELETE FROM writer_offsets WHERE topic = '{doomed}'"));
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.findings(), Default::default());
    stage.assert_counters(&busy);
}

#[test]
fn a_deleted_topic_holds_up_nobody_without_a_group() {
    a_deleted_topic_is_let_go("gone_all", &[("kafka.assignment", "all")]);
}

#[test]
fn a_deleted_topic_holds_up_nobody_in_a_classic_group() {
    a_deleted_topic_is_let_go("gone_classic", &[("kafka.group_protocol", "classic")]);
}

#[test]
fn a_deleted_topic_holds_up_nobody_in_a_consumer_group() {
    a_deleted_topic_is_let_go("gone_consumer", &[("kafka.group_protocol", "consumer")]);
}

#[test]
fn a_bounded_run_does_not_wait_for_the_end_of_a_deleted_topic() {
    let stage = Stage::new("gone_bounded", 1);
    let (kept, doomed) = (add(&stage, "kept", 2), add(&stage, "doomed", 2));
    let invocation = by_pattern(&stage).set("kafka.assignment", "all");
    producer::produce(&doomed, 2, stage.take(100));
    invocation.output(&["run", "--until-end"]).expect_code(0);
    producer::produce(&kept, 2, stage.take(1_000));
    producer::produce(&doomed, 2, stage.take_in_vain(1_000));
    // Nothing can be claimed before the topic is deleted.
    let mut client = stage.database();
    client.batch_execute("BEGIN; SELECT FROM writer_offsets FOR UPDATE").expect("the rows can be locked");
    let mut worker = invocation.start(&["run", "--until-end"]);
    worker.wait_for_log("matched by pattern", LIMIT);
    stage.delete_topic(&doomed);
    worker.wait_for_log(&format!("topic is gone topic={doomed}"), LIMIT);
    client.batch_execute("COMMIT").expect("the rows can be given back");
    worker.output(LIMIT).expect_code(0);
    assert_eq!(stage.findings(), Default::default());
    stage.assert_counters(&kept);
}

#[test]
fn of_a_matched_topic_the_listed_partitions_are_read_that_it_has() {
    let stage = Stage::new("listed", 1);
    let (small, large) = (add(&stage, "small", 1), add(&stage, "large", 3));
    producer::produce(&small, 1, stage.take(300));
    // Every third number goes to partition 1, which is not listed.
    let ids = stage.take(300);
    producer::produce(&large, 3, ids.clone());
    ids.filter(|id| id % 3 == 1).for_each(|id| stage.forget(id..=id));
    let invocation = by_pattern(&stage).set("kafka.assignment", "0,2");
    let output = invocation.output(&["run", "--until-end"]).expect_code(0);
    assert!(
        output.stderr.contains(&format!("topic lacks partitions of kafka.assignment topic={small} partitions=[2]")),
        "{}",
        output.stderr
    );
    assert_eq!(stage.findings(), Default::default());
}

/// A static member that comes back within its session is given what it had, whatever it asks for by then.
#[test]
fn a_topic_that_appeared_while_a_static_member_was_away_is_read() {
    let stage = Stage::new("away_static", 1);
    let early = add(&stage, "early", 2);
    let invocation = by_pattern(&stage).set("kafka.instance_id", "writer-1");
    producer::produce(&early, 2, stage.take(1_000));
    let worker = invocation.start(&["run"]);
    stage.wait_until_drained_of(&early, LIMIT);
    worker.stop();
    let late = add(&stage, "late", 2);
    producer::produce(&late, 2, stage.take(1_000));
    let mut worker = invocation.start(&["run"]);
    stage.wait_until_drained_of(&late, LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once_from(&[&early, &late]);
}
