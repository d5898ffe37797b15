//! `loadtest floor`: the physical limit, with the subscribers that `run` has.
//!
//! ```text
//!  parent ── plan, orders ──► floor server ══ send(fd, frame) ══► workers of `swarm`
//!         ◄─ counts, CPU ───                                         │
//!         ◄───────────────────── what arrived, CPU ──────────────────┘
//! ```
//!
//! **For:** telling how much of a server's cost is the kernel's, which no server escapes, and whether
//! the subscribers can keep up with a server that has no cost of its own.
//! **What always holds:** every delivery is accounted for, as in `run`. CPU is the server's own, from
//! the first send to the last. A measurement in which the server's user-space share is above 3 % is
//! invalid and fails, where each event is sent to all streams by itself and 120,000 deliveries/s or more
//! are on offer. (With groups, what is done once per event is shared by few streams.
//! The kernel knows the sum of user space and its own time to a nanosecond, but looks only at each tick
//! where a process is: the share is a sample, and its error is printed beside it. It errs to the high
//! side, because ticks held back in the kernel come in on the way out. Ten seconds are enough.)
//! **Overload:** see `sender`; nothing is dropped, what is late says so.
//! **Not chosen:** a floor measured without subscribers. Receiving on the same machine is part of what
//! a loopback send costs.
//!
//! `options` are the flags and what they mean; `round` drives one measurement through its phases, `sum`
//! makes figures of what it found, `report` judges them, `table` shows them, `subscribers` are told what
//! to open. `process` is the parent's side of the server, `protocol` what is said to it, and the server
//! is `server`, `door`, `sender`, `frame`, `uring`.

mod door;
mod frame;
mod options;
mod process;
mod protocol;
mod report;
mod round;
mod sender;
mod server;
mod subscribers;
mod sum;
mod table;
mod uring;

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub(crate) use self::options::{Flags, FloorPlan};
pub(crate) use self::report::FloorReport;
use self::round::Round;
pub(crate) use self::server::run as run_server;
use crate::run::Usage;

/// How the floor server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SendBy {
    /// A system call per stream.
    Send,
    /// One per batch of streams.
    Uring,
}

/// Measures, prints the report. True if it passed.
pub(crate) fn run(flags: Flags) -> Result<bool> {
    let plan = flags.into_plan().context(Usage)?;
    let report = measure(&plan)?;
    print!("{report}");
    if let Some(path) = &plan.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report.passed)
}

/// Measures `plan.rounds` times. The report is that of the round with the median cost; what was wrong
/// in any of them is in it.
pub(crate) fn measure(plan: &FloorPlan) -> Result<FloorReport> {
    let mut reports = Vec::new();
    for round in 1..=plan.rounds {
        if plan.rounds > 1 {
            eprintln!("… round {round} of {}", plan.rounds);
        }
        reports.push(Round::start(plan)?.measure()?);
    }
    Ok(FloorReport::median(&reports))
}
