//! The newest records of logs with holes, of several partitions, and of logs that change while they are read.

use super::*;
use crate::delivery::Committable;
use crate::record::LeaderEpoch;
use crate::source::{OnRecord, StartAt, TopicState};
use std::collections::BTreeSet;

/// A log's entries from its start on: the time of a record, or nothing where there is none.
type Log = Vec<Option<i64>>;

/// What happens to a cluster.
type Event = fn(&mut Cluster);

/// A cluster with one topic.
#[derive(Default)]
struct Cluster {
    logs: BTreeMap<i32, (i64, Log)>,
    positions: BTreeMap<i32, i64>,
    resumed: Option<i32>,
    // Records of one poll, at most.
    poll_records_max: usize,
    n_delivered: usize,
    // What happens before the poll of this number, from 1.
    at_poll: Option<(usize, Event)>,
    n_polls: usize,
    is_gone: bool,
    away_since: Option<Instant>,
}

impl Cluster {
    fn of(logs: &[(i64, Log)]) -> Self {
        let logs = (0..).zip(logs.iter().cloned()).collect();
        Cluster { logs, poll_records_max: 3, ..Cluster::default() }
    }

    fn newest(&mut self, n: usize) -> Result<Vec<(i32, i64)>, SourceFault> {
        let topic: Arc<str> = "t".into();
        let partitions: Vec<_> = self.logs.keys().map(|number| TopicPartition::new("t", *number)).collect();
        let bounds = self.bounds(&partitions)?;
        Newest::subscribe(self, &topic, &bounds)?;
        let mut newest = Newest::new(self, bounds, Duration::ZERO);
        let places = newest.find(n, &mut |_| {})?;
        let mut read = Vec::new();
        newest.read(&places, &mut |partition, record| {
            read.push((partition.partition, record.offset.0));
            Ok::<_, SourceFault>(())
        })?;
        Ok(read)
    }
}

