//! What the threads of a run say of themselves, and what that means: whether they turn, and whether there is progress.
//!
//! Pure but for the clock. The consumer speaks, whoever serves probes and gauges listens; nobody waits for the other.

use crate::record::{NextOffset, TopicPartition};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the consumer's thread may be in one call. A callback of the group waits for the database at most 17 s, a call
/// to a broker that does not answer about half a minute.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long work may be there without any of it becoming durable until the process is not ready.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How many records wait was never found out, or not at the last look.
const UNKNOWN: i64 = -1;

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Up to where it is durable; `None`: only the database knows, because it was never read here.
    pub next: Option<NextOffset>,
    /// When the oldest record that has been read, and isn't durable yet, came into Kafka: milliseconds since the epoch.
    pub oldest_ms: Option<i64>,
}

/// What the threads say.
#[derive(Debug)]
pub struct Vitals {
    begun_at: Instant,
    // Milliseconds after `begun_at`.
    turned_at: AtomicU64,
    progressed_at: AtomicU64,
    database_answered: AtomicBool,
    has_started: AtomicBool,
    // Records that wait in Kafka, or `UNKNOWN`.
    lag_records: AtomicI64,
    positions: Mutex<BTreeMap<TopicPartition, Position>>,
    // Of the partitions that are ours and not read: one, and since when.
    unread: Mutex<Option<(TopicPartition, Instant)>>,
}

impl Default for Vitals {
    fn default() -> Self {
        Vitals::new()
    }
}

impl Vitals {
    /// A process that has just begun.
    pub fn new() -> Self {
        Vitals {
            begun_at: Instant::now(),
            turned_at: AtomicU64::new(0),
            progressed_at: AtomicU64::new(0),
            database_answered: AtomicBool::new(false),
            has_started: AtomicBool::new(false),
            lag_records: AtomicI64::new(UNKNOWN),
            positions: Mutex::new(BTreeMap::new()),
            unread: Mutex::new(None),
        }
    }

    /// The thread that does the work is there.
    pub fn turned(&self) {
        self.turned_at.store(self.now(), Ordering::Relaxed);
    }

    /// The database has answered for the first time.
    pub fn database_answered(&self) {
        self.database_answered.store(true, Ordering::Release);
    }

    /// Whether the database has ever answered.
    pub fn has_database_answered(&self) -> bool {
        self.database_answered.load(Ordering::Acquire)
    }

    /// Both servers have answered, and reading begins.
    pub fn started(&self) {
        self.progressed();
        self.has_started.store(true, Ordering::Release);
    }

    /// Something became durable.
    pub fn progressed(&self) {
        self.progressed_at.store(self.now(), Ordering::Relaxed);
    }

    /// Nothing is open or under way. That is as good as progress, unless records wait in Kafka, or may.
    pub fn idle(&self) {
        if self.lag_records.load(Ordering::Relaxed) == 0 {
            self.progressed();
        }
    }

    /// Sets how far the partitions are that are ours.
    pub fn set_positions(&self, positions: BTreeMap<TopicPartition, Position>) {
        *self.lock() = positions;
    }

