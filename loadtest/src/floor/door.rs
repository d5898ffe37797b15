//! Where streams come into the floor server: accept, read the head, write the same head to all.
//!
//! **For:** the cost of a new stream when nothing else is done for it, and the array of descriptors
//! that events are sent over.
//! **What always holds:** a stream in `groups` has its head and its first block. It stays in the
//! epoll set, edge-triggered, as a server's streams do: the kernel's part of that is in the figures.
//! **Overload:** whoever is not accepted yet waits in the kernel's queue.
//! **Not chosen:** any look at the head but for the number of the group in its path.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

use super::frame::OPENING;
use super::protocol::Accepted;
use crate::clock::now_ns;
use crate::procfs::Cpu;

/// Streams that the kernel may hold for us; it takes less where `somaxconn` is lower.
const BACKLOG: i32 = 4_096;
const HEAD_LEN_MAX: usize = 16 * 1024;
const EVENTS_MAX: usize = 256;
const LISTENER: u64 = u64::MAX;
const ORDERS: u64 = u64::MAX - 1;

/// Takes streams in.
pub(super) struct Door {
    listener: OwnedFd,
    epoll: OwnedFd,
    /// By the number the epoll knows them by; `None` once they are in a group.
    arrived: Vec<Option<OwnedFd>>,
    /// Heads that came in pieces.
    heads: HashMap<usize, Vec<u8>>,
    groups: Vec<Vec<OwnedFd>>,
    /// CPU and time when the first stream came; when the last was answered.
    first: Option<(Cpu, u64)>,
    last_ns: u64,
}

impl Door {
    /// Listens. `orders` becoming readable ends [`Door::accept_until_order`].
    pub(super) fn open(listen: SocketAddr, groups: usize, orders: impl AsFd) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Streams inherit it: a call per stream less.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&listen.into()).with_context(|| format!("listen on {listen}"))?;
        socket.listen(BACKLOG)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, orders, EventData::new_u64(ORDERS), EventFlags::IN)?;
        Ok(Self {
            listener: socket.into(),
            epoll,
            arrived: Vec::new(),
            heads: HashMap::new(),
            groups: (0..groups).map(|_| Vec::new()).collect(),
            first: None,
            last_ns: 0,
        })
    }

    pub(super) fn addr(&self) -> Result<SocketAddr> {
        Ok(TcpListener::from(self.listener.try_clone()?).local_addr()?)
    }

    /// The streams, by group.
    pub(super) fn groups(&self) -> &[Vec<OwnedFd>] {
        &self.groups
    }

    pub(super) fn accepted(&self) -> Accepted {
        let (before, first_ns) = self.first.unwrap_or_default();
        let cpu = Cpu::own().since(before);
        Accepted {
            streams: self.groups.iter().map(Vec::len).sum(),
            user_s: cpu.user_s,
            system_s: cpu.system_s,
            accepting_s: self.last_ns.saturating_sub(first_ns) as f64 / 1e9,
        }
    }

    pub(super) fn accept_until_order(&mut self) -> Result<()> {
        let mut space = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        loop {
            let (events, _) = match epoll::wait(&self.epoll, &mut space, None) {
                Err(Errno::INTR) => continue,
                outcome => outcome?,
            };
            let mut has_order = false;
            for event in events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    ORDERS => has_order = true,
                    index => self.answer(index as usize)?,
                }
            }
            if has_order {
                return Ok(());
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        self.first.get_or_insert_with(|| (Cpu::own(), now_ns()));
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => {
                    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
                    epoll::add(&self.epoll, &stream, EventData::new_u64(self.arrived.len() as u64), flags)?;
                    self.arrived.push(Some(stream));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    /// Answers a stream once its head is whole. Those that are gone are forgotten.
    fn answer(&mut self, index: usize) -> Result<()> {
        let Some(stream) = &self.arrived[index] else {
            return Ok(());
        };
        let mut space = [0; 4096];
        let read = match recv(stream, &mut space, RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(()),
            Ok((0, _)) | Err(_) => {
                self.arrived[index] = None;
                return Ok(());
            }
            Ok((_, len)) => &space[..len],
        };
        let pieces = self.heads.remove(&index);
        let head = pieces.map_or(read.to_vec(), |pieces| [pieces.as_slice(), read].concat());
        if !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < HEAD_LEN_MAX, "a head of more than {HEAD_LEN_MAX} bytes");
            self.heads.insert(index, head);
            return Ok(());
        }
        let group = group_of(&head, self.groups.len())?;
        // An empty socket takes so little at once, unless its peer is gone.
        if send(stream, OPENING, SendFlags::NOSIGNAL) == Ok(OPENING.len()) {
            self.groups[group].extend(self.arrived[index].take());
            self.last_ns = now_ns();
        }
        Ok(())
    }
}

