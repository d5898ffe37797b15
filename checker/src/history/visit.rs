//! One connection, held against the truth.
//!
//! `reach` is the position up to which everything has been handed over; for each topic, `next` is the place of the
//! first event that has not. A jump over events makes them *missing*: they are lost unless they come late (which is
//! another fault) or the jump is a reset's.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::Life;
use super::log::Connection;
use super::truth::{Key, Sort};
use super::{Id, Kind, Position, Reason, Topic};

/// What a stream that begins "now" may lag behind: a node hears of an event a little later than its publisher.
const LIVE_SLACK_MS: u64 = 1_000;

/// See the module.
pub(super) struct Visit<'v, 'l> {
    pub(super) life: &'v mut Life<'l>,
    connection: &'v Connection,
    stage: Stage,
    reach: Key,
    /// The highest event that came; `None` before the first.
    last_event: Option<Key>,
    /// Per topic of the connection, once it has begun.
    next: BTreeMap<Topic, u32>,
    /// Topics that may begin before their `next`, which is the first that cannot have left: the first that comes says.
    unclear: BTreeSet<Topic>,
    missing: BTreeSet<(Topic, u32)>,
    /// Topics that were told to be trimmed and of which nothing came since.
    announced: BTreeMap<Topic, Announced>,
    opened_ms: u64,
}

/// A loss that was told. It is told before the next event of whichever topic, so it may reach beyond its place.
#[derive(Debug, Clone, Copy)]
struct Announced {
    at: Id,
    at_ms: u64,
    /// True exactly when something of it lay before its place, or that of another reset.
    passed: bool,
}

/// How far the beginning has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first block has not come.
    Asked,
    /// The position was refused: a reset must come next.
    Refused,
    /// The oldest or the newest few were asked for, and the first event is to say where that is.
    Floating,
    /// It is known where the stream began.
    Begun,
}

impl<'v, 'l> Visit<'v, 'l> {
    pub(super) fn begin(life: &'v mut Life<'l>, connection: &'v Connection) -> Self {
        let (reach, last_event, opened_ms) = (Key::default(), None, 0);
        let (next, missing) = (BTreeMap::new(), BTreeSet::new());
        let (unclear, announced, stage) = (BTreeSet::new(), BTreeMap::new(), Stage::Asked);
        Visit { life, connection, stage, reach, last_event, next, unclear, missing, announced, opened_ms }
    }

    pub(super) fn handle_open(&mut self, topics: &[Topic], resumed: bool, id: Option<Id>, at_ms: u64) {
        self.note_id(id);
        let first = self.stage == Stage::Asked && self.last_event.is_none();
        let mut named = topics.to_vec();
        named.sort_unstable();
        if !first || named != *self.connection.topics {
            return self.object_to_open(resumed, id);
        }
        self.opened_ms = at_ms;
        self.stage = Stage::Begun;
        if matches!(self.connection.position, Position::Earliest | Position::Last(_)) {
            self.life.began_in = self.life.truth.generation_at(at_ms);
            // Whoever names no event has none to go on from.
            if resumed {
                self.object_to_open(resumed, id);
            }
        }
        match (self.connection.position, resumed, id) {
            (Position::Now, false, Some(at)) => {
                self.begin_at(self.life.truth.key(at));
                self.expect_live(at);
                self.expect_past(at, at_ms);
            }
            (Position::After(presented), true, Some(at)) => self.resume(presented, at),
            (Position::After(presented), false, None) => {
                self.begin_at(self.life.truth.key(presented));
                self.stage = Stage::Refused;
            }
            (Position::Unknown, false, None) => self.stage = Stage::Refused,
            (Position::Earliest, _, None) => self.begin_at_the_oldest(),
            (Position::Earliest, _, Some(at)) => self.begin_without_oldest(at),
            (Position::Last(_), _, None) => self.stage = Stage::Floating,
            (Position::Last(count), _, Some(at)) => self.begin_with_none(count, at),
            _ => {
                self.object_to_open(resumed, id);
                id.into_iter().for_each(|at| self.begin_at(self.life.truth.key(at)));
            }
        }
    }

