//! What the engine keeps of one connection: 40 bytes, flat; what only some connections have lives
//! in side tables keyed by slot.

use std::rc::Rc;

use crate::engine::CloseReason;
use crate::engine::history::Position;
use crate::engine::log::Seq;
use crate::engine::wheel::{Link, Links};
use crate::engine::{slab::Key, slab::Slab};
use crate::event::{EventId, Stamp, Tag};
use crate::frame::control::ResetReason;
use crate::frame::{Frame, WireForm};

/// Names a connection of one shard.
pub type ConnId = Key;

/// A connection. `P` is whatever the edge needs to reach its socket.
#[derive(Debug)]
pub struct Conn<P> {
    /// The edge's handle on the socket.
    pub port: P,
    /// How it wants its events.
    pub form: WireForm,
    /// See [`Flags`].
    pub flags: Flags,
    /// Topics of this stream that are not (or not again) confirmed by the source.
    pub waiting: u8,
    /// What must be said before the next event.
    pub owes: Owes,
    /// Everything of its topics up to this number was handed to its socket or told as lost.
    pub cursor: Seq,
    /// The only topic, unless `Flags::MANY`.
    pub sub: Sub,
    /// Its one timer.
    pub link: Link,
    /// The tick in which bytes were last handed to its socket.
    pub last_write: u32,
}

/// A place in a topic's member list.
#[derive(Debug, Clone, Copy)]
pub struct Sub {
    /// The topic's slot.
    pub topic: u32,
    /// The index in its member list.
    pub at: u32,
}

/// The subscriptions of a stream that follows several topics.
///
/// Before each send all topics are asked whether there is anything new: their slots are apart from the
/// rest, so that twenty are two cache lines and not eight.
#[derive(Debug)]
pub struct Many {
    /// The topics' slots.
    topics: Vec<u32>,
    /// By the same index.
    subs: Vec<ManySub>,
}

/// What a stream that follows several topics keeps of one.
#[derive(Debug)]
pub struct ManySub {
    /// The index in the topic's member list.
    pub at: u32,
    /// Nothing of this topic up to here is for this stream: it joined later, or lost it and was told.
    pub from: Seq,
    /// What must be said about this topic.
    pub owes: Owes,
    /// True exactly when the stream has added it, and the source has not confirmed it since.
    pub joining: bool,
}

const _: () = assert!(size_of::<ManySub>() == 16, "it was a hole before");

impl Many {
    /// Subscriptions at these places, of a stream that has seen everything up to `from`.
    #[must_use]
    pub fn new(places: &[Sub], from: Seq) -> Many {
        let sub = |place: &Sub| ManySub { at: place.at, from, owes: Owes::NOTHING, joining: false };
        Many { topics: places.iter().map(|place| place.topic).collect(), subs: places.iter().map(sub).collect() }
    }

    /// Topics followed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.topics.len()
    }

    /// Topics' slots and subscriptions.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &ManySub)> {
        self.topics.iter().copied().zip(&self.subs)
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut ManySub)> {
        self.topics.iter().copied().zip(&mut self.subs)
    }

    /// One more, of a stream that wants nothing of it up to `from`.
    pub fn add(&mut self, place: Sub, from: Seq) -> &mut ManySub {
        self.topics.push(place.topic);
        self.subs.push(ManySub { at: place.at, from, owes: Owes::NOTHING, joining: false });
        self.subs.last_mut().expect("just pushed")
    }

    /// Takes the subscription of the topic in `slot` out.
    pub fn remove(&mut self, slot: u32) -> Option<ManySub> {
        let at = self.topics.iter().position(|&topic| topic == slot)?;
        self.topics.swap_remove(at);
        Some(self.subs.swap_remove(at))
    }

    /// The subscription of the topic in `slot`.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut ManySub> {
        let at = self.topics.iter().position(|&topic| topic == slot)?;
        self.subs.get_mut(at)
    }
}

/// Facts about a connection, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// Nothing is true yet.
    pub const NONE: Flags = Flags(0);
    /// True exactly when `fanwheel.open` was handed over (or stands in the outbox).
    pub const OPENED: Flags = Flags(1);
    /// True exactly when the socket took less than it was given and has not become writable since.
    pub const BLOCKED: Flags = Flags(2);
    /// True exactly when the stream follows several topics, listed in the side table.
    pub const MANY: Flags = Flags(4);
    /// True exactly when it stands in the run queue by itself.
    pub const QUEUED: Flags = Flags(8);
    /// True exactly when the stream follows a durable topic.
    pub const DURABLE: Flags = Flags(16);
    /// True exactly when of its durable topics it is served by its position in the history, and not by its cursor.
    pub const REPLAYING: Flags = Flags(32);

    /// True exactly when all of `other` is set.
    #[must_use]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// True exactly when it is open, and neither blocked nor to be served in its own right.
    #[must_use]
    pub fn is_plainly_open(self) -> bool {
        self.0 & !(Flags::MANY.0 | Flags::DURABLE.0) == Flags::OPENED.0
    }

    /// Sets `other`.
    pub fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Clears `other`.
    pub fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }
}

/// Blocks a stream is owed, one bit each. Losses of one kind that meet here are told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owes(u8);

