//! What `Config::load` makes of a file, an environment and flags.

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
    assert_eq!((config.kafka.tls, config.kafka.sasl, config.kafka.instance_id), (None, None, None));
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
fn a_topic_needs_a_name_of_its_own() {
    assert_eq!(
        only_error("[[topics]]\ntarget = \"metrics\""),
        "writer.toml:2: topics.0.name: must be set, or topics.0.pattern instead"
    );
    assert_eq!(only_error("[[topics]]\n"), "writer.toml:1: topics.0: is empty");
    assert!(only_error("[[topics]]\nname = \"\"").ends_with("topics.0.name: must not be empty"));
    assert!(only_error("[[topics]]\nname = \"a b\"").starts_with("writer.toml:2: topics.0.name: must be 1 to 249"));
    let twice = "[[topics]]\nname = \"a\"\n[[topics]]\nname = \"a\"";
    assert_eq!(only_error(twice), "writer.toml:4: topics.1.name: \"a\" is listed twice");
}

#[test]
fn a_topic_has_a_name_or_a_pattern() {
    assert_eq!(
        only_error("[[topics]]\nname = \"a\"\npattern = \"^a$\""),
        "writer.toml:3: topics.0.pattern: a topic has a name or a pattern, not both"
    );
    for none in ["pattern = \"\"", "name = \"\"\npattern = \"\""] {
        assert_eq!(
            only_error(&format!("[[topics]]\n{none}")),
            "writer.toml:2: topics.0.name: must be set, or topics.0.pattern instead"
        );
    }
    // Empty is none: so that a flag can turn one into the other.
    let named = Given { file: "[[topics]]\nname = \"a\"\npattern = \"\"", ..Given::default() };
    assert_eq!(named.config().topics.names().collect::<Vec<_>>(), ["a"]);
    let turned = Given { set: &["topics.0.name=", "topics.0.pattern=^b"], ..named }.config();
    assert_eq!((turned.topics.names().count(), turned.topics.is_by_pattern("bc")), (0, true));
}

#[test]
fn a_pattern_is_a_regular_expression_of_its_own() {
    for (pattern, cause) in [("a(", "unclosed group"), ("[z-a]", "invalid character class range"), ("*", "repetition")]
    {
        let error = only_error(&format!("[[topics]]\npattern = '{pattern}'"));
        assert!(error.starts_with("writer.toml:2: topics.0.pattern: is no regular expression: "), "{error}");
        assert!(error.contains(cause) && error.ends_with(&format!(": {pattern:?}")), "{error}");
    }
    assert!(only_error("[[topics]]\npattern = 7").contains("topics.0.pattern: must be a string"));
    let twice = "[[topics]]\npattern = \"^a\"\n[[topics]]\npattern = \"^a\"";
    assert_eq!(only_error(twice), "writer.toml:4: topics.1.pattern: \"^a\" is listed twice");
}

#[test]
fn a_topic_is_read_by_its_name_else_by_the_first_pattern_that_matches() {
    let text = "[[topics]]\npattern = '_1m_data$'\nprice_min = 1\n\
                [[topics]]\npattern = '(?i)^aapl\\w+\\d'\nprice_min = 2\n\
                [[topics]]\nname = 'aapl_1m_data'\nprice_min = 3\n[[topics]]\nname = '__mine'\nprice_min = 4";
    let config = file(text).config();
    let price_min = |topic: &str| config.topics.settings(topic).map(|settings| settings.price_min.to_string());
    for (topic, expected) in [
        // A pattern matches anywhere, unless it is anchored.
        ("my.aapl_1m_data", Some("1")),
        ("aapl_5m_1m_data", Some("1")),
        ("AAPL_5", Some("2")),
        ("aapl_1m_data", Some("3")),
        ("aapl_1m_data2", Some("2")),
        ("other", None),
        // Kafka's own ones are read by name only.
        ("__internal_1m_data", None),
        ("__mine", Some("4")),
    ] {
        assert_eq!(price_min(topic).as_deref(), expected, "{topic}");
    }
    assert!(config.topics.is_by_pattern("AAPL_5") && !config.topics.is_by_pattern("aapl_1m_data"));
    assert_eq!(config.topics.pattern("my.aapl_1m_data").map(Pattern::as_str), Some("_1m_data$"));
    assert_eq!(config.topics.names().collect::<Vec<_>>(), ["aapl_1m_data", "__mine"]);
}

