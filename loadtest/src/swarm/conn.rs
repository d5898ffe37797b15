//! The parser of one event stream: HTTP/1.1 response → body → blocks; or, behind a `101`, frames of a WebSocket.
//!
//! **For:** thousands of streams per process that share one read buffer. A parser holds no bytes.
//! What it cannot use yet (half a head, half a block) it points out, and the caller puts it in
//! front of the next read: nearly always nothing.
//!
//! ```text
//! buffer:  │ kept from before │ just read                            │
//!          │ decoded already  │ head │ run │ head │ run │ head │ run    │
//!          │ half a block │ ◄──────── │     blocks      half a block → kept
//! ```
//!
//! A run of body bytes is moved only to where half a block waits for it: nearly always none does,
//! because servers end a chunk where an event ends.
//!
//! **What always holds:** the same bytes give the same blocks, however they are cut.
//! **Overload:** a head over 32 KiB or a block over [`BLOCK_LEN_MAX`] is an error.
//! **Not chosen:** a state machine that walks byte by byte and copies each field out. It needs no
//! kept bytes, but it cannot search for line ends sixteen bytes at a time, and it allocates.

use std::ops::Range;

use anyhow::{Result, bail};

use super::frames;
use crate::http::{Body, Head};

/// The status behind which a connection speaks another protocol.
const SWITCHING: u16 = 101;

/// A longer block is refused: 1 MiB is the largest event of the servers measured, and JSON in
/// which each byte became `\u00XX` is six times that.
pub(crate) const BLOCK_LEN_MAX: usize = 8 << 20;

/// What a stream brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Head {
        status: u16,
    },
    Block(Block<'a>),
    /// The block `data: …` and nothing else, as nearly all are: it fits into registers, and a
    /// [`Block`] written to memory and read back costs as much as all other parsing of an event.
    Data(&'a [u8]),
    /// The response ended properly.
    End,
}

/// One event as written. Fields point into the read buffer.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Empty when there is no such line.
    pub(crate) event: &'a [u8],
    /// The first data line.
    pub(crate) data: &'a [u8],
    /// Data lines. A block without any is not dispatched.
    pub(crate) data_lines: usize,
    pub(crate) id: Option<&'a [u8]>,
    /// The value of `retry:`.
    pub(crate) retry: Option<&'a [u8]>,
    /// All of it, as it came.
    pub(crate) raw: &'a [u8],
}

/// Where a stream stands.
#[derive(Debug)]
pub(crate) struct Parser {
    state: State,
    /// True exactly when the last block ended with a CR at the end of a read: a LF that comes
    /// next belongs to it.
    skip_lf: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Body(Body),
    /// Frames of a WebSocket.
    Frames,
}

impl Default for Parser {
    fn default() -> Self {
        Self { state: State::Head, skip_lf: false }
    }
}

impl Parser {
    /// Takes `buffer`: first the `kept` bytes pointed out the last time, then what was just read.
    /// Returns the range of `buffer` to keep.
    pub(crate) fn handle_bytes(
        &mut self,
        buffer: &mut [u8],
        kept: usize,
        mut emit: impl FnMut(Item<'_>),
    ) -> Result<Range<usize>> {
        let (start, kept) = match self.state {
            State::Body(_) => (0, kept),
            State::Head => {
                let Some(head) = Head::parse(buffer)? else {
                    return Ok(0..buffer.len());
                };
                emit(Item::Head { status: head.status });
                self.state = if head.status == SWITCHING { State::Frames } else { State::Body(head.body) };
                (head.len, 0)
            }
            State::Frames => (0, kept),
        };
        let State::Body(body) = &mut self.state else {
            let taken = frames::take_frames(&buffer[start..], &mut emit)?;
            return Ok(start + taken..buffer.len());
        };
        let mut blocks = start..start + kept;
        let mut at = blocks.end;
        loop {
            let run = body.take_run(buffer, &mut at)?;
            if run.is_empty() {
                break;
            }
            if blocks.is_empty() {
                blocks = run;
            } else {
                buffer.copy_within(run.clone(), blocks.end);
                blocks.end += run.len();
            }
            // Half a block is not searched again for each run: the end of the read decides then.
            if buffer[blocks.clone()].ends_with(b"\n\n") {
                blocks.start += take_blocks(&buffer[blocks.clone()], &mut self.skip_lf, &mut emit);
            }
        }
        blocks.start += take_blocks(&buffer[blocks.clone()], &mut self.skip_lf, &mut emit);
        if blocks.len() > BLOCK_LEN_MAX {
            bail!("a block of more than {BLOCK_LEN_MAX} bytes");
        }
        if body.is_done() {
            emit(Item::End);
        }
        Ok(blocks)
    }
}

/// Emits the whole blocks at the front of `bytes`; returns their length. Comments between blocks
/// count as taken, so that heartbeats are not kept.
fn take_blocks(bytes: &[u8], skip_lf: &mut bool, emit: &mut impl FnMut(Item<'_>)) -> usize {
    let mut taken = usize::from(*skip_lf && bytes.first() == Some(&b'\n'));
    let mut at = taken;
    let mut block = Block::default();
    while let Some(len) = line_len(&bytes[at..]) {
        let line = &bytes[at..at + len];
        if taken == at
            && bytes[at + len..].starts_with(b"\n\n")
            && let Some(data) = line.strip_prefix(b"data: ")
        {
            emit(Item::Data(data));
            at += len + 2;
            taken = at;
            continue;
        }
        let next = at + len + if bytes[at + len..].starts_with(b"\r\n") { 2 } else { 1 };
        if line.is_empty() {
            if block.data_lines > 0 {
                block.raw = &bytes[taken..at];
                emit(Item::Block(block));
            }
            block = Block::default();
            taken = next;
        } else if line[0] == b':' {
            if taken == at {
                taken = next;
            }
        } else {
            block.handle_line(line);
        }
        at = next;
    }
    if let Some(last) = bytes.last() {
        *skip_lf = taken == bytes.len() && *last == b'\r';
    }
    taken
}

/// Bytes before the first line end. Half of all lines of a stream are empty: these need no search.
#[inline]
fn line_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n' | b'\r', ..] => Some(0),
        _ => memchr::memchr2(b'\n', b'\r', bytes),
    }
}

