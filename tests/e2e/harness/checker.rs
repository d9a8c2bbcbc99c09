//! Compares what is in the tables with what was sent: as sets, not by counts alone.

use super::stage::Stage;
use super::{LIMIT, broker, eventually, producer};
use postgres::Client;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A set of numbers, by ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Disjoint, ascending.
    ranges: Vec<RangeInclusive<i64>>,
    /// The last number handed out, in the set or not.
    last: i64,
}

impl Ids {
    /// The first number that was never handed out. Prices are above 0.
    pub fn next(&self) -> i64 {
        self.last + 1
    }

    /// Adds new numbers.
    pub fn add(&mut self, ids: RangeInclusive<i64>) {
        assert!(*ids.start() > self.last, "numbers are handed out once");
        self.last = *ids.end();
        match self.ranges.last_mut() {
            Some(range) if range.end() + 1 == *ids.start() => *range = *range.start()..=*ids.end(),
            _ => self.ranges.push(ids),
        }
    }

    /// Passes over new numbers.
    pub fn skip(&mut self, count: i64) {
        self.last += count;
    }

    /// Takes numbers out.
    pub fn remove(&mut self, ids: RangeInclusive<i64>) {
        let outside = |range: &RangeInclusive<i64>| {
            [*range.start()..=*range.end().min(&(ids.start() - 1)), *range.start().max(&(ids.end() + 1))..=*range.end()]
        };
        self.ranges = self.ranges.iter().flat_map(outside).filter(|range| !range.is_empty()).collect();
    }

    /// How many there are.
    pub fn count(&self) -> i64 {
        self.ranges.iter().map(|range| range.end() - range.start() + 1).sum()
    }
}

/// What is wrong; a few numbers of each kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Sent, and no row.
    pub lost: Vec<i64>,
    /// Sent once, several rows.
    pub doubled: Vec<i64>,
    /// A row, and never sent (or in an aborted transaction).
    pub strangers: Vec<i64>,
    /// A row whose columns do not belong together.
    pub garbled: Vec<i64>,
}

/// One row of `writer_offsets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub next_offset: i64,
    pub epoch: i64,
    pub records_total: i64,
    pub records_rows: i64,
    pub records_dead: i64,
    pub records_skipped: i64,
    pub rows_total: i64,
    pub dead_letters_total: i64,
}

impl Stage {
    /// What differs between the rows and the numbers sent.
    pub fn findings(&self) -> Findings {
        let ids = self.sent();
        let (from, to): (Vec<i64>, Vec<i64>) = ids.ranges.iter().map(|range| (*range.start(), *range.end())).unzip();
        let mut client = self.database();
        client
            .execute(
                "CREATE TEMP TABLE sent AS SELECT id::numeric FROM unnest($1::bigint[], $2::bigint[]) AS r (a, b), \
                 generate_series(a, b) AS id",
                &[&from, &to],
            )
            .expect("the numbers sent can be listed");
        client.batch_execute("ANALYZE sent").expect("PostgreSQL answers");
        let mut some = |sql: &str| -> Vec<i64> {
            let rows = client.query(&format!("{sql} ORDER BY 1 LIMIT 10"), &[]);
            rows.unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(|row| row.get(0)).collect()
        };
        let first = producer::FIRST_TIME;
        Findings {
            lost: some(
                "SELECT id::bigint FROM sent WHERE NOT EXISTS (SELECT FROM stock_prices p WHERE p.price = sent.id)",
            ),
            doubled: some("SELECT price::bigint FROM stock_prices GROUP BY price HAVING count(*) > 1"),
            strangers: some(
                "SELECT price::bigint FROM stock_prices p WHERE NOT EXISTS (SELECT FROM sent WHERE sent.id = p.price)",
            ),
            garbled: some(&format!(
                "SELECT price::bigint FROM stock_prices WHERE (symbol = 'K' || (price::bigint % 500) AND volume = price * 2 \
                 AND \"timestamp\" = to_timestamp({first} + price::bigint) AND fetch_timestamp = {first} + price::bigint) \
                 IS NOT TRUE"
            )),
        }
    }

    /// Every number sent is one row, and nothing else is.
    #[track_caller]
    pub fn assert_exactly_once(&self) {
        self.assert_exactly_once_from(&[&self.topic]);
    }

