//! A small server of durable topics, with a fault planted where streams resume.

use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::faulty::{Request, send};

/// What happens to a stream that presents its last id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The first event that it has not had does not come.
    LosesOne,
    /// The last event that it has had comes again.
    RepeatsOne,
    /// It goes on from now as if it were new.
    Forgets,
    /// It is told of a loss that was none.
    Resets,
    /// It gets ever more events that nobody published.
    Floods,
}

/// Events of a flood: more than there is room to record, of two streams in two processes.
const FLOOD: u64 = 180_000;
/// So many of them in one chunk.
const FLOOD_PART: u64 = 500;

/// Milliseconds since 1970, and a count within one.
type Number = (u64, u64);

struct Event {
    number: Number,
    topic: String,
    data: String,
}

struct Shared {
    fault: Fault,
    events: Vec<Event>,
    streams: Vec<Stream>,
}

struct Stream {
    /// `None` once its client has left.
    socket: Option<TcpStream>,
    topics: Vec<String>,
    /// So many events do not come.
    skips: usize,
}

/// Starts a server on a port of its own; it lives as long as the test process.
pub(crate) fn start(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let shared = Arc::new(Mutex::new(Shared { fault, events: Vec::new(), streams: Vec::new() }));
    thread::spawn(move || {
        for socket in listener.incoming() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(socket.unwrap(), &shared));
        }
    });
    format!("http://{addr}")
}

fn serve(mut socket: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    while let Some(request) = Request::read(&mut reader)? {
        match request {
            Request::Stream { topics, last_event_id } => {
                return shared.lock().unwrap().subscribe(socket, topics, last_event_id.as_deref());
            }
            Request::Publish { topic, data } => {
                let number = shared.lock().unwrap().publish(topic, data);
                let body = format!("{{\"topic\":\"…\",\"id\":\"{}\"}}", id(number));
                write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            }
        }
    }
    Ok(())
}

impl Shared {
    fn publish(&mut self, topic: String, data: String) -> Number {
        let (now, last) = ((wall_ms(), 0), self.newest());
        let number = if now > last { now } else { (last.0, last.1 + 1) };
        let event = Event { number, topic, data };
        self.streams.iter_mut().for_each(|stream| stream.deliver(&event));
        self.events.push(event);
        number
    }

    fn newest(&self) -> Number {
        self.events.last().map_or((wall_ms() - 1, 0), |event| event.number)
    }

    fn subscribe(&mut self, mut socket: TcpStream, topics: Vec<String>, last: Option<&str>) -> io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let last = last.map(number).filter(|_| self.fault != Fault::Forgets);
        let (resumed, begin) = (last.is_some(), last.unwrap_or_else(|| self.newest()));
        let named = format!("[\"{}\"]", topics.join("\",\""));
        let open = format!("{{\"topics\":{named},\"resumed\":{resumed}}}");
        send(&mut socket, &format!("event: fanwheel.open\nretry: 1000\ndata: {open}\nid: {}\n\n", id(begin)))?;
        if resumed && self.fault == Fault::Resets {
            let reset = format!("{{\"reason\":\"trimmed\",\"topics\":{named}}}");
            send(&mut socket, &format!("event: fanwheel.reset\ndata: {reset}\nid: {}\n\n", id(begin)))?;
        }
        for part in 0..if resumed && self.fault == Fault::Floods { FLOOD / FLOOD_PART } else { 0 } {
            let numbers = (1..=FLOOD_PART).map(|n| (begin.0, begin.1 + part * FLOOD_PART + n));
            let events: String = numbers.map(|number| format!("data: flood\nid: {}\n\n", id(number))).collect();
            send(&mut socket, &events)?;
        }
        let mut stream = Stream { socket: Some(socket), topics, skips: 0 };
        stream.skips = usize::from(resumed && self.fault == Fault::LosesOne);
        let (had, missed) = self.events.split_at(self.events.partition_point(|event| event.number <= begin));
        let repeated = had.iter().rev().find(|event| stream.topics.contains(&event.topic));
        if let Some(event) = repeated.filter(|_| resumed && self.fault == Fault::RepeatsOne) {
            stream.deliver(event);
        }
        missed.iter().for_each(|event| stream.deliver(event));
        self.streams.push(stream);
        Ok(())
    }
}

impl Stream {
    fn deliver(&mut self, event: &Event) {
        if !self.topics.contains(&event.topic) {
            return;
        }
        if self.skips > 0 {
            self.skips -= 1;
            return;
        }
        let block = format!("data: {}\nid: {}\n\n", event.data, id(event.number));
        if self.socket.as_mut().is_some_and(|socket| send(socket, &block).is_err()) {
            self.socket = None;
        }
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn id((ms, n): Number) -> String {
    format!("{ms}-{n}-fake")
}

fn number(id: &str) -> Number {
    let mut parts = id.split('-').map_while(|part| part.parse().ok());
    (parts.next().unwrap(), parts.next().unwrap())
}
