//! A server that accepts and never answers: no thread hangs for ever, no connection, no place in the pool is used up by it.
//!
//! Where the server speaks again, the worker goes on by itself, and has no thread more than before. Where it doesn't, the
//! process ends as it promises: soon after SIGTERM, and by itself where its patience has a limit. What does not depend
//! on each other waits side by side.

use crate::harness::producer::Feeder;
use crate::harness::worker::{Output, signal};
use crate::harness::{Fault, Invocation, LIMIT, Proxy, Stage, Worker, eventually, servers, size};
use crate::liveness::{assert_commit_within, assert_prompt_commit, at_rest, n_files, n_threads};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// After SIGTERM everything has ended within 9 s. The rest is for a machine that has no time.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Where the server falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before anything was ever said.
    Start,
    /// At every new connection.
    Reconnect,
    /// In the middle of the rows.
    Copy,
    /// After COMMIT.
    Commit,
    /// Open connections have ended at the server's side, and nobody says so; new ones are all right.
    HalfOpen,
}

impl Place {
    /// A worker to whom the server has fallen silent here.
    fn worker(self, stage: &Stage, proxy: &Proxy, arguments: &[&str], set: &[(&str, i64)]) -> Worker {
        let invocation = set.iter().fold(through(stage, proxy), |all, (key, value)| all.set(key, value));
        if self == Place::Start {
            proxy.mute();
        }
        let worker = invocation.start(arguments);
        if self != Place::Start {
            stage.wait_for_progress();
        }
        match self {
            Place::Start => eventually("it connects", LIMIT, || proxy.connections() > 0),
            Place::Reconnect => {
                proxy.mute();
                let before = proxy.accepted();
                proxy.cut();
                eventually("it connects again", LIMIT, || proxy.accepted() > before);
            }
            Place::Copy => {
                proxy.mute_in_copy();
                eventually("it copies", LIMIT, || proxy.is_mute());
            }
            Place::Commit => {
                proxy.plan(Fault::SwallowAnswer);
                proxy.wait_until_fired();
                proxy.mute();
            }
            Place::HalfOpen => {
                proxy.mute();
                let name = format!("stock-db-writer {}", stage.name);
                let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name";
                assert!(stage.number(&format!("{sql} = '{name}'")) > 0);
                proxy.pass_new();
            }
        }
        worker
    }
}

fn through(stage: &Stage, proxy: &Proxy) -> Invocation {
    stage
        .invocation_of_all()
        .env("DATABASE_URL", proxy.url())
        .set("batch.rows_max", 100)
        .set("writers.count", 4)
        .set("retry.max_ms", 2_000)
        .set("database.statement_timeout_ms", 5_000)
        .set("writers.max_hold_ms", 4_000)
}

/// What the threads of a process are called.
fn thread_names(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the worker runs");
    // A thread may have ended in between.
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(|task| name(task.ok()?)).map(|name| name.trim().to_owned()).collect()
}

/// Each of these with a stage of its own, all at once.
fn side_by_side<T: Copy + Sync + Send + std::fmt::Debug>(test: &str, cases: &[T], run: impl Fn(&Stage, T) + Sync) {
    let first = Stage::new(test, 2);
    let stages: Vec<Stage> = (0..cases.len()).map(|idx| first.another(&format!("{test}_{idx}"), 2)).collect();
    let failed: Vec<&T> = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> =
            stages.iter().zip(cases).map(|(stage, case)| scope.spawn(move || run(stage, *case))).collect();
        threads.into_iter().zip(cases).filter_map(|(thread, case)| thread.join().is_err().then_some(case)).collect()
    });
    assert!(failed.is_empty(), "{failed:?}: see above");
}

fn ends_exactly_once(stage: &Stage) {
    stage.invocation_of_all().output(&["run", "--until-end"]).expect_code(0);
    stage.assert_exactly_once();
}

#[test]
fn a_mute_database_that_speaks_again_is_found_again_and_no_thread_is_left() {
    let places = [Place::Start, Place::Reconnect, Place::Copy, Place::Commit, Place::HalfOpen];
    side_by_side("mute_heals", &places, |stage, place| {
        let proxy = Proxy::start();
        // What a worker has that nothing has happened to.
        let worker = through(stage, &proxy).start(&["run"]);
        // Work for every writer, and time for the observer, so that all connections are there.
        stage.produce(4_000);
        stage.wait_until_drained(LIMIT);
        let feeder = Feeder::start(stage, &stage.topic, 300);
        let n_clients = || thread_names(worker.pid()).iter().filter(|name| *name == "kafka-io").count();
        eventually("the observer has its connection", LIMIT, || n_clients() == 2);
        let (_, files_before) = at_rest(worker.pid());
        let threads_before = thread_names(worker.pid());
        worker.stop();
        let mut worker = place.worker(stage, &proxy, &["run"], &[]);
        if place != Place::HalfOpen {
            worker.wait_for_log("database unreachable", LIMIT);
            // Attempts that are never answered, one after the other, by every thread that has a connection.
            thread::sleep(Duration::from_secs(size(15, 60)));
            proxy.pass();
        }
        assert_prompt_commit(stage, &format!("silence at {place:?}"));
        feeder.stop();
        stage.wait_until_drained(LIMIT);
        // The last attempt that was never answered may take its time to end.
        let healed = Instant::now();
        let (mut threads, mut files) = (Vec::new(), 0);
        eventually(&format!("{place:?}: what has waited is gone"), LIMIT, || {
            (threads, files) = (thread_names(worker.pid()), n_files(worker.pid()));
            let is_gone = threads.len() <= threads_before.len() && files <= files_before;
            if !is_gone && healed.elapsed() > LIMIT / 2 {
                println!("{place:?}: {threads_before:?} -> {threads:?}, files {files_before} -> {files}");
            }
            is_gone
        });
        println!(
            "{place:?}: threads {} -> {}, files {files_before} -> {files}, after {:.1} s",
            threads_before.len(),
            threads.len(),
            healed.elapsed().as_secs_f64()
        );
        assert!(worker.alive());
        worker.stop();
        stage.assert_exactly_once();
    });
}

