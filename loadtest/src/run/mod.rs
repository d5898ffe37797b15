//! `loadtest run`: many streams, a schedule of events, every delivery accounted for.
//!
//! ```text
//!  server PSS   streams open   idle      publish        settle     judge     (linger)
//!  ──┤ before ├──┤ ramp ├──────┤ hold ├───┤ schedule ├───┤ ├───────┤ ├───────┤ PSS ├──
//!                              PSS       CPU ────────────── CPU
//!                                        PSS, largest ──────────┤
//! ```
//!
//! The parent holds no stream: it drives these phases and publishes; its workers subscribe.
//! `options` are the flags, `plan` is what they mean; `preflight` says what the machine cannot
//! carry, `gauge` looks at the server from outside, `sum` makes a report of what the workers found. `history` judges
//! durable topics.

mod gauge;
mod history;
mod options;
mod plan;
mod preflight;
mod scenario;
mod search;
mod sum;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::gauge::{Gauge, or_remark};
pub(crate) use self::history::History;
pub(crate) use self::options::Flags;
pub(crate) use self::plan::Endpoint;
use self::plan::Plan;
pub(crate) use self::scenario::Scenario;
pub(crate) use self::search::Search;
use self::sum::Sum;
use crate::clock::now_ns;
use crate::html::{self, Page};
use crate::http;
use crate::live::Live;
use crate::machine::Environment;
use crate::peers::{Peer, Setup};
use crate::procfs::Cpu;
use crate::provenance;
use crate::publisher::Outcome;
use crate::report::{Report, grouped};
use crate::swarm::{Command, Crew, Done, Progress, Slot, wall_ms};
use crate::target::Target;

/// How often workers are listened to.
const TURN: Duration = Duration::from_millis(50);
/// After everything expected has come: time for what should not come.
const GRACE: Duration = Duration::from_millis(300);
/// The schedule begins so long after the publishers are started, so that none begins late.
const START_DELAY_NS: u64 = 20_000_000;
/// Whoever has more streams on their way at one time wants to see what happens then.
const STORM_OPENING_MIN: usize = 2_000;
/// Counters of the server worth comparing with what was seen.
const METRICS: [&str; 2] = ["fanwheel_events_received_total", "fanwheel_deliveries_total"];

/// Marks an error as one of usage.
#[derive(Debug)]
pub(crate) struct Usage;

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("usage")
    }
}

/// Runs what the flags say, prints and writes the report. True if it passed.
pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let mut summary = String::new();
    if let Some(scenario) = &flags.scenario {
        summary = Scenario::load(scenario)?.summary;
        eprintln!("{scenario}: {summary}");
    }
    let mut report = measure(flags)?;
    if let Some(assertion) = &flags.assertion {
        report.hold_to(assertion)?;
    }
    print!("{report}");
    let figures = serde_json::to_value(&report)?;
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &flags.html {
        let page = page(flags, &report.scenario, summary, figures);
        fs::write(path, page.render()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report.passed)
}

/// Runs what the flags say.
fn measure(flags: &Flags) -> Result<Report> {
    if let Some(peer) = flags.start {
        return measure_peer(flags, peer);
    }
    anyhow::ensure!(!flags.restart_broker, "--restart-broker: only where --start started one");
    let endpoint = flags.endpoint().context(Usage)?;
    let command = flags.midway.clone();
    let mut midway = || command.as_deref().map_or(Ok(()), run_midway);
    search_or_measure(flags, &mut |flags| measure_once(flags, endpoint.clone(), &mut midway))
}

