//! For how long nothing has been heard on a connection. It counts only while somebody looks: a process that stood still
//! cannot tell a dead peer from its own absence. How much silence is too much is its owner's verdict.

use std::time::{Duration, Instant};

/// How often a sign of life is asked for: 5 packets a second on each connection.
pub const PROBE_EVERY: Duration = Duration::from_millis(200);

/// Most silence that one look can add: two intervals, so that a late timer counts and a stop does not.
const LOOK_MAX: Duration = PROBE_EVERY.saturating_mul(2);

/// What is heard on one connection.
#[derive(Debug)]
pub struct Pulse {
    heard: u64,
    looked: Instant,
    quiet: Duration,
}

impl Pulse {
    /// A connection that has just been heard.
    pub fn new(now: Instant) -> Self {
        Self { heard: 0, looked: now, quiet: Duration::ZERO }
    }

    /// The silence so far, given how much was heard in all: packets, bytes or acknowledgements, whatever only grows.
    pub fn look(&mut self, heard: u64, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.looked).min(LOOK_MAX);
        self.looked = now;
        if heard > self.heard {
            self.heard = heard;
            self.quiet = Duration::ZERO;
        } else {
            self.quiet += since;
        }
        self.quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_grows_from_look_to_look_and_ends_with_the_first_sound() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(now);
        for step in 1..=4 {
            now += PROBE_EVERY;
            assert_eq!(pulse.look(0, now), PROBE_EVERY * step);
        }
        assert_eq!(pulse.look(1, now), Duration::ZERO);
        now += PROBE_EVERY;
        assert_eq!(pulse.look(1, now), PROBE_EVERY);
    }

    #[test]
    fn who_stood_still_himself_has_heard_nothing_and_missed_nothing() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.look(7, now);
        assert_eq!(pulse.look(7, now + Duration::from_secs(5)), LOOK_MAX);
    }
}
