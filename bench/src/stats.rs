//! Medians, and ratios of two sides that were measured in turn, with a confidence interval.

use crate::rng::Rng;

/// A median and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The median of the values, or of the pairs' ratios.
    pub median: f64,
    /// The lower end of the 95 % confidence interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// The median; of an even number, the mean of the two in the middle. NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The value that this share of the values does not exceed (nearest rank): 0.0 gives the least, 1.0 the greatest. NaN of
/// nothing.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// How `side` compares with `base`, measured in pairs: the median of the pairs' ratios, with the 95 % percentile
/// interval of a bootstrap over the pairs (Efron 1979). The same pairs always give the same interval.
///
/// # Panics
///
/// If the sides differ in length.
pub fn ratio(side: &[f64], base: &[f64]) -> Estimate {
    assert_eq!(side.len(), base.len(), "one value of each side per pair");
    estimate(&side.iter().zip(base).map(|(s, b)| s / b).collect::<Vec<_>>())
}

/// The median of values that were measured alike, with the 95 % percentile interval of a bootstrap over them. NaN of
/// nothing. The same values always give the same interval.
pub fn estimate(values: &[f64]) -> Estimate {
    if values.is_empty() {
        return Estimate { median: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    let mut rng = Rng::new(values.len() as u64);
    let mut medians: Vec<f64> =
        (0..RESAMPLES).map(|_| median(&values.iter().map(|_| *rng.pick(values)).collect::<Vec<_>>())).collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize];
    Estimate { median: median(values), low: at(0.025), high: at(0.975) }
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.9, 0.99, 1.0].map(|share| quantile(&values, share)), [1.0, 100.0, 180.0, 198.0, 200.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_interval_encloses_the_median_and_is_a_point_where_nothing_varies() {
        let same = ratio(&[2.0; 8], &[4.0; 8]);
        assert_eq!((same.low, same.median, same.high), (0.5, 0.5, 0.5));
        let varied = ratio(&[9.0, 10.0, 11.0, 12.0, 8.0], &[10.0; 5]);
        assert!(varied.low <= varied.median && varied.median <= varied.high && varied.low < varied.high);
        assert_eq!(varied.median, 1.0);
        assert_eq!(estimate(&[0.9, 1.0, 1.1, 1.2, 0.8]), varied);
        assert!(estimate(&[]).median.is_nan());
    }
}
