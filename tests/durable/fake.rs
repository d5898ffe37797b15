//! A stand-in for nodes and their history, in memory and a thread per connection: what the harness is tried on.
//!
//! It keeps every promise, unless it is told to break one.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::rows::KEPT;
use super::swarm::{Nodes, wall_ms};

/// Which promise it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Now and then an event is left out of a stream.
    Drops,
    /// Whoever comes back is given the last event again.
    Repeats,
    /// A key that comes again is stored again, and the answer to the first is lost.
    ForgetsKeys,
    /// A trim is not told.
    HidesTrims,
    /// A trim is told twice.
    TellsTwice,
}

/// See the module. Ends when dropped.
pub struct Fake {
    shared: Arc<Shared>,
    pub nodes: Nodes,
}

struct Shared {
    flaw: Flaw,
    history: Mutex<History>,
    /// Told when an event is stored.
    grown: Condvar,
    over: AtomicBool,
}

#[derive(Default)]
struct History {
    events: Vec<Stored>,
    keys: HashMap<String, Number>,
}

#[derive(Clone)]
struct Stored {
    topic: String,
    name: String,
    data: String,
    number: Number,
}

/// `<ms>-<n>`.
type Number = (u64, u64);

impl Fake {
    /// So many nodes of one history.
    pub fn start(nodes: usize, flaw: Flaw) -> Fake {
        let shared =
            Arc::new(Shared { flaw, history: Mutex::default(), grown: Condvar::new(), over: AtomicBool::new(false) });
        let listen = |_| -> Option<SocketAddr> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener));
            Some(address)
        };
        let nodes = Arc::new(Mutex::new((0..nodes).map(listen).collect()));
        Fake { shared, nodes }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.grown.notify_all();
        // Listeners are waiting: a connection lets each see that it is over.
        self.nodes.lock().unwrap().iter().flatten().for_each(|&address| drop(TcpStream::connect(address)));
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for socket in listener.incoming().map_while(Result::ok) {
            if self.is_over() {
                return;
            }
            let shared = Arc::clone(&self);
            // A client that leaves ends its thread with an error, which is nobody's business.
            thread::spawn(move || drop(shared.serve(socket)));
        }
    }

    fn serve(&self, mut socket: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(socket.try_clone()?);
        loop {
            let (mut line, mut headers) = (String::new(), HashMap::new());
            if reader.read_line(&mut line)? == 0 || self.is_over() {
                return Ok(());
            }
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let Some((name, value)) = header.split_once(':') else { break };
                headers.insert(name.to_owned(), value.trim().to_owned());
            }
            let target = line.split(' ').nth(1).unwrap_or("").to_owned();
            if line.starts_with("GET") {
                return self.stream(&mut socket, &target, headers.get("last-event-id").map(String::as_str));
            }
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let key = headers.get("idempotency-key").cloned().unwrap_or_default();
            if !self.store(&mut socket, &target, key, &String::from_utf8_lossy(&body))? {
                return Ok(());
            }
        }
    }

    /// False when the answer is withheld.
    fn store(&self, socket: &mut TcpStream, target: &str, key: String, data: &str) -> std::io::Result<bool> {
        let target = target.trim_start_matches("/topics/");
        let (topic, query) = target.split_once('?').unwrap_or((target, ""));
        let name = if query.contains("%C3") { "été" } else { query.trim_start_matches("event=") };
        let mut history = self.history.lock().unwrap();
        let known = history.keys.get(&key).copied();
        let forgets = self.flaw == Flaw::ForgetsKeys;
        let id = known.filter(|_| !forgets).unwrap_or_else(|| {
            let last = history.last();
            let id = if wall_ms() > last.0 { (wall_ms(), 0) } else { (last.0, last.1 + 1) };
            history.events.push(Stored { topic: topic.into(), name: name.into(), data: data.into(), number: id });
            history.keys.insert(key, id);
            id
        });
        drop(history);
        self.grown.notify_all();
        if forgets && known.is_none() && id.1 == 0 && id.0.is_multiple_of(8) {
            return Ok(false);
        }
        let body = json!({"topic": topic, "id": text(id)}).to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        socket.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        Ok(true)
    }

    fn stream(&self, socket: &mut TcpStream, target: &str, presented: Option<&str>) -> std::io::Result<()> {
        let topics: Vec<&str> = target.split(['?', '&']).filter_map(|pair| pair.strip_prefix("topic=")).collect();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes())?;
        let mut history = self.history.lock().unwrap();
        let (at, told) = history.begin(target, &topics, presented.and_then(number));
        let open = json!({"topics": topics, "resumed": presented.is_some()});
        let id = if told { format!("id: {}\n", text(at)) } else { String::new() };
        chunk(socket, &format!("event: fanwheel.open\ndata: {open}\nretry: 1000\n{id}\n"))?;
        let gone: HashMap<&str, Number> = topics.iter().map(|&topic| (topic, history.gone(topic))).collect();
        let again = self.flaw == Flaw::Repeats && presented.is_some();
        let mut next = history.events.partition_point(|event| event.number <= at);
        next -= usize::from(again && next > 0);
        while !self.is_over() {
            let fresh = history.events[next..].to_vec();
            next = history.events.len();
            drop(history);
            for event in fresh {
                match gone.get(&*event.topic) {
                    Some(&upto) if event.number == upto && presented.is_some() => self.tell(socket, &event)?,
                    Some(&upto) if event.number > upto => self.send(socket, &event)?,
                    _ => {}
                }
            }
            history = self.history.lock().unwrap();
            if history.events.len() == next {
                history = self.grown.wait_timeout(history, Duration::from_millis(200)).unwrap().0;
            }
        }
        Ok(())
    }

    fn send(&self, socket: &mut TcpStream, event: &Stored) -> std::io::Result<()> {
        if self.flaw == Flaw::Drops && event.number.0.is_multiple_of(97) {
            return Ok(());
        }
        let name = if event.name.is_empty() { String::new() } else { format!("event: {}\n", event.name) };
        let data: String = event.data.split('\n').map(|line| format!("data: {line}\n")).collect();
        chunk(socket, &format!("{name}{data}id: {}\n\n", text(event.number)))
    }

    /// That everything of a topic up to this event is gone.
    fn tell(&self, socket: &mut TcpStream, event: &Stored) -> std::io::Result<()> {
        let times = match self.flaw {
            Flaw::HidesTrims => 0,
            Flaw::TellsTwice => 2,
            _ => 1,
        };
        let json = json!({"reason": "trimmed", "topics": [event.topic]});
        let block = format!("event: fanwheel.reset\ndata: {json}\nid: {}\n\n", text(event.number));
        (0..times).try_for_each(|_| chunk(socket, &block))
    }
}

