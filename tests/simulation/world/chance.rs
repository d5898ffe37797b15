//! What a seed decides beforehand: limits, topics, and what the world is mostly about.

use fanwheel::engine::Shard;
use fanwheel::engine::log::LogLimits;
use fanwheel::engine::policy::{Class, Classes, Limits, Overflow};
use fanwheel::topic::{Pattern, Topic};

use super::{Leaving, Step, World};
use crate::simulation::model::{History, Rules};
use crate::simulation::socket::Sockets;
use crate::simulation::source::Source;

/// Steps and how often they happen beside one another, before a seed bends that.
pub(super) const STEPS: [(Step, u32); 14] = [
    (Step::Join, 8),
    (Step::Leave, 4),
    (Step::Die, 1),
    (Step::Publish, 30),
    (Step::TooLarge, 1),
    (Step::Connect, 1),
    (Step::Overrun, 1),
    (Step::Refuse, 1),
    (Step::Answer, 12),
    (Step::Take, 25),
    (Step::Sweep, 25),
    (Step::Writable, 12),
    (Step::Tick, 12),
    (Step::Stale, 1),
];

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let topics_max = if rng.u32(0..8) == 0 { 3 } else { 1_000 };
        let large_one_in = (rng.u32(0..5) == 0).then(|| rng.u32(5..80));
        let data_max = [8, 60, 300, 2_000, 12_000][rng.usize(0..5)];
        let tight = rng.u32(0..4) == 0;
        let events_max = rng.usize(1..33);
        let mut class = |overflow| {
            let bytes_max = if large_one_in.is_some() { 400 << 10 } else { rng.usize(1_000..20_000) };
            let bytes_max = if rng.bool() { bytes_max } else { 1 << 20 };
            Class { log: LogLimits { events_max, bytes_max }, overflow, ..Class::default() }
        };
        let pattern = |text| Pattern::parse(text).unwrap();
        let classes = vec![(pattern("skip.*"), class(Overflow::Skip)), (pattern("cut.*"), class(Overflow::Disconnect))];
        let mut limits = Limits {
            classes: Classes(classes),
            log_bytes_max: if tight { rng.usize(1_000..40_000) } else { 64 << 20 },
            topics_max,
            heartbeat_ticks: rng.u32(5..80),
            stall_ticks: rng.u32(5..120),
            open_ticks: rng.u32(5..60),
            linger_ticks: rng.u32(1..40),
        };
        let count = rng.usize(1..9);
        let skips = rng.usize(0..=count);
        let names: Vec<String> =
            (0..count).map(|n| format!("{}.{n}", if n < skips { "skip" } else { "cut" })).collect();
        let topics = names.iter().map(|name| Topic::parse(name).unwrap()).collect();
        let start = rng.u32(0..10_000);
        let source = Source::new(rng.u32(0..4) == 0);
        let rules = Rules {
            tight,
            large: large_one_in.is_some() || data_max > 1_000,
            heartbeat_min: (limits.heartbeat_ticks - limits.heartbeat_ticks * 20 / 100).max(1),
        };
        // Each seed is about something else: some steps are rare in it, some frequent.
        let weights = STEPS.iter().map(|&(_, weight)| (weight * [0, 1, 2, 2, 4, 12][rng.usize(0..6)]).div_ceil(2));
        let mut weights: Vec<u32> = weights.collect();
        // In some the same few topics are wanted, left and wanted again, and nobody answers in time.
        let restless = !source.embedded && rng.u32(0..8) == 0;
        if restless {
            weights = vec![20, 20, 0, 20, 1, 6, 5, 0, 6, 60, 25, 5, 25, 0];
            limits.linger_ticks = rng.u32(1..4);
            limits.open_ticks = 300;
        }
        for needed in [Step::Join as usize, Step::Publish as usize, Step::Take as usize, Step::Sweep as usize] {
            weights[needed] = weights[needed].max(5);
        }
        if source.embedded {
            weights[Step::Connect as usize] = 0;
        }
        World {
            weights,
            conns_max: if restless { rng.usize(1..4) } else { rng.usize(1..30) },
            large_one_in,
            data_max,
            tastes: [rng.u32(0..4), rng.u32(0..4), rng.u32(0..2) + 1],
            shard: Shard::new(limits.clone(), start, seed),
            sockets: Sockets {
                all: Vec::new(),
                rng: rng.fork(),
                moment: 0,
                tick: start,
                parsed: Default::default(),
                sends: 0,
            },
            rng,
            confirmed: vec![false; count],
            refused: vec![0; count],
            disconnected: 0,
            limits,
            rules,
            names,
            topics,
            readers: Vec::new(),
            joined: Vec::new(),
            open: Vec::new(),
            history: History::default(),
            source,
            held: None,
            leaving: Leaving::Nobody,
            closed: 0,
            wanted: 0,
            budget: 0,
            trace,
        }
    }
}
