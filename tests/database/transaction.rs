//! One transaction: rows, dead letters and offsets are durable together, or nothing is.

use super::*;

#[test]
fn rows_letters_and_offsets_become_durable_together_with_every_digit() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(2);
    let long = price("BTC", "12345678901234567890.12345678901234567890");
    let small = price("SML", "0.000000000010");
    let batch = prices(epoch, &[(0, &[PRICE, "no json", &long]), (0, &[&small, ""])]);
    let mut sink = fixture.sink();
    assert!(fixture.write(&mut sink, &batch));
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', symbol, price, volume, timestamp AT TIME ZONE 'UTC', fetch_timestamp) FROM @.stock_prices ORDER BY symbol"),
        [
            "AAPL 1.50 120 2024-01-02 15:04:05.123456 1704207846",
            "BTC 12345678901234567890.12345678901234567890 120 2024-01-02 15:04:05.123456 1704207846",
            "SML 0.000000000010 120 2024-01-02 15:04:05.123456 1704207846",
        ]
    );
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', pipeline = '@', topic, partition, record_offset, element, convert_from(key, 'UTF8'), convert_from(payload, 'UTF8'), payload_bytes, reason_class, record_timestamp_ms, record_elements) FROM @.writer_dead_letters"),
        ["t stock_prices 0 1 0 k no json 7 syntax 1704207846000 1"]
    );
    let mut ledger = fixture.database.ledger();
    let standings = ledger.standings().expect("the rows can be read");
    let counts: Vec<_> = standings
        .iter()
        .map(|row| {
            (
                row.partition.partition,
                row.next.0,
                row.records_total,
                row.rows_total,
                row.dead_letters_total,
                row.records_skipped,
            )
        })
        .collect();
    assert_eq!(counts, [(0, 3, 3, 2, 1, 0), (1, 2, 2, 1, 0, 1)]);
    assert_eq!(standings[0].owner.as_deref(), Some("test-owner"));
    assert_eq!(standings[0].identity, identity());
    chrono::DateTime::parse_from_rfc3339(&standings[0].updated_at).expect("RFC 3339");
}

#[test]
fn an_interval_without_records_moves_the_offset() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[])])));
    let next = fixture.database.ledger().next_offsets(&["stock_prices".into()]).expect("readable");
    assert_eq!(next, BTreeMap::from([(TopicPartition::new("stock_prices", 0), NextOffset(1))]));
}

#[test]
fn who_wrote_the_last_record_is_remembered_until_one_does_not_say() {
    let fixture = Fixture::new();
    let (mut sink, mut ledger) = (fixture.sink(), fixture.database.ledger());
    let (partition, by_7) = (start("stock_prices", 0).partition, Some(LeaderEpoch(7)));
    let mut epoch = fixture.claim(1);
    for (next, (leader_epoch, kept)) in [(Some(by_7), by_7), (None, by_7), (Some(None), None)].into_iter().enumerate() {
        let mut batcher = Batcher::new(LIMITS);
        let next = next as i64;
        batcher.follow(partition.clone(), epoch, NextOffset(next));
        match leader_epoch {
            Some(leader_epoch) => {
                let record = Incoming { offset: Offset(next), leader_epoch, ..INCOMING };
                batcher.push(&partition, record, Instant::now());
            }
            None => batcher.advance(&partition, NextOffset(next + 1), Instant::now()),
        }
        assert!(fixture.write(&mut sink, &batcher.seal().expect("it has moved")));
        let claims = ledger.claim(std::slice::from_ref(&partition)).expect("nobody else claims");
        assert_eq!((claims[0].next, claims[0].leader_epoch), (NextOffset(next + 1), kept));
        epoch = claims[0].epoch;
    }
}

#[test]
fn a_payload_is_kept_once_per_record_and_a_large_one_as_length_and_digest() {
    let mut fixture = Fixture::with(&["dead_letters.payload_bytes_max=20"]);
    let epoch = fixture.claim(1);
    let batch = prices(epoch, &[(0, &["[{\"a\":1},{\"b\":2}]", "this is no json and longer than twenty bytes"])]);
    assert!(fixture.write(&mut fixture.sink(), &batch));
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', record_offset, element, coalesce(payload_bytes, -1), payload IS NULL, payload_sha256 = sha256('this is no json and longer than twenty bytes')) FROM @.writer_dead_letters ORDER BY record_offset, element"),
        ["0 0 17 f", "0 1 17 t", "1 0 44 t t"]
    );
}

