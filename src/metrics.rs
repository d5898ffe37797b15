//! Numbers: a histogram that costs one addition, and the page a scraper reads. A leaf anyone may use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

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

    /// (upper bound, values in this bucket alone); the last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().enumerate().map(|(i, &count)| {
            let bound = if i + 1 == Histogram::BUCKETS { f64::INFINITY } else { (1u64 << i) as f64 };
            (bound, count)
        })
    }
}

/// What a source counts, per shard. Atomic because a client library's callbacks must be `Sync`;
/// one thread writes them.
#[derive(Debug, Default)]
pub struct SourceCounters {
    /// Events taken from the source, wanted or not.
    pub events: AtomicU64,
    /// Connections lost, after each of which another is made.
    pub reconnects: AtomicU64,
    /// Payloads with bytes that are not UTF-8, which were replaced.
    pub not_utf8: AtomicU64,
    /// Payloads dropped because they were too large.
    pub too_large: AtomicU64,
    /// Messages on durable topics that are none of ours, and were not delivered.
    pub foreign: AtomicU64,
    /// Envelopes that could not be read and were delivered as plain data.
    pub malformed: AtomicU64,
    /// What the source says of itself. A lock, because words have no atomic; it is taken when the
    /// state changes and when an operator asks, never on an event's way.
    told: Mutex<Told>,
}

/// What a shard's source says of itself, for operators.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// Why the shard is not fed now; `None` exactly when it is.
    pub trouble: Option<String>,
    /// The trouble there was last.
    pub last_error: Option<String>,
    /// The server's version, once known.
    pub version: Option<String>,
    /// The server's role, while the shard is fed by it.
    pub role: Option<String>,
}

impl SourceCounters {
    /// What it says now.
    #[must_use]
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    /// The shard is not fed yet, and nothing is wrong with that.
    pub fn tell_waiting(&self, sentence: String) {
        self.lock().trouble = Some(sentence);
    }

    /// The shard is not fed.
    pub fn tell_trouble(&self, sentence: String) {
        let mut told = self.lock();
        (told.last_error, told.trouble, told.role) = (Some(sentence.clone()), Some(sentence), None);
    }

    /// The shard is fed, by this server.
    pub fn tell_connected(&self, version: String, role: String) {
        let mut told = self.lock();
        (told.version, told.role, told.trouble) = (Some(version), Some(role), None);
    }

    /// Nothing is left half written in it: what a thread that panicked left is good.
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A page of metrics, in the order in which they were put on it.
#[derive(Debug, Default)]
pub struct Page(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Counter(Vec<(Vec<Label>, u64)>),
    Gauge(Vec<(Vec<Label>, f64)>),
    Histogram { histogram: Box<Histogram>, scale: f64 },
}

/// A label's name and value. Never a topic or a user.
pub type Label = (&'static str, &'static str);

impl Page {
    /// A number that only grows. `_total` is appended to its name.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, [(vec![], value)]);
    }

    /// As `counter`, by label.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Vec<Label>, u64)>,
    ) {
        self.0.push(Family { name, help, values: Values::Counter(values.into_iter().collect()) });
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauges(name, help, [(vec![], value)]);
    }

    /// As `gauge`, by label.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Vec<Label>, f64)>,
    ) {
        self.0.push(Family { name, help, values: Values::Gauge(values.into_iter().collect()) });
    }

    /// A histogram; its values are multiplied by `scale` (µs to seconds: 1e-6).
    pub fn histogram(&mut self, name: &'static str, help: &'static str, histogram: Histogram, scale: f64) {
        self.0.push(Family { name, help, values: Values::Histogram { histogram: Box::new(histogram), scale } });
    }

    /// The page as OpenMetrics text, for the content type [`Page::CONTENT_TYPE`].
    #[must_use]
    pub fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes everything");
        text
    }

    /// OpenMetrics 1.0.
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let kind = match family.values {
                Values::Counter(_) => MetricType::Counter,
                Values::Gauge(_) => MetricType::Gauge,
                Values::Histogram { .. } => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            match &family.values {
                Values::Counter(values) => {
                    for (labels, value) in values {
                        labelled(&mut metric, labels, |metric| {
                            metric.encode_counter::<NoLabelSet, _, u64>(value, None)
                        })?;
                    }
                }
                Values::Gauge(values) => {
                    for (labels, value) in values {
                        labelled(&mut metric, labels, |metric| metric.encode_gauge(value))?;
                    }
                }
                Values::Histogram { histogram, scale } => {
                    let buckets: Vec<(f64, u64)> =
                        histogram.buckets().map(|(bound, count)| (bound * scale, count)).collect();
                    let sum = histogram.sum() as f64 * scale;
                    metric.encode_histogram::<NoLabelSet>(sum, histogram.count(), &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

/// Encodes one value; without labels the encoder would print empty braces.
fn labelled(
    metric: &mut MetricEncoder<'_>,
    labels: &Vec<Label>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), std::fmt::Error>,
) -> Result<(), std::fmt::Error> {
    if labels.is_empty() { encode(metric) } else { encode(&mut metric.encode_family(labels)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lands_in_the_smallest_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 5, 1 << 40] {
            histogram.record(value);
        }
        let counts: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!(&counts[..4], [2, 1, 2, 1]);
        assert_eq!(counts[Histogram::BUCKETS - 1], 1);
        assert_eq!(histogram.count(), 7);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.sum()), (14, 2 * histogram.sum()));
    }

    #[test]
    fn the_page_is_openmetrics() {
        let mut histogram = Histogram::default();
        histogram.record(3);
        let mut page = Page::default();
        page.counters("fanwheel_closed", "Closed", [(vec![("reason", "gone")], 2)]);
        page.gauge("fanwheel_depth", "Depth", 1.5);
        page.histogram("fanwheel_wait_seconds", "Wait", histogram, 1e-6);
        let text = page.into_text();
        for line in [
            "fanwheel_closed_total{reason=\"gone\"} 2",
            "fanwheel_depth 1.5",
            "fanwheel_wait_seconds_bucket{le=\"+Inf\"} 1",
            "fanwheel_wait_seconds_count 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} in\n{text}");
        }
    }
}
