//! How a stream with durable topics begins, when all of them are confirmed.
//!
//! ```text
//!   from now on, or from nothing of ours ──► open, with the shard's position ──► live
//!   after an id ── beyond the shard? ──► a marker first ──┐
//!               └─ within ────────────────────────────────┴──► replaying, open with that id if it is good
//!   the newest N ── a marker first ──┐
//!   the oldest ──────────────────────┴── where is that? ──► replaying, open when it is known whether anything follows
//! ```
//!
//! While the shard is holding everybody waits: what a position is worth cannot be said before the marker.

use crate::engine::conn::{ConnId, Place};
use crate::engine::history::{Position, Read, Verdict};
use crate::engine::pages::Purpose;
use crate::engine::shard::Shard;
use crate::engine::{CloseReason, Sink};
use crate::event::Stamp;
use crate::frame::control::{Control, ResetReason};

impl<P> Shard<P> {
    /// Decides how a stream that is not open yet begins. True exactly when it is replaying now.
    pub(super) fn begin_reading<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, place: Place) -> bool {
        if place.awaited > 0 {
            return false;
        }
        if self.partition.is_holding() {
            self.partition.await_release(id);
            return false;
        }
        let chain = self.partition.chain();
        let upto = self.partition.watermark();
        let (at, fresh) = match place.wants {
            Position::Now => {
                self.open_live(sink, id, None);
                return false;
            }
            Position::Unknown => {
                self.open_live(sink, id, Some(ResetReason::UnknownCursor));
                return false;
            }
            // It may have been ahead of this shard: another node heard of it first.
            Position::After(at) if planted!("join-ahead") && at.stamp > upto => {
                self.open_live(sink, id, None);
                return false;
            }
            Position::After(at) if !place.tried && chain.judge(at, upto) != Verdict::Honoured => {
                self.partition.await_marker(id);
                return false;
            }
            // The newest are the newest of the history, not of a shard that may be behind.
            Position::Last(_) if !place.tried => {
                self.partition.await_marker(id);
                return false;
            }
            Position::After(_) | Position::Earliest | Position::Last(_) if self.awaits_tail(id) => {
                self.partition.await_tails(id);
                return false;
            }
            Position::After(at) => (at, false),
            Position::Earliest => (chain.id_of(Stamp::ZERO), true),
            Position::Last(count) => match self.newest_start(id, count as usize) {
                Some(start) => (chain.id_of(start), true),
                None => {
                    self.ask_start(id, count as usize);
                    return false;
                }
            },
        };
        self.set_place(id, |place| (place.at, place.fresh) = (at, fresh));
        self.begin_replay(id);
        true
    }

    fn awaits_tail(&mut self, id: ConnId) -> bool {
        let slots = self.durable_slots(id);
        slots.into_iter().any(|slot| self.topics.at(slot).past.as_ref().is_some_and(|past| past.awaits_tail()))
    }

    /// Opens a stream that wants nothing of the past.
    fn open_live<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, reset: Option<ResetReason>) {
        self.places.remove(&id.slot);
        if reset.is_some() && !self.can_be_told(id) {
            return self.dismiss(sink, id, CloseReason::Lost);
        }
        let here = self.partition.position();
        let mut out = Vec::new();
        self.put_open(id, false, reset.is_none().then_some(here), &mut out);
        if let Some(reason) = reset {
            let block = Control::reset(reason, self.durable_topics(id).iter(), Some(here));
            let form = self.conns.get(id).expect("the caller has it").form;
            out.extend(block.bytes(form).into_iter().flatten());
            self.count_reset(reason);
        }
        self.say(sink, id, &out);
    }

    /// After which number the newest `count` events of a stream's topics come, if its shard holds so many.
    fn newest_start(&mut self, id: ConnId, count: usize) -> Option<Stamp> {
        let mut newest: Vec<Stamp> = Vec::new();
        let mut floor = Stamp::ZERO;
        for slot in self.durable_slots(id) {
            let topic = self.topics.at(slot);
            let past = topic.past.as_ref().expect("it is durable");
            floor = floor.max(past.floor());
            let len = past.len(&topic.log);
            let stamps = (len.saturating_sub(count)..len).filter_map(|at| past.stored(&topic.log, at));
            newest.extend(stamps.map(|stored| stored.id.stamp));
        }
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let count = if planted!("last-by-one") { count - 1 } else { count };
        let start = newest.get(count.checked_sub(1)?)?.before();
        (floor <= start).then_some(start)
    }

    fn ask_start(&mut self, id: ConnId, count: usize) {
        let upto = self.partition.watermark();
        let topics = self.durable_topics(id);
        self.set_place(id, |place| place.awaited = 1);
        self.partition.pages.ask(Purpose::Start(id), Read::Start { topics, upto, count }, upto);
    }

    /// The start of a stream that wants the newest events was read.
    pub(super) fn handle_start(&mut self, id: ConnId, start: Option<Stamp>) {
        if self.conns.get(id).is_none() {
            return;
        }
        let at = start.map(|start| self.partition.chain().id_of(start));
        self.set_place(id, |place| place.awaited = 0);
        if let Some(at) = at.filter(|_| !self.partition.is_holding()) {
            self.set_place(id, |place| (place.at, place.fresh) = (at, true));
            self.begin_replay(id);
        }
        self.enqueue(id);
    }
}
