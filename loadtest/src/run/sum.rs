//! What all workers found, put together into a report.

use checker::OrderSurvey;

use super::gauge::Gauge;
use super::plan::Plan;
use crate::latency::Latencies;
use crate::procfs::Cpu;
use crate::publisher::Outcome;
use crate::report::{
    Bottleneck, Calm, Client, Deliveries, Disturbance, Kernel, Latency, Opening, Publishing, Report, Server, Setup,
    Slow, Stalled,
};
use crate::swarm::{Done, Judgement, Progress};

/// A publisher later than this was held up, by its own machine or by unanswered publishes.
const LATE_MS_MAX: f64 = 25.0;

/// The results of a run's workers.
pub(super) struct Sum<'a> {
    plan: &'a Plan,
    outcome: Option<&'a Outcome>,
    start_ns: u64,
    end_ns: u64,
    progress: Progress,
    readers: Judgement,
    slow: Judgement,
    publish_to_receive: Latencies,
    intended_to_receive: Latencies,
    /// Publish → receive of the calm events.
    calm_to_receive: Latencies,
    /// From publish to the last subscriber's receive.
    publish_to_last: Latencies,
    connect_to_open: Latencies,
    cut_to_open: Latencies,
    last_reopened_ns: u64,
    not_reopened: u64,
    /// Latencies that are only known to be at least what was recorded.
    censored: u64,
    /// Those of calm events among them.
    calm_censored: u64,
    orders_seen: u64,
    /// Per steady reader: events received. Ascending.
    steady_received: Vec<u64>,
    stalled_closed_ns: Vec<u64>,
    /// When the last event was received.
    received_at_ns: u64,
    cpu: Cpu,
    opening_cpu_s: f64,
    /// The largest share of its time that a worker was busy.
    busy_share: Option<f64>,
    first_error: Option<String>,
}

impl<'a> Sum<'a> {
    pub(super) fn of(
        dones: Vec<Done>,
        plan: &'a Plan,
        outcome: Option<&'a Outcome>,
        start_ns: u64,
        end_ns: u64,
    ) -> Self {
        let mut sum = Self {
            plan,
            outcome,
            start_ns,
            end_ns,
            progress: Progress::default(),
            readers: Judgement::default(),
            slow: Judgement::default(),
            publish_to_receive: Latencies::default(),
            intended_to_receive: Latencies::default(),
            calm_to_receive: Latencies::default(),
            publish_to_last: Latencies::default(),
            connect_to_open: Latencies::default(),
            cut_to_open: Latencies::default(),
            last_reopened_ns: 0,
            not_reopened: 0,
            censored: 0,
            calm_censored: 0,
            orders_seen: 0,
            steady_received: Vec::new(),
            stalled_closed_ns: Vec::new(),
            received_at_ns: 0,
            cpu: Cpu::default(),
            opening_cpu_s: 0.0,
            busy_share: None,
            first_error: None,
        };
        let mut surveys = vec![OrderSurvey::default(); plan.topics];
        let mut last = LastArrivals::default();
        for done in dones {
            for (survey, orders) in surveys.iter_mut().zip(&done.orders) {
                orders.iter().for_each(|&(count, digest, streams)| survey.add(count, digest, streams));
            }
            last.merge(&done.last, &done.steady_readers);
            sum.merge(done);
        }
        sum.orders_seen = surveys.iter().map(OrderSurvey::orders_seen).max().unwrap_or(0);
        sum.stalled_closed_ns.sort_unstable();
        sum.steady_received.sort_unstable();
        sum.record_censored();
        sum.record_last(&last);
        sum
    }

    fn merge(&mut self, done: Done) {
        let cpu = Cpu { user_s: done.cpu_user_s, system_s: done.cpu_system_s };
        self.received_at_ns = self.received_at_ns.max(done.received_at_ns);
        if done.received_at_ns > self.start_ns {
            let share = cpu.total_s() * 1e9 / (done.received_at_ns - self.start_ns) as f64;
            self.busy_share = Some(self.busy_share.map_or(share, |largest| largest.max(share)));
        }
        self.cpu = self.cpu.plus(cpu);
        self.opening_cpu_s += done.opening_cpu_s;
        self.progress += done.progress;
        self.readers.merge(done.readers);
        self.slow.merge(done.slow);
        self.publish_to_receive.merge(&done.publish_to_receive);
        self.intended_to_receive.merge(&done.intended_to_receive);
        self.calm_to_receive.merge(&done.calm_to_receive);
        self.connect_to_open.merge(&done.connect_to_open);
        self.cut_to_open.merge(&done.cut_to_open);
        self.last_reopened_ns = self.last_reopened_ns.max(done.last_reopened_ns);
        self.not_reopened += done.not_reopened;
        self.steady_received.extend(done.steady_received);
        self.stalled_closed_ns.extend(done.stalled_closed_ns);
        self.first_error = self.first_error.take().or(done.first_error);
    }

