//! The shape of the tree: who may import whom, and which file may name which foreign library.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every allowed import between top-level modules, from the bottom up. A new edge is a design decision.
const EDGES: &[(&str, &[&str])] = &[
    ("sync", &[]),
    ("backoff", &[]),
    ("clock", &[]),
    ("decimal", &[]),
    ("exit", &[]),
    ("handshake", &[]),
    ("heartbeat", &[]),
    ("quiet", &[]),
    ("record", &[]),
    ("pipeline_lock", &["clock"]),
    ("shutdown", &["clock", "sync"]),
    ("vitals", &["record"]),
    ("row", &["decimal"]),
    ("fault", &["exit", "row"]),
    ("outage", &["clock", "exit", "fault", "quiet"]),
    ("batch", &["record"]),
    ("fit", &["decimal", "row"]),
    ("capacity", &[]),
    ("lane", &["clock", "sync"]),
    ("sift", &[]),
    ("decode", &["decimal", "record", "row"]),
    ("explain", &["decimal", "decode", "record", "row"]),
    ("config", &["decimal", "decode", "record"]),
    ("dead_letters", &["record", "row"]),
    ("redrive", &["dead_letters", "decode", "explain", "fit", "record", "row"]),
    ("work", &["batch", "decode", "row"]),
    ("brake", &["row", "work"]),
    ("metrics", &["record", "row", "work"]),
    ("sink", &["batch", "fault", "lane", "record", "work"]),
    ("ledger", &["batch", "exit", "fault", "record"]),
    ("reset", &["ledger", "record"]),
    ("delivery", &["batch", "lane", "record", "sink"]),
    ("source", &["batch", "config", "delivery", "exit", "handshake", "quiet", "record"]),
    (
        "database",
        &[
            "batch",
            "capacity",
            "config",
            "dead_letters",
            "decimal",
            "exit",
            "fault",
            "fit",
            "handshake",
            "heartbeat",
            "lane",
            "ledger",
            "record",
            "redrive",
            "reset",
            "row",
            "sift",
            "sink",
            "work",
        ],
    ),
    ("claimer", &["exit", "fault", "ledger", "outage", "pipeline_lock", "record", "shutdown"]),
    ("watchdog", &["exit", "heartbeat", "shutdown"]),
    (
        "writer",
        &[
            "backoff",
            "batch",
            "brake",
            "clock",
            "config",
            "delivery",
            "exit",
            "fault",
            "heartbeat",
            "lane",
            "metrics",
            "outage",
            "pipeline_lock",
            "sink",
            "vitals",
            "work",
        ],
    ),
    (
        "consumer",
        &[
            "backoff", "batch", "claimer", "clock", "config", "delivery", "exit", "fault", "lane", "ledger", "outage",
            "record", "shutdown", "sink", "source", "vitals", "work", "writer",
        ],
    ),
    ("newest", &["batch", "record", "source"]),
    ("oldest", &["record", "source"]),
    ("progress", &[]),
    ("logger", &["config", "progress", "quiet"]),
    ("http", &["metrics", "outage", "vitals"]),
    (
        "observer",
        &["capacity", "clock", "config", "database", "ledger", "metrics", "record", "shutdown", "source", "vitals"],
    ),
    ("relay", &["backoff", "config", "database", "dead_letters", "fault", "outage", "source"]),
    (
        "startup",
        &[
            "backoff", "config", "database", "exit", "fault", "ledger", "outage", "record", "shutdown", "source",
            "vitals",
        ],
    ),
    (
        "supervisor",
        &[
            "claimer",
            "config",
            "consumer",
            "exit",
            "heartbeat",
            "http",
            "ledger",
            "logger",
            "metrics",
            "observer",
            "outage",
            "pipeline_lock",
            "progress",
            "relay",
            "shutdown",
            "startup",
            "watchdog",
            "writer",
        ],
    ),
    (
        "commands",
        &[
            "batch",
            "clock",
            "config",
            "database",
            "dead_letters",
            "decode",
            "delivery",
            "exit",
            "explain",
            "fault",
            "heartbeat",
            "ledger",
            "newest",
            "oldest",
            "outage",
            "progress",
            "record",
            "redrive",
            "reset",
            "row",
            "shutdown",
            "sink",
            "source",
            "startup",
            "work",
        ],
    ),
    ("cli", &["commands", "config", "dead_letters", "exit", "logger", "reset", "row", "supervisor"]),
];

/// Which places may name a foreign library. tokio is there where a client's interface is made of its types.
const DOORS: &[(&str, &str)] = &[
    ("krafka", "source/krafka"),
    ("kafka", "source/kafka"),
    ("tokio", "source/krafka"),
    ("tokio", "database"),
    ("tokio", "http"),
    ("hyper", "http"),
    ("hyper_util", "http"),
    ("http_body_util", "http"),
    ("prometheus", "metrics"),
    ("ureq", "commands"),
    ("clap_complete", "cli"),
    ("anstream", "commands"),
    ("anstyle", "commands"),
    ("postgres", "database"),
    ("r2d2", "database"),
    ("r2d2_postgres", "database"),
    ("rustls", "database"),
    // Its errors, of every server.
    ("rustls", "handshake"),
    ("rustls_native_certs", "database"),
    ("tokio_postgres_rustls", "database"),
    ("clap", "cli"),
    ("signal_hook", "supervisor"),
    ("env_logger", "logger"),
    ("indicatif", "progress"),
    ("unicode_width", "explain/text"),
    ("regex", "config/topics"),
    ("toml", "config"),
];

fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() { walk(&path, files) } else { files.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let named = files.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
        let name = path.strip_prefix(&root).expect("it is below src").with_extension("");
        (name.to_str().expect("names are ASCII").to_owned(), text)
    });
    named
        .filter(|(name, _)| !name.ends_with("tests") && !name.contains("/tests/") && name != "lib" && name != "main")
        .collect()
}

/// The code without its unit tests and comments, which may use anything.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]").filter(|line| !line.trim_start().starts_with("//"))
}

/// The words that follow `prefix` in the code.
fn words_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

#[test]
fn modules_import_only_what_is_below_them() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(module, below)| (*module, below.iter().copied().collect())).collect();
    let mut seen = BTreeSet::new();
    for (name, text) in sources() {
        let module = name.split('/').next().expect("a name has a first part").to_owned();
        let Some(below) = allowed.get(module.as_str()) else { panic!("{module} has no place in EDGES") };
        for line in code(&text) {
            for imported in words_after(line, "crate::").filter(|imported| *imported != module) {
                assert!(below.contains(imported), "src/{name}.rs imports {imported}: {line}");
                seen.insert((module.clone(), imported.to_owned()));
            }
        }
    }
    for (module, below) in EDGES {
        for imported in *below {
            let edge = ((*module).to_owned(), (*imported).to_owned());
            assert!(seen.contains(&edge), "nobody in {module} imports {imported} any more");
        }
    }
}

#[test]
fn edges_point_downwards() {
    let place = |module: &str| EDGES.iter().position(|(name, _)| *name == module).expect("every module is listed");
    for (module, below) in EDGES {
        for imported in *below {
            assert!(place(imported) < place(module), "{module} imports {imported}, which stands above it");
        }
    }
}

#[test]
fn each_foreign_library_has_one_door() {
    for (name, text) in sources() {
        for line in code(&text) {
            for (library, _) in DOORS {
                let named = line.contains(&format!("use {library}::")) || line.contains(&format!(" {library}::"));
                let may = DOORS.iter().any(|(other, door)| other == library && name.starts_with(door));
                assert!(!named || may, "src/{name}.rs names {library}: {line}");
            }
        }
    }
}
