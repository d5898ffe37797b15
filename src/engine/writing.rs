//! A write of a replay: blocks and events one behind another, and what each of them means when it was taken.

use std::rc::Rc;

use crate::engine::CloseReason;
use crate::engine::outbox::close_frame;
use crate::event::{EventId, Stamp};
use crate::frame::control::{Control, ResetReason};
use crate::frame::{Frame, WireForm};

/// What is handed over in one write.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) form: WireForm,
    pub(super) bytes: Vec<u8>,
    pub(super) items: Vec<Item>,
    /// Where the reader stands when all of it was taken.
    pub(super) reached: EventId,
    /// As [`Place::fresh`], when all of it was taken.
    pub(super) fresh: bool,
    /// True exactly when it ends with the connection's last frame: there is a loss that cannot be told.
    pub(super) last: bool,
}

/// A block of a write.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it ends in the write.
    pub(super) end: usize,
    /// Where the reader stands behind it.
    pub(super) reached: EventId,
    pub(super) what: What,
}

/// See [`Item`].
#[derive(Debug)]
pub(super) enum What {
    /// True exactly when it names a position.
    Open(bool),
    Reset(ResetReason),
    /// The connection's last frame: its form has no place for a loss.
    Last,
    /// Events of these topics are gone, of each up to a number.
    Trimmed(Vec<(u32, Stamp)>),
    /// An event of this topic.
    Event(u32, Rc<Frame>),
}

impl Writing {
    pub(super) fn put(&mut self, bytes: &[u8], what: What, reached: EventId) {
        if self.last {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        self.items.push(Item { end: self.bytes.len(), reached, what });
        self.reached = reached;
    }

    /// Puts a reset; where there is no place for one, the end.
    pub(super) fn put_reset(&mut self, block: &Control, what: What, reached: EventId) {
        if let Some(bytes) = block.bytes(self.form) {
            return self.put(&bytes, what, reached);
        }
        let reached = self.reached;
        self.put(&close_frame(CloseReason::Lost), What::Last, reached);
        self.last = true;
    }
}
