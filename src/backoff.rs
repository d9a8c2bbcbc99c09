//! How long to wait before trying again: exponential with full jitter.
//!
//! Pure but for its own random numbers, which are seeded by the caller. Nothing here sleeps.
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>

use std::time::Duration;

/// The delays of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    attempts: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// Delays drawn from `0..=initial·2ⁿ`, never above `max`.
    pub fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        Backoff { initial, max, attempts: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The same with a seed of its own, so that copies of a process do not march in step.
    pub fn unseeded(initial: Duration, max: Duration) -> Self {
        Backoff::new(initial, max, fastrand::u64(..))
    }

    /// The next delay. At least a tenth of its limit, so that a series never spins.
    pub fn next_delay(&mut self) -> Duration {
        let limit = self.initial.saturating_mul(1 << self.attempts.min(20)).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        limit.mul_f64(0.1 + 0.9 * self.random.f64())
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_limit_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30), 7);
        let delays: Vec<Duration> = (0..40).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= Duration::from_millis(100) && delays[0] >= Duration::from_millis(10));
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(30)));
        assert!(delays[20..].iter().any(|delay| *delay > Duration::from_secs(15)));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
