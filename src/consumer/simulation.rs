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

use super::{Consumer, Wiring};
use crate::batch::Batch;
use crate::claimer::{self, Answered, Desk};
use crate::clock::simulated;
use crate::config::{Config, Sources};
use crate::delivery::{Dispatch, Settlement};
use crate::lane::{Lane, Seq};
use crate::outage::Outage;
use crate::shutdown::Shutdown;
use crate::source::TopicState;
use crate::work::Work;
use crate::writer::{Attempt, Next, Progress, Shared};
use broker::{Broker, Client};
use crossbeam_channel::{Receiver, Sender, bounded};
use database::{DOWN_MAX, Database, Session, topic};
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

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

/// How often what has happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn add(&mut self, other: Tally) {
        for (what, n) in other.0 {
            *self.0.entry(what).or_default() += n;
        }
    }
}

/// All that is outside of the consumers.
struct World {
    random: RefCell<Rng>,
    now: Cell<Instant>,
    database: RefCell<Database>,
    broker: RefCell<Broker>,
    /// By member.
    processes: RefCell<Vec<Process>>,
    tally: RefCell<Tally>,
    faults_left: Cell<u32>,
    /// The group's offsets have moved.
    is_told: Cell<bool>,
}

/// A process without its consumer.
struct Process {
    is_alive: bool,
    is_frozen: bool,
    /// Polls that hear of nothing yet.
    zombie_polls: u32,
    shared: Arc<Shared>,
    desk: Desk,
    ledger: Session,
    // On their way.
    answers: VecDeque<Answered>,
    dispatches_rx: Receiver<Dispatch>,
    durables_tx: Sender<Settlement>,
    writers: Vec<Writer>,
}

/// A writer between two steps.
struct Writer {
    session: Session,
    current: Option<(Seq, Batch, Progress)>,
    paused_until: Option<Instant>,
    // On its way.
    settlement: Option<Settlement>,
}

impl Process {
    fn runs(&self) -> bool {
        self.is_alive && !self.is_frozen
    }

    /// The claimer answers one question; the answer arrives with a later step.
    fn claim(&mut self) {
        if let Some(answered) = self.answers.pop_front() {
            let _ = self.desk.answers_tx.send(answered);
        } else if let Ok((ticket, question)) = self.desk.questions_rx.try_recv() {
            let answer = claimer::answer(&mut self.ledger, question);
            self.answers.push_back((ticket, answer));
        }
    }

    /// One step of a writer; its settlement arrives with a later one.
    fn write(&mut self, nth: usize, now: Instant) {
        let Process { shared, writers, dispatches_rx, durables_tx, .. } = self;
        let writer = &mut writers[nth];
        if let Some(settlement) = writer.settlement.take() {
            let _ = durables_tx.send(settlement);
            return;
        }
        let (seq, batch, progress) = match writer.current.take() {
            Some(current) => current,
            None => match dispatches_rx.try_recv() {
                Ok(Dispatch { seq, batch }) => (seq, batch, Progress::new(shared, seq)),
                Err(_) => return,
            },
        };
        if writer.paused_until.is_some_and(|until| now < until) && !shared.lane.is_cancelled(seq) {
            writer.current = Some((seq, batch, progress));
            return;
        }
        writer.paused_until = None;
        let mut work = Work::decode(&batch, |topic| shared.topics.settings(topic));
        let mut attempt = Attempt::resume(shared, &mut writer.session, progress);
        match attempt.step(&mut work).expect("nothing here stops a process") {
            Next::Settled(settlement) => {
                writer.settlement = Some(settlement);
                return;
            }
            Next::Pause(pause) => writer.paused_until = Some(now + pause),
            Next::Step | Next::AwaitStart | Next::AwaitTurn(_) => {}
        }
        let progress = attempt.suspend();
        drop(work);
        writer.current = Some((seq, batch, progress));
    }
}

impl World {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn pass(&self, by: Duration) {
        self.now.set(self.now.get() + by);
        simulated::set(Some(self.now.get()));
    }

    fn below(&self, n: u64) -> u64 {
        self.random.borrow_mut().u64(0..n)
    }

    /// Whether a fault strikes here: once in so many times, as long as there are some left.
    fn strikes(&self, what: &'static str, one_in: u64) -> bool {
        let strikes = self.faults_left.get() > 0 && self.below(one_in) == 0;
        if strikes {
            self.faults_left.set(self.faults_left.get() - 1);
            self.tally.borrow_mut().count(what);
        }
        strikes
    }

    /// Whether a client that has thawed has not heard of anything yet.
    fn is_zombie(&self, member: usize) -> bool {
        let polls = &mut self.processes.borrow_mut()[member].zombie_polls;
        *polls = polls.saturating_sub(1);
        *polls > 0
    }

    fn members_but(&self, member: usize) -> Vec<usize> {
        let processes = self.processes.borrow();
        let others = processes.iter().enumerate().filter(|(number, process)| *number != member && process.is_alive);
        others.map(|(number, _)| number).collect()
    }

    fn running(&self) -> Vec<usize> {
        let processes = self.processes.borrow();
        processes.iter().enumerate().filter(|(_, process)| process.runs()).map(|(number, _)| number).collect()
    }

    fn any_running(&self) -> Option<usize> {
        let running = self.running();
        (!running.is_empty()).then(|| running[self.below(running.len() as u64) as usize])
    }

    /// One step of a claimer or a writer of any process.
    fn step_background(&self) {
        if let Some(member) = self.any_running() {
            let n_writers = self.processes.borrow()[member].writers.len();
            let which = self.below(n_writers as u64 + 1) as usize;
            let process = &mut self.processes.borrow_mut()[member];
            match which.checked_sub(1) {
                None => process.claim(),
                Some(writer) => process.write(writer, self.now()),
            }
        }
    }

    /// While a consumer waits, the others go on.
    fn meanwhile(&self) {
        self.pass(Duration::from_millis(1 + self.below(100)));
        self.step_background();
        self.check();
    }

    /// The promise.
    fn check(&self) {
        let mut database = self.database.borrow_mut();
        let broker = self.broker.borrow();
        let mut has_changed = self.is_told.take();
        if let Some(partitions) = database.changed() {
            has_changed = true;
            for (number, next, data) in partitions {
                let log = &broker.logs[number as usize];
                let due = &log[..log.partition_point(|offset| *offset < next)];
                assert!(data == due, "partition {number} at {next} holds {data:?}, and should hold {due:?}");
            }
        }
        if has_changed {
            for (number, committed) in broker.committed.iter().enumerate() {
                let durable = database.flushed_next(number as i32);
                assert!(
                    *committed <= durable,
                    "the group is at {committed} of partition {number}, durable is {durable}"
                );
            }
        }
    }

    fn is_drained(&self) -> bool {
        let (database, broker) = (self.database.borrow(), self.broker.borrow());
        broker
            .ends
            .iter()
            .enumerate()
            .all(|(number, end)| database.next(number as i32) == *end && broker.committed[number] == *end)
    }
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
    const MET: [&str; 17] = [
        "answers lost",
        "commits in doubt",
        "connections cut before a statement",
        "crashes of the database",
        "crashes that lost commits",
        "fenced",
        "lock timeouts",
        "offset commits refused",
        "partitions lost",
        "partitions moved",
        "polls of a zombie",
        "processes frozen",
        "processes joined",
        "processes killed",
        "processes stopped",
        "rewinds",
        "yields",
    ];

    #[test]
    fn in_whatever_order_things_happen_every_record_is_written_once() {
        let n_schedules = variable("STOCK_DB_WRITER_SIMULATION_SCHEDULES").unwrap_or(10_000);
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
