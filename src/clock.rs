//! The time of day as Kafka counts it.
//!
//! For differences to the times of records only; how long something takes is an `Instant`'s affair.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970. A clock that is set before that shows 0.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
