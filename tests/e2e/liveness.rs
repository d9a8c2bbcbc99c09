//! After a fault is over the worker goes on soon, and hundreds of faults leave nothing behind in it.
//!
//! Every test that heals a fault asks [`assert_prompt_commit`]; here are the faults that no other test has, the longest
//! pauses between two attempts, and one worker that lives through one fault after the other.

use crate::harness::checker::Progress;
use crate::harness::producer::Feeder;
use crate::harness::{
    Fault, Invocation, LIMIT, Proxy, Stage, Worker, eventually, eventually_some, long, random, servers, size,
};
use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// From the end of a fault to the first commit.
const FIRST_COMMIT_MAX: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// A fault is over, and records wait: the first commit comes in time. Answers when.
#[track_caller]
pub fn assert_prompt_commit(stage: &Stage, healed: &str) -> Duration {
    assert_commit_within(stage, healed, FIRST_COMMIT_MAX)
}

/// The same with another limit.
#[track_caller]
pub fn assert_commit_within(stage: &Stage, healed: &str, limit: Duration) -> Duration {
    let begun = Instant::now();
    let mut progress = Progress::new(stage);
    let before = progress.now();
    eventually(&format!("a commit after {healed}"), limit, || progress.now() > before);
    let took = begun.elapsed();
    println!("{}: the first commit after {healed} came after {:.2} s", stage.name, took.as_secs_f64());
    took
}

/// Threads of a process.
pub fn n_threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("the worker runs").count()
}

/// Its open file descriptors.
pub fn n_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the worker runs").count()
}

/// Threads and file descriptors when they have not changed for a while.
pub fn at_rest(pid: u32) -> (usize, usize) {
    let look = || (n_threads(pid), n_files(pid));
    let (mut last, mut since) = (look(), Instant::now());
    eventually_some("its threads and files come to rest", LIMIT, || {
        let now = look();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(3)).then_some(now)
    })
}

/// Ends the worker's sessions, or what they run, from the server's side. Answers how many.
fn at_sessions(stage: &Stage, what: &str) -> i64 {
    let name = format!("stock-db-writer {}", stage.name);
    stage.number(&format!("SELECT count({what}(pid)) FROM pg_stat_activity WHERE application_name = '{name}'"))
}

/// Cuts the worker's connections to the broker, as a firewall that forgets them does. Answers how many.
fn cut_kafka(pid: u32) -> usize {
    let port = servers().brokers.rsplit_once(':').expect("brokers are host:port").1;
    let filter = ["-tnpH", "state", "established", "dport", "=", &format!(":{port}")];
    let listed = Command::new("ss").args(filter).output().expect("ss can be run");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ours = listed.lines().filter(|line| line.contains(&format!("pid={pid},")));
    let mut n_cut = 0;
    for line in ours {
        let local = line.split_whitespace().nth(2).expect("an address");
        let source = local.rsplit_once(':').expect("host:port").1;
        let filter = ["-K", "-tnH", "sport", "=", &format!(":{source}"), "dport", "=", &format!(":{port}")];
        let killed = Command::new("ss").args(filter).output().expect("ss can be run");
        n_cut += usize::from(!killed.stdout.is_empty());
    }
    n_cut
}

/// The worker may just be without a connection, because of the fault before.
fn until_it_hits(fault: &str, hits: impl FnMut() -> bool) {
    eventually(&format!("{fault} hits a connection"), LIMIT, hits);
}

fn lock_table(stage: &Stage, held: Duration) {
    let mut holder = stage.database();
    // The worker's own locks are given back at its next COMMIT.
    holder.batch_execute("BEGIN; LOCK TABLE stock_prices").expect("the lock is taken");
    thread::sleep(held);
    holder.batch_execute("COMMIT").expect("it was held");
}

