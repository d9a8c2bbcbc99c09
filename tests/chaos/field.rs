//! Where an episode takes place: a stage, up to three workers behind proxies, and a supervisor as operators have one.

use crate::harness::ledger::{Ledger, REFUSED_CHECK, Target};
use crate::harness::{Invocation, LIMIT, Proxy, Stage, Worker, servers};
use crate::tally::{PASSWORD, Tally};
use crate::wire::Wire;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Whatever overlaps with whatever, a commit comes within this time after a fault was healed.
const RECOVERY_MAX: Duration = Duration::from_secs(240);
/// The longest a classic group waits for a silent member.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// How the workers of an episode share the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Classic,
    Consumer,
    /// Each is one worker's: no second one may run.
    All,
}

/// How the workers of an episode are set up.
#[derive(Debug, Clone)]
pub struct Setup {
    pub sharing: Sharing,
    pub synchronous_commit: bool,
    pub n_writers: u32,
    pub rows_max: u32,
    pub linger_ms: u32,
    /// Records a second for each partition of prices.
    pub rate: i64,
}

impl Setup {
    /// One by chance.
    pub fn draw(random: &mut fastrand::Rng) -> Setup {
        let sharing = [Sharing::Classic, Sharing::Consumer, Sharing::Classic, Sharing::Consumer, Sharing::All];
        Setup {
            sharing: sharing[random.usize(0..sharing.len())],
            synchronous_commit: true,
            n_writers: [1, 2, 4][random.usize(0..3)],
            rows_max: [50, 200, 1_000][random.usize(0..3)],
            linger_ms: [10, 100, 300][random.usize(0..3)],
            rate: [200, 500, 1_200][random.usize(0..3)],
        }
    }
}

/// A worker's place.
pub struct Slot {
    pub worker: Option<Worker>,
    /// Of those that ended here.
    logs: Vec<Vec<String>>,
    metrics_address: String,
    // Of the one that runs, as it was last seen.
    metrics: String,
}

/// The field.
pub struct Field<'a> {
    pub stage: &'a Stage,
    pub setup: Setup,
    pub ledger: Ledger,
    pub tally: &'a Tally,
    /// Between the workers and PostgreSQL: first bytes, then COMMITs.
    pub postgres_wire: Wire,
    pub commits: Proxy,
    pub kafka_wire: &'a Wire,
    slots: [Mutex<Slot>; 3],
    /// Whoever starts the second and the third worker.
    pub others: Mutex<()>,
    /// Whoever stops or reconfigures a server has it for itself.
    pub postgres: Mutex<()>,
    pub kafka: Mutex<()>,
    is_over: AtomicBool,
}

