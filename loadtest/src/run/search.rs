//! The highest rate a server holds.
//!
//! Each step is a run of its own with fresh streams. The rate doubles while it is held and halves
//! while it is not; between one that was held and one that was not it takes their geometric mean.
//! A rate counts as missed when it is missed twice: one stall of the machine is no limit of the server.

use anyhow::Result;
use serde::Serialize;

use super::options::Flags;
use crate::report::{Bottleneck, Report};

/// Of what was offered so much must have been delivered by the time the last event was published.
const DELIVERED_SHARE_MIN: f64 = 0.95;
/// A search ends when the bounds are this close.
const PRECISION: f64 = 1.08;

/// What a search found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Search {
    /// Events per second.
    pub(crate) held_events_per_s: Option<f64>,
    pub(crate) held_deliveries_per_s: Option<f64>,
    /// True exactly when every rate tried was held: the limit is higher.
    pub(crate) held_is_lower_bound: bool,
    pub(crate) search_p99_limit_ms: f64,
    pub(crate) steps: Vec<Step>,
}

/// One run of a search.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    /// Deliveries per second.
    pub(crate) offered_per_s: f64,
    pub(crate) deliveries_per_s: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) intended_p99_ms: Option<f64>,
    pub(crate) server_cpu_us_per_delivery: Option<f64>,
    pub(crate) lost: u64,
    pub(crate) bottleneck: Bottleneck,
    /// True exactly when the rate was held.
    pub(crate) passed: bool,
}

/// Searches in at most `steps` runs; the report is that of the highest rate held, or of the last step.
pub(super) fn search(flags: &Flags, steps: usize, measure: &mut dyn FnMut(Flags) -> Result<Report>) -> Result<Report> {
    let mut bounds = Bounds::default();
    let mut rate = flags.rate;
    let (mut taken, mut best, mut last) = (Vec::new(), None, None);
    for _ in 0..steps {
        let (report, step) = try_twice(&Flags { rate, ..flags.clone() }, measure)?;
        eprintln!(
            "… {rate:.0} events/s: {} ({:.0} deliveries/s, p99 {:.1} ms)",
            if step.passed { "held" } else { "not held" },
            step.deliveries_per_s.unwrap_or(0.0),
            step.intended_p99_ms.unwrap_or(f64::NAN),
        );
        let passed = step.passed;
        bounds.handle(rate, passed);
        taken.push(step);
        if passed && best.as_ref().is_none_or(|(best_rate, _)| rate > *best_rate) {
            best = Some((rate, report));
        } else {
            last = Some(report);
        }
        let Some(next) = bounds.next_rate() else {
            break;
        };
        rate = next;
    }
    let held = best.as_ref().map(|(rate, report)| (*rate, report.deliveries.deliveries_per_s));
    let mut report = match (best, last) {
        (Some((_, report)), _) | (None, Some(report)) => report,
        (None, None) => measure(flags.clone())?,
    };
    // The figures are of the highest rate held; what stood in the way of more is seen where it was missed.
    if let Some(missed) =
        taken.iter().filter(|step| !step.passed).min_by(|a, b| a.offered_per_s.total_cmp(&b.offered_per_s))
    {
        report.bottleneck = missed.bottleneck;
    }
    taken.sort_by(|a, b| a.offered_per_s.total_cmp(&b.offered_per_s));
    report.search = Some(Search {
        held_events_per_s: held.map(|(rate, _)| rate),
        held_deliveries_per_s: held.and_then(|(_, deliveries)| deliveries),
        held_is_lower_bound: bounds.missed.is_none(),
        search_p99_limit_ms: flags.search_p99_ms,
        steps: taken,
    });
    report.find_faults();
    Ok(report)
}

/// The second time only if the rate was missed the first time.
fn try_twice(flags: &Flags, measure: &mut dyn FnMut(Flags) -> Result<Report>) -> Result<(Report, Step)> {
    let report = measure(flags.clone())?;
    let step = Step::of(&report, flags.search_p99_ms);
    if step.passed {
        return Ok((report, step));
    }
    let report = measure(flags.clone())?;
    let step = Step::of(&report, flags.search_p99_ms);
    Ok((report, step))
}

impl Step {
    fn of(report: &Report, p99_limit_ms: f64) -> Self {
        let (setup, deliveries) = (&report.setup, &report.deliveries);
        let share = setup.topics_per_stream as f64 / setup.topics as f64;
        let offered_per_s = setup.rate_per_s * setup.streams as f64 * share;
        let delivered = deliveries.deliveries_per_s.unwrap_or(0.0);
        let intended_p99_ms = report.latency.as_ref().map(|latency| latency.intended_p99_ms);
        let is_told = deliveries.told == 0 && report.opening.closed_early == 0;
        Self {
            offered_per_s,
            deliveries_per_s: deliveries.deliveries_per_s,
            p99_ms: report.latency.as_ref().map(|latency| latency.p99_ms),
            intended_p99_ms,
            server_cpu_us_per_delivery: report.server.as_ref().and_then(|server| server.server_cpu_us_per_delivery),
            lost: deliveries.lost,
            bottleneck: report.bottleneck,
            passed: report.passed
                && is_told
                && delivered >= DELIVERED_SHARE_MIN * offered_per_s
                && intended_p99_ms.is_some_and(|p99_ms| p99_ms <= p99_limit_ms),
        }
    }
}

/// Between which rates the limit lies.
#[derive(Debug, Default)]
struct Bounds {
    held: Option<f64>,
    missed: Option<f64>,
}

impl Bounds {
    fn handle(&mut self, rate: f64, held: bool) {
        if held {
            self.held = Some(self.held.map_or(rate, |held| held.max(rate)));
        } else {
            self.missed = Some(self.missed.map_or(rate, |missed| missed.min(rate)));
        }
    }

    /// `None` when it is known well enough.
    fn next_rate(&self) -> Option<f64> {
        match (self.held, self.missed) {
            (Some(held), None) => Some(held * 2.0),
            (None, Some(missed)) => Some(missed / 2.0),
            (Some(held), Some(missed)) if missed > held * PRECISION => Some((held * missed).sqrt()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates tried against a server that holds up to `limit`.
    fn tried(start: f64, limit: f64, steps: usize) -> Vec<f64> {
        let (mut bounds, mut rate, mut rates) = (Bounds::default(), start, Vec::new());
        for _ in 0..steps {
            rates.push(rate);
            bounds.handle(rate, rate <= limit);
            let Some(next) = bounds.next_rate() else {
                break;
            };
            rate = next;
        }
        rates
    }

    #[test]
    fn the_limit_is_closed_in_from_below_and_from_above() {
        assert_eq!(tried(100.0, 500.0, 4), [100.0, 200.0, 400.0, 800.0]);
        assert_eq!(tried(100.0, 30.0, 3), [100.0, 50.0, 25.0]);
        let rates = tried(100.0, 500.0, 50);
        assert!(rates.len() < 12, "{rates:?}");
        let best = rates.iter().copied().filter(|rate| *rate <= 500.0).fold(0.0, f64::max);
        assert!((500.0 / PRECISION..=500.0).contains(&best), "{best}");
    }
}
