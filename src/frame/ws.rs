//! WebSocket, as bytes: the frames a server sends (RFC 6455, section 5).
//!
//! What always holds: a frame of ours is never masked (5.1) and never a fragment, has no reserved bit, and says its
//! length in the fewest bytes (5.2). So a message is one header of 2, 4 or 10 bytes and its payload, the same bytes for
//! every client: an event is encoded once and shared, as in [`crate::frame::sse`].
//!
//! Two forms of an event: with the subprotocol [`SUBPROTOCOL`] a JSON object
//! `{"topic":…,"id":…,"event":…,"data":…}`, in which `id` and `event` are `null` where there is none; without it
//! the data alone. Only the first has a place for control events: they have no `topic`, and an object as `data`.

use crate::event::{Event, EventId, EventName};
use crate::frame::json::{escaped_len, put_escaped};

/// The subprotocol in which messages are JSON objects, as it is named in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "fanwheel.v1.json";
/// Longest payload of a control frame, in bytes (section 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// Longest reason of a close frame, in bytes: a code stands before it.
pub const CLOSE_REASON_MAX: usize = CONTROL_PAYLOAD_MAX - 2;
/// A ping without payload: shows that an idle connection is alive, and its client answers it.
pub const HEARTBEAT: &[u8] = &[FINAL | Opcode::Ping as u8, 0];

/// The bit of a frame that is its message's last.
const FINAL: u8 = 0x80;

/// What a frame is (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next part of a message.
    Continuation = 0,
    /// A message of text, or its first part.
    Text = 1,
    /// A message of bytes, or its first part.
    Binary = 2,
    /// The last frame of its sender.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

/// Why a connection is closed (section 7.4): a code that may stand in a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

impl CloseCode {
    /// What it was made for is done.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The node stops.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// The peer sent a kind of message that is not taken.
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// A text that is not UTF-8.
    pub const INVALID_DATA: CloseCode = CloseCode(1007);
    /// The peer broke a rule of ours.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// A message over the limit.
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    /// Come back later (IANA's registry: "Try Again Later").
    pub const TRY_AGAIN: CloseCode = CloseCode(1013);
    /// Of our own: events were lost here, and the form has no place to say so. Come back, and fetch the state anew.
    pub const EVENTS_LOST: CloseCode = CloseCode(4000);

    /// The code, if it may stand in a close frame: one that is defined for it (section 7.4.1, and 1012 to 1014 in
    /// IANA's registry), or of a range that libraries and applications define (7.4.2).
    #[must_use]
    pub fn parse(code: u16) -> Option<CloseCode> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(CloseCode(code))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

/// An event for a client of [`SUBPROTOCOL`].
#[must_use]
pub fn json(event: &Event) -> Box<[u8]> {
    let id = event.stored.map(|stored| stored.id.to_string());
    let name = event.name.as_ref().map(EventName::as_str);
    let topic = event.topic.as_str();
    let length = "{\"topic\":,\"id\":,\"event\":,\"data\":}".len()
        + quoted_len(Some(topic.as_bytes()))
        + quoted_len(id.as_deref().map(str::as_bytes))
        + quoted_len(name.map(str::as_bytes))
        + quoted_len(Some(&event.data));
    let mut frame = begin(Opcode::Text, length);
    frame.extend_from_slice(b"{\"topic\":");
    put_quoted(&mut frame, Some(topic.as_bytes()));
    frame.extend_from_slice(b",\"id\":");
    put_quoted(&mut frame, id.as_deref().map(str::as_bytes));
    frame.extend_from_slice(b",\"event\":");
    put_quoted(&mut frame, name.map(str::as_bytes));
    frame.extend_from_slice(b",\"data\":");
    put_quoted(&mut frame, Some(&event.data));
    frame.push(b'}');
    finish(frame)
}

/// An event's data, for a client without a subprotocol.
#[must_use]
pub fn data(event: &Event) -> Box<[u8]> {
    text(&event.data)
}

/// A control event: its name, its data, which is JSON already, and the stream's position.
#[must_use]
pub fn control(name: &str, data: &str, id: Option<EventId>) -> Box<[u8]> {
    // Ids and names of control events have nothing to escape.
    let id = id.map_or("null".to_owned(), |id| format!("\"{id}\""));
    text(format!("{{\"id\":{id},\"event\":\"fanwheel.{name}\",\"data\":{data}}}").as_bytes())
}

/// A text message. `payload` is UTF-8.
#[must_use]
pub fn text(payload: &[u8]) -> Box<[u8]> {
    let mut frame = begin(Opcode::Text, payload.len());
    frame.extend_from_slice(payload);
    finish(frame)
}

/// The answer to a ping, of which it repeats the payload: at most [`CONTROL_PAYLOAD_MAX`] bytes.
#[must_use]
pub fn pong(payload: &[u8]) -> Box<[u8]> {
    let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_MAX)];
    let mut frame = begin(Opcode::Pong, payload.len());
    frame.extend_from_slice(payload);
    finish(frame)
}

/// The last frame of a connection. Of `reason` it has at most [`CLOSE_REASON_MAX`] bytes; without a code, none.
#[must_use]
pub fn close(code: Option<CloseCode>, reason: &str) -> Box<[u8]> {
    let Some(code) = code else { return finish(begin(Opcode::Close, 0)) };
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_MAX)];
    let mut frame = begin(Opcode::Close, 2 + reason.len());
    frame.extend_from_slice(&code.number().to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    finish(frame)
}

