//! Ownership and irregularities, without servers: the test is the writers and the claimer.

use super::*;
use crate::claimer::{Answer, Desk, channels};
use crate::config::{Config, Sources};
use crate::fault::{Failure, Fault};
use crate::ledger::{LogIdentity, Standing};
use crate::outage::Outage;
use crate::record::Offset;
use crate::sink::{Durable, Truth};
use crossbeam_channel::bounded;

struct Bench {
    flow: Flow,
    desk: Desk,
    dispatches: (Sender<Dispatch>, Receiver<Dispatch>),
    durables_tx: Sender<Settlement>,
}

fn bench(exclusive: bool) -> Bench {
    let config = Config::load(&Sources::default()).expect("the defaults are right");
    let shared = Arc::new(Shared::new(&config, "me".to_owned(), Outage::new("database", None)));
    let limits = Limits { rows_max: 2, bytes_max: 9999, linger: Duration::ZERO, message_bytes_max: 9999 };
    let ((durables_tx, durables_rx), (claims, desk)) = (bounded(8), channels());
    let flow = Flow::new(limits, shared, exclusive, 8, durables_rx, claims);
    Bench { flow, desk, dispatches: bounded(8), durables_tx }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("stock_prices", number)
}

impl Bench {
    /// Owns these partitions and reads them from offset 0 under epoch 1.
    fn reading(mut self, numbers: &[i32]) -> Self {
        for number in numbers {
            let fenced = Backoff::unseeded(Duration::from_secs(1), Duration::from_secs(30));
            self.flow
                .owned
                .insert(partition(*number), Ownership { phase: Phase::Reading { again_from: None }, fenced });
            self.flow.read(&partition(*number), Epoch(1), NextOffset(0), None);
        }
        self
    }

    fn take_in(&mut self, number: i32, offset: i64) {
        let record =
            Incoming { offset: Offset(offset), leader_epoch: None, timestamp_ms: None, key: None, value: Some(b"x") };
        self.flow.take_in(&partition(number), record, Instant::now());
    }

    fn dispatch(&mut self) -> Vec<Dispatch> {
        self.flow.mark_verified();
        self.flow.dispatch(&self.dispatches.0);
        self.dispatches.1.try_iter().collect()
    }

    fn discard(&mut self, seq: Seq, cause: Discard) {
        self.durables_tx.send(Settlement::Discarded { seq, cause }).expect("there is room");
        self.flow.settle_all();
    }

    fn phase(&self, number: i32) -> &'static str {
        match self.flow.owned.get(&partition(number)).map(|ownership| &ownership.phase) {
            None => "not ours",
            Some(Phase::Unclaimed { .. }) => "unclaimed",
            Some(Phase::Asked(_)) => "asked",
            Some(Phase::Rowless) => "rowless",
            Some(Phase::Claimed { .. }) => "claimed",
            Some(Phase::Reading { .. }) => "reading",
        }
    }

    fn answer(&mut self, numbers: &[i32]) {
        let (ticket, _) = self.desk.questions_rx.try_recv().expect("a claim was asked for");
        let claim = |number: &i32| Claim {
            partition: partition(*number),
            epoch: Epoch(2),
            next: NextOffset(7),
            identity: LogIdentity { cluster_id: None, topic_id: None },
            leader_epoch: None,
        };
        let claims = Answer::Claims(numbers.iter().map(claim).collect());
        self.desk.answers_tx.send((ticket, Ok(claims))).expect("there is room");
        self.flow.take_answers();
    }
}

#[test]
fn records_of_partitions_that_are_not_claimed_are_not_taken_in() {
    let mut bench = bench(false).reading(&[0]);
    bench.take_in(1, 0);
    bench.flow.seal();
    assert!(bench.dispatch().is_empty());
}

#[test]
fn what_nobody_has_verified_is_not_sent() {
    let mut bench = bench(false).reading(&[0]);
    bench.take_in(0, 0);
    bench.take_in(0, 1);
    bench.flow.dispatch(&bench.dispatches.0);
    assert!(bench.dispatches.1.is_empty() && bench.flow.is_congested());
    assert_eq!(bench.flow.sealed_topics(), [Arc::from("stock_prices")]);
    assert_eq!(bench.dispatch().len(), 1);
}

#[test]
fn an_offset_below_the_position_is_noticed_and_not_taken_in() {
    let mut bench = bench(false).reading(&[0]);
    bench.take_in(0, 5);
    bench.take_in(0, 5);
    assert_eq!(bench.flow.cut, BTreeMap::from([(partition(0), NextOffset(5))]));
    bench.flow.seal();
    assert_eq!(bench.dispatch()[0].batch.len(), 1);
}

