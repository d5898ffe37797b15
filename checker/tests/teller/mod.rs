//! A right server, told as steps: what it publishes, loses and says to its readers, by chance.

use std::fmt;
use std::sync::Arc;

use checker::history::{Cause, Fault, Id, Outcome, Position, Publication, Reader, Reason, Stamp, Topic};

/// Numbers from a seed (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }
}

/// A topic that is published to and that no reader follows.
pub const UNASKED: Topic = Topic(2);

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step {
    Reader,
    Publish {
        publication: Publication,
    },
    Fault(Fault),
    Connect {
        reader: Reader,
        topics: Arc<[Topic]>,
        position: Position,
        at_ms: u64,
    },
    Open {
        reader: Reader,
        topics: Arc<[Topic]>,
        resumed: bool,
        id: Option<Id>,
        at_ms: u64,
    },
    /// `certain`: it is acknowledged.
    Event {
        reader: Reader,
        id: Id,
        hash: u64,
        topic: Topic,
        certain: bool,
    },
    /// `certain`: it tells of something acknowledged.
    Reset {
        reader: Reader,
        reason: Reason,
        topics: Arc<[Topic]>,
        id: Id,
        at_ms: u64,
        certain: bool,
    },
    Dry(Reader),
}

/// Everything that happened.
pub struct Story {
    pub steps: Vec<Step>,
    /// True exactly when something may be stored that nobody saw.
    pub has_unsure: bool,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(place, step)| writeln!(f, "{place}: {step:?}"))
    }
}

impl Story {
    /// A history of about so many steps.
    pub fn tell(chance: &mut Chance, length: usize) -> Story {
        Server::new(chance).run(length)
    }

    fn reader(step: &Step) -> Option<Reader> {
        match step {
            Step::Connect { reader, .. }
            | Step::Open { reader, .. }
            | Step::Event { reader, .. }
            | Step::Reset { reader, .. }
            | Step::Dry(reader) => Some(*reader),
            Step::Reader | Step::Publish { .. } | Step::Fault(_) => None,
        }
    }

    /// True exactly when the next thing that is said of a topic of the reset at `place` is a reset.
    pub fn is_followed_by_a_reset(&self, place: usize) -> bool {
        let Step::Reset { reader: whose, topics: of, .. } = &self.steps[place] else { return false };
        let next = self.steps[place + 1..].iter().find(|step| match step {
            Step::Event { reader, topic, .. } => reader == whose && of.contains(topic),
            Step::Reset { reader, topics, .. } => reader == whose && of.iter().any(|topic| topics.contains(topic)),
            _ => false,
        });
        matches!(next, Some(Step::Reset { .. }))
    }

    /// The next thing this stream said, if it is an event.
    pub fn next_event_in_stream(&self, place: usize) -> Option<usize> {
        let reader = Story::reader(&self.steps[place]);
        let next = (place + 1..self.steps.len()).find(|&next| Story::reader(&self.steps[next]) == reader)?;
        matches!(self.steps[next], Step::Event { .. }).then_some(next)
    }

    /// The thing this stream said before, if it is an event.
    pub fn event_before_in_stream(&self, place: usize) -> Option<usize> {
        let reader = Story::reader(&self.steps[place]);
        let before = (0..place).rev().find(|&before| Story::reader(&self.steps[before]) == reader)?;
        matches!(self.steps[before], Step::Event { .. }).then_some(before)
    }

    /// Everything this stream says after `place`, and the end of the reader if it is there.
    pub fn rest_of_stream(&self, place: usize) -> Vec<usize> {
        let reader = Story::reader(&self.steps[place]);
        let rest = (place + 1..self.steps.len()).filter(|&next| Story::reader(&self.steps[next]) == reader);
        rest.take_while(|&next| !matches!(self.steps[next], Step::Connect { .. })).collect()
    }

    /// What this stream said of the topic before `place`, last.
    pub fn said_before(&self, place: usize, of: Topic) -> Option<&Step> {
        let reader = Story::reader(&self.steps[place]);
        let before = self.steps[..place].iter().rev().filter(|step| Story::reader(step) == reader);
        before.take_while(|step| !matches!(step, Step::Connect { .. })).find(|step| match step {
            Step::Event { topic, .. } => *topic == of,
            Step::Reset { topics, .. } => topics.contains(&of),
            _ => false,
        })
    }