#[test]
fn the_settings_of_a_topic_are_read() {
    let text = "[[topics]]\nname = \"t\"\ntarget = \"metrics\"\nformat = \"metrics\"\nprice_min = -0.50\n\
                timezone = \"America/New_York\"";
    let config = file(text).config();
    let settings = config.topics.settings("t").expect("it is named");
    assert_eq!(settings.target, Target::Metrics);
    assert_eq!(settings.price_min.to_string(), "-0.50");
    assert_eq!(settings.timezone, chrono_tz::Tz::America__New_York);
    for (key, hint) in [
        ("timezone = \"Mars/Olympus\"", "is no zone of the IANA database"),
        ("target = \"rows\"", "must be"),
        ("format = \"xml\"", "must be"),
        ("timestamp_unit = \"h\"", "must be"),
        ("timestamp_missing = \"now\"", "must be"),
        ("price_min = \"cheap\"", "must be a number"),
        ("price_min = nan", "must be a number"),
        ("format = \"metrics\"", "has no rows for target"),
    ] {
        let error = only_error(&format!("[[topics]]\nname = \"t\"\n{key}"));
        assert!(error.starts_with("writer.toml:3: topics.0.") && error.contains(hint), "{key}: {error}");
    }
}

#[cfg(feature = "client-kafka")]
const OLD_CLIENT: &str = "[kafka]\nclient = \"kafka\"\n";

#[cfg(all(feature = "client-kafka", feature = "client-krafka"))]
#[test]
fn the_client_for_old_brokers_is_told_what_it_can_do() {
    let told = format!("{OLD_CLIENT}assignment = \"all\"\nisolation = \"read_uncommitted\"\n");
    let config = file(&told).config();
    assert_eq!((config.kafka.client, config.kafka.assignment), (Client::Kafka, AssignmentMode::All));
    assert_eq!(file("").config().kafka.client, Client::Krafka);
    for text in ["start_at = \"latest\"", "start_at = \"kafka-group\"", "assignment = [0, 2]"] {
        let told =
            told.replace("assignment = \"all\"\n", if text.starts_with('a') { "" } else { "assignment = \"all\"\n" });
        assert_eq!(file(&format!("{told}{text}")).config().kafka.client, Client::Kafka);
    }
    let errors = file(OLD_CLIENT).errors();
    assert_eq!(
        errors,
        [
            "writer.toml:2: kafka.assignment: client = \"kafka\" joins no group: set \"all\" or a list of partitions, or \
             use client = \"krafka\"",
            "writer.toml:2: kafka.isolation: client = \"kafka\" can't tell what was aborted: if nobody writes to these \
             topics in transactions, set \"read_uncommitted\", or use client = \"krafka\"",
        ]
    );
}

#[cfg(feature = "client-kafka")]
#[test]
fn what_the_client_for_old_brokers_lacks_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let password = scratch.file("password", "secret").display().to_string();
    let sasl =
        format!("[kafka.sasl]\nmechanism = \"SCRAM-SHA-256\"\nusername = \"me\"\npassword_file = \"{password}\"");
    for (text, line, key) in [
        ("assignment = \"group\"\nisolation = \"read_uncommitted\"", 3, "kafka.assignment"),
        ("assignment = \"all\"\nisolation = \"read_committed\"", 4, "kafka.isolation"),
        ("group_protocol = \"consumer\"", 5, "kafka.group_protocol"),
        ("group_protocol = \"classic\"", 5, "kafka.group_protocol"),
        ("instance_id = \"writer-1\"", 5, "kafka.instance_id"),
        ("start_at = \"2024-01-02T15:04:05Z\"", 5, "kafka.start_at"),
        ("[kafka.tls]\nenable = true", 6, "kafka.tls.enable"),
        (&sasl, 6, "kafka.sasl.mechanism"),
        ("[dead_letters]\ntopic = \"letters\"", 6, "dead_letters.topic"),
    ] {
        let told = "assignment = \"all\"\nisolation = \"read_uncommitted\"\n";
        let told = if text.contains("isolation") { "" } else { told };
        let error = only_error(&format!("{OLD_CLIENT}{told}{text}"));
        assert!(error.starts_with(&format!("writer.toml:{line}: {key}: client = \"kafka\" ")), "{error}");
        assert!(error.ends_with("or use client = \"krafka\""), "{error}");
    }
}

