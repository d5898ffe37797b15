//! The topics a shard follows, keyed by name, and who follows each.
//!
//! What always holds:
//! - a topic is here exactly while somebody follows it, or it is still (un)subscribed at the source;
//! - member lists are walked by index while members come and go: during a walk a leaver leaves a
//!   hole and a joiner is appended, so nobody is visited twice and nobody is skipped; holes are
//!   closed when the walk has ended.

use std::rc::Rc;

use hashbrown::HashMap;

use crate::engine::log::{Log, Seq};
use crate::engine::past::Past;
use crate::engine::policy::{Class, Classes};
use crate::engine::slab::{Key, Slab};
use crate::frame::Frame;
use crate::topic::Topic;

/// What the source knows of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// Asked for, not confirmed. Events are not for anybody yet.
    Subscribing,
    /// Confirmed.
    Live,
    /// Cancelled, not confirmed. The log is gone: what the source says now may have holes.
    Unsubscribing,
    /// The source does not allow it.
    Refused,
}

/// One topic.
#[derive(Debug)]
pub struct TopicState {
    /// Its name.
    pub name: Topic,
    /// Its limits.
    pub class: Class,
    /// Its recent events.
    pub log: Log,
    /// What is known of its past; there exactly when it is durable.
    pub past: Option<Box<Past>>,
    /// Who follows it, by slot.
    pub members: Members,
    /// What the source knows.
    pub subscription: Subscription,
    /// Every ready member was offered all events up to here. Never above `log.last_seq()`.
    pub offered: Seq,
    /// `Readers::issued` when a walk last ended: whoever it passed over because it was to be served
    /// by itself was served when `Readers::served` has reached this.
    pub awaits: u64,
    /// The walk that is under way, or waits in the run queue, covers events up to here.
    pub walk_covers: Seq,
    /// True exactly when it stands in the run queue.
    pub queued: bool,
    /// The tick in which its last member left; meaningful while it has none.
    pub idle_since: u32,
}

impl TopicState {
    /// True exactly when its events are for its members: confirmed, and behind a marker where that is needed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.subscription == Subscription::Live && self.past.as_ref().is_none_or(|past| past.settled)
    }

    /// True exactly when no reader needs the events up to `seq` any more but such as were blocked
    /// since: a walk has passed behind them, and `served` says that all it passed over were served.
    #[must_use]
    pub fn may_evict(&self, seq: Seq, served: u64) -> bool {
        seq <= self.offered && served >= self.awaits
    }
}

/// Slots of the connections that follow one topic.
#[derive(Debug, Default)]
pub struct Members {
    slots: Vec<u32>,
    holes: usize,
    /// True exactly while a walk is under way: indices must not move.
    walking: bool,
}

/// Marks a place whose member left during a walk.
const HOLE: u32 = u32::MAX;

impl Members {
    /// Followers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.holes
    }

    /// True exactly when nobody follows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a follower and gives its index.
    pub fn join(&mut self, slot: u32) -> u32 {
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).expect("slots are numbered in 32 bits")
    }

    /// Removes the follower at `at`. Gives the slot that now stands there, if one moved.
    pub fn leave(&mut self, at: u32) -> Option<u32> {
        let index = at as usize;
        if self.walking {
            self.slots[index] = HOLE;
            self.holes += 1;
            return None;
        }
        self.slots.swap_remove(index);
        if self.slots.capacity() > 64 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
        self.slots.get(index).copied()
    }

    /// The follower at an index, `None` for a hole. Indices end at [`Members::end`].
    #[must_use]
    pub fn get(&self, at: u32) -> Option<u32> {
        self.slots.get(at as usize).copied().filter(|&slot| slot != HOLE)
    }

    /// One past the last index.
    #[must_use]
    pub fn end(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("slots are numbered in 32 bits")
    }

    /// Followers, in walking order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().copied().filter(|&slot| slot != HOLE)
    }

    /// Freezes indices.
    pub fn begin_walk(&mut self) {
        self.walking = true;
    }

    /// Closes the holes; `moved` is told each member's new index.
    pub fn end_walk(&mut self, mut moved: impl FnMut(u32, u32)) {
        self.walking = false;
        if std::mem::take(&mut self.holes) == 0 {
            return;
        }
        let mut at = 0;
        self.slots.retain(|&slot| {
            if slot == HOLE {
                return false;
            }
            moved(slot, at);
            at += 1;
            true
        });
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    names: HashMap<Topic, Key, foldhash::fast::RandomState>,
    topics: Slab<TopicState>,
    /// `log.last_seq()` of the topic in each slot. Whether a stream of many topics is to be sent anything is
    /// seen here, in eight bytes a topic, instead of in as many logs.
    newest: Vec<Seq>,
}

