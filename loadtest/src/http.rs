//! As much of HTTP/1.1 as a reader of responses needs, in pieces cut anywhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::target::Target;

/// A longer head is refused.
pub(crate) const HEAD_LEN_MAX: usize = 32 * 1024;

/// Digits and CR of a size line that is read at once: chunks below 16 MiB.
const SHORT_SIZE_LEN: usize = 7;

/// The head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) body: Body,
    /// True exactly when the server will close the connection after this response.
    pub(crate) closes: bool,
    /// Bytes of the head, blank line included.
    pub(crate) len: usize,
}

/// How the body is delimited, and where in it the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// This many bytes are still to come.
    Length(u64),
    /// Until the server closes.
    UntilClose,
    Chunked(Chunked),
}

/// What stands next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// A chunk's size, of which `value` has been read; `digits` counts its digits.
    Size {
        value: u64,
        digits: u8,
    },
    /// The rest of the size line.
    SizeLine {
        value: u64,
    },
    /// This many bytes of data; never 0.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// The trailer: true at the start of a line.
    Trailer {
        line_is_empty: bool,
    },
    Done,
}

/// What [`Body::decode_in_place`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Body bytes, now at the front of the buffer.
    pub(crate) body_len: usize,
    /// Raw bytes taken: all of them, unless the body ended before.
    pub(crate) taken: usize,
}

impl Head {
    /// Reads a head at the front of `bytes`; `None` while it is not complete.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            if bytes.len() > HEAD_LEN_MAX {
                bail!("a response head of more than {HEAD_LEN_MAX} bytes");
            }
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..end]).context("a response head that is not text")?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let mut words = status_line.split(' ');
        let version = words.next().unwrap_or_default();
        let status = words.next().and_then(|status| status.parse::<u16>().ok());
        let Some(status) = status.filter(|_| version.starts_with("HTTP/1.")) else {
            bail!("not a response of HTTP/1: {status_line:?}");
        };
        let mut head = Self { status, body: Body::UntilClose, closes: version == "HTTP/1.0", len: end + 4 };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            head.handle_field(name, value.trim())?;
        }
        if matches!(status, 100..200 | 204 | 304) {
            head.body = Body::Length(0);
        }
        head.closes |= head.body == Body::UntilClose;
        Ok(Some(head))
    }

    fn handle_field(&mut self, name: &str, value: &str) -> Result<()> {
        if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            self.body = Body::Chunked(Chunked::START);
        } else if name.eq_ignore_ascii_case("content-length") && self.body == Body::UntilClose {
            let length = value.parse().with_context(|| format!("a Content-Length of {value:?}"))?;
            self.body = Body::Length(length);
        } else if name.eq_ignore_ascii_case("connection") {
            self.closes |= value.eq_ignore_ascii_case("close");
        }
        Ok(())
    }
}

impl Chunked {
    pub(crate) const START: Self = Self::Size { value: 0, digits: 0 };
}

impl Body {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Done))
    }

    /// Takes raw bytes and moves the body bytes among them to the front of `bytes`.
    pub(crate) fn decode_in_place(&mut self, bytes: &mut [u8]) -> Result<Decoded> {
        let (mut body_len, mut taken) = (0, 0);
        loop {
            let run = self.take_run(bytes, &mut taken)?;
            if run.is_empty() {
                return Ok(Decoded { body_len, taken });
            }
            body_len += run.len();
            bytes.copy_within(run.clone(), body_len - run.len());
        }
    }

    /// Takes raw bytes from `at` on, up to the end of the next run of body bytes: that run. Empty
    /// when the bytes or the body ended before.
    #[inline]
    pub(crate) fn take_run(&mut self, bytes: &[u8], at: &mut usize) -> Result<Range<usize>> {
        let left = (bytes.len() - *at) as u64;
        let len = match self {
            Self::UntilClose => left,
            Self::Length(length) => {
                let len = left.min(*length);
                *length -= len;
                len
            }
            Self::Chunked(state) => return state.take_run(bytes, at),
        };
        let run = *at..*at + len as usize;
        *at = run.end;
        Ok(run)
    }
}

impl Chunked {
    #[inline]
    fn take_run(&mut self, bytes: &[u8], at: &mut usize) -> Result<Range<usize>> {
        self.take_line_ends(bytes, at);
        while *at < bytes.len() && *self != Self::Done {
            if let Self::Data(left) = *self {
                let len = left.min((bytes.len() - *at) as u64) as usize;
                let run = *at..*at + len;
                *self = if left == len as u64 { Self::DataEnd } else { Self::Data(left - len as u64) };
                *at = run.end;
                return Ok(run);
            }
            *self = self.after(bytes[*at])?;
            *at += 1;
        }
        Ok(*at..*at)
    }