#[test]
fn another_client_is_refused_and_nothing_is_concluded_from_it() {
    let error = only_error("[kafka]\nclient = \"librdkafka\"");
    assert_eq!(error, "writer.toml:2: kafka.client: must be \"krafka\" or \"kafka\", is \"librdkafka\"");
}

#[cfg(not(all(feature = "client-kafka", feature = "client-krafka")))]
#[test]
fn a_client_that_is_not_built_in_is_refused_by_name() {
    let missing = if cfg!(feature = "client-kafka") { "krafka" } else { "kafka" };
    let error = only_error(&format!("[kafka]\nclient = {missing:?}"));
    assert!(error.starts_with(&format!("writer.toml:2: kafka.client: {missing:?} is not built in")), "{error}");
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

#[test]
fn start_at_takes_times() {
    let at = |value: &str| file(&format!("[kafka]\nstart_at = {value}")).config().kafka.start_at;
    assert_eq!(at("\"latest\""), StartAt::Latest);
    assert_eq!(at("\"kafka-group\""), StartAt::KafkaGroup);
    assert_eq!(at("\"2024-01-02T15:04:05.5Z\""), StartAt::TimeMs(1_704_207_845_500));
    assert_eq!(at("2024-01-02T16:04:05+01:00"), StartAt::TimeMs(1_704_207_845_000));
}

// Kafka's security.

#[test]
fn tls_settings_without_tls_are_refused() {
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem", "x");
    let text = format!("[kafka.tls]\nca_file = {ca:?}");
    assert!(only_error(&text).ends_with("kafka.tls.ca_file: has no effect without kafka.tls.enable = true"));
    let tls = file(&format!("{text}\nenable = true")).config().kafka.tls.expect("TLS is enabled");
    assert_eq!((tls.ca_file, tls.cert_file, tls.key_file), (Some(ca.clone()), None, None));
    let text = format!("[kafka.tls]\nenable = true\ncert_file = {ca:?}");
    assert!(only_error(&text).contains("kafka.tls.cert_file: needs kafka.tls.key_file"));
    assert!(only_error("[kafka.tls]\nenable = true\nca_file = \"/nowhere/ca.pem\"").contains("/nowhere/ca.pem: "));
}

#[test]
fn a_password_is_sent_readable_only_on_demand() {
    let scratch = Scratch::new();
    let password_file = scratch.file("password", "hunter2\n");
    let sasl = |mechanism: &str, more: &str| {
        format!("[kafka.sasl]\nmechanism = {mechanism:?}\nusername = \"me\"\npassword_file = {password_file:?}\n{more}")
    };
    assert!(only_error(&sasl("PLAIN", "")).contains("kafka.sasl.mechanism: PLAIN without TLS"));
    for (text, mechanism) in [
        (sasl("PLAIN", "allow_plaintext_password = true"), SaslMechanism::Plain),
        (sasl("PLAIN", "[kafka.tls]\nenable = true"), SaslMechanism::Plain),
        (sasl("SCRAM-SHA-256", ""), SaslMechanism::ScramSha256),
        (sasl("SCRAM-SHA-512", ""), SaslMechanism::ScramSha512),
    ] {
        let sasl = file(&text).config().kafka.sasl.expect("a mechanism is set");
        assert_eq!((sasl.mechanism, sasl.username.as_str()), (mechanism, "me"));
        assert_eq!(sasl.secret().map(|password| password.reveal().to_owned()), Ok("hunter2".to_owned()));
        assert!(!format!("{sasl:?}").contains("hunter2"));
    }
}

#[test]
fn sasl_is_set_as_a_whole() {
    let errors = file("[kafka.sasl]\nmechanism = \"PLAIN\"").errors();
    let keys: Vec<&str> = errors.iter().filter_map(|error| error.split(": ").nth(1)).collect();
    assert_eq!(keys, ["kafka.sasl.mechanism", "kafka.sasl.password_file", "kafka.sasl.username"], "{errors:#?}");
    assert!(only_error("[kafka.sasl]\nusername = \"me\"").contains("has no effect without kafka.sasl.mechanism"));
    assert!(only_error("[kafka.sasl]\npassword = \"hunter2\"").contains("set kafka.sasl.password_file"));
}

#[test]
fn a_token_stands_for_name_and_password() {
    let scratch = Scratch::new();
    let token_file = scratch.file("token", "hunter2\n");
    let sasl = |more: &str| format!("[kafka.sasl]\nmechanism = \"OAUTHBEARER\"\n{more}");
    let with_token = sasl(&format!("token_file = {token_file:?}\n"));
    assert!(only_error(&with_token).contains("kafka.sasl.mechanism: OAUTHBEARER without TLS sends the token readable"));
    for more in ["allow_plaintext_password = true", "[kafka.tls]\nenable = true"] {
        let sasl = file(&format!("{with_token}{more}")).config().kafka.sasl.expect("a mechanism is set");
        assert_eq!((sasl.mechanism, sasl.username.as_str()), (SaslMechanism::OAuthBearer, ""));
        assert_eq!(sasl.secret().map(|token| token.reveal().to_owned()), Ok("hunter2".to_owned()));
    }
    let tls = "[kafka.tls]\nenable = true";
    let missing = only_error(&sasl(tls));
    assert!(missing.contains("kafka.sasl.token_file: must be set when this mechanism is"), "{missing}");
    let both = format!("{with_token}username = \"me\"\npassword_file = {token_file:?}\n{tls}");
    let errors = file(&both).errors();
    let what = "has no effect with this kafka.sasl.mechanism";
    assert_eq!(
        errors,
        [
            format!("writer.toml:4: kafka.sasl.username: {what}"),
            format!("writer.toml:5: kafka.sasl.password_file: {what}")
        ]
    );
    let other = format!(
        "[kafka.sasl]\nmechanism = \"SCRAM-SHA-256\"\nusername = \"me\"\npassword_file = {token_file:?}\n\
         token_file = {token_file:?}"
    );
    assert!(only_error(&other).starts_with(&format!("writer.toml:5: kafka.sasl.token_file: {what}")));
}

// The database.

/// The connection as it would be made: URL, then what outweighs it.
fn connection(given: &Given<'_>) -> String {
    let database = given.config().database;
    let shown = |name: &str, value: Option<String>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
    format!(
        "{}{}{}{}{}{}{}",
        database.url.map(|url| url.reveal().to_owned()).unwrap_or_default(),
        shown("host", database.host),
        shown("port", database.port.map(|port| port.to_string())),
        shown("name", database.name),
        shown("user", database.user),
        shown("password", database.password.map(|password| password.reveal().to_owned())),
        shown("file", database.password_file.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))),
    )
}

