//! Starts the threads of `run` and waits for the first of them to end.
//!
//! Whoever ends first ends the process: by error, by panic or by surprise. A graceful stop closes the channels in the
//! direction of the data; it saves work, never data, so it has a deadline and nothing depends on it.

use crate::claimer;
use crate::config::{AssignmentMode, Config, ConfigErrors, Kafka};
use crate::consumer::{self, Ended, Wiring};
use crate::exit::{ExitCode, Stop};
use crate::heartbeat::Heartbeat;
use crate::http::{self, Shown};
use crate::ledger::Ledger;
use crate::logger;
use crate::metrics::Totals;
use crate::observer::Observer;
use crate::outage::Outage;
use crate::pipeline_lock::PipelineLock;
use crate::progress::RunProgress;
use crate::relay;
use crate::shutdown::Shutdown;
use crate::startup::{self, NotStarted, Patience};
use crate::watchdog;
use crate::writer::{self, Shared};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, after, bounded, never, select, tick};
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a stop is asked for, everything has ended by then.
const STOP_MAX: Duration = Duration::from_secs(9);

/// After a bounded run, dead letters have been relayed by then; what has not been waits in the database.
const RELAY_MAX: Duration = Duration::from_secs(30);

/// For so long a lock that an earlier session of this process may still hold is tried again.
const LOCK_MAX: Duration = Duration::from_secs(15);

/// After an error, the consumer has left its group by then.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// A second signal that comes so soon is the first one's echo.
const ECHO_MAX: Duration = Duration::from_millis(300);

/// Between two looks at how the run gets on.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What a thread's end means.
type End = Result<Option<Ended>, Stop>;

/// What is asked of a run.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// It ends at the end offsets captured at start.
    pub bounded: bool,
    /// It shows on stderr how it gets on.
    pub progress: bool,
}

/// Reads the configuration again.
pub type Reload<'a> = dyn Fn() -> Result<Config, ConfigErrors> + 'a;

/// Runs the worker. At SIGHUP the configuration is read again by `reload`: its log level counts at once, and files with
/// secrets of Kafka that have changed make the run start over within the process. Those of PostgreSQL are read at every
/// connect anyway.
pub fn run(config: &Config, request: Request, reload: &Reload<'_>) -> Result<(), Stop> {
    let signals_rx = signals()?;
    let owner = startup::owner_name();
    let outage_max = startup::outage_max(config, request.bounded);
    let shared = Shared::new(config, owner, Outage::new("database", outage_max));
    let shown =
        Shown { metrics: shared.metrics.clone(), vitals: shared.vitals.clone(), database: shared.database.clone() };
    if let Some(address) = &config.metrics_listen {
        http::start(address.clone(), shown.clone());
    }
    let mut supervisor = Supervisor {
        config,
        request,
        reload,
        signals_rx,
        progress: request.progress.then(RunProgress::start),
        shown,
        secrets: Secrets::read(&config.kafka),
    };
    let mut shared = Some(shared);
    // The first has no earlier session of its own to wait for.
    let mut lock_max = Duration::ZERO;
    loop {
        let next = shared.take().unwrap_or_else(|| supervisor.shared_again());
        match supervisor.generation(next, lock_max)? {
            After::Done => return Ok(()),
            After::StartOver => log::info!("starting over with the new secrets"),
        }
        lock_max = LOCK_MAX;
    }
}

/// What follows the end of all threads.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Done,
    StartOver,
}

/// What the threads have been asked to end for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Not,
    ToStartOver,
    ForGood,
}

struct Supervisor<'a> {
    config: &'a Config,
    request: Request,
    reload: &'a Reload<'a>,
    signals_rx: Receiver<i32>,
    progress: Option<RunProgress>,
    shown: Shown,
    secrets: Secrets,
}

