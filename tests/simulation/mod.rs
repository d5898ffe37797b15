//! The engine, simulated: one shard, driven step by step from a seed, against a naive twin.
//!
//! ```text
//!  source (late, refusing, leaving, overrunning) ─► inbox ─► Shard ─► sockets (cut, full, dying) ─► decoder
//!        └───────────────── what was published ─────────────► model ◄──── what each reader saw ───────┘
//! ```
//!
//! A seed decides the limits, who joins, what is published, how much each socket takes and in which
//! order everything happens, slices of sweeps included. Nothing here waits, so a seed always runs
//! the same way.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `FANWHEEL_TEST_SIMULATIONS` | number of seeds; of one seed every step is printed |
//! | `FANWHEEL_TEST_SEED` | the first seed |
//! | `FANWHEEL_TEST_RECORD` | a file that gets one line per run: commit, first seed, seeds, violations |

mod decode;
mod durable;
mod model;
mod scripted;
mod socket;
mod source;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::trial::{number, record};
use world::{Tally, World};

/// Seeds of an ordinary test run: about seven seconds without optimisation.
const SEEDS: u64 = 400;

#[test]
fn every_reader_sees_what_was_published_or_is_told() {
    let mut tally = Tally::default();
    let count = run_seeds("FANWHEEL_TEST_SIMULATIONS", "FANWHEEL_TEST_SEED", SEEDS, "", |seed, trace| {
        tally.add(&World::new(seed, trace).run());
    });
    assert!(count < SEEDS || tally.is_complete(), "something never happened: {tally:?}");
}

/// Runs as many seeds as the first variable says, from the one in the second on; of one seed every step is shown. All must
/// pass. Gives how many there were.
fn run_seeds(count: &str, first: &str, usual: u64, name: &str, mut run: impl FnMut(u64, bool)) -> u64 {
    let (number_of, seed_of) = (count, first);
    let (first, count) = (number(first).unwrap_or(1), number(count).unwrap_or(usual));
    let mut failed = Vec::new();
    for seed in first..first + count {
        if catch_unwind(AssertUnwindSafe(|| run(seed, count == 1))).is_err() {
            eprintln!("seed {seed} failed: {number_of}=1 {seed_of}={seed} shows its steps");
            failed.push(seed);
        }
    }
    record(&format!("{first} {count} {} {name}", failed.len()));
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
    count
}
