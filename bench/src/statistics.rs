//! Medians, and how far a median of paired ratios can be trusted: a bootstrap with a fixed seed, so that the same runs
//! always give the same interval. Knows numbers and nothing else.

use serde::{Deserialize, Serialize};

/// Samples drawn for an interval.
const DRAWS: usize = 10_000;

/// The share of all draws that an interval leaves out at each end.
const TAIL: f64 = 0.025;

/// A median and where it lies in 95 of 100 cases.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Interval {
    /// The estimate.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The middle one, or the mean of the two middle ones; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
}

/// The median of `above[i] / below[i]`, pair by pair. Pairs that lack a side, or divide by nothing, are left out.
pub fn paired_ratio(above: &[Option<f64>], below: &[Option<f64>]) -> Option<Interval> {
    let ratios: Vec<f64> = above
        .iter()
        .zip(below)
        .filter_map(|(above, below)| Some((*above)? / (*below)?))
        .filter(|ratio| ratio.is_finite())
        .collect();
    interval(&ratios)
}

/// The median of `values` with its interval.
pub fn interval(values: &[f64]) -> Option<Interval> {
    let estimate = median(values)?;
    let mut dice = fastrand::Rng::with_seed(1);
    let mut medians: Vec<f64> = (0..DRAWS)
        .filter_map(|_| {
            let draw: Vec<f64> =
                values.iter().filter_map(|_| dice.choice(values)).copied().collect();
            median(&draw)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians.get(((DRAWS - 1) as f64 * share).round() as usize).copied();
    Some(Interval { median: estimate, low: at(TAIL)?, high: at(1.0 - TAIL)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn drift_that_hits_both_sides_of_a_pair_leaves_the_ratio_alone() {
        // The machine slows down by half over eight pairs; one side is always three times the other.
        let slow = |at: u32| 1.0 - f64::from(at) / 16.0;
        let above: Vec<_> = (0..8).map(|at| Some(3.0 * slow(at))).collect();
        let below: Vec<_> = (0..8).map(|at| Some(slow(at))).collect();
        let ratio = paired_ratio(&above, &below).expect("pairs");
        for value in [ratio.median, ratio.low, ratio.high] {
            assert!((value - 3.0).abs() < 1e-9, "{ratio:?}");
        }
    }

    #[test]
    fn an_interval_holds_the_median_and_narrows_with_agreement() {
        let wide = interval(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).expect("values");
        assert!(wide.low < wide.median && wide.median < wide.high, "{wide:?}");
        let narrow = interval(&[3.9, 4.0, 4.0, 4.0, 4.0, 4.0, 4.1]).expect("values");
        assert!(narrow.high - narrow.low < wide.high - wide.low);
        assert_eq!(interval(&[1.0, 2.0, 9.0]), interval(&[1.0, 2.0, 9.0]), "the same every time");
    }

    #[test]
    fn pairs_without_a_side_do_not_count() {
        let ratio = paired_ratio(&[Some(6.0), None, Some(1.0)], &[Some(2.0), Some(1.0), Some(0.0)]);
        assert_eq!(ratio.map(|it| it.median), Some(3.0));
        assert_eq!(paired_ratio(&[None], &[None]), None);
    }
}
