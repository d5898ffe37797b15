//! The history a shard is fed from, as far as the shard knows it, and what waits for it.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use crate::engine::catch_up::CatchUp;
use crate::engine::conn::ConnId;
use crate::engine::history::Chain;
use crate::engine::pages::Pages;
use crate::engine::slab::Key;
use crate::event::{Event, EventId, Stamp, Tag};

/// Most events held while a shard catches up, and their bytes.
const HELD_EVENTS_MAX: usize = 16_384;
const HELD_BYTES_MAX: usize = 8 << 20;
/// A marker that has not come after so many ticks is asked for again: 2 s.
const BARRIER_TICKS: u32 = 20;

/// A marker is asked for after so many ticks in any case: 1 h. A shard on whose topics nothing comes learns from it how
/// far the history has got, long before the history forgets what lies behind that.
const REFRESH_TICKS: u32 = 36_000;

/// The history a shard is fed from, as far as it knows it.
#[derive(Debug)]
pub(super) struct Partition {
    /// None until the first marker.
    pub(super) chain: Option<Arc<Chain>>,
    pub(super) watermark: Stamp,
    pub(super) hold: Option<Hold>,
    /// True exactly when a marker is needed that is asked for from now on.
    pub(super) wants_barrier: bool,
    /// When a marker was asked for that has not come.
    pub(super) asked_at: Option<u32>,
    /// When a marker was last asked for in any case.
    refreshed_at: u32,
    /// Topics that are confirmed and wait for a marker.
    pub(super) unsettled: BTreeSet<Key>,
    /// The newest question for a marker.
    pub(super) question: u64,
    /// Readers that wait for a marker which is asked for from now on.
    pub(super) ahead: BTreeSet<ConnId>,
    /// Readers that wait for the answer to this question or a later one. That to an earlier one knows nothing of what
    /// they have seen elsewhere.
    pub(super) ahead_asked: BTreeMap<ConnId, u64>,
    /// Readers that wait for a tail: what they want may be in it.
    pub(super) behind_tails: BTreeSet<ConnId>,
    /// Readers that wait for the end of the hold.
    pub(super) held_back: BTreeSet<ConnId>,
    /// An incarnation that was met and which the marker after it did not know.
    pub(super) strange: Option<Tag>,
    /// The incarnation of which all nodes are to be told that it has lost something.
    pub(super) lossy: Option<Tag>,
    /// Topics with a tail, in the order in which these were read.
    pub(super) tails: VecDeque<Key>,
    /// Counts repairs.
    pub(super) repairs: u64,
    pub(super) pages: Pages,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) stage: Stage,
    /// Events that came behind the marker.
    pub(super) queue: VecDeque<Arc<Event>>,
    pub(super) bytes: usize,
    /// True exactly when some did not fit, or were lost on their way.
    pub(super) overrun: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Until these are confirmed, or gone.
    Subscribing(HashSet<Key>),
    /// Until a marker comes.
    Barrier,
    /// Until everything up to the marker is ingested.
    Reading(CatchUp),
    /// Until what was held is ingested.
    Releasing,
}

impl Default for Partition {
    fn default() -> Partition {
        Partition {
            chain: None,
            watermark: Stamp::ZERO,
            hold: None,
            wants_barrier: false,
            asked_at: None,
            refreshed_at: 0,
            unsettled: BTreeSet::new(),
            question: 0,
            ahead: BTreeSet::new(),
            ahead_asked: BTreeMap::new(),
            behind_tails: BTreeSet::new(),
            held_back: BTreeSet::new(),
            strange: None,
            lossy: None,
            tails: VecDeque::new(),
            repairs: 0,
            pages: Pages::default(),
        }
    }
}

impl Partition {
    /// The incarnations. Before the first marker nobody can ask: no topic is settled.
    pub(super) fn chain(&self) -> Arc<Chain> {
        self.chain.clone().unwrap_or_else(|| Arc::new(Chain::begin(Tag::NONE)))
    }

    /// Every event of the shard's topics up to here was ingested.
    pub(super) fn watermark(&self) -> Stamp {
        self.watermark
    }

    /// The watermark, as a position.
    pub(super) fn position(&self) -> EventId {
        self.chain().position_at(self.watermark)
    }

    pub(super) fn is_holding(&self) -> bool {
        self.hold.is_some()
    }

    /// The reader is served when the hold has ended.
    pub(super) fn await_release(&mut self, id: ConnId) {
        self.held_back.insert(id);
    }

    /// The reader is served when the next tails have come.
    pub(super) fn await_tails(&mut self, id: ConnId) {
        self.behind_tails.insert(id);
    }

    /// The reader is served when more is known: at the end of the hold, or behind a marker.
    pub(super) fn await_news(&mut self, id: ConnId) {
        if self.is_holding() { self.await_release(id) } else { self.await_marker(id) }
    }

    /// The reader is served when a marker has come that is asked for from now on.
    pub(super) fn await_marker(&mut self, id: ConnId) {
        self.ahead.insert(id);
        self.wants_barrier = true;
    }

