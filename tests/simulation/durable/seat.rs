//! One shard of a node and what stands between it and Redis: wishes, reads, an inbox.
//!
//! What the shard wishes is done at a moment of chance and answered at another. Subscriptions of one
//! topic are done in order; barriers, reads and marks when they please. A command whose link was cut
//! is repeated, whether it had been done or not.

use std::collections::VecDeque;

use fanwheel::engine::history::Page;
use fanwheel::engine::policy::{Limits, READS_MAX};
use fanwheel::engine::{Answer, Answered, Inbound, Marker, Read, Shard, Wish};
use fanwheel::event::Tag;
use fanwheel::topic::Topic;

use super::redis::Redis;
use crate::simulation::socket::{Moment, Port};

/// An entry of the inbox.
#[derive(Debug)]
pub enum Entry {
    /// A message, and when Redis said it.
    Say(Inbound, Moment),
    /// Some were dropped here.
    Gap,
}

/// A read under way: one topic is read after the other, where chance wants it at different moments.
#[derive(Debug)]
struct Reading {
    number: u64,
    read: Read,
    /// By the order of its topics.
    pages: Vec<Option<Page>>,
    /// Where the first of them was read.
    marker: Option<Marker>,
}

/// How answers to reads may look.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Each topic of a read is read at its own moment.
    pub apart: bool,
    /// So many pages of a hundred end early.
    pub short_percent: u32,
}

/// See the module. Its connection to Redis is the wire of the same number.
pub struct Seat {
    pub node: usize,
    pub number: usize,
    pub shard: Shard<Port>,
    pub dead: bool,
    pub connected: bool,
    generation: u32,
    /// The connection that wishes are meant for.
    renewed: u32,
    wishes: VecDeque<Wish>,
    reads: Vec<Reading>,
    answers: Vec<Answered>,
    marks: Vec<Tag>,
    pub inbox: VecDeque<Entry>,
    /// An entry the shard gave back.
    pub held: Option<Entry>,
    /// True exactly while a gap mark is in the inbox.
    overrun: bool,
    /// When Redis said the latest of what the shard has taken of its history.
    pub known: Option<Moment>,
    pub asked: Asked,
}

/// What the shard has asked for so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    pub barriers: u64,
    pub reads: u64,
    pub marks: u64,
}

impl Seat {
    pub fn new(node: usize, number: usize, limits: &Limits, tick: u32, seed: u64) -> Seat {
        Seat {
            node,
            number,
            shard: Shard::new(limits.clone(), tick, seed),
            dead: false,
            connected: false,
            generation: 0,
            renewed: 0,
            wishes: VecDeque::new(),
            reads: Vec::new(),
            answers: Vec::new(),
            marks: Vec::new(),
            inbox: VecDeque::new(),
            held: None,
            overrun: false,
            known: None,
            asked: Asked::default(),
        }
    }

    /// Its connection comes.
    pub fn connect(&mut self, redis: &mut Redis) {
        assert!(!self.connected);
        self.connected = true;
        self.generation += 1;
        self.wishes.clear();
        redis.wires[self.number].alive = true;
        self.inbox.push_back(Entry::Say(Inbound::Connected(self.generation), redis.moment));
    }

    /// Its connection is cut: of what is on its way the first `arriving` messages still come.
    pub fn disconnect(&mut self, redis: &mut Redis, arriving: usize) {
        assert!(self.connected);
        self.deliver(redis, arriving);
        let wire = &mut redis.wires[self.number];
        wire.queue.clear();
        wire.subscribed.clear();
        wire.alive = false;
        self.connected = false;
        self.wishes.clear();
        self.inbox.push_back(Entry::Say(Inbound::Disconnected, redis.moment));
    }

    /// The inbox is full: from here on everything is dropped until the mark was taken.
    pub fn overrun(&mut self) -> bool {
        let begins = self.connected && !self.overrun;
        if begins {
            self.overrun = true;
            self.inbox.push_back(Entry::Gap);
        }
        begins
    }

    pub fn on_its_way(&self, redis: &Redis) -> usize {
        redis.wires[self.number].queue.len()
    }

