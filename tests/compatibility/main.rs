//! One Kafka and one PostgreSQL, of whatever version: each way to read either works, as a ledger shows, or is refused by a
//! line that says why. `dev/matrix` runs it on one pair of servers after the other, and makes docs/compatibility.md of it.

#[path = "../e2e"]
#[allow(dead_code, unused_imports, reason = "the end-to-end tests use the rest of it")]
mod shared {
    pub mod harness;
}
use shared::harness;

use harness::audited::Audited;
use harness::producer::{self, CODECS, Kcat, Transactions};
use harness::worker::signal;
use harness::{Invocation, LIMIT, Stage, broker, eventually, servers};
use std::thread;
use std::time::Duration;

/// A way to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `assignment = "all"`.
    All,
    /// A group of the protocol that all brokers have.
    Classic,
    /// A group of KIP-848.
    Consumer,
    /// `client = "kafka"`.
    Old,
}

impl Mode {
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Mode::All => &[("kafka.assignment", "all")],
            Mode::Classic => &[("kafka.group_protocol", "classic")],
            Mode::Consumer => &[("kafka.group_protocol", "consumer")],
            Mode::Old => {
                &[("kafka.client", "kafka"), ("kafka.assignment", "all"), ("kafka.isolation", "read_uncommitted")]
            }
        }
    }

    fn invocation(self, stage: &Stage) -> Invocation {
        self.settings().iter().fold(stage.invocation(), |invocation, (key, value)| invocation.set(key, value))
    }

    /// What these brokers lack for it, as the last line says it.
    fn lacks(self) -> Option<&'static str> {
        let major = servers().kafka_major_of("");
        match self {
            Mode::All | Mode::Classic => None,
            Mode::Consumer => (major < 4).then_some("set \"auto\" or \"classic\""),
            Mode::Old => (major >= 4).then_some("set client = \"krafka\""),
        }
    }

    fn codecs(self) -> &'static [&'static str] {
        if self == Mode::Old { &CODECS[..3] } else { &CODECS }
    }

    fn is_group(self) -> bool {
        matches!(self, Mode::Classic | Mode::Consumer)
    }
}

/// Whether there is nothing more to be seen of this mode: then it has been refused.
fn is_refused(mode: Mode, test: &str) -> bool {
    let Some(why) = mode.lacks() else {
        println!("cell: {mode:?} supported");
        return false;
    };
    let stage = Stage::new(&format!("refused_{test}"), 1);
    stage.produce(10);
    let output = mode.invocation(&stage).output(&["run"]).expect_code(78);
    assert!(output.cause().contains(why), "{why} is not in: {}", output.cause());
    assert_eq!(stage.progress(), 0);
    println!("cell: {mode:?} refused");
    true
}

/// kill -9, outages of both servers and, in a group, a second worker that comes and goes.
fn every_record_meets_its_fate(mode: Mode) {
    if is_refused(mode, "fates") {
        return;
    }
    let audited = Audited::open(Stage::alone("matrix_fates", 3), mode.settings(), 300);
    let first = audited.start();
    first.kill9();
    let mut worker = audited.start();
    if mode.is_group() {
        let mut second = audited.invocation.start(&["run"]);
        second.wait_for_log("claimed partition=", LIMIT);
        audited.await_progress();
        second.stop();
        audited.await_progress();
    }
    servers().service(&["restart", "postgres", "--mode", "immediate"]);
    audited.await_progress();
    if servers().kafka_major_of("") < 3 {
        // With ZooKeeper, a broker denies for a while after its start that it has any topic, and librdkafka takes its word
        // for it. So it is frozen, until ZooKeeper has given it up.
        let pid = std::fs::read_to_string(&servers().kafka_pid_file).expect("the broker has a pid file");
        let pid = pid.trim().parse().expect("it holds a number");
        signal(pid, "STOP");
        thread::sleep(Duration::from_secs(5));
        signal(pid, "CONT");
    } else {
        servers().service(&["kill", "kafka"]);
        servers().service(&["start", "kafka"]);
    }
    audited.await_progress();
    let compared = audited.finish();
    assert!(worker.alive(), "the worker has ended");
    worker.stop();
    println!(
        "cell: {mode:?} records {}",
        audited.ledger.pages().iter().map(|page| page.n_acknowledged().0).sum::<i64>()
    );
    println!("{compared:?}");
}