/// Locks; a thread that panicked has failed the run already.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Field<'a> {
    /// Tables, topics, producers, and the first worker, which has committed something.
    pub fn open(stage: &'a Stage, setup: Setup, kafka_wire: &'a Wire, tally: &'a Tally) -> Field<'a> {
        let commits = Proxy::start();
        let postgres_wire = Wire::start("127.0.0.1:0", commits.address());
        let slot = || {
            let metrics_address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let metrics_address = metrics_address.expect("a port is free").to_string();
            Mutex::new(Slot { worker: None, logs: Vec::new(), metrics_address, metrics: String::new() })
        };
        let field = Field {
            stage,
            setup,
            ledger: Ledger::default(),
            tally,
            postgres_wire,
            commits,
            kafka_wire,
            slots: [slot(), slot(), slot()],
            others: Mutex::default(),
            postgres: Mutex::default(),
            kafka: Mutex::default(),
            is_over: AtomicBool::new(false),
        };
        stage.add_topic(&stage.metrics_topic(), 2, &[]);
        field.invocation("").output(&["init"]).expect_code(0);
        stage.execute(REFUSED_CHECK);
        for partition in 0..stage.n_partitions {
            field.ledger.feed(Target::Prices, &stage.topic, partition, field.setup.rate);
        }
        for partition in 0..2 {
            field.ledger.feed(Target::Metrics, &stage.metrics_topic(), partition, 200);
        }
        field.start(&mut field.slot(0));
        field.await_commit();
        field
    }

    fn invocation(&self, metrics_address: &str) -> Invocation {
        let Setup { sharing, synchronous_commit, n_writers, rows_max, linger_ms, .. } = &self.setup;
        let url = servers().database_url_at(self.postgres_wire.address());
        // The server trusts everybody; the password is there to be looked for in logs.
        let url = url.replacen("@", &format!(":{PASSWORD}@"), 1);
        let invocation = self
            .stage
            .invocation()
            .env("DATABASE_URL", url)
            .set("kafka.brokers", self.kafka_wire.address())
            .set("kafka.session_timeout_ms", SESSION_TIMEOUT.as_millis())
            .set("topics.1.name", self.stage.metrics_topic())
            .set("topics.1.target", "metrics")
            .set("database.synchronous_commit", if *synchronous_commit { "on" } else { "off" })
            // Where no answer comes and nothing is cut, only these limits help.
            .set("database.statement_timeout_ms", 5_000)
            .set("writers.max_hold_ms", 4_000)
            .set("writers.count", n_writers)
            .set("batch.rows_max", rows_max)
            .set("batch.linger_ms", linger_ms)
            .set("retry.max_ms", 2_000)
            .set("metrics.listen", metrics_address);
        match sharing {
            Sharing::Classic => invocation.set("kafka.group_protocol", "classic"),
            Sharing::Consumer => invocation.set("kafka.group_protocol", "consumer"),
            Sharing::All => invocation.set("kafka.assignment", "all"),
        }
    }

    /// A worker's place, for as long as it is held.
    pub fn slot(&self, nth: usize) -> MutexGuard<'_, Slot> {
        lock(&self.slots[nth])
    }

    /// A worker begins in an empty place.
    pub fn start(&self, slot: &mut Slot) {
        assert!(slot.worker.is_none());
        slot.worker = Some(self.invocation(&slot.metrics_address).start(&["run"]));
    }

    /// kill -9; what it had said is kept.
    pub fn kill9(&self, slot: &mut Slot) {
        self.ask_metrics(slot);
        let worker = slot.worker.take().expect("somebody is here");
        slot.logs.push(worker.kill9());
        self.retire(slot);
    }

    /// SIGTERM; it must end with 0, unless it had only just begun.
    pub fn stop(&self, slot: &mut Slot) {
        self.ask_metrics(slot);
        let worker = slot.worker.take().expect("somebody is here");
        worker.signal("TERM");
        let output = worker.output(LIMIT);
        let is_unborn = output.code == 143 && output.stderr.is_empty();
        assert!(output.code == 0 || is_unborn, "a worker ended with {} after SIGTERM:\n{}", output.code, output.stderr);
        slot.logs.push(output.stderr.lines().map(str::to_owned).collect());
        self.retire(slot);
    }

    /// How many lines of all logs hold this text.
    pub fn said(&self, text: &str) -> usize {
        let in_slot = |slot: &Mutex<Slot>| {
            let slot = lock(slot);
            let ended = slot.logs.iter().flatten().filter(|line| line.contains(text)).count();
            ended + slot.worker.as_ref().map_or(0, |worker| worker.count(text))
        };
        self.slots.iter().map(in_slot).sum()
    }

    fn retire(&self, slot: &mut Slot) {
        self.tally.read_metrics(&std::mem::take(&mut slot.metrics));
    }

    /// Starts again, as systemd would, what has ended with a code that says "try again"; any other end fails the run.
    pub fn supervise(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(300));
            for slot in &self.slots {
                let Ok(mut slot) = slot.try_lock() else { continue };
                self.ask_metrics(&mut slot);
                if slot.worker.as_mut().is_none_or(|worker| worker.alive()) {
                    continue;
                }
                let output = slot.worker.take().expect("it has just ended").output(LIMIT);
                assert!(matches!(output.code, 69 | 75), "a worker ended with {}:\n{}", output.code, output.stderr);
                self.tally.add(format!("seen: ended by itself with {}", output.code), 1);
                slot.logs.push(output.stderr.lines().map(str::to_owned).collect());
                self.retire(&mut slot);
                self.start(&mut slot);
            }
        }
    }

    /// Looks again and again whether what is in the database is what must be.
    pub fn keep_auditing(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_secs(2));
            let Ok(mut client) = self.stage.try_database() else { continue };
            if let Ok(compared) = self.ledger.audit_snapshot(self.stage, &mut client) {
                self.tally.add("checked: snapshots during chaos", 1);
                self.tally.add("checked: partitions in snapshots", compared.partitions);
                self.tally.add("checked: rows in snapshots", compared.rows);
            }
        }
    }

    /// Waits until something was committed after now.
    #[track_caller]
    pub fn await_commit(&self) -> Duration {
        let begun = Instant::now();
        let mut before = None;
        while begun.elapsed() < RECOVERY_MAX {
            let now = self.n_updates();
            match (before, now) {
                (None, now) => before = now,
                (Some(before), Some(now)) if now > before => return begun.elapsed(),
                _ => {}
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("nothing was committed within {} s after the fault was healed", RECOVERY_MAX.as_secs());
    }

    /// Grows with every commit, also of what the database had forgotten again. `None` while it is away.
    fn n_updates(&self) -> Option<i64> {
        let mut client = self.stage.try_database().ok()?;
        let latest = "SELECT coalesce((extract(epoch FROM max(updated_at)) * 1000000)::bigint, 0) FROM writer_offsets \
                      WHERE pipeline = $1 AND next_offset > 0";
        client.query_one(latest, &[&self.stage.name]).ok().map(|row| row.get(0))
    }

    /// No more faults: all is drained, everybody ends, everything is compared.
    pub fn close(&self) {
        self.ledger.finish();
        self.ledger.wait_until_drained(self.stage, RECOVERY_MAX);
        self.is_over.store(true, Ordering::Relaxed);
        for slot in &self.slots {
            let mut slot = lock(slot);
            if slot.worker.is_some() {
                self.stop(&mut slot);
            }
            slot.logs.iter().for_each(|log| self.tally.read_log(log));
        }
        let compared = self.ledger.audit(self.stage);
        self.tally.add("checked: rows, windows and dead letters, field by field", compared.rows);
        self.tally.add("checked: records sent", self.ledger.pages().iter().map(|page| page.n_sent() as u64).sum());
        let letters = self.stage.number("SELECT count(*) FROM writer_dead_letters");
        self.tally.add("fault: bad-records", letters as u64);
    }

    /// Whether it is over, for a good reason or a bad one.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Lets the threads of the episode end.
    pub fn give_up(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn ask_metrics(&self, slot: &mut Slot) {
        if let Some(text) = scrape(&slot.metrics_address) {
            slot.metrics = text;
        }
    }
}

/// What is at /metrics, unless nobody answers soon.
fn scrape(address: &str) -> Option<String> {
    let patience = Some(Duration::from_millis(500));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(patience).ok()?;
    stream.set_write_timeout(patience).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
