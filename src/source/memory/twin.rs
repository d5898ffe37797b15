//! The slow twin of [`histories`](super::histories): a list of everything that was ever published, in which
//! what is kept is found by looking through all of it; and the test that holds the two against each other.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::engine::history::{Answer, Page, Read};
use crate::engine::policy::Retention;
use crate::event::{Event, Stamp, Tag};
use crate::source::memory::histories::{ENTRY_AGE_MS, Histories, INDEX_SHARE, PAGE_OVERHEAD, entry_bytes, event_bytes};
use crate::topic::Topic;

struct Line {
    topic: Topic,
    number: Stamp,
    prev: Stamp,
    event: Arc<Event>,
    age_ms: u64,
    is_kept: bool,
}

struct Twin {
    lines: Vec<Line>,
    /// Topic → its last number.
    index: Vec<(Topic, Stamp)>,
    last: Stamp,
    horizon: Stamp,
    bytes_max: usize,
}

impl Twin {
    fn append(&mut self, event: &Arc<Event>, retention: Retention, now_ms: u64) {
        self.last = if now_ms > self.last.ms {
            Stamp { ms: now_ms, n: 0 }
        } else {
            Stamp { ms: self.last.ms, n: self.last.n + 1 }
        };
        let topic = event.topic.clone();
        let prev = self.last_of(&topic);
        self.index.retain(|(other, _)| *other != topic);
        self.index.push((topic.clone(), self.last));
        let line = Line {
            topic: topic.clone(),
            number: self.last,
            prev,
            event: Arc::clone(event),
            age_ms: retention.age_ms,
            is_kept: true,
        };
        self.lines.push(line);
        let count = self.kept(&topic).count();
        let mut surplus = count.saturating_sub(retention.events_max);
        for line in self.lines.iter_mut().filter(|line| line.is_kept && line.topic == topic) {
            line.is_kept = surplus == 0 && line.number.ms + line.age_ms >= self.last.ms;
            surplus = surplus.saturating_sub(1);
        }
        while self.bytes() > self.bytes_max {
            let index_bytes: usize = self.index.iter().map(|(topic, _)| entry_bytes(topic)).sum();
            let forgotten = index_bytes > self.bytes_max / INDEX_SHARE && self.forget(None);
            let oldest = self.lines.iter_mut().filter(|_| !forgotten).find(|line| line.is_kept);
            let retired = oldest.map(|line| line.is_kept = false).is_some();
            if !forgotten && !retired && !self.forget(None) {
                break;
            }
        }
    }

    fn tidy(&mut self) {
        for line in &mut self.lines {
            line.is_kept &= line.number.ms + line.age_ms >= self.last.ms;
        }
        while self.forget(Some(self.last.ms.saturating_sub(ENTRY_AGE_MS))) {}
    }

    /// Forgets the oldest index entry without events, if it is older than `before_ms`.
    fn forget(&mut self, before_ms: Option<u64>) -> bool {
        let empty = self.index.iter().filter(|(topic, _)| self.kept(topic).next().is_none());
        let oldest = empty.min_by_key(|(_, last)| *last).cloned();
        match oldest.filter(|(_, last)| before_ms.is_none_or(|before| last.ms < before)) {
            None => false,
            Some((topic, last)) => {
                self.index.retain(|(other, _)| *other != topic);
                self.horizon = self.horizon.max(last);
                true
            }
        }
    }

