//! What is measured of the server and its broker from outside.

use anyhow::Result;

use super::plan::Endpoint;
use crate::kernel::{Growth, Snapshot};
use crate::machine::{Busy, Ticks};
use crate::procfs::{self, Cpu};
use crate::swarm::Progress;

/// How often the server's memory is looked at while events flow. A look costs 2 to 5 ms at 400 MB.
const PSS_PERIOD_NS: u64 = 250_000_000;

/// Processes measured together.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    server: Vec<u32>,
    broker: Option<u32>,
    pub(super) pss_before: Option<u64>,
    pub(super) pss_idle: Option<u64>,
    pub(super) pss_loaded: Option<u64>,
    /// The largest seen from the first publish until all has settled.
    pub(super) pss_peak: Option<u64>,
    /// When to look for it again; `None` while nobody wants to know, and once it could not be read.
    pss_due_ns: Option<u64>,
    pub(super) opening_cpu_s: Option<f64>,
    before: Usage,
    /// At the last time deliveries were seen to come.
    after: Usage,
    kernel_before: Option<Snapshot>,
    /// What the streams added to the kernel's memory.
    pub(super) kernel_idle: Option<Growth>,
    pub(super) received: u64,
}

/// CPU so far.
#[derive(Debug, Clone, Default)]
struct Usage {
    server: Option<Cpu>,
    broker: Option<Cpu>,
    machine: Option<Ticks>,
}

impl Gauge {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        let mut gauge = Self { server: endpoint.server_pids.clone(), broker: endpoint.broker_pid, ..Self::default() };
        gauge.pss_before = gauge.pss();
        gauge.kernel_before = Snapshot::take();
        gauge.before = gauge.usage();
        gauge
    }

    pub(super) fn pss(&self) -> Option<u64> {
        self.sum(procfs::pss_bytes, |sum, pss| sum + pss)
    }

    fn usage(&self) -> Usage {
        Usage {
            server: self.sum(Cpu::of, Cpu::plus),
            // A broker that is being restarted has no CPU time to tell.
            broker: self.broker.and_then(|pid| Cpu::of(pid).ok()),
            machine: Ticks::now(),
        }
    }

    /// `None` when there is no server to look at, or one of its processes cannot be.
    fn sum<T>(&self, of: impl Fn(u32) -> Result<T>, add: impl Fn(T, T) -> T) -> Option<T> {
        let parts: Result<Vec<T>> = self.server.iter().map(|&pid| of(pid)).collect();
        or_remark(parts)?.into_iter().reduce(add)
    }

    /// All streams are open.
    pub(super) fn handle_opened(&mut self) {
        let used = self.usage().server.zip(self.before.server).map(|(now, before)| now.since(before).total_s());
        self.opening_cpu_s = used;
    }

    /// All streams are open, and nothing is sent yet.
    pub(super) fn handle_idle(&mut self) {
        self.pss_idle = self.pss();
        self.kernel_idle = self.kernel_before.as_ref().and_then(Snapshot::growth);
    }

    /// The first event is due soon.
    pub(super) fn handle_start(&mut self) {
        self.before = self.usage();
        self.after = Usage::default();
    }

    /// From here on the server's memory is watched.
    pub(super) fn handle_publishing(&mut self, now: u64) {
        self.pss_due_ns = Some(now);
    }

    /// Notes the CPU used whenever more has been received, and the memory when it is time.
    pub(super) fn handle_progress(&mut self, progress: &Progress, now: u64) {
        if progress.received > self.received {
            self.received = progress.received;
            self.after = self.usage();
        }
        if self.pss_due_ns.is_some_and(|due_ns| now >= due_ns) {
            let pss = self.pss();
            self.pss_peak = self.pss_peak.max(pss);
            self.pss_due_ns = pss.map(|_| now + PSS_PERIOD_NS);
        }
    }

    /// Nothing more arrives.
    pub(super) fn handle_settled(&mut self) {
        self.pss_loaded = self.pss();
        self.pss_peak = self.pss_peak.max(self.pss_loaded);
        self.pss_due_ns = None;
    }

    /// CPU of the server from the first publish to the last delivery.
    pub(super) fn server_cpu(&self) -> Option<Cpu> {
        Some(self.after.server?.since(self.before.server?))
    }

    pub(super) fn broker_cpu(&self) -> Option<Cpu> {
        Some(self.after.broker?.since(self.before.broker?)).filter(|cpu| cpu.total_s() >= 0.0)
    }

    /// How busy the whole machine was meanwhile.
    pub(super) fn machine_busy(&self) -> Option<Busy> {
        self.after.machine.as_ref()?.busy_since(self.before.machine.as_ref()?)
    }

    pub(super) fn server_pids(&self) -> &[u32] {
        &self.server
    }
}

pub(super) fn or_remark<T>(outcome: Result<T>) -> Option<T> {
    outcome.inspect_err(|error| eprintln!("warning: not measured: {error:#}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_memory_between_publishing_and_settling_is_kept() {
        let mut gauge = Gauge { server: vec![std::process::id()], ..Gauge::default() };
        let progress = Progress::default();
        gauge.handle_progress(&progress, 7);
        assert_eq!(gauge.pss_peak, None);
        gauge.handle_publishing(7);
        gauge.handle_progress(&progress, 7);
        let first = gauge.pss_peak.unwrap();
        let ballast = vec![1_u8; 64 << 20];
        gauge.handle_progress(&progress, 6 + PSS_PERIOD_NS);
        assert_eq!(gauge.pss_peak, Some(first));
        gauge.handle_progress(&progress, 7 + PSS_PERIOD_NS);
        assert!(gauge.pss_peak.unwrap() > first + (60 << 20));
        assert_eq!(ballast.len(), 64 << 20);
        drop(ballast);
        gauge.handle_settled();
        assert!(gauge.pss_loaded < gauge.pss_peak);
        // Nor is it looked for any more.
        gauge.pss_peak = Some(0);
        gauge.handle_progress(&progress, u64::MAX);
        assert_eq!(gauge.pss_peak, Some(0));
    }
}
