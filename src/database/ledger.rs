//! Claims on partitions, and where each stands, in `writer_offsets`.
//!
//! Each call is one statement or one explicit transaction on one held connection, whose commits are all synchronous,
//! whatever the writers do. Rows are locked in (topic, partition) order, byte by byte, as everywhere.

use super::failure::plain;
use super::names::{Names, Table};
use super::pool::{Held, Pool};
use super::session::Session;
use super::sink::unreadable;
use crate::batch::Epoch;
use crate::fault::{Failure, Fault};
use crate::ledger::{Claim, Ledger, LogIdentity, Pipeline, Resolve, Standing, Start, StartFailure};
use crate::record::{LeaderEpoch, NextOffset, TopicPartition};
use postgres::{Client, Row};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long Kafka may take to say where the first rows start, while we hold the lock that lets only one process ask.
const RESOLVE_MAX: Duration = Duration::from_secs(300);
/// How long the check of a lock may take: it only touches memory.
const LOCK_CHECK_MAX: Duration = Duration::from_secs(10);

/// A database as the consumer sees it.
pub struct PostgresLedger {
    pool: Pool,
    offsets: Table,
    gaps: Table,
    // Otherwise the session is told to.
    commits_synchronously: bool,
    pipeline: String,
    owner: String,
    call_max: Duration,
    held: Option<Held>,
    // The server process that held the pipeline's lock for us last, and when it started.
    lock_holder: Option<(i32, String)>,
}

impl PostgresLedger {
    pub(super) fn new(
        pool: Pool,
        names: &Names,
        commits_synchronously: bool,
        pipeline: String,
        owner: String,
        call_max: Duration,
    ) -> Self {
        let (offsets, gaps) = (names.offsets.clone(), names.gaps.clone());
        PostgresLedger {
            pool,
            offsets,
            gaps,
            commits_synchronously,
            pipeline,
            owner,
            call_max,
            held: None,
            lock_holder: None,
        }
    }

    fn session(&mut self) -> Result<&mut Session, Failure> {
        if !self.held.as_ref().is_some_and(|held| held.is_good()) {
            self.disconnect();
            let mut held = self.pool.get()?;
            if !self.commits_synchronously {
                held.call("setting up a session", self.call_max, |client| {
                    client.batch_execute("SET synchronous_commit = on")
                })?;
            }
            self.held = Some(held);
        }
        Ok(self.held.as_mut().expect("it was just set"))
    }