    /// True exactly when the reader of the step at `place` is told something of the topic by a later reset.
    pub fn is_told_later(&self, place: usize, of: Topic) -> bool {
        let reader = Story::reader(&self.steps[place]);
        let rest = self.steps[place + 1..].iter().filter(|step| Story::reader(step) == reader);
        rest.into_iter().any(|step| matches!(step, Step::Reset { topics, .. } if topics.contains(&of)))
    }

    /// Everything of a topic that is known to be stored until then.
    pub fn stored_until(&self, of: Topic, ms: u64) -> Vec<Id> {
        let stored = |step: &Step| match step {
            Step::Publish { publication: Publication { topic, outcome: Outcome::Stored(id), .. } } => {
                (*topic == of && id.stamp.ms <= ms).then_some(*id)
            }
            _ => None,
        };
        self.steps.iter().filter_map(stored).collect()
    }

    /// How many of the newest of a topic are kept, if old ones may have left by then.
    pub fn kept_at(&self, of: Topic, ms: u64) -> Option<usize> {
        self.steps.iter().find_map(|step| match step {
            Step::Fault(Fault {
                cause: Cause::Trim { kept, age_ms: None }, topics: Some(topics), begun_ms, ..
            }) => (topics.contains(&of) && *begun_ms <= ms).then_some(kept.unwrap_or(0) as usize),
            _ => None,
        })
    }

    /// True exactly when the reset at `place` answers a position that was refused.
    pub fn is_answer(&self, place: usize) -> bool {
        let reader = Story::reader(&self.steps[place]);
        let before = self.steps[..place].iter().rev().find(|step| Story::reader(step) == reader);
        let is_refused = matches!(before, Some(Step::Open { id: None, .. }));
        is_refused && matches!(self.connect_before(place), Some(Position::After(_) | Position::Unknown))
    }

    pub fn has_losses(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Fault(Fault { cause: Cause::Loss, .. })))
    }

    /// With which position the stream at `place` was asked for.
    pub fn connect_before(&self, place: usize) -> Option<Position> {
        let reader = Story::reader(&self.steps[place]);
        self.steps[..place].iter().rev().find_map(|step| match step {
            Step::Connect { reader: asked, position, .. } if Some(*asked) == reader => Some(*position),
            _ => None,
        })
    }

    /// What the reader was told of the topic of the event at `place`, before and after it.
    pub fn neighbours(&self, place: usize) -> (Option<&Step>, Option<&Step>) {
        let (whose, of) = match &self.steps[place] {
            Step::Event { reader, topic, .. } => (reader, topic),
            Step::Reset { reader, topics, .. } if !topics.is_empty() => (reader, &topics[0]),
            _ => return (None, None),
        };
        let speaks = |step: &&Step| match step {
            Step::Event { reader, topic, .. } => reader == whose && topic == of,
            Step::Reset { reader, topics, .. } => reader == whose && topics.contains(of),
            _ => false,
        };
        (self.steps[..place].iter().rev().find(speaks), self.steps[place + 1..].iter().find(speaks))
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: Id,
    hash: u64,
    certain: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Everything ever stored in this history that was not lost as a whole.
    entries: Vec<Entry>,
    /// Those before this one were trimmed.
    floor: usize,
}

#[derive(Debug, Default)]
struct Person {
    topics: Arc<[Topic]>,
    last: Option<Id>,
    connected: bool,
    /// True exactly when it asked for the oldest or the newest few, and was given nothing yet.
    fresh: bool,
    /// Per topic (0 and 1), the first entry not handed over.
    next: [usize; 2],
    /// Losses it has been told of.
    losses: usize,
}

fn before(Stamp { ms, n }: Stamp) -> Stamp {
    n.checked_sub(1).map_or(Stamp { ms: ms - 1, n: 999 }, |n| Stamp { ms, n })
}

#[derive(Debug, Clone, Copy)]
struct Trim {
    has_begun: bool,
    kept: Option<u32>,
}

struct Server<'a> {
    chance: &'a mut Chance,
    story: Story,
    ms: u64,
    tag: u8,
    last: Stamp,
    hash: u64,
    shelves: [Shelf; 3],
    people: Vec<Person>,
    /// Of topics 0 and 1, how they are trimmed, if they are.
    trims: [Option<Trim>; 2],
    /// What the last loss took: its fence, and the reason it is told with.
    loss: Option<(Id, Reason)>,
    losses: usize,
    /// True exactly when publishers are always answered.
    is_answered: bool,
}