    fn object_to_open(&mut self, resumed: bool, id: Option<Id>) {
        let position = self.connection.position;
        let id = id.map_or_else(|| "none".into(), |id| id.to_string());
        self.life.violate(Kind::OpenWrong, || format!("to {position:?}: resumed {resumed}, id {id}"));
    }

    fn begin_at(&mut self, key: Key) {
        self.reach = key;
        for &topic in &*self.connection.topics {
            let after = self.life.truth.count_upto(topic, key);
            let owed = self.life.owed.remove(&topic).unwrap_or(after);
            self.next.insert(topic, owed.min(after));
        }
    }

    fn resume(&mut self, presented: Id, at: Id) {
        let (wanted, given) = (self.life.truth.key(presented), self.life.truth.key(at));
        self.begin_at(wanted);
        self.reach = given.max(wanted);
        if at != presented {
            let kind = if given > wanted { Kind::ControlAhead } else { Kind::ControlBehind };
            self.life.violate(kind, || format!("opened at {at}, and {presented} was presented"));
        }
    }

    /// The oldest were asked for, and some are said to follow.
    fn begin_at_the_oldest(&mut self) {
        self.stage = Stage::Floating;
        self.connection.topics.iter().for_each(|&topic| self.begin_from(topic, 0));
    }

    /// A topic begins at this place, or behind what has left since.
    fn begin_from(&mut self, topic: Topic, place: u32) {
        let kept = self.first_kept(topic);
        if kept > place {
            self.unclear.insert(topic);
        }
        self.next.insert(topic, kept.max(place));
    }

    /// The first event of a topic that cannot have left when the stream was opened.
    fn first_kept(&self, topic: Topic) -> u32 {
        self.life.first_kept(topic, self.opened_ms, self.life.began_in)
    }

    /// The oldest were asked for and there are said to be none.
    fn begin_without_oldest(&mut self, at: Id) {
        self.reach = self.life.truth.key(at);
        for &topic in &*self.connection.topics {
            let after = self.life.truth.count_upto(topic, self.reach);
            self.next.insert(topic, self.first_kept(topic).min(after));
        }
        self.expect_past(at, self.opened_ms);
    }

    /// The newest few were asked for and there are said to be none.
    fn begin_with_none(&mut self, count: u32, at: Id) {
        let key = self.life.truth.key(at);
        self.begin_at(key);
        self.expect_live(at);
        self.expect_past(at, self.opened_ms);
        let there = self.next.iter().any(|(&topic, &next)| next > self.first_kept(topic));
        if count > 0 && there {
            self.life.violate(Kind::WrongPlace, || format!("none of the newest {count} before {at} came"));
        }
    }

    pub(super) fn handle_event(&mut self, number: usize) {
        let seen = self.life.log.seen[number];
        let key = self.life.truth.key(seen.id);
        self.life.report.events += 1;
        self.note_id(Some(seen.id));
        match self.stage {
            Stage::Asked => return self.life.violate(Kind::OpenWrong, || format!("{} came before it", seen.id)),
            Stage::Refused => {
                self.life.violate(Kind::ResetMissing, || format!("{} came, and no reset", seen.id));
                self.stage = Stage::Begun;
            }
            Stage::Floating => self.settle(key, &[]),
            Stage::Begun => {}
        }
        match self.life.truth.sorts[number] {
            Sort::Phantom => self.life.violate(Kind::Phantom, || format!("{} is nobody's", seen.id)),
            Sort::StoredTwice(topic) => {
                let name = self.life.name(topic);
                self.life.violate(Kind::StoredTwice, || format!("{} of {name} has another id, too", seen.id));
            }
            Sort::Changed(topic, place) => {
                let name = self.life.name(topic);
                self.life.violate(Kind::Changed, || format!("{} of {name} is something else elsewhere", seen.id));
                self.take(topic, place, key);
            }
            Sort::Event(topic, place) => self.take(topic, place, key),
        }
        self.reach = self.reach.max(key);
        self.last_event = self.last_event.max(Some(key));
    }

