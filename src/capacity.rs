//! How long the ids of a table last.
//!
//! Pure. A `serial` ends at 2,147,483,647, and from then on no row can be written; at a few hundred prices a second that
//! is within months. Ids that were drawn and not used (by windows that were updated, by transactions that were rolled
//! back) are gone, too, so the pace is measured by ids and not by rows.

use std::fmt;

/// Fewer days than this are worth a warning.
pub const DAYS_MIN: u64 = 90;

/// A pace of less time than this says nothing of the days to come: a backlog is drained within minutes.
pub const PACE_SECONDS_MIN: f64 = 4.0 * 3600.0;

/// What is left of one column's ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    /// Schema and table, as the configuration names them.
    pub name: String,
    /// Schema and table, as a statement needs them.
    pub table: String,
    /// The column.
    pub column: String,
    /// The column as a statement needs it.
    pub column_sql: String,
    /// Its type, as PostgreSQL writes it.
    pub shown: String,
    /// Ids that there are in all.
    pub ids: u64,
    /// Ids that can still be drawn.
    pub ids_left: u64,
    /// How fast they are drawn, where that is known.
    pub pace: Option<Pace>,
}

/// Ids that were drawn within a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// So many.
    pub ids: u64,
    /// Within so many seconds; above zero.
    pub seconds: f64,
}

impl Capacity {
    /// Whole days until they run out, if they are drawn as fast as lately. `None`: nobody knows, or never.
    pub fn days_left(&self) -> Option<u64> {
        let Pace { ids, seconds } = self.pace?;
        (ids > 0 && seconds >= PACE_SECONDS_MIN)
            .then(|| (self.ids_left as f64 / ids as f64 * seconds / 86_400.0) as u64)
    }
}

/// What there is to know, and what to do.
impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capacity { table, column, column_sql, shown, ids_left, .. } = self;
        write!(f, "table {table}: column {column:?} is {shown}: {ids_left} ids are left, ")?;
        let hours = self.pace.map_or(0, |pace| (pace.seconds / 3600.0).round() as u64);
        match self.days_left() {
            Some(days) if days < DAYS_MIN => {
                write!(f, "which last {days} days at the pace of the last {hours} hours; ")?
            }
            Some(days) => return write!(f, "which last {days} days at the pace of the last {hours} hours"),
            None => f.write_str("for how long is not known; ")?,
        }
        write!(
            f,
            "ALTER TABLE {table} ALTER COLUMN {column_sql} TYPE bigint, and its sequence AS bigint, while nobody writes"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(ids_left: u64, pace: Option<Pace>) -> Capacity {
        let text = str::to_owned;
        let column_sql = text("\"id\"");
        Capacity {
            name: text("t"),
            table: text("t"),
            column: text("id"),
            column_sql,
            shown: text("integer"),
            ids: u64::MAX,
            ids_left,
            pace,
        }
    }

    #[test]
    fn days_are_those_of_the_latest_pace_rounded_down() {
        let pace = |ids, seconds| Some(Pace { ids, seconds });
        assert_eq!(capacity(1_000, pace(100, 86_400.0)).days_left(), Some(10));
        assert_eq!(capacity(1_099, pace(100, 86_400.0)).days_left(), Some(10));
        assert_eq!(capacity(2_147_483_647, pace(14_400_000, 14_400.0)).days_left(), Some(24));
        assert_eq!(capacity(0, pace(1, 86_400.0)).days_left(), Some(0));
    }

    #[test]
    fn without_a_pace_only_the_ids_are_told() {
        for pace in [None, Some(Pace { ids: 0, seconds: 86_400.0 })] {
            let capacity = capacity(77, pace);
            assert_eq!(capacity.days_left(), None);
            assert!(capacity.to_string().contains("77 ids are left, for how long is not known"), "{capacity}");
        }
    }

    #[test]
    fn a_backlog_of_minutes_is_no_pace_of_days() {
        let after = |seconds| capacity(2_000_000_000, Some(Pace { ids: 100_000_000, seconds }));
        assert_eq!(after(300.0).days_left(), None);
        assert!(after(300.0).to_string().contains("for how long is not known; ALTER TABLE"));
        let hours = after(18_000.0).to_string();
        assert!(hours.contains("which last 4 days at the pace of the last 5 hours; ALTER TABLE"), "{hours}");
    }

    #[test]
    fn what_lasts_long_needs_no_advice() {
        let long = capacity(2_000_000_000, Some(Pace { ids: 1_000, seconds: 86_400.0 })).to_string();
        let short = capacity(2_000_000_000, Some(Pace { ids: 100_000_000, seconds: 86_400.0 })).to_string();
        assert!(long.ends_with("which last 2000000 days at the pace of the last 24 hours"), "{long}");
        assert!(
            short.contains("which last 20 days at the pace of the last 24 hours; ALTER TABLE t ALTER COLUMN \"id\" "),
            "{short}"
        );
    }
}