#[test]
fn the_first_commit_after_each_fault_comes_in_time() {
    let stage = Stage::new("liveness", 3);
    let proxy = Proxy::start();
    let invocation = stage.invocation_of_all().env("DATABASE_URL", proxy.url()).set("batch.rows_max", 200);
    let invocation = invocation.set("database.statement_timeout_ms", 5_000).set("writers.max_hold_ms", 4_000);
    let mut worker = invocation.start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 500);
    stage.wait_for_progress();
    // As it is shipped, a pause between two attempts may grow to 30 s.
    let outage = Duration::from_secs(size(4, 60));
    for _ in 0..size(1, 3) {
        until_it_hits("terminate", || at_sessions(&stage, "pg_terminate_backend") > 0);
        assert_prompt_commit(&stage, "sessions that the server ended");
        until_it_hits("cancel", || at_sessions(&stage, "pg_cancel_backend") > 0);
        assert_prompt_commit(&stage, "statements that were cancelled");
        proxy.cut();
        assert_prompt_commit(&stage, "connections to PostgreSQL that were cut");
        until_it_hits("Kafka cut", || cut_kafka(worker.pid()) > 0);
        assert_prompt_commit(&stage, "connections to Kafka that were cut");
        proxy.refuse();
        thread::sleep(outage);
        proxy.pass();
        assert_prompt_commit(&stage, "refused connections");
        lock_table(&stage, outage);
        assert_prompt_commit(&stage, "a locked table");
        worker.signal("STOP");
        // Shorter than the watchdog's hard limit, which takes a pause of the process for the server's silence.
        thread::sleep(Duration::from_secs(size(4, 20)));
        worker.signal("CONT");
        assert_prompt_commit(&stage, "a stopped process");
        proxy.plan(Fault::CutAfterCommit);
        proxy.wait_until_fired();
        assert_prompt_commit(&stage, "a lost answer to COMMIT");
        worker.kill9();
        worker = invocation.start(&["run"]);
        assert_prompt_commit(&stage, "kill -9");
    }
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    assert!(worker.alive());
    worker.stop();
    stage.assert_exactly_once();
}

/// A worker that is made to suffer.
struct Patient<'s> {
    stage: &'s Stage,
    proxy: Proxy,
    worker: Worker,
    fired: BTreeMap<&'static str, usize>,
    slowest: Duration,
}

const FAULTS: [&str; 9] =
    ["cut", "terminate", "cancel", "before COMMIT", "during COMMIT", "after COMMIT", "Kafka cut", "lock", "refuse"];

impl Patient<'_> {
    fn start<'s>(stage: &'s Stage, invocation: &Invocation) -> Patient<'s> {
        let proxy = Proxy::start();
        let worker = invocation.clone().env("DATABASE_URL", proxy.url()).start(&["run"]);
        Patient { stage, proxy, worker, fired: BTreeMap::new(), slowest: Duration::ZERO }
    }

    /// One fault, and the first commit after it.
    fn suffer(&mut self, fault: &'static str) {
        let (stage, proxy) = (self.stage, &self.proxy);
        let at_commit = |fault| {
            proxy.plan(fault);
            proxy.wait_until_fired();
        };
        match fault {
            "cut" => proxy.cut(),
            "terminate" => until_it_hits(fault, || at_sessions(stage, "pg_terminate_backend") > 0),
            "cancel" => until_it_hits(fault, || at_sessions(stage, "pg_cancel_backend") > 0),
            "before COMMIT" => at_commit(Fault::CutBeforeCommit),
            "during COMMIT" => at_commit(Fault::CutDuringCommit),
            "after COMMIT" => at_commit(Fault::CutAfterCommit),
            "Kafka cut" => until_it_hits(fault, || cut_kafka(self.worker.pid()) > 0),
            "lock" => lock_table(stage, Duration::from_millis(300)),
            _ => {
                proxy.refuse();
                thread::sleep(Duration::from_millis(300));
                proxy.pass();
            }
        }
        let mut progress = Progress::new(stage);
        let (begun, before) = (Instant::now(), progress.now());
        eventually(&format!("a commit after {fault}"), FIRST_COMMIT_MAX, || progress.now() > before);
        self.slowest = self.slowest.max(begun.elapsed());
        *self.fired.entry(fault).or_default() += 1;
        assert!(self.worker.alive(), "the worker ended at {fault}");
    }

    /// How fast it works off backlogs, in records a second: the median of several.
    fn drain_rate(&self, n_drains: usize, count: i64) -> f64 {
        let mut rates: Vec<f64> = (0..n_drains).map(|_| self.drain(count)).collect();
        rates.sort_by(f64::total_cmp);
        println!(
            "{}: drains of {count}: {:?} records a second",
            self.stage.name,
            rates.iter().map(|rate| rate.round()).collect::<Vec<_>>()
        );
        rates[n_drains / 2]
    }

    fn drain(&self, count: i64) -> f64 {
        // It sleeps while the backlog is made.
        self.worker.signal("STOP");
        self.stage.produce(count);
        let mut progress = Progress::new(self.stage);
        let end = progress.now() + count;
        self.worker.signal("CONT");
        let begun = Instant::now();
        while progress.now() < end {
            assert!(begun.elapsed() < LIMIT, "the backlog is worked off");
            thread::sleep(Duration::from_millis(2));
        }
        count as f64 / begun.elapsed().as_secs_f64()
    }

    fn rss(&self) -> u64 {
        self.worker.status("VmRSS:")
    }
}

