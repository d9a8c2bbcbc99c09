//! Fetches: what is asked of the brokers, and what is taken in of their answers.

use super::answer::{Outcome, Said, outcomes};
use super::errors::{Failed, stuck, unreadable};
use super::reach::{Found, Sight, settle};
use super::{Cursor, KafkaSource, RETRY_PAUSE};
use crate::record::{NextOffset, TopicPartition};
use crate::source::{OnRecord, SourceFault};
use kafka::client::FetchPartition;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A fetch is given up after so long, at first. A large one over a slow network takes its time, and is begun again after
/// that: so each time doubles this.
pub(super) const FETCH_TIMEOUT_MIN: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The most that is asked for at a time: of one partition without need, of all together, of one for a large message.
/// Brokers take no larger request than 100 MiB unless they are told to.
pub(super) const PARTITION_FETCH_BYTES: i32 = 512 << 10;
const PARTITION_FETCH_BYTES_MIN: i32 = 4 << 10;

const FETCH_BYTES_MAX: i32 = 8 << 20;
const LARGE_FETCH_BYTES: usize = 128 << 20;
/// What is around the largest message: its key and headers, and the set that it is in.
const OVERHEAD_BYTES: usize = 1 << 20;

/// What is asked of one partition.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) partition: TopicPartition,
    pub(super) from: NextOffset,
    pub(super) limit: i32,
}

/// Why a fetch gave nothing.
pub(super) enum Failure {
    Fault(SourceFault),
    /// Some of the bytes can't be parsed, and will not be the next time.
    Bytes(String),
}

impl From<SourceFault> for Failure {
    fn from(fault: SourceFault) -> Self {
        Failure::Fault(fault)
    }
}

impl KafkaSource {
    /// The most that is asked for of one partition.
    fn fetch_bytes_max(&self) -> i32 {
        let large = LARGE_FETCH_BYTES.max(self.config.message_bytes_max + OVERHEAD_BYTES);
        i32::try_from(large).unwrap_or(i32::MAX)
    }

    /// What may be asked for now. Paused partitions are left alone, and so are those that something is wrong with.
    pub(super) fn asks(&self) -> (Vec<Ask>, i32) {
        let now = Instant::now();
        let due = |cursor: &Cursor| !cursor.is_paused && cursor.later.is_none_or(|later| later <= now);
        let asks = self.cursors.iter().filter(|(_, cursor)| due(cursor)).map(|(partition, cursor)| Ask {
            partition: partition.clone(),
            from: cursor.next,
            limit: cursor.reach.limit(),
        });
        let mut asks: Vec<Ask> = asks.collect();
        let share = FETCH_BYTES_MAX / i32::try_from(asks.len().max(1)).unwrap_or(i32::MAX);
        let share = share.clamp(PARTITION_FETCH_BYTES_MIN, PARTITION_FETCH_BYTES);
        // What needs more is asked for alone, once nothing has come this way: so several large messages are not in
        // memory at a time.
        asks.iter_mut().for_each(|ask| ask.limit = ask.limit.min(share));
        (asks, share)
    }

    pub(super) fn fetch(
        &mut self,
        asks: Vec<Ask>,
        wait: Duration,
    ) -> Result<HashMap<TopicPartition, Outcome>, Failure> {
        let brokers = self.leaders_of(asks.iter().map(|ask| &ask.partition));
        let wait = wait / u32::try_from(brokers.len().max(1)).unwrap_or(u32::MAX);
        let limit = wait + self.fetch_timeout;
        let fetched = self.call(limit, move |room| {
            brokers.iter().try_for_each(|broker| room.reach(broker)).map_err(Failed::Alike)?;
            room.client.set_fetch_max_wait_time(wait)?;
            let wanted = asks.iter().map(|ask| {
                FetchPartition::new(&ask.partition.topic, ask.partition.partition, ask.from.0).with_max_bytes(ask.limit)
            });
            Ok(room.client.fetch_messages(wanted)?)
        });
        self.fetch_timeout = match &fetched {
            Err(Failure::Fault(SourceFault::Away(_))) => self.fetch_timeout * 2,
            _ => self.fetch_timeout.mul_f64(0.99),
        };
        self.fetch_timeout = self.fetch_timeout.clamp(FETCH_TIMEOUT_MIN, FETCH_TIMEOUT_MAX);
        Ok(outcomes(fetched?))
    }

    /// What a fetch of one partition alone shows. `None` where it says nothing for now.
    fn fetch_one(&mut self, ask: Ask, wait: Duration) -> Result<Option<Outcome>, SourceFault> {
        let partition = ask.partition.clone();
        match self.fetch(vec![ask], wait) {
            Ok(mut outcomes) => Ok(outcomes.remove(&partition)),
            Err(Failure::Fault(fault)) => Err(fault),
            Err(Failure::Bytes(why)) => {
                let high_watermark = NextOffset(i64::MAX);
                Ok(Some(Outcome::Said(Said { high_watermark, sight: Sight::Refused(why) })))
            }
        }
    }

