//! What `Config::load` makes of a file, an environment and flags.

mod database;
mod kafka;
mod secrets;
mod topics;

use super::reader::Reader;
use super::*;
use crate::decode::settings::Target;
use crate::record::StartAt;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("stock-db-writer-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the temporary directory takes directories");
        Scratch(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        path
    }

    /// A file that everybody may read, as the kernel makes them unless told otherwise.
    fn public(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the directory is ours");
    }
}

#[derive(Default)]
struct Given<'a> {
    file: &'a str,
    environment: &'a [(&'a str, &'a str)],
    set: &'a [&'a str],
}

impl Given<'_> {
    /// Complaints come back with the file's name as `writer.toml`.
    fn load(&self) -> Result<Config, Vec<String>> {
        let scratch = Scratch::new();
        let sources = Sources {
            file: Some(scratch.file("writer.toml", self.file)),
            set: self.set.iter().map(ToString::to_string).collect(),
            environment: self.environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        let directory = format!("{}/", scratch.0.display());
        Config::load(&sources)
            .map_err(|errors| errors.to_string().lines().map(|line| line.replace(&directory, "")).collect())
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|errors| panic!("{}", errors.join("\n")))
    }

    fn errors(&self) -> Vec<String> {
        self.load().expect_err("the configuration is wrong")
    }
}

fn file(text: &str) -> Given<'_> {
    Given { file: text, ..Given::default() }
}

fn environment<'a>(variables: &'a [(&'a str, &'a str)]) -> Given<'a> {
    Given { environment: variables, ..Given::default() }
}

fn set<'a>(settings: &'a [&'a str]) -> Given<'a> {
    Given { set: settings, ..Given::default() }
}

/// The only complaint about a file, without its place.
fn only_error(text: &str) -> String {
    match file(text).errors().as_slice() {
        [error] => error.clone(),
        errors => panic!("one error was expected: {errors:#?}"),
    }
}

fn targets(config: &Config) -> Vec<(&str, Target)> {
    let target = |name| config.topics.settings(name).expect("a name has settings").target;
    config.topics.names().map(|name| (name, target(name))).collect()
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("writer.toml")).expect("writer.toml is shipped")
}

// The shipped file and the defaults.

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = file("").config();
    assert_eq!(config.pipeline, "stock-db-writer");
    assert_eq!(config.kafka.brokers, ["localhost:9092"]);
    assert_eq!(config.kafka.group, "db-writer-group");
    assert_eq!(config.kafka.assignment, AssignmentMode::Group);
    assert_eq!(config.kafka.start_at, StartAt::Earliest);
    assert_eq!(config.kafka.isolation, Isolation::ReadCommitted);
    assert_eq!(config.kafka.session_timeout, Duration::from_secs(45));
    assert_eq!(targets(&config), [("stock_prices", Target::Prices), ("stock_metrics", Target::Metrics)]);
    assert_eq!((config.kafka.tls, config.kafka.sasl), (None, None));
    assert_eq!((config.kafka.instance_id, config.kafka.rack), (None, None));
    assert_eq!((config.database.url, config.database.host, config.database.port), (None, None, None));
    assert_eq!(config.database.tls, DatabaseTls::Auto);
    assert_eq!(config.database.prices.to_string(), "public.stock_prices");
    assert_eq!(config.database.metrics.to_string(), "public.stock_metrics");
    assert!(config.database.synchronous_commit);
    let batch = Batch { rows_max: 10_000, bytes_max: 8 << 20, linger: Duration::from_millis(200) };
    assert_eq!(config.batch, batch);
    assert_eq!((config.writers.count, config.writers.memory_max), (2, 256 << 20));
    assert_eq!((config.retry.outage_max, config.retry.attempts_max), (Duration::ZERO, 0));
    assert_eq!(config.schema, Schema { manage: Manage::Create, grace: Duration::from_secs(60) });
    assert_eq!(config.dead_letters, DeadLetters { ratio_max: 0.05, payload_bytes_max: 1 << 20, topic: None });
    assert_eq!(config.log, Log { format: LogFormat::Text, level: LogLevel::Info });
}

