//! What a shard knows of the history it is fed from, and how it catches up with what it has missed.
//!
//! ```text
//!            source lost, inbox ran over, an event does not follow the one before it, an unknown incarnation
//!   current ────────────────────────────────────────────────────────────────────────────► holding:
//!      ▲                                                                                    Subscribing
//!      │                                                                                        │ all confirmed
//!      │        ┌────────────────── an overrun of what was held, or a new cause ──────────► Barrier
//!      │        │                                                                               │ marker W
//!      └── Releasing ◄── everything up to W is ingested ── Reading (watermark, W] of all topics ◄┘
//! ```
//!
//! What always holds:
//! - the *watermark*: every event of the settled topics up to this number has been ingested, none above it;
//! - events are ingested in the order of their numbers, whether they came alive or were read;
//! - while the shard is holding, events of durable topics that come are kept for later (behind the marker) or dropped
//!   (before it: they are read). Live topics are not held.
//!
//! # Overload
//! What is held is bounded; an overrun drops everything from there on and begins a next round, which starts where this
//! one has got to. What was read and not ingested lies beside the shard's byte budget: a page of each topic, 8 MiB of all
//! together, but at least 1 KiB of each, and one event however large it is. So it grows with the topics: 200,000 of them are
//! 200 MiB, and more where events are larger than that. It is ingested in portions, a sweep after each. One failed test never leads to a second repair for the same event: the next one starts behind it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::engine::conn::{Conn, ConnId, Flags};
use crate::engine::history::{Answer, Answered, Chain, Marker, Read, Verdict};
use crate::engine::pages::Purpose;
use crate::engine::partition::{Hold, Stage};
use crate::engine::past::{Held, Past, TAIL_BYTES_MAX, TAIL_EVENTS_MAX};
use crate::engine::registry::Subscription;
use crate::engine::shard::{Run, Shard};
use crate::engine::slab::Key;
use crate::engine::{CloseReason, Inbound, Ingested, Sink};
use crate::event::{Event, EventId, Stamp, Stored, Tag};
use crate::frame::control::{Control, ResetReason};
use crate::topic::Topic;

/// Topics in one read.
pub(super) const TOPICS_PER_READ: usize = 64;

impl<P> Shard<P> {
    /// A durable topic is confirmed. True exactly when its members need not wait for a marker.
    pub(super) fn note_subscribed(&mut self, key: Key) -> bool {
        let past = self.topics.at(key.slot).past.as_ref();
        if past.is_some_and(|past| past.settled) {
            self.partition.note_gone(key);
            return true;
        }
        self.partition.unsettled.insert(key);
        self.partition.wants_barrier = true;
        false
    }

    /// The source has left: whatever was settled is repaired when it has been confirmed again.
    pub(super) fn hold_until_subscribed(&mut self) {
        self.partition.ask_again();
        self.partition.unsettled.clear();
        let settled: HashSet<Key> = self.topics.settled().into_iter().collect();
        if !settled.is_empty() {
            self.partition.hold_at(Stage::Subscribing(settled));
        } else if self.partition.hold.take().is_some() {
            self.release();
        }
    }

    /// A topic's subscription ended by itself: it is repaired when it has been confirmed again.
    pub(super) fn hold_for_topic(&mut self, key: Key) {
        let is_settled = self.topics.at(key.slot).past.as_ref().is_some_and(|past| past.settled);
        if !is_settled {
            self.partition.unsettled.remove(&key);
            return;
        }
        match &mut self.partition.hold {
            Some(Hold { stage: Stage::Subscribing(missing), .. }) => {
                missing.insert(key);
            }
            _ => {
                self.partition.ask_again();
                self.partition.hold_at(Stage::Subscribing(HashSet::from([key])));
            }
        }
    }

    /// The inbox ran over in this place.
    pub(super) fn hold_after_overrun(&mut self) {
        if planted!("overrun-ignored") {
            return;
        }
        // A marker may be among what was dropped.
        self.partition.ask_again();
        match &mut self.partition.hold {
            Some(Hold { stage: Stage::Reading(_) | Stage::Releasing, overrun, .. }) => *overrun = true,
            Some(_) => {}
            None if self.topics.settled().is_empty() => {}
            None => self.partition.hold_at(Stage::Barrier),
        }
    }