    /// Takes what nearly always stands between data and data, if all of it is there: a line end and
    /// a size without extensions. The rest is read byte by byte.
    #[inline]
    fn take_line_ends(&mut self, bytes: &[u8], at: &mut usize) {
        if *self == Self::DataEnd && bytes[*at..].starts_with(b"\r\n") {
            *self = Self::START;
            *at += 2;
        }
        if *self == Self::START
            && let Some((value, len)) = size_line(&bytes[*at..])
        {
            *self = Self::Data(value);
            *at += len;
        }
    }

    /// The state after one byte that is not data.
    #[inline]
    fn after(self, byte: u8) -> Result<Self> {
        Ok(match (self, byte) {
            (Self::Size { value, digits }, _) if digits < 15 && byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).expect("it was just checked");
                Self::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => bail!("a chunk size that begins with {byte:#04x}"),
            (Self::Size { value, .. }, b'\r' | b';' | b' ') => Self::SizeLine { value },
            (Self::Size { value: 0, .. } | Self::SizeLine { value: 0 }, b'\n') => Self::Trailer { line_is_empty: true },
            (Self::Size { value, .. } | Self::SizeLine { value }, b'\n') => Self::Data(value),
            (Self::Size { .. }, _) => bail!("a chunk size with {byte:#04x} in it"),
            (Self::SizeLine { value }, _) => Self::SizeLine { value },
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::START,
            (Self::DataEnd, _) => bail!("a chunk longer than its size"),
            (Self::Trailer { line_is_empty: true }, b'\n') => Self::Done,
            (Self::Trailer { .. }, b'\n') => Self::Trailer { line_is_empty: true },
            (Self::Trailer { line_is_empty }, b'\r') => Self::Trailer { line_is_empty },
            (Self::Trailer { .. }, _) => Self::Trailer { line_is_empty: false },
            (Self::Data(_) | Self::Done, _) => unreachable!("the caller handles data and stops when done"),
        })
    }
}

/// The size of the chunk that begins with `bytes` and the length of its size line, where both are short.
#[inline]
fn size_line(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (len, &byte) in bytes.iter().take(SHORT_SIZE_LEN).enumerate() {
        match char::from(byte).to_digit(16) {
            Some(digit) => value = value << 4 | u64::from(digit),
            None => return (value > 0 && bytes[len..].starts_with(b"\r\n")).then_some((value, len + 2)),
        }
    }
    None
}

/// The body of a small page, over a connection of its own.
pub(crate) fn get(target: &Target, path: &str) -> Result<String> {
    let deadline = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&target.addr, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", target.authority)?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    let head = Head::parse(&response)?.context("the connection was closed within the head")?;
    if head.status != 200 {
        bail!("GET {path}: status {}", head.status);
    }
    let mut body = head.body;
    let decoded = body.decode_in_place(&mut response[head.len..])?;
    Ok(String::from_utf8_lossy(&response[head.len..][..decoded.body_len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_say_how_their_body_ends() {
        let parse = |text: &str| Head::parse(text.as_bytes()).unwrap().unwrap();
        let head = parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nrest");
        assert_eq!((head.status, head.body, head.closes, head.len), (200, Body::Chunked(Chunked::START), false, 47));
        assert_eq!(parse("HTTP/1.1 202 Accepted\r\ncontent-length: 12\r\n\r\n").body, Body::Length(12));
        assert!(parse("HTTP/1.1 200 OK\r\n\r\n").closes);
        assert!(parse("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").closes);
        assert!(parse("HTTP/1.1 204 No Content\r\n\r\n").body.is_done());
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap(), None);
        assert!(Head::parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn a_chunked_body_is_the_same_however_it_is_cut() {
        let raw =
            b"5\r\nhello\r\n7;ext=1\r\n, world\r\n00A\r\n0123456789\r\n000000001\n!\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for first in 0..raw.len() {
            for second in first..raw.len() {
                let (mut state, mut body, mut taken) = (Body::Chunked(Chunked::START), Vec::new(), 0);
                for part in [&raw[..first], &raw[first..second], &raw[second..]] {
                    let mut part = part.to_vec();
                    let decoded = state.decode_in_place(&mut part).unwrap();
                    body.extend_from_slice(&part[..decoded.body_len]);
                    taken += decoded.taken;
                }
                assert_eq!(body, b"hello, world0123456789!");
                assert_eq!((state.is_done(), taken), (true, raw.len() - 4));
            }
        }
    }

    #[test]
    fn a_broken_chunk_is_an_error() {
        for raw in ["x\r\n", "5\r\nhelloX", "\r\n", "1z\r\n"] {
            let mut state = Body::Chunked(Chunked::START);
            assert!(state.decode_in_place(&mut raw.as_bytes().to_vec()).is_err(), "{raw:?}");
        }
    }
}
