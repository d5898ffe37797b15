//! The verb `peers`: which servers can be compared here, and does each of them work?

use std::thread;

use anyhow::{Result, ensure};
use clap::Args;

use super::Peer;
use super::trial::{self, Trial};

/// Flags of `peers`.
#[derive(Args)]
pub(crate) struct Flags {
    /// Which ones [default: all]
    #[arg(value_enum)]
    peers: Vec<Peer>,
    /// Bring what is missing: Debian packages (as root), a crate and a Node package (in the cache)
    #[arg(long)]
    install: bool,
    /// Start each one, publish to it, count what arrives, end it
    #[arg(long = "try")]
    attempt: bool,
    /// Streams to open with --try
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
}

/// False when something failed; what is merely not installed is no failure.
pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let peers = if flags.peers.is_empty() { Peer::ALL.to_vec() } else { flags.peers.clone() };
    let mut is_well = true;
    for peer in peers {
        if flags.install
            && let Err(error) = install(peer)
        {
            is_well = false;
            eprintln!("loadtest: {}: {error:#}", peer.name());
        }
        let streams = flags.attempt.then_some(flags.streams as usize);
        is_well &= describe(peer, streams);
    }
    Ok(is_well)
}

fn install(peer: Peer) -> Result<()> {
    peer.install()?;
    ensure!(peer.version().is_some(), "it was installed and still is not found");
    Ok(())
}

/// Prints what is known about a peer and tries it with so many streams; false when that failed.
fn describe(peer: Peer, streams: Option<usize>) -> bool {
    let version = peer.version();
    println!("{}: {}", peer.name(), version.as_deref().unwrap_or("not installed (--install)"));
    println!("    {}", peer.note());
    if let Some(opening) = peer.opening_max() {
        println!("    {opening} streams may be opening at one time, or some are refused or cut");
    }
    if let Some(longest) = peer.stream_duration_max() {
        println!("    a stream lasts {} s at most", longest.as_secs());
    }
    let (Some(streams), Some(_)) = (streams, version) else { return true };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    match trial::attempt(peer, cores, streams) {
        Ok(trial) => report(&trial),
        Err(error) => {
            println!("    tried: {error:#}");
            false
        }
    }
}

fn report(trial: &Trial) -> bool {
    println!(
        "    tried: {} processes, streams open after {} ms, {} of {} events arrived",
        trial.processes,
        trial.opened_in.as_millis(),
        trial.delivered,
        trial.expected
    );
    if let Some(after) = trial.back_after {
        println!("    broker killed and restarted: events again after {} ms", after.as_millis());
    }
    println!("    ended: {} processes left {:?}", trial.left.len(), trial.left);
    println!("    a stream begins: {:?}", trial.sample);
    trial.delivered == trial.expected && trial.left.is_empty()
}
