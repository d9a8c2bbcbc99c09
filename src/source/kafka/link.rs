//! The client on a thread of its own, so that every wait for it has an end.
//!
//! It has no deadline for a connect, and one of two minutes, which can't be set, for reading and writing. A call that
//! takes too long is not waited for: its thread is abandoned, and ends by itself when the client gives up. Whoever
//! waits, or looks after what was abandoned, goes on with a panic of the client's as if it were his own.

use super::probe::probe;
use crate::source::SourceFault;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use kafka::client::{GroupOffsetStorage, KafkaClient};
use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// Between two attempts of the client's own to find a group's coordinator.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longer than any broker leaves a connection open. Beyond it the client would connect again, without a deadline, and
/// panic where that fails; a connection that the broker has closed is an error, and a reason for a new client.
const IDLE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What is done with the client.
type Job = Box<dyn FnOnce(&mut Room) + Send>;

/// What lives on the thread.
pub(super) struct Room {
    /// The client.
    pub client: KafkaClient,
    reachable: BTreeSet<String>,
}

impl Room {
    fn new(broker: &str) -> Room {
        let mut client = KafkaClient::new(vec![broker.to_owned()]);
        client.set_client_id("stock-db-writer".to_owned());
        // Zookeeper is its other place for them, and none the default.
        client.set_group_offset_storage(Some(GroupOffsetStorage::Kafka));
        client.set_fetch_crc_validation(true);
        client.set_fetch_min_bytes(1);
        client.set_connection_idle_timeout(IDLE_MAX);
        // When its attempts are used up, it asks on for ever without a pause.
        client.set_retry_max_attempts(u32::MAX);
        client.set_retry_backoff_time(RETRY_PAUSE);
        Room { client, reachable: BTreeSet::new() }
    }

    /// Makes sure that a broker answers, and speaks what the client speaks, before the client connects to it.
    pub fn reach(&mut self, broker: &str) -> Result<(), SourceFault> {
        if !self.reachable.contains(broker) {
            probe(broker)?;
            self.reachable.insert(broker.to_owned());
        }
        Ok(())
    }
}

/// The way to the thread.
pub(super) struct Link {
    jobs_tx: Sender<Job>,
    panics_rx: Receiver<Box<dyn Any + Send>>,
    unanswered: Option<Receiver<()>>,
}

/// There was no answer in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Late;

impl Link {
    /// Starts the thread. It connects to nothing before it is asked to.
    pub fn start(broker: &str) -> Result<Link, SourceFault> {
        let broker = broker.to_owned();
        Link::with(move |jobs_rx| {
            let mut room = Room::new(&broker);
            jobs_rx.iter().for_each(|job: Job| job(&mut room));
        })
    }

    fn with(work: impl FnOnce(Receiver<Job>) + Send + 'static) -> Result<Link, SourceFault> {
        let (jobs_tx, jobs_rx) = bounded(1);
        let (panics_tx, panics_rx) = bounded(1);
        let body = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(jobs_rx))) {
                // There is room for it; and without anybody to hear of it the process is ending.
                let _ = panics_tx.send(panic);
            }
        };
        let spawned = std::thread::Builder::new().name("kafka-io".to_owned()).spawn(body);
        spawned.map_err(|error| SourceFault::Away(format!("starting the client's thread: {error}")))?;
        Ok(Link { jobs_tx, panics_rx, unanswered: None })
    }

    /// Has something done, and waits for it at most so long. After [`Late`] the link can only be given up, or waited
    /// for by [`is_busy`](Self::is_busy).
    pub fn call<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut Room) -> T + Send + 'static,
    ) -> Result<T, Late> {
        let (answers_tx, answers_rx) = bounded(1);
        let (done_tx, done_rx) = bounded(0);
        let job: Job = Box::new(move |room| {
            // Closed when the job has ended, in whatever way.
            let _done_tx: Sender<()> = done_tx;
            // Nobody waits any more where it is late.
            let _ = answers_tx.send(job(room));
        });
        if self.jobs_tx.send(job).is_err() {
            self.follow_panic();
        }
        match answers_rx.recv_timeout(limit) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => self.follow_panic(),
            Err(RecvTimeoutError::Timeout) => {
                self.unanswered = Some(done_rx);
                Err(Late)
            }
        }
    }

    /// Whether what was late is still being done.
    pub fn is_busy(&self) -> bool {
        if let Ok(panic) = self.panics_rx.try_recv() {
            resume_unwind(panic);
        }
        self.unanswered.as_ref().is_some_and(|done_rx| done_rx.try_recv() == Err(TryRecvError::Empty))
    }

    /// Whether there was a call that was late, and so may have failed.
    pub fn was_late(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Gives the link up. The thread ends when what it does has ended.
    pub fn abandon(self) -> Abandoned {
        Abandoned { panics_rx: self.panics_rx }
    }

    fn follow_panic(&self) -> ! {
        match self.panics_rx.recv() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => unreachable!("the thread ends only with its jobs' channel, or by a panic"),
        }
    }
}

/// A thread that nobody waits for.
pub(super) struct Abandoned {
    panics_rx: Receiver<Box<dyn Any + Send>>,
}

impl Abandoned {
    /// Whether it still works.
    pub fn is_alive(&self) -> bool {
        match self.panics_rx.try_recv() {
            Ok(panic) => resume_unwind(panic),
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    fn link() -> Link {
        Link::start("127.0.0.1:1").expect("a thread can be started")
    }

    fn message(panic: Box<dyn Any + Send>) -> String {
        panic.downcast_ref::<&str>().expect("it is a text").to_string()
    }

    /// Waits for what another thread is about to do.
    fn eventually(mut probe: impl FnMut() -> bool) {
        let begun_at = Instant::now();
        while !probe() {
            assert!(begun_at.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_panic_of_the_client_is_the_panic_of_who_waits_for_it() {
        let panic = catch_unwind(|| link().call(LONG, |_| -> () { panic!("planned") })).expect_err("it panicked");
        assert_eq!(message(panic), "planned");
    }

    #[test]
    fn who_does_not_answer_in_time_is_left_alone_until_it_ends() {
        let mut link = link();
        let (gate_tx, gate_rx) = bounded::<()>(0);
        assert_eq!(link.call(Duration::from_millis(1), move |_| gate_rx.recv().is_ok()), Err(Late));
        assert!(link.is_busy());
        drop(gate_tx);
        eventually(|| !link.is_busy());
        let abandoned = link.abandon();
        eventually(|| !abandoned.is_alive());
    }

    #[test]
    fn a_panic_of_an_abandoned_thread_is_not_lost() {
        let mut link = link();
        let (gate_tx, gate_rx) = bounded::<()>(0);
        let job = move |_: &mut Room| gate_rx.recv().expect("planned");
        assert_eq!(link.call(Duration::from_millis(1), job), Err(Late));
        let abandoned = link.abandon();
        drop(gate_tx);
        let waited = catch_unwind(AssertUnwindSafe(|| eventually(|| !abandoned.is_alive())));
        assert!(waited.is_err(), "the panic went on here");
    }

    #[test]
    fn a_broker_that_refuses_connections_is_away() {
        let away = link().call(LONG, |room| room.reach("127.0.0.1:1"));
        assert!(matches!(away, Ok(Err(SourceFault::Away(_)))), "{away:?}");
    }
}
