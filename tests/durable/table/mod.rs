//! The table of faults, against the real program: runs a row as often as is asked for, and records what came of it.

mod cluster;
mod crashes;
mod depth;
#[cfg(fanwheel_mutants)]
mod planted;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Case, Outcome, rows};
use crate::common::trial::{number, record};
use cluster::Cluster;

/// A row: the fault that is made, around a cluster of its own.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    play: fn(&Case) -> Outcome,
}

const CUTS: Row = Row { name: "CUTS", play: |case| rows::cuts(&on_redis(case).nodes, case) };
const CUTS_EMBEDDED: Row = Row { name: "CUTS_EMBEDDED", play: |case| rows::cuts(&embedded(case).nodes, case) };
const CLIENT_KILLS: Row = Row { name: "CLIENT_KILLS", play: |case| crashes::client_kills(&mut on_redis(case), case) };
const REDIS_KILLS: Row = Row { name: "REDIS_KILLS", play: |case| crashes::redis_kills(&mut on_redis(case), case) };
const LOSSES: Row = Row {
    name: "LOSSES",
    play: |case| crashes::losses(&mut Cluster::on_forgetful_redis(NODES, case.fault.as_deref()), case),
};
const NODE_KILLS: Row = Row { name: "NODE_KILLS", play: |case| crashes::node_kills(&mut on_redis(case), case) };
const TRIMS: Row = Row { name: "TRIMS", play: |case| rows::trims(&on_redis(case).nodes, case) };
const TRIMS_EMBEDDED: Row = Row { name: "TRIMS_EMBEDDED", play: |case| rows::trims(&embedded(case).nodes, case) };
const PAUSES: Row = Row { name: "PAUSES", play: |case| crashes::pauses(&mut on_redis(case), case) };
const NAPS: Row = Row { name: "NAPS", play: |case| rows::naps(&on_redis(case).nodes, case) };
const NAPS_EMBEDDED: Row = Row { name: "NAPS_EMBEDDED", play: |case| rows::naps(&embedded(case).nodes, case) };
const MIXED: Row = Row { name: "MIXED", play: |case| crashes::mixed(&mut on_redis(case), case) };
const DEPTH: Row = Row { name: "DEPTH", play: |case| depth::depth(&Cluster::on_redis(1, case.fault.as_deref()), case) };

/// Nodes of a cluster.
const NODES: usize = 3;

fn on_redis(case: &Case) -> Cluster {
    Cluster::on_redis(NODES, case.fault.as_deref())
}

fn embedded(case: &Case) -> Cluster {
    Cluster::embedded(case.fault.as_deref())
}

/// Runs a row as often as is asked for, records what came of it, and insists on the promise.
fn run(row: Row, usual: u64) {
    let Row { name, play } = row;
    let asked = number(&format!("FANWHEEL_TEST_{name}"));
    let (seed, start) = (number("FANWHEEL_TEST_SEED").unwrap_or(1), number("FANWHEEL_TEST_START").unwrap_or(0));
    let fault = std::env::var("FANWHEEL_TEST_MUTANT").ok();
    let case = Case { start, full: asked.is_some(), fault, ..Case::new(seed, asked.unwrap_or(usual)) };
    let outcome = catch_unwind(AssertUnwindSafe(|| play(&case)));
    let (violations, figures) = match &outcome {
        Ok(outcome) => (outcome.violations(), &*outcome.figures),
        Err(_) => (1, "it did not end"),
    };
    record(&format!("{name} {seed} {start} {} {violations} {figures}", case.count));
    let outcome = outcome.unwrap_or_else(|panic| resume_unwind(panic));
    println!("{name} {case:?}: {}{}", outcome.report, outcome.figures);
    assert!(violations == 0, "{violations} violations: {outcome:?}");
}

#[test]
fn clients_that_are_cut_anywhere_go_on_where_they_were() {
    run(CUTS, 400);
}

#[test]
fn clients_that_are_cut_anywhere_go_on_where_they_were_without_redis() {
    run(CUTS_EMBEDDED, 400);
}

#[test]
fn connections_that_redis_kills_cost_nothing() {
    run(CLIENT_KILLS, 6);
}

#[test]
fn a_redis_that_crashes_and_keeps_its_word_costs_nothing() {
    run(REDIS_KILLS, 3);
}

#[test]
fn a_redis_that_falls_back_or_forgets_is_told_once() {
    run(LOSSES, 2);
}

#[test]
fn nodes_that_crash_cost_nothing() {
    run(NODE_KILLS, 3);
}

#[test]
fn whoever_comes_back_after_a_trim_is_told_once() {
    run(TRIMS, 12);
}

#[test]
fn whoever_comes_back_after_a_trim_is_told_once_without_redis() {
    run(TRIMS_EMBEDDED, 12);
}

#[test]
fn nodes_that_stand_still_cost_nothing() {
    run(PAUSES, 2);
}

#[test]
fn readers_that_do_not_read_for_a_while_miss_nothing() {
    run(NAPS, 4);
}

#[test]
fn readers_that_do_not_read_for_a_while_miss_nothing_without_redis() {
    run(NAPS_EMBEDDED, 4);
}

#[test]
fn faults_that_come_together_cost_nothing() {
    run(MIXED, 4);
}

#[test]
fn a_resume_does_not_depend_on_the_length_of_the_history() {
    run(DEPTH, 5_000);
}