#[test]
fn the_shipped_file_says_what_the_code_does_without_one() {
    assert_eq!(file(&shipped()).config(), file("").config());
}

#[test]
fn every_key_stands_in_the_shipped_file() {
    let sources = Sources { file: Some(PathBuf::from("/dev/null")), ..Sources::default() };
    let mut reader = Reader::new(BTreeMap::new(), Vec::new());
    Config::read(&mut reader, &sources);
    let mut known: Vec<String> = reader.known().iter().cloned().collect();

    // The keys of a topic are known only where there is one.
    let with_topic = sources::gather(&Sources { set: vec!["topics.0.name=a".to_owned()], ..sources.clone() });
    let mut reader = Reader::new(with_topic.0, with_topic.1);
    Config::read(&mut reader, &sources);
    known.extend(reader.known().iter().cloned());

    let shipped = Scratch::new();
    let path = shipped.file("writer.toml", &self::shipped());
    let (entries, _) = sources::gather(&Sources { file: Some(path), ..Sources::default() });
    // Known so that they can be refused with a reason, or spelt in two ways.
    let elsewhere =
        ["topics", "kafka.sasl.password", "database.password", "database.tables.prices", "database.tables.metrics"];
    known.retain(|key| !elsewhere.contains(&key.as_str()));
    assert!(known.len() > 50, "{known:?}");
    let missing: Vec<&String> = known.iter().filter(|key| !entries.contains_key(*key)).collect();
    assert!(missing.is_empty(), "not in writer.toml: {missing:?}");
}

#[test]
fn every_line_of_the_shipped_file_explains_its_key() {
    for line in shipped().lines().filter(|line| line.contains(" = ")) {
        assert!(line.contains('#'), "no comment: {line}");
    }
}

// Where a value comes from.

#[test]
fn a_flag_outweighs_the_environment_which_outweighs_the_file() {
    let text = "[batch]\nrows_max = 1\nlinger_ms = 1\nbytes_max = \"1MiB\"";
    let given = Given {
        file: text,
        environment: &[("STOCK_DB_WRITER__BATCH__ROWS_MAX", "2"), ("STOCK_DB_WRITER__BATCH__LINGER_MS", "2")],
        set: &["batch.rows_max=3"],
    };
    let expected = Batch { rows_max: 3, linger: Duration::from_millis(2), bytes_max: 1 << 20 };
    assert_eq!(given.config().batch, expected);
}

#[test]
fn the_last_of_two_flags_counts() {
    assert_eq!(set(&["writers.count=3", "writers.count=4"]).config().writers.count, 4);
}

#[test]
fn lists_are_separated_by_commas_outside_the_file() {
    let brokers = environment(&[("STOCK_DB_WRITER__KAFKA__BROKERS", "a:1, b:2")]).config().kafka.brokers;
    assert_eq!(brokers, ["a:1", "b:2"]);
    assert_eq!(set(&["kafka.brokers=c:3"]).config().kafka.brokers, ["c:3"]);
    let partitions = AssignmentMode::Partitions(vec![0, 2]);
    assert_eq!(set(&["kafka.assignment=2,0,2"]).config().kafka.assignment, partitions);
    assert_eq!(file("[kafka]\nassignment = [2, 0]").config().kafka.assignment, partitions);
}

