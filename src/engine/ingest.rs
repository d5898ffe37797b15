//! The way in: what a source says becomes log entries, debts and subscription states.
//!
//! Messages are taken in order. One that cannot be taken yet is given back ([`Ingested::Full`]) and
//! must be offered again, before any later one, when a slice has been swept: because its log is
//! full of events that ready readers were not offered, or because it tells a loss, which belongs
//! behind the events that came before it. (A reader that is blocked, or stands in the run queue by
//! itself, is told before what it has yet to catch up with; but always before what follows the loss.)

use std::rc::Rc;
use std::sync::Arc;

use crate::engine::conn::{ConnId, Flags, Many, Owes};
use crate::engine::past::Past;
use crate::engine::registry::{Registry, Subscription};
use crate::engine::shard::{Run, Shard};
use crate::engine::slab::Key;
use crate::engine::{CloseReason, Inbound, Sink, Wish};
use crate::event::Event;
use crate::frame::{FRAME_OVERHEAD, Frame};
use crate::topic::Topic;

/// What became of a message.
#[derive(Debug)]
#[must_use]
pub enum Ingested {
    /// It was taken.
    Done,
    /// It was not: sweep, then offer it again.
    Full(Inbound),
}

impl<P> Shard<P> {
    /// Takes what a source says.
    pub fn ingest<S: Sink<Port = P>>(&mut self, sink: &mut S, message: Inbound) -> Ingested {
        let message = match message {
            Inbound::Event(event) if event.stored.is_some() => return self.ingest_durable(sink, event),
            Inbound::Event(event) => return self.ingest_live(sink, event),
            other => other,
        };
        let waits_for_sweep = match &message {
            Inbound::Marker(question, marker) => !self.handle_marker(sink, *question, marker),
            Inbound::Chain(chain) => !self.handle_chain(sink, chain),
            Inbound::TooLarge(topic) | Inbound::Unsubscribed(topic) | Inbound::Refused(topic) => self.is_dirty(topic),
            Inbound::Disconnected => self.dirty > 0,
            _ => false,
        };
        if waits_for_sweep {
            return Ingested::Full(message);
        }
        match message {
            Inbound::TooLarge(topic) => self.tell_topic(&topic, Owes::TOO_LARGE),
            Inbound::Connected(generation) => self.handle_connected(generation),
            Inbound::Disconnected => self.handle_disconnected(),
            Inbound::Subscribed(topic) => self.handle_subscribed(&topic),
            Inbound::Unsubscribed(topic) => self.handle_unsubscribed(&topic),
            Inbound::Refused(topic) => self.handle_refused(&topic),
            Inbound::Event(_) | Inbound::Marker(..) | Inbound::Chain(_) => {}
        }
        Ingested::Done
    }

    /// Takes a gap mark: what the source said was lost in this place. False when a sweep must come first.
    #[must_use]
    pub fn ingest_gap(&mut self) -> bool {
        if self.dirty > 0 {
            return false;
        }
        for slot in 0..self.conns.slots() {
            if let Some(id) = self.conns.key_at(slot)
                && self.owe_gap(id)
            {
                self.enqueue(id);
            }
        }
        self.hold_after_overrun();
        if !self.source_connected {
            return true;
        }
        // Confirmations may have been among the lost: what is not settled is asked for again, instead
        // of what was asked before.
        self.wishes = vec![Wish::Renew(self.source_generation)];
        for key in self.topics.keys().collect::<Vec<_>>() {
            let topic = self.topics.at(key.slot);
            match topic.subscription {
                Subscription::Subscribing => self.wishes.push(Wish::Subscribe(topic.name.clone())),
                Subscription::Unsubscribing => self.wishes.push(Wish::Unsubscribe(topic.name.clone())),
                Subscription::Live | Subscription::Refused => {}
            }
        }
        true
    }

    /// Takes an event of a topic without a history.
    fn ingest_live<S: Sink<Port = P>>(&mut self, sink: &mut S, event: Arc<Event>) -> Ingested {
        let Some(key) = self.live_topic(&event.topic) else {
            self.counters.events_unwanted += 1;
            return Ingested::Done;
        };
        if !self.make_room(sink, key, &event) {
            return Ingested::Full(Inbound::Event(event));
        }
        self.append(key, event);
        Ingested::Done
    }