impl Registry {
    /// Topics here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// True exactly when there is no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Finds a topic by name.
    #[must_use]
    pub fn find(&self, name: &Topic) -> Option<Key> {
        self.names.get(name).copied()
    }

    /// Adds a topic that is not here yet; its log begins behind `seq`.
    pub fn add(&mut self, name: Topic, classes: &Classes, seq: Seq) -> Key {
        let class = classes.class_of(&name);
        let key = self.topics.insert(TopicState {
            class,
            past: class.retention().map(|_| Box::default()),
            name: name.clone(),
            log: Log::new(seq),
            members: Members::default(),
            subscription: Subscription::Subscribing,
            offered: seq,
            awaits: 0,
            walk_covers: seq,
            queued: false,
            idle_since: 0,
        });
        self.names.insert(name, key);
        let slots = self.topics.slots() as usize;
        self.newest.resize(slots.max(self.newest.len()), 0);
        self.newest[key.slot as usize] = seq;
        key
    }

    /// Appends the event numbered `seq` to the log of the topic in `slot`.
    pub fn push(&mut self, slot: u32, seq: Seq, frame: Rc<Frame>) -> &mut TopicState {
        self.newest[slot as usize] = seq;
        let topic = self.at(slot);
        topic.log.push(seq, frame);
        topic
    }

    /// Begins the log of the topic in `slot` anew, behind `seq`.
    pub fn drop_log(&mut self, slot: u32, seq: Seq) {
        self.newest[slot as usize] = seq;
        let topic = self.at(slot);
        topic.log = Log::new(seq);
        topic.offered = seq;
    }

    /// The number of the newest event of the topic in `slot`, or of its floor.
    #[must_use]
    pub fn newest(&self, slot: u32) -> Seq {
        let newest = self.newest[slot as usize];
        debug_assert_eq!(self.topics.get(self.key_at(slot)).map(|topic| topic.log.last_seq()), Some(newest));
        newest
    }

    /// True exactly when the topic in `slot` has a history.
    #[must_use]
    pub fn is_durable(&self, slot: u32) -> bool {
        self.topics.get(self.key_at(slot)).is_some_and(|topic| topic.past.is_some())
    }

    /// Removes a topic nobody follows.
    pub fn remove(&mut self, key: Key) {
        if let Some(topic) = self.topics.remove(key) {
            debug_assert!(topic.members.is_empty());
            self.names.remove(&topic.name);
        }
    }

    /// The topic of a key, if it is still here.
    pub fn get(&mut self, key: Key) -> Option<&mut TopicState> {
        self.topics.get(key)?;
        self.topics.at(key.slot)
    }

    /// The topic in a slot. Members and entries only name slots of topics that exist.
    pub fn at(&mut self, slot: u32) -> &mut TopicState {
        self.topics.at(slot).expect("a topic exists while it has members")
    }

    /// The key of the topic in a slot.
    #[must_use]
    pub fn key_at(&self, slot: u32) -> Key {
        self.topics.key_at(slot).expect("a topic exists while it has members")
    }

