//! Latencies in a histogram that several processes fill and one merges without loss.
//!
//! All histograms have the same buckets, so (bucket value, count) pairs carry everything.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One hour. What takes longer is recorded as this.
const NS_MAX: u64 = 3_600_000_000_000;
/// Three significant digits: at least so many buckets for the values from one power of two to the next.
const HALF: usize = 1 << 10;
/// Down to one in 10⁸.
const CURVE_POINTS_MAX: usize = 81;

/// Nanoseconds, three significant digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, NS_MAX, 3).expect("the bounds are valid constants"))
    }
}

/// Latencies that are only counted: what is recorded per delivery. Its buckets are those of [`Latencies`].
///
/// ```text
/// bucket    0 … 2047      2048 … 3071        3072 … 4095        …
/// values    0 … 2047      2048 … 4095        4096 … 8191        …
/// width     1             2                  4                  …
/// ```
#[derive(Debug)]
pub(crate) struct Tally {
    counts: Box<[u64]>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { counts: vec![0; Self::bucket(NS_MAX) + 1].into_boxed_slice() }
    }
}

impl Tally {
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.counts[Self::bucket(ns.min(NS_MAX))] += 1;
    }

    /// A bucket is named by the 11 highest bits of its values and by how many bits follow these.
    #[inline]
    fn bucket(ns: u64) -> usize {
        let shift = Self::shift(ns);
        (ns >> shift) as usize + (shift as usize * HALF)
    }

    #[inline]
    fn shift(ns: u64) -> u32 {
        HALF.ilog2().abs_diff((ns | HALF as u64).ilog2())
    }

    pub(crate) fn to_buckets(&self) -> Buckets {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Buckets(filled.map(|(bucket, &count)| (Self::highest(bucket), count)).collect())
    }

    /// The highest value of a bucket.
    fn highest(bucket: usize) -> u64 {
        let shift = (bucket / HALF).saturating_sub(1);
        (((bucket - shift * HALF + 1) as u64) << shift) - 1
    }
}

/// The filled buckets: (a value in the bucket, in ns; count).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Buckets(Vec<(u64, u64)>);

impl Latencies {
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub(crate) fn record_n(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns, count);
    }

    pub(crate) fn merge(&mut self, buckets: &Buckets) {
        for &(ns, count) in &buckets.0 {
            self.0.saturating_record_n(ns, count);
        }
    }

    pub(crate) fn to_buckets(&self) -> Buckets {
        let filled = self.0.iter_recorded();
        Buckets(filled.map(|v| (v.value_iterated_to(), v.count_at_value())).collect())
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Milliseconds at `quantile` (0.0..=1.0).
    pub(crate) fn ms_at(&self, quantile: f64) -> f64 {
        ms(self.0.value_at_quantile(quantile))
    }

    pub(crate) fn max_ms(&self) -> f64 {
        ms(self.0.max())
    }

    pub(crate) fn mean_ms(&self) -> f64 {
        self.0.mean() / 1e6
    }

    pub(crate) fn mean_ns(&self) -> u64 {
        self.0.mean() as u64
    }

    /// (quantile, ms), closer together towards the end: ten steps to each further nine.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut curve = vec![(0.0, self.ms_at(0.0))];
        let (mut left, least) = (1.0_f64, 1.0 / self.0.len() as f64);
        while left > least && curve.len() < CURVE_POINTS_MAX {
            left *= 10_f64.powf(-0.1);
            curve.push((1.0 - left, self.ms_at(1.0 - left)));
        }
        curve
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_tally_has_the_buckets_of_a_histogram(values in prop::collection::vec((any::<u64>(), 0..64_u32), 1..50)) {
            let (mut histogram, mut tally) = (Latencies::default(), Tally::default());
            for (bits, shift) in values {
                let ns = (bits >> shift).min(NS_MAX);
                for ns in [ns, ns.next_power_of_two(), ns.next_power_of_two() - 1] {
                    histogram.record(ns.min(NS_MAX));
                    tally.record(ns);
                }
            }
            prop_assert_eq!(tally.to_buckets(), histogram.to_buckets());
        }
    }

    #[test]
    fn what_takes_longer_than_an_hour_is_tallied_as_an_hour() {
        let (mut histogram, mut tally) = (Latencies::default(), Tally::default());
        histogram.record(NS_MAX);
        tally.record(u64::MAX);
        assert_eq!(tally.to_buckets(), histogram.to_buckets());
    }

    #[test]
    fn merging_buckets_equals_recording_in_one_place() {
        let (mut whole, mut parts) = (Latencies::default(), [Latencies::default(), Latencies::default()]);
        for n in 1..50_000_u64 {
            let ns = n * n % 7_919_000_003;
            whole.record(ns);
            parts[(n % 2) as usize].record(ns);
        }
        let mut merged = Latencies::default();
        parts.iter().for_each(|part| merged.merge(&part.to_buckets()));
        for quantile in [0.0, 0.5, 0.99, 0.999, 1.0] {
            assert_eq!(merged.ms_at(quantile), whole.ms_at(quantile));
        }
    }
}
