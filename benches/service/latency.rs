//! How soon a record is a row that a reader sees, while records arrive at an even rate; and what an idle worker costs.
//!
//! The worker has its defaults, three partitions, an ordinary consumer group. A producer without linger (krafka in this
//! process, because kcat reads its input in blocks) sends record after record; each carries the time at which it was handed over, in microseconds, as the row's `timestamp`. A
//! reader polls the table every two milliseconds for rows it has not seen. What is counted is from there to the answer in
//! which the reader has the row: the producer, the broker and up to two milliseconds of polling are in it.
//!
//! Rows become visible out of the order of `id`, because several writers draw ids at once and commit one after the other.
//! So the reader asks for all rows above the last id up to which it has every one, and keeps those beyond it in mind. Ids
//! of a batch that was rolled back never appear: a hole is given up after a while. At the end it must have seen every row.

use crate::options::Options;
use crate::processes::{self, Machine};
use crate::report::{Line, Report, rounded};
use crate::services::Services;
use crate::worker::{Running, Worker};
use crate::{Outcome, say};
use krafka::producer::{Producer, Record};
use postgres::Client;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PARTITIONS: i32 = 3;
const POLL: Duration = Duration::from_millis(2);
/// From the first visible row until it counts.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long the first row, and at the end the last one, may take.
const VISIBLE_WITHIN: Duration = Duration::from_secs(60);
/// After which a hole in the ids is taken for one that nobody fills.
const HOLE_MAX: Duration = Duration::from_secs(5);
/// How long the producer sleeps at least: at high rates a few records are due at once. Each in a request of its own, they
/// would measure the broker.
const NAP_MIN: Duration = Duration::from_millis(1);
/// And at most, so that it sees when it is to stop.
const NAP_MAX: Duration = Duration::from_millis(20);
/// How long an idle worker is watched.
const IDLE: Duration = Duration::from_secs(30);
/// What one record a second may take beyond the linger.
const BEYOND_LINGER_MS: f64 = 20.0;

/// All rates, one record a second, and nothing.
pub fn measure(options: &Options, services: &Services, report: &mut Report) -> Outcome<()> {
    let linger_ms = services.defaults.batch.linger.as_secs_f64() * 1e3;
    let (seconds, idle) = match options.quick {
        true => (options.seconds.min(5), IDLE / 5),
        false => (options.seconds, IDLE),
    };
    let mut lines = Vec::new();
    for &rate in &options.rates.0 {
        let (figures, worker) = at_rate(services, rate, Duration::from_secs(seconds))?;
        worker.stop()?;
        lines.push(figures.line(rate, linger_ms));
    }
    let (single, worker) = at_rate(services, 1, Duration::from_secs(seconds))?;
    lines.push(single.line(1, linger_ms));
    say(&format!("latency: an idle worker for {} s", idle.as_secs()));
    let idle_percent = idle_percent(&worker, idle)?;
    worker.stop()?;
    report.title(&format!("latency: {seconds} s each, {PARTITIONS} partitions, the worker's defaults"));
    let columns = [
        "records/s",
        "rows",
        "p50 ms",
        "p99 ms",
        "max ms",
        "linger ms",
        "worker %",
        "backends %",
        "machine %",
        "late ms",
    ];
    report.table(&columns, &lines);
    let (max, allowed) = (single.milliseconds(1.0), linger_ms + BEYOND_LINGER_MS);
    let within = max <= allowed;
    report.note(
        &format!(
            "one record a second is visible within linger + {BEYOND_LINGER_MS:.0} ms: {} ({max:.1} of {allowed:.0} ms)",
            if within { "yes" } else { "NO" }
        ),
        json!({ "part": "latency", "of": "one a second", "max_ms": rounded(max), "allowed_ms": allowed, "within": within }),
    );
    report.note(
        &format!("an idle worker takes {idle_percent:.2} % of a core"),
        json!({ "part": "latency", "of": "idle", "seconds": idle.as_secs(), "worker_cpu_percent": rounded(idle_percent) }),
    );
    Ok(())
}

/// What was seen at one rate.
struct Figures {
    /// Microseconds from the producer to the reader, sorted. Never empty.
    waits: Vec<u64>,
    worker_percent: f64,
    backends_percent: f64,
    machine_percent: f64,
    /// How far the producer fell behind its schedule, at most.
    late: Duration,
}

impl Figures {
    /// The wait that this share of the rows did not exceed.
    fn milliseconds(&self, share: f64) -> f64 {
        let rank = (self.waits.len() as f64 * share).ceil() as usize;
        self.waits[rank.clamp(1, self.waits.len()) - 1] as f64 / 1e3
    }