    /// Sets which of the partitions that are ours has not been read for longest, and since when.
    pub fn set_unread(&self, oldest: Option<(TopicPartition, Instant)>) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    /// How far they are.
    pub fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        self.lock().clone()
    }

    /// Sets how many records wait in Kafka; `None`: that could not be found out.
    pub fn set_lag_records(&self, n: Option<i64>) {
        self.lag_records.store(n.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// How many records waited in Kafka at the last look; `None`: that is not known.
    pub fn lag_records(&self) -> Option<i64> {
        Some(self.lag_records.load(Ordering::Relaxed)).filter(|n| *n != UNKNOWN)
    }

    /// Whether the threads turn; else why not. The writers have a watchdog, which ends the process.
    pub fn live(&self) -> Result<(), String> {
        let silent = self.since(&self.turned_at);
        match silent > SILENCE_MAX {
            true => Err(format!("the consumer thread has not turned for {} s", silent.as_secs())),
            false => Ok(()),
        }
    }

    /// Whether there is progress, or nothing to do. Else why not.
    pub fn ready(&self, database_up: bool, kafka_up: bool) -> Result<(), String> {
        let has_started = self.has_started.load(Ordering::Acquire);
        let stalled = self.since(&self.progressed_at);
        match (database_up, kafka_up) {
            (false, _) => Err("PostgreSQL does not answer, or can't be used".to_owned()),
            (true, false) => Err("Kafka does not answer".to_owned()),
            _ if !has_started => Err("starting".to_owned()),
            _ if stalled > STALL_MAX => {
                let why = match self.lag_records() {
                    None => "it is not known whether records wait, and",
                    Some(_) => "there is work, but",
                };
                Err(format!("{why} nothing has become durable for {} s", stalled.as_secs()))
            }
            _ => self.all_read(),
        }
    }

    /// Progress of the others is none of a partition that nobody reads.
    fn all_read(&self) -> Result<(), String> {
        match &*self.unread.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((partition, since)) if since.elapsed() > STALL_MAX => {
                Err(format!("partition {partition} is ours and has not been read for {} s", since.elapsed().as_secs()))
            }
            _ => Ok(()),
        }
    }

    fn since(&self, at: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(at.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Position>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun_before(ago: Duration) -> Vitals {
        let begun_at = Instant::now().checked_sub(ago).expect("the machine runs for longer");
        Vitals { begun_at, ..Vitals::new() }
    }

    #[test]
    fn a_consumer_that_is_silent_for_too_long_is_not_live() {
        assert_eq!(begun_before(SILENCE_MAX / 2).live(), Ok(()));
        let vitals = begun_before(SILENCE_MAX + Duration::from_secs(5));
        assert_eq!(vitals.live(), Err("the consumer thread has not turned for 125 s".to_owned()));
        vitals.turned();
        assert_eq!(vitals.live(), Ok(()));
    }

    #[test]
    fn ready_is_progress_or_nothing_to_do() {
        let vitals = begun_before(STALL_MAX + Duration::from_secs(5));
        assert_eq!(vitals.ready(true, true), Err("starting".to_owned()));
        vitals.started();
        assert_eq!(vitals.ready(true, true), Ok(()));
        vitals.progressed_at.store(0, Ordering::Relaxed);
        assert!(vitals.ready(true, true).is_err_and(|why| why.contains("for 65 s")));
        // Records wait, and nobody reads them.
        vitals.set_lag_records(Some(1));
        vitals.idle();
        assert!(vitals.ready(true, true).is_err());
        vitals.progressed();
        assert_eq!(vitals.ready(true, true), Ok(()));
        vitals.progressed_at.store(0, Ordering::Relaxed);
        vitals.set_lag_records(Some(0));
        vitals.idle();
        assert_eq!(vitals.ready(true, true), Ok(()));
        // Whether there is nothing to do is not known.
        vitals.progressed_at.store(0, Ordering::Relaxed);
        vitals.set_lag_records(None);
        vitals.idle();
        assert!(vitals.ready(true, true).is_err_and(|why| why.starts_with("it is not known")));
    }

    #[test]
    fn a_partition_that_nobody_reads_is_not_made_up_for_by_others() {
        let vitals = Vitals::new();
        vitals.started();
        let since = |ago| Instant::now().checked_sub(ago).expect("the machine runs for longer");
        vitals.set_unread(Some((TopicPartition::new("t", 3), since(STALL_MAX / 2))));
        assert_eq!(vitals.ready(true, true), Ok(()));
        vitals.set_unread(Some((TopicPartition::new("t", 3), since(STALL_MAX + Duration::from_secs(5)))));
        vitals.progressed();
        let why = "partition t/3 is ours and has not been read for 65 s".to_owned();
        assert_eq!(vitals.ready(true, true), Err(why));
        vitals.set_unread(None);
        assert_eq!(vitals.ready(true, true), Ok(()));
    }

    #[test]
    fn a_server_that_is_away_is_named() {
        let vitals = Vitals::new();
        vitals.started();
        assert!(vitals.ready(false, true).is_err_and(|why| why.starts_with("PostgreSQL")));
        assert!(vitals.ready(true, false).is_err_and(|why| why.starts_with("Kafka")));
    }
}
