//! Durable topics: did every stream see their history, over all its connections?
//!
//! **For:** `--durable`. What publishers were told and what streams were told meet in one log, and
//! `checker::history` judges it.
//! **What always holds:** a broken promise makes the run fail, as a loss does. The server is to keep what a run
//! publishes: a reset is right only behind `--restart-broker` or `--midway`, which may cost it its history.
//! **Overload:** what streams were told takes [`RECORD_BYTES_MAX`] at most, see `swarm/record.rs`; a run that would
//! need more is refused, and one that does after all fails.

use std::sync::Arc;

use anyhow::{Result, ensure};
use checker::history::{Cause, Fault, Log, Publication, Report as Verdict, Topic};
use serde::Serialize;

use super::plan::Plan;
use crate::publisher::PublishPlan;
use crate::swarm::{EVENT_BYTES, ITEM_BYTES, MARK_BYTES, RECORD_BYTES_MAX, Record, WorkerPlan};

/// What makes a record smaller.
const REMEDY: &str = "fewer --streams, a lower --rate or a shorter --duration";

/// What the judge found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct History {
    /// Events published; those of them that a publisher was told the id of; and those of which no answer came.
    pub(crate) publications: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown_outcomes: u64,
    /// Connections of all streams.
    pub(crate) connections: u64,
    /// Those that presented the id which the one before had ended with.
    pub(crate) continued: u64,
    /// Those that were told that they go on there.
    pub(crate) resumed: u64,
    pub(crate) history_events: u64,
    /// Events that did not come to a stream and that a reset told of.
    pub(crate) history_told: u64,
    /// (reason, count) of resets.
    pub(crate) history_resets: Vec<(String, u64)>,
    /// Broken promises, of all kinds; and (kind, count).
    pub(crate) violations: u64,
    pub(crate) violations_by_kind: Vec<(String, u64)>,
    pub(crate) first_violation: Option<String>,
    /// What the streams were told, as the workers count it.
    pub(crate) record_bytes: u64,
}

/// Judges what streams were told (by worker) against what publishers were told. From `loss_ms` on, in milliseconds
/// since 1970, the history may have been lost. `Err` says why there is no judgement.
pub(super) fn judge(
    plan: &Plan,
    records: Vec<Record>,
    publications: &[Publication],
    loss_ms: Option<u64>,
) -> Result<History, String> {
    let record_bytes = records.iter().map(|record| record.bytes).sum();
    if records.iter().any(|record| !record.is_whole) {
        return Err(format!(
            "what streams were told takes more than {} MiB to record, and was not judged: {REMEDY}",
            RECORD_BYTES_MAX >> 20
        ));
    }
    let mut log = Log::new(plan.workers.first().map_or(&[][..], |worker| &worker.topics).iter().cloned());
    let mut resumed = 0;
    for (worker, record) in plan.workers.iter().zip(records) {
        let choice = worker.choice(0..worker.streams());
        let topics = |stream| choice.topics(stream).map(|topic| Topic(topic as u32)).collect::<Arc<[Topic]>>();
        resumed += record.replay_into(&mut log, topics);
    }
    publications.iter().for_each(|&publication| log.handle_publication(publication));
    if let Some(begun_ms) = loss_ms {
        log.handle_fault(Fault { cause: Cause::Loss, topics: None, begun_ms, ended_ms: u64::MAX });
    }
    Ok(History::of(&log.judge(), resumed, record_bytes))
}

/// Refuses what could not be recorded.
pub(super) fn check_size(workers: &[WorkerPlan], publish: Option<&PublishPlan>) -> Result<()> {
    let events = publish.map_or(0, PublishPlan::events);
    let bytes = |worker: &WorkerPlan| {
        let (streams, per_stream) = ((worker.readers + worker.slow) as u64, worker.topics_per_stream as u64);
        let deliveries = events * streams * per_stream / worker.topics.len().max(1) as u64;
        // Asked, opened and ended, twice.
        let marks = 6 * streams * (MARK_BYTES + ITEM_BYTES * (per_stream + 1));
        deliveries * ITEM_BYTES + events * EVENT_BYTES + marks
    };
    let bytes: u64 = workers.iter().map(bytes).sum();
    ensure!(
        bytes <= RECORD_BYTES_MAX,
        "--durable: what streams will be told takes {} MiB to record, of which there may be {}: {REMEDY}",
        bytes.div_ceil(1 << 20),
        RECORD_BYTES_MAX >> 20
    );
    Ok(())
}

impl History {
    fn of(verdict: &Verdict, resumed: u64, record_bytes: u64) -> Self {
        Self {
            publications: verdict.publications,
            acknowledged: verdict.acknowledged,
            unknown_outcomes: verdict.unknown,
            connections: verdict.connections,
            continued: verdict.continued,
            resumed,
            history_events: verdict.events,
            history_told: verdict.told,
            history_resets: verdict.resets.iter().map(|(reason, &count)| (format!("{reason:?}"), count)).collect(),
            violations: verdict.violations(),
            violations_by_kind: verdict.violations.iter().map(|(kind, &count)| (format!("{kind:?}"), count)).collect(),
            first_violation: verdict.examples.first().map(ToString::to_string),
            record_bytes,
        }
    }
}
