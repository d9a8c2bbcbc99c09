//! How much to ask for of one partition, and what an answer that does not begin where it should means.
//!
//! Pure: whoever fetches is passed in. In a fetch that holds a compressed set the client hands out the first of them
//! alone: plain records before it are dropped without a word, what follows it is left for the next fetch. Never dropped
//! is anything between two records of one answer. So only the first offset of an answer has to be proven, and that a
//! small enough fetch does: the smallest that holds anything holds one set alone, as the broker sends whole sets, and
//! then there is nothing to be dropped.

/// No fetch asks for less, in bytes, but to prove something.
const LIMIT_MIN: i32 = 4 << 10;
/// For so many fetches a limit that was too small is not tried again.
const HOLD: u32 = 64;

/// The limit of one partition's fetches, in bytes.
///
/// What the client throws away was sent in vain, and for an old client the broker also converts it: so with compressed
/// sets the limit comes down to the size of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    limit: i32,
    too_small: i32,
    hold: u32,
}

impl Reach {
    /// Begins with this limit.
    pub fn new(limit: i32) -> Self {
        Reach { limit: limit.max(LIMIT_MIN), too_small: 0, hold: 0 }
    }

    /// What to ask for.
    pub fn limit(&self) -> i32 {
        self.limit
    }

    /// Nothing came, although the log goes on: the next set may be larger. `false` if `max` was asked for already.
    pub fn was_empty(&mut self, max: i32) -> bool {
        (self.too_small, self.hold) = (self.limit, HOLD);
        self.limit = self.limit.saturating_mul(2).min(max).max(self.limit);
        self.limit > self.too_small
    }

    /// Records of so many bytes came, and there are more if `has_more`; `share` is what this partition may ask for
    /// without need.
    pub fn was_read(&mut self, bytes: usize, has_more: bool, share: i32) {
        self.hold = self.hold.saturating_sub(1);
        if self.hold == 0 {
            self.too_small = 0;
        }
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // Plain records nearly fill what was asked for.
        let wasteful = has_more && (bytes > self.limit || bytes < self.limit / 4 * 3);
        let half = self.limit / 2;
        if (wasteful || self.limit > share) && half > self.too_small && half >= LIMIT_MIN {
            self.limit = half;
        } else if has_more && !wasteful && self.limit < share {
            self.limit = self.limit.saturating_mul(2).min(share);
        }
    }

    /// This limit was found to give what was asked for.
    pub fn was_found(&mut self, limit: i32) {
        self.limit = limit.max(LIMIT_MIN);
    }
}

/// What a fetch of one partition shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sight<R> {
    /// No record.
    Nothing,
    /// Records from this offset on.
    From(i64, R),
    /// Something that the client, or the broker for its sake, refuses to read.
    Refused(String),
}

/// What is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<R> {
    /// Records from the very offset on; a fetch of so many bytes gives them.
    Records(i32, R),
    /// None up to this offset, where the records are from: what was there was compacted, or is a transaction's marker.
    Gap(i64, R),
    /// Something that can't be read.
    Unreadable(String),
    /// The log changed while it was looked at.
    Unsettled,
}

