//! Which events there were, in which order: what publishers were told, and what anybody saw.

use std::collections::HashMap;

use super::log::{Control, Seen};
use super::{Cause, Id, Kind, Log, Outcome, Stamp, Topic, Violation};

/// Where something stands in the whole of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Key {
    /// Losses before it.
    pub(super) generation: u32,
    pub(super) stamp: Stamp,
}

impl Key {
    /// Right behind it.
    pub(super) fn after(self) -> Key {
        Key { stamp: Stamp { n: self.stamp.n.saturating_add(1), ..self.stamp }, ..self }
    }
}

/// What an (id, bytes) that came to somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// The event at this place of its topic.
    Event(Topic, u32),
    /// It has the id of the event at this place, and other bytes.
    Changed(Topic, u32),
    /// An event of the topic under a second id.
    StoredTwice(Topic),
    /// Nobody published it.
    Phantom,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Truth {
    /// Per topic, its events, ascending by key.
    pub(super) order: Vec<Vec<(Key, Id)>>,
    /// What each of the log's `seen` is.
    pub(super) sorts: Vec<Sort>,
    /// Per topic, publications that may be stored and that nobody saw.
    pub(super) unsure: Vec<usize>,
    generations: HashMap<[u8; 4], u32>,
    /// When the losses began, ascending.
    losses: Vec<u64>,
}

/// A publication, and the id under which it is stored.
type Stored = (Topic, u64);

impl Truth {
    /// What the log tells, and the promises that publishers alone see broken.
    pub(super) fn of(log: &Log) -> (Truth, Vec<Violation>) {
        let mut broken = Vec::new();
        let mut note = |kind, what| broken.push(Violation { kind, reader: None, connection: 0, what });
        let mut ledger = Ledger::acknowledged(log, &mut note);
        let verdicts: Vec<Verdict> = log.seen.iter().map(|&seen| ledger.settle(seen)).collect();
        let losses = losses(log);
        let generations = generations(log, &ledger, &losses);
        let mut truth = Truth {
            order: vec![Vec::new(); log.topics.len()],
            sorts: Vec::new(),
            unsure: Vec::new(),
            generations,
            losses,
        };
        ledger.store_again(|id| truth.key(id).generation);
        for (&id, &(topic, _)) in &ledger.stored {
            let key = truth.key(id);
            truth.order[topic.0 as usize].push((key, id));
        }
        truth.order.iter_mut().for_each(|events| events.sort_unstable_by_key(|&(key, _)| key));
        truth.note_same_numbers(&mut note);
        truth.sorts = verdicts.into_iter().map(|verdict| truth.sort(verdict, &ledger)).collect();
        truth.unsure = vec![0; log.topics.len()];
        for publication in &log.publications {
            let seen = ledger.ids.contains_key(&publication.hash);
            truth.unsure[publication.topic.0 as usize] += usize::from(publication.outcome == Outcome::Unknown && !seen);
        }
        (truth, broken)
    }

    /// Where an id stands. One of an incarnation of which no event and no control block is known stands last.
    pub(super) fn key(&self, id: Id) -> Key {
        let generation = self.generations.get(&id.tag).copied().unwrap_or(self.newest());
        Key { generation, stamp: id.stamp }
    }

    /// The generation of what was stored at this time.
    pub(super) fn generation_at(&self, ms: u64) -> u32 {
        generation(&self.losses, ms)
    }

    /// After everything.
    pub(super) fn end(&self) -> Key {
        Key { generation: self.newest(), stamp: Stamp { ms: u64::MAX, n: u64::MAX } }
    }

    fn newest(&self) -> u32 {
        self.losses.len() as u32
    }

    /// Events of a topic until this time.
    pub(super) fn count_until(&self, topic: Topic, ms: u64) -> u32 {
        self.count_upto(topic, Key { generation: self.generation_at(ms), stamp: Stamp { ms, n: u64::MAX } })
    }

    /// The events of a topic before a position, counted.
    pub(super) fn count_before(&self, topic: Topic, key: Key) -> u32 {
        self.order[topic.0 as usize].partition_point(|&(event, _)| event < key) as u32
    }

    /// The events of a topic up to a position, counted.
    pub(super) fn count_upto(&self, topic: Topic, key: Key) -> u32 {
        self.order[topic.0 as usize].partition_point(|&(event, _)| event <= key) as u32
    }

