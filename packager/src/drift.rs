//! How fast a publisher's clock runs against ours, and what to do about it. Media time is compared with the moment of
//! arrival; what the network adds only ever delays, so the least delay of each span is the truest. The answer is a *slew*:
//! a correction of whole milliseconds that all tracks of the feed share, which keeps media time beside our clock for days
//! without touching a payload. Nanoseconds throughout; the clock is the caller's.

use std::collections::VecDeque;

use crate::timeline::NANOS_PER_SECOND;

/// One measurement: the least delay within this span.
const SPAN: i64 = 5 * NANOS_PER_SECOND;
/// Two minutes of them: a jitter of 1 ms then is an error of some 10 ppm.
const SPANS: usize = 24;
/// Half a minute before anything is said.
const SPANS_MIN: usize = 6;
/// Crystals are within 100 ppm, poor software clocks within 1000. What is off by more is no clock but a wrong setting or a
/// path that fills up, and is left alone.
const PPM_MAX: f64 = 1_000.0;
/// Below this the measurement is mostly noise.
const PPM_MIN: f64 = 10.0;
/// An error of less than this is not corrected.
const PHASE_MIN: i64 = 5_000_000;
/// An error that is there already is removed within some two minutes, and no faster than this, so that a path that became
/// longer for good bends time by half a part in ten thousand at most.
const PHASE_SECONDS: f64 = 120.0;
const PHASE_PPM_MAX: f64 = 50.0;
/// The slew moves by whole milliseconds, so that 90 kHz and millisecond timestamps still convert without rounding.
pub(crate) const STEP: i64 = 1_000_000;

#[derive(Debug, Default)]
pub(crate) struct Drift {
    /// (arrival, least delay) of the spans gone by.
    spans: VecDeque<(i64, i64)>,
    open: Option<Span>,
    ppm: Option<f64>,
    /// The delay that is to stay.
    reference: Option<i64>,
    last_arrival: Option<i64>,
    /// What is due, in nanoseconds; `slew` follows in steps.
    due: f64,
    slew: i64,
}

#[derive(Debug)]
struct Span {
    since: i64,
    arrival: i64,
    delay: i64,
}

impl Drift {
    /// The publisher's clock against ours in parts per million, positive if it is fast; once measured.
    pub(crate) fn ppm(&self) -> Option<f64> {
        self.ppm
    }

    /// What to add to media time.
    pub(crate) fn slew(&self) -> i64 {
        self.slew
    }

    /// Media time has been cut or moved: what was measured says nothing about the rest. The slew stays.
    pub(crate) fn restart(&mut self) {
        *self = Self { due: self.due, slew: self.slew, ..Self::default() };
    }

    /// A sample of media time `media`, without slew, arrived at `arrival`.
    pub(crate) fn note(&mut self, media: i64, arrival: i64) {
        let elapsed = self.last_arrival.replace(arrival).map_or(0, |last| arrival - last);
        self.due += self.rate() * elapsed.clamp(0, NANOS_PER_SECOND) as f64;
        let behind = self.due - self.slew as f64;
        if behind.abs() >= STEP as f64 {
            self.slew += if behind > 0.0 { STEP } else { -STEP };
        }
        let delay = arrival.saturating_sub(media);
        match &mut self.open {
            Some(span) if arrival - span.since < SPAN => {
                if delay < span.delay {
                    (span.arrival, span.delay) = (arrival, delay);
                }
            }
            open => {
                let next = Span { since: arrival, arrival, delay };
                if let Some(span) = open.replace(next) {
                    self.close(&span);
                }
            }
        }
    }

    fn close(&mut self, span: &Span) {
        if self.spans.len() == SPANS {
            self.spans.pop_front();
        }
        self.spans.push_back((span.arrival, span.delay));
        if self.spans.len() < SPANS_MIN {
            return;
        }
        // The median of all slopes (Theil and Sen): a path that was busy for a third of the time does not matter.
        let mut slopes: Vec<f64> = Vec::with_capacity(SPANS * SPANS / 2);
        for (index, (early, before)) in self.spans.iter().enumerate() {
            for (late, after) in self.spans.iter().skip(index + 1) {
                slopes.push((after - before) as f64 / (late - early).max(1) as f64);
            }
        }
        slopes.sort_unstable_by(f64::total_cmp);
        let slope = slopes.get(slopes.len() / 2).copied().unwrap_or_default();
        // A fast clock makes delays shrink.
        self.ppm = Some(-slope * 1e6);
        if self.reference.is_none() {
            self.reference = self.delay().map(|delay| delay - self.slew);
        }
    }

