//! The embedded broker: a node without Redis.

pub mod histories;
pub mod idempotency;
pub mod sequencer;
#[cfg(test)]
mod twin;

pub use sequencer::{Handle, Sequencer};
