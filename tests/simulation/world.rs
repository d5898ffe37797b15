//! One seed's world: a shard, its sockets, its source, and the steps that chance takes.

mod chance;
mod law;
mod rest;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fanwheel::engine::policy::Limits;
use fanwheel::engine::{CloseReason, ConnId, Inbound, Ingested, Joining, Position, Shard, Wish};
use fanwheel::event::{Event, EventName};
use fanwheel::frame::{FRAME_OVERHEAD, WireForm, sse};
use fanwheel::topic::Topic;

use super::model::{Fate, Gap, History, Published, Reader, Rules};
use super::socket::{Port, Socket, Sockets, Taste};
use super::source::{Entry, Source};
use chance::STEPS;

/// What may happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join,
    Leave,
    Die,
    Publish,
    TooLarge,
    Connect,
    Overrun,
    Refuse,
    Answer,
    Take,
    Sweep,
    Writable,
    Tick,
    Stale,
}

/// Sweeps after which an event that waits for room must have found some.
const PATIENCE: usize = 20_000;

pub struct World {
    rng: fastrand::Rng,
    weights: Vec<u32>,
    conns_max: usize,
    /// One event in so many is larger than a whole batch, if any is.
    large_one_in: Option<u32>,
    data_max: usize,
    tastes: [u32; 3],
    limits: Limits,
    rules: Rules,
    names: Vec<String>,
    topics: Vec<Topic>,
    shard: Shard<Port>,
    sockets: Sockets,
    /// By socket.
    readers: Vec<Reader>,
    /// By socket: the tick in which it joined.
    joined: Vec<u32>,
    /// Sockets not closed yet.
    open: Vec<usize>,
    history: History,
    source: Source,
    /// An entry the shard gave back.
    held: Option<Entry>,
    /// By topic: confirmed by the source, as far as the shard was told.
    confirmed: Vec<bool>,
    /// By topic: when the shard was last told that it is refused.
    refused: Vec<u64>,
    /// When the shard was last told that the source has left.
    disconnected: u64,
    /// The socket the driver itself gives up, or all.
    leaving: Leaving,
    /// Sockets closed since the run queue was empty.
    closed: usize,
    /// Events the shard has put into logs.
    wanted: u64,
    /// Bytes in use when the last of them was.
    budget: usize,
    trace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Nobody,
    One(usize),
    /// As [`Shard::begin_drain`] asks them to.
    Politely,
    Everybody,
}

/// How often the engine did what a simulation is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub resets: [u64; 3],
    pub closed: [u64; CloseReason::ALL.len()],
    pub blocked: u64,
    pub log_full: u64,
    pub evictions: u64,
    pub heartbeats: u64,
}

impl Tally {
    /// Adds what another run has done.
    pub fn add(&mut self, other: &Tally) {
        self.resets.iter_mut().zip(other.resets).for_each(|(mine, theirs)| *mine += theirs);
        self.closed.iter_mut().zip(other.closed).for_each(|(mine, theirs)| *mine += theirs);
        self.blocked += other.blocked;
        self.log_full += other.log_full;
        self.evictions += other.evictions;
        self.heartbeats += other.heartbeats;
    }

    /// True exactly when everything has happened.
    pub fn is_complete(&self) -> bool {
        let rest = [self.blocked, self.log_full, self.evictions, self.heartbeats];
        let closed = CloseReason::ALL.iter().zip(&self.closed).filter(|(reason, _)| **reason != CloseReason::Lost);
        let closed = closed.map(|(_, times)| times);
        self.resets.iter().chain(closed).chain(&rest).all(|&times| times > 0)
    }
}

impl World {
    pub fn run(mut self) -> Tally {
        self.note(format_args!("{:?}, topics {:?}", self.limits, self.names));
        self.source.set_connected(true);
        let steps = self.rng.usize(100..900);
        for _ in 0..steps {
            let step = self.choose();
            self.take_step(step);
            if self.rng.u32(0..400) == 0 {
                self.come_to_rest();
            }
        }
        self.come_to_rest();
        self.end();
        let done = self.shard.counters();
        Tally {
            // Of topics without a history.
            resets: [done.resets[0], done.resets[1], done.resets[2]],
            closed: done.closed,
            blocked: done.blocked,
            log_full: done.log_full,
            evictions: done.evictions,
            heartbeats: done.heartbeats,
        }
    }

