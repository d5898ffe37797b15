//! Readers and publishers around some nodes, from the first stream to the verdict.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checker::history::{Fault, Position, Report};

use super::publisher::{Plan, Publisher};
use super::swarm::{Nodes, Swarm};
use crate::common::PATIENCE;

/// How long nothing is looked at, at most.
const TURN: Duration = Duration::from_millis(5);

/// Events that are there before the first reader.
const EARLIER: u64 = 60;

/// See the module.
pub struct Scene {
    pub swarm: Swarm,
    pub publisher: Publisher,
    /// How long nothing may come before whoever is not at the end has lost something.
    pub patience: Duration,
}

impl Scene {
    /// Readers of so many (`each`) of the plan's topics. They open their streams on a history that is there and
    /// does not grow; then it goes on.
    pub fn start(nodes: &Nodes, plan: &Plan, readers: usize, each: RangeInclusive<usize>) -> Scene {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let swarm = Swarm::new(&plan.topics, Arc::clone(nodes), plan.seed);
        let earlier = Plan { seed: !plan.seed, ..plan.clone() };
        let mut scene = Scene { swarm, publisher: Publisher::start(nodes, &earlier), patience: PATIENCE };
        scene.run_until("a history", |scene| scene.publisher.stored() >= EARLIER);
        scene.publisher.end();
        scene.run_until("publishers to settle what they have", |scene| scene.publisher.has_ended());
        scene.turn();
        for _ in 0..readers {
            let count = rng.usize(each.clone());
            let first = [Position::Now, Position::Now, Position::Earliest, Position::Last(5)][rng.usize(..4)];
            scene.swarm.add(&rng.choose_multiple(plan.topics.iter().cloned(), count), first);
        }
        scene.run_until("all streams to be open", |scene| scene.swarm.open() == readers);
        scene.publisher = Publisher::start(nodes, plan);
        scene
    }

    pub fn turn(&mut self) {
        self.swarm.turn(TURN);
        self.publisher.drain_into(&mut self.swarm.log);
    }

    pub fn run_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn();
        }
    }

    #[track_caller]
    pub fn run_until(&mut self, what: &str, mut condition: impl FnMut(&Scene) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.swarm.counts);
            self.turn();
        }
    }

    /// Waits until so many events more are stored and so many more have come to readers.
    pub fn let_flow(&mut self, stored: u64, events: u64) {
        let goal = (self.publisher.stored() + stored, self.swarm.counts.events + events);
        self.run_until("events to flow", |scene| {
            scene.publisher.stored() >= goal.0 && scene.swarm.counts.events >= goal.1
        });
    }

    pub fn handle_fault(&mut self, fault: Fault) {
        self.swarm.log.handle_fault(fault);
    }

    /// Settles what is under way, lets everybody read to the end, and judges.
    pub fn finish(mut self) -> Report {
        self.publisher.end();
        self.run_until("publishers to settle what they have", |scene| scene.publisher.has_ended());
        let Scene { mut swarm, publisher, patience } = self;
        let ends = publisher.publish_ends(&mut swarm.log);
        // Whoever was far behind reads on for as long as something comes, but not for ever.
        let end = Instant::now() + patience * 10;
        let (mut events, mut dry_at) = (0, Instant::now() + patience);
        while swarm.has_reached(&ends) < swarm.len() && Instant::now() < dry_at.min(end) {
            swarm.turn(TURN);
            if swarm.counts.events > events {
                (events, dry_at) = (swarm.counts.events, Instant::now() + patience);
            }
        }
        // What has not come by now is lost.
        swarm.handle_dry();
        swarm.log.judge()
    }
}