    /// The delay of late: the middle one of the last three.
    fn delay(&self) -> Option<i64> {
        let mut last: Vec<i64> = self.spans.iter().rev().take(3).map(|(_, delay)| *delay).collect();
        last.sort_unstable();
        last.get(last.len() / 2).copied()
    }

    /// How fast the slew is to grow, in seconds a second.
    fn rate(&self) -> f64 {
        let Some(ppm) = self.ppm.filter(|ppm| ppm.abs() <= PPM_MAX) else { return 0.0 };
        let speed = if ppm.abs() < PPM_MIN { 0.0 } else { -ppm };
        let phase = match (self.delay(), self.reference) {
            (Some(delay), Some(reference)) => delay - self.slew - reference,
            _ => 0,
        };
        let phase = if phase.abs() < PHASE_MIN { 0.0 } else { phase as f64 / 1e9 };
        let pull = (phase / PHASE_SECONDS * 1e6).clamp(-PHASE_PPM_MAX, PHASE_PPM_MAX);
        (speed + pull) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    /// A feed of so many seconds with a clock `ppm` fast and jitter; the worst error of slewed media time after the first
    /// minute, in ms, and the final estimate.
    fn run(seconds: i64, ppm: i64, jitter: impl Fn(i64) -> i64) -> (i64, f64, Drift) {
        let mut drift = Drift::default();
        let mut settled = None;
        let mut worst = 0;
        for tick in 0..seconds * 4 {
            let arrival = tick * 250 * MS;
            let media = arrival + arrival / 1_000_000 * ppm;
            drift.note(media, arrival + jitter(tick));
            let error = media + drift.slew() - arrival;
            if tick >= 240 {
                let settled = *settled.get_or_insert(error);
                worst = worst.max((error - settled).abs());
            }
        }
        (worst / MS, drift.ppm().unwrap(), drift)
    }

    /// Noise that needs no generator: up to 30 ms, most of it small.
    fn noise(tick: i64) -> i64 {
        let mixed = tick.wrapping_mul(2_654_435_761) >> 7 & 0x3ff;
        mixed * mixed / 1024 * 30 * MS / 1024
    }

    #[test]
    fn a_true_clock_is_left_alone() {
        let (_, ppm, drift) = run(3_600, 0, noise);
        assert!(ppm.abs() < PPM_MIN, "{ppm}");
        assert_eq!(drift.slew(), 0);
    }

    #[test]
    fn a_clock_that_drifts_stays_beside_ours_for_two_days() {
        for wanted in [-300, -60, 100, 900] {
            let (worst, ppm, drift) = run(2 * 86_400, wanted, noise);
            assert!((ppm - wanted as f64).abs() < 12.0, "{wanted}: measured {ppm}");
            assert!(worst <= 25, "{wanted} ppm: {worst} ms off");
            let total = -(2 * 86_400 * wanted) / 1_000;
            assert!((drift.slew() / MS - total).abs() < 60, "{wanted}: {} ms", drift.slew() / MS);
        }
    }

    #[test]
    fn a_path_that_is_busy_for_half_a_minute_is_no_drift() {
        let busy = |tick: i64| if (800..920).contains(&tick) { 2_000 * MS } else { noise(tick) };
        let (_, ppm, drift) = run(600, 0, busy);
        assert!(ppm.abs() < PPM_MIN, "{ppm}");
        assert!(drift.slew().abs() <= 2 * MS, "{}", drift.slew());
    }

    #[test]
    fn a_sender_at_double_speed_is_measured_and_not_followed() {
        let (_, ppm, drift) = run(120, 1_000_000, |_| 0);
        assert!(ppm > 900_000.0);
        assert_eq!(drift.slew(), 0);
    }
}
