//! CLOCK_MONOTONIC in nanoseconds: one clock for all processes of a machine.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot.
#[inline]
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both parts are never negative on this clock.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
