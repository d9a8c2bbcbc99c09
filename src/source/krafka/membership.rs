//! Membership of the group: joining it, and telling it what is subscribed to, in such a way that it surely hears of it.
//!
//! What is subscribed to can be lost without a word. A classic member that is just joining has sent its old topics
//! already, and will not join again for the new ones; a KIP-848 member whose heartbeat is under way takes the answer to
//! the old one for the answer to the new one, and stops its heartbeats; and a static member that comes back is given
//! what it had, whatever it asks for by then.

use super::listener::Listener;
use super::wire::within;
use super::{KrafkaSource, REFUSED_MAX, REQUEST_TIMEOUT};
use crate::config::GroupProtocol;
use crate::source::{Assignment, SourceFault, TopicState};
use krafka::admin::{DescribeConsumerGroupsOptions, DescribeFeaturesOptions};
use krafka::consumer::{Consumer, ConsumerBuilder, GroupProtocol as WireProtocol, PartitionAssignmentStrategy};
use krafka::error::{ErrorCode, KrafkaError};
use krafka::{CloseOptions, GroupMembershipOperation};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A KIP-848 group has answered a changed subscription by a new epoch long before: two heartbeats, as brokers ask for
/// them by default.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// How long a classic member without partitions may be one that is just joining.
const JOINING_MAX: Duration = Duration::from_secs(30);
/// How often a stand-in is asked whether it has joined.
const JOINED_LOOK: Duration = Duration::from_millis(50);

/// A change of the subscription that the group has not been seen to take note of.
pub(super) struct Unconfirmed {
    epoch: Option<i32>,
    told_at: Instant,
}

impl KrafkaSource {
    /// Asked once: what was joined with is what counts.
    pub(super) fn group_protocol(&mut self) -> Result<WireProtocol, SourceFault> {
        let protocol = match self.protocol {
            Some(protocol) => protocol,
            None => self.choose_group_protocol()?,
        };
        self.protocol = Some(protocol);
        Ok(protocol)
    }

    fn choose_group_protocol(&self) -> Result<WireProtocol, SourceFault> {
        Ok(match (self.config.group_protocol, &self.config.instance_id) {
            (GroupProtocol::Classic, _) => WireProtocol::Classic,
            (GroupProtocol::Consumer, _) if self.is_consumer_protocol_offered()? => WireProtocol::Consumer,
            (GroupProtocol::Consumer, _) => {
                return Err(SourceFault::Config(
                    "kafka.group_protocol = \"consumer\": the brokers offer no such groups, which begin with Kafka 4.0; \
                     set \"auto\" or \"classic\""
                        .to_owned(),
                ));
            }
            // Only a classic group gives a restarted static member its partitions back at once.
            (GroupProtocol::Auto, Some(_)) => WireProtocol::Classic,
            (GroupProtocol::Auto, None) if self.is_consumer_protocol_offered()? => WireProtocol::Consumer,
            (GroupProtocol::Auto, None) => WireProtocol::Classic,
        })
    }

