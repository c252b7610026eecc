//! When to try again for a better port that was lost: after a second, then after twice as long each
//! time, up to a minute. It owns the pauses; it has no clock.

use std::time::{Duration, Instant};

/// The first pause: what is lost for longer than a blink.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause, and how long a port must last to count as well: one that is lost again sooner
/// goes on with the pauses where they were.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// When to try again.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    next: Option<Instant>,
    returned: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { pause: PAUSE_MIN, next: None, returned: None }
    }

    /// It was lost.
    pub(crate) fn lost(&mut self, now: Instant) {
        let lasted = |since| now.saturating_duration_since(since) >= PAUSE_MAX;
        if self.returned.take().is_none_or(lasted) {
            self.pause = PAUSE_MIN;
        }
        self.next = Some(now + self.pause);
    }

    /// Whether to try now. A yes counts as a try.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next.is_some_and(|next| now >= next);
        if is_due {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.next = Some(now + self.pause);
        }
        is_due
    }

    /// A try succeeded.
    pub(crate) fn returned(&mut self, now: Instant) {
        self.next = None;
        self.returned = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn tries_become_rarer_until_one_a_minute() {
        let start = Instant::now();
        let mut backoff = Backoff::new();
        assert!(!backoff.is_due(start + SECOND * 100), "nothing was lost");
        backoff.lost(start);
        let due: Vec<_> =
            (0..300).filter(|second| backoff.is_due(start + SECOND * *second)).collect();
        assert_eq!(due, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
    }

    #[test]
    fn interface_that_flaps_is_not_tried_as_if_it_were_new() {
        let start = Instant::now();
        let mut backoff = Backoff::new();
        backoff.lost(start);
        assert!(backoff.is_due(start + SECOND));
        backoff.returned(start + SECOND);
        assert!(!backoff.is_due(start + SECOND * 2), "it is there");
        backoff.lost(start + SECOND * 2);
        assert!(!backoff.is_due(start + SECOND * 3), "two seconds by now");
        assert!(backoff.is_due(start + SECOND * 4));
        backoff.returned(start + SECOND * 4);
        backoff.lost(start + SECOND * 100);
        assert!(backoff.is_due(start + SECOND * 101), "it had lasted");
    }
}
