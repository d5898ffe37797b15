//! Measures servers that fan events out to very many event streams.
//!
//! In the order data moves:
//!
//! - `run`: the verb. The parent starts worker processes, drives the phases of a run, gathers.
//!   - `options`: flags as written → a plan as meant. `preflight`: what the machine cannot carry.
//! - `floor`: the verb that measures what the kernel alone costs: a server of nothing but `send`.
//! - `compare`: the verb that measures several servers, the floor among them, in turns.
//! - `swarm`: the subscribers.
//!   - `crew`: the parent's side of the pipes to its workers; `protocol`: what is said on them.
//!   - `worker`: one epoll loop with thousands of streams; `conn`: the parser of each; `seen`: what arrived;
//!     `record`: what each stream of durable topics was told.
//! - `dialect`: how a server is spoken to.
//! - `publisher`: open-loop schedules over HTTP or Redis. `payload`: what is published.
//! - `peers`: the servers we compare with, started and ended; the verb that lists them.
//! - `report`: the figures, as JSON and as a table.
//!   `leaves`: its figures by name; `assertion`: what they must have reached.
//!   `html`: the page for people; `plots`: the curves on it.
//! - `machine`: what everything runs on, its limits, how busy it was. `kernel`: what its sockets cost.
//! - `http`, `target`, `latency`, `procfs`, `clock`, `duration`: leaves.
//!
//! Whether anything was lost, doubled or displaced is judged by the crate `checker`: each connection by itself, and
//! with `--durable` each stream over all its connections.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod assertion;
mod clock;
mod compare;
mod dialect;
mod duration;
mod floor;
mod html;
mod http;
mod kernel;
mod latency;
mod leaves;
mod live;
mod machine;
mod payload;
mod peers;
mod plots;
mod procfs;
mod provenance;
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
    /// Measures the physical limit: a loop of `send` with the same subscribers
    Floor(Box<floor::Flags>),
    /// Runs the same scenarios against the floor and several servers, in rounds
    Compare(Box<compare::Flags>),
    /// Internal: the server of `floor`, told what to do on stdin
    #[command(hide = true)]
    FloorServer,
    /// Lists the servers that can be compared here, installs and tries them
    Peers(peers::Flags),
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
        Verb::Run(flags) => run::run(&flags),
        Verb::Floor(flags) => floor::run(*flags),
        Verb::Compare(flags) => compare::run(&flags),
        Verb::Peers(flags) => peers::run(&flags),
        Verb::FloorServer => floor::run_server().map(|()| true),
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
