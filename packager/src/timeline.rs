//! The media time line of a broadcast: from the timestamps a publisher claims to decode times that never run backwards.
//! It owns the offset between the two. All times are nanoseconds; codecs and tracks' timescales are unknown here.
//!
//! Rules. A timestamp within [`BACK_MAX`] behind or [`FORWARD_MAX`] ahead is believed, and lifted just enough to stay
//! monotone. One further off is stamped where it was expected, while its claim becomes a *proposal*: an offset at which
//! the new timestamps continue right behind everything sent so far. Once [`PROPOSAL_HITS`] samples fit the proposal, the
//! tracks they belong to adopt it, all the same one, so that audio and video stay together. After a restart of the
//! publisher the first sample sets the new offset at once. Either way the time line continues without a gap, since a
//! viewer has nothing to show for the time in between and would stall or have to jump over it. A publisher's clock that
//! runs faster or slower than ours is followed by the slew of [`Drift`], the same for all its tracks.

use std::time::Duration;

use crate::drift::Drift;

/// Where the first sample lands: room for a track that starts a little earlier than the first one seen.
const START: i64 = 1_000_000_000;
/// A track may run this far behind (late track, small step back) without being taken for a new time line.
const BACK_MAX: i64 = 1_000_000_000;
/// A pause up to this long is a pause; a longer one is cut out.
const FORWARD_MAX: i64 = 3_000_000_000;
/// Samples that must agree before a far-off time line is believed.
const PROPOSAL_HITS: u32 = 3;
/// The least distance between two samples of a track.
const STEP: i64 = 1_000_000;
/// Offsets are whole milliseconds, so that 90 kHz and millisecond timestamps convert without rounding.
const OFFSET_UNIT: i64 = 1_000_000;
/// Nothing real is beyond 146 years; clamping here makes every sum below safe.
const SOURCE_MAX: i64 = 1 << 62;

pub(crate) const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Converts units of a timescale to nanoseconds, rounding to the nearest and clamping the absurd.
pub(crate) fn to_nanos(units: i64, timescale: u32) -> i64 {
    let scale = i128::from(timescale.max(1));
    let nanos = (i128::from(units) * i128::from(NANOS_PER_SECOND) + scale / 2).div_euclid(scale);
    nanos.clamp(i128::from(-SOURCE_MAX), i128::from(SOURCE_MAX)) as i64
}

/// Converts nanoseconds to units of a timescale, rounding to the nearest.
pub(crate) fn from_nanos(nanos: i64, timescale: u32) -> i64 {
    let half = NANOS_PER_SECOND / 2;
    ((i128::from(nanos) * i128::from(timescale) + i128::from(half))
        .div_euclid(i128::from(NANOS_PER_SECOND))) as i64
}

/// [`Duration`] as nanoseconds, clamped.
pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(SOURCE_MAX).min(SOURCE_MAX)
}

/// The part of the time line that belongs to one track.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset: Option<i64>,
    last: Option<i64>,
    restarts: u32,
}

impl Clock {
    /// Where the last sample was placed.
    pub(crate) fn last(&self) -> Option<i64> {
        self.last
    }
}

#[derive(Debug, Clone, Copy)]
struct Proposal {
    offset: i64,
    hits: u32,
}

/// Where a sample goes, and what had to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) at: i64,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Believed as it is.
    Believed,
    /// Moved to keep the time line monotone, or stamped anew.
    Restamped,
    /// The track moved to a new time line with this sample.
    Jumped,
}

#[derive(Debug, Default)]
pub(crate) struct Timeline {
    newest: Option<Proposal>,
    /// The end of everything placed so far.
    front: Option<i64>,
    restarts: u32,
    /// The offset that most of the feed is on.
    main: Option<i64>,
    /// When the sample that is being placed arrived.
    arrival: i64,
    drift: Drift,
}

impl Timeline {
    /// The next samples arrive at this moment, counted from any fixed one.
    pub(crate) fn arrive(&mut self, arrival: i64) {
        self.arrival = arrival;
    }

