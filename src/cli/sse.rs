//! An event stream, read as the HTML standard says (section 9.2.6), from bytes cut anywhere.
//!
//! What always holds: how the bytes are cut changes nothing; a block that has not ended is not told,
//! and its id does not count. What is held is at most [`BLOCK_BYTES_MAX`]: more is an error.

/// Most bytes held of one block. A node's largest event is 1 MiB.
const BLOCK_BYTES_MAX: usize = 8 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` when the block had none.
    pub(super) name: String,
    /// The id in this very block. (An `EventSource` shows the last id that any block had.)
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// A block was too large to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {} MiB", BLOCK_BYTES_MAX >> 20)]
pub(super) struct TooLarge;

/// See the module. One per connection.
#[derive(Debug)]
pub(super) struct Parser {
    /// Bytes of the line that has not ended.
    line: Vec<u8>,
    /// True exactly when the last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
    /// True until the first line has ended: it may begin with a byte order mark.
    first: bool,
    name: Vec<u8>,
    /// Each line of data, ended with LF.
    data: Vec<u8>,
    /// The id in this block.
    id: Option<Vec<u8>>,
    /// The id of the last block that ended and had one; empty is none.
    last_id: String,
    retry_ms: Option<u64>,
}

impl Parser {
    /// The id carries over from the connection before: blocks without one do not erase it.
    pub(super) fn new(last_id: String) -> Parser {
        Parser {
            line: Vec::new(),
            after_cr: false,
            first: true,
            name: Vec::new(),
            data: Vec::new(),
            id: None,
            last_id,
            retry_ms: None,
        }
    }

    /// From where to go on after this connection; empty is from nowhere.
    pub(super) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The last `retry:` that was told since this was asked last.
    pub(super) fn take_retry_ms(&mut self) -> Option<u64> {
        self.retry_ms.take()
    }

    /// Takes the next bytes and appends what they complete.
    ///
    /// # Errors
    /// When a block is too large; the connection is of no further use then.
    pub(super) fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                return self.check_size();
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.check_size()?;
            events.extend(self.end_line());
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), TooLarge> {
        let id = self.id.as_ref().map_or(0, Vec::len);
        let held = self.line.len() + self.data.len() + self.name.len() + id;
        if held > BLOCK_BYTES_MAX { Err(TooLarge) } else { Ok(()) }
    }

    fn end_line(&mut self) -> Option<Event> {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.first) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.is_empty() {
            return self.end_block();
        }
        let colon = memchr::memchr(b':', &line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => self.name = value.to_vec(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                // More than fits is as long as can be.
                self.retry_ms = Some(text(value).parse().unwrap_or(u64::MAX));
            }
            // Comments, and what later versions may add.
            _ => {}
        }
        // The next line will be about as long.
        line.clear();
        self.line = line;
        None
    }

    fn end_block(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        let id = self.id.take().map(|id| text(&id));
        if let Some(id) = &id {
            self.last_id.clone_from(id);
        }
        // The last line's end; without any line there is no event.
        data.pop()?;
        let name = if name.is_empty() { "message".into() } else { text(&name) };
        Some(Event { name, id: id.filter(|id| !id.is_empty()), data: text(&data) })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is told of a stream: events, the id to go on from, the reconnection time.
    type Told = (Vec<Event>, String, Option<u64>);

    fn read_in(pieces: &[&[u8]]) -> Told {
        let mut parser = Parser::new(String::new());
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut events).expect("small");
        }
        let retry = parser.take_retry_ms();
        (events, parser.last_id().to_owned(), retry)
    }

    fn read(stream: &str) -> Vec<(String, Option<String>, String)> {
        let (events, ..) = read_in(&[stream.as_bytes()]);
        events.into_iter().map(|event| (event.name, event.id, event.data)).collect()
    }

    fn message(data: &str) -> (String, Option<String>, String) {
        ("message".into(), None, data.into())
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(read("data: YHOO\ndata: +2\ndata: 10\n\n"), [message("YHOO\n+2\n10")]);
        let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
        let (events, last_id, _) = read_in(&[stream.as_bytes()]);
        assert_eq!(events.len(), 2, "the third block has not ended");
        assert_eq!((events[0].id.as_deref(), &events[0].data[..]), (Some("1"), "first event"));
        assert_eq!((events[1].id.as_deref(), &events[1].data[..]), (None, "second event"));
        assert_eq!(last_id, "", "an `id` without value erases it");
        assert_eq!(read("data\n\ndata\ndata\n\ndata:"), [message(""), message("\n")]);
        assert_eq!(read("data:test\n\ndata: test\n\n"), [message("test"), message("test")]);
    }

    #[test]
    fn lines_end_in_three_ways() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = ["event: e", "data: a", "data: b", "", "data: c", "", ""].join(end);
            assert_eq!(read(&stream), [("e".into(), None, "a\nb".into()), message("c")], "{end:?}");
        }
        assert_eq!(read("data: a\r\n\rdata: b\n\r"), [message("a"), message("b")]);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_once() {
        assert_eq!(read("\u{feff}data: a\n\n\u{feff}data: b\n\n"), [message("a")]);
        assert_eq!(read("\u{feff}\u{feff}data: a\n\n"), []);
        assert_eq!(read("\u{feff}\ndata: a\n\n"), [message("a")]);
    }

    #[test]
    fn a_block_without_data_is_no_event_but_its_id_counts_and_its_name_does_not_stay() {
        let (events, last_id, _) = read_in(&[b"event: e\nid: 7\n\ndata: x\n\n"]);
        assert_eq!((events.len(), &events[0].name[..], &events[0].id), (1, "message", &None));
        assert_eq!(last_id, "7");
    }

    #[test]
    fn an_id_counts_when_its_block_has_ended() {
        assert_eq!(read_in(&[b"id: 1\ndata: x\n\nid: 2\ndata: y\n"]).1, "1");
        assert_eq!(read_in(&[b"id: 1\ndata: x\n\nid: a\0b\ndata: y\n\n"]).1, "1");
        let mut parser = Parser::new("before".into());
        parser.feed(b"data: x\n\n", &mut Vec::new()).expect("small");
        assert_eq!(parser.last_id(), "before");
    }

    #[test]
    fn a_reconnection_time_is_digits_only() {
        for (line, ms) in [
            ("1500", Some(1500)),
            ("", None),
            ("-1", None),
            ("1s", None),
            ("+1", None),
            (&"9".repeat(30), Some(u64::MAX)),
        ] {
            assert_eq!(read_in(&[format!("retry: {line}\n").as_bytes()]).2, ms, "{line}");
        }
    }

    #[test]
    fn heartbeats_are_never_too_much_and_a_large_block_is() {
        let mut parser = Parser::new(String::new());
        let mut events = Vec::new();
        let comments = ":\n".repeat(1 << 20);
        for _ in 0..8 {
            assert_eq!(parser.feed(comments.as_bytes(), &mut events), Ok(()));
        }
        let line = format!("data: {}\n", "x".repeat((1 << 20) - 1));
        for _ in 0..7 {
            assert_eq!(parser.feed(line.as_bytes(), &mut events), Ok(()));
        }
        assert_eq!(parser.feed(line.as_bytes(), &mut events), Err(TooLarge));
        let endless = vec![b'x'; BLOCK_BYTES_MAX + 1];
        assert_eq!(Parser::new(String::new()).feed(&endless, &mut events), Err(TooLarge));
        assert_eq!(events, []);
    }

    /// The standard's words on the whole stream, without regard to cost.
    fn twin(stream: &[u8]) -> Told {
        let whole = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
        let whole = whole.strip_prefix('\u{feff}').unwrap_or(&whole);
        let (mut events, mut last_id, mut retry) = (Vec::new(), String::new(), None);
        let (mut name, mut data, mut id) = (String::new(), String::new(), None);
        let mut lines: Vec<&str> = whole.split('\n').collect();
        lines.pop();
        for line in lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    last_id = id.clone().unwrap_or(last_id);
                    if let Some(data) = data.strip_suffix('\n') {
                        let name = if name.is_empty() { "message" } else { &name };
                        let id = id.filter(|id: &String| !id.is_empty());
                        events.push(Event { name: name.into(), id, data: data.into() });
                    }
                    (name, data, id) = Default::default();
                }
                "event" => name = value.into(),
                "data" => data = format!("{data}{value}\n"),
                "id" if !value.contains('\0') => id = Some(value.to_owned()),
                "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    retry = Some(value.parse().unwrap_or(u64::MAX));
                }
                _ => {}
            }
        }
        (events, last_id, retry)
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            ":",
            " ",
            "data",
            "data: ",
            "event: e",
            "id: 1",
            "id",
            "retry: 5",
            "x",
            "\0",
            "\u{feff}",
            "é",
            "data:y\n\n",
        ]);
        prop::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(stream in streams(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&stream[from..cut]);
                from = cut;
            }
            pieces.push(&stream[from..]);
            prop_assert_eq!(read_in(&pieces), twin(&stream));
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(read_in(&bytes), twin(&stream));
        }

        #[test]
        fn nothing_that_arrives_panics(stream in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read_in(&[&stream]);
        }
    }
}