    /// Fetches all together, or, while one of them can't be parsed, each alone.
    pub(super) fn fetch_all(&mut self, asks: &[Ask], wait: Duration) -> Result<Vec<(Ask, Outcome)>, SourceFault> {
        let separately = self.separately_until.is_some_and(|until| Instant::now() < until);
        if asks.len() > 1 && !separately {
            match self.fetch(asks.to_vec(), wait) {
                Ok(mut outcomes) => {
                    let of = |ask: &Ask| Some((ask.clone(), outcomes.remove(&ask.partition)?));
                    return Ok(asks.iter().filter_map(of).collect());
                }
                Err(Failure::Fault(fault)) => return Err(fault),
                Err(Failure::Bytes(_)) => self.separately_until = Some(Instant::now() + RETRY_PAUSE * 10),
            }
        }
        let wait = wait / u32::try_from(asks.len().max(1)).unwrap_or(u32::MAX);
        let mut fetched = Vec::new();
        for ask in asks {
            if let Some(outcome) = self.fetch_one(ask.clone(), wait)? {
                fetched.push((ask.clone(), outcome));
            }
        }
        Ok(fetched)
    }

    /// Takes in what was said of one partition, alone or beside others.
    pub(super) fn take_in(
        &mut self,
        ask: &Ask,
        said: Said,
        (mut are_others, share): (bool, i32),
        on_record: &mut OnRecord<'_>,
    ) -> Result<(), SourceFault> {
        let mut ask = ask.clone();
        let Said { mut high_watermark, mut sight } = said;
        let asked = ask.from.0;
        // Others may have used up what the broker gives at a time, so it is asked alone; then the next set is larger than
        // what was asked for, or there is none.
        while matches!(sight, Sight::Nothing) && high_watermark > ask.from {
            let max = self.fetch_bytes_max();
            let Some(cursor) = self.cursors.get_mut(&ask.partition) else { return Ok(()) };
            let is_larger = ask.limit < cursor.reach.limit() || cursor.reach.was_empty(max);
            if !is_larger && !are_others {
                cursor.later = Some(Instant::now() + RETRY_PAUSE);
                return Err(stuck(&ask, high_watermark, max));
            }
            (ask.limit, are_others) = (cursor.reach.limit(), false);
            match self.fetch_one(ask.clone(), Duration::ZERO)? {
                Some(Outcome::Said(said)) => Said { high_watermark, sight } = said,
                Some(Outcome::Fault(fault)) => return Err(fault),
                // The next poll says it again.
                _ => return Ok(()),
            }
        }
        let (limit, found) = match sight {
            Sight::Nothing => return Ok(()),
            Sight::From(first, records) if first == asked => (None, Found::Records(ask.limit, records)),
            sight => {
                let mut aside = None;
                let found = settle(asked, ask.limit, sight, |limit| {
                    match self.fetch_one(Ask { limit, ..ask.clone() }, Duration::ZERO)? {
                        Some(Outcome::Said(said)) => Ok(said.sight),
                        Some(Outcome::Fault(fault)) => Err(fault),
                        // The leader has changed, say.
                        other => {
                            aside = other;
                            Err(SourceFault::Away("the partition has moved meanwhile".to_owned()))
                        }
                    }
                });
                if let (Err(SourceFault::Away(_)), Some(_)) = (&found, aside) {
                    return self.look_for_leaders();
                }
                (Some(ask.limit), found?)
            }
        };
        let Some(cursor) = self.cursors.get_mut(&ask.partition) else { return Ok(()) };
        let (at, first, records) = match found {
            Found::Records(at, records) => (at, asked, records),
            Found::Gap(first, records) => {
                let partition = &ask.partition;
                let level = if cursor.has_gaps { log::Level::Debug } else { log::Level::Info };
                cursor.has_gaps = true;
                log::log!(
                    level,
                    "partition={partition} offsets={asked}..{first}: Kafka holds no records there (compacted, or markers \
                     of transactions)"
                );
                (ask.limit, first, records)
            }
            Found::Unreadable(why) => {
                cursor.later = Some(Instant::now() + RETRY_PAUSE);
                return Err(unreadable(&ask, &why));
            }
            Found::Unsettled => {
                self.complain(format!("partition {}: what is at offset {asked} is not clear yet", ask.partition));
                return Ok(());
            }
        };
        let (mut next, mut bytes, mut is_in_order) = (NextOffset(first), 0, true);
        records.deliver(|record| {
            is_in_order &= record.offset.0 >= next.0;
            if is_in_order {
                next = record.offset.next();
                // As the protocol counts: offset, size, checksum, two attributes, two lengths.
                bytes += 26 + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                on_record(&ask.partition, record);
            }
        });
        cursor.next = next;
        match limit {
            Some(_) => cursor.reach.was_found(at),
            None => cursor.reach.was_read(bytes, high_watermark > next, share),
        }
        match is_in_order {
            true => Ok(()),
            false => Err(unreadable(&Ask { from: next, ..ask }, "its offsets go backwards")),
        }
    }
}
