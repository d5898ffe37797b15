//! One seed's world: Redis, nodes, clients, and the steps that chance takes.

mod chance;
mod faults;
mod rest;

use std::collections::VecDeque;
use std::fmt;

use fanwheel::engine::history::Chain;
use fanwheel::engine::policy::Limits;
use fanwheel::engine::{CloseReason, Inbound, Ingested, Joining, Position, Wish};
use fanwheel::event::{EventId, Stamp, Tag};
use fanwheel::frame::WireForm;
use fanwheel::topic::Topic;

use super::Tally;
use super::law::Reader;
use super::redis::Redis;
use super::seat::{Entry, Manners, Seat, what};
use crate::simulation::decode::Item;
use crate::simulation::socket::{Arrival, Port, Socket, Sockets, Taste};

/// What may happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join,
    Return,
    Cut,
    Die,
    Publish,
    PublishLive,
    TooLarge,
    Foreign,
    Connect,
    Overrun,
    Do,
    CutCommands,
    Answer,
    Deliver,
    Take,
    Sweep,
    Writable,
    Tick,
    Redis,
    Tidy,
    Acknowledged,
    NodeDies,
}

/// Turns after which everything must have come to rest.
const PATIENCE: usize = 5_000;

/// A client: what it wants, what it saw, and the connection it has now.
struct Client {
    reader: Reader,
    /// Its socket, also when that was closed, until it comes back.
    socket: Option<usize>,
    seat: usize,
    /// What the kernel took and it has not read yet.
    flight: VecDeque<Arrival>,
    /// It reads only some of what is there.
    lags: bool,
    reads_before: u64,
}

pub struct World {
    rng: fastrand::Rng,
    weights: Vec<u32>,
    clients_max: usize,
    data_max: usize,
    tastes: [u32; 3],
    /// Time leaps once in so many ticks.
    leaps: u32,
    limits: Limits,
    manners: Manners,
    /// Milliseconds of Redis's clock between two steps, at most.
    pace_ms: u64,
    forget_ms: u64,
    redis: Redis,
    /// Shards of one node, at least and at most.
    shards: (usize, usize),
    nodes: usize,
    seats: Vec<Seat>,
    sockets: Sockets,
    clients: Vec<Client>,
    tally: Tally,
    trace: bool,
}

impl World {
    pub fn run(mut self) -> Tally {
        self.note(format_args!("{:?}, {:?}, {:?}", self.limits, self.redis.topics, self.manners));
        let steps = self.rng.usize(100..900);
        for _ in 0..steps {
            let step = self.choose();
            self.take_step(step);
            if self.rng.u32(0..300) == 0 {
                self.come_to_rest();
            }
        }
        self.come_to_rest();
        self.end();
        for client in &self.clients {
            self.tally.add_reader(&client.reader.tally);
        }
        self.tally
    }