impl Supervisor<'_> {
    /// What the writers of another generation share: all is new but what is counted and shown.
    fn shared_again(&self) -> Shared {
        let outage_max = startup::outage_max(self.config, self.request.bounded);
        let shared = Shared::new(self.config, startup::owner_name(), Outage::new("database", outage_max));
        let Shown { metrics, vitals, database } = self.shown.clone();
        metrics.kafka_up.set(0);
        vitals.set_positions(BTreeMap::new());
        vitals.set_unread(None);
        Shared { metrics, vitals, database, ..shared }
    }

    /// Starts all threads and waits until they have ended.
    fn generation(&mut self, shared: Shared, lock_max: Duration) -> Result<After, Stop> {
        let shutdown = Shutdown::new();
        let (ends_tx, ends_rx) = bounded_ends(self.config);
        {
            let (config, bounded) = (self.config.clone(), self.request.bounded);
            let (shutdown, ends_tx) = (shutdown.clone(), ends_tx.clone());
            spawn("consumer", ends_tx.clone(), move || {
                work(&config, bounded, lock_max, shared, &shutdown, &ends_tx).map(Some)
            })?;
        }
        // The supervisor keeps no end of this channel.
        drop(ends_tx);
        self.supervise(&shutdown, &ends_rx)
    }

    fn supervise(&mut self, shutdown: &Shutdown, ends_rx: &Receiver<End>) -> Result<After, Stop> {
        let mut deadline = never();
        let (mut ending, mut asked_at) = (Ending::Not, None);
        let ticks = if self.progress.is_some() { tick(PROGRESS_INTERVAL) } else { never() };
        let signals_rx = self.signals_rx.clone();
        loop {
            select! {
                recv(ends_rx) -> end => match end {
                    Ok(Ok(Some(Ended::ReachedEnds))) => {
                        self.tell_totals();
                        return Ok(After::Done);
                    }
                    // The others' locks are given back when they have ended, too. Until then an error is an error, and a
                    // signal a signal.
                    Ok(Ok(Some(Ended::Asked))) if ending == Ending::ToStartOver => deadline = after(STOP_MAX),
                    Ok(Ok(Some(Ended::Asked))) => return self.stopped(),
                    // A helper's orderly end: its channel was closed by the consumer, who speaks last.
                    Ok(Ok(None)) => {}
                    Err(_) if ending == Ending::ToStartOver => return Ok(After::StartOver),
                    Err(_) if ending == Ending::ForGood => return self.stopped(),
                    Ok(Err(stop)) => {
                        leave(shutdown, ends_rx);
                        return Err(stop);
                    }
                    Err(_) => return Err(Stop::new(ExitCode::InvariantBroken, "all threads have ended without a word")),
                },
                recv(signals_rx) -> signal => match signal.unwrap_or(SIGTERM) {
                    SIGHUP => {
                        if self.has_new_secrets() && !shutdown.is_triggered() {
                            log::info!("secrets of Kafka have changed: finishing what is open, to connect by the new ones");
                            ending = Ending::ToStartOver;
                            shutdown.trigger();
                        }
                    }
                    // timeout(1) signals a process, and then its group.
                    _ if asked_at.is_some_and(|at: Instant| at.elapsed() < ECHO_MAX) => {}
                    signal if ending == Ending::ForGood => {
                        let code = if signal == SIGINT { ExitCode::Interrupted } else { ExitCode::Terminated };
                        let message = "second signal, ending at once; what was not committed is read again";
                        return Err(Stop::new(code, message));
                    }
                    _ => {
                        log::info!("stopping: finishing what is open; a second signal ends at once");
                        ending = Ending::ForGood;
                        asked_at = Some(Instant::now());
                        shutdown.trigger();
                        deadline = after(STOP_MAX);
                    }
                },
                recv(ticks) -> _ => if let Some(progress) = &mut self.progress {
                    let Shown { metrics, vitals, .. } = &self.shown;
                    let n_left = vitals.lag_records().and_then(|n| u64::try_from(n).ok());
                    progress.reached(metrics.totals().records, n_left);
                },
                recv(deadline) -> _ => {
                    log::warn!("not everything has ended in time; what was not committed is read again");
                    return if ending == Ending::ToStartOver { Ok(After::StartOver) } else { self.stopped() };
                },
            }
        }
    }

    /// The end that a signal has asked for.
    fn stopped(&self) -> Result<After, Stop> {
        self.tell_totals();
        match self.request.bounded {
            true => Err(Stop::new(ExitCode::TryLater, "stopped by a signal before the end was reached; run it again")),
            false => Ok(After::Done),
        }
    }

    /// The sum of what this process did, once.
    fn tell_totals(&self) {
        let Totals { records, rows, dead_letters, skipped, batches, .. } = self.shown.metrics.totals();
        let trouble = self.shown.metrics.trouble();
        log::info!(records, rows, dead_letters, skipped, batches, trouble:%; "stopped");
    }

    /// Reads the configuration again, and says what comes of it. `true` where Kafka is to be connected to anew.
    fn has_new_secrets(&mut self) -> bool {
        match (self.reload)() {
            Err(errors) => {
                log::error!("SIGHUP: the configuration is wrong, going on as before: {}", one_line(&errors));
                return false;
            }
            Ok(config) => {
                logger::set(config.log);
                let is_same = Config { log: self.config.log, ..config.clone() } == *self.config;
                if !is_same {
                    log::warn!("SIGHUP: more than log.level has changed in the configuration: that needs a restart");
                }
                match logger::environment() {
                    None => log::info!(log_level = config.log.level.as_str(); "SIGHUP: configuration read again"),
                    Some(filter) => {
                        let why = format!("RUST_LOG={filter:?} outweighs log.level");
                        log::info!(why; "SIGHUP: configuration read again");
                    }
                }
            }
        }
        let secrets = Secrets::read(&self.config.kafka);
        let has_changed = secrets != self.secrets;
        self.secrets = secrets;
        if has_changed && self.request.bounded {
            log::warn!("SIGHUP: secrets of Kafka have changed; a run with an end goes on with the old ones");
            return false;
        }
        has_changed
    }
}