#[test]
fn one_fault_after_the_other_leaves_nothing_behind() {
    let stage = Stage::new("endurance", 3);
    let mut random = random(&stage.name);
    let (n_cycles, n_drains) = (size(25, 500) as usize, size(3, 5) as usize);
    let backlog = size(60_000, 200_000) as i64;
    let invocation = stage.invocation_of_all().set("retry.max_ms", 1_000);
    let mut patient = Patient::start(&stage, &invocation);
    let pid = patient.worker.pid();
    let faults = |n: usize, random: &mut fastrand::Rng| {
        // Each kind equally often.
        let mut faults: Vec<_> = FAULTS.into_iter().cycle().take(n).collect();
        random.shuffle(&mut faults);
        faults
    };
    let suffer = |patient: &mut Patient<'_>, faults: Vec<&'static str>| {
        let feeder = Feeder::start(&stage, &stage.topic, 1_000);
        stage.wait_for_progress();
        for fault in faults {
            patient.suffer(fault);
        }
        feeder.stop();
        stage.wait_until_drained(LIMIT);
    };
    // Whatever is made once, at the first fault of its kind or in the first backlog, is there after this.
    suffer(&mut patient, faults(FAULTS.len(), &mut random));
    patient.drain(backlog);
    let rate_before = patient.drain_rate(n_drains, backlog);
    let (threads_before, files_before) = at_rest(pid);
    let rss_before = patient.rss();
    let mut shown = Vec::new();
    for faults in faults(n_cycles, &mut random).chunks(n_cycles.div_ceil(10)) {
        suffer(&mut patient, faults.to_vec());
        shown.push(patient.rss() / MIB);
    }
    let (threads_after, files_after) = at_rest(pid);
    let rate_after = patient.drain_rate(n_drains, backlog);
    let rss_after = patient.rss();
    println!(
        "{n_cycles} faults {:?}; the slowest first commit after {:.2} s",
        patient.fired,
        patient.slowest.as_secs_f64()
    );
    println!("threads {threads_before} -> {threads_after}, files {files_before} -> {files_after}");
    println!("resident MiB {} -> {shown:?} -> {}", rss_before / MIB, rss_after / MIB);
    println!("records a second {rate_before:.0} -> {rate_after:.0}: {:.2}", rate_after / rate_before);
    assert!(threads_after.abs_diff(threads_before) <= 2, "threads");
    assert!(files_after.abs_diff(files_before) <= 2, "file descriptors");
    // A connection or a thread that is left behind holds at least 32 KiB; the rest is the allocator's.
    assert!(rss_after < rss_before + rss_before / 4 + 16 * MIB, "memory");
    // A few drains of a busy machine say little; many say what is asked for.
    let ratio_min = if long() { 0.9 } else { 0.5 };
    assert!(rate_after >= rate_before * ratio_min, "the drain rate");
    patient.worker.stop();
    stage.assert_exactly_once();
}
