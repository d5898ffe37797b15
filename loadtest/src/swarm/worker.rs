//! One process of subscribers: an epoll loop over thousands of streams.
//!
//! **For:** measuring with little disturbance. All streams share one read buffer; a stream is its
//! descriptor, a parser without bytes, and its row in [`Seen`].
//! What a read leaves over lies in a side table until the next read.
//! **What always holds:** the time of arrival is taken once per read, directly after it; every
//! event is fed to the checks in arrival order.
//! **Overload:** when this loop is too slow, latencies grow and say so; nothing is skipped.
//! **Not chosen:** a thread or task per stream, which would measure its own scheduler.

use std::collections::HashMap;
use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use checker::OrderSurvey;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use super::conn::{Item, Parser};
use super::protocol::{Answer, Command, Done, Progress, Slot, WorkerPlan};
use super::seen::{Seen, Sign};
use crate::clock::now_ns;
use crate::dialect::OpenOn;
use crate::latency::Latencies;
use crate::procfs::{self, Cpu};

/// Longest single read. At 200 bytes an event this is 1,300 events.
const READ_LEN: usize = 256 * 1024;
/// Stalled streams read their head and first block in small bites, so that little is taken.
const STALLED_READ_LEN: usize = 512;
/// The smallest receive buffer a kernel grants is about this (it doubles the wish).
const STALLED_RECEIVE_BUFFER: usize = 4096;
const PROGRESS_PERIOD_NS: u64 = 100_000_000;
/// The socket table is long where there are many streams: read it rarely.
const TABLE_PERIOD_NS: u64 = 500_000_000;
/// Poll timeout while streams are to be opened, and else.
const RAMP_PERIOD: Duration = Duration::from_millis(2);
const IDLE_PERIOD: Duration = Duration::from_millis(100);
const WAKER: Token = Token(usize::MAX);
/// Buffers of left-over bytes kept for reuse.
const SPARE_MAX: usize = 64;

/// Reads the plan from stdin and does what the parent says until it says `Finish`.
pub(crate) fn run() -> Result<()> {
    let mut plan = String::new();
    io::stdin().read_line(&mut plan)?;
    let plan: WorkerPlan = serde_json::from_str(&plan).context("the plan")?;
    let mut worker = Worker::new(plan)?;
    let commands = worker.spawn_command_reader()?;
    worker.run(&commands)
}

struct Worker {
    plan: WorkerPlan,
    poll: Poll,
    conns: Vec<Conn>,
    /// Bytes of a stream that wait for the rest of their block. A key exists exactly when
    /// `conns[key].has_kept`.
    kept: HashMap<usize, Vec<u8>>,
    spare: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    seen: Seen,
    progress: Progress,
    /// Streams between connect and open.
    opening: usize,
    started_ns: u64,
    begun: bool,
    cpu_at_begin: Cpu,
    connect_to_open: Latencies,
    stalled_closed_ns: Vec<u64>,
    first_error: Option<String>,
}

/// One stream: the first `plan.readers` read on, the others stall.
struct Conn {
    socket: Option<TcpStream>,
    parser: Parser,
    phase: Phase,
    has_kept: bool,
    started_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// The request is sent, the stream not yet open.
    Opening,
    Open,
    /// Ended by the server after it was open.
    Ended,
    /// Never opened.
    Failed,
}

impl Worker {
    fn new(plan: WorkerPlan) -> Result<Self> {
        let streams = plan.readers + plan.stalled;
        Ok(Self {
            poll: Poll::new()?,
            conns: Vec::with_capacity(streams),
            kept: HashMap::new(),
            spare: Vec::new(),
            scratch: vec![0; READ_LEN],
            seen: Seen::new(&plan),
            progress: Progress::default(),
            opening: 0,
            started_ns: now_ns(),
            begun: false,
            cpu_at_begin: Cpu::default(),
            connect_to_open: Latencies::default(),
            stalled_closed_ns: Vec::new(),
            first_error: None,
            plan,
        })
    }

