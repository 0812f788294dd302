//! Order statistics of what was measured.

use serde::Serialize;

/// The rounds of one measurement, summed up.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// The smallest: on a noisy machine the one that is nearest to what the work itself costs.
    pub min: f64,
    /// A quarter lies below it.
    pub quartile: f64,
    /// Half lies below it.
    pub median: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Summary {
    /// Sums up; `None` where nothing was measured.
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

/// The rounds of one measurement of which more is better, summed up: the mirror image of [`Summary`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// The largest.
    pub max: f64,
    /// A quarter lies above it.
    pub quartile: f64,
    /// Half lies above it.
    pub median: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Rates {
    /// Sums up; `None` where nothing was measured.
    pub fn of(rounds: Vec<f64>) -> Option<Self> {
        let mirrored = Summary::of(rounds.into_iter().map(|rate| -rate).collect())?;
        let Summary { min, quartile, median, rounds } = mirrored;
        Some(Self { max: -min, quartile: -quartile, median: -median, rounds })
    }
}

/// The smallest value that at least this share of the sorted ones does not exceed.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_smallest_value_that_its_share_does_not_exceed() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            [0.0, 0.25, 0.5, 0.99, 1.0].map(|share| quantile(&sorted, share)),
            [1.0, 25.0, 50.0, 99.0, 100.0].map(Some)
        );
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_best_rates_are_the_largest() {
        let rates = Rates::of((1..=100).map(f64::from).collect()).unwrap();
        assert_eq!((rates.max, rates.quartile, rates.median, rates.rounds), (100.0, 76.0, 51.0, 100));
        assert!(Rates::of(Vec::new()).is_none());
    }
}
