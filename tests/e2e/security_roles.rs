//! A worker whose role owns nothing: all that it does works with what `init --print` grants, and nothing else does.

use crate::harness::{Stage, servers};
use postgres::{Client, NoTls};

/// Above every price that is sent.
const NO_PRICE: i64 = 1_000_000_000;

#[test]
fn a_worker_works_as_a_role_that_can_not_touch_what_was_written() {
    let stage = Stage::new("role", 2);
    // A name that needs its quotes.
    let role = format!("Writer \"{}\"", stage.name);
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    stage.execute(&format!("CREATE ROLE {quoted} LOGIN"));
    let configured = stage.invocation().set("kafka.on_gap", "record");
    let sql = configured.output(&["init", "--print", "--writer-role", &role]).expect_code(0).stdout;
    stage.execute(&sql);
    let encoded = role.replace(' ', "%20").replace('"', "%22");
    let url = format!("postgresql://{encoded}@{}/stocks", servers().database_address());
    let invocation = configured.env("DATABASE_URL", &url).set("schema.manage", "validate");
    let succeeds = |arguments: &[&str]| invocation.output(arguments).expect_code(0).stdout;

    assert!(succeeds(&["check"]).contains("ok"));
    stage.produce(200);
    let refusing = invocation.clone().set("topics.0.price_min", NO_PRICE).set("dead_letters.ratio_max", 1);
    refusing.output(&["run", "--until-end"]).expect_code(0);
    assert!(succeeds(&["dead-letters", "list"]).contains(&stage.topic));
    succeeds(&["dead-letters", "show", &format!("{}/0/0/0", stage.topic)]);
    succeeds(&["dead-letters", "redrive"]);
    assert_eq!(stage.rows(), 200);
    succeeds(&["dead-letters", "discard", "--yes"]);
    stage.produce(200);
    succeeds(&["run", "--until-end"]);
    succeeds(&["status"]);
    assert_eq!(stage.rows(), 400);
    // Forward, which is a gap, and back.
    succeeds(&["reset", "--topic", &stage.topic, "--to", "earliest", "--yes"]);
    succeeds(&["reset", "--topic", &stage.topic, "--to", "latest", "--yes"]);
    assert_eq!(stage.number("SELECT count(*) FROM writer_gaps"), 2);
    succeeds(&["reset", "--topic", &stage.topic, "--to", "earliest", "--yes"]);
    succeeds(&["run", "--until-end"]);
    assert_eq!(stage.rows(), 800, "what is read again is written again");
    // With everything there, no right to make anything is needed either.
    invocation.clone().set("schema.manage", "create").output(&["run", "--until-end"]).expect_code(0);

    let schema = &stage.name;
    let mut client = Client::connect(&url, NoTls).expect("the role may log in");
    for statement in [
        "DROP TABLE @.stock_prices",
        "TRUNCATE @.stock_prices",
        "ALTER TABLE @.stock_prices ADD COLUMN x integer",
        "DELETE FROM @.stock_prices",
        "UPDATE @.stock_prices SET price = 0",
        "SELECT price FROM @.stock_prices",
        "CREATE INDEX ON @.stock_prices (price)",
        "DELETE FROM @.stock_metrics",
        "TRUNCATE @.stock_metrics",
        "DROP TABLE @.writer_offsets",
        "UPDATE @.writer_meta SET schema_version = 9",
        "CREATE TABLE @.another (x integer)",
        "DROP SCHEMA @ CASCADE",
    ] {
        let statement = statement.replace('@', schema);
        let refused = client.batch_execute(&statement).expect_err(&statement);
        let code = refused.code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused:?}");
    }
    drop(client);
    stage.execute(&format!("DROP OWNED BY {quoted}; DROP ROLE {quoted}"));
}

#[test]
fn the_grants_are_shown_as_comments_until_a_role_is_named() {
    let stage = Stage::new("role_printed", 1);
    let printed = |arguments: &[&str]| stage.invocation().output(&[&["init", "--print"], arguments].concat());
    let sql = printed(&[]).expect_code(0).stdout;
    assert!(sql.contains("\n--     GRANT USAGE ON SCHEMA ") && !sql.contains("\nGRANT"), "{sql}");
    let sql = printed(&["--writer-role", "app"]).expect_code(0).stdout;
    assert!(sql.contains(" TO \"app\";\n") && !sql.contains("stock_db_writer"), "{sql}");
    let refused = printed(&["--writer-role", &"r".repeat(64)]).expect_code(64);
    assert!(refused.stderr.contains("must have 1 to 63 bytes"), "{}", refused.stderr);
    let hint = stage.invocation().output(&["init"]).expect_code(0).stdout;
    assert!(hint.contains("stock-db-writer init --print --writer-role ROLE"), "{hint}");
}
