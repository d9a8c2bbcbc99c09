//! Where the servers are, and who may disturb them.
//!
//! Ordinary tests share the servers; a test that stops one of them has them for itself. There are two brokers and a
//! cluster: the names of all that is on the old broker begin with [`OLD`], of what is in the cluster with [`CLUSTER`].

use super::cluster;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The addresses that `dev/services env` prints.
pub struct Servers {
    /// Bootstrap servers.
    pub brokers: String,
    /// The test database, as a user that may do everything.
    pub database_url: String,
    /// `dev/services`.
    services: PathBuf,
    /// Its state.
    services_dir: PathBuf,
    /// The broker's process id.
    pub kafka_pid_file: PathBuf,
    /// The broker for `client = "kafka"`.
    old: Option<OldBroker>,
}

/// Where topics, groups and transactions with such a name are: on the broker for `client = "kafka"`.
pub const OLD: &str = "e2e_old_";

/// Where topics, groups and transactions with such a name are: in [`super::cluster`].
pub const CLUSTER: &str = "e2e_cluster_";

struct OldBroker {
    brokers: String,
    services_dir: PathBuf,
    pid_file: PathBuf,
}

static TURN: RwLock<()> = RwLock::new(());

/// Held for as long as a test uses the servers.
pub enum Turn {
    /// Beside others.
    Shared(#[allow(dead_code)] RwLockReadGuard<'static, ()>),
    /// Alone; both servers run again afterwards.
    Alone(#[allow(dead_code)] RwLockWriteGuard<'static, ()>),
}

impl Turn {
    /// Beside others.
    pub fn shared() -> Turn {
        // A test that failed does not make the servers unusable: it has started them again.
        Turn::Shared(TURN.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Alone.
    pub fn alone() -> Turn {
        // Before the lock: what is missing is said here and not while unwinding.
        servers();
        Turn::Alone(TURN.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Turn::Alone(_) = self {
            let servers = servers();
            let old = servers.old.as_ref().map(|old| (&old.services_dir, "kafka"));
            for (dir, server) in
                [(&servers.services_dir, "postgres"), (&servers.services_dir, "kafka")].into_iter().chain(old)
            {
                let (started, said) = servers.try_service(dir, &["start", server]);
                // A second panic would end the whole run without a word about the first.
                assert!(started || std::thread::panicking(), "{server} could not be started again: {said}");
            }
        }
    }
}

/// The servers. Panics if the environment names none: a test that counts is never skipped.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: these tests need the servers that dev/test starts; run dev/test")
            })
        };
        // For the broken server's messages only; but without it this is not the environment of dev/test.
        variable("POSTGRES_PID_FILE");
        let old = std::env::var("KAFKA_OLD_BROKERS").ok().map(|brokers| OldBroker {
            brokers,
            services_dir: variable("OLD_SERVICES_DIR").into(),
            pid_file: variable("KAFKA_OLD_PID_FILE").into(),
        });
        Servers {
            old,
            brokers: variable("KAFKA_BROKERS"),
            database_url: variable("DATABASE_URL"),
            services: variable("SERVICES").into(),
            services_dir: variable("SERVICES_DIR").into(),
            kafka_pid_file: variable("KAFKA_PID_FILE").into(),
        }
    })
}

impl Servers {
    /// Calls `dev/services`, such as `restart postgres --mode immediate`.
    pub fn service(&self, arguments: &[&str]) {
        let (done, said) = self.try_service(&self.services_dir, arguments);
        assert!(done, "dev/services {} failed: {said}", arguments.join(" "));
    }

    /// The same for the old broker.
    pub fn old_service(&self, arguments: &[&str]) {
        let (done, said) = self.try_service(&self.old().services_dir, arguments);
        assert!(done, "dev/services {} failed: {said}", arguments.join(" "));
    }

    /// The old broker's process id.
    pub fn old_pid_file(&self) -> &PathBuf {
        &self.old().pid_file
    }

    /// Where something of this name is.
    pub fn brokers_of(&self, name: &str) -> &str {
        match name {
            _ if name.starts_with(OLD) => &self.old().brokers,
            _ if name.starts_with(CLUSTER) => cluster::cluster().brokers(),
            _ => &self.brokers,
        }
    }

    /// Where `dev/services` keeps the state of the servers.
    pub fn directory(&self) -> &Path {
        &self.services_dir
    }

    fn old(&self) -> &OldBroker {
        self.old.as_ref().expect("KAFKA_OLD_BROKERS is not set: these tests need the servers that dev/test starts")
    }

    /// The same in a directory of the caller's own, with further environment; answers what it prints.
    pub fn service_in(&self, dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let mut command = Command::new(&self.services);
        command.args(arguments).env("SERVICES_DIR", dir).envs(environment.iter().copied()).stdin(Stdio::null());
        let output = command.output().expect("dev/services can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "dev/services {} failed: {said}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The state of the servers with the broker where something of this name is.
    pub fn services_dir_of(&self, name: &str) -> &Path {
        match name {
            _ if name.starts_with(OLD) => &self.old().services_dir,
            _ if name.starts_with(CLUSTER) => cluster::cluster().directory(),
            _ => &self.services_dir,
        }
    }

    /// The first number of the version of the broker where something of this name is.
    pub fn kafka_major_of(&self, name: &str) -> u32 {
        let settings = std::fs::read_to_string(self.services_dir_of(name).join("settings"));
        let settings = settings.expect("dev/services has kept its settings");
        let version = settings.lines().find_map(|line| line.strip_prefix("KAFKA_VERSION="));
        let major = version.and_then(|version| version.split('.').next()?.parse().ok());
        major.unwrap_or_else(|| panic!("no KAFKA_VERSION in {settings}"))
    }

    /// Runs a Java tool of the broker's where something of this name is; it reads the input to its end.
    pub fn kafka_tool_of(&self, name: &str, class: &str, arguments: &[&str], input: &[u8]) {
        let mut child = Command::new(&self.services)
            .args(["kafka-tool", class])
            .args(arguments)
            .env("SERVICES_DIR", self.services_dir_of(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dev/services can be run");
        let written = child.stdin.take().expect("stdin is a pipe").write_all(input);
        let output = child.wait_with_output().expect("the tool ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && written.is_ok(), "{class} {} failed: {said}", arguments.join(" "));
    }

    fn try_service(&self, dir: &PathBuf, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(&self.services)
            .args(arguments)
            .env("SERVICES_DIR", dir)
            .stdin(Stdio::null())
            .output()
            .expect("dev/services can be run");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The database's host and port.
    pub fn database_address(&self) -> String {
        self.parts().1.to_owned()
    }

    /// The database's URL with another address, such as that of a proxy.
    pub fn database_url_at(&self, address: &str) -> String {
        let (before, _, after) = self.parts();
        format!("{before}@{address}/{after}")
    }

    fn parts(&self) -> (&str, &str, &str) {
        let (before, rest) = self.database_url.split_once('@').expect("DATABASE_URL is scheme://user@host:port/name");
        let (address, after) = rest.split_once('/').expect("DATABASE_URL is scheme://user@host:port/name");
        (before, address, after)
    }
}
