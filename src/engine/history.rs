//! What engine and sources tell each other of the past: incarnations, markers, reads and pages.
//!
//! ```text
//!   tag A            tag B                    tag C (current)
//!   ────────────────┤───────────────────────┤──────────────► numbers
//!             fence A → last          fence B → last
//! ```
//!
//! A history lives in one place (Redis, or the embedded broker), and its clock gives each event a number. When that
//! place begins anew it may have lost its newest events, and nobody can tell: so a *fence* is set at the last number
//! it still has, and what follows gets a new *tag*. A position is good when it stands on what is still there.
//!
//! What always holds: fences stand oldest first, their numbers never fall, and no tag stands twice.

use std::sync::Arc;

use crate::event::{Event, EventId, Stamp, Tag};
use crate::topic::Topic;

/// Fences that are remembered; a position behind one that was forgotten is of an unknown incarnation.
pub const FENCES_MAX: usize = 64;

/// The incarnations of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The current one.
    pub tag: Tag,
    /// Where earlier ones ended, oldest first. At most [`FENCES_MAX`].
    pub fences: Vec<Fence>,
}

/// The end of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// The incarnation that ended.
    pub tag: Tag,
    /// The last number that is still there of it, and of all before it.
    pub last: Stamp,
    /// True exactly when it is known that events beyond it were delivered or acknowledged, and are lost.
    pub lossy: bool,
}

/// What a position is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stands on what is there.
    Honoured,
    /// It stands on what was lost. What is there goes on behind this position.
    Diverged(EventId),
    /// It is of an incarnation nobody knows.
    Unknown,
}

impl Chain {
    /// A history that begins now.
    #[must_use]
    pub fn begin(tag: Tag) -> Chain {
        Chain { tag, fences: Vec::new() }
    }

    /// Judges a position in the history whose newest number is `last`.
    #[must_use]
    pub fn judge(&self, id: EventId, last: Stamp) -> Verdict {
        if planted!("stale-epoch") && self.age(id.tag).is_none()
            || planted!("stale-fence") && self.age(id.tag).is_some()
        {
            return Verdict::Honoured;
        }
        match self.age(id.tag) {
            None => Verdict::Unknown,
            Some(age) => match self.fences.get(age) {
                None if id.stamp <= last => Verdict::Honoured,
                None => Verdict::Diverged(EventId { stamp: last, tag: self.tag }),
                Some(fence) if id.stamp <= fence.last => Verdict::Honoured,
                Some(fence) => Verdict::Diverged(EventId { stamp: fence.last, tag: self.tag_after(age) }),
            },
        }
    }

    /// The position of a number that is there.
    #[must_use]
    pub fn id_of(&self, stamp: Stamp) -> EventId {
        let fence = self.fences.iter().find(|fence| stamp <= fence.last);
        EventId { stamp, tag: fence.map_or(self.tag, |fence| fence.tag) }
    }

    /// The position of a shard that has got to a number: under the tag that holds from there on.
    #[must_use]
    pub fn position_at(&self, stamp: Stamp) -> EventId {
        let fence = self.fences.iter().find(|fence| stamp < fence.last);
        EventId { stamp, tag: fence.map_or(self.tag, |fence| fence.tag) }
    }

    /// True exactly when nothing was lost or begun anew between the two.
    #[must_use]
    pub fn is_as(&self, other: &Chain) -> bool {
        let ends = |chain: &Chain| chain.fences.iter().map(|fence| (fence.tag, fence.last)).collect::<Vec<_>>();
        self.tag == other.tag && ends(self) == ends(other)
    }

    /// True exactly when the incarnation is known.
    #[must_use]
    pub fn knows(&self, tag: Tag) -> bool {
        self.age(tag).is_some()
    }

    /// Where whoever goes on from `from` to an event or position of incarnation `to` passes a place at which events
    /// are known to be lost: the last such place, as the position behind it.
    #[must_use]
    pub fn loss_between(&self, from: Tag, to: Tag) -> Option<EventId> {
        if planted!("lossy-silent") {
            return None;
        }
        let (from, to) = (self.age(from)?, self.age(to)?);
        let passed = self.fences.get(from..to)?;
        let at = passed.iter().rposition(|fence| fence.lossy)? + from;
        Some(EventId { stamp: self.fences[at].last, tag: self.tag_after(at) })
    }

    /// The place of an incarnation: that of its fence, or one past the last for the current one.
    fn age(&self, tag: Tag) -> Option<usize> {
        if tag == self.tag {
            return Some(self.fences.len());
        }
        self.fences.iter().position(|fence| fence.tag == tag)
    }