#[test]
fn of_several_metrics_for_one_window_the_last_wins() {
    let mut fixture = Fixture::new();
    let ledger_start = [start("stock_metrics", 0)];
    let epoch = fixture.database.ledger().claim_or_start(&ledger_start).expect("claimed")[0].epoch;
    let metric = |window: u32, average: &str| {
        format!(
            r#"{{"symbol":"AAPL","window_start":"2024-01-02T15:0{window}:00Z","window_end":"2024-01-02T15:0{}:00Z","avg_price":{average}}}"#,
            window + 1
        )
    };
    let (first, second, other) = (metric(0, "1.0"), metric(0, "2.0"), metric(3, "9"));
    let mut sink = fixture.sink();
    assert!(fixture.write(&mut sink, &batch_of("stock_metrics", epoch, &[(0, &[&first, &other, &second])])));
    let all = "SELECT concat_ws(' ', symbol, avg_price) FROM @.stock_metrics ORDER BY window_start";
    assert_eq!(fixture.texts(all), ["AAPL 2.0", "AAPL 9"]);
    let third = metric(0, "3.00");
    assert!(fixture.write(&mut sink, &batch_of("stock_metrics", epoch, &[(3, &[&third])])));
    assert_eq!(fixture.texts(all), ["AAPL 3.00", "AAPL 9"]);
}

#[test]
fn an_offset_that_does_not_match_writes_nothing() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(2);
    let mut sink = fixture.sink();
    // One of two partitions is somewhere else.
    assert!(!fixture.write(&mut sink, &prices(epoch, &[(0, &[PRICE]), (5, &[PRICE])])));
    assert!(!fixture.write(&mut sink, &prices(Epoch(epoch.0 - 1), &[(0, &[PRICE])])));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
    assert_eq!(fixture.number("SELECT sum(next_offset)::bigint FROM @.writer_offsets"), 0);
}

#[test]
fn letters_of_a_batch_that_is_not_applied_are_gone_too() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let mut sink = fixture.sink();
    assert!(!fixture.write(&mut sink, &prices(epoch, &[(5, &[PRICE, "no json"])])));
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_dead_letters"), 0);
    assert!(fixture.write(&mut sink, &prices(epoch, &[(0, &[PRICE, "no json"])])));
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_dead_letters"), 1);
}

#[test]
fn a_batch_that_was_not_advanced_is_never_committed() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let (mut sink, batch) = (fixture.sink(), prices(epoch, &[(5, &[PRICE])]));
    let mut work = fixture.work(&batch);
    sink.stage(&mut work).expect("the rows are taken");
    assert!(!sink.advance(&work).expect("no error"));
    let refused = sink.commit(Seq(0), &batch);
    assert!(matches!(refused, Err(CommitFailure::NotApplied(Failure { fault: Fault::Bug, .. }))));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
}

#[test]
fn an_aborted_transaction_is_never_committed() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let (mut sink, batch) = (fixture.sink(), prices(epoch, &[(0, &[PRICE])]));
    let mut work = fixture.work(&batch);
    sink.stage(&mut work).expect("the rows are taken");
    fixture.sql("BEGIN; SELECT * FROM @.writer_offsets FOR UPDATE");
    let refused = sink.advance(&work).expect_err("the row is locked");
    assert_eq!((refused.fault, refused.sqlstate.as_deref()), (Fault::Lock, Some("55P03")));
    fixture.sql("ROLLBACK");
    let refused = sink.commit(Seq(0), &batch);
    assert!(matches!(refused, Err(CommitFailure::NotApplied(Failure { fault: Fault::Bug, .. }))));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
    assert!(fixture.write(&mut sink, &batch));
}

