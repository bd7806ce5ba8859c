//! What samples say: their distribution, and the ratios of those that were taken in pairs.

use std::f64::consts::LN_2;

use hdrhistogram::Histogram;

use super::document::{Quantiles, Ratio, float};

/// Digits of a quantile that can be relied on.
const DIGITS: u8 = 3;
/// How often [`Ratio::confidence`] holds the true median.
const CERTAINTY: f64 = 0.95;

/// Returns the distribution of samples; of none, all is 0.
///
/// Count, least, greatest and mean are exact, the quantiles to three digits. A quantile is a sample, not a place between two.
#[must_use]
pub fn quantiles(samples: &[u64]) -> Quantiles {
    let (Some(&min), Some(&max)) = (samples.iter().min(), samples.iter().max()) else { return Quantiles::default() };
    let mean = samples.iter().copied().map(float).sum::<f64>() / float(samples.len() as u64);
    let count = samples.len() as u64;
    let at = |fraction: f64, histogram: &Histogram<u64>| histogram.value_at_quantile(fraction).clamp(min, max);
    // An error means bounds or digits that no histogram can have.
    match Histogram::new_with_bounds(1, max.max(2), DIGITS) {
        Err(_) => Quantiles { count, min, max, mean, ..Quantiles::default() },
        Ok(mut histogram) => {
            samples.iter().for_each(|sample| histogram.saturating_record(*sample));
            let [p25, p50, p75, p99, p999] = [0.25, 0.5, 0.75, 0.99, 0.999].map(|fraction| at(fraction, &histogram));
            Quantiles { count, min, p25, p50, p75, p99, p999, max, mean }
        }
    }
}

/// Divides ours by the limit, pair by pair, and returns what the ratios are like; none where there is no pair, or a limit of 0.
///
/// Samples without a partner are left out. Quartiles and median lie between two ratios where no ratio is in their place.
#[must_use]
pub fn ratio(ours: &[u64], limit: &[u64]) -> Option<Ratio> {
    let divided = |(ours, limit): (&u64, &u64)| (*limit > 0).then(|| float(*ours) / float(*limit));
    let mut ratios = ours.iter().zip(limit).map(divided).collect::<Option<Vec<f64>>>()?;
    ratios.sort_by(f64::total_cmp);
    let (&min, &max) = (ratios.first()?, ratios.last()?);
    Some(Ratio {
        pairs: ratios.len() as u64,
        min,
        p25: quantile(&ratios, 1, 4)?,
        median: quantile(&ratios, 1, 2)?,
        p75: quantile(&ratios, 3, 4)?,
        max,
        confidence: median_interval(&ratios, CERTAINTY)?,
    })
}

/// Returns the quantile `part`/`of` of sorted numbers, between two of them in proportion; none of none.
#[must_use]
pub fn quantile(sorted: &[f64], part: usize, of: usize) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? * part;
    let (below, beyond) = (sorted.get(place / of)?, place % of);
    let above = sorted.get(place / of + 1).unwrap_or(below);
    Some(below + (above - below) * float(beyond as u64) / float(of as u64))
}

/// Returns the interval that holds the true median with a probability of at least `certainty` (0 to 1), of sorted numbers; none of
/// none.
///
/// It goes from the k-th least to the k-th greatest, k as large as the binomial distribution allows: nothing is assumed of how the
/// numbers are distributed. Where they are too few to be so certain, fewer than six for 95 %, it is from the least to the greatest.
#[must_use]
pub fn median_interval(sorted: &[f64], certainty: f64) -> Option<[f64; 2]> {
    let cut = cut_on_each_side(sorted.len(), (1.0 - certainty) / 2.0);
    Some([*sorted.get(cut)?, *sorted.get(sorted.len().checked_sub(cut + 1)?)?])
}

/// Returns how many of `count` numbers lie outside of the median's interval on each side, where it may be missed with a probability
/// of `missed` on each.
fn cut_on_each_side(count: usize, missed: f64) -> usize {
    // The logarithm of a binomial coefficient over 2^count: the number itself is less than a float can be for a count above 1074.
    let mut logarithm = -float(count as u64) * LN_2;
    let mut beyond = 0.0;
    let mut cut = 0;
    for below in 0..count / 2 {
        beyond += logarithm.exp();
        if beyond > missed {
            break;
        }
        cut = below;
        logarithm += (float((count - below) as u64) / float(below as u64 + 1)).ln();
    }
    cut
}

