//! CPU time and memory of other processes, by /proc.
//!
//! **PostgreSQL's backends.** A backend that has ended can't be read any more, so a sum over those in pg_stat_activity
//! loses what they used after the last look. But the kernel adds the time of a child that has ended, and was waited for,
//! to its parent: the postmaster's own record (cutime and cstime) grows by exactly what the ended backends have used. A
//! contestant begins with no backend of its own and ends with none, so what the postmaster's record has grown by is the
//! contestant's, as long as nothing else ends meanwhile: autovacuum is off, and the program's own connections stay open.
//! What remains alive (checkpointer, WAL writer, background writer) is read before and after, and told apart as the rest.
//!
//! In the same way the time of a worker that has ended is what this program's own record of its children has grown by.
//! The kernel counts in nanoseconds and shows ticks (mostly 10 ms): over 100,000 rows that is 0.1 µs a row.

use crate::Outcome;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the last backend may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The length of a tick of the kernel's CPU accounting.
fn tick() -> Duration {
    static TICK: OnceLock<Duration> = OnceLock::new();
    *TICK.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        Duration::from_secs(1) / text.trim().parse().unwrap_or(100)
    })
}

/// What the kernel says of a process.
struct Stat {
    parent: u32,
    used: Duration,
    used_by_ended_children: Duration,
}

/// `None` if there is no such process.
fn stat(pid: &str) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may itself hold spaces and parentheses.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |i: usize| fields.get(i)?.parse::<u32>().ok();
    Some(Stat {
        parent: number(1)?,
        used: tick() * (number(11)? + number(12)?),
        used_by_ended_children: tick() * (number(13)? + number(14)?),
    })
}

/// CPU time of a process that runs.
pub fn cpu(pid: u32) -> Option<Duration> {
    Some(stat(&pid.to_string())?.used)
}

/// CPU time of the children of this program that have ended.
pub fn cpu_of_own_children() -> Duration {
    // getconf is a child, too: the first call must not count it.
    tick();
    stat("self").map(|stat| stat.used_by_ended_children).unwrap_or_default()
}

/// The largest resident set that a process has had so far, in bytes; `None` if it has ended.
pub fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What all cores together have done since the start of the machine: at work, and in all.
#[derive(Clone, Copy)]
pub struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    pub fn now() -> Outcome<Machine> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu")).ok_or("/proc/stat has no cpu line")?;
        // user nice system idle iowait irq softirq steal; what follows is part of user.
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        let all: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Ok(Machine { busy: all - idle, all })
    }

    /// The share of the time since then that the cores were at work.
    pub fn busy_since(self, before: Machine) -> f64 {
        (self.busy - before.busy) as f64 / ((self.all - before.all).max(1)) as f64
    }
}

/// Each living child of a process, and its CPU time.
fn children(parent: u32) -> Outcome<BTreeMap<u32, Duration>> {
    let mut children = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        // One that has ended in between is none.
        if let Some(stat) = stat(pid)
            && stat.parent == parent
        {
            children.insert(pid.parse()?, stat.used);
        }
    }
    Ok(children)
}

/// PostgreSQL's processes before a contestant begins.
pub struct Backends {
    postmaster: u32,
    ended: Duration,
    // Those that were there before, this program's own connections among them.
    others: BTreeMap<u32, Duration>,
}

/// What PostgreSQL has used for a contestant.
#[derive(Clone, Copy)]
pub struct PostgresCpu {
    /// Of the backends that began and ended meanwhile.
    pub backends: Duration,
    /// Of the processes that were there before.
    pub rest: Duration,
}

impl Backends {
    pub fn before(postmaster: u32) -> Outcome<Backends> {
        let ended = stat(&postmaster.to_string()).ok_or("PostgreSQL has ended")?.used_by_ended_children;
        Ok(Backends { postmaster, ended, others: children(postmaster)? })
    }

    /// Waits until every backend that is newer has ended.
    pub fn after(self) -> Outcome<PostgresCpu> {
        let begun = Instant::now();
        let others = loop {
            let children = children(self.postmaster)?;
            if children.keys().all(|pid| self.others.contains_key(pid)) {
                break children;
            }
            if begun.elapsed() > ENDS_WITHIN {
                return Err("a backend of PostgreSQL has outlived its contestant".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let ended = stat(&self.postmaster.to_string()).ok_or("PostgreSQL has ended")?.used_by_ended_children;
        let rest = others.iter().filter_map(|(pid, used)| used.checked_sub(*self.others.get(pid)?)).sum();
        Ok(PostgresCpu { backends: ended.saturating_sub(self.ended), rest })
    }
}
