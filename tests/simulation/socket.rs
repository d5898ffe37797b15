//! Sockets that take what they please: everything, a random part, a trickle, or nothing ever again.
//!
//! They hold the engine to the contract of [`Sink`]: a socket that took less than it was given is
//! watched and left alone until it has been asked again, and a socket that was given up is not
//! touched any more.

use std::collections::VecDeque;

use fanwheel::engine::policy::BATCH_BYTES_MAX;
use fanwheel::engine::{CloseReason, ConnId, Sent, Sink};
use fanwheel::frame::WireForm;

use super::decode::{Decoder, Item, Parsed};

/// Counts the driver's actions. What happens in one action happens at one moment.
pub type Moment = u64;

/// The engine's handle. Not `Clone`: what was given up cannot be given up again.
#[derive(Debug)]
pub struct Port(pub usize);

/// How a socket takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taste {
    /// All of them.
    Everything,
    /// All, or a part cut at a random place, so often out of a hundred.
    Parts(u32),
    /// As many as the peer has made room for.
    Room(usize),
}

/// Something a client received.
#[derive(Debug)]
pub struct Arrival {
    pub item: Item,
    /// When the engine decided to say it, for control blocks; otherwise when it arrived.
    pub said: Moment,
    /// Ticks since the stream was last written to; `None` for what waited in a blocked one.
    pub silence: Option<u32>,
}

#[derive(Debug)]
pub struct Socket {
    pub id: Option<ConnId>,
    pub taste: Taste,
    /// The next write fails.
    pub dies: bool,
    dead: bool,
    /// `park` fails.
    pub unparkable: bool,
    pub closed: Option<CloseReason>,
    /// True exactly while the engine wants to know when it is writable.
    pub watched: bool,
    /// True exactly when the last write was cut and the engine was not told since that it may try again.
    cut: bool,
    /// True exactly while the engine is told that it is writable.
    pub asked: bool,
    pub decoder: Decoder,
    /// When the control blocks on their way were said.
    announced: VecDeque<Moment>,
    /// Heartbeats on their way.
    beats: usize,
    pub arrived: Vec<Arrival>,
    /// When it was blocked, both ends included. The last is open while it is watched.
    pub blocks: Vec<(Moment, Moment)>,
    /// The tick of the last byte accepted, or of its becoming writable again.
    pub written: u32,
    /// The tick since which a blocked socket's progress is counted.
    pub stalled_since: u32,
    stalled_bytes: usize,
    asked_bytes: usize,
    asked_event: bool,
}

pub struct Sockets {
    pub all: Vec<Socket>,
    pub rng: fastrand::Rng,
    pub moment: Moment,
    pub tick: u32,
    pub parsed: Parsed,
    pub sends: u64,
}

/// Bytes that keep a blocked reader, by the specification.
const PROGRESS_BYTES: usize = 4096;

impl Socket {
    pub fn new(form: WireForm, head: &[u8], taste: Taste, tick: u32) -> Socket {
        Socket {
            id: None,
            taste,
            dies: false,
            dead: false,
            unparkable: false,
            closed: None,
            watched: false,
            cut: false,
            asked: false,
            decoder: Decoder::new(form, head),
            announced: VecDeque::new(),
            beats: 0,
            arrived: Vec::new(),
            blocks: Vec::new(),
            written: tick,
            stalled_since: tick,
            stalled_bytes: 0,
            asked_bytes: 0,
            asked_event: false,
        }
    }

    pub fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    pub fn was_ever_blocked(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// True exactly when it was blocked at or after `from`, and before `until`.
    pub fn was_blocked(&self, from: Moment, until: Moment) -> bool {
        self.blocks.iter().any(|&(begin, end)| begin < until && end >= from)
    }

    /// True exactly when it has been blocked since before `now`.
    pub fn is_stuck(&self, now: Moment) -> bool {
        self.watched && self.blocks.last().is_some_and(|&(begin, _)| begin < now)
    }

    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// What must hold whenever the engine has nothing in hand.
    pub fn check_at_rest(&self) {
        if self.closed.is_none() {
            assert_eq!(self.watched, self.cut, "watched exactly when blocked");
            assert!(self.watched || self.decoder.is_at_border(), "a frame was begun and left");
            assert!(!self.dead, "a dead socket was kept");
        }
    }

    /// Begins a call of `handle_writable`.
    pub fn begin_asking(&mut self) {
        self.asked = true;
        (self.asked_bytes, self.asked_event) = (0, false);
        if self.watched {
            self.cut = false;
        }
    }

    /// Ends it: less than everything was taken exactly when it is still watched.
    pub fn end_asking(&mut self, tick: u32) {
        self.asked = false;
        self.stalled_bytes += self.asked_bytes;
        if self.asked_event || self.stalled_bytes >= PROGRESS_BYTES {
            (self.stalled_since, self.stalled_bytes) = (tick, 0);
        }
    }
}

impl Sockets {
    fn at(&mut self, port: &Port) -> &mut Socket {
        let socket = &mut self.all[port.0];
        assert!(socket.closed.is_none(), "socket {} was given up", port.0);
        socket
    }

