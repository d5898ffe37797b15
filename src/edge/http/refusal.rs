//! What hyper refuses by itself, said in a sentence.
//!
//! A head that hyper cannot read it answers with a status and an empty body, and one that comes too
//! slowly not at all. Neither tells a person what is wrong. So the connection's [`Muted`] socket
//! swallows exactly that empty answer, and [`Problem`]s of ours are written on the socket after hyper
//! has given it up.
//!
//! What always holds: answers to the requests before it are out. hyper reads a head only when the
//! answer before it was flushed ([`crate::edge::http`] closes a connection whose request's body was
//! not read, the one case that would pass by the flush), so what it writes about a head stands
//! alone in one write. Our own answers are never taken for it: a refusal of ours has a body.
//!
//! Not chosen: reading heads ourselves before hyper does, which would need to follow every body
//! too, in a second parser that could differ from the first.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::edge::http::answer::Problem;
use crate::edge::http::body;
use crate::edge::http::pace::Pace;
use crate::edge::http::rewind::Rewind;
use crate::edge::http::room::HeadRoom;
use crate::edge::{HEAD_BYTES_MAX, HEAD_TIMEOUT};

/// Bytes read at once. hyper begins with a buffer of 8 KiB and lets it grow, up to the largest head,
/// when a read has filled it; a body would leave every connection with the largest.
const READ_BYTES_MAX: usize = (8 << 10) - 1;

/// A connection's socket, through which hyper's own refusals do not pass, and from which it reads little at once.
pub(super) struct Muted {
    io: TokioIo<Rewind>,
    room: HeadRoom,
    pace: Pace,
}

impl Muted {
    /// Mutes hyper on this socket.
    #[must_use]
    pub(super) fn new(socket: Rewind, room: HeadRoom, pace: Pace) -> Muted {
        Muted { io: TokioIo::new(socket), room, pace }
    }

    /// The socket.
    #[must_use]
    pub(super) fn into_inner(self) -> TcpStream {
        self.io.into_inner().into_inner()
    }
}

/// What to tell a client whose connection hyper has ended; `unread` is what it could not read.
/// `None` when there is nothing to answer, or nobody to read it.
#[must_use]
pub(super) fn problem(error: &hyper::Error, unread: &[u8], room: &HeadRoom) -> Option<Problem> {
    if room.is_refused() {
        let asks_for_a_stream = unread.starts_with(b"GET /events");
        return (!asks_for_a_stream).then(body::no_room);
    }
    // Empty lines are no request (RFC 9112, section 2.2).
    let begun = unread.iter().any(|byte| !b"\r\n".contains(byte));
    if error.is_timeout() {
        let sentence = format!("the request's head was not complete after {} s", HEAD_TIMEOUT.as_secs());
        return begun.then(|| Problem::timeout(sentence));
    }
    if error.is_incomplete_message() {
        return begun.then(|| Problem::bad_request("the request's head ended early"));
    }
    if error.is_parse_too_large() {
        return Some(Problem::head_too_large(HEAD_BYTES_MAX));
    }
    if error.is_parse() {
        let other_version = speaks_another_version(unread);
        let malformed = || Problem::bad_request(format!("the request's head is malformed: {error}"));
        return Some(if other_version { Problem::other_version() } else { malformed() });
    }
    None
}

/// True exactly when the request's line is one of a major version that is not 1.
fn speaks_another_version(unread: &[u8]) -> bool {
    let line = unread.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version.strip_prefix(b"HTTP/"), Some([major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit() && *major != b'1')
}

/// True exactly when these bytes are hyper's own answer to a head it cannot read.
fn is_empty_refusal(bytes: &[u8]) -> bool {
    let refuses = bytes.starts_with(b"HTTP/1.1 4") || bytes.starts_with(b"HTTP/1.0 4");
    refuses && bytes.ends_with(b"\r\n\r\n") && memchr::memmem::find(bytes, b"\r\ncontent-length: 0\r\n").is_some()
}

impl Read for Muted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut room = [MaybeUninit::uninit(); READ_BYTES_MAX];
        let bytes_max = into.remaining().min(READ_BYTES_MAX);
        let mut piece = ReadBuf::uninit(&mut room[..bytes_max]);
        ready!(Pin::new(self.io.inner_mut()).poll_read(cx, &mut piece))?;
        if !self.room.take(piece.filled().len()) {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        into.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Muted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if is_empty_refusal(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if written.is_pending() {
            self.pace.block();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && is_empty_refusal(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
        if written.is_pending() {
            self.pace.block();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper asks for it when it has written all there is.
        self.pace.flushed();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_without_a_body_is_swallowed() {
        let head = |status: &str, length: &str| {
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\ndate: x\r\n\r\n")
                .into_bytes()
        };
        for status in ["400 Bad Request", "414 URI Too Long", "431 Request Header Fields Too Large"] {
            assert!(is_empty_refusal(&head(status, "0")));
            assert!(!is_empty_refusal(&head(status, "37")), "one of ours");
        }
        assert!(!is_empty_refusal(&head("200 OK", "0")));
        assert!(!is_empty_refusal(b"HTTP/1.1 100 Continue\r\n\r\n"));
        assert!(!is_empty_refusal(&Problem::not_found().into_last_bytes("now")));
    }

    #[test]
    fn only_another_major_version_is_another_version() {
        for line in ["GET / HTTP/2.0\r\n", "GET / HTTP/0.9\r\nhost: x\r\n", "GET / HTTP/3.0"] {
            assert!(speaks_another_version(line.as_bytes()), "{line}");
        }
        for line in ["GET / HTTP/1.1\r\n", "GET / HTTP/1.7\r\n", "GET / HTTPS/2.0\r\n", "GET /", "", "\x16\x03\x01"] {
            assert!(!speaks_another_version(line.as_bytes()), "{line}");
        }
    }
}
