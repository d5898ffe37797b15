//! Room for heads that arrive piece by piece.
//!
//! A head that is complete at once costs its connection nothing beyond hyper's first buffer. One that is
//! larger and not complete makes that buffer grow, and a client may take its time: such heads are charged to the
//! shard's [`Load`], like bodies, until their request is understood.
//!
//! # Overload
//! A head that finds no room is refused with 503. A stream's is not, for a browser would never come back
//! after that: its connection is just closed, which an `EventSource` answers by connecting anew.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::edge::HEAD_BYTES_MAX;
use crate::edge::http::body::{Load, Share};

/// Bytes of a head that are not charged: hyper's first buffer.
const FREE_BYTES: usize = 8 << 10;

/// The room of one connection's heads; clones share it.
#[derive(Clone)]
pub(super) struct HeadRoom(Rc<Room>);

struct Room {
    load: Load,
    /// Bytes that have arrived since the last request was understood, while none was being answered.
    arrived: Cell<usize>,
    /// True exactly while a request is being answered: what arrives then is its body, which has a
    /// charge of its own, or at most one read of the next head.
    answering: Cell<bool>,
    /// Taken from the first byte on that is not free.
    share: RefCell<Option<Share>>,
    /// True exactly when there was no room.
    refused: Cell<bool>,
}

/// Exists while a request is being answered.
pub(super) struct Answering(HeadRoom);

impl HeadRoom {
    /// Nothing has arrived.
    #[must_use]
    pub(super) fn new(load: Load) -> HeadRoom {
        let (arrived, answering, refused) = (Cell::new(0), Cell::new(false), Cell::new(false));
        HeadRoom(Rc::new(Room { load, arrived, answering, share: RefCell::default(), refused }))
    }

    /// Notes what has arrived. False when there is no room for it.
    #[must_use]
    pub(super) fn take(&self, bytes: usize) -> bool {
        let room = &self.0;
        if room.answering.get() {
            return true;
        }
        room.arrived.set(room.arrived.get() + bytes);
        let mut share = room.share.borrow_mut();
        if room.arrived.get() > FREE_BYTES && share.is_none() {
            *share = room.load.share(HEAD_BYTES_MAX);
            room.refused.set(share.is_none());
        }
        !room.refused.get()
    }

    /// A head was understood: its room is free again, and its answer begins.
    #[must_use]
    pub(super) fn answer(&self) -> Answering {
        self.give_back();
        self.0.arrived.set(0);
        self.0.answering.set(true);
        Answering(self.clone())
    }

    /// What has arrived was thrown away.
    pub(super) fn give_back(&self) {
        self.0.share.take();
    }

    /// True exactly when a head found no room.
    #[must_use]
    pub(super) fn is_refused(&self) -> bool {
        self.0.refused.get()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.answering.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::http::body::LOAD_BYTES_MAX;

    #[test]
    fn only_large_heads_that_are_not_complete_are_charged() {
        let load = Load::default();
        let room = HeadRoom::new(load.clone());
        assert!(room.take(FREE_BYTES) && load.is_free());
        assert!(room.take(1) && !load.is_free());
        let answering = room.answer();
        assert!(load.is_free(), "the head was understood");
        assert!(room.take(1 << 20) && load.is_free(), "this is a body");
        drop(answering);
        let rest = load.share(LOAD_BYTES_MAX - 1);
        assert!(room.take(FREE_BYTES) && !room.take(1) && room.is_refused());
        drop(rest);
        assert!(load.is_free());
    }
}
