//! What the consumer needs of a database: claims on partitions, and where each of them stands.
//!
//! Knows no database client; `database` implements [`Ledger`]. The rows it speaks of are those of `writer_offsets`.

use crate::batch::Epoch;
use crate::exit::{ExitCode, Stop};
use crate::fault::Failure;
use crate::record::{LeaderEpoch, NextOffset, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Which log is followed: the cluster's and the topic's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The topic's id; `None` where the brokers know none.
    pub topic_id: Option<[u8; 16]>,
}

/// The first row of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: TopicPartition,
    /// Where reading starts.
    pub next: NextOffset,
    /// The log that it is in.
    pub identity: LogIdentity,
}

/// A partition that is ours until somebody else claims it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: TopicPartition,
    /// What outdates all earlier claims.
    pub epoch: Epoch,
    /// Where reading resumes.
    pub next: NextOffset,
    /// The log that was followed so far.
    pub identity: LogIdentity,
    /// Which leader wrote the last record that was read of it, where that is known.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// One row of `writer_offsets`, for `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The partition.
    pub partition: TopicPartition,
    /// Where reading resumes.
    pub next: NextOffset,
    /// The newest claim.
    pub epoch: Epoch,
    /// The log that is followed.
    pub identity: LogIdentity,
    /// Who made the newest claim.
    pub owner: Option<String>,
    /// Records with any fate.
    pub records_total: i64,
    /// Rows written.
    pub rows_total: i64,
    /// Dead letters written, by element.
    pub dead_letters_total: i64,
    /// Records skipped.
    pub records_skipped: i64,
    /// When the row last changed, RFC 3339.
    pub updated_at: String,
}

/// A database as the consumer sees it. All of it is committed synchronously, whatever the writers do.
pub trait Ledger {
    /// Takes the pipeline's session lock, and keeps it for as long as the connection lasts. `false` if another process
    /// holds it. Taken already on this very connection: `true` at once.
    fn lock_pipeline(&mut self) -> Result<bool, Failure>;

    /// Makes the first rows, with epoch 0, for all partitions of each of these topics that has no row yet, in one
    /// transaction that no other process can run beside. `resolve` is asked where they start, only if there are any,
    /// and told how far the pipeline had come before.
    fn start(&mut self, topics: &[Arc<str>], resolve: &mut Resolve<'_>) -> Result<(), StartFailure>;

    /// Claims partitions that have a row; those without one are absent from the answer.
    fn claim(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Claim>, Failure>;

    /// Claims partitions, making the row where there is none yet.
    fn claim_or_start(&mut self, starts: &[Start]) -> Result<Vec<Claim>, Failure>;

    /// Goes on at `to`, beyond records that can't be read any more, and records the gap in the same transaction. `false`
    /// if the claim or its position does not hold any more.
    fn jump(&mut self, claim: &Claim, to: NextOffset) -> Result<bool, Failure>;

    /// Where every partition of these topics stands, whoever owns it.
    fn next_offsets(&mut self, topics: &[Arc<str>]) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure>;

    /// All rows of the pipeline, by topic and partition.
    fn standings(&mut self) -> Result<Vec<Standing>, Failure>;

    /// Makes durable what was committed before, whoever committed it how. Answers where the partitions of these topics stood
    /// before that, in the same session: what is missing of it was lost by a crash before, and is not durable.
    fn barrier(&mut self, topics: &[Arc<str>]) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure>;
}

/// Answers where the partitions of some topics start.
pub type Resolve<'a> = dyn FnMut(&[Arc<str>], Pipeline) -> Result<Vec<Start>, Stop> + 'a;

/// A pipeline at the moment when it meets topics that it has no row of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// It has no row of any topic.
    New,
    /// It has rows of other topics.
    Known,
}

/// Why [`Ledger::start`] failed.
#[derive(Debug)]
pub enum StartFailure {
    /// The database did.
    Database(Failure),
    /// The answer to where to start did.
    Resolve(Stop),
}

/// The command by which a person decides where reading goes on.
pub fn reset_command(partition: &TopicPartition, to: impl std::fmt::Display) -> String {
    let TopicPartition { topic, partition } = partition;
    format!("stock-db-writer reset --topic {topic} --partition {partition} --to {to}")
}

/// Stops where the log is not the one that was followed: a topic that was deleted and created again has the same name and another id.
pub fn same_log(topic: &str, followed: &LogIdentity, now: &LogIdentity) -> Result<(), Stop> {
    let differ = |a: Option<String>, b: Option<String>| a.is_some() && b.is_some() && a != b;
    let hex = |id: Option<[u8; 16]>| id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let (what, was, is) = if differ(followed.cluster_id.clone(), now.cluster_id.clone()) {
        ("this is another cluster", followed.cluster_id.clone(), now.cluster_id.clone())
    } else if differ(hex(followed.topic_id), hex(now.topic_id)) {
        ("it was deleted and created again", hex(followed.topic_id), hex(now.topic_id))
    } else {
        return Ok(());
    };
    Err(Stop::new(
        ExitCode::DataNeedsDecision,
        format!(
            "topic {topic:?}: {what} (id {}, was {}), so the offsets in the database are not those of its log; to start \
             over with it: stock-db-writer reset --topic {topic} --to earliest",
            is.unwrap_or_default(),
            was.unwrap_or_default()
        ),
    ))
}

/// How long a position beyond the log's end may be a follower's lag after a failover.
pub const AHEAD_MAX: Duration = Duration::from_secs(30);

/// Kafka has deleted what was not read.
pub fn below_log_start(partition: &TopicPartition, next: NextOffset, start: NextOffset) -> Stop {
    Stop::new(
        ExitCode::DataNeedsDecision,
        format!(
            "partition {partition}: the database is at offset {next}, but the log starts at {start}: records {next} to \
             {} are gone from Kafka; to go on without them: {} (or set kafka.on_gap = \"record\")",
            start.0 - 1,
            reset_command(partition, "earliest")
        ),
    )
}

/// The log is shorter than what was read of it.
pub fn was_truncated(partition: &TopicPartition, next: NextOffset, end: NextOffset) -> Stop {
    Stop::new(
        ExitCode::DataNeedsDecision,
        format!(
            "partition {partition}: the database is at offset {next}, but the log ends at {end}, or did for a while: it was \
             truncated, and what stands in the database from {end} on is not what Kafka holds there now; decide what to \
             do about those rows, then go on at its end: {}",
            reset_command(partition, end)
        ),
    )
}
