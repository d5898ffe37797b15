//! Control events: what a node says to a stream of itself, in any wire form.
//!
//! Their names begin with `fanwheel.`, which no published event's does. On a WebSocket without the subprotocol
//! there is no place for them: [`Control::bytes`] gives `None`, and whoever has a loss to tell there ends the
//! connection, with [`CloseCode::EVENTS_LOST`](crate::frame::ws::CloseCode::EVENTS_LOST).

use serde::Serialize;

use crate::event::EventId;
use crate::frame::{WireForm, sse, ws};
use crate::topic::Topic;

/// Why a stream is told that it missed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum ResetReason {
    /// Live topics: the connection to the source was lost for a while, or the shard's inbox ran over.
    Gap,
    /// Live topics: the reader was slower than the log is long.
    Overflow,
    /// Live topics: an event was larger than [`crate::event::EVENT_BYTES_MAX`].
    TooLarge,
    /// Durable topics: events behind the reader's position are no longer retained.
    Trimmed,
    /// Durable topics: the history fell back behind the reader's position, or events were lost on its way.
    Diverged,
    /// Durable topics: the history began anew.
    Epoch,
    /// Durable topics: the position that was presented is none.
    UnknownCursor,
}

impl ResetReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [ResetReason; 7] = [
        ResetReason::Gap,
        ResetReason::Overflow,
        ResetReason::TooLarge,
        ResetReason::Trimmed,
        ResetReason::Diverged,
        ResetReason::Epoch,
        ResetReason::UnknownCursor,
    ];

    /// The `reason` in the block.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            ResetReason::Gap => "gap",
            ResetReason::Overflow => "overflow",
            ResetReason::TooLarge => "too-large",
            ResetReason::Trimmed => "trimmed",
            ResetReason::Diverged => "diverged",
            ResetReason::Epoch => "epoch",
            ResetReason::UnknownCursor => "unknown-cursor",
        }
    }
}

/// Why a stream is asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainReason {
    /// The node stops.
    Shutdown,
    /// The reader is too slow for a class that disconnects.
    Overload,
    /// The node has as many connections as it may.
    Limit,
}

impl DrainReason {
    /// The `reason` in the block.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            DrainReason::Shutdown => "shutdown",
            DrainReason::Overload => "overload",
            DrainReason::Limit => "limit",
        }
    }
}

/// One control event.
#[derive(Debug, Clone)]
pub struct Control {
    /// What follows `fanwheel.` in its name.
    pub(super) name: &'static str,
    /// When to come back after the connection's end, in ms. Server-Sent Events alone have a line for it.
    pub(super) retry_ms: Option<u32>,
    /// One line of JSON.
    pub(super) data: String,
    /// The stream's position, if it has one.
    pub(super) id: Option<EventId>,
}

impl Control {
    /// `fanwheel.open`: the first of a stream; from here on nothing is missed untold. `resumed` says that the
    /// position presented is honoured; `id` is the stream's position, if it has one.
    #[must_use]
    pub fn open<'a>(
        topics: impl Iterator<Item = &'a Topic>,
        retry_ms: u32,
        resumed: bool,
        id: Option<EventId>,
    ) -> Control {
        let topics = topics.map(Topic::as_str).collect();
        Control::new("open", Some(retry_ms), &Open { topics, resumed }, id)
    }

    /// `fanwheel.reset`: events of these topics were missed in this place, which is `id` if the stream has positions.
    #[must_use]
    pub fn reset<'a>(reason: ResetReason, topics: impl Iterator<Item = &'a Topic>, id: Option<EventId>) -> Control {
        let topics = topics.map(Topic::as_str).collect();
        Control::new("reset", None, &Reset { reason: reason.label(), topics }, id)
    }

    /// `fanwheel.drain`: the stream ends here; come back after the time given.
    #[must_use]
    pub fn drain(reason: DrainReason, retry_ms: u32) -> Control {
        Control::new("drain", Some(retry_ms), &Drain { reason: reason.label(), retry_ms }, None)
    }

    /// `fanwheel.unavailable`: the stream could not be opened; come back after the time given.
    #[must_use]
    pub fn unavailable(retry_ms: u32) -> Control {
        Control::new("unavailable", Some(retry_ms), &Unavailable { retry_ms }, None)
    }

    fn new(name: &'static str, retry_ms: Option<u32>, data: &impl Serialize, id: Option<EventId>) -> Control {
        let data = serde_json::to_string(data).expect("strings and numbers serialize");
        Control { name, retry_ms, data, id }
    }

    /// The event in `form`; `None` where the form has no place for it.
    #[must_use]
    pub fn bytes(&self, form: WireForm) -> Option<Vec<u8>> {
        match form {
            WireForm::SseChunked => Some(sse::Chunk::control(self).chunked().to_vec()),
            WireForm::SsePlain => Some(sse::Chunk::control(self).plain().to_vec()),
            WireForm::WsJson => Some(ws::control(self.name, &self.data, self.id).into_vec()),
            WireForm::WsData => None,
        }
    }
}

#[derive(Serialize)]
struct Open<'a> {
    topics: Vec<&'a str>,
    resumed: bool,
}

#[derive(Serialize)]
struct Reset<'a> {
    reason: &'static str,
    topics: Vec<&'a str>,
}

#[derive(Serialize)]
struct Drain {
    reason: &'static str,
    retry_ms: u32,
}

#[derive(Serialize)]
struct Unavailable {
    retry_ms: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_says_the_same() {
        let topics = [Topic::parse("a\"b").expect("a topic")];
        let id = EventId::parse("5-0-abcd");
        let said = |control: &Control, form| control.bytes(form).map(|bytes| String::from_utf8(bytes).expect("text"));
        let open = Control::open(topics.iter(), 2500, true, id);
        assert_eq!(
            said(&open, WireForm::SsePlain).as_deref(),
            Some(
                "event: fanwheel.open\nretry: 2500\ndata: {\"topics\":[\"a\\\"b\"],\"resumed\":true}\nid: 5-0-abcd\n\n"
            )
        );
        let message = r#"{"id":"5-0-abcd","event":"fanwheel.open","data":{"topics":["a\"b"],"resumed":true}}"#;
        let length = char::from(u8::try_from(message.len()).expect("a short one"));
        // The first byte, 0x81, alone is no text.
        let frame = open.bytes(WireForm::WsJson).expect("it has a place");
        assert_eq!(frame[0], 0x81);
        assert_eq!(std::str::from_utf8(&frame[1..]), Ok(&*format!("{length}{message}")));
        assert_eq!(said(&open, WireForm::WsData), None);
        let messages = [
            (
                Control::reset(ResetReason::Gap, topics.iter(), None),
                r#"{"id":null,"event":"fanwheel.reset","data":{"reason":"gap","topics":["a\"b"]}}"#,
            ),
            (
                Control::drain(DrainReason::Limit, 7),
                r#"{"id":null,"event":"fanwheel.drain","data":{"reason":"limit","retry_ms":7}}"#,
            ),
            (Control::unavailable(7), r#"{"id":null,"event":"fanwheel.unavailable","data":{"retry_ms":7}}"#),
        ];
        for (control, message) in messages {
            let frame = control.bytes(WireForm::WsJson).expect("it has a place");
            assert_eq!(std::str::from_utf8(&frame[2..]), Ok(message));
        }
    }
}
