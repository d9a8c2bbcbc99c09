//! The outcome table, with a sink that fails as it is told to.

use super::attempt::*;
use super::*;
use crate::batch::Batch;
use crate::batch::{Batcher, Epoch, Incoming, Limits};
use crate::config::Sources;
use crate::delivery::Discard;
use crate::exit::ExitCode;
use crate::fault::Failure;
use crate::fault::Fault;
use crate::lane::Seq;
use crate::record::{NextOffset, Offset, TopicPartition};
use crate::row::Origin;
use crate::sink::CommitFailure;
use crate::sink::Durable;
use crate::sink::Pieces;
use crate::sink::Truth;
use crate::work::Work;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const QUOTE: &[u8] = br#"{"symbol":"AAPL","price":1.5,"timestamp":1704207845}"#;

/// Answers from its lists, in order; where a list is empty, all is well.
#[derive(Default)]
struct Scripted {
    stages: VecDeque<Failure>,
    advances: VecDeque<Result<bool, Failure>>,
    commits: VecDeque<CommitFailure>,
    truths: VecDeque<Result<(i64, i64, &'static str), Failure>>,
    // Rows that are refused when they come in pieces.
    refused: BTreeMap<Origin, String>,
    // What happens meanwhile.
    in_pieces: Option<Box<dyn FnOnce()>>,
    // How they came, and because of what.
    pieces: Vec<(Pieces, Option<Fault>)>,
    calls: Vec<&'static str>,
    // Rows and dead letters of the last `stage`.
    staged: (usize, usize),
}

impl Sink for Scripted {
    fn stage(&mut self, work: &mut Work<'_>) -> Result<(), Failure> {
        self.calls.push("stage");
        self.staged = (work.decoded.prices.len(), work.decoded.dead_letters.len());
        self.stages.pop_front().map_or(Ok(()), Err)
    }

