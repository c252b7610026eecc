//! RTP times of one stream on the session's timeline. A stream is first placed by when it arrived; its
//! sender reports (RFC 3550 §6.4.1) then say how it lies to the others, and it is moved there. The
//! timeline itself is that of the reference stream, which never moves.

use std::time::Duration;

const NANOS: i128 = 1_000_000_000;

/// A difference below this is neither seen nor heard: 15 ms, a third of what is noticed first (ITU-R
/// BT.1359: sound 45 ms early).
const TOLERANCE_NS: i64 = 15_000_000;

/// A report that moves a stream by more than this is not believed: senders set their clocks, and some
/// write nonsense.
const CORRECTION_MAX_NS: i64 = 10_000_000_000;

/// What a sender report says: this RTP time was at that moment of the sender's wall clock.
#[derive(Clone, Copy, Debug)]
struct Report {
    rtp: u64,
    wall_ns: i64,
}

/// One stream's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    rate: u32,
    /// This RTP time is that many ticks after the session began.
    anchor: Option<(u64, i64)>,
    newest: u64,
    report: Option<Report>,
}

impl Clock {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, anchor: None, newest: 0, report: None }
    }

    /// Where an RTP time (without wrap) lies, in ticks since the session began. The first packet of a
    /// stream lies where it arrived.
    pub(super) fn place(&mut self, rtp: u64, arrived: Duration) -> i64 {
        let rate = self.rate;
        let (from, ticks) = *self.anchor.get_or_insert_with(|| {
            (rtp, (arrived.as_nanos() as i128 * i128::from(rate) / NANOS) as i64)
        });
        self.newest = rtp;
        ticks.saturating_add(rtp.wrapping_sub(from) as i64)
    }

    /// A sender report. Its RTP time has 32 bits and is near the newest packet.
    pub(super) fn report(&mut self, rtp: u32, wall: Duration) {
        let distance = rtp.wrapping_sub(self.newest as u32).cast_signed();
        let rtp = self.newest.wrapping_add_signed(i64::from(distance));
        let wall_ns = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX);
        self.report = Some(Report { rtp, wall_ns });
    }

    /// How far this stream is ahead of where the reports of both say it is, if they say it and it
    /// matters.
    pub(super) fn error_ns(&self, reference: &Self) -> Option<i64> {
        let (ours, theirs) = (self.report?, reference.report?);
        let apart = i128::from(ours.wall_ns) - i128::from(theirs.wall_ns);
        let wanted = reference.nanos(theirs.rtp)? + apart;
        let error = i64::try_from(self.nanos(ours.rtp)? - wanted).ok()?;
        (TOLERANCE_NS..=CORRECTION_MAX_NS).contains(&error.checked_abs()?).then_some(error)
    }

    /// Moves the stream back by this much.
    pub(super) fn correct(&mut self, error_ns: i64) {
        let ticks = (i128::from(error_ns) * i128::from(self.rate) / NANOS) as i64;
        if let Some((_, at)) = &mut self.anchor {
            *at -= ticks;
        }
    }

    fn nanos(&self, rtp: u64) -> Option<i128> {
        let (from, ticks) = self.anchor?;
        let ticks = i128::from(ticks) + i128::from(rtp.wrapping_sub(from) as i64);
        Some(ticks * NANOS / i128::from(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn sender_reports_bring_sound_to_its_picture() {
        let mut video = Clock::new(90_000);
        let mut audio = Clock::new(48_000);
        // Sound came 80 ms after the picture of the same moment; RTP times begin anywhere.
        assert_eq!(video.place(1_000_000, Duration::from_millis(100)), 9_000);
        assert_eq!(audio.place(77, Duration::from_millis(180)), 8_640);
        assert_eq!(audio.error_ns(&video), None, "nobody said anything yet");
        video.report(1_000_000, Duration::from_secs(50));
        audio.report(77, Duration::from_secs(50));
        let error = audio.error_ns(&video).expect("80 ms");
        assert_eq!(error, 80_000_000);
        audio.correct(error);
        assert_eq!(audio.error_ns(&video), None);
        assert_eq!(audio.place(77 + 960, Duration::from_millis(200)), 4_800 + 960);
    }

    #[test]
    fn reports_lie_near_the_newest_packet_whatever_wrapped() {
        let mut clock = Clock::new(90_000);
        let newest = (3_u64 << 32) + 5;
        clock.place(newest, Duration::ZERO);
        clock.report(u32::MAX, Duration::from_secs(1));
        assert_eq!(clock.report.map(|report| report.rtp), Some(newest - 6));
    }

    #[test]
    fn small_and_absurd_differences_move_nothing() {
        for apart in [14 * MS, 11_000 * MS] {
            let (mut video, mut audio) = (Clock::new(90_000), Clock::new(48_000));
            video.place(0, Duration::ZERO);
            audio.place(0, Duration::ZERO);
            video.report(0, Duration::from_secs(100));
            audio.report(0, Duration::from_secs(100) + Duration::from_nanos(apart));
            assert_eq!(audio.error_ns(&video), None, "{apart}");
        }
    }
}
