//! What a shard reads of its topics to catch up, merged by number.
//!
//! What always holds: an item (an event, or a loss in its place) is ingested only when no topic that is still open
//! could have one before it; so items leave in the order of their numbers, whatever order pages come in.
//!
//! A loss shows where an event does not follow the last one reached, or where nothing came although the topic's index
//! is further on.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::engine::history::Page;
use crate::engine::past::Held;
use crate::engine::slab::Key;
use crate::event::{Event, Stamp};

/// What is being read.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) number: u64,
    pub(super) upto: Stamp,
    pub(super) topics: Vec<Behind>,
    /// The next item of each topic that has one here: an event, or a loss.
    pub(super) items: BinaryHeap<Reverse<(Stamp, Item, usize)>>,
    /// Topics of which there may be more than is here, and up to where each is known.
    pub(super) open: BTreeSet<(Stamp, usize)>,
}

/// A loss stands before the event that shows it; their numbers differ anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Loss,
    Event,
}

/// A topic that is being read.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) key: Key,
    /// The last event taken from the pages so far.
    pub(super) reached: Held,
    /// Read and not ingested.
    pub(super) events: VecDeque<Arc<Event>>,
    /// Everything up to here was read.
    pub(super) known: Stamp,
    /// The topic's newest number, as the last page told it.
    pub(super) last: Stamp,
}

impl CatchUp {
    /// Reads of these topics, each with the last event it holds, what lies between the two numbers.
    pub(super) fn begin(number: u64, from: Stamp, upto: Stamp, behind: Vec<(Key, Held)>) -> CatchUp {
        let topic = |(key, reached)| Behind { key, reached, events: VecDeque::new(), known: from, last: Stamp::ZERO };
        let topics: Vec<Behind> = behind.into_iter().map(topic).collect();
        let open = (0..topics.len()).map(|index| (from, index)).collect();
        CatchUp { number, upto, topics, items: BinaryHeap::new(), open }
    }

    /// The next item, if nothing can come before it any more.
    pub(super) fn next(&self) -> Option<(Stamp, Item, usize)> {
        let limit = self.open.first().map_or(self.upto, |&(known, _)| known);
        self.items.peek().map(|Reverse(item)| *item).filter(|(stamp, ..)| *stamp <= limit)
    }

    /// A topic is gone.
    pub(super) fn leave_out(&mut self, index: usize) {
        self.open.remove(&(self.topics[index].known, index));
    }

    /// Takes the next piece of a topic.
    pub(super) fn take_page(&mut self, index: usize, page: Page) {
        let upto = self.upto;
        let behind = &mut self.topics[index];
        self.open.remove(&(behind.known, index));
        let before = behind.known;
        let mut is_whole = !page.more;
        let mut beyond = None;
        behind.last = page.last;
        let was_empty = behind.events.is_empty();
        for event in page.events {
            let Some(stored) = event.stored else { continue };
            if stored.id.stamp <= before {
                continue;
            }
            if stored.id.stamp > upto {
                is_whole = true;
                beyond = Some(stored.prev);
                break;
            }
            behind.known = stored.id.stamp;
            behind.events.push_back(event);
        }
        if is_whole || behind.known == before {
            // What the first event behind the marker follows is the last one before it.
            behind.last = beyond.unwrap_or(behind.last);
            behind.known = upto;
        } else {
            self.open.insert((behind.known, index));
        }
        if was_empty {
            self.show_next(index);
        }
    }

    /// Shows the next item of a topic: a loss before the event it stands before, or behind the last one.
    fn show_next(&mut self, index: usize) {
        let behind = &self.topics[index];
        let next = behind.events.front().and_then(|event| event.stored);
        let item = match next {
            Some(stored) if stored.prev > behind.reached.upto => Some((stored.prev, Item::Loss)),
            Some(stored) => Some((stored.id.stamp, Item::Event)),
            None if behind.known == self.upto => {
                let is_lost = behind.last > behind.reached.upto && behind.last <= self.upto;
                is_lost.then_some((behind.last, Item::Loss))
            }
            None => None,
        };
        if let Some((stamp, item)) = item {
            self.items.push(Reverse((stamp, item, index)));
        }
    }

    /// An item was dealt with. True exactly when the topic's next piece must be read.
    pub(super) fn pass(&mut self, item: Item, index: usize) -> bool {
        self.items.pop();
        let behind = &mut self.topics[index];
        match item {
            Item::Loss => {
                let next = behind.events.front().and_then(|event| event.stored);
                behind.reached.upto = next.map_or(behind.last, |stored| stored.prev);
            }
            Item::Event => {
                if let Some(stored) = behind.events.pop_front().and_then(|event| event.stored) {
                    behind.reached.upto = stored.id.stamp;
                }
            }
        }
        let wants_more = behind.events.is_empty() && self.open.contains(&(behind.known, index));
        self.show_next(index);
        wants_more
    }
}
