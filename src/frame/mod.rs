//! A frame: one event as it goes over the wire, encoded at most once per wire form.
//!
//! What always holds: [`Frame::bytes`] gives the same bytes every time it is asked for one form.
//! A frame is charged to its shard's byte budget from the moment it exists until the last holder
//! (a log, or a connection that has part of it left to write) lets go: the charge is returned by
//! `Drop`, so nothing that is alive is ever uncounted.

pub mod control;
pub mod json;
pub mod sse;
pub mod ws;

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
    /// WebSocket messages of the subprotocol: a JSON object per event.
    WsJson,
    /// WebSocket messages without a subprotocol: the data of each event, and nothing else.
    WsData,
}

impl WireForm {
    /// True exactly when it is one of WebSocket.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, WireForm::WsJson | WireForm::WsData)
    }
}

/// What a frame costs beside its bytes: the event, the frame, their reference counts, the log entry
/// and the allocator's rounding.
pub const FRAME_OVERHEAD: usize = 320;

const _: () = assert!(
    size_of::<Event>() + size_of::<Frame>() + 4 * size_of::<usize>() + 3 * size_of::<u64>() <= FRAME_OVERHEAD,
    "event, frame, the counts of Arc and Rc, an entry of a log"
);

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
    ws_json: OnceCell<Box<[u8]>>,
    ws_data: OnceCell<Box<[u8]>>,
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
        Frame {
            event,
            sse: OnceCell::new(),
            ws_json: OnceCell::new(),
            ws_data: OnceCell::new(),
            charged: Cell::new(charged),
            budget: budget.clone(),
        }
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
        match form {
            WireForm::SseChunked => self.sse().chunked(),
            WireForm::SsePlain => self.sse().plain(),
            WireForm::WsJson => self.ws_json.get_or_init(|| self.charge(ws::json(&self.event))),
            WireForm::WsData => self.ws_data.get_or_init(|| self.charge(ws::data(&self.event))),
        }
    }

    fn sse(&self) -> &sse::Chunk {
        self.sse.get_or_init(|| {
            let chunk = sse::Chunk::encode(&self.event);
            self.charge(chunk.chunked());
            chunk
        })
    }

    /// Charges an encoding that was just made.
    fn charge<B: AsRef<[u8]>>(&self, encoding: B) -> B {
        let bytes = encoding.as_ref().len();
        self.charged.set(self.charged.get() + bytes);
        self.budget.charge(bytes);
        encoding
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
        let messages = log.bytes(WireForm::WsJson).len() + log.bytes(WireForm::WsData).len();
        assert_eq!(log.bytes(WireForm::WsData), b"\x81\x05hello");
        assert_eq!(log.bytes(WireForm::WsJson).len() + 7, messages);
        assert_eq!(log.charged(), before + encoded + messages, "each form is charged once");
        let remainder = Rc::clone(&log);
        drop(log);
        assert_eq!(budget.used(), before + encoded + messages);
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
