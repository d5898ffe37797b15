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

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Tally, World};

/// Seeds of an ordinary test run: about seven seconds without optimisation.
const SEEDS: u64 = 400;

#[test]
fn every_reader_sees_what_was_published_or_is_told() {
    let first = number("FANWHEEL_TEST_SEED").unwrap_or(1);
    let count = number("FANWHEEL_TEST_SIMULATIONS").unwrap_or(SEEDS);
    let mut failed = Vec::new();
    let mut tally = Tally::default();
    for seed in first..first + count {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, count == 1).run())) {
            Ok(done) => tally.add(&done),
            Err(_) => {
                eprintln!("seed {seed} failed: FANWHEEL_TEST_SIMULATIONS=1 FANWHEEL_TEST_SEED={seed} shows its steps");
                failed.push(seed);
            }
        }
    }
    if let Ok(file) = std::env::var("FANWHEEL_TEST_RECORD") {
        record(&file, &format!("{} {first} {count} {}", commit(), failed.len()));
    }
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
    assert!(count < SEEDS || tally.is_complete(), "something never happened: {tally:?}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

fn commit() -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    git.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn record(file: &str, line: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    writeln!(file, "{line}").unwrap();
}
