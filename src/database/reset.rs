//! Positions moved by hand: offsets, dead letters of what is read again, and gaps, in one transaction.
//!
//! It is a claim, too: whoever was reading is fenced, and reads the new position before he goes on.

use super::Database;
use super::commit::{self, End};
use super::failure::plain;
use super::session::Session;
use super::sink::unreadable;
use crate::exit::Stop;
use crate::fault::{Failure, Fault};
use crate::ledger::LogIdentity;
use crate::record::{NextOffset, TopicPartition};
use crate::reset::{Effect, Look, Target, effect, gone};
use postgres::{Client, Row};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a ROLLBACK may take before the connection is given up instead.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
/// How long Kafka may take to say how the log is, while we hold the positions.
const LOOK_MAX: Duration = Duration::from_secs(120);
const DOING: &str = "resetting offsets";

/// What becomes, or became, of a partition.
#[derive(Debug, Clone)]
pub struct Reset {
    /// What moves.
    pub effect: Effect,
    /// Rows that its records have given so far, and the records, skipped ones too.
    pub rows_total: i64,
    /// See above.
    pub records_total: i64,
    /// Dead letters of the records that are read again; they are removed, and written again if they have to be.
    pub n_letters: i64,
    /// Open dead letters whose records are not in the log any more: nothing is moved while there are any.
    pub n_unrepeatable: i64,
}

/// Answers how the log is now, and where its partitions are to be.
pub type LookAtLog<'a> = dyn FnMut() -> Result<Look, Stop> + 'a;

/// Why nothing was moved.
enum NotApplied {
    /// Dead letters are in the way.
    Letters(Vec<Reset>),
    /// The look at the log has failed.
    Stop(Stop),
    /// The database has.
    Database(Failure),
}

impl From<Failure> for NotApplied {
    fn from(failure: Failure) -> Self {
        NotApplied::Database(failure)
    }
}

/// A row of `writer_offsets`.
struct Standing {
    next: NextOffset,
    identity: LogIdentity,
    rows_total: i64,
    records_total: i64,
}

/// A transaction whose COMMIT nobody has answered, and what it would have moved.
type InDoubt = (i64, Vec<Reset>);

/// Moves the positions of one topic.
#[derive(Debug)]
pub struct PostgresReset {
    database: Database,
    topic: String,
    // `None`: all.
    partition: Option<i32>,
    in_doubt: Option<InDoubt>,
}

impl Database {
    /// An operator's view of the positions of a topic, or of one of its partitions.
    pub fn resets(&self, topic: &str, partition: Option<i32>) -> PostgresReset {
        PostgresReset { database: self.clone(), topic: topic.to_owned(), partition, in_doubt: None }
    }

    /// Whether a table that rows are only added to has any; `None`: we may not look.
    pub fn has_prices(&self) -> Result<Option<bool>, Failure> {
        let sql = format!("SELECT EXISTS (SELECT FROM {})", self.shared.names.prices);
        match self.session()?.call(DOING, self.call_max(), |client| client.query_one(&sql, &[])) {
            Ok(row) => row.try_get(0).map(Some).map_err(|error| unreadable(DOING, &error)),
            // A worker needs no more than INSERT.
            Err(failure) if failure.fault == Fault::Permission => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The prices' table, for people.
    pub fn prices_name(&self) -> &str {
        &self.shared.names.prices.sql
    }
}

impl PostgresReset {
    /// What would change, as things stand. The log is looked at after the positions: whoever reads meanwhile is behind
    /// its end then.
    pub fn show(&mut self, look: &mut LookAtLog<'_>) -> Result<Result<Vec<Reset>, Stop>, Failure> {
        let mut session = self.database.session()?;
        let standings = self.stand(&mut session, "")?;
        match look() {
            Ok(look) => self.compare(&mut session, &standings, &look).map(Ok),
            Err(stop) => Ok(Err(stop)),
        }
    }

    /// Moves the positions, unless any dead letter would be lost by it; the answer says. The log is looked at while the
    /// positions are locked, so that nobody moves on between the look and the move. Called again after a COMMIT whose
    /// answer was lost, it first finds out what became of that.
    pub fn apply(&mut self, look: &mut LookAtLog<'_>) -> Result<Result<Vec<Reset>, Stop>, Failure> {
        let mut session = self.database.session()?;
        if let Some(resets) = self.resolve(&mut session)? {
            return Ok(Ok(resets));
        }
        let call_max = self.database.call_max();
        session.call(DOING, call_max, |client| {
            client.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; \
                 SET LOCAL idle_in_transaction_session_timeout = {}",
                LOOK_MAX.as_millis()
            ))
        })?;
        let answer = match self.apply_locked(&mut session, look) {
            Ok((xid, resets)) => match commit::commit(&mut session, call_max) {
                End::Committed => return Ok(Ok(resets)),
                End::Refused(failure) => Err(failure),
                End::InDoubt(failure) => {
                    self.in_doubt = Some((xid, resets));
                    Err(failure)
                }
            },
            Err(NotApplied::Letters(resets)) => Ok(Ok(resets)),
            Err(NotApplied::Stop(stop)) => Ok(Err(stop)),
            Err(NotApplied::Database(failure)) => Err(failure),
        };
        let is_ended = session.is_good()
            && session.call("rolling back", ROLLBACK_MAX, |client| client.batch_execute("ROLLBACK")).is_ok();
        session.poisoned |= !is_ended;
        answer
    }

