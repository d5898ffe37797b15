//! Faults that are planted in the engine on purpose must be found, each under a seed on which the sound engine passes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fanwheel::engine::mailbox::{Mailbox, MailboxLimits, Taken};
use fanwheel::mutant;

use super::world::World;

/// Seeds tried for a fault; most show within the first ten.
const SEEDS_MAX: u64 = 400;

/// True exactly when a seed's world breaks the law.
fn is_broken(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())).is_err()
}

/// True exactly when an overrun is told elsewhere than in its place. The simulation has an inbox of its own.
fn is_overrun_misplaced() -> bool {
    let mailbox = Mailbox::new(MailboxLimits { messages_max: 2, bytes_max: 100 }, || {});
    (0..4).for_each(|number| mailbox.push(number, 1));
    let taken: Vec<_> = std::iter::from_fn(|| mailbox.take()).take(3).collect();
    taken != [Taken::Message(0), Taken::Message(1), Taken::Gap]
}

/// The seed that shows a fault.
fn find(name: &'static str) -> Option<u64> {
    for seed in 1..=SEEDS_MAX {
        mutant::plant(name);
        let found = if name == "overrun-flag" { is_overrun_misplaced() } else { is_broken(seed) };
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
                assert!(!is_broken(seed) && !is_overrun_misplaced(), "the sound engine fails, too, under seed {seed}");
            }
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds:\n{}", missed.join("\n"));
}
