//! The edge: everything that touches a client.
//!
//! ```text
//!  listener ──► hyper task (http/) ──► ordinary answers
//!                    │ takes the socket back from hyper
//!                    ▼
//!              newcomers ──► turn ──► Shard::join        (engine)
//!                             │
//!                          reactor: epoll, send          (Sink)
//! ```
//!
//! What always holds: a parked stream has no task, no channel, no timer and no buffer of its own;
//! it is an entry in the engine's slab and a descriptor in the shard's epoll. Nothing here knows
//! which source feeds the engine.
//!
//! # Overload
//! Connections are counted for the whole node; over the limit a stream is told to come back, inside a
//! `200`, because a browser gives up for good on any other status. Heads, bodies and topics are
//! bounded before anything is kept of them.

pub mod admin;
pub mod calls;
pub mod desk;
pub mod http;
pub mod listener;
pub mod reactor;
pub mod turn;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the edge bounds, for the whole node.
#[derive(Debug, Clone)]
pub struct EdgeLimits {
    /// Connections on the public listener. Default: the descriptor limit less [`DESCRIPTOR_RESERVE`].
    pub connections_max: usize,
    /// Topics per stream. Default 100.
    pub topics_per_stream_max: usize,
}

/// Descriptors kept for everything but client connections: listeners, Redis, the admin listener,
/// and answers to those who come when the node is full.
pub const DESCRIPTOR_RESERVE: usize = 256;
/// Connections served while the node is full, only to be told so; more are closed unheard.
pub const TURNED_AWAY_MAX: usize = DESCRIPTOR_RESERVE / 2;
/// Most bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most headers of a request.
pub const HEADERS_MAX: usize = 100;
/// How long a client may take over a request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take over a request's body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections of the node, counted by all its shards.
#[derive(Debug)]
pub struct Occupancy {
    connections: AtomicUsize,
    max: usize,
}

/// Whether a connection found room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It did.
    Admitted,
    /// It did not, and is served only to be told so.
    TurnedAway,
    /// Not even that.
    Refused,
}

impl Occupancy {
    /// Nobody yet.
    #[must_use]
    pub fn new(max: usize) -> Occupancy {
        Occupancy { connections: AtomicUsize::new(0), max }
    }

    /// Counts a connection, unless it is refused.
    pub fn enter(&self) -> Admission {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before < self.max {
            Admission::Admitted
        } else if before < self.max + TURNED_AWAY_MAX {
            Admission::TurnedAway
        } else {
            self.leave();
            Admission::Refused
        }
    }

    /// Counts a connection off.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// True exactly when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_tells_some_and_refuses_the_rest() {
        let occupancy = Occupancy::new(2);
        assert_eq!(occupancy.enter(), Admission::Admitted);
        assert_eq!(occupancy.enter(), Admission::Admitted);
        for _ in 0..TURNED_AWAY_MAX {
            assert_eq!(occupancy.enter(), Admission::TurnedAway);
        }
        assert_eq!(occupancy.enter(), Admission::Refused);
        assert_eq!(occupancy.len(), 2 + TURNED_AWAY_MAX, "the refused are not counted");
        for _ in 0..=TURNED_AWAY_MAX {
            occupancy.leave();
        }
        assert_eq!(occupancy.enter(), Admission::Admitted);
    }
}
