//! The ledger: claims, epochs, starts, and the lock of a pipeline.

use super::*;

#[test]
fn a_claim_raises_the_epoch_and_fences_the_older_one() {
    let fixture = Fixture::new();
    let first = fixture.claim(2);
    assert_eq!(first, Epoch(1));
    let partitions = [TopicPartition::new("stock_prices", 1), TopicPartition::new("stock_prices", 0)];
    let unknown = TopicPartition::new("stock_prices", 9);
    let asked = [partitions[0].clone(), partitions[1].clone(), unknown];
    let claims = fixture.database.ledger().claim(&asked).expect("claimed");
    assert_eq!(claims.iter().map(|claim| claim.epoch).collect::<Vec<_>>(), [Epoch(2), Epoch(2)]);
    assert!(claims.iter().all(|claim| claim.identity == identity()));
    let old = prices(first, &[(0, &[PRICE])]);
    let mut sink = fixture.sink();
    assert!(!fixture.write(&mut sink, &old));
    let truth = sink.truth(&old).expect("readable");
    assert!(matches!(judge(old.intervals(), &truth), Verdict::Fenced(lost) if lost.len() == 1));
    assert!(fixture.write(&mut sink, &prices(Epoch(2), &[(0, &[PRICE])])));
}

#[test]
fn claims_at_once_wait_for_each_other_and_get_an_epoch_each() {
    let fixture = Fixture::with(&["writers.count=8", "database.lock_timeout_ms=20000"]);
    let starts: Vec<Start> = (0..20).map(|number| start("t", number)).collect();
    let mut backwards: Vec<TopicPartition> = starts.iter().map(|start| start.partition.clone()).collect();
    backwards.reverse();
    fixture.database.ledger().claim_or_start(&starts).expect("claimed");
    let epochs: Vec<Vec<Epoch>> = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..8)
            .map(|idx| {
                let (database, starts, backwards) = (&fixture.database, &starts, &backwards);
                scope.spawn(move || {
                    let mut ledger = database.ledger();
                    let claims = (0..10).map(|_| match idx % 2 {
                        0 => ledger.claim(backwards).expect("no deadlock"),
                        _ => ledger.claim_or_start(starts).expect("no deadlock"),
                    });
                    claims.map(|claims| claims.iter().map(|claim| claim.epoch).max().expect("claimed")).collect()
                })
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().expect("no panic")).collect()
    });
    let mut epochs: Vec<i64> = epochs.into_iter().flatten().map(|epoch| epoch.0).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (2..=81).collect::<Vec<_>>());
}

#[test]
fn an_identity_is_filled_in_once_and_never_replaced() {
    let fixture = Fixture::new();
    let mut ledger = fixture.database.ledger();
    let nameless = LogIdentity { cluster_id: None, topic_id: None };
    let with = |identity: LogIdentity| [Start { identity, ..start("t", 0) }];
    assert_eq!(ledger.claim_or_start(&with(nameless.clone())).expect("claimed")[0].identity, nameless);
    assert_eq!(ledger.claim_or_start(&with(identity())).expect("claimed")[0].identity, identity());
    let other = LogIdentity { cluster_id: Some("other".to_owned()), topic_id: Some([9; 16]) };
    let claim = &ledger.claim_or_start(&with(other)).expect("claimed")[0];
    assert_eq!((claim.identity.clone(), claim.epoch), (identity(), Epoch(3)));
}

#[test]
fn two_that_start_at_once_make_one_set_of_rows() {
    let mut fixture = Fixture::new();
    let resolved = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for next in [100, 200] {
            let (database, resolved) = (&fixture.database, &resolved);
            scope.spawn(move || {
                let mut resolve = |topics: &[Arc<str>], _| {
                    resolved.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(200));
                    let numbered = topics.iter().flat_map(|topic| (0..3).map(move |number| start(topic, number)));
                    Ok(numbered.map(|start| Start { next: NextOffset(next), ..start }).collect())
                };
                let topics = ["a".into(), "b".into()];
                database.ledger().start(&topics, &mut resolve).expect("both succeed");
            });
        }
    });
    assert_eq!(resolved.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_offsets WHERE epoch = 0 AND owner IS NULL"), 6);
    assert_eq!(fixture.number("SELECT count(DISTINCT next_offset) FROM @.writer_offsets"), 1);
}

#[test]
fn a_start_that_cannot_be_resolved_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    let mut ledger = fixture.database.ledger();
    let topics = ["a".into()];
    let failed = ledger.start(&topics, &mut |_, _| Err(Stop::new(ExitCode::ServerAway, "kafka is away")));
    assert!(matches!(failed, Err(StartFailure::Resolve(_))));
    ledger.start(&topics, &mut |_, _| Ok(vec![start("a", 0)])).expect("the lock was given back");
    assert_eq!(fixture.number("SELECT count(*) FROM @.writer_offsets"), 1);
    ledger.start(&topics, &mut |_, _| panic!("nobody asks again")).expect("it is all there");
}

#[test]
fn a_start_knows_whether_the_pipeline_has_rows_of_other_topics() {
    let fixture = Fixture::new();
    let mut ledger = fixture.database.ledger();
    for (topics, known) in [(&["a"][..], Pipeline::New), (&["a", "b"], Pipeline::Known), (&["c"], Pipeline::Known)] {
        let topics: Vec<Arc<str>> = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let mut asked = None;
        let mut resolve = |new: &[Arc<str>], pipeline| {
            asked = Some((new.to_vec(), pipeline));
            Ok(new.iter().map(|topic| start(topic, 0)).collect())
        };
        ledger.start(&topics, &mut resolve).expect("the rows are made");
        assert_eq!(asked, Some((topics[topics.len() - 1..].to_vec(), known)));
    }
}

#[test]
fn a_pipeline_has_one_lock_that_ends_with_its_holder() {
    let mut fixture = Fixture::new();
    let (mut first, mut second) = (fixture.database.ledger(), fixture.database.ledger());
    assert!(first.lock_pipeline().expect("free"));
    assert!(first.lock_pipeline().expect("ours already"));
    assert!(!second.lock_pipeline().expect("an answer"));
    // The connection dies: the holder notices at its next call, and takes the lock anew.
    let ended = fixture.number(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid IN \
         (SELECT pid FROM pg_stat_activity WHERE application_name = 'stock-db-writer @')",
    );
    assert_eq!(ended, 1);
    let lost = first.lock_pipeline().expect_err("its connection is gone");
    assert_eq!(lost.fault, Fault::Connection);
    assert!(first.lock_pipeline().expect("taken anew"));
    drop(first);
    eventually("the lock's end", || second.lock_pipeline().expect("an answer"));
}

#[test]
fn a_barrier_makes_asynchronous_commits_durable() {
    let mut fixture = Fixture::with(&["database.synchronous_commit=off"]);
    let epoch = fixture.claim(1);
    let mut ledger = fixture.database.ledger();
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE])])));
    let written = fixture.texts("SELECT pg_current_wal_insert_lsn()::text").remove(0);
    let durable = ledger.barrier(&["stock_prices".into()]).expect("written");
    let flushed = fixture.number(&format!("SELECT (pg_current_wal_flush_lsn() >= '{written}'::pg_lsn)::int::bigint"));
    assert_eq!(flushed, 1);
    assert_eq!(durable.values().copied().collect::<Vec<_>>(), [NextOffset(1)], "{durable:?}");
}