    /// What an earlier COMMIT has moved after all. Moving once more would throw back whoever has gone on since.
    fn resolve(&mut self, session: &mut Session) -> Result<Option<Vec<Reset>>, Failure> {
        let Some((xid, _)) = &self.in_doubt else { return Ok(None) };
        let status: Option<String> = session.call(DOING, self.database.call_max(), |client| {
            client.query_one("SELECT txid_status($1)", &[xid])?.try_get(0)
        })?;
        match status.as_deref() {
            Some("committed") => Ok(self.in_doubt.take().map(|(_, resets)| resets)),
            Some("aborted") => {
                self.in_doubt = None;
                Ok(None)
            }
            Some(_) => Err(plain(Fault::Transaction, format!("{DOING}: the transaction is not over yet"))),
            None => Err(plain(Fault::Unlisted, format!("{DOING}: what became of COMMIT is not known; see: status"))),
        }
    }

    fn apply_locked(&self, session: &mut Session, look: &mut LookAtLog<'_>) -> Result<(i64, Vec<Reset>), NotApplied> {
        let standings = self.stand(session, "FOR UPDATE")?;
        let look = look().map_err(NotApplied::Stop)?;
        let resets = self.compare(session, &standings, &look)?;
        if resets.iter().any(|reset| reset.n_unrepeatable > 0) {
            return Err(NotApplied::Letters(resets));
        }
        let xid = session.call(DOING, self.database.call_max(), |client| {
            client.query_one("SELECT txid_current()", &[])?.try_get(0)
        })?;
        for (idx, reset) in resets.iter().enumerate() {
            self.apply_one(session, reset, look.targets.get(idx).map(|target| &target.identity))?;
        }
        Ok((xid, resets))
    }

    /// The targets' effects in their order, then those of partitions that are gone.
    fn compare(
        &self,
        session: &mut Session,
        standings: &BTreeMap<TopicPartition, Standing>,
        look: &Look,
    ) -> Result<Vec<Reset>, Failure> {
        let stays = |target: &Target| {
            let standing = standings.get(&target.partition);
            (effect(standing.map(|standing| (standing.next, &standing.identity)), target), standing)
        };
        let is_gone = |partition: &TopicPartition| partition.partition >= look.n_partitions;
        let goes = standings.iter().filter(|(partition, _)| is_gone(partition));
        let goes = goes.map(|(partition, standing)| (gone(partition.clone(), standing.next), Some(standing)));
        let effects: Vec<_> = look.targets.iter().map(stays).chain(goes).collect();
        let reset = |(effect, standing): (Effect, Option<&Standing>)| {
            let (n_letters, n_unrepeatable) = self.letters_from(session, &effect)?;
            Ok(Reset {
                effect,
                rows_total: standing.map_or(0, |standing| standing.rows_total),
                records_total: standing.map_or(0, |standing| standing.records_total),
                n_letters,
                n_unrepeatable,
            })
        };
        effects.into_iter().map(reset).collect()
    }

    fn stand(&self, session: &mut Session, lock: &str) -> Result<BTreeMap<TopicPartition, Standing>, Failure> {
        let shared = &self.database.shared;
        let sql = format!(
            "SELECT topic, partition, next_offset, cluster_id, uuid_send(topic_id), rows_total, records_total \
             FROM {} WHERE pipeline = $1 AND topic = $2 AND partition = coalesce($3, partition) \
             ORDER BY topic COLLATE \"C\", partition {lock}",
            shared.names.offsets
        );
        let rows = session.call(DOING, self.database.call_max(), |client| {
            client.query(&sql, &[&shared.pipeline, &self.topic, &self.partition])
        })?;
        let standing = |row: &Row| {
            let topic_id: Option<&[u8]> = row.try_get(4)?;
            let topic_id = topic_id.map(|bytes| bytes.try_into().expect("a uuid has 16 bytes"));
            Ok((
                TopicPartition::new(row.try_get::<_, &str>(0)?, row.try_get(1)?),
                Standing {
                    next: NextOffset(row.try_get(2)?),
                    identity: LogIdentity { cluster_id: row.try_get(3)?, topic_id },
                    rows_total: row.try_get(5)?,
                    records_total: row.try_get(6)?,
                },
            ))
        };
        rows.iter().map(standing).collect::<Result<_, _>>().map_err(|error| unreadable(DOING, &error))
    }