    fn choose(&mut self) -> Step {
        let mut at = self.rng.u32(0..self.weights.iter().sum());
        for (&(step, _), &weight) in STEPS.iter().zip(&self.weights) {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        unreachable!("the weights add up")
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Join if self.open.len() < self.conns_max => self.join(),
            Step::Join => {}
            Step::Leave => {
                if let Some(at) = self.any_open() {
                    self.leave(at);
                }
            }
            Step::Die => {
                if let Some(at) = self.any_open() {
                    self.sockets.all[at].dies = true;
                }
            }
            Step::Publish => self.publish(false),
            Step::TooLarge => self.publish(true),
            Step::Connect => {
                let connected = !self.source.connected;
                self.note(format_args!("source connected: {connected}"));
                self.source.set_connected(connected);
            }
            Step::Overrun => self.source.overrun(),
            Step::Refuse => {
                let topic = self.topics[self.rng.usize(0..self.topics.len())].clone();
                if !self.source.refused.remove(&topic) && self.rng.bool() {
                    self.source.refused.insert(topic);
                }
            }
            Step::Answer if !self.source.wishes.is_empty() => {
                let at = self.rng.usize(0..self.source.wishes.len());
                self.source.answer(at);
            }
            Step::Answer => {}
            Step::Take => {
                for _ in 0..self.rng.u32(1..12) {
                    if !self.take() {
                        break;
                    }
                }
            }
            Step::Sweep => {
                let sends = self.rng.usize(1..=20);
                self.sweep(sends);
            }
            Step::Writable => self.make_writable(),
            Step::Tick => self.tick(),
            Step::Stale => self.call_a_stale_id(),
        }
    }

    fn join(&mut self) {
        let count = self.rng.usize(1..=5.min(self.topics.len()));
        let count = if self.rng.bool() { 1 } else { count };
        let mut topics: Vec<usize> = (0..self.topics.len()).collect();
        self.rng.shuffle(&mut topics);
        topics.truncate(count);
        let form = [WireForm::SseChunked, WireForm::SsePlain, WireForm::WsJson][self.rng.usize(0..3)];
        let mut head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", self.sockets.all.len()).into_bytes();
        if self.rng.bool() {
            head.extend_from_slice(sse::heartbeat(form));
        }
        let total: u32 = self.tastes.iter().sum();
        let taste = match self.rng.u32(0..total) {
            n if n < self.tastes[0] => Taste::Parts(self.rng.u32(1..100)),
            n if n < self.tastes[0] + self.tastes[1] => Taste::Room(self.rng.usize(0..600)),
            _ => Taste::Everything,
        };
        let mut socket = Socket::new(form, &head, taste, self.sockets.tick);
        socket.unparkable = self.rng.u32(0..60) == 0;
        socket.dies = self.rng.u32(0..60) == 0;
        let (dies, unparkable) = (socket.dies, socket.unparkable);
        let at = self.sockets.all.len();
        self.sockets.all.push(socket);
        self.joined.push(self.sockets.tick);
        self.open.push(at);
        let names: Vec<Topic> = topics.iter().map(|&topic| self.topics[topic].clone()).collect();
        self.begin(format_args!("join {at}: {topics:?} {form:?} {taste:?}"));
        self.readers.push(Reader::new(topics, self.sockets.moment));
        let joining = Joining { topics: &names, position: Position::Now, form, head: &head };
        let id = self.shard.join(&mut self.sockets, Port(at), &joining);
        let socket = &self.sockets.all[at];
        assert_eq!(id.is_some(), socket.is_open());
        assert!(id.is_none() || id == socket.id);
        let away = self.readers[at].goodbye.is_some() || socket.id.is_none();
        assert!(id.is_some() || dies || unparkable || away || socket.is_dead(), "sent away for nothing");
        self.settle();
    }

    fn leave(&mut self, at: usize) {
        let reason = if self.rng.bool() { CloseReason::Gone } else { CloseReason::Protocol };
        self.begin(format_args!("leave {at}"));
        self.leaving = Leaving::One(at);
        let id = self.sockets.all[at].id.unwrap();
        self.shard.handle_gone(&mut self.sockets, id, reason);
        assert_eq!(self.sockets.all[at].closed, Some(reason));
        self.settle();
        self.leaving = Leaving::Nobody;
    }

