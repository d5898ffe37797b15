//! How streams begin and end.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

use anyhow::{Result, bail};
use checker::history::End;
use mio::net::TcpStream;
use mio::{Interest, Token};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::conn::Parser;
use super::super::spread::STREAMS_PER_SOURCE;
use super::{Conn, Kind, Phase, Worker};
use crate::clock::now_ns;
use crate::procfs;

/// The smallest receive buffer a kernel grants is about this (it doubles the wish).
const STALLED_RECEIVE_BUFFER: usize = 4096;
/// A slow reader's: small, so that it is the server that feels how slow it is.
const SLOW_RECEIVE_BUFFER: usize = 16 * 1024;
/// What browsers wait before they connect again when the server says nothing.
const RETRY_DEFAULT_MS: u32 = 3_000;
/// A server's wish is followed within these bounds; no browser comes back sooner.
const RETRY_MS: RangeInclusive<u32> = 100..=60_000;

impl Conn {
    pub(super) fn new() -> Self {
        Self {
            socket: None,
            parser: Parser::default(),
            phase: Phase::Waiting,
            has_kept: false,
            is_reopening: false,
            retry_ms: RETRY_DEFAULT_MS,
            started_ns: 0,
        }
    }

    pub(super) fn set_retry(&mut self, retry_ms: u32) {
        self.retry_ms = retry_ms.clamp(*RETRY_MS.start(), *RETRY_MS.end());
    }
}

impl Worker {
    /// Opens as many streams as the ramp allows by now.
    pub(super) fn open_more(&mut self, now: u64) {
        while let Some(index) = self.ramp.take(now) {
            self.first_connect_ns.get_or_insert(now);
            match self.connect(index) {
                Ok(socket) => {
                    let conn = &mut self.conns[index];
                    conn.socket = Some(socket);
                    conn.parser = Parser::default();
                    conn.phase = Phase::Connecting;
                    if !conn.is_reopening {
                        conn.started_ns = now_ns();
                    }
                }
                Err(error) => {
                    self.conns[index].phase = Phase::Connecting;
                    self.handle_close(index, &format!("connect: {error}"));
                }
            }
        }
    }