#[test]
fn topics_have_numbers_outside_the_file() {
    let given = environment(&[
        ("STOCK_DB_WRITER__TOPICS__0__NAME", "ticks"),
        ("STOCK_DB_WRITER__TOPICS__1__NAME", "windows"),
        ("STOCK_DB_WRITER__TOPICS__1__TARGET", "metrics"),
    ]);
    assert_eq!(targets(&given.config()), [("ticks", Target::Prices), ("windows", Target::Metrics)]);

    let given = Given { file: "[[topics]]\nname = \"a\"", set: &["topics.0.timezone=Europe/Paris"], environment: &[] };
    let timezone = given.config().topics.settings("a").expect("it is named").timezone;
    assert_eq!(timezone, chrono_tz::Tz::Europe__Paris);
    assert_eq!(
        set(&["topics.0.name=a", "topics.2.name=b"]).errors(),
        ["--set: topics.2.name: topics are numbered from 0 without a gap, the next one is 1"]
    );
}

#[test]
fn a_named_file_that_is_not_there_is_an_error() {
    let sources = Sources { file: Some(PathBuf::from("/nowhere/writer.toml")), ..Sources::default() };
    let errors = Config::load(&sources).expect_err("there is no such file").to_string();
    assert!(errors.starts_with("/nowhere/writer.toml: "), "{errors}");
}

#[test]
fn other_variables_are_not_ours() {
    assert!(
        environment(&[("STOCK_DB_WRITER_CONFIG", "x"), ("STOCK_DB_WRITER", "y"), ("RUST_LOG", "z")]).load().is_ok()
    );
}

// Complaints.

#[test]
fn everything_wrong_is_reported_at_once_in_the_order_of_the_file() {
    let text = "pipelin = \"a\"\n\
                [kafka]\n\
                brokers = [\"a\"]\n\
                assignment = \"some\"\n\
                start_at = \"yesterday\"\n\
                \n\
                [batch]\n\
                rows_max = 0\n\
                linger_ms = \"long\"\n";
    let given = Given {
        file: text,
        environment: &[("STOCK_DB_WRITER__WRITERS__COUNT", "many"), ("STOCK_DB_WRITER__LOG__FORMATS", "json")],
        set: &["log.format=xml", "nonsense"],
    };
    assert_eq!(
        given.errors(),
        [
            "writer.toml:1: pipelin: there is no such key; did you mean pipeline?",
            "writer.toml:3: kafka.brokers: must be host:port, is \"a\"",
            "writer.toml:4: kafka.assignment: must be \"group\", \"all\" or a list of partition numbers such as [0, 1]",
            "writer.toml:5: kafka.start_at: must be \"earliest\", \"latest\", \"kafka-group\" or an RFC 3339 time",
            "writer.toml:8: batch.rows_max: must be at least 1, is 0",
            "writer.toml:9: batch.linger_ms: must be a whole number",
            "STOCK_DB_WRITER__LOG__FORMATS: log.formats: there is no such key; did you mean log.format?",
            "STOCK_DB_WRITER__WRITERS__COUNT: writers.count: must be a whole number",
            "--set: expected KEY=VALUE, as in --set batch.rows_max=5000",
            "--set: log.format: must be \"text\" or \"json\", is \"xml\"",
        ]
    );
}

#[test]
fn an_unknown_key_comes_with_the_one_that_was_meant() {
    for (text, hint) in [
        ("[schema]\ngrace_s = 60", "schema.grace_s: there is no such key; did you mean schema.grace_ms?"),
        ("[kafka]\nlinger_ms = 1", "kafka.linger_ms: there is no such key; did you mean batch.linger_ms?"),
        ("[kafka]\nbroker = []", "kafka.broker: there is no such key; did you mean kafka.brokers?"),
        ("[kafka.ssl]\nenable = true", "kafka.ssl.enable: there is no such key; did you mean kafka.tls.enable?"),
        ("[[topics]]\nname = \"a\"\nnane = \"b\"", "topics.0.nane: there is no such key; did you mean topics.0.name?"),
        ("colour = 1", "colour: there is no such key"),
        ("batch = 1", "batch: is a section of keys, not a value"),
    ] {
        let error = only_error(text);
        assert!(error.ends_with(&format!(": {hint}")), "{error}");
    }
}