/// A frame's header, with room for so many bytes of payload.
fn begin(opcode: Opcode, payload: usize) -> Vec<u8> {
    let first = FINAL | opcode as u8;
    let header = match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(length @ 0..=125), _) => &[first, length][..],
        (_, Ok(length)) => &[&[first, 126][..], &length.to_be_bytes()].concat(),
        _ => &[&[first, 127][..], &(payload as u64).to_be_bytes()].concat(),
    };
    let mut frame = Vec::with_capacity(header.len() + payload);
    frame.extend_from_slice(header);
    frame
}

/// The frame, which fills its buffer: nothing is moved.
fn finish(frame: Vec<u8>) -> Box<[u8]> {
    debug_assert_eq!(frame.len(), frame.capacity());
    frame.into_boxed_slice()
}

/// Length of [`put_quoted`].
fn quoted_len(text: Option<&[u8]>) -> usize {
    text.map_or("null".len(), |text| escaped_len(text) + 2)
}

/// A JSON string, or `null`.
fn put_quoted(frame: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return frame.extend_from_slice(b"null") };
    frame.push(b'"');
    put_escaped(frame, text);
    frame.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Stamp, Stored};
    use crate::topic::Topic;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    fn event(topic: &str, name: Option<&str>, data: &[u8], id: Option<&str>) -> Event {
        Event {
            topic: Topic::parse(topic).expect("a topic"),
            name: name.and_then(|name| EventName::parse(name).expect("a name")),
            key: None,
            data: Bytes::copy_from_slice(data),
            stored: id.and_then(EventId::parse).map(|id| Stored { id, prev: Stamp::ZERO }),
            received_us: 0,
        }
    }

    /// The payload of a frame whose header says what it should.
    fn payload(frame: &[u8], opcode: Opcode) -> &[u8] {
        assert_eq!(frame[0], 0x80 | opcode as u8, "the last frame of its message, no reserved bit");
        let (header, length) = match frame[1] {
            126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
            127 => (10, u64::from_be_bytes(frame[2..10].try_into().expect("eight")) as usize),
            length => (2, usize::from(length)),
        };
        let fewest = if length <= 125 {
            2
        } else if length <= 0xffff {
            4
        } else {
            10
        };
        assert_eq!(header, fewest, "{length} is said in the fewest bytes, without a mask");
        assert_eq!(frame.len(), header + length);
        &frame[header..]
    }

    #[test]
    fn lengths_are_said_in_the_fewest_bytes() {
        for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 1 << 20] {
            let text = "x".repeat(length);
            assert_eq!(payload(&super::text(text.as_bytes()), Opcode::Text), text.as_bytes());
        }
    }

    #[test]
    fn an_event_is_an_object_of_four_fields() {
        let live = event("chat", None, b"hello", None);
        assert_eq!(payload(&json(&live), Opcode::Text), br#"{"topic":"chat","id":null,"event":null,"data":"hello"}"#);
        let durable = event("a\"b", Some("\\e"), "\n\u{1}é".as_bytes(), Some("5-0-abcd"));
        assert_eq!(
            std::str::from_utf8(payload(&json(&durable), Opcode::Text)),
            Ok(r#"{"topic":"a\"b","id":"5-0-abcd","event":"\\e","data":"\n\u0001é"}"#)
        );
    }

    #[test]
    fn without_the_subprotocol_an_event_is_its_data() {
        let durable = event("a", Some("e"), b"a\r\nb", Some("5-0-abcd"));
        assert_eq!(payload(&data(&durable), Opcode::Text), b"a\r\nb");
    }

    #[test]
    fn control_frames_stay_within_their_limit() {
        assert_eq!(payload(HEARTBEAT, Opcode::Ping), b"");
        assert_eq!(payload(&pong(&[0xff; 125]), Opcode::Pong), [0xff; 125]);
        assert_eq!(payload(&pong(&[0xff; 126]), Opcode::Pong), [0xff; 125]);
        assert_eq!(payload(&close(None, "said to nobody"), Opcode::Close), b"");
        assert_eq!(payload(&close(Some(CloseCode::TRY_AGAIN), "later"), Opcode::Close), b"\x03\xf5later");
        let long = "ü".repeat(100);
        let frame = close(Some(CloseCode::EVENTS_LOST), &long);
        let reason = &payload(&frame, Opcode::Close)[2..];
        assert_eq!(reason, &long.as_bytes()[..122], "whole characters");
    }

    #[test]
    fn codes_that_only_programs_tell_themselves_do_not_go_over_the_wire() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert_eq!(CloseCode::parse(code), None, "{code}");
        }
        for code in [1000, 1003, 1007, 1011, 1012, 1014, 3000, 4999] {
            assert_eq!(CloseCode::parse(code).map(CloseCode::number), Some(code));
        }
    }

    proptest! {
        #[test]
        fn a_reader_of_json_gets_what_was_published(
            data in any::<String>(), name in "[ -~é]{0,20}", topic in "[!-#%-~ü]{1,20}", ms in 0..u64::pow(10, 15),
        ) {
            let Ok(topic) = Topic::parse(&topic) else { return Ok(()) };
            let id = format!("{ms}-7-k3Zq");
            let event = event(topic.as_str(), Some(&name), data.as_bytes(), Some(&id));
            let frame = json(&event);
            let got: Value = serde_json::from_slice(payload(&frame, Opcode::Text)).expect("JSON");
            let name = Some(name).filter(|name| !name.is_empty());
            prop_assert_eq!(got, serde_json::json!({"topic": topic.as_str(), "id": id, "event": name, "data": data}));
        }
    }
}
