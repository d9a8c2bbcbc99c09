//! A table of cases, each with how the worker ends and what it says, which is also a table of the documentation.

use super::Invocation;
use super::worker::Output;

/// All that the program and its libraries have to say.
pub const EVERYTHING: &str =
    "trace,krafka=trace,rustls=trace,tokio_postgres=trace,postgres=trace,r2d2=trace,tracing=trace";

/// What was seen, to be compared with what docs/security.md promises.
pub struct Matrix {
    // Of the section in docs/security.md.
    heading: &'static str,
    rows: Vec<String>,
    // What is another in each run of the tests, and what stands for it.
    words: Vec<(String, String)>,
    // What must not be said, however much is logged.
    secrets: Vec<String>,
    wrong: Vec<String>,
}

impl Matrix {
    /// An empty one.
    pub fn new(heading: &'static str) -> Matrix {
        Matrix { heading, rows: Vec::new(), words: Vec::new(), secrets: Vec::new(), wrong: Vec::new() }
    }

    /// Writes `shown` where a line has `word`.
    pub fn word(&mut self, word: impl ToString, shown: &str) {
        self.words.push((word.to_string(), shown.to_owned()));
    }

    /// Something that nobody may ever say.
    pub fn secret(&mut self, secret: impl ToString) {
        self.secrets.push(secret.to_string());
    }

    /// Runs and checks one case; it must end with this code, and if that isn't 0, with one line. What is wrong is told with
    /// all the rest in the end.
    pub fn case(&mut self, what: &str, invocation: &Invocation, code: i32) {
        let invocation = invocation.clone().set("retry.max_outage_s", 1).env("RUST_LOG", EVERYTHING);
        let (run, check) = (invocation.output(&["run", "--until-end"]), invocation.output(&["check"]));
        let mut wrong = Vec::new();
        if (run.code, check.code) != (code, code) {
            wrong.push(format!("must end with {code}: run {}, check {}", run.code, check.code));
        }
        let mut causes = run.stderr.lines().filter_map(|line| line.strip_prefix("stock-db-writer: "));
        let line = causes.next().unwrap_or_default();
        if causes.next().is_some() || line.is_empty() != (code == 0) {
            wrong.push("one line must say why".to_owned());
        }
        wrong.extend(agree(line, &check));
        let said = run.said() + &check.said();
        let told = self.secrets.iter().find(|secret| said.contains(*secret));
        wrong.extend(told.map(|secret| format!("tells {secret:?}")));
        if said.contains("panicked") {
            wrong.push("panicked".to_owned());
        }
        let shown = self.words.iter().fold(line.to_owned(), |line, (word, shown)| line.replace(word, shown));
        println!("{what}: {code} in {:.1} s and {:.1} s: {shown}", run.took.as_secs_f64(), check.took.as_secs_f64());
        if !wrong.is_empty() {
            self.wrong.push(format!("{what}: {}\n{shown}\n{}", wrong.join("; "), check.stdout));
        }
        let shown = if shown.is_empty() { String::new() } else { format!("`{}`", shown.replace('|', "\\|")) };
        self.rows.push(format!("| {what} | {} | {shown} |", run.code));
    }

    /// How many cases ended with this code.
    pub fn count(&self, code: i32) -> i64 {
        self.rows.iter().filter(|row| row.contains(&format!(" | {code} | "))).count() as i64
    }

    /// Panics unless the documentation has this table.
    #[track_caller]
    pub fn assert_documented(self) {
        assert!(self.wrong.is_empty(), "{} cases are wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
        let docs =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).expect("it is there");
        let section = docs.split(&format!("\n### {}\n", self.heading)).nth(1).unwrap_or_default();
        let section = section.split("\n#").next().unwrap_or_default();
        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        let seen = self.rows.join("\n");
        assert!(documented == self.rows, "docs/security.md, {:?}, should have these rows:\n{seen}", self.heading);
    }
}

/// `check` finds what `run` says, and nothing else.
fn agree(line: &str, check: &Output) -> Option<String> {
    let findings: Vec<&str> = check.stdout.lines().filter_map(|line| line.strip_prefix("problem: ")).collect();
    match findings[..] {
        // A configuration that is refused as a whole is not looked at any further.
        [] if check.stdout.is_empty() && check.cause() == line => None,
        [] if line.is_empty() => None,
        // An outage is told with how long it lasted.
        [finding] if line.ends_with(finding.strip_prefix("database: ").unwrap_or(finding)) => None,
        _ => Some(format!("check finds {findings:?}")),
    }
}
