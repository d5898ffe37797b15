//! What a shard reads of its topics to catch up, merged by number.
//!
//! What always holds: an item (an event, or a loss in its place) is ingested only when no topic that is still open
//! could have one before it; so items leave in the order of their numbers, whatever order pages come in.
//!
//! A loss shows where an event does not follow the last one reached, or where nothing came although the topic's index
//! is further on. It is told before the next event of *any* topic, not behind those that are older than what shows it:
//! whoever were cut in between could find on another node an older page on which nothing is missing any more.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::engine::Sink;
use crate::engine::history::{Page, Read};
use crate::engine::pages::Purpose;
use crate::engine::partition::{Hold, Stage};
use crate::engine::past::Held;
use crate::engine::policy::PORTION;
use crate::engine::repair::TOPICS_PER_READ;
use crate::engine::shard::Shard;
use crate::engine::slab::Key;
use crate::event::{Event, Stamp};

/// Bytes a repair has read and not ingested, over all topics, where they are few enough: each has its share, but no less than
/// the least of [`REPAIR_PAGE_BYTES`], and at least one event.
const REPAIR_BYTES_MAX: usize = 8 << 20;
/// Bytes it reads at once of one topic. It reads on when these are ingested.
const REPAIR_PAGE_BYTES: std::ops::RangeInclusive<usize> = 1 << 10..=64 << 10;

/// What is being read.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) number: u64,
    /// The watermark when it began.
    from: Stamp,
    pub(super) upto: Stamp,
    pub(super) topics: Vec<Behind>,
    /// The next item of each topic that has one here: an event, or a loss.
    pub(super) items: BTreeSet<(Stamp, Item, usize)>,
    /// Topics of which it cannot be seen whether they have lost something: what was read lies behind the marker, and
    /// so does what it follows.
    unclear: Vec<usize>,
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
    /// Nothing of it is missing up to here.
    pub(super) reached: Stamp,
    /// True exactly when there is something at or below `reached` that was never ingested.
    missed: bool,
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
        let topic = |(key, held): (Key, Held)| Behind {
            key,
            reached: from.max(held.upto),
            missed: false,
            events: VecDeque::new(),
            // Where the last event held is known, whatever follows it is read: there must be nothing up to the watermark.
            known: if held.exact { held.upto } else { from.max(held.upto) },
            last: Stamp::ZERO,
        };
        let mut topics: Vec<Behind> = behind.into_iter().map(topic).collect();
        if planted!("re-ingest") {
            topics.iter_mut().for_each(|behind| (behind.known, behind.reached) = (Stamp::ZERO, Stamp::ZERO));
        }
        let open = topics.iter().enumerate().map(|(index, behind)| (behind.known.max(from), index)).collect();
        CatchUp { number, from, upto, topics, items: BTreeSet::new(), unclear: Vec::new(), open }
    }

    /// Up to where events of a topic are gone.
    fn lost(&self, index: usize) -> Stamp {
        let behind = &self.topics[index];
        let before = behind.events.front().and_then(|event| event.stored).map_or(behind.last, |next| next.prev);
        before.max(behind.reached)
    }

    /// Where a loss is told that stands before everything else: as far on as it reaches, but ahead of the next event.
    pub(super) fn place_of_loss(&self, index: usize) -> Stamp {
        // Nor past another loss that is yet to be told: behind it that one could no longer be seen. What else comes
        // first stands first: numbers differ, and a topic's next event lies behind its loss.
        let other = self.items.iter().find(|(_, _, other)| *other != index).map(|&(stamp, item, _)| match item {
            Item::Loss => stamp,
            Item::Event => stamp.before(),
        });
        let open = self.open.first().map(|&(known, _)| known);
        let lost = self.lost(index);
        other.into_iter().chain(open).fold(lost, Stamp::min)
    }

    /// The next item, if nothing can come before it any more.
    pub(super) fn next(&self) -> Option<(Stamp, Item, usize)> {
        let mut limit = self.open.first().map_or(self.upto, |&(known, _)| known);
        if planted!("topic-by-topic") {
            limit = self.upto;
        }
        let next = self.items.first().copied();
        // How far a loss reaches is known when it is known what comes next.
        next.filter(|&(stamp, item, _)| {
            stamp < limit || stamp == limit && (item == Item::Event || self.open.is_empty())
        })
    }

    /// A topic is gone.
    pub(super) fn leave_out(&mut self, index: usize) {
        self.open.remove(&(self.topics[index].known.max(self.from), index));
    }

    /// Takes the next piece of a topic.
    pub(super) fn take_page(&mut self, index: usize, page: Page) {
        let (from, upto) = (self.from, self.upto);
        let behind = &mut self.topics[index];
        self.open.remove(&(behind.known.max(from), index));
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
            if stored.id.stamp <= behind.reached {
                behind.missed = true;
                continue;
            }
            behind.events.push_back(event);
        }
        if is_whole || behind.known == before {
            // What the first event behind the marker follows is the last one before it.
            behind.last = beyond.unwrap_or(behind.last);
            if behind.last > upto {
                self.unclear.push(index);
            }
            behind.known = upto;
        } else {
            self.open.insert((behind.known.max(from), index));
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
            _ if behind.missed => Some((behind.reached, Item::Loss)),
            Some(stored) if stored.prev > behind.reached && !planted!("no-loss") => Some((behind.reached, Item::Loss)),
            Some(stored) => Some((stored.id.stamp, Item::Event)),
            None if behind.known == self.upto => {
                let is_lost = behind.last > behind.reached && behind.last <= self.upto;
                is_lost.then_some((behind.reached, Item::Loss))
            }
            None => None,
        };
        if let Some((stamp, item)) = item {
            self.items.insert((stamp, item, index));
        }
    }

    /// An item was dealt with. True exactly when the topic's next piece must be read.
    pub(super) fn pass(&mut self, item: Item, index: usize) -> bool {
        self.items.pop_first();
        let behind = &mut self.topics[index];
        match item {
            Item::Loss => {
                let next = behind.events.front().and_then(|event| event.stored);
                behind.missed = false;
                behind.reached = behind.reached.max(next.map_or(behind.last.min(self.upto), |stored| stored.prev));
            }
            Item::Event => {
                if let Some(stored) = behind.events.pop_front().and_then(|event| event.stored) {
                    behind.reached = stored.id.stamp;
                }
            }
        }
        let wants_more = behind.events.is_empty() && self.open.contains(&(behind.known.max(self.from), index));
        self.show_next(index);
        wants_more
    }
}

