//! A topic's log: its recent frames, oldest first, and the floor below which nothing is held.
//!
//! The log is the queue. A connection holds a cursor, not a queue, and reads from here what lies
//! behind it. What always holds:
//!
//! - every event of the topic with `seq > floor` is in the log;
//! - sequence numbers grow from front to back;
//! - so a reader has overflowed exactly when `floor > cursor`.
//!
//! Who may be evicted, and when, is the shard's to decide; the log only says when it is full.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::frame::{Frame, WireForm};

/// The number a shard gives to each event it ingests, counting from 1.
pub type Seq = u64;

/// Most events and bytes a log holds; it always may hold its newest event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Events. Default 1,024.
    pub events_max: usize,
    /// Bytes of frames, encodings and overhead included. Default 1 MiB.
    pub bytes_max: usize,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { events_max: 1024, bytes_max: 1 << 20 }
    }
}

/// One event in the log.
#[derive(Debug)]
pub struct Entry {
    /// The event's number in its shard.
    pub seq: Seq,
    /// The event and its encodings.
    pub frame: Rc<Frame>,
    /// What this log counts for the frame; follows the frame's charge when an encoding is added.
    counted: usize,
}

/// Recent frames of one topic.
#[derive(Debug)]
pub struct Log {
    entries: VecDeque<Entry>,
    floor: Seq,
    /// Sum of `counted` over the entries.
    bytes: usize,
}

impl Log {
    /// An empty log of a topic joined when the shard stood at `floor`.
    #[must_use]
    pub fn new(floor: Seq) -> Log {
        Log { entries: VecDeque::new(), floor, bytes: 0 }
    }

    /// Appends the event numbered `seq`, which is larger than all before.
    pub fn push(&mut self, seq: Seq, frame: Rc<Frame>) {
        debug_assert!(seq > self.last_seq());
        let counted = frame.charged();
        self.bytes += counted;
        self.entries.push_back(Entry { seq, frame, counted });
    }

    /// Removes the oldest entry; the floor takes its place.
    pub fn evict_oldest(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.floor = entry.seq;
        self.bytes -= entry.counted;
        if self.entries.is_empty() {
            self.entries.shrink_to(8);
        }
        Some(entry)
    }

    /// The bytes of entry `at` in `form`, encoded now if nobody needed that form before.
    pub fn encode(&mut self, at: usize, form: WireForm) -> &[u8] {
        let entry = &mut self.entries[at];
        let bytes = entry.frame.bytes(form);
        self.bytes += entry.frame.charged() - entry.counted;
        entry.counted = entry.frame.charged();
        bytes
    }

    /// The entry at position `at`, counted from the oldest.
    #[must_use]
    pub fn entry(&self, at: usize) -> Option<&Entry> {
        self.entries.get(at)
    }

    /// The oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Position of the first entry behind `cursor`; equals `len()` when there is none.
    #[must_use]
    pub fn position_after(&self, cursor: Seq) -> usize {
        // Most readers are at the end, or one event behind it.
        match self.entries.len() {
            0 => 0,
            len if self.entries[len - 1].seq <= cursor => len,
            len if len == 1 || self.entries[len - 2].seq <= cursor => len - 1,
            _ => self.entries.partition_point(|entry| entry.seq <= cursor),
        }
    }

    /// Position of the first entry for which `is_behind` does not hold; entries for which it does stand first.
    #[must_use]
    pub fn partition_point(&self, is_behind: impl FnMut(&Entry) -> bool) -> usize {
        self.entries.partition_point(is_behind)
    }

    /// Number of the newest event the log knows of: its last entry, or the floor.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.entries.back().map_or(self.floor, |entry| entry.seq)
    }

    /// The newest event that is no longer held; see the module's law.
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.floor
    }

    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True exactly when no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of the oldest entries leave when one of `charge` bytes arrives.
    #[must_use]
    pub fn surplus(&self, limits: LogLimits, charge: usize) -> usize {
        let mut bytes = self.bytes + charge;
        let mut surplus = (self.entries.len() + 1).saturating_sub(limits.events_max.max(1));
        bytes -= self.entries.iter().take(surplus).map(|entry| entry.counted).sum::<usize>();
        for entry in self.entries.iter().skip(surplus) {
            if bytes <= limits.bytes_max {
                break;
            }
            bytes -= entry.counted;
            surplus += 1;
        }
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::frame::{ByteBudget, FRAME_OVERHEAD};
    use crate::topic::Topic;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn frame(budget: &ByteBudget, size: usize) -> Rc<Frame> {
        let event = Event {
            topic: Topic::parse("t").expect("a topic"),
            name: None,
            key: None,
            data: Bytes::from(vec![b'x'; size]),
            stored: None,
            received_us: 0,
        };
        Rc::new(Frame::new(Arc::new(event), budget))
    }

    /// Everything ever pushed, and how much of it has left.
    #[derive(Default)]
    struct Twin {
        all: Vec<Pushed>,
        gone: usize,
    }

    struct Pushed {
        seq: Seq,
        bytes: usize,
        encoded: bool,
    }

    proptest! {
        #[test]
        fn holds_what_its_slow_twin_holds(
            steps in proptest::collection::vec((1..5u64, 0..400usize, any::<bool>(), any::<prop::sample::Index>()), 1..80),
            events_max in 1..12usize,
            bytes_max in 0..8_000usize,
        ) {
            let limits = LogLimits { events_max, bytes_max };
            let budget = ByteBudget::default();
            let mut log = Log::new(0);
            let mut twin = Twin::default();
            for (gap, size, encode, pick) in steps {
                let seq = log.last_seq() + gap;
                let bytes = FRAME_OVERHEAD + 1 + size;
                for _ in 0..log.surplus(limits, bytes) {
                    prop_assert!(log.evict_oldest().is_some());
                    twin.gone += 1;
                }
                log.push(seq, frame(&budget, size));
                twin.all.push(Pushed { seq, bytes, encoded: false });
                prop_assert!(log.len() <= events_max);
                prop_assert!(log.bytes() <= bytes_max || log.len() == 1);
                if encode {
                    let at = pick.index(log.len());
                    let length = log.encode(at, WireForm::SseChunked).len();
                    let pushed = &mut twin.all[twin.gone + at];
                    if !std::mem::replace(&mut pushed.encoded, true) {
                        pushed.bytes += length;
                    }
                }
                let held = &twin.all[twin.gone..];
                prop_assert_eq!(log.len(), held.len());
                prop_assert_eq!(log.bytes(), held.iter().map(|pushed| pushed.bytes).sum::<usize>());
                prop_assert_eq!(log.bytes(), budget.used());
                prop_assert_eq!(log.floor(), twin.all[..twin.gone].last().map_or(0, |pushed| pushed.seq));
                for cursor in log.floor()..=log.last_seq() + 1 {
                    let naive = held.iter().position(|pushed| pushed.seq > cursor).unwrap_or(held.len());
                    prop_assert_eq!(log.position_after(cursor), naive);
                }
            }
        }
    }

    #[test]
    fn the_newest_event_stays_however_large_it_is() {
        let budget = ByteBudget::default();
        let limits = LogLimits { events_max: 4, bytes_max: 1_000 };
        let mut log = Log::new(0);
        log.push(1, frame(&budget, 10));
        assert_eq!(log.surplus(limits, 1 << 20), 1, "all others leave");
        log.evict_oldest();
        log.push(2, frame(&budget, 1 << 20));
        assert_eq!(log.surplus(limits, 100), 1);
    }
}