    fn stage_in_pieces(
        &mut self,
        work: &mut Work<'_>,
        pieces: Pieces,
        refusal: Option<&Failure>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Failure> {
        self.calls.push("pieces");
        self.pieces.push((pieces, refusal.map(|refusal| refusal.fault)));
        if let Some(happens) = self.in_pieces.take() {
            happens();
        }
        if !go_on() {
            return Ok(false);
        }
        if let Some(failure) = self.stages.pop_front() {
            return Err(failure);
        }
        work.refuse(&self.refused);
        self.staged = (work.decoded.prices.len(), work.decoded.dead_letters.len());
        Ok(true)
    }

    fn advance(&mut self, _: &Work<'_>) -> Result<bool, Failure> {
        self.calls.push("advance");
        self.advances.pop_front().unwrap_or(Ok(true))
    }

    fn commit(&mut self, seq: Seq, batch: &Batch) -> Result<Durable, CommitFailure> {
        self.calls.push("commit");
        self.commits.pop_front().map_or_else(|| Ok(Durable::witnessed(seq, batch)), Err)
    }

    fn rollback(&mut self) {
        self.calls.push("rollback");
    }

    fn truth(&mut self, batch: &Batch) -> Result<BTreeMap<TopicPartition, Truth>, Failure> {
        self.calls.push("truth");
        let (next, epoch, owner) = self.truths.pop_front().expect("the test says what is true")?;
        let truth = Truth { next: NextOffset(next), epoch: Epoch(epoch), owner: owner.to_owned() };
        Ok(batch.intervals().iter().map(|interval| (interval.partition.clone(), truth.clone())).collect())
    }

    fn disconnect(&mut self) {
        self.calls.push("disconnect");
    }
}

fn failure(fault: Fault, sqlstate: Option<&str>) -> Failure {
    Failure { fault, sqlstate: sqlstate.map(str::to_owned), message: "planned".to_owned(), origin: None }
}

fn lost() -> Failure {
    failure(Fault::Connection, None)
}

fn shared() -> Shared {
    let sources = Sources { set: vec!["retry.initial_ms=1".to_owned()], ..Sources::default() };
    let config = Config::load(&sources).expect("the defaults are right");
    Shared::new(&config, "me".to_owned(), Outage::new("database", None))
}

/// Offsets 10 and 11, claimed under epoch 3.
fn batch() -> Batch {
    let limits = Limits { rows_max: 9, bytes_max: 9999, linger: Duration::ZERO, message_bytes_max: 9999 };
    let (mut batcher, partition) = (Batcher::new(limits), TopicPartition::new("stock_prices", 0));
    batcher.follow(partition.clone(), Epoch(3), NextOffset(10));
    for offset in [10, 11] {
        let record = Incoming {
            offset: Offset(offset),
            leader_epoch: None,
            timestamp_ms: Some(0),
            key: None,
            value: Some(QUOTE),
        };
        batcher.push(&partition, record, Instant::now());
    }
    batcher.seal().expect("two records were pushed")
}

fn write_with(shared: &Shared, sink: &mut Scripted) -> Result<Settlement, Stop> {
    Attempt::new(shared, sink, Seq(0)).write(&batch())
}

/// Writes one batch; says whether it became durable, and the calls made.
fn write(mut sink: Scripted) -> (bool, Vec<&'static str>) {
    let settlement = write_with(&shared(), &mut sink).expect("nothing here stops the process");
    (matches!(settlement, Settlement::Durable(_)), sink.calls)
}

#[test]
fn a_batch_is_staged_advanced_and_committed_in_that_order() {
    assert_eq!(write(Scripted::default()), (true, vec!["stage", "advance", "commit"]));
}

#[test]
fn a_connection_lost_before_commit_is_redone_without_asking() {
    let sink = Scripted { advances: [Err(lost())].into(), ..Scripted::default() };
    let again = ["stage", "advance", "disconnect", "stage", "advance", "commit"];
    assert_eq!(write(sink), (true, again.to_vec()));
}

/// With pauses of up to 30 s, half an hour is some 70 attempts.
#[test]
fn an_outage_of_any_length_ends_with_the_batch_written_once() {
    let away = [(Fault::Connection, "57P03"), (Fault::Connection, "57P01"), (Fault::WrongNode, "25006")];
    let outage = away.into_iter().cycle().take(100).map(|(fault, sqlstate)| failure(fault, Some(sqlstate)));
    let shared = Shared { retry: Retry { max: Duration::from_millis(1), ..shared().retry }, ..shared() };
    let mut sink = Scripted { stages: outage.collect(), ..Scripted::default() };
    let settlement = write_with(&shared, &mut sink).expect("nothing here stops the process");
    assert!(matches!(settlement, Settlement::Durable(_)));
    let count = |call: &str| sink.calls.iter().filter(|made| **made == call).count();
    assert_eq!((count("stage"), count("commit"), sink.staged), (101, 1, (2, 0)));
}

/// Writes one batch, while another thread does something once the database is known to be away.
fn write_and_once_away(shared: &Shared, sink: &mut Scripted, then: impl FnOnce() + Send) -> Result<Settlement, Stop> {
    let is_written = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !shared.database.is_away() && !is_written.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            then();
        });
        let settlement = write_with(shared, sink);
        is_written.store(true, Ordering::Relaxed);
        settlement
    })
}

#[test]
fn a_writer_goes_on_when_somebody_else_has_seen_the_database_come_back() {
    const HOUR: Duration = Duration::from_secs(3600);
    let shared = Shared { retry: Retry { initial: HOUR, max: HOUR, ..shared().retry }, ..shared() };
    let mut sink = Scripted { stages: [lost()].into(), ..Scripted::default() };
    let settlement = write_and_once_away(&shared, &mut sink, || shared.database.back());
    assert!(matches!(settlement, Ok(Settlement::Durable(_))));
    assert_eq!(sink.calls, ["stage", "disconnect", "stage", "advance", "commit"]);
}

#[test]
fn a_commit_in_doubt_that_was_applied_is_not_written_again() {
    let commits = [CommitFailure::InDoubt(lost())].into();
    let sink = Scripted { commits, truths: [Ok((12, 3, "me"))].into(), ..Scripted::default() };
    assert_eq!(write(sink), (true, vec!["stage", "advance", "commit", "disconnect", "truth"]));
}

#[test]
fn a_commit_in_doubt_that_was_not_applied_is_written_again() {
    let commits = [CommitFailure::InDoubt(lost())].into();
    let sink = Scripted { commits, truths: [Err(lost()), Ok((10, 3, "me"))].into(), ..Scripted::default() };
    let again =
        ["stage", "advance", "commit", "disconnect", "truth", "disconnect", "truth", "stage", "advance", "commit"];
    assert_eq!(write(sink), (true, again.to_vec()));
}

#[test]
fn an_error_in_answer_to_commit_means_not_applied() {
    let refused = CommitFailure::NotApplied(failure(Fault::Transaction, Some("40001")));
    let sink = Scripted { commits: [refused].into(), ..Scripted::default() };
    let again = ["stage", "advance", "commit", "rollback", "stage", "advance", "commit"];
    assert_eq!(write(sink), (true, again.to_vec()));
}

