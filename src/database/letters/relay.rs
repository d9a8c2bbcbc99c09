//! Dead letters that are still to be handed on, and the mark that they were.
//!
//! A page is taken under an advisory lock, so that of several processes of a pipeline one relays at a time. Its letters
//! themselves are not locked while they are on their way to Kafka: a redrive would pass them over. So the same letter may
//! be handed on twice, and never not at all: it is marked after it has arrived.

use super::{Chosen, PLACE, Places, PostgresLetters};
use crate::database::failure::plain;
use crate::database::ledger::lock_key;
use crate::dead_letters::{Filter, Letter};
use crate::fault::{Failure, Fault};

/// Letters of a page, at most.
const PAGE_MAX: usize = 500;
/// Values of a page, in bytes, at most, but for a single letter that has more.
const PAGE_BYTES_MAX: i64 = 4 << 20;

/// A letter, and its record's value where it was kept.
pub type Unrelayed = (Letter, Option<Vec<u8>>);

impl PostgresLetters {
    /// The next letters that were not handed on, with their records' values where these were kept; none if there are
    /// no more, or if another process is at it. [`mark_relayed`](Self::mark_relayed) or
    /// [`leave_unrelayed`](Self::leave_unrelayed) must follow.
    pub fn take_unrelayed(&mut self) -> Result<Vec<Unrelayed>, Failure> {
        let taken = self.take_page_unrelayed();
        if !taken.as_ref().is_ok_and(|page| !page.is_empty()) {
            self.rollback();
        }
        taken
    }

    fn take_page_unrelayed(&mut self) -> Result<Vec<Unrelayed>, Failure> {
        const DOING: &str = "looking for dead letters to relay";
        let mut chosen = Chosen::new(&self.pipeline, &Filter { closed_too: true, ..Filter::default() });
        chosen.sql.push_str(" AND d.relayed_at IS NULL");
        // Most of the time there is nothing to do, and no transaction is needed to see that.
        let any = format!("SELECT 1 FROM {} d WHERE {} LIMIT 1", self.names.dead_letters, chosen.sql);
        if self.call(DOING, |client| client.query_opt(&any, &chosen.parameters()))?.is_none() {
            return Ok(Vec::new());
        }
        let key = lock_key("relay", &[&self.pipeline, &self.names.dead_letters.schema]);
        let is_ours = self.call(DOING, |client| {
            client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")?;
            client.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&key])?.try_get::<_, bool>(0)
        })?;
        if !is_ours {
            return Ok(Vec::new());
        }
        let sql = self.select(&chosen, &format!("ORDER BY {PLACE} LIMIT {PAGE_MAX}"));
        let mut letters = self.letters(&sql, &chosen)?;
        let mut bytes = 0;
        let fitting = letters.iter().take_while(|letter| {
            bytes += letter.payload_bytes.unwrap_or(0);
            bytes <= PAGE_BYTES_MAX
        });
        let n = fitting.count().max(1);
        letters.truncate(n);
        let ids: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
        let payloads = self.payloads(&ids)?;
        Ok(letters.into_iter().zip(payloads).collect())
    }

    /// Notes that letters have been handed on: those of the page that was taken, or of an earlier one whose marks
    /// failed. Can be repeated.
    pub fn mark_relayed(&mut self, letters: &[Letter], is_page_open: bool) -> Result<(), Failure> {
        let marked = self.mark_all_relayed(letters, is_page_open);
        if marked.is_err() {
            self.rollback();
        }
        marked
    }

    fn mark_all_relayed(&mut self, letters: &[Letter], is_page_open: bool) -> Result<(), Failure> {
        const DOING: &str = "marking dead letters as relayed";
        // A letter that was removed by a reset, and written anew since, is another one.
        let from = "unnest($2::text[], $3::int[], $4::bigint[], $5::int[], $6::text[]) \
               AS w(topic, partition, record_offset, element, first_seen) \
             WHERE d.pipeline = $1 AND d.topic = w.topic AND d.partition = w.partition \
               AND d.record_offset = w.record_offset AND d.element = w.element \
               AND d.first_seen = w.first_seen::timestamptz AND d.relayed_at IS NULL";
        let update = format!("UPDATE {} d SET relayed_at = now() FROM {from}", self.names.dead_letters);
        let left = format!("SELECT count(*) FROM {} d, {from}", self.names.dead_letters);
        let Places { topics, partitions, offsets, elements } = Places::new(letters.iter().map(|letter| &letter.id));
        let first_seen: Vec<&str> = letters.iter().map(|letter| letter.first_seen.as_str()).collect();
        let pipeline = self.pipeline.clone();
        // Redrives and discards pass over what somebody has locked: they are waited for, and wait.
        let key = lock_key("dead letters", &[&self.pipeline, &self.names.dead_letters.schema]);
        let n_left: i64 = self.call(DOING, |client| {
            if !is_page_open {
                client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")?;
            }
            client.batch_execute(&format!("SELECT pg_advisory_xact_lock({key})"))?;
            let parameters: [&(dyn postgres::types::ToSql + Sync); 6] =
                [&pipeline, &topics, &partitions, &offsets, &elements, &first_seen];
            client.execute(&update, &parameters)?;
            let n_left = client.query_one(&left, &parameters)?.try_get(0)?;
            // A COMMIT of a transaction that has failed would say that all is well.
            client.batch_execute("SAVEPOINT committing; COMMIT")?;
            Ok(n_left)
        })?;
        match n_left {
            0 => Ok(()),
            n => Err(plain(
                Fault::Schema,
                format!(
                    "{DOING}: {n} of {} could not be marked; remove the trigger or rule that keeps rows of {} as they are",
                    letters.len(),
                    self.names.dead_letters
                ),
            )),
        }
    }

    /// Gives back the page that was taken: it could not be handed on.
    pub fn leave_unrelayed(&mut self) {
        self.rollback();
    }
}