    fn line(&self, rate: u64, linger_ms: f64) -> Line {
        let line = Line::new("latency", "records_per_second", &rate.to_string()).with(
            self.waits.len().to_string(),
            "rows",
            self.waits.len(),
        );
        let line = [(0.5, "p50_ms"), (0.99, "p99_ms"), (1.0, "max_ms")].into_iter().fold(line, |line, (share, key)| {
            let wait = self.milliseconds(share);
            line.with(format!("{wait:.1}"), key, wait)
        });
        let late_ms = self.late.as_secs_f64() * 1e3;
        line.with(format!("{linger_ms:.0}"), "linger_ms", linger_ms)
            .with(format!("{:.2}", self.worker_percent), "worker_cpu_percent", rounded(self.worker_percent))
            .with(format!("{:.2}", self.backends_percent), "backends_cpu_percent", rounded(self.backends_percent))
            .with(format!("{:.0}", self.machine_percent), "machine_cpu_percent", rounded(self.machine_percent))
            .with(format!("{late_ms:.1}"), "producer_late_ms", rounded(late_ms))
    }
}

/// Leaves the worker running, with nothing more to do.
fn at_rate(services: &Services, rate: u64, length: Duration) -> Outcome<(Figures, Running)> {
    say(&format!("latency: {rate} records a second for {} s", length.as_secs()));
    services.execute("TRUNCATE stock_prices, writer_offsets RESTART IDENTITY")?;
    let name = format!("bench_latency_{rate}");
    services.create_topics(std::slice::from_ref(&name), PARTITIONS)?;
    // Before the worker: producer and reader have their connections when it begins.
    let producer = services.producer_without_linger()?;
    let reader = Reader::new(services.database()?);
    let mut worker = Worker::reading(services, &name, &name).start(&["run"])?;
    let stop = AtomicBool::new(false);
    let figures = thread::scope(|scope| {
        let producing = scope.spawn(|| produce(services, &producer, &name, rate, &stop));
        let window = watch(services, reader, &mut worker, length, &stop, || producing.is_finished());
        // Also where the reader has failed: the scope waits for the producer.
        stop.store(true, Ordering::Relaxed);
        let sent = producing.join().map_err(|_| "the producer panicked")??;
        window?.finish(sent)
    })?;
    Ok((figures, worker))
}

/// What a producer has done.
struct Sent {
    records: u64,
    late: Duration,
}

/// Sends at an even rate until it is told to stop.
fn produce(services: &Services, producer: &Producer, topic: &str, rate: u64, stop: &AtomicBool) -> Outcome<Sent> {
    let begun = Instant::now();
    let (mut records, mut late) = (0u64, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let due = begun + Duration::from_nanos(records * 1_000_000_000 / rate);
        let ahead = due.saturating_duration_since(Instant::now());
        if !ahead.is_zero() {
            thread::sleep(ahead.clamp(NAP_MIN, NAP_MAX));
            continue;
        }
        late = late.max(due.elapsed());
        let symbol = format!("S{}", records % 500);
        let value = format!(r#"{{"symbol":"{symbol}","price":{},"timestamp":{}}}"#, records + 1, now_us()?);
        // Whether each has arrived is seen in the table.
        _ = services.wait_for(producer.enqueue(Record::new(topic, value).key(symbol)))?;
        records += 1;
    }
    services.wait_for(producer.flush())?;
    Ok(Sent { records, late })
}

/// Microseconds since the epoch.
fn now_us() -> Outcome<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64)
}

/// Everything that was used at one moment.
struct Moment {
    at: Instant,
    us: u64,
    worker: Duration,
    backends: Duration,
    machine: Machine,
}

impl Moment {
    fn now(worker: &Running, backends: &[u32]) -> Outcome<Moment> {
        Ok(Moment {
            at: Instant::now(),
            us: now_us()?,
            worker: processes::cpu(worker.pid()).ok_or("the worker has ended")?,
            backends: backends.iter().filter_map(|&pid| processes::cpu(pid)).sum(),
            machine: Machine::now()?,
        })
    }
}

/// What the reader has seen, and the moments between which it counts.
struct Window {
    begin: Moment,
    end: Moment,
    reader: Reader,
}

