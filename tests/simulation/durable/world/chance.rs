//! What a seed decides beforehand: limits, topics, and what the world is mostly about.

use fanwheel::engine::log::LogLimits;
use fanwheel::engine::policy::{Class, Classes, Kind, Limits, Overflow, Retention};
use fanwheel::topic::{Pattern, Topic};

use super::super::Tally;
use super::super::redis::{Redis, Topics};
use super::super::seat::Manners;
use super::faults::sockets;
use super::{Step, World};

/// Steps and how often they happen beside one another, before a seed bends that.
pub(super) const STEPS: [(Step, u32); 22] = [
    (Step::Join, 8),
    (Step::Return, 6),
    (Step::Cut, 5),
    (Step::Die, 1),
    (Step::Publish, 30),
    (Step::PublishLive, 8),
    (Step::TooLarge, 1),
    (Step::Foreign, 1),
    (Step::Connect, 2),
    (Step::Overrun, 1),
    (Step::Do, 25),
    (Step::CutCommands, 1),
    (Step::Answer, 14),
    (Step::Deliver, 25),
    (Step::Take, 25),
    (Step::Sweep, 25),
    (Step::Writable, 10),
    (Step::Tick, 3),
    (Step::Redis, 1),
    (Step::Tidy, 3),
    (Step::Acknowledged, 1),
    (Step::NodeDies, 1),
];

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let tight = rng.u32(0..6) == 0;
        let class = |rng: &mut fastrand::Rng, retention: Option<Retention>| {
            let bytes_max = if rng.bool() { rng.usize(1_000..20_000) } else { 1 << 20 };
            let skips = retention.is_none() && rng.bool();
            Class {
                kind: retention.map_or(Kind::Live, Kind::Durable),
                log: LogLimits { events_max: rng.usize(1..if retention.is_some() { 33 } else { 9 }), bytes_max },
                overflow: if skips { Overflow::Skip } else { Overflow::Disconnect },
            }
        };
        let retention = |rng: &mut fastrand::Rng| Retention {
            events_max: if rng.bool() { rng.usize(1..12) } else { rng.usize(12..200) },
            age_ms: if rng.bool() { rng.u64(5..400) } else { 1_000_000 },
            idempotency_ms: 1,
        };
        let (one, other) = (retention(&mut rng), retention(&mut rng));
        let pattern = |text| Pattern::parse(text).expect("a pattern");
        let classes = vec![
            (pattern("d.*"), class(&mut rng, Some(one))),
            (pattern("e.*"), class(&mut rng, Some(other))),
            (pattern("l.*"), class(&mut rng, None)),
        ];
        let durable = rng.usize(1..7);
        let live = rng.usize(0..3);
        let of_one = rng.usize(0..=durable);
        let names = (0..durable).map(|n| format!("{}.{n}", if n < of_one { "d" } else { "e" }));
        let names = names.chain((0..live).map(|n| format!("l.{n}")));
        let topics = Topics {
            all: names.map(|name| Topic::parse(&name).expect("a topic")).collect(),
            durable,
            retention: (0..durable).map(|n| if n < of_one { one } else { other }).collect(),
        };
        let mut limits = Limits {
            classes: Classes(classes),
            log_bytes_max: if tight { rng.usize(1_000..40_000) } else { 64 << 20 },
            topics_max: 1_000,
            heartbeat_ticks: rng.u32(5..80),
            stall_ticks: rng.u32(5..120),
            open_ticks: rng.u32(5..60),
            linger_ticks: rng.u32(1..40),
        };
        let start = rng.u32(0..10_000);
        // Each seed is about something else: some steps are rare in it, some frequent.
        let weights = STEPS.iter().map(|&(_, weight)| (weight * [0, 1, 2, 2, 4, 12][rng.usize(0..6)]).div_ceil(2));
        let mut weights: Vec<u32> = weights.collect();
        // In some seeds Redis never fails, and what a client is told is then never about that.
        if rng.u32(0..4) == 0 {
            weights[Step::Redis as usize] = 0;
        }
        // In some the same few topics are wanted, left and wanted again.
        let restless = rng.u32(0..6) == 0;
        if restless {
            for (step, weight) in
                [(Step::Join, 20), (Step::Return, 25), (Step::Cut, 25), (Step::Tick, 25), (Step::Do, 40)]
            {
                weights[step as usize] = weight;
            }
        }
        for needed in [Step::Join, Step::Publish, Step::Do, Step::Deliver, Step::Take, Step::Sweep, Step::Answer] {
            weights[needed as usize] = weights[needed as usize].max(6);
        }
        let leaps = if rng.u32(0..3) == 0 { 2 } else { 100 };
        if leaps == 2 {
            limits.open_ticks = 300;
            limits.heartbeat_ticks = 80;
            limits.stall_ticks = 120;
        }
        if restless {
            limits.linger_ticks = rng.u32(1..4);
            limits.open_ticks = 300;
        }
        let mut world = World {
            weights,
            clients_max: if restless { rng.usize(1..4) } else { rng.usize(1..12) },
            data_max: [8, 60, 300, 2_000, 12_000][rng.usize(0..5)],
            tastes: [rng.u32(0..4), rng.u32(0..4), rng.u32(0..3) + 1],
            leaps,
            limits,
            manners: Manners { apart: rng.u32(0..3) == 0, short_percent: [0, 0, 30][rng.usize(0..3)] },
            pace_ms: [0, 1, 5, 40][rng.usize(0..4)],
            forget_ms: rng.u64(20..1_000),
            redis: Redis::new(topics),
            shards: (1, rng.usize(1..3)),
            nodes: rng.usize(1..4),
            seats: Vec::new(),
            sockets: sockets(rng.fork(), start),
            clients: Vec::new(),
            tally: Tally::default(),
            trace,
            rng,
        };
        world.redis.tells_all = world.rng.u32(0..4) == 0;
        for node in 0..world.nodes {
            world.start_node(node);
        }
        world
    }
}
