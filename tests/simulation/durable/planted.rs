//! Faults that are planted in the engine on purpose must be found, each under a seed on which the sound engine passes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fanwheel::mutant;

use super::world::World;

/// Seeds tried for a fault; most show within the first ten.
const SEEDS_MAX: u64 = 400;

/// True exactly when a seed's world breaks the law.
fn is_broken(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())).is_err()
}

/// The seed that shows a fault.
fn find(name: &'static str) -> Option<u64> {
    for seed in 1..=SEEDS_MAX {
        mutant::plant(name);
        let found = is_broken(seed);
        mutant::plant("");
        if found {
            return Some(seed);
        }
    }
    None
}

#[test]
fn every_planted_fault_is_found_where_the_sound_engine_passes() {
    let mut missed = Vec::new();
    for &(name, what) in mutant::ALL {
        match find(name) {
            None => missed.push(format!("{name}: {what}")),
            Some(seed) => {
                println!("{name}: seed {seed}");
                assert!(!is_broken(seed), "the sound engine fails, too, under seed {seed}");
            }
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds:\n{}", missed.join("\n"));
}