    fn publish(&mut self, too_large: bool) {
        let number = self.history.published.len();
        let topic = self.rng.usize(0..self.topics.len());
        let text = match self.rng.u32(0..8) {
            0 => String::new(),
            _ if self.large_one_in.is_some_and(|one_in| self.rng.u32(0..one_in) == 0) => {
                let size = self.rng.usize(60 << 10..90 << 10);
                format!("#{number} {}", "x".repeat(size))
            }
            kind => {
                let letters =
                    if kind < 4 { &["x"][..] } else { &["\n", "\r", "\r\n", " ", ":", "é", "data: ", "x"][..] };
                let size = self.rng.usize(0..self.data_max);
                let mut text = format!("#{number} ");
                while text.len() < size {
                    text.push_str(letters[self.rng.usize(0..letters.len())]);
                }
                text
            }
        };
        let name = if text.is_empty() || self.rng.u32(0..4) == 0 { format!("e#{number}") } else { String::new() };
        let event = Event {
            topic: self.topics[topic].clone(),
            name: EventName::parse(&name).unwrap(),
            key: None,
            data: Bytes::from(text.clone()),
            stored: None,
            received_us: 0,
        };
        // Header, names of fields, `null` twice or a name, what is escaped.
        let as_message = 64 + self.names[topic].len() + name.len() + 2 * text.len();
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut body = 1 + if name.is_empty() { 0 } else { "event: \n".len() + name.len() };
        body +=
            text.split('\n').map(|line| "data:\n".len() + usize::from(!line.is_empty()) + line.len()).sum::<usize>();
        self.history.published.push(Published {
            topic,
            name: if name.is_empty() { "message".into() } else { name },
            text,
            encoded: body + format!("{body:x}").len() + 4 + as_message,
            fate: Fate::Missed,
            taken: 0,
            logged: false,
        });
        let named = self.topics[topic].clone();
        let message = if too_large { Inbound::TooLarge(named.clone()) } else { Inbound::Event(Arc::new(event)) };
        self.note(format_args!("publish {number} on {topic}, too large: {too_large}"));
        self.source.publish(&named, message, number);
    }

    /// Takes one entry of the inbox, or what was given back before. False when there is none, or it
    /// was given back again.
    fn take(&mut self) -> bool {
        let Some(entry) = self.held.take().or_else(|| self.source.take()) else { return false };
        self.begin(format_args!("take {}", Brief(&entry)));
        let now = self.sockets.moment;
        self.held = match entry {
            Entry::Miss(number) => {
                self.history.take(number, Fate::Missed, now);
                None
            }
            Entry::Gap(dropped) => {
                if self.shard.ingest_gap() {
                    dropped.iter().for_each(|&number| self.history.take(number, Fate::Missed, now));
                    self.note_gap(None);
                    None
                } else {
                    Some(Entry::Gap(dropped))
                }
            }
            Entry::Say(message, number) => match self.shard.ingest(&mut self.sockets, message.clone()) {
                Ingested::Full(back) => {
                    assert_eq!(format!("{back:?}"), format!("{message:?}"), "what is given back is what was given");
                    Some(Entry::Say(back, number))
                }
                Ingested::Done => {
                    self.note_said(&message, number);
                    None
                }
            },
        };
        let done = self.held.is_none();
        self.settle();
        done
    }

    fn note_gap(&mut self, topic: Option<usize>) {
        self.history.gaps.push(Gap { at: self.sockets.moment, position: self.history.taken, topic });
    }

    fn note_said(&mut self, message: &Inbound, number: Option<usize>) {
        let now = self.sockets.moment;
        match message {
            Inbound::Event(event) => {
                let number = number.expect("it was published");
                self.history.take(number, Fate::Taken, now);
                let wanted = self.shard.counters().events;
                if std::mem::replace(&mut self.wanted, wanted) < wanted {
                    self.history.published[number].logged = true;
                    let charge = FRAME_OVERHEAD + event.weight();
                    let used = self.shard.gauges().log_bytes;
                    assert!(used <= self.limits.log_bytes_max.max(charge), "{used} bytes after an event of {charge}");
                    self.budget = used;
                }
            }
            Inbound::TooLarge(_) => self.history.take(number.expect("it was published"), Fate::TooLarge, now),
            Inbound::Connected(_) | Inbound::Marker(..) | Inbound::Chain(_) => {}
            Inbound::Disconnected => {
                self.confirmed.fill(false);
                self.disconnected = now;
                self.note_gap(None);
            }
            Inbound::Subscribed(topic) => self.confirm(topic, true),
            Inbound::Unsubscribed(topic) => {
                self.confirm(topic, false);
                self.note_gap(Some(self.number_of(topic)));
            }
            Inbound::Refused(topic) => {
                let at = self.number_of(topic);
                self.confirmed[at] = false;
                self.refused[at] = now;
            }
        }
    }

    fn confirm(&mut self, topic: &Topic, is_there: bool) {
        let at = self.number_of(topic);
        self.confirmed[at] = is_there;
    }

    fn number_of(&self, topic: &Topic) -> usize {
        self.topics.iter().position(|other| other == topic).unwrap()
    }

    /// True when more is to be swept.
    fn sweep(&mut self, sends: usize) -> bool {
        self.begin(format_args!("sweep {sends}"));
        let more = self.shard.sweep(&mut self.sockets, sends);
        self.shard.note_written(0);
        self.settle();
        if !more {
            self.check_ready_readers();
        }
        more
    }

