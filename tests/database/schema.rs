//! The schema: made, migrated, and looked at before anything is read.

use super::*;

#[test]
fn init_twice_or_at_once_makes_everything_once() {
    let mut fixture = Fixture::empty(&[]);
    let made: Vec<usize> = std::thread::scope(|scope| {
        let inits: Vec<_> =
            [(); 2].map(|()| scope.spawn(|| fixture.database.init().expect("both succeed").made.len())).into();
        inits.into_iter().map(|init| init.join().expect("no panic")).collect()
    });
    assert!(made.contains(&0) && made.contains(&13), "{made:?}");
    assert_eq!(fixture.database.init().expect("again").made, Vec::<String>::new());
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    // The printed script makes the same, and can be run over it.
    let script = stock_db_writer::database::schema::sql(&fixture.config.database);
    fixture.sql(&script);
    fixture.sql("DROP SCHEMA @ CASCADE");
    fixture.sql(&script);
    assert_eq!(fixture.database.init().expect("all there").made, Vec::<String>::new());
    assert_eq!(fixture.database.validate().expect("an answer"), []);
}

#[test]
fn a_newer_schema_is_left_alone() {
    let mut fixture = Fixture::new();
    fixture.sql("UPDATE @.writer_meta SET schema_version = 99");
    assert!(matches!(fixture.database.init(), Err(InitFailure::Stop(stop)) if stop.code == ExitCode::Config));
    let findings = fixture.database.validate().expect("an answer");
    assert!(matches!(&findings[..], [Finding { code: ExitCode::Config, message, .. }] if message.contains("99")));
}

#[test]
fn init_adds_the_unique_index_to_a_table_that_lacks_it_and_says_why_it_cannot() {
    let mut fixture = Fixture::new();
    fixture.sql("DROP INDEX @.stock_metrics_symbol_window_key");
    let twice = "INSERT INTO @.stock_metrics (symbol, window_start, window_end) VALUES ('A', 'epoch', 'epoch')";
    fixture.sql(&format!("{twice}, ('A', 'epoch', 'epoch')"));
    assert_eq!(fixture.database.init().expect("the rest is there").made, Vec::<String>::new());
    let findings = fixture.database.validate().expect("an answer");
    let [Finding { code: ExitCode::Config, message, is_absence: false }] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert!(message.contains("1 of its rows are for a window that has another row"), "{message}");
    let (_, clean) = message.split_once("keep the newest row of each window: ").expect("a statement");
    let (clean, _) = clean.split_once("; then run").expect("its end");
    fixture.sql(clean);
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_metrics"), 1);
    assert_eq!(fixture.database.init().expect("made").made.len(), 1);
    assert_eq!(fixture.database.validate().expect("an answer"), []);
}

