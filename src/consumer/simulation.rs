//! The protocol under every order of events that a seed can think of: some processes, one database, one group.
//!
//! The real consumer with its flow, its tracker and its batches, the real claimer's answers, the real turnstile and the
//! writers' real steps run in one thread, in an order that the seed chooses, on a clock that stands still between them. The
//! database and Kafka are models: [`database`], [`broker`]. After every step the promise is checked: what is committed of a
//! partition is exactly what its log holds below the next offset, each record once and in order; nothing is committed
//! under an epoch that was claimed over; and the group's offset is never above what a crash would leave. In the end all
//! faults are healed, and then everything must be written within a bounded time.

mod broker;
mod database;
mod world;

use super::{Consumer, Wiring};
use crate::claimer;
use crate::clock::simulated;
use crate::config::{Config, Sources};
use crate::lane::Lane;
use crate::outage::Outage;
use crate::shutdown::Shutdown;
use crate::source::TopicState;
use crate::writer::Shared;
use broker::{Broker, Client};
use crossbeam_channel::bounded;
use database::{DOWN_MAX, Database, Session, topic};
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use world::{Process, Tally, World, Writer};

/// Processes that one schedule can start, one after the other.
const MEMBERS_MAX: usize = 12;
/// Sessions of one process: its writers' and its claimer's.
const SESSIONS_MAX: usize = 4;
/// Turns of every thread after all faults were healed: four minutes on the simulated clock.
const ROUNDS_MAX: usize = 2_400;

/// What it says if that is not enough.
const NOT_WRITTEN: &str = "not everything is written, though nothing goes wrong any more";

/// A guard that is taken out of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Flaw {
    #[default]
    None,
    NoCompareAndSet,
    NoEpoch,
    /// Waiting writers don't give way to a head that meets their locks.
    NoLockRule,
}

fn config(is_asynchronous: bool) -> &'static Config {
    static CONFIGS: OnceLock<[Config; 2]> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| {
        ["on", "off"].map(|synchronous_commit| {
            let set = [
                "topics.0.name=prices".to_owned(),
                "topics.0.target=prices".to_owned(),
                "batch.rows_max=3".to_owned(),
                "batch.linger_ms=20".to_owned(),
                "retry.max_ms=2000".to_owned(),
                format!("database.synchronous_commit={synchronous_commit}"),
            ];
            Config::load(&Sources { set: set.into(), ..Sources::default() }).expect("the settings are right")
        })
    });
    &configs[usize::from(is_asynchronous)]
}

/// One schedule.
struct Schedule<'a> {
    world: Rc<World>,
    config: &'static Config,
    n_writers: usize,
    flaw: Flaw,
    clients: std::slice::IterMut<'a, Client>,
    /// By member; `None` when its process has ended.
    consumers: Vec<Option<Consumer<'a>>>,
}

impl<'a> Schedule<'a> {
    /// A process begins, and the group gives it something.
    fn start(&mut self) {
        let Some(client) = self.clients.next() else { return };
        let member = client.member;
        let owner = format!("process {member}");
        let mut shared = Shared::new(self.config, owner.clone(), Outage::new("database", None));
        if self.flaw == Flaw::NoLockRule {
            shared.lane = Lane::without_lock_rule();
        }
        let shared = Arc::new(shared);
        let (dispatches_tx, dispatches_rx) = bounded(self.n_writers);
        let dispatches_max = 2 * self.n_writers;
        let (durables_tx, durables_rx) = bounded(dispatches_max);
        let (claims, desk) = claimer::channels();
        let session = |nth: usize| Session {
            world: self.world.clone(),
            number: member * SESSIONS_MAX + nth,
            owner: owner.clone(),
        };
        let writer = |nth| Writer { session: session(nth), current: None, paused_until: None, settlement: None };
        self.world.processes.borrow_mut().push(Process {
            is_alive: true,
            is_frozen: false,
            zombie_polls: 0,
            shared: shared.clone(),
            desk,
            ledger: session(0),
            answers: VecDeque::new(),
            dispatches_rx,
            durables_tx,
            writers: (1..=self.n_writers).map(writer).collect(),
        });
        let n_partitions = self.world.broker.borrow().logs.len() as i32;
        let state = TopicState { topic_id: None, partitions: n_partitions, may_read: true };
        let wiring = Wiring {
            dispatches_tx,
            durables_rx,
            dispatches_max,
            claims,
            shared,
            topics: [(topic(), state)].into(),
            ends: None,
            outage_max: None,
            shutdown: Shutdown::new(),
        };
        let mut consumer = Consumer::new(client, self.config, wiring);
        consumer.subscribe().expect("the group takes everybody");
        self.consumers.push(Some(consumer));
        for number in 0..n_partitions {
            let is_orphan = self.world.broker.borrow().orphans().contains(&number);
            if is_orphan || self.world.below(2) == 0 {
                self.give(number, member);
            }
        }
    }

    fn give(&self, number: i32, to: usize) {
        let running = self.world.running();
        self.world.broker.borrow_mut().give(number, to, |member| running.contains(&member));
    }

