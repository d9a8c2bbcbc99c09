//! Topics by pattern: what has appeared is read, too, and what is gone is let go.
//!
//! The promise does not depend on any of this. A topic that joins goes the way of every partition: claimed, compared
//! with its log, sought, read; and having no row in the database it starts at its oldest record, however late it was
//! noticed.

use super::Consumer;
use crate::clock;
use crate::exit::Stop;
use crate::source::{SourceFault, TopicState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the names of all topics are looked at. What is noticed has to be assigned as well, at the group's pace.
const NAMES_INTERVAL: Duration = Duration::from_secs(5);

impl Consumer<'_> {
    /// Says what is read because of a pattern, if anything can be.
    pub(super) fn announce(&self, topics: &BTreeMap<Arc<str>, TopicState>) {
        let by_pattern: BTreeMap<_, _> =
            topics.iter().filter(|(topic, _)| self.selection.is_by_pattern(topic)).collect();
        if !by_pattern.is_empty() {
            let topics: Vec<_> = by_pattern.keys().collect();
            log::info!(topics:serde; "matched by pattern");
        }
        for (topic, state) in by_pattern {
            self.say_what_is_lacking(topic, state);
        }
        self.say_if_nothing_matches();
    }

    /// Follows what the patterns match now. A bounded run gets no further topics: its ends are known.
    pub(super) fn follow_patterns(&mut self) -> Result<(), Stop> {
        if !self.selection.has_patterns()
            || clock::since(self.names_looked_at) < NAMES_INTERVAL
            || self.source.away_since().is_some()
        {
            return Ok(());
        }
        self.names_looked_at = clock::now();
        let Some(names) = later_is_none(self.source.topic_names())? else { return Ok(()) };
        let matching = |topic: &&Arc<str>| self.selection.is_by_pattern(topic);
        let absent = self.topics.iter().filter(matching).filter(|topic| !names.contains(*topic));
        let absent: BTreeSet<Arc<str>> = absent.cloned().collect();
        let mut wanted = self.topics.clone();
        // One broker may not have heard of a topic yet: only what is absent twice in a row is gone.
        wanted.retain(|topic| !(absent.contains(topic) && self.absent.contains(topic)));
        if self.ends.is_none() {
            wanted.extend(names.iter().filter(matching).cloned());
        }
        self.absent = absent;
        if wanted == self.topics {
            return Ok(());
        }
        let resubscribed = self.describe(&wanted).and_then(|states| {
            // What has appeared may be gone again.
            if !states.keys().eq(&self.topics) {
                self.source.resubscribe(&states)?;
            }
            Ok(states)
        });
        if let Some(states) = later_is_none(resubscribed)? {
            self.changed_to(&states);
        }
        Ok(())
    }

    fn changed_to(&mut self, states: &BTreeMap<Arc<str>, TopicState>) {
        for topic in self.topics.iter().filter(|topic| !states.contains_key(*topic)) {
            say_gone(topic);
        }
        for (topic, state) in states.iter().filter(|(topic, _)| !self.topics.contains(*topic)) {
            log::info!(topic:%, why = "it is read from now on"; "topic matches a pattern");
            self.say_what_is_lacking(topic, state);
        }
        self.topics = states.keys().cloned().collect();
        self.forget_ends();
        self.say_if_nothing_matches();
    }

    /// The topics as the brokers know them; those by pattern are left out if they do not exist.
    pub(super) fn describe(
        &mut self,
        topics: &BTreeSet<Arc<str>>,
    ) -> Result<BTreeMap<Arc<str>, TopicState>, SourceFault> {
        let mut topics: Vec<Arc<str>> = topics.iter().cloned().collect();
        loop {
            match self.source.topics(&topics) {
                Err(SourceFault::MissingTopic(missing)) if self.selection.is_by_pattern(&missing) => {
                    topics.retain(|topic| **topic != *missing);
                }
                described => return described,
            }
        }
    }

    /// A topic that is gone has no ends that could be reached.
    pub(super) fn forget_ends(&mut self) {
        if let Some(ends) = &mut self.ends {
            ends.retain(|partition, _| self.topics.contains(&partition.topic));
        }
    }

    fn say_if_nothing_matches(&self) {
        if self.topics.is_empty() && self.ends.is_none() {
            let patterns: Vec<_> = self.selection.patterns().collect();
            let patterns: Vec<&str> = patterns.iter().map(|pattern| pattern.as_str()).collect();
            log::warn!(patterns:serde, why = "waiting for one"; "no topic matches");
        }
    }

    /// A list of partitions fits topics of one size; a pattern may match others.
    fn say_what_is_lacking(&self, topic: &str, state: &TopicState) {
        let lacking = self.assignment.lacking(state.partitions);
        if !lacking.is_empty() {
            log::warn!(
                topic, partitions:serde = lacking, why = "they are read when they are added";
                "topic lacks partitions of kafka.assignment"
            );
        }
    }
}

pub(super) fn say_gone(topic: &str) {
    log::warn!(topic, why = "it is not read any more"; "topic is gone");
}

/// `None` where the next look may be luckier.
fn later_is_none<T>(answer: Result<T, SourceFault>) -> Result<Option<T>, Stop> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // A missing topic that is named is waited for, and given up, by `watch_topics`.
        Err(fault @ (SourceFault::Away(_) | SourceFault::MissingTopic(_))) => {
            log::debug!("{fault}");
            Ok(None)
        }
        Err(fault) => Err(fault.into()),
    }
}