#[test]
fn validation_finds_everything_at_once() {
    let mut fixture = Fixture::new();
    fixture.sql(
        "ALTER TABLE @.stock_prices SET UNLOGGED; \
         ALTER TABLE @.stock_prices DROP COLUMN volume; \
         ALTER TABLE @.stock_prices ALTER COLUMN price TYPE numeric(10,2); \
         ALTER TABLE @.stock_prices ALTER COLUMN fetch_timestamp TYPE int; \
         ALTER TABLE @.stock_prices ADD COLUMN venue text NOT NULL; \
         DROP INDEX @.stock_metrics_symbol_window_key; \
         CREATE UNIQUE INDEX ON @.stock_metrics (symbol, window_start, window_end) WHERE symbol > ''; \
         DROP TABLE @.writer_gaps",
    );
    let findings = fixture.database.validate().expect("an answer");
    assert!(findings.iter().all(|finding| finding.code == ExitCode::Config));
    let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    let expected = [
        "UNLOGGED",
        "no column \"volume\"",
        "\"fetch_timestamp\" is integer",
        "\"venue\" is NOT NULL",
        "no unique index",
        "does not exist",
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:#?}");
    for (message, expected) in messages.iter().zip(expected) {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn windows_that_cannot_be_compared_are_a_finding_like_any_other() {
    let mut fixture = Fixture::new();
    fixture.sql(
        "DROP INDEX @.stock_metrics_symbol_window_key; \
         ALTER TABLE @.stock_metrics ALTER COLUMN symbol TYPE json USING to_json(symbol)",
    );
    assert_eq!(fixture.database.init().expect("the rest is there").made, Vec::<String>::new());
    let findings = fixture.database.validate().expect("an answer");
    let [first, second] = &findings[..] else { panic!("{findings:?}") };
    assert!(first.message.contains("column \"symbol\" is json; ALTER TABLE"), "{first:?}");
    assert!(second.message.contains("no unique index"), "{second:?}");
    assert!(findings.iter().all(|finding| finding.code == ExitCode::Config && !finding.is_absence), "{findings:?}");
}

#[test]
fn an_unlogged_partition_is_found_too() {
    let mut fixture = Fixture::new();
    fixture.sql(
        "DROP TABLE @.stock_prices; \
         CREATE TABLE @.stock_prices (id bigserial, symbol text NOT NULL, price numeric, volume numeric, \
           timestamp timestamptz NOT NULL, fetch_timestamp bigint) PARTITION BY RANGE (timestamp); \
         CREATE UNLOGGED TABLE @.all_prices PARTITION OF @.stock_prices DEFAULT",
    );
    let findings = fixture.database.validate().expect("an answer");
    assert!(matches!(&findings[..], [finding] if finding.message.contains("UNLOGGED")), "{findings:?}");
    fixture.sql("ALTER TABLE @.all_prices SET LOGGED");
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    let epoch = fixture.claim(1);
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE])])));
}

#[test]
fn a_role_without_rights_is_told_what_to_grant_and_can_run_with_that() {
    let mut fixture = Fixture::new();
    let role = format!("{}_role", fixture.schema);
    fixture.sql(&format!("CREATE ROLE {role} LOGIN"));
    let without_user = url().replace("postgres@", &format!("{role}@"));
    let config = config(&without_user, &fixture.schema.clone(), &[]);
    let database = Database::open(&config, "other").expect("the server trusts everybody");
    let findings = database.validate().expect("an answer");
    let code = |finding: &Finding| finding.code == ExitCode::Permission;
    assert!(!findings.is_empty() && findings.iter().all(code), "{findings:?}");
    fixture.sql(&format!(
        "GRANT USAGE ON SCHEMA @ TO {role}; GRANT INSERT ON @.stock_prices, @.writer_dead_letters TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON @.stock_metrics, @.writer_offsets TO {role}; \
         GRANT SELECT ON @.writer_meta TO {role}"
    ));
    assert_eq!(database.validate().expect("an answer"), []);
    // Where gaps are recorded, their table is written, too.
    let recording = self::config(&without_user, &fixture.schema.clone(), &["kafka.on_gap=record"]);
    let recording = Database::open(&recording, "other").expect("the server trusts everybody");
    let findings = recording.validate().expect("an answer");
    assert!(matches!(&findings[..], [finding] if finding.message.contains("writer_gaps")), "{findings:?}");
    fixture.sql(&format!("GRANT SELECT, INSERT, UPDATE ON @.writer_gaps TO {role}"));
    assert_eq!(recording.validate().expect("an answer"), []);
    let claim = recording.ledger().claim_or_start(&[start("stock_metrics", 0)]).expect("claimed").remove(0);
    let to = NextOffset(claim.next.0 + 7);
    assert!(recording.ledger().jump(&claim, to).expect("that is enough"));
    assert!(!recording.ledger().jump(&claim, to).expect("an answer"), "it stands elsewhere by now");
    // With everything there no DDL is tried, which this role could not do.
    assert_eq!(database.init().expect("nothing to do").made, Vec::<String>::new());
    let mut ledger = database.ledger();
    let epoch = ledger.claim_or_start(&[start("stock_prices", 0)]).expect("claimed")[0].epoch;
    ledger.barrier(&[]).expect("anybody may");
    fixture.database = database;
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE, "bad"])])));
    fixture.sql(&format!("REVOKE INSERT ON @.stock_prices FROM {role}"));
    let refused = fixture.sink().stage(&mut fixture.work(&prices(epoch, &[(2, &[PRICE])]))).expect_err("not allowed");
    assert_eq!(refused.fault, Fault::Permission);
    fixture.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
