//! Listening sockets, and the loop that accepts from one.
//!
//! Sockets are made here but given to shards: one per shard with `SO_REUSEPORT`, so that the kernel
//! spreads connections and no shard accepts for another. What a connection needs is set on the
//! listening socket, from which Linux copies it: no system call per connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tracing::warn;

use crate::edge::Admission;
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

/// Accepts connections for one shard until it is dropped.
pub async fn accept(listener: TcpListener, desk: Rc<Desk>) {
    let mut pause = BACK_OFF.start;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                pause = BACK_OFF.start;
                match desk.node.occupancy.enter() {
                    Admission::Refused => drop(socket),
                    admission => {
                        tokio::task::spawn_local(http::serve(socket, Rc::clone(&desk), admission));
                    }
                }
            }
            Err(error) if is_the_peers_fault(&error) => {}
            Err(error) => {
                warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.end);
            }
        }
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
