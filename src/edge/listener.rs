//! Listening sockets, and the loop that accepts from one.
//!
//! Sockets are made here but given to shards: one per shard with `SO_REUSEPORT`, so that the kernel
//! spreads connections and no shard accepts for another. What a connection needs is set on the
//! listening socket, from which Linux copies it: no system call per connection.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::{info, warn};

use crate::edge::desk::Desk;
use crate::edge::http;

/// Connections the kernel may hold before they are accepted (it takes the smaller of this and `somaxconn`).
const BACKLOG: i32 = 4096;
/// Most bytes the kernel keeps for a reader: beyond it the reader is blocked.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Most bytes not yet on the wire before a socket counts as full; `tcp_wmem` would allow 4 MiB.
const NOTSENT_LOWAT_BYTES: u32 = 16 << 10;
/// A silent peer is probed after this time, and again at the interval below.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;
/// Pauses after a failed accept (the descriptors are used up), doubling between these.
const BACK_OFF: std::ops::Range<Duration> = Duration::from_millis(10)..Duration::from_millis(500);

/// Makes `count` sockets that share one address. With port 0 the kernel chooses one for all. A peer
/// that acknowledges nothing for `user_timeout` is dead.
///
/// # Errors
/// When the address cannot be bound; `AddrInUse` also when another process shares its port.
pub fn bind(address: SocketAddr, count: usize, user_timeout: Duration) -> io::Result<Vec<std::net::TcpListener>> {
    if address.port() != 0 {
        // `SO_REUSEPORT` would let two nodes of one user share a port unnoticed; this one would not.
        let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        probe.set_reuse_address(true)?;
        probe.bind(&address.into())?;
        probe.listen(1)?;
    }
    let mut listeners = vec![listening_socket(address, user_timeout)?];
    let bound = listeners[0].local_addr()?;
    for _ in 1..count {
        listeners.push(listening_socket(bound, user_timeout)?);
    }
    Ok(listeners)
}

fn listening_socket(address: SocketAddr, user_timeout: Duration) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    prepare(&socket, user_timeout)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets what accepted connections inherit.
fn prepare(socket: &Socket, user_timeout: Duration) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(user_timeout))
}

/// Accepts connections for one shard, until the node stops; then it takes those that the kernel has
/// accepted already, closes the socket, and rests.
pub async fn accept(listener: TcpListener, desk: Rc<Desk>) {
    // The shard goes on until this is done.
    let task = desk.begin_task();
    let mut reserve = Reserve::hold();
    let mut pause = BACK_OFF.start;
    while !desk.node.stop.is_set() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = desk.node.stop.wait() => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                if pause > BACK_OFF.start {
                    info!("accepting connections again");
                    pause = BACK_OFF.start;
                }
                admit(socket, peer, &desk);
            }
            Err(error) if is_the_peers_fault(&error) => {}
            Err(error) => {
                if pause == BACK_OFF.start {
                    warn!(%error, "cannot accept connections; raise the descriptor limit or lower limits.connections");
                }
                reserve.turn_away(&listener);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.end);
            }
        }
    }
    if let Ok(listener) = listener.into_std() {
        admit_the_rest(&listener, &desk);
    }
    drop(task);
    std::future::pending::<()>().await;
}

fn admit(socket: TcpStream, peer: SocketAddr, desk: &Rc<Desk>) {
    // Without a place it is closed unheard.
    if let Some(place) = desk.node.admissions.enter(peer.ip(), desk.node.clock.now_us()) {
        tokio::task::spawn_local(http::serve(socket, Rc::clone(desk), place));
    }
}

/// Takes what the kernel has accepted. The runtime may not have heard of it yet, so it is not asked.
fn admit_the_rest(listener: &std::net::TcpListener, desk: &Rc<Desk>) {
    while let Ok((socket, peer)) = listener.accept() {
        if socket.set_nonblocking(true).is_ok()
            && let Ok(socket) = TcpStream::from_std(socket)
        {
            admit(socket, peer, desk);
        }
    }
}

/// A connection that waits to be accepted.
fn accept_now(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(accepted)) => Some(accepted),
        Poll::Ready(Err(_)) | Poll::Pending => None,
    }
}

/// A descriptor kept for the time when there are no others: given up, it lets connections be
/// accepted one by one just to be closed. Their clients come back later, instead of waiting in the
/// kernel's backlog for an answer that does not come.
struct Reserve(Option<File>);

impl Reserve {
    fn hold() -> Reserve {
        Reserve(File::open("/dev/null").ok())
    }

    /// Closes connections that wait, at most a backlog's worth at a time.
    fn turn_away(&mut self, listener: &TcpListener) {
        if self.0.take().is_some() {
            for _ in 0..BACKLOG {
                if accept_now(listener).is_none() {
                    break;
                }
            }
        }
        *self = Reserve::hold();
    }
}

/// True exactly when the connection failed before it was accepted.
fn is_the_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_port_but_nodes_do_not() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(any, 3, BACK_OFF.end).expect("a free port");
        let address = first[0].local_addr().expect("bound");
        assert!(first.iter().all(|listener| listener.local_addr().is_ok_and(|other| other == address)));
        let second = bind(address, 1, BACK_OFF.end).expect_err("the port is taken");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }
}