/// SIGTERM; the process ends in time, with this code.
fn ends_in_time(mut worker: Worker, what: &str, code: i32) -> Output {
    assert!(worker.alive());
    let begun = Instant::now();
    worker.signal("TERM");
    let output = worker.output(LIMIT).expect_code(code);
    println!("{what}: ended {:.1} s after SIGTERM", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < STOP_MAX, "{what}: ended {:?} after SIGTERM", begun.elapsed());
    output
}

#[test]
fn a_worker_of_a_mute_database_ends_in_time_when_it_is_asked_to() {
    let places = [Place::Start, Place::Reconnect, Place::Copy, Place::Commit, Place::HalfOpen];
    side_by_side("mute_term", &places, |stage, place| {
        let proxy = Proxy::start();
        let feeder = Feeder::start(stage, &stage.topic, 300);
        let worker = place.worker(stage, &proxy, &["run"], &[]);
        thread::sleep(Duration::from_millis(500));
        ends_in_time(worker, &format!("{place:?}"), 0);
        feeder.stop();
        drop(proxy);
        ends_exactly_once(stage);
    });
}

#[test]
fn patience_with_a_mute_database_has_its_limit() {
    let places = [Place::Start, Place::Reconnect, Place::Copy, Place::Commit];
    side_by_side("mute_limit", &places, |stage, place| {
        stage.produce(20_000);
        let proxy = Proxy::start();
        let worker = place.worker(stage, &proxy, &["run", "--until-end"], &[("retry.max_outage_s", 3)]);
        let begun = Instant::now();
        // A call of 5 s with its grace, an attempt to connect of 10 s, and the limit.
        let output = worker.output(LIMIT).expect_code(69);
        println!("{place:?}: {} after {:.1} s", output.cause(), begun.elapsed().as_secs_f64());
        assert!(begun.elapsed() < Duration::from_secs(60), "{place:?}");
        drop(proxy);
        ends_exactly_once(stage);
    });
}

/// Processes that stand still until this is dropped: the server could not be ended while one of its own does.
struct Stopped(Vec<i32>);

impl Stopped {
    fn new(pids: Vec<i32>) -> Stopped {
        pids.iter().for_each(|pid| signal(*pid as u32, "STOP"));
        Stopped(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid as u32, "CONT"));
    }
}

/// Over a unix socket there is no deadline below the client, so that a server process that has stopped is left to the
/// watchdog.
#[test]
fn a_stopped_server_process_is_left_to_the_watchdog_and_the_next_run_goes_on() {
    let stage = Stage::new("mute_socket", 2);
    let mut database = stage.database();
    let shown = |sql: &str, database: &mut postgres::Client| -> String {
        database.query_one(sql, &[]).expect("PostgreSQL answers").get(0)
    };
    let directory = shown("SHOW unix_socket_directories", &mut database);
    let port = shown("SHOW port", &mut database);
    let user = shown("SELECT current_user::text", &mut database);
    let name = shown("SELECT current_database()::text", &mut database);
    let url = format!("postgresql:///{name}?host={directory}&port={port}&user={user}");
    let invocation = stage.invocation_of_all().env("DATABASE_URL", url).set("batch.rows_max", 100);
    // Its hard limit is twice this and 30 s.
    let invocation = invocation.set("database.statement_timeout_ms", 1_000).set("database.lock_timeout_ms", 500);
    let invocation = invocation.set("writers.max_hold_ms", 500);
    let worker = invocation.start(&["run"]);
    let feeder = Feeder::start(&stage, &stage.topic, 500);
    stage.wait_for_progress();
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE application_name = 'stock-db-writer {}'", stage.name);
    let backends: Vec<i32> =
        database.query(&sql, &[]).expect("PostgreSQL answers").iter().map(|row| row.get(0)).collect();
    let stopped = Stopped::new(backends);
    let begun = Instant::now();
    let output = worker.output(LIMIT);
    drop(stopped);
    println!("{} after {:.1} s", output.cause(), begun.elapsed().as_secs_f64());
    let output = output.expect_code(75);
    assert!(output.cause().contains("the database has not answered for"), "{}", output.cause());
    assert!(begun.elapsed() < Duration::from_secs(32 + 30));
    let worker = invocation.start(&["run"]);
    assert_commit_within(&stage, "the watchdog's end of the process", Duration::from_secs(60));
    feeder.stop();
    stage.wait_until_drained(LIMIT);
    worker.stop();
    stage.assert_exactly_once();
}