    /// Makes room for an event of a topic that is followed. False when a sweep must come first.
    pub(super) fn make_room<S: Sink<Port = P>>(&mut self, sink: &mut S, key: Key, event: &Event) -> bool {
        let charge = FRAME_OVERHEAD + event.weight();
        let topic = self.topics.at(key.slot);
        let surplus = topic.log.surplus(topic.class.log, charge);
        if surplus > 0 {
            let newest = topic.log.entry(surplus - 1).expect("the surplus is in the log").seq;
            if !topic.may_evict(newest, self.readers.served) {
                self.counters.log_full += 1;
                return false;
            }
            for _ in 0..surplus {
                self.evict(key);
            }
        }
        while self.budget.used() + charge > self.limits.log_bytes_max {
            if self.free_past() {
                continue;
            }
            if !self.free_oldest(sink) {
                return false;
            }
            if self.logged == 0 && self.remainders.is_empty() {
                break;
            }
        }
        true
    }

    /// Frees the oldest event of the shard: out of its log, or, when it has left its log already,
    /// with the reader that still holds the rest of it. False when a ready reader was not offered it yet.
    fn free_oldest<S: Sink<Port = P>>(&mut self, sink: &mut S) -> bool {
        while let Some(&(seq, key)) = self.order.front() {
            let topic = self.topics.get(key);
            let Some(topic) = topic.filter(|topic| topic.log.oldest().is_some_and(|oldest| oldest.seq == seq)) else {
                self.order.pop_front();
                continue;
            };
            if self.remainders.first().is_some_and(|(held, _)| *held < seq) {
                break;
            }
            if !topic.may_evict(seq, self.readers.served) {
                self.counters.log_full += 1;
                return false;
            }
            self.order.pop_front();
            self.evict(key);
            return true;
        }
        if let Some(&(_, slot)) = self.remainders.first() {
            let id = self.conns.key_at(slot).expect("remainders belong to connections");
            self.close(sink, id, CloseReason::Budget);
        }
        true
    }

    fn evict(&mut self, key: Key) {
        let topic = self.topics.at(key.slot);
        if let Some(entry) = topic.log.evict_oldest() {
            if let (Some(past), Some(stored)) = (&mut topic.past, entry.frame.stored()) {
                past.raise_floor(if planted!("trim-by-one") { stored.prev } else { stored.id.stamp });
            }
            self.logged -= 1;
            self.counters.evictions += 1;
        }
    }

    pub(super) fn append(&mut self, key: Key, event: Arc<Event>) {
        self.counters.events += 1;
        self.seq += 1;
        let frame = Rc::new(Frame::new(event, &self.budget));
        let topic = self.topics.push(key.slot, self.seq, frame);
        if !topic.queued {
            topic.queued = true;
            self.dirty += 1;
            self.run.push_back(Run::Walk(key, 0));
        }
        self.logged += 1;
        self.order.push_back((self.seq, key));
        if self.order.len() > 2 * self.logged + 1_024 {
            self.compact_order();
        }
    }

    /// Drops from `order` what has left the logs by their own limits.
    fn compact_order(&mut self) {
        let topics = &mut self.topics;
        self.order.retain(|&(seq, key)| {
            topics.get(key).and_then(|topic| topic.log.oldest()).is_some_and(|oldest| oldest.seq <= seq)
        });
        self.order.shrink_to(2 * self.order.len());
    }

    pub(super) fn live_topic(&mut self, name: &Topic) -> Option<Key> {
        let key = self.topics.find(name)?;
        (self.topics.at(key.slot).subscription == Subscription::Live).then_some(key)
    }

    fn is_dirty(&mut self, name: &Topic) -> bool {
        let key = self.topics.find(name);
        key.is_some_and(|key| self.topics.at(key.slot).queued)
    }

