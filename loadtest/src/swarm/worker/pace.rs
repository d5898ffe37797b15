//! When to look for events again.
//!
//! A server that writes to thousands of streams wakes this process for every one or two of them.
//! Falling asleep and waking up costs this process a quarter of its CPU, and waking it costs the
//! server as much of its own: with both on one machine that is what would be measured (floor of
//! 4,000 streams: 3.6 instead of 2.7 µs a send). Clients elsewhere are not woken by the server. So
//! where events come closer together than it takes to wake up, this process looks again a moment
//! later and finds dozens. A latency measured meanwhile is up to [`PAUSE`] too long; it is of an
//! event on its way to thousands of streams, which takes milliseconds.
//!
//! **Not chosen:** looking again at once (it costs what it saves), or always pausing (an event to a
//! few streams would seem slower than it was).

use std::ops::Range;
use std::thread;
use std::time::Duration;

use super::EVENTS_MAX;

/// How long it waits before it looks again.
const PAUSE: Duration = Duration::from_micros(300);
/// Wakes this close together are of one stream of events.
const CLOSE_NS: u64 = 40_000;
/// So many of them in a row begin it: more than an event to a few streams makes.
const ROW_MIN: u32 = 32;
/// It goes on while a pause collects at least so many events, and not so many that there are more.
const COLLECTED: Range<usize> = 3..EVENTS_MAX;

/// How wakes have come of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// True exactly when the next look is put off.
    pauses: bool,
    /// Wakes in a row that were close together. Meaningless while `pauses`.
    row: u32,
    woken_ns: u64,
}

impl Pace {
    pub(super) fn pause(&self) {
        if self.pauses {
            thread::sleep(PAUSE);
        }
    }

    /// Takes that `events` were found at `now`.
    pub(super) fn handle_wake(&mut self, events: usize, now: u64) {
        if self.pauses {
            self.pauses = COLLECTED.contains(&events);
            self.row = 0;
        } else {
            let is_close = events > 0 && now.saturating_sub(self.woken_ns) < CLOSE_NS;
            self.row = if is_close { self.row + 1 } else { 0 };
            self.pauses = self.row >= ROW_MIN;
        }
        self.woken_ns = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_row_of_close_wakes_is_collected_and_a_short_one_is_not() {
        let (mut pace, mut now) = (Pace::default(), 1_000_000);
        for _ in 0..ROW_MIN - 1 {
            now += 10_000;
            pace.handle_wake(1, now);
        }
        assert!(!pace.pauses);
        // A gap, and it begins anew.
        now += CLOSE_NS;
        pace.handle_wake(1, now);
        for _ in 0..ROW_MIN {
            assert!(!pace.pauses);
            now += 10_000;
            pace.handle_wake(2, now);
        }
        assert!(pace.pauses);
        pace.handle_wake(COLLECTED.start, now + 150_000);
        assert!(pace.pauses);
        pace.handle_wake(COLLECTED.start - 1, now + 300_000);
        assert!(!pace.pauses);
        // Nor does a process pause that has more to do than it can.
        let mut pace = Pace { pauses: true, ..Pace::default() };
        pace.handle_wake(EVENTS_MAX, now);
        assert!(!pace.pauses);
    }
}
