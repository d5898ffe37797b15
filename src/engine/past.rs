//! What a shard knows of a durable topic's past, beside its log.
//!
//! ```text
//!   history:   … e1   e2   e3   e4 │ e5   e6   e7
//!                         ▲        │             ▲
//!                       floor    [tail │ log]    held
//! ```
//!
//! What always holds, while the topic is settled: every event of the topic above `floor`, up to the shard's
//! watermark, is in the tail or the log; the tail lies before the log and leaves first. An event's number is found by
//! binary search, because numbers grow as sequence numbers do.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::engine::history::Page;
use crate::engine::log::Log;
use crate::event::{Stamp, Stored};
use crate::frame::{ByteBudget, Frame, WireForm};

/// Events a shard reads of a topic's past at first interest, and their bytes.
pub const TAIL_EVENTS_MAX: usize = 128;
/// See [`TAIL_EVENTS_MAX`].
pub const TAIL_BYTES_MAX: usize = 64 << 10;

/// The number of the last event a shard holds of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// That number; or, when it is not known, one that it does not pass.
    pub upto: Stamp,
    /// True exactly when it is known.
    pub exact: bool,
}

impl Held {
    /// True exactly when nothing is missing between this and an event whose predecessor is `prev`, in a shard that has
    /// ingested everything up to `watermark`.
    #[must_use]
    pub fn is_followed_by(self, prev: Stamp, watermark: Stamp) -> bool {
        if self.exact { prev == self.upto } else { prev <= watermark.max(self.upto) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Past {
    /// True exactly when a marker has come since the topic was subscribed: before that its events are dropped, since
    /// they are read from the history.
    pub settled: bool,
    /// The last event.
    pub held: Held,
    floor: Stamp,
    /// Events before those of the log, oldest first.
    tail: VecDeque<Rc<Frame>>,
    /// Up to where the tail is being read; none when it is not, or would have a hole behind it by now.
    awaits_tail: Option<Stamp>,
}

impl Default for Past {
    fn default() -> Past {
        let held = Held { upto: Stamp::ZERO, exact: false };
        Past { settled: false, held, floor: Stamp::ZERO, tail: VecDeque::new(), awaits_tail: None }
    }
}

impl Past {
    /// The topic's events are taken from here on; those up to `upto` are in the history.
    pub fn settle(&mut self, upto: Stamp) {
        self.begin_at(upto);
        self.settled = true;
        self.awaits_tail = Some(upto);
    }

    /// Begins anew: nothing up to `upto` is here, nothing is missing after it. The log must be empty.
    pub fn begin_at(&mut self, upto: Stamp) {
        self.held = Held { upto, exact: false };
        self.raise_floor(upto);
    }

    /// As [`Past::begin_at`], where the last event's number is known.
    pub fn begin_after(&mut self, last: Stamp) {
        self.raise_floor(last);
        self.held = Held { upto: last, exact: true };
    }

    /// Nothing up to `floor` is here any more.
    pub fn raise_floor(&mut self, floor: Stamp) {
        self.tail = VecDeque::new();
        self.awaits_tail = None;
        self.floor = floor;
    }

    /// An event was appended to the log.
    pub fn note(&mut self, stored: Stored) {
        self.held = Held { upto: stored.id.stamp, exact: true };
    }

    /// Takes the tail that was read up to `upto`. True exactly when it is wanted.
    pub fn take_tail(&mut self, upto: Stamp, page: Page, budget: &ByteBudget) -> bool {
        if self.awaits_tail != Some(upto) {
            return false;
        }
        self.awaits_tail = None;
        let places = || page.events.iter().filter_map(|event| event.stored);
        let (Some(oldest), Some(newest)) = (places().next(), places().next_back()) else {
            // Nothing is retained, so whatever there was ended here.
            self.floor = self.floor.min(page.last);
            return false;
        };
        if newest.id.stamp > upto {
            return false;
        }
        if !self.held.exact {
            self.held = Held { upto: newest.id.stamp, exact: true };
        }
        self.floor = oldest.prev;
        self.tail = page.events.into_iter().map(|event| Rc::new(Frame::new(event, budget))).collect();
        true
    }

    /// What was read is of no use: the topic has no tail.
    pub fn give_up_tail(&mut self) {
        self.awaits_tail = None;
    }

    /// True exactly when the tail is being read.
    #[must_use]
    pub fn awaits_tail(&self) -> bool {
        self.awaits_tail.is_some()
    }

    /// True exactly when there is a tail.
    #[must_use]
    pub fn has_tail(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Drops the tail. True exactly when there was one.
    pub fn drop_tail(&mut self) -> bool {
        let newest = self.tail.back().and_then(|frame| frame.stored());
        newest.inspect(|newest| self.raise_floor(newest.id.stamp)).is_some()
    }

    /// Every event after this is here, up to the watermark.
    #[must_use]
    pub fn floor(&self) -> Stamp {
        self.floor
    }

    /// Position of the first event behind `at`, counted through tail and log.
    #[must_use]
    pub fn position_after(&self, log: &Log, at: Stamp) -> usize {
        let is_behind = |stored: Option<Stored>| stored.is_some_and(|stored| stored.id.stamp <= at);
        if self.tail.back().is_some_and(|newest| !is_behind(newest.stored())) {
            return self.tail.partition_point(|frame| is_behind(frame.stored()));
        }
        self.tail.len() + log.partition_point(|entry| is_behind(entry.frame.stored()))
    }

    /// The event at a position, and its bytes.
    pub fn encode<'a>(&'a self, log: &'a mut Log, position: usize, form: WireForm) -> Option<(Rc<Frame>, &'a [u8])> {
        match self.tail.get(position) {
            Some(frame) => Some((Rc::clone(frame), frame.bytes(form))),
            None => {
                let position = position - self.tail.len();
                let frame = Rc::clone(&log.entry(position)?.frame);
                Some((frame, log.encode(position, form)))
            }
        }
    }

    /// The place of the event at a position, counted through tail and log.
    #[must_use]
    pub fn stored(&self, log: &Log, position: usize) -> Option<Stored> {
        match self.tail.get(position) {
            Some(frame) => frame.stored(),
            None => log.entry(position - self.tail.len())?.frame.stored(),
        }
    }

    /// Events in tail and log.
    #[must_use]
    pub fn len(&self, log: &Log) -> usize {
        self.tail.len() + log.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId, Tag};
    use crate::topic::Topic;
    use bytes::Bytes;
    use std::sync::Arc;

    fn at(ms: u64) -> Stamp {
        Stamp { ms, n: 0 }
    }

    fn event(ms: u64, prev: u64) -> Arc<Event> {
        Arc::new(Event {
            topic: Topic::parse("t").expect("a topic"),
            name: None,
            key: None,
            data: Bytes::from_static(b"x"),
            stored: Some(Stored { id: EventId { stamp: at(ms), tag: Tag::NONE }, prev: at(prev) }),
            received_us: 0,
        })
    }

    fn page(events: &[(u64, u64)], last: u64) -> Page {
        let events = events.iter().map(|&(ms, prev)| event(ms, prev)).collect();
        Page { topic: Topic::parse("t").expect("a topic"), events, more: false, last: at(last) }
    }

    fn settled(upto: u64) -> Past {
        let mut past = Past::default();
        past.settle(at(upto));
        past
    }

    #[test]
    fn a_tail_lowers_the_floor_and_tells_what_was_held() {
        let budget = ByteBudget::default();
        let mut past = settled(10);
        assert!(past.held.is_followed_by(at(9), at(10)) && !past.held.is_followed_by(at(11), at(10)));
        assert!(past.held.is_followed_by(at(11), at(12)), "the index had forgotten it");
        assert!(past.take_tail(at(10), page(&[(5, 3), (7, 5)], 7), &budget));
        assert_eq!((past.floor(), past.held), (at(3), Held { upto: at(7), exact: true }));
        assert!(past.held.is_followed_by(at(7), at(20)) && !past.held.is_followed_by(at(5), at(20)));
        let log = Log::new(0);
        assert_eq!([3, 4, 5, 6, 7, 8].map(|ms| past.position_after(&log, at(ms))), [0, 0, 1, 1, 2, 2]);
        assert!(past.drop_tail() && !past.drop_tail());
        assert_eq!(past.floor(), at(7), "it leaves first, and takes the floor with it");
    }

    #[test]
    fn a_topic_without_events_is_known_from_its_last_one_on() {
        let mut past = settled(10);
        assert!(!past.take_tail(at(10), page(&[], 4), &ByteBudget::default()));
        assert_eq!(past.floor(), at(4));
    }

    #[test]
    fn a_tail_is_refused_once_there_is_a_hole_behind_it() {
        let mut past = settled(10);
        past.raise_floor(at(12));
        assert!(!past.take_tail(at(10), page(&[(7, 0)], 12), &ByteBudget::default()));
        assert_eq!(past.floor(), at(12));
        let mut again = settled(20);
        assert!(!again.take_tail(at(10), page(&[(7, 0)], 12), &ByteBudget::default()), "of an earlier marker");
    }

    #[test]
    fn events_are_found_by_number_through_tail_and_log() {
        let budget = ByteBudget::default();
        let mut past = settled(10);
        past.take_tail(at(10), page(&[(5, 3), (7, 5)], 7), &budget);
        let mut log = Log::new(0);
        for (seq, (ms, prev)) in [(11, 7), (14, 11)].into_iter().enumerate() {
            log.push(seq as u64 + 1, Rc::new(Frame::new(event(ms, prev), &budget)));
        }
        assert_eq!(past.len(&log), 4);
        assert_eq!([4, 5, 7, 10, 11, 13, 14].map(|ms| past.position_after(&log, at(ms))), [0, 1, 2, 2, 3, 3, 4]);
        assert_eq!(past.stored(&log, 2).map(|stored| stored.id.stamp), Some(at(11)));
        assert!(past.encode(&mut log, 3, WireForm::SsePlain).is_some_and(|(_, bytes)| bytes.starts_with(b"data: x")));
        assert!(past.stored(&log, 4).is_none());
    }
}
