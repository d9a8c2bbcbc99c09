//! What the supervisor makes of ends and signals, without threads that do any work.

use super::*;
use crate::config::Sources;
use std::thread;

/// A supervisor that takes SIGHUP for a reason to start over, the signals that it gets, and the threads' ends.
fn supervised(play: impl FnOnce(&Shutdown, Sender<i32>, Sender<End>) + Send) -> Result<After, Stop> {
    let config = Config::load(&Sources::default()).expect("the defaults are right");
    let shared = Shared::new(&config, "me".to_owned(), Outage::new("database", None));
    let (signals_tx, signals_rx) = bounded(4);
    // Signals can come for as long as the process lives.
    let _open = signals_tx.clone();
    let (ends_tx, ends_rx) = bounded(4);
    let mut supervisor = Supervisor {
        config: &config,
        request: Request { bounded: false, progress: false },
        reload: &|| Ok(config.clone()),
        signals_rx,
        progress: None,
        shown: Shown { metrics: shared.metrics, vitals: shared.vitals, database: shared.database },
        // Not what the files hold now: they have changed.
        secrets: Secrets(BTreeMap::from([(PathBuf::from("password"), None)])),
    };
    let shutdown = Shutdown::new();
    thread::scope(|scope| {
        scope.spawn(|| play(&shutdown, signals_tx, ends_tx));
        supervisor.supervise(&shutdown, &ends_rx)
    })
}

/// Waits until the supervisor has come to something.
#[track_caller]
fn until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the supervisor does not come to it");
        thread::yield_now();
    }
}

/// Lets the supervisor ask for an end by SIGHUP, and the consumer come to it.
fn begin_to_start_over(shutdown: &Shutdown, signals_tx: &Sender<i32>, ends_tx: &Sender<End>) {
    signals_tx.send(SIGHUP).expect("the supervisor listens");
    until(|| shutdown.is_triggered());
    ends_tx.send(Ok(Some(Ended::Asked))).expect("the supervisor listens");
}

#[test]
fn with_new_secrets_it_starts_over_when_all_have_ended() {
    let after = supervised(|shutdown, signals_tx, ends_tx| {
        begin_to_start_over(shutdown, &signals_tx, &ends_tx);
        ends_tx.send(Ok(None)).expect("the supervisor listens");
    });
    assert_eq!(after, Ok(After::StartOver));
}

#[test]
fn an_error_while_starting_over_ends_the_process_with_its_code() {
    let after = supervised(|shutdown, signals_tx, ends_tx| {
        begin_to_start_over(shutdown, &signals_tx, &ends_tx);
        ends_tx.send(Err(Stop::new(ExitCode::Corruption, "late"))).expect("the supervisor listens");
    });
    assert_eq!(after.map_err(|stop| stop.code), Err(ExitCode::Corruption));
}

#[test]
fn a_stop_while_starting_over_is_a_stop() {
    let after = supervised(|shutdown, signals_tx, ends_tx| {
        begin_to_start_over(shutdown, &signals_tx, &ends_tx);
        // The consumer's end is taken in, and the signal, before the last thread has ended.
        until(|| ends_tx.is_empty());
        signals_tx.send(SIGTERM).expect("the supervisor listens");
        until(|| signals_tx.is_empty());
    });
    assert_eq!(after, Ok(After::Done));
}
