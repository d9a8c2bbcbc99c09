//! PostgreSQL: where rows, dead letters and offsets become durable together.
//!
//! The only place that names the PostgreSQL client, the pool and TLS; none of their types leave it. `sink` is a
//! writer's connection, `ledger` the claims, `letters` the dead letters, `reset` positions moved by hand,
//! `schema` and `validate` the tables. Below them, `pool` limits the number of
//! connections, `connect` makes them, `session` is one of them, `wire` ends every wait, `reaper` buries the dead.

mod adopting;
mod authentication;
pub mod binary;
mod columns;
mod commit;
mod connect;
mod copy;
mod failure;
pub mod grants;
mod ledger;
mod letters;
mod names;
mod pool;
mod reaper;
mod reset;
pub mod schema;
mod session;
mod sink;
mod statements;
mod tls;
mod validate;
mod wire;

pub use ledger::PostgresLedger;
pub use letters::{PostgresLetters, Unrelayed, Written};
pub use reset::{PostgresReset, Reset};
pub use schema::{InitFailure, InitOutcome};
pub use sink::PostgresSink;
pub use validate::Finding;

use crate::config::Config;
use crate::fault::Failure;
use crate::heartbeat::Heartbeat;
use connect::Connector;
use names::Names;
use pool::{Held, Pool};
use reaper::Reaper;
use std::sync::Arc;
use std::time::Duration;
use validate::Uses;

/// What a call may take beyond the server's own limit, before the server counts as silent.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// One database, as one process uses it. Copies share their connections.
#[derive(Debug, Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    names: Arc<Names>,
    settings: crate::config::Database,
    pipeline: String,
    owner: String,
    payload_bytes_max: usize,
    uses: Uses,
}

impl Database {
    /// Connects once, so that what is wrong is known by its name and not as an outage. `owner` is this process's unique
    /// name, for people who look into `writer_offsets`.
    pub fn open(config: &Config, owner: &str) -> Result<Database, Failure> {
        let connector = Connector::new(&config.database, &config.pipeline, Reaper::start())?;
        let relays = config.dead_letters.topic.is_some();
        // One for each writer, one for the claims, one for what a command or the observer does beside them, one for the relay.
        let size_max = u32::try_from(config.writers.count).unwrap_or(u32::MAX - 3) + 2 + u32::from(relays);
        let pool = Pool::new(connector, size_max);
        // Put back at once: whoever asks first gets this one.
        drop(pool.get()?);
        let shared = Shared {
            pool,
            names: Arc::new(Names::new(&config.database)),
            settings: config.database.clone(),
            pipeline: config.pipeline.clone(),
            owner: owner.to_owned(),
            payload_bytes_max: config.dead_letters.payload_bytes_max,
            uses: Uses::of(config),
        };
        Ok(Database { shared: Arc::new(shared) })
    }

    /// A writer's view. It connects when it is first used, and keeps its connection.
    pub fn sink(&self, heartbeat: Arc<Heartbeat>) -> PostgresSink {
        let shared = &self.shared;
        PostgresSink::new(
            shared.pool.clone(),
            heartbeat,
            shared.names.clone(),
            shared.pipeline.clone(),
            shared.payload_bytes_max,
            self.call_max(),
        )
    }

    /// The consumer's view. It connects when it is first used, and keeps its connection.
    pub fn ledger(&self) -> PostgresLedger {
        let shared = &self.shared;
        PostgresLedger::new(
            shared.pool.clone(),
            &shared.names,
            shared.settings.synchronous_commit,
            shared.pipeline.clone(),
            shared.owner.clone(),
            self.call_max(),
        )
    }

    /// An operator's view of the dead letters, and the relay's. It connects when it is first used, and keeps its connection.
    pub fn letters(&self) -> PostgresLetters {
        let shared = &self.shared;
        PostgresLetters::new(
            shared.pool.clone(),
            shared.names.clone(),
            shared.settings.synchronous_commit,
            shared.pipeline.clone(),
            self.call_max(),
        )
    }

    fn session(&self) -> Result<Held, Failure> {
        self.shared.pool.get()
    }

    fn call_max(&self) -> Duration {
        self.shared.settings.statement_timeout + SILENCE_MAX
    }
}
