//! Telling the group what is subscribed to now, in such a way that it surely hears of it.
//!
//! The client's own `subscribe` can be lost without a word: a classic member that is just joining has sent its old
//! topics already and will not join again for the new ones; and a KIP-848 member whose heartbeat is under way takes
//! the answer to the old one for the answer to the new one, and stops its heartbeats.

use super::wire::within;
use super::{KrafkaSource, REQUEST_TIMEOUT};
use crate::source::SourceFault;
use krafka::consumer::{Consumer, GroupProtocol as WireProtocol};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A KIP-848 group has answered a changed subscription by a new epoch long before: two heartbeats, as brokers ask for
/// them by default.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// How long a classic member without partitions may be one that is just joining.
const JOINING_MAX: Duration = Duration::from_secs(30);

/// A change of the subscription that the group has not been seen to take note of.
pub(super) struct Unconfirmed {
    epoch: Option<i32>,
    told_at: Instant,
}

impl KrafkaSource {
    /// Changes what this member subscribes to. It stays a member where it can: the others are not disturbed twice, and
    /// a static one keeps its place.
    pub(super) fn tell_group(&mut self, topics: &[Arc<str>]) -> Result<(), SourceFault> {
        let (consumer, protocol) = (self.consumer()?, self.group_protocol()?);
        self.unconfirmed = None;
        if topics.is_empty() {
            return self.runtime.block_on(within(REQUEST_TIMEOUT * 2, consumer.unsubscribe()));
        }
        // An eager member gives its partitions up before it joins, so with partitions it isn't joining.
        let may_be_joining = protocol == WireProtocol::Classic
            && !self.subscribed.is_empty()
            && self.runtime.block_on(consumer.assignment()).is_empty();
        if !may_be_joining {
            self.joining_since = None;
        } else if self.joining_since.get_or_insert_with(Instant::now).elapsed() < JOINING_MAX {
            return Err(SourceFault::Away("this member may just be joining its group".to_owned()));
        }
        let epoch = self.epoch(&consumer);
        self.runtime.block_on(async {
            // What is under way, if anything is, comes to nothing then.
            if may_be_joining {
                within(REQUEST_TIMEOUT * 2, consumer.unsubscribe()).await?;
            }
            within(REQUEST_TIMEOUT, consumer.subscribe(topics)).await
        })?;
        self.joining_since = None;
        if protocol == WireProtocol::Consumer {
            self.unconfirmed = Some(Unconfirmed { epoch, told_at: Instant::now() });
        }
        Ok(())
    }

    /// Tells the group once more what it has not taken note of. Costs a heartbeat.
    pub(super) fn confirm_subscription(&mut self) {
        let Some(Unconfirmed { epoch, told_at }) = self.unconfirmed.take() else { return };
        let Some(consumer) = self.consumer.clone() else { return };
        if self.epoch(&consumer) != epoch {
            return;
        }
        if told_at.elapsed() < CONFIRMED_WITHIN || self.away_since.is_some() {
            self.unconfirmed = Some(Unconfirmed { epoch, told_at });
            return;
        }
        // The client acts on a change only; the group sees the last of these two.
        let told = self.runtime.block_on(async {
            within(REQUEST_TIMEOUT, consumer.subscribe(&self.subscribed[1..])).await?;
            within(REQUEST_TIMEOUT, consumer.subscribe(&self.subscribed)).await
        });
        log::debug!("told the group again what is subscribed to: {told:?}");
        self.unconfirmed = Some(Unconfirmed { epoch, told_at: Instant::now() });
    }

    /// Changes whenever the group has taken note of something. `None` before the first joining.
    fn epoch(&self, consumer: &Consumer) -> Option<i32> {
        self.runtime.block_on(consumer.group_metadata()).map(|membership| membership.generation_id())
    }
}
