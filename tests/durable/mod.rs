//! Durable topics under every fault: nothing is lost, doubled or out of order, and what had to be lost is told once.
//!
//! ```text
//!   publishers (keys, any node) ─► nodes ─► Redis        faults: cut, kill, restart, trim
//!        │                          └──► readers (swarm) ── what each was told ──► log ─► checker
//!        └── what became of each event ─────────────────────────────────────────────┘
//! ```
//!
//! | Row | Its variable | In an ordinary run | At full size | Allowed |
//! |---|---|---|---|---|
//! | clients are cut at every byte, and resume anywhere | `FANWHEEL_TEST_CUTS` | 400 | 10,000 | no reset |
//! | `CLIENT KILL` of the nodes' connections | `FANWHEEL_TEST_CLIENT_KILLS` | 6 | 1,000 | no reset |
//! | Redis crashes and keeps what it acknowledged | `FANWHEEL_TEST_REDIS_KILLS` | 3 | 200 | no reset |
//! | Redis falls back to what it saved, or forgets all | `FANWHEEL_TEST_LOSSES` | 2 | 200 | one for each |
//! | nodes crash | `FANWHEEL_TEST_NODE_KILLS` | 3 | 200 | no reset |
//! | readers come back after a trim | `FANWHEEL_TEST_TRIMS` | 12 | 1,000 | one for each |
//! | nodes stand still | `FANWHEEL_TEST_PAUSES` | 2 | not tried | no reset |
//! | readers read nothing for a while | `FANWHEEL_TEST_NAPS` | 4 | not tried | no reset |
//! | several at once | `FANWHEEL_TEST_MIXED` (seconds) | 4 | 1,800 | no reset |
//! | a resume in a long history | `FANWHEEL_TEST_DEPTH` (events) | 5,000 | 1,000,000 | |
//!
//! The first and the trims also run without Redis, as `FANWHEEL_TEST_CUTS_EMBEDDED` and `…_TRIMS_EMBEDDED`.
//! With its variable set a row runs so often with 500 events a second on 1,000 topics and 2,000 readers of 50 topics
//! each; that is for `cargo test --release`. Without it with a few readers of one to four of six topics.
//! `FANWHEEL_TEST_SEED` decides which, and each fault; `FANWHEEL_TEST_START` is the first fault's number.
//! `FANWHEEL_TEST_RECORD` names a file that gets a line per row: commit, row, seed, start, number of faults,
//! violations, figures. `FANWHEEL_TEST_MUTANT` plants a fault in every node (`src/mutant.rs`): the rows it concerns
//! must fail. `FANWHEEL_TEST_WIRE_MUTANTS=1` plants one after the other (`table/planted.rs`).

mod decode;
mod fake;
mod publisher;
mod rows;
mod scene;
mod swarm;
mod table;

use std::time::Duration;

use checker::history::{Kind, Report};

use crate::common::PATIENCE;
use fake::{Fake, Flaw};
use swarm::Nodes;

/// How often a row breaks something.
#[derive(Debug, Clone)]
pub struct Case {
    seed: u64,
    start: u64,
    count: u64,
    full: bool,
    /// Events have at most about this many bytes.
    bytes_max: usize,
    /// Planted in every node (`src/mutant.rs`).
    fault: Option<String>,
    /// What readers are given at the end for what they have yet to read.
    patience: Duration,
}

impl Case {
    /// A small one.
    fn new(seed: u64, count: u64) -> Case {
        Case { seed, start: 0, count, full: false, bytes_max: 30_000, fault: None, patience: PATIENCE }
    }
}

/// What a row came to.
#[derive(Debug)]
pub struct Outcome {
    report: Report,
    /// At least so many resets are right; `None`: none is.
    resets: Option<u64>,
    /// Readers that were not told as often as they had to be.
    miscounted: u64,
    /// Targets of time that were missed.
    missed_targets: u64,
    /// What was measured.
    figures: String,
}

impl Outcome {
    fn violations(&self) -> u64 {
        let resets = self.report.resets();
        let beside = self.resets.map_or(resets, |least| least.saturating_sub(resets));
        self.report.violations() + beside + self.miscounted + self.missed_targets
    }
}

/// What the harness says of a stand-in.
fn judge(flaw: Flaw, count: u64, row: fn(&Nodes, &Case) -> Outcome) -> Outcome {
    let fake = Fake::start(3, flaw);
    let outcome = row(&fake.nodes, &Case::new(1, count));
    println!("{flaw:?}: {}{}", outcome.report, outcome.figures);
    outcome
}

#[test]
fn the_harness_says_nothing_of_a_history_that_keeps_its_promise() {
    let outcome = judge(Flaw::None, 120, rows::cuts);
    let report = &outcome.report;
    assert_eq!(outcome.violations(), 0, "{report}");
    assert!(report.continued >= 120 && report.events > 500 && report.acknowledged > 100, "{report}");
    let outcome = judge(Flaw::None, 12, rows::trims);
    assert_eq!(outcome.violations(), 0, "{}", outcome.report);
    assert!(outcome.report.told > 500, "{}", outcome.report);
}

#[test]
fn the_harness_finds_what_is_lost_repeated_and_stored_twice() {
    let flaws = [(Flaw::Drops, Kind::Lost), (Flaw::Repeats, Kind::Repeated), (Flaw::ForgetsKeys, Kind::StoredTwice)];
    for (flaw, kind) in flaws {
        let report = judge(flaw, 120, rows::cuts).report;
        // An event that is stored twice takes the place of another among the newest few.
        assert!(report.violations.get(&kind).is_some_and(|&count| count > 0), "{flaw:?}: {report}");
    }
}

#[test]
fn the_harness_finds_trims_that_are_not_told_or_told_twice() {
    for (flaw, kind) in [(Flaw::HidesTrims, Kind::Lost), (Flaw::TellsTwice, Kind::ResetDoubled)] {
        let outcome = judge(flaw, 12, rows::trims);
        let kinds: Vec<_> = outcome.report.violations.keys().collect();
        assert!(kinds == [&kind] && outcome.miscounted > 0, "{flaw:?}: {}", outcome.report);
    }
}