    /// A new connection to the source: everything is asked for again.
    fn handle_connected(&mut self, generation: u32) {
        self.source_connected = true;
        self.source_generation = generation;
        let subscriptions = self.topics.keys().collect::<Vec<_>>().into_iter().map(|key| {
            let topic = self.topics.at(key.slot);
            debug_assert_ne!(topic.subscription, Subscription::Live);
            Wish::Subscribe(topic.name.clone())
        });
        self.wishes = std::iter::once(Wish::Renew(generation)).chain(subscriptions).collect();
    }

    /// Until its topics are confirmed again no stream is sent anything; then it is told of the gap first.
    fn handle_disconnected(&mut self) {
        self.source_connected = false;
        self.wishes.clear();
        for key in self.topics.keys().collect::<Vec<_>>() {
            let topic = self.topics.at(key.slot);
            match topic.subscription {
                Subscription::Unsubscribing => self.forget(key),
                _ => topic.subscription = Subscription::Subscribing,
            }
        }
        self.hold_until_subscribed();
        for slot in 0..self.conns.slots() {
            let Some(id) = self.conns.key_at(slot) else { continue };
            let is_open = self.conns.get(id).is_some_and(|conn| conn.flags.has(Flags::OPENED));
            self.join_into_gap(slot);
            // What a durable topic misses is repaired before anything of it is handed on.
            let topics = if is_open { self.live_topics(id) } else { self.many.get(&slot).map_or(1, Many::count) };
            if is_open && topics > 0 {
                self.keep_place(id);
            }
            let conn = self.conns.at(slot).expect("just found");
            if !conn.owes.has(Owes::UNAVAILABLE) {
                conn.waiting = u8::try_from(topics).expect("bounded by TOPICS_PER_STREAM_MAX");
            }
            self.owe_gap(id);
        }
    }

    /// The stream's topics that have no history.
    fn live_topics(&mut self, id: ConnId) -> usize {
        let is_live = |topics: &mut Registry, slot: u32| topics.at(slot).past.is_none();
        match self.many.get(&id.slot) {
            None => {
                let topic = self.conns.get(id).expect("the caller has it").sub.topic;
                usize::from(is_live(&mut self.topics, topic))
            }
            Some(many) => many.iter().filter(|(topic, _)| is_live(&mut self.topics, *topic)).count(),
        }
    }

    /// A subscription took effect: streams that waited for nothing else are opened, or go on.
    pub fn handle_subscribed(&mut self, name: &Topic) {
        let Some(key) = self.topics.find(name) else { return };
        let topic = self.topics.at(key.slot);
        if topic.subscription != Subscription::Subscribing {
            return;
        }
        topic.subscription = Subscription::Live;
        if topic.past.is_some() && !self.note_subscribed(key) {
            return;
        }
        self.stop_waiting(key);
    }

    /// A topic's events are for its members from here on.
    pub(super) fn stop_waiting(&mut self, key: Key) {
        let topic = self.topics.at(key.slot);
        let is_durable = topic.past.is_some();
        for slot in topic.members.iter().collect::<Vec<_>>() {
            if self.note_joined(slot, key.slot) {
                continue;
            }
            let id = self.conns.key_at(slot).expect("members exist");
            let conn = self.conns.at(slot).expect("members exist");
            // An open stream does not wait for a durable topic.
            if conn.owes.has(Owes::UNAVAILABLE) || is_durable && conn.flags.has(Flags::OPENED) {
                continue;
            }
            conn.waiting -= 1;
            if conn.waiting == 0 {
                self.enqueue(id);
            }
        }
    }

    /// A subscription ended: the topic is forgotten, unless somebody came back meanwhile.
    pub fn handle_unsubscribed(&mut self, name: &Topic) {
        let Some(key) = self.topics.find(name) else { return };
        match self.topics.at(key.slot).subscription {
            Subscription::Unsubscribing => self.forget(key),
            Subscription::Live => self.handle_hole(key),
            Subscription::Subscribing | Subscription::Refused => {}
        }
    }