/// Reads until the window is over, stops the producer, then reads the rest.
fn watch(
    services: &Services,
    mut reader: Reader,
    worker: &mut Running,
    length: Duration,
    stop: &AtomicBool,
    producer_ended: impl Fn() -> bool,
) -> Outcome<Window> {
    reader.read_until(VISIBLE_WITHIN, "the first row", |reader| Ok(!reader.seen.is_empty()), worker)?;
    let warm = Instant::now() + WARM_UP;
    reader.read_until(WARM_UP * 2, "the warm-up", |_| Ok(Instant::now() >= warm), worker)?;
    let backends = services.backends_of("stock-db-writer bench_latency")?;
    let begin = Moment::now(worker, &backends)?;
    let over = begin.at + length;
    reader.read_until(length * 2, "the window", |_| Ok(Instant::now() >= over), worker)?;
    let end = Moment::now(worker, &backends)?;
    stop.store(true, Ordering::Relaxed);
    reader.read_until(VISIBLE_WITHIN, "the end of the producer", |_| Ok(producer_ended()), worker)?;
    // Of the last rows nothing is asked but that they come.
    let idle_since = Instant::now();
    reader.read_until(
        VISIBLE_WITHIN,
        "the last rows",
        |reader| Ok(reader.newest.max(idle_since).elapsed() > Duration::from_secs(2)),
        worker,
    )?;
    Ok(Window { begin, end, reader })
}

impl Window {
    fn finish(self, sent: Sent) -> Outcome<Figures> {
        let Window { begin, end, reader } = self;
        if reader.seen.len() as u64 != sent.records {
            return Err(format!("the reader saw {} rows of {} records", reader.seen.len(), sent.records).into());
        }
        let counts = |sent_us: u64| (begin.us..end.us).contains(&sent_us);
        let mut waits: Vec<u64> =
            reader.seen.iter().filter(|(sent_us, _)| counts(*sent_us)).map(|(sent_us, us)| us - sent_us).collect();
        if waits.is_empty() {
            return Err("no record was sent in the window".into());
        }
        waits.sort_unstable();
        let percent = |used: Duration| used.as_secs_f64() * 100.0 / (end.at - begin.at).as_secs_f64();
        Ok(Figures {
            waits,
            worker_percent: percent(end.worker - begin.worker),
            backends_percent: percent(end.backends - begin.backends),
            machine_percent: end.machine.busy_since(begin.machine) * 100.0,
            late: sent.late,
        })
    }
}

/// Polls the table.
struct Reader {
    database: Client,
    /// Every row up to this id is seen, or will never be there.
    complete: i64,
    /// The ids beyond that are seen.
    beyond: BTreeSet<i64>,
    hole_since: Instant,
    /// When each row was sent and seen, in microseconds since the epoch.
    seen: Vec<(u64, u64)>,
    /// When the newest of them was seen.
    newest: Instant,
}

impl Reader {
    fn new(database: Client) -> Reader {
        let now = Instant::now();
        Reader { database, complete: 0, beyond: BTreeSet::new(), hole_since: now, seen: Vec::new(), newest: now }
    }

    /// Polls until `done`; an error at the limit, or if the worker ends.
    fn read_until(
        &mut self,
        limit: Duration,
        what: &str,
        done: impl Fn(&Reader) -> Outcome<bool>,
        worker: &mut Running,
    ) -> Outcome<()> {
        let begun = Instant::now();
        let statement = self.database.prepare("SELECT id, \"timestamp\" FROM stock_prices WHERE id > $1")?;
        while !done(self)? {
            if begun.elapsed() > limit {
                return Err(format!("{what}: not within {} s", limit.as_secs()).into());
            }
            worker.expect_alive()?;
            let polled = Instant::now();
            let rows = self.database.query(&statement, &[&self.complete])?;
            let us = now_us()?;
            for row in rows {
                if self.beyond.insert(row.try_get(0)?) {
                    let sent: SystemTime = row.try_get(1)?;
                    self.seen.push((sent.duration_since(UNIX_EPOCH)?.as_micros() as u64, us));
                    self.newest = polled;
                }
            }
            self.close_ranks();
            thread::sleep(POLL.saturating_sub(polled.elapsed()));
        }
        Ok(())
    }

    fn close_ranks(&mut self) {
        let before = self.complete;
        while self.beyond.remove(&(self.complete + 1)) {
            self.complete += 1;
        }
        if self.complete != before || self.beyond.is_empty() {
            self.hole_since = Instant::now();
        } else if self.hole_since.elapsed() > HOLE_MAX
            && let Some(&next) = self.beyond.first()
        {
            self.complete = next - 1;
        }
    }
}

/// What a worker takes while nothing arrives, as a share of one core.
fn idle_percent(worker: &Running, length: Duration) -> Outcome<f64> {
    let before = Moment::now(worker, &[])?;
    thread::sleep(length);
    let after = Moment::now(worker, &[])?;
    Ok((after.worker - before.worker).as_secs_f64() * 100.0 / (after.at - before.at).as_secs_f64())
}