    fn make_writable(&mut self) {
        let watched: Vec<usize> = self.open.iter().copied().filter(|&at| self.sockets.all[at].watched).collect();
        if watched.is_empty() {
            return;
        }
        let at = watched[self.rng.usize(0..watched.len())];
        if let Taste::Room(room) = &mut self.sockets.all[at].taste {
            *room += match self.rng.u32(0..4) {
                0 => self.rng.usize(0..8),
                1 => self.rng.usize(0..100),
                2 => self.rng.usize(0..6_000),
                _ => self.rng.usize(0..100_000),
            };
        }
        self.ask(at);
    }

    fn ask(&mut self, at: usize) {
        self.begin(format_args!("writable {at}"));
        self.sockets.all[at].begin_asking();
        let id = self.sockets.all[at].id.unwrap();
        self.shard.handle_writable(&mut self.sockets, id);
        let tick = self.sockets.tick;
        self.sockets.all[at].end_asking(tick);
        self.settle();
    }

    /// Ids of connections that are gone, and of such as are not blocked, mean nothing.
    fn call_a_stale_id(&mut self) {
        if self.sockets.all.is_empty() {
            return;
        }
        let at = self.rng.usize(0..self.sockets.all.len());
        let Some(id) = self.sockets.all[at].id else { return };
        self.begin(format_args!("stale call of {at}"));
        if !self.sockets.all[at].watched || !self.sockets.all[at].is_open() {
            self.shard.handle_writable(&mut self.sockets, id);
        }
        if !self.sockets.all[at].is_open() {
            self.shard.handle_gone(&mut self.sockets, id, CloseReason::Gone);
        }
        self.shard.handle_gone(&mut self.sockets, ConnId { slot: 1 << 20, generation: 0 }, CloseReason::Gone);
        self.settle();
    }

    fn tick(&mut self) {
        self.sockets.tick += 1;
        let tick = self.sockets.tick;
        self.begin(format_args!("tick {tick}"));
        while self.shard.advance(&mut self.sockets, tick) {}
        self.settle();
        for &at in &self.open {
            self.check_deadlines(at);
        }
        assert!(self.shard.next_deadline().is_none_or(|deadline| deadline > tick), "what is due was done");
    }

    fn any_open(&mut self) -> Option<usize> {
        (!self.open.is_empty()).then(|| self.open[self.rng.usize(0..self.open.len())])
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        if self.trace {
            eprintln!("{:5} {what}", self.sockets.moment);
        }
    }

    /// A call of the engine begins.
    fn begin(&mut self, what: fmt::Arguments<'_>) {
        self.sockets.moment += 1;
        self.note(what);
    }

    /// A call of the engine has ended: readers read, wishes are passed on, and all is compared.
    fn settle(&mut self) {
        for at in self.open.clone() {
            let arrived = std::mem::take(&mut self.sockets.all[at].arrived);
            for arrival in &arrived {
                if self.trace {
                    eprintln!("        {at} <- {:?} said {}", Short(&arrival.item), arrival.said);
                }
                let socket = &self.sockets.all[at];
                self.readers[at].see(arrival, &self.history, &self.names, socket, self.rules);
            }
            let socket = &self.sockets.all[at];
            socket.check_at_rest();
            if let Some(reason) = socket.closed {
                self.closed += 1;
                if self.trace {
                    eprintln!("        {at} closed: {reason:?}");
                }
                self.check_close(at, reason);
            }
        }
        self.open.retain(|&at| self.sockets.all[at].is_open());
        self.check_gauges();
        self.pass_wishes();
    }

    fn pass_wishes(&mut self) {
        for wish in self.shard.take_wishes() {
            self.note(format_args!("wish {wish:?}"));
            if !self.source.embedded {
                self.source.hear(wish);
                continue;
            }
            self.begin(format_args!("granted"));
            match wish {
                Wish::Renew(_) | Wish::Barrier(_) | Wish::Read(..) | Wish::MarkLossy(_) => {}
                Wish::Subscribe(topic) => {
                    self.shard.handle_subscribed(&topic);
                    self.confirm(&topic, true);
                }
                Wish::Unsubscribe(topic) => {
                    self.shard.handle_unsubscribed(&topic);
                    self.confirm(&topic, false);
                }
            }
        }
    }
}

/// An entry in one line.
struct Brief<'a>(&'a Entry);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Entry::Say(Inbound::Event(event), number) => write!(f, "event {number:?} on {}", event.topic),
            other => write!(f, "{other:?}"),
        }
    }
}

/// An item in one line.
struct Short<'a>(&'a super::decode::Item);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            super::decode::Item::Block(block) => {
                let data: String = block.data.chars().take(60).collect();
                write!(f, "{} {data:?}", block.name)
            }
            other => write!(f, "{other:?}"),
        }
    }
}
