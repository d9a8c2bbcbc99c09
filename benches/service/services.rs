//! Where the servers are; topics and tables on them.
//!
//! The servers are this program's alone, as `dev/bench` starts them: it changes a setting, and empties the tables.

use crate::Outcome;
use crate::worker::Worker;
use krafka::Kafka;
use krafka::admin::NewTopic;
use krafka::producer::Producer;
use postgres::{Client, NoTls};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use stock_db_writer::config::{Config, Sources};
use tokio::runtime::{Builder, Runtime};

/// How long a new topic may be without leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(60);

/// Both servers, and a directory for files of this run.
pub struct Services {
    /// Bootstrap servers.
    pub brokers: String,
    /// The database, as a user that may do everything.
    pub database_url: String,
    /// The process id of PostgreSQL's first process.
    pub postmaster: u32,
    /// Where PostgreSQL itself can write.
    pub data_directory: String,
    /// The worker's defaults.
    pub defaults: Config,
    /// Of this run; removed at its end.
    pub directory: PathBuf,
    // One for all that is asked aside of the contestants: a connection that ended while one of them is measured would be
    // taken for its.
    control: Mutex<Client>,
    runtime: Runtime,
}

impl Services {
    /// By the variables that `dev/services env` prints. Makes the tables.
    pub fn from_environment() -> Outcome<Services> {
        let variable = |name: &str| {
            env::var(name).map_err(|_| format!("{name} is not set: the servers are started by dev/bench; run that"))
        };
        let (brokers, database_url) = (variable("KAFKA_BROKERS")?, variable("DATABASE_URL")?);
        let postmaster = std::fs::read_to_string(variable("POSTGRES_PID_FILE")?)?.trim().parse()?;
        let directory = env::temp_dir().join(format!("stock-db-writer-bench-{:08x}", fastrand::u32(..)));
        std::fs::create_dir_all(&directory)?;
        let mut control = Client::connect(&database_url, NoTls)?;
        let data_directory = control.query_one("SHOW data_directory", &[])?.get(0);
        // It would hit one contestant and spare another.
        control.batch_execute("ALTER SYSTEM SET autovacuum = off")?;
        control.batch_execute("SELECT pg_reload_conf()")?;
        let services = Services {
            brokers,
            database_url,
            postmaster,
            data_directory,
            defaults: Config::load(&Sources::default())?,
            directory,
            control: Mutex::new(control),
            runtime: Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
        };
        Worker::new(&services, "bench").run_once(&["init"])?;
        Ok(services)
    }

    /// A new connection.
    pub fn database(&self) -> Outcome<Client> {
        Ok(Client::connect(&self.database_url, NoTls)?)
    }

    /// Runs statements, aside of the contestants.
    pub fn execute(&self, sql: &str) -> Outcome<()> {
        Ok(self.control.lock().unwrap_or_else(PoisonError::into_inner).batch_execute(sql)?)
    }

    /// The number that a query answers, aside of the contestants.
    pub fn number(&self, sql: &str) -> Outcome<i64> {
        Ok(self.control.lock().unwrap_or_else(PoisonError::into_inner).query_one(sql, &[])?.try_get(0)?)
    }

    /// The process ids of the connections whose application's name begins so.
    pub fn backends_of(&self, application: &str) -> Outcome<Vec<u32>> {
        let statement = "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, $1)";
        let rows = self.control.lock().unwrap_or_else(PoisonError::into_inner).query(statement, &[&application])?;
        rows.iter().map(|row| Ok(u32::try_from(row.try_get::<_, i32>(0)?)?)).collect()
    }

    /// A file of this run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file that PostgreSQL itself reads and writes.
    pub fn server_file(&self, name: &str) -> String {
        Path::new(&self.data_directory).join(name).display().to_string()
    }

    /// Creates topics and waits until all their partitions have a leader.
    pub fn create_topics(&self, names: &[String], n_partitions: i32) -> Outcome<()> {
        self.runtime.block_on(async {
            let kafka = self.connect().await?;
            let topics: Result<Vec<_>, _> = names.iter().map(|name| NewTopic::new(name, n_partitions, 1)).collect();
            for result in kafka.admin().create_topics(topics?, Default::default()).await?.into_values() {
                result?;
            }
            let begun = Instant::now();
            while !has_leaders(&kafka, names, n_partitions).await? {
                if begun.elapsed() > LEADERS_WITHIN {
                    return Err("the new topics have no leaders".into());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
    }

    /// Deletes topics, so that those of one part do not burden the broker in the next.
    pub fn delete_topics(&self, names: &[String]) -> Outcome<()> {
        self.runtime.block_on(async {
            let kafka = self.connect().await?;
            for result in kafka.admin().delete_topics(names, Default::default()).await?.into_values() {
                result?;
            }
            Ok(())
        })
    }

    /// A producer that sends what it has as soon as it can.
    pub fn producer_without_linger(&self) -> Outcome<Producer> {
        self.runtime.block_on(async {
            let producer = self.connect().await?.producer().linger(Duration::ZERO).metrics_push(false);
            Ok(producer.build().await?)
        })
    }

    /// Runs one conversation with the broker to its end.
    pub fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    async fn connect(&self) -> krafka::Result<Kafka> {
        let builder = Kafka::builder(&self.brokers).client_id("stock-db-writer-bench");
        builder.request_timeout(Duration::from_secs(30)).connect().await
    }
}

async fn has_leaders(kafka: &Kafka, names: &[String], n_partitions: i32) -> krafka::Result<bool> {
    let described = kafka.admin().describe_topics(names, Default::default()).await?;
    Ok(names.iter().all(|name| {
        described.get(name.as_str()).and_then(|topic| topic.as_ref().ok()).is_some_and(|topic| {
            topic.partitions.len() == n_partitions as usize
                && topic.partitions.iter().all(|partition| partition.leader.is_some())
        })
    }))
}

impl Drop for Services {
    fn drop(&mut self) {
        // Left behind, it is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
