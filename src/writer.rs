//! A writer thread: takes batches, makes one transaction of each, and answers what became of it.
//!
//! It follows the outcome table of the protocol and owns every retry of a batch; it knows neither Kafka nor the
//! database's client. It holds database locks while it waits for its turn, which is why it obeys the lane's lock rule.

pub(crate) mod attempt;

use crate::brake::Brake;
use crate::config::{Config, Retry, Topics};
use crate::delivery::{Dispatch, Settlement};
use crate::exit::Stop;
use crate::heartbeat::{Doing, Heartbeat};
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::pipeline_lock::PipelineLock;
use crate::sink::Sink;
use crate::vitals::Vitals;
use attempt::Attempt;
use crossbeam_channel::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What all writers of a process share.
#[derive(Debug)]
pub struct Shared {
    /// The turnstile.
    pub lane: Lane,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the threads say of themselves.
    pub vitals: Arc<Vitals>,
    /// Whether the database is away.
    pub database: Arc<Outage>,
    /// The pipeline's lock, in a process that must hold it.
    pub pipeline_lock: Option<PipelineLock>,
    /// Stops a flood of dead letters. Asked in the turn only.
    pub brake: Mutex<Brake>,
    /// How each topic is read.
    pub topics: Topics,
    /// How this process calls itself in the database.
    pub owner: String,
    /// How failures are retried.
    pub retry: Retry,
    /// How long locks are held while waiting for the turn.
    pub hold_max: Duration,
    /// How long a wrong schema or a missing privilege is waited for.
    pub grace: Duration,
}

impl Shared {
    /// What the configuration says, and nothing written yet.
    pub fn new(config: &Config, owner: String, database: Outage) -> Self {
        let (prices, metrics) = (config.database.prices.to_string(), config.database.metrics.to_string());
        Shared {
            lane: Lane::new(),
            metrics: Arc::new(Metrics::new(&prices, &metrics)),
            vitals: Arc::new(Vitals::new()),
            database: Arc::new(database),
            pipeline_lock: None,
            brake: Mutex::new(Brake::new(config.dead_letters.ratio_max)),
            topics: config.topics.clone(),
            owner,
            retry: config.retry,
            hold_max: config.writers.hold_max,
            grace: config.schema.grace,
        }
    }
}

/// Writes batches until their channel closes.
pub fn run(
    shared: &Shared,
    sink: &mut dyn Sink,
    heartbeat: &Arc<Heartbeat>,
    dispatches_rx: &Receiver<Dispatch>,
    durables_tx: &Sender<Settlement>,
) -> Result<(), Stop> {
    for Dispatch { seq, batch } in dispatches_rx {
        let settlement = Attempt::new(shared, sink, seq).write(&batch)?;
        heartbeat.enter(Doing::Waiting);
        // Kept until the answer is on its way: what it takes in memory is counted as in flight until then.
        drop(batch);
        if durables_tx.send(settlement).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod lock_rule_tests;

#[cfg(test)]
mod tests;
