//! Whatever is asked for, and however much is logged, no secret is said: not by the program, not by its libraries.

use crate::harness::certificates::secret_file;
use crate::harness::matrix::EVERYTHING;
use crate::harness::producer::{CANARY, Kcat};
use crate::harness::{Invocation, Stage, servers};

/// In every secret of these tests.
const SECRET: &str = "hunter2";

#[track_caller]
fn assert_kept(invocation: &Invocation, arguments: &[&str]) -> i32 {
    let output = invocation.output(arguments);
    let said = output.said();
    assert!(!said.contains(SECRET), "{arguments:?} tells a secret:\n{said}");
    assert!(!said.contains("panicked"), "{arguments:?}:\n{said}");
    output.code
}

fn commands(topic: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["init"],
        vec!["init", "--print"],
        vec!["check"],
        vec!["run", "--until-end"],
        vec!["status"],
        vec!["status", "--json"],
        vec!["dead-letters", "list"],
        vec!["dead-letters", "redrive"],
        vec!["dead-letters", "discard", "--yes"],
        vec!["explain", "--from-kafka", "3"],
        vec!["reset", "--topic", topic, "--to", "latest"],
        vec!["reset", "--topic", topic, "--to", "latest", "--yes"],
    ]
}

#[test]
fn no_command_tells_a_password_right_or_wrong() {
    let stage = Stage::new("secrets", 1);
    stage.produce(20);
    stage.execute(
        "DO $$ BEGIN CREATE ROLE needs_password NOLOGIN; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    );
    let (role, schema, address) = (format!("r{}", stage.name), &stage.name, servers().database_address());
    stage.execute(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{SECRET}-right' IN ROLE needs_password; GRANT ALL ON SCHEMA {schema} TO {role}"
    ));
    let file = stage.path("password");
    let by_url = |password: &str| {
        stage.invocation_of_all().env("DATABASE_URL", format!("postgresql://{role}:{password}@{address}/stocks"))
    };
    let without = || stage.invocation_of_all().env("DATABASE_URL", format!("postgresql://{role}@{address}/stocks"));
    let by_variable = |password: &str| without().env("PGPASSWORD", password);
    let by_file = |password: &str| {
        secret_file(&file, password);
        without().set("database.password_file", file.display())
    };
    let ways: [&dyn Fn(&str) -> Invocation; 3] = [&by_url, &by_variable, &by_file];
    for way in ways {
        for (password, is_right) in [("hunter2-right", true), ("hunter2-wrong", false)] {
            let invocation = way(password).env("RUST_LOG", EVERYTHING).set("retry.max_outage_s", 1);
            for arguments in commands(&stage.topic) {
                let code = assert_kept(&invocation, &arguments);
                let needs_database = !matches!(arguments[..], ["init", "--print"] | ["explain", ..]);
                let expected = if is_right || !needs_database { 0 } else { 77 };
                assert_eq!(code, expected, "{arguments:?} with {password}");
            }
        }
    }
    stage.execute(&format!("REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn no_complaint_about_a_configuration_quotes_it() {
    let stage = Stage::new("secrets_config", 1);
    let bare = || stage.invocation().env("RUST_LOG", EVERYTHING);
    let file = |text: &str| {
        secret_file(&stage.path("writer.toml"), text);
        bare()
    };
    for invocation in [
        bare().set("database.url", "postgresql://me:hunter2@db/s"),
        bare().set("database.password", "hunter2"),
        bare().set("kafka.sasl.password", "hunter2"),
        bare().env("DATABASE_URL", "postgresql://me:hunter2@db:hunter2/s"),
        bare().env("DATABASE_URL", "mysql://me:hunter2@db/s"),
        bare().env("STOCK_DB_WRITER__DATABASE__PASSWORD", "hunter2"),
        bare().env("STOCK_DB_WRITER__HUNTER", "hunter2"),
        file("[database]\nurl = \"postgresql://me:hunter2@db:x/s\""),
        file("[database]\nurl = \"postgresql://me:hunter2@db/s"),
        file("[database]\nurl = postgresql://me:hunter2@db/s"),
        file("[database]\npasswort = \"hunter2\""),
    ] {
        assert_eq!(assert_kept(&invocation, &["check"]), 78);
    }
}

/// As much as can be logged, of rows and dead letters on all their ways. That every other log is clean, each worker of these
/// tests sees to when it has ended.
#[test]
fn no_log_holds_what_was_in_a_record() {
    let stage = Stage::new("canary", 2);
    let invocation = stage.invocation().env("RUST_LOG", EVERYTHING).set("dead_letters.ratio_max", 1);
    invocation.output(&["init"]).expect_code(0);
    stage.execute("ALTER TABLE stock_prices ADD CONSTRAINT refused CHECK (symbol <> 'K7')");
    stage.produce(1_000);
    let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
    for value in
        [format!("{{\"{CANARY}\":"), format!("{{\"symbol\":\"{CANARY}\",\"price\":\"{CANARY}\"}}"), CANARY.into()]
    {
        kcat.line(CANARY, value.as_bytes());
    }
    kcat.finish();
    let run = invocation.output(&["run", "--until-end"]).expect_code(0);
    assert!(run.stderr.lines().count() > 100, "that is not all that could be logged");
    assert_eq!(stage.number("SELECT count(*) FROM writer_dead_letters"), 5);
    for arguments in [&["dead-letters", "redrive"][..], &["dead-letters", "list"], &["explain", "--from-kafka", "3"]] {
        let output = invocation.output(arguments);
        assert!(!output.stderr.contains(CANARY), "{arguments:?}: {}", output.stderr);
    }
}
