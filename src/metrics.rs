//! Numbers: a histogram that costs one addition, and the page a scraper reads.

/// A histogram over powers of two: bucket `i` counts values `<= 2^i`. Plain numbers, one writer.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: [u64; Histogram::BUCKETS],
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [0; Histogram::BUCKETS], sum: 0 }
    }
}

impl Histogram {
    /// Buckets; the last has no upper bound. 2^26 µs are 67 s.
    pub const BUCKETS: usize = 28;

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
        self.buckets[(bits as usize).min(Histogram::BUCKETS - 1)] += 1;
        self.sum += value;
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    /// Values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of the values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// (upper bound, values in this bucket alone), the last bound being infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().enumerate().map(|(i, &count)| {
            let bound = if i + 1 == Histogram::BUCKETS { f64::INFINITY } else { (1u64 << i) as f64 };
            (bound, count)
        })
    }
}
