//! Does a peer really do what it is to be measured at? A few streams, a few thousand events, every one counted.
//!
//! Not a measurement: it shows that requests are right, that a stream gets what is published as soon
//! as it counts as open, that publishes may be pipelined over one connection for longer than any
//! server's default allows, and that nothing is left when the server is ended.
//! Each lump of events must have arrived everywhere before the next is published: some servers drop
//! what comes faster than they deliver, and how fast that is, is for the real runs to find.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Peer, Running, Setup};
use crate::dialect::OpenOn;
use crate::http::{Body, Head};
use crate::publisher::Via;

const TOPICS: [&str; 2] = ["alpha", "news/1"];
/// Events per topic that are on their way at the same time.
const LUMP: usize = 25;
/// With few streams. In all more than the 1,000 requests after which servers like to close a connection.
const LUMPS_MAX: usize = 60;
/// With many.
const LUMPS_MIN: usize = 2;
/// About as many deliveries are enough.
const DELIVERIES: usize = 100_000;
const PAYLOAD_LEN: usize = 100;
const PREFIX: &[u8] = b"fw1 ";
const ARRIVAL_WAIT: Duration = Duration::from_secs(10);
const RESTART_WAIT: Duration = Duration::from_secs(15);

/// What was seen.
pub(super) struct Trial {
    pub(super) processes: usize,
    /// One stream after the other.
    pub(super) opened_in: Duration,
    pub(super) delivered: usize,
    pub(super) expected: usize,
    /// The first bytes of a stream that carry an event.
    pub(super) sample: String,
    /// How long after its broker was killed events arrived again; `None` without broker.
    pub(super) back_after: Option<Duration>,
    /// Its processes that were still there after it was ended.
    pub(super) left: Vec<u32>,
}

/// An open stream.
struct Stream {
    socket: TcpStream,
    body: Body,
    /// Body bytes that have not been searched.
    unread: Vec<u8>,
    /// The first event and what stands around it.
    sample: Option<String>,
}

pub(super) fn attempt(peer: Peer, cores: usize, streams: usize) -> Result<Trial> {
    let dir = tempfile::tempdir()?;
    let setup = Setup {
        dir: dir.path().to_owned(),
        cores,
        streams_max: streams,
        topics: TOPICS.map(str::to_owned).to_vec(),
        fanwheel: None,
        is_durable: false,
    };
    let mut running = peer.start(&setup)?;
    let trial = deliver(peer, &mut running, streams);
    let mut pids = running.server_pids();
    pids.extend(running.broker_pid());
    drop(running);
    // Whoever is not collected yet by the machine's first process is a zombie: it has no memory map.
    let is_left = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| !maps.is_empty());
    pids.retain(is_left);
    Ok(Trial { left: pids, ..trial? })
}

fn deliver(peer: Peer, running: &mut Running, count: usize) -> Result<Trial> {
    let processes = running.server_pids().len();
    let topics_per_stream = peer.topics_per_stream_max().min(TOPICS.len());
    let begun = Instant::now();
    let mut streams = open_streams(running, count, topics_per_stream)?;
    let opened_in = begun.elapsed();
    let lumps = (DELIVERIES / (count * topics_per_stream * LUMP)).clamp(LUMPS_MIN, LUMPS_MAX);
    let mut publisher = Publisher::connect(&running.publish)?;
    let mut delivered = 0;
    for lump in 1..=lumps {
        publisher.publish(LUMP)?;
        delivered +=
            streams.iter_mut().map(|stream| stream.count(topics_per_stream * LUMP, ARRIVAL_WAIT)).sum::<usize>();
        if delivered != lump * count * topics_per_stream * LUMP {
            break;
        }
    }
    let expected = lumps * count * topics_per_stream * LUMP;
    let sample = streams[0].sample.take().unwrap_or_default();
    let back_after = if running.broker_pid().is_some() { Some(time_restart(running, &mut streams[0])?) } else { None };
    Ok(Trial { processes, opened_in, delivered, expected, sample, back_after, left: Vec::new() })
}

fn open_streams(running: &Running, count: usize, topics_per_stream: usize) -> Result<Vec<Stream>> {
    (0..count)
        .map(|index| Stream::open(running, TOPICS.iter().cycle().skip(index).take(topics_per_stream).copied()))
        .collect()
}

fn time_restart(running: &mut Running, stream: &mut Stream) -> Result<Duration> {
    let begun = Instant::now();
    running.restart_broker()?;
    while begun.elapsed() < RESTART_WAIT {
        Publisher::connect(&running.publish)?.publish(1)?;
        if stream.count(1, Duration::from_millis(100)) > 0 {
            return Ok(begun.elapsed());
        }
    }
    bail!("nothing arrived within {} s after the broker was restarted", RESTART_WAIT.as_secs())
}