    /// Takes messages off the wire.
    pub fn deliver(&mut self, redis: &mut Redis, count: usize) {
        let queue = &mut redis.wires[self.number].queue;
        let count = count.min(queue.len());
        for (message, said) in queue.drain(..count) {
            if !self.overrun {
                self.inbox.push_back(Entry::Say(message, said));
            }
        }
    }

    /// Takes the oldest entry.
    pub fn take(&mut self) -> Option<Entry> {
        // As the mailbox does.
        #[cfg(fanwheel_mutants)]
        if fanwheel::mutant::is_planted("overrun-flag") && std::mem::take(&mut self.overrun) {
            self.inbox.retain(|entry| !matches!(entry, Entry::Gap));
            return Some(Entry::Gap);
        }
        let entry = self.held.take().or_else(|| self.inbox.pop_front())?;
        if let Entry::Gap = entry {
            self.overrun = false;
        }
        Some(entry)
    }

    /// What the shard wishes. Wishes about topics that stand beside each other come in an order that is not the same in
    /// each process: they are sorted.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        let mut wishes = self.shard.take_wishes();
        let is_about_topic = |wish: &Wish| topic_of(wish).is_some();
        for run in wishes.chunk_by_mut(|one, other| is_about_topic(one) && is_about_topic(other)) {
            run.sort_by(|one, other| topic_of(one).cmp(&topic_of(other)));
        }
        wishes
    }

    /// Hears a wish. What is meant for an earlier connection, or comes while there is none, is lost.
    pub fn hear(&mut self, wish: Wish) {
        match wish {
            Wish::Renew(generation) => {
                self.wishes.clear();
                self.renewed = generation;
            }
            Wish::Read(number, read) => {
                self.asked.reads += 1;
                self.reads.push(Reading { number, read, pages: Vec::new(), marker: None });
                assert!(self.reads.len() + self.answers.len() <= READS_MAX, "the mailbox for answers is full");
            }
            Wish::MarkLossy(tag) => {
                self.asked.marks += 1;
                self.marks.push(tag);
            }
            wish => {
                self.asked.barriers += u64::from(matches!(wish, Wish::Barrier(_)));
                if self.connected && self.renewed == self.generation {
                    self.wishes.push_back(wish);
                }
            }
        }
    }

    /// Operations that wait to be done.
    pub fn undone(&self) -> usize {
        self.wishes.len() + self.reads.len() + self.marks.len()
    }

    /// Does one of them, or the first of its topic.
    pub fn do_one(&mut self, at: usize, redis: &mut Redis, rng: &mut fastrand::Rng, manners: Manners) -> String {
        if at < self.wishes.len() {
            return self.grant(at, redis);
        }
        let at = at - self.wishes.len();
        if at < self.reads.len() {
            return self.read(at, redis, rng, manners);
        }
        let tag = self.marks.swap_remove(at - self.reads.len());
        format!("mark {tag} lossy: {}", redis.mark_lossy(tag))
    }

    fn grant(&mut self, at: usize, redis: &mut Redis) -> String {
        let topic = topic_of(&self.wishes[at]).cloned();
        let at = self.wishes.iter().position(|wish| topic_of(wish) == topic.as_ref()).expect("at least this one");
        let wish = self.wishes.remove(at).expect("just found");
        let words = format!("{wish:?}");
        match wish {
            Wish::Subscribe(topic) => redis.subscribe(self.number, redis.topics.number(&topic), true),
            Wish::Unsubscribe(topic) => redis.subscribe(self.number, redis.topics.number(&topic), false),
            Wish::Barrier(question) => redis.barrier(self.number, question),
            other => unreachable!("{other:?} is not kept here"),
        }
        words
    }

    fn read(&mut self, at: usize, redis: &mut Redis, rng: &mut fastrand::Rng, manners: Manners) -> String {
        let Reading { number, read, pages, marker } = &mut self.reads[at];
        let number = *number;
        let topics: Vec<usize> = match &*read {
            Read::After { topics, .. } => topics.iter().map(|(topic, _)| redis.topics.number(topic)).collect(),
            Read::Tail { topics, .. } => topics.iter().map(|topic| redis.topics.number(topic)).collect(),
            Read::Start { topics, upto, count } => {
                let answer = redis.start(topics, *upto, *count, rng.bool());
                let words = format!("read {number}: {}: {answer:?}", what(read));
                self.answers.push(Answered { number, marker: redis.marker(), answer });
                self.reads.swap_remove(at);
                return words;
            }
        };
        pages.resize_with(topics.len(), || None);
        // The order of topics in a read is the engine's affair and not the same in each process: theirs is taken.
        let unread =
            |pages: &[Option<Page>]| (0..topics.len()).filter(|&at| pages[at].is_none()).min_by_key(|&at| topics[at]);
        // What was read of another history is read again.
        let now = redis.marker();
        if !marker.as_ref().is_some_and(|first| first.chain.is_as(&now.chain) && first.last <= now.last) {
            pages.fill_with(|| None);
            *marker = Some(now);
        }
        while let Some(next) = unread(pages) {
            let shorter = rng.u32(0..100) < manners.short_percent;
            pages[next] = Some(redis.page(read, next, shorter));
            if manners.apart {
                break;
            }
        }
        if unread(pages).is_some() {
            return format!("read {number}: a topic of {}", topics.len());
        }
        let Reading { number, read, pages, marker } = self.reads.swap_remove(at);
        let pages: Vec<Page> = pages.into_iter().flatten().collect();
        let words = format!("read {number}: {}: {}", what(&read), Pages(&pages));
        let marker = marker.expect("it was read somewhere");
        self.answers.push(Answered { number, marker, answer: Answer::Pages(pages) });
        words
    }

    /// The link for commands is cut: what is under way will be done again, and may have been done.
    pub fn cut_commands(&mut self, redis: &mut Redis, rng: &mut fastrand::Rng) {
        self.reads.iter_mut().for_each(|read| read.pages.clear());
        let question = self.wishes.iter().find_map(|wish| match wish {
            Wish::Barrier(question) => Some(*question),
            _ => None,
        });
        if let Some(question) = question.filter(|_| rng.bool()) {
            redis.barrier(self.number, question);
        }
        if let Some(&tag) = self.marks.first()
            && rng.bool()
        {
            redis.mark_lossy(tag);
        }
    }

    pub fn answers(&self) -> usize {
        self.answers.len()
    }

    /// An answer arrives.
    pub fn take_answer(&mut self, at: usize) -> Answered {
        self.answers.swap_remove(at)
    }

    /// True exactly when nothing is under way.
    pub fn is_quiet(&self, redis: &Redis) -> bool {
        let waiting = self.undone() + self.answers.len() + self.inbox.len() + self.on_its_way(redis);
        self.dead || (waiting == 0 && self.held.is_none())
    }
}