    /// The consumer's next turn.
    fn turn(&mut self, member: usize) {
        if let Some(consumer) = &mut self.consumers[member] {
            assert!(!consumer.turn().expect("nothing here stops a process"), "the run has no end");
        }
    }

    /// kill -9, or the end after SIGTERM.
    fn end(&mut self, member: usize, gracefully: bool) {
        let Some(consumer) = self.consumers[member].take() else { return };
        if gracefully {
            consumer.finish();
        } else {
            drop(consumer);
        }
        self.world.processes.borrow_mut()[member].is_alive = false;
        let mut random = self.world.random.borrow_mut();
        for nth in 0..SESSIONS_MAX {
            self.world.database.borrow_mut().leave(member * SESSIONS_MAX + nth, &mut random);
        }
        drop(random);
        self.expel(member);
        self.world.broker.borrow_mut().bury(member);
    }

    fn expel(&self, member: usize) {
        let others = self.world.members_but(member);
        let mut random = self.world.random.borrow_mut();
        self.world.broker.borrow_mut().expel(member, &others, &mut random);
    }

    /// Something goes wrong.
    fn strike(&mut self) {
        let world = self.world.clone();
        let Some(member) = world.any_running() else { return };
        match world.below(9) {
            0 if world.strikes("processes killed", 1) => {
                self.end(member, false);
                self.start();
            }
            1 if world.strikes("processes stopped", 1) => {
                self.end(member, true);
                self.start();
            }
            2 if self.consumers.iter().flatten().count() < 3 && world.strikes("processes joined", 1) => self.start(),
            3 if world.strikes("processes frozen", 1) => {
                world.processes.borrow_mut()[member].is_frozen = true;
                if world.below(4) > 0 {
                    self.expel(member);
                }
            }
            4 if world.strikes("partitions moved", 1) => {
                let n_partitions = world.broker.borrow().logs.len() as u64;
                self.give(world.below(n_partitions) as i32, member);
            }
            5 if world.strikes("crashes of the database", 1) => {
                let until = world.now() + Duration::from_millis(world.below(DOWN_MAX.as_millis() as u64));
                let mut random = world.random.borrow_mut();
                world.database.borrow_mut().crash(&mut random, until, &mut world.tally.borrow_mut());
            }
            6 => world.database.borrow_mut().flush(),
            7 => self.thaw(),
            _ => world.pass(Duration::from_millis(world.below(5_000))),
        }
    }

    /// Whoever is frozen goes on, and has not heard of anything.
    fn thaw(&self) {
        let zombie_polls = self.world.below(5) as u32;
        for process in self.world.processes.borrow_mut().iter_mut().filter(|process| process.is_frozen) {
            (process.is_frozen, process.zombie_polls) = (false, zombie_polls);
        }
    }

    fn run(&mut self) {
        let world = self.world.clone();
        for _ in 0..1 + world.below(3) {
            self.start();
        }
        let n_steps = 100 + world.below(300);
        for _ in 0..n_steps {
            world.pass(Duration::from_millis(world.below(20)));
            match world.below(100) {
                0..40 => {
                    if let Some(member) = world.any_running() {
                        self.turn(member);
                    }
                }
                40..85 => world.step_background(),
                85..92 => world.broker.borrow_mut().produce(&mut world.random.borrow_mut()),
                92..95 => {
                    let mut random = world.random.borrow_mut();
                    world.database.borrow_mut().end_ghost(&mut random);
                }
                _ => self.strike(),
            }
            world.check();
            world.tally.borrow_mut().count("steps");
        }
        self.heal();
    }

    /// Nobody's partitions are somebody's again.
    fn adopt_orphans(&mut self) {
        if self.world.running().is_empty() {
            self.start();
        }
        let orphans = self.world.broker.borrow().orphans();
        for number in orphans {
            let member = self.world.any_running().expect("one was just started");
            self.give(number, member);
        }
    }

    /// For whoever looks for a mistake.
    fn state(&self) -> String {
        let (database, broker) = (self.world.database.borrow(), self.world.broker.borrow());
        let consumers = self.consumers.iter().enumerate().filter_map(|(member, consumer)| {
            let flow = super::flow::locked(&consumer.as_ref()?.flow);
            Some(format!("process {member}: owns {:?}, {} in flight", flow.owned, flow.tracker.batches_in_flight()))
        });
        let consumers: Vec<String> = consumers.collect();
        format!("{broker:?}\n{database:?}\n{}", consumers.join("\n"))
    }

    /// Nothing goes wrong any more: everything must be written, and the group be told.
    fn heal(&mut self) {
        let world = self.world.clone();
        world.faults_left.set(0);
        self.thaw();
        for round in 0.. {
            if world.is_drained() {
                return;
            }
            assert!(round < ROUNDS_MAX, "{NOT_WRITTEN}: {}", self.state());
            self.adopt_orphans();
            world.pass(Duration::from_millis(100));
            {
                let mut random = world.random.borrow_mut();
                world.database.borrow_mut().end_ghost(&mut random);
            }
            for member in world.running() {
                self.turn(member);
                for _ in 0..4 * (self.n_writers + 1) {
                    world.step_background();
                }
            }
            world.check();
            world.tally.borrow_mut().count("steps");
        }
    }
}

