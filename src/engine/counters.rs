//! A shard's numbers: what it has done, and what it holds.

use crate::engine::CloseReason;
use crate::frame::control::ResetReason;
use crate::metrics::Histogram;

/// What a shard has done so far. Plain numbers: one thread writes them, a scrape copies them.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Events taken from the source for topics somebody follows.
    pub events: u64,
    /// Events of topics nobody follows (any more), dropped.
    pub events_unwanted: u64,
    /// Events of an incarnation that the history does not know, also when it was asked, dropped.
    pub events_strange: u64,
    /// Events handed to sockets; one event for a thousand streams counts a thousand times.
    pub deliveries: u64,
    /// Calls of `send`.
    pub sends: u64,
    /// Bytes accepted by sockets.
    pub bytes_sent: u64,
    /// Events per write.
    pub batch_events: Histogram,
    /// From an event's arrival at the node until the last ready reader of the shard was handed it, in µs.
    pub publish_to_write_us: Histogram,
    /// Events that left a log.
    pub evictions: u64,
    /// Times an event had to wait for a sweep because its log was full of events not offered yet.
    pub log_full: u64,
    /// Times a socket took less than it was given.
    pub blocked: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Streams opened.
    pub opened: u64,
    /// Streams told of a loss, by [`ResetReason`].
    pub resets: [u64; ResetReason::ALL.len()],
    /// Streams served by their position in the history.
    pub replays: u64,
    /// Reads of the history.
    pub reads: u64,
    /// Times a shard had to catch up from the history with what it had missed.
    pub repairs: u64,
    /// Connections closed, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
}

/// What a shard holds now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Connections.
    pub connections: usize,
    /// Connections whose socket is full.
    pub blocked: usize,
    /// Topics followed.
    pub topics: usize,
    /// Topics asked for and not confirmed.
    pub topics_unconfirmed: usize,
    /// Timers set.
    pub timers: usize,
    /// Bytes of logs and of frames held by unfinished writes.
    pub log_bytes: usize,
    /// Connections that are WebSockets.
    pub websockets: usize,
    /// Entries of the run queue.
    pub run_queue: usize,
    /// True exactly when the source is connected.
    pub source_connected: bool,
    /// Ticks since a subscription was last refused, if ever.
    pub refused_ticks: Option<u32>,
}
