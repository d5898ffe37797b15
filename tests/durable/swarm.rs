//! Very many readers in one thread, each with the memory of a browser: the last id it was given.
//!
//! A reader connects, reads, loses its connection (because the test cuts it, or the server does), waits a moment and
//! comes back to any node, presenting that id; an incomplete block moves nothing. What each is told goes into the
//! history log, from which the checker judges.
//!
//! Nothing waits here: [`Swarm::turn`] does what is ready and comes back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use checker::history::{End, Id, Log, Open, Position, Reader, Reason, Reset, Stamp, Topic};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockRef, Socket, Type};

use super::decode::{Block, Decoder};

/// How long a reader waits before it comes back, drawn from this. A browser waits longer, which tests nothing more.
const PAUSE_MS: std::ops::Range<u64> = 0..60;
/// How long a connection may take until its first block: what a server gives itself, and a little.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// How long a connection that was left half open stays so.
const HALF_OPEN_FOR: Duration = Duration::from_secs(3);
/// How long a connection that was ended in order is kept, so that its end is not overtaken by a reset.
const FIN_BEFORE_CLOSE: Duration = Duration::from_millis(200);
/// Every so many readers one has a narrow window, so that not reading is soon felt.
const NARROW_EACH: usize = 3;
/// That window, in bytes.
const NARROW: usize = 4 << 10;
/// The segments such a reader takes, in bytes: the smallest that everybody must take (RFC 9293, section 3.7.1). With
/// loopback's of 64 KiB its window is now and then less than half of what it was, and then the sender waits for a timer
/// before each piece (RFC 9293, section 3.8.6.2.1): 2 KiB in 200 ms, less than what it follows.
const NARROW_SEGMENT: u32 = 536;
/// What is read at once.
const PIECE: usize = 64 << 10;

/// The addresses of all nodes, `None` while one is away. Shared because publishers, readers and the test that kills
/// nodes are on different threads.
pub type Nodes = Arc<Mutex<Vec<Option<SocketAddr>>>>;

/// How a reader leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Reset,
    /// It is gone, and nobody says so.
    HalfOpen,
}

/// See the module.
pub struct Swarm {
    pub log: Log,
    nodes: Nodes,
    poll: Poll,
    ready: Events,
    people: Vec<Person>,
    /// Who does something next, and when.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    half_open: Vec<(Instant, TcpStream)>,
    rng: fastrand::Rng,
    piece: Vec<u8>,
    pub counts: Counts,
}

/// What happened, for conditions.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub events: u64,
    pub opened: u64,
    pub cuts: u64,
    pub resets: u64,
    /// How long after it was stored an event came, at most, to readers whose window is as wide as the kernel gives (over a
    /// narrow one the sender may wait for its timers), since somebody set this to zero.
    pub worst_delay_ms: u64,
}

struct Person {
    reader: Reader,
    topics: Arc<[Topic]>,
    query: String,
    /// With what it came first.
    first: Position,
    last: Option<String>,
    socket: Option<TcpStream>,
    request: Vec<u8>,
    decoder: Decoder,
    asked: Instant,
    opened: bool,
    /// The connection is cut when so many more bytes have been read.
    cut: Option<(usize, Cut)>,
    /// It reads nothing until then.
    nap: Option<Instant>,
    /// True exactly when it does not come back before it is told to.
    away: bool,
    resets: u64,
}

/// Milliseconds since 1970: the clock that ids carry.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// What is hashed of an event: name and data.
pub fn hash(name: &str, data: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (name, data).hash(&mut hasher);
    hasher.finish()
}

impl Swarm {
    pub fn new(topics: &[String], nodes: Nodes, seed: u64) -> Swarm {
        Swarm {
            log: Log::new(topics),
            nodes,
            poll: Poll::new().unwrap(),
            ready: Events::with_capacity(1_024),
            people: Vec::new(),
            due: BinaryHeap::new(),
            half_open: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            piece: vec![0; PIECE],
            counts: Counts::default(),
        }
    }

