//! How many partitions are fetched at once, so that what one poll brings stays small whatever it expands to.
//!
//! Pure. A client bounds a fetch by its compressed bytes and by records, never by what the records take in memory, and
//! neither limit can be changed under way; but which partitions are paused can. So few are read at first, more while
//! polls bring little, fewer once one has brought too much, and they take turns.

use crate::record::TopicPartition;
use std::collections::BTreeSet;

/// How many are read at first.
const SIZE_FIRST: usize = 1;

/// Takes turns among the partitions that are read.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    // Bytes that a poll should bring at most.
    goal: usize,
    // What polls have brought lately, at most.
    appetite: usize,
    // The last of those whose turn it was.
    last: Option<TopicPartition>,
    closed: BTreeSet<TopicPartition>,
}

/// What the client is to be told before the next poll.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    pub pause: Vec<TopicPartition>,
    pub resume: Vec<TopicPartition>,
}

impl Window {
    /// A window that aims at polls of at most `goal` bytes.
    pub fn new(goal: usize) -> Self {
        Window { size: SIZE_FIRST, goal, appetite: 0, last: None, closed: BTreeSet::new() }
    }

    /// What a poll has to be expected to bring, in bytes.
    pub fn appetite(&self) -> usize {
        self.appetite
    }

    /// Takes in what a poll brought, in bytes of keys and values.
    pub fn polled(&mut self, bytes: usize) {
        self.appetite = bytes.max(self.appetite / 8 * 7);
        if bytes > self.goal {
            self.size = (self.size / 2).max(1);
        } else if bytes < self.goal / 4 {
            self.size = self.size.saturating_mul(2);
        }
    }

    /// Forgets whom it has paused, because all were resumed or paused by others.
    pub fn forget(&mut self) {
        self.closed.clear();
    }

    /// Whose turn it is among `reading`, which is in order.
    pub fn turn(&mut self, reading: &[TopicPartition]) -> Turn {
        if self.size >= reading.len() {
            // What it could grow to in one poll must not take many to shrink from.
            self.size = self.size.min(reading.len().max(SIZE_FIRST));
            self.last = None;
            let closed = std::mem::take(&mut self.closed);
            let resume = reading.iter().filter(|partition| closed.contains(*partition)).cloned().collect();
            return Turn { pause: Vec::new(), resume };
        }
        let first = match &self.last {
            Some(last) => reading.partition_point(|partition| partition <= last),
            None => 0,
        };
        let open: BTreeSet<&TopicPartition> = reading.iter().cycle().skip(first).take(self.size).collect();
        self.last = reading.get((first + self.size - 1) % reading.len()).cloned();
        let mut turn = Turn::default();
        let mut closed = BTreeSet::new();
        for partition in reading {
            match (open.contains(partition), self.closed.contains(partition)) {
                (true, true) => turn.resume.push(partition.clone()),
                (false, false) => turn.pause.push(partition.clone()),
                _ => {}
            }
            if !open.contains(partition) {
                closed.insert(partition.clone());
            }
        }
        self.closed = closed;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: usize = 1 << 20;

    fn partitions(n: i32) -> Vec<TopicPartition> {
        (0..n).map(|number| TopicPartition::new("t", number)).collect()
    }

    /// A client that does what it is told.
    #[derive(Default)]
    struct Client(BTreeSet<TopicPartition>);

    impl Client {
        fn follow(&mut self, turn: Turn) {
            self.0.extend(turn.pause);
            turn.resume.iter().for_each(|partition| assert!(self.0.remove(partition), "it was paused"));
        }

        fn open(&self, reading: &[TopicPartition]) -> Vec<i32> {
            reading.iter().filter(|partition| !self.0.contains(*partition)).map(|p| p.partition).collect()
        }
    }

    #[test]
    fn few_partitions_are_soon_all_read_and_nothing_is_paused_any_more() {
        let mut window = Window::new(GOAL);
        let mut client = Client::default();
        for _ in 0..3 {
            client.follow(window.turn(&partitions(3)));
            window.polled(0);
        }
        assert_eq!(client.open(&partitions(3)), [0, 1, 2]);
        for bytes in [0, GOAL / 2, GOAL / 2, 0] {
            assert_eq!(window.turn(&partitions(3)), Turn::default());
            window.polled(bytes);
        }
    }

    #[test]
    fn more_are_read_while_polls_bring_little() {
        let (mut window, mut client, reading) = (Window::new(GOAL), Client::default(), partitions(100));
        let mut sizes = Vec::new();
        for _ in 0..9 {
            client.follow(window.turn(&reading));
            sizes.push(client.open(&reading).len());
            window.polled(0);
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 100, 100]);
    }

    #[test]
    fn polls_that_bring_too_much_leave_one_partition_at_a_time_and_each_has_its_turn() {
        let (mut window, mut client, reading) = (Window::new(GOAL), Client::default(), partitions(5));
        let mut turns = Vec::new();
        window.size = 4;
        for _ in 0..12 {
            client.follow(window.turn(&reading));
            turns.push(client.open(&reading));
            window.polled(GOAL + 1);
        }
        assert_eq!(turns[..3], [vec![0, 1, 2, 3], vec![0, 4], vec![1]]);
        assert_eq!(turns[3..8].concat(), [2, 3, 4, 0, 1]);
        assert_eq!(window.appetite(), GOAL + 1);
    }

    #[test]
    fn one_that_left_and_came_back_is_read_in_its_turn() {
        let (mut window, mut client, reading) = (Window::new(GOAL), Client::default(), partitions(9));
        client.follow(window.turn(&reading));
        // Revoked, assigned, and resumed by whoever owns it.
        let without = reading[..8].to_vec();
        client.follow(window.turn(&without));
        client.0.remove(&reading[8]);
        let mut seen = BTreeSet::new();
        for _ in 0..9 {
            window.polled(GOAL / 2);
            client.follow(window.turn(&reading));
            let open = client.open(&reading);
            assert_eq!(open.len(), SIZE_FIRST, "{open:?}");
            seen.extend(open);
        }
        assert_eq!(seen.len(), 9);
    }

    #[test]
    fn what_a_poll_may_bring_is_forgotten_slowly() {
        let mut window = Window::new(GOAL);
        window.polled(8000);
        window.polled(0);
        assert_eq!(window.appetite(), 7000);
    }
}
