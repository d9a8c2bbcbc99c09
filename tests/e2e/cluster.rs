//! Three brokers: leaders move, brokers restart, die and fall silent, a log loses its end, and partitions are many.

use crate::harness::audited::Audited;
use crate::harness::cluster::{N_BROKERS, cluster};
use crate::harness::producer::{self, Kcat};
use crate::harness::servers::CLUSTER;
use crate::harness::{Invocation, LIMIT, Stage, Worker, eventually, eventually_some, servers, size};
use krafka::admin::ElectionType;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How partitions can be shared, where these brokers know of it.
fn modes() -> Vec<(&'static str, [(&'static str, &'static str); 1])> {
    let mut modes = vec![("all", [("kafka.assignment", "all")]), ("classic", [("kafka.group_protocol", "classic")])];
    if servers().kafka_major_of(CLUSTER) >= 4 {
        modes.push(("consumer", [("kafka.group_protocol", "consumer")]));
    }
    modes
}

/// One worker for each mode, each with records of its own, that are fed all the time.
struct Watch {
    sides: Vec<(Audited, Worker)>,
    /// For one who joins later: topics can't be made while a broker is mute.
    newcomer: Stage,
}

impl Watch {
    fn begin(turn: &Stage) -> Watch {
        let sides = modes().into_iter().map(|(name, settings)| {
            let audited = Audited::open(turn.another_in_cluster(name, 3), &settings, 200);
            let worker = audited.start();
            (audited, worker)
        });
        Watch { sides: sides.collect(), newcomer: turn.another_in_cluster("newcomer", 1) }
    }

    /// Every partition of each gets on, by the same process; says how long that took.
    fn await_progress(&mut self, after: &str) {
        let begun = Instant::now();
        for (audited, worker) in &mut self.sides {
            audited.await_progress();
            assert!(worker.alive(), "the worker of {} has ended {after}", audited.stage.name);
        }
        println!("{after}: all partitions got on after {:.1} s", begun.elapsed().as_secs_f64());
    }

    fn await_in_sync(&self) {
        for (audited, _) in &self.sides {
            cluster().await_in_sync(&audited.stage.topic, audited.stage.n_partitions);
        }
    }

    fn elect_preferred(&self) {
        for (audited, _) in &self.sides {
            for partition in 0..audited.stage.n_partitions {
                cluster().elect(&audited.stage.topic, partition, ElectionType::Preferred);
            }
        }
    }

    fn finish(self) {
        for (audited, worker) in self.sides {
            let compared = audited.finish();
            assert_eq!(worker.count("beyond the log's end"), 0, "nothing was cut");
            worker.stop();
            println!("{}: {compared:?}", audited.stage.name);
        }
    }
}

#[test]
fn a_rolling_restart_and_elections_are_none_of_its_business() {
    let turn = Stage::in_cluster("rolling", 1, &[]);
    let mut watch = Watch::begin(&turn);
    for _ in 0..size(1, 3) {
        for broker in 1..=N_BROKERS {
            cluster().stop(broker);
            watch.await_progress(&format!("without broker {broker}"));
            cluster().start(broker);
            watch.await_in_sync();
        }
        watch.elect_preferred();
        watch.await_progress("after the preferred elections");
    }
    watch.finish();
}

/// A worker that is started now, which knows of the broken broker first, reads everything there is.
fn a_newcomer_reads_all(watch: &Watch, broken: i32) {
    let (stage, (audited, _)) = (&watch.newcomer, &watch.sides[0]);
    let mut brokers: Vec<&str> = (1..=N_BROKERS).map(|broker| cluster().address(broker)).collect();
    brokers.swap(0, broken as usize - 1);
    let invocation =
        stage.invocation_of_all().set("kafka.brokers", brokers.join(",")).set("topics.0.name", &audited.stage.topic);
    invocation.output(&["run", "--until-end"]).expect_code(0);
    assert!(stage.rows() > 0);
}