fn one_line(errors: &ConfigErrors) -> String {
    errors.to_string().replace('\n', "; ")
}

/// What the files with Kafka's secrets hold, as a digest.
#[derive(PartialEq, Eq)]
struct Secrets(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl Secrets {
    fn read(kafka: &Kafka) -> Self {
        let digest = |path: &Path| std::fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into());
        Secrets(kafka.files().into_iter().map(|path| (path.to_owned(), digest(path))).collect())
    }
}

/// Something is wrong: lets the consumer leave its group, so that its partitions aren't idle until the session ends.
fn leave(shutdown: &Shutdown, ends_rx: &Receiver<End>) {
    shutdown.abort();
    let deadline = Instant::now() + LEAVE_MAX;
    // The consumer's end, or that of all threads.
    while ends_rx.recv_deadline(deadline).is_ok_and(|end| !matches!(end, Ok(Some(_)))) {}
}

/// One end for each thread that can speak: consumer, claimer, watchdog, relay, observer, writers.
fn bounded_ends(config: &Config) -> (Sender<End>, Receiver<End>) {
    bounded(config.writers.count + 5)
}

fn signals() -> Result<Receiver<i32>, Stop> {
    let failed = |error: std::io::Error| Stop::new(ExitCode::InvariantBroken, format!("handling signals: {error}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let (signals_tx, signals_rx) = bounded(4);
    let forward = move || {
        for signal in signals.forever() {
            if signals_tx.send(signal).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(forward).map_err(failed)?;
    Ok(signals_rx)
}

fn spawn(name: &str, ends_tx: Sender<End>, work: impl FnOnce() -> End + Send + 'static) -> Result<(), Stop> {
    let shown = name.to_owned();
    let body = move || {
        let end = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Stop::new(ExitCode::InvariantBroken, format!("thread {shown} panicked; its message is above")))
        });
        // The supervisor has gone only if the process is ending.
        let _ = ends_tx.send(end);
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(|_| ()).map_err(|error| Stop::new(ExitCode::ServerAway, format!("starting thread {name}: {error}")))
}

/// Everything from the first connection to the last offset, on the consumer's thread.
fn work(
    config: &Config,
    bounded: bool,
    lock_max: Duration,
    shared: Shared,
    shutdown: &Shutdown,
    ends_tx: &Sender<End>,
) -> Result<Ended, Stop> {
    match prepared(config, bounded, lock_max, shared, shutdown, ends_tx) {
        Err(NotStarted::Asked) => Ok(Ended::Asked),
        Err(NotStarted::Stop(stop)) => Err(stop),
        Ok(ended) => Ok(ended),
    }
}

fn prepared(
    config: &Config,
    bounded: bool,
    lock_max: Duration,
    mut shared: Shared,
    shutdown: &Shutdown,
    ends_tx: &Sender<End>,
) -> Result<Ended, NotStarted> {
    let outage_max = startup::outage_max(config, bounded);
    let (owner, vitals) = (shared.owner.clone(), shared.vitals.clone());
    log::info!(version = env!("CARGO_PKG_VERSION"), pipeline = config.pipeline.as_str(), owner:%; "starting");
    let kafka = Outage::new("kafka", outage_max);
    let mut patience = Patience::new(config, shutdown).seen_by(&vitals);

    let database = startup::open_database(config, &owner, &shared.database, &mut patience)?;
    vitals.database_answered();
    let mut source = startup::open_kafka(config, &kafka, &mut patience)?;
    shared.metrics.kafka_up.set(1);
    let mut ledger = database.ledger();
    if bounded || config.kafka.assignment != AssignmentMode::Group {
        let asked_at = Instant::now();
        while !patience.database(&shared.database, || ledger.lock_pipeline())? {
            if asked_at.elapsed() >= lock_max {
                let message = format!("another run holds pipeline {:?}; run this one again later", config.pipeline);
                return Err(Stop::new(ExitCode::TryLater, message).into());
            }
            patience.pause()?;
        }
        shared.pipeline_lock = Some(PipelineLock::taken());
    }
    let shared = Arc::new(shared);
    let outages = (&*shared.database, &kafka);
    let topics = startup::first_rows(config, source.as_mut(), &mut ledger, outages, &mut patience)?;
    if bounded && topics.is_empty() {
        let patterns: Vec<&str> = config.topics.patterns().map(|pattern| pattern.as_str()).collect();
        log::warn!(patterns:serde, why = "nothing to do"; "no topic matches");
        return Ok(Ended::ReachedEnds);
    }
    let ends = if bounded {
        startup::check_positions(config, source.as_mut(), &mut ledger, &topics, outages, &mut patience)?;
        let partitions = startup::partitions(config, &topics);
        Some(patience.kafka(&kafka, config.schema.grace, || startup::ends(source.as_mut(), &partitions))?)
    } else {
        None
    };

    // One batch at each writer and one on its way to it: a writer never waits for the consumer.
    let dispatches_max = config.writers.count * 2;
    let (dispatches_tx, dispatches_rx) = crossbeam_channel::bounded(config.writers.count);
    let (durables_tx, durables_rx) = crossbeam_channel::bounded(dispatches_max);
    let mut heartbeats = Vec::new();
    for writer_idx in 0..config.writers.count {
        let name = format!("writer-{writer_idx}");
        let heartbeat = Arc::new(Heartbeat::new(name.clone()));
        heartbeats.push(heartbeat.clone());
        let mut sink = database.sink(heartbeat.clone());
        let (shared, dispatches_rx, durables_tx) = (shared.clone(), dispatches_rx.clone(), durables_tx.clone());
        spawn(&name, ends_tx.clone(), move || {
            writer::run(&shared, &mut sink, &heartbeat, &dispatches_rx, &durables_tx).map(|()| None)
        })?;
    }
    // A channel closes when its threads end, so this thread keeps no further end of these.
    drop((dispatches_rx, durables_tx));
    let (claims, desk) = claimer::channels();
    {
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        let grace = config.schema.grace;
        spawn("claimer", ends_tx.clone(), move || {
            claimer::run(&mut ledger, &desk, &shared.database, shared.pipeline_lock.as_ref(), grace, &shutdown)
                .map(|()| None)
        })?;
    }
    {
        let (soft, shutdown) = (config.database.statement_timeout + Duration::from_secs(5), shutdown.clone());
        let hard = config.database.statement_timeout * 2 + Duration::from_secs(30);
        spawn("watchdog", ends_tx.clone(), move || watchdog::run(&heartbeats, soft, hard, &shutdown).map(|()| None))?;
    }
    {
        let (kafka, database, shutdown) = (config.kafka.clone(), database.clone(), shutdown.clone());
        let (metrics, vitals) = (shared.metrics.clone(), vitals.clone());
        spawn("observer", ends_tx.clone(), move || {
            Observer::new(kafka, database, metrics, vitals, bounded).run(&shutdown);
            Ok(None)
        })?;
    }
    let (finish_tx, finish_rx) = crossbeam_channel::bounded(0);
    let (relayed_tx, relayed_rx) = crossbeam_channel::bounded(0);
    if let Some(mut relay) = relay::Relay::new(config, &database) {
        spawn("relay", ends_tx.clone(), move || {
            // Both are closed, never written to.
            let _relayed_tx: Sender<()> = relayed_tx;
            relay.run(&finish_rx);
            Ok(None)
        })?;
    } else {
        drop(relayed_tx);
    }
    let wiring = Wiring {
        dispatches_tx,
        durables_rx,
        dispatches_max,
        claims,
        shared,
        topics,
        ends,
        outage_max,
        shutdown: shutdown.clone(),
    };
    let ended = consumer::run(source.as_mut(), config, wiring)?;
    drop::<Sender<()>>(finish_tx);
    if let Ended::ReachedEnds = ended
        && let Err(RecvTimeoutError::Timeout) = relayed_rx.recv_timeout(RELAY_MAX)
    {
        log::warn!("not all dead letters could be relayed in time; the others wait in the database");
    }
    Ok(ended)
}

#[cfg(test)]
mod tests;