    /// A reader more, which connects at once.
    pub fn add(&mut self, names: &[String], first: Position) -> usize {
        let mut topics: Vec<Topic> = names.iter().map(|name| self.log.topic(name).expect("a topic")).collect();
        topics.sort_unstable();
        let query = names.iter().map(|name| format!("topic={name}")).collect::<Vec<_>>().join("&");
        self.people.push(Person {
            reader: self.log.add_reader(),
            topics: topics.into(),
            query,
            first,
            last: None,
            socket: None,
            request: Vec::new(),
            decoder: Decoder::default(),
            asked: Instant::now(),
            opened: false,
            cut: None,
            nap: None,
            away: false,
            resets: 0,
        });
        let number = self.people.len() - 1;
        self.due.push(Reverse((Instant::now(), number)));
        number
    }

    pub fn len(&self) -> usize {
        self.people.len()
    }

    /// Readers whose stream is open.
    pub fn open(&self) -> usize {
        self.people.iter().filter(|person| person.opened).count()
    }

    /// Readers that have been given an id at or behind each of these, as far as it is of a topic of theirs.
    pub fn has_reached(&self, ends: &[(Topic, Stamp)]) -> usize {
        let reached = |person: &&Person| {
            let last = person.last.as_deref().and_then(Id::parse).map(|id| id.stamp);
            let of_its_own = ends.iter().filter(|(topic, _)| person.topics.contains(topic));
            person.opened && of_its_own.map(|&(_, stamp)| stamp).max().is_none_or(|end| last >= Some(end))
        };
        self.people.iter().filter(reached).count()
    }

    /// True exactly when somebody is not about to be cut.
    pub fn may_cut(&self) -> bool {
        self.people.iter().any(|person| person.cut.is_none())
    }

    /// Cuts a connection when it has read so many bytes more: this reader's, or that of the next that has no cut ahead.
    pub fn cut_after(&mut self, number: usize, bytes: usize, cut: Cut) {
        let numbers = (number..self.people.len()).chain(0..number);
        let free = numbers.into_iter().find(|&number| self.people[number].cut.is_none());
        self.people[free.unwrap_or(number)].cut = Some((bytes, cut));
    }

    /// A reader stops reading for a while. What is on its way fills its narrow window, and then the server's.
    pub fn nap(&mut self, number: usize, time: Duration) {
        let until = Instant::now() + time;
        self.people[number / NARROW_EACH * NARROW_EACH].nap = Some(until);
        self.due.push(Reverse((until, number / NARROW_EACH * NARROW_EACH)));
    }

    /// A reader leaves for a while.
    pub fn rest(&mut self, number: usize, time: Duration) {
        self.end(number, End::Left);
        self.due.push(Reverse((Instant::now() + time, number)));
    }

    /// Resets that a reader was told.
    pub fn resets_of(&self, number: usize) -> u64 {
        self.people[number].resets
    }

    /// A reader leaves and stays away.
    pub fn leave(&mut self, number: usize) {
        self.people[number].away = true;
        self.end(number, End::Left);
    }

    /// A reader that left comes back.
    pub fn come_back(&mut self, number: usize) {
        self.people[number].away = false;
        self.due.push(Reverse((Instant::now(), number)));
    }

    pub fn handle_dry(&mut self) {
        self.people.iter().for_each(|person| self.log.handle_dry(person.reader));
    }

    /// Does what is ready, waiting for it no longer than this.
    pub fn turn(&mut self, wait: Duration) {
        let now = Instant::now();
        let next = self.due.peek().map_or(wait, |Reverse((at, _))| at.saturating_duration_since(now).min(wait));
        match self.poll.poll(&mut self.ready, Some(next)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            result => result.unwrap(),
        }
        let ready: Vec<usize> = self.ready.iter().map(|event| event.token().0).collect();
        ready.into_iter().for_each(|number| self.handle_ready(number));
        let now = Instant::now();
        while let Some(&Reverse((at, number))) = self.due.peek().filter(|Reverse((at, _))| *at <= now) {
            let _ = (self.due.pop(), at);
            self.handle_due(number, now);
        }
        self.half_open.retain(|&(until, _)| until > now);
    }