    /// One of our events came.
    fn take(&mut self, topic: Topic, place: u32, key: Key) {
        if !self.connection.topics.contains(&topic) {
            let (name, id) = (self.life.name(topic), self.life.truth.id_at(topic, place));
            return self.life.violate(Kind::WrongTopic, || format!("{id} is of {name}"));
        }
        let next = match self.next.get(&topic) {
            Some(&next) if self.unclear.remove(&topic) => next.min(place),
            Some(&next) => next,
            // The stream has not begun as it should, which was objected to.
            None => place,
        };
        let is_new = place >= next || self.missing.remove(&(topic, place)) || self.life.late.remove(&(topic, place));
        if key <= self.reach {
            self.object_to_order(topic, place, key, is_new);
        }
        if place >= next {
            match self.announced.remove(&topic) {
                // What was told to be gone is what did not come up to here.
                Some(announced) => self.end_loss(topic, next, place, announced),
                None => (next..place).for_each(|passed| self.miss(topic, passed, key)),
            }
            self.next.insert(topic, place + 1);
        }
    }

    /// The first event of a topic that was told to be trimmed: what is missing before it was told.
    fn end_loss(&mut self, topic: Topic, next: u32, place: u32, announced: Announced) {
        self.life.report.told += u64::from(place - next);
        self.life.expect_retained(topic, place, announced.at_ms);
        if place == next && !announced.passed && self.life.truth.unsure[topic.0 as usize] == 0 {
            let name = self.life.name(topic);
            self.life.violate(Kind::ResetIdle, || format!("nothing of {name} is missing behind {}", announced.at));
        }
    }

    /// An event was passed over on the way to `key`.
    fn miss(&mut self, topic: Topic, place: u32, key: Key) {
        if self.life.truth.key_at(topic, place).generation < key.generation {
            self.life.leave_behind(topic, place);
        } else {
            self.missing.insert((topic, place));
        }
    }

    fn object_to_order(&mut self, topic: Topic, place: u32, key: Key, is_new: bool) {
        let kind = if key.generation < self.reach.generation {
            Kind::Stale
        } else if !is_new {
            Kind::Repeated
        } else if self.last_event.is_none_or(|last| key > last) {
            // Only a control block can have moved the position beyond it.
            Kind::ControlAhead
        } else {
            Kind::OutOfOrder
        };
        let (name, id, reach) = (self.life.name(topic), self.life.truth.id_at(topic, place), self.reach.stamp);
        self.life.violate(kind, || format!("{id} of {name} came, and {reach} before it"));
    }

    /// The first event, or the place behind a first reset, which tells of some topics. If it is where the newest few
    /// begin, nothing may be missing from here on, of other topics.
    fn settle(&mut self, first: Key, told: &[Topic]) {
        self.stage = Stage::Begun;
        let Position::Last(wanted) = self.connection.position else { return };
        let (requested_ms, opened_ms) = (self.connection.requested_ms, self.opened_ms);
        let truth = self.life.truth;
        // The newest that was there and is not among them.
        let mut before = None;
        for &topic in self.connection.topics.iter().filter(|topic| !told.contains(topic)) {
            let place = truth.count_before(topic, first);
            if place > self.first_kept(topic) {
                before = before.max(Some(truth.key_at(topic, place - 1)));
            }
            self.begin_from(topic, place);
        }
        let (mut certain, mut possible) = (0, 0);
        let is_old = |&&(key, _): &&(Key, Id)| key.stamp.ms < requested_ms.saturating_sub(LIVE_SLACK_MS);
        let is_there = |&&(key, _): &&(Key, Id)| key.stamp.ms <= opened_ms;
        for &topic in &*self.connection.topics {
            let is_told = told.contains(&topic);
            let from = truth.count_before(topic, before.filter(|_| is_told).unwrap_or(first));
            possible += truth.from(topic, from).take_while(is_there).count() + truth.unsure[topic.0 as usize];
            if !is_told {
                certain += truth.from(topic, from.max(self.first_kept(topic))).take_while(is_old).count();
            }
        }
        if certain > wanted as usize || (before.is_some() && possible < wanted as usize) {
            let stamp = first.stamp;
            let what =
                || format!("the newest {wanted} begin with {stamp}: {certain} to {possible} are left from there");
            self.life.violate(Kind::WrongPlace, what);
        }
    }

