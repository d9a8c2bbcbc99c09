//! What the claimer is asked on behalf of the flow, and what is made of its answers.

use super::{Believed, Flow, Ownership, Phase};
use crate::claimer::{Answer, Answered, Question, Ticket, is_retried};
use crate::clock;
use crate::exit::Stop;
use crate::fault::Fault;
use crate::ledger::Standing;
use crate::record::TopicPartition;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a callback waits for the database: the group waits with it.
const CALLBACK_CLAIM_MAX: Duration = Duration::from_secs(5);

impl Flow {
    /// Asks for a claim of everything that is due, unless the last question is still open.
    pub fn claim_due(&mut self, now: Instant) {
        let due = |ownership: &Ownership| matches!(ownership.phase, Phase::Unclaimed { ask_at } if ask_at <= now);
        let mut partitions: Vec<_> = self.owned.iter().filter(|(_, o)| due(o)).map(|(p, _)| p.clone()).collect();
        if self.claim_failure.is_some() {
            // Somebody holds the row of one: the others need not wait for it.
            partitions.truncate(1);
        }
        if self.owned.values().all(|o| !matches!(o.phase, Phase::Unclaimed { .. } | Phase::Asked(_))) {
            self.claim_failure = None;
        }
        if !partitions.is_empty() {
            self.ask_for(partitions.clone(), Question::Claim(partitions));
        }
    }

    /// Asks the claimer for these partitions. Does nothing while another claim is open; the caller comes again.
    pub fn ask_for(&mut self, partitions: Vec<TopicPartition>, question: Question) {
        if self.claim_open.is_some() {
            return;
        }
        self.claim_open = self.claims.ask(question);
        if let Some(ticket) = self.claim_open {
            for partition in partitions {
                if let Some(ownership) = self.owned.get_mut(&partition) {
                    ownership.phase = Phase::Asked(ticket);
                }
            }
        }
    }

    /// Asks where the pipeline stands; the answer comes into `progress`.
    pub fn ask_progress(&mut self, topics: Vec<Arc<str>>) {
        if self.progress_open.is_none() {
            self.progress_open = self.claims.ask(Question::NextOffsets(topics));
        }
    }

    /// Asks whether what is read stands where we believe. A worker that has nothing to write would never find out.
    pub fn ask_standings(&mut self) {
        let reading = self.reading();
        let at_rest =
            |partition: TopicPartition| self.tracker.at_rest(&partition).map(|believed| (partition, believed));
        let believed: Believed = reading.into_iter().filter_map(at_rest).collect();
        if self.standings_open.is_none() && !believed.is_empty() {
            self.standings_open = self.claims.ask(Question::Standings).map(|ticket| (ticket, believed));
        }
    }

    /// Compares what was believed, where it is still, with what is true.
    pub(super) fn compare(&mut self, believed: &Believed, standings: &[Standing]) {
        let (mut moved, mut fenced) = (false, Vec::new());
        let truths: BTreeMap<_, _> = standings.iter().map(|standing| (&standing.partition, standing)).collect();
        for (partition, then) in believed {
            if self.tracker.at_rest(partition) != Some(*then) {
                continue;
            }
            let Some(Standing { next, epoch, owner, .. }) = truths.get(partition) else {
                log::warn!(partition:%, next_offset = "none", was_offset = then.1.0, why = "its row is gone"; "rewind");
                self.shared.metrics.rewinds.inc();
                moved = true;
                continue;
            };
            if *epoch > then.0 {
                let owner = owner.as_deref().unwrap_or("nobody");
                let why = "it was claimed or moved while nothing came";
                log::warn!(partition:%, owner, epoch = epoch.0, why; "fenced");
                self.shared.metrics.fenced.inc();
                fenced.push(partition.clone());
            } else if (*epoch, *next) != *then {
                log::warn!(partition:%, next_offset = next.0, was_offset = then.1.0; "rewind");
                self.shared.metrics.rewinds.inc();
                moved = true;
            }
        }
        if moved || !fenced.is_empty() {
            self.start_over();
        }
        if !fenced.is_empty() {
            self.fenced(&fenced);
        }
    }

    /// Asks for earlier commits to be made durable; the answer comes into `barrier`.
    pub fn ask_barrier(&mut self, topics: Vec<Arc<str>>) {
        if self.barrier_open.is_none() {
            self.barrier_open = self.claims.ask(Question::Barrier(topics));
            if self.barrier_open.is_none() {
                self.barrier = Some(BTreeMap::new());
            }
        }
    }

    /// Takes in what the claimer has answered.
    pub fn take_answers(&mut self) {
        while let Ok(answered) = self.claims.answers_rx.try_recv() {
            self.take_answer(answered);
        }
    }

    pub(super) fn take_answer(&mut self, (ticket, answer): Answered) {
        match &answer {
            Ok(_) => self.unusable_since = None,
            Err(failure) => {
                // A migration may be running, or a privilege be given back; not for ever.
                let unusable = matches!(failure.fault, Fault::Schema | Fault::Permission)
                    && clock::since(*self.unusable_since.get_or_insert_with(clock::now)) > self.shared.grace;
                if unusable || !is_retried(failure.fault) {
                    self.stop = Some(Stop::new(failure.fault.exit_code(), format!("database: {failure}")));
                }
            }
        }
        if self.progress_open == Some(ticket) {
            self.progress_open = None;
            if let Ok(Answer::NextOffsets(progress)) = answer {
                self.progress = Some(progress);
            }
        } else if self.barrier_open == Some(ticket) {
            self.barrier_open = None;
            self.barrier = Some(match answer {
                Ok(Answer::Durable(durable)) => durable,
                _ => BTreeMap::new(),
            });
        } else if let Some((_, believed)) = self.standings_open.take_if(|(open, _)| *open == ticket) {
            if let Ok(Answer::Standings(standings)) = answer {
                self.compare(&believed, &standings);
            }
        } else if self.claim_open == Some(ticket) {
            self.claim_open = None;
            if let Err(failure) = &answer
                && matches!(failure.fault, Fault::Transaction | Fault::Lock | Fault::Statement)
            {
                self.claim_failure = Some(failure.to_string());
            }
            self.take_claims(ticket, answer.ok());
        }
    }

    pub(super) fn take_claims(&mut self, ticket: Ticket, answer: Option<Answer>) {
        let now = clock::now();
        let otherwise = match answer {
            Some(Answer::Claims(claims)) => {
                self.claim_backoff.reset();
                for claim in claims {
                    // Not asked by this ticket: revoked since, or fenced since.
                    if let Some(ownership) = self.owned.get_mut(&claim.partition)
                        && matches!(ownership.phase, Phase::Asked(asked) if asked == ticket)
                    {
                        ownership.phase = Phase::Claimed { claim, check_at: now, ahead_since: None };
                    }
                }
                None
            }
            // Claimed again, it is known where it stands.
            Some(Answer::Jumped) => Some(now),
            _ => Some(now + self.claim_backoff.next_delay()),
        };
        for ownership in self.owned.values_mut() {
            if matches!(ownership.phase, Phase::Asked(asked) if asked == ticket) {
                ownership.phase = otherwise.map_or(Phase::Rowless, |ask_at| Phase::Unclaimed { ask_at });
            }
        }
    }

    /// Waits for the open claim, for as long as the group may be kept waiting.
    pub(super) fn wait_for_claim(&mut self) {
        let deadline = clock::now() + CALLBACK_CLAIM_MAX;
        while self.claim_open.is_some() {
            match clock::receive(&self.claims.answers_rx, deadline) {
                Ok(answered) => self.take_answer(answered),
                Err(_) => return,
            }
        }
    }
}
