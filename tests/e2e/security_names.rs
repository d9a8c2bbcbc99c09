//! Tables whose names are made to be mistaken for something else are made and used, and nothing else is touched.

use crate::harness::Stage;
use crate::harness::producer::{Kcat, quote};

/// An identifier that means exactly this name. Written anew here: it is what the worker is put to the test for.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// 63 bytes, which is as long as a name may be, with a letter of two bytes across the place where an index's name is cut.
fn longest() -> String {
    format!("{}é{}", "n".repeat(45), "n".repeat(16))
}

#[test]
fn names_that_look_like_sql_are_only_names() {
    let stage = Stage::new("names", 1);
    let mut victims = stage.database();
    victims.batch_execute("CREATE TABLE y (x integer); INSERT INTO y VALUES (1)").expect("PostgreSQL answers");
    let long = longest();
    for (n, (schema, prices, metrics, bookkeeping)) in [
        ("a\"b", "x; drop table y", "select", "a\"b"),
        ("x'; DROP TABLE y; --", "a\"b", "%s$1\\", "select"),
        ("select", &*long, "Table", "x; drop table y"),
    ]
    .into_iter()
    .enumerate()
    {
        // Of this stage alone.
        let (schema, bookkeeping) = (format!("{schema}{}", stage.name), format!("{bookkeeping}{}", stage.name));
        let invocation = stage
            .invocation_of_all()
            .set("pipeline", format!("names'; DROP TABLE y; --{n}"))
            .set("dead_letters.ratio_max", 1)
            .set("database.tables.prices", format!("{schema}.{prices}"))
            .set("database.tables.metrics", format!("{schema}.{metrics}"))
            .set("database.tables.bookkeeping", &bookkeeping);
        let table = |name: &str| format!("{}.{}", quoted(&schema), quoted(name));
        invocation.output(&["init"]).expect_code(0);
        // One row is refused, which the server tells by the table's name.
        let check = format!("ALTER TABLE {} ADD CONSTRAINT none CHECK (symbol <> 'BAD')", table(prices));
        stage.execute(&check);
        let mut kcat = Kcat::start(&stage.topic, Some(0), "none");
        (1..=20).for_each(|id| kcat.quote(id));
        kcat.line("BAD", quote(21).replace("\"K21\"", "\"BAD\"").as_bytes());
        kcat.finish();
        invocation.output(&["run", "--until-end"]).expect_code(0);
        let count = |name: &str| stage.number(&format!("SELECT count(*) FROM {}", table(name)));
        let n_topics = n as i64 + 1;
        assert_eq!((count(prices), count(metrics)), (20 * n_topics, 0));
        for arguments in [
            &["check"][..],
            &["status"],
            &["dead-letters", "list"],
            &["dead-letters", "redrive"],
            &["dead-letters", "discard", "--yes"],
            &["reset", "--topic", &stage.topic, "--to", "earliest", "--yes"],
            &["init"],
        ] {
            invocation.output(arguments).expect_code(0);
        }
        // What is printed for psql does the same, and can be run again.
        let sql = invocation.output(&["init", "--print"]).expect_code(0).stdout;
        stage.execute(&sql);
        let letters = format!("{}.writer_dead_letters", quoted(&bookkeeping));
        assert_eq!(stage.number(&format!("SELECT count(*) FROM {letters}")), 0, "reset removes them");
        stage.execute(&format!("DROP SCHEMA {} CASCADE", quoted(&schema)));
        stage.execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&bookkeeping)));
        assert_eq!(stage.number("SELECT count(*) FROM y"), 1);
    }
}

#[test]
fn a_name_that_postgresql_would_cut_is_refused() {
    let stage = Stage::new("names_cut", 1);
    for key in ["prices", "metrics", "bookkeeping"] {
        let setting = format!("database.tables.{key}");
        let refused = stage.invocation().set(&setting, format!("{}x", longest())).output(&["init"]).expect_code(78);
        let said = format!("stock-db-writer: --set: {setting}: must have at most 63 bytes");
        assert!(refused.stderr.starts_with(&said) && refused.stderr.lines().count() == 1, "{}", refused.stderr);
    }
}