#[test]
fn the_database_is_found_in_the_order_of_the_places() {
    let text = "[database]\nurl = \"postgresql://file/a\"";
    let ours = ("STOCK_DB_WRITER__DATABASE__URL", "postgresql://ours/a");
    let theirs = ("DATABASE_URL", "postgresql://theirs/a");
    let pg = ("PGHOST", "pg");
    for (variables, set, expected) in [
        (&[pg, theirs, ours][..], &["database.url=postgresql://flag/a"][..], "postgresql://flag/a"),
        (&[pg, theirs, ours], &[], "postgresql://ours/a"),
        (&[pg, theirs], &[], "postgresql://theirs/a"),
        (&[pg], &[], "postgresql://file/a"),
    ] {
        assert_eq!(connection(&Given { file: text, environment: variables, set }), expected);
    }
    assert_eq!(
        connection(&environment(&[pg, ("PGPORT", "6432"), ("PGUSER", "me"), ("PGDATABASE", "s")])),
        " host=pg port=6432 name=s user=me"
    );
    // An empty variable, as Compose files leave behind, is none.
    let empty = [("DATABASE_URL", ""), ("PGHOST", ""), ("PGPORT", ""), ("STOCK_DB_WRITER__DATABASE__PORT", "")];
    assert_eq!(connection(&environment(&empty)), "");
}

