//! What one track looks like as it arrives: rates, keyframes, reordering, delay. It measures for the encoder's operator and
//! decides nothing. Media time and arrival in nanoseconds; bounded whatever arrives.

use std::collections::VecDeque;

use crate::timeline::NANOS_PER_SECOND;

/// Rates are over this much arrival time.
const WINDOW: i64 = 4 * NANOS_PER_SECOND;
/// Samples within it: 300 a second and some.
const SAMPLES_MAX: usize = 2_048;
/// Intervals between keyframes looked at.
const INTERVALS: usize = 8;
/// Weight of the past in the delay.
const SMOOTH: i64 = 16;

#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// (arrival, bytes) of the window.
    recent: VecDeque<(i64, u32)>,
    bytes: u64,
    began: Option<i64>,
    /// Media times of the last keyframes.
    keyframe: Option<i64>,
    intervals: VecDeque<i64>,
    /// Least and greatest composition offset since the last keyframe but one.
    offsets: [Option<(i32, i32)>; 2],
    delay: Option<i64>,
    last_arrival: Option<i64>,
}

impl Gauge {
    pub(crate) fn note(&mut self, bytes: usize, offset: i32, at: Option<i64>, arrival: i64) {
        self.began.get_or_insert(arrival);
        self.last_arrival = Some(arrival);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes += u64::from(bytes);
        self.recent.push_back((arrival, bytes));
        while let Some((first, old)) = self.recent.front().copied() {
            if arrival - first <= WINDOW && self.recent.len() <= SAMPLES_MAX {
                break;
            }
            self.recent.pop_front();
            self.bytes -= u64::from(old);
        }
        let [_, newest] = &mut self.offsets;
        let (least, most) = newest.unwrap_or((offset, offset));
        *newest = Some((least.min(offset), most.max(offset)));
        if let Some(at) = at {
            let delay = arrival.saturating_sub(at);
            self.delay = Some(self.delay.map_or(delay, |held| held + (delay - held) / SMOOTH));
        }
    }

    /// A group begins at this media time.
    pub(crate) fn keyframe(&mut self, at: i64) {
        if let Some(before) = self.keyframe.replace(at) {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(at - before);
        }
        self.offsets = [self.offsets[1], None];
    }

    /// Time was cut or moved.
    pub(crate) fn restart(&mut self) {
        self.keyframe = None;
        self.delay = None;
    }

    /// Bits and samples a second, once there is a window to measure: encoders begin with a burst.
    pub(crate) fn rates(&self, now: i64) -> Option<(u64, f64)> {
        let began = self.began?.max(now - WINDOW);
        let span = now - began;
        if span < WINDOW {
            return None;
        }
        let live = self.recent.iter().filter(|(arrival, _)| *arrival > began);
        let (count, bytes) =
            live.fold((0_u64, 0_u64), |(count, sum), (_, b)| (count + 1, sum + u64::from(*b)));
        let seconds = span as f64 / NANOS_PER_SECOND as f64;
        Some(((bytes as f64 * 8.0 / seconds) as u64, count as f64 / seconds))
    }

    /// The longest of the last intervals between keyframes; one that is under way counts as soon as it is longer.
    pub(crate) fn keyframe_interval(&self, at: Option<i64>) -> Option<i64> {
        let open = Some(at? - self.keyframe?);
        let done = self.intervals.iter().copied().max();
        done.max(open.filter(|open| done.is_some() || *open > WINDOW))
    }

    /// Pictures are shown in another order than they are decoded.
    pub(crate) fn reorders(&self) -> bool {
        // Millisecond clocks round; one unit is nothing.
        self.offsets.iter().flatten().any(|(least, most)| most.abs_diff(*least) > 1)
    }

    /// Arrival minus media time, smoothed.
    pub(crate) fn delay(&self) -> Option<i64> {
        self.delay
    }

    /// When the newest sample arrived.
    pub(crate) fn last_arrival(&self) -> Option<i64> {
        self.last_arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn rates_intervals_and_reordering_are_seen() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.rates(0), None);
        for frame in 0..300_i64 {
            let at = frame * 40 * MS;
            let offset = [0, 80, 40][(frame % 3) as usize];
            gauge.note(5_000, offset, Some(at), at + 7 * MS);
            if frame % 50 == 0 {
                gauge.keyframe(at);
            }
        }
        let now = 299 * 40 * MS + 7 * MS;
        let (bits, rate) = gauge.rates(now).unwrap();
        assert!((bits as f64 - 1e6).abs() < 2e4 && (rate - 25.0).abs() < 0.5, "{bits} {rate}");
        assert_eq!(gauge.keyframe_interval(Some(now)), Some(2_000 * MS));
        assert!(gauge.reorders());
        assert_eq!(gauge.delay(), Some(7 * MS));
        // Nothing more comes: the rate falls, the open group grows.
        let later = now + 3_000 * MS;
        assert!(gauge.rates(later).unwrap().1 < 8.0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut gauge = Gauge::default();
        for sample in 0..10_000 {
            gauge.note(1, 0, None, sample);
        }
        assert!(gauge.recent.len() <= SAMPLES_MAX);
    }
}
