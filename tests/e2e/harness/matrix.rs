//! A table of cases, each with how the worker ends and what it says, which is also a table of the documentation.

use super::Invocation;

/// What was seen, to be compared with what docs/security.md promises.
pub struct Matrix {
    // Of the section in docs/security.md.
    heading: &'static str,
    rows: Vec<String>,
    // What is another in each run of the tests, and what stands for it.
    words: Vec<(String, String)>,
}

impl Matrix {
    /// An empty one.
    pub fn new(heading: &'static str) -> Matrix {
        Matrix { heading, rows: Vec::new(), words: Vec::new() }
    }

    /// Writes `shown` where a line has `word`.
    pub fn word(&mut self, word: impl ToString, shown: &str) {
        self.words.push((word.to_string(), shown.to_owned()));
    }

    /// Runs and checks one case; it must end with this code, and if that isn't 0, with one line.
    #[track_caller]
    pub fn case(&mut self, what: &str, invocation: &Invocation, code: i32) {
        let invocation = invocation.clone().set("retry.max_outage_s", 1);
        let run = invocation.output(&["run", "--until-end"]);
        assert_eq!(run.code, code, "{what}: run\n{}", run.stderr);
        let n_causes = run.stderr.lines().filter(|line| line.starts_with("stock-db-writer: ")).count();
        let line = if code == 0 { "" } else { run.cause() };
        assert_eq!(n_causes, usize::from(code != 0), "{what}: one line says why:\n{}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{what}:\n{}", run.stderr);
        let check = invocation.output(&["check"]);
        // A configuration that is refused as a whole is not looked at any further.
        if check.stdout.is_empty() {
            assert_eq!((check.code, check.cause()), (code, line), "{what}: check");
        } else {
            assert_eq!(check.code, code, "{what}: check\n{}", check.said());
            let findings: Vec<&str> = check.stdout.lines().filter_map(|line| line.strip_prefix("problem: ")).collect();
            assert_eq!(findings.len(), n_causes, "{what}: check finds the same, and nothing else: {findings:?}");
            // An outage is told with how long it lasted.
            let bare = |line: &str| line.rsplit_once("retry.max_outage_s): ").unwrap_or(("", line)).1.to_owned();
            for finding in findings {
                let finding = finding.strip_prefix("database: ").unwrap_or(finding);
                assert!(bare(line).ends_with(finding), "{what}: run says\n{line}\nand check\n{finding}");
            }
        }
        let shown = self.words.iter().fold(line.to_owned(), |line, (word, shown)| line.replace(word, shown));
        println!("{what}: {code} in {:.1} s and {:.1} s: {shown}", run.took.as_secs_f64(), check.took.as_secs_f64());
        let shown = if shown.is_empty() { String::new() } else { format!("`{}`", shown.replace('|', "\\|")) };
        self.rows.push(format!("| {what} | {code} | {shown} |"));
    }

    /// How many cases ended with this code.
    pub fn count(&self, code: i32) -> i64 {
        self.rows.iter().filter(|row| row.contains(&format!(" | {code} | "))).count() as i64
    }

    /// Panics unless the documentation has this table.
    #[track_caller]
    pub fn assert_documented(self) {
        let docs = include_str!("../../../docs/security.md");
        let section = docs.split(&format!("\n### {}\n", self.heading)).nth(1).unwrap_or_default();
        let section = section.split("\n#").next().unwrap_or_default();
        let documented: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        let seen = self.rows.join("\n");
        assert!(documented == self.rows, "docs/security.md, {:?}, should have these rows:\n{seen}", self.heading);
    }
}
