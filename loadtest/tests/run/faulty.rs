//! A small SSE server with faults planted at known places.
//!
//! Every stream gets everything that is posted on its topics, in one order. A plan may change what
//! one stream gets in place of one event.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to the event in question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Drop,
    Double,
    /// It comes after the one that follows it.
    Swap,
    /// It is dropped and a reset says so.
    DropTold,
    /// It is dropped and a reset says so of this topic.
    DropNamed(&'static str),
    /// It comes after the one that follows it was dropped, and after a reset that says so.
    ToldEarly,
    /// A byte of its filler is changed.
    Alter,
    /// A digit of its sequence number is changed.
    AlterHeader,
    /// Its last bytes are missing.
    CutShort,
    /// It comes so many milliseconds late, and what follows it with it.
    Delay(u64),
    /// It comes on one stream, the first, that did not ask for its topic.
    Misdirect,
    /// It comes in one event with the one that follows it, as JSON.
    Join,
    /// The stream ends in its place.
    Close,
    /// The stream is accepted and never answered, whatever the event.
    Mute,
    /// Its publish is answered with 503, and nobody gets it.
    Refuse,
}

/// Where: the stream in order of opening and the event in order of publishing, from 0.
pub(crate) type Plan = Vec<(usize, usize, Fault)>;

struct Shared {
    plan: Plan,
    streams: Vec<Stream>,
    published: usize,
}

struct Stream {
    socket: Option<TcpStream>,
    /// As they stand in the request: percent-encoded.
    topics: Vec<String>,
    held_back: Option<String>,
    told_early: Option<String>,
    joined: Option<String>,
}

/// Starts a server on a port of its own; it lives as long as the test process.
pub(crate) fn start(plan: Plan) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let shared = Arc::new(Mutex::new(Shared { plan, streams: Vec::new(), published: 0 }));
    thread::spawn(move || {
        for socket in listener.incoming() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(socket.unwrap(), &shared));
        }
    });
    format!("http://{addr}")
}

/// What a server is asked for.
pub(crate) enum Request {
    /// The topics as they stand in the request, percent-encoded.
    Stream {
        topics: Vec<String>,
        last_event_id: Option<String>,
    },
    Publish {
        topic: String,
        data: String,
    },
}

impl Request {
    /// The next one; `None` when no more come.
    pub(crate) fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let (mut first, mut length, mut last_event_id) = (String::new(), 0, None);
        if reader.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.split_once(": ") {
                Some(("Content-Length", value)) => length = value.trim().parse().unwrap(),
                Some(("Last-Event-ID", value)) => last_event_id = Some(value.trim().to_owned()),
                _ => {}
            }
            if line == "\r\n" {
                break;
            }
        }
        if first.starts_with("GET /events") {
            let query = first.split([' ', '?']).nth(2).unwrap_or_default();
            let topics = query.split('&').filter_map(|pair| Some(pair.strip_prefix("topic=")?.to_owned()));
            return Ok(Some(Self::Stream { topics: topics.collect(), last_event_id }));
        }
        let topic = first.split([' ', '/']).nth(3).unwrap_or_default().to_owned();
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Some(Self::Publish { topic, data: String::from_utf8(body).unwrap() }))
    }
}

fn serve(mut socket: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    loop {
        let accepted = match Request::read(&mut reader)? {
            None => return Ok(()),
            Some(Request::Stream { topics, .. }) => return subscribe(socket, topics, shared),
            Some(Request::Publish { topic, data }) => shared.lock().unwrap().publish(&topic, &data),
        };
        let status = if accepted { "202 Accepted" } else { "503 Service Unavailable" };
        write!(socket, "HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")?;
    }
}

