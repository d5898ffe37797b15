//! One measurement of the floor: a server of its own, subscribers of their own.
//!
//! ```text
//!  ──┤ open streams ├──┤ hold ├──┤ server sends ├──┤ settle ├──┤ judge ├──
//!     accept CPU      kernel      CPU ─────── CPU
//!                     memory
//! ```

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::FloorPlan;
use super::process::ServerProcess;
use super::protocol::{Order, Published, ServerPlan, Told};
use super::report::FloorReport;
use super::subscribers::worker_plans;
use super::sum::Found;
use crate::clock::now_ns;
use crate::kernel::{Growth, Snapshot};
use crate::procfs;
use crate::report::grouped;
use crate::swarm::{Command, Crew, Done, Progress, Slot};
use crate::target::Target;

/// How often workers are listened to.
const TURN: Duration = Duration::from_millis(50);
/// After everything expected has come: time for what should not come.
const GRACE: Duration = Duration::from_millis(300);
/// The schedule begins so long after the server is told, so that it does not begin late.
const START_DELAY_NS: u64 = 20_000_000;
/// Descriptors of the floor server that are not streams.
const RESERVE: u64 = 64;
/// About so many events have the time noted at which the last stream had them.
const LAST_NOTES: f64 = 16_384.0;
/// More sends no core makes in a second.
const SENDS_PER_S_MAX: f64 = 500_000.0;

/// A measurement in progress.
pub(super) struct Round<'a> {
    plan: &'a FloorPlan,
    server: ServerProcess,
    crew: Crew,
    /// The server listens, and no stream is open. `None` where the kernel's books are closed.
    kernel_before: Option<Snapshot>,
    last_shown: Instant,
}

impl<'a> Round<'a> {
    /// Starts the server, then the workers; they begin to open streams.
    pub(super) fn start(plan: &'a FloorPlan) -> Result<Self> {
        check_descriptors(plan.streams)?;
        let run = (now_ns() ^ u64::from(std::process::id()) << 20) as u32;
        let note_stride = note_stride(plan);
        let server = ServerProcess::start(&ServerPlan {
            listen: plan.listen,
            run,
            groups: plan.groups,
            coalesce: plan.coalesce,
            send_by: plan.send_by,
            rate: plan.rate,
            duration_ns: plan.duration.as_nanos() as u64,
            payload: plan.payload,
            note_stride,
        })?;
        let target = Target { addr: server.addr, authority: server.addr.to_string() };
        let kernel_before = Snapshot::take();
        let crew = Crew::start(&worker_plans(plan, &target, run, note_stride))?;
        Ok(Self { plan, server, crew, kernel_before, last_shown: Instant::now() })
    }

    pub(super) fn measure(mut self) -> Result<FloorReport> {
        let open_wait_s = self.await_open()?;
        let accepted = self.server.count()?;
        let kernel = self.hold()?;
        let published = if self.plan.accept_only { None } else { Some(self.publish()?) };
        let slots = self.settle(published.as_ref())?;
        let dones = self.crew.finish(&slots)?;
        let opening_s = Done::opening_s(&dones).unwrap_or(open_wait_s);
        Ok(FloorReport::of(&Found { plan: self.plan, opening_s, accepted, kernel, published, dones }))
    }

    /// Until every stream is open or given up; how many seconds were waited: more than it took, because workers
    /// tell ten times a second.
    fn await_open(&mut self) -> Result<f64> {
        let started = Instant::now();
        let total = self.plan.streams;
        let settled = |p: &Progress| p.readers_opened + p.failed >= total;
        while !settled(&self.take_progress()?) && started.elapsed() < self.plan.open_timeout {
            self.show(|p| format!("{} of {} streams open, {} failed", grouped(p.open), grouped(total), p.failed));
        }
        let open_wait_s = started.elapsed().as_secs_f64();
        self.crew.tell(&Command::Begin)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !settled(&self.take_progress()?) && Instant::now() < deadline {}
        Ok(open_wait_s)
    }

    /// All streams are open, and nothing is sent. What they added to the kernel's memory.
    fn hold(&mut self) -> Result<Option<Growth>> {
        let until = Instant::now() + self.plan.hold;
        while Instant::now() < until {
            self.take_progress()?;
        }
        Ok(self.kernel_before.as_ref().and_then(Snapshot::growth))
    }

    fn publish(&mut self) -> Result<Published> {
        let start_ns = now_ns() + START_DELAY_NS;
        self.crew.tell(&Command::Start(start_ns))?;
        self.server.order(&Order::Publish(start_ns))?;
        loop {
            self.take_progress()?;
            if let Some(Told::Published(published)) = self.server.take_told(Duration::ZERO)? {
                return Ok(*published);
            }
            self.show(|p| format!("sending; {} deliveries", grouped(p.received)));
        }
    }

    /// Until everything sent has come, or nothing more does. What was sent, per group.
    fn settle(&mut self, published: Option<&Published>) -> Result<Vec<Slot>> {
        let Some(published) = published else {
            return Ok(vec![Slot::default(); self.plan.groups]);
        };
        let expected: u64 = (0..).zip(&published.events).map(|(g, n)| n * self.plan.group_len(g) as u64).sum();
        let (mut last_change, mut before) = (Instant::now(), 0);
        loop {
            let received = self.take_progress()?.received;
            if std::mem::replace(&mut before, received) < received {
                last_change = Instant::now();
            }
            let patience = if received >= expected { GRACE } else { self.plan.settle };
            if last_change.elapsed() >= patience {
                break;
            }
        }
        Ok(published.events.iter().map(|&count| Slot { count, ..Slot::default() }).collect())
    }

    fn take_progress(&mut self) -> Result<Progress> {
        self.crew.take_answers(TURN)?;
        Ok(self.crew.progress())
    }

    /// Progress for people, once a second.
    fn show(&mut self, line: impl FnOnce(&Progress) -> String) {
        if self.last_shown.elapsed() >= Duration::from_secs(1) {
            eprintln!("… {}", line(&self.crew.progress()));
            self.last_shown = Instant::now();
        }
    }
}

/// The server and its workers inherit the limit.
fn check_descriptors(streams: usize) -> Result<()> {
    procfs::raise_descriptors();
    let (needed, granted) = (streams as u64 + RESERVE, procfs::open_files_max(std::process::id())?);
    ensure!(needed <= granted, "descriptors: the floor server needs {needed}, a process may have {granted}");
    Ok(())
}

fn note_stride(plan: &FloorPlan) -> u64 {
    let batches_per_s_max = SENDS_PER_S_MAX * plan.groups as f64 / plan.streams as f64;
    let rate = if plan.rate > 0.0 { plan.rate } else { batches_per_s_max * plan.coalesce as f64 };
    ((rate * plan.duration.as_secs_f64() / LAST_NOTES) as u64).next_power_of_two()
}