#[test]
fn a_zombie_discards_its_batch_and_counts_it() {
    let (shared, truths) = (shared(), [Ok((10, 4, "other"))].into());
    let mut sink = Scripted { advances: [Ok(false)].into(), truths, ..Scripted::default() };
    let settlement = write_with(&shared, &mut sink).expect("being fenced stops nothing here");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Fenced(_), .. }));
    assert_eq!(shared.metrics.fenced.get(), 1);
    assert_eq!(sink.calls, ["stage", "advance", "rollback", "truth"]);
}

#[test]
fn our_own_newer_claim_only_discards() {
    let mut sink = Scripted { advances: [Ok(false)].into(), truths: [Ok((10, 4, "me"))].into(), ..Scripted::default() };
    let settlement = write_with(&shared(), &mut sink).expect("nothing stops");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Cancelled, .. }));
}

#[test]
fn a_database_that_went_back_discards_and_asks_for_the_truth() {
    let shared = shared();
    let mut sink = Scripted { advances: [Ok(false)].into(), truths: [Ok((4, 3, "me"))].into(), ..Scripted::default() };
    let settlement = write_with(&shared, &mut sink).expect("a rewind stops nothing");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Disagreement, .. }));
    assert_eq!(shared.metrics.rewinds.get(), 1);
}

#[test]
fn a_position_inside_the_batch_ends_the_process() {
    let mut sink = Scripted { advances: [Ok(false)].into(), truths: [Ok((11, 3, "me"))].into(), ..Scripted::default() };
    let stop = write_with(&shared(), &mut sink).expect_err("nothing that this program does leads there");
    assert_eq!(stop.code, ExitCode::InvariantBroken);
}

fn one_bad_row() -> Scripted {
    let refused = BTreeMap::from([(Origin { record_idx: 1, element: 0 }, "23514".to_owned())]);
    Scripted { refused, ..Scripted::default() }
}

#[test]
fn a_refused_row_becomes_a_dead_letter_beside_its_neighbour() {
    let stages = [failure(Fault::Record, Some("23514"))].into();
    let (shared, mut sink) = (shared(), Scripted { stages, ..one_bad_row() });
    let settlement = write_with(&shared, &mut sink).expect("one bad row stops nothing");
    assert!(matches!(settlement, Settlement::Durable(_)));
    assert_eq!(sink.calls, ["stage", "rollback", "pieces", "advance", "commit"]);
    assert_eq!(sink.pieces, [(Pieces { in_turn: false, n_min: 1 }, Some(Fault::Record))]);
    assert_eq!((sink.staged, shared.metrics.totals().dead_letters), ((1, 1), 1));
    assert_eq!(shared.metrics.yields.get(), 0, "nobody else is held up");
}

#[test]
fn a_row_that_is_refused_in_the_turn_or_at_commit_is_searched_for_in_the_turn_alone() {
    let refusal = || failure(Fault::UniqueKey, Some("23505"));
    let at_commit = [CommitFailure::NotApplied(refusal())].into();
    for sink in [
        Scripted { advances: [Err(refusal())].into(), ..one_bad_row() },
        Scripted { commits: at_commit, ..one_bad_row() },
    ] {
        let (shared, mut sink) = (shared(), sink);
        let settlement = write_with(&shared, &mut sink).expect("one bad row stops nothing");
        assert!(matches!(settlement, Settlement::Durable(_)));
        assert_eq!(sink.pieces, [(Pieces { in_turn: true, n_min: 1 }, Some(Fault::UniqueKey))]);
        assert_eq!((sink.staged, shared.metrics.yields.get()), ((1, 1), 1));
        // What was behind it starts as soon as it has passed.
        assert!(shared.lane.wait_to_start(Seq(1)) && shared.lane.wait_to_start(Seq(2)));
    }
}