/// The number at the end of the path: `GET /g17 HTTP/1.1`. With one group it does not matter.
fn group_of(head: &[u8], groups: usize) -> Result<usize> {
    if groups == 1 {
        return Ok(0);
    }
    let path = head.split(|&byte| byte == b' ').nth(1).and_then(|path| std::str::from_utf8(path).ok());
    let number = path.and_then(|path| path.strip_prefix("/g")).and_then(|number| number.parse::<usize>().ok());
    match number {
        Some(group) if group < groups => Ok(group),
        _ => bail!("a stream of no group: {path:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    /// A door with `groups` that an order waits for all the time, so that it returns after each turn.
    fn door(groups: usize) -> Door {
        let (orders, mut ring) = std::io::pipe().unwrap();
        ring.write_all(b"x").unwrap();
        let door = Door::open(([127, 0, 0, 1], 0).into(), groups, &orders).unwrap();
        // The epoll set holds the pipe only while somebody does.
        std::mem::forget((orders, ring));
        door
    }

    /// Takes in what comes, until the condition holds.
    fn await_that(door: &mut Door, is_so: impl Fn(&Door) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(door) {
            assert!(Instant::now() < deadline, "it never came");
            door.accept_until_order().unwrap();
        }
    }

    #[test]
    fn a_stream_gets_the_opening_and_joins_the_group_it_names() {
        let mut door = door(20);
        let mut client = TcpStream::connect(door.addr().unwrap()).unwrap();
        client.write_all(b"GET /g17 HTTP/1.1\r\nHost: a\r\n").unwrap();
        await_that(&mut door, |door| !door.heads.is_empty());
        assert_eq!(door.accepted().streams, 0);
        client.write_all(b"\r\n").unwrap();
        await_that(&mut door, |door| door.accepted().streams > 0);
        assert_eq!(door.groups()[17].len(), 1);
        let mut answer = vec![0; OPENING.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, OPENING);
    }

    #[test]
    fn streams_do_not_wait_to_fill_a_packet() {
        let mut door = door(1);
        let mut client = TcpStream::connect(door.addr().unwrap()).unwrap();
        client.write_all(b"GET /anything HTTP/1.1\r\n\r\n").unwrap();
        await_that(&mut door, |door| door.accepted().streams > 0);
        let stream = TcpStream::from(door.groups()[0][0].try_clone().unwrap());
        assert!(stream.nodelay().unwrap());
    }

    #[test]
    fn a_group_is_read_from_the_path_only_where_there_are_several() {
        assert_eq!(group_of(b"GET /events?topic=x HTTP/1.1\r\n\r\n", 1).unwrap(), 0);
        assert_eq!(group_of(b"GET /g3 HTTP/1.1\r\n\r\n", 4).unwrap(), 3);
        assert!(group_of(b"GET /g4 HTTP/1.1\r\n\r\n", 4).is_err());
        assert!(group_of(b"GET / HTTP/1.1\r\n\r\n", 4).is_err());
    }
}