    /// The events of a topic from a place on.
    pub(super) fn from(&self, topic: Topic, place: u32) -> std::slice::Iter<'_, (Key, Id)> {
        let events = &self.order[topic.0 as usize];
        events[events.len().min(place as usize)..].iter()
    }

    pub(super) fn id_at(&self, topic: Topic, place: u32) -> Id {
        self.order[topic.0 as usize][place as usize].1
    }

    pub(super) fn key_at(&self, topic: Topic, place: u32) -> Key {
        self.order[topic.0 as usize][place as usize].0
    }

    /// The generation of the event at this place, the newest where there is none.
    pub(super) fn generation_of(&self, topic: Topic, place: u32) -> u32 {
        self.order[topic.0 as usize].get(place as usize).map_or(self.newest(), |(key, _)| key.generation)
    }

    fn sort(&self, verdict: Verdict, ledger: &Ledger<'_>) -> Sort {
        let place = |id: Id| {
            let (topic, _) = ledger.stored[&id];
            let (key, events) = (self.key(id), &self.order[topic.0 as usize]);
            let first = events.partition_point(|&(event, _)| event < key);
            let beyond =
                events[first..].iter().position(|&(_, event)| event == id).expect("every stored id has a place");
            (topic, (first + beyond) as u32)
        };
        match verdict {
            Verdict::Event(id) => {
                let (topic, place) = place(id);
                Sort::Event(topic, place)
            }
            Verdict::Changed(id) => {
                let (topic, place) = place(id);
                Sort::Changed(topic, place)
            }
            Verdict::Again(id, _) if ledger.stored.contains_key(&id) => {
                let (topic, place) = place(id);
                Sort::Event(topic, place)
            }
            Verdict::Again(_, topic) => Sort::StoredTwice(topic),
            Verdict::Phantom => Sort::Phantom,
        }
    }

    fn note_same_numbers(&self, note: &mut impl FnMut(Kind, String)) {
        let mut all: Vec<(Key, Id)> = self.order.iter().flatten().copied().collect();
        all.sort_unstable_by_key(|&(key, _)| key);
        for pair in all.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            note(Kind::SameNumber, format!("{} and {} are two events", pair[0].1, pair[1].1));
        }
    }
}

/// What an (id, bytes) is, before places are known.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Event(Id),
    Changed(Id),
    /// It is known under another id.
    Again(Id, Topic),
    Phantom,
}

/// Which publication is stored under which id, as far as is known.
struct Ledger<'a> {
    log: &'a Log,
    /// Where the publication with these bytes stands in the log.
    publications: HashMap<u64, usize>,
    stored: HashMap<Id, Stored>,
    /// By the publication's bytes.
    ids: HashMap<u64, Id>,
    /// Further ids under which a publication came.
    again: Vec<(Id, Stored)>,
}

impl<'a> Ledger<'a> {
    /// What publishers were told.
    fn acknowledged(log: &'a Log, note: &mut impl FnMut(Kind, String)) -> Ledger<'a> {
        let mut ledger = Ledger {
            log,
            publications: HashMap::new(),
            stored: HashMap::new(),
            ids: HashMap::new(),
            again: Vec::new(),
        };
        for (place, publication) in log.publications.iter().enumerate() {
            let twice = ledger.publications.insert(publication.hash, place);
            assert!(twice.is_none(), "the harness published the same bytes twice");
            let Outcome::Stored(id) = publication.outcome else { continue };
            if ledger.stored.contains_key(&id) {
                note(Kind::Changed, format!("two publications were told {id}"));
            } else {
                ledger.store(id, publication.topic, publication.hash);
            }
        }
        ledger
    }

    /// What a loss took, and its publisher's key with it, may rightly be stored again.
    fn store_again(&mut self, generation: impl Fn(Id) -> u32) {
        for (id, stored) in std::mem::take(&mut self.again) {
            if generation(id) != generation(self.ids[&stored.1]) {
                self.stored.insert(id, stored);
            }
        }
    }

    fn store(&mut self, id: Id, topic: Topic, hash: u64) {
        self.stored.insert(id, (topic, hash));
        self.ids.insert(hash, id);
    }

    /// Says what it is that came. Whoever sees an event whose outcome is unknown settles it.
    fn settle(&mut self, Seen { id, hash }: Seen) -> Verdict {
        let known = self.stored.get(&id);
        if known.is_some_and(|&(_, bytes)| bytes == hash) {
            return Verdict::Event(id);
        }
        if known.is_some() {
            return Verdict::Changed(id);
        }
        let publication = self.publications.get(&hash).map(|&place| self.log.publications[place]);
        match publication {
            Some(publication) if self.ids.contains_key(&hash) => {
                self.again.push((id, (publication.topic, hash)));
                Verdict::Again(id, publication.topic)
            }
            Some(publication) if publication.outcome == Outcome::Unknown => {
                self.store(id, publication.topic, hash);
                Verdict::Event(id)
            }
            _ => Verdict::Phantom,
        }
    }
}

fn losses(log: &Log) -> Vec<u64> {
    let losses = log.faults.iter().filter(|fault| fault.cause == Cause::Loss);
    let mut begun: Vec<u64> = losses.map(|fault| fault.begun_ms).collect();
    begun.sort_unstable();
    begun
}

fn generation(losses: &[u64], ms: u64) -> u32 {
    losses.partition_point(|&begun| begun <= ms) as u32
}

/// The generation of each tag: that of the time at which it was first seen.
fn generations(log: &Log, ledger: &Ledger<'_>, losses: &[u64]) -> HashMap<[u8; 4], u32> {
    let controls = log.controls.iter().filter_map(|control| match control {
        Control::Open { resumed: false, id: Some(id), at_ms, .. } | Control::Reset { id: Some(id), at_ms, .. } => {
            Some((id.tag, *at_ms))
        }
        _ => None,
    });
    let again = ledger.again.iter().map(|(id, _)| id);
    let events = ledger.stored.keys().chain(again).map(|id| (id.tag, id.stamp.ms));
    let mut since: HashMap<[u8; 4], u64> = HashMap::new();
    for (tag, ms) in events.chain(controls) {
        let first = since.entry(tag).or_insert(ms);
        *first = ms.min(*first);
    }
    since.into_iter().map(|(tag, ms)| (tag, generation(losses, ms))).collect()
}