    /// Commands come on a thread of their own; each wakes the loop. The channel closes with stdin.
    fn spawn_command_reader(&self) -> Result<Receiver<Command>> {
        let waker = Waker::new(self.poll.registry(), WAKER)?;
        let (sender, commands) = mpsc::channel();
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                let Some(command) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                    break;
                };
                if sender.send(command).is_err() {
                    break;
                }
                let _ = waker.wake();
            }
            drop(sender);
            let _ = waker.wake();
        });
        Ok(commands)
    }

    fn run(&mut self, commands: &Receiver<Command>) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut told = (Progress::default(), 0);
        let mut table_read_ns = 0;
        loop {
            let is_ramping = !self.begun && self.conns.len() < self.plan.readers + self.plan.stalled;
            let timeout = if is_ramping { RAMP_PERIOD } else { IDLE_PERIOD };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in events.iter().filter(|event| event.token() != WAKER) {
                let is_closed = event.is_error() || event.is_read_closed();
                self.handle_ready(event.token().0, is_closed);
            }
            if is_ramping {
                self.open_more();
            }
            match commands.try_recv() {
                Ok(Command::Begin) => self.begin(),
                Ok(Command::Finish(slots)) => return say(&Answer::Done(Box::new(self.finish(&slots)))),
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            let now = now_ns();
            if self.begun && self.has_stalled() && now >= table_read_ns + TABLE_PERIOD_NS {
                self.look_for_closed_stalled();
                table_read_ns = now;
            }
            self.progress.received = self.seen.received;
            if now >= told.1 + PROGRESS_PERIOD_NS && told.0 != self.progress {
                say(&Answer::Progress(self.progress))?;
                told = (self.progress, now);
            }
        }
    }

    // Opening.

    /// Opens as many streams as the ramp allows by now.
    fn open_more(&mut self) {
        let elapsed_s = (now_ns() - self.started_ns) as f64 / 1e9;
        let allowed = (elapsed_s * self.plan.ramp) as usize + 1;
        let total = self.plan.readers + self.plan.stalled;
        while self.conns.len() < allowed.min(total) && self.opening < self.plan.opening_max {
            let index = self.conns.len();
            let started_ns = now_ns();
            let (phase, socket) = match self.connect(index) {
                Ok(socket) => (Phase::Connecting, Some(socket)),
                Err(error) => {
                    self.note_failure(&format!("connect: {error}"));
                    (Phase::Failed, None)
                }
            };
            self.opening += usize::from(phase == Phase::Connecting);
            self.conns.push(Conn { socket, parser: Parser::default(), phase, has_kept: false, started_ns });
        }
    }

    fn connect(&self, index: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.plan.addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if self.is_stalled(index) {
            socket.set_recv_buffer_size(STALLED_RECEIVE_BUFFER)?;
        }
        if let Some(source) = self.source(index) {
            setsockopt(&socket.as_fd(), IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&self.plan.addr.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    fn source(&self, index: usize) -> Option<Ipv4Addr> {
        let sources = &self.plan.sources;
        let turn = index / self.plan.streams_per_source.max(1);
        (!sources.is_empty()).then(|| sources[turn % sources.len()])
    }

    fn is_stalled(&self, index: usize) -> bool {
        index >= self.plan.readers
    }

    fn has_stalled(&self) -> bool {
        self.progress.stalled_closed < self.progress.stalled_opened
    }

    // Reading.

    fn handle_ready(&mut self, index: usize, is_closed: bool) {
        if self.conns[index].phase == Phase::Connecting {
            match self.send_request(index) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.handle_close(index, &format!("connect: {error:#}")),
            }
        }
        if self.is_stalled(index) && self.conns[index].phase == Phase::Open {
            if is_closed {
                self.handle_close(index, "closed");
            }
            return;
        }
        match self.read(index, is_closed) {
            Ok(None) => {}
            Ok(Some(reason)) => self.handle_close(index, reason),
            Err(error) => self.handle_close(index, &format!("{error:#}")),
        }
    }

    /// Sends the request once the connection stands; false while it does not.
    fn send_request(&mut self, index: usize) -> Result<bool> {
        let conn = &mut self.conns[index];
        let Some(socket) = conn.socket.as_mut() else {
            return Ok(false);
        };
        if let Some(error) = socket.take_error()? {
            return Err(error.into());
        }
        match socket.write(self.plan.request.as_bytes()) {
            Ok(len) if len == self.plan.request.len() => {}
            Ok(len) => bail!("the kernel took {len} bytes of the request"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.poll.registry().reregister(socket, Token(index), Interest::READABLE)?;
        conn.phase = Phase::Opening;
        Ok(true)
    }

    /// Reads what is there, up to the end if the server `is_closed`. `Some(why)` when the stream is over.
    fn read(&mut self, index: usize, is_closed: bool) -> Result<Option<&'static str>> {
        loop {
            let kept = self.take_kept(index);
            let wanted = if self.is_stalled(index) { STALLED_READ_LEN } else { READ_LEN };
            if self.scratch.len() < kept + wanted {
                self.scratch.resize(kept + wanted, 0);
            }
            let Some(socket) = self.conns[index].socket.as_mut() else {
                return Ok(None);
            };
            let len = match socket.read(&mut self.scratch[kept..kept + wanted]) {
                Ok(0) => return Ok(Some("the server closed the connection")),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.keep(index, 0..kept);
                    return Ok(None);
                }
                Err(error) => return Err(error).context("read"),
            };
            if let Some(reason) = self.handle_read(index, kept, len)? {
                return Ok(Some(reason));
            }
            // A short read empties the socket: what comes later is a new edge. But an end that came
            // with the data has been announced already.
            let is_stalling = self.is_stalled(index) && self.conns[index].phase == Phase::Open;
            if is_stalling || len < wanted && !is_closed {
                return Ok(None);
            }
        }
    }

    /// Parses `scratch[..kept + len]`, of which the last `len` bytes are new.
    fn handle_read(&mut self, index: usize, kept: usize, len: usize) -> Result<Option<&'static str>> {
        let now = now_ns();
        let is_stalled = self.is_stalled(index);
        let (mut opened, mut refused, mut over) = (false, None, None);
        let open_on = self.plan.open_on;
        let (seen, conn) = (&mut self.seen, &mut self.conns[index]);
        seen.counts.reads_running += u64::from(self.begun);
        let keep = conn.parser.handle_bytes(&mut self.scratch[..kept + len], kept, |item| match item {
            Item::Head { status: 200 } => opened |= open_on == OpenOn::Head,
            Item::Head { status } => refused = Some(status),
            Item::End => over = Some("the server ended the response"),
            Item::Block(block) => match seen.handle_block((!is_stalled).then_some(index), &block, now) {
                Some(Sign::Opened) => opened = true,
                Some(Sign::Leave(why)) => over = Some(why),
                None => {}
            },
        })?;
        if let Some(status) = refused {
            bail!("status {status}");
        }
        self.keep(index, keep);
        if opened && self.conns[index].phase == Phase::Opening {
            self.handle_open(index, now);
        }
        Ok(over)
    }

    fn handle_open(&mut self, index: usize, now: u64) {
        self.conns[index].phase = Phase::Open;
        self.opening -= 1;
        self.connect_to_open.record(now - self.conns[index].started_ns);
        if self.is_stalled(index) {
            self.progress.stalled_opened += 1;
        } else {
            self.progress.readers_opened += 1;
        }
    }

    fn handle_close(&mut self, index: usize, reason: &str) {
        let is_stalled = self.is_stalled(index);
        let conn = &mut self.conns[index];
        // Dropping the socket takes it out of the epoll set.
        conn.socket = None;
        if std::mem::take(&mut conn.has_kept) {
            self.kept.remove(&index);
        }
        match conn.phase {
            Phase::Connecting | Phase::Opening => {
                conn.phase = Phase::Failed;
                self.opening -= 1;
                self.note_failure(reason);
            }
            Phase::Open if is_stalled => {
                conn.phase = Phase::Ended;
                self.progress.stalled_closed += 1;
                self.stalled_closed_ns.push(now_ns());
            }
            Phase::Open => {
                conn.phase = Phase::Ended;
                self.progress.readers_closed += 1;
                self.first_error.get_or_insert_with(|| format!("an open stream ended: {reason}"));
            }
            Phase::Ended | Phase::Failed => {}
        }
    }

    fn note_failure(&mut self, reason: &str) {
        self.progress.failed += 1;
        self.first_error.get_or_insert_with(|| format!("a stream did not open: {reason}"));
    }

    /// Moves what was kept of a stream to the front of the scratch buffer.
    fn take_kept(&mut self, index: usize) -> usize {
        if !std::mem::take(&mut self.conns[index].has_kept) {
            return 0;
        }
        let Some(bytes) = self.kept.remove(&index) else {
            return 0;
        };
        let len = bytes.len();
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        self.scratch[..len].copy_from_slice(&bytes);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(bytes);
        }
        len
    }

    fn keep(&mut self, index: usize, range: std::ops::Range<usize>) {
        if range.is_empty() {
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&self.scratch[range]);
        self.kept.insert(index, bytes);
        self.conns[index].has_kept = true;
    }

    /// A client that does not read is not told of a close while unread data fills its window: the
    /// server's FIN waits behind that data. The server's side of the socket shows it at once.
    fn look_for_closed_stalled(&mut self) {
        let states = procfs::server_socket_states(self.plan.addr.port());
        if states.is_empty() {
            return;
        }
        for index in self.plan.readers..self.conns.len() {
            let conn = &self.conns[index];
            let local = conn.socket.as_ref().and_then(|socket| socket.local_addr().ok());
            if let (Phase::Open, Some(SocketAddr::V4(local))) = (conn.phase, local)
                && !is_held_by_server(&states, local)
            {
                self.handle_close(index, "closed");
            }
        }
    }

    // Commands.

    /// From here on every stream is open or given up.
    fn begin(&mut self) {
        self.begun = true;
        for index in 0..self.conns.len() {
            if matches!(self.conns[index].phase, Phase::Connecting | Phase::Opening) {
                self.handle_close(index, "not open in time");
            }
        }
        let unopened = self.plan.readers + self.plan.stalled - self.conns.len();
        self.progress.failed += unopened;
        self.cpu_at_begin = Cpu::own();
    }

    fn finish(&mut self, slots: &[Slot]) -> Done {
        let cpu = Cpu::own().since(self.cpu_at_begin);
        let mut done = Done {
            progress: self.progress,
            publish_to_receive: self.seen.publish_to_receive.to_buckets(),
            intended_to_receive: self.seen.intended_to_receive.to_buckets(),
            connect_to_open: self.connect_to_open.to_buckets(),
            counts: self.seen.counts.clone(),
            stalled_closed_ns: std::mem::take(&mut self.stalled_closed_ns),
            cpu_user_s: cpu.user_s,
            cpu_system_s: cpu.system_s,
            first_error: self.first_error.take(),
            ..Done::default()
        };
        let mut surveys = vec![OrderSurvey::default(); self.plan.topics.len()];
        let readers = self.conns.len().min(self.plan.readers);
        for index in 0..readers {
            let phase = self.conns[index].phase;
            if matches!(phase, Phase::Open | Phase::Ended) {
                self.seen.judge(index, phase == Phase::Ended, slots, &mut done);
                self.seen.survey(index, &mut surveys);
            }
        }
        done.orders = surveys.iter().map(|survey| survey.iter().collect()).collect();
        done
    }
}

/// True unless the server's side is gone or on its way out.
fn is_held_by_server(states: &HashMap<SocketAddrV4, u8>, client: SocketAddrV4) -> bool {
    matches!(states.get(&client), Some(&(procfs::TCP_ESTABLISHED | procfs::TCP_CLOSE_WAIT)))
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}
