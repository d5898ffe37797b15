//! Faults that are planted in the nodes on purpose: the judge finds each, in a row that the sound program passes.
//!
//! Only the judge's word counts: a row that panics, or in which somebody waits in vain, has found nothing. An ordinary
//! run plays the first [`USUAL`] of the table, `FANWHEEL_TEST_WIRE_MUTANTS=1` all of it.
//!
//! Not in the table are faults that no row shows with near certainty: what they need is as rare between processes as a
//! full inbox, or an event in the instant between a subscription and its marker. The simulation finds all of them.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::super::{Case, Outcome};
use super::{CLIENT_KILLS, CUTS, LOSSES, NAPS, PAUSES, Row, TRIMS};
use crate::common::trial::{number, record};

/// A fault, the row that shows it, how often the row breaks something, and the bytes of an event at most.
type Planted = (&'static str, Row, u64, usize);

/// The cheapest stand first.
const PLANTED: &[Planted] = &[
    ("drop", CUTS, 60, 30_000),
    ("ahead-of-replay", CUTS, 60, 30_000),
    ("live-early", CUTS, 60, 30_000),
    ("last-by-one", CUTS, 60, 30_000),
    // Small events, so that nothing is cut where two of them have changed places: the rest would be no stream at all.
    ("swap", CUTS, 120, 200),
    ("no-loss", TRIMS, 12, 30_000),
    ("loss-twice", TRIMS, 12, 30_000),
    ("stale-epoch", LOSSES, 2, 30_000),
    ("fence-ignored", LOSSES, 2, 30_000),
    ("lossy-silent", LOSSES, 2, 30_000),
    ("re-ingest", PAUSES, 2, 30_000),
    ("page-border", PAUSES, 2, 30_000),
    ("join-ahead", PAUSES, 2, 30_000),
    ("marker-jump", PAUSES, 2, 30_000),
    ("beyond-watermark", PAUSES, 2, 30_000),
    // Large events, so that what a repair reads of a topic takes more than a page.
    ("topic-by-topic", PAUSES, 2, 100_000),
    ("hold-one", CLIENT_KILLS, 6, 30_000),
    // Large events, so that many are cut where a socket takes no more.
    ("repeat", NAPS, 10, 100_000),
    ("early-id", NAPS, 10, 100_000),
    ("trim-by-one", NAPS, 10, 100_000),
];
/// So many are played in an ordinary run.
const USUAL: usize = 2;
/// So many must be found when all are played.
const FOUND_MIN: usize = 15;
const _: () = assert!(USUAL <= FOUND_MIN && FOUND_MIN <= PLANTED.len());
/// Seeds that are tried for a fault. The first one shows it nearly always; which events meet is the machine's to say.
const SEEDS: u64 = 3;
/// Some faults keep readers from ever getting to the end. Nobody is waited for as long as where that is not expected.
const PATIENCE_WITH_FAULT: Duration = Duration::from_secs(5);

/// Plays a row, with or without the fault. `None` when it does not come to a verdict.
fn play(&(fault, row, count, bytes_max): &Planted, seed: u64, plants: bool) -> Option<Outcome> {
    let mut case = Case { bytes_max, ..Case::new(seed, count) };
    if plants {
        case = Case { fault: Some(fault.to_owned()), patience: PATIENCE_WITH_FAULT, ..case };
    }
    catch_unwind(AssertUnwindSafe(|| (row.play)(&case))).ok()
}

/// The seed under which the judge finds a fault, and what it says.
fn find(planted: &Planted, first: u64) -> Option<(u64, Outcome)> {
    let mut played = (first..first + SEEDS).filter_map(|seed| Some((seed, play(planted, seed, true)?)));
    played.find(|(_, outcome)| !outcome.report.is_clean())
}

#[test]
fn faults_that_are_planted_in_nodes_are_found_by_the_judge_alone() {
    let all = number("FANWHEEL_TEST_WIRE_MUTANTS").is_some_and(|all| all > 0);
    let first = number("FANWHEEL_TEST_SEED").unwrap_or(1);
    let chosen = if all { PLANTED } else { &PLANTED[..USUAL] };
    let (mut missed, mut passed) = (Vec::new(), HashSet::new());
    for planted in chosen {
        let &(fault, row, count, bytes_max) = planted;
        let name = format!("{}/{fault}", row.name);
        let Some((seed, found)) = find(planted, first) else {
            record(&format!("{name} {first} 0 {count} 1 not found"));
            missed.push(fault);
            continue;
        };
        let said = format!("{:?}", found.report.violations);
        println!("{name}, seed {seed}: {said}");
        // Faults may share a row, and what the sound program makes of it.
        if passed.insert((row.name, count, bytes_max, seed)) {
            let sound = play(planted, seed, false).expect("the sound program comes to the end of each row");
            assert_eq!(sound.violations(), 0, "the sound program fails, too, in {} {seed}: {sound:?}", row.name);
        }
        record(&format!("{name} {seed} 0 {count} 0 found: {said}"));
    }
    println!("found {} of {}; not found: {missed:?}", chosen.len() - missed.len(), chosen.len());
    let least = if all { FOUND_MIN } else { USUAL };
    assert!(chosen.len() - missed.len() >= least, "not found: {missed:?}");
}
