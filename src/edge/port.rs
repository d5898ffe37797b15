//! What the engine writes to: parked sockets, and bodies of HTTP/2 streams.
//!
//! The engine keeps a [`Port`] of eight bytes per connection. A socket is the descriptor itself; a
//! body is found in a table, because few connections are one and what it needs is larger.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use tokio::net::TcpStream;

use crate::edge::admission::{AddressKey, Place};
use crate::edge::desk::Desk;
use crate::edge::http::{LINGER, linger};
use crate::edge::reactor::Sockets;
use crate::edge::stream::Pipe;
use crate::edge::ws::talk::Talks;
use crate::engine::conn::Conn;
use crate::engine::slab::Slab;
use crate::engine::{CloseReason, ConnId, Sent, Sink};
use crate::frame::WireForm;

/// A connection, as the engine holds it.
#[derive(Debug)]
pub enum Port {
    /// A parked socket whose client has nothing to say.
    Socket(OwnedFd),
    /// A parked socket whose client is heard.
    WebSocket(OwnedFd),
    /// The body of an HTTP/2 stream, by its slot in [`Ports`].
    Body(u32),
}

/// The sink of a shard.
pub struct Ports {
    sockets: Sockets,
    bodies: Slab<Rc<Pipe>>,
    /// Whose places the sockets hold, where places are counted by address; else empty.
    addresses: HashMap<RawFd, AddressKey>,
    /// What clients of WebSockets are in the middle of.
    pub talks: Talks,
    desk: Rc<Desk>,
}

impl Ports {
    /// Nobody yet.
    #[must_use]
    pub fn new(sockets: Sockets, desk: Rc<Desk>) -> Ports {
        Ports { sockets, bodies: Slab::default(), addresses: HashMap::new(), talks: Talks::default(), desk }
    }

    /// Takes a socket with its place.
    pub fn take_socket(&mut self, socket: OwnedFd, place: Place, form: WireForm) -> Port {
        if let Some(address) = place.park() {
            self.addresses.insert(socket.as_raw_fd(), address);
        }
        if form.is_websocket() { Port::WebSocket(socket) } else { Port::Socket(socket) }
    }

    /// Takes a body with its place.
    pub fn take_body(&mut self, pipe: Rc<Pipe>, place: Place) -> Port {
        // Streams of one connection are counted by address with it.
        let _ = place.park();
        Port::Body(self.bodies.insert(pipe).slot)
    }

    /// Reads and throws away what a client sends.
    ///
    /// # Errors
    /// Why it must go: it has closed, or sends a flood.
    pub fn discard(&self, port: &Port) -> Result<(), CloseReason> {
        match port {
            Port::Socket(socket) => self.sockets.discard(socket),
            Port::WebSocket(_) | Port::Body(_) => Ok(()),
        }
    }

    /// Reads what a client has sent: none where nothing more is there.
    ///
    /// # Errors
    /// Why it must go: it has closed.
    pub fn read(&self, port: &Port, scratch: &mut [u8]) -> Result<usize, CloseReason> {
        match port {
            Port::WebSocket(socket) => self.sockets.read(socket, scratch),
            Port::Socket(_) | Port::Body(_) => Ok(0),
        }
    }

    /// Ends a WebSocket: our side at once, the connection when its client has ended its own, or takes too long over it
    /// (RFC 6455, section 7.1.1). It keeps its place until then.
    fn say_goodbye(&self, socket: OwnedFd, address: Option<AddressKey>) {
        let desk = Rc::clone(&self.desk);
        let task = desk.begin_task();
        let socket = TcpStream::from_std(socket.into());
        tokio::task::spawn_local(async move {
            let _task = task;
            if let Ok(mut socket) = socket {
                let _ = tokio::time::timeout(LINGER, linger(&mut socket, Vec::new())).await;
            }
            desk.node.admissions.leave(address);
        });
    }

    fn body(&self, slot: u32) -> &Pipe {
        let key = self.bodies.key_at(slot).expect("a body stays until its port is given up");
        self.bodies.get(key).expect("the slot is in use")
    }
}

impl Sink for Ports {
    type Port = Port;

    fn park(&mut self, port: &Port, id: ConnId) -> bool {
        match port {
            Port::Socket(socket) | Port::WebSocket(socket) => self.sockets.park(socket, id),
            Port::Body(slot) => {
                self.body(*slot).park(id);
                true
            }
        }
    }

    fn send(&mut self, port: &Port, bytes: &[u8]) -> Sent {
        match port {
            Port::Socket(socket) | Port::WebSocket(socket) => self.sockets.send(socket, bytes),
            Port::Body(slot) => self.body(*slot).send(bytes),
        }
    }

    fn watch_writable(&mut self, port: &Port, id: ConnId, wanted: bool) {
        match port {
            Port::Socket(socket) | Port::WebSocket(socket) => self.sockets.watch_writable(socket, id, wanted),
            Port::Body(slot) => self.body(*slot).watch_writable(wanted),
        }
    }

    fn unpark(&mut self, port: Port, reason: CloseReason) {
        let address = match port {
            Port::WebSocket(socket) => {
                let fd = socket.as_raw_fd();
                self.talks.forget(fd);
                let address = self.addresses.remove(&fd);
                // Whoever found no place does not keep one while it leaves.
                if !matches!(reason, CloseReason::Gone | CloseReason::Limit) {
                    return self.say_goodbye(socket, address);
                }
                address
            }
            // Closing the descriptor takes it out of the epoll.
            Port::Socket(socket) if self.addresses.is_empty() => {
                drop(socket);
                None
            }
            Port::Socket(socket) => self.addresses.remove(&socket.as_raw_fd()),
            Port::Body(slot) => {
                let key = self.bodies.key_at(slot).expect("a body stays until its port is given up");
                self.bodies.remove(key).expect("the slot is in use").end();
                None
            }
        };
        self.desk.node.admissions.leave(address);
    }
}

// Every parked connection pays for it.
const _: () = assert!(size_of::<Port>() == 8 && Slab::<Conn<Port>>::SLOT_BYTES == 56);