    fn disconnect(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.poisoned = true;
        }
    }

    fn call<T>(
        &mut self,
        doing: &str,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Failure> {
        let call_max = self.call_max;
        self.session()?.call(doing, call_max, call)
    }

    /// The key of an advisory lock on this pipeline in these bookkeeping tables.
    fn lock_key(&self, purpose: &str) -> i64 {
        lock_key(purpose, &[&self.pipeline, &self.offsets.schema])
    }

    /// Who holds the lock that we were refused. Our own connection's other end may not have noticed yet that we are
    /// gone, and would make us believe in a second process.
    fn is_held_by_our_ghost(&mut self, key: i64) -> Result<bool, Failure> {
        let Some((pid, started)) = self.lock_holder.clone() else { return Ok(false) };
        let ended = self.call("looking for an earlier session of this process", |client| {
            client.query(
                "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   AND l.classid::bigint = ($1::bigint >> 32) & 4294967295 \
                   AND l.objid::bigint = $1::bigint & 4294967295 \
                   AND a.pid = $2 AND a.backend_start::text = $3",
                &[&key, &pid, &started],
            )
        })?;
        Ok(!ended.is_empty())
    }

    /// What [`Ledger::start`] does between taking the lock and committing.
    fn start_locked(&mut self, topics: &[Arc<str>], resolve: &mut Resolve<'_>) -> Result<(), StartFailure> {
        const DOING: &str = "making the first offset rows";
        let (key, idle_max) = (self.lock_key("start"), RESOLVE_MAX.as_millis());
        let pipeline = self.pipeline.clone();
        let known = format!("SELECT DISTINCT topic FROM {} WHERE pipeline = $1", self.offsets);
        let known = self.call(DOING, |client| {
            client.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = {idle_max}"
            ))?;
            client.execute("SELECT pg_advisory_xact_lock($1)", &[&key])?;
            let rows = client.query(&known, &[&pipeline])?;
            rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()
        });
        let known = known.map_err(StartFailure::Database)?;
        let is_new = |topic: &&Arc<str>| !known.iter().any(|known| **known == ***topic);
        let new: Vec<Arc<str>> = topics.iter().filter(is_new).cloned().collect();
        if !new.is_empty() {
            let met_by = if known.is_empty() { Pipeline::New } else { Pipeline::Known };
            let starts = resolve(&new, met_by).map_err(StartFailure::Resolve)?;
            let starts = Columns::new(&starts);
            // A partition that another process has claimed meanwhile keeps its row.
            let insert = format!("{} ON CONFLICT (pipeline, topic, partition) DO NOTHING", self.insert(0));
            let owner: Option<&str> = None;
            self.call(DOING, |client| client.execute(&insert, &starts.parameters(&pipeline, &owner)))
                .map_err(StartFailure::Database)?;
        }
        // The guard is the sink's: an aborted transaction must not look committed.
        self.call(DOING, |client| client.batch_execute("SAVEPOINT committing; COMMIT")).map_err(StartFailure::Database)
    }

    /// First rows with this epoch.
    fn insert(&self, epoch: i64) -> String {
        format!(
            "INSERT INTO {} AS o \
               (pipeline, topic, partition, next_offset, epoch, cluster_id, topic_id, owner, claimed_at) \
             SELECT $1, topic, partition, next_offset, {epoch}, cluster_id, topic_id::uuid, $7::text, \
               CASE WHEN $7::text IS NULL THEN NULL ELSE now() END \
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[]) \
               AS s(topic, partition, next_offset, cluster_id, topic_id) \
             ORDER BY topic COLLATE \"C\", partition",
            self.offsets
        )
    }

    /// Reads where these topics stand, and then does something else in the same session.
    fn read_next_offsets(
        &mut self,
        doing: &str,
        topics: &[Arc<str>],
        then: &str,
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure> {
        let asked: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        let sql = format!(
            "SELECT topic, partition, next_offset FROM {} WHERE pipeline = $1 AND topic = ANY($2)",
            self.offsets
        );
        let pipeline = self.pipeline.clone();
        let rows = self.call(doing, |client| {
            let rows = client.query(&sql, &[&pipeline, &asked])?;
            client.batch_execute(then)?;
            Ok(rows)
        })?;
        let offsets = read_all(doing, &rows, |row| Ok((partition(row)?, NextOffset(row.try_get(2)?))))?;
        Ok(offsets.into_iter().collect())
    }
}

/// What a claim answers.
const CLAIM_COLUMNS: &str =
    "o.topic, o.partition, o.epoch, o.next_offset, o.cluster_id, uuid_send(o.topic_id), o.leader_epoch";

impl Ledger for PostgresLedger {
    fn lock_pipeline(&mut self) -> Result<bool, Failure> {
        const DOING: &str = "taking the pipeline's lock";
        let key = self.lock_key("run");
        let session = self.session()?;
        if session.has_lock {
            // A connection that the server has hung up on looks good until it is used: a lock that is only remembered
            // would be believed in for ever.
            session.call("keeping the pipeline's lock", LOCK_CHECK_MAX, |client| client.batch_execute(""))?;
            return Ok(true);
        }
        let taken = session.call(DOING, LOCK_CHECK_MAX, |client| {
            let row = client.query_one(
                "SELECT pg_try_advisory_lock($1), pid, backend_start::text FROM pg_stat_activity \
                 WHERE pid = pg_backend_pid()",
                &[&key],
            )?;
            Ok((row.try_get::<_, bool>(0)?, (row.try_get::<_, i32>(1)?, row.try_get::<_, String>(2)?)))
        });
        let (is_taken, holder) = taken?;
        if is_taken {
            session.has_lock = true;
            self.lock_holder = Some(holder);
            return Ok(true);
        }
        match self.is_held_by_our_ghost(key)? {
            true => Err(plain(Fault::Lock, format!("{DOING}: an earlier session of this process is just being ended"))),
            false => Ok(false),
        }
    }

    fn start(&mut self, topics: &[Arc<str>], resolve: &mut Resolve<'_>) -> Result<(), StartFailure> {
        let had_lock = self.held.as_ref().is_some_and(|held| held.has_lock);
        let result = self.start_locked(topics, resolve);
        if result.is_err()
            && let Some(held) = &mut self.held
        {
            let is_ended = held.is_good()
                && held.call("rolling back", LOCK_CHECK_MAX, |client| client.batch_execute("ROLLBACK")).is_ok();
            if !is_ended {
                if had_lock {
                    log::warn!("the connection that holds the pipeline's lock is lost");
                }
                self.disconnect();
            }
        }
        result
    }