/// Takes connections and answers nothing, until it is told to lead them to the broker.
struct Gate {
    address: String,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    fn start(broker: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (is_open, broker) = (Arc::new(AtomicBool::new(false)), broker.to_owned());
        thread::spawn({
            let is_open = Arc::clone(&is_open);
            // For as long as the tests run.
            move || {
                let mut held = Vec::new();
                for client in listener.incoming().map_while(Result::ok) {
                    match is_open.load(Ordering::Relaxed) {
                        true => lead(client, &broker),
                        false => held.push(client),
                    }
                }
            }
        });
        Gate { address, is_open }
    }
}

fn lead(client: TcpStream, broker: &str) {
    let Ok(server) = TcpStream::connect(broker) else { return };
    let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
    for (mut from, mut to) in [(clone(&client), clone(&server)), (server, client)] {
        thread::spawn(move || {
            let mut buffer = [0; 1 << 14];
            while let Ok(n_bytes @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..n_bytes]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum AtGate {
    Opens,
    Stops,
    Limit,
}

#[test]
fn a_broker_that_accepts_and_never_answers_is_waited_for_as_long_as_promised() {
    let cases = [
        ("group", AtGate::Opens),
        ("all", AtGate::Opens),
        ("group", AtGate::Stops),
        ("all", AtGate::Stops),
        ("all", AtGate::Limit),
    ];
    side_by_side("mute_broker", &cases, |stage, (assignment, what)| {
        let gate = Gate::start(&servers().brokers);
        let invocation = stage.invocation().set("kafka.assignment", assignment).set("kafka.brokers", &gate.address);
        stage.produce(1_000);
        let started = |arguments: &[&str]| {
            let mut worker =
                invocation.clone().set("retry.max_outage_s", 3 * i64::from(arguments.len() > 1)).start(arguments);
            worker.wait_for_log("kafka unreachable", LIMIT);
            worker
        };
        match what {
            AtGate::Opens => {
                let worker = started(&["run"]);
                gate.is_open.store(true, Ordering::Relaxed);
                assert_prompt_commit(stage, &format!("a silent broker at the start ({assignment})"));
                stage.wait_until_drained(LIMIT);
                let threads = n_threads(worker.pid());
                worker.stop();
                assert!(threads < 40, "{threads} threads");
            }
            AtGate::Stops => {
                ends_in_time(started(&["run"]), &format!("silent broker at the start ({assignment})"), 0);
            }
            AtGate::Limit => {
                let begun = Instant::now();
                let output = started(&["run", "--until-end"]).output(LIMIT).expect_code(69);
                println!("{} after {:.1} s", output.cause(), begun.elapsed().as_secs_f64());
                assert!(begun.elapsed() < Duration::from_secs(60));
            }
        }
        ends_exactly_once(stage);
    });
}

/// The kernel of a stopped broker goes on accepting connections and requests.
#[test]
fn workers_of_a_stopped_broker_end_in_time_when_they_are_asked_to() {
    let stage = Stage::alone("mute_polling", 2);
    let (classic, all) = (stage.another("mute_polling_classic", 2), stage.another("mute_polling_all", 2));
    let old = stage.another("old_mute_polling", 2);
    let cases = [
        (&stage, stage.invocation(), "member of a group"),
        (&classic, classic.invocation().set("kafka.group_protocol", "classic"), "member of a classic group"),
        (&all, all.invocation_of_all(), "all partitions"),
        (&old, old.invocation_of_old(), "the old client"),
    ];
    let mut workers = Vec::new();
    for (stage, invocation, what) in &cases {
        let worker = invocation.start(&["run"]);
        stage.produce(1_000);
        stage.wait_until_drained(LIMIT);
        workers.push((worker, *what));
    }
    let pids = [&servers().kafka_pid_file, servers().old_pid_file()].map(|file| {
        let pid = std::fs::read_to_string(file).expect("the broker has a pid file");
        pid.trim().parse::<u32>().expect("it holds a number")
    });
    pids.iter().for_each(|pid| signal(*pid, "STOP"));
    // In the middle of a poll.
    thread::sleep(Duration::from_secs(size(1, 40)));
    let ended: Vec<_> = thread::scope(|scope| {
        let stop = |(worker, what)| scope.spawn(move || ends_in_time(worker, what, 0));
        let threads: Vec<_> = workers.into_iter().map(stop).collect();
        threads.into_iter().map(|thread| thread.join().is_ok()).collect()
    });
    pids.iter().for_each(|pid| signal(*pid, "CONT"));
    assert!(ended.iter().all(|ended| *ended), "see above");
    for (stage, ..) in &cases {
        stage.assert_exactly_once();
    }
}