#[test]
fn the_guard_before_commit_refuses_an_aborted_transaction_and_none_at_all() {
    let mut client = Client::connect(&url(), NoTls).expect("the server answers");
    let mut refusal = |sql: &str| {
        let refused = client.batch_execute(sql).expect_err("refused");
        refused.code().map(|code| code.code().to_owned())
    };
    assert_eq!(refusal("BEGIN; SELECT 1 / 0").as_deref(), Some("22012"));
    assert_eq!(refusal("SAVEPOINT committing; COMMIT").as_deref(), Some("25P02"));
    client.batch_execute("COMMIT").expect("the server calls an aborted transaction's COMMIT a success");
    let refused = client.batch_execute("SAVEPOINT committing; COMMIT").expect_err("refused");
    assert_eq!(refused.code().map(|code| code.code()), Some("25P01"));
}

#[test]
fn a_deferred_constraint_makes_commit_not_applied() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE TABLE @.symbols (symbol text PRIMARY KEY); \
         ALTER TABLE @.stock_prices ADD FOREIGN KEY (symbol) REFERENCES @.symbols DEFERRABLE INITIALLY DEFERRED",
    );
    let (mut sink, batch) = (fixture.sink(), prices(epoch, &[(0, &[PRICE])]));
    let mut work = fixture.work(&batch);
    sink.stage(&mut work).expect("the rows are taken");
    assert!(sink.advance(&work).expect("no error"));
    let refused = sink.commit(Seq(0), &batch);
    assert!(
        matches!(&refused, Err(CommitFailure::NotApplied(failure)) if failure.fault == Fault::Record),
        "{refused:?}"
    );
    let truth = sink.truth(&batch).expect("readable");
    assert_eq!(judge(batch.intervals(), &truth), Verdict::NotApplied);
    fixture.sql("INSERT INTO @.symbols VALUES ('AAPL')");
    assert!(fixture.write(&mut sink, &batch));
}

#[test]
fn a_copy_that_is_refused_names_the_row() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql("ALTER TABLE @.stock_prices ADD CHECK (price < 100)");
    let (a, c) = (price("AAA", "1"), price("CCC", "3"));
    for bad_idx in 0..3 {
        let bad = price(["A", "BBB", "ZZZ"][bad_idx], "100");
        let mut values = vec![c.as_str(), &a];
        // Sent in the order of symbols, whatever the order of offsets.
        values.insert(1, &bad);
        let batch = prices(epoch, &[(0, &values)]);
        let (mut sink, mut work) = (fixture.sink(), fixture.work(&batch));
        let refused = sink.stage(&mut work).expect_err("100 is not below 100");
        assert_eq!((refused.fault, refused.origin), (Fault::Record, Some(Origin { record_idx: 1, element: 0 })));
        assert_eq!(refused.sqlstate.as_deref(), Some("23514"));
        assert!(!refused.message.contains("100") && !refused.message.contains("BBB"), "{refused}");
        work.refuse(&BTreeMap::from([(refused.origin.expect("named"), "23514".to_owned())]));
        sink.stage(&mut work).expect("the healthy neighbours are taken");
        sink.rollback();
    }
}

#[test]
fn a_row_is_named_behind_a_trigger_and_a_unique_key_and_among_many() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE UNIQUE INDEX ON @.stock_prices (symbol); \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN IF NEW.symbol = 'S1777' THEN RAISE EXCEPTION 'secret %', NEW.price; END IF; RETURN NEW; END $$; \
         INSERT INTO @.stock_prices (symbol, price, timestamp) VALUES ('S1234', 1, now())",
    );
    let values: Vec<String> = (1000..2500).map(|number| price(&format!("S{number}"), "1")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let batch = prices(epoch, &[(0, &values)]);
    let mut work = fixture.work(&batch);
    let mut sink = fixture.sink();
    let refused = sink.stage(&mut work).expect_err("the key is taken");
    assert_eq!((refused.fault, refused.origin.map(|origin| origin.record_idx)), (Fault::UniqueKey, Some(234)));
    work.refuse(&BTreeMap::from([(refused.origin.expect("named"), "23505".to_owned())]));
    fixture.sql("CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()");
    let refused = sink.stage(&mut work).expect_err("the trigger raises");
    assert_eq!((refused.fault, refused.origin.map(|origin| origin.record_idx)), (Fault::Record, Some(777)));
    assert!(!refused.message.contains("secret"), "{refused}");
}