/// librdkafka's and Java's own framing of each codec, and committed, aborted and open transactions.
fn what_is_in_the_log_is_read(mode: Mode) {
    if is_refused(mode, "log") {
        return;
    }
    let stage = Stage::new("matrix_log", 2);
    for codec in mode.codecs() {
        for partition in 0..2 {
            let mut kcat = Kcat::start(&stage.topic, Some(partition), codec);
            stage.take(400).for_each(|id| kcat.quote(id));
            kcat.finish();
        }
        producer::produce_by_java(&stage.topic, codec, stage.take(400));
    }
    let invocation = mode.invocation(&stage);
    if mode != Mode::Old {
        let transactions = Transactions::new(&stage.name);
        transactions.commit(&stage.topic, 0, stage.take(50));
        transactions.abort(&stage.topic, 0, stage.take_in_vain(50));
        let open = stage.take_in_vain(50);
        transactions.begin(&stage.topic, 0, open);
        // Before the open one; then it never happened.
        invocation.output(&["run", "--until-end"]).expect_code(0);
        assert_eq!(stage.rows(), stage.sent().count());
        transactions.end(false);
    }
    invocation.output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
    invocation.output(&["check"]).expect_code(0);
    invocation.output(&["status"]).expect_code(0);
}

/// Longer than the old one: its offsets are all valid there.
fn a_topic_created_again_is_noticed(mode: Mode) {
    if is_refused(mode, "anew") {
        return;
    }
    let stage = Stage::new("matrix_anew", 2);
    let invocation = mode.invocation(&stage);
    let worker = invocation.start(&["run"]);
    stage.produce(1_000);
    stage.wait_until_drained(LIMIT);
    broker::delete_topic(&stage.topic);
    eventually("the topic is gone", LIMIT, || broker::try_create_topic(&stage.topic, 2).is_ok());
    producer::produce(&stage.topic, 2, stage.take_in_vain(2_000));
    let output = worker.output(LIMIT).expect_code(65);
    assert!(output.cause().contains(&stage.topic), "{}", output.cause());
    assert_eq!(stage.rows(), 1_000);
}

/// Letters, redrive, reset: what happens in the database.
fn the_commands_do_their_work(mode: Mode) {
    if is_refused(mode, "commands") {
        return;
    }
    let stage = Stage::new("matrix_commands", 1);
    let invocation = mode.invocation(&stage);
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    stage.take(100).for_each(|id| kcat.quote(id));
    kcat.line("K1", b"{\"symbol\":");
    kcat.finish();
    invocation.output(&["init"]).expect_code(0);
    stage.execute("ALTER TABLE stock_prices ADD CONSTRAINT odd CHECK (price <> 7)");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    let standing = stage.standings(&stage.topic)[&0].clone();
    assert_eq!((stage.rows(), standing.dead_letters_total, standing.next_offset), (99, 2, 101));
    stage.execute("ALTER TABLE stock_prices DROP CONSTRAINT odd");
    invocation.output(&["dead-letters", "redrive", "--class", "database"]).expect_code(0);
    assert_eq!(stage.rows(), 100);
    let reset = ["reset", "--topic", &stage.topic, "--partition", "0", "--to", "90", "--yes"];
    invocation.output(&reset).expect_code(0);
    stage.execute("DELETE FROM stock_prices WHERE price > 90");
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert_eq!(stage.findings(), Default::default());
}

macro_rules! modes {
    ($($module:ident = $mode:ident: $($test:ident),+;)*) => {
        $(mod $module {
            use super::Mode;

            $(#[test]
            fn $test() {
                super::$test(Mode::$mode);
            })+
        })*
    };
}

modes! {
    without_a_group = All: every_record_meets_its_fate, what_is_in_the_log_is_read, a_topic_created_again_is_noticed,
        the_commands_do_their_work;
    classic_group = Classic: every_record_meets_its_fate, what_is_in_the_log_is_read, a_topic_created_again_is_noticed,
        the_commands_do_their_work;
    consumer_group = Consumer: every_record_meets_its_fate, what_is_in_the_log_is_read, a_topic_created_again_is_noticed,
        the_commands_do_their_work;
    // Its protocol is older than the ids of topics: one that was created again can't be told from the one before.
    client_kafka = Old: every_record_meets_its_fate, what_is_in_the_log_is_read, the_commands_do_their_work;
}
