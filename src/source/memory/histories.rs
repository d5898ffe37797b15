//! The past of the embedded broker's durable topics: their events, the index, and what is forgotten first.
//!
//! ```text
//!  topics   topic → last number, events (oldest first)             the index and the histories
//!  groups   age   → { number of a topic's oldest event → topic }   who ages, and whose event is the oldest
//!  empties  last number → topic                                    topics whose events have all left
//! ```
//!
//! What always holds:
//! - numbers grow over all topics, and each event's `prev` is the number of its topic's event before it;
//! - where that is not known any more, since the topic's index entry was forgotten, it is the horizon,
//!   which is at least as high;
//! - a topic with events stands in exactly one group, under its oldest event; one without, in `empties`;
//! - an index entry outlives its events; the horizon is the highest number of a forgotten entry, and
//!   rises with nothing else.
//!
//! # Overload
//! Events and index entries are charged together, with a little more than they take: with many and with few
//! topics, 55 to 90 % of what is charged was resident. Over the budget the oldest event of all topics
//! leaves, until it is kept. So that very many topics with one event each do not leave the others
//! without history, index entries may take no more than half: beyond that the oldest entry without
//! events is forgotten first.
//!
//! # What was not chosen
//! One queue of all events in their order: its entries would stay behind when a topic's own limit takes
//! an event. A map of oldest events costs O(log topics) for an event that leaves, and nothing for one
//! that comes. There is no timer: age is measured between numbers, so nothing ages while nothing is published.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::engine::history::{Answer, Page, Read};
use crate::engine::policy::Retention;
use crate::event::{Event, EventId, Stamp, Stored, Tag};
use crate::topic::Topic;

/// What an event is charged with beyond its text: itself, the counts of its `Arc`, four places in a
/// queue (it has at most four times the places it needs), and what the allocator rounds up.
pub const EVENT_OVERHEAD: usize = size_of::<Event>() + 16 + 4 * size_of::<Arc<Event>>() + 48;
/// What an index entry is charged with beyond the topic's name: its place in a table of which no less
/// than a quarter is used, one in a map that may be half full, the first four places of its queue.
pub const ENTRY_OVERHEAD: usize = 4 * size_of::<(Topic, History)>() + 2 * size_of::<(Stamp, Topic)>() + 64;
/// An index entry without events is forgotten when it is so far behind, in ms between numbers. 30 days.
pub const ENTRY_AGE_MS: u64 = 30 * 24 * 3_600_000;
/// The part of the budget index entries may take before events: one in so many.
pub const INDEX_SHARE: usize = 2;
/// What an event adds to a page beyond its text: about its id line and the names of its fields.
pub const PAGE_OVERHEAD: usize = 32;

/// See the module.
pub struct Histories {
    tag: Tag,
    /// The newest number; at first the moment of the start.
    last: Stamp,
    horizon: Stamp,
    topics: HashMap<Topic, History, foldhash::fast::RandomState>,
    /// As many as classes have different ages.
    groups: Vec<Group>,
    empties: BTreeMap<Stamp, Topic>,
    /// What index entries are charged with. 0 <= index_bytes <= bytes.
    index_bytes: usize,
    /// What events and index entries are charged with. At most `bytes_max` between any two calls.
    bytes: usize,
    bytes_max: usize,
}

/// One topic.
struct History {
    /// The number of its newest event; while there was none since the entry was made, the horizon.
    last: Stamp,
    /// Oldest first.
    events: VecDeque<Arc<Event>>,
    /// The group it stands in while it has events.
    group: usize,
}

/// The topics whose events may become equally old.
struct Group {
    age_ms: u64,
    /// The number of a topic's oldest event.
    fronts: BTreeMap<Stamp, Topic>,
}