    /// Takes an event of a durable topic.
    pub(super) fn ingest_durable<S: Sink<Port = P>>(&mut self, sink: &mut S, event: Arc<Event>) -> Ingested {
        if self.partition.is_holding() && !planted!("hold-one") {
            self.partition.keep(event);
            return Ingested::Done;
        }
        match self.take_current(sink, event) {
            Ok(()) => Ingested::Done,
            Err(event) => Ingested::Full(Inbound::Event(event)),
        }
    }

    /// Takes an event that comes alive. Gives it back when a sweep must come first.
    pub(super) fn take_current<S: Sink<Port = P>>(
        &mut self,
        sink: &mut S,
        event: Arc<Event>,
    ) -> Result<(), Arc<Event>> {
        let Some(stored) = event.stored else { return Ok(()) };
        let Some(chain) = &self.partition.chain else {
            self.counters.events_unwanted += 1;
            return Ok(());
        };
        if stored.id.tag != chain.tag {
            let is_known_to_be_strange = self.partition.strange == Some(stored.id.tag);
            if is_known_to_be_strange {
                self.counters.events_strange += 1;
            } else if !self.topics.settled().is_empty() {
                self.partition.strange = Some(stored.id.tag);
                self.partition.hold_at(Stage::Barrier);
            }
            return Ok(());
        }
        let wanted = self.live_topic(&event.topic);
        let is_settled = |past: &Past| past.settled || planted!("settled-early");
        let key = wanted.filter(|key| self.topics.at(key.slot).past.as_ref().is_some_and(|past| is_settled(past)));
        let watermark = self.partition.watermark;
        let Some(key) = key else {
            // It comes in the order of all numbers, so whatever else has a lower one was ingested: nothing is held. Its own
            // topic has no readers yet, or these wait for a marker that comes later.
            self.partition.watermark = watermark.max(stored.id.stamp);
            self.counters.events_unwanted += 1;
            return Ok(());
        };
        let past = self.topics.at(key.slot).past.as_ref().expect("it is durable");
        if !past.held.is_followed_by(stored.prev, watermark) && !planted!("no-prev") {
            self.partition.hold_at(Stage::Barrier);
            return Ok(());
        }
        self.append_durable(sink, key, event, stored)
    }

    /// Appends the next event of all. Gives it back when a sweep must come first.
    pub(super) fn append_durable<S: Sink<Port = P>>(
        &mut self,
        sink: &mut S,
        key: Key,
        event: Arc<Event>,
        stored: Stored,
    ) -> Result<(), Arc<Event>> {
        if !self.make_room(sink, key, &event) {
            return Err(event);
        }
        if !(planted!("drop") && stored.id.stamp.ms.is_multiple_of(7)) {
            self.append(key, event);
        }
        if let Some(past) = &mut self.topics.at(key.slot).past {
            past.note(stored);
        }
        self.partition.watermark = stored.id.stamp;
        Ok(())
    }

    /// Takes a place in the history. False when a sweep must come first.
    pub(super) fn handle_marker<S: Sink<Port = P>>(&mut self, sink: &mut S, question: u64, marker: &Marker) -> bool {
        let is_held = match &self.partition.hold {
            None => false,
            Some(Hold { stage: Stage::Barrier, .. }) => true,
            // What is being done does not need it; who waits for it is answered behind that.
            Some(_) => {
                if question >= self.partition.question {
                    self.partition.ask_again();
                }
                return true;
            }
        };
        let is_other = self.partition.chain.as_ref().is_none_or(|chain| *chain != marker.chain)
            || marker.last < self.partition.watermark;
        if (is_held || is_other) && !self.come_to_a_stand() {
            return false;
        }
        let answered = self.partition.take_answered(question);
        if is_other {
            self.take_chain(sink, marker);
        } else {
            self.partition.chain = Some(Arc::clone(&marker.chain));
            self.tell_losses(sink);
        }
        if self.partition.strange.is_some_and(|tag| marker.chain.knows(tag)) {
            self.partition.strange = None;
        }
        let behind = if is_held || is_other { self.topics.settled() } else { Vec::new() };
        if !behind.is_empty() {
            self.begin_catching_up(behind, marker.last);
        } else {
            self.partition.hold = None;
            self.partition.watermark = marker.last;
        }
        self.settle_topics(marker.last);
        for id in answered {
            if let Some(place) = self.places.get_mut(&id.slot).filter(|_| self.conns.get(id).is_some()) {
                place.tried = true;
                self.enqueue(id);
            }
        }
        if !self.partition.is_holding() {
            self.release();
        }
        true
    }