#[test]
fn what_a_later_leader_has_written_is_read_again_and_may_hold_no_record() {
    for record_at in [None, Some(6)] {
        let mut bench = bench(false).reading(&[0]);
        bench.flow.read(&partition(0), Epoch(1), NextOffset(8), Some(NextOffset(5)));
        bench.flow.note_position(&partition(0), NextOffset(5), Instant::now());
        if let Some(offset) = record_at {
            bench.take_in(0, offset);
        }
        bench.flow.note_position(&partition(0), NextOffset(7), Instant::now());
        let cut = record_at.map(|offset| (partition(0), NextOffset(offset)));
        assert_eq!(bench.flow.cut, cut.into_iter().collect());
    }
}

#[test]
fn a_client_that_falls_below_where_it_was_told_to_read_is_noticed() {
    // Where it was told to begin, each time; then what it has read to; where it fell to, and whether that is one.
    for (again_from, read_to, position, is_cut) in [
        (None, 8, 7, true),
        (Some(5), 5, 4, true),
        (Some(5), 7, 6, false),
        (Some(5), 8, 7, true),
        (Some(5), 9, 7, true),
    ] {
        let mut bench = bench(false).reading(&[0]);
        bench.flow.read(&partition(0), Epoch(1), NextOffset(8), again_from.map(NextOffset));
        bench.flow.note_position(&partition(0), NextOffset(read_to), Instant::now());
        assert_eq!(bench.flow.cut, BTreeMap::new());
        bench.flow.note_position(&partition(0), NextOffset(position), Instant::now());
        assert_eq!(!bench.flow.cut.is_empty(), is_cut, "{again_from:?} {read_to} {position}");
    }
}

#[test]
fn a_disagreement_makes_everything_be_claimed_again_once() {
    let mut bench = bench(false).reading(&[0, 1]);
    for offset in 0..4 {
        bench.take_in(0, offset);
    }
    let dispatched = bench.dispatch();
    assert_eq!(dispatched.len(), 2);
    bench.discard(dispatched[0].seq, Discard::Disagreement);
    assert_eq!((bench.phase(0), bench.phase(1)), ("unclaimed", "unclaimed"));
    assert!(bench.flow.shared.lane.is_cancelled(dispatched[1].seq));
    bench.flow.claim_due(Instant::now());
    bench.answer(&[0, 1]);
    bench.discard(dispatched[1].seq, Discard::Cancelled);
    assert_eq!((bench.phase(0), bench.phase(1)), ("claimed", "claimed"), "what follows it changes nothing");
}

#[test]
fn a_batch_of_an_older_claim_moves_nothing() {
    let mut bench = bench(false).reading(&[0]);
    bench.take_in(0, 0);
    bench.take_in(0, 1);
    let dispatched = bench.dispatch();
    bench.flow.start_over();
    bench.flow.read(&partition(0), Epoch(2), NextOffset(0), None);
    let durable = Durable::witnessed(dispatched[0].seq, &dispatched[0].batch);
    bench.durables_tx.send(Settlement::Durable(durable)).expect("there is room");
    bench.flow.settle_all();
    assert_eq!(bench.flow.tracker.durable(&partition(0)), Some(NextOffset(0)));
}

#[test]
fn a_fenced_member_does_not_claim_at_once() {
    let mut bench = bench(false).reading(&[0, 1]);
    bench.take_in(0, 0);
    bench.take_in(0, 1);
    let dispatched = bench.dispatch();
    let truth = Truth { next: NextOffset(0), epoch: Epoch(9), owner: "other".to_owned() };
    bench.discard(dispatched[0].seq, Discard::Fenced(vec![(partition(0), truth)]));
    bench.flow.claim_due(Instant::now());
    assert_eq!((bench.phase(0), bench.phase(1)), ("unclaimed", "unclaimed"));
    assert_eq!(bench.flow.stop, None);
    bench.flow.claim_due(Instant::now() + Duration::from_secs(60));
    assert_eq!((bench.phase(0), bench.phase(1)), ("asked", "asked"));
}

#[test]
fn a_process_that_was_told_its_partitions_ends_when_it_is_fenced() {
    let mut bench = bench(true).reading(&[0]);
    bench.take_in(0, 0);
    bench.take_in(0, 1);
    let dispatched = bench.dispatch();
    let truth = Truth { next: NextOffset(0), epoch: Epoch(9), owner: "other".to_owned() };
    bench.discard(dispatched[0].seq, Discard::Fenced(vec![(partition(0), truth)]));
    assert_eq!(bench.flow.stop.map(|stop| stop.code), Some(ExitCode::TryLater));
}

#[test]
fn an_answer_that_comes_after_the_partition_was_given_up_claims_nothing() {
    let mut bench = bench(false).reading(&[0, 1]);
    bench.flow.start_over();
    bench.flow.claim_due(Instant::now());
    bench.flow.forget(&[partition(0)]);
    bench.answer(&[0, 1]);
    assert_eq!((bench.phase(0), bench.phase(1)), ("not ours", "claimed"));
}