    pub(super) fn handle_reset(&mut self, reason: Reason, topics: &[Topic], id: Option<Id>, at_ms: u64) {
        *self.life.report.resets.entry(reason).or_default() += 1;
        self.note_id(id);
        if self.stage == Stage::Asked {
            return self.life.violate(Kind::OpenWrong, || format!("a reset, {reason:?}, came before it"));
        }
        let Some(at) = id else {
            return self.life.violate(Kind::Malformed, || format!("a reset, {reason:?}, without an id"));
        };
        let key = self.life.truth.key(at);
        if self.stage == Stage::Floating {
            self.settle(key.after(), topics);
        }
        let is_answer = std::mem::replace(&mut self.stage, Stage::Begun) == Stage::Refused;
        let is_of_garbage =
            is_answer && self.connection.position == Position::Unknown && reason == Reason::UnknownCursor;
        if is_of_garbage {
            self.begin_at(key);
        }
        self.justify(reason, topics, at, at_ms, is_of_garbage);
        if is_answer && reason != Reason::Trimmed && reason != Reason::Diverged {
            self.expect_live(at);
        }
        if is_answer {
            self.expect_answer(reason, topics, at);
        }
        if key < self.reach {
            let reach = self.reach.stamp;
            self.life.violate(Kind::ControlBehind, || format!("a reset at {at}, after {reach}"));
        }
        self.expect_past(at, at_ms);
        for &topic in topics.iter().filter(|topic| self.connection.topics.contains(topic)) {
            self.pass(reason, topic, key, at, at_ms);
        }
        self.reach = self.reach.max(key);
    }

    /// A position was refused: it is said why, of all topics.
    fn expect_answer(&mut self, reason: Reason, topics: &[Topic], at: Id) {
        let answers = match self.connection.position {
            Position::Unknown => reason == Reason::UnknownCursor,
            _ => matches!(reason, Reason::Epoch | Reason::Diverged),
        };
        let all = topics.is_empty() || self.connection.topics.iter().all(|topic| topics.contains(topic));
        if !answers {
            self.life.violate(Kind::ResetMissing, || format!("a position was refused, and {reason:?} was told"));
        } else if !all {
            self.life.violate(Kind::ResetMissing, || format!("{reason:?} at {at} does not name all topics"));
        }
    }

    /// `is_due`: it needs no fault.
    fn justify(&mut self, reason: Reason, topics: &[Topic], at: Id, at_ms: u64, is_due: bool) {
        if topics.is_empty() {
            self.life.violate(Kind::ResetUnjustified, || format!("{reason:?} at {at} of no topic"));
        }
        for &topic in topics {
            let objection = match self.connection.topics.contains(&topic) {
                true if is_due => None,
                true => self.life.object_to(reason, topic, at_ms),
                false => Some(Kind::ResetUnjustified),
            };
            if let Some(kind) = objection {
                let name = self.life.name(topic);
                self.life.violate(kind, || format!("{reason:?} of {name} at {at}"));
            }
        }
    }

