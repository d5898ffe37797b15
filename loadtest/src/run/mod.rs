//! `loadtest run`: many streams, a constant rate, every delivery accounted for.
//!
//! ```text
//!  server PSS   streams open   idle      publish        settle     judge     (linger)
//!  ──┤ before ├──┤ ramp ├──────┤ hold ├───┤ schedule ├───┤ ├───────┤ ├───────┤ PSS ├──
//!                              PSS       CPU ────────────── CPU
//! ```
//!
//! The parent holds no stream: it drives these phases and publishes; its workers subscribe.

mod options;
mod preflight;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use checker::{OrderSurvey, Verdict};

pub(crate) use self::options::{Flags, Plan};
use crate::clock::now_ns;
use crate::http;
use crate::latency::Latencies;
use crate::procfs::{self, Cpu};
use crate::publisher::Outcome;
use crate::report::{Client, Deliveries, Latency, Opening, Publishing, Report, Server, Setup, Stalled, grouped};
use crate::swarm::{Command, Counts, Crew, Done, Progress, Slot};
use crate::target::Target;

/// How often workers are listened to.
const TURN: Duration = Duration::from_millis(50);
/// After everything expected has come: time for what should not come.
const GRACE: Duration = Duration::from_millis(300);
/// The schedule begins so long after the publishers are started, so that none begins late.
const START_DELAY_NS: u64 = 20_000_000;
/// A publisher later than this was held up, by its own machine or by unanswered publishes.
const LATE_MS_MAX: f64 = 25.0;
/// Counters of the server worth comparing with what was seen.
const METRICS: [&str; 2] = ["fanwheel_events_received_total", "fanwheel_deliveries_total"];

/// Runs the plan, prints the report. True if it passed.
pub(crate) fn run(plan: &Plan) -> Result<bool> {
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let mut run = Run::start(plan)?;
    run.await_open()?;
    run.hold()?;
    run.publish()?;
    run.settle()?;
    run.await_stalled()?;
    let report = run.finish()?;
    print!("{report}");
    if let Some(path) = &plan.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report.passed)
}

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    crew: Crew,
    gauge: Gauge,
    opening_s: f64,
    outcome: Option<Outcome>,
    publishers_cpu_s: f64,
    metrics_before: Option<BTreeMap<String, f64>>,
    last_shown: Instant,
}

/// What is measured at the server from outside, and when deliveries last came.
#[derive(Default)]
struct Gauge {
    pid: Option<u32>,
    pss_before: Option<u64>,
    pss_idle: Option<u64>,
    pss_loaded: Option<u64>,
    cpu_before: Option<Cpu>,
    /// At the last time deliveries were seen to come.
    cpu_after: Option<Cpu>,
    received: u64,
    received_at_ns: u64,
}

impl Gauge {
    fn pss(&self) -> Option<u64> {
        self.pid.and_then(|pid| or_remark(procfs::pss_bytes(pid)))
    }

    fn cpu(&self) -> Option<Cpu> {
        self.pid.and_then(|pid| or_remark(Cpu::of(pid)))
    }

    /// Notes the time and the server's CPU whenever more has been received.
    fn handle_progress(&mut self, progress: &Progress) {
        if progress.received > self.received {
            self.received = progress.received;
            self.received_at_ns = now_ns();
            self.cpu_after = self.cpu();
        }
    }
}

fn or_remark<T>(outcome: Result<T>) -> Option<T> {
    outcome.inspect_err(|error| eprintln!("warning: not measured: {error:#}")).ok()
}

impl<'a> Run<'a> {
    fn start(plan: &'a Plan) -> Result<Self> {
        let mut gauge = Gauge { pid: plan.server_pid, ..Gauge::default() };
        gauge.pss_before = gauge.pss();
        Ok(Self {
            plan,
            crew: Crew::start(&plan.workers)?,
            gauge,
            opening_s: 0.0,
            outcome: None,
            publishers_cpu_s: 0.0,
            metrics_before: None,
            last_shown: Instant::now(),
        })
    }

    fn take_answers(&mut self) -> Result<Progress> {
        self.crew.take_answers(TURN)?;
        let progress = self.crew.progress();
        self.gauge.handle_progress(&progress);
        Ok(progress)
    }