    /// Before logs are dropped, or something is told between two events: every ready reader was offered what there
    /// is, and whoever waits for its own turn has its place noted, as one that is blocked has. False when a sweep must
    /// come first. Not chosen: to wait until nobody is to be served. Readers that replay are until they have ended.
    pub(super) fn come_to_a_stand(&mut self) -> bool {
        if self.dirty > 0 {
            return false;
        }
        let waiting: Vec<ConnId> = self.run.iter().filter_map(Run::reader).collect();
        waiting.into_iter().for_each(|id| self.keep_place(id));
        true
    }

    /// Confirmed topics are fed from here on.
    fn settle_topics(&mut self, upto: Stamp) {
        let mut settled = Vec::new();
        for key in std::mem::take(&mut self.partition.unsettled) {
            let Some(topic) = self.topics.get(key).filter(|topic| topic.subscription == Subscription::Live) else {
                continue;
            };
            let Some(past) = topic.past.as_mut().filter(|past| !past.settled) else { continue };
            past.settle(upto);
            settled.push(key);
            self.stop_waiting(key);
        }
        for keys in settled.chunks(TOPICS_PER_READ) {
            let topics = keys.iter().map(|key| self.topics.at(key.slot).name.clone()).collect();
            let read = Read::Tail { topics, upto, events_max: TAIL_EVENTS_MAX, bytes_max: TAIL_BYTES_MAX };
            self.partition.pages.ask(Purpose::Tails(upto, keys.to_vec()), read, upto);
        }
    }

    /// The hold has ended: whoever waited for that is served.
    pub(super) fn release(&mut self) {
        for id in std::mem::take(&mut self.partition.held_back) {
            self.enqueue_if_open(id);
        }
        self.partition.wants_barrier |= !self.partition.unsettled.is_empty() || !self.partition.ahead.is_empty();
    }

    fn enqueue_if_open(&mut self, id: ConnId) {
        if self.conns.get(id).is_some() {
            self.enqueue(id);
        }
    }

    /// The history is another than it was, or fell back.
    fn take_chain<S: Sink<Port = P>>(&mut self, sink: &mut S, marker: &Marker) {
        let before = self.partition.chain.replace(Arc::clone(&marker.chain));
        let Some(before) = before else {
            self.partition.watermark = marker.last;
            return;
        };
        let here = EventId { stamp: self.partition.watermark, tag: before.tag };
        if before.tag != marker.chain.tag {
            self.note_crossing(before.tag);
            // Pages may hold what lies beyond the fence, and beyond the watermark when they were read.
            self.partition.pages.begin_era();
        }
        if planted!("fence-ignored") {
            return;
        }
        match marker.chain.judge(here, marker.last) {
            Verdict::Honoured => self.forget_beyond(marker, before.tag),
            Verdict::Diverged(fence) => {
                if before.tag != marker.chain.tag {
                    self.partition.lossy = Some(before.tag);
                }
                self.fall_back(sink, fence, ResetReason::Diverged);
            }
            Verdict::Unknown => {
                let here = EventId { stamp: marker.last, tag: marker.chain.tag };
                self.fall_back(sink, here, ResetReason::Epoch);
            }
        }
        self.tell_losses(sink);
    }

    /// Topics that were settled in a repair which did not end may have been read further than the shard has got.
    fn forget_beyond(&mut self, marker: &Marker, before: Tag) {
        let furthest = EventId { stamp: Stamp::MAX, tag: before };
        let Verdict::Diverged(fence) = marker.chain.judge(furthest, marker.last) else { return };
        for key in self.topics.settled() {
            let past = self.topics.at(key.slot).past.as_mut().expect("it is settled");
            if past.held.upto > fence.stamp {
                past.begin_at(fence.stamp);
            }
        }
    }

    /// What the shard holds beyond `to` is no longer part of the history.
    fn fall_back<S: Sink<Port = P>>(&mut self, sink: &mut S, to: EventId, reason: ResetReason) {
        debug_assert!(self.dirty == 0, "everybody was offered what there was");
        let is_beyond = |held: Held| reason == ResetReason::Epoch || held.exact && held.upto > to.stamp;
        // What comes now is numbered from there on, and for everybody.
        self.told.values_mut().for_each(|at| *at = to.stamp.min(*at));
        let ready = self.ready_durable();
        let told: Vec<ConnId> = ready.iter().copied().filter(|&id| self.holds(id, is_beyond)).collect();
        self.seq += 1;
        let seq = self.seq;
        for key in self.topics.settled() {
            let topic = self.topics.at(key.slot);
            self.logged -= topic.log.len();
            let past = topic.past.as_mut().expect("it is settled");
            if past.held.exact && !is_beyond(past.held) {
                past.begin_after(past.held.upto);
            } else {
                past.begin_at(to.stamp);
            }
            self.topics.drop_log(key.slot, seq);
        }
        self.partition.watermark = to.stamp;
        self.partition.pages.begin_era();
        for &id in &ready {
            self.conns.at(id.slot).expect("just found").cursor = seq;
        }
        for id in told {
            let topics = self.durable_topics(id);
            self.tell(sink, id, reason, &topics, to);
        }
    }