impl<P> Shard<P> {
    /// Begins to read what was missed.
    pub(super) fn begin_catching_up(&mut self, behind: Vec<Key>, upto: Stamp) {
        self.partition.repairs += 1;
        self.counters.repairs += 1;
        if planted!("marker-jump") {
            self.partition.watermark = upto;
        }
        let (number, from) = (self.partition.repairs, self.partition.watermark);
        let held = |key: Key| (key, self.topics.at(key.slot).past.as_ref().expect("it is settled").held);
        let behind: Vec<(Key, Held)> = behind.into_iter().map(held).collect();
        let all: Vec<usize> = (0..behind.len()).collect();
        let catch_up = CatchUp::begin(number, from, upto, behind);
        self.partition.hold_at(Stage::Reading(catch_up));
        for indices in all.chunks(TOPICS_PER_READ) {
            self.read_on(indices.to_vec());
        }
    }

    /// Reads the next piece of these topics.
    fn read_on(&mut self, indices: Vec<usize>) {
        let Some(Hold { stage: Stage::Reading(catch_up), .. }) = &self.partition.hold else { return };
        let (number, upto, count) = (catch_up.number, catch_up.upto, catch_up.topics.len());
        let behind = indices.iter().map(|&index| &catch_up.topics[index]);
        let topics = behind.map(|behind| (self.topics.name_at(behind.key), behind.known));
        let topics: Option<Vec<_>> = topics.map(|(name, known)| Some((name?, known))).collect();
        let Some(topics) = topics else {
            // One is gone: the others are read without it.
            return self.read_without_gone(indices);
        };
        let bytes_max = (REPAIR_BYTES_MAX / count.max(1)).clamp(*REPAIR_PAGE_BYTES.start(), *REPAIR_PAGE_BYTES.end());
        let read = Read::After { topics, bytes_max };
        self.partition.pages.ask(Purpose::Repair(number, indices), read, upto);
    }

    fn read_without_gone(&mut self, indices: Vec<usize>) {
        let Some(Hold { stage: Stage::Reading(catch_up), .. }) = &mut self.partition.hold else { return };
        let mut here = Vec::new();
        for index in indices {
            if self.topics.name_at(catch_up.topics[index].key).is_some() {
                here.push(index);
            } else {
                catch_up.leave_out(index);
            }
        }
        if !here.is_empty() {
            self.read_on(here);
        }
    }

    /// Takes pieces of what was missed.
    pub(super) fn take_missed(&mut self, number: u64, indices: Vec<usize>, pages: Vec<Page>) {
        let Some(Hold { stage: Stage::Reading(catch_up), .. }) = &mut self.partition.hold else { return };
        if catch_up.number != number {
            return;
        }
        for (index, page) in indices.into_iter().zip(pages) {
            catch_up.take_page(index, page);
        }
    }

