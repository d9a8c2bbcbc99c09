//! A stage whose every record is in a ledger, of prices and of metrics.

use super::audit::Compared;
use super::ledger::{Ledger, REFUSED_CHECK, Target};
use super::{Invocation, LIMIT, Stage, Worker, eventually};

/// A stage, its ledger, and how its workers are started.
pub struct Audited {
    pub stage: Stage,
    pub ledger: Ledger,
    pub invocation: Invocation,
}

impl Audited {
    /// Makes the tables, and begins to feed every partition with so many records a second.
    pub fn open(stage: Stage, settings: &[(&str, &str)], per_second: i64) -> Audited {
        stage.add_topic(&stage.metrics_topic(), 1, &[]);
        let invocation = stage
            .invocation()
            .set("topics.1.name", stage.metrics_topic())
            .set("topics.1.target", "metrics")
            .set("kafka.session_timeout_ms", 6_000)
            .set("batch.rows_max", 500);
        let invocation = settings.iter().fold(invocation, |invocation, (key, value)| invocation.set(key, value));
        invocation.output(&["init"]).expect_code(0);
        stage.execute(REFUSED_CHECK);
        // The client for old brokers knows no lz4.
        let is_old = settings.contains(&("kafka.client", "kafka"));
        let ledger = if is_old { Ledger::compressed_by("gzip") } else { Ledger::default() };
        for partition in 0..stage.n_partitions {
            ledger.feed(Target::Prices, &stage.topic, partition, per_second);
        }
        ledger.feed(Target::Metrics, &stage.metrics_topic(), 0, per_second);
        Audited { stage, ledger, invocation }
    }

    /// Starts a worker that commits something.
    pub fn start(&self) -> Worker {
        let worker = self.invocation.start(&["run"]);
        self.await_progress();
        worker
    }

    /// Waits until every partition has got on, and compares the database with the ledger.
    pub fn await_progress(&self) {
        let topics = [self.stage.topic.clone(), self.stage.metrics_topic()];
        let standings = || topics.clone().map(|topic| self.stage.standings(&topic));
        let before = standings();
        let n_partitions = self.stage.n_partitions as usize + 1;
        eventually(&format!("{}: every partition gets on", self.stage.name), LIMIT, || {
            let now = standings();
            let moved = now.iter().zip(&before).flat_map(|(now, before)| {
                now.iter().filter(|(partition, at)| {
                    at.next_offset > before.get(partition).map_or(0, |before| before.next_offset)
                })
            });
            moved.count() == n_partitions
        });
        self.ledger.audit_snapshot(&self.stage, &mut self.stage.database()).expect("PostgreSQL answers");
    }

    /// Sends nothing more, waits until all is written, and compares everything.
    pub fn finish(&self) -> Compared {
        self.ledger.finish();
        self.ledger.wait_until_drained(&self.stage, LIMIT);
        self.ledger.audit(&self.stage)
    }
}
