//! One TCP connection, spoken to in bytes, with deadlines.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// See the module.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    /// Bytes read; those before `taken` have been given away.
    buffer: Vec<u8>,
    taken: usize,
}

/// A response's first line and headers.
#[derive(Debug, Clone)]
pub struct Head {
    pub version: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The only value of a header; names are lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} stands twice in {self:?}");
        value
    }

    pub(super) fn parse(text: &str) -> Head {
        let mut lines = text.split("\r\n");
        let mut status_line = lines.next().unwrap().splitn(3, ' ');
        let version = status_line.next().unwrap().to_owned();
        let status = status_line.next().and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {text}"));
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Head { version, status, headers: headers.collect() }
    }
}

impl Wire {
    /// Connects from whichever address the kernel takes.
    pub fn connect(to: SocketAddr) -> Wire {
        Wire::from_socket(TcpStream::connect(to).unwrap())
    }

    /// As `connect`; `None` when nobody listens.
    pub fn try_connect(to: SocketAddr) -> Option<Wire> {
        TcpStream::connect(to).ok().map(Wire::from_socket)
    }

    /// Connects from an address of the loopback net.
    pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Wire {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        Wire::from_socket(socket.into())
    }

    /// Connects with a receive buffer so small that not reading is soon felt.
    pub fn connect_narrow(to: SocketAddr) -> Wire {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        socket.connect(&to.into()).unwrap();
        Wire::from_socket(socket.into())
    }

    fn from_socket(socket: TcpStream) -> Wire {
        socket.set_nodelay(true).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Wire { socket, buffer: Vec::new(), taken: 0 }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// As `send`, to a peer that may have left.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Ends one side of the connection, or both.
    pub fn shutdown(&mut self, how: std::net::Shutdown) -> std::io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Sends until the peer has closed the connection.
    pub fn flood(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.socket.write_all(&[b'x'; 64 << 10]).is_ok() {
            assert!(Instant::now() < deadline, "nobody minds the flood");
        }
    }

    /// Reads more. False when the peer has ended or reset the connection; `None` when nothing came in time.
    pub fn fill(&mut self, deadline: Instant) -> Option<bool> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).unwrap();
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        }
        let mut piece = [0; 64 << 10];
        loop {
            return match self.socket.read(&mut piece) {
                Ok(count) => {
                    self.buffer.extend_from_slice(&piece[..count]);
                    Some(count > 0)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Some(false),
                Err(error) => panic!("cannot read: {error}"),
            };
        }
    }

    /// What was read and not yet taken.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// Takes `count` bytes of what was read.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.unread()[..count].to_vec();
        self.taken += count;
        bytes
    }

    /// Takes everything up to `end`, which is taken too and left out.
    pub fn take_until(&mut self, end: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unread().windows(end.len()).position(|window| window == end) {
                let bytes = self.take(at);
                self.taken += end.len();
                return bytes;
            }
            self.fill_or_fail(deadline);
        }
    }

    /// Takes exactly `count` bytes.
    pub fn take_exactly(&mut self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while self.unread().len() < count {
            self.fill_or_fail(deadline);
        }
        self.take(count)
    }

    fn fill_or_fail(&mut self, deadline: Instant) {
        match self.fill(deadline) {
            Some(true) => {}
            Some(false) => panic!("ended early, after {:?}", String::from_utf8_lossy(self.unread())),
            None => panic!("nothing more came after {:?}", String::from_utf8_lossy(self.unread())),
        }
    }

    pub fn take_head(&mut self) -> Head {
        Head::parse(std::str::from_utf8(&self.take_until(b"\r\n\r\n")).unwrap())
    }

    /// Takes one chunk's content; empty for the last.
    pub fn take_chunk(&mut self) -> Vec<u8> {
        let size = self.take_until(b"\r\n");
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap(), 16);
        let content = self.take_exactly(size.expect("a chunk begins with its size"));
        assert_eq!(self.take_exactly(2), b"\r\n", "a chunk ends with CR LF");
        content
    }
}