    fn claim(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Claim>, Failure> {
        const DOING: &str = "claiming partitions";
        let topics: Vec<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
        let numbers: Vec<i32> = partitions.iter().map(|partition| partition.partition).collect();
        let sql = format!(
            "WITH locked AS MATERIALIZED (\
               SELECT o.topic, o.partition FROM {offsets} o \
               WHERE o.pipeline = $1 AND (o.topic, o.partition) IN (SELECT * FROM unnest($2::text[], $3::int[])) \
               ORDER BY o.topic COLLATE \"C\", o.partition FOR UPDATE OF o) \
             UPDATE {offsets} o SET epoch = o.epoch + 1, owner = $4, claimed_at = now() FROM locked l \
             WHERE o.pipeline = $1 AND o.topic = l.topic AND o.partition = l.partition RETURNING {CLAIM_COLUMNS}",
            offsets = self.offsets
        );
        let (pipeline, owner) = (self.pipeline.clone(), self.owner.clone());
        let rows = self.call(DOING, |client| client.query(&sql, &[&pipeline, &topics, &numbers, &owner]))?;
        read_all(DOING, &rows, claim)
    }

    fn claim_or_start(&mut self, starts: &[Start]) -> Result<Vec<Claim>, Failure> {
        const DOING: &str = "claiming partitions";
        let columns = Columns::new(starts);
        let sql = format!(
            "{} ON CONFLICT (pipeline, topic, partition) DO UPDATE SET epoch = o.epoch + 1, owner = EXCLUDED.owner, \
               claimed_at = EXCLUDED.claimed_at, cluster_id = coalesce(o.cluster_id, EXCLUDED.cluster_id), \
               topic_id = coalesce(o.topic_id, EXCLUDED.topic_id) \
             RETURNING {CLAIM_COLUMNS}",
            self.insert(1)
        );
        let (pipeline, owner) = (self.pipeline.clone(), Some(self.owner.clone()));
        let rows = self.call(DOING, |client| client.query(&sql, &columns.parameters(&pipeline, &owner)))?;
        read_all(DOING, &rows, claim)
    }

    fn jump(&mut self, claim: &Claim, to: NextOffset) -> Result<bool, Failure> {
        let Claim { partition, epoch, next, .. } = claim;
        let sql = format!(
            "WITH moved AS (\
               UPDATE {} SET next_offset = $6, leader_epoch = NULL, updated_at = now() \
               WHERE pipeline = $1 AND topic = $2 AND partition = $3 AND epoch = $4 AND next_offset = $5 \
               RETURNING pipeline, topic, partition) \
             INSERT INTO {} AS g (pipeline, topic, partition, from_offset, to_offset, reason, decided_by) \
             SELECT pipeline, topic, partition, $5, $6, 'retention', 'kafka.on_gap, ' || $7::text FROM moved \
             ON CONFLICT (pipeline, topic, partition, from_offset) DO UPDATE SET \
               to_offset = EXCLUDED.to_offset, reason = EXCLUDED.reason, decided_by = EXCLUDED.decided_by, at = now()",
            self.offsets, self.gaps
        );
        let (pipeline, owner) = (self.pipeline.clone(), self.owner.clone());
        let (topic, number) = (&*partition.topic, partition.partition);
        let recorded = self.call("recording a gap", |client| {
            client.execute(&sql, &[&pipeline, &topic, &number, &epoch.0, &next.0, &to.0, &owner])
        })?;
        Ok(recorded == 1)
    }

    fn next_offsets(&mut self, topics: &[Arc<str>]) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure> {
        self.read_next_offsets("reading offsets", topics, "")
    }

    fn standings(&mut self) -> Result<Vec<Standing>, Failure> {
        const DOING: &str = "reading offsets";
        let sql = format!(
            "SELECT topic, partition, epoch, next_offset, cluster_id, uuid_send(topic_id), leader_epoch, owner, records_total, \
               rows_total, dead_letters_total, records_skipped, \
               to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
             FROM {} WHERE pipeline = $1 ORDER BY topic COLLATE \"C\", partition",
            self.offsets
        );
        let pipeline = self.pipeline.clone();
        let rows = self.call(DOING, |client| client.query(&sql, &[&pipeline]))?;
        read_all(DOING, &rows, |row| {
            let Claim { partition, epoch, next, identity, .. } = claim(row)?;
            Ok(Standing {
                partition,
                next,
                epoch,
                identity,
                owner: row.try_get(7)?,
                records_total: row.try_get(8)?,
                rows_total: row.try_get(9)?,
                dead_letters_total: row.try_get(10)?,
                records_skipped: row.try_get(11)?,
                updated_at: row.try_get(12)?,
            })
        })
    }

    fn barrier(&mut self, topics: &[Arc<str>]) -> Result<BTreeMap<TopicPartition, NextOffset>, Failure> {
        // A transaction that writes nothing is not flushed, even where it has an id. This writes one record to the log
        // and nothing anywhere else; flushing it flushes all before it.
        let flush = "SELECT pg_logical_emit_message(true, 'stock-db-writer', 'barrier')";
        self.read_next_offsets("waiting for durability", topics, flush)
    }
}

impl Drop for PostgresLedger {
    fn drop(&mut self) {
        // Its lock and its settings must not come to whoever gets the connection next.
        if !self.commits_synchronously || self.held.as_ref().is_some_and(|held| held.has_lock) {
            self.disconnect();
        }
    }
}

impl std::fmt::Debug for PostgresLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresLedger").field("pipeline", &self.pipeline).field("owner", &self.owner).finish()
    }
}

