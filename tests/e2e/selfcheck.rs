//! The harness shows that it would notice: a checker that finds nothing and a fault that never fires prove nothing.

use crate::harness::checker::Findings;
use crate::harness::producer::{Feeder, Kcat, Transactions};
use crate::harness::{Fault, LIMIT, Proxy, Stage, broker, eventually, servers};
use postgres::{Client, NoTls};
use std::io::Write;
use std::thread;
use std::time::Duration;

const PRICES: &str = "CREATE TABLE stock_prices (id bigint GENERATED ALWAYS AS IDENTITY, symbol text, price numeric, \
                      volume numeric, \"timestamp\" timestamptz, fetch_timestamp bigint)";

fn insert(client: &mut Client, id: i64) {
    client
        .execute(
            "INSERT INTO stock_prices (symbol, price, volume, \"timestamp\", fetch_timestamp) SELECT 'K' || (id % 500), id, \
             id * 2, to_timestamp(1700000000 + id), 1700000000 + id FROM (SELECT $1::bigint AS id) AS one",
            &[&id],
        )
        .expect("the row can be written");
}

#[test]
fn the_checker_finds_what_is_lost_doubled_strange_or_garbled() {
    let stage = Stage::new("checker", 1);
    let mut client = stage.database();
    client.batch_execute(PRICES).expect("the table can be made");
    assert_eq!(stage.take(5), 1..=5);
    assert_eq!(stage.take_in_vain(2), 6..=7);
    assert_eq!(stage.take(3), 8..=10);
    for id in [1, 2, 3, 4, 5, 8, 9, 10] {
        insert(&mut client, id);
    }
    assert_eq!(stage.findings(), Findings::default());

    client.batch_execute("DELETE FROM stock_prices WHERE price = 3").expect("PostgreSQL answers");
    insert(&mut client, 8);
    insert(&mut client, 7);
    client.batch_execute("UPDATE stock_prices SET volume = NULL WHERE price = 9").expect("PostgreSQL answers");
    let wrong = Findings { lost: vec![3], doubled: vec![8], strangers: vec![7], garbled: vec![9] };
    assert_eq!(stage.findings(), wrong);

    stage.forget(3..=4);
    assert_eq!(stage.sent().count(), 6);
    assert_eq!(stage.findings().strangers, [4, 7]);
}

#[test]
fn producers_deliver_every_number_once() {
    let stage = Stage::new("producer", 3);
    stage.produce(30_000);
    let sum = |stage: &Stage| broker::end_offsets(&stage.topic).values().sum::<i64>();
    assert_eq!(sum(&stage), 30_000);
    let feeder = Feeder::start(&stage, &stage.topic, 2_000);
    eventually("the feeder feeds", LIMIT, || sum(&stage) > 31_000);
    feeder.stop();
    assert_eq!(sum(&stage), stage.sent().count());

    let transactions = Transactions::new(&stage.name);
    transactions.commit(&stage.topic, 0, stage.take(10));
    transactions.abort(&stage.topic, 0, stage.take_in_vain(10));
    // Ten of each, and two markers, which the broker writes after it has answered.
    eventually("the markers are there", LIMIT, || sum(&stage) == stage.sent().count() + 12);
    let mut kcat = Kcat::start(&stage.topic, Some(2), "none");
    kcat.line("KEY", b"{\"symbol\":\"\xff\"}");
    kcat.finish();
    broker::delete_records(&stage.topic, 0, 100);
    broker::add_partitions(&stage.topic, 5);
    assert_eq!(broker::end_offsets(&stage.topic).len(), 5);
    assert!(broker::group_offsets(&stage.name, &stage.topic).is_empty());
}

fn copy_and_commit(client: &mut Client, id: i64) -> Result<(), postgres::Error> {
    client.batch_execute("BEGIN")?;
    let mut copy = client.copy_in("COPY stock_prices (price) FROM STDIN")?;
    copy.write_all(format!("{id}\n").as_bytes()).expect("COPY takes the row");
    copy.finish()?;
    client.batch_execute("COMMIT")
}

#[test]
fn the_proxy_acts_on_commits_of_rows_only() {
    let stage = Stage::new("proxy", 1);
    stage.execute(PRICES);
    let proxy = Proxy::start();
    let connect = || {
        let mut client = Client::connect(&proxy.url(), NoTls).expect("the proxy passes connections");
        client.batch_execute(&format!("SET search_path = {}", stage.name)).expect("the proxy passes statements");
        client
    };
    let rows = |id: i64| stage.number(&format!("SELECT count(*) FROM stock_prices WHERE price = {id}"));

    let mut client = connect();
    copy_and_commit(&mut client, 1).expect("nothing was planned");
    assert_eq!(proxy.row_commits(), 1);

    proxy.plan(Fault::CutAfterCommit);
    client.batch_execute("BEGIN; SELECT 1; COMMIT").expect("no rows, no fault");
    copy_and_commit(&mut client, 2).expect_err("the answer is cut off");
    assert_eq!((proxy.fired(Fault::CutAfterCommit), rows(2)), (1, 1));

    proxy.plan(Fault::CutBeforeCommit);
    copy_and_commit(&mut connect(), 3).expect_err("the connection is cut");
    assert_eq!((proxy.fired(Fault::CutBeforeCommit), rows(3)), (1, 0));

    proxy.plan(Fault::CutDuringCommit);
    copy_and_commit(&mut connect(), 4).expect_err("the connection is cut");
    assert_eq!(proxy.fired(Fault::CutDuringCommit), 1);

    proxy.plan(Fault::SwallowAnswer);
    let mut client = connect();
    let mute = thread::spawn(move || copy_and_commit(&mut client, 5));
    proxy.wait_until_fired();
    assert_eq!((proxy.fired(Fault::SwallowAnswer), rows(5)), (1, 1));
    assert!(!mute.is_finished(), "the client waits for an answer that never comes");
    proxy.cut();
    mute.join().expect("the thread ends").expect_err("the connection is cut");

    proxy.refuse();
    Client::connect(&proxy.url(), NoTls).map(drop).expect_err("the proxy refuses");
    proxy.pass();
    copy_and_commit(&mut connect(), 6).expect("the proxy passes again");
    assert_eq!(rows(6), 1);
}

#[test]
fn the_proxy_passes_cancel_requests() {
    let proxy = Proxy::start();
    let mut client = Client::connect(&proxy.url(), NoTls).expect("the proxy passes connections");
    let token = client.cancel_token();
    let sleeper = thread::spawn(move || client.batch_execute("SELECT pg_sleep(600)"));
    eventually("the cancel arrives", LIMIT, || {
        token.cancel_query(NoTls).expect("the proxy passes cancel requests");
        thread::sleep(Duration::from_millis(100));
        sleeper.is_finished()
    });
    let error = sleeper.join().expect("the thread ends").expect_err("it was cancelled");
    assert_eq!(error.code(), Some(&postgres::error::SqlState::QUERY_CANCELED));
}

#[test]
fn a_worker_that_ends_is_noticed() {
    let stage = Stage::new("noticed", 1);
    let mut worker = stage.invocation().start(&["--version"]);
    assert_eq!(worker.wait(LIMIT), 0);
    assert!(!worker.alive());
    assert!(servers().kafka_pid_file.is_file());
}
