//! A naive Redis: the keys of one partition, the script's operations, subscriber connections.
//!
//! Written from what the script promises, not from the script: an operation runs as a whole at one
//! moment, a message stands in the queue of every connection that wants it, in the order of
//! publishing. What Redis loses when it starts again is an earlier state of its keys.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanwheel::engine::history::{Chain, Fence, Page};
use fanwheel::engine::policy::Retention;
use fanwheel::engine::{Answer, Inbound, Marker, Read};
use fanwheel::event::{Event, EventId, EventName, Stamp, Stored, Tag};
use fanwheel::topic::Topic;

use super::truth::{Record, State, Truth};
use crate::simulation::socket::Moment;

/// States of the keys that a restart may fall back to.
const PAST_MAX: usize = 12;

/// The topics of a world; those below `durable` have a history.
#[derive(Debug, Clone)]
pub struct Topics {
    pub all: Vec<Topic>,
    pub durable: usize,
    /// By topic, of those that have one.
    pub retention: Vec<Retention>,
}

impl Topics {
    pub fn number(&self, topic: &Topic) -> usize {
        self.all.iter().position(|other| other == topic).expect("a topic of this world")
    }
}

#[derive(Debug, Clone)]
struct Clock {
    last: Stamp,
    tag: Tag,
    run: u32,
    epoch: Tag,
    fences: Rc<Vec<(Tag, Stamp, bool)>>,
    horizon: Stamp,
}

/// The keys.
#[derive(Debug, Clone, Default)]
struct Keys {
    clock: Option<Clock>,
    index: BTreeMap<usize, Stamp>,
    index_epoch: Option<Tag>,
    /// Numbers of events.
    streams: BTreeMap<usize, VecDeque<usize>>,
}

/// A subscriber connection.
#[derive(Debug, Default)]
pub struct Wire {
    pub alive: bool,
    pub subscribed: BTreeSet<usize>,
    /// What is on its way, and when it was said.
    pub queue: VecDeque<(Inbound, Moment)>,
}

/// See the module.
#[derive(Debug)]
pub struct Redis {
    pub topics: Topics,
    pub now_ms: u64,
    run: u32,
    keys: Keys,
    past: VecDeque<Keys>,
    pub wires: Vec<Wire>,
    /// Every connection hears of all topics, as those of the embedded broker do.
    pub tells_all: bool,
    pub truth: Truth,
    /// Tags drawn so far.
    drawn: usize,
    pub moment: Moment,
}

impl Redis {
    pub fn new(topics: Topics) -> Redis {
        Redis {
            topics,
            now_ms: 1_000,
            run: 1,
            keys: Keys::default(),
            past: VecDeque::new(),
            wires: Vec::new(),
            tells_all: false,
            truth: Truth::default(),
            drawn: 0,
            moment: 0,
        }
    }

    /// A tag that was never drawn before.
    pub fn draw_tag(&mut self) -> Tag {
        self.drawn += 1;
        Tag::parse(&format!("t{:03}", self.drawn)).expect("four letters or digits")
    }

    /// What a restart may fall back to from here on.
    fn remember(&mut self) {
        self.past.push_back(self.keys.clone());
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
    }

    /// Begins a new incarnation or epoch if there is reason to. True exactly when it did.
    pub fn open_clock(&mut self) -> bool {
        let whole = self.keys.clock.as_ref().is_some_and(|clock| self.keys.index_epoch == Some(clock.epoch));
        let known = self.keys.clock.as_ref().is_some_and(|clock| clock.run == self.run);
        if whole && known {
            return false;
        }
        self.remember();
        let tag = self.draw_tag();
        let moment = self.moment;
        let run = self.run;
        match self.keys.clock.as_mut().filter(|_| whole) {
            Some(clock) => {
                let of = std::mem::replace(&mut clock.tag, tag);
                Rc::make_mut(&mut clock.fences).push((of, clock.last, false));
                clock.run = run;
                self.truth.fence(of, clock.last, tag, moment);
            }
            None => {
                let last = Stamp { ms: self.now_ms, n: 0 };
                self.keys.index.clear();
                self.keys.index_epoch = Some(tag);
                let fences = Rc::default();
                self.keys.clock = Some(Clock { last, tag, run, epoch: tag, fences, horizon: Stamp::ZERO });
                self.truth.begin(tag, last, moment);
            }
        }
        self.note_state();
        true
    }

    fn note_state(&mut self) {
        let Some(clock) = &self.keys.clock else { return };
        self.truth.states.push(State {
            at: self.moment,
            tag: clock.tag,
            fences: Rc::clone(&clock.fences),
            last: clock.last,
            horizon: clock.horizon,
            indexed: self.keys.index.keys().fold(0, |bits, topic| bits | 1 << topic),
        });
    }

    fn clock(&mut self) -> &mut Clock {
        self.keys.clock.as_mut().expect("it was opened")
    }

