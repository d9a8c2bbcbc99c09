//! Positions moved by hand: offsets, dead letters of what is read again, and gaps, in one transaction.
//!
//! It is a claim, too: whoever was reading is fenced, and reads the new position before he goes on.

use super::Database;
use super::commit::{self, End};
use super::failure::plain;
use super::session::Session;
use super::sink::unreadable;
use crate::fault::{Failure, Fault};
use crate::ledger::LogIdentity;
use crate::record::{NextOffset, TopicPartition};
use crate::reset::{Effect, Target, effect};
use postgres::{Client, Row};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a ROLLBACK may take before the connection is given up instead.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
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

/// A row of `writer_offsets`.
struct Standing {
    next: NextOffset,
    identity: LogIdentity,
    rows_total: i64,
    records_total: i64,
}

impl Database {
    /// What these targets would change, as things stand.
    pub fn look_at_reset(&self, targets: &[Target]) -> Result<Vec<Reset>, Failure> {
        let mut session = self.session()?;
        self.compare(&mut session, targets, "")
    }

    /// Moves the positions, unless any dead letter would be lost by it; the answer says.
    pub fn reset(&self, targets: &[Target]) -> Result<Vec<Reset>, Failure> {
        let (mut session, call_max) = (self.session()?, self.call_max());
        session.call(DOING, call_max, |client| {
            client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on")
        })?;
        let moved = self.compare(&mut session, targets, "FOR UPDATE").and_then(|resets| {
            let is_possible = resets.iter().all(|reset| reset.n_unrepeatable == 0);
            if is_possible {
                for (reset, target) in resets.iter().zip(targets) {
                    self.apply(&mut session, reset, target)?;
                }
            }
            Ok((resets, is_possible))
        });
        let (resets, failure) = match moved {
            Ok((resets, true)) => match commit::commit(&mut session, call_max) {
                End::Committed => return Ok(resets),
                // Asked again, it is the same: a position that is there already is moved to where it is.
                End::Refused(failure) | End::InDoubt(failure) => (Vec::new(), Some(failure)),
            },
            Ok((resets, false)) => (resets, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        let is_ended = session.is_good()
            && session.call("rolling back", ROLLBACK_MAX, |client| client.batch_execute("ROLLBACK")).is_ok();
        session.poisoned |= !is_ended;
        failure.map_or(Ok(resets), Err)
    }

    fn compare(&self, session: &mut Session, targets: &[Target], lock: &str) -> Result<Vec<Reset>, Failure> {
        let standings = self.stand(session, targets, lock)?;
        let of = |target: &Target| {
            let standing = standings.get(&target.partition);
            let effect = effect(standing.map(|standing| (standing.next, &standing.identity)), target);
            let (n_letters, n_unrepeatable) = self.letters_from(session, &effect)?;
            Ok(Reset {
                effect,
                rows_total: standing.map_or(0, |standing| standing.rows_total),
                records_total: standing.map_or(0, |standing| standing.records_total),
                n_letters,
                n_unrepeatable,
            })
        };
        targets.iter().map(of).collect()
    }

    fn stand(
        &self,
        session: &mut Session,
        targets: &[Target],
        lock: &str,
    ) -> Result<BTreeMap<TopicPartition, Standing>, Failure> {
        let topics: Vec<&str> = targets.iter().map(|target| &*target.partition.topic).collect();
        let partitions: Vec<i32> = targets.iter().map(|target| target.partition.partition).collect();
        let sql = format!(
            "SELECT topic, partition, next_offset, cluster_id, uuid_send(topic_id), rows_total, records_total \
             FROM {} WHERE pipeline = $1 AND (topic, partition) IN (SELECT * FROM unnest($2::text[], $3::int[])) \
             ORDER BY topic COLLATE \"C\", partition {lock}",
            self.shared.names.offsets
        );
        let rows = session.call(DOING, self.call_max(), |client| {
            client.query(&sql, &[&self.shared.pipeline, &topics, &partitions])
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
            self.shared.names.dead_letters
        );
        let Effect { partition, to, unrepeatable, .. } = effect;
        let row = session.call(DOING, self.call_max(), |client| {
            let (topic, number) = (&*partition.topic, partition.partition);
            client.query_one(&sql, &[&self.shared.pipeline, &topic, &number, &to.0, &unrepeatable.0])
        })?;
        let counts = (|| Ok((row.try_get(0)?, row.try_get(1)?)))();
        counts.map_err(|error| unreadable(DOING, &error))
    }

    fn apply(&self, session: &mut Session, reset: &Reset, target: &Target) -> Result<(), Failure> {
        let names = &self.shared.names;
        let Effect { partition, from, to, is_other_log, gap, .. } = &reset.effect;
        let (pipeline, owner) = (&self.shared.pipeline, &self.shared.owner);
        let (topic, number) = (&*partition.topic, partition.partition);
        let place = "pipeline = $1 AND topic = $2 AND partition = $3";
        let call_max = self.call_max();
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
        let LogIdentity { cluster_id, topic_id } = &target.identity;
        let topic_id = topic_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let sql = match from {
            Some(_) => format!(
                "UPDATE {} SET next_offset = $4, epoch = epoch + 1, cluster_id = $5, topic_id = $6::text::uuid, owner = $7, \
                 claimed_at = now(), updated_at = now() WHERE {place}",
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

    /// Whether a table that rows are only added to has any.
    pub fn has_prices(&self) -> Result<bool, Failure> {
        let sql = format!("SELECT EXISTS (SELECT FROM {})", self.shared.names.prices);
        let row = self.session()?.call(DOING, self.call_max(), |client| client.query_one(&sql, &[]))?;
        row.try_get(0).map_err(|error| unreadable(DOING, &error))
    }

    /// The prices' table, for people.
    pub fn prices_name(&self) -> &str {
        &self.shared.names.prices.sql
    }
}
