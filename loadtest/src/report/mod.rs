//! The figures of a run: as JSON for programs, as a table for people.
//!
//! In the JSON no two leaves have the same name, so that a figure can be named without its group.
//! What was not measured is `null`, never 0.

mod table;

use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

pub(crate) use self::table::{Table, grouped};

use crate::assertion::Assertion;
use crate::kernel::Growth;
use crate::latency::Latencies;
use crate::run::{History, Search};

/// Everything `--json` writes.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) loadtest_version: &'static str,
    /// True exactly when `faults` is empty; decides the exit code.
    pub(crate) passed: bool,
    /// What was wrong, in words.
    pub(crate) faults: Vec<String>,
    /// What may have disturbed the measurement, in words.
    pub(crate) remarks: Vec<String>,
    /// Who, apart from the server, kept the figures from being better.
    pub(crate) bottleneck: Bottleneck,
    pub(crate) setup: Setup,
    pub(crate) opening: Opening,
    pub(crate) publishing: Option<Publishing>,
    pub(crate) deliveries: Deliveries,
    pub(crate) latency: Option<Latency>,
    pub(crate) calm: Option<Calm>,
    /// `None` where topics are not durable.
    pub(crate) history: Option<History>,
    /// Why histories were not judged, where they should have been.
    #[serde(skip)]
    pub(crate) unjudged: Option<String>,
    pub(crate) server: Option<Server>,
    /// What the server's own counters grew by while publishing.
    pub(crate) server_metrics: Option<BTreeMap<String, f64>>,
    /// `None` where the kernel's books cannot be read.
    pub(crate) kernel: Option<Kernel>,
    pub(crate) client: Client,
    pub(crate) disturbance: Option<Disturbance>,
    pub(crate) slow: Option<Slow>,
    pub(crate) stalled: Option<Stalled>,
    /// The other figures are those of the highest rate held.
    pub(crate) search: Option<Search>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bottleneck {
    None,
    /// A subscriber process had no time left.
    Subscribers,
    /// The schedule was not held.
    Publishers,
    /// No core had time left.
    Machine,
}