    fn kept(&self, topic: &Topic) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.is_kept && line.topic == *topic)
    }

    fn last_of(&self, topic: &Topic) -> Stamp {
        self.index.iter().find(|(other, _)| other == topic).map_or(self.horizon, |(_, last)| *last)
    }

    fn bytes(&self) -> usize {
        let events: usize = self.lines.iter().filter(|line| line.is_kept).map(|line| event_bytes(&line.event)).sum();
        events + self.index.iter().map(|(topic, _)| entry_bytes(topic)).sum::<usize>()
    }

    /// Checks a page; `all` are the lines it may take from, in the order in which it takes.
    fn check(&self, page: &Page, all: &[&Line], bytes_max: usize, events_max: usize, backwards: bool) {
        let mut bytes = 0;
        let mut fitting = 0;
        for line in all.iter().take(events_max) {
            bytes += line.event.weight() + PAGE_OVERHEAD;
            if fitting > 0 && bytes > bytes_max {
                break;
            }
            fitting += 1;
        }
        let mut expected: Vec<(Stamp, Stamp, Bytes)> =
            all[..fitting].iter().map(|line| (line.number, line.prev, line.event.data.clone())).collect();
        if backwards {
            expected.reverse();
        }
        let places = page.events.iter().map(|event| (event.stored.expect("stored"), event.data.clone()));
        let read: Vec<_> = places.map(|(stored, data)| (stored.id.stamp, stored.prev, data)).collect();
        assert_eq!(read, expected);
        assert_eq!((page.more, page.last), (fitting < all.len(), self.last_of(&page.topic)));
        for pair in read.windows(2) {
            assert_eq!(pair[1].1, pair[0].0, "what is on a page is contiguous");
        }
    }

    fn compare(&self, histories: &Histories, place: Stamp, some: usize) {
        assert_eq!((histories.last(), histories.horizon()), (self.last, self.horizon));
        assert_eq!(histories.bytes(), self.bytes());
        let topics: Vec<Topic> = (0..TOPICS).map(topic).collect();
        let bytes_max = some * 40;
        let after = topics.iter().map(|topic| (topic.clone(), place)).collect();
        let Answer::Pages(pages) = histories.read(&Read::After { topics: after, bytes_max }) else { panic!() };
        for page in &pages {
            let all: Vec<&Line> = self.kept(&page.topic).filter(|line| line.number > place).collect();
            self.check(page, &all, bytes_max, usize::MAX, false);
        }
        let tail = Read::Tail { topics: topics.clone(), upto: place, events_max: some, bytes_max };
        let Answer::Pages(pages) = histories.read(&tail) else { panic!() };
        assert!(pages.iter().map(|page| &page.topic).eq(&topics));
        for page in &pages {
            let all: Vec<&Line> = self.kept(&page.topic).rev().filter(|line| line.number <= place).collect();
            self.check(page, &all, bytes_max, some, true);
        }
        let topics = topics[..TOPICS - 1].to_vec();
        let mut all: Vec<Stamp> = topics.iter().flat_map(|topic| self.kept(topic)).map(|line| line.number).collect();
        all.retain(|number| *number <= place);
        all.sort();
        let Answer::Start(start) = histories.read(&Read::Start { topics, upto: place, count: some }) else { panic!() };
        assert_eq!(all.iter().filter(|number| **number > start).count(), all.len().min(some));
    }
}

const TOPICS: usize = 6;

fn topic(which: usize) -> Topic {
    Topic::parse(&"topic.".repeat(which + 1)).expect("a topic")
}

/// Few and many events, short, long and very long ages, and two topics of one age.
fn retention(which: usize) -> Retention {
    let (events_max, age_ms) =
        [(3, 1_000), (100, 50), (5, 60 * 24 * 3_600_000), (1_000, 50), (1, 1_000), (0, 1_000)][which];
    Retention { events_max, age_ms, ..Retention::default() }
}

#[derive(Debug, Clone)]
enum Step {
    Publish { which: usize, bytes: usize },
    Later(i64),
    Tidy,
}

fn step() -> impl Strategy<Value = Step> {
    let publish = (0..TOPICS, 0usize..120).prop_map(|(which, bytes)| Step::Publish { which, bytes });
    let later = prop_oneof![3 => -20i64..60, 1 => 900i64..1_200].prop_map(Step::Later);
    let much_later = (ENTRY_AGE_MS as i64 - 2..ENTRY_AGE_MS as i64 + 2).prop_map(Step::Later);
    prop_oneof![12 => publish, 6 => later, 1 => much_later, 3 => Just(Step::Tidy)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_history_is_what_its_slow_twin_says(
        steps in prop::collection::vec((step(), any::<prop::sample::Index>(), 0usize..9), 1..80),
        bytes_max in prop_oneof![Just(0usize), 1_500usize..6_000, Just(1 << 20)],
    ) {
        let tag = Tag::parse("aaaa").expect("a tag");
        let mut now_ms = 1_000;
        let mut histories = Histories::begin(tag, now_ms, bytes_max);
        let last = Stamp { ms: now_ms, n: 0 };
        let mut twin = Twin { lines: Vec::new(), index: Vec::new(), last, horizon: Stamp::ZERO, bytes_max };
        for (step, place, some) in steps {
            match step {
                Step::Publish { which, bytes } => {
                    let event = Event {
                        topic: topic(which),
                        name: None,
                        key: Some("k".into()),
                        data: Bytes::from(vec![b'a'; bytes]),
                        stored: None,
                        received_us: 0,
                    };
                    let event = histories.append(event, retention(which), now_ms);
                    twin.append(&event, retention(which), now_ms);
                    let stored = event.stored.expect("stored");
                    let line = twin.lines.last().expect("just appended");
                    prop_assert_eq!((stored.id.stamp, stored.id.tag, stored.prev), (line.number, tag, line.prev));
                }
                Step::Later(ms) => now_ms = now_ms.saturating_add_signed(ms),
                Step::Tidy => {
                    while histories.tidy(2) {}
                    twin.tidy();
                }
            }
            // Any number that was ever given, the one before it, or the end.
            let numbers: Vec<Stamp> =
                twin.lines.iter().flat_map(|line| [line.number.before(), line.number]).chain([twin.last]).collect();
            twin.compare(&histories, *place.get(&numbers), some);
        }
    }
}
