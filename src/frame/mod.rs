//! A frame: one event as it goes over the wire, encoded at most once per wire form.
//!
//! What always holds: [`Frame::bytes`] gives the same bytes every time it is asked for one form.
//! A frame is charged to its shard's byte budget from the moment it exists until the last holder
//! (a log, or a connection that has part of it left to write) lets go: the charge is returned by
//! `Drop`, so nothing that is alive is ever uncounted.

pub mod sse;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Event, Stored};

/// How a stream wants its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WireForm {
    /// Server-Sent Events, one HTTP/1.1 chunk per event.
    SseChunked,
    /// Server-Sent Events without chunks: HTTP/1.0, where the end of the body is the end of the connection.
    SsePlain,
}

/// What a frame costs beside its bytes: the event, the frame, their reference counts, the log entry
/// and the allocator's rounding.
pub const FRAME_OVERHEAD: usize = 320;

/// Bytes that are alive in frames of one shard. Clones share one count.
#[derive(Clone, Default, Debug)]
pub struct ByteBudget(Rc<Cell<usize>>);

impl ByteBudget {
    /// Bytes charged now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.get()
    }

    fn charge(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }

    fn refund(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

/// An event and its encodings, shared by the logs of one shard and by unfinished writes.
#[derive(Debug)]
pub struct Frame {
    event: Arc<Event>,
    sse: OnceCell<sse::Chunk>,
    /// Equals `FRAME_OVERHEAD + event.weight()` plus the length of each encoding made so far.
    charged: Cell<usize>,
    budget: ByteBudget,
}

impl Frame {
    /// Wraps an event; nothing is encoded yet.
    #[must_use]
    pub fn new(event: Arc<Event>, budget: &ByteBudget) -> Frame {
        let charged = FRAME_OVERHEAD + event.weight();
        budget.charge(charged);
        Frame { event, sse: OnceCell::new(), charged: Cell::new(charged), budget: budget.clone() }
    }

    /// The event inside.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The event's place in the history.
    #[must_use]
    pub fn stored(&self) -> Option<Stored> {
        self.event.stored
    }

    /// Bytes this frame is charged with.
    #[must_use]
    pub fn charged(&self) -> usize {
        self.charged.get()
    }

    /// The frame in `form`; encoded when first asked for.
    #[must_use]
    pub fn bytes(&self, form: WireForm) -> &[u8] {
        let chunk = self.sse.get_or_init(|| {
            let chunk = sse::Chunk::encode(&self.event);
            self.charged.set(self.charged.get() + chunk.chunked().len());
            self.budget.charge(chunk.chunked().len());
            chunk
        });
        match form {
            WireForm::SseChunked => chunk.chunked(),
            WireForm::SsePlain => chunk.plain(),
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.budget.refund(self.charged.get());
    }
}

/// Bytes of `text` as an event's data: cheap when it is valid UTF-8, else with U+FFFD in each
/// place that is not. The flag is true exactly when something was replaced.
#[must_use]
pub fn text_data(data: Bytes) -> (Bytes, bool) {
    match String::from_utf8_lossy(&data) {
        std::borrow::Cow::Borrowed(_) => (data, false),
        std::borrow::Cow::Owned(text) => (Bytes::from(text), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;

    #[test]
    fn the_charge_lives_as_long_as_the_last_holder() {
        let budget = ByteBudget::default();
        let event = Arc::new(Event {
            topic: Topic::parse("t").expect("a topic"),
            name: None,
            key: None,
            data: Bytes::from_static(b"hello"),
            stored: None,
            received_us: 0,
        });
        let log = Rc::new(Frame::new(event, &budget));
        let before = budget.used();
        assert_eq!(before, FRAME_OVERHEAD + 6);
        let encoded = log.bytes(WireForm::SseChunked).len();
        let again = log.bytes(WireForm::SsePlain).len();
        assert!(again < encoded);
        assert_eq!(budget.used(), before + encoded, "both forms share one encoding");
        let remainder = Rc::clone(&log);
        drop(log);
        assert_eq!(budget.used(), before + encoded);
        drop(remainder);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn text_that_is_not_utf8_is_mended() {
        let (data, mended) = text_data(Bytes::from_static(b"a\xffb"));
        assert_eq!(&data[..], "a\u{fffd}b".as_bytes());
        assert!(mended);
        let (data, mended) = text_data(Bytes::from_static("grün".as_bytes()));
        assert_eq!(&data[..], "grün".as_bytes());
        assert!(!mended);
    }
}
