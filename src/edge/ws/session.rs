//! A session: what a decoder receives, and what the protocol owes the client for it.
//!
//! ```text
//!           ┌── close received: it is answered ────────┐
//!  open ────┤                                          ├──► ended
//!           └── we close: waits for the client's own ──┘
//! ```
//!
//! What always holds: at most one pong is owed, the newest ping's (RFC 6455, section 5.5.3), and never one behind
//! a close frame; a close frame is said once; behind ours no message is taken (5.5.1, 7.1).
//!
//! # Overload
//! A client that sends and does not read is not read from, by whoever owns the socket: what is owed is one pong, whatever
//! came in. How long a client may take over a message, and over its close frame, is for the owner's timers.

use std::borrow::Cow;

use crate::edge::ws::decoder::{Decoder, Received};
use crate::edge::ws::violation::Violation;
use crate::frame::ws::{self, CloseCode};

/// What is heard of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A text message.
    Message(Cow<'a, str>),
    /// The last.
    Ended(Ended),
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The frame to write before the connection is closed, if one is owed.
    pub reply: Option<Box<[u8]>>,
    /// The rule that the client broke; `None` when it has closed.
    pub violation: Option<Violation>,
}

/// One client's session.
#[derive(Debug, Default)]
pub struct Session {
    decoder: Decoder,
    /// The frame that is owed to the newest ping.
    pong: Option<Box<[u8]>>,
    /// True exactly when our close frame was given out.
    closing: bool,
}

impl Session {
    /// Takes messages of at most so many bytes.
    #[must_use]
    pub fn new(message_max: usize) -> Session {
        Session { decoder: Decoder::new(message_max), ..Session::default() }
    }

    /// True exactly when a new session would do as well.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.decoder.is_idle() && self.pong.is_none() && !self.closing
    }

    /// Bytes of memory held for what is not complete, or not said.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.held() + self.pong.as_ref().map_or(0, |pong| pong.len())
    }

    /// Reads on, unmasking in place: gives what is heard next, or `None` when all of the input is used.
    pub fn take_next<'a>(&mut self, input: &mut &'a mut [u8]) -> Option<Heard<'a>> {
        loop {
            match self.decoder.take_next(input)? {
                Received::Text(text) if !self.closing => return Some(Heard::Message(text)),
                Received::Ping(payload) if !self.closing => self.pong = Some(ws::pong(&payload)),
                Received::Text(_) | Received::Ping(_) | Received::Pong(_) => {}
                Received::Close(code, _) => return Some(self.ended(None, ws::close(code, ""))),
                Received::Violation(violation) => {
                    let close = ws::close(Some(violation.code()), &violation.reason());
                    return Some(self.ended(Some(violation), close));
                }
            }
        }
    }

    /// The pong that is owed.
    pub fn take_pong(&mut self) -> Option<Box<[u8]>> {
        self.pong.take()
    }

    /// Our close frame, if none was said. From here on nothing is heard but the end.
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Option<Box<[u8]>> {
        self.say_last(ws::close(Some(code), reason))
    }

    fn ended<'a>(&mut self, violation: Option<Violation>, close: Box<[u8]>) -> Heard<'a> {
        Heard::Ended(Ended { reply: self.say_last(close), violation })
    }

    /// The close frame, behind the pong that is owed; `None` when one was said before.
    fn say_last(&mut self, close: Box<[u8]>) -> Option<Box<[u8]>> {
        let pong = self.pong.take().unwrap_or_default();
        let is_first = !std::mem::replace(&mut self.closing, true);
        is_first.then(|| if pong.is_empty() { close } else { [pong, close].concat().into() })
    }
}

// Kept only for connections in the middle of something.
const _: () = assert!(size_of::<Session>() <= 128);

#[cfg(test)]
mod tests {
    use super::*;

    /// Masked with zeros, which changes nothing.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    fn heard(session: &mut Session, bytes: &[u8]) -> Vec<String> {
        let mut scratch = bytes.to_vec();
        let mut input = &mut scratch[..];
        let mut all = Vec::new();
        while let Some(one) = session.take_next(&mut input) {
            all.push(match one {
                Heard::Message(text) => text.into_owned(),
                Heard::Ended(ended) => format!("{:?} {:?}", ended.violation, ended.reply),
            });
        }
        all
    }

    #[test]
    fn one_pong_is_owed_and_it_answers_the_newest_ping() {
        let mut session = Session::default();
        let bytes = [frame(0x89, b"1"), frame(0x81, b"x"), frame(0x89, b"2")].concat();
        assert_eq!(heard(&mut session, &bytes), ["x"]);
        assert!(!session.is_idle());
        assert_eq!(session.take_pong().as_deref(), Some(&b"\x8a\x012"[..]));
        assert_eq!(session.take_pong(), None);
        assert!(session.is_idle());
    }

    #[test]
    fn a_close_is_echoed_behind_the_pong_that_is_owed() {
        let mut session = Session::default();
        let bytes = [frame(0x89, b""), frame(0x88, b"\x03\xe8bye"), frame(0x81, b"late")].concat();
        assert_eq!(heard(&mut session, &bytes), [format!("None {:?}", Some([0x8a, 0, 0x88, 2, 3, 0xe8]))]);
        assert_eq!(session.close(CloseCode::GOING_AWAY, ""), None, "it was said");
    }

    #[test]
    fn behind_our_close_only_the_end_is_heard() {
        let mut session = Session::default();
        assert!(session.close(CloseCode::GOING_AWAY, "shutdown").is_some_and(|frame| frame[4..] == *b"shutdown"));
        assert_eq!(session.close(CloseCode::NORMAL, ""), None);
        let bytes = [frame(0x81, b"x"), frame(0x89, b"1"), frame(0x88, b"")].concat();
        assert_eq!(heard(&mut session, &bytes), ["None None"]);
        assert_eq!((session.take_pong(), session.held()), (None, 0));
        let mut session = Session::default();
        session.close(CloseCode::GOING_AWAY, "");
        assert_eq!(heard(&mut session, &[0x83]), ["Some(ReservedOpcode) None"]);
    }
}
