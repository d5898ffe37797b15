//! Measures servers that fan events out to very many event streams.
//!
//! In the order data moves:
//!
//! - `run`: the verb. The parent starts worker processes, drives the phases of a run, gathers.
//!   - `options`: flags as written → a plan as meant. `preflight`: what the machine cannot carry.
//! - `swarm`: the subscribers.
//!   - `crew`: the parent's side of the pipes to its workers; `protocol`: what is said on them.
//!   - `worker`: one epoll loop with thousands of streams; `conn`: the parser of each; `seen`: what arrived.
//! - `dialect`: how a server is spoken to.
//! - `publisher`: sends events over HTTP or Redis when a `schedule` says. `payload`: what is published.
//! - `report`: the figures, as JSON and as a table.
//! - `http`, `target`, `latency`, `procfs`, `clock`: leaves.
//!
//! Whether anything was lost, doubled or displaced is judged by the crate `checker`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod clock;
mod dialect;
mod http;
mod latency;
mod live;
mod payload;
mod procfs;
mod publisher;
mod report;
mod run;
mod schedule;
mod swarm;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Opens many event streams, publishes on a schedule, accounts for every delivery
    #[command(alias = "swarm")]
    Run(Box<run::Flags>),
    /// Internal: one process of subscribers, told what to do on stdin
    #[command(hide = true)]
    SwarmWorker,
}

/// Exit codes: 0 passed, 1 failed, 2 usage (clap's own choice as well).
fn main() -> ExitCode {
    let arguments = match run::Scenario::expand(std::env::args().collect()) {
        Ok(arguments) => arguments,
        Err(usage) => {
            eprintln!("loadtest: {usage:#}");
            return ExitCode::from(2);
        }
    };
    let outcome = match Cli::parse_from(arguments).verb {
        Verb::Run(flags) => run::run(*flags),
        Verb::SwarmWorker => swarm::run_worker().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(if error.is::<run::Usage>() { 2 } else { 1 })
        }
    }
}
