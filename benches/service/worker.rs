//! The worker as a process: with its defaults, whatever lies in the working directory or in the environment.
//!
//! It is started by setpriv, which has the kernel kill it if this program ends first.

use crate::services::Services;
use crate::{Outcome, processes};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the largest resident set is read. It only grows.
const LOOK: Duration = Duration::from_millis(10);

/// Settings to start it with.
pub struct Worker<'s> {
    services: &'s Services,
    /// Names its pipeline and its group.
    pub pipeline: String,
    settings: Vec<(String, String)>,
}

/// What a worker has used that has ended.
#[derive(Clone, Copy)]
pub struct Used {
    pub cpu: Duration,
    pub peak_rss: u64,
}

impl<'s> Worker<'s> {
    /// Reads no topic yet.
    pub fn new(services: &'s Services, pipeline: &str) -> Worker<'s> {
        Worker { services, pipeline: pipeline.to_owned(), settings: Vec::new() }
    }

    /// Reads this topic's prices.
    pub fn reading(services: &'s Services, pipeline: &str, topic: &str) -> Worker<'s> {
        Worker::new(services, pipeline).set("topics.0.name", topic).set("topics.0.target", "prices")
    }

    /// `--set KEY=VALUE`
    pub fn set(mut self, key: &str, value: impl ToString) -> Worker<'s> {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Runs it to its end; anything but success is an error.
    pub fn run_once(&self, arguments: &[&str]) -> Outcome<Used> {
        let before = processes::cpu_of_own_children();
        let mut running = self.start(arguments)?;
        let pid = running.pid();
        let (ended, mut peak_rss) = (AtomicBool::new(false), 0);
        let status = thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut peak = 0;
                while !ended.load(Ordering::Relaxed) {
                    peak = processes::peak_rss(pid).unwrap_or(peak);
                    thread::sleep(LOOK);
                }
                peak
            });
            let status = running.child.wait();
            ended.store(true, Ordering::Relaxed);
            peak_rss = sampler.join().unwrap_or_default();
            status
        })?;
        running.expect_success(status)?;
        Ok(Used { cpu: processes::cpu_of_own_children() - before, peak_rss })
    }

    /// Starts it.
    pub fn start(&self, arguments: &[&str]) -> Outcome<Running> {
        let config = self.services.file("writer.toml");
        fs::write(&config, "")?;
        let log = self.services.file(&format!("{}.log", self.pipeline));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_stock-db-writer"), "--config"]).arg(config);
        let own =
            [("kafka.brokers", &self.services.brokers), ("pipeline", &self.pipeline), ("kafka.group", &self.pipeline)];
        let settings = self.settings.iter().map(|(key, value)| (key.as_str(), value));
        for (key, value) in own.into_iter().chain(settings) {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.args(arguments).env_clear().env("PATH", path).env("DATABASE_URL", &self.services.database_url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().map_err(|error| format!("setpriv can't be started: {error}"))?;
        Ok(Running { child, log })
    }
}

/// A running worker. Killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended.
    pub fn expect_alive(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(_) => Err(format!("the worker ended: {}", self.last_line()).into()),
        }
    }

    /// SIGTERM; it must end with success.
    pub fn stop(mut self) -> Outcome<()> {
        let sent = Command::new("kill").arg(self.pid().to_string()).status()?;
        if !sent.success() {
            return Err("the worker can't be stopped".into());
        }
        let status = self.child.wait()?;
        self.expect_success(status)
    }

    fn expect_success(&self, status: ExitStatus) -> Outcome<()> {
        if status.success() { Ok(()) } else { Err(format!("the worker failed: {}", self.last_line()).into()) }
    }

    fn last_line(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().next_back().unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended, and then neither has an effect.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
