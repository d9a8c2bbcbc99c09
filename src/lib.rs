//! Moves stock prices and windowed metrics from Kafka into PostgreSQL, every record exactly once.
//!
//! The program is `main.rs`; everything with a decision in it is here, so that tests can reach it. Modules import
//! downwards only, in this order: words, pure steps, promises, what keeps them, threads, wiring.

#[cfg(not(any(feature = "client-krafka", feature = "client-kafka")))]
compile_error!("no Kafka client is built in: enable the feature client-krafka or client-kafka, or both");

// Words.
pub mod backoff;
pub mod clock;
pub mod decimal;
pub mod exit;
pub mod fault;
pub mod handshake;
pub mod heartbeat;
pub mod outage;
pub mod pipeline_lock;
pub mod quiet;
pub mod record;
pub mod row;
pub mod shutdown;
#[cfg(test)]
mod shutdown_tests;
pub mod sync;
pub mod vitals;

// Pure steps.
pub mod batch;
pub mod brake;
pub mod capacity;
pub mod config;
pub mod dead_letters;
pub mod decode;
pub mod explain;
pub mod fit;
pub mod lane;
#[cfg(test)]
mod lane_tests;
pub mod metrics;
pub mod redrive;
pub mod sift;
pub mod work;

// Promises.
pub mod delivery;
pub mod ledger;
pub mod reset;
pub mod sink;
pub mod source;

// What keeps them.
pub mod database;

// Threads.
pub mod claimer;
pub mod consumer;
pub mod http;
pub mod observer;
pub mod relay;
pub mod watchdog;
pub mod writer;

// Wiring.
pub mod cli;
pub mod commands;
pub mod logger;
pub mod newest;
pub mod oldest;
pub mod progress;
pub mod startup;
pub mod supervisor;
