//! The lock rule against a real PostgreSQL: two writers whose COPYs lock one shared row, through a trigger.
//!
//! The later batch locks the row first and waits for its turn; the head then waits for the row. The database sees no
//! cycle, because half of it is the turnstile. Here and not beside the other tests of real servers, because a lane
//! without the rule exists in test builds only.

use super::*;
use crate::batch::Batch;
use crate::batch::{Batcher, Incoming, Limits};
use crate::config::Sources;
use crate::database::Database;
use crate::lane::Seq;
use crate::ledger::{Ledger, LogIdentity, Start};
use crate::record::{NextOffset, Offset, TopicPartition};
use crossbeam_channel::bounded;
use std::collections::BTreeMap;
use std::time::Instant;

const QUOTE: &[u8] = br#"{"symbol":"AAPL","price":1.5,"timestamp":1704207845}"#;

struct Bench {
    config: Config,
    admin: postgres::Client,
    schema: String,
}

impl Bench {
    /// Tables of their own, with a trigger through which every COPY updates one row.
    fn new(name: &str) -> Self {
        let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names a PostgreSQL for tests; run dev/test");
        let schema = format!("lock_rule_{name}_{}", std::process::id());
        let table = |key: &str, table: &str| format!("database.tables.{key}={schema}.{table}");
        let set = vec![
            table("prices", "stock_prices"),
            table("metrics", "stock_metrics"),
            format!("database.tables.bookkeeping={schema}"),
            format!("pipeline={schema}"),
            "database.lock_timeout_ms=200".to_owned(),
            "retry.initial_ms=10".to_owned(),
            "writers.max_hold_ms=5000".to_owned(),
        ];
        let environment = BTreeMap::from([("DATABASE_URL".to_owned(), url.clone())]);
        let config = Config::load(&Sources { file: None, set, environment }).expect("these settings are right");
        let mut admin = postgres::Client::connect(&url, postgres::NoTls).expect("the server for tests is up");
        admin.batch_execute(&format!("CREATE SCHEMA {schema}")).expect("a schema can be made");
        let mut bench = Bench { config, admin, schema };
        bench.database().init().expect("the tables can be made");
        let schema = &bench.schema;
        let trigger = format!(
            "CREATE TABLE {schema}.shared (n bigint); INSERT INTO {schema}.shared VALUES (0); \
             CREATE FUNCTION {schema}.touch() RETURNS trigger LANGUAGE plpgsql AS \
               'BEGIN UPDATE {schema}.shared SET n = n + 1; RETURN NULL; END'; \
             CREATE TRIGGER touch AFTER INSERT ON {schema}.stock_prices FOR EACH STATEMENT EXECUTE FUNCTION {schema}.touch()"
        );
        bench.admin.batch_execute(&trigger).expect("a trigger can be made");
        bench
    }

    fn database(&self) -> Database {
        Database::open(&self.config, "me").expect("the server for tests is up")
    }

    fn rows(&mut self) -> i64 {
        let sql = format!("SELECT count(*) FROM {}.stock_prices", self.schema);
        self.admin.query_one(&sql, &[]).expect("the table is there").get(0)
    }

    /// Whether the shared row is locked by a writer.
    fn is_shared_row_locked(&mut self) -> bool {
        let sql = format!("SELECT 1 FROM {}.shared FOR UPDATE SKIP LOCKED", self.schema);
        self.admin.query(&sql, &[]).expect("the table is there").is_empty()
    }

    /// Two consecutive batches of one partition, as claimed.
    fn batches(&self) -> [Batch; 2] {
        let (partition, mut ledger) = (TopicPartition::new("stock_prices", 0), self.database().ledger());
        let identity = LogIdentity { cluster_id: None, topic_id: None };
        let start = Start { partition: partition.clone(), next: NextOffset(0), identity };
        let claim = ledger.claim_or_start(&[start]).expect("the partition can be claimed").remove(0);
        let limits = Limits { rows_max: 9, bytes_max: 9999, linger: Duration::ZERO, message_bytes_max: 9999 };
        let mut batcher = Batcher::new(limits);
        batcher.follow(partition.clone(), claim.epoch, claim.next);
        [0, 1].map(|offset| {
            let record = Incoming {
                offset: Offset(offset),
                leader_epoch: None,
                timestamp_ms: None,
                key: None,
                value: Some(QUOTE),
            };
            batcher.push(&partition, record, Instant::now());
            batcher.seal().expect("a record was pushed")
        })
    }

    /// Lets the later batch lock the row before the head comes for it. Returns the rows there after both have ended,
    /// or after `patience`, and how often the head made the other yield.
    fn run(&mut self, lane: Lane, patience: Duration) -> (i64, u64) {
        let mut shared = Shared::new(&self.config, "me".to_owned(), Outage::new("database", None));
        shared.lane = lane;
        let (shared, [first, second], database) = (Arc::new(shared), self.batches(), self.database());
        let (durables_tx, durables_rx) = bounded(2);
        let write = |seq: u64, batch: Batch| {
            let (dispatches_tx, dispatches_rx) = bounded(1);
            dispatches_tx.send(Dispatch { seq: Seq(seq), batch }).expect("there is room");
            let heartbeat = Arc::new(Heartbeat::new(format!("writer-{seq}")));
            let (shared, mut sink) = (shared.clone(), database.sink(heartbeat.clone()));
            let durables_tx = durables_tx.clone();
            std::thread::spawn(move || run(&shared, &mut sink, &heartbeat, &dispatches_rx, &durables_tx))
        };
        let later = write(1, second);
        while !self.is_shared_row_locked() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let head = write(0, first);
        let deadline = Instant::now() + patience;
        let settled = (0..2).take_while(|_| durables_rx.recv_deadline(deadline).is_ok()).count();
        let rows = self.rows();
        // Those that hang are told to give up, so that the test can end.
        shared.lane.stop_below(Seq(2));
        for writer in [head, later] {
            writer.join().expect("no panic").expect("nothing stops a writer here");
        }
        assert!(settled == 2 || rows == 0, "one of two can't have passed");
        (rows, shared.metrics.yields.get())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Left behind in a server that is thrown away, if it fails.
        let _ = self.admin.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema));
    }
}

#[test]
fn a_trigger_that_updates_a_shared_row_does_not_hang_the_lane() {
    let (rows, yields) = Bench::new("on").run(Lane::new(), Duration::from_secs(120));
    assert_eq!(rows, 2);
    assert!(yields > 0, "the cycle was never there, so nothing was shown");
}

#[test]
fn without_the_lock_rule_the_same_trigger_hangs_it() {
    let long = std::env::var("STOCK_DB_WRITER_TEST_SIZE").is_ok_and(|size| size == "long");
    let patience = Duration::from_secs(if long { 60 } else { 15 });
    let (rows, yields) = Bench::new("off").run(Lane::without_lock_rule(), patience);
    assert_eq!(rows, 0, "nothing commits: the head waits for the row, its holder for its turn");
    assert!(yields > 0, "the head has asked, and nobody heard");
}