/// The same against a server that is started for each run, and ended after it.
pub(crate) fn measure_peer(flags: &Flags, peer: Peer) -> Result<Report> {
    if flags.durable && !peer.keeps_histories() {
        return Err(anyhow::anyhow!("--durable: {} keeps no histories that streams resume from", peer.name()))
            .context(Usage);
    }
    search_or_measure(flags, &mut |flags| {
        let dir = tempfile::tempdir().context("a folder for the server")?;
        let setup = Setup {
            dir: dir.path().to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            streams_max: flags.streams + flags.slow + flags.stalled,
            topics: flags.topic_names().context(Usage)?,
            fanwheel: None,
            is_durable: flags.durable,
        };
        let mut running = peer.start(&setup).with_context(|| format!("start {}", peer.name()))?;
        let endpoint = Endpoint {
            subscribe: running.subscribe.clone(),
            dialect: running.dialect.clone().over(flags.transport).context(Usage)?,
            publish: running.publish.clone(),
            server_pids: running.server_pids(),
            broker_pid: running.broker_pid(),
            admin: None,
        };
        let (command, restarts_broker) = (flags.midway.clone(), flags.restart_broker);
        let mut midway = || {
            if restarts_broker {
                running.restart_broker()?;
            }
            command.as_deref().map_or(Ok(()), run_midway)
        };
        measure_once(paced_for(peer, flags), endpoint, &mut midway)
    })
}

/// Where a scenario is not about connecting, streams open no faster than the server can take.
fn paced_for(peer: Peer, flags: Flags) -> Flags {
    let is_storm = flags.opening_max > STORM_OPENING_MIN;
    let opening_max = peer.opening_max().filter(|_| !is_storm).unwrap_or(usize::MAX);
    Flags { opening_max: flags.opening_max.min(opening_max), ..flags }
}

fn search_or_measure(flags: &Flags, measure: &mut dyn FnMut(Flags) -> Result<Report>) -> Result<Report> {
    match flags.search {
        Some(steps) => search::search(flags, steps, measure),
        None => measure(flags.clone()),
    }
}

fn measure_once(flags: Flags, endpoint: Endpoint, midway: &mut dyn FnMut() -> Result<()>) -> Result<Report> {
    let plan = flags.into_plan_for(endpoint).context(Usage)?;
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let mut run = Run::start(&plan)?;
    run.await_open()?;
    run.hold()?;
    run.publish(midway)?;
    run.settle()?;
    run.await_stalled()?;
    run.finish()
}

/// A run in progress.
struct Run<'a> {
    plan: &'a Plan,
    crew: Crew,
    gauge: Gauge,
    /// How long streams were waited for: longer than they took, because workers tell ten times a second.
    open_wait_s: f64,
    start_ns: u64,
    outcome: Option<Outcome>,
    /// Deliveries per second of the first phase; `None` before its end, and where no other follows.
    loaded_per_s: Option<f64>,
    publishers_cpu_s: f64,
    /// When the server may have lost its history, in milliseconds since 1970.
    loss_ms: Option<u64>,
    metrics_before: Option<BTreeMap<String, f64>>,
    live: Live,
}

impl<'a> Run<'a> {
    fn start(plan: &'a Plan) -> Result<Self> {
        let gauge = Gauge::new(&plan.endpoint);
        Ok(Self {
            plan,
            crew: Crew::start(&plan.workers)?,
            gauge,
            open_wait_s: 0.0,
            start_ns: 0,
            outcome: None,
            loaded_per_s: None,
            publishers_cpu_s: 0.0,
            loss_ms: None,
            metrics_before: None,
            live: Live::new(),
        })
    }

    fn take_answers(&mut self) -> Result<Progress> {
        self.crew.take_answers(TURN)?;
        let (progress, now) = (self.crew.progress(), now_ns());
        self.gauge.handle_progress(&progress, now);
        self.note_loaded(&progress, now);
        Ok(progress)
    }

    /// Workers tell ten times a second what they received: at the end of the first phase all of it is of that
    /// phase, because nothing of the run was sent before.
    fn note_loaded(&mut self, progress: &Progress, now: u64) {
        let calm = self.plan.publish.as_ref().and_then(|publish| publish.calm);
        let Some(calm) = calm.filter(|_| self.start_ns > 0 && self.loaded_per_s.is_none()) else {
            return;
        };
        if now >= self.start_ns + calm.after_ns {
            self.loaded_per_s = Some(progress.received as f64 * 1e9 / (now - self.start_ns) as f64);
        }
    }

