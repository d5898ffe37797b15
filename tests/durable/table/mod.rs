//! The table of faults, against the real program: runs a row as often as is asked for, and records what came of it.

mod cluster;
mod crashes;
mod depth;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Case, Outcome, rows};
use crate::common::trial::{number, record};
use cluster::Cluster;

/// Runs a row as often as is asked for, records what came of it, and insists on the promise.
fn run(row: &str, usual: u64, play: impl FnOnce(&Case) -> Outcome) {
    let asked = number(&format!("FANWHEEL_TEST_{row}"));
    let (seed, start) = (number("FANWHEEL_TEST_SEED").unwrap_or(1), number("FANWHEEL_TEST_START").unwrap_or(0));
    let case = Case { seed, start, count: asked.unwrap_or(usual), full: asked.is_some() };
    let outcome = catch_unwind(AssertUnwindSafe(|| play(&case)));
    let (violations, figures) = match &outcome {
        Ok(outcome) => (outcome.violations(), &*outcome.figures),
        Err(_) => (1, "it did not end"),
    };
    record(&format!("{row} {seed} {start} {} {violations} {figures}", case.count));
    let outcome = outcome.unwrap_or_else(|panic| resume_unwind(panic));
    println!("{row} {case:?}: {}{}", outcome.report, outcome.figures);
    assert!(violations == 0, "{violations} violations: {outcome:?}");
}

#[test]
fn clients_that_are_cut_anywhere_go_on_where_they_were() {
    run("CUTS", 400, |case| rows::cuts(&Cluster::on_redis(3).nodes, case));
}

#[test]
fn clients_that_are_cut_anywhere_go_on_where_they_were_without_redis() {
    run("CUTS_EMBEDDED", 400, |case| rows::cuts(&Cluster::embedded().nodes, case));
}

#[test]
fn connections_that_redis_kills_cost_nothing() {
    run("CLIENT_KILLS", 6, |case| crashes::client_kills(&mut Cluster::on_redis(3), case));
}

#[test]
fn a_redis_that_crashes_and_keeps_its_word_costs_nothing() {
    run("REDIS_KILLS", 3, |case| crashes::redis_kills(&mut Cluster::on_redis(3), case));
}

#[test]
fn a_redis_that_falls_back_or_forgets_is_told_once() {
    run("LOSSES", 2, |case| crashes::losses(&mut Cluster::on_forgetful_redis(3), case));
}

#[test]
fn nodes_that_crash_cost_nothing() {
    run("NODE_KILLS", 3, |case| crashes::node_kills(&mut Cluster::on_redis(3), case));
}

#[test]
fn whoever_comes_back_after_a_trim_is_told_once() {
    run("TRIMS", 12, |case| rows::trims(&Cluster::on_redis(3).nodes, case));
}

#[test]
fn whoever_comes_back_after_a_trim_is_told_once_without_redis() {
    run("TRIMS_EMBEDDED", 12, |case| rows::trims(&Cluster::embedded().nodes, case));
}

#[test]
fn faults_that_come_together_cost_nothing() {
    run("MIXED", 4, |case| crashes::mixed(&mut Cluster::on_redis(3), case));
}

#[test]
fn a_resume_does_not_depend_on_the_length_of_the_history() {
    run("DEPTH", 5_000, |case| depth::depth(&Cluster::on_redis(1), case));
}
