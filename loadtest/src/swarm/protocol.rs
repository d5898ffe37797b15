//! What the parent and a worker say to each other: one JSON value per line.
//!
//! ```text
//! parent                    worker
//!   WorkerPlan ───────────►   opens its streams
//!             ◄───────────  Progress, ten times a second while something changes
//!   Begin ────────────────►   gives up on streams that are not open
//!             ◄───────────  Progress …
//!   Finish ───────────────►   judges
//!             ◄───────────  Done, then exits
//! ```
//!
//! When its stdin ends without `Finish` a worker exits: it never outlives its parent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use checker::Verdict;
use serde::{Deserialize, Serialize};

use crate::dialect::OpenOn;
use crate::latency::Buckets;

/// What one worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerPlan {
    pub(crate) addr: SocketAddr,
    /// What each stream sends.
    pub(crate) request: String,
    pub(crate) readers: usize,
    pub(crate) stalled: usize,
    /// Source addresses, each for this many streams in turn. Empty: the kernel's choice.
    pub(crate) sources: Vec<Ipv4Addr>,
    pub(crate) streams_per_source: usize,
    /// Connections per second this worker opens, at most.
    pub(crate) ramp: f64,
    /// Streams on their way to open at one time, at most.
    pub(crate) opening_max: usize,
    pub(crate) open_on: OpenOn,
    pub(crate) run: u32,
    pub(crate) topics: Vec<String>,
    pub(crate) publishers: usize,
    pub(crate) payload: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Begin,
    Finish(Vec<Slot>),
}

/// What was published in one sequence: topic t, publisher p is slot `t * publishers + p`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    /// Numbers 0..count were sent.
    pub(crate) count: u64,
    /// Those of them that were refused or never answered, ascending.
    pub(crate) uncertain: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Progress(Progress),
    Done(Box<Done>),
}

/// A worker's counts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Streams that were open at some time.
    pub(crate) readers_opened: usize,
    pub(crate) stalled_opened: usize,
    /// Streams that never opened and no longer can.
    pub(crate) failed: usize,
    /// Open streams that the server ended.
    pub(crate) readers_closed: usize,
    pub(crate) stalled_closed: usize,
    /// Events of this run received, doubles included.
    pub(crate) received: u64,
}

impl std::ops::AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.readers_opened += other.readers_opened;
        self.stalled_opened += other.stalled_opened;
        self.failed += other.failed;
        self.readers_closed += other.readers_closed;
        self.stalled_closed += other.stalled_closed;
        self.received += other.received;
    }
}

/// A worker's result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) progress: Progress,
    pub(crate) verdict: Verdict,
    /// Events published after the server had ended their stream.
    pub(crate) missed_after_close: u64,
    pub(crate) publish_to_receive: Buckets,
    pub(crate) intended_to_receive: Buckets,
    pub(crate) connect_to_open: Buckets,
    /// Per topic: (count, digest, streams), see `checker::OrderSurvey`.
    pub(crate) orders: Vec<Vec<(u64, u64, u64)>>,
    pub(crate) counts: Counts,
    /// When each stalled stream was seen to be closed.
    pub(crate) stalled_closed_ns: Vec<u64>,
    /// CPU of this worker between `Begin` and `Finish`.
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
    /// The first thing that went wrong with a stream.
    pub(crate) first_error: Option<String>,
}

/// What else streams brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) resets_by_reason: BTreeMap<String, u64>,
    pub(crate) drains: u64,
    pub(crate) unavailable: u64,
    /// Events of this run whose payload was altered.
    pub(crate) malformed: u64,
    /// Events that are not of this run.
    pub(crate) foreign: u64,
    /// Reads since `Begin`.
    pub(crate) reads_running: u64,
}

impl Counts {
    pub(crate) fn merge(&mut self, other: &Self) {
        for (reason, count) in &other.resets_by_reason {
            *self.resets_by_reason.entry(reason.clone()).or_default() += count;
        }
        self.drains += other.drains;
        self.unavailable += other.unavailable;
        self.malformed += other.malformed;
        self.foreign += other.foreign;
        self.reads_running += other.reads_running;
    }
}
