//! Durable topics, simulated: several nodes, a Redis that forgets, clients that come back.
//!
//! ```text
//!              ┌─ wire, inbox ─► Shard ─► sockets ─┐
//!  Redis ──────┼─ wire, inbox ─► Shard ─► sockets ─┼─► clients, cut anywhere, back anywhere
//!    │         └─ wire, inbox ─► Shard ─► sockets ─┘        │
//!    └───────────── what truly happened ──────────► law ◄───┘ what each has seen, over all its connections
//! ```
//!
//! A seed decides limits and retention, who publishes where, which connection is cut with what on
//! its way, when Redis starts again and how much it has lost, and in which order all of it happens.
//! Nothing here waits, so a seed always runs the same way. The variables are those of the simulation
//! of live topics (`tests/simulation/mod.rs`), with `DURABLE` in their names: both can be run at length side by side.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `FANWHEEL_TEST_DURABLE_SIMULATIONS` | number of seeds; of one seed every step is printed |
//! | `FANWHEEL_TEST_DURABLE_SEED` | the first seed |
//! | `FANWHEEL_TEST_RECORD` | a file that gets one line per run: commit, first seed, seeds, violations |

mod law;
mod law_tests;
#[cfg(fanwheel_mutants)]
mod planted;
mod redis;
mod seat;
mod truth;
mod world;

use law::Seen;
use world::World;

/// Seeds of an ordinary test run: a few seconds without optimisation.
const SEEDS: u64 = 300;

/// How often what a simulation is about has happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    seen: Seen,
    overruns: u64,
    foreign: u64,
    cut: u64,
    restarted: u64,
    rolled_back: u64,
    flushed: u64,
    died: u64,
    barriers: u64,
    reads: u64,
    marks: u64,
    /// Positions honoured without a read.
    from_log: u64,
}

impl Tally {
    fn add_reader(&mut self, seen: &Seen) {
        self.seen.resets.iter_mut().zip(seen.resets).for_each(|(mine, theirs)| *mine += theirs);
        self.seen.crossings += seen.crossings;
        self.seen.resumed += seen.resumed;
        self.seen.events += seen.events;
        self.seen.merged += seen.merged;
    }

    fn add(&mut self, other: &Tally) {
        self.add_reader(&other.seen);
        self.overruns += other.overruns;
        self.foreign += other.foreign;
        self.cut += other.cut;
        self.restarted += other.restarted;
        self.rolled_back += other.rolled_back;
        self.flushed += other.flushed;
        self.died += other.died;
        self.barriers += other.barriers;
        self.reads += other.reads;
        self.marks += other.marks;
        self.from_log += other.from_log;
    }

    /// True exactly when everything has happened. Nothing too large is ever told here: it is no durable topic's matter.
    fn is_complete(&self) -> bool {
        let Seen { resets, crossings, resumed, events, merged } = self.seen;
        let faults = [self.overruns, self.foreign, self.cut, self.restarted, self.rolled_back, self.flushed, self.died];
        let engine = [self.barriers, self.reads, self.marks, self.from_log, resumed.saturating_sub(self.from_log)];
        let told = [crossings, events, merged];
        resets[..6].iter().chain(&faults).chain(&engine).chain(&told).all(|&times| times > 0)
    }
}

#[test]
fn every_client_sees_the_history_or_is_told() {
    let (count_of, seed_of) = ("FANWHEEL_TEST_DURABLE_SIMULATIONS", "FANWHEEL_TEST_DURABLE_SEED");
    let mut tally = Tally::default();
    let count = super::run_seeds(count_of, seed_of, SEEDS, "durable", |seed, trace| {
        tally.add(&World::new(seed, trace).run());
    });
    assert!(count < SEEDS || tally.is_complete(), "something never happened: {tally:?}");
}
