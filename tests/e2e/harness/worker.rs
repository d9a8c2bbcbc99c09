//! The real binary as a child process: started with settings, watched by its log, frozen and killed by its own pid.

use super::eventually_some;
use super::producer::CANARY;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One command line, to be started any number of times.
#[derive(Clone)]
pub struct Invocation {
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    directory: PathBuf,
    wrapper: Vec<String>,
    input: Input,
}

/// What is on stdin.
#[derive(Clone)]
enum Input {
    Nothing,
    Bytes(Arc<[u8]>),
    ByHand,
}

impl Invocation {
    /// Without any setting, in a directory without any writer.toml.
    pub fn new(directory: PathBuf) -> Invocation {
        // Nothing of the tests' own environment is meant for the worker.
        let path = std::env::var("PATH").expect("PATH is set");
        let environment = vec![("PATH".to_owned(), path), ("RUST_LOG".to_owned(), "info".to_owned())];
        Invocation { settings: Vec::new(), environment, directory, wrapper: Vec::new(), input: Input::Nothing }
    }

    /// `--set KEY=VALUE`; the last one of a key counts.
    pub fn set(mut self, key: &str, value: impl ToString) -> Invocation {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: impl ToString) -> Invocation {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs the binary below another program.
    pub fn under(mut self, wrapper: &[&str]) -> Invocation {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// All that it can read from stdin.
    pub fn input(mut self, bytes: impl AsRef<[u8]>) -> Invocation {
        self.input = Input::Bytes(bytes.as_ref().into());
        self
    }

    /// It reads from stdin what [`Worker::write`] writes, until [`Worker::end_input`].
    pub fn input_by_hand(mut self) -> Invocation {
        self.input = Input::ByHand;
        self
    }

    /// Starts it.
    pub fn start(&self, arguments: &[&str]) -> Worker {
        // Another build of the worker can be put to the same tests, such as one with a rule switched off.
        let binary = std::env::var("STOCK_DB_WRITER_TEST_BINARY")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_stock-db-writer").to_owned());
        let mut words = self.wrapper.clone();
        words.push(binary);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let mut child = command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(if let Input::Nothing = self.input { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {}: {error}", words[0]));
        let mut stdin = child.stdin.take();
        if let Input::Bytes(bytes) = &self.input {
            let (bytes, mut stdin) = (Arc::clone(bytes), stdin.take().expect("stdin is a pipe"));
            // Beside it: it may say more than a pipe holds before it has read all. It may also end before that.
            thread::spawn(move || stdin.write_all(&bytes));
        }
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![
            stdout.collect(child.stdout.take().expect("stdout is a pipe")),
            stderr.collect(child.stderr.take().expect("stderr is a pipe")),
        ];
        Worker { child, stdin, stdout, stderr, readers, exit: None, arguments: arguments.join(" ") }
    }

    /// Runs it to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.start(arguments).output(super::LIMIT)
    }
}

/// What a process has said, line by line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn collect(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        })
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a process has ended, and what it had said until then.
pub struct Output {
    /// As a shell sees it: 128 + n after signal n.
    pub code: i32,
    /// The results.
    pub stdout: String,
    /// Log and errors.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Panics unless it ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Output {
        assert_eq!(self.code, code, "exit code; stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// All that it said.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// The one line that says cause, place and what to do.
    #[track_caller]
    pub fn cause(&self) -> &str {
        let last = self.stderr.lines().next_back().unwrap_or_default();
        last.strip_prefix("stock-db-writer: ")
            .unwrap_or_else(|| panic!("the last line of stderr is no cause:\n{}", self.stderr))
    }
}

/// A running worker. Killed when dropped; if the test has failed, the end of its log is printed.
pub struct Worker {
    child: Child,
    // What is written by hand.
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    exit: Option<i32>,
    arguments: String,
}

impl Worker {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.poll_exit().is_none()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(mut self) -> Vec<String> {
        self.child.kill().expect("the process can be killed");
        self.wait(Duration::from_secs(30));
        self.log()
    }

    /// Sends a signal by name, such as TERM, STOP or CONT.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Writes to its stdin, if that is done by hand.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("stdin is open, and written by hand");
        stdin.write_all(bytes.as_ref()).expect("it reads");
    }

    /// Nothing more is written.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Everything on stdout so far.
    pub fn printed(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// A figure of /proc/PID/status, in bytes.
    pub fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the worker runs");
        let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel knows the figure");
        let kilobytes: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kilobytes * 1024
    }

    /// Everything on stderr so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// How many lines on stderr hold this text.
    pub fn count(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// A place in the log, for [`Worker::wait_for_log_after`].
    pub fn mark(&self) -> usize {
        self.log().len()
    }

    /// Waits for a line on stderr that holds this text.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> String {
        self.wait_for_any_log_after(0, &[text], limit)
    }

    /// Waits for a line after a mark that holds this text.
    pub fn wait_for_log_after(&mut self, mark: usize, text: &str, limit: Duration) -> String {
        self.wait_for_any_log_after(mark, &[text], limit)
    }

    /// Waits for a line after a mark that holds one of these texts.
    pub fn wait_for_any_log_after(&mut self, mark: usize, texts: &[&str], limit: Duration) -> String {
        eventually_some(&format!("the worker logs {texts:?}"), limit, || {
            let ended = self.poll_exit().is_some();
            if ended {
                self.join_readers();
            }
            let found = self.log().into_iter().skip(mark).find(|line| texts.iter().any(|text| line.contains(text)));
            assert!(found.is_some() || !ended, "the worker ended ({:?}) without logging {texts:?}", self.exit);
            found
        })
    }

    /// Waits for the end; the exit code as a shell sees it.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let code = eventually_some("the worker ends", limit, || self.poll_exit());
        self.join_readers();
        code
    }

    /// Waits for the end, and takes everything it said.
    pub fn output(mut self, limit: Duration) -> Output {
        let begun = Instant::now();
        let code = self.wait(limit);
        Output {
            code,
            stdout: self.stdout.all().join("\n"),
            stderr: self.stderr.all().join("\n"),
            took: begun.elapsed(),
        }
    }

    /// SIGTERM; it must end with 0.
    pub fn stop(self) -> Output {
        self.signal("TERM");
        self.output(super::LIMIT).expect_code(0)
    }

    fn poll_exit(&mut self) -> Option<i32> {
        if self.exit.is_none()
            && let Some(status) = self.child.try_wait().expect("the process can be waited for")
        {
            self.exit = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        }
        self.exit
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.poll_exit().is_none() {
            // It may have ended in between.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.log();
        if thread::panicking() {
            eprintln!(
                "--- stderr of the worker (pid {}, {}): the last of {} lines",
                self.pid(),
                self.arguments,
                log.len()
            );
            for line in log.iter().skip(log.len().saturating_sub(80)) {
                eprintln!("{line}");
            }
            eprintln!("--- end of stderr, exit {:?}", self.exit);
        } else if let Some(line) = log.iter().find(|line| line.contains(CANARY)) {
            panic!("a log holds what was in a record ({}): {line}", self.arguments);
        }
    }
}

/// Sends a signal to a process of this test. By `kill`, because a system call would need unsafe code.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("kill can be run");
    assert!(status.success(), "kill -{name} {pid} failed");
}
