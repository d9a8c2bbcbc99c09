//! The turnstile, by ordinary threads. Beside it and not inside: tests/interleavings takes the file as it is.

use super::lane::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

#[test]
fn batches_pass_in_their_order_whatever_order_they_arrive_in() {
    let lane = Arc::new(Lane::new());
    let passed = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = [3, 1, 2, 0]
        .map(|seq| {
            let (lane, passed) = (lane.clone(), passed.clone());
            std::thread::spawn(move || {
                assert_eq!(lane.wait_for_turn(Seq(seq), LONG), Passage::Turn);
                passed.lock().expect("no panic holds it").push(seq);
                lane.advance(Seq(seq));
            })
        })
        .into();
    for thread in threads {
        thread.join().expect("no writer panics");
    }
    assert_eq!(*passed.lock().expect("no panic holds it"), [0, 1, 2, 3]);
}

#[test]
fn the_head_sends_waiting_writers_back_and_they_start_again_after_it() {
    let lane = Arc::new(Lane::new());
    let waiting = {
        let lane = lane.clone();
        std::thread::spawn(move || lane.wait_for_turn(Seq(1), LONG))
    };
    lane.yield_to(Seq(0));
    assert_eq!(waiting.join().expect("no panic"), Passage::Yield);
    let restarted = {
        let lane = lane.clone();
        std::thread::spawn(move || lane.wait_to_start(Seq(1)))
    };
    assert!(lane.wait_to_start(Seq(0)), "the head itself never waits");
    lane.advance(Seq(0));
    assert!(restarted.join().expect("no panic"));
    assert_eq!(lane.wait_for_turn(Seq(1), LONG), Passage::Turn);
}

#[test]
fn after_a_conflict_batches_begin_one_after_the_other_for_a_while() {
    let lane = Arc::new(Lane::new());
    assert!(lane.yield_to(Seq(0)));
    lane.advance(Seq(0));
    let next = {
        let lane = lane.clone();
        std::thread::spawn(move || lane.wait_to_start(Seq(2)))
    };
    assert!(lane.wait_to_start(Seq(1)), "the head begins at once");
    assert!(lane.wait_to_start(Seq(100)), "and so does what comes much later");
    assert!(!next.is_finished());
    lane.advance(Seq(1));
    assert!(next.join().expect("no panic"));
}

#[test]
fn a_head_that_takes_care_calls_back_those_behind_it_but_makes_nobody_serial() {
    let lane = Lane::new();
    assert!(!lane.clear_behind(Seq(1)), "only the head may");
    assert!(lane.clear_behind(Seq(0)) && !lane.clear_behind(Seq(0)));
    assert!(lane.is_called_back(Seq(1)) && !lane.is_called_back(Seq(0)));
    assert_eq!((lane.try_start(Seq(0)), lane.try_start(Seq(1))), (Some(true), None));
    assert_eq!(lane.wait_for_turn(Seq(1), LONG), Passage::Yield);
    lane.advance(Seq(0));
    assert!(lane.wait_to_start(Seq(2)), "although 1 is the head");
    assert!(!lane.is_called_back(Seq(2)));
    lane.stop_below(Seq(9));
    assert!(lane.is_called_back(Seq(8)));
}

#[test]
fn only_the_head_may_ask_for_locks() {
    let lane = Lane::new();
    lane.yield_to(Seq(1));
    assert!(lane.wait_to_start(Seq(2)));
}

#[test]
fn a_stopped_lane_cancels_what_is_in_it_and_takes_what_comes_after() {
    let lane = Lane::new();
    lane.stop_below(Seq(5));
    assert_eq!(lane.wait_for_turn(Seq(4), LONG), Passage::Cancelled);
    assert!(!lane.wait_to_start(Seq(3)));
    assert!(lane.sleep(Seq(3), LONG));
    lane.advance(Seq(4));
    assert_eq!(lane.wait_for_turn(Seq(5), LONG), Passage::Turn);
    assert!(!lane.sleep(Seq(5), Duration::ZERO));
}

#[test]
fn nobody_holds_locks_for_ever() {
    assert_eq!(Lane::new().wait_for_turn(Seq(1), Duration::from_millis(5)), Passage::HeldTooLong);
}

#[test]
fn without_the_rule_a_yield_is_not_heard() {
    let lane = Lane::without_lock_rule();
    lane.yield_to(Seq(0));
    assert!(lane.wait_to_start(Seq(1)));
}
