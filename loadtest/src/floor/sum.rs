//! What the floor server and its subscribers found, put together into figures.

use super::FloorPlan;
use super::protocol::{Accepted, Published};
use super::report::{Client, Deliveries, Floor, Opening, Setup};
use crate::kernel::Growth;
use crate::latency::Latencies;
use crate::procfs::Cpu;
use crate::report::{Kernel, Latency};
use crate::swarm::{Done, Judgement};

/// Kernels look this often, or up to ten times as often, whether a busy core is in user space. The sum
/// of both is exact.
const SAMPLES_PER_S: f64 = 100.0;

/// What a measurement found, to be made a report of.
pub(super) struct Found<'a> {
    pub(super) plan: &'a FloorPlan,
    pub(super) opening_s: f64,
    pub(super) accepted: Accepted,
    /// What the open streams added to the kernel's memory, on both sides.
    pub(super) kernel: Option<Growth>,
    /// `None` when no events were to be sent.
    pub(super) published: Option<Published>,
    pub(super) dones: Vec<Done>,
}

impl Setup {
    pub(super) fn of(plan: &FloorPlan) -> Self {
        Self {
            streams: plan.streams,
            groups: plan.groups,
            coalesce: plan.coalesce,
            send_by: plan.send_by,
            rate_per_s: plan.rate,
            payload_bytes: plan.payload,
            processes: plan.processes,
        }
    }
}

impl Found<'_> {
    pub(super) fn opening(&self) -> Opening {
        let mut open = Latencies::default();
        self.dones.iter().for_each(|done| open.merge(&done.connect_to_open));
        let measured = (!open.is_empty()).then_some(&open);
        let streams = self.accepted.streams.max(1) as f64;
        let cpu = Cpu { user_s: self.accepted.user_s, system_s: self.accepted.system_s };
        Opening {
            opened: self.opened(),
            failed: self.dones.iter().map(|done| done.progress.failed).sum(),
            closed_early: self.dones.iter().map(|done| done.progress.readers_closed).sum(),
            opening_s: self.opening_s,
            opened_per_s: self.opened() as f64 / self.opening_s.max(1e-9),
            open_p50_ms: measured.map(|open| open.ms_at(0.5)),
            open_p99_ms: measured.map(|open| open.ms_at(0.99)),
            open_max_ms: measured.map(Latencies::max_ms),
            accepted_per_s: self.accepted.streams as f64 / self.accepted.accepting_s.max(1e-9),
            floor_accept_us: cpu.total_s() * 1e6 / streams,
            floor_accept_user_us: cpu.user_s * 1e6 / streams,
            subscribers_open_us: self.dones.iter().map(|done| done.opening_cpu_s).sum::<f64>() * 1e6 / streams,
            stream_error: self.dones.iter().find_map(|done| done.first_error.clone()),
        }
    }

    fn opened(&self) -> usize {
        self.dones.iter().map(|done| done.progress.readers_opened).sum()
    }

    pub(super) fn kernel(&self) -> Option<Kernel> {
        Kernel::of(self.kernel.as_ref()?, self.opened())
    }

    pub(super) fn floor(&self) -> Option<Floor> {
        let p = self.published.as_ref()?;
        let sent = (p.sends - p.failed) * self.plan.coalesce as u64;
        let cpu = Cpu { user_s: p.user_s, system_s: p.system_s };
        let sending_s = (p.last_ns - p.first_ns) as f64 / 1e9;
        let user_share = cpu.user_s / cpu.total_s().max(1e-9);
        let samples = (cpu.total_s() * SAMPLES_PER_S).max(1.0);
        let mut late = Latencies::default();
        late.merge(&p.late);
        let each_us = |cpu_s: f64, count: u64| cpu_s * 1e6 / count.max(1) as f64;
        Some(Floor {
            events: p.events.iter().sum(),
            sends: p.sends,
            sent,
            frame_bytes: p.frame_len,
            blocked: p.blocked,
            failed_sends: p.failed,
            sending_s,
            deliveries_per_s: sent as f64 / sending_s.max(1e-9),
            floor_user_s: cpu.user_s,
            floor_system_s: cpu.system_s,
            floor_busy_share: cpu.total_s() / sending_s.max(1e-9),
            floor_cpu_us_per_delivery: each_us(cpu.total_s(), sent),
            floor_user_us_per_delivery: each_us(cpu.user_s, sent),
            floor_cpu_us_per_send: each_us(cpu.total_s(), p.sends),
            user_share,
            user_share_error: (user_share * (1.0 - user_share) / samples).sqrt(),
            late_p99_ms: late.ms_at(0.99),
            late_max_ms: late.max_ms(),
        })
    }

    pub(super) fn client(&self, deliveries: &Deliveries, floor: Option<&Floor>) -> Client {
        let (mut cpu, mut busy_share) = (Cpu::default(), None::<f64>);
        for done in &self.dones {
            let own = Cpu { user_s: done.cpu_user_s, system_s: done.cpu_system_s };
            cpu = cpu.plus(own);
            let first_ns = self.published.as_ref().map_or(u64::MAX, |published| published.first_ns);
            if done.received_at_ns > first_ns {
                let busy_s = (done.received_at_ns - first_ns) as f64 / 1e9;
                busy_share = Some(busy_share.unwrap_or(0.0).max(own.total_s() / busy_s));
            }
        }
        let received = deliveries.received;
        let each_us = (received > 0).then(|| cpu.total_s() * 1e6 / received as f64);
        Client {
            subscribers_user_s: cpu.user_s,
            subscribers_system_s: cpu.system_s,
            subscribers_us_per_delivery: each_us,
            subscribers_busy_share: busy_share,
            client_to_floor: floor.zip(each_us).map(|(floor, us)| us / floor.floor_cpu_us_per_delivery),
        }
    }

    pub(super) fn latency(&self) -> Option<Latency> {
        let (mut publish, mut intended) = (Latencies::default(), Latencies::default());
        for done in &self.dones {
            publish.merge(&done.publish_to_receive);
            intended.merge(&done.intended_to_receive);
        }
        Latency::of(&publish, &intended, &self.last())
    }

    /// Of the events noted: until the last subscriber of the group had it. Those that some never had
    /// are faults already.
    fn last(&self) -> Latencies {
        let mut last = Latencies::default();
        for (group, sent_ns) in self.published.iter().flat_map(|published| published.sent_ns.iter().enumerate()) {
            for (index, sent_ns) in sent_ns.iter().enumerate() {
                let notes = self.dones.iter().filter_map(|done| done.last.get(group)?.get(index));
                let (at_ns, seen) =
                    notes.fold((0, 0), |(at_ns, seen), note| (note.0.max(at_ns), seen + note.1 as usize));
                if seen >= self.plan.group_len(group) {
                    last.record(at_ns.saturating_sub(*sent_ns));
                }
            }
        }
        last
    }
}

impl Deliveries {
    pub(super) fn of(found: &Found<'_>) -> Self {
        let mut all = Judgement::default();
        found.dones.iter().for_each(|done| all.merge(done.readers.clone()));
        let (v, counts) = (&all.verdict, &all.counts);
        Self {
            expected: v.expected,
            received: v.received,
            lost: v.lost,
            doubled: v.doubled,
            out_of_order: v.out_of_order,
            phantoms: v.phantoms,
            malformed: counts.malformed,
            foreign: counts.foreign,
            events_per_read: found.published.as_ref().map(|_| v.received as f64 / counts.reads_running.max(1) as f64),
        }
    }
}
