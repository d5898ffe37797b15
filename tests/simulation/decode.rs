//! What a client makes of a socket's bytes. Shares no code with the encoder: chunks are taken apart
//! here, blocks are read by the `eventsource-stream` crate. Frames of a WebSocket are taken apart here too, and their
//! messages read by `serde_json`.

use std::collections::HashMap;

use eventsource_stream::EventStream;
use fanwheel::frame::WireForm;
use futures_util::{FutureExt, StreamExt, stream};

/// What a client sees, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The comment of a silent stream.
    Heartbeat,
    /// One event.
    Block(Block),
    /// The end of a chunked body; a close frame.
    End,
}

/// One event as a parser sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub name: String,
    pub data: String,
    /// Empty where there is no id line.
    pub id: String,
    pub has_retry: bool,
}

/// Blocks read so far, by their bytes: what many readers get is parsed once.
#[derive(Debug, Default)]
pub struct Parsed(HashMap<Vec<u8>, Block>);

/// The bytes of one stream, taken apart as they come.
#[derive(Debug)]
pub struct Decoder {
    form: WireForm,
    /// What is left to come of the response's head.
    head: Vec<u8>,
    /// Bytes of a chunk or block that is not complete.
    rest: Vec<u8>,
    ended: bool,
}

impl Decoder {
    pub fn new(form: WireForm, head: &[u8]) -> Decoder {
        Decoder { form, head: head.to_vec(), rest: Vec::new(), ended: false }
    }

    pub fn is_websocket(&self) -> bool {
        self.form.is_websocket()
    }

    /// True exactly when nothing is begun and not finished.
    pub fn is_at_border(&self) -> bool {
        self.head.is_empty() && self.rest.is_empty()
    }

    /// True exactly when the body is complete, as far as the form can say so.
    pub fn is_complete(&self) -> bool {
        self.is_at_border() && (self.ended || self.form == WireForm::SsePlain)
    }

    /// Takes bytes and gives what they complete.
    pub fn feed(&mut self, mut bytes: &[u8], parsed: &mut Parsed) -> Vec<Item> {
        let of_head = self.head.len().min(bytes.len());
        assert_eq!(&self.head[..of_head], &bytes[..of_head], "the head comes first");
        self.head.drain(..of_head);
        bytes = &bytes[of_head..];
        self.rest.extend_from_slice(bytes);
        let mut items = Vec::new();
        loop {
            assert!(self.rest.is_empty() || !self.ended, "bytes after the end");
            let length = match self.form {
                WireForm::SseChunked => self.chunk(parsed, &mut items),
                WireForm::SsePlain => self.block(parsed, &mut items),
                WireForm::WsJson => self.frame(parsed, &mut items),
                WireForm::WsData => panic!("who sees data alone cannot tell one event from another"),
            };
            match length {
                Some(length) => drop(self.rest.drain(..length)),
                None => return items,
            }
        }
    }

    /// The length of a complete chunk at the front.
    fn chunk(&mut self, parsed: &mut Parsed, items: &mut Vec<Item>) -> Option<usize> {
        let line = memchr::memchr(b'\n', &self.rest)?;
        let size = self.rest[..line].strip_suffix(b"\r").expect("a size line ends in CR LF");
        assert!(!size.is_empty() && size.iter().all(u8::is_ascii_hexdigit), "not a chunk's size: {size:?}");
        let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
        let (begin, end) = (line + 1, line + 1 + size);
        let tail = self.rest.get(end..end + 2)?;
        assert_eq!(tail, b"\r\n", "a chunk ends in CR LF");
        let body = &self.rest[begin..end];
        items.push(match body {
            b"" => {
                self.ended = true;
                Item::End
            }
            b":\n" => Item::Heartbeat,
            block => Item::Block(parsed.parse(block)),
        });
        Some(end + 2)
    }

    /// The length of a complete frame of a WebSocket at the front.
    fn frame(&mut self, parsed: &mut Parsed, items: &mut Vec<Item>) -> Option<usize> {
        let (begin, length) = match self.rest.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes(self.rest.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(self.rest.get(2..10)?.try_into().unwrap()) as usize),
            &length => (2, usize::from(length)),
        };
        let payload = self.rest.get(begin..begin + length)?;
        items.push(match self.rest[0] {
            0x81 => Item::Block(parsed.parse_json(payload)),
            0x89 if length == 0 => Item::Heartbeat,
            0x88 if length >= 2 => {
                self.ended = true;
                Item::End
            }
            other => panic!("a server sends no frame {other:#x} of {length} bytes"),
        });
        Some(begin + length)
    }

    /// The length of a complete block at the front.
    fn block(&mut self, parsed: &mut Parsed, items: &mut Vec<Item>) -> Option<usize> {
        if self.rest.starts_with(b":\n") {
            items.push(Item::Heartbeat);
            return Some(2);
        }
        let end = memchr::memmem::find(&self.rest, b"\n\n")? + 2;
        items.push(Item::Block(parsed.parse(&self.rest[..end])));
        Some(end)
    }
}

impl Parsed {
    /// Reads one message, which has no line for `retry`, and keeps line ends as they are.
    fn parse_json(&mut self, message: &[u8]) -> Block {
        if let Some(known) = self.0.get(message) {
            return known.clone();
        }
        let json: serde_json::Value = serde_json::from_slice(message).unwrap();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let name = json["event"].as_str().unwrap_or("message").to_owned();
        let is_control = name.starts_with("fanwheel.");
        assert_eq!(json.get("topic").is_none(), is_control, "{json}");
        let data = if is_control { json["data"].to_string() } else { text("data") };
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        let block = Block { has_retry: is_control && name != "fanwheel.reset", name, data, id: text("id") };
        self.0.insert(message.to_vec(), block.clone());
        block
    }

    /// Reads one block, which is exactly one event.
    fn parse(&mut self, block: &[u8]) -> Block {
        if let Some(known) = self.0.get(block) {
            return known.clone();
        }
        let bytes = stream::iter([Ok::<_, std::convert::Infallible>(block)]);
        let events = EventStream::new(bytes).collect::<Vec<_>>().now_or_never().expect("nothing to wait for");
        let [Ok(event)] = &events[..] else { panic!("not one event: {:?}: {events:?}", block.escape_ascii()) };
        let block_read = Block {
            name: event.event.clone(),
            data: event.data.clone(),
            id: event.id.clone(),
            has_retry: event.retry.is_some(),
        };
        self.0.insert(block.to_vec(), block_read.clone());
        block_read
    }
}