impl History {
    fn last(&self) -> Number {
        self.events.last().map_or((0, 0), |event| event.number)
    }

    /// After which number a stream begins, and whether that is told.
    fn begin(&self, target: &str, topics: &[&str], presented: Option<Number>) -> (Number, bool) {
        let left = |event: &&Stored| topics.contains(&&*event.topic) && event.number > self.gone(&event.topic);
        let newest = target.split_once("&last=").and_then(|(_, count)| count.parse::<usize>().ok());
        let oldest = target.ends_with("=earliest").then_some(usize::MAX);
        match (presented, oldest.or(newest)) {
            (Some(presented), _) => (presented, true),
            (None, Some(count)) => {
                let ours: Vec<Number> = self.events.iter().filter(left).map(|event| event.number).collect();
                let before = ours.len().checked_sub(count.saturating_add(1)).map(|place| ours[place]);
                if ours.is_empty() { (self.last(), true) } else { (before.unwrap_or_default(), false) }
            }
            (None, None) => (self.last(), true),
        }
    }

    /// The number of the last event of a topic that has left: only so many are kept, or those of a second.
    fn gone(&self, topic: &str) -> Number {
        let mut newest = self.events.iter().rev().filter(|event| event.topic == topic).map(|event| event.number);
        let gone = match topic.split_once('.') {
            Some(("kept", _)) => newest.nth(KEPT as usize),
            Some(("aged", _)) => newest.next().and_then(|last| newest.find(|number| number.0 + 1_000 < last.0)),
            _ => None,
        };
        gone.unwrap_or_default()
    }
}

fn chunk(socket: &mut TcpStream, text: &str) -> std::io::Result<()> {
    socket.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

fn text((ms, n): Number) -> String {
    format!("{ms}-{n}-fake")
}

fn number(id: &str) -> Option<Number> {
    let mut parts = id.split('-').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}
