//! Hands dead letters on to a topic, for those who watch one: each at least once, after it is durable.
//!
//! PostgreSQL remembers what was handed on, so that a kill at any moment leaves out nothing. It stands beside the way of
//! the data: a thread and connections of its own, nobody waits for it but the end of a bounded run, and whatever goes
//! wrong is a line in the log while the letters wait.

use crate::backoff::Backoff;
use crate::config::{Config, Kafka};
use crate::database::{Database, PostgresLetters};
use crate::dead_letters::Letter;
use crate::fault::{Failure, Fault};
use crate::outage::Outage;
use crate::source::relay::{self, Outlet, Posting};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::fmt::Display;
use std::time::Duration;

/// Between two looks for new letters.
const IDLE: Duration = Duration::from_secs(1);

/// The relay of one process.
pub struct Relay {
    kafka: Kafka,
    topic: String,
    pipeline: String,
    letters: PostgresLetters,
    // `None` after any fault.
    outlet: Option<Box<dyn Outlet>>,
    // They have arrived, and PostgreSQL doesn't know it yet. At most a page.
    unmarked: Vec<Letter>,
    outage: Outage,
    // Where only the relay's own reads and marks are refused.
    database: Outage,
    backoff: Backoff,
    has_told_of_length: bool,
}

/// What a turn has come to.
enum Turn {
    /// There may be more.
    Relayed,
    /// There is nothing to do, or another process does it.
    Nothing,
    Failed,
}

impl Relay {
    /// A relay as the configuration says; `None`: nothing is to be handed on.
    pub fn new(config: &Config, database: &Database) -> Option<Relay> {
        let topic = config.dead_letters.topic.clone()?;
        Some(Relay {
            kafka: config.kafka.clone(),
            topic,
            pipeline: config.pipeline.clone(),
            letters: database.letters(),
            outlet: None,
            unmarked: Vec::new(),
            outage: Outage::new("dead_letters.topic", None),
            database: Outage::new("relaying dead letters: the database", None),
            backoff: Backoff::unseeded(config.retry.initial, config.retry.max),
            has_told_of_length: false,
        })
    }

    /// Works until `finish_rx` is closed, and then until there is nothing to do, or something is wrong.
    pub fn run(&mut self, finish_rx: &Receiver<()>) {
        loop {
            let pause = match self.turn() {
                Turn::Relayed => {
                    self.backoff.reset();
                    continue;
                }
                Turn::Nothing => {
                    self.backoff.reset();
                    IDLE
                }
                Turn::Failed => self.backoff.next_delay(),
            };
            if finish_rx.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        while let Turn::Relayed = self.turn() {}
    }

    fn turn(&mut self) -> Turn {
        if !self.unmarked.is_empty() {
            if let Err(failure) = self.letters.mark_relayed(&self.unmarked, false) {
                return self.database_failed(&failure);
            }
            self.unmarked.clear();
            self.database.back();
        }
        let outlet = match &mut self.outlet {
            Some(outlet) => outlet,
            // Also while there are no letters: what is wrong is worth knowing before the first one.
            None => match relay::connect(&self.kafka, &self.topic) {
                Ok(outlet) => self.outlet.insert(outlet),
                Err(fault) => return self.failed(&fault),
            },
        };
        let page = match self.letters.take_unrelayed() {
            Ok(page) => page,
            Err(failure) => return self.database_failed(&failure),
        };
        if page.is_empty() {
            self.database.back();
            self.outage.back();
            return Turn::Nothing;
        }
        let (letters, postings): (Vec<Letter>, Vec<Posting>) = page
            .into_iter()
            .map(|(letter, value)| {
                let posting = posting(&letter, value, &self.pipeline);
                (letter, posting)
            })
            .unzip();
        match outlet.send(&postings) {
            Ok(0) => {}
            Ok(n) if self.has_told_of_length => log::debug!("left out the values of {n} dead letters"),
            Ok(n) => {
                log::warn!(
                    "topic {:?} doesn't take records as long as some dead letters; relayed {n} without their values, which \
                     are in the database; raise the topic's max.message.bytes",
                    self.topic
                );
                self.has_told_of_length = true;
            }
            Err(fault) => {
                self.letters.leave_unrelayed();
                self.outlet = None;
                return self.failed(&fault);
            }
        }
        log::debug!("relayed letters={}", letters.len());
        self.outage.back();
        self.unmarked = letters;
        if let Err(failure) = self.letters.mark_relayed(&self.unmarked, true) {
            return self.database_failed(&failure);
        }
        self.unmarked.clear();
        self.database.back();
        Turn::Relayed
    }

    fn failed(&self, why: &dyn Display) -> Turn {
        // Without a limit there is no end to its patience.
        let _ = self.outage.away(why);
        Turn::Failed
    }

    /// What the writers meet as well is theirs to tell.
    fn database_failed(&self, failure: &Failure) -> Turn {
        match failure.fault {
            Fault::Connection | Fault::WrongNode | Fault::Resource => log::debug!("relay: {failure}"),
            Fault::Transaction | Fault::Lock | Fault::Statement => log::debug!("relay: {failure}"),
            // Without a limit there is no end to its patience.
            _ => drop(self.database.failed(failure)),
        }
        Turn::Failed
    }
}

fn posting(letter: &Letter, value: Option<Vec<u8>>, pipeline: &str) -> Posting {
    let place = letter.id.to_string();
    Posting {
        key: place.clone(),
        value,
        headers: vec![
            ("class", letter.class.clone()),
            ("code", letter.code.clone()),
            ("reason", letter.reason.clone()),
            ("pipeline", pipeline.to_owned()),
            ("place", place),
        ],
    }
}