    /// How fast the publisher's clock runs against ours.
    pub(crate) fn drift(&self) -> &Drift {
        &self.drift
    }

    /// The publisher restarted: the next timestamps have nothing to do with the last.
    pub(crate) fn restart(&mut self) {
        self.restarts += 1;
        self.newest = None;
        self.main = None;
        self.drift.restart();
    }

    /// Places a sample whose publisher claims the decode time `source` and that is about `nominal` long.
    pub(crate) fn place(&mut self, clock: &mut Clock, source: i64, nominal: i64) -> Placed {
        if clock.restarts != self.restarts {
            clock.restarts = self.restarts;
            clock.offset = None;
        }
        let front = *self.front.get_or_insert(START);
        let slew = self.drift.slew();
        let source = source.saturating_add(slew);
        let (at, verdict) = self.decide(clock, source, nominal, front);
        if verdict == Verdict::Jumped && self.main != clock.offset {
            self.main = clock.offset;
            self.drift.restart();
        }
        let main = *self.main.get_or_insert(clock.offset.unwrap_or_default());
        // A track on a clock of its own says nothing about the feed's.
        if verdict == Verdict::Believed && clock.offset == Some(main) {
            self.drift.note(at - slew, self.arrival);
        }
        let floor = clock.last.map_or(0, |last| last + STEP);
        let verdict =
            if at < floor && verdict == Verdict::Believed { Verdict::Restamped } else { verdict };
        let at = at.max(floor);
        clock.last = Some(at);
        self.front = Some(front.max(at + nominal));
        Placed { at, verdict }
    }

