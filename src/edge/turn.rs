//! The turn: what one shard does, over and over, on its own thread.
//!
//! ```text
//!  timers → newcomers → inbox (a portion) → catching up (a portion) → answers → sweep (a slice) → wishes
//!         → sockets → calls → yield
//! ```
//!
//! Between two slices, or after eight at the latest, the runtime runs accepts, requests and Redis; when
//! a turn has left nothing to do, the shard rests until its inbox, a socket, a newcomer or the next
//! timer wakes it.
//!
//! When the node stops, the shard asks its streams to leave and turns on until all have left and all
//! requests are answered, or the time for it is up.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tracing::error;

use crate::clock::Clock;
use crate::edge::calls::{Call, Report};
use crate::edge::desk::{Arriving, Desk, Newcomer, Wants};
use crate::edge::port::{Port, Ports};
use crate::edge::reactor::{Happened, Reactor};
use crate::edge::ws::talk::Talking;
use crate::engine::mailbox::{Mailbox, Taken};
use crate::engine::policy::{PORTION, SLICE_SENDS};
use crate::engine::{Answered, CloseReason, Confirmation, ConnId, Inbound, Ingested, Interest, Joining, Shard, Wish};

/// Calls answered per turn.
const CALLS_PER_TURN: usize = 64;
/// So many turns follow one another at most without the runtime: a shard that others keep waking may
/// find its rest over as soon as it begins.
const TURNS_PER_YIELD: u64 = 8;

/// From the first thing a shard does after it has given back memory until it does so again. 5 s.
const GIVE_BACK_TICKS: u32 = 50;

/// WebSockets that are heard in a turn, up to 16 KiB each.
const HEARD_PER_TURN: usize = 64;
/// Between two looks for messages that are not complete in time. 1 s.
const OVERDUE_TICKS: u32 = 10;

/// The last part of a drain in which nobody is asked any more.
const DRAIN_REST: u32 = 4;
/// However short the drain: everybody is told, a portion per turn, and who takes it is not cut off. 1 s.
const DRAIN_TICKS_MIN: u32 = 10;

/// What a turn works on.
pub struct Turn {
    shard: Shard<Port>,
    ports: Ports,
    reactor: AsyncFd<Reactor>,
    /// Empty between turns.
    happened: Vec<(ConnId, Happened)>,
    inbox: Arc<Mailbox<Inbound>>,
    /// A message that could not be taken yet.
    held: Option<Taken<Inbound>>,
    calls: Arc<Mailbox<Call>>,
    answers: Arc<Mailbox<Answered>>,
    interest: Box<dyn Interest>,
    desk: Rc<Desk>,
    wake: Arc<Notify>,
    clock: Clock,
    give_back_memory: fn(),
    /// The tick after which it is called when the shard rests; none while nothing was done since.
    give_back_due: Option<u32>,
    /// WebSockets that were heard in this turn.
    heard: usize,
    /// The tick in which messages that are not complete are looked at next.
    overdue_due: u32,
    turns: u64,
    drain_ticks: u32,
    /// The tick in which the drain ends, once it has begun.
    drain_end: Option<u32>,
    /// True exactly when nothing was left here, once the node stops.
    is_done: bool,
}

/// What a turn is made from.
pub struct TurnParts {
    /// The engine.
    pub shard: Shard<Port>,
    /// Where the source puts what it says.
    pub inbox: Arc<Mailbox<Inbound>>,
    /// Where questions come in.
    pub calls: Arc<Mailbox<Call>>,
    /// Where the source puts what was read.
    pub answers: Arc<Mailbox<Answered>>,
    /// Where wishes go.
    pub interest: Box<dyn Interest>,
    /// Where newcomers come from.
    pub desk: Rc<Desk>,
    /// Notified by both mailboxes and the desk.
    pub wake: Arc<Notify>,
    /// The node's clock.
    pub clock: Clock,
    /// Called on the shard's thread when it has time.
    pub give_back_memory: fn(),
    /// How long streams may take to leave when the node stops; the turn must be woken then.
    pub drain_ticks: u32,
}

impl Turn {
    /// Ready to run, on the shard's runtime.
    ///
    /// # Errors
    /// When the kernel gives no epoll, or the runtime's own refuses it.
    pub fn new(parts: TurnParts) -> std::io::Result<Turn> {
        let TurnParts { shard, inbox, calls, answers, interest, desk, wake, clock, give_back_memory, drain_ticks } =
            parts;
        let (reactor, sockets) = Reactor::new()?;
        let ports = Ports::new(sockets, Rc::clone(&desk));
        let reactor = reactor.awaited()?;
        Ok(Turn {
            shard,
            ports,
            reactor,
            happened: Vec::new(),
            inbox,
            held: None,
            calls,
            answers,
            interest,
            desk,
            wake,
            clock,
            give_back_memory,
            give_back_due: None,
            heard: 0,
            overdue_due: 0,
            turns: 0,
            drain_ticks,
            drain_end: None,
            is_done: false,
        })
    }