    /// A live topic's subscription ended. A topic that was asked for twice, because a gap or a new
    /// connection came between, is confirmed twice; when it was cancelled and asked for again before
    /// the second confirmation, that one came too early: the hole begins here.
    fn handle_hole(&mut self, key: Key) {
        let topic = self.topics.at(key.slot);
        let was_ready = topic.is_ready();
        topic.subscription = Subscription::Subscribing;
        let (name, is_durable) = (topic.name.clone(), topic.past.is_some());
        for slot in topic.members.iter().collect::<Vec<_>>() {
            let id = self.conns.key_at(slot).expect("members exist");
            if is_durable {
                let conn = self.conns.at(slot).expect("members exist");
                let counts = was_ready && !conn.flags.has(Flags::OPENED) && !conn.owes.has(Owes::UNAVAILABLE);
                conn.waiting += u8::from(counts);
                continue;
            }
            self.keep_place(id);
            let conn = self.conns.at(slot).expect("members exist");
            if !conn.owes.has(Owes::UNAVAILABLE) {
                conn.waiting += 1;
            }
            self.owe_gap(id);
        }
        if is_durable {
            self.hold_for_topic(key);
        }
        self.wish_subscribe(name);
    }

    fn handle_refused(&mut self, name: &Topic) {
        let Some(key) = self.topics.find(name) else { return };
        self.note_refusal();
        let topic = self.topics.at(key.slot);
        topic.subscription = Subscription::Refused;
        if topic.members.is_empty() {
            return self.forget(key);
        }
        let is_durable = topic.past.is_some();
        let members: Vec<u32> = topic.members.iter().collect();
        let (joining, others): (Vec<u32>, Vec<u32>) =
            members.into_iter().partition(|&slot| self.is_joining(slot, key.slot));
        for slot in others {
            let id = self.conns.key_at(slot).expect("members exist");
            let conn = self.conns.at(slot).expect("members exist");
            conn.waiting = 0;
            conn.owes.add(Owes::UNAVAILABLE);
            self.enqueue(id);
        }
        // Members that are blocked stay for a while; nobody must wait for their topic meanwhile.
        if is_durable {
            self.drop_kept(key);
        }
        // The last of them takes the topic with it.
        joining.into_iter().for_each(|slot| self.refuse_joining(slot, key.slot));
    }

    /// Nothing more comes of a topic for now: what is kept of it is dropped, and nobody waits for it.
    pub(super) fn drop_kept(&mut self, key: Key) {
        let seq = self.seq;
        let topic = self.topics.at(key.slot);
        self.logged -= topic.log.len();
        if let Some(past) = &mut topic.past
            && !planted!("kept-log")
        {
            **past = Past::default();
        }
        self.partition.pages.forget_topic(&topic.name);
        self.topics.drop_log(key.slot, seq);
        self.partition.note_gone(key);
    }

    /// Streams of this topic are told before their next event.
    fn tell_topic(&mut self, name: &Topic, debt: Owes) {
        let Some(key) = self.live_topic(name) else { return };
        if self.topics.at(key.slot).past.is_some() {
            // It was no event of the history.
            return;
        }
        for slot in self.topics.at(key.slot).members.iter().collect::<Vec<_>>() {
            let id = self.conns.key_at(slot).expect("members exist");
            let conn = self.conns.at(slot).expect("members exist");
            if !conn.flags.has(Flags::OPENED) {
                continue;
            }
            conn.owes.add(debt);
            if let Some(sub) = self.many.get_mut(&slot).and_then(|many| many.get_mut(key.slot)) {
                sub.owes.add(debt);
            }
            self.enqueue(id);
        }
    }

    /// An open stream is told of a gap in all its live topics before its next event. True exactly when it is open
    /// and has some.
    fn owe_gap(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.at(id.slot).filter(|conn| conn.flags.has(Flags::OPENED)) else {
            return false;
        };
        let topics = &mut self.topics;
        let owing = match self.many.get_mut(&id.slot) {
            None => topics.at(conn.sub.topic).past.is_none(),
            Some(many) => {
                let live = many.iter_mut().filter(|(topic, sub)| !sub.joining && topics.at(*topic).past.is_none());
                live.map(|(_, sub)| sub.owes.add(Owes::GAP)).count() > 0
            }
        };
        if owing {
            conn.owes.add(Owes::GAP);
        }
        owing
    }
}