    /// The incarnation that follows the fence at `age`.
    fn tag_after(&self, age: usize) -> Tag {
        self.fences.get(age + 1).map_or(self.tag, |fence| fence.tag)
    }
}

/// A place between events: everything numbered up to `last` was published before it, everything after it is higher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The newest number.
    pub last: Stamp,
    /// The incarnations.
    pub chain: Arc<Chain>,
}

/// What is to be read of the past. Topics are distinct; those that never had an event are read as empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The events of each topic after a number, oldest first.
    After {
        /// Topics, and the number from which on.
        topics: Vec<(Topic, Stamp)>,
        /// About so many bytes of each topic at most, but at least one event.
        bytes_max: usize,
    },
    /// The newest events of each topic up to a number, oldest first.
    Tail {
        /// Topics.
        topics: Vec<Topic>,
        /// Nothing above this.
        upto: Stamp,
        /// At most so many events of each.
        events_max: usize,
        /// About so many bytes of each at most, but at least one event.
        bytes_max: usize,
    },
    /// After which number the newest `count` events of all the topics together come.
    Start {
        /// Topics.
        topics: Vec<Topic>,
        /// Nothing above this.
        upto: Stamp,
        /// Events.
        count: usize,
    },
}

/// A piece of a topic's history. What is here is contiguous: each event's `prev` is the number of the one before it.
#[derive(Debug, Clone)]
pub struct Page {
    /// Whose.
    pub topic: Topic,
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
    /// True exactly when there may be more in the direction of the read.
    pub more: bool,
    /// The number of the topic's newest event, or the highest it may have had: it was forgotten, or there never was one.
    pub last: Stamp,
}

/// What was read.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Read::After`] and [`Read::Tail`]: a page for each topic, in the order of the read.
    Pages(Vec<Page>),
    /// To [`Read::Start`]. Below all of them when there are fewer.
    Start(Stamp),
}

/// An answer to the shard that asked.
#[derive(Debug)]
pub struct Answered {
    /// The number it asked with.
    pub number: u64,
    /// The place in the history at which it was read.
    pub marker: Marker,
    /// What was read.
    pub answer: Answer,
}

/// From where a client wants its durable topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Position {
    /// From now on.
    #[default]
    Now,
    /// After this.
    After(EventId),
    /// After something that is no id of ours.
    Unknown,
    /// From the oldest event that is retained.
    Earliest,
    /// The newest so many of all its durable topics together, and from there on.
    Last(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        let fence = |name, ms, lossy| Fence { tag: tag(name), last: Stamp { ms, n: 0 }, lossy };
        Chain { tag: tag("cccc"), fences: vec![fence("aaaa", 10, true), fence("bbbb", 20, false)] }
    }

    fn tag(text: &str) -> Tag {
        Tag::parse(text).expect("a tag")
    }

    fn id(text: &str) -> EventId {
        EventId::parse(text).expect("an id")
    }

    #[test]
    fn a_position_is_good_on_what_is_still_there() {
        let judged = |text| chain().judge(id(text), Stamp { ms: 30, n: 0 });
        for good in ["0-0-aaaa", "10-0-aaaa", "20-0-bbbb", "10-0-bbbb", "30-0-cccc"] {
            assert_eq!(judged(good), Verdict::Honoured, "{good}");
        }
        assert_eq!(judged("10-1-aaaa"), Verdict::Diverged(id("10-0-bbbb")));
        assert_eq!(judged("25-0-bbbb"), Verdict::Diverged(id("20-0-cccc")));
        assert_eq!(judged("30-1-cccc"), Verdict::Diverged(id("30-0-cccc")));
        assert_eq!(judged("1-0-zzzz"), Verdict::Unknown);
    }

    #[test]
    fn a_number_has_the_tag_it_was_given_under() {
        for expected in ["0-0-aaaa", "10-0-aaaa", "10-1-bbbb", "20-0-bbbb", "20-1-cccc"] {
            assert_eq!(chain().id_of(id(expected).stamp), id(expected));
        }
    }

    #[test]
    fn a_known_loss_is_met_by_whoever_passes_it() {
        let met = |from, to| chain().loss_between(tag(from), tag(to));
        assert_eq!(met("aaaa", "aaaa"), None);
        assert_eq!(met("aaaa", "bbbb"), Some(id("10-0-bbbb")));
        assert_eq!(met("aaaa", "cccc"), Some(id("10-0-bbbb")));
        assert_eq!(met("bbbb", "cccc"), None);
    }
}
