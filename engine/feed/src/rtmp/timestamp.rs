//! RTMP's 32-bit millisecond clock, made into one that never wraps. Owns both wraps seen in the
//! field; does not make anything monotone.

/// Encoders that forget the extended timestamp wrap here, after 4 h 39 min.
const SHORT_WRAP: i64 = 1 << 24;
/// A step back this close to a short wrap is one, and for this long after it the other track may
/// still be on the far side: tracks are interleaved within a second or so, and a minute leaves
/// room for a stall at the wrong moment.
const SHORT_WRAP_SLACK: i64 = 60_000;

/// One per connection, not per track: a track that starts after a wrap must land beside the others.
#[derive(Debug, Default)]
pub(super) struct Unroll {
    last: Option<(u32, i64)>,
    /// Unrolled time of the last short wrap.
    short_wrap: Option<i64>,
}

impl Unroll {
    /// The next timestamp in order of arrival. Steps are read as signed, so a frame stamped a bit
    /// (or hours) early goes back and does not count as a wrap.
    pub(super) fn next(&mut self, raw: u32) -> i64 {
        let value = match self.last {
            None => i64::from(raw),
            Some((last_raw, last)) => {
                let step = i64::from(raw.wrapping_sub(last_raw) as i32);
                last.saturating_add(step + self.short_wrap(raw.max(last_raw), last, step))
            }
        };
        self.last = Some((raw, value));
        value
    }

    /// What a step across a short wrap misses or has too much.
    fn short_wrap(&mut self, highest_raw: u32, last: i64, step: i64) -> i64 {
        if i64::from(highest_raw) >= SHORT_WRAP || step.abs() < SHORT_WRAP - SHORT_WRAP_SLACK {
            return 0;
        }
        if step < 0 {
            self.short_wrap = Some(last);
            return SHORT_WRAP;
        }
        // Forward over most of the range: only right after a wrap is that a way back. Otherwise it
        // is a start at zero (headers often are) followed by real time.
        let recent = self.short_wrap.is_some_and(|at| (last - at).abs() <= SHORT_WRAP_SLACK);
        if recent { -SHORT_WRAP } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::Unroll;

    fn check(raw: &[u32], want: &[i64]) {
        let mut unroll = Unroll::default();
        let got: Vec<_> = raw.iter().map(|&raw| unroll.next(raw)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn a_32_bit_wrap_with_audio_and_video_crossing_it_apart() {
        check(
            &[u32::MAX - 20, 12, u32::MAX - 5, 30],
            &[4_294_967_275, 4_294_967_308, 4_294_967_290, 4_294_967_326],
        );
    }

    #[test]
    fn a_24_bit_wrap_with_audio_and_video_crossing_it_apart() {
        check(
            &[0xff_fff0, 10, 0xff_fffa, 50, 1050],
            &[16_777_200, 16_777_226, 16_777_210, 16_777_266, 16_778_266],
        );
    }

    #[test]
    fn headers_at_zero_before_a_clock_near_the_wrap() {
        check(&[0, 0xff_fff0, 10], &[0, 16_777_200, 16_777_226]);
    }

    #[test]
    fn an_encoder_that_counts_on_past_24_bits() {
        check(&[0xff_fff0, 0x100_0010, 0x100_0030], &[16_777_200, 16_777_232, 16_777_264]);
    }

    #[test]
    fn one_frame_stamped_three_hours_off_does_not_move_the_rest() {
        check(&[1000, 1000 + 10_800_000, 1040, 1080], &[1000, 10_801_000, 1040, 1080]);
    }

    #[test]
    fn a_step_back_stays_a_step_back() {
        check(&[1000, 960, 0, 20], &[1000, 960, 0, 20]);
    }
}