#[test]
fn every_syntax_error_is_reported_with_its_line() {
    let errors = file("[batch]\nrows_max = \nlinger_ms = 7 7\n").errors();
    assert!(errors.len() >= 2, "{errors:#?}");
    assert!(errors[0].starts_with("writer.toml:2: ") && errors[1].starts_with("writer.toml:3: "), "{errors:#?}");
}

#[test]
fn a_value_of_another_type_is_an_error() {
    for text in [
        "pipeline = 1",
        "[batch]\nrows_max = \"1\"",
        "[batch]\nrows_max = 1.5",
        "[batch]\nbytes_max = true",
        "[kafka]\nbrokers = \"a:1\"",
        "[kafka]\nbrokers = []",
        "[kafka]\nbrokers = [1]",
        "[kafka]\nassignment = []",
        "[kafka]\nassignment = [-1]",
        "[kafka]\nassignment = true",
        "[kafka.tls]\nenable = \"true\"",
        "[dead_letters]\nratio_max = \"0.5\"",
        "[writers]\ncount = [1]",
        "[retry]\nmax_ms = 99999999999999999999",
        "topics = []",
        "topics = \"a\"",
        "topics = [\"a\"]",
    ] {
        let error = only_error(text);
        assert!(error.starts_with("writer.toml:"), "{text}: {error}");
    }
}

#[test]
fn what_this_version_does_not_build_is_refused_by_name() {
    for (text, key, named) in [
        ("[kafka.tls]\nverify = false", "kafka.tls.verify", "protects from nobody"),
        ("[metrics]\nlisten = \"9464\"", "metrics.listen", "must be host:port, or empty for none"),
        ("[database.tables.prices]\nconflict = \"ignore\"", "database.tables.prices.conflict", "\"dead-letter\""),
    ] {
        let error = only_error(text);
        let line = text.lines().count();
        assert!(error.starts_with(&format!("writer.toml:{line}: {key}: ")) && error.contains(named), "{error}");
    }
}

#[test]
fn dead_letters_are_relayed_to_a_topic_that_nobody_here_reads() {
    let config = file("[dead_letters]\ntopic = \"letters\"").config();
    assert_eq!(config.dead_letters.topic.as_deref(), Some("letters"));
    assert_eq!(file("[dead_letters]\ntopic = \"\"").config().dead_letters.topic, None);
    for (text, line, named) in [
        ("[dead_letters]\ntopic = \"stock_prices\"", 2, "one of the topics that are read"),
        ("[dead_letters]\ntopic = \"a letter\"", 2, "1 to 249 of the characters"),
        (
            "[[topics]]\npattern = '^letters'\n[dead_letters]\ntopic = \"letters-1\"",
            4,
            "one of the topics that are read",
        ),
    ] {
        let error = only_error(text);
        assert!(
            error.starts_with(&format!("writer.toml:{line}: dead_letters.topic: ")) && error.contains(named),
            "{error}"
        );
    }
}

#[test]
fn each_table_says_whether_it_may_round() {
    let database = |text: &str| file(text).load().expect("it is right").database;
    let plain = database("");
    assert_eq!((plain.prices_round, plain.metrics_round), (false, false));
    let set = database("[database.tables.metrics]\nround = true");
    assert_eq!((set.prices_round, set.metrics_round, set.metrics), (false, true, plain.metrics));
}

#[test]
fn numbers_have_limits() {
    for (key, least, most) in [
        ("batch.rows_max", 1_i64, 1_000_000_i64),
        ("batch.linger_ms", 0, 60_000),
        ("writers.count", 1, 64),
        ("writers.max_hold_ms", 100, 50_000),
        ("retry.initial_ms", 1, 60_000),
        ("retry.max_ms", 1, 600_000),
        ("retry.max_outage_s", 0, 31_536_000),
        ("retry.attempts_max", 0, 1_000_000_000),
        ("schema.grace_ms", 0, 3_600_000),
        ("database.lock_timeout_ms", 10, 600_000),
        ("database.statement_timeout_ms", 100, 3_600_000),
        ("kafka.session_timeout_ms", 1_000, 1_800_000),
    ] {
        let errors = |value: i64| set(&[&format!("{key}={value}")]).load().err().unwrap_or_default().join("\n");
        assert_eq!(errors(least - 1), format!("--set: {key}: must be at least {least}, is {}", least - 1));
        assert_eq!(errors(most + 1), format!("--set: {key}: must be at most {most}, is {}", most + 1));
        for fine in [least, most] {
            // Another key may be contradicted, but the limit is inside.
            assert!(!errors(fine).contains(&format!("{key}: must be at")), "{}", errors(fine));
        }
    }
}