#[test]
fn a_url_is_outweighed_by_later_places_and_filled_in_by_all() {
    let url = ("DATABASE_URL", "postgresql://me:secret@db:5432/stocks");
    let text = "[database]\nhost = \"other\"\nport = 1\nuser = \"you\"\nname = \"b\"";
    assert_eq!(connection(&Given { file: text, environment: &[url], set: &[] }), url.1);
    let given = Given { file: text, environment: &[url], set: &["database.host=third"] };
    assert_eq!(connection(&given), format!("{} host=third", url.1));
    let open = ("DATABASE_URL", "postgresql://db");
    let given = Given { file: text, environment: &[open, ("PGPASSWORD", "p"), ("PGHOST", "pg")], set: &[] };
    assert_eq!(connection(&given), "postgresql://db port=1 name=b user=you password=p");
    // Both in the file: who writes both means the single one.
    let both = "[database]\nurl = \"postgresql://db/a\"\nname = \"b\"";
    assert_eq!(connection(&file(both)), "postgresql://db/a name=b");
    // The names of two variables have no order.
    let variables = [("STOCK_DB_WRITER__DATABASE__HOST", "b"), ("STOCK_DB_WRITER__DATABASE__URL", "postgresql://a")];
    assert_eq!(connection(&environment(&variables)), "postgresql://a host=b");
}

#[test]
fn one_password_is_left() {
    let scratch = Scratch::new();
    let text = format!("[database]\npassword_file = {:?}", scratch.file("password", "x"));
    let with = ("DATABASE_URL", "postgresql://me:secret@db");
    let without = ("DATABASE_URL", "postgresql://me@db");
    let pg = ("PGPASSWORD", "p");
    for (text, variables, expected) in [
        ("", &[with, pg][..], "postgresql://me:secret@db"),
        ("", &[without, pg], "postgresql://me@db password=p"),
        (text.as_str(), &[without, pg], "postgresql://me@db file=password"),
        (text.as_str(), &[with, pg], "postgresql://me:secret@db"),
        (text.as_str(), &[pg], " file=password"),
    ] {
        assert_eq!(connection(&Given { file: text, environment: variables, set: &[] }), expected);
    }
}

