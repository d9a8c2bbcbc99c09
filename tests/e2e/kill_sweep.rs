//! kill -9 between any two socket writes of a run, one after the other, loses nothing and doubles nothing.
//!
//! A process that is killed leaves behind what it has written to its sockets, and nothing else: so these are all the
//! moments there are. Each has a run of its own, from the making of the tables to the last batch, on the same records,
//! whose fates are known by their offsets. What is in the database is compared with them twice: as the kill left it, and
//! after the next run.

use crate::harness::producer::{FIRST_TIME, Kcat, quote, symbol};
use crate::harness::{Invocation, LIMIT, Stage, broker, eventually_some, long, random};
use postgres::{IsolationLevel, Transaction};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Three batches of this size.
const BATCH: usize = 20;
const N_BATCHES: usize = 3;
/// How many moments the short form takes, for each number of writers.
const N_SHORT: u64 = 32;
const ARGUMENTS: [&str; 2] = ["run", "--until-end"];

/// What must come of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Row(i64),
    DeadLetter,
    Skip,
}

/// When in its write the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

struct Sweep {
    stage: Stage,
    // Of each partition, by offset.
    fates: BTreeMap<i32, Vec<Fate>>,
    library: PathBuf,
}

impl Sweep {
    fn new(test: &str) -> Sweep {
        let stage = Stage::new(test, 2);
        let source = stage.path("kill_at.c");
        let library = stage.path("kill_at.so");
        std::fs::write(&source, include_str!("kill_at.c")).expect("the directory takes files");
        let made = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("cc is there: Rust links by it");
        assert!(made.success(), "kill_at.c could not be compiled");
        let mut sweep = Sweep { stage, fates: BTreeMap::new(), library };
        // Unequal shares, so that a batch holds records of both.
        sweep.produce(0, BATCH * N_BATCHES / 2 + 5);
        sweep.produce(1, BATCH * N_BATCHES / 2 - 5);
        sweep
    }

