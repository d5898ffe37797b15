//! A WebSocket's client, by the letter: what it sends is masked, what it is sent must not be.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};

use super::{PATIENCE, TestServer, Wire};
use crate::ws::frame;

/// The subprotocol of messages that are JSON objects.
pub const SUBPROTOCOL: &str = "fanwheel.v1.json";

/// See the module.
#[derive(Debug)]
pub struct WebSocket {
    pub wire: Wire,
    /// Messages that were passed over by whoever waited for an answer.
    behind: Vec<Value>,
    next_ref: u64,
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Ping,
    Pong(Vec<u8>),
    /// With its code and reason; nothing follows.
    Close(u16, String),
}

/// The head of a handshake for `/ws?{query}`.
pub fn handshake(query: &str, protocol: Option<&str>) -> Vec<u8> {
    let protocol = protocol.map(|protocol| format!("sec-websocket-protocol: {protocol}\r\n")).unwrap_or_default();
    format!(
        "GET /ws?{query} HTTP/1.1\r\nhost: test\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )
    .into_bytes()
}

impl WebSocket {
    /// Opens one of the subprotocol; its `open` is taken.
    #[track_caller]
    pub fn open(server: &TestServer, query: &str) -> WebSocket {
        let mut socket = WebSocket::begin(server.public, query, Some(SUBPROTOCOL));
        let open = socket.next_json();
        assert_eq!(open["event"], "fanwheel.open", "{open}");
        socket
    }

    /// Opens one and takes the answer's head.
    #[track_caller]
    pub fn begin(to: SocketAddr, query: &str, protocol: Option<&str>) -> WebSocket {
        WebSocket::begin_on(Wire::connect(to), query, protocol)
    }

    #[track_caller]
    pub fn begin_on(mut wire: Wire, query: &str, protocol: Option<&str>) -> WebSocket {
        wire.send(&handshake(query, protocol));
        let head = wire.take_head();
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(head.header("sec-websocket-protocol"), protocol);
        WebSocket::on(wire)
    }

    /// One whose head was answered.
    pub fn on(wire: Wire) -> WebSocket {
        WebSocket { wire, behind: Vec::new(), next_ref: 0 }
    }

    pub fn send(&mut self, frame: &frame::Frame) {
        self.wire.send(&frame.bytes());
    }

    pub fn say(&mut self, message: &Value) {
        self.send(&frame::text(message.to_string()));
    }

    /// Asks for an operation and waits for its answer; what comes before is kept.
    #[track_caller]
    pub fn ask(&mut self, mut operation: Value) -> Value {
        self.next_ref += 1;
        operation["ref"] = json!(self.next_ref);
        self.say(&operation);
        loop {
            let message = self.read_json();
            if message.get("ref") == Some(&operation["ref"]) {
                return message;
            }
            self.behind.push(message);
        }
    }

    /// Asks for an operation that must be done.
    #[track_caller]
    pub fn done(&mut self, operation: Value) -> Value {
        let answer = self.ask(operation);
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    /// The next frame; `None` at the connection's end.
    #[track_caller]
    pub fn next(&mut self) -> Option<Message> {
        let deadline = Instant::now() + PATIENCE;
        while self.wire.unread().is_empty() {
            if !self.wire.fill(deadline).expect("a frame, or the end, in time") {
                return None;
            }
        }
        let start = self.wire.take_exactly(2);
        let length = match start[1] {
            126 => usize::from(u16::from_be_bytes(self.wire.take_exactly(2).try_into().unwrap())),
            127 => u64::from_be_bytes(self.wire.take_exactly(8).try_into().unwrap()) as usize,
            length => usize::from(length),
        };
        assert!(start[1] & 0x80 == 0, "a server does not mask");
        let payload = self.wire.take_exactly(length);
        Some(match (start[0], &payload[..]) {
            (0x81, _) => Message::Text(String::from_utf8(payload).expect("text is UTF-8")),
            (0x89, []) => Message::Ping,
            (0x8a, _) => Message::Pong(payload),
            // What programs call none (section 7.1.5).
            (0x88, []) => Message::Close(1005, String::new()),
            (0x88, [high, low, reason @ ..]) => {
                let reason = std::str::from_utf8(reason).expect("a reason is UTF-8");
                Message::Close(u16::from_be_bytes([*high, *low]), reason.into())
            }
            (first, _) => panic!("a server does not send {first:#x} {payload:?}"),
        })
    }

    /// The next text, pings passed over.
    #[track_caller]
    pub fn next_text(&mut self) -> String {
        loop {
            match self.next() {
                Some(Message::Text(text)) => return text,
                Some(Message::Ping) => {}
                other => panic!("no message, but {other:?}"),
            }
        }
    }

    #[track_caller]
    fn read_json(&mut self) -> Value {
        let text = self.next_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next message of the subprotocol.
    #[track_caller]
    pub fn next_json(&mut self) -> Value {
        if self.behind.is_empty() { self.read_json() } else { self.behind.remove(0) }
    }

    /// The next event, which must be one of a topic.
    #[track_caller]
    pub fn next_event(&mut self) -> (String, String) {
        let message = self.next_json();
        let text = |name: &str| message[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {message}")).to_owned();
        (text("topic"), text("data"))
    }

    /// The close frame that must come, and the end behind it.
    #[track_caller]
    pub fn expect_close(&mut self) -> (u16, String) {
        loop {
            match self.next() {
                Some(Message::Close(code, reason)) => {
                    assert_eq!(self.next(), None, "nothing follows a close frame");
                    return (code, reason);
                }
                Some(Message::Ping) => {}
                other => panic!("no close frame, but {other:?}"),
            }
        }
    }
}