    fn handle_due(&mut self, number: usize, now: Instant) {
        let person = &mut self.people[number];
        if person.nap.is_some_and(|until| until <= now) {
            person.nap = None;
            return self.handle_ready(number);
        }
        if person.socket.is_none() && !person.away {
            self.connect(number);
        } else if person.socket.is_some() && !person.opened && now >= person.asked + OPEN_WITHIN {
            self.lose(number, End::Closed);
        }
    }

    /// Connects to any node that is there.
    fn connect(&mut self, number: usize) {
        let there: Vec<SocketAddr> = self.nodes.lock().unwrap().iter().flatten().copied().collect();
        let address = self.rng.choice(there);
        let person = &mut self.people[number];
        let position = match person.last.as_deref().map(|last| (Id::parse(last), last)) {
            Some((Some(id), _)) => Position::After(id),
            Some((None, _)) => Position::Unknown,
            None => person.first,
        };
        person.request = request(&person.query, person.first, person.last.as_deref());
        person.decoder = Decoder::default();
        person.asked = Instant::now();
        let socket = address.and_then(|address| connect(address, is_narrow(number)).ok());
        let Some(mut socket) = socket else { return self.pause(number) };
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(number), both).unwrap();
        person.socket = Some(socket);
        self.log.handle_connect(person.reader, Arc::clone(&person.topics), position, wall_ms());
        self.due.push(Reverse((person.asked + OPEN_WITHIN, number)));
    }

    fn handle_ready(&mut self, number: usize) {
        let person = &mut self.people[number];
        let Some(socket) = &mut person.socket else { return };
        if !person.request.is_empty() {
            match socket.write(&person.request) {
                Ok(count) => drop(person.request.drain(..count)),
                Err(error) if is_later(&error) => {}
                Err(_) => return self.lose(number, End::Closed),
            }
        }
        self.read(number);
    }

    /// Reads until nothing more is there: readiness is told once.
    fn read(&mut self, number: usize) {
        loop {
            let person = &mut self.people[number];
            let Some(socket) = person.socket.as_mut().filter(|_| person.nap.is_none()) else { return };
            // A reader that is to be cut within a block reads no further.
            let most = person.cut.map_or(PIECE, |(left, _)| left.clamp(1, PIECE));
            match socket.read(&mut self.piece[..most]) {
                Ok(0) => return self.lose(number, End::Closed),
                Ok(count) => self.take(number, count),
                Err(error) if is_later(&error) => return,
                Err(_) => return self.lose(number, End::Closed),
            }
        }
    }

    fn take(&mut self, number: usize, count: usize) {
        let person = &mut self.people[number];
        let resets = self.counts.resets;
        let mut hearing = Hearing { log: &mut self.log, counts: &mut self.counts, heard: None, away: false };
        let (reader, opened) = (person.reader, &mut person.opened);
        let decoded = person.decoder.decode(&self.piece[..count], |block| hearing.hear(reader, opened, block));
        let (heard, sent_away) = (hearing.heard.take(), hearing.away);
        decoded.unwrap_or_else(|error| panic!("reader {number}: {error}"));
        person.last = heard.or(person.last.take());
        person.resets += self.counts.resets - resets;
        let over = person.decoder.is_over();
        match &mut person.cut {
            Some((left, cut)) if *left <= count => {
                let cut = *cut;
                person.cut = None;
                self.cut(number, cut);
            }
            Some((left, _)) => *left -= count,
            None if over || sent_away => self.lose(number, End::Closed),
            None => {}
        }
    }

    fn cut(&mut self, number: usize, cut: Cut) {
        self.counts.cuts += 1;
        let Some(mut socket) = self.end(number, End::Left) else { return };
        self.pause(number);
        match cut {
            Cut::Fin => {
                // Closing with something unread would be a reset.
                let _ = (socket.shutdown(Shutdown::Write), self.poll.registry().deregister(&mut socket));
                self.half_open.push((Instant::now() + FIN_BEFORE_CLOSE, socket));
            }
            Cut::Reset => SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap(),
            Cut::HalfOpen => {
                let _ = self.poll.registry().deregister(&mut socket);
                self.half_open.push((Instant::now() + HALF_OPEN_FOR, socket));
            }
        }
    }

    /// The connection is over, and the reader comes back.
    fn lose(&mut self, number: usize, end: End) {
        self.end(number, end);
        if !self.people[number].away {
            self.pause(number);
        }
    }

    fn pause(&mut self, number: usize) {
        let pause = Duration::from_millis(self.rng.u64(PAUSE_MS));
        self.due.push(Reverse((Instant::now() + pause, number)));
    }

    fn end(&mut self, number: usize, end: End) -> Option<TcpStream> {
        let person = &mut self.people[number];
        person.opened = false;
        let socket = person.socket.take()?;
        self.log.handle_end(person.reader, end);
        Some(socket)
    }
}