    fn connect(&self, index: usize) -> io::Result<TcpStream> {
        let addr = self.plan.target.addr;
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        match self.kind(index) {
            Kind::Reader => {
                if let Some(bytes) = self.plan.receive_buffer_bytes {
                    socket.set_recv_buffer_size(bytes)?;
                }
            }
            Kind::Slow => socket.set_recv_buffer_size(SLOW_RECEIVE_BUFFER)?,
            Kind::Stalled => socket.set_recv_buffer_size(STALLED_RECEIVE_BUFFER)?,
        }
        if let Some(source) = self.source(index) {
            setsockopt(&socket.as_fd(), IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    fn source(&self, index: usize) -> Option<Ipv4Addr> {
        let sources = &self.plan.sources;
        let turn = index / STREAMS_PER_SOURCE;
        (!sources.is_empty()).then(|| sources[turn % sources.len()])
    }

    /// Sends the request once the connection stands; false while it does not.
    pub(super) fn send_request(&mut self, index: usize) -> Result<bool> {
        let last = self.recorder(index).and_then(|recorder| recorder.last(index));
        let conn = &mut self.conns[index];
        let Some(socket) = conn.socket.as_mut() else {
            return Ok(false);
        };
        if let Some(error) = socket.take_error()? {
            return Err(error.into());
        }
        let topics = self.plan.topics_of(&self.choice, index);
        let request = self.plan.dialect.subscribe_request(&self.plan.target, topics, last);
        match socket.write(request.as_bytes()) {
            Ok(len) if len == request.len() => {}
            Ok(len) => bail!("the kernel took {len} bytes of the request"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.poll.registry().reregister(socket, Token(index), Interest::READABLE)?;
        conn.phase = Phase::Opening;
        if let Some(recorder) = self.recorder(index) {
            recorder.handle_asked(index);
        }
        Ok(true)
    }

    pub(super) fn handle_open(&mut self, index: usize, now: u64) {
        let kind = self.kind(index);
        let conn = &mut self.conns[index];
        conn.phase = Phase::Open;
        self.ramp.settle();
        self.progress.open += 1;
        self.progress.readers_open += usize::from(kind == Kind::Reader);
        let took_ns = now.saturating_sub(conn.started_ns);
        if std::mem::take(&mut conn.is_reopening) {
            self.progress.reopened += 1;
            self.cut_to_open.record(took_ns);
            self.last_reopened_ns = now;
        } else {
            self.connect_to_open.record(took_ns);
            self.last_opened_ns = Some(now);
            match kind {
                Kind::Reader => self.progress.readers_opened += 1,
                Kind::Slow => self.progress.slow_opened += 1,
                Kind::Stalled => self.progress.stalled_opened += 1,
            }
        }
        match kind {
            Kind::Reader => self.readers_seen.begin_life(index, now),
            Kind::Slow => self.slow_seen.begin_life(index - self.plan.readers, now),
            Kind::Stalled => {}
        }
    }

    /// This side ends an open stream, to open it again.
    pub(super) fn cut(&mut self, index: usize, now: u64) {
        if self.conns[index].phase != Phase::Open {
            return;
        }
        self.end_life(index, now, End::Left);
        self.progress.cut += 1;
        self.conns[index].phase = Phase::Waiting;
        self.conns[index].is_reopening = true;
        self.conns[index].started_ns = now;
        self.ramp.push(index, now);
    }

    /// The server, or an error, ended a stream.
    pub(super) fn handle_close(&mut self, index: usize, reason: &str) {
        let now = now_ns();
        match self.conns[index].phase {
            Phase::Waiting => self.fail(index, reason),
            phase @ (Phase::Connecting | Phase::Opening) => {
                if phase == Phase::Opening {
                    self.record_end(index, End::Closed);
                }
                self.ramp.settle();
                self.drop_socket(index);
                self.fail(index, reason);
            }
            Phase::Open => {
                self.end_life(index, now, End::Closed);
                self.conns[index].phase = Phase::Ended;
                self.note_end(index, reason, now);
            }
            Phase::Ended | Phase::Failed => self.drop_socket(index),
        }
    }

    fn note_end(&mut self, index: usize, reason: &str, now: u64) {
        match self.kind(index) {
            Kind::Reader => {
                self.progress.readers_closed += 1;
                self.conns[index].started_ns = now;
                self.first_error.get_or_insert_with(|| format!("an open stream ended: {reason}"));
                self.open_again_later(index, now);
            }
            Kind::Slow => self.progress.slow_closed += 1,
            Kind::Stalled => {
                self.progress.stalled_closed += 1;
                self.stalled_closed_ns.push(now);
            }
        }
    }

    fn open_again_later(&mut self, index: usize, now: u64) {
        if self.plan.reconnects {
            let conn = &mut self.conns[index];
            conn.phase = Phase::Waiting;
            conn.is_reopening = true;
            self.ramp.push_later(index, now + u64::from(conn.retry_ms) * 1_000_000);
        }
    }

    /// A stream that did not open: a browser would try again where it was open before.
    fn fail(&mut self, index: usize, reason: &str) {
        self.first_error.get_or_insert_with(|| format!("a stream did not open: {reason}"));
        if self.conns[index].is_reopening && self.plan.reconnects && self.begun {
            self.open_again_later(index, now_ns());
        } else {
            self.conns[index].phase = Phase::Failed;
            self.progress.failed += 1;
        }
    }

    fn record_end(&mut self, index: usize, end: End) {
        if let Some(recorder) = self.recorder(index) {
            recorder.handle_ended(index, end);
        }
    }

    fn end_life(&mut self, index: usize, now: u64, end: End) {
        self.record_end(index, end);
        self.drop_socket(index);
        self.progress.open -= 1;
        self.progress.readers_open -= usize::from(self.kind(index) == Kind::Reader);
        match self.kind(index) {
            Kind::Reader => self.readers_seen.end_life(index, now),
            Kind::Slow => self.slow_seen.end_life(index - self.plan.readers, now),
            Kind::Stalled => {}
        }
    }

    /// Dropping the socket takes it out of the epoll set.
    fn drop_socket(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.socket = None;
        if std::mem::take(&mut conn.has_kept) {
            self.kept_len -= self.kept.remove(&index).map_or(0, |bytes| bytes.len());
        }
    }

    /// A client that does not read is not told of a close while unread data fills its window: the
    /// server's FIN waits behind that data. The server's side of the socket shows it at once.
    pub(super) fn look_for_closed_stalled(&mut self) {
        let states = procfs::server_socket_states(self.plan.target.addr.port());
        if states.is_empty() {
            return;
        }
        for index in self.plan.readers + self.plan.slow..self.conns.len() {
            let conn = &self.conns[index];
            let local = conn.socket.as_ref().and_then(|socket| socket.local_addr().ok());
            if let (Phase::Open, Some(SocketAddr::V4(local))) = (conn.phase, local)
                && !is_held_by_server(&states, local)
            {
                self.handle_close(index, "closed");
            }
        }
    }
}

/// True unless the server's side is gone or on its way out.
fn is_held_by_server(states: &HashMap<SocketAddrV4, u8>, client: SocketAddrV4) -> bool {
    matches!(states.get(&client), Some(&(procfs::TCP_ESTABLISHED | procfs::TCP_CLOSE_WAIT)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::SockRef;

    use super::*;
    use crate::swarm::WorkerPlan;
    use crate::target::Target;

    #[test]
    fn readers_have_the_receive_buffer_that_was_asked_for_and_slow_ones_their_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let granted = |receive_buffer_bytes, index| {
            let target = Target { addr: listener.local_addr().unwrap(), authority: String::new() };
            let plan = WorkerPlan {
                target,
                slow: 1,
                receive_buffer_bytes,
                topics: vec!["a".to_owned()],
                topics_per_stream: 1,
                ..WorkerPlan::sample(1)
            };
            let socket = Worker::new(plan).unwrap().connect(index).unwrap();
            SockRef::from(&socket).recv_buffer_size().unwrap()
        };
        // The kernel doubles the wish.
        assert_eq!((granted(Some(32_768), 0), granted(Some(8_192), 0)), (65_536, 16_384));
        assert_eq!(granted(Some(8_192), 1), 2 * SLOW_RECEIVE_BUFFER);
        let plain = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(granted(None, 0), SockRef::from(&plain).recv_buffer_size().unwrap());
    }
}