#[test]
fn sslmode_is_honoured_or_refused_by_name() {
    let tls = |url: &str| environment(&[("DATABASE_URL", url)]).load().map(|config| config.database.tls);
    assert_eq!(tls("postgresql://db/a?sslmode=verify-full"), Ok(DatabaseTls::VerifyFull));
    assert_eq!(tls("host=db sslmode=disable"), Ok(DatabaseTls::Disable));
    assert_eq!(tls("postgresql://db/a"), Ok(DatabaseTls::Auto));
    for weak in ["allow", "prefer", "require", "verify-ca"] {
        let errors = tls(&format!("postgresql://db/a?sslmode={weak}")).expect_err("it does not verify");
        assert_eq!(
            errors,
            [format!(
                "DATABASE_URL: database.url: sslmode={weak} does not verify the server's name; write sslmode=verify-full or \
             sslmode=disable"
            )]
        );
        let errors = environment(&[("PGSSLMODE", weak)]).errors();
        assert!(errors[0].starts_with(&format!("PGSSLMODE: sslmode={weak} ")), "{errors:#?}");
    }
    assert_eq!(environment(&[("PGSSLMODE", "disable")]).config().database.tls, DatabaseTls::Disable);
    let text = "[database]\nurl = \"postgresql://db?sslmode=verify-full\"\ntls = \"disable\"";
    assert_eq!(only_error(text), "writer.toml:3: database.tls: contradicts sslmode in database.url");
    let given = Given {
        file: "[database]\ntls = \"disable\"",
        environment: &[("DATABASE_URL", "postgresql://db?sslmode=verify-full"), ("PGSSLMODE", "prefer")],
        set: &[],
    };
    assert_eq!(given.config().database.tls, DatabaseTls::VerifyFull);
    let given = Given {
        set: &["database.tls=verify-full"],
        environment: &[("DATABASE_URL", "host=a sslmode=disable")],
        file: "",
    };
    assert_eq!(given.config().database.tls, DatabaseTls::VerifyFull);
}

#[test]
fn sslrootcert_is_honoured() {
    let scratch = Scratch::new();
    let (ca, other) = (scratch.file("ca.pem", "x"), scratch.file("other.pem", "x"));
    let url = format!("postgresql://db/a?sslrootcert={}", ca.display());
    let database = environment(&[("DATABASE_URL", &url)]).config().database;
    assert_eq!(database.ca_file, Some(ca.clone()));
    assert_eq!(database.url.map(|url| url.reveal().to_owned()).as_deref(), Some("postgresql://db/a"));
    let text = format!("[database]\nca_file = {other:?}");
    let given = Given { file: &text, environment: &[("DATABASE_URL", &url)], set: &[] };
    assert_eq!(given.config().database.ca_file, Some(ca));
    let system = environment(&[("DATABASE_URL", "postgresql://db/a?sslrootcert=system")]).config().database.ca_file;
    assert_eq!(system, None);
    let errors = environment(&[("DATABASE_URL", "postgresql://db/a?sslrootcert=/nowhere")]).errors();
    assert_eq!(errors, ["DATABASE_URL: database.url: sslrootcert names a file that is not there"]);
    assert!(only_error(&format!("{text}\ntls = \"disable\"")).contains("database.ca_file: has no effect"));
    let text = format!("[database]\ncert_file = {other:?}");
    assert!(only_error(&text).contains("database.cert_file: needs database.key_file"));
}

#[test]
fn variables_that_would_lead_to_another_server_are_refused() {
    for name in ["PGSERVICE", "PGHOSTADDR"] {
        let errors = environment(&[(name, "x")]).errors();
        assert_eq!(errors, [format!("{name}: is not supported; set DATABASE_URL or PGHOST")]);
        assert!(environment(&[(name, "x"), ("PGHOST", "db")]).load().is_ok());
    }
    assert_eq!(environment(&[("PGPORT", "high")]).errors(), ["PGPORT: must be a whole number"]);
}

#[test]
fn tables_are_named_in_short_or_at_length() {
    let prices = |text: &str| file(text).config().database.prices.to_string();
    assert_eq!(prices("[database.tables]\nprices = \"ticks\""), "public.ticks");
    assert_eq!(prices("[database.tables]\nprices = \"market.ticks\""), "market.ticks");
    assert_eq!(prices("[database.tables.prices]\nname = \"Market.Ticks\""), "Market.Ticks");
    let text = "[database.tables.prices]\nname = \"a\"";
    let given = Given { file: text, environment: &[("STOCK_DB_WRITER__DATABASE__TABLES__PRICES", "b")], set: &[] };
    assert_eq!(given.config().database.prices.to_string(), "public.b");
    let bookkeeping = file("[database.tables]\nbookkeeping = \"writer\"").config().database.bookkeeping;
    assert_eq!(bookkeeping, "writer");
    let long = "x".repeat(64);
    for wrong in ["", ".a", "a.", "a.b.c", &long, "a\\u0000"] {
        let error = only_error(&format!("[database.tables]\nprices = \"{wrong}\""));
        assert!(error.starts_with("writer.toml:2: database.tables.prices: must "), "{error}");
    }
}

