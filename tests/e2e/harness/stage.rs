//! One test's own corner of the servers.

use super::broker;
use super::checker::Ids;
use super::cluster::ClusterTurn;
use super::servers::{Turn, servers};
use super::worker::Invocation;
use postgres::{Client, NoTls};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A topic, a PostgreSQL schema, a pipeline and a consumer group that nobody else uses, and the numbers that were sent.
/// Removed at the end, unless the test has failed.
pub struct Stage {
    /// Names all of it.
    pub name: String,
    /// The topic of prices.
    pub topic: String,
    /// Its partitions at the start.
    pub n_partitions: i32,
    topics: Mutex<Vec<String>>,
    /// Every number that must become exactly one row.
    sent: Arc<Mutex<Ids>>,
    directory: PathBuf,
    // Last, so that they are dropped last.
    _turn: Option<Turn>,
    _cluster_turn: Option<ClusterTurn>,
}

impl Stage {
    /// Beside other tests.
    pub fn new(test: &str, n_partitions: i32) -> Stage {
        Stage::with_configs(test, n_partitions, &[])
    }

    /// Beside other tests, with settings of the topic.
    pub fn with_configs(test: &str, n_partitions: i32, configs: &[(&str, &str)]) -> Stage {
        Stage::with(Some(Turn::shared()), test, n_partitions, configs)
    }

    /// Alone: the test may stop the servers.
    pub fn alone(test: &str, n_partitions: i32) -> Stage {
        Stage::with(Some(Turn::alone()), test, n_partitions, &[])
    }

    /// On the old broker, beside other tests.
    pub fn old(test: &str, n_partitions: i32) -> Stage {
        Stage::new(&format!("old_{test}"), n_partitions)
    }

    /// On the old broker, beside other tests, with settings of the topic.
    pub fn old_with_configs(test: &str, n_partitions: i32, configs: &[(&str, &str)]) -> Stage {
        Stage::with_configs(&format!("old_{test}"), n_partitions, configs)
    }

    /// One more beside this one, in its turn. A test that took a second turn might wait for a test that waits for its first.
    pub fn another(&self, test: &str, n_partitions: i32) -> Stage {
        Stage::with(None, test, n_partitions, &[])
    }

    /// One more on the old broker, in the turn of this one. A test that took a second turn might wait for a test that
    /// waits for its first.
    pub fn another_old(&self, test: &str, n_partitions: i32, configs: &[(&str, &str)]) -> Stage {
        Stage::with(None, &format!("old_{test}"), n_partitions, configs)
    }

    /// On the old broker, alone: the test may stop the servers.
    pub fn old_alone(test: &str, n_partitions: i32) -> Stage {
        Stage::alone(&format!("old_{test}"), n_partitions)
    }

    /// In the cluster, with settings of the topic: the test has its brokers for itself, and may stop them.
    pub fn in_cluster(test: &str, n_partitions: i32, configs: &[(&str, &str)]) -> Stage {
        let turn = ClusterTurn::wait();
        let mut stage = Stage::with(Some(Turn::shared()), &format!("cluster_{test}"), n_partitions, configs);
        stage._cluster_turn = Some(turn);
        stage
    }

    /// In the cluster, with one partition that only these brokers have.
    pub fn in_cluster_on(test: &str, replicas: &[i32]) -> Stage {
        let turn = ClusterTurn::wait();
        let mut stage = Stage::bare(Some(Turn::shared()), &format!("cluster_{test}"), 1);
        broker::create_topic_on(&stage.topic, replicas);
        stage.topics.lock().unwrap_or_else(PoisonError::into_inner).push(stage.topic.clone());
        stage._cluster_turn = Some(turn);
        stage
    }

    /// One more in the cluster, in the turn of this one.
    pub fn another_in_cluster(&self, test: &str, n_partitions: i32) -> Stage {
        Stage::with(None, &format!("cluster_{test}"), n_partitions, &[])
    }

    fn with(turn: Option<Turn>, test: &str, n_partitions: i32, configs: &[(&str, &str)]) -> Stage {
        let stage = Stage::bare(turn, test, n_partitions);
        stage.add_topic(&stage.topic, n_partitions, configs);
        stage
    }