    fn await_open(&mut self) -> Result<()> {
        let started = Instant::now();
        let total = self.plan.readers + self.plan.stalled;
        let settled = |p: &Progress| p.readers_opened + p.stalled_opened + p.failed >= total;
        while !settled(&self.take_answers()?) && started.elapsed() < self.plan.open_timeout {
            self.show(|p| {
                format!(
                    "{} of {} streams open, {} failed",
                    grouped(p.readers_opened + p.stalled_opened),
                    grouped(total),
                    p.failed
                )
            });
        }
        self.opening_s = started.elapsed().as_secs_f64();
        // From here on no stream opens any more; the workers say so before anything is published.
        self.crew.tell(&Command::Begin)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !settled(&self.take_answers()?) && Instant::now() < deadline {}
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        let until = Instant::now() + self.plan.hold;
        while Instant::now() < until {
            self.take_answers()?;
        }
        self.gauge.pss_idle = self.gauge.pss();
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        let plan = self.plan;
        let Some(publish) = &plan.publish else {
            return Ok(());
        };
        self.metrics_before = plan.admin.as_ref().and_then(|admin| or_remark(scrape(admin)));
        self.gauge.cpu_before = self.gauge.cpu();
        let (own_before, is_over) = (Cpu::own(), AtomicBool::new(false));
        let outcome = thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let outcome = publish.run(now_ns() + START_DELAY_NS);
                is_over.store(true, Ordering::Release);
                outcome
            });
            while !is_over.load(Ordering::Acquire) && !publisher.is_finished() {
                self.take_answers()?;
                self.show(|p| {
                    format!("publishing; {} deliveries, {} streams closed", grouped(p.received), p.readers_closed)
                });
            }
            publisher.join().map_err(|_| anyhow::anyhow!("the publishers panicked"))
        })?;
        self.publishers_cpu_s = Cpu::own().since(own_before).total_s();
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Until everything expected has come, or nothing more does.
    fn settle(&mut self) -> Result<()> {
        let Some(outcome) = &self.outcome else {
            return Ok(());
        };
        let certain: u64 = outcome.slots.iter().map(|slot| slot.count - slot.uncertain.len() as u64).sum();
        let mut last_change = Instant::now();
        loop {
            let before = self.gauge.received;
            let progress = self.take_answers()?;
            if progress.received > before {
                last_change = Instant::now();
            }
            let readers = (progress.readers_opened - progress.readers_closed) as u64;
            let patience = if progress.received >= certain * readers { GRACE } else { self.plan.settle };
            if last_change.elapsed() >= patience {
                break;
            }
        }
        self.gauge.pss_loaded = self.gauge.pss();
        Ok(())
    }

    fn await_stalled(&mut self) -> Result<()> {
        let started = Instant::now();
        let mut progress = self.take_answers()?;
        let has_published = self.outcome.is_some();
        while has_published
            && progress.stalled_closed < progress.stalled_opened
            && started.elapsed() < self.plan.stalled_wait
        {
            progress = self.take_answers()?;
            self.show(|p| format!("{} of {} stalled streams closed", p.stalled_closed, p.stalled_opened));
        }
        Ok(())
    }

    /// Judges, closes the streams, measures what is left.
    fn finish(mut self) -> Result<Report> {
        let slots = self.outcome.as_ref().map_or(Vec::new(), |outcome| outcome.slots.clone());
        let slots = if slots.is_empty() { self.empty_slots() } else { slots };
        let sum = Sum::of(self.crew.finish(&slots)?, self.plan.topics);
        let metrics = self.metrics_grown();
        let Self { plan, crew, gauge, opening_s, outcome, publishers_cpu_s, .. } = self;
        drop(crew);
        let pss_after = plan.linger.and_then(|linger| {
            thread::sleep(linger);
            gauge.pss()
        });
        let mut report = Report {
            scenario: "run",
            loadtest_version: env!("CARGO_PKG_VERSION"),
            passed: false,
            faults: Vec::new(),
            remarks: remarks(plan, outcome.as_ref()),
            setup: setup(plan),
            opening: sum.opening(opening_s),
            publishing: outcome.as_ref().map(|outcome| publishing(plan, outcome)),
            deliveries: sum.deliveries(outcome.as_ref(), &gauge),
            latency: Latency::of(&sum.publish_to_receive, &sum.intended_to_receive),
            server: server(&gauge, &sum, pss_after),
            server_metrics: metrics,
            client: sum.client(publishers_cpu_s),
            stalled: sum.stalled(plan, outcome.as_ref()),
        };
        report.find_faults();
        Ok(report)
    }

    fn empty_slots(&self) -> Vec<Slot> {
        let publishers = self.plan.workers.first().map_or(1, |worker| worker.publishers);
        vec![Slot::default(); self.plan.topics * publishers]
    }

    fn metrics_grown(&self) -> Option<BTreeMap<String, f64>> {
        let before = self.metrics_before.as_ref()?;
        let after = or_remark(scrape(self.plan.admin.as_ref()?))?;
        let grown = after.into_iter().map(|(name, value)| {
            let value = value - before.get(&name).copied().unwrap_or(0.0);
            (name, value)
        });
        Some(grown.collect())
    }

    /// Progress for people, once a second.
    fn show(&mut self, line: impl FnOnce(&Progress) -> String) {
        if self.last_shown.elapsed() >= Duration::from_secs(1) {
            eprintln!("… {}", line(&self.crew.progress()));
            self.last_shown = Instant::now();
        }
    }
}

