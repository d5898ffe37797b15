//! A source that is late, leaves and comes back, refuses, and overruns the shard's inbox.
//!
//! What it says stands in an inbox in order. What it could not say stands there too, as a marker
//! that only the model sees: so the model knows what was missed, and where.

use std::collections::{BTreeSet, VecDeque};

use fanwheel::engine::{Inbound, Wish};
use fanwheel::topic::Topic;

/// An entry of the inbox.
#[derive(Debug)]
pub enum Entry {
    /// A message, and the number of the publish it stands for.
    Say(Inbound, Option<usize>),
    /// A publish the shard never hears of.
    Miss(usize),
    /// A gap mark, and the publishes that were dropped while it stood in the inbox.
    Gap(Vec<usize>),
}

#[derive(Debug)]
pub struct Source {
    /// Every publish comes without being asked for, and wishes take effect at once.
    pub embedded: bool,
    pub connected: bool,
    /// Counts connections.
    generation: u32,
    /// The connection that wishes are meant for.
    renewed: u32,
    subscribed: BTreeSet<Topic>,
    pub refused: BTreeSet<Topic>,
    /// Wishes not answered yet.
    pub wishes: VecDeque<Wish>,
    pub inbox: VecDeque<Entry>,
    /// True exactly while a gap mark is in the inbox.
    overrun: bool,
}

impl Source {
    pub fn new(embedded: bool) -> Source {
        Source {
            embedded,
            connected: false,
            generation: 0,
            renewed: 0,
            subscribed: BTreeSet::new(),
            refused: BTreeSet::new(),
            wishes: VecDeque::new(),
            inbox: VecDeque::new(),
            overrun: false,
        }
    }

    /// Says `message`, which is about `topic` and stands for publish `number`, if anybody hears it.
    pub fn publish(&mut self, topic: &Topic, message: Inbound, number: usize) {
        let heard = self.connected && (self.embedded || self.subscribed.contains(topic));
        let mark = self.inbox.iter_mut().rev().find_map(|entry| match entry {
            Entry::Gap(dropped) if self.overrun => Some(dropped),
            _ => None,
        });
        match mark {
            Some(dropped) => dropped.push(number),
            None if heard => self.inbox.push_back(Entry::Say(message, Some(number))),
            None => self.inbox.push_back(Entry::Miss(number)),
        }
    }

    /// The inbox is full: from here on everything is dropped until the mark was taken.
    pub fn overrun(&mut self) {
        if self.connected && !self.overrun {
            self.overrun = true;
            self.inbox.push_back(Entry::Gap(Vec::new()));
        }
    }

    /// Comes, or goes. That is said even to a full inbox.
    pub fn set_connected(&mut self, connected: bool) {
        self.connected = connected;
        self.subscribed.clear();
        self.wishes.clear();
        self.generation += u32::from(connected);
        let message = if connected { Inbound::Connected(self.generation) } else { Inbound::Disconnected };
        self.inbox.push_back(Entry::Say(message, None));
    }

    /// Hears a wish. One that is meant for an earlier connection, or comes while it is away, is lost.
    pub fn hear(&mut self, wish: Wish) {
        match wish {
            Wish::Renew(generation) => {
                self.wishes.clear();
                self.renewed = generation;
            }
            _ if self.connected && self.renewed == self.generation => self.wishes.push_back(wish),
            _ => {}
        }
    }

    /// Answers the oldest wish about the topic of wish `at`: topics in any order, each in its own.
    pub fn answer(&mut self, at: usize) {
        let topic = topic_of(&self.wishes[at]).clone();
        let at = self.wishes.iter().position(|wish| *topic_of(wish) == topic).expect("at least this one");
        let answer = match self.wishes.remove(at).expect("just found") {
            Wish::Subscribe(topic) if self.refused.contains(&topic) => {
                // A refusal is said even to a full inbox.
                self.inbox.push_back(Entry::Say(Inbound::Refused(topic), None));
                return;
            }
            Wish::Subscribe(topic) => {
                self.subscribed.insert(topic.clone());
                Inbound::Subscribed(topic)
            }
            Wish::Unsubscribe(topic) => {
                self.subscribed.remove(&topic);
                Inbound::Unsubscribed(topic)
            }
            other => unreachable!("{other:?} is not queued"),
        };
        if !self.overrun {
            self.inbox.push_back(Entry::Say(answer, None));
        }
    }

    /// Takes the oldest entry.
    pub fn take(&mut self) -> Option<Entry> {
        let entry = self.inbox.pop_front();
        if let Some(Entry::Gap(_)) = &entry {
            self.overrun = false;
        }
        entry
    }
}

fn topic_of(wish: &Wish) -> &Topic {
    match wish {
        Wish::Subscribe(topic) | Wish::Unsubscribe(topic) => topic,
        other => unreachable!("{other:?} is not queued"),
    }
}
