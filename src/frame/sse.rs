//! Server-Sent Events, as bytes.
//!
//! An event is `event:` (if it has a name), one `data:` line per line of its data, `id:` (if it has
//! one) last, and a blank line; all of it is one HTTP/1.1 chunk. The order and the line rules follow
//! the HTML standard, section 9.2 "Server-sent events"; `id:` stands last because a widespread
//! client commits the id when it reads the line, before the event is dispatched.
//!
//! A frame is encoded in two walks over the data: one counts lines, so that the chunk's length and
//! the buffer's size are exact; one copies.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::event::Event;
use crate::frame::control::Control;
use crate::frame::{WireForm, ws};

/// A comment without a blank line after it. With one, two client libraries emit phantom events.
const HEARTBEAT: &[u8] = b"2\r\n:\n\r\n";
/// The chunk that ends an HTTP/1.1 body.
const FINAL_CHUNK: &[u8] = b"0\r\n\r\n";
/// Length of a chunk's closing CR LF.
const CHUNK_END: usize = 2;

/// One block of an event stream, kept as the HTTP/1.1 chunk; its plain form is a slice of it.
#[derive(Debug, Clone)]
pub struct Chunk {
    bytes: Bytes,
    /// Length of the size line. `prefix + CHUNK_END <= bytes.len()`.
    prefix: u8,
}

impl Chunk {
    /// Encodes an event.
    #[must_use]
    pub fn encode(event: &Event) -> Chunk {
        let mut id = String::new();
        if let Some(stored) = event.stored {
            let _ = writeln!(id, "id: {}", stored.id);
        }
        let name = event.name.as_ref().map_or("", |name| name.as_str());
        let named = if name.is_empty() { 0 } else { "event: \n".len() + name.len() };
        let body = named + data_len(&event.data) + id.len() + 1;

        let mut chunk = ChunkWriter::new(body);
        if !name.is_empty() {
            chunk.put(b"event: ");
            chunk.put(name.as_bytes());
            chunk.put(b"\n");
        }
        put_data(&mut chunk, &event.data);
        chunk.put(id.as_bytes());
        chunk.put(b"\n");
        chunk.finish()
    }

    /// Encodes a control event. `retry:` stands only in blocks with data: one parser drops it otherwise.
    #[must_use]
    pub fn control(control: &Control) -> Chunk {
        let Control { name, retry_ms, data, id } = control;
        let mut body = format!("event: fanwheel.{name}\n");
        if let Some(ms) = retry_ms {
            let _ = writeln!(body, "retry: {ms}");
        }
        let _ = writeln!(body, "data: {data}");
        if let Some(id) = id {
            let _ = writeln!(body, "id: {id}");
        }
        body.push('\n');
        let mut chunk = ChunkWriter::new(body.len());
        chunk.put(body.as_bytes());
        chunk.finish()
    }

    /// The block as one HTTP/1.1 chunk.
    #[must_use]
    pub fn chunked(&self) -> &[u8] {
        &self.bytes
    }

    /// The block alone.
    #[must_use]
    pub fn plain(&self) -> &[u8] {
        &self.bytes[usize::from(self.prefix)..self.bytes.len() - CHUNK_END]
    }
}

/// What shows that an idle stream is alive: a comment, or a ping.
#[must_use]
pub fn heartbeat(form: WireForm) -> &'static [u8] {
    match form {
        WireForm::SseChunked => HEARTBEAT,
        WireForm::SsePlain => b":\n",
        WireForm::WsJson | WireForm::WsData => ws::HEARTBEAT,
    }
}

/// What ends a body in `form`, at a block's border. (A WebSocket ends with a frame that says why: [`ws::close`].)
#[must_use]
pub fn body_end(form: WireForm) -> &'static [u8] {
    match form {
        WireForm::SseChunked => FINAL_CHUNK,
        WireForm::SsePlain | WireForm::WsJson | WireForm::WsData => b"",
    }
}

/// Length of the `data:` lines of `data`.
fn data_len(data: &[u8]) -> usize {
    lines(data).map(|line| line_prefix(line).len() + line.len() + 1).sum()
}

fn put_data(chunk: &mut ChunkWriter, data: &[u8]) {
    for line in lines(data) {
        chunk.put(line_prefix(line));
        chunk.put(line);
        chunk.put(b"\n");
    }
}

/// The space is stripped by parsers and shields a leading space of the line; an empty line needs none.
fn line_prefix(line: &[u8]) -> &'static [u8] {
    if line.is_empty() { b"data:" } else { b"data: " }
}

/// Lines of `data`, ended by CR LF, CR or LF; there is always at least one.
fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let text = rest?;
        // An empty line is seen at once: text of nothing but line ends needs no search for each.
        let ends_here = text.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n'));
        let Some(at) = ends_here.then_some(0).or_else(|| memchr::memchr2(b'\r', b'\n', text)) else {
            rest = None;
            return Some(text);
        };
        let ends_in_two = text[at] == b'\r' && text.get(at + 1) == Some(&b'\n');
        rest = Some(&text[at + 1 + usize::from(ends_in_two)..]);
        Some(&text[..at])
    })
}