    /// Streams with durable topics that were handed everything there is.
    fn ready_durable(&self) -> Vec<ConnId> {
        let ids = (0..self.conns.slots()).filter_map(|slot| self.conns.key_at(slot));
        let is_ready =
            |id: &ConnId| self.conns.get(*id).is_some_and(|conn| conn.flags.has(Flags::DURABLE) && conn.is_ready());
        ids.filter(is_ready).collect()
    }

    /// True exactly when the stream follows a durable topic of which that holds.
    fn holds(&mut self, id: ConnId, wanted: impl Fn(Held) -> bool) -> bool {
        let only = self.conns.get(id).expect("the caller has it").sub.topic;
        let topics = &mut self.topics;
        let mut holds = |topic: u32| topics.at(topic).past.as_ref().is_some_and(|past| wanted(past.held));
        match self.many.get(&id.slot) {
            None => holds(only),
            Some(many) => many.iter().any(|(topic, sub)| !sub.joining && holds(topic)),
        }
    }

    /// Tells a stream that was handed everything there is of a loss in this place.
    fn tell<S: Sink<Port = P>>(
        &mut self,
        sink: &mut S,
        id: ConnId,
        reason: ResetReason,
        topics: &[Topic],
        at: EventId,
    ) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(bytes) = Control::reset(reason, topics.iter(), Some(at)).bytes(conn.form) else {
            return self.dismiss(sink, id, CloseReason::Lost);
        };
        self.count_reset(reason);
        if reason != ResetReason::Trimmed {
            self.crossed.remove(&id.slot);
            if at.tag != self.partition.chain().tag {
                self.crossed.insert(id.slot, at.tag);
            }
        }
        self.say(sink, id, &bytes);
        if let Some(place) = self.places.get_mut(&id.slot) {
            place.at = at;
        }
    }

    /// Takes the news that an incarnation has lost something that was seen. False when a sweep must come first.
    pub(super) fn handle_chain<S: Sink<Port = P>>(&mut self, sink: &mut S, chain: &Chain) -> bool {
        let Some(known) = &self.partition.chain else { return true };
        let mut next = Chain::clone(known);
        let mut is_other = false;
        for told in chain.fences.iter().filter(|told| told.lossy) {
            match next.fences.iter_mut().find(|fence| (fence.tag, fence.last) == (told.tag, told.last)) {
                Some(fence) => fence.lossy = true,
                None => is_other = true,
            }
        }
        // Of fences this shard has not heard of it learns with a marker.
        self.partition.wants_barrier |= is_other;
        if next == **known {
            return true;
        }
        if !self.come_to_a_stand() {
            return false;
        }
        self.partition.chain = Some(Arc::new(next));
        self.tell_losses(sink);
        true
    }

    /// The shard goes on to an event of incarnation `to`: if events are known to be lost on the way its streams are
    /// told there. False when a sweep must come first.
    pub(super) fn pass_losses<S: Sink<Port = P>>(&mut self, sink: &mut S, to: Tag) -> bool {
        let chain = self.partition.chain();
        let from = chain.id_of(self.partition.watermark).tag;
        let Some(lost) = chain.loss_between(from, to) else { return true };
        if !self.come_to_a_stand() {
            return false;
        }
        self.partition.watermark = lost.stamp.max(self.partition.watermark);
        self.tell_losses(sink);
        true
    }

    /// Tells the streams that have passed a place at which events are known to be lost, and were not told.
    fn tell_losses<S: Sink<Port = P>>(&mut self, sink: &mut S) {
        let chain = self.partition.chain();
        let here = self.partition.position();
        let crossed: Vec<(u32, Tag)> = self.crossed.iter().map(|(&slot, &tag)| (slot, tag)).collect();
        for (slot, tag) in crossed {
            let Some(id) = self.conns.key_at(slot) else { continue };
            if chain.loss_between(tag, chain.tag).is_none() {
                continue;
            }
            if let Some(place) = self.places.get_mut(&slot) {
                // It is told when it is served: on its way, or where it stands if it has passed there.
                place.lost |= chain.loss_between(place.at.tag, chain.tag).is_none();
            } else if chain.loss_between(tag, here.tag).is_some() && self.conns.get(id).is_some_and(Conn::is_ready) {
                let topics = self.durable_topics(id);
                self.tell(sink, id, ResetReason::Diverged, &topics, here);
            }
        }
    }

    /// The current incarnation is another: open streams that go on have passed from one into the other.
    fn note_crossing(&mut self, from: Tag) {
        for slot in 0..self.conns.slots() {
            let Some(id) = self.conns.key_at(slot) else { continue };
            let flags = self.conns.get(id).expect("just found").flags;
            if flags.has(Flags::DURABLE) && flags.has(Flags::OPENED) {
                self.crossed.entry(slot).or_insert(from);
            }
        }
    }

    /// Takes what was read of the past.
    pub fn handle_answer(&mut self, answered: Answered) {
        let Some(asked) = self.partition.pages.handle_answer(answered.number) else { return };
        let mut is_current = self.partition.pages.is_current(asked.era);
        let marker = &answered.marker;
        if is_current && !(self.partition.chain().is_as(&marker.chain) && asked.upto <= marker.last) {
            // The history has changed, and this shard has yet to hear of it.
            is_current = false;
            // A hold that waits for something learns of it with its marker, and not before all topics are confirmed.
            let begins = match &self.partition.hold {
                None => true,
                Some(Hold { stage: Stage::Reading(catch_up), .. }) => {
                    matches!(asked.purpose, Purpose::Repair(number, _) if number == catch_up.number)
                }
                Some(_) => false,
            };
            if begins {
                self.partition.hold_at(Stage::Barrier);
            }
        }
        if matches!(asked.purpose, Purpose::Tails(..)) {
            for id in std::mem::take(&mut self.partition.behind_tails) {
                self.enqueue_if_open(id);
            }
        }
        match (asked.purpose, answered.answer) {
            (Purpose::Pages(wanted), Answer::Pages(pages)) => {
                for ((topic, after), page) in wanted.into_iter().zip(pages) {
                    debug_assert_eq!(topic, page.topic);
                    let readers = if is_current && self.topics.find(&topic).is_some() {
                        self.partition.pages.keep(page, after, asked.upto, &self.budget)
                    } else {
                        self.partition.pages.stop_waiting(&topic, after)
                    };
                    readers.into_iter().for_each(|id| self.handle_arrival(id, is_current));
                }
            }
            (Purpose::Tails(upto, keys), Answer::Pages(pages)) if is_current => self.take_tails(upto, keys, pages),
            (Purpose::Tails(_, keys), _) => self.give_up_tails(keys),
            (Purpose::Start(id), Answer::Start(start)) => self.handle_start(id, is_current.then_some(start)),
            (Purpose::Repair(number, indices), Answer::Pages(pages)) if is_current => {
                self.take_missed(number, indices, pages);
            }
            _ => {}
        }
    }

    /// Events of a topic up to `last` are no longer retained, and its streams have not seen them. `place` lies before
    /// everything they have yet to be handed.
    pub(super) fn tell_trimmed<S: Sink<Port = P>>(&mut self, sink: &mut S, key: Key, last: Stamp, place: Stamp) {
        debug_assert!(self.dirty == 0, "everybody was offered what came before");
        let ready: Vec<ConnId> = {
            let members: Vec<u32> = self.topics.at(key.slot).members.iter().collect();
            let ids = members.into_iter().filter_map(|slot| self.conns.key_at(slot));
            ids.filter(|&id| self.conns.get(id).is_some_and(Conn::is_ready)).collect()
        };
        self.seq += 1;
        let seq = self.seq;
        let topic = self.topics.at(key.slot);
        let name = topic.name.clone();
        self.logged -= topic.log.len();
        if let Some(past) = &mut topic.past {
            past.begin_after(last);
        }
        self.topics.drop_log(key.slot, seq);
        self.partition.watermark = place.max(self.partition.watermark);
        let at = self.partition.position();
        for &id in &ready {
            self.conns.at(id.slot).expect("just found").cursor = seq;
        }
        for id in ready {
            self.tell(sink, id, ResetReason::Trimmed, std::slice::from_ref(&name), at);
        }
    }
}
