//! What was measured: samples of each figure for each way, their medians, and ratios between ways.

use std::collections::BTreeMap;

use crate::measure::quantile;
use crate::ways::Kind;

/// In which unit a figure is printed, and which end of it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Gbit/s.
    Gigabits,
    /// 1/s.
    PerSecond,
    Microseconds,
    Seconds,
    Milliseconds,
    /// One-way trips between the hosts.
    Trips,
    /// Mbit/s.
    Megabits,
    /// Printed with a binary unit.
    Bytes,
}

impl Unit {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gigabits => "Gbit/s",
            Self::PerSecond => "1/s",
            Self::Microseconds => "µs",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Trips => "trips",
            Self::Megabits => "Mbit/s",
            Self::Bytes => "bytes",
        }
    }
}

/// What a row of the table holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name in documents, such as `throughput-8`.
    pub key: String,
    /// Its name in the table.
    pub title: String,
    pub unit: Unit,
}

/// All samples of a run. Those of one figure are in the order of rounds for every way, so that ratios compare what was taken side by side.
#[derive(Debug, Default)]
pub struct Results {
    figures: Vec<Figure>,
    samples: BTreeMap<(String, Kind), Vec<f64>>,
}

impl Results {
    pub fn add(&mut self, kind: Kind, key: impl Into<String>, title: impl Into<String>, unit: Unit, value: f64) {
        let key = key.into();
        if !self.figures.iter().any(|figure| figure.key == key) {
            self.figures.push(Figure { key: key.clone(), title: title.into(), unit });
        }
        self.samples.entry((key, kind)).or_default().push(value);
    }

    /// All figures, in the order in which they were first taken.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    pub fn samples(&self, key: &str, kind: Kind) -> &[f64] {
        self.samples.get(&(key.to_owned(), kind)).map_or(&[], Vec::as_slice)
    }

    pub fn median(&self, key: &str, kind: Kind) -> Option<f64> {
        median(self.samples(key, kind).to_vec())
    }

    /// The median of the rounds' ratios of `kind` to `base`.
    pub fn ratio(&self, key: &str, kind: Kind, base: Kind) -> Option<f64> {
        let pairs = self.samples(key, kind).iter().zip(self.samples(key, base));
        median(pairs.map(|(value, base)| value / base).filter(|ratio| ratio.is_finite()).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(values[even / 2 - 1], values[even / 2])),
        _ => Some(quantile(&values, 0.5)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_compare_what_was_taken_side_by_side() {
        let mut results = Results::default();
        for (chain, postern) in [(1.0, 2.0), (100.0, 100.0), (10.0, 30.0)] {
            results.add(Kind::Chain, "a", "A", Unit::Seconds, chain);
            results.add(Kind::Postern, "a", "A", Unit::Seconds, postern);
        }
        assert_eq!(results.median("a", Kind::Chain), Some(10.0));
        assert_eq!(results.ratio("a", Kind::Postern, Kind::Chain), Some(2.0));
        assert_eq!(results.ratio("a", Kind::Postern, Kind::Direct), None);
        assert_eq!(results.figures().len(), 1);
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
