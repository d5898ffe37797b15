//! What the parent and a worker say to each other: one JSON value per line.
//!
//! ```text
//! parent                    worker
//!   WorkerPlan ───────────►   opens its streams
//!             ◄───────────  Progress, ten times a second while something changes
//!   Begin ────────────────►   gives up on streams that are not open
//!   Start ────────────────►   the first event is due soon: measure from here, disturb as planned
//!             ◄───────────  Progress …
//!   Finish ───────────────►   judges
//!             ◄───────────  Done, then exits
//! ```
//!
//! When its stdin ends without `Finish` a worker exits: it never outlives its parent.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;

use checker::Verdict;
use serde::{Deserialize, Serialize};

use super::choice::Choice;
use super::record::Record;
use crate::dialect::Dialect;
use crate::latency::Buckets;
use crate::target::Target;

/// What one worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerPlan {
    pub(crate) target: Target,
    pub(crate) dialect: Dialect,
    /// Streams that read all they can, …
    pub(crate) readers: usize,
    /// … that read `slow_bytes_per_s` each, …
    pub(crate) slow: usize,
    /// … and that read nothing once they are open.
    pub(crate) stalled: usize,
    pub(crate) slow_bytes_per_s: u64,
    /// What the readers ask the kernel for (SO_RCVBUF). `None`: its own choice.
    pub(crate) receive_buffer_bytes: Option<usize>,
    /// The number of this worker's first stream among all of the run.
    pub(crate) first_stream: usize,
    /// Source addresses, each for `STREAMS_PER_SOURCE` streams in turn. Empty: the kernel's choice.
    pub(crate) sources: Vec<Ipv4Addr>,
    /// Connections per second this worker opens, at most.
    pub(crate) ramp: f64,
    /// Streams on their way to open at one time, at most.
    pub(crate) opening_max: usize,
    pub(crate) run: u32,
    pub(crate) topics: Vec<String>,
    /// So many of them each stream reads, see [`Choice`]. `1..=topics.len()`.
    pub(crate) topics_per_stream: usize,
    pub(crate) publishers: usize,
    pub(crate) payload: usize,
    /// Every so many events of a sequence, when the last stream had it is noted. A power of two.
    pub(crate) last_stride: u64,
    /// Deliveries of events sent so long after the start, or later, are told apart as calm ones.
    pub(crate) calm_after_ns: Option<u64>,
    pub(crate) disturbance: Option<Disturbance>,
    /// True exactly when a stream that the server ended is opened again, as a browser would.
    pub(crate) reconnects: bool,
    /// An event sent so long before a stream ended had to arrive on it.
    pub(crate) settle_ns: u64,
    /// Where topics are durable: what this worker's record may take. Streams then present their last id when they
    /// come back, and go on with the life they had.
    pub(crate) record_bytes_max: Option<u64>,
}

/// What is done to a worker's streams while events flow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Disturbance {
    /// So many streams a second are closed and opened again, one after the other.
    Churn { per_s: f64, for_ns: u64 },
    /// This share of all streams is cut at once, and all of them come back at once.
    Storm { after_ns: u64, share: f64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Begin,
    /// When the first event is due.
    Start(u64),
    Finish(Vec<Slot>),
}

/// What was published in one sequence: topic t, publisher p is slot `t * publishers + p`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot {
    /// Numbers 0..count were sent.
    pub(crate) count: u64,
    /// Those of them that were refused or never answered, ascending.
    pub(crate) uncertain: Vec<u64>,
    /// When each was sent, ascending. Left out where every stream was open all the time.
    pub(crate) sent_ns: Vec<u64>,
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
    pub(crate) slow_opened: usize,
    pub(crate) stalled_opened: usize,
    /// Streams that never opened and no longer can.
    pub(crate) failed: usize,
    /// Open streams that the server ended.
    pub(crate) readers_closed: usize,
    pub(crate) slow_closed: usize,
    pub(crate) stalled_closed: usize,
    /// Streams open now, of all kinds; and readers among them.
    pub(crate) open: usize,
    pub(crate) readers_open: usize,
    /// Streams this side cut to open them again, and times that a stream was open again.
    pub(crate) cut: u64,
    pub(crate) reopened: u64,
    /// Events of this run received by readers, doubles included.
    pub(crate) received: u64,
    pub(crate) resets: u64,
    /// The largest publish → receive since the last report.
    pub(crate) latency_max_ns: u64,
}

impl std::ops::AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.readers_opened += other.readers_opened;
        self.slow_opened += other.slow_opened;
        self.stalled_opened += other.stalled_opened;
        self.failed += other.failed;
        self.readers_closed += other.readers_closed;
        self.slow_closed += other.slow_closed;
        self.stalled_closed += other.stalled_closed;
        self.open += other.open;
        self.readers_open += other.readers_open;
        self.cut += other.cut;
        self.reopened += other.reopened;
        self.received += other.received;
        self.resets += other.resets;
        self.latency_max_ns = self.latency_max_ns.max(other.latency_max_ns);
    }
}