impl<'a> Server<'a> {
    fn new(chance: &'a mut Chance) -> Server<'a> {
        let story = Story { steps: Vec::new(), has_unsure: false };
        let trim = |chance: &mut Chance| {
            let kept = [None, None, Some(1), Some(3), Some(8)][chance.below(5)];
            (chance.below(2) == 0).then_some(Trim { has_begun: false, kept })
        };
        let trims = [trim(chance), trim(chance)];
        let shelves = Default::default();
        let last = Stamp::default();
        let (people, loss, losses, is_answered) = (Vec::new(), None, 0, chance.below(2) == 0);
        let mut server = Server {
            chance,
            story,
            ms: 10,
            tag: b'A',
            last,
            hash: 0,
            shelves,
            people,
            trims,
            loss,
            losses,
            is_answered,
        };
        for topic in 0..2 {
            if server.chance.below(2) == 0 {
                server.begin_trims(topic);
            }
        }
        for _ in 0..1 + server.chance.below(4) {
            let both = &[Topic(0), Topic(1)][..];
            let topics = [&both[..1], &both[1..], both, both, both][server.chance.below(5)];
            server.people.push(Person { topics: topics.into(), ..Person::default() });
            server.story.steps.push(Step::Reader);
        }
        server
    }

    fn run(mut self, length: usize) -> Story {
        for _ in 0..length {
            self.ms += [0, 0, 1, 1, 2, 700][self.chance.below(6)];
            let person = self.chance.below(self.people.len());
            match self.chance.below(20) {
                0..8 => self.publish(),
                8..14 if self.people[person].connected => self.read(person, 3),
                8..14 => self.connect(person),
                14..17 => self.people[person].connected = false,
                17 => self.trim(),
                18 => self.restart(),
                19 if self.chance.below(6) == 0 => self.lose(),
                _ => {}
            }
        }
        for person in 0..self.people.len() {
            while !self.people[person].connected {
                self.connect(person);
            }
            self.read(person, usize::MAX);
            self.story.steps.push(Step::Dry(Reader(person as u32)));
        }
        self.story
    }

    fn publish(&mut self) {
        let topic = Topic(self.chance.below(3) as u32);
        self.hash += 1;
        let which = [0, 0, 0, 0, 0, 0, 3, 3, 1, 2][self.chance.below(if self.is_answered { 8 } else { 10 })];
        let (stored, certain) = [(true, true), (true, false), (false, false), (false, true)][which];
        if self.ms > self.last.ms {
            self.last = Stamp { ms: self.ms, n: 0 };
        } else {
            self.last.n += 1;
        }
        let id = self.id(self.last);
        let outcome = match (stored, certain) {
            (true, true) => Outcome::Stored(id),
            (false, true) => Outcome::Refused,
            (_, false) => Outcome::Unknown,
        };
        self.story.has_unsure |= !certain;
        self.story.steps.push(Step::Publish { publication: Publication { topic, hash: self.hash, outcome } });
        if stored {
            self.shelves[topic.0 as usize].entries.push(Entry { id, hash: self.hash, certain });
        }
    }

    fn id(&self, stamp: Stamp) -> Id {
        Id { stamp, tag: [self.tag; 4] }
    }

    fn begin_trims(&mut self, topic: usize) {
        let Some(trim) = self.trims[topic].as_mut().filter(|trim| !trim.has_begun) else { return };
        trim.has_begun = true;
        let (cause, topics) = (Cause::Trim { kept: trim.kept, age_ms: None }, Some([Topic(topic as u32)].into()));
        self.story.steps.push(Step::Fault(Fault { cause, topics, begun_ms: self.ms, ended_ms: u64::MAX }));
    }

    fn trim(&mut self) {
        let topic = self.chance.below(2);
        self.begin_trims(topic);
        let Some(Trim { kept, .. }) = self.trims[topic] else { return };
        let shelf = &mut self.shelves[topic];
        let left = (shelf.entries.len() - shelf.floor).saturating_sub(kept.unwrap_or(0) as usize);
        shelf.floor += self.chance.below(left + 1);
    }

    fn restart(&mut self) {
        if self.tag < b'Z' {
            self.tag += 1;
        }
    }

    /// Falls back to some number, or begins anew. Everybody who is connected is told at once.
    fn lose(&mut self) {
        if self.tag == b'Z' || self.loss.is_some() {
            return;
        }
        (0..self.people.len()).for_each(|person| self.read(person, usize::MAX));
        self.ms += 5;
        let fault = Fault { cause: Cause::Loss, topics: None, begun_ms: self.ms, ended_ms: u64::MAX };
        self.story.steps.push(Step::Fault(fault));
        self.ms += 5;
        self.tag += 1;
        let anew = self.chance.below(2) == 0;
        let fence = if anew { self.last } else { Stamp { ms: self.chance.below(self.ms as usize) as u64, n: 0 } };
        let (kept, reason) = if anew { (Stamp::default(), Reason::Epoch) } else { (fence, Reason::Diverged) };
        for shelf in &mut self.shelves {
            shelf.entries.retain(|entry| entry.id.stamp <= kept);
            shelf.floor = shelf.floor.min(shelf.entries.len());
        }
        self.losses += 1;
        self.loss = Some((self.id(fence.min(self.last)), reason));
        for person in 0..self.people.len() {
            if self.people[person].connected && self.people[person].last.is_some() {
                self.tell_loss(person);
            }
        }
    }

    /// At its place for those who have not passed it, at once for those beyond it.
    fn tell_loss(&mut self, person: usize) {
        let (fence, reason) = self.loss.unwrap();
        let id = if reason == Reason::Epoch { self.id(self.last) } else { fence };
        for topic in 0..2 {
            let entries = &self.shelves[topic].entries;
            self.people[person].next[topic] = entries.partition_point(|entry| entry.id.stamp <= id.stamp);
        }
        self.people[person].losses = self.losses;
        let topics = Arc::clone(&self.people[person].topics);
        self.reset(person, reason, topics, id, false);
    }

    fn reset(&mut self, person: usize, reason: Reason, topics: Arc<[Topic]>, id: Id, certain: bool) {
        (self.people[person].last, self.people[person].fresh) = (Some(id), false);
        let (reader, at_ms) = (Reader(person as u32), self.ms);
        self.story.steps.push(Step::Reset { reader, reason, topics, id, at_ms, certain });
    }

    fn connect(&mut self, number: usize) {
        let (reader, topics, at_ms) = (Reader(number as u32), Arc::clone(&self.people[number].topics), self.ms);
        let count = self.chance.below(4) as u32 + 1;
        let position = match (self.people[number].last, self.chance.below(5)) {
            (Some(last), _) => Position::After(last),
            (None, 0) => Position::Earliest,
            (None, 1) => Position::Last(count),
            (None, 2) => Position::Unknown,
            (None, _) => Position::Now,
        };
        self.story.steps.push(Step::Connect { reader, topics: Arc::clone(&topics), position, at_ms });
        // Sometimes it ends before it has begun.
        if self.chance.below(8) == 0 {
            return;
        }
        let now = self.id(self.last);
        let lost = self.loss.is_some_and(|(fence, reason)| match position {
            Position::After(id) => {
                let before = id.tag[0] < fence.tag[0];
                before && (reason == Reason::Epoch || id.stamp > fence.stamp)
            }
            _ => false,
        });
        let next = |stamp: Stamp| {
            [0, 1].map(|topic: usize| self.shelves[topic].entries.partition_point(|entry| entry.id.stamp <= stamp))
        };
        let floors = [0, 1].map(|topic: usize| self.shelves[topic].floor);
        let (resumed, id, from) = match position {
            Position::After(_) if lost => (false, None, [0, 0]),
            Position::After(id) => (true, Some(id), next(id.stamp)),
            Position::Now => (false, Some(now), next(now.stamp)),
            Position::Unknown => (false, None, next(now.stamp)),
            Position::Earliest => (false, self.unless_any(&topics, floors, now), floors),
            Position::Last(count) => {
                let mut from = self.newest(&topics, count as usize);
                // What has left since the first of them need not be told: nobody asked for it.
                if self.chance.below(2) == 0 {
                    (0..2).for_each(|topic| from[topic] = from[topic].max(floors[topic]));
                }
                (false, self.unless_any(&topics, from, now), from)
            }
        };
        let person = &mut self.people[number];
        (person.connected, person.next, person.last) = (true, from, id.or(person.last));
        person.fresh = id.is_none() && matches!(position, Position::Earliest | Position::Last(_));
        if !matches!(position, Position::After(_)) {
            person.losses = self.losses;
        }
        let told = person.losses == self.losses;
        self.story.steps.push(Step::Open { reader, topics: Arc::clone(&topics), resumed, id, at_ms });
        if position == Position::Unknown {
            self.reset(number, Reason::UnknownCursor, topics, now, true);
        } else if lost {
            self.tell_loss(number);
            if let Some(Step::Reset { certain, .. }) = self.story.steps.last_mut() {
                *certain = true;
            }
        } else if !told {
            // Its place is before the loss: it reads on up to there, and is told.
            let (fence, _) = self.loss.unwrap();
            if self.people[number].last.is_some_and(|last| last.tag[0] < fence.tag[0]) {
                self.read_upto(number, fence.stamp, usize::MAX);
                self.tell_loss(number);
            }
        }
    }

    /// The position for a stream that nothing retained follows.
    fn unless_any(&self, topics: &[Topic], from: [usize; 2], now: Id) -> Option<Id> {
        let any = topics.iter().any(|topic| from[topic.0 as usize] < self.shelves[topic.0 as usize].entries.len());
        (!any).then_some(now)
    }

    fn newest(&self, topics: &[Topic], count: usize) -> [usize; 2] {
        let retained =
            |topic: &Topic| self.shelves[topic.0 as usize].entries[self.shelves[topic.0 as usize].floor..].iter();
        let mut all: Vec<(u8, Stamp)> =
            topics.iter().flat_map(retained).map(|entry| (entry.id.tag[0], entry.id.stamp)).collect();
        all.sort_unstable();
        let Some(&first) = all.get(all.len().saturating_sub(count)) else {
            return [0, 1].map(|topic: usize| self.shelves[topic].entries.len());
        };
        [0, 1].map(|topic: usize| {
            self.shelves[topic].entries.partition_point(|entry| (entry.id.tag[0], entry.id.stamp) < first)
        })
    }

    /// What has left before the first event was given is told before it, in one block.
    fn tell_fresh(&mut self, number: usize) {
        let person = &self.people[number];
        let shelf = |topic: &Topic| (person.next[topic.0 as usize], &self.shelves[topic.0 as usize]);
        let is_lost = |topic: &&Topic| shelf(topic).0 < shelf(topic).1.floor;
        let lost: Arc<[Topic]> = person.topics.iter().filter(is_lost).copied().collect();
        let last = |topic: &Topic| shelf(topic).1.entries[shelf(topic).1.floor - 1].id;
        let Some(furthest) = lost.iter().map(last).max_by_key(|id| (id.tag, id.stamp)) else { return };
        let first = |topic: &Topic| {
            let (next, shelf) = shelf(topic);
            shelf.entries.get(next.max(shelf.floor)).map(|entry| entry.id)
        };
        let before = |id: Id| Id { stamp: before(id.stamp), ..id };
        let next = person.topics.iter().filter_map(first).min_by_key(|id| (id.tag, id.stamp)).map(before);
        let id = next.into_iter().chain([furthest]).min_by_key(|id| (id.tag, id.stamp)).unwrap_or(furthest);
        let gone = |topic: &Topic| &shelf(topic).1.entries[shelf(topic).0..shelf(topic).1.floor];
        let certain = lost.iter().flat_map(gone).any(|entry| entry.certain);
        for topic in lost.iter().map(|topic| topic.0 as usize) {
            self.people[number].next[topic] = self.shelves[topic].floor;
        }
        self.reset(number, Reason::Trimmed, lost, id, certain);
    }

    fn read(&mut self, person: usize, count: usize) {
        self.read_upto(person, Stamp { ms: u64::MAX, n: 0 }, count);
    }

    fn read_upto(&mut self, number: usize, bound: Stamp, count: usize) {
        for _ in 0..count {
            let person = &self.people[number];
            if !person.connected {
                return;
            }
            if person.fresh {
                self.tell_fresh(number);
            }
            let person = &self.people[number];
            let candidate = |topic: &Topic| {
                let (next, shelf) = (person.next[topic.0 as usize], &self.shelves[topic.0 as usize]);
                if shelf.floor > next {
                    return Some((shelf.entries[shelf.floor - 1].id.stamp, *topic, true));
                }
                shelf.entries.get(next).map(|entry| (entry.id.stamp, *topic, false))
            };
            let Some((stamp, topic, trimmed)) = person.topics.iter().filter_map(candidate).min() else { return };
            if stamp > bound {
                return;
            }
            let place = topic.0 as usize;
            let (next, shelf) = (person.next[place], &self.shelves[place]);
            if trimmed {
                let certain = shelf.entries[next..shelf.floor].iter().any(|entry| entry.certain);
                let id = shelf.entries[shelf.floor - 1].id;
                self.people[number].next[place] = shelf.floor;
                self.reset(number, Reason::Trimmed, [topic].into(), id, certain);
            } else {
                let Entry { id, hash, certain } = shelf.entries[next];
                self.people[number].next[place] = next + 1;
                (self.people[number].last, self.people[number].fresh) = (Some(id), false);
                self.story.steps.push(Step::Event { reader: Reader(number as u32), id, hash, topic, certain });
            }
        }
    }
}