    fn await_open(&mut self) -> Result<()> {
        let started = Instant::now();
        let total = self.plan.readers + self.plan.slow + self.plan.stalled;
        let settled = |p: &Progress| p.readers_opened + p.slow_opened + p.stalled_opened + p.failed >= total;
        while !settled(&self.take_answers()?) && started.elapsed() < self.plan.open_timeout {
            self.show(|p, _| format!("{} of {} streams open, {} failed", grouped(p.open), grouped(total), p.failed));
        }
        self.open_wait_s = started.elapsed().as_secs_f64();
        self.gauge.handle_opened();
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
        self.gauge.handle_idle();
        Ok(())
    }

    fn publish(&mut self, midway: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut midway = Some(midway);
        let plan = self.plan;
        self.metrics_before = plan.endpoint.admin.as_ref().and_then(|admin| or_remark(scrape(admin)));
        self.gauge.handle_start();
        self.start_ns = now_ns() + START_DELAY_NS;
        let start_ns = self.start_ns;
        self.crew.tell(&Command::Start(start_ns))?;
        let Some(publish) = &plan.publish else {
            return Ok(());
        };
        self.gauge.handle_publishing(now_ns());
        let (own_before, is_over, sent) = (Cpu::own(), AtomicBool::new(false), AtomicU64::new(0));
        let outcome = thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let outcome = publish.run(start_ns, &sent);
                is_over.store(true, Ordering::Release);
                outcome
            });
            while !is_over.load(Ordering::Acquire) && !publisher.is_finished() {
                self.take_answers()?;
                let is_midway = now_ns() >= start_ns + plan.duration.as_nanos() as u64 / 2;
                if let Some(act) = midway.take_if(|_| is_midway) {
                    self.loss_ms = plan.may_lose_history.then(wall_ms);
                    act()?;
                }
                self.show_deliveries(sent.load(Ordering::Relaxed));
            }
            publisher.join().map_err(|_| anyhow::anyhow!("the publishers panicked"))
        })?;
        self.publishers_cpu_s = Cpu::own().since(own_before).total_s();
        self.outcome = Some(outcome);
        Ok(())
    }

    fn show_deliveries(&mut self, sent: u64) {
        let each = self.plan.topics_per_stream as f64 / self.plan.topics as f64;
        self.show(|p, rate| {
            let wanted = (sent as f64 * each * p.readers_opened as f64) as u64;
            format!(
                "{} deliveries/s · latency up to {:.1} ms · {} open · {} not there yet · {} resets",
                grouped(rate as u64),
                p.latency_max_ns as f64 / 1e6,
                grouped(p.open),
                grouped(wanted.saturating_sub(p.received)),
                grouped(p.resets),
            )
        });
    }

    /// Until everything expected has come, or nothing more does.
    fn settle(&mut self) -> Result<()> {
        let Some(outcome) = &self.outcome else {
            return Ok(());
        };
        let (expected, readers) = (self.plan.expected(&outcome.slots), self.plan.readers as u64);
        let mut last_change = Instant::now();
        loop {
            let before = self.gauge.received;
            let progress = self.take_answers()?;
            if progress.received > before {
                last_change = Instant::now();
            }
            // Exact when all are open; of those that are not, nobody says here which topics they follow.
            let is_all_there = progress.received * readers >= expected * progress.readers_open as u64;
            let patience = if is_all_there { GRACE } else { self.plan.settle };
            if last_change.elapsed() >= patience {
                break;
            }
        }
        self.gauge.handle_settled();
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
            self.show(|p, _| format!("{} of {} stalled streams closed", p.stalled_closed, p.stalled_opened));
        }
        Ok(())
    }

    /// Judges, closes the streams, measures what is left.
    fn finish(mut self) -> Result<Report> {
        let end_ns = now_ns();
        let slots = self.published();
        let mut dones = self.crew.finish(&slots)?;
        let history = self.judge_history(&mut dones);
        let metrics = self.metrics_grown();
        let Self { plan, crew, gauge, open_wait_s, outcome, loaded_per_s, publishers_cpu_s, start_ns, .. } = self;
        drop(crew);
        let pss_after = plan.linger.and_then(|linger| {
            thread::sleep(linger);
            gauge.pss()
        });
        let opening_s = Done::opening_s(&dones).unwrap_or(open_wait_s);
        let sum = Sum::of(dones, plan, outcome.as_ref(), start_ns, end_ns);
        let mut report = sum.report(&gauge, opening_s, publishers_cpu_s, pss_after);
        report.server_metrics = metrics;
        report.calm = sum.calm(loaded_per_s);
        match history {
            Some(Ok(history)) => report.history = Some(history),
            Some(Err(why)) => report.unjudged = Some(why),
            None => {}
        }
        report.find_faults();
        Ok(report)
    }

    /// `None` where topics are not durable.
    fn judge_history(&self, dones: &mut [Done]) -> Option<Result<History, String>> {
        let records = dones.iter_mut().filter_map(|done| done.record.take()).collect();
        let publications = self.outcome.as_ref().map_or(&[][..], |outcome| &outcome.publications);
        self.plan.is_durable.then(|| history::judge(self.plan, records, publications, self.loss_ms))
    }

    /// What was published in each slot. The times are left out where no stream ended, because they are many.
    fn published(&self) -> Vec<Slot> {
        let publishers = self.plan.workers.first().map_or(1, |worker| worker.publishers);
        let Some(outcome) = self.outcome.as_ref().filter(|outcome| !outcome.slots.is_empty()) else {
            return vec![Slot::default(); self.plan.topics * publishers];
        };
        let progress = self.crew.progress();
        let is_steady = progress.cut == 0 && progress.readers_closed + progress.slow_closed == 0;
        let mut slots = outcome.slots.clone();
        if is_steady {
            slots.iter_mut().for_each(|slot| slot.sent_ns.clear());
        }
        slots
    }

    fn metrics_grown(&self) -> Option<BTreeMap<String, f64>> {
        let before = self.metrics_before.as_ref()?;
        let after = or_remark(scrape(self.plan.endpoint.admin.as_ref()?))?;
        let grown = after.into_iter().map(|(name, value)| {
            let value = value - before.get(&name).copied().unwrap_or(0.0);
            (name, value)
        });
        Some(grown.collect())
    }

    /// `line` is told how things stand, and how many deliveries a second there are.
    fn show(&mut self, line: impl FnOnce(&Progress, f64) -> String) {
        let progress = self.crew.progress();
        self.live.show(progress.received, |rate| line(&progress, rate));
    }
}

/// The page of a single run.
fn page(flags: &Flags, scenario: &str, summary: String, report: serde_json::Value) -> Page {
    let server = flags.start.map_or_else(|| flags.url.clone(), |peer| peer.name().to_owned());
    let version = flags.start.and_then(Peer::version).unwrap_or_default();
    let notes = flags.start.map(|peer| (peer.name().to_owned(), format!("{version}. {}", peer.note())));
    let row = html::Row { server, report, spread: BTreeMap::new(), skipped: None };
    Page {
        title: format!("Load test: {scenario}"),
        command: provenance::command(),
        made_at: provenance::now(),
        quick: false,
        environment: Environment::read(provenance::commit()),
        notes: notes.into_iter().collect(),
        sections: vec![html::Section { scenario: scenario.to_owned(), summary, rows: vec![row] }],
    }
}

fn run_midway(command: &str) -> Result<()> {
    eprintln!("… half way: {command}");
    let status = Process::new("sh").args(["-c", command]).status().context("--midway")?;
    anyhow::ensure!(status.success(), "--midway: {command}: {status}");
    Ok(())
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
