//! How long the frames of a video track last. Keeps the running estimate that lets a chunk leave before the next frame is
//! there, and takes the rounding out of coarse timestamps. Knows neither codecs nor offsets; nanoseconds throughout.

use std::collections::VecDeque;

use crate::timeline::NANOS_PER_SECOND;

/// Deltas the estimate looks at: a second of video.
const WINDOW: usize = 32;
/// Frame rates encoders are set to, as (numerator, denominator).
const COMMON_RATES: [(i64, i64); 14] = [
    (10, 1),
    (12, 1),
    (15, 1),
    (20, 1),
    (24_000, 1001),
    (24, 1),
    (25, 1),
    (30_000, 1001),
    (30, 1),
    (48, 1),
    (50, 1),
    (60_000, 1001),
    (60, 1),
    (120, 1),
];
/// Before anything is known.
const FIRST_GUESS: i64 = NANOS_PER_SECOND / 20;
/// Declared durations stay below this whatever happened.
const DURATION_MAX: i64 = NANOS_PER_SECOND / 2;
/// Timestamps coarser than this are rounded ones (RTMP and FLV count milliseconds).
const COARSE: i64 = 100_000;

#[derive(Debug)]
pub(crate) struct Cadence {
    /// One unit of the source's timescale.
    tick: i64,
    nominal: i64,
    deltas: VecDeque<i64>,
    last_source: Option<i64>,
    last_out: Option<i64>,
}

impl Cadence {
    pub(crate) fn new(timescale: u32, stated_rate: Option<(u32, u32)>) -> Self {
        let stated = stated_rate.map(|(numerator, denominator)| {
            NANOS_PER_SECOND * i64::from(denominator) / i64::from(numerator.max(1))
        });
        Self {
            tick: NANOS_PER_SECOND / i64::from(timescale.max(1)),
            nominal: stated.unwrap_or(FIRST_GUESS),
            deltas: VecDeque::with_capacity(WINDOW),
            last_source: None,
            last_out: None,
        }
    }

    /// The estimated distance of frames.
    pub(crate) fn nominal(&self) -> i64 {
        self.nominal
    }

    /// Frames per second, once measured.
    pub(crate) fn rate(&self) -> Option<f64> {
        (self.deltas.len() >= WINDOW / 2).then(|| NANOS_PER_SECOND as f64 / self.nominal as f64)
    }

    /// Takes the decode time of a frame and returns it with the source's rounding removed. It moves by one tick of the
    /// source at most, and only if that makes it an exact number of frame durations after the one before.
    pub(crate) fn smooth(&mut self, at: i64) -> i64 {
        if let Some(last) = self.last_source.replace(at) {
            self.learn(at - last);
        }
        let out = match self.last_out {
            Some(last) if self.tick > COARSE => {
                let frames = ((at - last + self.nominal / 2) / self.nominal).max(1);
                let exact = last + frames * self.nominal;
                if (exact - at).abs() <= self.tick { exact } else { at }
            }
            _ => at,
        };
        let out = self.last_out.map_or(out, |last| out.max(last + 1_000_000));
        self.last_out = Some(out);
        out
    }

    /// A composition offset is a number of frame durations too.
    pub(crate) fn smooth_offset(&self, offset: i64) -> i64 {
        if self.tick <= COARSE {
            return offset;
        }
        let exact = (offset + self.nominal / 2).div_euclid(self.nominal) * self.nominal;
        // Both ends of it were rounded, so it may be off by two halves of a tick and one for our own.
        if (exact - offset).abs() <= self.tick * 3 / 2 { exact } else { offset }
    }

    /// What to declare for a frame whose successor is not known yet: the nominal duration, or the mean where frames come
    /// so irregularly that the nominal one says little. A later `tfdt` lengthens a sample by rule (ISO/IEC 14496-12
    /// §8.8.12).
    pub(crate) fn duration(&self) -> i64 {
        let mean = self.deltas.iter().sum::<i64>() / self.deltas.len().max(1) as i64;
        let duration = if mean > self.nominal * 3 / 2 { mean } else { self.nominal };
        duration.clamp(1_000_000, DURATION_MAX)
    }

    fn learn(&mut self, delta: i64) {
        if !(1..=FORGET).contains(&delta) {
            return;
        }
        if self.deltas.len() == WINDOW {
            self.deltas.pop_front();
        }
        self.deltas.push_back(delta);
        let mut sorted: Vec<i64> = self.deltas.iter().copied().collect();
        sorted.sort_unstable();
        let Some(&median) = sorted.get(sorted.len() / 2) else { return };
        if self.tick <= COARSE {
            self.nominal = median;
            return;
        }
        let near: Vec<i64> = sorted
            .into_iter()
            .filter(|delta| (delta - median).abs() <= self.tick * 3 / 2)
            .collect();
        let mean = near.iter().sum::<i64>() / near.len().max(1) as i64;
        let error = self.tick / self.deltas.len() as i64 + mean / 500;
        if (self.nominal - mean).abs() <= error {
            return; // As good as any: 29.97 and 30 cannot be told apart within a window, and need not be.
        }
        self.nominal = COMMON_RATES
            .iter()
            .map(|(numerator, denominator)| NANOS_PER_SECOND * denominator / numerator)
            .min_by_key(|frame| (frame - mean).abs())
            .filter(|frame| (frame - mean).abs() <= error)
            .unwrap_or(mean)
            .max(1_000_000);
    }
}

/// Distances beyond this say nothing about the frame rate.
const FORGET: i64 = NANOS_PER_SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn millisecond_rounding_disappears() {
        let mut cadence = Cadence::new(1000, None);
        let mut last: Option<i64> = None;
        for frame in 0..3000i64 {
            let exact = frame * 100_000 / 3; // 30 fps in microseconds
            let out = cadence.smooth((exact + 500) / 1000 * MS);
            assert!((out - exact * 1000).abs() <= 2 * MS);
            if let Some(last) = last.filter(|_| frame > 40) {
                assert!((out - last - 33_333_333i64).abs() <= 1, "frame {frame}: {}", out - last);
            }
            last = Some(out);
        }
        assert!((cadence.rate().unwrap() - 30.0).abs() < 0.001);
        assert!((cadence.smooth_offset(67 * MS) - 66_666_666).abs() <= 1);
        assert!((cadence.smooth_offset(66 * MS) - 66_666_666).abs() <= 1);
        assert_eq!(cadence.smooth_offset(0), 0);
    }

    #[test]
    fn dropped_frames_leave_the_estimate_alone_and_irregular_ones_lengthen_it() {
        let mut cadence = Cadence::new(1000, Some((30, 1)));
        for frame in (0..300i64).filter(|frame| frame % 10 < 8) {
            cadence.smooth((frame * 100 + 1) / 3 * MS);
        }
        assert_eq!(cadence.duration(), 33_333_333);
        let mut at = 20_000 * MS;
        for frame in 0..100 {
            at += if frame % 3 == 0 { 300 * MS } else { 33 * MS };
            cadence.smooth(at);
        }
        assert!((110 * MS..140 * MS).contains(&cadence.duration()), "{}", cadence.duration());
    }

    #[test]
    fn fine_timestamps_are_left_alone() {
        let mut cadence = Cadence::new(90_000, None);
        for at in [0, 33_333_333, 70_000_000, 70_100_000 + MS] {
            assert_eq!(cadence.smooth(at), at);
        }
    }
}
