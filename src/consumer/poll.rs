//! One poll: how long it may wait, what it brings, and where it stands afterwards.

use super::Consumer;
use super::flow::locked;
use super::window::Turn;
use crate::clock;
use crate::exit::Stop;
use crate::record::{NextOffset, TopicPartition};
use crate::source::SourceFault;
use std::time::Duration;

/// The longest wait for records in one turn.
const POLL_MAX: Duration = Duration::from_millis(100);
/// The same while an assignment, the answer to a claim, or the end of a bounded run is expected at any moment: none of
/// them ends a poll.
const SETTLING_POLL_MAX: Duration = Duration::from_millis(5);

/// The wait for a writer in a turn that can't send.
const CONGESTED_WAIT: Duration = Duration::from_millis(20);
/// The wait after a poll that failed.
const FAILED_POLL_PAUSE: Duration = Duration::from_millis(100);

/// How long something in a log may be unreadable.
const UNREADABLE_MAX: Duration = Duration::from_secs(15);

impl Consumer<'_> {
    /// Lets as many partitions be read as a poll can take in.
    fn turn_window(&mut self) {
        let Turn { pause, resume } = self.window.turn(&locked(&self.flow).reading());
        if !pause.is_empty() {
            self.source.pause(&pause);
        }
        if !resume.is_empty() {
            self.source.resume(&resume);
        }
    }

    pub(super) fn poll(&mut self) -> Result<(), Stop> {
        let wait = {
            let mut flow = locked(&self.flow);
            if self.held {
                flow.settle_within(CONGESTED_WAIT);
                Duration::from_millis(1)
            } else {
                let is_settling = flow.is_settling() || self.ends.as_ref().is_some_and(|ends| flow.has_read_to(ends));
                let poll_max = if self.settling.is_awaited(is_settling) { SETTLING_POLL_MAX } else { POLL_MAX };
                let due_in = flow.batcher.due_at().map(|due_at| due_at.saturating_duration_since(clock::now()));
                due_in.map_or(poll_max, |due_in| due_in.clamp(Duration::from_millis(1), poll_max))
            }
        };
        if !self.held {
            self.turn_window();
        }
        let flow = self.flow.clone();
        let (mut records, mut bytes) = (0_u64, 0);
        // Locked with the first record: until then the client's callbacks may want it.
        let mut guard = None;
        let polled = self.source.poll(wait, &mut |partition, record| {
            records += 1;
            bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            guard.get_or_insert_with(|| locked(&flow)).take_in(partition, record, clock::now());
        });
        drop(guard);
        if !self.held {
            self.window.polled(bytes);
        }
        self.records_since_check |= records > 0;
        let off_the_log = match polled {
            Ok(off_the_log) => off_the_log,
            Err(fault) => {
                match fault {
                    SourceFault::Unreadable(_) => self.is_unreadable(fault)?,
                    SourceFault::Away(_) | SourceFault::MissingTopic(_) => log::debug!("{fault}"),
                    _ => return Err(fault.into()),
                }
                // It may have failed at once.
                self.shutdown.sleep(FAILED_POLL_PAUSE);
                Vec::new()
            }
        };
        let reading = locked(&self.flow).reading();
        let positions = self.source.positions(&reading);
        let now = clock::now();
        let mut flow = locked(&self.flow);
        for (partition, position) in positions {
            flow.note_position(&partition, position, now);
        }
        let (gone, unread): (Vec<_>, Vec<_>) =
            off_the_log.into_iter().partition(|partition| reading.contains(partition));
        let is_cut = |partition: &&TopicPartition| reading.contains(partition);
        if let Some(partition) = gone.first().or(flow.cut.keys().find(is_cut)) {
            log::warn!(partition:%; "its log is not where it was, reading the positions again");
            flow.start_over();
        }
        drop(flow);
        // Paused, but without a position, which would keep every poll from reading. Where it stands doesn't matter yet.
        for partition in unread {
            self.source.pause(std::slice::from_ref(&partition));
            if let Err(fault) = self.source.seek(&partition, NextOffset(0)) {
                log::debug!("partition={partition}: {fault}");
            }
        }
        Ok(())
    }

    /// Once may be the network's fault; other partitions go on meanwhile.
    fn is_unreadable(&mut self, fault: SourceFault) -> Result<(), Stop> {
        let now = clock::now();
        let (since, last) = self.unreadable.get_or_insert_with(|| {
            log::warn!("{fault}; trying again");
            (now, now)
        });
        if now.duration_since(*last) > UNREADABLE_MAX {
            *since = now;
        }
        *last = now;
        if now.duration_since(*since) > UNREADABLE_MAX { Err(fault.into()) } else { Ok(()) }
    }
}