fn topic_of(wish: &Wish) -> Option<&Topic> {
    match wish {
        Wish::Subscribe(topic) | Wish::Unsubscribe(topic) => Some(topic),
        _ => None,
    }
}

/// A read in one line.
pub fn what(read: &Read) -> String {
    match read {
        Read::After { topics, bytes_max } => {
            let mut topics: Vec<String> =
                topics.iter().map(|(topic, after)| format!("{topic} after {after}")).collect();
            topics.sort();
            format!("{}, {bytes_max} bytes", topics.join(", "))
        }
        Read::Tail { upto, events_max, bytes_max, .. } => format!("{events_max} up to {upto}, {bytes_max} bytes"),
        Read::Start { upto, count, .. } => format!("where the newest {count} up to {upto} begin"),
    }
}

/// Pages in one line.
struct Pages<'a>(&'a [Page]);

impl std::fmt::Display for Pages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut pages: Vec<&Page> = self.0.iter().collect();
        pages.sort_by_key(|page| &page.topic);
        for page in pages {
            write!(f, "[{}:", page.topic)?;
            for stored in page.events.iter().filter_map(|event| event.stored) {
                write!(f, " {} (after {})", stored.id, stored.prev)?;
            }
            write!(f, "; last {}{}] ", page.last, if page.more { ", more" } else { "" })?;
        }
        Ok(())
    }
}