    /// What did not arrive, told or not, took at least until the end of the run: left out, losing the
    /// slowest would make the figures better.
    fn record_censored(&mut self) {
        let Some(outcome) = self.outcome else {
            return;
        };
        let late_ns = outcome.late.mean_ns();
        let calm_from_ns = self.calm_from_ns().unwrap_or(u64::MAX);
        for &(slot, first, end, streams) in &self.readers.undelivered {
            let slot = &outcome.slots[slot];
            for number in (first..end).filter(|number| slot.uncertain.binary_search(number).is_err()) {
                let sent_ns = slot.sent_ns[number as usize];
                let waited_ns = self.end_ns.saturating_sub(sent_ns);
                if sent_ns >= calm_from_ns {
                    self.calm_to_receive.record_n(waited_ns, streams);
                    self.calm_censored += streams;
                }
                self.publish_to_receive.record_n(waited_ns, streams);
                self.intended_to_receive.record_n(waited_ns + late_ns, streams);
                self.censored += streams;
            }
        }
    }

    /// An event that a steady reader lacks was not there for the last one before the end of the run.
    fn record_last(&mut self, last: &LastArrivals) {
        let Some((outcome, publish)) = self.outcome.zip(self.plan.publish.as_ref()) else {
            return;
        };
        let stride = self.plan.workers.first().map_or(1, |worker| worker.last_stride);
        for (slot_index, slot) in outcome.slots.iter().enumerate() {
            let readers = last.readers.get(slot_index / publish.publishers).copied().unwrap_or(0);
            let notes = last.notes.get(slot_index).map_or(&[][..], Vec::as_slice);
            for (index, number) in (0..slot.count).step_by(stride as usize).enumerate() {
                if readers == 0 || slot.uncertain.binary_search(&number).is_ok() {
                    continue;
                }
                let (at_ns, seen) = notes.get(index).copied().unwrap_or_default();
                let at_ns = if seen < readers { self.end_ns } else { at_ns };
                self.publish_to_last.record(at_ns.saturating_sub(slot.sent_ns[number as usize]));
            }
        }
    }

    pub(super) fn report(
        &self,
        gauge: &Gauge,
        opening_s: f64,
        publishers_cpu_s: f64,
        pss_after: Option<u64>,
    ) -> Report {
        let client = self.client(gauge, publishers_cpu_s);
        Report {
            scenario: self.plan.scenario.clone().unwrap_or_else(|| "run".to_owned()),
            loadtest_version: env!("CARGO_PKG_VERSION"),
            passed: false,
            faults: Vec::new(),
            remarks: self.remarks(),
            bottleneck: self.bottleneck(&client, gauge),
            setup: self.setup(),
            opening: self.opening(opening_s, gauge),
            publishing: self.publishing(),
            deliveries: self.deliveries(),
            latency: Latency::of(&self.publish_to_receive, &self.intended_to_receive, &self.publish_to_last),
            calm: None,
            history: None,
            unjudged: None,
            server: self.server(gauge, pss_after),
            server_metrics: None,
            kernel: self.kernel(gauge),
            client,
            disturbance: self.disturbance(),
            slow: self.slow(),
            stalled: self.stalled(),
            search: None,
        }
    }

    fn opening(&self, opening_s: f64, gauge: &Gauge) -> Opening {
        let open = Some(&self.connect_to_open).filter(|open| !open.is_empty());
        let p = &self.progress;
        let opened = self.opened();
        let each_us = |cpu_s: f64| (opened > 0).then(|| cpu_s * 1e6 / opened as f64);
        Opening {
            opened: p.readers_opened,
            failed: p.failed,
            closed_early: if self.plan.reconnects { 0 } else { p.readers_closed },
            opening_s,
            opened_per_s: opened as f64 / opening_s.max(1e-9),
            open_p50_ms: open.map(|open| open.ms_at(0.5)),
            open_p99_ms: open.map(|open| open.ms_at(0.99)),
            open_max_ms: open.map(Latencies::max_ms),
            server_open_us: gauge.opening_cpu_s.and_then(each_us),
            subscribers_open_us: each_us(self.opening_cpu_s),
            stream_error: self.first_error.clone(),
        }
    }