// Secrets.

#[test]
fn no_complaint_and_no_debug_output_shows_a_secret() {
    const URL: &str = "postgresql://me:hunter2@db/stocks";
    for text in [
        "[database]\nurl = postgresql://me:hunter2@db/stocks\n".to_owned(),
        "[database]\nurl = \"postgresql://me:hunter2@db/stocks\n".to_owned(),
        format!("[database]\nurl = \"{URL}\"\nurl = \"{URL}\"\n"),
        format!("[database]\nurl = [\"{URL}\"]\n"),
        format!("[database]\nurl = {{ a = \"{URL}\" }}\n"),
        format!("[database]\nurl = \"{URL}?sslmode=require\"\n"),
        "[database]\nurl = \"mysql://me:hunter2@db/stocks\"\n".to_owned(),
        "[database]\npassword = \"hunter2\"\n".to_owned(),
        "[kafka.sasl]\npassword = \"hunter2\"\n".to_owned(),
        format!("[database]\ntls = 1\nurl = \"{URL}\"\n"),
    ] {
        let errors = file(&text).errors().join("\n");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    for bad in ["postgresql://me:hunter2@hunter2@db", "hunter2", "postgres//me:hunter2@db", "password=my hunter2"] {
        let errors = environment(&[("DATABASE_URL", bad)]).errors().join("\n");
        assert!(errors.starts_with("DATABASE_URL: database.url: "), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    let errors = set(&[&format!("database.url={URL}")]).errors().join("\n");
    assert!(errors.contains("which other users of this machine can see") && !errors.contains("hunter2"), "{errors}");
    let config = environment(&[("DATABASE_URL", URL), ("PGPASSWORD", "hunter2")]).config();
    assert!(!format!("{config:?}").contains("hunter2"));
    let config = environment(&[("PGPASSWORD", "hunter2")]).config();
    assert!(config.database.password.is_some() && !format!("{config:?}").contains("hunter2"));
}

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

#[test]
fn a_secret_that_everybody_can_read_is_refused_with_its_line() {
    let scratch = Scratch::new();
    let (secret, certificate) = (scratch.public("secret", "hunter2"), scratch.public("cert.pem", "x"));
    let private = scratch.file("key.pem", "x");
    let file = format!(
        "[database]\ntls = \"verify-full\"\npassword_file = {secret:?}\nca_file = {certificate:?}\n\
         cert_file = {certificate:?}\nkey_file = {secret:?}\n\
         [kafka.tls]\nenable = true\ncert_file = {certificate:?}\nkey_file = {secret:?}\n\
         [kafka.sasl]\nmechanism = \"PLAIN\"\nusername = \"me\"\npassword_file = {secret:?}"
    );
    let errors = Given { file: &file, ..Given::default() }.errors();
    let said = format!("{} can be read by every user of this machine; run chmod 600 ", secret.display());
    for (line, key) in [
        (3, "database.password_file"),
        (6, "database.key_file"),
        (10, "kafka.tls.key_file"),
        (14, "kafka.sasl.password_file"),
    ] {
        let start = format!("writer.toml:{line}: {key}: {said}");
        assert!(errors.iter().any(|error| error.starts_with(&start)), "{start}\n{errors:#?}");
    }
    assert_eq!(errors.len(), 4, "{errors:#?}");
    let fine = file.replace(&secret.display().to_string(), &private.display().to_string());
    Given { file: &fine, ..Given::default() }.config();
    let url =
        format!("postgresql://db/s?sslcert={}&sslkey={}&sslmode=verify-full", certificate.display(), secret.display());
    let errors = Given { environment: &[("DATABASE_URL", &url)], ..Given::default() }.errors();
    let said = "database.url: sslkey names a file that every user of this machine can read or change; run chmod 600";
    assert_eq!(errors, [format!("DATABASE_URL: {said}")]);
}
