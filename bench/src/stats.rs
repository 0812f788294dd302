//! Order statistics of measurements.

use serde::Serialize;

/// The statistics of the rounds of one measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// The smallest: on a noisy machine, the closest to the cost of the work itself.
    pub min: f64,
    /// The lower quartile.
    pub quartile: f64,
    /// The median.
    pub median: f64,
    /// The number of rounds.
    pub rounds: usize,
}

impl Summary {
    /// The statistics of the rounds; `None` without any.
    pub fn of(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        Some(Self {
            min: *rounds.first()?,
            quartile: quantile(&rounds, 0.25)?,
            median: quantile(&rounds, 0.5)?,
            rounds: rounds.len(),
        })
    }
}

/// The statistics of the rounds where more is better: the mirror image of [`Summary`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// The largest.
    pub max: f64,
    /// The upper quartile.
    pub quartile: f64,
    /// The median.
    pub median: f64,
    /// The number of rounds.
    pub rounds: usize,
}

impl Rates {
    /// The statistics of the rounds; `None` without any.
    pub fn of(rounds: Vec<f64>) -> Option<Self> {
        let mirrored = Summary::of(rounds.into_iter().map(|rate| -rate).collect())?;
        let Summary { min, quartile, median, rounds } = mirrored;
        Some(Self { max: -min, quartile: -quartile, median: -median, rounds })
    }
}

/// The smallest value that at least this share of the sorted values does not exceed.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_is_the_smallest_value_covering_its_share() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.25, 0.5, 0.99, 1.0].map(|share| quantile(&sorted, share)),
            [1.0, 25.0, 50.0, 99.0, 100.0].map(Some)
        );
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn best_rates_are_the_largest() {
        let rates = Rates::of((1..=100).map(f64::from).collect()).unwrap();
        assert_eq!((rates.max, rates.quartile, rates.median, rates.rounds), (100.0, 76.0, 51.0, 100));
        assert!(Rates::of(Vec::new()).is_none());
    }
}
