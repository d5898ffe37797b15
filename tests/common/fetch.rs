//! Ordinary requests and their answers.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::wire::{Head, Wire};

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The sentence of a problem, which must have this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status(), status, "{}", String::from_utf8_lossy(&self.body));
        let sentence = self.json()["error"].as_str().expect("a problem has an `error`").to_owned();
        assert!(sentence.len() > 10, "`{sentence}` is no sentence");
        sentence
    }
}

impl Wire {
    /// Takes the answer to a request with a body.
    pub fn take_answer(&mut self) -> Answer {
        let head = self.take_head();
        assert_ne!(head.header("content-type"), Some("text/event-stream"), "a stream where an answer was expected");
        let body = if head.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let chunk = self.take_chunk();
                if chunk.is_empty() {
                    break body;
                }
                body.extend(chunk);
            }
        } else if head.status == 204 {
            Vec::new()
        } else {
            let length = head.header("content-length").expect("an answer says how long it is").parse().unwrap();
            self.take_exactly(length)
        };
        Answer { head, body }
    }

    /// Sends a request on this connection and takes the answer.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(&raw(method, target, headers, body));
        self.take_answer()
    }
}

impl Wire {
    /// As `ask`, of a server that may go away; `None` when no whole answer comes in time.
    pub fn try_ask(&mut self, request: &[u8], deadline: Instant) -> Option<Answer> {
        self.try_send(request).ok()?;
        loop {
            if let Some(answer) = whole_answer(self.unread()) {
                let length = self.unread().len();
                self.take(length);
                return Some(answer);
            }
            if !self.fill(deadline)? {
                return None;
            }
        }
    }
}

/// The answer, if these bytes are all of it.
fn whole_answer(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = Head::parse(std::str::from_utf8(&bytes[..end]).ok()?);
    let length: usize = head.header("content-length")?.parse().ok()?;
    let body = bytes[end + 4..].to_vec();
    (body.len() == length).then_some(Answer { head, body })
}

/// A request's bytes; `Content-Length` is added where there is a body.
pub fn raw(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" || !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// One request on a connection of its own.
pub fn request(to: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    Wire::connect(to).ask(method, target, headers, body)
}

pub fn get(to: SocketAddr, target: &str) -> Answer {
    request(to, "GET", target, &[], b"")
}

pub fn post(to: SocketAddr, target: &str, body: &[u8]) -> Answer {
    request(to, "POST", target, &[], body)
}