impl Owes {
    /// Nothing.
    pub const NOTHING: Owes = Owes(0);
    /// `fanwheel.open`.
    pub const OPEN: Owes = Owes(1);
    /// `fanwheel.reset`, reason `gap`.
    pub const GAP: Owes = Owes(2);
    /// `fanwheel.reset`, reason `too-large`.
    pub const TOO_LARGE: Owes = Owes(4);
    /// `fanwheel.reset`, reason `overflow`.
    pub const OVERFLOW: Owes = Owes(8);
    /// `fanwheel.unavailable`, after which it is closed.
    pub const UNAVAILABLE: Owes = Owes(16);

    /// The resets, in the order in which they are told.
    pub const RESETS: [(Owes, ResetReason); 3] = [
        (Owes::GAP, ResetReason::Gap),
        (Owes::TOO_LARGE, ResetReason::TooLarge),
        (Owes::OVERFLOW, ResetReason::Overflow),
    ];

    /// True exactly when something of `other` is owed.
    #[must_use]
    pub fn has(self, other: Owes) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds `other`.
    pub fn add(&mut self, other: Owes) {
        self.0 |= other.0;
    }

    /// Removes `other`.
    pub fn clear(&mut self, other: Owes) {
        self.0 &= !other.0;
    }
}

impl<P> Conn<P> {
    /// True exactly when a topic's walk may hand it events: open, writable, owing nothing, and not
    /// served by the run queue in its own right.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.flags.is_plainly_open() && self.waiting == 0 && self.owes == Owes::NOTHING
    }

    /// True exactly when it is replaying, and may be handed events of its live topics meanwhile.
    #[must_use]
    pub fn takes_live(&self) -> bool {
        let is_replaying = self.flags.has(Flags::OPENED) && self.flags.has(Flags::REPLAYING);
        is_replaying && self.flags.has(Flags::MANY) && self.is_servable() && self.owes == Owes::NOTHING
    }

    /// True exactly when it is open and waits for nothing: it is served by its cursor, and owes nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let flags = self.flags;
        flags.has(Flags::OPENED)
            && !flags.has(Flags::BLOCKED)
            && !flags.has(Flags::REPLAYING)
            && self.waiting == 0
            && self.owes == Owes::NOTHING
    }

    /// True exactly when the run queue may serve it.
    #[must_use]
    pub fn is_servable(&self) -> bool {
        !self.flags.has(Flags::BLOCKED) && self.waiting == 0
    }
}

/// Where a stream with durable topics stands in the history, while its cursor does not say it: before it is open,
/// while it is blocked or waits, while it is replaying. A side-table entry exists exactly then.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Everything of its durable topics up to here was handed over or told, nothing behind it. Not yet known while
    /// it only waits to be opened.
    pub at: EventId,
    /// From where it wanted to be opened.
    pub wants: Position,
    /// True exactly when nothing was handed over yet and it asked for no certain position: then nothing can be missing.
    pub fresh: bool,
    /// True exactly when a barrier has passed since it came.
    pub tried: bool,
    /// True exactly when it has passed a place at which events were found to be lost only later, and was not told.
    pub lost: bool,
    /// True exactly when it was opened without the position it had presented, and was not told why.
    pub astray: bool,
    /// Answers it waits for.
    pub awaited: u32,
}

impl Place {
    /// Of a stream that waits to be opened.
    #[must_use]
    pub fn of(wants: Position) -> Place {
        let nowhere = EventId { stamp: Stamp::ZERO, tag: Tag::NONE };
        let at = if let Position::After(id) = wants { id } else { nowhere };
        Place { at, wants, fresh: false, tried: false, lost: false, astray: false, awaited: 0 }
    }

    /// Of an open stream that stands at `at`.
    #[must_use]
    pub fn at(at: EventId) -> Place {
        Place { at, ..Place::of(Position::Now) }
    }
}

/// What a blocked connection has left to write, and how it gets on. A side-table entry exists
/// exactly while the connection is blocked.
#[derive(Debug, Default)]
pub struct Pending {
    /// The frame that was cut.
    pub remainder: Option<Remainder>,
    /// Bytes for this connection alone, after the remainder.
    pub outbox: Vec<u8>,
    /// Bytes of `outbox` already written. `outbox_sent <= outbox.len()`.
    pub outbox_sent: usize,
    /// Why it is closed as soon as nothing is left, if it is.
    pub closing: Option<CloseReason>,
    /// The tick since which progress is counted.
    pub since: u32,
    /// Bytes accepted since then. Below `STALL_BYTES_MIN`, else the count begins again.
    pub accepted: usize,
}

/// The rest of a frame. Holds the frame, and with it the frame's charge.
#[derive(Debug)]
pub struct Remainder {
    /// The frame's number; the oldest remainder is the one with the smallest.
    pub seq: Seq,
    /// The frame that was cut.
    pub frame: Rc<Frame>,
    /// In the form it was cut in.
    pub form: WireForm,
    /// Bytes already written. `0 < sent < frame.bytes(form).len()`.
    pub sent: usize,
}

impl<P> Links for Slab<Conn<P>> {
    fn link(&mut self, key: u32) -> &mut Link {
        &mut self.at(key).expect("only connections that exist are on the wheel").link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parked stream costs this, its place in a member list (4 bytes) and the kernel's socket.
    #[test]
    fn a_connection_is_small() {
        assert_eq!(size_of::<Conn<std::os::fd::OwnedFd>>(), 40);
        assert_eq!(Slab::<Conn<std::os::fd::OwnedFd>>::SLOT_BYTES, 48);
    }
}