    fn taken(&mut self, port: &Port, bytes: &[u8]) -> usize {
        let length = bytes.len();
        match self.all[port.0].taste {
            Taste::Everything => length,
            Taste::Room(room) => {
                let taken = room.min(length);
                self.all[port.0].taste = Taste::Room(room - taken);
                taken
            }
            Taste::Parts(percent) if self.rng.u32(0..100) < percent => match self.rng.u32(0..8) {
                0 => 0,
                1 => 1.min(length),
                2 => length - 1,
                // Behind a frame's border, or a byte beside it.
                3..=5 => {
                    let from = self.rng.usize(0..length);
                    let border = memchr::memmem::find(&bytes[from..], b"\n\n").map_or(length, |at| from + at + 2);
                    (border + self.rng.usize(0..5)).saturating_sub(1).min(length)
                }
                _ => self.rng.usize(0..length),
            },
            Taste::Parts(_) => length,
        }
    }
}

impl Sink for Sockets {
    type Port = Port;

    fn park(&mut self, port: &Port, id: ConnId) -> bool {
        let socket = self.at(port);
        assert_eq!(socket.id.replace(id), None, "parked once");
        !socket.unparkable
    }

    fn send(&mut self, port: &Port, bytes: &[u8]) -> Sent {
        let (moment, tick) = (self.moment, self.tick);
        self.sends += 1;
        let socket = self.at(port);
        assert!(!bytes.is_empty(), "a write of nothing");
        assert!(!socket.dead, "a write after `Closed`");
        assert!(!socket.watched || socket.asked, "a blocked socket is asked, not offered");
        let blocks = || memchr::memmem::find_iter(bytes, b"\n\n").count();
        let is_message = socket.decoder.is_websocket() && (bytes[0] == 0x81 || !socket.decoder.is_at_border());
        let one_frame = bytes.len() <= BATCH_BYTES_MAX || is_message || blocks() == 1;
        assert!(one_frame, "a batch of {} bytes", bytes.len());
        if !socket.watched {
            // Control blocks are promised when they are first offered: from then on they only wait.
            for name in [&b"event: fanwheel."[..], b"\"event\":\"fanwheel."] {
                socket.announced.extend(memchr::memmem::find_iter(bytes, name).map(|_| moment));
            }
            socket.beats += usize::from([&b"2\r\n:\n\r\n"[..], b":\n", b"\x89\0"].contains(&bytes));
        }
        if std::mem::take(&mut socket.dies) {
            socket.dead = true;
            return Sent::Closed;
        }
        let taken = self.taken(port, bytes);
        let socket = &mut self.all[port.0];
        let silence = (!socket.watched).then(|| tick - socket.written);
        if taken > 0 {
            socket.written = tick;
        }
        for item in socket.decoder.feed(&bytes[..taken], &mut self.parsed) {
            let mut said = moment;
            match &item {
                Item::Block(block) if block.name.starts_with("fanwheel.") => {
                    // Only a goodbye is put behind what a blocked socket has yet to take.
                    let waited = socket.announced.pop_front();
                    assert!(waited.is_some() || block.name == "fanwheel.drain", "it was offered before it arrived");
                    said = waited.unwrap_or(moment);
                }
                Item::Block(_) => socket.asked_event = true,
                Item::Heartbeat => {
                    socket.beats = socket.beats.checked_sub(1).expect("a blocked stream gets no heartbeats");
                }
                Item::End => {}
            }
            socket.arrived.push(Arrival { item, said, silence });
        }
        socket.asked_bytes += taken;
        if taken == bytes.len() {
            assert!(socket.decoder.is_at_border(), "a write ends at a frame's border");
            return Sent::All;
        }
        socket.cut = true;
        Sent::Part(taken)
    }

    fn watch_writable(&mut self, port: &Port, id: ConnId, wanted: bool) {
        let (moment, tick) = (self.moment, self.tick);
        let socket = self.at(port);
        assert_eq!(socket.id, Some(id));
        assert_eq!(socket.watched, !wanted, "watched, or not, already");
        assert_eq!(socket.cut, wanted, "watched exactly when blocked");
        socket.watched = wanted;
        if wanted {
            socket.blocks.push((moment, Moment::MAX));
            (socket.stalled_since, socket.stalled_bytes) = (tick, 0);
        } else {
            assert!(socket.decoder.is_at_border(), "something is left to write");
            // What was offered with a write that was cut, and is not on its way any more, will be offered again.
            socket.announced.clear();
            socket.blocks.last_mut().expect("it was blocked").1 = moment;
            socket.written = tick;
        }
    }

    fn unpark(&mut self, port: Port, reason: CloseReason) {
        let moment = self.moment;
        let socket = self.at(&port);
        socket.closed = Some(reason);
        if socket.watched {
            socket.blocks.last_mut().expect("it was blocked").1 = moment;
        }
    }
}