#[test]
fn contradictions_name_both_keys() {
    for (settings, complaint) in [
        (&["writers.memory_max=31MiB"][..], "--set: writers.memory_max: must hold a batch"),
        (&["kafka.max_message_bytes=512MiB"], "--set: writers.memory_max: must hold a batch"),
        (&["writers.count=64"], "--set: writers.memory_max: must hold a batch"),
        (
            &["retry.initial_ms=5000", "retry.max_ms=1000"],
            "--set: retry.initial_ms: must not be above retry.max_ms, 1000",
        ),
        (
            &["database.lock_timeout_ms=60000"],
            "--set: database.lock_timeout_ms: must be below database.statement_timeout_ms, 60000",
        ),
        (
            &["writers.max_hold_ms=20000", "database.statement_timeout_ms=20000"],
            "--set: writers.max_hold_ms: must be below database.statement_timeout_ms, 20000",
        ),
        (&["kafka.group_protocol=consumer", "kafka.instance_id=a"], "--set: kafka.instance_id: needs a classic group"),
        (
            &["kafka.assignment=all", "kafka.instance_id=a"],
            "--set: kafka.instance_id: is of use only with kafka.assignment = \"group\"",
        ),
        (&["database.tables.metrics=stock_prices"], "--set: database.tables.metrics: must not be the table of prices"),
    ] {
        let errors = set(settings).load().err().unwrap_or_default();
        assert!(errors.len() == 1 && errors[0].starts_with(complaint), "{settings:?}: {errors:#?}");
    }
    // Exactly what is needed is enough.
    assert_eq!(set(&["writers.memory_max=32MiB"]).config().writers.memory_max, 32 << 20);
    let errors = set(&["writers.memory_max=33554431"]).errors();
    assert!(errors[0].contains(": 33554432 bytes, is 33554431"), "{errors:#?}");
}

#[test]
fn a_refused_value_causes_no_second_complaint() {
    assert!(only_error("[writers]\ncount = 0\nmemory_max = \"1MiB\"").contains("writers.count: must be at least 1"));
}

// Kafka's security.

// The database.

// Secrets.

#[test]
fn sections_that_are_done_without_are_not_looked_at() {
    let scratch = Scratch::new();
    let file = "[database]\npassword_file = \"/nonexistent\"\nport = \"many\"\n[kafka.tls]\nca_file = \"/nonexistent\"\n\
                [kafka]\ngroup = \"mine\"\n";
    let sources = Sources {
        file: Some(scratch.file("writer.toml", file)),
        set: vec!["database.tables.prices=a.b.c".to_owned()],
        environment: BTreeMap::from([
            ("PGPORT".to_owned(), "many".to_owned()),
            ("DATABASE_URL".to_owned(), "?".to_owned()),
        ]),
    };
    let config = Config::load_without(&sources, &["database", "kafka.tls"]).expect("the rest is right");
    assert_eq!((config.kafka.group.as_str(), config.kafka.tls), ("mine", None));
    assert_eq!(config.database, Given::default().load().expect("the defaults are right").database);
    assert_eq!(Config::load_without(&sources, &["database"]).expect_err("TLS is wrong").0.len(), 1);
    assert!(Config::load(&sources).expect_err("all is wrong").0.len() > 4);
}
