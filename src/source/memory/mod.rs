//! The embedded broker: a node without Redis.
//!
//! ```text
//!  publish on shard 0 ─┐                        ┌─► inbox of shard 0
//!  publish on shard 1 ─┼─► sequencer's mailbox ─┼─► inbox of shard 1
//!  publish on shard n ─┘      (one order)       └─► inbox of shard n
//!                                  │
//!  barriers and reads ─► mailbox ─►│◄─► histories, idempotency records
//! ```
//!
//! What always holds:
//! - all publishes pass one [`sequencer`], so every shard sees one order, and a marker stands in a
//!   shard's inbox behind every event numbered up to it and before all others;
//! - an event on a durable topic has its number, is in the history ([`histories`]) and was put into
//!   every inbox before its publisher is answered; once it has a number the publish has succeeded,
//!   also when nobody waits for the answer any more;
//! - numbers only grow, whatever the wall clock does.
//!
//! # Overload
//! The sequencer never waits. Its own mailbox full: the publish is refused, nothing was taken. A
//! shard's inbox full: the event has been taken and other shards have it; that shard gets a gap
//! mark in its place: it repairs durable topics from the history, and tells the streams of live ones.
//! Histories over their budget: the oldest events of all topics leave. Idempotency records over
//! theirs ([`idempotency`]): publishes that bring a key are refused.
//!
//! # What was not chosen
//! A history on disk: whoever needs one that outlives the process has Redis. Each start begins a new
//! epoch, with another tag, so that a position of an earlier run is never taken for one of this.

mod handle;
pub mod histories;
pub mod idempotency;
pub mod sequencer;
#[cfg(test)]
mod twin;

pub use handle::Handle;
pub use sequencer::{Sequencer, SequencerParts};