    fn deliveries(&self) -> Deliveries {
        let (v, counts) = (&self.readers.verdict, &self.readers.counts);
        let first_ns = self.outcome.and_then(|outcome| outcome.first_sent_ns);
        let seconds = first_ns.map(|first| self.received_at_ns.saturating_sub(first) as f64 / 1e9);
        Deliveries {
            expected: v.expected,
            received: v.received,
            lost: v.lost,
            told: v.told,
            doubled: v.doubled,
            out_of_order: v.out_of_order,
            phantoms: v.phantoms,
            malformed: counts.malformed,
            foreign: counts.foreign,
            missed_after_close: self.readers.missed_after_close,
            lives: self.readers.lives,
            orders_seen: self.orders_seen,
            deliveries_per_s: seconds.filter(|s| *s > 0.0).map(|s| v.received as f64 / s),
            least_stream_share: least_share(&self.steady_received),
            events_per_read: self.outcome.map(|_| v.received as f64 / counts.reads_running.max(1) as f64),
            resets: counts.resets_by_reason.values().sum(),
            resets_by_reason: counts.resets_by_reason.clone().into_iter().collect(),
            drains: counts.drains,
            unavailable: counts.unavailable,
            censored: self.censored,
        }
    }

    /// When the first event may be sent whose delivery counts as calm.
    fn calm_from_ns(&self) -> Option<u64> {
        Some(self.start_ns + self.plan.publish.as_ref()?.calm?.measured_after_ns())
    }

    /// `None` without such a phase.
    pub(super) fn calm(&self, loaded_deliveries_per_s: Option<f64>) -> Option<Calm> {
        let calm = self.plan.publish.as_ref()?.calm?;
        let until_ns = self.received_at_ns.max(self.start_ns + calm.length_ns());
        let seconds = until_ns.saturating_sub(self.start_ns + calm.measured_after_ns()) as f64 / 1e9;
        let took = Some(&self.calm_to_receive).filter(|took| !took.is_empty());
        Some(Calm {
            loaded_deliveries_per_s,
            calm_deliveries_per_s: took
                .filter(|_| seconds > 0.0)
                .map(|took| (took.len() - self.calm_censored) as f64 / seconds),
            calm_p50_ms: took.map(|took| took.ms_at(0.5)),
            calm_p99_ms: took.map(|took| took.ms_at(0.99)),
            calm_max_ms: took.map(Latencies::max_ms),
        })
    }

    fn client(&self, gauge: &Gauge, publishers_cpu_s: f64) -> Client {
        let received = self.readers.verdict.received;
        Client {
            subscribers_user_s: self.cpu.user_s,
            subscribers_system_s: self.cpu.system_s,
            subscribers_us_per_delivery: per_delivery_us(self.cpu.total_s(), received),
            subscribers_busy_share: self.busy_share,
            publishers_cpu_s,
            publishers_us_per_delivery: per_delivery_us(publishers_cpu_s, received),
            machine_busy_share: gauge.machine_busy().map(|busy| busy.machine_share),
            machine_steal_share: gauge.machine_busy().map(|busy| busy.steal_share),
        }
    }

    /// Who, apart from the server, kept the figures from being better.
    fn bottleneck(&self, client: &Client, gauge: &Gauge) -> Bottleneck {
        if client.subscribers_busy_share.is_some_and(|share| share > 0.9) {
            return Bottleneck::Subscribers;
        }
        // Where most events waited for answers, it was the server that was slow.
        let is_own_fault = |outcome: &&Outcome| outcome.waited * 2 < outcome.sent;
        if self.outcome.filter(is_own_fault).is_some_and(|outcome| outcome.late.ms_at(0.99) > LATE_MS_MAX) {
            return Bottleneck::Publishers;
        }
        if gauge.machine_busy().is_some_and(|busy| busy.is_saturated()) {
            return Bottleneck::Machine;
        }
        Bottleneck::None
    }