    /// Turns until the node has stopped.
    pub async fn run(mut self) {
        while !self.has_stopped() {
            self.turns += 1;
            let mut has_more = self.shard.advance(&mut self.ports, self.clock.now_tick());
            self.take_newcomers();
            has_more |= self.take_inbound();
            has_more |= self.shard.catch_up(&mut self.ports);
            has_more |= self.take_answers();
            has_more |= self.shard.sweep(&mut self.ports, SLICE_SENDS);
            // Behind the sweep: a reader that was served may want the next page of its history.
            has_more |= self.pass_wishes();
            has_more |= self.talking().go_on();
            self.end_overdue();
            self.shard.note_written(self.clock.now_us());
            has_more |= self.poll_sockets();
            has_more |= self.answer_calls();
            // Whoever was the last to leave has left in this turn.
            if has_more || self.turns.is_multiple_of(TURNS_PER_YIELD) || self.has_stopped() {
                tokio::task::yield_now().await;
            } else {
                self.rest().await;
            }
        }
        self.shard.close_all(&mut self.ports);
    }

    /// True exactly when the node stops and nothing is left to wait for. Asked the first time, it
    /// begins the drain: streams are asked to leave over most of the time, so that the last ones
    /// still have some to take what they are told.
    fn has_stopped(&mut self) -> bool {
        if !self.desk.node.stop.is_set() {
            return false;
        }
        let now = self.clock.now_tick();
        let end = *self.drain_end.get_or_insert_with(|| {
            self.shard.begin_drain(now, self.drain_ticks - self.drain_ticks / DRAIN_REST);
            now + self.drain_ticks.max(DRAIN_TICKS_MIN)
        });
        let is_empty = self.shard.is_empty() && self.desk.tasks() == 0 && !self.desk.has_newcomers();
        if is_empty && !self.is_done {
            self.is_done = true;
            self.desk.node.unfinished.fetch_sub(1, Ordering::AcqRel);
        }
        // Shards end together: requests of one may need another, the sequencer's for one.
        (self.is_done && self.desk.node.unfinished.load(Ordering::Acquire) == 0) || now >= end
    }

    fn take_newcomers(&mut self) {
        for Newcomer { port, place, wants, mut early } in self.desk.take_newcomers() {
            let Wants { head, form, topics, position, .. } = wants;
            let port = match port {
                Arriving::Socket(socket) => self.ports.take_socket(socket, place, form),
                Arriving::Body(pipe) => self.ports.take_body(pipe, place),
            };
            let Some(topics) = topics else {
                self.shard.turn_away(&mut self.ports, port, form, &head, CloseReason::Limit);
                continue;
            };
            let joining = Joining { topics: &topics, position, form, head: &head };
            let id = self.shard.join(&mut self.ports, port, &joining);
            if let Some(id) = id.filter(|_| !early.is_empty()) {
                self.talking().hear(id, &mut early);
            }
        }
    }

