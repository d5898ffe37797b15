//! One process of subscribers: an epoll loop over thousands of streams.
//!
//! **For:** measuring with little disturbance. All streams share one read buffer; a stream is its
//! descriptor, a parser without bytes, and its row in [`Seen`].
//! What a read leaves over lies in a side table until the next read.
//! **What always holds:** the time of arrival is taken once per read, directly after it; every
//! event is fed to the checks in arrival order.
//! **Overload:** when this loop is too slow, latencies grow and say so; nothing is skipped.
//! **Not chosen:** a thread or task per stream, which would measure its own scheduler.
//!
//! This file is the loop and the parent's commands; `opening` begins and ends streams, `reading` is
//! what arrives on them, `ramp` says when a stream may open, `pace` when to look again.

mod opening;
mod pace;
mod ramp;
mod reading;

use std::collections::HashMap;
use std::io::{self, BufRead as _, ErrorKind, Write as _};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::OrderSurvey;
use mio::net::TcpStream;
use mio::{Events, Poll, Token, Waker};

use self::pace::Pace;
use self::ramp::Ramp;
use super::choice::Choice;
use super::conn::Parser;
use super::protocol::{Answer, Command, Disturbance, Done, Progress, Slot, WorkerPlan};
use super::record::{Recorder, wall_ms};
use super::seen::Seen;
use crate::clock::now_ns;
use crate::latency::Latencies;
use crate::procfs::Cpu;

/// Streams found ready in one look at most.
const EVENTS_MAX: usize = 1024;
const PROGRESS_PERIOD_NS: u64 = 100_000_000;
/// The socket table is long where there are many streams: read it rarely.
const TABLE_PERIOD_NS: u64 = 500_000_000;
/// How often slow streams read.
const SLOW_PERIOD_NS: u64 = 50_000_000;
/// Poll timeout while streams are to be opened, while something else is timed, and else.
const RAMP_PERIOD: Duration = Duration::from_millis(2);
const TIMED_PERIOD: Duration = Duration::from_millis(10);
const IDLE_PERIOD: Duration = Duration::from_millis(100);
const WAKER: Token = Token(usize::MAX);

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
    /// The topics to ask for, by stream.
    choice: Choice,
    poll: Poll,
    /// First the readers, then the slow streams, then the stalled.
    conns: Vec<Conn>,
    /// Bytes of a stream that wait for the rest of their block. A key exists exactly when
    /// `conns[key].has_kept`.
    kept: HashMap<usize, Vec<u8>>,
    /// Bytes in `kept`.
    kept_len: usize,
    spare: Vec<Vec<u8>>,
    scratch: Vec<u8>,
    /// What readers and slow streams saw.
    readers_seen: Seen,
    slow_seen: Seen,
    /// What they were told, where topics are durable.
    recorder: Option<Recorder>,
    progress: Progress,
    ramp: Ramp,
    begun: bool,
    /// When the first event is due; `None` before the parent said so.
    start_ns: Option<u64>,
    disturbance: Option<Disturbance>,
    /// Streams that churn has cut so far; the next one is this, in rotation.
    churned: u64,
    slow_read_ns: u64,
    cpu_at_begin: Cpu,
    cpu_at_start: Cpu,
    connect_to_open: Latencies,
    cut_to_open: Latencies,
    /// The first connect, and the last opening that was a stream's first.
    first_connect_ns: Option<u64>,
    last_opened_ns: Option<u64>,
    last_reopened_ns: u64,
    stalled_closed_ns: Vec<u64>,
    first_error: Option<String>,
}

/// One stream.
struct Conn {
    socket: Option<TcpStream>,
    parser: Parser,
    phase: Phase,
    has_kept: bool,
    /// True exactly when it was open before.
    is_reopening: bool,
    /// What the server said last, or a browser's default.
    retry_ms: u32,
    /// When it began to connect, or was cut.
    started_ns: u64,
}

