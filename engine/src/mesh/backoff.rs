//! How long to wait before trying again: exponential with full jitter, so that all edges of a dead
//! relay do not come back in the same moment. Seeded, without a clock.

use std::time::Duration;

/// Longest wait before the first retry; each failure doubles it.
pub const FIRST: Duration = Duration::from_millis(250);

/// Longest wait at all: a relay that was away for long is found again within this.
pub const MOST: Duration = Duration::from_secs(10);

/// The wait of one upstream.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    chance: fastrand::Rng,
}

impl Backoff {
    /// Fresh, with its own chance.
    pub fn new(seed: u64) -> Self {
        Self { failures: 0, chance: fastrand::Rng::with_seed(seed) }
    }

    /// Another attempt failed: the wait until the next, anything from nothing to the present limit.
    pub fn failed(&mut self) -> Duration {
        let limit = self.limit();
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(self.chance.f64())
    }

    /// It works: the next failure begins small again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Longest wait that the next failure can bring.
    pub fn limit(&self) -> Duration {
        FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_small_again_after_success() {
        let mut backoff = Backoff::new(1);
        let limits: Vec<Duration> = (0..8)
            .map(|_| {
                let limit = backoff.limit();
                assert!(backoff.failed() <= limit);
                limit
            })
            .collect();
        assert_eq!(limits[0], FIRST);
        assert_eq!(limits[1], FIRST * 2);
        assert_eq!(limits[7], MOST);
        backoff.succeeded();
        assert_eq!(backoff.limit(), FIRST);
    }

    #[test]
    fn a_thousand_edges_do_not_come_back_together() {
        let waits: Vec<Duration> = (0..1_000)
            .map(|seed| {
                let mut backoff = Backoff::new(seed);
                for _ in 0..4 {
                    backoff.failed();
                }
                backoff.failed()
            })
            .collect();
        // The fifth wait is spread over 4 s: a tenth of that holds about a tenth of them.
        let limit = FIRST * 16;
        for tenth in 0..10 {
            let from = limit * tenth / 10;
            let there = waits.iter().filter(|w| **w >= from && **w < from + limit / 10).count();
            assert!((50..=160).contains(&there), "tenth {tenth}: {there}");
        }
        assert_eq!(Backoff::new(7).failed(), Backoff::new(7).failed(), "seeded");
    }
}
