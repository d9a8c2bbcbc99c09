//! Chaos: real workers, a real Kafka and a real PostgreSQL, everything that can go wrong at once, and a ledger.
//!
//! A run is a row of episodes. Each has a stage of its own, workers set up by chance, and some lanes of faults side by side;
//! in it, the database is compared with the ledger again and again, and at its end field by field. The seed gives the
//! plan: set-ups, faults, their order and their measures (the machine's own timing can't be had again). Every source of
//! chaos is drawn at least once, and proves that it has fired. `dev/chaos` starts the servers for it and runs it.

mod field;
mod sources;
mod tally;
mod wire;

#[path = "../e2e"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod shared {
    pub mod harness;
}
use shared::harness;

use field::{Field, Setup};
use harness::Stage;
use sources::Source;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};
use tally::Tally;
use wire::Wire;

/// Partitions of prices at the beginning of an episode.
const N_PARTITIONS: i32 = 3;
/// Faults in an episode.
const N_FAULTS: usize = 12;
/// Faults that go on at the same time, at most.
const N_LANES: usize = 3;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What happens in an episode: lanes of sources, each with a pause before it and chance of its own.
struct Plan {
    setup: Setup,
    lanes: [Vec<(Duration, Source, fastrand::Rng)>; N_LANES],
}

impl Plan {
    /// Takes from the deck what fits, and fills up by chance.
    fn draw(random: &mut fastrand::Rng, deck: &mut Vec<Source>, allowed: &[Source]) -> Plan {
        let mut setup = Setup::draw(random);
        // A crash that loses commits is possible with this only, and then it is what the episode is for.
        setup.synchronous_commit = random.u32(0..4) > 0;
        if deck.first() == Some(&Source::AsyncCrash) {
            setup.synchronous_commit = false;
        }
        let mut chosen: Vec<Source> = Vec::new();
        deck.retain(|source| {
            let taken = chosen.len() < N_FAULTS && source.fits(&setup, &chosen);
            if taken {
                chosen.push(*source);
            }
            !taken
        });
        for _ in 0..4 * N_FAULTS {
            let source = allowed[random.usize(0..allowed.len())];
            if chosen.len() < N_FAULTS && source.fits(&setup, &chosen) {
                chosen.push(source);
            }
        }
        random.shuffle(&mut chosen);
        let mut lanes = [const { Vec::new() }; N_LANES];
        for (nth, source) in chosen.into_iter().enumerate() {
            lanes[nth % N_LANES].push((Duration::from_millis(random.u64(0..2_000)), source, random.fork()));
        }
        Plan { setup, lanes }
    }
}

fn episode(nth: u64, plan: Plan, kafka_wire: &Wire, tally: &Tally) {
    let begun = Instant::now();
    let Plan { setup, lanes } = plan;
    let names: Vec<Vec<String>> =
        lanes.iter().map(|lane| lane.iter().map(|(_, source, _)| source.name()).collect()).collect();
    println!("episode {nth}: {setup:?}, {names:?}");
    tally.add(format!("episodes: {:?}, {} writers", setup.sharing, setup.n_writers), 1);
    let stage = Stage::new(&format!("chaos{nth}"), N_PARTITIONS);
    let field = Field::open(&stage, setup, kafka_wire, tally);
    // Whatever fails first must not leave the others waiting for it.
    let guarded = |work: &mut dyn FnMut()| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            field.give_up();
            resume_unwind(panic);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| guarded(&mut || field.supervise()));
        scope.spawn(|| guarded(&mut || field.keep_auditing()));
        let lanes = lanes.map(|lane| {
            let (field, guarded) = (&field, &guarded);
            scope.spawn(move || {
                for (pause, source, mut random) in lane {
                    if field.is_over() {
                        return;
                    }
                    thread::sleep(pause);
                    let begun = Instant::now();
                    guarded(&mut || source.fire(field, &mut random));
                    println!("  {}: {:.1} s", source.name(), begun.elapsed().as_secs_f64());
                }
            })
        });
        let ended = lanes.map(|lane| lane.join());
        guarded(&mut || {
            assert!(ended.iter().all(Result::is_ok), "a source of chaos has failed");
            field.close();
        });
    });
    println!("episode {nth}: {:.1} s", begun.elapsed().as_secs_f64());
}

#[test]
fn whatever_happens_every_record_meets_its_fate_exactly_once() {
    let minutes: f64 = variable("STOCK_DB_WRITER_CHAOS_MINUTES").map_or(0.0, |text| text.parse().expect("a number"));
    let only = variable("STOCK_DB_WRITER_CHAOS_ONLY").unwrap_or_default();
    let allowed: Vec<Source> = Source::ALL
        .iter()
        .copied()
        .filter(|source| only.is_empty() || only.split(',').any(|name| name == source.name()))
        .collect();
    let is_known = |name: &&str| Source::ALL.iter().any(|source| source.name() == *name);
    assert!(only.is_empty() || only.split(',').all(|name| is_known(&name)), "no such source: {only}");
    let address = |name: &str| variable(name).unwrap_or_else(|| panic!("{name} is not set: run dev/chaos"));
    let kafka_wire = Wire::start(&address("CHAOS_KAFKA_ADVERTISED"), &address("CHAOS_KAFKA_LISTENER"));
    let mut random = harness::random("chaos");
    let (tally, begun) = (Tally::default(), Instant::now());
    let mut deck = allowed.clone();
    random.shuffle(&mut deck);
    for nth in 1.. {
        if deck.is_empty() && begun.elapsed().as_secs_f64() >= minutes * 60.0 {
            break;
        }
        let plan = Plan::draw(&mut random, &mut deck, &allowed);
        episode(nth, plan, &kafka_wire, &tally);
    }
    println!("\n{}", tally.table());
    for source in allowed {
        assert!(tally.get(&format!("fault: {}", source.name())) > 0, "{source:?} has never fired");
    }
    assert!(tally.get("fault: bad-records") > 0 && tally.get("checked: snapshots during chaos") > 0);
    println!("{:.1} minutes", begun.elapsed().as_secs_f64() / 60.0);
}