fn subscribe(mut socket: TcpStream, topics: Vec<String>, shared: &Mutex<Shared>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(Duration::from_millis(300)))?;
    let mut shared = shared.lock().unwrap();
    let index = shared.streams.len();
    if shared.plan.iter().any(|&(stream, _, fault)| stream == index && fault == Fault::Mute) {
        shared.streams.push(Stream::new(None, topics));
        drop(shared);
        return io::copy(&mut socket, &mut io::sink()).map(drop);
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    send(&mut socket, ":\n")?;
    send(&mut socket, "event: fanwheel.open\nretry: 1000\ndata: {\"topics\":[],\"resumed\":false}\n\n")?;
    shared.streams.push(Stream::new(Some(socket), topics));
    Ok(())
}

impl Shared {
    fn publish(&mut self, topic: &str, data: &str) -> bool {
        let event = self.published;
        self.published += 1;
        if self.plan.iter().any(|&(_, at, fault)| at == event && fault == Fault::Refuse) {
            return false;
        }
        let mut misdirected = self.plan.iter().any(|&(_, at, fault)| at == event && fault == Fault::Misdirect);
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let planned = self.plan.iter().find(|(s, e, _)| (*s, *e) == (index, event));
            let fault = planned.map(|&(_, _, fault)| fault);
            if stream.topics.iter().any(|own| own == topic) {
                stream.deliver(fault, data);
            } else if misdirected {
                stream.deliver(None, data);
                misdirected = false;
            }
        }
        true
    }
}

impl Stream {
    fn new(socket: Option<TcpStream>, topics: Vec<String>) -> Self {
        Self { socket, topics, held_back: None, told_early: None, joined: None }
    }

    fn deliver(&mut self, fault: Option<Fault>, data: &str) {
        let block = match self.joined.take() {
            Some(other) => format!("data: [\"{other}\",\ndata: \"{data}\"]\n\n"),
            None => format!("data: {data}\n\n"),
        };
        let mut blocks = match fault {
            None if self.told_early.is_some() => {
                let older = self.told_early.take();
                std::iter::once("event: fanwheel.reset\ndata: {\"reason\":\"gap\"}\n\n".to_owned())
                    .chain(older)
                    .collect()
            }
            None | Some(Fault::Refuse | Fault::Misdirect | Fault::Mute) => vec![block],
            Some(Fault::Drop) => Vec::new(),
            Some(Fault::Double) => vec![block.clone(), block],
            Some(Fault::DropTold) => vec!["event: fanwheel.reset\ndata: {\"reason\":\"gap\"}\n\n".to_owned()],
            Some(Fault::DropNamed(topic)) => {
                vec![format!("event: fanwheel.reset\ndata: {{\"reason\":\"log\",\"topics\":[\"{topic}\"]}}\n\n")]
            }
            Some(Fault::Alter) => vec![block.replace("x\n", "y\n")],
            Some(Fault::AlterHeader) => {
                // "fw1 ", the run, the publisher and the topic stand before the sequence number.
                let (before, digits) = data.split_at("fw1 00000000 0000 0000 ".len());
                vec![format!("data: {before}7{}\n\n", &digits[1..])]
            }
            Some(Fault::CutShort) => vec![format!("data: {}\n\n", &data[..data.len() - 5])],
            Some(Fault::Delay(ms)) => {
                // The delay is the fault: paced, not waited for.
                thread::sleep(Duration::from_millis(ms));
                vec![block]
            }
            Some(Fault::ToldEarly) => return self.told_early = Some(block),
            Some(Fault::Join) => return self.joined = Some(data.to_owned()),
            Some(Fault::Swap) => return self.held_back = Some(block),
            Some(Fault::Close) => return self.socket = None,
        };
        blocks.extend(self.held_back.take());
        for block in blocks {
            let sent = self.socket.as_mut().map(|socket| send(socket, &block));
            if matches!(sent, Some(Err(_))) {
                self.socket = None;
            }
        }
    }
}

/// One chunk, in two writes, so that readers meet it in parts.
pub(crate) fn send(socket: &mut TcpStream, block: &str) -> io::Result<()> {
    let chunk = format!("{:x}\r\n{block}\r\n", block.len());
    let (head, tail) = chunk.split_at(chunk.len() / 3);
    socket.write_all(head.as_bytes())?;
    socket.write_all(tail.as_bytes())
}