/// Runs the schedule of a seed.
fn simulate(seed: u64, flaw: Flaw) -> Tally {
    fastrand::seed(seed);
    let mut random = Rng::with_seed(seed);
    let n_partitions = random.usize(1..=3);
    let is_asynchronous = random.u32(0..3) == 0;
    let has_shared_row = random.u32(0..4) == 0 || flaw == Flaw::NoLockRule;
    let n_writers = random.usize(1..=3);
    let faults_left = random.u32(0..12);
    let now = Instant::now();
    let world = Rc::new(World {
        random: RefCell::new(random),
        now: Cell::new(now),
        database: RefCell::new(Database::new(n_partitions as i32, is_asynchronous, has_shared_row, flaw)),
        broker: RefCell::new(Broker::new(n_partitions)),
        processes: RefCell::default(),
        tally: RefCell::default(),
        faults_left: Cell::new(faults_left),
        is_told: Cell::new(false),
    });
    simulated::set(Some(now));
    simulated::set_meanwhile(Some(Rc::new({
        let world = Rc::downgrade(&world);
        move || world.upgrade().expect("the schedule runs").meanwhile()
    })));
    let mut clients: Vec<Client> = (0..MEMBERS_MAX).map(|member| Client::new(world.clone(), member)).collect();
    let mut schedule = Schedule {
        world: world.clone(),
        config: config(is_asynchronous),
        n_writers,
        flaw,
        clients: clients.iter_mut(),
        consumers: Vec::new(),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| schedule.run()));
    drop(schedule);
    simulated::set_meanwhile(None);
    simulated::set(None);
    let mut tally = std::mem::take(&mut *world.tally.borrow_mut());
    for process in world.processes.borrow_mut().drain(..) {
        for (what, n) in [
            ("fenced", process.shared.metrics.fenced.get()),
            ("rewinds", process.shared.metrics.rewinds.get()),
            ("yields", process.shared.metrics.yields.get()),
        ] {
            *tally.0.entry(what).or_default() += n;
        }
    }
    // What it is made of refers to itself.
    drop(clients);
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
    }

    /// What each schedule of a large number should meet at least somewhere.
    const MET: [&str; 22] = [
        "answers lost",
        "commits in doubt",
        "commits in doubt, applied",
        "commits in doubt, decided later",
        "commits in doubt, not applied",
        "connections cut before a statement",
        "crashes of the database",
        "crashes that lost commits",
        "fenced",
        "lock timeouts",
        "offset commits refused",
        "partitions lost",
        "partitions moved",
        "polls of a zombie",
        "positions beyond the leader of their last record",
        "processes frozen",
        "processes joined",
        "processes killed",
        "processes stopped",
        "rewinds",
        "settlements that overtook others",
        "yields",
    ];

    #[test]
    fn in_whatever_order_things_happen_every_record_is_written_once() {
        let n_schedules = variable("STOCK_DB_WRITER_SIMULATION_SCHEDULES").unwrap_or_else(|| {
            let is_long = std::env::var("STOCK_DB_WRITER_TEST_SIZE").is_ok_and(|size| size == "long");
            if is_long { 1_000_000 } else { 10_000 }
        });
        let first = variable("STOCK_DB_WRITER_TEST_SEED").unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
        let begun = Instant::now();
        let mut tally = Tally::default();
        for seed in first..first + n_schedules {
            match catch_unwind(|| simulate(seed, Flaw::None)) {
                Ok(one) => tally.add(one),
                Err(panic) => {
                    eprintln!("STOCK_DB_WRITER_TEST_SEED={seed} STOCK_DB_WRITER_SIMULATION_SCHEDULES=1 shows it again");
                    resume_unwind(panic);
                }
            }
        }
        println!("{n_schedules} schedules from seed {first} in {:.1} s: {tally:#?}", begun.elapsed().as_secs_f64());
        for what in MET {
            assert!(n_schedules < 1_000 || tally.0.get(what).is_some_and(|n| *n > 0), "no schedule has met {what}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_schedule_again() {
        for seed in 0..50 {
            assert_eq!(simulate(seed, Flaw::None), simulate(seed, Flaw::None), "seed {seed}");
        }
    }

    #[test]
    fn each_guard_that_is_taken_out_is_missed() {
        for flaw in [Flaw::NoCompareAndSet, Flaw::NoEpoch, Flaw::NoLockRule] {
            // A hang is what the lock rule is against; the other guards are against wrong data.
            let shows = |seed: &u64| {
                let Err(panic) = catch_unwind(|| simulate(*seed, flaw)) else { return false };
                let message = panic.downcast_ref::<String>().map_or("", String::as_str);
                message.starts_with(NOT_WRITTEN) == (flaw == Flaw::NoLockRule)
            };
            let found = (0..20_000).find(shows);
            println!("{flaw:?}: found by schedule {found:?}");
            assert!(found.is_some(), "{flaw:?} is not missed");
        }
    }
}