impl Source for Cluster {
    fn topics(&mut self, names: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, TopicState>, SourceFault> {
        match self.is_gone {
            true => Err(SourceFault::MissingTopic("t".to_owned())),
            false => Ok(names
                .iter()
                .map(|name| (name.clone(), TopicState { topic_id: None, partitions: 1, may_read: true }))
                .collect()),
        }
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Bounds>, SourceFault> {
        let bounds = |partition: &TopicPartition| {
            let (start, log) = &self.logs[&partition.partition];
            let end = NextOffset(start + log.len() as i64);
            (partition.clone(), Bounds { start: NextOffset(*start), last_stable: end, high_watermark: end })
        };
        Ok(partitions.iter().map(bounds).collect())
    }

    fn subscribe(&mut self, _: &[Arc<str>], assignment: Arc<dyn Assignment>) -> Result<(), SourceFault> {
        let all: Vec<_> = self.logs.keys().map(|number| TopicPartition::new("t", *number)).collect();
        for (partition, next) in assignment.assigned(&all) {
            self.positions.insert(partition.partition, next.0);
        }
        assert_eq!(self.positions.len(), self.logs.len(), "a partition without a position would hang every poll");
        Ok(())
    }

    fn poll(&mut self, _: Duration, on_record: &mut OnRecord<'_>) -> Result<Vec<TopicPartition>, SourceFault> {
        self.n_polls += 1;
        if let Some((_, event)) = self.at_poll.take_if(|(at, _)| *at == self.n_polls) {
            event(self);
        }
        // As the real client: an outage looks like no records.
        if self.away_since.is_some() {
            return Ok(Vec::new());
        }
        let number = self.resumed.expect("something is to be read");
        let partition = TopicPartition::new("t", number);
        let (start, log) = &self.logs[&number];
        let position = self.positions.get_mut(&number).expect("every partition has a position");
        if *position < *start {
            return Ok(vec![partition]);
        }
        let rest = log.iter().zip(*start..).skip((*position - start) as usize);
        let records: Vec<_> = rest.filter_map(|(time, offset)| Some((time.as_ref()?, offset))).collect();
        for (time, offset) in records.iter().take(self.poll_records_max) {
            let timestamp_ms = (**time >= 0).then_some(**time);
            on_record(
                &partition,
                Incoming { offset: Offset(*offset), leader_epoch: None, timestamp_ms, key: None, value: None },
            );
            self.n_delivered += 1;
        }
        // As the real client: to the next record, or to the end where there is none.
        *position = match records.get(self.poll_records_max - 1) {
            Some((_, last)) if records.len() > self.poll_records_max => last + 1,
            _ => start + log.len() as i64,
        };
        Ok(Vec::new())
    }

    fn positions(&mut self, partitions: &[TopicPartition]) -> Vec<(TopicPartition, NextOffset)> {
        partitions.iter().map(|p| (p.clone(), NextOffset(self.positions[&p.partition]))).collect()
    }

    fn seek(&mut self, partition: &TopicPartition, next: NextOffset) -> Result<(), SourceFault> {
        self.positions.insert(partition.partition, next.0);
        Ok(())
    }

    fn pause(&mut self, _: &[TopicPartition]) {
        self.resumed = None;
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.resumed = Some(partitions[0].partition);
    }

    fn away_since(&self) -> Option<Instant> {
        self.away_since
    }

    fn commit_offsets(&mut self, _: &Committable) -> Result<(), SourceFault> {
        panic!("nothing is ever committed")
    }

    fn commit_from_outside(&mut self, _: &Committable) -> Result<(), SourceFault> {
        panic!("nothing is ever committed")
    }

    fn committed_offsets(&mut self, _: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        panic!("the group does not matter")
    }

    fn epoch_ends(
        &mut self,
        _: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>, SourceFault> {
        unreachable!("nothing is claimed")
    }

    fn start_offsets(
        &mut self,
        _: &[TopicPartition],
        _: StartAt,
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, SourceFault> {
        panic!("nothing is started")
    }

    fn partitions_added(&mut self, _: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        panic!("partitions are those of the start")
    }

    fn resubscribe(&mut self, _: &BTreeMap<Arc<str>, TopicState>) -> Result<(), SourceFault> {
        panic!("the topic is that of the start")
    }

    fn topic_names(&mut self) -> Result<BTreeSet<Arc<str>>, SourceFault> {
        panic!("the topic is known")
    }

    fn cluster_id(&mut self) -> Result<Option<String>, SourceFault> {
        panic!("the cluster does not matter")
    }

    fn close(&mut self) {}
}

fn times(times: impl IntoIterator<Item = i64>) -> Log {
    times.into_iter().map(Some).collect()
}

/// So many offsets without a record.
fn hole(n: usize) -> Log {
    vec![None; n]
}

#[test]
fn the_last_records_of_one_partition_are_the_newest_whatever_their_times() {
    let mut cluster = Cluster::of(&[(100, times([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]))]);
    assert_eq!(cluster.newest(3), Ok(vec![(0, 107), (0, 108), (0, 109)]));
    assert_eq!(cluster.n_delivered, 6, "no more is read than is needed, twice");
    assert_eq!(cluster.newest(1), Ok(vec![(0, 109)]));
    assert_eq!(cluster.newest(10).map(|read| read.len()), Ok(10));
    assert_eq!(cluster.newest(1_000_000).map(|read| read.len()), Ok(10));
}

#[test]
fn of_several_partitions_the_newest_by_time_then_partition_then_offset_are_read() {
    let logs = [(0, times([10, 30, 50])), (5, times([20, 40, 60])), (0, vec![]), (7, times([60, 60]))];
    let newest = |n| Cluster::of(&logs).newest(n);
    assert_eq!(newest(1), Ok(vec![(3, 8)]));
    assert_eq!(newest(2), Ok(vec![(3, 7), (3, 8)]));
    assert_eq!(newest(3), Ok(vec![(1, 7), (3, 7), (3, 8)]));
    assert_eq!(newest(5), Ok(vec![(0, 2), (1, 6), (1, 7), (3, 7), (3, 8)]));
    assert_eq!(newest(100).map(|read| read.len()), Ok(8));
}

#[test]
fn a_record_without_a_time_is_older_than_any_with_one() {
    let logs = [(0, times([-1, -1])), (0, times([0, 1]))];
    assert_eq!(Cluster::of(&logs).newest(3), Ok(vec![(0, 1), (1, 0), (1, 1)]));
}

#[test]
fn holes_are_gone_around_and_a_log_of_nothing_else_ends() {
    let log = [times([1, 2]), hole(1000), times([3]), hole(50)].concat();
    for n in 1..=4 {
        let expected: Vec<_> = [(0, 10), (0, 11), (0, 1012)].into_iter().rev().take(n).rev().collect();
        assert_eq!(Cluster::of(&[(10, log.clone())]).newest(n), Ok(expected), "{n}");
    }
    assert_eq!(Cluster::of(&[(0, hole(100_000)), (5, vec![])]).newest(3), Ok(vec![]));
    assert_eq!(Cluster::of(&[]).newest(3), Ok(vec![]));
}

#[test]
fn what_arrives_meanwhile_is_not_read() {
    let mut cluster = Cluster::of(&[(0, times(0..10))]);
    cluster.at_poll = Some((1, |cluster| cluster.logs.get_mut(&0).unwrap().1.extend(times(10..40))));
    assert_eq!(cluster.newest(2), Ok(vec![(0, 8), (0, 9)]));
}

#[test]
fn what_is_deleted_meanwhile_is_left_out() {
    for (at_poll, expected) in [(1, vec![(0, 8), (0, 9)]), (3, vec![(0, 8), (0, 9)])] {
        let mut cluster = Cluster::of(&[(0, times(0..10))]);
        cluster.at_poll = Some((at_poll, |cluster| *cluster.logs.get_mut(&0).unwrap() = (8, times([8, 9]))));
        let topic: Arc<str> = "t".into();
        let bounds = cluster.bounds(&[TopicPartition::new("t", 0)]).unwrap();
        // With patience for the look at the log.
        Newest::subscribe(&mut cluster, &topic, &bounds).unwrap();
        let mut newest = Newest::new(&mut cluster, bounds, Duration::from_secs(60));
        let places = newest.find(4, &mut |_| {}).unwrap();
        let mut read = Vec::new();
        let outcome = newest.read(&places, &mut |partition, record| {
            read.push((partition.partition, record.offset.0));
            Ok::<_, SourceFault>(())
        });
        assert_eq!((outcome, read), (Ok(()), expected), "{at_poll}");
    }
}

#[test]
fn a_cluster_that_stays_away_is_given_up() {
    let mut cluster = Cluster::of(&[(0, times(0..10))]);
    cluster.at_poll = Some((2, |cluster| cluster.away_since = Some(Instant::now())));
    cluster.poll_records_max = 1;
    let Err(SourceFault::Away(what)) = cluster.newest(2) else { panic!("it is away") };
    assert!(what.contains("retry.max_outage_s"), "{what}");
}

#[test]
fn a_topic_that_is_deleted_meanwhile_is_missing() {
    let mut cluster = Cluster::of(&[(0, times(0..10))]);
    cluster.at_poll = Some((1, |cluster| {
        cluster.is_gone = true;
        *cluster.logs.get_mut(&0).unwrap() = (100, vec![]);
    }));
    let topic: Arc<str> = "t".into();
    let bounds = cluster.bounds(&[TopicPartition::new("t", 0)]).unwrap();
    Newest::subscribe(&mut cluster, &topic, &bounds).unwrap();
    let mut newest = Newest::new(&mut cluster, bounds, Duration::from_secs(60));
    assert_eq!(newest.find(4, &mut |_| {}), Err(SourceFault::MissingTopic("t".to_owned())));
}

#[test]
fn the_readers_error_ends_the_reading() {
    let mut cluster = Cluster::of(&[(0, times(0..10))]);
    let topic: Arc<str> = "t".into();
    let bounds = cluster.bounds(&[TopicPartition::new("t", 0)]).unwrap();
    Newest::subscribe(&mut cluster, &topic, &bounds).unwrap();
    let mut newest = Newest::new(&mut cluster, bounds, Duration::ZERO);
    let places = newest.find(5, &mut |_| {}).unwrap();
    let mut n_read = 0;
    let outcome = newest.read(&places, &mut |_, _| {
        n_read += 1;
        Err(SourceFault::Config("enough".to_owned()))
    });
    assert_eq!((outcome, n_read), (Err(SourceFault::Config("enough".to_owned())), 1));
}