/// What a reader does with the blocks of one piece.
struct Hearing<'a> {
    log: &'a mut Log,
    counts: &'a mut Counts,
    /// The last id among them.
    heard: Option<String>,
    /// True exactly when it was asked to leave.
    away: bool,
}

impl Hearing<'_> {
    fn hear(&mut self, reader: Reader, opened: &mut bool, block: Block<'_>) {
        let id = block.id;
        match block.name {
            "fanwheel.open" => {
                let json: serde_json::Value = serde_json::from_str(block.data).unwrap();
                let topics = self.topics(&json);
                let resumed = json["resumed"].as_bool().expect("`resumed`");
                self.log.handle_open(reader, Open { topics: &topics, resumed, id }, wall_ms());
                self.counts.opened += 1;
                *opened = true;
            }
            "fanwheel.reset" => {
                let json: serde_json::Value = serde_json::from_str(block.data).unwrap();
                let topics = self.topics(&json);
                let reason = Reason::parse(json["reason"].as_str().expect("`reason`"));
                self.log.handle_reset(reader, Reset { reason, topics: &topics, id }, wall_ms());
                self.counts.resets += 1;
            }
            "fanwheel.drain" | "fanwheel.unavailable" => self.away = true,
            name => {
                self.log.handle_event(reader, id.unwrap_or(""), hash(name, block.data));
                self.counts.events += 1;
                let delay_ms = id.and_then(Id::parse).map_or(0, |id| wall_ms().saturating_sub(id.stamp.ms));
                if !is_narrow(reader.0 as usize) {
                    self.counts.worst_delay_ms = self.counts.worst_delay_ms.max(delay_ms);
                }
            }
        }
        if let Some(id) = id {
            self.heard = Some(id.to_owned());
        }
    }

    /// The block's `topics`; one that nobody knows becomes one that nobody asked for.
    fn topics(&self, json: &serde_json::Value) -> Vec<Topic> {
        let names = json["topics"].as_array().expect("`topics`").iter();
        names.map(|name| name.as_str().and_then(|name| self.log.topic(name)).unwrap_or(Topic(u32::MAX))).collect()
    }
}

/// True exactly when a reader has a narrow window.
fn is_narrow(number: usize) -> bool {
    number.is_multiple_of(NARROW_EACH)
}

fn connect(address: SocketAddr, narrow: bool) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if narrow {
        socket.set_recv_buffer_size(NARROW)?;
        socket.set_tcp_mss(NARROW_SEGMENT)?;
    }
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn request(query: &str, first: Position, last: Option<&str>) -> Vec<u8> {
    let (header, also) = match (last, first) {
        (Some(last), _) => (format!("last-event-id: {last}\r\n"), String::new()),
        (None, Position::Now) => (String::new(), String::new()),
        (None, Position::After(id)) => (format!("last-event-id: {id}\r\n"), String::new()),
        (None, Position::Unknown) => ("last-event-id: garbage\r\n".into(), String::new()),
        (None, Position::Earliest) => (String::new(), "&last_event_id=earliest".into()),
        (None, Position::Last(count)) => (String::new(), format!("&last={count}")),
    };
    format!("GET /events?{query}{also} HTTP/1.1\r\nhost: test\r\naccept: text/event-stream\r\n{header}\r\n")
        .into_bytes()
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}