    /// Topics whose subscription has not taken effect.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        let topics = self.names.values().filter_map(|&key| self.topics.get(key));
        topics.filter(|topic| !topic.is_ready()).count()
    }

    /// The name of a topic, if it is still here.
    #[must_use]
    pub fn name_at(&self, key: Key) -> Option<Topic> {
        Some(self.topics.get(key)?.name.clone())
    }

    /// Durable topics whose events are taken, or were until the source left.
    pub fn settled(&self) -> Vec<Key> {
        let is_settled = |key: &Key| {
            let past = self.topics.get(*key).and_then(|topic| topic.past.as_ref());
            past.is_some_and(|past| past.settled)
        };
        self.keys().filter(is_settled).collect()
    }

    /// All topics.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.names.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Join,
        Leave(prop::sample::Index),
        Visit,
        EndWalk,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Join),
            3 => any::<prop::sample::Index>().prop_map(Step::Leave),
            3 => Just(Step::Visit),
            1 => Just(Step::EndWalk),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// The twin is a list of (slot, visited in this walk); indices are looked up from end to end.
        #[test]
        fn a_walk_visits_everybody_once(steps in steps()) {
            let mut members = Members::default();
            let mut twin: Vec<(u32, u32)> = Vec::new(); // slot, index
            let mut visited: Vec<u32> = Vec::new();
            let mut next: Option<u32> = None;
            let mut slots = 0..;
            for step in steps {
                match step {
                    Step::Join => {
                        let slot = slots.next().expect("endless");
                        twin.push((slot, members.join(slot)));
                    }
                    Step::Leave(pick) if !twin.is_empty() => {
                        let (_, at) = twin.swap_remove(pick.index(twin.len()));
                        if let Some(moved) = members.leave(at) {
                            let entry = twin.iter_mut().find(|(slot, _)| *slot == moved).expect("a member moved");
                            entry.1 = at;
                        }
                    }
                    Step::Leave(_) => {}
                    Step::Visit => {
                        let at = next.unwrap_or_else(|| { members.begin_walk(); 0 });
                        if let Some(slot) = members.get(at) {
                            prop_assert!(!visited.contains(&slot), "visited twice");
                            visited.push(slot);
                        }
                        next = Some((at + 1).min(members.end()));
                    }
                    Step::EndWalk => if let Some(from) = next.take() {
                        visited.extend((from..members.end()).filter_map(|at| members.get(at)));
                        for (slot, _) in &twin {
                            prop_assert!(visited.contains(slot), "skipped");
                        }
                        visited.clear();
                        members.end_walk(|slot, at| {
                            twin.iter_mut().find(|(member, _)| *member == slot).expect("a member").1 = at;
                        });
                    }
                }
                prop_assert_eq!(members.len(), twin.len());
                for (slot, at) in &twin {
                    prop_assert_eq!(members.get(*at), Some(*slot));
                }
                let mut listed: Vec<u32> = members.iter().collect();
                let mut expected: Vec<u32> = twin.iter().map(|(slot, _)| *slot).collect();
                listed.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(listed, expected);
            }
        }

        #[test]
        fn names_find_their_topics(steps in proptest::collection::vec((0..20u8, any::<bool>()), 0..200)) {
            let mut registry = Registry::default();
            let mut twin: Vec<(u8, Key)> = Vec::new();
            let mut seq = 0;
            for (n, add) in steps {
                let name = Topic::parse(&format!("t.{n}")).expect("a topic");
                let known = twin.iter().position(|(other, _)| *other == n);
                prop_assert_eq!(registry.find(&name), known.map(|at| twin[at].1));
                seq += 1;
                match known {
                    None if add => twin.push((n, registry.add(name, &Classes::default(), seq))),
                    Some(at) if add => registry.drop_log(twin[at].1.slot, seq),
                    Some(at) if !add => {
                        let (_, key) = twin.remove(at);
                        registry.remove(key);
                        prop_assert!(registry.get(key).is_none());
                    }
                    _ => {}
                }
                prop_assert_eq!(registry.len(), twin.len());
                prop_assert_eq!(registry.keys().count(), twin.len());
                for (_, key) in &twin {
                    prop_assert_eq!(registry.newest(key.slot), registry.at(key.slot).log.last_seq());
                }
            }
        }
    }
}
