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
//! it is an entry in the engine's slab and a descriptor in the shard's epoll. (Streams of HTTP/2 share
//! their sockets and stay with hyper: each has a task, and two pieces of 8 KiB at most.) Nothing here knows
//! which source feeds the engine.
//!
//! # Overload
//! Connections are counted for the whole node; over the limit a stream is told to come back, inside a
//! `200`, because a browser gives up for good on any other status. Heads, bodies and topics are
//! bounded before anything is kept of them.

pub mod admin;
pub mod admission;
pub mod calls;
pub mod desk;
pub mod http;
pub mod listener;
pub mod port;
pub mod reactor;
pub mod stream;
pub mod turn;
pub mod ws;

use std::time::Duration;

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