    /// The same where the numbers were sent to these topics.
    #[track_caller]
    pub fn assert_exactly_once_from(&self, topics: &[&str]) {
        assert_eq!(self.findings(), Findings::default(), "rows against {:?}", self.sent());
        assert_eq!(self.rows(), self.sent().count(), "rows against numbers sent");
        topics.iter().for_each(|topic| self.assert_counters(topic));
        let standings: Vec<Standing> = topics.iter().flat_map(|topic| self.standings(topic).into_values()).collect();
        let rows: i64 = standings.iter().map(|standing| standing.rows_total).sum();
        assert_eq!(rows, self.sent().count(), "rows_total of {standings:?}");
    }

    /// Every partition stands at its end, and its counters add up.
    #[track_caller]
    pub fn assert_counters(&self, topic: &str) {
        let (standings, ends) = (self.standings(topic), broker::end_offsets(topic));
        let next: BTreeMap<i32, i64> = standings.iter().map(|(partition, at)| (*partition, at.next_offset)).collect();
        assert_eq!(next, ends, "next_offset against the ends of {topic}");
        for (partition, at) in &standings {
            let sum = at.records_rows + at.records_dead + at.records_skipped;
            assert_eq!(at.records_total, sum, "records of {topic}/{partition}: {at:?}");
        }
    }

    /// Waits until every partition stands at the end it has now.
    #[track_caller]
    pub fn wait_until_drained(&self, limit: Duration) {
        self.wait_until_drained_of(&self.topic, limit);
    }

    /// The same for another topic of the stage.
    #[track_caller]
    pub fn wait_until_drained_of(&self, topic: &str, limit: Duration) {
        let ends = broker::end_offsets(topic);
        eventually(&format!("{topic} is drained to {ends:?}"), limit, || {
            let standings = self.standings(topic);
            ends.iter().all(|(partition, end)| standings.get(partition).is_some_and(|at| at.next_offset >= *end))
        });
    }

    /// Waits until some more has been committed.
    #[track_caller]
    pub fn wait_for_progress(&self) {
        let before = self.progress();
        eventually("the worker goes on", LIMIT, || self.progress() > before);
    }

    /// How far the pipeline has come: the sum of all next offsets; 0 before the first run.
    pub fn progress(&self) -> i64 {
        Progress::new(self).now()
    }

    /// Rows in the prices table.
    pub fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM stock_prices")
    }

    /// A number from the database.
    #[track_caller]
    pub fn number(&self, sql: &str) -> i64 {
        self.database().query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// The bookkeeping of a topic, by partition; empty before the first run.
    pub fn standings(&self, topic: &str) -> BTreeMap<i32, Standing> {
        let mut client = self.database();
        if !has_bookkeeping(&mut client) {
            return BTreeMap::new();
        }
        let rows = client
            .query(
                "SELECT partition, next_offset, epoch, records_total, records_rows, records_dead, records_skipped, \
                 rows_total, dead_letters_total FROM writer_offsets WHERE pipeline = $1 AND topic = $2",
                &[&self.name, &topic],
            )
            .expect("the bookkeeping can be read");
        rows.iter()
            .map(|row| {
                let standing = Standing {
                    next_offset: row.get(1),
                    epoch: row.get(2),
                    records_total: row.get(3),
                    records_rows: row.get(4),
                    records_dead: row.get(5),
                    records_skipped: row.get(6),
                    rows_total: row.get(7),
                    dead_letters_total: row.get(8),
                };
                (row.get(0), standing)
            })
            .collect()
    }
}

fn has_bookkeeping(client: &mut Client) -> bool {
    let row = client.query_one("SELECT to_regclass('writer_offsets') IS NOT NULL", &[]);
    row.expect("PostgreSQL answers").get(0)
}

/// Looks at the progress again and again over one connection.
pub struct Progress {
    client: Client,
    pipeline: String,
    ready: bool,
}

impl Progress {
    /// Of a stage's pipeline.
    pub fn new(stage: &Stage) -> Progress {
        Progress { client: stage.database(), pipeline: stage.name.clone(), ready: false }
    }

    /// The sum of all next offsets.
    pub fn now(&mut self) -> i64 {
        self.ready = self.ready || has_bookkeeping(&mut self.client);
        if !self.ready {
            return 0;
        }
        let sum = "SELECT coalesce(sum(next_offset), 0)::bigint FROM writer_offsets WHERE pipeline = $1";
        self.client.query_one(sum, &[&self.pipeline]).expect("the bookkeeping can be read").get(0)
    }
}