#[test]
fn a_row_that_is_refused_before_the_turn_and_another_in_it_are_both_searched_for() {
    let stages = [failure(Fault::Record, Some("23514"))].into();
    let advances = [Err(failure(Fault::Record, Some("23514")))].into();
    let mut sink = Scripted { stages, advances, ..one_bad_row() };
    let settlement = write_with(&shared(), &mut sink).expect("bad rows stop nothing");
    assert!(matches!(settlement, Settlement::Durable(_)));
    assert_eq!(sink.pieces.iter().map(|(pieces, _)| pieces.in_turn).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_batch_that_is_refused_though_each_row_is_taken_stops_with_data_needs_decision() {
    let refusal = || CommitFailure::NotApplied(failure(Fault::Record, Some("23514")));
    let mut sink = Scripted { commits: [refusal(), refusal()].into(), ..Scripted::default() };
    let stop = write_with(&shared(), &mut sink).expect_err("dropping the batch would lose its rows");
    assert_eq!(stop.code, ExitCode::DataNeedsDecision);
    assert!(stop.message.contains("stock_prices/0 at 10, but none of its rows alone: planned"), "{}", stop.message);
    assert_eq!(sink.calls.last(), Some(&"rollback"));
}

#[test]
fn a_search_that_is_cut_off_begins_anew() {
    let stages = [failure(Fault::Record, Some("P0001")), lost()].into();
    let mut sink = Scripted { stages, ..one_bad_row() };
    let settlement = write_with(&shared(), &mut sink).expect("an outage stops nothing");
    assert!(matches!(settlement, Settlement::Durable(_)));
    assert_eq!(sink.calls, ["stage", "rollback", "pieces", "disconnect", "pieces", "advance", "commit"]);
    assert_eq!(sink.staged, (1, 1));
}

#[test]
fn a_search_is_given_up_when_the_batch_is_cancelled() {
    let (shared, stages) = (Arc::new(shared()), [failure(Fault::Record, Some("23514"))].into());
    let lane = shared.clone();
    let in_pieces: Option<Box<dyn FnOnce()>> = Some(Box::new(move || lane.lane.stop_below(Seq(1))));
    let mut sink = Scripted { stages, in_pieces, ..one_bad_row() };
    let settlement = write_with(&shared, &mut sink).expect("nothing stops");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Cancelled, .. }));
    assert_eq!(sink.calls, ["stage", "rollback", "pieces"]);
}

#[test]
fn what_takes_too_long_twice_is_sent_in_halves_and_becomes_no_dead_letter() {
    let slow = || failure(Fault::Statement, Some("57014"));
    let (shared, stages) = (shared(), [slow(), slow(), slow()].into());
    let mut sink = Scripted { stages, advances: [Err(slow())].into(), ..Scripted::default() };
    let settlement = write_with(&shared, &mut sink).expect("patience stops nothing");
    assert!(matches!(settlement, Settlement::Durable(_)));
    let pieces = |in_turn, n_min| (Pieces { in_turn, n_min }, None);
    assert_eq!(sink.pieces, [pieces(false, 2), pieces(false, 4), pieces(true, 8)]);
    assert_eq!((sink.staged, shared.metrics.totals().dead_letters), ((2, 0), 0));
}

#[test]
fn a_flood_of_dead_letters_stops_before_anything_of_it_is_written() {
    let limits = Limits { rows_max: 999, bytes_max: 9999, linger: Duration::ZERO, message_bytes_max: 9999 };
    let (mut batcher, partition) = (Batcher::new(limits), TopicPartition::new("stock_prices", 0));
    batcher.follow(partition.clone(), Epoch(3), NextOffset(0));
    for offset in 0..100 {
        let record = Incoming {
            offset: Offset(offset),
            leader_epoch: None,
            timestamp_ms: Some(0),
            key: None,
            value: Some(b"{\"a\":1}"),
        };
        batcher.push(&partition, record, Instant::now());
    }
    let (shared, mut sink) = (shared(), Scripted::default());
    let flood = batcher.seal().expect("records were pushed");
    let stop = Attempt::new(&shared, &mut sink, Seq(0)).write(&flood).expect_err("no record has a known shape");
    assert_eq!(stop.code, ExitCode::DataNeedsDecision);
    assert_eq!(sink.calls, ["stage", "rollback"]);
}

#[test]
fn a_fault_that_is_not_in_the_table_stops() {
    let mut sink = Scripted { stages: [failure(Fault::Unlisted, Some("F0001"))].into(), ..Scripted::default() };
    let stop = write_with(&shared(), &mut sink).expect_err("the default is to stop");
    assert_eq!(stop.code, ExitCode::InvariantBroken);
}

#[test]
fn a_head_that_meets_a_lock_makes_the_others_yield() {
    let (shared, locked) = (shared(), failure(Fault::Lock, Some("55P03")));
    let mut sink = Scripted { advances: [Err(locked)].into(), ..Scripted::default() };
    let settlement = write_with(&shared, &mut sink).expect("a lock stops nothing");
    assert!(matches!(settlement, Settlement::Durable(_)));
    assert_eq!(shared.metrics.yields.get(), 1);
}

