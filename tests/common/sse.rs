//! An event stream as a strict client reads it.
//!
//! Stricter than the standard where Fanwheel promises more: lines end in LF only, every chunk holds
//! whole blocks, `id:` and `retry:` stand only where they belong, and no blank line stands alone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::wire::{Head, Wire};
use super::{PATIENCE, TestServer};

/// A dispatched event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// `message` where no `event:` line stands.
    pub name: String,
    pub data: String,
    pub id: Option<String>,
    pub retry_ms: Option<u64>,
}

/// What a stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Event(Event),
    /// A heartbeat.
    Comment,
    /// The body's proper end: the last chunk, or the connection's end on HTTP/1.0.
    End,
    /// The connection ended in the middle.
    Cut,
}

/// See the module.
#[derive(Debug)]
pub struct Stream {
    pub head: Head,
    wire: Wire,
    chunked: bool,
    decoder: Decoder,
    items: VecDeque<Item>,
    ended: bool,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    fn is_control(&self) -> bool {
        self.name.starts_with("fanwheel.")
    }
}

/// The request for a stream.
pub fn request_for(query: &str) -> String {
    format!("GET /events?{query} HTTP/1.1\r\nhost: test\r\naccept: text/event-stream\r\n\r\n")
}

impl Stream {
    /// Asks for a stream and reads its head.
    pub fn begin(to: SocketAddr, query: &str) -> Stream {
        Stream::begin_on(Wire::connect(to), query)
    }

    /// As `begin`, on a connection that exists.
    pub fn begin_on(mut wire: Wire, query: &str) -> Stream {
        wire.send(request_for(query).as_bytes());
        Stream::answered(wire)
    }

    /// Takes the head of a stream that was asked for.
    pub fn answered(mut wire: Wire) -> Stream {
        let head = wire.take_head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{head:?}");
        let chunked = head.header("transfer-encoding") == Some("chunked");
        Stream { head, wire, chunked, decoder: Decoder::default(), items: VecDeque::new(), ended: false }
    }

    /// Opens a stream, up to and including its first block.
    pub fn open(server: &TestServer, query: &str) -> Stream {
        Stream::open_on(Wire::connect(server.public), query)
    }

    /// As `open`, on a connection that exists.
    pub fn open_on(wire: Wire, query: &str) -> Stream {
        let mut stream = Stream::begin_on(wire, query);
        stream.expect_open();
        stream
    }

    /// The first block.
    #[track_caller]
    pub fn expect_open(&mut self) -> Event {
        let event = self.next();
        assert_eq!(event.name, "fanwheel.open", "{event:?}");
        event
    }

