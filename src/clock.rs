//! The node's clock: monotonic, counted from the start of the process. A leaf anyone may use.
//!
//! It is never part of an id and never leaves the node; it measures how long things took.

use std::time::{Duration, Instant};

use crate::engine::wheel::TICK_MS;

/// A clock; copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Microseconds since the start.
    #[must_use]
    pub fn now_us(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).expect("584,000 years")
    }

    /// Timer ticks since the start.
    #[must_use]
    pub fn now_tick(self) -> u32 {
        u32::try_from(self.now_us() / (TICK_MS * 1_000)).expect("13 years")
    }

    /// Seconds since the start.
    #[must_use]
    pub fn uptime_s(self) -> u64 {
        self.0.elapsed().as_secs()
    }

    /// The moment at which a tick begins.
    #[must_use]
    pub fn tick_at(self, tick: u32) -> Instant {
        self.0 + Duration::from_millis(u64::from(tick) * TICK_MS)
    }
}
