//! A model of Kafka: a log with holes for each partition, and a group that gives each to one member.
//!
//! A member hears of what it gets and loses by its polls only, and a frozen one hears of it too late: until then it hands
//! out what it had fetched.

use super::database::{partition, topic};
use super::world::World;
use crate::batch::Incoming;
use crate::delivery::Committable;
use crate::record::{LeaderEpoch, NextOffset, Offset, TopicPartition};
use crate::source::{Assignment, Bounds, OnRecord, Source, SourceFault, StartAt, TopicState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What every record holds.
const VALUE: &[u8] = br#"{"symbol":"A","price":1,"timestamp":1704207845}"#;

/// So many offsets each leader has written.
const LEADER_OFFSETS: i64 = 3;

/// What a member is told.
#[derive(Debug, Clone)]
enum Event {
    Assign(i32),
    Revoke(i32),
    Lost(i32),
}

/// Logs and group.
#[derive(Debug, Default)]
pub struct Broker {
    /// Offsets of records, by partition.
    pub logs: Vec<Vec<i64>>,
    /// Their ends.
    pub ends: Vec<i64>,
    /// What the group has committed.
    pub committed: Vec<i64>,
    // Whose each partition is, and who is to have it once its holder has given it up.
    holders: Vec<Option<usize>>,
    heirs: BTreeMap<i32, usize>,
    // By member.
    events: BTreeMap<usize, VecDeque<Event>>,
}

impl Broker {
    pub fn new(n_partitions: usize) -> Self {
        Broker {
            logs: vec![Vec::new(); n_partitions],
            ends: vec![0; n_partitions],
            committed: vec![0; n_partitions],
            holders: vec![None; n_partitions],
            ..Broker::default()
        }
    }

    /// A record more, after a hole where compaction has taken something, or a transaction has left its marker.
    pub fn produce(&mut self, random: &mut fastrand::Rng) {
        let number = random.usize(0..self.logs.len());
        self.ends[number] += if random.u32(0..4) == 0 { random.i64(1..4) } else { 0 };
        self.logs[number].push(self.ends[number]);
        self.ends[number] += 1;
        // At the end there may be one, too.
        self.ends[number] += i64::from(random.u32(0..8) == 0);
    }

    /// A member is to have a partition; its holder, if it still answers, gives it up first.
    pub fn give(&mut self, number: i32, to: usize, answers: impl Fn(usize) -> bool) {
        match self.holders[number as usize] {
            Some(holder) if holder == to => {}
            Some(holder) if answers(holder) => {
                self.heirs.insert(number, to);
                self.events.entry(holder).or_default().push_back(Event::Revoke(number));
            }
            holder => {
                if let Some(holder) = holder {
                    self.events.entry(holder).or_default().push_back(Event::Lost(number));
                }
                self.heirs.remove(&number);
                self.hand_over(number, to);
            }
        }
    }

    /// A member is put out: whatever it has goes to others, or to nobody.
    pub fn expel(&mut self, member: usize, others: &[usize], random: &mut fastrand::Rng) {
        let held: Vec<i32> =
            (0..self.holders.len() as i32).filter(|number| self.holders[*number as usize] == Some(member)).collect();
        self.heirs.retain(|number, heir| *heir != member && !held.contains(number));
        let events = self.events.entry(member).or_default();
        events.retain(|event| matches!(event, Event::Lost(_)));
        events.extend(held.iter().map(|number| Event::Lost(*number)));
        for number in held {
            self.holders[number as usize] = None;
            if !others.is_empty() {
                self.hand_over(number, others[random.usize(0..others.len())]);
            }
        }
    }

    /// A member that is gone for good hears of nothing.
    pub fn bury(&mut self, member: usize) {
        self.events.remove(&member);
    }

    /// Partitions that nobody has.
    pub fn orphans(&self) -> Vec<i32> {
        (0..self.holders.len() as i32).filter(|number| self.holders[*number as usize].is_none()).collect()
    }

    fn hand_over(&mut self, number: i32, to: usize) {
        self.holders[number as usize] = Some(to);
        self.events.entry(to).or_default().push_back(Event::Assign(number));
    }
}

/// What a client knows of a partition.
#[derive(Debug, Default)]
struct Local {
    position: Option<i64>,
    is_paused: bool,
}

/// A process's client.
pub struct Client {
    pub world: Rc<World>,
    pub member: usize,
    assignment: Option<Arc<dyn Assignment>>,
    local: BTreeMap<i32, Local>,
}

impl Client {
    pub fn new(world: Rc<World>, member: usize) -> Self {
        Client { world, member, assignment: None, local: BTreeMap::new() }
    }

    fn hear(&mut self) {
        let assignment = self.assignment.clone().expect("it has subscribed");
        loop {
            let event = self.world.broker.borrow_mut().events.entry(self.member).or_default().pop_front();
            match event {
                None => return,
                Some(Event::Assign(number)) => {
                    self.local.insert(number, Local { position: None, is_paused: true });
                    for (partition, next) in assignment.assigned(&[partition(number)]) {
                        self.local.entry(partition.partition).or_default().position = Some(next.0);
                    }
                }
                // It may have been taken from us in another way meanwhile.
                Some(Event::Revoke(number)) if !self.local.contains_key(&number) => {}
                Some(Event::Revoke(number)) => {
                    assignment.revoked(&[partition(number)]);
                    self.local.remove(&number);
                    let mut broker = self.world.broker.borrow_mut();
                    // Unless it is already ours again, and we are about to hear of that.
                    let comes_back = broker.events[&self.member]
                        .iter()
                        .any(|event| matches!(event, Event::Assign(n) if *n == number));
                    if broker.holders[number as usize] == Some(self.member) && !comes_back {
                        broker.holders[number as usize] = None;
                        if let Some(heir) = broker.heirs.remove(&number) {
                            broker.hand_over(number, heir);
                        }
                    }
                }
                Some(Event::Lost(number)) => {
                    if self.local.remove(&number).is_some() {
                        self.world.tally.borrow_mut().count("partitions lost");
                        assignment.lost(&[partition(number)]);
                    }
                }
            }
        }
    }
}

impl Source for Client {
    fn cluster_id(&mut self) -> Result<Option<String>, SourceFault> {
        Ok(None)
    }

    fn topic_names(&mut self) -> Result<BTreeSet<Arc<str>>, SourceFault> {
        Ok([topic()].into())
    }

    fn topics(&mut self, names: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, TopicState>, SourceFault> {
        let partitions = self.world.broker.borrow().logs.len() as i32;
        Ok(names.iter().map(|name| (name.clone(), TopicState { topic_id: None, partitions, may_read: true })).collect())
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Bounds>, SourceFault> {
        let broker = self.world.broker.borrow();
        let bounds = |partition: &TopicPartition| {
            let end = NextOffset(broker.ends[partition.partition as usize]);
            (partition.clone(), Bounds { start: NextOffset(0), last_stable: end, high_watermark: end })
        };
        Ok(partitions.iter().map(bounds).collect())
    }

    fn epoch_ends(
        &mut self,
        epochs: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>, SourceFault> {
        let broker = self.world.broker.borrow();
        let end = |(partition, LeaderEpoch(epoch)): &(TopicPartition, LeaderEpoch)| {
            let end = broker.ends[partition.partition as usize].min(i64::from(epoch + 1) * LEADER_OFFSETS);
            if end < self.world.database.borrow().next(partition.partition) {
                self.world.tally.borrow_mut().count("positions beyond the leader of their last record");
            }
            (partition.clone(), Some(NextOffset(end)))
        };
        Ok(epochs.iter().map(end).collect())
    }

    fn start_offsets(
        &mut self,
        _: &[TopicPartition],
        _: StartAt,
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        unreachable!("every partition has a row from the start")
    }

    fn committed_offsets(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        let broker = self.world.broker.borrow();
        let committed = |partition: &TopicPartition| {
            (partition.clone(), NextOffset(broker.committed[partition.partition as usize]))
        };
        Ok(partitions.iter().map(committed).collect())
    }

    fn subscribe(&mut self, _: &[Arc<str>], assignment: Arc<dyn Assignment>) -> Result<(), SourceFault> {
        self.assignment = Some(assignment);
        Ok(())
    }

    fn resubscribe(&mut self, _: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        Ok(())
    }

    fn partitions_added(&mut self, _: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        Ok(())
    }

    fn poll(&mut self, _: Duration, on_record: &mut OnRecord<'_>) -> Result<Vec<TopicPartition>, SourceFault> {
        // A client that has just thawed hands out what it has before it hears of anything.
        if self.world.is_zombie(self.member) {
            self.world.tally.borrow_mut().count("polls of a zombie");
        } else {
            self.hear();
        }
        for (number, local) in &mut self.local {
            let Local { position: Some(position), is_paused: false } = local else { continue };
            let n_max = self.world.random.borrow_mut().usize(0..5);
            let broker = self.world.broker.borrow();
            let log = &broker.logs[*number as usize];
            let from = log.partition_point(|offset| offset < position);
            let served = &log[from..(from + n_max).min(log.len())];
            for offset in served {
                let record = Incoming {
                    offset: Offset(*offset),
                    leader_epoch: Some(LeaderEpoch((*offset / LEADER_OFFSETS) as i32)),
                    timestamp_ms: Some(0),
                    key: None,
                    value: Some(VALUE),
                };
                on_record(&partition(*number), record);
            }
            *position = match served.last() {
                // Holes at the end are passed without a record.
                _ if n_max > 0 && from + served.len() == log.len() => broker.ends[*number as usize],
                Some(last) => last + 1,
                None => *position,
            };
        }
        Ok(Vec::new())
    }

    fn positions(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        let position = |partition: &TopicPartition| {
            Some((partition.clone(), NextOffset(self.local.get(&partition.partition)?.position?)))
        };
        partitions.iter().filter_map(position).collect()
    }

    fn seek(&mut self, partition: &TopicPartition, next: NextOffset) -> Result<(), SourceFault> {
        self.local.entry(partition.partition).or_default().position = Some(next.0);
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(local) = self.local.get_mut(&partition.partition) {
                local.is_paused = true;
            }
        }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(local) = self.local.get_mut(&partition.partition) {
                local.is_paused = false;
            }
        }
    }

    fn commit_offsets(&mut self, committable: &Committable) -> Result<(), SourceFault> {
        let mut broker = self.world.broker.borrow_mut();
        let is_held = |partition: &TopicPartition| broker.holders[partition.partition as usize] == Some(self.member);
        if !committable.offsets().keys().all(is_held) || self.world.strikes("offset commits refused", 30) {
            return Err(SourceFault::Away("rebalancing".to_owned()));
        }
        for (partition, next) in committable.offsets() {
            broker.committed[partition.partition as usize] = next.0;
        }
        self.world.is_told.set(true);
        Ok(())
    }

    fn commit_from_outside(&mut self, _: &Committable) -> Result<(), SourceFault> {
        unreachable!("no administrator is here")
    }

    fn away_since(&self) -> Option<Instant> {
        None
    }

    fn close(&mut self) {
        let others = self.world.members_but(self.member);
        let mut random = self.world.random.borrow_mut();
        self.world.broker.borrow_mut().expel(self.member, &others, &mut random);
    }
}
