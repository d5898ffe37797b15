//! The checks of many streams, in one flat table.
//!
//! Every stream reads the same sequences ("slots"): a topic, or a topic and publisher. One
//! allocation for all, so that a check costs its 48 bytes and nothing else.

use crate::{Published, StreamCheck, Verdict};

/// `streams × slots` checks.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Check of stream s, slot t at `s * slots + t`. `len() == streams * slots`.
    checks: Vec<StreamCheck>,
    slots: usize,
}

impl Ledger {
    /// A table for `streams` streams with `slots` sequences each.
    pub fn new(streams: usize, slots: usize) -> Self {
        Self { checks: vec![StreamCheck::default(); streams * slots], slots }
    }

    /// Takes the number of an event that arrived on `stream`; true if it had not arrived before.
    #[inline]
    pub fn handle_event(&mut self, stream: usize, slot: usize, seq: u64) -> bool {
        debug_assert!(slot < self.slots);
        self.checks[stream * self.slots + slot].note_event(seq)
    }

    /// Takes a reset of one sequence of `stream`.
    pub fn handle_reset(&mut self, stream: usize, slot: usize) {
        debug_assert!(slot < self.slots);
        self.checks[stream * self.slots + slot].handle_reset();
    }

    /// See [`StreamCheck::extend_reset`].
    pub fn extend_reset(&mut self, stream: usize, slot: usize) {
        self.checks[stream * self.slots + slot].extend_reset();
    }

    /// Takes the checks of one stream out, by slot; what it receives from now on is a new life.
    pub fn take_stream(&mut self, stream: usize) -> Vec<StreamCheck> {
        self.checks[stream * self.slots..][..self.slots].iter_mut().map(std::mem::take).collect()
    }

    /// The checks of one stream, by slot.
    pub fn stream(&self, stream: usize) -> &[StreamCheck] {
        &self.checks[stream * self.slots..][..self.slots]
    }

    /// The sum of one stream's verdicts; `published` says what was published in each slot.
    pub fn finish_stream<'a, P: Into<Published<'a>>>(&self, stream: usize, published: impl Fn(usize) -> P) -> Verdict {
        let checks = self.stream(stream).iter().enumerate();
        checks.map(|(slot, check)| check.finish(published(slot))).sum()
    }

    /// The sum of all verdicts, where every stream was open all the time.
    pub fn finish<'a, P: Into<Published<'a>>>(&self, published: impl Fn(usize) -> P) -> Verdict {
        let streams = 0..self.checks.len().checked_div(self.slots).unwrap_or(0);
        streams.map(|stream| self.finish_stream(stream, &published)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_in_the_stream_and_slot_where_they_happened() {
        let mut ledger = Ledger::new(3, 2);
        for stream in 0..3 {
            for slot in 0..2 {
                for seq in 0..4 {
                    if (stream, slot, seq) != (1, 1, 2) {
                        ledger.handle_event(stream, slot, seq);
                    }
                }
            }
        }
        assert_eq!(ledger.finish(|_| 0..4).lost, 1);
        assert_eq!(ledger.finish_stream(1, |_| 0..4).lost, 1);
        assert!(ledger.finish_stream(0, |_| 0..4).is_clean());
        assert_eq!(ledger.stream(1)[1].finish(0..4).lost, 1);
    }

    #[test]
    fn a_ledger_without_streams_or_slots_is_clean() {
        assert!(Ledger::new(0, 4).finish(|_| 0..4).is_clean());
        assert_eq!(Ledger::new(4, 0).finish(|_| 0..4).expected, 0);
    }
}
