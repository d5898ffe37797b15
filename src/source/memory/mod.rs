//! The embedded broker: a node without Redis.

pub mod sequencer;

pub use sequencer::{Handle, Sequencer};
