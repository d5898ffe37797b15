//! The figures of the floor, as JSON for programs. No two leaves have the same name.

use serde::Serialize;

use super::SendBy;
use super::sum::Found;
use crate::report::{Kernel, Latency};

/// From here on the user-space share is demanded, …
const STRICT_DELIVERIES_PER_S: f64 = 120_000.0;
/// … and may be at most this.
const USER_SHARE_MAX: f64 = 0.03;
/// The share is sampled: above the limit it is when it is so by this many standard errors.
const SURE_ERRORS: f64 = 2.0;
/// A server later than this did not hold its schedule.
const LATE_MS_MAX: f64 = 25.0;
/// A subscriber process busier than this held the server up.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Everything `--json` writes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FloorReport {
    pub(crate) scenario: String,
    pub(crate) loadtest_version: String,
    /// True exactly when `faults` is empty; decides the exit code.
    pub(crate) passed: bool,
    /// What was wrong, in words.
    pub(crate) faults: Vec<String>,
    /// What may have disturbed the measurement, in words.
    pub(crate) remarks: Vec<String>,
    pub(crate) setup: Setup,
    pub(crate) opening: Opening,
    /// `None` with `--accept`.
    pub(crate) floor: Option<Floor>,
    pub(crate) deliveries: Deliveries,
    /// As in `run`, from the floor's send.
    pub(crate) latency: Option<Latency>,
    /// As in `run`. `None` where the kernel's books cannot be read.
    pub(crate) kernel: Option<Kernel>,
    pub(crate) client: Client,
    /// Of all rounds, in their order: CPU per delivery, or per stream with `--accept`.
    pub(crate) cost_us_by_round: Vec<f64>,
    /// (Largest − smallest) / median of them.
    pub(crate) cost_spread: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setup {
    pub(crate) streams: usize,
    pub(crate) groups: usize,
    pub(crate) coalesce: usize,
    pub(crate) send_by: SendBy,
    /// 0: as many as go.
    pub(crate) rate_per_s: f64,
    pub(crate) payload_bytes: usize,
    pub(crate) processes: usize,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Opening {
    pub(crate) opened: usize,
    pub(crate) failed: usize,
    pub(crate) closed_early: usize,
    /// From the first connect until the last stream is open.
    pub(crate) opening_s: f64,
    pub(crate) opened_per_s: f64,
    /// From connect to open.
    pub(crate) open_p50_ms: Option<f64>,
    pub(crate) open_p99_ms: Option<f64>,
    pub(crate) open_max_ms: Option<f64>,
    /// From the first accept to the last answer.
    pub(crate) accepted_per_s: f64,
    /// CPU per stream, of the floor server and of the subscribers.
    pub(crate) floor_accept_us: f64,
    pub(crate) floor_accept_user_us: f64,
    pub(crate) subscribers_open_us: f64,
    pub(crate) stream_error: Option<String>,
}

/// The server between its first send and its last.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Floor {
    pub(crate) events: u64,
    /// Frames, one per stream and batch; `sent` is the events in them.
    pub(crate) sends: u64,
    pub(crate) sent: u64,
    pub(crate) frame_bytes: usize,
    /// Sends that had to wait for their socket.
    pub(crate) blocked: u64,
    /// Sends to streams that were gone.
    pub(crate) failed_sends: u64,
    pub(crate) sending_s: f64,
    pub(crate) deliveries_per_s: f64,
    pub(crate) floor_user_s: f64,
    pub(crate) floor_system_s: f64,
    /// 1 is a whole core.
    pub(crate) floor_busy_share: f64,
    pub(crate) floor_cpu_us_per_delivery: f64,
    pub(crate) floor_user_us_per_delivery: f64,
    pub(crate) floor_cpu_us_per_send: f64,
    /// Of the server's CPU.
    pub(crate) user_share: f64,
    /// Its standard error: it is sampled.
    pub(crate) user_share_error: f64,
    /// Sent − intended.
    pub(crate) late_p99_ms: f64,
    pub(crate) late_max_ms: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Deliveries {
    pub(crate) expected: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) out_of_order: u64,
    pub(crate) phantoms: u64,
    pub(crate) malformed: u64,
    pub(crate) foreign: u64,
    pub(crate) events_per_read: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Client {
    pub(crate) subscribers_user_s: f64,
    pub(crate) subscribers_system_s: f64,
    pub(crate) subscribers_us_per_delivery: Option<f64>,
    /// The busiest subscriber process: 1 is a whole core.
    pub(crate) subscribers_busy_share: Option<f64>,
    /// CPU per delivery: subscribers' / floor server's.
    pub(crate) client_to_floor: Option<f64>,
}

impl FloorReport {
    pub(super) fn of(found: &Found<'_>) -> Self {
        let deliveries = Deliveries::of(found);
        let floor = found.floor();
        let client = found.client(&deliveries, floor.as_ref());
        let opening = found.opening();
        let cost_us = floor.as_ref().map_or(opening.floor_accept_us, |floor| floor.floor_cpu_us_per_delivery);
        let mut report = Self {
            scenario: if found.plan.accept_only { "floor-accept" } else { "floor" }.to_owned(),
            loadtest_version: env!("CARGO_PKG_VERSION").to_owned(),
            passed: false,
            faults: Vec::new(),
            remarks: Vec::new(),
            setup: Setup::of(found.plan),
            opening,
            floor,
            deliveries,
            latency: found.latency(),
            kernel: found.kernel(),
            client,
            cost_us_by_round: vec![cost_us],
            cost_spread: 0.0,
        };
        report.find_faults(found.plan.offered_per_s());
        report.find_remarks();
        report
    }

    /// The round with the median cost, with what is to be said of all rounds. `rounds` is not empty.
    pub(super) fn median(rounds: &[Self]) -> Self {
        let costs: Vec<f64> = rounds.iter().map(|round| round.cost_us_by_round[0]).collect();
        let mut order: Vec<usize> = (0..rounds.len()).collect();
        order.sort_by(|&left, &right| costs[left].total_cmp(&costs[right]));
        let (smallest, median, largest) = (order[0], order[(order.len() - 1) / 2], order[order.len() - 1]);
        let mut report = rounds[median].clone();
        if rounds.len() > 1 {
            let said = |of: fn(&Self) -> &Vec<String>| {
                let numbered = (1..).zip(rounds).flat_map(|(n, round)| of(round).iter().map(move |text| (n, text)));
                numbered.map(|(n, text)| format!("round {n}: {text}")).collect::<Vec<_>>()
            };
            (report.faults, report.remarks) = (said(|round| &round.faults), said(|round| &round.remarks));
        }
        report.passed = report.faults.is_empty();
        report.cost_spread = (costs[largest] - costs[smallest]) / costs[median].max(f64::MIN_POSITIVE);
        report.cost_us_by_round = costs;
        report
    }

    fn find_faults(&mut self, offered_per_s: Option<f64>) {
        let (d, o) = (&self.deliveries, &self.opening);
        let counts = [
            (d.lost, "deliveries lost"),
            (d.doubled, "deliveries doubled"),
            (d.out_of_order, "deliveries out of order"),
            (d.phantoms, "events delivered that were never sent"),
            (d.malformed, "events altered on the way"),
            (o.failed as u64, "streams did not open"),
            (o.closed_early as u64, "streams ended early"),
            (self.floor.as_ref().map_or(0, |floor| floor.failed_sends), "sends failed"),
        ];
        let counted = counts.iter().filter(|(count, _)| *count > 0);
        self.faults.extend(counted.map(|(count, what)| format!("{count} {what}")));
        let is_plain = self.setup.send_by == SendBy::Send && self.setup.coalesce == 1 && self.setup.groups == 1;
        if let Some(floor) = self.floor.as_ref().filter(|_| is_plain)
            && offered_per_s.unwrap_or(floor.deliveries_per_s) >= STRICT_DELIVERIES_PER_S
            && floor.user_share - SURE_ERRORS * floor.user_share_error > USER_SHARE_MAX
        {
            self.faults.push(format!(
                "{:.1} % of the floor's CPU is user space, at most {:.0} % may be: this is no floor",
                floor.user_share * 100.0,
                USER_SHARE_MAX * 100.0
            ));
        }
        self.passed = self.faults.is_empty();
    }

    fn find_remarks(&mut self) {
        let Some(floor) = &self.floor else {
            return;
        };
        if floor.late_p99_ms > LATE_MS_MAX {
            self.remarks.push(format!(
                "the schedule was not held (sent {:.0} ms late at p99): lower --rate",
                floor.late_p99_ms
            ));
        }
        if self.client.subscribers_busy_share.is_some_and(|share| share > BUSY_SHARE_MAX) {
            self.remarks.push("a subscriber process had no time left: it held the server up".to_owned());
        }
        if floor.user_share_error > USER_SHARE_MAX / 3.0 {
            self.remarks.push(format!(
                "the user-space share is sampled, here to ± {:.1} %: measure longer",
                floor.user_share_error * 100.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::floor::FloorPlan;
    use crate::floor::protocol::{Accepted, Published};
    use crate::kernel::Growth;
    use crate::swarm::{Done, Progress};

    /// A floor of 100 deliveries in 1 ms that cost `user_s` in user space and 1 s in the kernel.
    fn report(flags: &str, user_s: f64) -> FloorReport {
        let plan = FloorPlan::parse(flags.split_whitespace()).unwrap();
        let published = Published {
            events: vec![1],
            sends: 100,
            first_ns: 5,
            last_ns: 1_000_005,
            user_s,
            system_s: 1.0,
            ..Published::default()
        };
        let (accepted, published) = (Accepted::default(), Some(published));
        FloorReport::of(&Found { plan: &plan, opening_s: 1.0, accepted, kernel: None, published, dones: Vec::new() })
    }

    #[test]
    fn a_floor_that_is_busy_in_user_space_is_none() {
        let is_valid = |flags, user_s| report(flags, user_s).passed;
        // A second of CPU is a hundred samples: 5.7 % ± 2.2 % may be 3 %, 9.1 % ± 2.7 % is more.
        assert!(is_valid("--streams 1000 --rate 120", 0.06));
        assert!(!is_valid("--streams 1000 --rate 120", 0.1));
        assert!(is_valid("--streams 1000 --rate 119", 0.1));
        assert!(is_valid("--streams 1000 --rate 120 --uring", 0.1));
        assert!(is_valid("--streams 1000 --rate 120 --coalesce 2", 0.1));
        // 100 in a millisecond are 100,000 a second.
        assert!(is_valid("--streams 1000 --rate 0", 0.1));
        assert!(is_valid("--streams 1000 --groups 2 --rate 240", 0.1));
    }

    #[test]
    fn of_several_rounds_the_median_is_shown_and_every_fault() {
        let flags = "--streams 1000 --rate 120";
        let rounds = [report(flags, 1.0), report(flags, 0.0), report(flags, 0.02)];
        let median = FloorReport::median(&rounds);
        assert_eq!(median.floor.unwrap().floor_user_s, 0.02);
        assert_eq!(median.cost_us_by_round, [20_000.0, 10_000.0, 10_200.0]);
        assert!((median.cost_spread - 10_000.0 / 10_200.0).abs() < 1e-9);
        assert!(!median.passed && median.faults.len() == 1);
        assert!(median.faults[0].starts_with("round 1: "), "{:?}", median.faults);
    }

    #[test]
    fn a_send_that_failed_is_a_fault_and_no_delivery() {
        let plan = FloorPlan::parse(["--coalesce", "2"]).unwrap();
        let published = Published { sends: 10, failed: 3, ..Published::default() };
        let found = Found {
            plan: &plan,
            opening_s: 1.0,
            accepted: Accepted::default(),
            kernel: None,
            published: Some(published),
            dones: Vec::new(),
        };
        let report = FloorReport::of(&found);
        assert_eq!((report.floor.unwrap().sent, report.passed), (14, false));
    }

    #[test]
    fn streams_and_their_memory_are_told_as_servers_are() {
        let plan = FloorPlan::parse(["--accept"]).unwrap();
        let progress = Progress { readers_opened: 500, ..Progress::default() };
        let done = || Done { progress, ..Done::default() };
        let kernel = Growth {
            bytes_by_cache: BTreeMap::new(),
            buffer_bytes: 0,
            total_bytes: 7_000_000,
            absent: vec!["TCPv6"],
            client_socket_bytes: 3_000,
        };
        let (accepted, dones) = (Accepted::default(), vec![done(), done()]);
        let found = Found { plan: &plan, opening_s: 0.25, accepted, kernel: Some(kernel), published: None, dones };
        let report = FloorReport::of(&found);
        assert_eq!((report.opening.opened, report.opening.opened_per_s), (1_000, 4_000.0));
        assert_eq!(report.kernel.as_ref().unwrap().kernel_per_stream_bytes, 4_000.0);
        let said = report.to_string();
        assert!(said.contains("1,000 in 0.25 s (4,000 per second)"), "{said}");
        assert!(said.contains("4000 bytes per stream on the server's side"), "{said}");
        assert!(FloorReport::of(&Found { dones: Vec::new(), ..found }).kernel.is_none());
    }

    #[test]
    fn no_two_leaves_have_the_same_name() {
        fn collect(value: &serde_json::Value, names: &mut Vec<String>) {
            for (name, value) in value.as_object().into_iter().flatten() {
                if value.is_object() { collect(value, names) } else { names.push(name.clone()) }
            }
        }
        let mut names = Vec::new();
        collect(&serde_json::to_value(report("--rate 1", 0.1)).unwrap(), &mut names);
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }
}