    fn choose(&mut self) -> Step {
        let mut at = self.rng.u32(0..self.weights.iter().sum());
        for (&(step, _), &weight) in chance::STEPS.iter().zip(&self.weights) {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        unreachable!("the weights add up")
    }

    fn take_step(&mut self, step: Step) {
        self.redis.now_ms += self.rng.u64(0..=self.pace_ms);
        match step {
            Step::Join if self.clients.len() < self.clients_max => self.meet(),
            Step::Join | Step::Return => self.come_back(),
            Step::Cut => self.cut(),
            Step::Die => {
                if let Some(at) = self.any_client() {
                    let socket = self.clients[at].socket.expect("it is connected");
                    self.sockets.all[socket].dies = true;
                }
            }
            Step::Publish => self.publish(),
            Step::PublishLive => self.publish_live(),
            Step::TooLarge => self.publish_too_large(),
            Step::Foreign => self.publish_foreign(),
            Step::Connect => self.connect_or_cut(),
            Step::Overrun => {
                let seat = self.any_seat();
                self.tally.overruns += u64::from(self.seats[seat].overrun());
                self.note(format_args!("overrun of {seat}"));
            }
            Step::Do => self.do_one(),
            Step::CutCommands => self.cut_commands(),
            Step::Answer => self.answer(),
            Step::Deliver => {
                let (seat, count) = (self.any_seat(), self.rng.usize(1..8));
                self.seats[seat].deliver(&mut self.redis, count);
            }
            Step::Take => self.take_some(),
            Step::Sweep => {
                let (seat, sends) = (self.any_seat(), self.rng.usize(1..=20));
                self.sweep(seat, sends);
            }
            Step::Writable => self.make_writable(),
            Step::Tick => {
                // Now and then longer than a marker is waited for: what was asked comes after it was asked again.
                let ticks = if self.rng.u32(0..self.leaps) == 0 { self.rng.u32(20..30) } else { 1 };
                (0..ticks).for_each(|_| self.tick());
            }
            Step::Redis => self.befall_redis(),
            Step::Tidy => self.tidy(),
            Step::Acknowledged => self.mark_acknowledged(),
            Step::NodeDies => self.kill_node(),
        }
    }

    /// A client comes for the first time.
    fn meet(&mut self) {
        let count = self.rng.usize(1..=5.min(self.redis.topics.all.len()));
        let mut topics: Vec<usize> = (0..self.redis.topics.all.len()).collect();
        self.rng.shuffle(&mut topics);
        topics.truncate(count);
        let first = self.any_position();
        let names = topics.iter().map(|&topic| (topic, self.redis.topics.all[topic].as_str().to_owned())).collect();
        let reader = Reader::new(names, self.redis.topics.durable, first);
        let lags = self.rng.u32(0..3) == 0;
        self.clients.push(Client { reader, socket: None, seat: 0, flight: VecDeque::new(), lags, reads_before: 0 });
        self.join(self.clients.len() - 1);
    }

    fn any_position(&mut self) -> Position {
        match self.rng.u32(0..10) {
            0..=3 => Position::Now,
            4 => Position::Unknown,
            5 => Position::Earliest,
            6 => Position::Last(self.rng.u32(1..12)),
            _ => self.any_id().map_or(Position::Earliest, Position::After),
        }
    }

    /// An id as somebody may present it: of an event, or made up.
    fn any_id(&mut self) -> Option<EventId> {
        let stored: Vec<EventId> = self.redis.truth.events.iter().filter_map(|record| record.id).collect();
        let id = *stored.get(self.rng.usize(0..stored.len().max(1)))?;
        let tag = Tag::parse("zzzz").expect("four letters");
        Some(match self.rng.u32(0..12) {
            0 => EventId { tag, ..id },
            1 => EventId { stamp: Stamp::ZERO, ..id },
            2 => EventId { stamp: Stamp::MAX, ..id },
            3 => EventId { stamp: Stamp { n: id.stamp.n + 1, ..id.stamp }, ..id },
            4 => EventId { stamp: id.stamp.before(), ..id },
            _ => id,
        })
    }

    /// A client that has no connection comes back, anywhere.
    fn come_back(&mut self) {
        let away: Vec<usize> = (0..self.clients.len()).filter(|&at| !self.is_connected(at)).collect();
        if let Some(&at) = away.get(self.rng.usize(0..away.len().max(1))) {
            self.join(at);
        }
    }

    fn is_connected(&self, client: usize) -> bool {
        self.clients[client].socket.is_some_and(|socket| self.sockets.all[socket].is_open())
    }

    fn join(&mut self, at: usize) {
        // What was on its way when the last connection ended still comes, or some of it.
        if self.rng.bool() {
            self.read_flight(at, usize::MAX);
        }
        self.clients[at].flight.clear();
        let form = if self.rng.bool() { WireForm::SseChunked } else { WireForm::SsePlain };
        let number = self.sockets.all.len();
        let head = format!("HTTP/1.1 200 OK\r\nx: {number}\r\n\r\n").into_bytes();
        let total: u32 = self.tastes.iter().sum();
        let taste = match self.rng.u32(0..total) {
            n if n < self.tastes[0] => Taste::Parts(self.rng.u32(1..100)),
            n if n < self.tastes[0] + self.tastes[1] => Taste::Room(self.rng.usize(0..600)),
            _ => Taste::Everything,
        };
        self.sockets.all.push(Socket::new(form, &head, taste, self.sockets.tick));
        let seat = self.any_seat();
        let client = &mut self.clients[at];
        (client.socket, client.seat) = (Some(number), seat);
        client.reads_before = self.seats[seat].asked.reads;
        let names: Vec<Topic> =
            client.reader.names.iter().map(|&(topic, _)| self.redis.topics.all[topic].clone()).collect();
        let position = client.reader.position();
        self.begin(format_args!("client {at} joins {seat} as {number} at {position:?}: {names:?} {form:?} {taste:?}"));
        let known = self.seats[seat].known.unwrap_or(self.sockets.moment);
        self.clients[at].reader.connect(known);
        let joining = Joining { topics: &names, position, form, head: &head };
        self.seats[seat].shard.join(&mut self.sockets, Port(number), &joining);
        self.settle();
    }

    /// A client's connection is cut; it may not have read all that was taken.
    fn cut(&mut self) {
        let Some(at) = self.any_client() else { return };
        let socket = self.clients[at].socket.expect("it is connected");
        self.begin(format_args!("client {at} is cut"));
        let id = self.sockets.all[socket].id.expect("it was parked");
        let seat = &mut self.seats[self.clients[at].seat];
        seat.shard.handle_gone(&mut self.sockets, id, CloseReason::Gone);
        self.settle();
    }

    /// Takes one entry of an inbox, or what was given back before. False when there is none, or it
    /// was given back again.
    fn take(&mut self, seat: usize) -> bool {
        let Some(entry) = self.seats[seat].take() else { return false };
        self.begin(format_args!("{seat} takes {}", Brief(&entry)));
        let Seat { shard, held, known, .. } = &mut self.seats[seat];
        match entry {
            Entry::Gap => *held = (!shard.ingest_gap()).then_some(Entry::Gap),
            Entry::Say(message, said) => match shard.ingest(&mut self.sockets, message.clone()) {
                Ingested::Full(back) => *held = Some(Entry::Say(back, said)),
                Ingested::Done => {
                    if tells_of_history(&message) {
                        *known = Some(said);
                    }
                }
            },
        }
        let done = self.seats[seat].held.is_none();
        self.settle();
        done
    }

    fn take_some(&mut self) {
        let seat = self.any_seat();
        for _ in 0..self.rng.u32(1..12) {
            if !self.take(seat) {
                break;
            }
        }
        self.catch_up(seat);
    }

    /// What replays and repairs need each turn. True exactly when there is more.
    fn catch_up(&mut self, seat: usize) -> bool {
        self.begin(format_args!("{seat} catches up"));
        let more = self.seats[seat].shard.catch_up(&mut self.sockets);
        self.settle();
        more
    }

    /// True when more is to be swept.
    fn sweep(&mut self, seat: usize, sends: usize) -> bool {
        self.begin(format_args!("{seat} sweeps {sends}"));
        let more = self.seats[seat].shard.sweep(&mut self.sockets, sends);
        self.seats[seat].shard.note_written(0);
        self.settle();
        more
    }

    fn make_writable(&mut self) {
        let watched: Vec<usize> = (0..self.clients.len()).filter(|&at| self.is_watched(at)).collect();
        let Some(&at) = watched.get(self.rng.usize(0..watched.len().max(1))) else { return };
        let socket = self.clients[at].socket.expect("it is watched");
        if let Taste::Room(room) = &mut self.sockets.all[socket].taste {
            *room += match self.rng.u32(0..3) {
                0 => self.rng.usize(0..100),
                1 => self.rng.usize(0..6_000),
                _ => self.rng.usize(0..100_000),
            };
        }
        self.ask(at);
    }

    fn is_watched(&self, client: usize) -> bool {
        self.is_connected(client) && self.clients[client].socket.is_some_and(|socket| self.sockets.all[socket].watched)
    }

    fn ask(&mut self, at: usize) {
        let (socket, seat) = (self.clients[at].socket.expect("it is connected"), self.clients[at].seat);
        self.begin(format_args!("client {at} is writable"));
        self.sockets.all[socket].begin_asking();
        let id = self.sockets.all[socket].id.expect("it was parked");
        self.seats[seat].shard.handle_writable(&mut self.sockets, id);
        let tick = self.sockets.tick;
        self.sockets.all[socket].end_asking(tick);
        self.settle();
    }

    fn tick(&mut self) {
        self.sockets.tick += 1;
        let tick = self.sockets.tick;
        for seat in self.living() {
            self.begin(format_args!("tick {tick} of {seat}"));
            let shard = &mut self.seats[seat].shard;
            while shard.advance(&mut self.sockets, tick) {}
            assert!(shard.next_deadline().is_none_or(|deadline| deadline > tick), "what is due was done");
            self.settle();
        }
    }

    fn do_one(&mut self) {
        let seat = self.any_seat();
        let undone = self.seats[seat].undone();
        if undone > 0 {
            let at = self.rng.usize(0..undone);
            self.do_at(seat, at);
        }
    }

    fn do_at(&mut self, seat: usize, at: usize) {
        self.tell_the_time();
        let words = self.seats[seat].do_one(at, &mut self.redis, &mut self.rng, self.manners);
        self.note(format_args!("{seat}: {words}"));
    }

    fn answer(&mut self) {
        let seat = self.any_seat();
        let answers = self.seats[seat].answers();
        if answers > 0 {
            let at = self.rng.usize(0..answers);
            self.answer_at(seat, at);
        }
    }

    fn answer_at(&mut self, seat: usize, at: usize) {
        let answered = self.seats[seat].take_answer(at);
        self.begin(format_args!("{seat} is answered {}", answered.number));
        self.seats[seat].shard.handle_answer(answered);
        self.settle();
    }

    fn living(&self) -> Vec<usize> {
        (0..self.seats.len()).filter(|&seat| !self.seats[seat].dead).collect()
    }

    fn any_seat(&mut self) -> usize {
        let living = self.living();
        living[self.rng.usize(0..living.len())]
    }

    /// A client that is connected.
    fn any_client(&mut self) -> Option<usize> {
        let connected: Vec<usize> = (0..self.clients.len()).filter(|&at| self.is_connected(at)).collect();
        connected.get(self.rng.usize(0..connected.len().max(1))).copied()
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        if self.trace {
            eprintln!("{:5} {what}", self.sockets.moment);
        }
    }

    /// Something begins: a new moment.
    fn begin(&mut self, what: fmt::Arguments<'_>) {
        self.tell_the_time();
        self.note(what);
    }

    fn tell_the_time(&mut self) {
        self.sockets.moment += 1;
        self.redis.moment = self.sockets.moment;
    }

    /// A call of an engine has ended: clients read, wishes are passed on, and all is compared.
    fn settle(&mut self) {
        for at in 0..self.clients.len() {
            let Some(number) = self.clients[at].socket else { continue };
            let socket = &mut self.sockets.all[number];
            self.clients[at].flight.extend(socket.arrived.drain(..));
            socket.check_at_rest();
            if self.trace && socket.closed.is_some() && !self.clients[at].flight.is_empty() {
                eprintln!("        {at} closed: {:?}", socket.closed);
            }
            let count = if self.clients[at].lags { self.rng.usize(0..4) } else { usize::MAX };
            if self.is_connected(at) {
                self.read_flight(at, count);
            }
        }
        self.check_gauges();
        for seat in self.living() {
            for wish in self.seats[seat].take_wishes() {
                match &wish {
                    Wish::Read(number, read) => self.note(format_args!("    {seat} reads {number}: {}", what(read))),
                    wish => self.note(format_args!("    {seat} wishes {wish:?}")),
                }
                self.seats[seat].hear(wish);
            }
        }
    }

    /// A client reads so many of the things that have arrived.
    fn read_flight(&mut self, at: usize, count: usize) {
        for _ in 0..count.min(self.clients[at].flight.len()) {
            let arrival = self.clients[at].flight.pop_front().expect("just counted");
            if self.trace {
                eprintln!("        {at} <- {} said {}", Short(&arrival.item), arrival.said);
            }
            let client = &mut self.clients[at];
            let resumed = client.reader.tally.resumed;
            let seen = client.reader.see(&arrival.item, arrival.said, &self.redis.truth);
            if client.reader.tally.resumed > resumed && self.seats[client.seat].asked.reads == client.reads_before {
                self.tally.from_log += 1;
            }
            seen.unwrap_or_else(|why| panic!("client {at} at moment {}: {why}", self.sockets.moment));
        }
    }
}

fn tells_of_history(message: &Inbound) -> bool {
    match message {
        Inbound::Event(event) => event.stored.is_some(),
        Inbound::Marker(..) | Inbound::Chain(_) => true,
        _ => false,
    }
}

/// An entry in one line.
struct Brief<'a>(&'a Entry);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Entry::Say(Inbound::Event(event), _) => match event.stored {
                Some(stored) => write!(f, "event {} (after {}) on {}", stored.id, stored.prev, event.topic),
                None => write!(f, "a live event on {}", event.topic),
            },
            Entry::Say(Inbound::Marker(question, marker), _) => {
                write!(f, "marker {question} {}-{}", marker.last, Chained(&marker.chain))
            }
            Entry::Say(Inbound::Chain(chain), _) => write!(f, "chain {}", Chained(chain)),
            Entry::Say(message, _) => write!(f, "{message:?}"),
            Entry::Gap => write!(f, "a gap"),
        }
    }
}

/// Incarnations in one line.
struct Chained<'a>(&'a Chain);

impl fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.tag)?;
        for fence in self.0.fences.iter().rev() {
            write!(f, " <- {}-{}{}", fence.last, fence.tag, if fence.lossy { " lossy" } else { "" })?;
        }
        Ok(())
    }
}

/// An item in one line.
struct Short<'a>(&'a Item);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Item::Block(block) => {
                let data: String = block.data.chars().take(70).collect();
                write!(f, "{} {data:?} id {:?}", block.name, block.id)
            }
            other => write!(f, "{other:?}"),
        }
    }
}
