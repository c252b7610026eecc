//! Measures what a track sends and decides when the published figure is worth changing. Media time only.

use crate::timeline::NANOS_PER_SECOND;

/// Media time per measurement.
const WINDOW: i64 = NANOS_PER_SECOND;

/// Bit rate of a track, smoothed; a published figure stands until the measured one is more than a fifth away, so that
/// catalogs do not flap.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    since: Option<i64>,
    bytes: u64,
    bits_per_second: Option<u64>,
    published_bits: Option<u64>,
    published_rate: Option<f64>,
}

impl Meter {
    pub(crate) fn count(&mut self, at: i64, bytes: usize) {
        let since = *self.since.get_or_insert(at);
        let elapsed = at - since;
        if elapsed >= WINDOW {
            let bits = (i128::from(self.bytes) * 8 * i128::from(NANOS_PER_SECOND)
                / i128::from(elapsed)) as u64;
            self.bits_per_second =
                Some(self.bits_per_second.map_or(bits, |before| (before * 3 + bits) / 4));
            (self.since, self.bytes) = (Some(at), 0);
        }
        self.bytes += bytes as u64;
    }

    /// Bits per second and frames per second for the next catalog.
    pub(crate) fn publish(&mut self, frame_rate: Option<f64>) -> (Option<u64>, Option<f64>) {
        if let Some(bits) = self.bits_per_second {
            let off = self
                .published_bits
                .is_none_or(|published| published.abs_diff(bits) * 5 > published);
            if off {
                self.published_bits = Some((bits.div_ceil(1000)) * 1000);
            }
        }
        if let Some(rate) = frame_rate {
            let off = self
                .published_rate
                .is_none_or(|published| (published - rate).abs() * 20.0 > published);
            if off {
                self.published_rate = Some((rate * 1000.0).round() / 1000.0);
            }
        }
        (self.published_bits, self.published_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_rate_moves_only_when_it_is_a_fifth_off() {
        let mut meter = Meter::default();
        let mut at = 0;
        let mut send = |meter: &mut Meter, bytes: usize, count: i64| {
            for _ in 0..count {
                meter.count(at, bytes);
                at += NANOS_PER_SECOND / 10;
            }
        };
        assert_eq!(meter.publish(None), (None, None));
        send(&mut meter, 1000, 20);
        assert_eq!(meter.publish(Some(29.9999)), (Some(80_000), Some(30.0)));
        send(&mut meter, 1100, 100);
        assert_eq!(meter.publish(Some(30.1)), (Some(80_000), Some(30.0)));
        send(&mut meter, 2000, 100);
        let (bits, rate) = meter.publish(Some(60.0));
        assert!((155_000..=160_000).contains(&bits.unwrap()));
        assert_eq!(rate, Some(60.0));
    }
}