/// A worker's result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) progress: Progress,
    pub(crate) readers: Judgement,
    pub(crate) slow: Judgement,
    pub(crate) publish_to_receive: Buckets,
    pub(crate) intended_to_receive: Buckets,
    /// Of calm events only, see `WorkerPlan::calm_after_ns`.
    pub(crate) calm_to_receive: Buckets,
    pub(crate) connect_to_open: Buckets,
    /// From the end of a stream to its being open again.
    pub(crate) cut_to_open: Buckets,
    /// When this worker first connected, and when the last of its streams opened that did so for the first
    /// time. `None` when that never came to pass.
    pub(crate) first_connect_ns: Option<u64>,
    pub(crate) last_opened_ns: Option<u64>,
    /// When the last stream was open again after a storm; streams that were to be and are not.
    pub(crate) last_reopened_ns: u64,
    pub(crate) not_reopened: u64,
    /// Per slot, every `last_stride`-th number: when the last reader had it, and how many had it.
    pub(crate) last: Vec<Vec<(u64, u32)>>,
    /// Per topic: readers that were open all the time.
    pub(crate) steady_readers: Vec<u32>,
    /// Per such reader, of any topic: events received.
    pub(crate) steady_received: Vec<u64>,
    /// Per topic: (count, digest, streams), see `checker::OrderSurvey`.
    pub(crate) orders: Vec<Vec<(u64, u64, u64)>>,
    /// When each stalled stream was seen to be closed.
    pub(crate) stalled_closed_ns: Vec<u64>,
    /// CPU of this worker between `Start` and `Finish`; while it opened its streams.
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
    pub(crate) opening_cpu_s: f64,
    /// When a reader received the last event.
    pub(crate) received_at_ns: u64,
    /// Where topics are durable.
    pub(crate) record: Option<Record>,
    /// The first thing that went wrong with a stream.
    pub(crate) first_error: Option<String>,
}

/// What a group of streams saw, held against what was published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    /// Events published after the server had ended their stream.
    pub(crate) missed_after_close: u64,
    /// Lives judged: a stream that was opened again has several.
    pub(crate) lives: u64,
    /// (slot, first, end, streams): numbers that did not arrive, and on how many streams.
    pub(crate) undelivered: Vec<(usize, u64, u64, u64)>,
    pub(crate) counts: Counts,
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

impl Done {
    /// Seconds from the first connect of all workers to their last opening. `None` when no stream opened.
    pub(crate) fn opening_s(dones: &[Self]) -> Option<f64> {
        let first_ns = dones.iter().filter_map(|done| done.first_connect_ns).min()?;
        let last_ns = dones.iter().filter_map(|done| done.last_opened_ns).max()?;
        Some(last_ns.saturating_sub(first_ns) as f64 / 1e9)
    }
}

impl Judgement {
    pub(crate) fn merge(&mut self, other: Self) {
        self.verdict += other.verdict;
        self.missed_after_close += other.missed_after_close;
        self.lives += other.lives;
        self.undelivered.extend(other.undelivered);
        self.counts.merge(&other.counts);
    }
}

impl Counts {
    fn merge(&mut self, other: &Self) {
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

impl WorkerPlan {
    /// Of so many readers, for tests.
    #[cfg(test)]
    pub(crate) fn sample(readers: usize) -> Self {
        let target = Target { addr: ([127, 0, 0, 1], 80).into(), authority: String::new() };
        Self::undisturbed(target, Dialect::fanwheel(), readers)
    }

    /// Readers that connect one by one, read to the end, and follow no topic yet.
    pub(crate) fn undisturbed(target: Target, dialect: Dialect, readers: usize) -> Self {
        Self {
            target,
            dialect,
            readers,
            slow: 0,
            stalled: 0,
            slow_bytes_per_s: 1,
            receive_buffer_bytes: None,
            first_stream: 0,
            sources: Vec::new(),
            ramp: 1.0,
            opening_max: 1,
            run: 0,
            topics: Vec::new(),
            topics_per_stream: 0,
            publishers: 1,
            payload: 100,
            last_stride: 1,
            calm_after_ns: None,
            disturbance: None,
            reconnects: false,
            settle_ns: 0,
            record_bytes_max: None,
        }
    }

    /// Streams of all kinds.
    pub(crate) fn streams(&self) -> usize {
        self.readers + self.slow + self.stalled
    }

    /// The topics of these streams of this worker.
    pub(crate) fn choice(&self, streams: Range<usize>) -> Choice {
        let numbers = self.first_stream + streams.start..self.first_stream + streams.end;
        Choice::new(self.topics.len(), self.topics_per_stream, numbers)
    }

    /// How many readers each topic has.
    pub(crate) fn readers_by_topic(&self) -> Vec<u64> {
        let choice = self.choice(0..self.readers);
        let mut counts = vec![0; self.topics.len()];
        (0..self.readers).flat_map(|index| choice.topics(index)).for_each(|topic| counts[topic] += 1);
        counts
    }

    /// The topics that stream `index` of `choice` reads, by name.
    pub(crate) fn topics_of<'a>(&'a self, choice: &'a Choice, index: usize) -> impl Iterator<Item = &'a str> {
        choice.topics(index).map(|topic| self.topics[topic].as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(first_connect_ns: Option<u64>, last_opened_ns: Option<u64>) -> Done {
        Done { first_connect_ns, last_opened_ns, ..Done::default() }
    }

    #[test]
    fn streams_open_from_the_first_connect_of_any_worker_to_the_last_opening_of_any() {
        const SECOND: u64 = 1_000_000_000;
        let dones = [
            done(Some(4 * SECOND), Some(9 * SECOND)),
            done(Some(2 * SECOND), Some(7 * SECOND)),
            // One whose streams all failed, and one that has none.
            done(Some(SECOND), None),
            done(None, None),
        ];
        assert_eq!(Done::opening_s(&dones[..2]), Some(7.0));
        assert_eq!(Done::opening_s(&dones), Some(8.0));
        assert_eq!(Done::opening_s(&dones[2..]), None);
    }
}