    fn is_consumer_protocol_offered(&self) -> Result<bool, SourceFault> {
        let options = DescribeFeaturesOptions::default().timeout(REQUEST_TIMEOUT);
        let features = self.runtime.block_on(within(REQUEST_TIMEOUT, self.admin.describe_features(options)));
        match features {
            Ok(features) => {
                Ok(features.finalized.iter().any(|f| f.name == "group.version" && f.max_version_level >= 1))
            }
            // Brokers too old to answer are too old for the new protocol.
            Err(SourceFault::Config(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    pub(super) fn join_group(
        &mut self,
        topics: &BTreeMap<Arc<str>, TopicState>,
        assignment: Arc<dyn Assignment>,
    ) -> Result<(), SourceFault> {
        let protocol = self.group_protocol()?;
        let names: Vec<&Arc<str>> = topics.keys().collect();
        if self.is_kept_outdated(topics)? {
            log::info!("what the group has kept for kafka.instance_id is outdated, leaving it before joining again");
            self.leave_as_static_member(&names)?;
        }
        let this = Arc::new(OnceLock::new());
        let listener = Listener { assignment, consumer: this.clone() };
        let builder = self.member(protocol).rebalance_listener(listener);
        let consumer = Arc::new(self.runtime.block_on(within(REQUEST_TIMEOUT, builder.build()))?);
        let known = this.set(Arc::downgrade(&consumer));
        assert!(known.is_ok(), "the listener's consumer is set once");
        self.runtime.block_on(within(REQUEST_TIMEOUT, consumer.subscribe(&names)))?;
        log::info!(group = self.config.group.as_str(), protocol:?, topics:serde = names; "joining");
        self.consumer = Some(consumer);
        Ok(())
    }

    /// INVALID_REQUEST in answer to a heartbeat of a KIP-848 member: one that has just been fenced, and begins anew, may
    /// still name the partitions that it had. The client says so once, and joins again with its next poll.
    pub(super) fn passing_refusal(&mut self, error: &KrafkaError) -> Option<SourceFault> {
        let is_refusal = matches!(error, KrafkaError::Broker { code: ErrorCode::InvalidRequest, .. });
        if !is_refusal || self.protocol != Some(WireProtocol::Consumer) {
            return None;
        }
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        (since.elapsed() < REFUSED_MAX).then(|| SourceFault::Away(error.to_string()))
    }

    fn member(&self, protocol: WireProtocol) -> ConsumerBuilder {
        let builder = self
            .tuned(self.kafka.consumer(self.config.group.as_str()))
            .group_protocol(protocol)
            // Cooperative rebalances made needless losses. By ranges the first members would get more of each topic, and all
            // of those with one partition.
            .partition_assignment_strategy(PartitionAssignmentStrategy::RoundRobin)
            .session_timeout(self.config.session_timeout)
            .heartbeat_interval(self.config.session_timeout / 15)
            .max_poll_interval(Duration::from_secs(300));
        match &self.config.instance_id {
            Some(instance_id) => builder.group_instance_id(instance_id.as_str()),
            None => builder,
        }
    }

    /// Whether the group has kept for this static member what it had, and either we subscribe to other topics by now, or
    /// there are partitions that nobody was given: added since, or of topics that have appeared.
    fn is_kept_outdated(&mut self, topics: &BTreeMap<Arc<str>, TopicState>) -> Result<bool, SourceFault> {
        let Some(instance_id) = self.config.instance_id.as_deref().filter(|_| !topics.is_empty()) else {
            return Ok(false);
        };
        let options = DescribeConsumerGroupsOptions::default().timeout(REQUEST_TIMEOUT);
        let call = self.admin.describe_consumer_groups([self.config.group.as_str()], options);
        let described = self.runtime.block_on(within(REQUEST_TIMEOUT, call))?;
        // Nobody knows the group, or it is just dealing anew.
        let Some(group) = described.into_values().find_map(Result::ok).filter(|group| group.state == "Stable") else {
            return Ok(false);
        };
        let Some(kept) = group.members.iter().find(|member| member.instance_id.as_deref() == Some(instance_id)) else {
            return Ok(false);
        };
        let had: BTreeSet<&str> = kept.subscribed_topic_names.iter().flatten().map(String::as_str).collect();
        let dealt = group.members.iter().flat_map(|member| member.assignment.iter().flatten());
        let dealt: BTreeSet<(&str, i32)> =
            dealt.flat_map(|of| of.partitions.iter().map(|number| (of.topic_name.as_str(), *number))).collect();
        let is_dealt = |topic: &Arc<str>, state: &TopicState| {
            (0..state.partitions).all(|number| dealt.contains(&(&**topic, number)))
        };
        Ok(!had.into_iter().eq(topics.keys().map(|topic| &**topic))
            || !topics.iter().all(|(topic, state)| is_dealt(topic, state)))
    }

    /// Joins in our name, which is not to be seen as a change, and leaves for good, which is. Reads nothing.
    fn leave_as_static_member(&mut self, topics: &[&Arc<str>]) -> Result<(), SourceFault> {
        let builder = self.member(WireProtocol::Classic);
        self.runtime.block_on(async {
            let stand_in = within(REQUEST_TIMEOUT, builder.build()).await?;
            // Joins by itself; there is no news of it.
            within(REQUEST_TIMEOUT, stand_in.subscribe(topics)).await?;
            let begun_at = Instant::now();
            while stand_in.group_metadata().await.is_none_or(|membership| membership.generation_id() < 0)
                && begun_at.elapsed() < REQUEST_TIMEOUT
            {
                tokio::time::sleep(JOINED_LOOK).await;
            }
            let options = CloseOptions::new()
                .timeout(REQUEST_TIMEOUT)
                .group_membership_operation(GroupMembershipOperation::LeaveGroup);
            within(REQUEST_TIMEOUT, stand_in.close_with(options)).await
        })
    }

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
        if told_at.elapsed() < CONFIRMED_WITHIN || self.away.since().is_some() {
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
