//! A real redis-server as a child process, and a connection that speaks to it in bytes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wire::Wire;
use super::{wait_for, wait_until};

/// Ports below those from which the kernel takes client ports, so that nobody takes the port of a
/// server that is away for a while.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// See the module. Killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    pub address: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
    directory: TempDir,
}

impl RedisServer {
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// With further arguments, such as `--requirepass`.
    pub fn start_with(arguments: &[&str]) -> RedisServer {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        wait_for("a port for redis-server", || {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let directory = TempDir::new().unwrap();
            let mut server = RedisServer { address, arguments: arguments.clone(), child: None, directory };
            server.try_resume().then_some(server)
        })
    }

    /// An address at which no Redis is yet: [`RedisServer::resume`] starts it.
    pub fn absent() -> RedisServer {
        let mut server = RedisServer::start();
        server.kill();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it in its tracks: the kernel goes on answering for it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends `pause`.
    pub fn unpause(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Starts it again, empty, on the same port.
    pub fn resume(&mut self) {
        assert!(self.try_resume(), "redis-server does not start again on {}", self.address);
    }

    fn try_resume(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("these tests need a redis-server on the PATH; install Redis 6.0 or later");
        let child = self.child.insert(child);
        let pid = u64::from(child.id());
        wait_for("redis-server to answer or to end", || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            // Whoever answers must be this one: another may have taken the port.
            match Resp::try_connect(self.address)?.try_command(&[b"INFO", b"server"])? {
                Reply::Bulk(Some(info)) => Some(String::from_utf8_lossy(&info).contains(&format!("process_id:{pid}"))),
                Reply::Error(error) => error.starts_with("NOAUTH").then_some(true),
                _ => None,
            }
        })
    }

    pub fn client(&self) -> Resp {
        Resp::connect(self.address)
    }

    /// Channels that somebody has subscribed to, sorted.
    pub fn channels(&self) -> Vec<String> {
        let Reply::Array(channels) = self.client().command(&[b"PUBSUB", b"CHANNELS"]) else { panic!("no list") };
        let mut channels: Vec<String> = channels.iter().map(Reply::text).collect();
        channels.sort();
        channels
    }

    /// Publishes on a connection of its own; gives how many connections received it.
    pub fn publish(&self, channel: &str, payload: &[u8]) -> i64 {
        self.client().publish(channel, payload)
    }

    /// Connections that have subscribed to a channel.
    pub fn subscribers(&self, channel: &str) -> i64 {
        match self.client().command(&[b"PUBSUB", b"NUMSUB", channel.as_bytes()]) {
            Reply::Array(counts) => counts[1].integer(),
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_subscribers(&self, channel: &str, count: i64) {
        wait_until(&format!("{channel} to have {count} subscribers"), || self.subscribers(channel) == count);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port nobody listens at just now.
pub fn free_port() -> u16 {
    let span = PORTS.end - PORTS.start;
    loop {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let start = (std::process::id().wrapping_mul(101) % u32::from(span)) as u16;
        let port = PORTS.start + start.wrapping_add(step) % span;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A connection in RESP2.
#[derive(Debug)]
pub struct Resp(Wire);

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

impl Reply {
    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(value) => *value,
            other => panic!("no number: {other:?}"),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) => text.clone(),
            Reply::Bulk(Some(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("no text: {other:?}"),
        }
    }
}

impl Resp {
    pub fn connect(to: SocketAddr) -> Resp {
        Resp(Wire::connect(to))
    }

    pub fn try_connect(to: SocketAddr) -> Option<Resp> {
        Wire::try_connect(to).map(Resp)
    }

    /// Gives the connection a name; `None` when Redis goes away.
    pub fn try_named(mut self, name: &str) -> Option<Resp> {
        self.try_command(&[b"CLIENT", b"SETNAME", name.as_bytes()])?;
        Some(self)
    }

    /// Sends a command and takes its answer, which must be no error.
    pub fn command(&mut self, words: &[&[u8]]) -> Reply {
        self.send(words);
        match self.take_reply() {
            Reply::Error(error) => panic!("{error}"),
            reply => reply,
        }
    }

    pub fn publish(&mut self, channel: &str, payload: &[u8]) -> i64 {
        self.command(&[b"PUBLISH", channel.as_bytes(), payload]).integer()
    }

    /// Publishes many in one write.
    pub fn publish_all(&mut self, channel: &str, payloads: &[&[u8]]) {
        let all: Vec<u8> =
            payloads.iter().flat_map(|payload| encode(&[b"PUBLISH", channel.as_bytes(), payload])).collect();
        self.0.send(&all);
        for _ in payloads {
            self.take_reply().integer();
        }
    }

    /// As `publish`; `None` when Redis is away or goes away.
    pub fn try_publish(&mut self, channel: &str, payload: &[u8]) -> Option<i64> {
        match self.try_command(&[b"PUBLISH", channel.as_bytes(), payload])? {
            Reply::Integer(receivers) => Some(receivers),
            _ => None,
        }
    }

    /// As `command`, errors included; `None` when the connection ends instead.
    pub fn try_command(&mut self, words: &[&[u8]]) -> Option<Reply> {
        self.0.try_send(&encode(words)).ok()?;
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while self.0.unread().is_empty() {
            if !self.0.fill(deadline)? {
                return None;
            }
        }
        Some(self.take_reply())
    }

    fn send(&mut self, words: &[&[u8]]) {
        self.0.send(&encode(words));
    }

    /// The next message on a channel that was subscribed to.
    pub fn take_message(&mut self) -> Vec<u8> {
        match self.take_reply() {
            Reply::Array(parts) => match &parts[..] {
                [Reply::Bulk(Some(kind)), _, Reply::Bulk(Some(payload))] if kind == b"message" => payload.clone(),
                other => panic!("no message: {other:?}"),
            },
            other => panic!("no message: {other:?}"),
        }
    }

    fn take_reply(&mut self) -> Reply {
        let line = String::from_utf8(self.0.take_until(b"\r\n")).unwrap();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Simple(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Integer(rest.parse().unwrap()),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => {
                let bytes = self.0.take_exactly(rest.parse().unwrap());
                self.0.take_exactly(2);
                Reply::Bulk(Some(bytes))
            }
            "*" => Reply::Array((0..rest.parse().unwrap()).map(|_| self.take_reply()).collect()),
            _ => panic!("no RESP: {line}"),
        }
    }
}

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend(b"\r\n");
    }
    bytes
}