    fn disturbance(&self) -> Option<Disturbance> {
        let p = &self.progress;
        let took = Some(&self.cut_to_open).filter(|took| !took.is_empty());
        let storm_ns = self.start_ns + self.plan.duration.as_nanos() as u64 / 2;
        (p.cut > 0 || p.readers_closed > 0).then(|| Disturbance {
            cut: p.cut,
            ended_by_server: p.readers_closed,
            reopened: p.reopened,
            not_reopened: self.not_reopened,
            reopen_p50_ms: took.map(|took| took.ms_at(0.5)),
            reopen_p99_ms: took.map(|took| took.ms_at(0.99)),
            reopen_max_ms: took.map(Latencies::max_ms),
            storm_over_s: self.plan.has_storm.then(|| self.last_reopened_ns.saturating_sub(storm_ns) as f64 / 1e9),
        })
    }

    fn slow(&self) -> Option<Slow> {
        let (v, p) = (&self.slow.verdict, &self.progress);
        (self.plan.slow > 0).then_some(Slow {
            slow_streams: self.plan.slow,
            slow_opened: p.slow_opened,
            slow_closed: p.slow_closed,
            slow_received: v.received,
            slow_lost: v.lost,
            slow_told: v.told,
            slow_doubled: v.doubled,
            slow_out_of_order: v.out_of_order,
            slow_malformed: self.slow.counts.malformed,
            slow_resets: v.resets,
            slow_missed_after_close: self.slow.missed_after_close,
        })
    }

    fn stalled(&self) -> Option<Stalled> {
        let first_ns = self.outcome.and_then(|outcome| outcome.first_sent_ns);
        let closes = &self.stalled_closed_ns;
        let at = |index: usize| {
            let closed_ns = closes.get(index)?;
            Some(closed_ns.saturating_sub(first_ns?) as f64 / 1e9)
        };
        (self.plan.stalled > 0).then(|| Stalled {
            stalled_streams: self.plan.stalled,
            stalled_opened: self.progress.stalled_opened,
            stalled_closed: self.progress.stalled_closed,
            stalled_close_min_s: at(0),
            stalled_close_median_s: at(closes.len() / 2),
            stalled_close_max_s: at(closes.len().wrapping_sub(1)),
        })
    }