    /// Publishes an event; gives its number.
    pub fn publish(&mut self, topic: usize, name: &str, text: &str) -> usize {
        self.open_clock();
        self.remember();
        let now = self.now_ms;
        let clock = self.clock();
        let id = EventId { stamp: clock.last.next(now), tag: clock.tag };
        let horizon = clock.horizon;
        clock.last = id.stamp;
        let prev = match self.keys.index.insert(topic, id.stamp) {
            Some(prev) => prev,
            None => {
                self.unlink(topic);
                horizon
            }
        };
        let number = self.record(topic, name, text, Some(Stored { id, prev }));
        self.keys.streams.entry(topic).or_default().push_back(number);
        self.trim_length(topic);
        self.trim_age(topic, id.stamp);
        self.note_state();
        self.send(Some(topic), &Inbound::Event(Arc::clone(&self.truth.events[number].event)));
        number
    }

    /// Publishes on a live topic.
    pub fn publish_live(&mut self, topic: usize, name: &str, text: &str) {
        let number = self.record(topic, name, text, None);
        self.send(Some(topic), &Inbound::Event(Arc::clone(&self.truth.events[number].event)));
    }

    fn record(&mut self, topic: usize, name: &str, text: &str, stored: Option<Stored>) -> usize {
        let event = Arc::new(self.event(topic, name, text, stored));
        self.truth.add(Record {
            topic,
            id: stored.map(|stored| stored.id),
            event,
            text: text.replace("\r\n", "\n").replace('\r', "\n"),
            name: if name.is_empty() { "message".into() } else { name.into() },
            at: self.moment,
            gone: None,
        })
    }

    fn event(&self, topic: usize, name: &str, text: &str, stored: Option<Stored>) -> Event {
        Event {
            topic: self.topics.all[topic].clone(),
            name: EventName::parse(name).expect("a good name"),
            key: None,
            data: Bytes::copy_from_slice(text.as_bytes()),
            stored,
            received_us: 0,
        }
    }

    /// Somebody publishes what looks like an event of a history, but was made elsewhere.
    pub fn publish_foreign(&mut self, topic: usize, stored: Stored) {
        let event = self.event(topic, "", "foreign", Some(stored));
        self.send(Some(topic), &Inbound::Event(Arc::new(event)));
    }

    /// Somebody publishes more than is allowed.
    pub fn publish_too_large(&mut self, topic: usize) {
        self.send(Some(topic), &Inbound::TooLarge(self.topics.all[topic].clone()));
    }

    /// The place at which something is read. Whoever asks begins what there is reason to begin.
    pub fn marker(&mut self) -> Marker {
        self.open_clock();
        Marker { last: self.clock().last, chain: Arc::new(self.chain()) }
    }

    /// A marker, on the private channel of one connection.
    pub fn barrier(&mut self, wire: usize, question: u64) {
        let marker = Inbound::Marker(question, Arc::new(self.marker()));
        let moment = self.moment;
        if self.wires[wire].alive {
            self.wires[wire].queue.push_back((marker, moment));
        }
    }

    /// Marks the fence of an incarnation. False when there is none, or it was marked.
    pub fn mark_lossy(&mut self, tag: Tag) -> bool {
        let Some(clock) = &mut self.keys.clock else { return false };
        let Some(at) = clock.fences.iter().position(|fence| fence.0 == tag && !fence.2) else { return false };
        self.remember();
        Rc::make_mut(&mut self.clock().fences)[at].2 = true;
        self.note_state();
        let chain = Inbound::Chain(Arc::new(self.chain()));
        self.send(None, &chain);
        true
    }

    fn chain(&self) -> Chain {
        let clock = self.keys.clock.as_ref().expect("it was opened");
        let fences = clock.fences.iter().map(|&(tag, last, lossy)| Fence { tag, last, lossy }).collect();
        Chain { tag: clock.tag, fences }
    }

    fn send(&mut self, topic: Option<usize>, message: &Inbound) {
        let moment = self.moment;
        for wire in self.wires.iter_mut().filter(|wire| wire.alive) {
            if self.tells_all || topic.is_none_or(|topic| wire.subscribed.contains(&topic)) {
                wire.queue.push_back((message.clone(), moment));
            }
        }
    }

    pub fn subscribe(&mut self, wire: usize, topic: usize, wanted: bool) {
        let name = self.topics.all[topic].clone();
        let moment = self.moment;
        let wire = &mut self.wires[wire];
        let message = if wanted {
            wire.subscribed.insert(topic);
            Inbound::Subscribed(name)
        } else {
            wire.subscribed.remove(&topic);
            Inbound::Unsubscribed(name)
        };
        wire.queue.push_back((message, moment));
    }

    /// Reads one topic's page. `shorter`: the answer ends before its bound.
    pub fn page(&self, read: &Read, which: usize, shorter: bool) -> Page {
        match read {
            Read::After { topics, bytes_max } => {
                let (topic, after) = &topics[which];
                let all = self.retained(topic).into_iter().filter(|event| stamp(event) > *after).collect();
                self.bounded(topic, all, usize::MAX, *bytes_max, shorter)
            }
            Read::Tail { topics, upto, events_max, bytes_max } => {
                let topic = &topics[which];
                let mut all = self.retained(topic);
                all.retain(|event| stamp(event) <= *upto);
                all.reverse();
                let mut page = self.bounded(topic, all, *events_max, *bytes_max, shorter);
                page.events.reverse();
                page
            }
            Read::Start { .. } => unreachable!("it has no pages"),
        }
    }

