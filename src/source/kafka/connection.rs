//! The client, made anew after every error, and what it is asked besides records.

use super::errors::{Failed, fault, no_answer};
use super::fetch::Failure;
use super::link::{Abandoned, Late, Link, Room};
use super::{KafkaSource, RETRY_PAUSE};
use crate::record::TopicPartition;
use crate::source::SourceFault;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One request to the brokers, at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Commits are only information: a hung broker must not hold up the consumer for long.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Threads of the client that have not ended yet, at most.
const ABANDONED_MAX: usize = 8;

impl KafkaSource {
    /// Makes sure that there is a client which knows the cluster.
    pub(super) fn open(&mut self) -> Result<(), SourceFault> {
        self.abandoned.retain(Abandoned::is_alive);
        if self.link.is_some() {
            return Ok(());
        }
        if let Some((at, fault)) = &self.refused
            && at.elapsed() < RETRY_PAUSE
        {
            return Err(fault.clone());
        }
        match self.open_any() {
            Ok(link) => {
                self.link = Some(link);
                self.refused = None;
                self.note_back();
                Ok(())
            }
            Err(fault) => {
                self.refused = Some((Instant::now(), fault.clone()));
                if let SourceFault::Away(message) = &fault {
                    self.note_away(message);
                }
                Err(fault)
            }
        }
    }

    /// By the first of the configured brokers that answers; the next time another one is asked first.
    fn open_any(&mut self) -> Result<Link, SourceFault> {
        let mut last = None;
        for n in 0..self.config.brokers.len() {
            let broker = &self.config.brokers[(self.first_broker + n) % self.config.brokers.len()];
            if self.abandoned.len() >= ABANDONED_MAX {
                return Err(SourceFault::Away("earlier requests have not come to their end yet".to_owned()));
            }
            let mut link = Link::start(broker)?;
            let bootstrap = broker.clone();
            let loaded = link.call(REQUEST_TIMEOUT, move |room| {
                room.reach(&bootstrap)?;
                load(room)
            });
            match loaded {
                Ok(Ok(leaders)) => {
                    self.see(leaders);
                    return Ok(link);
                }
                Ok(Err(fault @ SourceFault::Away(_))) => last = Some(fault),
                Ok(Err(fault)) => return Err(fault),
                Err(Late) => {
                    self.abandoned.push(link.abandon());
                    last = Some(no_answer(REQUEST_TIMEOUT));
                }
            }
        }
        self.first_broker += 1;
        let SourceFault::Away(last) = last.expect("there is a broker in every configuration") else {
            unreachable!("every other fault has ended the search")
        };
        Err(SourceFault::Away(format!("could not connect to any of {:?}; last error: {last}", self.config.brokers)))
    }

    /// Has something done by the client, which is given up after any error.
    pub(super) fn call<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut Room) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failure> {
        self.open()?;
        let mut link = self.link.take().expect("it is open");
        match link.call(limit, job) {
            Ok(Ok(answer)) => {
                self.link = Some(link);
                Ok(answer)
            }
            Ok(Err(Failed::Alike(fault))) => {
                self.link = Some(link);
                Err(Failure::Fault(fault))
            }
            Ok(Err(Failed::Bytes(why))) => Err(Failure::Bytes(why)),
            Ok(Err(Failed::Broken(fault))) => {
                // Whether the brokers are away shows when a new client is made.
                if let SourceFault::Away(_) = &fault {
                    self.open()?;
                }
                Err(Failure::Fault(fault))
            }
            Err(Late) => {
                self.abandoned.push(link.abandon());
                self.open()?;
                Err(Failure::Fault(no_answer(limit)))
            }
        }
    }

    /// The same for what is not about the bytes of records.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Room) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, SourceFault> {
        self.call(REQUEST_TIMEOUT, job).map_err(|failure| match failure {
            Failure::Fault(fault) => fault,
            Failure::Bytes(why) => SourceFault::Away(why),
        })
    }

    /// Asks the brokers for all topics and leaders, and for no topic by name: that would create it where
    /// `auto.create.topics.enable` is set.
    pub(super) fn look(&mut self) -> Result<(), SourceFault> {
        let leaders = self.ask(|room| load(room).map_err(Failed::Broken))?;
        self.see(leaders);
        Ok(())
    }

    pub(super) fn see(&mut self, leaders: BTreeMap<Arc<str>, Vec<Option<String>>>) {
        (self.leaders, self.leaders_seen_at) = (leaders, Instant::now());
    }

    /// Somebody leads a partition no more: asks who does, not more often than makes sense.
    pub(super) fn look_for_leaders(&mut self) -> Result<(), SourceFault> {
        if self.leaders_seen_at.elapsed() < RETRY_PAUSE { Ok(()) } else { self.look() }
    }

    pub(super) fn leaders_of<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> BTreeSet<String> {
        let leader = |partition: &TopicPartition| {
            self.leaders.get(&partition.topic)?.get(usize::try_from(partition.partition).ok()?)?.clone()
        };
        partitions.filter_map(leader).collect()
    }

    /// Has the follower do something.
    pub(super) fn follow<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Room) -> kafka::Result<T> + Send + 'static,
    ) -> Result<T, SourceFault> {
        self.open()?;
        match self.follower.take() {
            Some(link) if link.is_busy() => {
                self.follower = Some(link);
                return Err(SourceFault::Away("an earlier request of the group has no answer yet".to_owned()));
            }
            // What was late may have failed.
            Some(link) if link.was_late() => {}
            other => self.follower = other,
        }
        let is_new = self.follower.is_none();
        let broker = self.config.brokers[self.first_broker % self.config.brokers.len()].clone();
        let mut link = match self.follower.take() {
            Some(link) => link,
            None => Link::start(&broker)?,
        };
        let done = link.call(COMMIT_TIMEOUT, move |room| {
            if is_new {
                room.reach(&broker)?;
                room.client.load_metadata_all().map_err(fault)?;
            }
            job(room).map_err(fault)
        });
        match done {
            Ok(Ok(answer)) => {
                self.follower = Some(link);
                Ok(answer)
            }
            Ok(Err(fault)) => Err(fault),
            Err(Late) => {
                self.follower = Some(link);
                Err(no_answer(COMMIT_TIMEOUT))
            }
        }
    }

    fn note_away(&mut self, why: &str) {
        // While starting, the caller says it.
        if self.assignment.is_some() {
            self.away.away(&why, Instant::now());
        }
    }

    fn note_back(&mut self) {
        self.away.back(Instant::now());
    }
}

/// Asks for all topics.
fn load(room: &mut Room) -> Result<BTreeMap<Arc<str>, Vec<Option<String>>>, SourceFault> {
    room.client.load_metadata_all().map_err(fault)?;
    let topics = room.client.topics();
    let leader = |broker: Option<&kafka::client::metadata::Broker>| broker.map(|broker| broker.host().to_owned());
    let leaders = topics.iter().map(|topic| {
        let leaders = topic.partitions().iter().map(|partition| leader(partition.leader())).collect();
        (topic.name().into(), leaders)
    });
    Ok(leaders.collect())
}
