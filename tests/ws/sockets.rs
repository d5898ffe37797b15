//! The same tables over sockets: hyper reads the head, and the shard's reactor the rest.

use http::{Response, StatusCode};
use serde_json::Value;

use super::frame::text;
use super::handshake::{Doorman, WithoutSockets, play_all as play_heads, response};
use super::{Player, Seen, Step, cases, play_all};
use crate::common::websocket::{Message, SUBPROTOCOL, WebSocket};
use crate::common::{Launch, TestServer, Wire};

/// A client's side of a node. What a message says is not seen: each is answered that it is no operation.
struct OverSockets<'s>(&'s TestServer);

impl Player for OverSockets<'_> {
    fn play(&mut self, steps: &[Step]) -> Vec<Seen> {
        let mut socket = WebSocket::begin(self.0.public, "", Some(SUBPROTOCOL));
        for step in steps {
            let Step::Bytes(bytes) = step else { panic!("a server closes when it stops, which is a test of its own") };
            // A server that has closed takes no more.
            let _ = socket.wire.try_send(bytes);
        }
        let _ = socket.wire.shutdown(std::net::Shutdown::Write);
        let mut seen = Vec::new();
        while let Some(message) = socket.next() {
            seen.push(match message {
                Message::Text(text) if text.contains("fanwheel.open") => continue,
                Message::Text(text) => {
                    let answer: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(answer["ok"], false, "{text}");
                    Seen::Message(String::new())
                }
                Message::Ping => continue,
                Message::Pong(payload) => Seen::Pong(payload),
                Message::Close(code, _) => Seen::Close((code != WITHOUT_CODE).then_some(code)),
            });
        }
        seen
    }
}

/// What programs call a close frame without a code (section 7.1.5).
const WITHOUT_CODE: u16 = 1005;

#[test]
fn every_rule_is_kept_over_sockets() {
    let server = Launch::serve().start();
    let mut cases = cases();
    cases.retain(|case| case.steps.iter().all(|step| matches!(step, Step::Bytes(_))));
    for case in &mut cases {
        for seen in &mut case.expected {
            if let Seen::Message(text) = seen {
                text.clear();
            }
        }
    }
    assert!(cases.len() >= 300, "{} cases", cases.len());
    play_all(&mut OverSockets(&server), &cases);
    server.wait_metric("fanwheel_connections{transport=\"websocket\"}", 0.0);
}

impl Doorman for OverSockets<'_> {
    fn answer(&mut self, head: &str) -> Response<()> {
        let mut wire = Wire::connect(self.0.public);
        wire.send(head.as_bytes());
        let answer = wire.take_until(b"\r\n\r\n");
        let answer = response(std::str::from_utf8(&answer).unwrap());
        // A line that says HTTP/2.0 is none of HTTP/1, and is refused before anybody looks what it asks for.
        if answer.status() == StatusCode::HTTP_VERSION_NOT_SUPPORTED && head.contains("HTTP/2.0") {
            return WithoutSockets.answer(head);
        }
        answer
    }
}

#[test]
fn every_head_is_answered_over_sockets() {
    let server = Launch::serve().flag("--cors-origin", "https://a.example").start();
    play_heads(&mut OverSockets(&server));
}

#[test]
fn what_follows_the_head_at_once_is_heard() {
    let server = Launch::serve().start();
    let mut wire = Wire::connect(server.public);
    let early = text(r#"{"op":"publish","ref":7,"topic":"a","data":"early"}"#).bytes();
    wire.send(&[crate::common::websocket::handshake("topic=a", Some(SUBPROTOCOL)), early].concat());
    assert_eq!(wire.take_head().status, 101);
    let mut socket = WebSocket::on(wire);
    let mut texts = [socket.next_text(), socket.next_text()];
    texts.sort();
    assert!(texts[0].contains("fanwheel.open"), "{texts:?}");
    assert_eq!(texts[1], r#"{"ref":7,"ok":true}"#);
}
