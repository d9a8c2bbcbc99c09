//! The texts of a writer's statements, with the configured names in them.
//!
//! Each is prepared once per connection. All names are qualified and quoted: the search path holds `pg_catalog` only.

use super::binary;
use super::columns::{self, lock_and_look};
use super::names::Names;
use crate::batch::Written;
use std::sync::Arc;

/// A connection's own table for what will be upserted.
pub(super) const STAGING: &str = "stock_db_writer_metrics";

/// Begins a transaction.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The statements' texts, with the configured names.
pub(super) struct Statements {
    /// The tables.
    pub(super) names: Arc<Names>,
    /// Takes prices.
    pub(super) copy_prices: String,
    /// Takes dead letters.
    pub(super) copy_dead_letters: String,
    /// Begins a transaction that writes prices, and asks for the fingerprint of their columns.
    pub(super) begin_prices: String,
    /// The same for metrics.
    pub(super) begin_metrics: String,
    /// The same for both, in this order.
    pub(super) begin_both: String,
    /// Makes [`STAGING`].
    pub(super) create_staging: String,
    /// Takes metrics into [`STAGING`].
    pub(super) copy_metrics: String,
    /// Moves those at places from `$1` to before `$2` on; of what is there for a window, the newer wins.
    pub(super) upsert_metrics: String,
    /// Moves offsets under compare-and-set, and counts.
    pub(super) advance: String,
    /// Reads offsets under lock.
    pub(super) truth: String,
}

impl Statements {
    pub(super) fn new(names: Arc<Names>) -> Self {
        let Names { prices, metrics, offsets, dead_letters, .. } = &*names;
        let copy = |table: &dyn std::fmt::Display, columns: &str| {
            format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")
        };
        let columns = binary::METRIC_COLUMNS;
        let (look_at_prices, look_at_metrics) =
            (lock_and_look(prices, columns::PRICES), lock_and_look(metrics, columns::METRICS));
        Statements {
            begin_prices: format!("{BEGIN}; {look_at_prices}"),
            begin_metrics: format!("{BEGIN}; {look_at_metrics}"),
            begin_both: format!("{BEGIN}; {look_at_prices}; {look_at_metrics}"),
            copy_prices: copy(prices, binary::PRICE_COLUMNS),
            copy_dead_letters: copy(dead_letters, binary::DEAD_LETTER_COLUMNS),
            // The types are the target's, so that a value that doesn't fit is refused with its line.
            create_staging: format!(
                "DROP TABLE IF EXISTS pg_temp.{STAGING}; CREATE TEMPORARY TABLE {STAGING} ON COMMIT DELETE ROWS AS \
                 SELECT {columns}, 0 AS place FROM {metrics} WITH NO DATA"
            ),
            copy_metrics: copy(&format_args!("pg_temp.{STAGING}"), &format!("{columns}, place")),
            upsert_metrics: format!(
                "INSERT INTO {metrics} ({columns}) SELECT {columns} FROM pg_temp.{STAGING} \
                 WHERE place >= $1 AND place < $2 \
                 ORDER BY symbol, window_start, window_end \
                 ON CONFLICT (symbol, window_start, window_end) DO UPDATE SET \
                 avg_price = EXCLUDED.avg_price, max_price = EXCLUDED.max_price, \
                 min_price = EXCLUDED.min_price, avg_volume = EXCLUDED.avg_volume"
            ),
            // Rows are locked by the sub-select, in the one order that all processes use; LockRows is above the sort.
            // The update itself meets only rows that are locked by then.
            advance: format!(
                "WITH wanted AS MATERIALIZED (\
                   SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], \
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::int[]) \
                   AS w(topic, partition, from_offset, to_offset, epoch, \
                     records_rows, records_dead, records_skipped, n_rows, n_dead_letters, leader_epoch)), \
                 locked AS MATERIALIZED (\
                   SELECT o.topic, o.partition FROM {offsets} o \
                   JOIN wanted w ON o.topic = w.topic AND o.partition = w.partition \
                   WHERE o.pipeline = $1 ORDER BY o.topic COLLATE \"C\", o.partition FOR UPDATE OF o) \
                 UPDATE {offsets} o SET next_offset = w.to_offset, \
                   records_rows = o.records_rows + w.records_rows, records_dead = o.records_dead + w.records_dead, \
                   records_skipped = o.records_skipped + w.records_skipped, rows_total = o.rows_total + w.n_rows, \
                   dead_letters_total = o.dead_letters_total + w.n_dead_letters, updated_at = now(), \
                   leader_epoch = nullif(coalesce(w.leader_epoch, o.leader_epoch), -1) \
                 FROM locked l JOIN wanted w ON l.topic = w.topic AND l.partition = w.partition \
                 WHERE o.pipeline = $1 AND o.topic = l.topic AND o.partition = l.partition \
                   AND o.next_offset = w.from_offset AND o.epoch = w.epoch"
            ),
            truth: format!(
                "SELECT o.topic, o.partition, o.next_offset, o.epoch, coalesce(o.owner, '') FROM {offsets} o \
                 JOIN unnest($2::text[], $3::int[]) AS w(topic, partition) \
                   ON o.topic = w.topic AND o.partition = w.partition \
                 WHERE o.pipeline = $1 ORDER BY o.topic COLLATE \"C\", o.partition FOR UPDATE OF o"
            ),
            names,
        }
    }
}

/// What [`Statements::advance`] takes for the last record's leader. Where there is no record, what is known stays true; -1
/// is Kafka's own word for an epoch that is not known.
pub(super) fn leader_epoch(written: Written) -> Option<i32> {
    match written {
        Written::Nothing => None,
        Written::Unsaid => Some(-1),
        Written::By(leader_epoch) => Some(leader_epoch.0),
    }
}