#[test]
fn a_dead_broker_holds_up_nobody() {
    let turn = Stage::in_cluster("dead", 1, &[]);
    let mut watch = Watch::begin(&turn);
    cluster().kill(2);
    watch.await_progress("broker 2 dead");
    a_newcomer_reads_all(&watch, 2);
    // Who owned the partitions may die as well.
    for (audited, worker) in &mut watch.sides {
        let ended = std::mem::replace(worker, audited.invocation.start(&["run"]));
        ended.kill9();
    }
    watch.await_progress("broker 2 dead, and workers killed");
    cluster().start(2);
    watch.await_in_sync();
    watch.elect_preferred();
    watch.await_progress("broker 2 up again");
    watch.finish();
}

#[test]
fn a_mute_broker_holds_up_nobody() {
    let turn = Stage::in_cluster("mute", 1, &[]);
    let mut watch = Watch::begin(&turn);
    cluster().freeze(3);
    watch.await_progress("broker 3 mute");
    a_newcomer_reads_all(&watch, 3);
    cluster().thaw(3);
    watch.await_in_sync();
    watch.elect_preferred();
    watch.await_progress("broker 3 speaks again");
    watch.finish();
}

/// Whatever a new leader knows of the log in its first moments, nobody takes it for one that was cut.
#[test]
fn elections_during_the_start_are_no_truncation() {
    let stage = Stage::in_cluster("elections", 1, &[]);
    let (n_elections, n_wanted) = (AtomicI32::new(0), size(8, 40) as i32);
    let invocation = stage.invocation_of_all().set("batch.linger_ms", 10);
    thread::scope(|scope| {
        scope.spawn(|| {
            for nth in 0..n_wanted {
                cluster().lead(&stage.topic, 0, nth % N_BROKERS + 1);
                n_elections.store(nth + 1, Ordering::Relaxed);
                // A leader that is deposed before its followers have caught up knows no end of the log at all.
                thread::sleep(Duration::from_millis(1_500));
            }
        });
        let mut n_runs = 0;
        while n_elections.load(Ordering::Relaxed) < n_wanted {
            stage.produce(50);
            let output = invocation.output(&["run", "--until-end"]).expect_code(0);
            assert!(!output.stderr.contains("beyond the log's end"), "{}", output.stderr);
            n_runs += 1;
        }
        println!("{n_runs} runs during {n_wanted} elections");
    });
    stage.assert_exactly_once();
}

/// Leaves broker 1 as the only one in sync with partition 0, with records that nobody else has, then takes it away and
/// gives the partition to broker 2. What is in between is done by the caller.
fn elect_unclean(stage: &Stage, in_between: impl FnOnce()) {
    let cluster = cluster();
    cluster.await_leader(&stage.topic, 0, 1);
    // Three vote on who leads: one of them at a time can be away.
    cluster.stop(2);
    eventually("broker 2 is out of sync", LIMIT, || {
        cluster.leader_and_isr(&stage.topic, 0).is_some_and(|(_, isr)| !isr.contains(&2))
    });
    in_between();
    cluster.kill(1);
    cluster.start(2);
    eventually("broker 2 leads, though it lacks records", LIMIT, || {
        cluster.elect(&stage.topic, 0, ElectionType::Unclean);
        cluster.leader_and_isr(&stage.topic, 0).is_some_and(|(leader, _)| leader == 2)
    });
    cluster.start(1);
}

/// By one kcat, which ends when all is acknowledged.
fn send(stage: &Stage, ids: std::ops::RangeInclusive<i64>) {
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    ids.for_each(|id| kcat.quote(id));
    kcat.finish();
}

