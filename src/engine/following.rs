//! Topics that an open stream follows from now on, or no more: only a WebSocket's client can ask for that.
//!
//! What always holds: of a topic that is added nothing comes that was there before, and everything from its confirmation
//! on, which [`Shard::take_joined`] tells; in `seq` order with the others, so ids only grow. A stream that is blocked,
//! replaying or waiting is not settled, and its client is not heard until it is.

use crate::engine::conn::{Conn, ConnId, Flags, Many, Place, Sub};
use crate::engine::shard::Shard;
use crate::event::EventId;
use crate::frame::WireForm;
use crate::topic::Topic;

/// Why topics are not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFollowed {
    /// The stream would have too many.
    TooMany,
    /// The shard has as many as it may.
    Full,
}

/// What became of a topic that was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// By whom.
    pub id: ConnId,
    /// Which.
    pub topic: Topic,
    /// False when the source refuses it: it is not followed.
    pub is_allowed: bool,
}

impl<P> Shard<P> {
    /// How a stream wants its events; `None` when it is gone.
    #[must_use]
    pub fn form(&self, id: ConnId) -> Option<WireForm> {
        self.conns.get(id).map(|conn| conn.form)
    }

    /// True exactly when its client may be read from: what it was said has been taken.
    #[must_use]
    pub fn may_hear(&self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| !conn.flags.has(Flags::BLOCKED))
    }

    /// True exactly when its topics may be changed.
    #[must_use]
    pub fn is_settled(&self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(Conn::is_settled)
    }

    /// A stream's position in the history, as a control event would carry it.
    pub fn position_of(&mut self, id: ConnId) -> Option<EventId> {
        self.position(id)
    }

    /// Lets a settled stream follow these topics too, `topics_max` at most in all. Gives those that are not confirmed
    /// yet: of each [`Shard::take_joined`] tells.
    ///
    /// # Errors
    /// When there would be too many. Then none is added.
    pub fn follow_more(&mut self, id: ConnId, topics: &[Topic], topics_max: usize) -> Result<Vec<Topic>, NotFollowed> {
        debug_assert!(self.is_settled(id));
        let followed = self.topic_names(id, |_| true);
        let added: Vec<&Topic> = topics.iter().filter(|topic| !followed.contains(topic)).collect();
        if followed.len() + added.len() > topics_max {
            return Err(NotFollowed::TooMany);
        }
        let new = added.iter().filter(|topic| self.topics.find(topic).is_none()).count();
        if self.topics.len() + new > self.limits.topics_max {
            return Err(NotFollowed::Full);
        }
        if !added.is_empty() {
            self.make_many(id);
        }
        for topic in added {
            self.follow_one(id, topic);
        }
        let many = self.many.get(&id.slot);
        let joining = many.into_iter().flat_map(Many::iter).filter(|(_, sub)| sub.joining);
        let joining: Vec<u32> = joining.map(|(topic, _)| topic).collect();
        let names = joining.into_iter().map(|slot| self.topics.at(slot).name.clone());
        Ok(names.filter(|name| topics.contains(name)).collect())
    }

    fn follow_one(&mut self, id: ConnId, topic: &Topic) {
        let place = self.follow(topic, id.slot);
        let (seq, watermark) = (self.seq, self.partition.watermark());
        let state = self.topics.at(place.topic);
        let (is_ready, is_durable) = (state.is_ready(), state.past.is_some());
        let sub = self.many.get_mut(&id.slot).expect("made before").add(place, seq);
        sub.joining = !is_ready;
        if is_durable {
            // Where it is replayed, nothing older is for it.
            if is_ready {
                self.told.insert((id.slot, place.topic), watermark);
            }
            self.conns.at(id.slot).expect("the caller has it").flags.set(Flags::DURABLE);
        }
    }

    /// A stream that is kept as one of a single topic is kept as one of several.
    fn make_many(&mut self, id: ConnId) {
        let conn = self.conns.at(id.slot).expect("the caller has it");
        if !conn.flags.has(Flags::MANY) {
            conn.flags.set(Flags::MANY);
            self.many.insert(id.slot, Many::new(&[conn.sub], conn.cursor));
        }
    }

    /// Lets a settled stream follow these topics no more; what of them was not handed over yet never is.
    pub fn follow_no_more(&mut self, id: ConnId, topics: &[Topic]) {
        debug_assert!(self.is_settled(id));
        self.make_many(id);
        for topic in topics {
            if let Some(key) = self.topics.find(topic) {
                self.unfollow(id, key.slot);
            }
        }
    }

    fn unfollow(&mut self, id: ConnId, topic: u32) {
        let Some(many) = self.many.get_mut(&id.slot) else { return };
        let Some(sub) = many.remove(topic) else { return };
        self.told.remove(&(id.slot, topic));
        self.leave(Sub { topic, at: sub.at });
        let slots = self.many[&id.slot].iter().map(|(topic, _)| topic).collect::<Vec<_>>();
        if slots.into_iter().all(|slot| self.topics.at(slot).past.is_none()) {
            self.forget_past(id);
            let flags = &mut self.conns.at(id.slot).expect("the caller has it").flags;
            flags.clear(Flags::DURABLE);
            // Of live topics it is handed everything by its cursor meanwhile.
            flags.clear(Flags::REPLAYING);
            self.enqueue(id);
        }
    }

    /// A topic was confirmed. True exactly when the stream in `slot` waits for that, and for nothing but that.
    pub(super) fn note_joined(&mut self, slot: u32, topic: u32) -> bool {
        let sub = self.many.get_mut(&slot).and_then(|many| many.get_mut(topic));
        let Some(sub) = sub.filter(|sub| sub.joining) else { return false };
        sub.joining = false;
        let id = self.conns.key_at(slot).expect("members exist");
        if self.topics.is_durable(topic) {
            // What came before its marker is not for this stream, also where it is replayed from before that.
            let watermark = self.partition.watermark();
            self.told.insert((slot, topic), watermark);
            let conn = self.conns.get(id).expect("members exist");
            if !conn.is_settled() {
                let here = Place::at(self.partition.position());
                self.places.entry(slot).or_insert(here);
            }
        }
        let topic = self.topics.at(topic).name.clone();
        self.joined.push(Joined { id, topic, is_allowed: true });
        true
    }

    /// A topic is refused: whoever has just added it goes on without it.
    pub(super) fn refuse_joining(&mut self, slot: u32, topic: u32) {
        let Some(sub) = self.many.get_mut(&slot).and_then(|many| many.get_mut(topic)) else { return };
        sub.joining = false;
        let id = self.conns.key_at(slot).expect("members exist");
        let name = self.topics.at(topic).name.clone();
        self.joined.push(Joined { id, topic: name, is_allowed: false });
        self.unfollow(id, topic);
    }

    /// The connection to the source is lost: live topics that were added, and not confirmed, are in the gap that follows.
    pub(super) fn join_into_gap(&mut self, slot: u32) {
        let Some(many) = self.many.get(&slot) else { return };
        let joining: Vec<u32> = many.iter().filter(|(_, sub)| sub.joining).map(|(topic, _)| topic).collect();
        for topic in joining {
            if self.topics.at(topic).past.is_none() {
                self.note_joined(slot, topic);
            }
        }
    }

    /// True exactly when the stream in `slot` has added the topic, and it is not confirmed.
    pub(super) fn is_joining(&self, slot: u32, topic: u32) -> bool {
        let many = self.many.get(&slot);
        many.is_some_and(|many| many.iter().any(|(of, sub)| of == topic && sub.joining))
    }

    /// What became of topics that were added.
    pub fn take_joined(&mut self) -> Vec<Joined> {
        std::mem::take(&mut self.joined)
    }

    /// WebSockets that have settled since the last call.
    pub fn take_settled(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.settled)
    }

    /// A stream may have settled: whoever waits to hear its client looks.
    pub(super) fn note_settled(&mut self, id: ConnId) {
        let is_heard = |conn: &Conn<P>| conn.form.is_websocket() && conn.is_settled();
        if self.conns.get(id).is_some_and(is_heard) {
            self.settled.push(id);
        }
    }
}
