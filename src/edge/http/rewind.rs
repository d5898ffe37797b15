//! A connection whose first bytes were read to see what it speaks, and are read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What a client that speaks HTTP/2 with prior knowledge begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for the first read: most heads fit, and then they are read once.
const FIRST_READ: usize = 1 << 10;

/// How long the rest of a preface may take.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rewind {
    first: Bytes,
    socket: TcpStream,
}

impl Rewind {
    /// Reads as much as tells what the client speaks, for so long. `None`: it left, or said nothing at
    /// all. One that said too little is left to HTTP/1, where it is told so.
    pub(super) async fn recognise(mut socket: TcpStream, timeout: Duration) -> Option<(Speaks, Rewind)> {
        let mut deadline = Instant::now() + timeout;
        let mut first = BytesMut::with_capacity(FIRST_READ);
        let speaks = loop {
            let read = tokio::time::timeout_at(deadline, socket.read_buf(&mut first)).await;
            let ended = !matches!(read, Ok(Ok(1..)));
            if ended && first.is_empty() {
                return None;
            }
            if first.starts_with(PREFACE) {
                break Speaks::Http2;
            }
            if ended || !PREFACE.starts_with(&first) {
                break Speaks::Http1;
            }
            // Half a preface is not waited for as long as half a head, for which the time begins anew.
            deadline = deadline.min(Instant::now() + PREFACE_TIMEOUT);
        };
        Some((speaks, Rewind { first: first.freeze(), socket }))
    }

    /// The connection alone. What was not read again is lost.
    pub(super) fn into_inner(self) -> TcpStream {
        self.socket
    }
}

impl AsyncRead for Rewind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.advance(count);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewind {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