/// A number for an advisory lock that nobody else hits on by accident.
pub(super) fn lock_key(purpose: &str, names: &[&str]) -> i64 {
    let mut digest = Sha256::new_with_prefix(b"stock-db-writer");
    for part in std::iter::once(&purpose).chain(names) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    i64::from_be_bytes(digest.finalize()[..8].try_into().expect("a digest has 32 bytes"))
}

/// First rows, column by column. Each partition once: a statement can't touch a row twice.
struct Columns<'a> {
    topics: Vec<&'a str>,
    partitions: Vec<i32>,
    next: Vec<i64>,
    cluster_ids: Vec<Option<&'a str>>,
    topic_ids: Vec<Option<String>>,
}

impl<'a> Columns<'a> {
    fn new(starts: &'a [Start]) -> Self {
        let starts: BTreeMap<&TopicPartition, &Start> = starts.iter().map(|start| (&start.partition, start)).collect();
        Columns {
            topics: starts.keys().map(|partition| &*partition.topic).collect(),
            partitions: starts.keys().map(|partition| partition.partition).collect(),
            next: starts.values().map(|start| start.next.0).collect(),
            cluster_ids: starts.values().map(|start| start.identity.cluster_id.as_deref()).collect(),
            topic_ids: starts.values().map(|start| start.identity.topic_id.as_ref().map(hex)).collect(),
        }
    }

    fn parameters<'b>(
        &'b self,
        pipeline: &'b String,
        owner: &'b (dyn postgres::types::ToSql + Sync),
    ) -> [&'b (dyn postgres::types::ToSql + Sync); 7] {
        [pipeline, &self.topics, &self.partitions, &self.next, &self.cluster_ids, &self.topic_ids, owner]
    }
}

fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_all<T>(
    doing: &str,
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, postgres::Error>,
) -> Result<Vec<T>, Failure> {
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| unreadable(doing, &error))
}

fn partition(row: &Row) -> Result<TopicPartition, postgres::Error> {
    Ok(TopicPartition::new(row.try_get::<_, &str>(0)?, row.try_get(1)?))
}

/// Reads [`CLAIM_COLUMNS`].
fn claim(row: &Row) -> Result<Claim, postgres::Error> {
    let topic_id: Option<&[u8]> = row.try_get(5)?;
    let identity = LogIdentity {
        cluster_id: row.try_get(4)?,
        topic_id: topic_id.map(|bytes| bytes.try_into().expect("a uuid has 16 bytes")),
    };
    Ok(Claim {
        partition: partition(row)?,
        epoch: Epoch(row.try_get(2)?),
        next: NextOffset(row.try_get(3)?),
        identity,
        leader_epoch: row.try_get::<_, Option<i32>>(6)?.map(LeaderEpoch),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_keys_differ_by_purpose_and_by_every_name() {
        let keys = [
            lock_key("run", &["a", "b"]),
            lock_key("start", &["a", "b"]),
            lock_key("run", &["ab", ""]),
            lock_key("run", &["a", "c"]),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(lock_key("run", &["a", "b"]), keys[0]);
    }
}
