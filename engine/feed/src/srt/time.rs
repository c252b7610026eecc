//! When a packet is due (draft-sharabayko-srt §4.5): the sender's clock on ours, with the negotiated delay, and the drift
//! between the two. Also the round-trip time (§4.10). Owns no packet.

use std::time::{Duration, Instant};

/// Samples of drift that make one correction: libsrt's number, about 10 s of acknowledgements.
const DRIFT_SAMPLES: i64 = 1000;

/// A stamp may promise to be due no later than this behind its delay; beyond it the stamp lies.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// The sender's clock on ours.
#[derive(Debug)]
pub(super) struct Due {
    origin: Instant,
    /// The sender's clock at `origin`, microseconds.
    origin_us: i64,
    last_us: i64,
    delay: Duration,
    drift_us: i64,
    sum_us: i64,
    samples: i64,
    first_rtt: Option<Duration>,
}

impl Due {
    /// `timestamp` was read at `now`.
    pub(super) fn new(timestamp: u32, now: Instant, delay: Duration) -> Self {
        let origin_us = i64::from(timestamp);
        Self {
            origin: now,
            origin_us,
            last_us: origin_us,
            delay,
            drift_us: 0,
            sum_us: 0,
            samples: 0,
            first_rtt: None,
        }
    }

    /// When a packet with this stamp that came at `now` is due.
    pub(super) fn at(&mut self, timestamp: u32, now: Instant) -> Instant {
        let since = self.since_origin(timestamp) + self.drift_us;
        let delay = self.delay.as_micros() as i64;
        let due = self.origin + Duration::from_micros((since + delay).max(0) as u64);
        due.min(now + self.delay + AHEAD_MAX)
    }

    /// A stamp that was read at `now`, on its way for half of `rtt`.
    pub(super) fn handle_sample(&mut self, timestamp: u32, rtt: Duration, now: Instant) {
        let first = *self.first_rtt.get_or_insert(rtt);
        let slower = (rtt.as_micros() as i64 - first.as_micros() as i64) / 2;
        let since = self.since_origin(timestamp);
        let ours = now.saturating_duration_since(self.origin).as_micros() as i64;
        // A sender that lies may say what it likes, but not for more than a minute.
        self.sum_us += (ours - since - slower).clamp(-60_000_000, 60_000_000);
        self.samples += 1;
        if self.samples == DRIFT_SAMPLES {
            self.drift_us = self.sum_us / DRIFT_SAMPLES;
            (self.sum_us, self.samples) = (0, 0);
        }
    }

    /// How far the sender's clock has drifted from ours.
    pub(super) fn drift_us(&self) -> i64 {
        self.drift_us
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// The stamp's distance from the origin over any number of wraps: what is nearest to the last.
    fn since_origin(&mut self, timestamp: u32) -> i64 {
        let step = timestamp.wrapping_sub(self.last_us as u32).cast_signed();
        self.last_us += i64::from(step);
        self.last_us - self.origin_us
    }
}

/// Round-trip time and its variance.
#[derive(Debug)]
pub(super) struct Rtt {
    pub(super) smooth: Duration,
    pub(super) variance: Duration,
    measured: bool,
}

impl Default for Rtt {
    /// What §4.10 begins with.
    fn default() -> Self {
        let (smooth, variance) = (Duration::from_millis(100), Duration::from_millis(50));
        Self { smooth, variance, measured: false }
    }
}

impl Rtt {
    pub(super) fn handle_sample(&mut self, sample: Duration) {
        let sample = sample.min(Duration::from_secs(10));
        if !self.measured {
            *self = Self { smooth: sample, variance: sample / 2, measured: true };
            return;
        }
        self.variance = (self.variance * 3 + self.smooth.abs_diff(sample)) / 4;
        self.smooth = (self.smooth * 7 + sample) / 8;
    }

    /// How long to wait before asking again for what is missing.
    pub(super) fn patience(&self) -> Duration {
        ((self.smooth + self.variance * 4) / 2).max(Duration::from_millis(20))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant does")]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_due_a_delay_later_over_the_wrap() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut due = Due::new(u32::MAX - 499_999, start, ms(120));
        for n in 0..20_u32 {
            let stamp = (u32::MAX - 499_999).wrapping_add(n * 100_000);
            let at = start + ms(100) * n;
            assert_eq!(due.at(stamp, at), at + ms(120), "{n}");
        }
    }

    #[test]
    fn a_stamp_hours_ahead_holds_nothing_up() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut due = Due::new(0, start, ms(120));
        assert_eq!(due.at(1 << 30, start), start + ms(1120));
        assert!(due.at(5, start + ms(1)) <= start + ms(1121));
    }

    #[test]
    fn drift_moves_what_is_due() {
        let (start, us) = (Instant::now(), Duration::from_micros);
        let mut due = Due::new(0, start, us(100_000));
        // The sender's clock is slow by 200 parts in a million.
        for n in 1..=1000_u64 {
            due.handle_sample((n * 10_000) as u32, us(30_000), start + us(n * 10_002));
        }
        assert_eq!(due.drift_us(), 1001);
    }
}