#[test]
fn a_log_that_lost_its_end_needs_a_decision() {
    // Two replicas: with a third one in sync nothing could be lost.
    let stage = Stage::in_cluster_on("unclean", &[1, 2]);
    let running = stage.invocation_of_all().start(&["run"]);
    send(&stage, stage.take(1_000));
    stage.wait_until_drained(LIMIT);
    elect_unclean(&stage, || {
        send(&stage, stage.take(500));
        stage.wait_until_drained(LIMIT);
    });
    let output = running.output(LIMIT).expect_code(65);
    println!("{}", output.cause());
    for word in ["1500", "1000"] {
        assert!(output.cause().contains(word), "{word} is not in: {}", output.cause());
    }
    let again = stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(65);
    assert!(again.cause().contains("1500"), "{}", again.cause());
    let check = stage.invocation_of_all().output(&["check"]).expect_code(65);
    assert!(check.said().contains("1500"), "{}", check.said());
    assert_eq!((stage.rows(), stage.standings(&stage.topic)[&0].next_offset), (1_500, 1_500));
    // A person decides.
    let reset = ["reset", "--topic", &stage.topic, "--partition", "0", "--to", "1000", "--yes"];
    stage.invocation_of_all().output(&reset).expect_code(0);
    send(&stage, stage.take(100));
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_log_that_lost_its_end_and_grew_again_while_nobody_read_needs_a_decision() {
    let stage = Stage::in_cluster_on("regrown", &[1, 2]);
    let run = ["run", "--until-end"];
    send(&stage, stage.take(1_000));
    elect_unclean(&stage, || {
        send(&stage, stage.take(500));
        stage.invocation_of_all().output(&run).expect_code(0);
    });
    // Beyond where the worker stands: no offset of the log says anything.
    send(&stage, stage.take(800));
    let output = stage.invocation_of_all().output(&run).expect_code(65);
    println!("{}", output.cause());
    for word in ["1500", "1000"] {
        assert!(output.cause().contains(word), "{word} is not in: {}", output.cause());
    }
    assert_eq!((stage.rows(), stage.standings(&stage.topic)[&0].next_offset), (1_500, 1_500));
    let reset = ["reset", "--topic", &stage.topic, "--partition", "0", "--to", "1000", "--yes"];
    stage.invocation_of_all().output(&reset).expect_code(0);
    stage.invocation_of_all().output(&run).expect_code(0);
    stage.assert_exactly_once();
}

/// How many bytes a process has got from a broker, by the connections that it has now.
fn received(pid: u32, broker: i32) -> u64 {
    let filter = ["-tniHOp", "dst", cluster().address(broker)];
    let listed = Command::new("ss").args(filter).output().expect("ss can be run (dev/test installs it)");
    let listed = String::from_utf8_lossy(&listed.stdout);
    let ours = listed.lines().filter(|line| line.contains(&format!("pid={pid},")));
    ours.filter_map(|line| line.split_once("bytes_received:")?.1.split(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn the_replica_in_the_workers_rack_is_read() {
    let turn = Stage::in_cluster("racks", 1, &[]);
    for (mode, settings) in modes() {
        let stage = turn.another_in_cluster(&format!("racks_{mode}"), 1);
        let (leader, _) = cluster().leader_and_isr(&stage.topic, 0).expect("the partition has a leader");
        let follower = leader % N_BROKERS + 1;
        let member = stage.invocation().set(settings[0].0, settings[0].1);
        // In no rack, the leader is read; in the leader's, too.
        for (rack, read) in
            [("", leader), (&*format!("rack-{follower}"), follower), (&*format!("rack-{leader}"), leader)]
        {
            let mut worker = member.clone().set("kafka.rack", rack).start(&["run"]);
            // Until a replica has caught up, the leader is read.
            eventually(&format!("broker {read} is read by {mode} in {rack:?}"), LIMIT, || {
                send(&stage, stage.take(2_000));
                received(worker.pid(), read) > 600_000
            });
            stage.wait_until_drained(LIMIT);
            assert!(worker.alive());
            worker.stop();
        }
        stage.assert_exactly_once();
    }
}

/// How many partitions each of some processes owns; none before the first of them has made the tables.
fn shares(stage: &Stage) -> Vec<i64> {
    if stage.number("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()") == 0 {
        return Vec::new();
    }
    let sql = "SELECT count(*) FROM writer_offsets WHERE pipeline = $1 GROUP BY owner ORDER BY 1";
    let rows = stage.database().query(sql, &[&stage.name]).expect("the bookkeeping can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

fn sent_and_written(stage: &Stage, topics: &[String], n_partitions: i32, count: i64) {
    producer::deal(topics, n_partitions, stage.take(count));
    let sum =
        format!("SELECT coalesce(sum(next_offset), 0)::bigint FROM writer_offsets WHERE pipeline = '{}'", stage.name);
    let wanted = stage.sent().count();
    eventually("all of it is written", LIMIT, || stage.number(&sum) == wanted);
}

/// Waits until so many processes own all partitions, each its share, and says how long that took.
fn await_shares(stage: &Stage, what: &str, n_workers: usize, n_partitions: usize) {
    let begun = Instant::now();
    let (least, most) = (n_partitions / n_workers, n_partitions.div_ceil(n_workers));
    let mut seen = Vec::new();
    let balanced = || {
        let shares = shares(stage);
        let is_fair = |share: &i64| (least as i64..=most as i64).contains(share);
        let fair = shares.len() == n_workers && shares.iter().all(is_fair);
        if shares != seen {
            println!("  {what}, {:.1} s: {shares:?}", begun.elapsed().as_secs_f64());
            seen.clone_from(&shares);
        }
        (fair && shares.iter().sum::<i64>() == n_partitions as i64).then_some(())
    };
    eventually_some(&format!("{what}: {n_workers} workers share {n_partitions} partitions"), LIMIT, balanced);
}

fn many_partitions_are_shared(protocol: &str) {
    const MIB: u64 = 1 << 20;
    let (n_topics, n_partitions) = (50, 6);
    let all = n_topics * n_partitions;
    let stage = Stage::in_cluster(&format!("many_{protocol}"), 1, &[]);
    let topics: Vec<String> = (0..n_topics).map(|n| format!("{}_many{n:02}", stage.name)).collect();
    stage.add_topics(&topics, n_partitions as i32);
    let member: Invocation = stage
        .invocation()
        .set("topics.0.name", "")
        .set("topics.0.pattern", format!("^{}_many[0-9]+$", stage.name))
        .set("kafka.group_protocol", protocol)
        .set("kafka.session_timeout_ms", 6_000)
        .set("writers.memory_max", "64MiB");
    let mut workers = vec![member.start(&["run"])];
    await_shares(&stage, "one joins", 1, all);
    sent_and_written(&stage, &topics, n_partitions as i32, 3_000);
    for n in 2..=4 {
        workers.push(member.start(&["run"]));
        await_shares(&stage, &format!("number {n} joins"), n, all);
        sent_and_written(&stage, &topics, n_partitions as i32, 3_000);
    }
    workers.swap_remove(1).stop();
    await_shares(&stage, "one leaves", 3, all);
    sent_and_written(&stage, &topics, n_partitions as i32, 3_000);
    workers.swap_remove(0).kill9();
    await_shares(&stage, "one is killed", 2, all);
    sent_and_written(&stage, &topics, n_partitions as i32, size(30_000, 300_000) as i64);
    for mut worker in workers {
        assert!(worker.alive());
        let peak = worker.status("VmHWM:");
        println!("  peak {} MiB", peak / MIB);
        assert!(peak < 128 * MIB, "a peak of {} MiB", peak / MIB);
        worker.stop();
    }
    stage.assert_exactly_once_from(&topics.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn three_hundred_partitions_are_shared_by_a_classic_group() {
    many_partitions_are_shared("classic");
}

#[test]
fn three_hundred_partitions_are_shared_by_a_consumer_group() {
    // Brokers before 4.0 don't know such groups.
    if servers().kafka_major_of(CLUSTER) >= 4 {
        many_partitions_are_shared("consumer");
    }
}
