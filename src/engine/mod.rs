//! The engine: topics, logs, cursors, and who is sent what. Pure: no sockets, no clock, no runtime.
//!
//! ```text
//!  source ──► Mailbox<Inbound> ──► Shard::ingest ──► topic logs ──► Shard::sweep ──► Sink ──► sockets
//!                                      ▲                                 │
//!                      Shard::join ────┘  run queue: dirty topics, readers to be served
//! ```
//!
//! Time comes in as ticks of the [`wheel`], bytes go out through [`Sink`], events for the source go
//! out through [`Publish`], and what the shard wants of its source goes out through [`Interest`]. A
//! simulator can run all of it, and does (`tests/simulation`).
//!
//! What always holds, for each connection:
//! - everything of its topics up to its cursor was handed to its socket, or it owes or was told the loss; while it is
//!   replaying that holds for its live topics, and its position says it for those that are durable;
//! - bytes leave in the order remainder → outbox → log, and a frame that was begun is finished
//!   before anything else is written;
//! - sequence numbers only grow on a socket, over all its topics, and so do ids;
//! - only a reader that is blocked, or that waits for its topics after a gap, can fall behind a
//!   log's floor, and it is told before its next event.
//!
//! # Overload
//! Logs are bounded per topic and per shard, and evict only what every ready reader was offered;
//! when that is not so yet, [`Shard::ingest`] gives the event back and the caller sweeps first. A
//! reader that is blocked for longer than its log reaches is skipped or disconnected, as its class says.

mod catch_up;
pub mod conn;
mod counters;
#[cfg(test)]
mod courses;
mod following;
pub mod history;
mod ingest;
pub mod log;
pub mod mailbox;
mod opening;
mod outbox;
pub mod pages;
mod partition;
pub mod past;
pub mod policy;
pub mod registry;
mod repair;
mod replay;
pub mod shard;
pub mod slab;
mod sweep;
mod tails;
pub mod wheel;
mod writing;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::event::{Event, EventId, Tag};
use crate::topic::Topic;

pub use conn::ConnId;
pub use counters::{Counters, Gauges};
pub use following::{Joined, NotFollowed};
pub use history::{Answer, Answered, Chain, Marker, Position, Read};
pub use ingest::Ingested;
pub use shard::{Joining, Shard};

/// Where bytes go. One call of `send` is one attempt; what is left stays the engine's business.
pub trait Sink {
    /// The edge's handle on a socket.
    type Port;

    /// Begins to watch a socket for its peer's leaving. False when that is impossible.
    fn park(&mut self, port: &Self::Port, id: ConnId) -> bool;
    /// Hands bytes to the socket, without waiting.
    fn send(&mut self, port: &Self::Port, bytes: &[u8]) -> Sent;
    /// Begins or ends to watch for writability. The edge answers with [`Shard::handle_writable`].
    fn watch_writable(&mut self, port: &Self::Port, id: ConnId, wanted: bool);
    /// Gives the socket up.
    fn unpark(&mut self, port: Self::Port, reason: CloseReason);
}

/// What a socket took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Everything.
    All,
    /// The first so many bytes, possibly none; it will say when it is writable again.
    Part(usize),
    /// Nothing, and never will again.
    Closed,
}

/// Where events go that a client publishes. Futures are driven by the shard's own thread.
pub trait Publish {
    /// Publishes one event. What it resolves to is what the publisher is answered.
    fn publish(&self, publication: Publication) -> Publishing;
}

/// An event to be published.
#[derive(Debug)]
pub struct Publication {
    /// The event, without its place in the history.
    pub event: Event,
    /// Names this publish, on durable topics: with the same key and the same event it is not stored again.
    pub idempotency_key: Option<Box<str>>,
}

impl From<Event> for Publication {
    fn from(event: Event) -> Publication {
        Publication { event, idempotency_key: None }
    }
}

/// A publish under way.
pub type Publishing = Pin<Box<dyn Future<Output = Result<Published, PublishError>>>>;

/// An event the source has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its id; `None` exactly on live topics.
    pub id: Option<EventId>,
}

/// Why an event was not, or perhaps not, accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Certainly not stored; the publisher may repeat it at once.
    #[error("the event was not accepted: {0}")]
    Refused(&'static str),
    /// Sent, but no answer came.
    #[error("it is not known whether the event was accepted")]
    Unknown,
    /// Its idempotency key was used for another event, and it was not stored.
    #[error("the idempotency key was used for another event on this topic")]
    Conflict,
}

