//! When a stream may open: so many a second, so many on their way at one time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The streams that wait to open, and how many may by now.
pub(super) struct Ramp {
    waiting: VecDeque<usize>,
    /// (when, which): streams that wait as long as their server asked.
    later: BinaryHeap<Reverse<(u64, usize)>>,
    per_s: f64,
    opening_max: usize,
    /// Streams between connect and open.
    opening: usize,
    /// `taken` of them were let go since `since_ns`.
    since_ns: u64,
    taken: u64,
}

impl Ramp {
    /// All streams wait, in their order.
    pub(super) fn new(per_s: f64, opening_max: usize, streams: usize, now: u64) -> Self {
        let waiting = (0..streams).collect();
        Self { waiting, later: BinaryHeap::new(), per_s, opening_max, opening: 0, since_ns: now, taken: 0 }
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.later.is_empty()
    }

    /// A stream is to open again as soon as the ramp allows.
    pub(super) fn push(&mut self, index: usize, now: u64) {
        if self.waiting.is_empty() {
            // What was not used while nobody waited is no credit.
            (self.since_ns, self.taken) = (now, 0);
        }
        self.waiting.push_back(index);
    }

    pub(super) fn push_later(&mut self, index: usize, due_ns: u64) {
        self.later.push(Reverse((due_ns, index)));
    }

    /// The next stream that may open now.
    pub(super) fn take(&mut self, now: u64) -> Option<usize> {
        while let Some(&Reverse((due_ns, index))) = self.later.peek()
            && due_ns <= now
        {
            self.later.pop();
            self.push(index, now);
        }
        let allowed = (now.saturating_sub(self.since_ns) as f64 / 1e9 * self.per_s) as u64 + 1;
        if self.taken >= allowed || self.opening >= self.opening_max {
            return None;
        }
        let index = self.waiting.pop_front()?;
        self.taken += 1;
        self.opening += 1;
        Some(index)
    }

    /// A stream let go is open, or never will be.
    pub(super) fn settle(&mut self) {
        self.opening -= 1;
    }

    /// Whoever waits now may open at once.
    pub(super) fn allow_all(&mut self, now: u64) {
        self.opening_max = self.opening_max.max(self.opening + self.waiting.len());
        self.per_s = self.per_s.max(1e9);
        (self.since_ns, self.taken) = (now, 0);
    }

    /// Nobody waits any more.
    pub(super) fn give_up(&mut self) {
        self.waiting.clear();
        self.later.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn drain(ramp: &mut Ramp, now: u64) -> Vec<usize> {
        std::iter::from_fn(|| ramp.take(now)).collect()
    }

    #[test]
    fn streams_open_at_the_rate_and_no_more_at_a_time_than_allowed() {
        let mut ramp = Ramp::new(10.0, 4, 100, 0);
        assert_eq!(drain(&mut ramp, SECOND / 10), [0, 1]);
        assert_eq!(drain(&mut ramp, SECOND), [2, 3]);
        ramp.settle();
        assert_eq!(drain(&mut ramp, SECOND), [4]);
    }

    #[test]
    fn a_storm_opens_all_at_once() {
        let mut ramp = Ramp::new(1.0, 1, 3, 0);
        ramp.allow_all(5);
        assert_eq!(drain(&mut ramp, 10), [0, 1, 2]);
    }

    #[test]
    fn a_stream_told_to_wait_opens_when_it_is_due() {
        let mut ramp = Ramp::new(1e6, 9, 0, 0);
        ramp.push_later(7, SECOND);
        assert!(drain(&mut ramp, SECOND - 1).is_empty() && ramp.has_waiting());
        assert_eq!(drain(&mut ramp, SECOND), [7]);
    }

    #[test]
    fn a_pause_gives_no_credit() {
        let mut ramp = Ramp::new(1.0, 9, 0, 0);
        (0..5).for_each(|index| ramp.push(index, 100 * SECOND));
        assert_eq!(drain(&mut ramp, 100 * SECOND), [0]);
    }
}