/// Writes a chunk whose body length is known beforehand.
struct ChunkWriter {
    bytes: Vec<u8>,
    prefix: usize,
    body: usize,
}

impl ChunkWriter {
    fn new(body: usize) -> ChunkWriter {
        // A length in hexadecimal has at most 16 digits.
        let mut bytes = Vec::with_capacity(16 + 2 * CHUNK_END + body);
        let _ = std::io::Write::write_fmt(&mut bytes, format_args!("{body:x}\r\n"));
        let prefix = bytes.len();
        ChunkWriter { bytes, prefix, body }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn finish(mut self) -> Chunk {
        debug_assert_eq!(self.bytes.len(), self.prefix + self.body);
        self.bytes.extend_from_slice(b"\r\n");
        let prefix = u8::try_from(self.prefix).expect("16 digits and CR LF");
        Chunk { bytes: Bytes::from(self.bytes.into_boxed_slice()), prefix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, EventName, Stamp, Stored};
    use crate::frame::control::ResetReason;
    use crate::topic::Topic;
    use proptest::prelude::*;

    fn event(name: Option<&str>, data: &[u8], id: Option<EventId>) -> Event {
        Event {
            topic: Topic::parse("t").expect("a topic"),
            name: name.and_then(|name| EventName::parse(name).expect("a name")),
            key: None,
            data: Bytes::copy_from_slice(data),
            stored: id.map(|id| Stored { id, prev: Stamp::ZERO }),
            received_us: 0,
        }
    }

    fn plain(name: Option<&str>, data: &[u8]) -> String {
        let chunk = Chunk::encode(&event(name, data, None));
        String::from_utf8(chunk.plain().to_vec()).expect("utf-8")
    }

    #[test]
    fn blocks_as_the_standard_wants_them() {
        assert_eq!(plain(None, b"hello"), "data: hello\n\n");
        assert_eq!(plain(Some("tick"), b" x"), "event: tick\ndata:  x\n\n");
        assert_eq!(plain(None, b""), "data:\n\n");
        assert_eq!(plain(None, b"a\r\nb\rc\nd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(plain(None, b"a\n"), "data: a\ndata:\n\n");
        assert_eq!(plain(None, b"\n\r"), "data:\ndata:\ndata:\n\n");
    }

    #[test]
    fn the_id_is_the_last_line() {
        let id = EventId::parse("5-0-abcd").expect("an id");
        let chunk = Chunk::encode(&event(Some("e"), b"x", Some(id)));
        assert_eq!(chunk.plain(), b"event: e\ndata: x\nid: 5-0-abcd\n\n");
        assert_eq!(chunk.chunked(), b"1f\r\nevent: e\ndata: x\nid: 5-0-abcd\n\n\r\n".as_slice());
    }

    #[test]
    fn control_blocks_carry_retry_beside_data() {
        let topics = [Topic::parse("a\"b").expect("a topic")];
        let open = Chunk::control(&Control::open(topics.iter(), 2500, false, None));
        assert_eq!(
            std::str::from_utf8(open.plain()),
            Ok("event: fanwheel.open\nretry: 2500\ndata: {\"topics\":[\"a\\\"b\"],\"resumed\":false}\n\n")
        );
        let told = Chunk::control(&Control::reset(ResetReason::TooLarge, topics.iter(), None));
        assert_eq!(
            std::str::from_utf8(told.plain()),
            Ok("event: fanwheel.reset\ndata: {\"reason\":\"too-large\",\"topics\":[\"a\\\"b\"]}\n\n")
        );
        let told = Chunk::control(&Control::reset(ResetReason::Trimmed, topics.iter(), EventId::parse("5-0-abcd")));
        assert!(told.plain().ends_with(b"]}\nid: 5-0-abcd\n\n"), "the id is the last line");
    }

    /// The slow twin of `lines`.
    fn normalise(data: &str) -> String {
        data.replace("\r\n", "\n").replace('\r', "\n")
    }

    proptest! {
        #[test]
        fn data_survives_line_by_line(data in "[a\\r\\n :é]{0,60}", name in "[a-z ]{0,8}") {
            let text = plain(Some(&name).filter(|name| !name.is_empty()).map(String::as_str), data.as_bytes());
            let got: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(|value| value.strip_prefix(' ').unwrap_or(value))
                .collect();
            prop_assert_eq!(got.join("\n"), normalise(&data));
            prop_assert!(text.ends_with("\n\n"));
        }

        #[test]
        fn a_chunk_says_its_length(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = String::from_utf8_lossy(&data).into_owned();
            let chunk = Chunk::encode(&event(None, text.as_bytes(), None));
            let head = chunk.chunked().len() - chunk.plain().len() - CHUNK_END;
            let size = std::str::from_utf8(&chunk.chunked()[..head - 2]).expect("ascii");
            prop_assert_eq!(usize::from_str_radix(size, 16), Ok(chunk.plain().len()));
        }
    }
}
