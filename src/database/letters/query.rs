//! Which letters are meant, in SQL, and letters as they are read from rows.

use crate::dead_letters::{Filter, Letter, LetterId};
use crate::record::{Offset, TopicPartition};
use postgres::Row;
use postgres::types::ToSql;

/// What is read of a letter; see [`letter`].
pub(super) const COLUMNS: &str = "d.topic, d.partition, d.record_offset, d.element, d.key, d.record_timestamp_ms, d.payload_bytes, \
     d.payload_sha256, d.record_elements, d.reason_class, d.reason_code, d.reason, \
     to_char(d.first_seen AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     to_char(d.redriven_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
     to_char(d.discarded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
/// A letter's name, as the primary key has it behind the pipeline.
pub(super) const PLACE: &str = "d.topic, d.partition, d.record_offset, d.element";

/// The order in which letters are redriven.
pub(super) fn descending() -> String {
    PLACE.split(", ").map(|column| format!("{column} DESC")).collect::<Vec<_>>().join(", ")
}

/// A condition on letters, with its parameters.
pub(super) struct Chosen {
    pub(super) sql: String,
    pub(super) values: Vec<Box<dyn ToSql + Sync>>,
}

impl Chosen {
    pub(super) fn new(pipeline: &str, filter: &Filter) -> Self {
        let mut chosen = Chosen { sql: "d.pipeline = $1".to_owned(), values: vec![Box::new(pipeline.to_owned())] };
        let Filter { ids, classes, topics, partitions, since, until, closed_too } = filter;
        if !closed_too {
            chosen.sql.push_str(" AND d.redriven_at IS NULL AND d.discarded_at IS NULL");
        }
        if !ids.is_empty() {
            let Places { topics, partitions, offsets, elements } = Places::new(ids.iter());
            let topics: Vec<String> = topics.into_iter().map(str::to_owned).collect();
            let n = chosen.values.len();
            chosen.sql.push_str(&format!(
                " AND ({PLACE}) IN (SELECT * FROM unnest(${}::text[], ${}::int[], ${}::bigint[], ${}::int[]))",
                n + 1,
                n + 2,
                n + 3,
                n + 4
            ));
            chosen.values.extend([
                Box::new(topics) as Box<dyn ToSql + Sync>,
                Box::new(partitions),
                Box::new(offsets),
                Box::new(elements),
            ]);
        }
        if !classes.is_empty() {
            let classes: Vec<&'static str> = classes.iter().map(|class| class.as_str()).collect();
            chosen.and("d.reason_class = ANY({}::text[])", classes);
        }
        if !topics.is_empty() {
            chosen.and("d.topic = ANY({}::text[])", topics.clone());
        }
        if !partitions.is_empty() {
            chosen.and("d.partition = ANY({}::int[])", partitions.clone());
        }
        if let Some(since) = since {
            chosen.and("d.first_seen >= {}::text::timestamptz", since.to_rfc3339());
        }
        if let Some(until) = until {
            chosen.and("d.first_seen < {}::text::timestamptz", until.to_rfc3339());
        }
        chosen
    }

    /// `{}` stands for the parameter.
    pub(super) fn and(&mut self, condition: &str, value: impl ToSql + Sync + 'static) {
        self.values.push(Box::new(value));
        self.sql.push_str(" AND ");
        self.sql.push_str(&condition.replace("{}", &format!("${}", self.values.len())));
    }

    /// Only letters that stand before or after that one.
    pub(super) fn beyond(&mut self, comparison: &str, id: &LetterId) {
        let n = self.values.len();
        self.values.push(Box::new(id.partition.topic.to_string()));
        self.values.push(Box::new(id.partition.partition));
        self.values.push(Box::new(id.offset.0));
        self.values.push(Box::new(id.element as i32));
        self.sql.push_str(&format!(" AND ({PLACE}) {comparison} (${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4));
    }

    /// Only letters of this one's record.
    pub(super) fn of_record(&mut self, id: &LetterId) {
        self.and("d.topic = {}", id.partition.topic.to_string());
        self.and("d.partition = {}", id.partition.partition);
        self.and("d.record_offset = {}", id.offset.0);
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value).collect()
    }
}

/// Names of letters, column by column.
pub(super) struct Places<'a> {
    pub(super) topics: Vec<&'a str>,
    pub(super) partitions: Vec<i32>,
    pub(super) offsets: Vec<i64>,
    pub(super) elements: Vec<i32>,
}

impl<'a> Places<'a> {
    pub(super) fn new(ids: impl Iterator<Item = &'a LetterId> + Clone) -> Self {
        Places {
            topics: ids.clone().map(|id| &*id.partition.topic).collect(),
            partitions: ids.clone().map(|id| id.partition.partition).collect(),
            offsets: ids.clone().map(|id| id.offset.0).collect(),
            elements: ids.map(|id| id.element as i32).collect(),
        }
    }
}

/// Reads [`PLACE`].
pub(super) fn id(row: &Row) -> Result<LetterId, postgres::Error> {
    Ok(LetterId {
        partition: TopicPartition::new(row.try_get::<_, &str>(0)?, row.try_get(1)?),
        offset: Offset(row.try_get(2)?),
        element: row.try_get::<_, i32>(3)? as u32,
    })
}

/// Reads [`COLUMNS`].
pub(super) fn letter(row: &Row) -> Result<Letter, postgres::Error> {
    Ok(Letter {
        id: id(row)?,
        key: row.try_get(4)?,
        timestamp_ms: row.try_get(5)?,
        payload_bytes: row.try_get(6)?,
        payload_sha256: row.try_get(7)?,
        record_elements: row.try_get(8)?,
        class: row.try_get(9)?,
        code: row.try_get(10)?,
        reason: row.try_get(11)?,
        first_seen: row.try_get(12)?,
        redriven_at: row.try_get(13)?,
        discarded_at: row.try_get(14)?,
    })
}
