//! Rows that need nothing but nodes: what readers do, and what leaves by itself.

use std::ops::RangeInclusive;
use std::time::Duration;

use checker::history::{Cause, Fault, Position, Report, Stamp, Topic};

use super::publisher::Plan;
use super::scene::Scene;
use super::swarm::{Cut, Nodes, wall_ms};
use super::{Case, Outcome};

/// Most cuts are swept over this many bytes: more than any control block and most events. The others are anywhere.
pub const SWEPT_BYTES: u64 = 400;
/// Events that are kept of each topic `kept.**`.
pub const KEPT: u32 = 40;
/// Those of `aged.**` are kept for so long.
pub const KEPT_MS: u64 = 1_000;
/// Events of so many bytes: all that is kept of three topics is read in one page, so that nothing leaves a history
/// while somebody is about to read the rest of it, who would have to be told of that as well.
const SMALL_BYTES: usize = 200;

impl Case {
    fn plan(&self, prefix: &str) -> Plan {
        let (topics, rate) = if self.full { (1_000, 500) } else { (6, 200) };
        let topics = (0..topics).map(|number| format!("{prefix}.{number}")).collect();
        Plan { topics, rate, seed: self.seed, bytes_max: self.bytes_max }
    }

    fn readers(&self) -> usize {
        if self.full { 2_000 } else { 24 }
    }

    pub fn start(&self, nodes: &Nodes) -> Scene {
        let each = if self.full { 50..=50 } else { 1..=4 };
        self.begin(nodes, &self.plan("d"), self.readers(), each)
    }

    fn begin(&self, nodes: &Nodes, plan: &Plan, readers: usize, each: RangeInclusive<usize>) -> Scene {
        Scene { patience: self.patience, ..Scene::start(nodes, plan, readers, each) }
    }

    /// The numbers of its faults, each with chance of its own: a run can be taken up in the middle.
    pub fn faults(&self) -> impl Iterator<Item = (u64, fastrand::Rng)> + use<> {
        let seed = self.seed;
        let chance = move |number: u64| fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (self.start..self.start + self.count).map(move |number| (number, chance(number)))
    }
}

impl Outcome {
    pub fn of(report: Report) -> Outcome {
        Outcome { report, resets: None, miscounted: 0, missed_targets: 0, figures: String::new() }
    }
}

/// Clients are cut at every byte of a block, in every way, and come back to any node; some do not read, or are away,
/// for a while.
pub fn cuts(nodes: &Nodes, case: &Case) -> Outcome {
    let mut scene = case.start(nodes);
    let pace = if case.full { Duration::from_millis(12) } else { Duration::from_millis(10) };
    for (number, mut rng) in case.faults() {
        scene.run_until("somebody who is not about to be cut", |scene| scene.swarm.may_cut());
        cut(&mut scene, number, &mut rng);
        nap(&mut scene, &mut rng);
        scene.run_for(pace);
    }
    scene.run_until("all cuts", |scene| scene.swarm.counts.cuts == case.count);
    Outcome::of(scene.finish())
}

pub fn cut(scene: &mut Scene, number: u64, rng: &mut fastrand::Rng) {
    let how = [Cut::Fin, Cut::Reset, Cut::HalfOpen][rng.usize(..3)];
    // Every so often somewhere in what is larger. (7 divides nothing of the sweep: no place is left out.)
    let after = if number % 7 == 6 { rng.usize(1..30_000) } else { 1 + (number % SWEPT_BYTES) as usize };
    let first = rng.usize(..scene.swarm.len());
    scene.swarm.cut_after(first, after, how);
}

/// Now and then a reader does not read, or stays away: long enough for windows to fill and logs to be left behind.
pub fn nap(scene: &mut Scene, rng: &mut fastrand::Rng) {
    let (number, time) = (rng.usize(..scene.swarm.len()), Duration::from_millis(rng.u64(500..2_500)));
    match rng.u8(..40) {
        0 => scene.swarm.nap(number, time),
        1 => scene.swarm.rest(number, time),
        _ => {}
    }
}

/// Readers read a little now and then, and sometimes nothing for longer than a node's log reaches back.
pub fn naps(nodes: &Nodes, case: &Case) -> Outcome {
    let mut scene = case.start(nodes);
    for (_, mut rng) in case.faults() {
        for number in 0..scene.swarm.len() {
            scene.swarm.nap(number, Duration::from_millis(rng.u64(100..800)));
        }
        scene.run_for(Duration::from_millis(500));
    }
    Outcome::of(scene.finish())
}

/// Readers stay away until some of what they had not read is gone, and come back: each is told once.
pub fn trims(nodes: &Nodes, case: &Case) -> Outcome {
    let topics: Vec<String> = ["kept.0", "kept.1", "kept.2", "aged.0", "aged.1", "aged.2"].map(str::to_owned).to_vec();
    let rate = if case.full { 500 } else { 300 };
    let plan = Plan { rate, topics: topics.clone(), bytes_max: SMALL_BYTES, ..case.plan("") };
    // These stay, and read on meanwhile.
    let mut scene = case.begin(nodes, &plan, 6, 1..=3);
    for (from, kept, age_ms) in [(0, Some(KEPT), None), (3, None, Some(KEPT_MS))] {
        let topics = topics[from..from + 3].iter().filter_map(|name| scene.swarm.log.topic(name)).collect();
        let cause = Cause::Trim { kept, age_ms };
        scene.handle_fault(Fault { cause, topics: Some(topics), begun_ms: 0, ended_ms: u64::MAX });
    }
    let mut rng = fastrand::Rng::with_seed(case.seed);
    let per_round = if case.full { 50 } else { 12 };
    let leavers: Vec<(usize, u64)> = (0..per_round)
        .map(|number| {
            let count = if number % 3 == 2 { 3 } else { 1 };
            let names =
                if count == 1 { vec![topics[number % 6].clone()] } else { rng.choose_multiple(topics.clone(), 3) };
            (scene.swarm.add(&names, Position::Now), count)
        })
        .collect();
    let everybody = scene.swarm.len();
    scene.run_until("all streams to be open", |scene| scene.swarm.open() == everybody);
    let rounds = case.count.div_ceil(per_round as u64);
    let mut miscounted = 0;
    for _ in 0..rounds {
        scene.let_flow(20, 20);
        let before: Vec<u64> = leavers.iter().map(|&(number, _)| scene.swarm.resets_of(number)).collect();
        leavers.iter().for_each(|&(number, _)| scene.swarm.leave(number));
        // Longer than the age; more than what is kept of each topic; and chance to spare.
        scene.run_for(Duration::from_millis(1_500));
        scene.let_flow(u64::from(KEPT) * 6 * 2, 0);
        leavers.iter().for_each(|&(number, _)| scene.swarm.come_back(number));
        // What they missed comes before anything that is published from now on.
        let now = Stamp { ms: wall_ms(), n: 0 };
        let ends: Vec<(Topic, Stamp)> = (0..6).map(|topic| (Topic(topic), now)).collect();
        scene.run_until("everybody to be back", |scene| scene.swarm.has_reached(&ends) == everybody);
        for (&(number, topics), before) in leavers.iter().zip(before) {
            let told = scene.swarm.resets_of(number) - before;
            miscounted += u64::from(!(1..=topics).contains(&told));
        }
    }
    Outcome { resets: Some(rounds * per_round as u64), miscounted, ..Outcome::of(scene.finish()) }
}