#[cfg(test)]
mod test {
    use super::{cut_on_each_side, median_interval, quantile, quantiles, ratio};
    use crate::bench::document::{Quantiles, float};

    #[test]
    fn quantiles_of_few_samples_are_those_samples() {
        assert_eq!(quantiles(&[]), Quantiles::default());
        let one = quantiles(&[7]);
        assert_eq!((one.count, one.min, one.p25, one.p50, one.p999, one.max), (1, 7, 7, 7, 7, 7));
        let five = quantiles(&[50, 10, 40, 20, 30]);
        assert_eq!((five.p25, five.p50, five.p75, five.p99), (20, 30, 40, 50));
        assert!((five.mean - 30.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_are_right_to_three_digits_and_ends_to_the_last() {
        let samples: Vec<u64> = (1..=100_000).rev().map(|number| number * 1_000 + 1).collect();
        let found = quantiles(&samples);
        assert_eq!((found.count, found.min, found.max), (100_000, 1_001, 100_000_001));
        for (shown, exact) in [
            (found.p25, 25_000_001),
            (found.p50, 50_000_001),
            (found.p75, 75_000_001),
            (found.p99, 99_000_001),
            (found.p999, 99_900_001),
        ] {
            assert!((float(shown) / float(exact) - 1.0).abs() < 1e-3, "{shown} for {exact}");
        }
        assert!((found.mean - 50_000_501.0).abs() < 1.0, "{}", found.mean);
    }

    #[test]
    fn samples_may_be_zero_and_may_be_as_great_as_they_come() {
        let found = quantiles(&[0, 0, 0, u64::MAX]);
        assert_eq!((found.min, found.p50, found.max), (0, 0, u64::MAX));
        let zero = quantiles(&[0]);
        assert_eq!((zero.count, zero.p50, zero.max), (1, 0, 0));
    }

    #[test]
    fn ratios_are_of_pairs_not_of_medians() {
        // The machine was ten times slower for the second pair: that is no difference between the sides.
        let found = ratio(&[110, 1100, 110, 9], &[100, 1000, 100]).expect("three pairs");
        assert_eq!(found.pairs, 3);
        for number in [found.min, found.p25, found.median, found.p75, found.max] {
            assert!((number - 1.1).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn no_pair_or_a_limit_of_nothing_has_no_ratio() {
        assert_eq!(ratio(&[], &[]), None);
        assert_eq!(ratio(&[1, 2], &[]), None);
        assert_eq!(ratio(&[1, 2], &[1, 0]), None);
        assert!(ratio(&[0], &[1]).is_some_and(|ratio| ratio.median.abs() < 1e-9));
    }

    #[test]
    fn quantile_lies_between_two_numbers_in_proportion() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&sorted, 1, 2), Some(2.5));
        assert_eq!(quantile(&sorted, 1, 4), Some(1.75));
        assert_eq!((quantile(&sorted, 0, 1), quantile(&sorted, 1, 1)), (Some(1.0), Some(4.0)));
        assert_eq!(quantile(&[], 1, 2), None);
    }

    #[test]
    fn interval_of_the_median_is_the_one_of_the_books() {
        // Tables of order statistics: of 6 all, of 9 the 2nd to the 8th, of 25 the 8th to the 18th, of 100 the 40th to the 61st.
        let cuts = [0, 1, 5, 6, 9, 25, 100].map(|count| cut_on_each_side(count, 0.025));
        assert_eq!(cuts, [0, 0, 0, 0, 1, 7, 39]);
        let sorted: Vec<f64> = (1..=25).map(float).collect();
        assert_eq!(median_interval(&sorted, 0.95), Some([8.0, 18.0]));
        assert_eq!(median_interval(&[2.0, 3.0], 0.95), Some([2.0, 3.0]));
        assert_eq!(median_interval(&[], 0.95), None);
    }

    #[test]
    fn interval_of_many_is_narrow_about_the_median() {
        // About 0.98 times the root of the count on each side.
        let cut = cut_on_each_side(1_000_000, 0.025);
        assert!((499_015..=499_025).contains(&cut), "{cut}");
    }
}