    /// What makes the figures worth less than they look.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = self.plan.warnings.clone();
        if let Some((publish, outcome)) = self.plan.publish.as_ref().zip(self.outcome) {
            let planned = publish.events() - outcome.given_up;
            if outcome.sent < planned {
                remarks.push(format!("only {} of {planned} events were sent", outcome.sent));
            }
            if outcome.given_up > 0 {
                remarks.push(format!(
                    "publishers were late: {} events of the first phase were given up when the calm one began",
                    outcome.given_up
                ));
            }
            let late_ms = outcome.late.ms_at(0.99);
            if late_ms > LATE_MS_MAX {
                remarks.push(format!(
                    "the schedule was not held (sent {late_ms:.0} ms late at p99): trust intended → receive, or lower --rate"
                ));
            }
        }
        remarks
    }

    fn setup(&self) -> Setup {
        let plan = self.plan;
        let publish = plan.publish.as_ref();
        Setup {
            url: format!("http://{}", plan.endpoint.subscribe.authority),
            streams: plan.readers,
            topics: plan.topics,
            topics_per_stream: plan.topics_per_stream,
            processes: plan.workers.len(),
            publishers: publish.map_or(0, |publish| publish.publishers),
            rate_per_s: publish.map_or(0.0, |publish| publish.rate),
            schedule: publish.map(|publish| publish.schedule.to_string()),
            payload_bytes: publish.map(|publish| publish.payload),
        }
    }

    fn publishing(&self) -> Option<Publishing> {
        let outcome = self.outcome?;
        let first_ns = outcome.first_sent_ns.unwrap_or(outcome.last_sent_ns);
        let publishing_s = (outcome.last_sent_ns - first_ns) as f64 / 1e9;
        Some(Publishing {
            planned: self.plan.publish.as_ref().map_or(0, |publish| publish.events() - outcome.given_up),
            sent: outcome.sent,
            accepted: outcome.accepted,
            refused: outcome.refused,
            unanswered: outcome.unanswered,
            publishing_s,
            // n events span n − 1 intervals.
            sent_per_s: if publishing_s > 0.0 { outcome.sent.saturating_sub(1) as f64 / publishing_s } else { 0.0 },
            late_p50_ms: outcome.late.ms_at(0.5),
            late_p99_ms: outcome.late.ms_at(0.99),
            late_max_ms: outcome.late.max_ms(),
            publish_error: outcome.first_error.clone(),
        })
    }

    fn kernel(&self, gauge: &Gauge) -> Option<Kernel> {
        // Elsewhere it is another kernel's memory.
        let is_here = self.plan.endpoint.subscribe.addr.ip().is_loopback();
        Kernel::of(gauge.kernel_idle.as_ref().filter(|_| is_here)?, self.opened())
    }

    fn opened(&self) -> usize {
        self.progress.readers_opened + self.progress.slow_opened + self.progress.stalled_opened
    }

    fn server(&self, gauge: &Gauge, pss_after_bytes: Option<u64>) -> Option<Server> {
        let (cpu, received) = (gauge.server_cpu(), self.readers.verdict.received);
        let opened = self.opened();
        let growth = gauge.pss_before.zip(gauge.pss_idle).map(|(before, idle)| idle as f64 - before as f64);
        (!gauge.server_pids().is_empty()).then(|| Server {
            server_pids: gauge.server_pids().to_vec(),
            server_user_s: cpu.map(|cpu| cpu.user_s),
            server_system_s: cpu.map(|cpu| cpu.system_s),
            server_cpu_us_per_delivery: cpu.and_then(|cpu| per_delivery_us(cpu.total_s(), received)),
            broker_cpu_s: gauge.broker_cpu().map(Cpu::total_s),
            broker_cpu_us_per_delivery: gauge.broker_cpu().and_then(|cpu| per_delivery_us(cpu.total_s(), received)),
            pss_before_bytes: gauge.pss_before,
            pss_idle_bytes: gauge.pss_idle,
            pss_per_stream_bytes: growth.filter(|_| opened > 0).map(|growth| growth / opened as f64),
            pss_loaded_bytes: gauge.pss_loaded,
            pss_peak_bytes: gauge.pss_peak,
            pss_after_bytes,
        })
    }
}

/// Per slot, for every stride-th number: when the last reader had it, and how many had it.
#[derive(Default)]
struct LastArrivals {
    notes: Vec<Vec<(u64, u32)>>,
    /// Per topic: readers that were open all the time.
    readers: Vec<u32>,
}

impl LastArrivals {
    fn merge(&mut self, notes: &[Vec<(u64, u32)>], readers: &[u32]) {
        grow(&mut self.notes, notes.len());
        for (merged, notes) in self.notes.iter_mut().zip(notes) {
            grow(merged, notes.len());
            for (merged, note) in merged.iter_mut().zip(notes) {
                *merged = (merged.0.max(note.0), merged.1 + note.1);
            }
        }
        grow(&mut self.readers, readers.len());
        self.readers.iter_mut().zip(readers).for_each(|(sum, readers)| *sum += readers);
    }
}

fn grow<T: Default + Clone>(list: &mut Vec<T>, len: usize) {
    if list.len() < len {
        list.resize(len, T::default());
    }
}

/// The least of sorted counts by their median; `None` where that is 0.
fn least_share(sorted: &[u64]) -> Option<f64> {
    let (least, middle) = (*sorted.first()?, sorted.len() / 2);
    let upper = sorted[middle];
    let lower = if sorted.len().is_multiple_of(2) { sorted[middle - 1] } else { upper };
    (lower + upper > 0).then(|| 2.0 * least as f64 / (lower + upper) as f64)
}

fn per_delivery_us(cpu_s: f64, deliveries: u64) -> Option<f64> {
    (deliveries > 0).then(|| cpu_s * 1e6 / deliveries as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_stream_is_told_by_the_median_one() {
        assert_eq!(least_share(&[30, 40, 80]), Some(0.75));
        assert_eq!(least_share(&[30, 40, 80, 90]), Some(0.5));
        assert_eq!(least_share(&[7]), Some(1.0));
        assert_eq!(least_share(&[0, 9, 9]), Some(0.0));
        for nothing in [&[][..], &[0], &[0, 0, 5]] {
            assert_eq!(least_share(nothing), None);
        }
    }
}
