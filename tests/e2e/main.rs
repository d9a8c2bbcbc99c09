//! End-to-end tests: the real binary between a real Kafka and a real PostgreSQL.
//!
//! `dev/test` starts the servers and runs them; it sets the variables that name the servers, and a test without servers
//! fails. STOCK_DB_WRITER_TEST_SIZE=long selects the full sizes.

mod adopting;
mod audit;
mod backlog;
mod bare;
mod brake;
mod cli;
mod cluster;
mod dead_letters;
mod doubt;
mod explain;
mod faults;
mod groups;
mod handbook;
mod harness;
mod kafka_faults;
mod kill;
mod kill_sweep;
mod lag;
mod liveness;
mod locks;
mod memory;
mod mute;
mod old_brokers;
mod operating;
mod outages;
mod patterns;
mod positions;
mod records;
mod redrive;
mod refused;
mod relay;
mod reset;
mod security_kafka;
mod security_names;
mod security_postgres;
mod security_roles;
mod security_rotation;
mod security_secrets;
mod selfcheck;
mod shapes;
