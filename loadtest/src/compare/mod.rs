//! `loadtest compare`: the same scenarios against several servers, one after the other, in rounds.
//!
//! ```text
//! round 1:  broadcast: floor, fanwheel, nchan, …   idle: floor, fanwheel, nchan, …   …
//! round 2:  the same again
//! ```
//!
//! **What always holds:** each run has a server of its own, started for it and ended after it, and
//! the subscribers, publishers and payloads are the same for all. Servers take turns within a round,
//! so that what changes on the machine over time changes for all of them.
//! **Overload:** a server that cannot be started, or does not survive its run, has a row that says so.
//! **Not chosen:** all rounds of one server in a row: the machine's mood would be taken for the
//! server's speed.

mod floor_row;
mod medians;
mod plan;
mod state;
mod table;

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use self::medians::Medians;
pub(crate) use self::plan::Flags;
use self::plan::{Contestant, Planned};
use self::state::{Outcome, Row, State};
use self::table::Table;
use crate::html::{Page, Section};
use crate::machine::Environment;
use crate::provenance;

/// Everything measured, for programs.
#[derive(Debug, Serialize)]
struct Results {
    comparison: String,
    rounds: usize,
    quick: bool,
    environment: Environment,
    scenarios: Vec<ScenarioResults>,
}

#[derive(Debug, Serialize)]
struct ScenarioResults {
    scenario: String,
    summary: String,
    servers: Vec<ServerResults>,
}

#[derive(Debug, Serialize)]
struct ServerResults {
    server: String,
    /// Each figure the median of the rounds; null when there is none, and `skipped` says why.
    medians: Value,
    /// Leaf → smallest and largest.
    ranges: std::collections::BTreeMap<String, (f64, f64)>,
    skipped: Option<String>,
    /// True exactly when a run that should have been was not.
    has_failed: bool,
}

/// Measures what is not measured yet, prints the table, writes the reports. True if every run passed.
pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let mut contestants = flags.contestants();
    let missing = plan::bring(&mut contestants, flags.install)?;
    let scenarios = flags.planned()?;
    let mut state = State::open(flags.state.as_deref())?;
    let (rounds, started) = (flags.rounds(), Instant::now());
    let runs = rounds * scenarios.len() * contestants.len();
    let length_s = scenarios.iter().map(Planned::length_s).sum::<f64>() * (rounds * contestants.len()) as f64;
    eprintln!("{runs} runs, about {:.0} minutes", (length_s / 60.0).max(1.0));
    let mut done = 0;
    for round in 1..=rounds {
        for scenario in &scenarios {
            for &contestant in &contestants {
                done += 1;
                let server = contestant.name();
                let setup = scenario.setup(contestant);
                if state.is_done(&scenario.name, server, round, &setup) {
                    continue;
                }
                eprintln!("[{done}/{runs}, {:.0} s] {} · {server}", started.elapsed().as_secs_f64(), scenario.name);
                let outcome = scenario.measure(contestant);
                state.push(Row {
                    scenario: scenario.name.clone(),
                    server: server.to_owned(),
                    round,
                    setup,
                    outcome,
                })?;
            }
        }
    }
    let results = results(flags, &scenarios, &contestants, &missing, &state);
    finish(flags, &results, &contestants)
}

fn results(
    flags: &Flags,
    scenarios: &[Planned],
    contestants: &[Contestant],
    missing: &[(Contestant, String)],
    state: &State,
) -> Results {
    let servers = |scenario: &Planned| {
        let measured = contestants.iter().map(|&contestant| {
            let server = contestant.name();
            let setup = scenario.setup(contestant);
            let rows = (1..=flags.rounds()).filter_map(|round| state.find(&scenario.name, server, round, &setup));
            server_results(server, rows)
        });
        let absent = missing.iter().map(|(contestant, why)| ServerResults {
            server: contestant.name().to_owned(),
            medians: Value::Null,
            ranges: Default::default(),
            skipped: Some(why.clone()),
            has_failed: false,
        });
        measured.chain(absent).collect()
    };
    Results {
        comparison: flags.title(),
        rounds: flags.rounds(),
        quick: flags.quick,
        environment: Environment::read(provenance::commit()),
        scenarios: scenarios
            .iter()
            .map(|scenario| ScenarioResults {
                scenario: scenario.name.clone(),
                summary: scenario.summary.clone(),
                servers: servers(scenario),
            })
            .collect(),
    }
}

fn server_results<'a>(server: &str, rows: impl Iterator<Item = &'a Row>) -> ServerResults {
    let (mut reports, mut skipped, mut failed) = (Vec::new(), None, Vec::new());
    for row in rows {
        match &row.outcome {
            Outcome::Report(report) => reports.push(report.clone()),
            Outcome::Skipped(why) => skipped = Some(why.clone()),
            Outcome::Failed(why) => failed.push(format!("round {} failed: {why}", row.round)),
        }
    }
    if !failed.is_empty() && reports.is_empty() {
        skipped = Some(failed.join("; "));
    }
    let mut medians = Medians::of(&reports);
    if let Some(medians) = medians.as_mut().filter(|_| !failed.is_empty()) {
        medians.report["passed"] = false.into();
        medians.report["faults"] = failed.clone().into();
    }
    let has_failed = !failed.is_empty();
    let (report, ranges) = medians.map_or((Value::Null, Default::default()), |m| (m.report, m.ranges));
    ServerResults { server: server.to_owned(), medians: report, ranges, skipped, has_failed }
}

fn finish(flags: &Flags, results: &Results, contestants: &[Contestant]) -> Result<bool> {
    print!("{}", Table(results));
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(results)?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &flags.html {
        fs::write(path, page(flags, results, contestants).render())
            .with_context(|| format!("write {}", path.display()))?;
    }
    let all = results.scenarios.iter().flat_map(|scenario| &scenario.servers);
    Ok(all
        .into_iter()
        .all(|server| !server.has_failed && (server.medians.is_null() || server.medians["passed"] == true)))
}

fn page(flags: &Flags, results: &Results, contestants: &[Contestant]) -> Page {
    let sections = results.scenarios.iter().map(|scenario| Section {
        scenario: scenario.scenario.clone(),
        summary: scenario.summary.clone(),
        rows: scenario
            .servers
            .iter()
            .map(|server| crate::html::Row {
                server: server.server.clone(),
                report: server.medians.clone(),
                spread: server.ranges.clone(),
                skipped: server.skipped.clone(),
            })
            .collect(),
    });
    Page {
        title: results.comparison.clone(),
        command: provenance::command(),
        made_at: provenance::now(),
        quick: flags.quick,
        environment: results.environment.clone(),
        notes: contestants.iter().map(|contestant| (contestant.name().to_owned(), contestant.note())).collect(),
        sections: sections.collect(),
    }
}