    /// Dead letters from the target on, and how many open ones of them would be lost.
    fn letters_from(&self, session: &mut Session, effect: &Effect) -> Result<(i64, i64), Failure> {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE record_offset >= $5 AND redriven_at IS NULL AND discarded_at IS NULL) \
             FROM {} WHERE pipeline = $1 AND topic = $2 AND partition = $3 AND record_offset >= $4",
            self.database.shared.names.dead_letters
        );
        let Effect { partition, to, unrepeatable, .. } = effect;
        let row = session.call(DOING, self.database.call_max(), |client| {
            let (topic, number) = (&*partition.topic, partition.partition);
            client.query_one(&sql, &[&self.database.shared.pipeline, &topic, &number, &to.0, &unrepeatable.0])
        })?;
        let counts = (|| Ok((row.try_get(0)?, row.try_get(1)?)))();
        counts.map_err(|error| unreadable(DOING, &error))
    }

    /// Moves one position, into this log; `None`: the partition is gone.
    fn apply_one(&self, session: &mut Session, reset: &Reset, log: Option<&LogIdentity>) -> Result<(), Failure> {
        let shared = &self.database.shared;
        let names = &shared.names;
        let Effect { partition, from, to, is_other_log, gap, .. } = &reset.effect;
        let (pipeline, owner) = (&shared.pipeline, &shared.owner);
        let (topic, number) = (&*partition.topic, partition.partition);
        let place = "pipeline = $1 AND topic = $2 AND partition = $3";
        let call_max = self.database.call_max();
        let mut execute = |sql: String, parameters: &[&(dyn postgres::types::ToSql + Sync)]| {
            session.call(DOING, call_max, |client: &mut Client| client.execute(&sql, parameters))
        };
        if reset.n_letters > 0 {
            let sql = format!("DELETE FROM {} WHERE {place} AND record_offset >= $4", names.dead_letters);
            execute(sql, &[pipeline, &topic, &number, &to.0])?;
        }
        // What is read again is passed over again, or not.
        if !is_other_log && from.is_some_and(|from| *to < from) {
            let sql = format!("DELETE FROM {} WHERE {place} AND from_offset >= $4", names.gaps);
            execute(sql, &[pipeline, &topic, &number, &to.0])?;
            let sql = format!("UPDATE {} SET to_offset = $4 WHERE {place} AND to_offset > $4", names.gaps);
            execute(sql, &[pipeline, &topic, &number, &to.0])?;
        }
        if let Some((gap_from, gap_to)) = gap {
            let sql = format!(
                "INSERT INTO {} AS g (pipeline, topic, partition, from_offset, to_offset, reason, decided_by) \
                 VALUES ($1, $2, $3, $4, $5, 'reset', $6) \
                 ON CONFLICT (pipeline, topic, partition, from_offset) DO UPDATE SET \
                 to_offset = EXCLUDED.to_offset, reason = EXCLUDED.reason, decided_by = EXCLUDED.decided_by, at = now()",
                names.gaps
            );
            execute(sql, &[pipeline, &topic, &number, &gap_from.0, &gap_to.0, owner])?;
        }
        let Some(LogIdentity { cluster_id, topic_id }) = log else {
            execute(format!("DELETE FROM {} WHERE {place}", names.gaps), &[pipeline, &topic, &number])?;
            execute(format!("DELETE FROM {} WHERE {place}", names.offsets), &[pipeline, &topic, &number])?;
            return Ok(());
        };
        let topic_id = topic_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let sql = match from {
            Some(_) => format!(
                "UPDATE {} SET next_offset = $4, epoch = epoch + 1, cluster_id = $5, topic_id = $6::text::uuid, leader_epoch = NULL, \
                 owner = $7, claimed_at = now(), updated_at = now() WHERE {place}",
                names.offsets
            ),
            None => format!(
                "INSERT INTO {} (pipeline, topic, partition, next_offset, epoch, cluster_id, topic_id, owner, claimed_at) \
                 VALUES ($1, $2, $3, $4, 1, $5, $6::text::uuid, $7, now()) ON CONFLICT DO NOTHING",
                names.offsets
            ),
        };
        match execute(sql, &[pipeline, &topic, &number, &to.0, cluster_id, &topic_id, owner])? {
            1 => Ok(()),
            _ => Err(plain(Fault::Transaction, format!("{DOING}: a worker has just begun with partition {partition}"))),
        }
    }
}