    /// Goes on with a repair, a portion at a time. True exactly when there may be more to do before anything else
    /// happens.
    pub fn catch_up<S: Sink<Port = P>>(&mut self, sink: &mut S) -> bool {
        for _ in 0..PORTION {
            let Some(hold) = &mut self.partition.hold else { return false };
            let has_more = match &mut hold.stage {
                Stage::Subscribing(_) | Stage::Barrier => return false,
                Stage::Reading(_) => self.ingest_missed(sink),
                Stage::Releasing => self.ingest_held(sink),
            };
            match has_more {
                Progress::Made => {}
                Progress::NeedsSweep => return true,
                Progress::Waits => return false,
            }
        }
        true
    }

    /// Ingests the next item that was read.
    fn ingest_missed<S: Sink<Port = P>>(&mut self, sink: &mut S) -> Progress {
        let Some(Hold { stage: Stage::Reading(catch_up), .. }) = &mut self.partition.hold else {
            return Progress::Waits;
        };
        let Some((_, item, index)) = catch_up.next() else {
            if !catch_up.open.is_empty() {
                return Progress::Waits;
            }
            let upto = catch_up.upto;
            let tag = self.partition.chain().position_at(upto).tag;
            if !self.pass_losses(sink, tag) {
                return Progress::NeedsSweep;
            }
            self.leave_unclear();
            self.partition.watermark = upto.max(self.partition.watermark);
            if let Some(hold) = &mut self.partition.hold {
                hold.stage = Stage::Releasing;
            }
            return Progress::Made;
        };
        let behind = &mut catch_up.topics[index];
        let key = behind.key;
        let is_here = self.topics.get(key).is_some_and(|topic| topic.past.as_ref().is_some_and(|past| past.settled));
        match item {
            Item::Loss if is_here => {
                let (lost, place) = (catch_up.lost(index), catch_up.place_of_loss(index));
                if !self.come_to_a_stand() {
                    return Progress::NeedsSweep;
                }
                let tag = self.partition.chain().id_of(place).tag;
                self.pass_losses(sink, tag);
                self.tell_trimmed(sink, key, lost, place);
            }
            Item::Event if is_here => {
                let Some(event) = behind.events.front().cloned() else { return Progress::Waits };
                let Some(stored) = event.stored else { return Progress::Waits };
                if !self.pass_losses(sink, stored.id.tag) {
                    return Progress::NeedsSweep;
                }
                if self.append_durable(sink, key, event, stored).is_err() {
                    return Progress::NeedsSweep;
                }
            }
            Item::Loss | Item::Event => {}
        }
        self.pass_item(item, index)
    }

    /// What could not be seen is left to the event that comes alive: it does not follow what is held, and the repair
    /// that it begins sees more.
    fn leave_unclear(&mut self) {
        let Some(Hold { stage: Stage::Reading(catch_up), .. }) = &self.partition.hold else { return };
        for &index in &catch_up.unclear {
            let &Behind { key, reached, .. } = &catch_up.topics[index];
            if let Some(past) = self.topics.get(key).and_then(|topic| topic.past.as_mut())
                && past.settled
                && !past.held.exact
            {
                past.held = Held { upto: reached, exact: true };
            }
        }
    }

    /// An item was dealt with: the next one of its topic takes its place.
    fn pass_item(&mut self, item: Item, index: usize) -> Progress {
        let Some(Hold { stage: Stage::Reading(catch_up), .. }) = &mut self.partition.hold else {
            return Progress::Waits;
        };
        if catch_up.pass(item, index) {
            self.read_on(vec![index]);
        }
        Progress::Made
    }

    /// Ingests the next event that was held.
    fn ingest_held<S: Sink<Port = P>>(&mut self, sink: &mut S) -> Progress {
        let Some(hold) = &mut self.partition.hold else { return Progress::Waits };
        let Some(event) = hold.queue.pop_front() else {
            let overrun = hold.overrun;
            self.partition.hold = None;
            if overrun {
                self.partition.hold_at(Stage::Barrier);
            } else {
                self.release();
            }
            return Progress::Waits;
        };
        hold.bytes -= event.weight();
        match self.take_current(sink, event) {
            Ok(()) => Progress::Made,
            Err(event) => {
                if let Some(hold) = &mut self.partition.hold {
                    hold.bytes += event.weight();
                    hold.queue.push_front(event);
                }
                Progress::NeedsSweep
            }
        }
    }
}

