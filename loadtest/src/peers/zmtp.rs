//! The sending half of ZeroMQ's wire protocol (ZMTP 3.0): what a `PUSH` socket says to a `PULL` one.
//!
//! Pushpin's fast way in. Without a security mechanism that is one greeting, one command and a
//! length before each message; the crates that speak it bring a runtime or a C++ library.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

const GREETING_LEN: usize = 64;
const READY: &[u8] = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH";
/// The flag of a frame whose length takes eight bytes.
const LONG: u8 = 0x02;
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A connection to a `PULL` socket. Messages sent on one arrive in their order.
pub(super) struct Push {
    stream: TcpStream,
}

impl Push {
    pub(super) fn connect(addr: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(addr).with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        stream.write_all(&greeting())?;
        let mut peer = [0; GREETING_LEN];
        stream.read_exact(&mut peer).context("ZMTP greeting")?;
        ensure!(peer[0] == 0xff && peer[10] >= 3, "{addr} does not speak ZMTP 3");
        stream.write_all(READY)?;
        let mut ready = [0; 2];
        stream.read_exact(&mut ready).context("ZMTP handshake")?;
        let mut properties = vec![0; usize::from(ready[1])];
        stream.read_exact(&mut properties).context("ZMTP handshake")?;
        ensure!(ready[0] == READY[0] && properties.starts_with(&READY[2..8]), "{addr} refused the ZMTP handshake");
        Ok(Self { stream })
    }

    /// Sends what [`encode`] made.
    pub(super) fn send(&mut self, frames: &[u8]) -> Result<()> {
        self.stream.write_all(frames).context("send to Pushpin")
    }
}

/// Appends `message` as one frame.
pub(super) fn encode(message: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(message.len()) {
        Ok(len) => out.extend_from_slice(&[0, len]),
        Err(_) => {
            out.push(LONG);
            out.extend_from_slice(&(message.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(message);
}

/// Signature, version 3.0, mechanism `NULL`, not as a server.
fn greeting() -> [u8; GREETING_LEN] {
    let mut greeting = [0; GREETING_LEN];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_messages_carry_their_length() {
        let mut out = Vec::new();
        encode(b"abc", &mut out);
        encode(&[b'x'; 256], &mut out);
        assert_eq!(out[..5], *b"\x00\x03abc");
        assert_eq!(out[5..15], *b"\x02\0\0\0\0\0\0\x01\0x");
        assert_eq!(out.len(), 5 + 9 + 256);
    }

    #[test]
    fn the_ready_command_is_as_long_as_it_says() {
        assert_eq!(READY.len() - 2, usize::from(READY[1]));
    }
}
