//! What truly happened: every event ever stored, and the path on which each incarnation stands.
//!
//! ```text
//!   path of aaaa   1 2 3 4 5 6        5 and 6 were lost when Redis began anew behind 4:
//!   path of bbbb   1 2 3 4 7 8        they stay on the path that nothing goes on from
//! ```
//!
//! The path of an incarnation is everything a reader of it could have read, from the beginning of its
//! epoch. A position is a place on the path of its tag, and whether somebody may go on from it to an
//! event is seen by laying two paths beside each other: no fence is looked at.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use fanwheel::event::{Event, EventId, Stamp, Tag};

use crate::simulation::socket::Moment;

/// An event that was stored, or was published on a live topic.
#[derive(Debug)]
pub struct Record {
    pub topic: usize,
    /// `None` exactly on live topics.
    pub id: Option<EventId>,
    pub event: Arc<Event>,
    /// With line ends as they arrive.
    pub text: String,
    pub name: String,
    pub at: Moment,
    /// When it first left its stream, by length, by age or with it; perhaps to come back when Redis does.
    pub gone: Option<Moment>,
}

/// How the keys of the history stood from a moment on.
#[derive(Debug, Clone)]
pub struct State {
    pub at: Moment,
    pub tag: Tag,
    /// Tag, last number, lossy; oldest first.
    pub fences: Rc<Vec<(Tag, Stamp, bool)>>,
    pub last: Stamp,
    pub horizon: Stamp,
    /// A bit for each topic that has an entry in the index.
    pub indexed: u64,
}

/// What a position is worth in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    Honoured,
    Diverged,
    Unknown,
}

impl State {
    /// The place of an incarnation among those that are known here.
    pub fn age(&self, tag: Tag) -> Option<usize> {
        let of_fence = self.fences.iter().position(|fence| fence.0 == tag);
        of_fence.or_else(|| (tag == self.tag).then_some(self.fences.len()))
    }

    /// The place of a position: before the fences that stand above its number, whatever its tag.
    pub fn age_of(&self, id: EventId) -> Option<usize> {
        let age = self.age(id.tag)?;
        Some(self.fences[..age].iter().position(|fence| fence.1 > id.stamp).unwrap_or(age))
    }

    pub fn worth(&self, id: EventId) -> Worth {
        let Some(age) = self.age(id.tag) else { return Worth::Unknown };
        let last = self.fences.get(age).map_or(self.last, |fence| fence.1);
        if id.stamp <= last { Worth::Honoured } else { Worth::Diverged }
    }
}

/// Where an incarnation stands.
#[derive(Debug)]
struct Path {
    /// Numbers of the events on it.
    events: Vec<usize>,
    /// Its clock, when it began.
    base: Stamp,
    since: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Truth {
    pub events: Vec<Record>,
    by_id: HashMap<EventId, usize>,
    paths: HashMap<Tag, Path>,
    pub states: Vec<State>,
    /// Numbers of the publishes on each live topic.
    pub live: HashMap<usize, Vec<usize>>,
}

/// A place on the path of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub tag: Tag,
    /// Events of the path that lie before it.
    pub count: usize,
}

impl Truth {
    /// A history begins.
    pub fn begin(&mut self, tag: Tag, base: Stamp, since: Moment) {
        let fresh = self.paths.insert(tag, Path { events: Vec::new(), base, since });
        assert!(fresh.is_none(), "a tag is drawn once");
    }

    /// The incarnation `tag` goes on from what is left of `of`: everything up to `last`.
    pub fn fence(&mut self, of: Tag, last: Stamp, tag: Tag, since: Moment) {
        let events = &self.paths[&of].events;
        let left = events.iter().copied().filter(|&number| self.stamp(number) <= last).collect();
        let fresh = self.paths.insert(tag, Path { events: left, base: last, since });
        assert!(fresh.is_none(), "a tag is drawn once");
    }

    /// Notes an event; gives its number.
    pub fn add(&mut self, record: Record) -> usize {
        let number = self.events.len();
        match record.id {
            Some(id) => {
                self.by_id.insert(id, number);
                self.paths.get_mut(&id.tag).expect("the incarnation has begun").events.push(number);
            }
            None => self.live.entry(record.topic).or_default().push(number),
        }
        self.events.push(record);
        number
    }

    pub fn stamp(&self, number: usize) -> Stamp {
        self.events[number].id.expect("only stored events have numbers").stamp
    }

    pub fn find(&self, id: EventId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// The state of now. Panics when nothing was ever stored or asked.
    pub fn state(&self) -> &State {
        self.states.last().expect("the clock was opened")
    }

    /// The states from the one that stood at `from` to the one that stood at `until`.
    pub fn states_within(&self, from: Moment, until: Moment) -> &[State] {
        let begin = self.states.partition_point(|state| state.at <= from).saturating_sub(1);
        let end = self.states.partition_point(|state| state.at <= until);
        &self.states[begin.min(end)..end]
    }

    /// The state in which `id` was first good.
    pub fn first_honoured(&self, id: EventId) -> Option<Moment> {
        self.states.iter().find(|state| state.worth(id) == Worth::Honoured).map(|state| state.at)
    }

    /// Where a position stands; `None` when its tag was never given.
    pub fn place(&self, id: EventId) -> Option<Place> {
        let path = self.paths.get(&id.tag)?;
        Some(Place { tag: id.tag, count: path.events.partition_point(|&number| self.stamp(number) <= id.stamp) })
    }

    /// The place right before an event.
    pub fn place_of(&self, number: usize) -> Place {
        let id = self.events[number].id.expect("only stored events have places");
        let place = self.place(id).expect("its tag was given");
        Place { count: place.count - 1, ..place }
    }

    /// How many events two incarnations share.
    pub fn shared(&self, one: Tag, other: Tag) -> usize {
        if one == other {
            return usize::MAX;
        }
        let (one, other) = (&self.paths[&one].events, &self.paths[&other].events);
        one.iter().zip(other).take_while(|(one, other)| one == other).count()
    }

    /// Numbers of the events of `topics` on the path of `tag` between two places.
    pub fn between(&self, tag: Tag, from: usize, to: usize, topics: &[usize]) -> Vec<usize> {
        let events = &self.paths[&tag].events;
        let (from, to) = (from.min(events.len()), to.min(events.len()));
        let between = events.get(from..to).unwrap_or_default().iter().copied();
        between.filter(|&number| topics.contains(&self.events[number].topic)).collect()
    }

    /// The highest number of an incarnation at `moment`; `None` when it had not begun.
    pub fn tip(&self, tag: Tag, moment: Moment) -> Option<Stamp> {
        let path = self.paths.get(&tag).filter(|path| path.since <= moment)?;
        let newest = path.events.iter().rev().find(|&&number| self.events[number].at <= moment);
        Some(newest.map_or(path.base, |&number| self.stamp(number).max(path.base)))
    }
}
