//! What an encoder has saved up while it was away. After a reconnect some send seconds of old media in one burst; played
//! out, viewers would be that far behind until they skip. So once a returning publisher is seen to be ahead of the clock, its
//! samples are held: a keyframe discards what was held before it, and when the burst is over what is left, less than a
//! group, goes on. Nothing is held for a publisher that comes for the first time or that always sends faster.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Sample;
use crate::timeline::NANOS_PER_SECOND;

/// Media this much ahead of its arrival is old: encoders send a few frames at once, not more.
const AHEAD_MAX: i64 = 3 * NANOS_PER_SECOND / 2;
/// A longer step between two samples is a jump of the publisher's clock and says nothing of how old media is.
const STEP_MAX: i64 = NANOS_PER_SECOND;
/// A burst begins within this long of the reconnect, or it is none.
const WATCH: i64 = 5 * NANOS_PER_SECOND;
/// A burst takes this long at most; who goes on is a fast sender, not a late one.
const HOLD_MAX: i64 = 3 * NANOS_PER_SECOND;
/// How often speed is looked at, and the speed from which on it is a burst: times real time.
const LOOK: i64 = NANOS_PER_SECOND / 5;
const SPEED_MAX: i64 = 2;
/// A group held: 10 s at 25 Mb/s. More ends the hold.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
const HELD_SAMPLES_MAX: usize = 4_096;

/// Samples with the wall time of their arrival.
pub(crate) type Held = VecDeque<(Sample, Duration)>;

#[derive(Debug, Default)]
pub(crate) enum Backlog {
    /// Nothing to look for.
    #[default]
    Off,
    /// A publisher came back; waiting for its first sample.
    Armed,
    /// Where media and arrival began.
    Watching {
        source: i64,
        arrival: i64,
        last: i64,
    },
    Holding(Hold),
}

#[derive(Debug)]
pub(crate) struct Hold {
    since: i64,
    look: (i64, i64),
    held: Held,
    bytes: usize,
}

/// What to do with a sample.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is live.
    Pass(Sample),
    /// It is held; so many before it are old and gone.
    Held { dropped: u64 },
    /// The burst is over: these, in order, continue the time line, which lost what lay before them.
    Release(Held),
}

impl Backlog {
    /// A publisher came back.
    pub(crate) fn arm(&mut self) {
        *self = Self::Armed;
    }

    /// A sample of media time `source` arrives. `starts` says whether a viewer could start at it.
    pub(crate) fn handle(
        &mut self,
        sample: Sample,
        starts: bool,
        source: i64,
        arrival: i64,
        wall: Duration,
    ) -> Verdict {
        match self {
            Self::Off => return Verdict::Pass(sample),
            Self::Armed => *self = Self::Watching { source, arrival, last: source },
            Self::Watching { source: first, arrival: began, last } => {
                let elapsed = arrival - *began;
                let step = source.saturating_sub(std::mem::replace(last, source));
                if elapsed > WATCH || step.saturating_abs() > STEP_MAX {
                    *self = Self::Off;
                } else if source.saturating_sub(*first) - elapsed > AHEAD_MAX {
                    let look = (source, arrival);
                    let held = Held::new();
                    *self = Self::Holding(Hold { since: arrival, look, held, bytes: 0 });
                }
            }
            Self::Holding(_) => {}
        }
        let Self::Holding(hold) = self else { return Verdict::Pass(sample) };
        let dropped = hold.take(sample, starts, wall);
        if hold.is_over(source, arrival) {
            let held = std::mem::take(&mut hold.held);
            *self = Self::Off;
            return Verdict::Release(held);
        }
        Verdict::Held { dropped }
    }
}

impl Hold {
    fn take(&mut self, sample: Sample, starts: bool, wall: Duration) -> u64 {
        let dropped = if starts { self.held.len() as u64 } else { 0 };
        if starts {
            self.held.clear();
            self.bytes = 0;
        }
        self.bytes += sample.data.len();
        self.held.push_back((sample, wall));
        dropped
    }

    fn is_over(&mut self, source: i64, arrival: i64) -> bool {
        let full = self.bytes > HELD_BYTES_MAX || self.held.len() > HELD_SAMPLES_MAX;
        if full || arrival - self.since > HOLD_MAX {
            return true;
        }
        let (then, at) = self.look;
        if arrival - at < LOOK {
            return false;
        }
        self.look = (source, arrival);
        source.saturating_sub(then) < SPEED_MAX * (arrival - at)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::TrackId;

    const MS: i64 = 1_000_000;

    /// Frames of 40 ms, a keyframe every second; which frame numbers pass, which are released, how many are dropped.
    fn play(frames: impl Iterator<Item = (i64, i64)>) -> (Vec<i64>, Vec<i64>, u64) {
        let mut backlog = Backlog::default();
        backlog.arm();
        let (mut passed, mut released, mut dropped) = (Vec::new(), Vec::new(), 0);
        for (frame, arrival_ms) in frames {
            let starts = frame % 25 == 0;
            let sample = Sample {
                track: TrackId(1),
                dts: frame,
                composition_offset: 0,
                keyframe: starts,
                data: Bytes::from_static(b"x"),
            };
            match backlog.handle(sample, starts, frame * 40 * MS, arrival_ms * MS, Duration::ZERO) {
                Verdict::Pass(sample) => passed.push(sample.dts),
                Verdict::Held { dropped: some } => dropped += some,
                Verdict::Release(held) => released.extend(held.iter().map(|(one, _)| one.dts)),
            }
        }
        (passed, released, dropped)
    }

    #[test]
    fn ten_saved_seconds_are_dropped_to_the_last_keyframe() {
        // 250 frames in half a second, then real time.
        let frames = (0..500).map(|n| (n, if n < 250 { n * 2 } else { 500 + (n - 250) * 40 }));
        let (passed, released, dropped) = play(frames);
        let before = passed.iter().take_while(|frame| **frame < 100).count() as i64;
        assert!((30..60).contains(&before), "{before} frames went out before it was a burst");
        assert_eq!(released.first(), Some(&250), "from the newest keyframe");
        assert!(released.len() <= 12, "{released:?}");
        let last = released.last().expect("some");
        assert_eq!(passed.iter().filter(|frame| **frame > 100).copied().next(), Some(last + 1));
        assert_eq!(before as u64 + dropped, 250);
    }

    #[test]
    fn a_publisher_in_real_time_or_with_a_few_frames_at_once_is_left_alone() {
        for saved in [0, 30] {
            let frames = (0..500).map(|n| (n, (n - saved).max(0) * 40));
            let (passed, released, dropped) = play(frames);
            assert_eq!((passed.len(), released.len(), dropped), (500, 0, 0));
        }
    }

    #[test]
    fn who_always_sends_faster_is_let_through_after_a_while() {
        let (passed, released, dropped) = play((0..5_000).map(|n| (n, n * 4)));
        assert!(dropped < 900, "{dropped}");
        assert_eq!(passed.len() + released.len() + dropped as usize, 5_000);
    }
}
