//! What the engine writes to: parked sockets, and bodies of HTTP/2 streams.
//!
//! The engine keeps a [`Port`] of eight bytes per connection. A socket is the descriptor itself; a
//! body is found in a table, because few connections are one and what it needs is larger.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::edge::admission::{AddressKey, Admissions, Place};
use crate::edge::reactor::Sockets;
use crate::edge::stream::Pipe;
use crate::engine::conn::Conn;
use crate::engine::slab::Slab;
use crate::engine::{CloseReason, ConnId, Sent, Sink};

/// A connection, as the engine holds it.
#[derive(Debug)]
pub enum Port {
    /// A parked socket.
    Socket(OwnedFd),
    /// The body of an HTTP/2 stream, by its slot in [`Ports`].
    Body(u32),
}

/// The sink of a shard.
#[derive(Debug)]
pub struct Ports {
    sockets: Sockets,
    bodies: Slab<Rc<Pipe>>,
    /// Whose places the sockets hold, where places are counted by address; else empty.
    addresses: HashMap<RawFd, AddressKey>,
    admissions: Arc<Admissions>,
}

impl Ports {
    /// Nobody yet.
    #[must_use]
    pub fn new(sockets: Sockets, admissions: Arc<Admissions>) -> Ports {
        Ports { sockets, bodies: Slab::default(), addresses: HashMap::new(), admissions }
    }

    /// Takes a socket with its place.
    pub fn take_socket(&mut self, socket: OwnedFd, place: Place) -> Port {
        if let Some(address) = place.park() {
            self.addresses.insert(socket.as_raw_fd(), address);
        }
        Port::Socket(socket)
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
            Port::Body(_) => Ok(()),
        }
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
            Port::Socket(socket) => self.sockets.park(socket, id),
            Port::Body(slot) => {
                self.body(*slot).park(id);
                true
            }
        }
    }

    fn send(&mut self, port: &Port, bytes: &[u8]) -> Sent {
        match port {
            Port::Socket(socket) => self.sockets.send(socket, bytes),
            Port::Body(slot) => self.body(*slot).send(bytes),
        }
    }

    fn watch_writable(&mut self, port: &Port, id: ConnId, wanted: bool) {
        match port {
            Port::Socket(socket) => self.sockets.watch_writable(socket, id, wanted),
            Port::Body(slot) => self.body(*slot).watch_writable(wanted),
        }
    }

    fn unpark(&mut self, port: Port, _reason: CloseReason) {
        let address = match port {
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
        self.admissions.leave(address);
    }
}

// Every parked connection pays for it.
const _: () = assert!(size_of::<Port>() == 8 && Slab::<Conn<Port>>::SLOT_BYTES == 56);