impl Stream {
    fn open<'a>(running: &Running, topics: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut socket = TcpStream::connect(running.subscribe.addr)?;
        socket.set_read_timeout(Some(ARRIVAL_WAIT))?;
        socket.write_all(running.dialect.subscribe_request(&running.subscribe, topics, None).as_bytes())?;
        let mut raw = Vec::new();
        let head = loop {
            if let Some(head) = Head::parse(&raw)? {
                break head;
            }
            read_more(&mut socket, &mut raw).context("the head of a stream")?;
        };
        ensure!(head.status == 200, "a stream was answered with status {}", head.status);
        let mut stream = Self { socket, body: head.body, unread: Vec::new(), sample: None };
        stream.handle(&mut raw[head.len..])?;
        while running.dialect.open_on == OpenOn::Open
            && memchr::memmem::find(&stream.unread, b"fanwheel.open").is_none()
        {
            stream.read()?;
        }
        Ok(stream)
    }

    /// Reads until `wanted` events have come, or `patience` is over; how many came.
    fn count(&mut self, wanted: usize, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut count = self.take_events();
        while count < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.socket.set_read_timeout(Some(left)).is_err() || self.read().is_err() {
                break;
            }
            count += self.take_events();
        }
        count
    }

    fn take_events(&mut self) -> usize {
        let events = memchr::memmem::find_iter(&self.unread, PREFIX).count();
        if events > 0 && self.sample.is_none() {
            self.sample = Some(String::from_utf8_lossy(&self.unread[..self.unread.len().min(400)]).into_owned());
        }
        // The prefix may have been cut.
        let keep = self.unread.len().min(PREFIX.len() - 1);
        self.unread.drain(..self.unread.len() - keep);
        events
    }

    fn read(&mut self) -> Result<()> {
        let mut raw = Vec::new();
        read_more(&mut self.socket, &mut raw)?;
        self.handle(&mut raw)
    }

    fn handle(&mut self, raw: &mut [u8]) -> Result<()> {
        let decoded = self.body.decode_in_place(raw)?;
        self.unread.extend_from_slice(&raw[..decoded.body_len]);
        Ok(())
    }
}

/// One connection, as a publisher of a run has.
struct Publisher<'a> {
    via: &'a Via,
    socket: TcpStream,
    unread: Vec<u8>,
}

impl<'a> Publisher<'a> {
    fn connect(via: &'a Via) -> Result<Self> {
        let (Via::Http { target, .. } | Via::Redis { target, .. }) = via;
        let socket = TcpStream::connect(target.addr)?;
        socket.set_read_timeout(Some(ARRIVAL_WAIT))?;
        socket.set_nodelay(true)?;
        Ok(Self { via, socket, unread: Vec::new() })
    }

    /// Publishes `count` events to each topic, pipelined, and takes the answers.
    fn publish(&mut self, count: usize) -> Result<()> {
        let requests: Result<Vec<String>> = (0..count * TOPICS.len()).map(|number| request(self.via, number)).collect();
        self.socket.write_all(requests?.concat().as_bytes())?;
        (0..count * TOPICS.len()).try_for_each(|_| take_answer(self.via, &mut self.socket, &mut self.unread))
    }
}

fn request(via: &Via, number: usize) -> Result<String> {
    let topic = TOPICS[number % TOPICS.len()];
    let payload = format!("fw1 {number:0>width$}", width = PAYLOAD_LEN - PREFIX.len());
    match via {
        Via::Http { target, request } => {
            let (before, after) = request.around(target, topic, payload.len())?;
            Ok(format!("{before}{payload}{after}"))
        }
        Via::Redis { channel_prefix, .. } => Ok(format!("PUBLISH {channel_prefix}{topic} \"{payload}\"\r\n")),
    }
}

/// Waits for one answer, which must be a success, and removes it.
fn take_answer(via: &Via, socket: &mut TcpStream, unread: &mut Vec<u8>) -> Result<()> {
    loop {
        let taken = match via {
            Via::Http { .. } => http_answer_len(unread)?,
            Via::Redis { .. } => memchr::memmem::find(unread, b"\r\n").map(|len| len + 2),
        };
        if let Some(taken) = taken {
            let is_refused = matches!(via, Via::Redis { .. }) && unread[0] != b':';
            ensure!(!is_refused, "Redis: {}", String::from_utf8_lossy(&unread[..taken]));
            unread.drain(..taken);
            return Ok(());
        }
        read_more(socket, unread).context("the answer to a publish")?;
    }
}

fn http_answer_len(unread: &[u8]) -> Result<Option<usize>> {
    let Some(head) = Head::parse(unread)? else { return Ok(None) };
    ensure!((200..300).contains(&head.status), "a publish was answered with status {}", head.status);
    let mut body = head.body;
    let decoded = body.decode_in_place(&mut unread[head.len..].to_vec())?;
    ensure!(!head.closes, "a publish was answered with `Connection: close`");
    Ok(body.is_done().then_some(head.len + decoded.taken))
}

fn read_more(socket: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let mut part = [0; 64 * 1024];
    let len = socket.read(&mut part)?;
    ensure!(len > 0, "the server closed the connection");
    into.extend_from_slice(&part[..len]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;
    use std::net::TcpListener;

    #[test]
    fn events_are_counted_once_wherever_they_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = Stream { socket, body: Body::UntilClose, unread: Vec::new(), sample: None };
        let mut parts =
            [b"data: fw1 a\n\ndata: f".to_vec(), b"w1 b\n\ndata: [\"fw1".to_vec(), b" c\",\"fw1 d\"]\n\n".to_vec()];
        let mut count = |part: &mut Vec<u8>| stream.handle(part).map(|()| stream.take_events()).unwrap();
        assert_eq!(parts.each_mut().map(&mut count), [1, 1, 2]);
        assert!(stream.sample.unwrap().contains("fw1 a"));
    }

    #[test]
    fn a_redis_publish_names_channel_and_payload() {
        let target = Target::parse("redis://127.0.0.1:1", "redis", 6379).unwrap();
        let request = request(&Via::Redis { target, channel_prefix: "p:".to_owned() }, 1).unwrap();
        assert!(request.starts_with("PUBLISH p:news/1 \"fw1 00") && request.ends_with("1\"\r\n"), "{request}");
    }

    #[test]
    fn an_answer_is_taken_when_it_is_whole_and_must_be_a_success() {
        assert_eq!(http_answer_len(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{").unwrap(), None);
        assert_eq!(http_answer_len(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}HTTP").unwrap(), Some(46));
        assert!(http_answer_len(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