    /// The reader is gone: it waits for nothing.
    pub(super) fn forget_reader(&mut self, id: ConnId) {
        for waiting in [&mut self.held_back, &mut self.behind_tails, &mut self.ahead] {
            waiting.remove(&id);
        }
        self.ahead_asked.remove(&id);
    }

    /// The question with which a marker is to be asked for now.
    pub(super) fn take_barrier(&mut self, now: u32) -> Option<u64> {
        let may_ask = match &self.hold {
            None => true,
            Some(hold) => matches!(hold.stage, Stage::Barrier),
        };
        if !self.wants_barrier || self.asked_at.is_some() || !may_ask {
            return None;
        }
        self.wants_barrier = false;
        self.asked_at = Some(now);
        self.question += 1;
        let question = self.question;
        self.ahead_asked.extend(std::mem::take(&mut self.ahead).into_iter().map(|id| (id, question)));
        Some(question)
    }

    /// What was asked for may be lost: it is asked for again. Whoever waits may still be answered by it.
    pub(super) fn ask_again(&mut self) {
        self.wants_barrier |= self.asked_at.take().is_some();
    }

    /// The answer to a question has come: the readers that waited for it.
    pub(super) fn take_answered(&mut self, question: u64) -> Vec<ConnId> {
        if question >= self.question {
            self.asked_at = None;
        }
        let mut answered = Vec::new();
        self.ahead_asked.retain(|&id, &mut asked| {
            let waits = asked > question;
            if !waits {
                answered.push(id);
            }
            waits
        });
        answered
    }

    /// Asks again for a marker that does not come.
    pub(super) fn repeat_barrier(&mut self, now: u32) {
        if self.barrier_deadline().is_some_and(|due| due <= now) {
            self.ask_again();
        }
    }

    /// Asks for a marker now and then, once there was one. Whoever has streams has heartbeats, and comes here often enough.
    pub(super) fn refresh(&mut self, now: u32) {
        if self.chain.is_some() && now - self.refreshed_at >= REFRESH_TICKS {
            self.refreshed_at = now;
            self.wants_barrier = true;
        }
    }

    /// When a marker is asked for again.
    pub(super) fn barrier_deadline(&self) -> Option<u32> {
        Some(self.asked_at? + BARRIER_TICKS)
    }

    /// A topic is gone, or is no longer to be waited for.
    pub(super) fn note_gone(&mut self, key: Key) {
        self.unsettled.remove(&key);
        let Some(Hold { stage: Stage::Subscribing(missing), .. }) = &mut self.hold else { return };
        missing.remove(&key);
        if missing.is_empty() {
            self.hold_at(Stage::Barrier);
        }
    }

    /// Begins a hold, or begins it anew: what came so far is covered by the marker that is asked for next.
    pub(super) fn hold_at(&mut self, stage: Stage) {
        self.wants_barrier |= matches!(stage, Stage::Barrier);
        self.hold = Some(Hold { stage, queue: VecDeque::new(), bytes: 0, overrun: false });
    }

    /// Keeps an event for the end of the hold.
    pub(super) fn keep(&mut self, event: Arc<Event>) {
        let Some(hold) = &mut self.hold else { return };
        if matches!(hold.stage, Stage::Subscribing(_) | Stage::Barrier) {
            // It was published before the marker that is to come, and is read.
            return;
        }
        let bytes = hold.bytes + event.weight();
        if hold.overrun || hold.queue.len() >= HELD_EVENTS_MAX || bytes > HELD_BYTES_MAX {
            hold.overrun = true;
            return;
        }
        hold.bytes = bytes;
        hold.queue.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_for_those_who_waited_when_it_was_asked_for() {
        let (early, late) = (ConnId { slot: 1, generation: 1 }, ConnId { slot: 2, generation: 1 });
        let mut partition = Partition::default();
        partition.await_marker(early);
        let first = partition.take_barrier(0).expect("a question");
        // What it has seen elsewhere may lie beyond the marker that is on its way.
        partition.await_marker(late);
        assert_eq!(partition.take_barrier(1), None, "one question at a time");
        partition.repeat_barrier(BARRIER_TICKS);
        let second = partition.take_barrier(BARRIER_TICKS).expect("asked again");
        assert_eq!(partition.take_answered(first), [early]);
        assert!(partition.barrier_deadline().is_some(), "the second is still to be answered");
        assert_eq!(partition.take_answered(second), [late]);
        assert_eq!(partition.barrier_deadline(), None);
    }

    #[test]
    fn an_answer_that_was_lost_is_made_good_by_a_later_one() {
        let early = ConnId { slot: 1, generation: 1 };
        let mut partition = Partition::default();
        partition.await_marker(early);
        partition.take_barrier(0).expect("a question");
        partition.ask_again();
        let second = partition.take_barrier(1).expect("asked again");
        assert_eq!(partition.take_answered(second), [early]);
    }
}