    fn produce(&mut self, partition: i32, count: usize) {
        let mut kcat = Kcat::start(&self.stage.topic, Some(partition), "lz4");
        let fates = (0..count).map(|offset| match offset % 10 {
            3 => {
                kcat.line("K1", br#"{"symbol":"K1","price":"#);
                Fate::DeadLetter
            }
            7 => {
                kcat.line("K1", b"");
                Fate::Skip
            }
            _ => {
                let id = *self.stage.take(1).start();
                kcat.line(&symbol(id), quote(id).as_bytes());
                Fate::Row(id)
            }
        });
        let fates = fates.collect();
        kcat.finish();
        self.fates.insert(partition, fates);
    }

    fn n_records(&self) -> i64 {
        self.fates.values().map(|fates| fates.len() as i64).sum()
    }

    fn invocation(&self, n_writers: usize, group: &str) -> Invocation {
        let invocation = self.stage.invocation_of_all().set("kafka.group", group);
        invocation.set("batch.rows_max", BATCH).set("writers.count", n_writers)
    }

    /// Nothing has ever run.
    fn afresh(&self) {
        self.stage.execute(&format!("DROP SCHEMA {0} CASCADE; CREATE SCHEMA {0}", self.stage.name));
    }

    /// How many socket writes a run makes that nobody disturbs.
    fn n_writes(&self, n_writers: usize) -> u64 {
        self.afresh();
        let count = self.stage.path("count");
        let group = format!("{}_clean_{n_writers}", self.stage.name);
        let invocation = self
            .invocation(n_writers, &group)
            .env("LD_PRELOAD", self.library.display())
            .env("COUNT_FILE", count.display());
        let output = invocation.output(&ARGUMENTS).expect_code(0);
        assert_eq!(self.check(&group), self.n_records());
        let n_batches = output.stderr.lines().find_map(|line| line.rsplit_once("batches=")).expect("it counts them").1;
        assert!(n_batches.trim().parse().is_ok_and(|n: usize| n >= N_BATCHES), "{n_batches} batches");
        let count = std::fs::read_to_string(count).expect("the writes were counted");
        count.trim().parse().expect("a number")
    }

    /// Compares the database with the fates of all records below the offsets it says it is at, in one snapshot. Answers how
    /// many records that is.
    fn check(&self, group: &str) -> i64 {
        let mut client = self.stage.database();
        let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let mut snapshot = transaction.start().expect("PostgreSQL answers");
        let sql = "SELECT to_regclass('writer_offsets')::text, to_regclass('stock_prices')::text, \
                   to_regclass('writer_dead_letters')::text";
        let tables = snapshot.query_one(sql, &[]).expect("PostgreSQL answers");
        let tables: Vec<Option<String>> = (0..3).map(|idx| tables.get(idx)).collect();
        let mut next = BTreeMap::new();
        if tables.iter().any(Option::is_some) {
            assert!(tables.iter().all(Option::is_some), "half a schema: {tables:?}");
            next = self.check_counters(&mut snapshot);
            self.check_rows(&mut snapshot, &next);
            self.check_dead_letters(&mut snapshot, &next);
        }
        // Kafka's own offset follows, and is never ahead.
        for (partition, offset) in broker::group_offsets(group, &self.stage.topic) {
            let durable = next.get(&partition).copied().unwrap_or(0);
            assert!(offset <= durable, "Kafka was told {offset} of partition {partition}, and {durable} is durable");
        }
        next.values().sum()
    }

    /// The fates of the records that are done with, by partition and offset.
    fn done<'a>(&'a self, next: &'a BTreeMap<i32, i64>) -> impl Iterator<Item = (i32, i64, Fate)> + 'a {
        next.iter().flat_map(|(partition, next)| {
            let fates = self.fates[partition].iter().take(usize::try_from(*next).expect("an offset is not negative"));
            fates.enumerate().map(|(offset, fate)| (*partition, offset as i64, *fate))
        })
    }

    fn check_counters(&self, snapshot: &mut Transaction<'_>) -> BTreeMap<i32, i64> {
        let sql = "SELECT partition, next_offset, records_total, records_rows, records_dead, records_skipped, rows_total, \
                   dead_letters_total FROM writer_offsets ORDER BY partition";
        let mut next = BTreeMap::new();
        for row in snapshot.query(sql, &[]).expect("the bookkeeping can be read") {
            let partition: i32 = row.get(0);
            let [offset, total, rows, dead, skipped, all_rows, all_dead] =
                [1, 2, 3, 4, 5, 6, 7].map(|idx| row.get::<_, i64>(idx));
            next.insert(partition, offset);
            let only = BTreeMap::from([(partition, offset)]);
            let count = |kind: fn(Fate) -> bool| self.done(&only).filter(|(_, _, fate)| kind(*fate)).count() as i64;
            let (n_rows, n_dead) = (count(|fate| matches!(fate, Fate::Row(_))), count(|fate| fate == Fate::DeadLetter));
            let n_skipped = count(|fate| fate == Fate::Skip);
            assert_eq!(
                [total, rows, dead, skipped, all_rows, all_dead],
                [offset, n_rows, n_dead, n_skipped, n_rows, n_dead],
                "counters of partition {partition} at {offset}"
            );
        }
        next
    }

    fn check_rows(&self, snapshot: &mut Transaction<'_>, next: &BTreeMap<i32, i64>) {
        let sql = "SELECT price::bigint, symbol, volume::bigint, extract(epoch FROM \"timestamp\")::bigint, fetch_timestamp \
                   FROM stock_prices ORDER BY price";
        let rows = snapshot.query(sql, &[]).expect("the prices can be read");
        let found: Vec<(i64, String, i64, i64, i64)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect();
        let mut expected: Vec<_> = self
            .done(next)
            .filter_map(|(_, _, fate)| match fate {
                Fate::Row(id) => Some((id, symbol(id), id * 2, FIRST_TIME + id, FIRST_TIME + id)),
                _ => None,
            })
            .collect();
        expected.sort();
        assert_eq!(found, expected, "rows at {next:?}");
    }

    fn check_dead_letters(&self, snapshot: &mut Transaction<'_>, next: &BTreeMap<i32, i64>) {
        let sql = "SELECT partition, record_offset FROM writer_dead_letters ORDER BY partition, record_offset, element";
        let rows = snapshot.query(sql, &[]).expect("the dead letters can be read");
        let found: Vec<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let dead = self.done(next).filter(|(_, _, fate)| *fate == Fate::DeadLetter);
        let expected: Vec<(i32, i64)> = dead.map(|(partition, offset, _)| (partition, offset)).collect();
        assert_eq!(found, expected, "dead letters at {next:?}");
    }

    /// Kills one run at its `at`-th write, and lets the next one finish. `false` if it had ended before.
    fn kill(&self, n_writers: usize, moment: Moment, at: u64, tally: &mut Tally) -> bool {
        self.afresh();
        let group = format!("{}_{n_writers}_{moment:?}_{at}", self.stage.name);
        let invocation = self.invocation(n_writers, &group);
        let mut doomed = invocation.clone().env("LD_PRELOAD", self.library.display()).env("KILL_AT", at);
        if moment == Moment::After {
            doomed = doomed.env("KILL_AFTER", 1);
        }
        let output = doomed.output(&ARGUMENTS);
        let is_killed = output.code == 137;
        assert!(is_killed || output.code == 0, "exit code {} at write {at}: {}", output.code, output.stderr);
        let applied = self.check(&group);
        if is_killed {
            *tally.applied.entry(applied).or_default() += 1;
        } else {
            tally.n_survived += 1;
        }
        // The server may not have noticed yet that the holder of the pipeline's lock is dead: that is said, by 75.
        let output = eventually_some("the next run gets the pipeline's lock", LIMIT, || {
            let output = invocation.output(&ARGUMENTS);
            let is_held = output.code == 75 && output.stderr.contains("another run holds pipeline");
            tally.n_held += usize::from(is_held);
            (!is_held).then_some(output)
        });
        output.expect_code(0);
        assert_eq!(self.check(&group), self.n_records(), "{n_writers} writers, killed at write {at}");
        is_killed
    }

    fn of(&self, n_writers: usize, phase: u64) {
        let n_writes = self.n_writes(n_writers);
        let moments: &[Moment] = if long() { &[Moment::Before, Moment::After] } else { &[Moment::Before] };
        for moment in moments {
            let mut tally = Tally::default();
            let mut n_survived_in_a_row = 0;
            // No two runs make the same number of writes: the sweep ends where none is left to be killed at.
            let all = (1..).take_while(|at| long() || *at <= n_writes);
            let step = if long() { 1 } else { (n_writes / N_SHORT).max(1) };
            for at in all.filter(|at| *at == 1 || *at == n_writes || at % step == phase % step) {
                let is_killed = self.kill(n_writers, *moment, at, &mut tally);
                n_survived_in_a_row = if is_killed { 0 } else { n_survived_in_a_row + 1 };
                if n_survived_in_a_row == 3 {
                    break;
                }
            }
            println!(
                "{n_writers} writers: an undisturbed run makes {n_writes} socket writes; killed {moment:?} {} of them \
                 (each {step}th), {} runs ended first; records applied at the restart: {:?}; lock still held {} times",
                tally.n_killed(),
                tally.n_survived,
                tally.applied,
                tally.n_held
            );
            // A run may have made a few writes less than the one that was counted.
            let n_moments = n_writes / step;
            assert!(tally.n_killed() as u64 * 10 >= n_moments * 8, "only {} of {n_moments}", tally.n_killed());
            assert!(!long() || tally.applied.len() > N_BATCHES, "not between all batches: {:?}", tally.applied);
        }
    }
}

#[derive(Default)]
struct Tally {
    /// How many kills left so many records behind as done.
    applied: BTreeMap<i64, usize>,
    n_survived: usize,
    n_held: usize,
}

impl Tally {
    fn n_killed(&self) -> usize {
        self.applied.values().sum()
    }
}

/// strace sees the system calls themselves: what it counts and what is counted inside the process are the same.
#[test]
fn every_socket_write_is_counted() {
    let sweep = Sweep::new("kill_count");
    let (count, trace) = (sweep.stage.path("count"), sweep.stage.path("trace"));
    let set = |name: &str, value: &PathBuf| format!("{name}={}", value.display());
    let (preload, count_file) = (set("LD_PRELOAD", &sweep.library), set("COUNT_FILE", &count));
    let invocation = sweep.invocation(4, &sweep.stage.name).under(&[
        "strace",
        "-f",
        "-qq",
        "-yy",
        "-e",
        "signal=none",
        "-e",
        "trace=write,writev,sendto,sendmsg,sendmmsg,pwritev2",
        "-E",
        &preload,
        "-E",
        &count_file,
        "-o",
        trace.to_str().expect("the path is ASCII"),
    ]);
    invocation.output(&ARGUMENTS).expect_code(0);
    assert_eq!(sweep.check(&sweep.stage.name), sweep.n_records());
    let trace = std::fs::read_to_string(trace).expect("strace has written it");
    let is_socket_write = |line: &&str| {
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        call.split_once('<').is_some_and(|(name, rest)| name.contains('(') && rest.starts_with("TCP"))
    };
    let (seen, counted) = (trace.lines().filter(is_socket_write).count(), std::fs::read_to_string(count));
    println!("{seen} writes to TCP sockets seen by strace");
    assert_eq!(counted.expect("the writes were counted").trim(), seen.to_string());
    assert!(seen > 20, "a run that does something");
}

fn a_kill_at_any_write_is_survived(n_writers: usize) {
    let sweep = Sweep::new(&format!("kill_sweep_{n_writers}"));
    let phase = random(&sweep.stage.name).u64(..);
    sweep.of(n_writers, phase);
}

#[test]
fn a_kill_at_any_socket_write_of_one_writer_is_survived() {
    a_kill_at_any_write_is_survived(1);
}

#[test]
fn a_kill_at_any_socket_write_of_two_writers_is_survived() {
    a_kill_at_any_write_is_survived(2);
}

#[test]
fn a_kill_at_any_socket_write_of_four_writers_is_survived() {
    a_kill_at_any_write_is_survived(4);
}
