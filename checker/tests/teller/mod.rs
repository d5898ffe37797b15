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
    /// Per topic (0 and 1), the first entry not handed over.
    next: [usize; 2],
    /// Losses it has been told of.
    losses: usize,
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
    trims: bool,
    /// What the last loss took: its fence, and the reason it is told with.
    loss: Option<(Id, Reason)>,
    losses: usize,
}

impl<'a> Server<'a> {
    fn new(chance: &'a mut Chance) -> Server<'a> {
        let story = Story { steps: Vec::new(), has_unsure: false };
        let trims = chance.below(2) == 0;
        let shelves = Default::default();
        let last = Stamp::default();
        let (people, loss, losses) = (Vec::new(), None, 0);
        let mut server =
            Server { chance, story, ms: 10, tag: b'A', last, hash: 0, shelves, people, trims, loss, losses };
        if trims {
            let fault = Fault { cause: Cause::Trim { kept: None }, topics: None, begun_ms: 0, ended_ms: u64::MAX };
            server.story.steps.push(Step::Fault(fault));
        }
        for _ in 0..1 + server.chance.below(3) {
            let topics: &[Topic] = [&[Topic(0)][..], &[Topic(1)], &[Topic(0), Topic(1)]][server.chance.below(3)];
            server.people.push(Person { topics: topics.into(), ..Person::default() });
            server.story.steps.push(Step::Reader);
        }
        server
    }

    fn run(mut self, length: usize) -> Story {
        for _ in 0..length {
            self.ms += self.chance.below(3) as u64;
            let person = self.chance.below(self.people.len());
            match self.chance.below(20) {
                0..8 => self.publish(),
                8..14 if self.people[person].connected => self.read(person, 3),
                8..14 => self.connect(person),
                14..17 => self.people[person].connected = false,
                17 if self.trims => self.trim(),
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
        let (stored, certain) = [(true, true), (true, false), (false, false), (false, true)]
            [[0, 0, 0, 0, 0, 0, 0, 1, 2, 3][self.chance.below(10)]];
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

    fn trim(&mut self) {
        let shelf = &mut self.shelves[self.chance.below(2)];
        let left = shelf.entries.len() - shelf.floor;
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
        self.people[person].last = Some(id);
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
                let from = self.newest(&topics, count as usize);
                (false, self.unless_any(&topics, from, now), from)
            }
        };
        let person = &mut self.people[number];
        (person.connected, person.next, person.last) = (true, from, id.or(person.last));
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

    fn read(&mut self, person: usize, count: usize) {
        self.read_upto(person, Stamp { ms: u64::MAX, n: 0 }, count);
    }

    fn read_upto(&mut self, number: usize, bound: Stamp, count: usize) {
        for _ in 0..count {
            let person = &self.people[number];
            if !person.connected {
                return;
            }
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
                self.people[number].last = Some(id);
                self.story.steps.push(Step::Event { reader: Reader(number as u32), id, hash, topic, certain });
            }
        }
    }
}
