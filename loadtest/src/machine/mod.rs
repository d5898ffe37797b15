//! The machine everything runs on: what it is, what it can carry, and whether it was the bottleneck.
//!
//! Server, broker, publishers and subscribers share it, so a figure means something only beside these.

mod busy;
mod environment;
mod limits;

pub(crate) use self::busy::{Busy, Ticks};
pub(crate) use self::environment::Environment;
pub(crate) use self::limits::{Demand, Weight, limits};
