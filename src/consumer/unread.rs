//! Partitions that are ours and are not read: since when, and whether that has been said.
//!
//! Pure: the caller passes the time in.

use crate::record::TopicPartition;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A claim may fail for so long before it is said.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// The partitions that are not read.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<TopicPartition, Spell>);

#[derive(Debug)]
struct Spell {
    since: Instant,
    is_said: bool,
}

impl Unread {
    /// Takes in which partitions are ours and not read now.
    pub fn look<'p>(&mut self, unread: impl Iterator<Item = &'p TopicPartition>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for partition in unread {
            let spell = before.remove(partition).unwrap_or(Spell { since: now, is_said: false });
            self.0.insert(partition.clone(), spell);
        }
    }

    /// The one that has waited for longest, and since when.
    pub fn oldest(&self) -> Option<(TopicPartition, Instant)> {
        let (partition, spell) = self.0.iter().min_by_key(|(_, spell)| spell.since)?;
        Some((partition.clone(), spell.since))
    }

    /// Those that have waited for too long: each once a spell.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<TopicPartition> {
        let is_late = |spell: &Spell| !spell.is_said && now.duration_since(spell.since) > SILENT_MAX;
        let late = self.0.iter_mut().filter(|(_, spell)| is_late(spell)).map(|(partition, spell)| {
            spell.is_said = true;
            partition.clone()
        });
        late.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_is_not_read_is_said_once_a_spell() {
        let partition = |number| TopicPartition::new("t", number);
        let (both, none) = ([partition(0), partition(1)], []);
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut unread = Unread::default();
        unread.look(both[1..].iter(), at(0));
        unread.look(both.iter(), at(5));
        assert_eq!(unread.oldest(), Some((partition(1), at(0))));
        assert_eq!(unread.take_overdue(at(10)), none);
        assert_eq!(unread.take_overdue(at(11)), both[1..]);
        assert_eq!(unread.take_overdue(at(12)), none);
        // It is read meanwhile, so that another spell begins.
        unread.look(both[..1].iter(), at(13));
        unread.look(both.iter(), at(14));
        assert_eq!(unread.oldest(), Some((partition(0), at(5))));
        assert_eq!(unread.take_overdue(at(30)), both);
    }
}
