//! How busy the machine was between two moments.
//!
//! Busy is all time a CPU was not idle: user, nice, system, interrupts, soft interrupts (where loopback
//! does the receiver's work) and steal (time the hypervisor gave to somebody else: this machine could not
//! have had it). Waiting for a disk is idle. Guest time is inside user already.
//!
//! Where the kernel samples at its clock ticks, work that comes and goes between two of them is not seen:
//! a low share says little, a high one is true. Not chosen: load averages, which lag by a minute and
//! count sleepers.

use std::fs;

/// From here on nothing on the machine could have gone faster. The rest is the kernel's bookkeeping in
/// whole ticks and the moments at the ends of an interval.
const SATURATED_SHARE: f64 = 0.95;

/// What /proc/stat said: one entry per online CPU.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ticks(Vec<CpuTicks>);

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct CpuTicks {
    busy: u64,
    steal: u64,
    all: u64,
}

/// Shares of the time between two `Ticks`, 0.0..=1.0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Busy {
    /// Of all cores together.
    pub(crate) machine_share: f64,
    /// Of all cores, taken by other guests of the host.
    pub(crate) steal_share: f64,
}

impl Ticks {
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The lines `cpu0 …`, `cpu1 …`; the line `cpu …` is their sum.
    fn parse(stat: &str) -> Option<Self> {
        let cpus = stat.lines().filter(|line| line.strip_prefix("cpu").is_some_and(|rest| !rest.starts_with(' ')));
        let cpus = cpus.map(parse_cpu).collect::<Option<Vec<_>>>()?;
        (!cpus.is_empty()).then_some(Self(cpus))
    }

    /// `None` when no tick has passed, or CPUs have come or gone in between.
    pub(crate) fn busy_since(&self, earlier: &Self) -> Option<Busy> {
        if self.0.len() != earlier.0.len() {
            return None;
        }
        let grown: Vec<CpuTicks> = self.0.iter().zip(&earlier.0).map(|(now, then)| now.since(*then)).collect();
        let sum = |part: fn(&CpuTicks) -> u64| grown.iter().map(part).sum::<u64>() as f64;
        let all = sum(|cpu| cpu.all);
        (all > 0.0).then(|| Busy { machine_share: sum(|cpu| cpu.busy) / all, steal_share: sum(|cpu| cpu.steal) / all })
    }
}

impl CpuTicks {
    /// Idle and waiting may run backwards in the kernel's books: no growth is below zero.
    fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            steal: self.steal.saturating_sub(earlier.steal),
            all: self.all.saturating_sub(earlier.all),
        }
    }
}

/// `cpuN user nice system idle iowait irq softirq steal guest guest_nice`.
fn parse_cpu(line: &str) -> Option<CpuTicks> {
    let fields = line.split_ascii_whitespace().skip(1).take(8).map(str::parse);
    let fields: Vec<u64> = fields.collect::<Result<_, _>>().ok()?;
    let &[user, nice, system, idle, iowait, irq, softirq, steal] = fields.as_slice() else {
        return None;
    };
    let busy = user + nice + system + irq + softirq + steal;
    Some(CpuTicks { busy, steal, all: busy + idle + iowait })
}

impl Busy {
    /// True exactly when the machine as a whole had nothing left to give.
    pub(crate) fn is_saturated(&self) -> bool {
        self.machine_share >= SATURATED_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(cpus: [&str; 2]) -> Ticks {
        let [first, second] = cpus;
        Ticks::parse(&format!("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 {first}\ncpu1 {second}\nintr 9 9\nctxt 5\n")).unwrap()
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn busy_is_everything_but_idle_and_waiting() {
        let before = ticks(["1000 0 0 5000 0 0 0 0 0 0", "1000 0 0 5000 0 0 0 0 0 0"]);
        let after = ticks(["1010 5 20 5040 10 5 5 5 10 0", "1000 0 0 5100 0 0 0 0 0 0"]);
        let busy = after.busy_since(&before).unwrap();
        assert!(close(busy.machine_share, 0.25), "{busy:?}");
        assert!(close(busy.steal_share, 0.025), "{busy:?}");
        assert!(!busy.is_saturated());
    }

    #[test]
    fn a_machine_with_nothing_left_is_saturated() {
        let before = ticks(["0 0 0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0 0 0"]);
        assert!(ticks(["50 0 30 1 0 0 19 0 0 0", "60 0 30 4 0 0 6 0 0 0"]).busy_since(&before).unwrap().is_saturated());
        assert_eq!(before.busy_since(&before), None);
    }

    #[test]
    fn a_clock_that_runs_backwards_is_no_negative_share() {
        let before = ticks(["10 0 0 100 50 0 0 0 0 0", "10 0 0 100 50 0 0 0 0 0"]);
        let busy = ticks(["20 0 0 100 20 0 0 0 0 0", "10 0 0 190 60 0 0 0 0 0"]).busy_since(&before).unwrap();
        assert!((0.0..=1.0).contains(&busy.machine_share), "{busy:?}");
    }

    #[test]
    fn this_machine_has_ticks() {
        assert!(!Ticks::now().unwrap().0.is_empty());
    }
}