    fn bounded(&self, topic: &Topic, all: Vec<Arc<Event>>, events_max: usize, bytes_max: usize, shorter: bool) -> Page {
        let total = all.len();
        let mut bytes = 0;
        let mut events: Vec<Arc<Event>> = Vec::new();
        for event in all.into_iter().take(events_max) {
            bytes += event.weight();
            if !events.is_empty() && (bytes > bytes_max || shorter) {
                break;
            }
            events.push(event);
        }
        let horizon = self.keys.clock.as_ref().map_or(Stamp::ZERO, |clock| clock.horizon);
        let last = self.keys.index.get(&self.topics.number(topic)).copied().unwrap_or(horizon);
        Page { topic: topic.clone(), more: events.len() < total, events, last }
    }

    /// The events of a topic, oldest first. A stream without an entry in the index is not looked at.
    fn retained(&self, topic: &Topic) -> Vec<Arc<Event>> {
        let topic = self.topics.number(topic);
        if topic >= self.topics.durable || !self.keys.index.contains_key(&topic) {
            return Vec::new();
        }
        let stream = self.keys.streams.get(&topic).into_iter().flatten();
        stream.map(|&number| Arc::clone(&self.truth.events[number].event)).collect()
    }

    /// Answers [`Read::Start`]. `low`: where there are fewer, as low as may be.
    pub fn start(&self, topics: &[Topic], upto: Stamp, count: usize, low: bool) -> Answer {
        let all = topics.iter().flat_map(|topic| self.retained(topic));
        let mut stamps: Vec<Stamp> = all.map(|event| stamp(&event)).filter(|stamp| *stamp <= upto).collect();
        stamps.sort_unstable_by(|one, other| other.cmp(one));
        Answer::Start(match (stamps.get(count), stamps.last()) {
            (Some(&before), _) => before,
            (None, Some(first)) if !low => first.before(),
            _ => Stamp::ZERO,
        })
    }

    fn trim_length(&mut self, topic: usize) {
        let max = self.topics.retention[topic].events_max;
        while self.keys.streams.get(&topic).is_some_and(|stream| stream.len() > max) {
            self.drop_oldest(topic);
        }
    }

    fn trim_age(&mut self, topic: usize, now: Stamp) {
        let age = self.topics.retention[topic].age_ms;
        let least = Stamp { ms: now.ms.saturating_sub(age), n: now.n };
        let is_old =
            |redis: &Redis| redis.keys.streams.get(&topic)?.front().map(|&number| redis.truth.stamp(number) < least);
        while is_old(self) == Some(true) {
            self.drop_oldest(topic);
        }
    }

    fn drop_oldest(&mut self, topic: usize) {
        let oldest = self.keys.streams.get_mut(&topic).and_then(VecDeque::pop_front);
        self.note_gone(oldest.expect("the caller has looked"));
    }

    fn unlink(&mut self, topic: usize) {
        for number in self.keys.streams.remove(&topic).unwrap_or_default() {
            self.note_gone(number);
        }
    }

    fn note_gone(&mut self, number: usize) {
        self.truth.events[number].gone.get_or_insert(self.moment);
    }

    /// The janitor comes to a topic: it ages, or is forgotten when its newest event is `forget_ms` behind.
    pub fn tidy(&mut self, topic: usize, forget_ms: u64) {
        let Some(last) = self.keys.clock.as_ref().map(|clock| clock.last) else { return };
        let Some(&newest) = self.keys.index.get(&topic) else { return };
        self.remember();
        if newest.ms + forget_ms < last.ms {
            self.unlink(topic);
            self.keys.index.remove(&topic);
            let clock = self.clock();
            clock.horizon = clock.horizon.max(newest);
        } else {
            self.trim_age(topic, last);
        }
        self.note_state();
    }

    /// Starts again, with the newest `lost` writes undone. Every connection is cut by the caller.
    pub fn restart(&mut self, lost: usize) {
        for _ in 0..lost {
            if let Some(keys) = self.past.pop_back() {
                self.keys = keys;
            }
        }
        self.run += 1;
    }

    /// Everything is deleted.
    pub fn flush(&mut self) {
        self.remember();
        for topic in self.keys.streams.keys().copied().collect::<Vec<_>>() {
            self.unlink(topic);
        }
        self.keys = Keys::default();
    }

    /// The index alone is lost, by eviction or by hand.
    pub fn lose_index(&mut self) {
        self.remember();
        self.keys.index.clear();
        self.keys.index_epoch = None;
    }
}

fn stamp(event: &Event) -> Stamp {
    event.stored.expect("only stored events are in streams").id.stamp
}
