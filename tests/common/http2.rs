//! An HTTP/2 connection with prior knowledge, frame by frame (RFC 9113), so that a test can also
//! say what no library would.
//!
//! Headers are sent as literals without compression (RFC 7541, section 6.2.2); of an answer's
//! headers only the status is read, where it stands alone in the static table.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::{PATIENCE, Wire};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting that says how much a peer may send on each new stream.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Http2 {
    pub wire: Wire,
    next: u32,
    /// By stream: what its body has said so far.
    bodies: HashMap<u32, Vec<u8>>,
    /// Streams whose body has ended.
    ended: HashSet<u32>,
    /// Whether pings and settings are acknowledged and windows kept open.
    pub polite: bool,
    /// Whether the peer has said that it takes no more requests.
    pub goes_away: bool,
}

impl Http2 {
    pub fn connect(to: SocketAddr) -> Http2 {
        Http2::connect_with(Wire::connect(to), &[])
    }

    /// With a preface of which the rest is sent after `pause`.
    pub fn in_pieces(to: SocketAddr, pause: impl FnOnce()) -> Http2 {
        let mut wire = Wire::connect(to);
        wire.send(&PREFACE[..10]);
        pause();
        wire.send(&[&PREFACE[10..], &encode(SETTINGS, 0, 0, &[])].concat());
        Http2::on(wire)
    }

    /// With settings of the client's choice.
    pub fn connect_with(mut wire: Wire, settings: &[(u16, u32)]) -> Http2 {
        let payload = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        wire.send(&[PREFACE, &encode(SETTINGS, 0, 0, &payload.collect::<Vec<_>>())].concat());
        Http2::on(wire)
    }

    fn on(wire: Wire) -> Http2 {
        Http2 { wire, next: 1, bodies: HashMap::new(), ended: HashSet::new(), polite: true, goes_away: false }
    }

    /// Sends a request without a body; gives its stream.
    pub fn get(&mut self, path: &str) -> u32 {
        let stream = self.next_stream();
        self.wire.send(&encode(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path)));
        stream
    }

    /// The number of the next stream.
    pub fn next_stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.wire.send(&encode(kind, flags, stream, payload));
    }

    /// As `next_frame`; what it brings is not taken out of any window.
    pub fn next_frame_unread(&mut self) -> Option<Frame> {
        let frame = self.take_frame()?;
        if frame.kind != DATA {
            self.react(&frame);
        }
        Some(frame)
    }

    /// The next frame; `None` when the peer has ended the connection.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let frame = self.take_frame()?;
        self.react(&frame);
        Some(frame)
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let deadline = Instant::now() + PATIENCE;
        while self.wire.unread().len() < 9 {
            if !self.wire.fill(deadline).expect("a frame in time") {
                return None;
            }
        }
        let head = self.wire.take(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        while self.wire.unread().len() < length {
            if !self.wire.fill(deadline).expect("the frame's rest in time") {
                return None;
            }
        }
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload: self.wire.take(length) })
    }

    fn react(&mut self, frame: &Frame) {
        if frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS) {
            self.ended.insert(frame.stream);
        }
        match frame.kind {
            GOAWAY => self.goes_away = true,
            DATA => self.bodies.entry(frame.stream).or_default().extend_from_slice(&frame.payload),
            _ if !self.polite => {}
            SETTINGS if frame.flags & ACK == 0 => drop(self.wire.try_send(&encode(SETTINGS, ACK, 0, &[]))),
            PING if frame.flags & ACK == 0 => drop(self.wire.try_send(&encode(PING, ACK, 0, &frame.payload))),
            _ => {}
        }
        if frame.kind == DATA && self.polite && !frame.payload.is_empty() {
            let count = (frame.payload.len() as u32).to_be_bytes();
            for stream in [0, frame.stream] {
                let _ = self.wire.try_send(&encode(WINDOW_UPDATE, 0, stream, &count));
            }
        }
    }

    /// The next frame for which `wanted` holds; `None` when the connection ended before.
    pub fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let frame = self.next_frame()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
        panic!("other frames came, and no such one");
    }

    /// Waits until the body of `stream` has ended.
    pub fn wait_end(&mut self, stream: u32) {
        while !self.ended.contains(&stream) {
            self.find(|frame| frame.stream == stream).expect("the stream's end");
        }
    }

    /// The status of the answer on `stream`.
    pub fn status(&mut self, stream: u32) -> u16 {
        let headers = self.find(|frame| frame.kind == HEADERS && frame.stream == stream).expect("an answer");
        match headers.payload[0] {
            0x88 => 200,
            0x8c => 400,
            0x8d => 404,
            first => panic!("another status: {first:#x}"),
        }
    }

    /// Waits until the body of `stream` contains `text`, and takes it and everything before it.
    #[track_caller]
    pub fn take_until(&mut self, stream: u32, text: &str) -> String {
        let (mut searched, deadline) = (0, Instant::now() + PATIENCE);
        while Instant::now() < deadline {
            let body = self.bodies.entry(stream).or_default();
            if let Some(at) = memchr::memmem::find(&body[searched..], text.as_bytes()) {
                let taken = body.drain(..searched + at + text.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            searched = body.len().saturating_sub(text.len());
            assert!(self.next_frame().is_some(), "ended before `{text}`");
        }
        panic!("no `{text}` in time, after {searched} bytes");
    }
}

pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a request.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// One header, never indexed.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0x10][..], &text(name), &text(value)].concat()
}

/// A string literal (RFC 7541, section 5.2), its length an integer with a prefix of 7 bits.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if text.len() < 127 {
        bytes.push(text.len() as u8);
    } else {
        bytes.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
