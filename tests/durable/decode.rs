//! An event stream as a browser reads it: in pieces cut anywhere, and a block counts once its blank line is there.
//!
//! For thousands of streams at once: nothing is allocated for a block but its own text, which is reused.
//! `tests/common/sse.rs` is stricter and reads whole chunks only.

/// An event or a control block, whole.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// `message` where no `event:` line stands.
    pub name: &'a str,
    pub data: &'a str,
    pub id: Option<&'a str>,
}

/// What the bytes so far amount to.
#[derive(Debug, Default)]
pub struct Decoder {
    stage: Stage,
    /// The head, or a chunk's size line, as far as it has come.
    line: Vec<u8>,
    body: Body,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Head,
    Size,
    /// So many bytes of a chunk are still to come.
    Chunk(usize),
    /// CR LF after a chunk.
    Gap,
    /// The blank line behind the last chunk.
    Last,
    End,
}

/// The stream without HTTP's chunks.
#[derive(Debug, Default)]
struct Body {
    line: Vec<u8>,
    name: String,
    data: String,
    data_lines: usize,
    id: Option<String>,
}

impl Decoder {
    /// True exactly when the body has ended as it should.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::End
    }

    /// Takes what came, and calls `hear` with each block that became whole.
    ///
    /// # Errors
    /// What no server of event streams says.
    pub fn decode(&mut self, mut bytes: &[u8], mut hear: impl FnMut(Block<'_>)) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.stage {
                Stage::Head | Stage::Size | Stage::Gap | Stage::Last => {
                    let Some(line) = self.take_line(&mut bytes) else { return Ok(()) };
                    self.handle_line(&line)?;
                }
                Stage::Chunk(left) => {
                    let count = left.min(bytes.len());
                    self.body.decode(&bytes[..count], &mut hear)?;
                    bytes = &bytes[count..];
                    self.stage = if left == count { Stage::Gap } else { Stage::Chunk(left - count) };
                }
                Stage::End => return Err(format!("{} bytes after the end", bytes.len())),
            }
        }
        Ok(())
    }

    /// A line that ended in CR LF, without it.
    fn take_line(&mut self, bytes: &mut &[u8]) -> Option<String> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let count = end.map_or(bytes.len(), |at| at + 1);
        self.line.extend_from_slice(&bytes[..count]);
        *bytes = &bytes[count..];
        end?;
        let line = String::from_utf8_lossy(&self.line).trim_end_matches(['\r', '\n']).to_owned();
        self.line.clear();
        Some(line)
    }

    fn handle_line(&mut self, line: &str) -> Result<(), String> {
        match self.stage {
            // The blank line that ends the head.
            Stage::Head if line.is_empty() => self.stage = Stage::Size,
            Stage::Head if line.starts_with("HTTP/") && !line.starts_with("HTTP/1.1 200 ") => {
                return Err(format!("a stream is answered with {line}"));
            }
            Stage::Head => {}
            Stage::Gap if line.is_empty() => self.stage = Stage::Size,
            Stage::Last if line.is_empty() => self.stage = Stage::End,
            Stage::Size => {
                let size = usize::from_str_radix(line, 16).map_err(|_| format!("no chunk size: {line}"))?;
                self.stage = if size == 0 { Stage::Last } else { Stage::Chunk(size) };
            }
            _ => return Err(format!("a chunk does not end before {line}")),
        }
        Ok(())
    }
}

impl Body {
    fn decode(&mut self, mut bytes: &[u8], hear: &mut impl FnMut(Block<'_>)) -> Result<(), String> {
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            self.line.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.line);
            let text = std::str::from_utf8(&line).map_err(|error| format!("{error} in a stream"))?;
            self.handle_line(text, hear)?;
            self.line = line;
            self.line.clear();
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn handle_line(&mut self, line: &str, hear: &mut impl FnMut(Block<'_>)) -> Result<(), String> {
        if line.is_empty() {
            self.dispatch(hear);
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" | "retry" => {}
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.data_lines > 0 {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.data_lines += 1;
            }
            "id" => self.id = Some(value.to_owned()),
            _ => return Err(format!("an unknown field in {line:?}")),
        }
        Ok(())
    }

    fn dispatch(&mut self, hear: &mut impl FnMut(Block<'_>)) {
        let name = if self.name.is_empty() { "message" } else { &self.name };
        hear(Block { name, data: &self.data, id: self.id.as_deref() });
        self.name.clear();
        self.data.clear();
        self.data_lines = 0;
        self.id = None;
    }
}

#[test]
fn a_stream_cut_anywhere_is_read_alike_and_half_a_block_is_none() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let blocks =
        [":\n", "event: fanwheel.open\ndata: {}\nid: 1-0-abcd\nretry: 5\n\n", "data: a\ndata: b\nid: 2-0-abcd\n\n"];
    let body: String = blocks.iter().map(|text| chunk(text)).collect();
    let wire = format!("{head}{body}0\r\n\r\n");
    let expected = ["fanwheel.open {} 1-0-abcd", "message a\nb 2-0-abcd"];
    for cut in 0..=wire.len() {
        let (mut decoder, mut heard) = (Decoder::default(), Vec::new());
        for piece in [&wire.as_bytes()[..cut], &wire.as_bytes()[cut..]] {
            let before = heard.len();
            let hear = |block: Block<'_>| {
                heard.push(format!("{} {} {}", block.name, block.data, block.id.unwrap_or("none")));
            };
            decoder.decode(piece, hear).unwrap();
            let whole = wire[..cut].matches("\n\n").count();
            assert!(before > 0 || heard.len() == whole || cut == 0 || piece.len() + cut == wire.len(), "{cut}");
        }
        assert_eq!(heard, expected, "cut at {cut}");
        assert!(decoder.is_over());
        assert!(decoder.decode(b"x", |_| ()).is_err_and(|error| error.contains("after the end")));
    }
    let refused = Decoder::default().decode(b"HTTP/1.1 503 no\r\n", |_| ());
    assert!(refused.is_err_and(|error| error.contains("503")));
}
