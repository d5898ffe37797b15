//! The reactor: the parked sockets of one shard, in one edge-triggered epoll.
//!
//! A socket is watched for its peer's data and leaving, and for writability only while the engine
//! has something left for it. The epoll itself is awaited by the shard's runtime as one descriptor.
//! Event data carries slot and generation, so an event for a connection that is gone finds nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::unix::AsyncFd;

use crate::engine::slab::Key;
use crate::engine::{CloseReason, ConnId, Sent};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// The buffer into which all parked connections' bytes are read, to be thrown away.
const SCRATCH_BYTES: usize = 4 << 10;
/// Reads per event. A stream's client has nothing to say after its request; one that sends more
/// than 64 KiB at once is not one.
const READS_MAX: usize = 16;

/// What happened to a parked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The peer left, or the connection failed.
    Gone,
    /// The peer sent something; it must be read.
    Readable,
    /// The socket can take bytes again.
    Writable,
}

/// The poller.
pub struct Reactor {
    poll: Poll,
    events: Events,
}

impl Reactor {
    /// An empty epoll, and the sink that writes to the sockets in it.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new() -> io::Result<(Reactor, Sockets)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let reactor = Reactor { poll, events: Events::with_capacity(EVENTS_MAX) };
        Ok((reactor, Sockets { registry }))
    }

    /// The reactor as one descriptor that the shard's runtime can await.
    ///
    /// # Errors
    /// When the runtime's own epoll refuses it.
    #[allow(unsafe_code)]
    pub fn awaited(self) -> io::Result<AsyncFd<Reactor>> {
        // SAFETY: the descriptor is the epoll that `self.poll` owns. `AsyncFd` owns `self` from here
        // on; `poll` is private, is never replaced, and closes its descriptor only when dropped,
        // so `as_raw_fd` names the same open epoll for as long as the registration exists.
        let registered = unsafe { AsyncFd::register_with_interest(self, tokio::io::Interest::READABLE) };
        registered.map_err(io::Error::from)
    }

    /// What has happened since the last call, without waiting.
    ///
    /// # Errors
    /// When epoll fails, which it does not on descriptors of its own.
    pub fn poll(&mut self) -> io::Result<impl Iterator<Item = (ConnId, Happened)> + '_> {
        while let Err(error) = self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(self.events.iter().flat_map(|event| {
            let id = Key::unpack(event.token().0 as u64);
            let gone = event.is_read_closed() || event.is_write_closed() || event.is_error();
            let happened = [
                gone.then_some(Happened::Gone),
                (!gone && event.is_writable()).then_some(Happened::Writable),
                (!gone && event.is_readable()).then_some(Happened::Readable),
            ];
            happened.into_iter().flatten().map(move |what| (id, what))
        }))
    }
}

impl AsRawFd for Reactor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.poll.as_raw_fd()
    }
}

/// The parked sockets' part of the sink: plain `send`.
#[derive(Debug)]
pub struct Sockets {
    registry: Registry,
}

impl Sockets {
    /// Reads and throws away what a client sends.
    ///
    /// # Errors
    /// Why it must go: it has closed, or sends a flood.
    pub fn discard(&self, socket: &OwnedFd) -> Result<(), CloseReason> {
        let mut scratch = [0; SCRATCH_BYTES];
        for _ in 0..READS_MAX {
            match rustix::net::recv(socket, &mut scratch, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(CloseReason::Gone),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(CloseReason::Gone),
            }
        }
        Err(CloseReason::Protocol)
    }

    /// Reads what a client has sent: none where nothing more is there.
    ///
    /// # Errors
    /// Why it must go: it has closed.
    pub fn read(&self, socket: &OwnedFd, scratch: &mut [u8]) -> Result<usize, CloseReason> {
        loop {
            return match rustix::net::recv(socket, &mut *scratch, RecvFlags::DONTWAIT) {
                Ok((0, _)) => Err(CloseReason::Gone),
                Ok((count, _)) => Ok(count),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => Ok(0),
                Err(_) => Err(CloseReason::Gone),
            };
        }
    }

    /// As [`crate::engine::Sink::park`].
    pub fn park(&self, port: &OwnedFd, id: ConnId) -> bool {
        self.registry.register(&mut SourceFd(&port.as_raw_fd()), token(id), Interest::READABLE).is_ok()
    }

    /// As [`crate::engine::Sink::send`].
    pub fn send(&self, port: &OwnedFd, bytes: &[u8]) -> Sent {
        loop {
            return match rustix::net::send(port, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(taken) if taken == bytes.len() => Sent::All,
                Ok(taken) => Sent::Part(taken),
                Err(rustix::io::Errno::AGAIN) => Sent::Part(0),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => Sent::Closed,
            };
        }
    }

    /// As [`crate::engine::Sink::watch_writable`].
    pub fn watch_writable(&self, port: &OwnedFd, id: ConnId, wanted: bool) {
        let interest = if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // A registered descriptor can be changed without new memory: there is nothing to handle.
        let changed = self.registry.reregister(&mut SourceFd(&port.as_raw_fd()), token(id), interest);
        debug_assert!(changed.is_ok());
    }
}

fn token(id: ConnId) -> Token {
    Token(usize::try_from(id.pack()).expect("64-bit Linux"))
}

const _: () = assert!(usize::BITS == 64, "event data carries slot and generation");