impl Histories {
    /// A history that begins at `now_ms` (ms since 1970) and is charged with at most `bytes_max`.
    #[must_use]
    pub fn begin(tag: Tag, now_ms: u64, bytes_max: usize) -> Histories {
        Histories {
            tag,
            last: Stamp { ms: now_ms.min(Stamp::MAX.ms), n: 0 },
            horizon: Stamp::ZERO,
            topics: HashMap::default(),
            groups: Vec::new(),
            empties: BTreeMap::new(),
            index_bytes: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// The newest number.
    #[must_use]
    pub fn last(&self) -> Stamp {
        self.last
    }

    /// The highest number of a topic that was forgotten.
    #[must_use]
    pub fn horizon(&self) -> Stamp {
        self.horizon
    }

    /// What is kept is charged with so many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives an event its place and keeps it as long as `retention` says.
    pub fn append(&mut self, mut event: Event, retention: Retention, now_ms: u64) -> Arc<Event> {
        self.last = self.last.next(now_ms.min(Stamp::MAX.ms));
        let id = EventId { stamp: self.last, tag: self.tag };
        let group = self.group_of(retention.age_ms);
        // All events of a topic share the name that stands in the index.
        let (topic, history) = match self.topics.entry(event.topic) {
            Entry::Occupied(entry) => {
                let topic = entry.key().clone();
                let history = entry.into_mut();
                if history.events.is_empty() {
                    self.empties.remove(&history.last);
                }
                (topic, history)
            }
            Entry::Vacant(entry) => {
                let topic = entry.key().clone();
                self.index_bytes += entry_bytes(&topic);
                self.bytes += entry_bytes(&topic);
                (topic, entry.insert(History { last: self.horizon, events: VecDeque::new(), group }))
            }
        };
        event.topic = topic.clone();
        // Its own: a piece of a request's body would keep the whole of it.
        event.data = Bytes::copy_from_slice(&event.data);
        event.stored = Some(Stored { id, prev: history.last });
        let event = Arc::new(event);
        history.last = id.stamp;
        history.events.push_back(Arc::clone(&event));
        if history.events.len() == 1 {
            self.groups[history.group].fronts.insert(id.stamp, topic.clone());
        }
        self.bytes += event_bytes(&event);
        self.trim(&topic, retention);
        self.make_room();
        event
    }

    /// Reads. Finding a place takes time in the logarithm of a history's length.
    #[must_use]
    pub fn read(&self, read: &Read) -> Answer {
        match read {
            Read::After { topics, bytes_max } => {
                Answer::Pages(topics.iter().map(|(topic, after)| self.page_after(topic, *after, *bytes_max)).collect())
            }
            Read::Tail { topics, upto, events_max, bytes_max } => Answer::Pages(
                topics.iter().map(|topic| self.page_upto(topic, *upto, *events_max, *bytes_max)).collect(),
            ),
            Read::Start { topics, upto, count } => Answer::Start(self.start(topics, *upto, *count)),
        }
    }

    /// Lets go what has become too old, `most` of it. True exactly when there may be more.
    pub fn tidy(&mut self, most: usize) -> bool {
        (0..most).all(|_| self.retire_aged() || self.forget_aged())
    }

    fn group_of(&mut self, age_ms: u64) -> usize {
        self.groups.iter().position(|group| group.age_ms == age_ms).unwrap_or_else(|| {
            self.groups.push(Group { age_ms, fronts: BTreeMap::new() });
            self.groups.len() - 1
        })
    }

    /// Keeps one topic within its class's limits.
    fn trim(&mut self, topic: &Topic, retention: Retention) {
        let oldest_ms = self.last.ms.saturating_sub(retention.age_ms);
        while let Some(history) = self.topics.get(topic)
            && let Some(front) = history.events.front()
            && (history.events.len() > retention.events_max || number(front).ms < oldest_ms)
        {
            self.retire(topic);
        }
    }

    /// Keeps all of them within the budget.
    fn make_room(&mut self) {
        while self.bytes > self.bytes_max {
            let forget_first = self.index_bytes > self.bytes_max / INDEX_SHARE && self.forget_oldest();
            if !forget_first && !self.retire_oldest() && !self.forget_oldest() {
                return;
            }
        }
    }

    /// Lets the oldest event of all topics go. False when there is none.
    fn retire_oldest(&mut self) -> bool {
        let oldest = self.groups.iter().filter_map(|group| group.fronts.first_key_value()).min();
        let Some((_, topic)) = oldest else { return false };
        self.retire(&topic.clone());
        true
    }

    /// Lets an event go that is older than its class keeps them. False when there is none.
    fn retire_aged(&mut self) -> bool {
        let now = self.last.ms;
        let aged = self.groups.iter().find_map(|group| {
            group.fronts.first_key_value().filter(|(front, _)| front.ms < now.saturating_sub(group.age_ms))
        });
        let Some((_, topic)) = aged else { return false };
        self.retire(&topic.clone());
        true
    }

    /// Lets the oldest event of `topic` go.
    fn retire(&mut self, topic: &Topic) {
        let Some(history) = self.topics.get_mut(topic) else { return };
        let Some(event) = history.events.pop_front() else { return };
        if history.events.len() * 4 < history.events.capacity() {
            history.events.shrink_to(history.events.len() * 2);
        }
        self.bytes -= event_bytes(&event);
        let fronts = &mut self.groups[history.group].fronts;
        fronts.remove(&number(&event));
        match history.events.front() {
            Some(next) => fronts.insert(number(next), event.topic.clone()),
            None => self.empties.insert(history.last, event.topic.clone()),
        };
    }

    /// Forgets an entry without events that is far behind. False when there is none.
    fn forget_aged(&mut self) -> bool {
        let oldest_ms = self.last.ms.saturating_sub(ENTRY_AGE_MS);
        let is_aged = self.empties.first_key_value().is_some_and(|(last, _)| last.ms < oldest_ms);
        is_aged && self.forget_oldest()
    }

    /// Forgets the oldest entry without events. False when there is none.
    fn forget_oldest(&mut self) -> bool {
        let Some((last, topic)) = self.empties.pop_first() else { return false };
        self.topics.remove(&topic);
        if self.topics.len() * 4 < self.topics.capacity() {
            self.topics.shrink_to(self.topics.len() * 2);
        }
        self.index_bytes -= entry_bytes(&topic);
        self.bytes -= entry_bytes(&topic);
        // One that had events longer, because they are kept longer, is forgotten after newer ones.
        self.horizon = self.horizon.max(last);
        true
    }

    fn page_after(&self, topic: &Topic, after: Stamp, bytes_max: usize) -> Page {
        let Some(history) = self.topics.get(topic) else { return self.blank(topic) };
        let events = &history.events;
        let begin = events.partition_point(|event| number(event) <= after);
        let taken = within(events.range(begin..), bytes_max);
        let more = begin + taken < events.len();
        let events = events.range(begin..begin + taken).cloned().collect();
        Page { topic: topic.clone(), events, more, last: history.last }
    }

    fn page_upto(&self, topic: &Topic, upto: Stamp, events_max: usize, bytes_max: usize) -> Page {
        let Some(history) = self.topics.get(topic) else { return self.blank(topic) };
        let events = &history.events;
        let end = events.partition_point(|event| number(event) <= upto);
        let begin = end - within(events.range(..end).rev().take(events_max), bytes_max);
        let events = events.range(begin..end).cloned().collect();
        Page { topic: topic.clone(), events, more: begin > 0, last: history.last }
    }

    /// What is read of a topic that is not in the index.
    fn blank(&self, topic: &Topic) -> Page {
        Page { topic: topic.clone(), events: Vec::new(), more: false, last: self.horizon }
    }

    fn start(&self, topics: &[Topic], upto: Stamp, count: usize) -> Stamp {
        let histories: Vec<&VecDeque<Arc<Event>>> =
            topics.iter().filter_map(|topic| self.topics.get(topic)).map(|history| &history.events).collect();
        // Of each topic the newest event that is not counted yet: its number, whose it is, how many are below it.
        let newest = |which: usize, below: usize| Some((number(histories[which].get(below)?), which, below));
        let mut uncounted: BinaryHeap<(Stamp, usize, usize)> = (0..histories.len())
            .filter_map(|which| {
                let end = histories[which].partition_point(|event| number(event) <= upto);
                newest(which, end.checked_sub(1)?)
            })
            .collect();
        let mut start = upto;
        for _ in 0..count {
            let Some((number, which, below)) = uncounted.pop() else { break };
            start = number.before();
            uncounted.extend(below.checked_sub(1).and_then(|below| newest(which, below)));
        }
        start
    }
}

/// How many of `events` fit into a page of `bytes_max`: the first always does.
fn within<'a>(events: impl Iterator<Item = &'a Arc<Event>>, bytes_max: usize) -> usize {
    let mut bytes = 0;
    events
        .take_while(|event| {
            let is_first = bytes == 0;
            bytes += event.weight() + PAGE_OVERHEAD;
            is_first || bytes <= bytes_max
        })
        .count()
}

fn number(event: &Event) -> Stamp {
    event.stored.expect("what is appended has its place").id.stamp
}

/// What an event is charged with: its text is its own, its topic's name is the index's.
#[must_use]
pub fn event_bytes(event: &Event) -> usize {
    EVENT_OVERHEAD + event.weight() - event.topic.as_str().len()
}

/// What an index entry is charged with.
#[must_use]
pub fn entry_bytes(topic: &Topic) -> usize {
    ENTRY_OVERHEAD + topic.as_str().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: usize = 1 << 20;

    fn begin(bytes_max: usize) -> Histories {
        Histories::begin(Tag::parse("aaaa").expect("a tag"), 1_000, bytes_max)
    }

    fn topic(name: &str) -> Topic {
        Topic::parse(name).expect("a topic")
    }

    fn event(name: &str, data: &'static str) -> Event {
        let data = Bytes::from_static(data.as_bytes());
        Event { topic: topic(name), name: None, key: None, data, stored: None, received_us: 0 }
    }

    fn keep(events_max: usize, age_ms: u64) -> Retention {
        Retention { events_max, age_ms, ..Retention::default() }
    }

    fn at(ms: u64, n: u64) -> Stamp {
        Stamp { ms, n }
    }

    fn page(histories: &Histories, name: &str, after: Stamp, bytes_max: usize) -> Page {
        match histories.read(&Read::After { topics: vec![(topic(name), after)], bytes_max }) {
            Answer::Pages(mut pages) => pages.remove(0),
            Answer::Start(start) => panic!("{start}"),
        }
    }

    fn numbers(page: &Page) -> Vec<Stamp> {
        page.events.iter().map(|event| number(event)).collect()
    }

    #[test]
    fn numbers_grow_although_the_wall_clock_is_set_back_or_beyond_all_reason() {
        let mut histories = begin(PLENTY);
        let times = [1_000, 1_001, 3, 0, u64::MAX, 5];
        let given = times.map(|now_ms| number(&histories.append(event("t", ""), Retention::default(), now_ms)));
        let end = Stamp::MAX.ms;
        assert_eq!(given, [at(1_000, 1), at(1_001, 0), at(1_001, 1), at(1_001, 2), at(end, 0), at(end, 1)]);
        assert!(given.iter().all(|number| Stamp::parse(&number.to_string()) == Some(*number)));
    }

    #[test]
    fn a_class_keeps_exactly_as_many_and_as_old_as_it_says() {
        let mut histories = begin(PLENTY);
        for ms in 1_001..=1_005 {
            histories.append(event("few", ""), keep(3, 10_000), ms);
            histories.append(event("young", ""), keep(100, 2), ms);
        }
        assert_eq!(numbers(&page(&histories, "few", Stamp::ZERO, PLENTY)), [at(1_003, 0), at(1_004, 0), at(1_005, 0)]);
        let young = page(&histories, "young", Stamp::ZERO, PLENTY);
        assert_eq!(
            numbers(&young),
            [at(1_003, 1), at(1_004, 1), at(1_005, 1)],
            "2 ms behind the newest is not too old"
        );
        let first = young.events[0].stored.expect("stored");
        assert_eq!(first.prev, at(1_002, 1), "the chain goes on over what has left");
    }

    #[test]
    fn what_is_idle_ages_too_a_portion_at_a_time() {
        let mut histories = begin(PLENTY);
        for _ in 0..10 {
            histories.append(event("idle", ""), keep(100, 50), 1_001);
        }
        histories.append(event("busy", ""), keep(100, 100), 1_051);
        assert!(!histories.tidy(4), "50 ms are not too old");
        histories.append(event("busy", ""), keep(100, 100), 1_052);
        assert!(histories.tidy(4));
        assert_eq!(page(&histories, "idle", Stamp::ZERO, PLENTY).events.len(), 6);
        assert!(histories.tidy(6));
        assert!(!histories.tidy(6));
        let idle = page(&histories, "idle", Stamp::ZERO, PLENTY);
        assert_eq!((idle.events.len(), idle.more, idle.last), (0, false, at(1_001, 9)), "the index still knows it");
        assert_eq!(histories.horizon(), Stamp::ZERO);
        assert_eq!(page(&histories, "busy", Stamp::ZERO, PLENTY).events.len(), 2);
    }

    #[test]
    fn a_topic_is_forgotten_thirty_days_after_its_last_event_and_the_horizon_stands_there() {
        let mut histories = begin(PLENTY);
        histories.append(event("old", ""), keep(100, 50), 1_001);
        histories.append(event("new", ""), keep(100, 50), 1_001 + ENTRY_AGE_MS);
        while histories.tidy(9) {}
        assert_eq!(histories.horizon(), Stamp::ZERO);
        histories.append(event("new", ""), keep(100, 50), 1_002 + ENTRY_AGE_MS);
        while histories.tidy(9) {}
        assert_eq!(histories.horizon(), at(1_001, 0));
        assert_eq!(page(&histories, "old", Stamp::ZERO, PLENTY).last, at(1_001, 0));
        let never = histories.append(event("never before", ""), keep(100, 50), 0);
        assert_eq!(never.stored.expect("stored").prev, at(1_001, 0), "it might have been the forgotten one");
    }

    #[test]
    fn over_the_budget_the_oldest_event_of_all_topics_leaves_and_its_topic_stays_known() {
        let mut histories = begin(2 * (entry_bytes(&topic("a")) + 2 * EVENT_OVERHEAD));
        for (ms, name) in [(1_001, "a"), (1_002, "b"), (1_003, "b"), (1_004, "b"), (1_005, "b")] {
            histories.append(event(name, ""), Retention::default(), ms);
        }
        let a = page(&histories, "a", Stamp::ZERO, PLENTY);
        assert_eq!((a.events.len(), a.last), (0, at(1_001, 0)));
        assert_eq!(page(&histories, "b", Stamp::ZERO, PLENTY).events.len(), 4);
        histories.append(event("a", ""), Retention::default(), 1_006);
        let newest = [
            numbers(&page(&histories, "a", Stamp::ZERO, PLENTY)),
            numbers(&page(&histories, "b", Stamp::ZERO, PLENTY)),
        ];
        assert_eq!(newest, [vec![at(1_006, 0)], vec![at(1_003, 0), at(1_004, 0), at(1_005, 0)]]);
        assert_eq!(histories.horizon(), Stamp::ZERO);
    }

    /// A topic for each of very many sessions must not take the history from all others.
    #[test]
    fn topics_without_number_take_no_more_than_half_the_budget() {
        let mut histories = begin(100_000);
        for n in 0..10_000 {
            histories.append(event("main", ""), Retention::default(), 1_001 + n);
            histories.append(event(&format!("session.{n}"), ""), keep(0, 0), 1_001 + n);
            assert!(histories.bytes() <= 100_000);
        }
        assert!(page(&histories, "main", Stamp::ZERO, PLENTY).events.len() > 40_000 / EVENT_OVERHEAD);
        let known = (0..10_000).filter(|n| histories.topics.contains_key(&topic(&format!("session.{n}"))));
        let known: Vec<u64> = known.collect();
        assert!(known.len() > 40_000 / (ENTRY_OVERHEAD + 12) && known[0] + known.len() as u64 == 10_000);
        assert_eq!(histories.horizon(), at(1_001 + known[0] - 1, 1), "the highest that was forgotten");
    }

    #[test]
    fn a_page_ends_where_its_bytes_do_but_not_before_its_first_event() {
        let mut histories = begin(PLENTY);
        for ms in 1_001..=1_004 {
            histories.append(event("t", "123456789"), Retention::default(), ms);
        }
        let each = 10 + PAGE_OVERHEAD;
        for (bytes_max, count) in [(0, 1), (each, 1), (2 * each - 1, 1), (2 * each, 2), (4 * each, 4)] {
            let page = page(&histories, "t", Stamp::ZERO, bytes_max);
            assert_eq!((page.events.len(), page.more), (count, count < 4), "{bytes_max}");
        }
        assert_eq!(numbers(&page(&histories, "t", at(1_003, 0), PLENTY)), [at(1_004, 0)]);
    }

    #[test]
    fn memory_is_given_back_with_what_leaves() {
        let mut histories = begin(PLENTY);
        let large = Bytes::from(vec![b'a'; 100_000]);
        let slice = Event { data: large.slice(..1), ..event("t", "") };
        histories.append(slice, keep(10_000, 50), 1_001);
        assert!(large.is_unique(), "one byte does not keep the body it came in");
        (0..1_000).for_each(|_| drop(histories.append(event("t", ""), keep(10_000, 50), 1_001)));
        let places = |histories: &Histories| histories.topics[&topic("t")].events.capacity();
        histories.append(event("u", ""), keep(10_000, 50), 1_052);
        while histories.tidy(100) {
            let history = &histories.topics[&topic("t")];
            assert!(places(&histories) <= 4 * history.events.len());
        }
        assert_eq!(places(&histories), 0);
        for n in 0..1_000 {
            histories.append(event(&format!("once.{n}"), ""), keep(0, 0), 1_053);
        }
        histories.append(event("u", ""), keep(0, 0), 1_054 + ENTRY_AGE_MS);
        while histories.tidy(100) {}
        assert_eq!((histories.topics.len(), histories.bytes()), (1, entry_bytes(&topic("u"))));
        assert!(histories.topics.capacity() < 30);
        assert!(histories.groups.len() <= 2, "as many as there are ages");
    }
}