    /// The next event; heartbeats are passed over.
    #[track_caller]
    pub fn next(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next_item(deadline) {
                Some(Item::Event(event)) => return event,
                Some(Item::Comment) => {}
                Some(end) => panic!("the stream ended ({end:?}) where an event was expected"),
                None => panic!("no event came"),
            }
        }
    }

    /// The next event's data; it must have no name.
    #[track_caller]
    pub fn next_data(&mut self) -> String {
        let event = self.next();
        assert_eq!((event.name.as_str(), &event.id, event.retry_ms), ("message", &None, None), "{event:?}");
        event.data
    }

    /// The next event must be a reset: its topics, sorted.
    #[track_caller]
    pub fn expect_reset(&mut self, reason: &str) -> Vec<String> {
        let event = self.next();
        assert_eq!(event.name, "fanwheel.reset", "{event:?}");
        assert_eq!(event.json()["reason"], reason, "{event:?}");
        names(&event.json()["topics"])
    }

    /// The next event must be this control event with a `retry:`, and the stream must end properly after it.
    #[track_caller]
    pub fn expect_dismissal(&mut self, name: &str) -> Value {
        let event = self.next();
        assert_eq!(event.name, name, "{event:?}");
        assert_eq!(event.retry_ms, event.json()["retry_ms"].as_u64(), "{event:?}");
        assert!(event.retry_ms.is_some_and(|ms| ms >= 1_000), "{event:?}");
        assert_eq!(self.next_item(Instant::now() + PATIENCE), Some(Item::End));
        event.json()
    }

    /// The next thing said, or `None` when nothing is said until `deadline`.
    pub fn next_item(&mut self, deadline: Instant) -> Option<Item> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(item);
            }
            if self.ended {
                return Some(Item::Cut);
            }
            self.decode_what_was_read();
            if self.items.is_empty() && !self.ended && !self.wire.fill(deadline)? {
                self.ended = true;
                let clean = !self.chunked && self.decoder.is_at_border();
                self.items.push_back(if clean { Item::End } else { Item::Cut });
            }
        }
    }

    /// Everything said until `deadline`, or the end.
    pub fn items_until(&mut self, deadline: Instant) -> Vec<Item> {
        let mut items = Vec::new();
        while let Some(item) = self.next_item(deadline) {
            let is_end = matches!(item, Item::End | Item::Cut);
            items.push(item);
            if is_end {
                break;
            }
        }
        items
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes);
    }

    pub fn flood(&mut self) {
        self.wire.flood();
    }

    /// Whole chunks only: a part of one is kept for later.
    fn decode_what_was_read(&mut self) {
        if !self.chunked {
            let bytes = self.wire.take(self.wire.unread().len());
            self.decoder.decode(&bytes, &mut self.items);
            return;
        }
        while let Some((prefix, size)) = chunk_size(self.wire.unread()) {
            if self.wire.unread().len() < prefix + size + 2 {
                return;
            }
            let chunk = self.wire.take(prefix + size + 2);
            assert_eq!(&chunk[prefix + size..], b"\r\n", "a chunk ends with CR LF");
            if size == 0 {
                self.ended = true;
                self.items.push_back(Item::End);
                return;
            }
            let before = self.items.len();
            self.decoder.decode(&chunk[prefix..prefix + size], &mut self.items);
            assert!(self.decoder.is_at_border(), "a chunk that cuts a block");
            assert_eq!(self.items.len(), before + 1, "an event or a heartbeat is a chunk of its own");
        }
    }
}

/// Length of the size line, and the size it names; `None` when it is not whole yet.
fn chunk_size(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.iter().take(20).position(|&byte| byte == b'\n')?;
    let digits = bytes[..end].strip_suffix(b"\r").and_then(|digits| std::str::from_utf8(digits).ok());
    let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    Some((end + 1, size.unwrap_or_else(|| panic!("no chunk size: {:?}", String::from_utf8_lossy(&bytes[..end])))))
}

/// The strings of a JSON list, sorted.
pub fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Lines to events, as the HTML standard says.
#[derive(Debug, Default)]
struct Decoder {
    line: Vec<u8>,
    event: Event,
    data_lines: usize,
    fields: usize,
}

impl Decoder {
    fn is_at_border(&self) -> bool {
        self.line.is_empty() && self.fields == 0
    }

    fn decode(&mut self, mut bytes: &[u8], items: &mut VecDeque<Item>) {
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            self.line.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = String::from_utf8(std::mem::take(&mut self.line)).expect("a stream is UTF-8");
            assert!(!line.contains('\r'), "a CR in {line:?}");
            self.take_line(&line, items);
        }
        self.line.extend_from_slice(bytes);
    }

    fn take_line(&mut self, line: &str, items: &mut VecDeque<Item>) {
        if line.is_empty() {
            assert!(self.data_lines > 0, "a blank line without an event before it");
            return items.push_back(Item::Event(self.dispatch()));
        }
        if line.starts_with(':') {
            assert_eq!((line, self.fields), (":", 0), "a comment that is no heartbeat");
            return items.push_back(Item::Comment);
        }
        self.fields += 1;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        assert!(self.event.id.is_none(), "`{field}` after `id`");
        match field {
            "event" => self.event.name = value.to_owned(),
            "data" => {
                if self.data_lines > 0 {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.data_lines += 1;
            }
            "id" => self.event.id = Some(value.to_owned()),
            "retry" => self.event.retry_ms = Some(value.parse().unwrap()),
            _ => panic!("an unknown field in {line:?}"),
        }
    }

    fn dispatch(&mut self) -> Event {
        let mut event = std::mem::take(self).event;
        if event.name.is_empty() {
            event.name = "message".into();
        }
        assert!(event.is_control() || event.retry_ms.is_none(), "`retry` in {event:?}");
        event
    }
}
