//! What a run of messages became, in one sentence.

use super::Explained;
use crate::row::{Class, Fate, Skip};
use std::collections::BTreeMap;
use std::fmt;

/// Counts of what messages became.
#[derive(Debug, Default)]
pub struct Summary {
    messages: u64,
    rows: u64,
    dead_letters: BTreeMap<Class, u64>,
    skipped: BTreeMap<Skip, u64>,
}

impl Summary {
    /// Counts one more message.
    pub fn add(&mut self, explained: &Explained<'_>) {
        let decoded = &explained.decoded;
        self.messages += 1;
        self.rows += (decoded.prices.len() + decoded.metrics.len()) as u64;
        for letter in &decoded.dead_letters {
            *self.dead_letters.entry(letter.class).or_default() += 1;
        }
        if let Fate::Skip(skip) = explained.explanation.fate {
            *self.skipped.entry(skip).or_default() += 1;
        }
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }
}

/// "1 row", "2 rows".
pub fn counted(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// `3 messages: 4 rows, 2 dead letters (missing 1, range 1), 1 skipped (heartbeat 1)`
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn total<K>(counts: &BTreeMap<K, u64>) -> u64 {
            counts.values().sum()
        }
        fn each<K: Copy>(counts: &BTreeMap<K, u64>, name: fn(K) -> &'static str) -> String {
            counts.iter().map(|(kind, n)| format!("{} {n}", name(*kind))).collect::<Vec<_>>().join(", ")
        }
        write!(f, "{}: {}", counted(self.messages, "message"), counted(self.rows, "row"))?;
        if !self.dead_letters.is_empty() {
            let letters = counted(total(&self.dead_letters), "dead letter");
            write!(f, ", {letters} ({})", each(&self.dead_letters, Class::as_str))?;
        }
        if !self.skipped.is_empty() {
            write!(f, ", {} skipped ({})", total(&self.skipped), each(&self.skipped, Skip::as_str))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::settings::Settings;
    use crate::record::{Offset, Record, Value};

    #[test]
    fn a_summary_counts_rows_and_dead_letters_by_element_and_skips_by_message() {
        let mut summary = Summary::default();
        assert_eq!(summary.to_string(), "0 messages: 0 rows");
        for value in
            [r#"{"symbol":"A","price":1}"#, r#"[{"symbol":"A","price":1},{"symbol":"A"},{"price":1},[]]"#, "[]"]
        {
            let value = Value::Bytes(value.as_bytes());
            let record =
                Record { topic: "t", partition: 0, offset: Offset(0), timestamp_ms: Some(0), key: None, value };
            summary.add(&Explained::of(&record, &Settings::default()));
        }
        assert_eq!(summary.messages(), 3);
        assert_eq!(summary.to_string(), "3 messages: 2 rows, 2 dead letters (missing 2), 1 skipped (empty 1)");
    }
}