/// Where the past is read by whoever is not a stream.
pub trait Archive {
    /// Reads. Resolves to what was read, and the place in the history at which it was.
    fn read(&self, read: Read) -> Reading;
}

/// A read under way. Fails with a sentence when the history cannot be reached.
pub type Reading = Pin<Box<dyn Future<Output = Result<(Marker, Answer), &'static str>>>>;

/// Which topics a shard wants from its source.
pub trait Interest {
    /// Wishes so far were meant for earlier connections and are void; those that follow are meant
    /// for the connection whose coming was told with this number.
    fn renew(&mut self, generation: u32);
    /// Asks for a topic's events from now on.
    fn subscribe(&mut self, topic: &Topic) -> Confirmation;
    /// Asks for no more of them.
    fn unsubscribe(&mut self, topic: &Topic) -> Confirmation;
    /// Asks for an [`Inbound::Marker`], which carries the question's number. It may be lost with the connection, or
    /// where the inbox runs over. Questions grow; of several that wait the greatest stands for all.
    fn barrier(&mut self, question: u64);
    /// Reads the past. Answered with an [`Answered`] of this number, however long that takes: reads outlive connections.
    fn read(&mut self, number: u64, read: Read);
    /// Tells all nodes that events beyond the fence of this incarnation were delivered, and are lost.
    fn mark_lossy(&mut self, tag: Tag);
}

/// When a wish takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It has taken effect.
    Now,
    /// The source will say so in the inbox, in its place among the events.
    Later,
}

/// What a source says to a shard, in order.
#[derive(Debug, Clone)]
pub enum Inbound {
    /// An event.
    Event(Arc<Event>),
    /// An event that was larger than allowed was dropped in this place.
    TooLarge(Topic),
    /// Everything after this is from a new connection, the one with this number, which knows of no
    /// subscription.
    Connected(u32),
    /// What is published from here on is missed, until subscriptions are confirmed again.
    Disconnected,
    /// A subscription took effect in this place.
    Subscribed(Topic),
    /// A subscription ended in this place.
    Unsubscribed(Topic),
    /// A subscription is not allowed.
    Refused(Topic),
    /// A place in the history, taken after this question was asked; see [`Marker`].
    Marker(u64, Arc<Marker>),
    /// The incarnations, of which one is now known to have lost something.
    Chain(Arc<Chain>),
}

impl Inbound {
    /// Bytes a message is charged with in an inbox.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Inbound::Event(event) => event.weight(),
            _ => 0,
        }
    }
}

/// What a shard wants of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// See [`Interest::renew`].
    Renew(u32),
    /// See [`Interest::subscribe`].
    Subscribe(Topic),
    /// See [`Interest::unsubscribe`].
    Unsubscribe(Topic),
    /// See [`Interest::barrier`].
    Barrier(u64),
    /// See [`Interest::read`].
    Read(u64, Read),
    /// See [`Interest::mark_lossy`].
    MarkLossy(Tag),
}

/// Why a connection was closed: the log field, the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum CloseReason {
    /// The client closed it, or the network did.
    Gone,
    /// The client accepted too little for too long.
    Stalled,
    /// The reader was slower than its log, and its class disconnects.
    Overflow,
    /// The shard's byte budget was spent, and this one held the oldest unfinished frame.
    Budget,
    /// It could not be opened in time, or its topic was refused.
    Unavailable,
    /// The node was at a limit.
    Limit,
    /// The client sent more than a stream's client has to say, or broke a rule of WebSocket.
    Protocol,
    /// The node stops.
    Shutdown,
    /// Events were lost, and the stream's form has no place to say so.
    Lost,
}

impl CloseReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [CloseReason; 9] = [
        CloseReason::Gone,
        CloseReason::Stalled,
        CloseReason::Overflow,
        CloseReason::Budget,
        CloseReason::Unavailable,
        CloseReason::Limit,
        CloseReason::Protocol,
        CloseReason::Shutdown,
        CloseReason::Lost,
    ];

    /// The label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            CloseReason::Gone => "gone",
            CloseReason::Stalled => "stalled",
            CloseReason::Overflow => "overflow",
            CloseReason::Budget => "budget",
            CloseReason::Unavailable => "unavailable",
            CloseReason::Limit => "limit",
            CloseReason::Protocol => "protocol",
            CloseReason::Shutdown => "shutdown",
            CloseReason::Lost => "lost",
        }
    }
}