    // Its topic does not exist yet.
    fn bare(turn: Option<Turn>, test: &str, n_partitions: i32) -> Stage {
        let name = format!("e2e_{test}_{:08x}", fastrand::u32(..));
        let topic = format!("{name}_prices");
        let directory = std::env::temp_dir().join(format!("stock-db-writer-{name}"));
        std::fs::create_dir_all(&directory).expect("a directory for temporary files can be made");
        let stage = Stage {
            topic,
            n_partitions,
            topics: Mutex::new(Vec::new()),
            sent: Arc::default(),
            directory,
            _turn: turn,
            _cluster_turn: None,
            name,
        };
        stage.execute(&format!("CREATE SCHEMA {}", stage.name));
        stage
    }

    /// One more topic of this test; gone with the others at the end.
    pub fn add_topic(&self, topic: &str, n_partitions: i32, configs: &[(&str, &str)]) {
        broker::create_topic(topic, n_partitions, configs);
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).push(topic.to_owned());
    }

    /// Many more, with one replica of each partition.
    pub fn add_topics(&self, topics: &[String], n_partitions: i32) {
        broker::create_topics(topics, n_partitions);
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(topics);
    }

    /// Deletes a topic of this test before its end.
    pub fn delete_topic(&self, topic: &str) {
        broker::delete_topic(topic);
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known != topic);
    }

    /// A command line whose settings lead to this stage.
    pub fn invocation(&self) -> Invocation {
        let schema = &self.name;
        Invocation::new(self.directory.clone())
            .env("DATABASE_URL", &servers().database_url)
            .set("pipeline", &self.name)
            .set("kafka.brokers", servers().brokers_of(&self.name))
            .set("kafka.group", &self.name)
            .set("topics.0.name", &self.topic)
            .set("topics.0.target", "prices")
            .set("database.tables.prices", format!("{schema}.stock_prices"))
            .set("database.tables.metrics", format!("{schema}.stock_metrics"))
            .set("database.tables.bookkeeping", schema)
            // Several workers at a time: only one could listen on the default port.
            .set("metrics.listen", "")
    }

    /// The same without a consumer group.
    pub fn invocation_of_all(&self) -> Invocation {
        self.invocation().set("kafka.assignment", "all")
    }

    /// The same by `client = "kafka"`.
    pub fn invocation_of_old(&self) -> Invocation {
        self.invocation_of_all().set("kafka.client", "kafka").set("kafka.isolation", "read_uncommitted")
    }

    /// A new connection whose unqualified names are those of this stage.
    pub fn database(&self) -> Client {
        let mut client = Client::connect(&servers().database_url, NoTls).expect("PostgreSQL can be reached");
        client
            .batch_execute(&format!("SET search_path = {}; SET client_min_messages = warning", self.name))
            .expect("PostgreSQL answers");
        client
    }

    /// Runs statements.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        self.database().batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A file of this test's own; gone with the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The next `count` numbers, each of which must become one row.
    pub fn take(&self, count: i64) -> RangeInclusive<i64> {
        take(&self.sent, count)
    }

    /// [`Stage::take`] for another thread.
    pub fn taker(&self) -> impl Fn(i64) -> RangeInclusive<i64> + Send + 'static {
        let sent = Arc::clone(&self.sent);
        move |count| take(&sent, count)
    }

    /// The next `count` numbers, none of which may become a row.
    pub fn take_in_vain(&self, count: i64) -> RangeInclusive<i64> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let from = sent.next();
        sent.skip(count);
        from..=from + count - 1
    }

    /// These numbers need not become rows any more.
    pub fn forget(&self, ids: RangeInclusive<i64>) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(ids);
    }

    /// Every number that must be a row.
    pub fn sent(&self) -> Ids {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Produces `count` new numbers into all partitions, in all codecs.
    pub fn produce(&self, count: i64) {
        super::producer::produce(&self.topic, self.n_partitions, self.take(count));
    }
}

fn take(sent: &Mutex<Ids>, count: i64) -> RangeInclusive<i64> {
    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
    let from = sent.next();
    sent.add(from..=from + count - 1);
    from..=from + count - 1
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What a failed test has left can be looked at for as long as the servers run.
        if std::thread::panicking() {
            eprintln!("left for inspection: PostgreSQL schema {}, topics {}*", self.name, self.name);
            return;
        }
        self.execute(&format!("DROP SCHEMA {} CASCADE", self.name));
        for topic in self.topics.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            broker::delete_topic(&topic);
        }
        std::fs::remove_dir_all(&self.directory).expect("the directory of this test can be removed");
    }
}
