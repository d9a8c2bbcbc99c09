//! What Kafka refuses: the right exit code, one line that says what to do, and nothing that looks like an empty topic.

use crate::harness::worker::Output;
use crate::harness::{Invocation, LIMIT, Stage, broker};

/// One line on stderr says it.
fn assert_cause(output: &Output, words: &[&str]) {
    println!("{}", output.cause());
    for word in words {
        assert!(output.cause().contains(word), "{word} is not in: {}", output.cause());
    }
}

fn a_topic_that_may_not_be_read_is_77(stage: &Stage, invocation: &Invocation) {
    stage.produce(100);
    broker::deny_topic(&stage.topic, "Read");
    for arguments in [&["run"][..], &["run", "--until-end"]] {
        let output = invocation.output(arguments).expect_code(77);
        assert_cause(&output, &[&stage.topic]);
    }
    assert_eq!(stage.rows(), 0);
    broker::allow_topic(&stage.topic);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_topic_that_may_be_described_but_not_read_is_no_empty_topic() {
    let stage = Stage::new("no_read", 2);
    a_topic_that_may_not_be_read_is_77(&stage, &stage.invocation());
    broker::deny_topic(&stage.topic, "Read");
    let check = stage.invocation().output(&["check"]).expect_code(77);
    assert!(check.said().contains("READ"), "{}", check.said());
}

#[test]
fn a_topic_that_may_be_described_but_not_read_is_no_empty_topic_for_the_old_client() {
    let stage = Stage::old("no_read", 2);
    a_topic_that_may_not_be_read_is_77(&stage, &stage.invocation_of_old());
}

#[test]
fn the_right_to_read_taken_away_from_a_running_worker_ends_it() {
    let stage = Stage::new("read_revoked", 2);
    let worker = stage.invocation().start(&["run"]);
    stage.produce(100);
    stage.wait_until_drained(LIMIT);
    broker::deny_topic(&stage.topic, "Read");
    let output = worker.output(LIMIT).expect_code(77);
    assert_cause(&output, &[&stage.topic, "READ"]);
    broker::allow_topic(&stage.topic);
    stage.produce(100);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_topic_that_may_not_be_described_is_77() {
    let stage = Stage::new("no_describe", 2);
    stage.produce(100);
    broker::deny_topic(&stage.topic, "Describe");
    for arguments in [&["run"][..], &["run", "--until-end"], &["check"]] {
        let output = stage.invocation().output(arguments).expect_code(77);
        assert!(output.said().contains(&stage.topic), "{arguments:?}: {}", output.said());
    }
    broker::allow_topic(&stage.topic);
    stage.invocation().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

fn a_group_that_may_not_be_joined_is_77(protocol: &str) {
    let stage = Stage::new(&format!("no_group_{protocol}"), 2);
    stage.produce(100);
    broker::deny_group(&stage.name);
    let invocation = stage.invocation().set("kafka.group_protocol", protocol);
    for arguments in [&["run"][..], &["run", "--until-end"]] {
        let output = invocation.output(arguments).expect_code(77);
        assert_cause(&output, &["GroupAuthorizationFailed"]);
    }
    assert_eq!(stage.rows(), 0);
    // Whoever needs no group only can't tell it where he is.
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_classic_group_that_may_not_be_joined_is_77() {
    a_group_that_may_not_be_joined_is_77("classic");
}

#[test]
fn a_group_of_the_new_protocol_that_may_not_be_joined_is_77() {
    a_group_that_may_not_be_joined_is_77("consumer");
}

#[test]
fn a_session_timeout_that_the_brokers_do_not_take_is_78() {
    let stage = Stage::new("session_too_long", 1);
    stage.produce(10);
    // Longer than the group.max.session.timeout.ms of the test's broker.
    let invocation = stage.invocation().set("kafka.group_protocol", "classic").set("kafka.session_timeout_ms", 900_000);
    for arguments in [&["run"][..], &["run", "--until-end"]] {
        assert_cause(&invocation.output(arguments).expect_code(78), &["InvalidSessionTimeout"]);
    }
}

#[test]
fn of_two_processes_with_one_instance_id_the_older_ends_with_75() {
    let stage = Stage::new("instance_twice", 2);
    let invocation = stage.invocation().set("kafka.group_protocol", "classic").set("kafka.instance_id", "one");
    stage.produce(100);
    let older = invocation.start(&["run"]);
    stage.wait_until_drained(LIMIT);
    let mut newer = invocation.start(&["run"]);
    let output = older.output(LIMIT).expect_code(75);
    assert_cause(&output, &["kafka.instance_id"]);
    stage.produce(100);
    stage.wait_until_drained(LIMIT);
    assert!(newer.alive());
    stage.assert_exactly_once();
}
