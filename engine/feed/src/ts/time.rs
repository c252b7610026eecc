//! Times of a transport stream: 33-bit stamps unrolled over any number of wraps, and the encoder's clock measured
//! against ours. Owns no decision about either.

use std::time::{Duration, Instant};

/// Stamps wrap here: every 26.5 hours at 90 kHz.
const WRAP: i64 = 1 << 33;

/// Readings of the clock between two estimates of drift: at most every 100 ms, so about 5 s.
const READINGS: u32 = 50;

/// 33-bit stamps of all streams of a programme on one line that does not wrap.
#[derive(Debug, Default)]
pub(super) struct Unroll {
    last: Option<i64>,
}

impl Unroll {
    /// The stamp on the line: what is nearest to the one before. Moves the line on.
    pub(super) fn at(&mut self, stamp: u64) -> i64 {
        let time = self.last.map_or(stamp as i64, |last| nearest(stamp, last));
        self.last = Some(time);
        time
    }
}

/// The stamp on the line, nearest to a time that is known.
pub(super) fn nearest(stamp: u64, time: i64) -> i64 {
    let ahead = (stamp as i64).wrapping_sub(time).rem_euclid(WRAP);
    time.saturating_add(if ahead >= WRAP / 2 { ahead - WRAP } else { ahead })
}

/// How the encoder's clock (PCR, §2.4.2.1) runs against ours.
#[derive(Debug, Default)]
pub struct Drift {
    first: Option<(Instant, u64)>,
    last: u64,
    /// Clock units since the first reading, unrolled.
    run: i64,
    /// The least delay of the readings under way, in microseconds: the path's jitter only adds.
    least_us: Option<i64>,
    readings: u32,
    base_us: Option<i64>,
    since: Option<Instant>,
    ppm: Option<f64>,
}

impl Drift {
    /// Parts in a million by which the encoder's clock is slower than ours, once it can be told.
    pub fn ppm(&self) -> Option<f64> {
        self.ppm
    }

    pub(super) fn handle_clock(&mut self, bytes: [u8; 6], jumps: bool, now: Instant) {
        // 33 bits of base, 6 reserved, 9 of extension.
        let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let (base, extension) = (bits >> 15, bits & 0x1ff);
        let clock = base * 300 + extension;
        let Some((start, _)) = self.first.filter(|_| !jumps) else {
            *self =
                Self { first: Some((now, clock)), last: clock, ppm: self.ppm, ..Self::default() };
            return;
        };
        let wrap = WRAP * 300;
        let step = (clock as i64 - self.last as i64).rem_euclid(wrap);
        let step = if step >= wrap / 2 { step - wrap } else { step };
        if step.abs() > 10 * 27_000_000 {
            // Ten seconds between readings: another time line.
            *self =
                Self { first: Some((now, clock)), last: clock, ppm: self.ppm, ..Self::default() };
            return;
        }
        self.last = clock;
        self.run = self.run.saturating_add(step);
        let elapsed = now.saturating_duration_since(start);
        let late_us = elapsed.as_micros() as i64 - self.run / 27;
        self.least_us = Some(self.least_us.map_or(late_us, |least| least.min(late_us)));
        self.readings += 1;
        if self.readings < READINGS {
            return;
        }
        self.readings = 0;
        let Some(least) = self.least_us.take() else { return };
        let (Some(base), Some(since)) = (self.base_us, self.since) else {
            (self.base_us, self.since) = (Some(least), Some(now));
            return;
        };
        let span = now.saturating_duration_since(since);
        if span >= Duration::from_secs(4) {
            self.ppm = Some((least - base) as f64 / span.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_go_on_over_the_first_wrap_and_the_second() {
        let mut unroll = Unroll::default();
        let step = WRAP / 8;
        for n in 0..40 {
            let time = WRAP - 5 + n * step;
            assert_eq!(unroll.at((time % WRAP) as u64), time, "step {n}");
        }
        let time = WRAP - 5 + 39 * step;
        assert_eq!(nearest(((time + 7) % WRAP) as u64, time), time + 7);
        assert_eq!(
            unroll.at(((time - 900) % WRAP) as u64),
            time - 900,
            "small steps back are told"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant does")]
    fn a_slow_clock_is_measured_through_jitter() {
        let start = Instant::now();
        let mut drift = Drift::default();
        for n in 0..600_u64 {
            let clock = n * 2_700_000 % (WRAP as u64 * 300);
            let (base, extension) = (clock / 300, clock % 300);
            let bytes = [
                (base >> 25) as u8,
                (base >> 17) as u8,
                (base >> 9) as u8,
                (base >> 1) as u8,
                ((base << 7) as u8) | (extension >> 8) as u8,
                extension as u8,
            ];
            // Every tenth of the encoder's seconds takes 100.01 ms of ours, and up to 7 ms on the way.
            let at = Duration::from_micros(n * 100_010 + n * 7919 % 7000);
            drift.handle_clock(bytes, false, start + at);
        }
        let ppm = drift.ppm().unwrap();
        assert!((80.0..120.0).contains(&ppm), "{ppm}");
    }
}