/// How far a step of a repair has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Made,
    /// Ready readers must be offered what there is first.
    NeedsSweep,
    /// Something must come in first.
    Waits,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slab::Slab;
    use crate::event::{EventId, Stored, Tag};
    use crate::topic::Topic;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn at(ms: u64) -> Stamp {
        Stamp { ms, n: 0 }
    }

    fn event(topic: usize, ms: u64, prev: u64) -> Arc<Event> {
        Arc::new(Event {
            topic: Topic::parse(&format!("t{topic}")).expect("a topic"),
            name: None,
            key: None,
            data: Bytes::new(),
            stored: Some(Stored { id: EventId { stamp: at(ms), tag: Tag::NONE }, prev: at(prev) }),
            received_us: 0,
        })
    }

    /// Where a loss is told, by looking at all topics.
    fn naive_place_of_loss(catch_up: &CatchUp, index: usize) -> Stamp {
        let fronts = catch_up.topics.iter().filter_map(|behind| behind.events.front()?.stored);
        let losses = catch_up.items.iter().filter(|&&(_, item, other)| item == Item::Loss && other != index);
        let next = fronts.map(|next| next.id.stamp.before()).chain(losses.map(|&(stamp, ..)| stamp));
        let next = next.chain(catch_up.open.first().map(|&(known, _)| known));
        next.chain([catch_up.lost(index)]).min().expect("at least that")
    }

    /// A history: for each number the topic it belongs to, and whether it is retained.
    fn history() -> impl Strategy<Value = Vec<(usize, bool)>> {
        proptest::collection::vec((0..4usize, proptest::bool::weighted(0.8)), 1..60)
    }

    proptest! {
        /// The twin sorts everything.
        #[test]
        fn what_was_missed_comes_in_order_and_what_is_gone_is_told_in_its_place(
            history in history(), from in 0..40u64, beyond in 0..20u64, size in 1..5usize, seed in any::<u64>(),
        ) {
            let upto = (history.len() as u64).saturating_sub(beyond).max(from);
            // Retained are, of each topic, all from some event on.
            let mut topics: Vec<Vec<(u64, u64, bool)>> = vec![Vec::new(); 4];
            for (number, &(topic, _)) in history.iter().enumerate() {
                let prev = topics[topic].last().map_or(0, |last| last.0);
                topics[topic].push((number as u64 + 1, prev, true));
            }
            for topic in &mut topics {
                let gone = topic.iter().filter(|(number, ..)| !history[*number as usize - 1].1).count();
                topic.iter_mut().take(gone).for_each(|event| event.2 = false);
            }
            let mut expected = Vec::new();
            for (index, topic) in topics.iter().enumerate() {
                let missed = |number: u64| number > from && number <= upto;
                // What is gone beyond the marker is shown by its live message, and the repair that follows.
                let first = topic.iter().find(|(_, _, here)| *here).map(|(_, prev, _)| *prev);
                let shows = first.or(topic.last().map(|last| last.0)).is_some_and(|gone| gone <= upto);
                if shows
                    && let Some(last) = topic.iter().rfind(|(number, _, here)| missed(*number) && !here)
                {
                    assert!(last.0 > from);
                    expected.push((from, Item::Loss, index));
                }
                let here = topic.iter().filter(|(number, _, here)| missed(*number) && *here);
                expected.extend(here.map(|(number, ..)| (*number, Item::Event, index)));
            }
            expected.sort_unstable();

            let mut keys = Slab::default();
            let behind = topics.iter().map(|topic| {
                let held = topic.iter().rfind(|(number, ..)| *number <= from).map_or(0, |event| event.0);
                (keys.insert(()), Held { upto: at(held), exact: true })
            });
            let mut catch_up = CatchUp::begin(1, at(from), at(upto), behind.collect());
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut asked: Vec<usize> = (0..4).collect();
            let mut seen = Vec::new();
            loop {
                if let Some((stamp, item, index)) = catch_up.next().filter(|_| asked.is_empty() || rng.bool()) {
                    seen.push((stamp.ms, item, index));
                    if item == Item::Loss {
                        prop_assert_eq!(catch_up.place_of_loss(index), naive_place_of_loss(&catch_up, index));
                    }
                    if catch_up.pass(item, index) {
                        asked.push(index);
                    }
                    continue;
                }
                if asked.is_empty() {
                    break;
                }
                let index = asked.swap_remove(rng.usize(0..asked.len()));
                let known = catch_up.topics[index].known.ms;
                let here = topics[index].iter().filter(|(number, _, here)| *number > known && *here);
                let mut events: Vec<_> = here.map(|&(number, prev, _)| event(index, number, prev)).collect();
                let more = events.len() > size;
                events.truncate(size);
                let last = topics[index].last().map_or(0, |last| last.0);
                let topic = Topic::parse(&format!("t{index}")).expect("a topic");
                catch_up.take_page(index, Page { topic, events, more, last: at(last) });
            }
            prop_assert_eq!(seen, expected);
            prop_assert!(catch_up.open.is_empty());
        }
    }
}
