//! Counts durations into buckets of bounded relative error, so that percentiles of millions of samples cost a few
//! kilobytes and one increment each. Owns the counts; does not know what a sample means or where its clock stands.

use std::time::Duration;

/// Buckets per power of two: 64 keep the relative error of a percentile under 1/64, about 1.6 %.
const STEPS: u64 = 64;
/// Powers of two above the first linear run: 64 ns x 2^40 is 19 hours, more than any run here.
const POWERS: u64 = 40;
/// 64 linear buckets, then 64 for each power of two: 41 x 64 x 8 B = 21 KB.
const BUCKETS: usize = ((POWERS + 1) * STEPS) as usize;

/// Distribution of durations with nanosecond input and 1.6 % relative resolution.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one sample; one longer than the last bucket is counted there, and exactly in `max`.
    pub fn record(&mut self, sample: Duration) {
        let nanos = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(sample);
    }

    /// Adds all samples of another distribution.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Longest sample, exact.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The smallest bucket bound that at least `share` (0 to 1) of the samples do not exceed; `None` without samples.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let wanted = ((share.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(Duration::from_nanos(upper_bound(index)).min(self.max));
            }
        }
        Some(self.max)
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    // The top seven bits name the bucket: the leading one its power, the six below it the step.
    let power = u64::from(nanos.ilog2()) - u64::from(STEPS.ilog2());
    let step = (nanos >> power) - STEPS;
    (((power + 1) * STEPS + step) as usize).min(BUCKETS - 1)
}

fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let (power, step) = (index / STEPS - 1, index % STEPS);
    ((STEPS + step + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_at_most_a_64th_wide() {
        for shift in 0..45 {
            for nanos in [1_u64 << shift, (1_u64 << shift) + 1, (1_u64 << (shift + 1)) - 1] {
                let bound = upper_bound(bucket(nanos));
                assert!(bound >= nanos, "{nanos} in a bucket that ends at {bound}");
                assert!(bound - nanos <= nanos / STEPS, "{nanos} reported as {bound}");
            }
        }
    }

    #[test]
    fn percentiles_follow_a_sorted_list() {
        let seed = 7;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut samples: Vec<u64> = (0..10_000).map(|_| random.u64(1_000..500_000_000)).collect();
        let mut histogram = Histogram::default();
        for nanos in &samples {
            histogram.record(Duration::from_nanos(*nanos));
        }
        samples.sort_unstable();
        for share in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((share * samples.len() as f64).ceil() as usize).max(1) - 1;
            let truth = samples[rank];
            let told = histogram.quantile(share).expect("samples").as_nanos() as u64;
            assert!(
                told >= truth && told - truth <= truth / STEPS + 1,
                "seed {seed}, {share}: {told} for {truth}"
            );
        }
    }

    #[test]
    fn an_empty_distribution_has_no_percentile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_sample_beyond_the_last_bucket_keeps_its_value_as_the_maximum() {
        let mut histogram = Histogram::default();
        let month = Duration::from_hours(720);
        histogram.record(month);
        assert_eq!((histogram.max(), histogram.len()), (month, 1));
    }

    #[test]
    fn merging_is_the_same_as_counting_together() {
        let (mut left, mut right, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for millis in 1..200 {
            let sample = Duration::from_millis(millis);
            let one_side = if millis % 3 == 0 { &mut left } else { &mut right };
            one_side.record(sample);
            both.record(sample);
        }
        left.merge(&right);
        assert_eq!(left.counts, both.counts);
        assert_eq!(left.quantile(0.5), both.quantile(0.5));
    }
}