/// The counters of `METRICS`, each summed over its labels.
fn scrape(admin: &Target) -> Result<BTreeMap<String, f64>> {
    let page = http::get(admin, "/metrics")?;
    let mut sums = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        if let (true, Some(value)) = (METRICS.contains(&name), value) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    Ok(sums)
}

/// What all workers found.
#[derive(Default)]
struct Sum {
    progress: Progress,
    verdict: Verdict,
    missed_after_close: u64,
    publish_to_receive: Latencies,
    intended_to_receive: Latencies,
    connect_to_open: Latencies,
    orders_seen: u64,
    counts: Counts,
    stalled_closed_ns: Vec<u64>,
    cpu: Cpu,
    first_error: Option<String>,
}

impl Sum {
    fn of(dones: Vec<Done>, topics: usize) -> Self {
        let mut sum = Self::default();
        let mut surveys = vec![OrderSurvey::default(); topics];
        for done in dones {
            for (survey, orders) in surveys.iter_mut().zip(&done.orders) {
                orders.iter().for_each(|&(count, digest, streams)| survey.add(count, digest, streams));
            }
            sum.progress += done.progress;
            sum.verdict += done.verdict;
            sum.missed_after_close += done.missed_after_close;
            sum.publish_to_receive.merge(&done.publish_to_receive);
            sum.intended_to_receive.merge(&done.intended_to_receive);
            sum.connect_to_open.merge(&done.connect_to_open);
            sum.counts.merge(&done.counts);
            sum.stalled_closed_ns.extend(done.stalled_closed_ns);
            sum.cpu.user_s += done.cpu_user_s;
            sum.cpu.system_s += done.cpu_system_s;
            sum.first_error = sum.first_error.or(done.first_error);
        }
        sum.orders_seen = surveys.iter().map(OrderSurvey::orders_seen).max().unwrap_or(0);
        sum.stalled_closed_ns.sort_unstable();
        sum
    }

    fn opening(&self, opening_s: f64) -> Opening {
        let open = Some(&self.connect_to_open).filter(|open| !open.is_empty());
        Opening {
            opened: self.progress.readers_opened,
            failed: self.progress.failed,
            closed_early: self.progress.readers_closed,
            opening_s,
            open_p50_ms: open.map(|open| open.ms_at(0.5)),
            open_p99_ms: open.map(|open| open.ms_at(0.99)),
            open_max_ms: open.map(Latencies::max_ms),
            stream_error: self.first_error.clone(),
        }
    }

