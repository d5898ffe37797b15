//! The tails of a shard's durable topics: taken as they come, and what leaves when there is no room for them.
//!
//! What always holds: a topic that has a tail stands in `Partition::tails`, the one that was read first in front, and
//! others stand there for a while, at most about as many as the shard has topics; when tails were taken, the shard's logs,
//! pages and tails together are within its budget, or there is no tail.
//!
//! # Overload
//! The past leaves before events do. Of tails the one that was read first leaves first: whoever came for it was served
//! by now. A reader that wants what was in it is given pages.

use std::collections::HashSet;

use crate::engine::history::Page;
use crate::engine::shard::Shard;
use crate::engine::slab::Key;
use crate::event::Stamp;

impl<P> Shard<P> {
    /// Takes the tails of topics that a marker at `upto` has settled.
    pub(super) fn take_tails(&mut self, upto: Stamp, keys: Vec<Key>, pages: Vec<Page>) {
        for (key, page) in keys.into_iter().zip(pages) {
            let Some(past) = self.topics.get(key).and_then(|topic| topic.past.as_mut()) else { continue };
            if past.settled && past.take_tail(upto, page, &self.budget) {
                self.partition.tails.push_back(key);
                // Where nothing is published no event would make room.
                while self.budget.used() > self.limits.log_bytes_max && self.free_tail() {}
            }
        }
        if self.partition.tails.len() > 2 * self.topics.len() + 1_024 {
            self.sort_out_tails();
        }
    }

    /// Takes out topics that are gone, that have no tail any more, and that stand here twice.
    fn sort_out_tails(&mut self) {
        let (topics, mut seen) = (&mut self.topics, HashSet::new());
        self.partition.tails.retain(|&key| {
            let past = topics.get(key).and_then(|topic| topic.past.as_ref());
            past.is_some_and(|past| past.has_tail()) && seen.insert(key)
        });
    }

    /// What was read of these topics is of no use.
    pub(super) fn give_up_tails(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some(past) = self.topics.get(key).and_then(|topic| topic.past.as_mut()) {
                past.give_up_tail();
            }
        }
    }

    /// Gives back memory of the past: a page, or a tail. False when there is none.
    pub(super) fn free_past(&mut self) -> bool {
        self.partition.pages.drop_any() || self.free_tail()
    }

    /// Gives back the tail that was read first. False when there is none.
    fn free_tail(&mut self) -> bool {
        while let Some(key) = self.partition.tails.pop_front() {
            let past = self.topics.get(key).and_then(|topic| topic.past.as_mut());
            if past.is_some_and(|past| past.drop_tail()) {
                return true;
            }
        }
        false
    }
}