#[test]
fn a_metric_that_its_column_cannot_hold_becomes_a_dead_letter_before_it_is_sent() {
    let mut fixture = Fixture::new();
    fixture.sql("ALTER TABLE @.stock_metrics ALTER COLUMN symbol TYPE varchar(4)");
    let epoch = fixture.database.ledger().claim_or_start(&[start("stock_metrics", 0)]).expect("claimed")[0].epoch;
    let metric = |symbol: &str| {
        format!(
            r#"{{"symbol":"{symbol}","window_start":"2024-01-02T15:00:00Z","window_end":"2024-01-02T15:01:00Z","avg_price":1}}"#
        )
    };
    let (good, bad) = (metric("AAPL"), metric("LONGER"));
    let batch = batch_of("stock_metrics", epoch, &[(0, &[&bad, &good, &good])]);
    assert!(fixture.write(&mut fixture.sink(), &batch));
    assert_eq!(fixture.texts("SELECT symbol::text FROM @.stock_metrics"), ["AAPL"]);
    assert_eq!(
        fixture.texts(
            "SELECT concat_ws(' ', record_offset, reason_class, replace(reason, '@', 'S')) FROM @.writer_dead_letters"
        ),
        ["0 symbol symbol has more than 4 characters, the column S.stock_metrics.symbol is character varying(4)"]
    );
}

#[test]
fn a_trigger_that_drops_rows_is_noticed() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
    );
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let refused = fixture.sink().stage(&mut fixture.work(&batch)).expect_err("the row is gone");
    assert_eq!(refused.fault, Fault::Schema);
}

#[test]
fn a_missing_table_is_a_schema_fault_and_a_column_of_another_type_too() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut sink = fixture.sink();
    fixture.sql("ALTER TABLE @.stock_prices ALTER COLUMN price TYPE float8");
    assert_eq!(sink.stage(&mut fixture.work(&batch)).expect_err("numeric is no float8").fault, Fault::Schema);
    fixture.sql("ALTER TABLE @.stock_prices RENAME TO gone");
    assert_eq!(sink.stage(&mut fixture.work(&batch)).expect_err("no table").fault, Fault::Schema);
    fixture
        .sql("ALTER TABLE @.gone RENAME TO stock_prices; ALTER TABLE @.stock_prices ALTER COLUMN price TYPE numeric");
    assert!(fixture.write(&mut sink, &batch), "it goes on after a migration");
}

#[test]
fn a_copy_refused_at_its_beginning_never_mixes_up_later_answers() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let mut sink = fixture.sink();
    for offset in 0..30 {
        let batch = prices(epoch, &[(offset, &[PRICE])]);
        let mut work = fixture.work(&batch);
        let (away, back) = match offset % 2 {
            0 => ("ALTER TABLE @.stock_prices RENAME TO gone", "ALTER TABLE @.gone RENAME TO stock_prices"),
            _ => {
                ("ALTER TABLE @.stock_prices RENAME volume TO gone", "ALTER TABLE @.stock_prices RENAME gone TO volume")
            }
        };
        fixture.sql(away);
        assert_eq!(sink.stage(&mut work).expect_err("refused").fault, Fault::Schema);
        fixture.sql(back);
        assert!(fixture.write(&mut sink, &batch));
        assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), offset + 1);
    }
}

#[test]
fn the_truth_waits_for_a_doubtful_transaction() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let (mut doubtful, mut asking) = (fixture.sink(), fixture.sink());
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    doubtful.stage(&mut work).expect("the rows are taken");
    assert!(doubtful.advance(&work).expect("no error"));
    let asked = Instant::now();
    let refused = asking.truth(&batch).expect_err("the row is locked");
    assert_eq!((refused.fault, refused.sqlstate.as_deref()), (Fault::Lock, Some("55P03")));
    assert!(asked.elapsed() > Duration::from_millis(1900));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| asking.truth(&batch).expect("answered once it is over"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asking.is_finished());
        let _ = doubtful.commit(Seq(0), &batch).expect("commits");
        let truth = asking.join().expect("no panic");
        assert_eq!(judge(batch.intervals(), &truth), Verdict::Applied);
        let owners: Vec<&str> = truth.values().map(|truth| truth.owner.as_str()).collect();
        assert_eq!(owners, ["test-owner"]);
    });
}