#[test]
fn locks_that_are_met_again_and_again_do_not_make_pieces_of_a_batch() {
    let locked = || failure(Fault::Lock, Some("55P03"));
    let mut sink = Scripted { stages: [locked(), locked(), locked()].into(), ..Scripted::default() };
    let settlement = write_with(&shared(), &mut sink).expect("a lock stops nothing");
    assert!(matches!(settlement, Settlement::Durable(_)));
    assert_eq!(sink.pieces, []);
}

#[test]
fn what_is_missing_is_waited_for_within_the_grace_and_not_longer() {
    for (grace, waits) in [(Duration::from_secs(3600), true), (Duration::ZERO, false)] {
        let shared = Shared { grace, ..shared() };
        let mut sink = Scripted { stages: [failure(Fault::Schema, Some("42P01"))].into(), ..Scripted::default() };
        match write_with(&shared, &mut sink) {
            Ok(settlement) => assert!(waits && matches!(settlement, Settlement::Durable(_))),
            Err(stop) => assert!(!waits && stop.code == Fault::Schema.exit_code(), "{stop:?}"),
        }
    }
}

/// A batch whose connection is lost, and that is cancelled a while later: it has not been tried again by then.
fn waits_after_a_lost_connection(shared: &Shared) {
    let mut sink = Scripted { stages: [lost()].into(), ..Scripted::default() };
    let settlement = write_and_once_away(shared, &mut sink, || {
        std::thread::sleep(Duration::from_millis(300));
        shared.lane.stop_below(Seq(1));
    });
    assert!(matches!(settlement, Ok(Settlement::Discarded { cause: Discard::Cancelled, .. })));
    assert_eq!(sink.calls, ["stage", "disconnect"]);
}

#[test]
fn between_two_attempts_a_writer_waits() {
    const HOUR: Duration = Duration::from_secs(3600);
    waits_after_a_lost_connection(&Shared { retry: Retry { initial: HOUR, max: HOUR, ..shared().retry }, ..shared() });
}

/// The session that holds it may have been lost as well.
#[test]
fn after_a_lost_connection_nothing_is_written_before_the_pipelines_lock_is_confirmed() {
    waits_after_a_lost_connection(&Shared { pipeline_lock: Some(PipelineLock::taken()), ..shared() });
}

#[test]
fn a_cancelled_batch_touches_nothing() {
    let (shared, mut sink) = (shared(), Scripted::default());
    shared.lane.stop_below(Seq(1));
    let settlement = write_with(&shared, &mut sink).expect("nothing stops");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Cancelled, .. }));
    assert_eq!(sink.calls, Vec::<&str>::new());
}

/// As of a process that was frozen: the next owner has written the same dead letters, and committed them with its offsets.
#[test]
fn letters_that_somebody_else_has_written_mean_that_the_partitions_are_theirs() {
    let own_key = || failure(Fault::OwnKey, Some("23505"));
    let mut sink =
        Scripted { stages: [own_key()].into(), truths: [Ok((12, 4, "another"))].into(), ..Scripted::default() };
    let settlement = write_with(&shared(), &mut sink).expect("being fenced stops nothing");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Fenced(_), .. }), "{settlement:?}");
    assert_eq!(sink.calls, ["stage", "rollback", "truth"]);

    let mut sink = Scripted { stages: [own_key()].into(), truths: [Ok((10, 3, "me"))].into(), ..Scripted::default() };
    let stop = write_with(&shared(), &mut sink).expect_err("nobody else can have written them");
    assert_eq!(stop.code, ExitCode::InvariantBroken);
}

#[test]
fn letters_that_are_there_before_our_turn_are_judged_in_it() {
    let shared = shared();
    let mut sink = Scripted {
        stages: (0..100_000).map(|_| failure(Fault::OwnKey, Some("23505"))).collect(),
        truths: [Ok((12, 4, "another"))].into(),
        ..Scripted::default()
    };
    let settlement = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            shared.lane.advance(Seq(0));
        });
        Attempt::new(&shared, &mut sink, Seq(1)).write(&batch())
    });
    let settlement = settlement.expect("being fenced stops nothing");
    assert!(matches!(settlement, Settlement::Discarded { cause: Discard::Fenced(_), .. }), "{settlement:?}");
}
