//! Decode times for pictures that came with presentation times only. RTP carries when a picture is
//! shown, in the order it is decoded (RFC 6184 §5.1); with B-frames the two differ. It owns the depth
//! of that difference; it holds no picture back.

use std::collections::BTreeSet;

/// Deepest reordering of H.264 (ITU-T H.264 §A.3.1, `MaxDpbFrames`).
pub(super) const DEPTH_MAX: usize = 16;

/// A picture rate is no better known than this before two pictures are there: 30 a second in 90 kHz.
const STEP_UNKNOWN: i64 = 3_000;

/// A jump this far is a new time base, not a reordering: 10 s in 90 kHz.
const JUMP: i64 = 900_000;

/// Gives each picture, in decode order, its decode time: presentation times sorted, and as many
/// pictures late as the depth says. So decode times are never above presentation times, and grow.
#[derive(Debug, Default)]
pub(super) struct Order {
    depth: usize,
    /// Presentation times not yet used as decode times.
    pending: BTreeSet<i64>,
    last: Option<i64>,
    highest: Option<i64>,
    step: Option<i64>,
}

impl Order {
    /// The stream says how deep it reorders.
    pub(super) fn set_depth(&mut self, depth: usize) {
        let depth = depth.min(DEPTH_MAX);
        if depth < self.depth {
            // What is pending beyond the new depth would come out as a burst; it is not missed.
            while self.pending.len() > depth {
                self.pending.pop_first();
            }
        }
        self.depth = depth;
    }

    /// The decode time of the next picture, shown at `presentation`.
    pub(super) fn place(&mut self, presentation: i64) -> i64 {
        if self.highest.is_some_and(|highest| (presentation - highest).abs() > JUMP) {
            (self.last, self.highest) = (None, None);
            self.pending.clear();
        }
        if let Some(highest) = self.highest
            && presentation > highest
        {
            let step = (presentation - highest).div_euclid(self.depth.max(1) as i64).max(1);
            self.step = Some(self.step.map_or(step, |held| held.min(step)));
        }
        self.highest = Some(self.highest.map_or(presentation, |held| held.max(presentation)));
        // Out of order beyond what the stream said, or it said nothing.
        if self.last.is_some_and(|last| presentation <= last) {
            self.depth = (self.depth + 1).min(DEPTH_MAX);
        }
        self.pending.insert(presentation);
        let decode = if self.pending.len() > self.depth {
            self.pending.pop_first().unwrap_or(presentation)
        } else {
            // The first pictures: as far before the first one shown as their turn says.
            let missing = (self.depth + 1 - self.pending.len()) as i64;
            let first = self.pending.first().copied().unwrap_or(presentation);
            first - missing * self.step.unwrap_or(STEP_UNKNOWN)
        };
        let decode = self.last.map_or(decode, |last| decode.max(last + 1));
        self.last = Some(decode);
        decode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(depth: Option<usize>, shown: &[i64]) -> Vec<i64> {
        let mut order = Order::default();
        if let Some(depth) = depth {
            order.set_depth(depth);
        }
        shown.iter().map(|at| order.place(at * 3_000)).collect()
    }

    #[test]
    fn without_b_frames_both_times_are_the_same() {
        assert_eq!(place(Some(0), &[0, 1, 2, 3]), [0, 3_000, 6_000, 9_000]);
        assert_eq!(place(None, &[0, 1, 2, 3]), [0, 3_000, 6_000, 9_000]);
    }

    #[test]
    fn with_b_frames_decode_times_grow_and_never_pass_presentation() {
        // I P B B P B B, and a pyramid.
        for (depth, shown) in [
            (1, vec![0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11]),
            (2, vec![0, 4, 2, 1, 3, 8, 6, 5, 7, 12, 10, 9, 11]),
        ] {
            let decode = place(Some(depth), &shown);
            assert!(decode.windows(2).all(|pair| pair[0] < pair[1]), "{decode:?}");
            for (at, shown) in decode.iter().zip(&shown) {
                assert!(*at <= shown * 3_000, "{decode:?}");
            }
            let steady = &decode[depth + 1..];
            assert!(steady.windows(2).all(|pair| pair[1] - pair[0] == 3_000), "{decode:?}");
        }
    }

    #[test]
    fn a_stream_that_hides_its_depth_is_found_out() {
        let shown: Vec<i64> =
            (0..30).flat_map(|group| [4, 2, 1, 3].map(|at| group * 4 + at)).collect();
        let decode = place(None, &shown);
        assert!(decode.windows(2).all(|pair| pair[0] < pair[1]));
        let late = decode.iter().zip(&shown).skip(12).filter(|(at, shown)| **at > *shown * 3_000);
        assert_eq!(late.count(), 0, "after a few groups nothing is decoded after it is shown");
    }

    #[test]
    fn a_new_time_base_starts_anew() {
        let mut order = Order::default();
        order.set_depth(2);
        for at in [0, 2, 1] {
            order.place(at * 3_000);
        }
        let far = 10_000_000;
        let decode = order.place(far);
        assert!(decode <= far && decode > far - 100_000, "{decode}");
    }
}