    fn deliveries(&self, outcome: Option<&Outcome>, gauge: &Gauge) -> Deliveries {
        let v = &self.verdict;
        let first_ns = outcome.and_then(|outcome| outcome.first_sent_ns);
        let seconds = first_ns.map(|first| gauge.received_at_ns.saturating_sub(first) as f64 / 1e9);
        let published = outcome.is_some();
        Deliveries {
            expected: v.expected,
            received: v.received,
            lost: v.lost,
            told: v.told,
            doubled: v.doubled,
            out_of_order: v.out_of_order,
            phantoms: v.phantoms,
            malformed: self.counts.malformed,
            foreign: self.counts.foreign,
            missed_after_close: self.missed_after_close,
            orders_seen: self.orders_seen,
            deliveries_per_s: seconds.filter(|s| *s > 0.0).map(|s| v.received as f64 / s),
            events_per_read: published.then(|| v.received as f64 / self.counts.reads_running.max(1) as f64),
            resets: self.counts.resets_by_reason.values().sum(),
            resets_by_reason: self.counts.resets_by_reason.clone(),
            drains: self.counts.drains,
            unavailable: self.counts.unavailable,
        }
    }

    fn client(&self, publishers_cpu_s: f64) -> Client {
        Client {
            subscribers_user_s: self.cpu.user_s,
            subscribers_system_s: self.cpu.system_s,
            subscribers_us_per_delivery: per_delivery_us(self.cpu, self.verdict.received),
            publishers_cpu_s,
        }
    }

    fn stalled(&self, plan: &Plan, outcome: Option<&Outcome>) -> Option<Stalled> {
        let first_ns = outcome.and_then(|outcome| outcome.first_sent_ns);
        let closes = &self.stalled_closed_ns;
        let at = |index: usize| {
            let closed_ns = closes.get(index)?;
            Some(closed_ns.saturating_sub(first_ns?) as f64 / 1e9)
        };
        (plan.stalled > 0).then(|| Stalled {
            stalled_streams: plan.stalled,
            stalled_opened: self.progress.stalled_opened,
            stalled_closed: self.progress.stalled_closed,
            stalled_close_min_s: at(0),
            stalled_close_median_s: at(closes.len() / 2),
            stalled_close_max_s: at(closes.len().wrapping_sub(1)),
        })
    }
}

/// What makes the figures worth less than they look.
fn remarks(plan: &Plan, outcome: Option<&Outcome>) -> Vec<String> {
    let mut remarks = plan.warnings.clone();
    if let Some((publish, outcome)) = plan.publish.as_ref().zip(outcome) {
        if outcome.sent < publish.total {
            remarks.push(format!("only {} of {} events were sent", outcome.sent, publish.total));
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

fn per_delivery_us(cpu: Cpu, deliveries: u64) -> Option<f64> {
    (deliveries > 0).then(|| cpu.total_s() * 1e6 / deliveries as f64)
}

fn setup(plan: &Plan) -> Setup {
    Setup {
        url: plan.url.clone(),
        streams: plan.readers,
        topics: plan.topics,
        processes: plan.workers.len(),
        publishers: plan.publish.as_ref().map_or(0, |publish| publish.publishers),
        rate_per_s: plan.publish.as_ref().map_or(0.0, |publish| publish.rate),
        payload_bytes: plan.publish.as_ref().map(|publish| publish.payload),
    }
}

fn publishing(plan: &Plan, outcome: &Outcome) -> Publishing {
    let first_ns = outcome.first_sent_ns.unwrap_or(outcome.last_sent_ns);
    let publishing_s = (outcome.last_sent_ns - first_ns) as f64 / 1e9;
    Publishing {
        planned: plan.publish.as_ref().map_or(0, |publish| publish.total),
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
    }
}

fn server(gauge: &Gauge, sum: &Sum, pss_after_bytes: Option<u64>) -> Option<Server> {
    let cpu = gauge.cpu_before.zip(gauge.cpu_after).map(|(before, after)| after.since(before));
    let opened = sum.progress.readers_opened + sum.progress.stalled_opened;
    let growth = gauge.pss_before.zip(gauge.pss_idle).map(|(before, idle)| idle as f64 - before as f64);
    Some(Server {
        server_pid: gauge.pid?,
        server_user_s: cpu.map(|cpu| cpu.user_s),
        server_system_s: cpu.map(|cpu| cpu.system_s),
        server_cpu_us_per_delivery: cpu.and_then(|cpu| per_delivery_us(cpu, sum.verdict.received)),
        pss_before_bytes: gauge.pss_before,
        pss_idle_bytes: gauge.pss_idle,
        pss_per_stream_bytes: growth.filter(|_| opened > 0).map(|growth| growth / opened as f64),
        pss_loaded_bytes: gauge.pss_loaded,
        pss_after_bytes,
    })
}