    /// A reset tells of everything of a topic up to its place that has not come.
    fn pass(&mut self, reason: Reason, topic: Topic, key: Key, at: Id, at_ms: u64) {
        let to = self.life.truth.count_upto(topic, key);
        let next = self.next.get(&topic).copied().filter(|_| !self.unclear.remove(&topic));
        let told = next.map(|next| to.saturating_sub(next));
        self.life.report.told += u64::from(told.unwrap_or(0));
        let before = self.announced.get(&topic).copied();
        let passed = told != Some(0) || before.is_some_and(|before| before.passed);
        if let Some(announced) = self.announced.get_mut(&topic) {
            announced.passed = passed;
        }
        if reason == Reason::Trimmed {
            self.announced.insert(topic, Announced { at, at_ms, passed });
            // Further on it is of something else that is gone.
            if before.is_some_and(|before| before.at == at) {
                let name = self.life.name(topic);
                self.life.violate(Kind::ResetDoubled, || format!("{name} was told to be trimmed again at {at}"));
            }
        } else if reason == Reason::Diverged {
            // It alone may come late: nothing is left of what an epoch ends.
            let before = self.life.late.len();
            self.life.late.retain(|&(late, _)| late != topic);
            self.life.report.told += (before - self.life.late.len()) as u64;
        }
        self.next.insert(topic, next.map_or(to, |next| next.max(to)));
    }

    /// The connection is over; a reader that was run dry must have everything.
    pub(super) fn finish(mut self, dry: bool) {
        match self.stage {
            Stage::Asked if dry => self.life.violate(Kind::OpenWrong, || "it never came".into()),
            Stage::Refused if dry => self.life.violate(Kind::ResetMissing, || "it never came".into()),
            Stage::Floating if dry => self.life.violate(Kind::WrongPlace, || "what was to follow never came".into()),
            Stage::Begun => self.miss_the_rest(dry),
            // What was owed to it still is.
            Stage::Refused => self.miss_the_rest(false),
            Stage::Asked | Stage::Floating => {}
        }
        for (topic, place) in std::mem::take(&mut self.missing) {
            let key = self.life.truth.key_at(topic, place);
            if key <= self.reach && self.last_event.is_none_or(|last| key > last) {
                let (name, id) = (self.life.name(topic), self.life.truth.id_at(topic, place));
                let what = || format!("{id} of {name} had not come when a block said so");
                self.life.violate(Kind::ControlAhead, what);
            } else {
                self.life.lose(topic, place);
            }
        }
    }

    fn miss_the_rest(&mut self, dry: bool) {
        for (topic, next) in std::mem::take(&mut self.next) {
            if let Some(announced) = self.announced.remove(&topic) {
                // Nothing came behind the loss: if this reader was given everything, nothing was left.
                if dry {
                    let end = self.life.truth.order[topic.0 as usize].len() as u32;
                    self.life.expect_retained(topic, end, announced.at_ms);
                }
                continue;
            }
            let end = self.life.truth.order[topic.0 as usize].len() as u32;
            let to = if dry { end } else { self.life.truth.count_upto(topic, self.reach) };
            if !dry && next < to && self.life.may_be_trimmed(topic, u64::MAX) {
                self.life.owed.insert(topic, next);
                continue;
            }
            let key = if dry { self.life.truth.end() } else { self.reach };
            (next..to).for_each(|place| self.miss(topic, place, key));
        }
    }

    /// "Now" is not long ago.
    fn expect_live(&mut self, at: Id) {
        let (truth, requested_ms) = (self.life.truth, self.connection.requested_ms);
        let key = truth.key(at);
        let before = |&topic: &Topic| {
            let next = truth.order[topic.0 as usize].get(truth.count_upto(topic, key) as usize);
            next.is_some_and(|(event, _)| event.stamp.ms + LIVE_SLACK_MS < requested_ms)
        };
        if self.connection.topics.iter().any(before) {
            self.life.violate(Kind::WrongPlace, || format!("{at} is before what was there when it was asked for"));
        }
    }

    /// A position in the future would hide what is still to come.
    fn expect_past(&mut self, at: Id, at_ms: u64) {
        if at.stamp.ms > at_ms {
            self.life.violate(Kind::ControlAhead, || format!("{at} was told at {at_ms}"));
        }
    }

    fn note_id(&mut self, id: Option<Id>) {
        self.life.last = id.or(self.life.last);
    }
}