#[derive(Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) streams: usize,
    pub(crate) topics: usize,
    pub(crate) topics_per_stream: usize,
    pub(crate) processes: usize,
    pub(crate) publishers: usize,
    pub(crate) rate_per_s: f64,
    pub(crate) schedule: Option<String>,
    pub(crate) payload_bytes: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Opening {
    pub(crate) opened: usize,
    /// Streams that never opened.
    pub(crate) failed: usize,
    /// Streams the server ended before the end of the run (with `--reconnect` they are no fault).
    pub(crate) closed_early: usize,
    pub(crate) opening_s: f64,
    pub(crate) opened_per_s: f64,
    /// From connect to open.
    pub(crate) open_p50_ms: Option<f64>,
    pub(crate) open_p99_ms: Option<f64>,
    pub(crate) open_max_ms: Option<f64>,
    /// CPU of the server, and of the subscribers, per stream opened.
    pub(crate) server_open_us: Option<f64>,
    pub(crate) subscribers_open_us: Option<f64>,
    pub(crate) stream_error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Publishing {
    pub(crate) planned: u64,
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    pub(crate) publishing_s: f64,
    pub(crate) sent_per_s: f64,
    /// Sent − intended.
    pub(crate) late_p50_ms: f64,
    pub(crate) late_p99_ms: f64,
    pub(crate) late_max_ms: f64,
    pub(crate) publish_error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Deliveries {
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Not received, but told by a reset.
    pub(crate) told: u64,
    pub(crate) doubled: u64,
    pub(crate) out_of_order: u64,
    pub(crate) phantoms: u64,
    pub(crate) malformed: u64,
    /// Events of others on the same topics.
    pub(crate) foreign: u64,
    /// Published after the server had ended the stream.
    pub(crate) missed_after_close: u64,
    /// Connections judged: a stream that was opened again has several.
    pub(crate) lives: u64,
    /// Orders of a topic among streams with equally many events: 1 when all agree.
    pub(crate) orders_seen: u64,
    /// From the first publish to the last delivery.
    pub(crate) deliveries_per_s: Option<f64>,
    pub(crate) events_per_read: Option<f64>,
    /// What the steady reader received that received least, by what the median one did. A reader is
    /// steady whose stream was open all the time.
    pub(crate) least_stream_share: Option<f64>,
    /// Blocks `fanwheel.reset`.
    pub(crate) resets: u64,
    /// (reason, count): a list, because reasons are the server's words.
    pub(crate) resets_by_reason: Vec<(String, u64)>,
    pub(crate) drains: u64,
    pub(crate) unavailable: u64,
    /// Deliveries that did not arrive, lost or told, which count among the latencies as having taken until
    /// the end of the run.
    pub(crate) censored: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    /// From the publisher's write to the end of the subscriber's read.
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) mean_ms: f64,
    /// The same from the time the schedule intended.
    pub(crate) intended_p50_ms: f64,
    pub(crate) intended_p90_ms: f64,
    pub(crate) intended_p99_ms: f64,
    pub(crate) intended_p999_ms: f64,
    pub(crate) intended_max_ms: f64,
    pub(crate) intended_mean_ms: f64,
    /// From the publisher's write until the last subscriber has the event.
    pub(crate) last_p50_ms: Option<f64>,
    pub(crate) last_p99_ms: Option<f64>,
    pub(crate) last_max_ms: Option<f64>,
    /// (quantile, ms) from the publisher's write, and from the intended time.
    pub(crate) latency_curve: Vec<(f64, f64)>,
    pub(crate) intended_curve: Vec<(f64, f64)>,
}

/// What came after the load (`--calm`), and what was delivered under it.
#[derive(Debug, Serialize)]
pub(crate) struct Calm {
    /// Received by readers during the first phase.
    pub(crate) loaded_deliveries_per_s: Option<f64>,
    /// Of events sent 2 s after the first phase ended, or later: from then to the end of the schedule,
    /// or to the last delivery where that came later.
    pub(crate) calm_deliveries_per_s: Option<f64>,
    /// From the publisher's write to the end of the subscriber's read.
    pub(crate) calm_p50_ms: Option<f64>,
    pub(crate) calm_p99_ms: Option<f64>,
    pub(crate) calm_max_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) server_pids: Vec<u32>,
    /// Between the first publish and the last delivery.
    pub(crate) server_user_s: Option<f64>,
    pub(crate) server_system_s: Option<f64>,
    pub(crate) server_cpu_us_per_delivery: Option<f64>,
    pub(crate) broker_cpu_s: Option<f64>,
    pub(crate) broker_cpu_us_per_delivery: Option<f64>,
    pub(crate) pss_before_bytes: Option<u64>,
    /// All streams open, nothing published yet.
    pub(crate) pss_idle_bytes: Option<u64>,
    pub(crate) pss_per_stream_bytes: Option<f64>,
    /// After publishing, all streams still open.
    pub(crate) pss_loaded_bytes: Option<u64>,
    /// The largest seen from the first publish until then.
    pub(crate) pss_peak_bytes: Option<u64>,
    /// After the streams were closed (`--linger`).
    pub(crate) pss_after_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Kernel {
    /// The server's side: growth less what the subscribers' sockets cost.
    pub(crate) kernel_per_stream_bytes: f64,
    /// Both sides.
    pub(crate) kernel_growth_bytes: i64,
    pub(crate) kernel_client_socket_bytes: i64,
    /// Caches that are not listed and so not counted.
    pub(crate) kernel_absent: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Client {
    pub(crate) subscribers_user_s: f64,
    pub(crate) subscribers_system_s: f64,
    pub(crate) subscribers_us_per_delivery: Option<f64>,
    /// The busiest subscriber process, from the first event to the last: 1 is a whole core.
    pub(crate) subscribers_busy_share: Option<f64>,
    pub(crate) publishers_cpu_s: f64,
    pub(crate) publishers_us_per_delivery: Option<f64>,
    /// All cores, from the first event to the last; and what a hypervisor gave to others.
    pub(crate) machine_busy_share: Option<f64>,
    pub(crate) machine_steal_share: Option<f64>,
}

/// Streams that ended on the way and were opened again.
#[derive(Debug, Serialize)]
pub(crate) struct Disturbance {
    /// By this side.
    pub(crate) cut: u64,
    pub(crate) ended_by_server: usize,
    pub(crate) reopened: u64,
    /// Streams that were to be open again at the end of the run and were not.
    pub(crate) not_reopened: u64,
    /// From the end of a stream to its being open again.
    pub(crate) reopen_p50_ms: Option<f64>,
    pub(crate) reopen_p99_ms: Option<f64>,
    pub(crate) reopen_max_ms: Option<f64>,
    /// From the cut to the last stream being open again (`--storm`).
    pub(crate) storm_over_s: Option<f64>,
}

/// The cohort of slow readers.
#[derive(Debug, Serialize)]
pub(crate) struct Slow {
    pub(crate) slow_streams: usize,
    pub(crate) slow_opened: usize,
    pub(crate) slow_closed: usize,
    pub(crate) slow_received: u64,
    pub(crate) slow_lost: u64,
    pub(crate) slow_told: u64,
    pub(crate) slow_doubled: u64,
    pub(crate) slow_out_of_order: u64,
    pub(crate) slow_malformed: u64,
    pub(crate) slow_resets: u64,
    pub(crate) slow_missed_after_close: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Stalled {
    pub(crate) stalled_streams: usize,
    pub(crate) stalled_opened: usize,
    pub(crate) stalled_closed: usize,
    /// From the first publish.
    pub(crate) stalled_close_min_s: Option<f64>,
    pub(crate) stalled_close_median_s: Option<f64>,
    pub(crate) stalled_close_max_s: Option<f64>,
}

impl Latency {
    pub(crate) fn of(publish: &Latencies, intended: &Latencies, last: &Latencies) -> Option<Self> {
        let last = Some(last).filter(|last| !last.is_empty());
        (!publish.is_empty()).then(|| Self {
            p50_ms: publish.ms_at(0.5),
            p90_ms: publish.ms_at(0.9),
            p99_ms: publish.ms_at(0.99),
            p999_ms: publish.ms_at(0.999),
            max_ms: publish.max_ms(),
            mean_ms: publish.mean_ms(),
            intended_p50_ms: intended.ms_at(0.5),
            intended_p90_ms: intended.ms_at(0.9),
            intended_p99_ms: intended.ms_at(0.99),
            intended_p999_ms: intended.ms_at(0.999),
            intended_max_ms: intended.max_ms(),
            intended_mean_ms: intended.mean_ms(),
            last_p50_ms: last.map(|last| last.ms_at(0.5)),
            last_p99_ms: last.map(|last| last.ms_at(0.99)),
            last_max_ms: last.map(Latencies::max_ms),
            latency_curve: publish.curve(),
            intended_curve: intended.curve(),
        })
    }
}

impl Kernel {
    /// `growth` is what opening `streams` streams on this machine added. `None` when there is none.
    pub(crate) fn of(growth: &Growth, streams: usize) -> Option<Self> {
        (streams > 0).then(|| Self {
            kernel_per_stream_bytes: growth.server_bytes(streams as u64) as f64 / streams as f64,
            kernel_growth_bytes: growth.total_bytes,
            kernel_client_socket_bytes: growth.client_socket_bytes,
            kernel_absent: growth.absent.clone(),
        })
    }
}

impl Report {
    /// An assertion that does not hold, or cannot be judged, makes the run fail.
    pub(crate) fn hold_to(&mut self, assertion: &Assertion) -> Result<()> {
        let fault = match assertion.check(&serde_json::to_value(&*self)?) {
            Ok(outcome) if outcome.holds => return Ok(()),
            Ok(outcome) => format!("asserted otherwise: {}", outcome.values),
            Err(error) => format!("--assert: {error:#}"),
        };
        self.passed = false;
        self.faults.push(fault);
        Ok(())
    }

    /// What makes a run fail.
    pub(crate) fn find_faults(&mut self) {
        let d = &self.deliveries;
        let mut faults = Vec::new();
        let mut count = |n: u64, what: &str| {
            if n > 0 {
                faults.push(format!("{n} {what}"));
            }
        };
        count(d.lost, "deliveries lost");
        count(d.doubled, "deliveries doubled");
        count(d.out_of_order, "deliveries out of order");
        count(d.phantoms, "events delivered that were never published");
        count(d.malformed, "events altered on the way");
        count(self.opening.failed as u64, "streams did not open");
        count(self.opening.closed_early as u64, "streams ended by the server");
        if let Some(slow) = &self.slow {
            count(slow.slow_lost, "deliveries lost on slow streams");
            count(slow.slow_doubled, "deliveries doubled on slow streams");
            count(slow.slow_out_of_order, "deliveries out of order on slow streams");
            count(slow.slow_malformed, "events altered on the way to slow streams");
        }
        count(self.history.as_ref().map_or(0, |history| history.violations), "promises of durable topics broken");
        if let Some(disturbance) = &self.disturbance {
            count(disturbance.not_reopened, "streams did not open again");
        }
        faults.extend(self.unjudged.clone());
        if self.search.as_ref().is_some_and(|search| search.held_events_per_s.is_none()) {
            faults.push("no rate was held".to_owned());
        }
        if d.orders_seen > 1 {
            faults.push(format!("{} different orders of the same events", d.orders_seen));
        }
        if self.publishing.as_ref().is_some_and(|publishing| publishing.accepted == 0) {
            faults.push("no publish was accepted".to_owned());
        }
        self.passed = faults.is_empty();
        self.faults = faults;
    }
}