    fn decide(
        &mut self,
        clock: &mut Clock,
        source: i64,
        nominal: i64,
        front: i64,
    ) -> (i64, Verdict) {
        // Before its first sample since a restart a track is measured against the whole feed.
        let back = match (clock.offset, clock.last) {
            (Some(_), Some(last)) => last,
            _ => front,
        };
        let fits = |at: i64| (back - BACK_MAX..=front.max(back) + FORWARD_MAX).contains(&at);
        if let Some(at) =
            clock.offset.map(|offset| source.saturating_add(offset)).filter(|at| fits(*at))
        {
            return (at, Verdict::Believed);
        }
        let fresh = clock.offset.is_none();
        if let Some(newest) = &mut self.newest {
            let at = source.saturating_add(newest.offset);
            if Some(newest.offset) != clock.offset && fits(at) {
                newest.hits += 1;
                if fresh || newest.hits >= PROPOSAL_HITS {
                    clock.offset = Some(newest.offset);
                    return (at, if fresh { Verdict::Believed } else { Verdict::Jumped });
                }
                return (at, Verdict::Restamped);
            }
        }
        let exact = front.saturating_sub(source);
        let offset = exact
            .div_euclid(OFFSET_UNIT)
            .saturating_add(i64::from(exact.rem_euclid(OFFSET_UNIT) > 0));
        let offset = offset.saturating_mul(OFFSET_UNIT);
        if fresh {
            // Nothing to compare with: the first track sets the offset of the feed, an odd one out sets its own.
            self.newest.get_or_insert(Proposal { offset, hits: PROPOSAL_HITS });
            clock.offset = Some(offset);
            return (source.saturating_add(offset), Verdict::Believed);
        }
        self.newest = Some(Proposal { offset, hits: 1 });
        (clock.last.map_or(front, |last| last + nominal), Verdict::Restamped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: i64 = 40_000_000;
    const MS: i64 = 1_000_000;

    fn place_all(timeline: &mut Timeline, clock: &mut Clock, sources_ms: &[i64]) -> Vec<i64> {
        sources_ms.iter().map(|ms| timeline.place(clock, ms * MS, FRAME).at / MS).collect()
    }

    #[test]
    fn steady_time_is_kept_with_one_offset() {
        let (mut timeline, mut clock) = (Timeline::default(), Clock::default());
        assert_eq!(
            place_all(&mut timeline, &mut clock, &[500, 540, 580, 660]),
            [1000, 1040, 1080, 1160]
        );
    }

    #[test]
    fn a_single_frame_hours_off_is_stamped_anew_and_forgotten() {
        let (mut timeline, mut clock) = (Timeline::default(), Clock::default());
        let placed = place_all(
            &mut timeline,
            &mut clock,
            &[0, 40, 80, 9_000_000, 160, 200, -7_000_000, 280],
        );
        assert_eq!(placed, [1000, 1040, 1080, 1120, 1160, 1200, 1240, 1280]);
    }

    #[test]
    fn a_new_time_line_is_believed_after_three_frames_and_continues_without_a_gap() {
        let (mut timeline, mut clock) = (Timeline::default(), Clock::default());
        let placed = place_all(
            &mut timeline,
            &mut clock,
            &[0, 40, 80, 1_000_000, 1_000_040, 1_000_080, 1_000_120, 1_000_200],
        );
        assert_eq!(placed, [1000, 1040, 1080, 1120, 1160, 1200, 1240, 1320]);
        assert!(timeline.newest.unwrap().hits >= PROPOSAL_HITS);
    }

    #[test]
    fn audio_and_video_jump_together() {
        let mut timeline = Timeline::default();
        let (mut video, mut audio) = (Clock::default(), Clock::default());
        for ms in (0..400).step_by(40) {
            timeline.place(&mut video, ms * MS, FRAME);
            timeline.place(&mut audio, (ms + 10) * MS, FRAME);
        }
        for ms in (5_000_000..5_000_400).step_by(40) {
            timeline.place(&mut video, ms * MS, FRAME);
            timeline.place(&mut audio, (ms + 10) * MS, FRAME);
        }
        assert_eq!(audio.last().unwrap() - video.last().unwrap(), 10 * MS);
        assert_eq!(audio.offset, video.offset);
    }

    #[test]
    fn a_track_on_another_time_line_does_not_drag_the_feed_along() {
        let mut timeline = Timeline::default();
        let (mut video, mut audio) = (Clock::default(), Clock::default());
        for ms in (0..4000).step_by(40) {
            timeline.place(&mut video, ms * MS, FRAME);
            timeline.place(&mut audio, (ms + 77_000_000) * MS, FRAME);
        }
        assert_eq!(video.last().unwrap() / MS, 1000 + 3960);
        assert!((audio.last().unwrap() - video.last().unwrap()).abs() < 100 * MS);
    }

    #[test]
    fn a_paused_track_comes_back_where_the_others_are() {
        let mut timeline = Timeline::default();
        let (mut video, mut audio) = (Clock::default(), Clock::default());
        for ms in (0..20_000).step_by(40) {
            timeline.place(&mut video, ms * MS, FRAME);
            if !(1000..19_000).contains(&ms) {
                timeline.place(&mut audio, ms * MS, FRAME);
            }
        }
        assert_eq!(audio.last(), video.last());
    }

    #[test]
    fn a_restart_continues_at_the_end() {
        let mut timeline = Timeline::default();
        let (mut video, mut audio) = (Clock::default(), Clock::default());
        for ms in (700_000..710_000).step_by(40) {
            timeline.place(&mut video, ms * MS, FRAME);
            timeline.place(&mut audio, ms * MS, FRAME);
        }
        timeline.restart();
        assert_eq!(
            timeline.place(&mut video, 0, FRAME),
            Placed { at: 11_000 * MS, verdict: Verdict::Believed }
        );
        assert_eq!(timeline.place(&mut audio, 15 * MS, FRAME).at, 11_015 * MS);
    }

    #[test]
    fn absurd_timestamps_do_not_overflow() {
        let (mut timeline, mut clock) = (Timeline::default(), Clock::default());
        let mut last = 0;
        for units in [0, i64::MAX, i64::MIN, 1, i64::MIN, i64::MIN, i64::MIN, i64::MIN, i64::MAX, 0]
        {
            let at = timeline.place(&mut clock, to_nanos(units, 1), FRAME).at;
            assert!(at > last);
            last = at;
        }
        assert!(last < 10 * NANOS_PER_SECOND);
    }
}