impl<'a> Block<'a> {
    #[inline]
    fn handle_line(&mut self, line: &'a [u8]) {
        if let Some(value) = field(line, b"data") {
            if self.data_lines == 0 {
                self.data = value;
            }
            self.data_lines += 1;
        } else if let Some(value) = field(line, b"event") {
            self.event = value;
        } else if let Some(value) = field(line, b"id") {
            self.id = Some(value);
        } else if let Some(value) = field(line, b"retry") {
            self.retry = Some(value);
        }
    }
}

/// The value of `line` if it is the field `name`; one space after the colon belongs to the syntax.
#[inline]
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of a stream, cut where no event ends. Between them: LF, CR and CRLF as line ends.
    const CHUNKS: [&str; 11] = [
        ":\n",
        "event: fanwheel.open\ndata: {\"topics\":[\"chat\"],\"resumed\":false}\n\n\n",
        "data: one\r\n\r\n:\ndata:two\rid: 7\r",
        "\rdata: a\n:c\ndata\r\n",
        "\nid: ",
        "9\n",
        "event: e\ndata: last\n",
        "\r",
        "\ndata: after CRLF\n\n",
        "data: whole\n\n",
        "data: two\n\ndata: in one\n\n",
    ];

    fn recorded() -> Vec<u8> {
        let mut raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for chunk in CHUNKS {
            raw += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
        }
        (raw + "0\r\n\r\n").into_bytes()
    }

    const MEANT: [&str; 11] = [
        "head 200",
        "fanwheel.open|{\"topics\":[\"chat\"],\"resumed\":false}|1|None",
        "|one|1|None",
        "|two|1|Some(\"7\")",
        "|a|2|None",
        "e|last|1|Some(\"9\")",
        "|after CRLF|1|None",
        "|whole|1|None",
        "|two|1|None",
        "|in one|1|None",
        "end",
    ];

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    /// Feeds `parts` as a worker does, and writes down what comes out.
    fn parse(parts: &[&[u8]]) -> Vec<String> {
        let (mut parser, mut kept, mut seen) = (Parser::default(), Vec::new(), Vec::new());
        for part in parts {
            let mut buffer = [kept.as_slice(), part].concat();
            let keep = parser.handle_bytes(&mut buffer, kept.len(), |item| {
                seen.push(match item {
                    Item::Head { status } => format!("head {status}"),
                    Item::Block(b) => {
                        format!("{}|{}|{}|{:?}", text(b.event), text(b.data), b.data_lines, b.id.map(text))
                    }
                    Item::Data(data) => format!("|{}|1|None", text(data)),
                    Item::End => "end".to_owned(),
                });
            });
            kept = buffer[keep.unwrap()].to_vec();
        }
        seen
    }

    #[test]
    fn a_recorded_stream_gives_the_same_events_wherever_it_is_cut_twice() {
        let raw = recorded();
        assert_eq!(parse(&[&raw]), MEANT);
        for first in 0..raw.len() {
            for second in first..raw.len() {
                let parts = [&raw[..first], &raw[first..second], &raw[second..]];
                assert_eq!(parse(&parts), MEANT, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_recorded_stream_gives_the_same_events_byte_by_byte() {
        let raw = recorded();
        let parts: Vec<&[u8]> = raw.chunks(1).collect();
        assert_eq!(parse(&parts), MEANT);
    }

    #[test]
    fn heartbeats_between_blocks_are_not_kept() {
        let mut parser = Parser { state: State::Body(Body::UntilClose), skip_lf: false };
        let mut buffer = b"data: x\n\n:\n:\n".to_vec();
        let mut blocks = 0;
        let keep = parser.handle_bytes(&mut buffer, 0, |_| blocks += 1).unwrap();
        assert_eq!((keep.len(), blocks), (0, 1));
    }

    #[test]
    fn a_body_without_chunks_is_read_until_the_close() {
        let raw = b"HTTP/1.1 200 OK\r\n\r\ndata: x\n\n";
        assert_eq!(parse(&[raw]), ["head 200", "|x|1|None"]);
    }

    #[test]
    fn what_is_no_response_is_an_error() {
        let mut parser = Parser::default();
        assert!(parser.handle_bytes(&mut b"hello\r\n\r\n".to_vec(), 0, |_| ()).is_err());
    }

    #[test]
    fn a_parser_is_small() {
        assert!(size_of::<Parser>() <= 32, "{}", size_of::<Parser>());
    }
}