    /// What WebSockets are heard with.
    fn talking(&mut self) -> Talking<'_> {
        Talking { shard: &mut self.shard, ports: &mut self.ports, desk: &self.desk, now: self.clock.now_tick() }
    }

    /// Takes what was read. True exactly when there was something: it may lead to more.
    fn take_answers(&mut self) -> bool {
        let mut any = false;
        while let Some(Taken::Message(answered)) = self.answers.take() {
            self.shard.handle_answer(answered);
            any = true;
        }
        any
    }

    /// Tells the source what the engine wants. True exactly when it wanted anything: what is confirmed at once
    /// may lead to more.
    fn pass_wishes(&mut self) -> bool {
        let wishes = self.shard.take_wishes();
        let any = !wishes.is_empty();
        for wish in wishes {
            match wish {
                Wish::Renew(generation) => self.interest.renew(generation),
                Wish::Subscribe(topic) => {
                    if self.interest.subscribe(&topic) == Confirmation::Now {
                        self.shard.handle_subscribed(&topic);
                    }
                }
                Wish::Unsubscribe(topic) => {
                    if self.interest.unsubscribe(&topic) == Confirmation::Now {
                        self.shard.handle_unsubscribed(&topic);
                    }
                }
                Wish::Barrier(question) => self.interest.barrier(question),
                Wish::Read(number, read) => self.interest.read(number, read),
                Wish::MarkLossy(tag) => self.interest.mark_lossy(tag),
            }
        }
        any
    }

    /// Takes a portion of the inbox; ends early when the engine wants a sweep first. True exactly
    /// when there may be more.
    fn take_inbound(&mut self) -> bool {
        for _ in 0..PORTION {
            let Some(taken) = self.held.take().or_else(|| self.inbox.take()) else {
                return false;
            };
            self.held = match taken {
                Taken::Message(message) => match self.shard.ingest(&mut self.ports, message) {
                    Ingested::Done => None,
                    Ingested::Full(message) => Some(Taken::Message(message)),
                },
                Taken::Gap => (!self.shard.ingest_gap()).then_some(Taken::Gap),
            };
            if self.held.is_some() {
                return true;
            }
        }
        true
    }

    /// Does what sockets ask for. True exactly when one did.
    fn poll_sockets(&mut self) -> bool {
        let mut happened = std::mem::take(&mut self.happened);
        // Asked of the runtime, which looks when it has its turn: no system call where nothing happened.
        // It forgets only after a look that found nothing: what happens between the look and the
        // forgetting sets it anew.
        let looked = self.reactor.try_io_mut(tokio::io::Interest::READABLE, |reactor| {
            happened.extend(reactor.poll()?);
            if happened.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if let Err(error) = looked
            && error.kind() != ErrorKind::WouldBlock
        {
            error!(%error, "epoll failed");
        }
        happened.extend(self.desk.take_happened());
        let any = !happened.is_empty();
        self.heard = 0;
        for (id, what) in happened.drain(..) {
            self.handle(id, what);
        }
        self.happened = happened;
        any
    }

    /// Ends WebSockets whose message is not complete in time; looks for them about once a second.
    fn end_overdue(&mut self) {
        let now = self.clock.now_tick();
        if now >= self.overdue_due && !self.ports.talks.is_empty() {
            self.overdue_due = now + OVERDUE_TICKS;
            self.talking().end_overdue();
        }
    }

    fn handle(&mut self, id: ConnId, what: Happened) {
        let is_heard = matches!(self.shard.port(id), Some(Port::WebSocket(_)));
        match what {
            Happened::Readable if is_heard => {
                // The others come first, and streams before all of them.
                if self.heard >= HEARD_PER_TURN || self.talking().read(id) {
                    self.desk.tell(id, Happened::Readable);
                }
                self.heard += 1;
            }
            Happened::Gone if is_heard => self.talking().handle_gone(id),
            Happened::Gone => {
                self.shard.handle_gone(&mut self.ports, id, CloseReason::Gone);
            }
            Happened::Writable => self.shard.handle_writable(&mut self.ports, id),
            Happened::Readable => {
                let must_go = self.shard.port(id).and_then(|port| self.ports.discard(port).err());
                if let Some(reason) = must_go {
                    self.shard.handle_gone(&mut self.ports, id, reason);
                }
            }
        }
    }

    /// Answers what was asked. True exactly when there may be more.
    fn answer_calls(&mut self) -> bool {
        for _ in 0..CALLS_PER_TURN {
            let Some(Taken::Message(call)) = self.calls.take() else {
                return false;
            };
            self.answer(call);
        }
        true
    }

    /// An asker that has gone away does not need the answer.
    fn answer(&mut self, call: Call) {
        match call {
            Call::Subscribers(topic, reply) => {
                let _ = reply.send(self.shard.subscribers(&topic));
            }
            Call::Report(reply) => {
                let _ = reply.send(Box::new(self.report()));
            }
        }
    }

    fn report(&mut self) -> Report {
        Report {
            counters: self.shard.counters().clone(),
            gauges: self.shard.gauges(),
            turns: self.turns,
            inbox_len: self.inbox.len(),
            inbox_dropped: self.inbox.dropped(),
            published: self.desk.published(),
        }
    }

    /// Waits until there is something to do.
    async fn rest(&mut self) {
        if !self.inbox.arm() || !self.calls.arm() || !self.answers.arm() {
            return tokio::task::yield_now().await;
        }
        let now = self.clock.now_tick();
        if self.give_back_due.take_if(|due| *due <= now).is_some() {
            (self.give_back_memory)();
        }
        // While the node stops, others are looked at each tick.
        let other_shards = self.drain_end.map(|_| now + 1);
        let overdue = (!self.ports.talks.is_empty()).then_some(self.overdue_due.max(now + 1));
        let next = [self.shard.next_deadline(), other_shards, self.give_back_due, overdue].into_iter().flatten().min();
        let deadline = next.map(|tick| self.clock.tick_at(tick).into());
        let timer = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.wake.notified() => {}
            // The next turn looks what it is.
            _ = self.reactor.readable_mut() => {}
            () = timer => {}
        }
        self.give_back_due.get_or_insert(self.clock.now_tick() + GIVE_BACK_TICKS);
    }
}