/// What a stream does once it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reader,
    Slow,
    Stalled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for its turn to open.
    Waiting,
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
        let streams = plan.streams();
        let mut readers_seen = Seen::new(&plan, 0, plan.readers);
        readers_seen.spans_cuts = plan.record_bytes_max.is_some();
        let recorder = |bytes_max| Recorder::new(plan.readers + plan.slow, &plan.topics, bytes_max, wall_ms);
        Ok(Self {
            choice: plan.choice(0..streams),
            poll: Poll::new()?,
            conns: (0..streams).map(|_| Conn::new()).collect(),
            kept: HashMap::new(),
            kept_len: 0,
            spare: Vec::new(),
            scratch: vec![0; reading::READ_LEN],
            readers_seen,
            slow_seen: Seen::new(&plan, plan.readers, plan.slow),
            recorder: plan.record_bytes_max.map(recorder),
            progress: Progress::default(),
            ramp: Ramp::new(plan.ramp, plan.opening_max, streams, now_ns()),
            begun: false,
            start_ns: None,
            disturbance: plan.disturbance,
            churned: 0,
            slow_read_ns: 0,
            cpu_at_begin: Cpu::own(),
            cpu_at_start: Cpu::default(),
            connect_to_open: Latencies::default(),
            cut_to_open: Latencies::default(),
            first_connect_ns: None,
            last_opened_ns: None,
            last_reopened_ns: 0,
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
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut pace = Pace::default();
        let mut told = (Progress::default(), 0);
        let mut table_read_ns = 0;
        loop {
            pace.pause();
            match self.poll.poll(&mut events, Some(self.timeout())) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            pace.handle_wake(events.iter().count(), now_ns());
            for event in events.iter().filter(|event| event.token() != WAKER) {
                let is_closed = event.is_error() || event.is_read_closed();
                self.handle_ready(event.token().0, is_closed);
            }
            match commands.try_recv() {
                Ok(Command::Begin) => self.begin(),
                Ok(Command::Start(start_ns)) => {
                    self.start_ns = Some(start_ns);
                    let calm_from_ns = self.plan.calm_after_ns.map(|after_ns| start_ns + after_ns);
                    self.readers_seen.calm_from_ns = calm_from_ns.unwrap_or(u64::MAX);
                    self.cpu_at_start = Cpu::own();
                }
                Ok(Command::Finish(slots)) => return say(&Answer::Done(Box::new(self.finish(&slots)))),
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            let now = now_ns();
            self.disturb(now);
            self.open_more(now);
            self.read_slow(now);
            if self.begun && self.has_stalled() && now >= table_read_ns + TABLE_PERIOD_NS {
                self.look_for_closed_stalled();
                table_read_ns = now;
            }
            self.tell_progress(&mut told, now)?;
        }
    }

    fn timeout(&self) -> Duration {
        if self.ramp.has_waiting() {
            RAMP_PERIOD
        } else if self.disturbance.is_some() || self.plan.slow > 0 {
            TIMED_PERIOD
        } else {
            IDLE_PERIOD
        }
    }

    fn tell_progress(&mut self, told: &mut (Progress, u64), now: u64) -> Result<()> {
        self.progress.received = self.readers_seen.received;
        if now < told.1 + PROGRESS_PERIOD_NS {
            return Ok(());
        }
        let resets = |seen: &Seen| seen.counts.resets_by_reason.values().sum::<u64>();
        self.progress.resets = resets(&self.readers_seen) + resets(&self.slow_seen);
        self.progress.latency_max_ns = std::mem::take(&mut self.readers_seen.latency_max_ns);
        if told.0 != self.progress {
            say(&Answer::Progress(self.progress))?;
            *told = (self.progress, now);
        }
        Ok(())
    }

    fn kind(&self, index: usize) -> Kind {
        if index < self.plan.readers {
            Kind::Reader
        } else if index < self.plan.readers + self.plan.slow {
            Kind::Slow
        } else {
            Kind::Stalled
        }
    }

    /// Whoever reads is recorded, where topics are durable.
    fn recorder(&mut self, index: usize) -> Option<&mut Recorder> {
        let reads = self.kind(index) != Kind::Stalled;
        self.recorder.as_mut().filter(|_| reads)
    }

    fn has_stalled(&self) -> bool {
        self.progress.stalled_closed < self.progress.stalled_opened
    }

    // Commands.

    /// From here on every stream is open or given up.
    fn begin(&mut self) {
        self.begun = true;
        self.ramp.give_up();
        for index in 0..self.conns.len() {
            if matches!(self.conns[index].phase, Phase::Waiting | Phase::Connecting | Phase::Opening) {
                self.handle_close(index, "not open in time");
            }
        }
        self.cpu_at_start = Cpu::own();
    }

    /// Does what is due of the disturbance.
    fn disturb(&mut self, now: u64) {
        let (Some(start_ns), Some(disturbance)) = (self.start_ns, self.disturbance) else {
            return;
        };
        let elapsed_ns = now.saturating_sub(start_ns);
        match disturbance {
            Disturbance::Churn { per_s, for_ns } => {
                let due = (elapsed_ns.min(for_ns) as f64 / 1e9 * per_s) as u64;
                while self.churned < due && self.plan.readers > 0 {
                    self.cut((self.churned % self.plan.readers as u64) as usize, now);
                    self.churned += 1;
                }
                if elapsed_ns >= for_ns {
                    self.disturbance = None;
                }
            }
            Disturbance::Storm { after_ns, share } if elapsed_ns >= after_ns => {
                self.disturbance = None;
                let count = (self.plan.readers as f64 * share) as usize;
                (0..count).for_each(|index| self.cut(index, now));
                self.ramp.allow_all(now);
            }
            Disturbance::Storm { .. } => {}
        }
    }

    fn finish(&mut self, slots: &[Slot]) -> Done {
        let cpu = Cpu::own().since(self.cpu_at_start);
        let opening_cpu_s = self.cpu_at_start.since(self.cpu_at_begin).total_s();
        self.progress.received = self.readers_seen.received;
        let not_reopened = self.conns.iter().filter(|conn| conn.is_reopening && conn.phase != Phase::Open).count();
        // What a slow stream has not read yet, nobody can demand of it.
        let now = now_ns();
        (0..self.plan.slow).for_each(|stream| self.slow_seen.end_life(stream, now));
        self.end_lives_of_absent();
        let record = self.recorder.take().map(|recorder| {
            recorder.finish(|stream| stream < self.plan.readers && self.conns[stream].phase == Phase::Open)
        });
        let (seen, start_ns) = (&mut self.readers_seen, self.start_ns.unwrap_or(u64::MAX));
        Done {
            progress: self.progress,
            readers: seen.judge(slots, self.plan.settle_ns),
            slow: self.slow_seen.judge(slots, u64::MAX),
            publish_to_receive: seen.publish_to_receive.to_buckets(),
            intended_to_receive: seen.intended_to_receive.to_buckets(),
            calm_to_receive: seen.calm_to_receive.to_buckets(),
            connect_to_open: self.connect_to_open.to_buckets(),
            cut_to_open: self.cut_to_open.to_buckets(),
            first_connect_ns: self.first_connect_ns,
            last_opened_ns: self.last_opened_ns,
            last_reopened_ns: self.last_reopened_ns,
            not_reopened: not_reopened as u64,
            last: std::mem::take(&mut seen.last),
            steady_readers: seen.steady_by_topic(start_ns),
            steady_received: seen.steady_received(start_ns),
            orders: seen.survey(start_ns, slots).iter().map(|survey: &OrderSurvey| survey.iter().collect()).collect(),
            stalled_closed_ns: std::mem::take(&mut self.stalled_closed_ns),
            cpu_user_s: cpu.user_s,
            cpu_system_s: cpu.system_s,
            opening_cpu_s,
            received_at_ns: seen.received_at_ns,
            record,
            first_error: self.first_error.take(),
        }
    }

    /// A life that spans cuts lasts until now; of those that are away at the end, until they left.
    fn end_lives_of_absent(&mut self) {
        if std::mem::take(&mut self.readers_seen.spans_cuts) {
            let readers = self.conns[..self.plan.readers].iter().enumerate();
            for (index, conn) in readers.filter(|(_, conn)| conn.phase != Phase::Open) {
                self.readers_seen.end_life(index, conn.started_ns);
            }
        }
    }
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}