#[test]
fn a_claim_answered_under_an_older_question_is_asked_again() {
    let mut bench = bench(false).reading(&[0]);
    bench.flow.start_over();
    bench.flow.claim_due(Instant::now());
    bench.flow.start_over();
    bench.answer(&[0]);
    assert_eq!(bench.phase(0), "unclaimed");
    bench.flow.claim_due(Instant::now());
    bench.answer(&[0]);
    assert_eq!(bench.phase(0), "claimed");
}

#[test]
fn a_partition_without_a_row_is_made_one() {
    let mut bench = bench(false).reading(&[0, 1]);
    bench.flow.start_over();
    bench.flow.claim_due(Instant::now());
    bench.answer(&[0]);
    assert_eq!((bench.phase(0), bench.phase(1)), ("claimed", "rowless"));
}

#[test]
fn a_row_that_vanished_beneath_an_idle_worker_is_a_rewind() {
    let mut bench = bench(false).reading(&[0, 1]);
    let standing = |number| Standing {
        partition: partition(number),
        next: NextOffset(0),
        epoch: Epoch(1),
        identity: LogIdentity { cluster_id: None, topic_id: None },
        owner: Some("me".to_owned()),
        records_total: 0,
        rows_total: 0,
        dead_letters_total: 0,
        records_skipped: 0,
        updated_at: String::new(),
    };
    for (standings, phase) in [(vec![standing(0), standing(1)], "reading"), (vec![standing(1)], "unclaimed")] {
        bench.flow.ask_standings();
        let (ticket, _) = bench.desk.questions_rx.try_recv().expect("the standings were asked for");
        bench.desk.answers_tx.send((ticket, Ok(Answer::Standings(standings)))).expect("there is room");
        bench.flow.take_answers();
        assert_eq!((bench.phase(0), bench.phase(1)), (phase, phase));
    }
    assert!(bench.flow.pause_all && bench.flow.stop.is_none());
}

#[test]
fn a_claim_that_failed_for_a_while_is_asked_again_and_one_that_can_not_heal_stops() {
    let mut bench = bench(false).reading(&[0]);
    for (fault, stops) in [(Fault::Connection, false), (Fault::DatabaseGone, true)] {
        bench.flow.start_over();
        bench.flow.claim_due(Instant::now());
        let (ticket, _) = bench.desk.questions_rx.try_recv().expect("a claim was asked for");
        let failure = Failure { fault, sqlstate: None, message: "planned".to_owned(), origin: None };
        bench.desk.answers_tx.send((ticket, Err(failure))).expect("there is room");
        bench.flow.take_answers();
        assert_eq!((bench.phase(0), bench.flow.stop.is_some()), ("unclaimed", stops));
    }
}

#[test]
fn a_revoked_partition_is_cut_out_and_its_closed_batches_are_read_again() {
    let mut bench = bench(false).reading(&[0, 1]);
    for offset in 0..2 {
        bench.take_in(0, offset);
    }
    bench.take_in(1, 0);
    let callbacks = Callbacks(Arc::new(Mutex::new(bench.flow)));
    callbacks.revoked(&[partition(0)]);
    bench.flow = Arc::into_inner(callbacks.0).and_then(|flow| flow.into_inner().ok()).expect("nobody else has it");
    assert_eq!((bench.phase(0), bench.phase(1)), ("not ours", "unclaimed"));
    bench.flow.seal();
    assert!(bench.dispatch().is_empty());
}

#[test]
fn a_revocation_waits_for_what_is_in_flight() {
    let mut bench = bench(false).reading(&[0]);
    bench.take_in(0, 0);
    bench.take_in(0, 1);
    let Dispatch { seq, batch } = bench.dispatch().remove(0);
    let durables_tx = bench.durables_tx.clone();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        durables_tx.send(Settlement::Durable(Durable::witnessed(seq, &batch))).expect("there is room");
    });
    let callbacks = Callbacks(Arc::new(Mutex::new(bench.flow)));
    callbacks.revoked(&[partition(0)]);
    assert_eq!(locked(&callbacks.0).tracker.batches_in_flight(), 0);
    writer.join().expect("no panic");
}

#[test]
fn an_assignment_without_an_answer_of_the_database_stays_unread() {
    let bench = bench(false);
    let (callbacks, desk) = (Callbacks(Arc::new(Mutex::new(bench.flow))), bench.desk);
    assert_eq!(callbacks.assigned(&[partition(0)]), []);
    assert!(matches!(locked(&callbacks.0).owned[&partition(0)].phase, Phase::Asked(_)));
    drop(desk);
}

#[test]
fn a_static_member_that_is_put_out_again_and_again_ends_and_another_one_does_not() {
    for is_static in [true, false] {
        let mut bench = bench(false);
        bench.flow.is_static = is_static;
        let callbacks = Callbacks(Arc::new(Mutex::new(bench.flow)));
        for _ in 0..LOSSES_MAX {
            assert_eq!(locked(&callbacks.0).stop, None);
            callbacks.lost(&[partition(0)]);
        }
        let stop = locked(&callbacks.0).stop.take();
        assert_eq!(stop.map(|stop| stop.code), is_static.then_some(ExitCode::TryLater));
    }
}