/// Settles what is at the offset `asked`, where a fetch of `limit` bytes has shown `sight`: something else than records
/// from there on. `fetch` asks for the same offset with another limit.
pub(super) fn settle<R, E>(
    asked: i64,
    limit: i32,
    sight: Sight<R>,
    mut fetch: impl FnMut(i32) -> Result<Sight<R>, E>,
) -> Result<Found<R>, E> {
    // The most that is known to give nothing, and the least that is known to give something.
    let (mut nothing, mut something, mut sight) = (0, limit, sight);
    while something - nothing > 1 {
        let middle = nothing + (something - nothing) / 2;
        match fetch(middle)? {
            Sight::Nothing => nothing = middle,
            Sight::From(first, records) if first == asked => return Ok(Found::Records(middle, records)),
            other => (something, sight) = (middle, other),
        }
    }
    // One byte more completes one set: unless the log was rewritten since, or the broker does not give all that it is
    // asked for (a quota), which two looks in a row tell.
    if nothing > 0 && !matches!(fetch(nothing)?, Sight::Nothing) {
        return Ok(Found::Unsettled);
    }
    Ok(match (sight, fetch(something)?) {
        (Sight::From(before, _), Sight::From(first, records)) if first == before && first > asked => {
            Found::Gap(first, records)
        }
        (Sight::Refused(_), Sight::Refused(why)) => Found::Unreadable(why),
        _ => Found::Unsettled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A set of records as a broker stores it.
    #[derive(Clone)]
    enum Set {
        Plain(&'static [i64]),
        Compressed(&'static [i64]),
        Foreign,
        Marker,
    }

    use Set::{Compressed, Foreign, Marker, Plain};

    /// What the client makes of the complete sets within `limit` bytes.
    fn sight(log: &[(i32, Set)], asked: i64, limit: i32) -> Sight<Vec<i64>> {
        let (mut end, mut plain) = (0, Vec::new());
        for (bytes, set) in log {
            end += bytes;
            let wanted = |offsets: &[i64]| offsets.iter().copied().filter(|offset| *offset >= asked).collect();
            match set {
                _ if end > limit => break,
                Plain(offsets) => plain.extend::<Vec<i64>>(wanted(offsets)),
                Compressed(offsets) => {
                    plain = wanted(offsets);
                    break;
                }
                Foreign => return Sight::Refused("lz4".to_owned()),
                Marker => {}
            }
        }
        plain.first().map_or(Sight::Nothing, |first| Sight::From(*first, plain.clone()))
    }

    fn settled(log: &[(i32, Set)], asked: i64, limit: i32) -> Found<Vec<i64>> {
        let fetch = |limit| Ok::<_, Infallible>(sight(log, asked, limit));
        let Ok(found) = settle(asked, limit, sight(log, asked, limit), fetch);
        found
    }

    #[test]
    fn plain_records_before_a_compressed_set_are_found() {
        let log = [(50, Plain(&[5])), (50, Plain(&[6])), (80, Compressed(&[7, 8, 9])), (50, Plain(&[10]))];
        assert_eq!(sight(&log, 5, 1000), Sight::From(7, vec![7, 8, 9]), "the client drops 5 and 6");
        for limit in 180..2000 {
            let Found::Records(at, records) = settled(&log, 5, limit) else { panic!("limit {limit}") };
            assert_eq!((records[0], sight(&log, 5, at)), (5, Sight::From(5, records)));
        }
    }

    #[test]
    fn a_hole_is_one_whatever_is_behind_it() {
        for behind in [Plain(&[9, 10]), Compressed(&[9, 10])] {
            let log = [(70, Marker), (100, behind), (100, Compressed(&[11, 12])), (9, Plain(&[13]))];
            for limit in 170..2000 {
                assert_eq!(settled(&log, 5, limit), Found::Gap(9, vec![9, 10]), "limit {limit}");
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_so_only_at_its_own_offset() {
        let log = [(100, Plain(&[5, 6])), (100, Foreign)];
        assert_eq!(settled(&log, 5, 500), Found::Records(125, vec![5, 6]));
        assert_eq!(settled(&log[1..], 7, 500), Found::Unreadable("lz4".to_owned()));
        // The broker itself refuses, whatever the limit.
        let refused = || Sight::<()>::Refused("zstd".to_owned());
        let found = settle(7, 1 << 20, refused(), |_| Ok::<_, Infallible>(refused()));
        assert_eq!(found, Ok(Found::Unreadable("zstd".to_owned())));
    }

    #[test]
    fn a_log_that_changes_meanwhile_proves_nothing() {
        let mut n_fetches = 0;
        let found = settle(5, 1000, Sight::From(9, ()), |limit| {
            n_fetches += 1;
            // Rewritten, with smaller sets, just before the last look.
            Ok::<_, Infallible>(if limit >= 700 || n_fetches > 10 { Sight::From(9, ()) } else { Sight::Nothing })
        });
        assert_eq!(found, Ok(Found::Unsettled));
    }

    #[test]
    fn a_broker_that_gives_less_than_it_is_asked_for_proves_nothing() {
        let log = [(100, Plain(&[5, 6])), (100, Compressed(&[7, 8]))];
        let fetch = |limit: i32| Ok::<_, Infallible>(sight(&log, 5, limit.min(50)));
        assert_eq!(settle(5, 1000, sight(&log, 5, 1000), fetch), Ok(Found::Unsettled));
    }

    #[test]
    fn a_failed_fetch_ends_the_search() {
        assert_eq!(settle(5, 1000, Sight::From(9, ()), |_| Err("gone")), Err("gone"));
    }

    #[test]
    fn the_limit_grows_to_any_size_and_comes_back() {
        let mut reach = Reach::new(512 << 10);
        let mut n_steps = 0;
        while reach.limit() < 100 << 20 {
            assert!(reach.was_empty(128 << 20));
            n_steps += 1;
        }
        assert_eq!(n_steps, 8);
        assert!(!reach.was_empty(128 << 20), "there is no more to ask for");
        for _ in 0..100 {
            reach.was_read(1 << 20, false, 512 << 10);
        }
        assert_eq!(reach.limit(), 512 << 10);
    }

    #[test]
    fn the_limit_comes_down_to_the_size_of_a_compressed_set() {
        let (mut reach, set) = (Reach::new(512 << 10), 20_000);
        let mut n_empty = 0;
        for _ in 0..200 {
            if reach.limit() < set {
                assert!(reach.was_empty(1 << 30));
                n_empty += 1;
            } else {
                reach.was_read(160_000, true, 512 << 10);
            }
        }
        assert!(reach.limit() < 2 * set, "{reach:?}");
        assert!(n_empty <= 5, "{n_empty} fetches in vain");
    }

    #[test]
    fn the_limit_of_plain_records_is_the_share() {
        let mut reach = Reach::new(16 << 10);
        for _ in 0..10 {
            reach.was_read(reach.limit() as usize - 1000, true, 512 << 10);
        }
        assert_eq!(reach.limit(), 512 << 10);
    }
}
