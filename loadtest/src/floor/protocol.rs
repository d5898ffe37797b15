//! What the parent and the floor server say to each other: one JSON value per line.
//!
//! ```text
//! parent                    floor server
//!   ServerPlan ───────────►   listens
//!             ◄───────────  Listening(address); accepts from now on
//!   Count ────────────────►
//!             ◄───────────  Accepted
//!   Publish(start) ───────►   sends as planned
//!             ◄───────────  Published
//!   end of stdin ─────────►   exits
//! ```
//!
//! The parent orders nothing before it has the answer to its last order, so at most one line is on
//! its way. When its stdin ends the server exits: it never outlives its parent.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::SendBy;
use crate::latency::Buckets;

/// What the floor server is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ServerPlan {
    pub(super) listen: SocketAddr,
    pub(super) run: u32,
    /// Stream j belongs to group j mod this; so does the event (or batch) j. At least 1.
    pub(super) groups: usize,
    /// Events in one send. At least 1.
    pub(super) coalesce: usize,
    pub(super) send_by: SendBy,
    /// Events per second over all groups; 0: as fast as it goes.
    pub(super) rate: f64,
    pub(super) duration_ns: u64,
    pub(super) payload: usize,
    /// Of every so many events of a group, when it was sent is kept. A power of two.
    pub(super) note_stride: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// How many streams there are, and what they cost.
    Count,
    /// Send; the first event is due then.
    Publish(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Listening(SocketAddr),
    Accepted(Accepted),
    Published(Box<Published>),
}

/// Streams answered so far, and the server's CPU since the first of them came.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub(super) streams: usize,
    pub(super) user_s: f64,
    pub(super) system_s: f64,
    /// From the first accept to the last answer.
    pub(super) accepting_s: f64,
}

/// What was sent, and the server's CPU between the first send and the last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Published {
    /// Per group.
    pub(super) events: Vec<u64>,
    /// Frames that went to a stream: one per stream of the group and batch.
    pub(super) sends: u64,
    /// `sends` that the socket did not take at once; they were finished when it could.
    pub(super) blocked: u64,
    /// Sends to streams that are gone. `failed <= sends`.
    pub(super) failed: u64,
    /// Bytes of a frame.
    pub(super) frame_len: usize,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    pub(super) user_s: f64,
    pub(super) system_s: f64,
    /// Sent − intended, per batch.
    pub(super) late: Buckets,
    /// Per group, every `note_stride`-th event: when it was sent.
    pub(super) sent_ns: Vec<Vec<u64>>,
}
