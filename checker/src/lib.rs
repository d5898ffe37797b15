//! Was every event delivered, once, and in order?
//!
//! A publisher numbers what it publishes on a topic: 0, 1, 2, …; a subscriber feeds the number of
//! each payload it receives, in arrival order, to a check, and at the end the check is told what
//! was published. In reading order:
//!
//! - [`StreamCheck`]: one stream and one numbered sequence → a [`Verdict`].
//! - [`Verdict`]: the counts, which add up over streams.
//! - [`Ledger`]: the checks of many streams, each with the same sequences, in one flat table.
//! - [`OrderHash`]: whether streams agree on *one* order when several publishers interleave.
//!
//! These judge one stream as it was seen. Judging durable topics over many connections (ids
//! instead of dense numbers, resuming, resets that need a reason) is another question:
//! [`history`], beside these.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod history;
mod ledger;
mod order;
mod stream;
mod verdict;

pub use ledger::Ledger;
pub use order::{OrderHash, OrderSurvey};
pub use stream::{Published, StreamCheck};
pub use verdict::Verdict;
