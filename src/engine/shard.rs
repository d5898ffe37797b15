//! A shard: one thread's connections, topics, logs and timers, and the verbs that move them.
//!
//! In: [`Shard::join`], [`Shard::ingest`] (in `ingest.rs`), [`Shard::handle_writable`],
//! [`Shard::handle_gone`], [`Shard::advance`]. Out: [`Shard::sweep`] (events, in `sweep.rs`; what is said
//! to one connection alone, in `outbox.rs`),
//! [`Shard::take_wishes`], [`Shard::next_deadline`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;

use crate::engine::conn::{Conn, ConnId, Flags, Many, Owes, Pending, Place, Sub};
use crate::engine::counters::{Counters, Gauges};
use crate::engine::following::Joined;
use crate::engine::log::Seq;
use crate::engine::partition::Partition;
use crate::engine::policy::{HEARTBEAT_JITTER_PERCENT, Limits, TIMERS_PER_TURN};
use crate::engine::registry::{Registry, Subscription};

use crate::engine::slab::{Key, Slab};
use crate::engine::sweep::{Among, Batch, Scratch};
use crate::engine::wheel::Wheel;
use crate::engine::{CloseReason, Position, Sink, Wish};
use crate::event::{Stamp, Tag};
use crate::frame::control::ResetReason;
use crate::frame::{ByteBudget, WireForm, sse};
use crate::topic::Topic;

/// What a new connection wants.
#[derive(Debug)]
pub struct Joining<'a> {
    /// Distinct, at most `TOPICS_PER_STREAM_MAX`; none where a WebSocket's client has yet to name some.
    pub topics: &'a [Topic],
    /// From where it wants those that are durable.
    pub position: Position,
    /// How it wants its events.
    pub form: WireForm,
    /// What is written first.
    pub head: &'a [u8],
}

/// An entry of the run queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum Run {
    /// A dirty topic, and the member index its walk goes on from.
    Walk(Key, u32),
    /// A connection that is served by itself.
    Serve(ConnId),
}

impl Run {
    pub(super) fn reader(&self) -> Option<ConnId> {
        match self {
            Run::Walk(..) => None,
            Run::Serve(id) => Some(*id),
        }
    }
}

/// Counts readers through the run queue. They leave it in the order in which they entered it, so a
/// reader was served exactly when `served` has reached what `issued` was when it had entered.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Readers put into the run queue so far.
    pub(super) issued: u64,
    /// Readers taken from it so far. `served <= issued`.
    pub(super) served: u64,
}

/// How far a shard has come with asking its streams to leave.
#[derive(Debug, Clone, Copy)]
struct Drain {
    /// The tick in which it began.
    since: u32,
    /// How long it takes.
    ticks: u32,
    /// The slots below this one were asked.
    next: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Shard<P> {
    pub(super) limits: Limits,
    /// The current tick.
    pub(super) now: u32,
    pub(super) rng: fastrand::Rng,
    /// The number of the newest event.
    pub(super) seq: Seq,
    pub(super) conns: Slab<Conn<P>>,
    /// Those of them that are WebSockets.
    websockets: usize,
    /// Subscriptions of streams with several topics, by slot. An entry exists exactly for `Flags::MANY`.
    pub(super) many: HashMap<u32, Many, foldhash::fast::RandomState>,
    /// What blocked connections have left to write, by slot. An entry exists exactly for `Flags::BLOCKED`.
    pub(super) pending: HashMap<u32, Pending, foldhash::fast::RandomState>,
    /// The remainders in `pending`, oldest first.
    pub(super) remainders: BTreeSet<(Seq, u32)>,
    /// Where streams with durable topics stand while their cursors do not say it, by slot.
    pub(super) places: HashMap<u32, Place, foldhash::fast::RandomState>,
    /// Streams that have passed from one incarnation of the history into another, by slot: the one they began in, or
    /// the one behind the last loss they were told of.
    pub(super) crossed: HashMap<u32, Tag, foldhash::fast::RandomState>,
    /// Up to where a stream was told that events of a topic are gone, by slot and topic, while it stands before that.
    pub(super) told: BTreeMap<(u32, u32), Stamp>,
    pub(super) partition: Partition,
    pub(super) topics: Registry,
    pub(super) run: VecDeque<Run>,
    /// Topics in the run queue.
    pub(super) dirty: usize,
    pub(super) wheel: Wheel,
    /// Every event in a log, oldest first, with its topic; and some that have left.
    pub(super) order: VecDeque<(Seq, Key)>,
    /// Entries in all logs.
    pub(super) logged: usize,
    pub(super) budget: ByteBudget,
    /// Readers in the run queue.
    pub(super) readers: Readers,
    /// Topics whose last member left, and when. Sorted by time, since all linger equally long.
    idle: VecDeque<(u32, Key)>,
    pub(super) wishes: Vec<Wish>,
    /// See [`Shard::take_joined`].
    pub(super) joined: Vec<Joined>,
    /// See [`Shard::take_settled`].
    pub(super) settled: Vec<ConnId>,
    pub(super) source_connected: bool,
    /// The number of the connection that came last.
    pub(super) source_generation: u32,
    refused_at: Option<u32>,
    draining: Option<Drain>,
    pub(super) batch: Batch,
    pub(super) scratch: Scratch,
    /// Arrival times of events whose walk has ended, until [`Shard::note_written`].
    pub(super) walked: Vec<u64>,
    pub(super) counters: Counters,
}

impl<P> Shard<P> {
    /// A shard without topics, at tick `now`. `seed` feeds jitter only.
    #[must_use]
    pub fn new(limits: Limits, now: u32, seed: u64) -> Shard<P> {
        Shard {
            limits,
            now,
            rng: fastrand::Rng::with_seed(seed),
            seq: 0,
            conns: Slab::default(),
            websockets: 0,
            many: HashMap::default(),
            pending: HashMap::default(),
            remainders: BTreeSet::new(),
            places: HashMap::default(),
            crossed: HashMap::default(),
            told: BTreeMap::new(),
            partition: Partition::default(),
            topics: Registry::default(),
            run: VecDeque::new(),
            dirty: 0,
            wheel: Wheel::new(now),
            order: VecDeque::new(),
            logged: 0,
            budget: ByteBudget::default(),
            readers: Readers::default(),
            idle: VecDeque::new(),
            wishes: Vec::new(),
            joined: Vec::new(),
            settled: Vec::new(),
            source_connected: false,
            source_generation: 0,
            refused_at: None,
            draining: None,
            batch: Batch::default(),
            scratch: Scratch::default(),
            walked: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a connection in. Its head is written at once, `fanwheel.open` as soon as every topic is confirmed.
    ///
    /// Gives `None` when the connection was sent away at once: the shard follows as many topics as
    /// it may, or is draining, or the socket has failed.
    pub fn join<S: Sink<Port = P>>(&mut self, sink: &mut S, port: P, joining: &Joining<'_>) -> Option<ConnId> {
        let &Joining { topics, form, head, position } = joining;
        if self.draining.is_some() {
            self.turn_away(sink, port, form, head, CloseReason::Shutdown);
            return None;
        }
        let new = topics.iter().filter(|topic| self.topics.find(topic).is_none()).count();
        if self.topics.len() + new > self.limits.topics_max {
            self.turn_away(sink, port, form, head, CloseReason::Limit);
            return None;
        }
        let id = self.conns.insert(Conn {
            port,
            form,
            flags: Flags::NONE,
            waiting: 0,
            owes: Owes::OPEN,
            cursor: self.seq,
            sub: Sub { topic: 0, at: 0 },
            link: Default::default(),
            last_write: self.now,
        });
        self.websockets += usize::from(form.is_websocket());
        let places: Vec<Sub> = topics.iter().map(|topic| self.follow(topic, id.slot)).collect();
        let waiting = places.iter().filter(|place| !self.topics.at(place.topic).is_ready()).count();
        let is_durable = places.iter().any(|place| self.topics.at(place.topic).past.is_some());
        // Also where all topics are confirmed: one that is durable may have to wait for its history.
        let may_wait = waiting > 0 || is_durable;
        let due = if may_wait { self.now + self.limits.open_ticks } else { self.now + self.heartbeat_interval() };
        let conn = self.conns.at(id.slot).expect("just inserted");
        conn.waiting = u8::try_from(waiting).expect("bounded by TOPICS_PER_STREAM_MAX");
        if is_durable {
            conn.flags.set(Flags::DURABLE);
            self.places.insert(id.slot, Place::of(position));
        }
        if let [only] = places[..] {
            conn.sub = only;
        } else {
            conn.flags.set(Flags::MANY);
            self.many.insert(id.slot, Many::new(&places, self.seq));
        }
        self.wheel.insert(&mut self.conns, id.slot, due);
        let parked = {
            let conn = self.conns.get(id).expect("just inserted");
            sink.park(&conn.port, id)
        };
        if !parked {
            self.close(sink, id, CloseReason::Limit);
            return None;
        }
        let mut first = head.to_vec();
        if waiting == 0 && !is_durable {
            self.put_open(id, false, None, &mut first);
        }
        self.say(sink, id, &first);
        if waiting == 0 && is_durable {
            self.enqueue(id);
        }
        self.conns.get(id).map(|_| id)
    }

    /// The socket of `id` can take bytes again.
    pub fn handle_writable<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) {
        if self.conns.get(id).is_some_and(|conn| conn.flags.has(Flags::BLOCKED)) {
            self.flush(sink, id);
        }
    }

    /// The peer of `id` has left, or must.
    pub fn handle_gone<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, reason: CloseReason) {
        self.close(sink, id, reason);
    }

    /// Moves the clock and does what is due, at most `TIMERS_PER_TURN` timers. True exactly when
    /// more is due already.
    pub fn advance<S: Sink<Port = P>>(&mut self, sink: &mut S, now: u32) -> bool {
        debug_assert!(now >= self.now);
        self.now = now;
        self.let_idle_topics_go();
        self.partition.repeat_barrier(now);
        self.partition.refresh(now);
        let more = self.drain(sink);
        for _ in 0..TIMERS_PER_TURN {
            let Some(slot) = self.wheel.take_due(&mut self.conns, now) else {
                return more;
            };
            let id = self.conns.key_at(slot).expect("only connections that exist are on the wheel");
            self.handle_timer(sink, id);
        }
        true
    }

    /// Says goodbye to the streams whose turn has come, at most `TIMERS_PER_TURN`. True exactly when
    /// more are due already.
    fn drain<S: Sink<Port = P>>(&mut self, sink: &mut S) -> bool {
        let Some(Drain { since, ticks, next }) = self.draining else { return false };
        let passed = (self.now - since).min(ticks);
        let due = match ticks {
            0 => self.conns.slots(),
            _ => (u64::from(self.conns.slots()) * u64::from(passed) / u64::from(ticks)) as u32,
        };
        let end = due.min(next + TIMERS_PER_TURN as u32).max(next);
        for slot in next..end {
            if let Some(id) = self.conns.key_at(slot) {
                self.dismiss(sink, id, CloseReason::Shutdown);
            }
        }
        self.draining = Some(Drain { since, ticks, next: end });
        end < due
    }

    /// The tick at which [`Shard::advance`] should be called next, at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u32> {
        let idle = self.idle.front().map(|(since, _)| since + self.limits.linger_ticks);
        let drain = self.draining.is_some_and(|drain| drain.next < self.conns.slots()).then_some(self.now + 1);
        let barrier = self.partition.barrier_deadline();
        [self.wheel.next_due(), idle, drain, barrier].into_iter().flatten().min()
    }

    /// What the shard wants of its source, since the last call.
    pub fn take_wishes(&mut self) -> Vec<Wish> {
        let mut wishes = std::mem::take(&mut self.wishes);
        if self.source_connected {
            wishes.extend(self.partition.take_barrier(self.now).map(Wish::Barrier));
        }
        if let Some(tag) = self.partition.lossy.take() {
            wishes.push(Wish::MarkLossy(tag));
        }
        while let Some((number, read)) = self.partition.pages.take_read() {
            self.counters.reads += 1;
            wishes.push(Wish::Read(number, read));
        }
        wishes
    }

    /// Notes the time at which walks ended since the last call.
    pub fn note_written(&mut self, now_us: u64) {
        for received_us in self.walked.drain(..) {
            self.counters.publish_to_write_us.record(now_us.saturating_sub(received_us));
        }
    }

    /// The edge's handle of a connection.
    #[must_use]
    pub fn port(&self, id: ConnId) -> Option<&P> {
        self.conns.get(id).map(|conn| &conn.port)
    }

    /// Streams that follow `topic`.
    #[must_use]
    pub fn subscribers(&mut self, topic: &Topic) -> usize {
        let key = self.topics.find(topic);
        key.and_then(|key| self.topics.get(key)).map_or(0, |topic| topic.members.len())
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is held now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges {
            connections: self.conns.len(),
            websockets: self.websockets,
            blocked: self.pending.len(),
            topics: self.topics.len(),
            topics_unconfirmed: self.topics.unconfirmed(),
            timers: self.wheel.len(),
            log_bytes: self.budget.used(),
            run_queue: self.run.len(),
            source_connected: self.source_connected,
            refused_ticks: self.refused_at.map(|tick| self.now - tick),
        }
    }

    /// Asks every stream to leave, spread evenly over the `ticks` that follow `now`; whoever comes from now on is
    /// turned away. Until its turn comes a stream is served as ever. One that does not take its last
    /// block stays until it has stalled, or [`Shard::close_all`].
    pub fn begin_drain(&mut self, now: u32, ticks: u32) {
        // A shard at rest may not have looked at the clock for long.
        debug_assert!(now >= self.now);
        self.now = now;
        self.draining = Some(Drain { since: now, ticks, next: 0 });
    }

    /// True exactly when no connection is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Closes every connection: the node stops.
    pub fn close_all<S: Sink<Port = P>>(&mut self, sink: &mut S) {
        for slot in 0..self.conns.slots() {
            if let Some(id) = self.conns.key_at(slot) {
                self.close(sink, id, CloseReason::Shutdown);
            }
        }
    }

    /// Enters a connection in a topic's list; the topic is asked for if it was not.
    pub(super) fn follow(&mut self, topic: &Topic, slot: u32) -> Sub {
        let key = match self.topics.find(topic) {
            Some(key) => key,
            None => {
                let key = self.topics.add(topic.clone(), &self.limits.classes, self.seq);
                self.wish_subscribe(topic.clone());
                key
            }
        };
        let state = self.topics.at(key.slot);
        let at = state.members.join(slot);
        if matches!(state.subscription, Subscription::Unsubscribing | Subscription::Refused) {
            state.subscription = Subscription::Subscribing;
            self.wish_subscribe(topic.clone());
        }
        Sub { topic: key.slot, at }
    }

    pub(super) fn wish_subscribe(&mut self, topic: Topic) {
        // Without a connection nothing can be asked; everything is asked for when there is one.
        if self.source_connected {
            self.wishes.push(Wish::Subscribe(topic));
        }
    }

    /// A heartbeat interval, with this connection's share of jitter.
    pub(super) fn heartbeat_interval(&mut self) -> u32 {
        let base = self.limits.heartbeat_ticks;
        let spread = base * HEARTBEAT_JITTER_PERCENT / 100;
        (base - spread + self.rng.u32(0..=2 * spread)).max(1)
    }

    fn handle_timer<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) {
        let now = self.now;
        let conn = self.conns.at(id.slot).expect("the timer's connection exists");
        let (flags, form, last_write) = (conn.flags, conn.form, conn.last_write);
        let is_late = !flags.has(Flags::OPENED) && (conn.waiting > 0 || flags.has(Flags::DURABLE));
        if is_late {
            // When it is blocked, it is told as soon as it is writable.
            conn.waiting = 0;
            conn.owes.add(Owes::UNAVAILABLE);
        }
        if flags.has(Flags::BLOCKED) {
            let due = self.pending[&id.slot].since + self.limits.stall_ticks;
            if due <= now {
                return self.close(sink, id, CloseReason::Stalled);
            }
            if self.has_overflowed_for_good(id, Among::All) {
                return self.close(sink, id, CloseReason::Overflow);
            }
            return self.wheel.insert(&mut self.conns, id.slot, due);
        }
        if is_late {
            return self.dismiss(sink, id, CloseReason::Unavailable);
        }
        let interval = self.heartbeat_interval();
        let due = last_write + interval;
        if due > now {
            return self.wheel.insert(&mut self.conns, id.slot, due);
        }
        self.wheel.insert(&mut self.conns, id.slot, now + interval);
        self.beat(sink, id, sse::heartbeat(form));
    }

    /// Lets the timer of `id` fire at `due` at the latest.
    pub(super) fn fire_by(&mut self, id: ConnId, due: u32) {
        let conn = self.conns.get(id).expect("the caller has it");
        if conn.link.due().is_none_or(|set| set > due) {
            self.wheel.remove(&mut self.conns, id.slot);
            self.wheel.insert(&mut self.conns, id.slot, due);
        }
    }

    /// Ends the subscription of topics nobody has followed for a while.
    fn let_idle_topics_go(&mut self) {
        // What is put back is looked at the next time.
        for _ in 0..self.idle.len() {
            let Some(&(since, key)) = self.idle.front() else { break };
            // Who names topic after topic must not keep those of others out.
            let is_crowded = self.topics.len() > self.limits.topics_max / 2;
            if since + self.limits.linger_ticks > self.now && !is_crowded {
                break;
            }
            self.idle.pop_front();
            let connected = self.source_connected;
            let Some(topic) =
                self.topics.get(key).filter(|topic| topic.members.is_empty() && topic.idle_since == since)
            else {
                continue;
            };
            match topic.subscription {
                // Its turn in the run queue comes first, or its confirmation.
                _ if connected && (topic.queued || topic.subscription == Subscription::Subscribing) => {
                    topic.idle_since = self.now;
                    self.idle.push_back((self.now, key));
                }
                Subscription::Live if connected => {
                    topic.subscription = Subscription::Unsubscribing;
                    self.wishes.push(Wish::Unsubscribe(topic.name.clone()));
                    self.drop_kept(key);
                }
                Subscription::Unsubscribing => {}
                _ => self.forget(key),
            }
        }
    }

    /// Removes a topic nobody follows.
    pub(super) fn forget(&mut self, key: Key) {
        if let Some(topic) = self.topics.get(key) {
            self.logged -= topic.log.len();
            self.dirty -= usize::from(topic.queued);
            self.partition.pages.forget_topic(&topic.name);
            self.topics.remove(key);
            self.partition.note_gone(key);
        }
    }

    pub(super) fn note_refusal(&mut self) {
        self.refused_at = Some(self.now);
    }

    /// Removes a connection and everything that is kept of it.
    pub(super) fn close<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, reason: CloseReason) {
        if self.conns.get(id).is_none() {
            return;
        }
        self.wheel.remove(&mut self.conns, id.slot);
        if let Some(Pending { remainder: Some(remainder), .. }) = self.pending.remove(&id.slot) {
            self.remainders.remove(&(remainder.seq, id.slot));
        }
        let conn = self.conns.remove(id).expect("just found");
        self.websockets -= usize::from(conn.form.is_websocket());
        match self.many.remove(&id.slot) {
            None => self.leave(conn.sub),
            Some(many) => many.iter().for_each(|(topic, sub)| self.leave(Sub { topic, at: sub.at })),
        }
        if conn.flags.has(Flags::DURABLE) {
            self.forget_past(id);
        }
        shrink(&mut self.pending);
        shrink(&mut self.many);
        self.counters.closed[reason as usize] += 1;
        sink.unpark(conn.port, reason);
    }

    /// Forgets where a stream stands in the history.
    pub(super) fn forget_past(&mut self, id: ConnId) {
        self.places.remove(&id.slot);
        self.crossed.remove(&id.slot);
        self.forget_told(id.slot);
        self.partition.forget_reader(id);
        shrink(&mut self.places);
        shrink(&mut self.crossed);
    }

    /// Takes a place out of a topic's list; the one that moves into it learns where it stands.
    pub(super) fn leave(&mut self, sub: Sub) {
        let now = self.now;
        let key = self.topics.key_at(sub.topic);
        let topic = self.topics.at(sub.topic);
        let moved = topic.members.leave(sub.at);
        if topic.members.is_empty() {
            if topic.subscription == Subscription::Refused && !topic.queued {
                self.forget(key);
                return;
            }
            topic.idle_since = now;
            self.idle.push_back((now, key));
        }
        if let Some(slot) = moved {
            self.note_place(slot, sub.topic, sub.at);
        }
    }

    /// Notes that `slot` stands at index `at` of `topic`.
    pub(super) fn note_place(&mut self, slot: u32, topic: u32, at: u32) {
        match self.many.get_mut(&slot) {
            None => {
                let place = &mut self.conns.at(slot).expect("members exist").sub;
                debug_assert_eq!(place.topic, topic);
                place.at = at;
            }
            Some(many) => many.get_mut(topic).expect("members follow the topic").at = at,
        }
    }

    /// Puts a connection into the run queue, once.
    pub(super) fn enqueue(&mut self, id: ConnId) {
        let Some(conn) = self.conns.at(id.slot) else { return };
        if !conn.flags.has(Flags::QUEUED) {
            conn.flags.set(Flags::QUEUED);
            self.run.push_back(Run::Serve(id));
            self.readers.issued += 1;
        }
    }

    pub(super) fn count_reset(&mut self, reason: ResetReason) {
        self.counters.resets[reason as usize] += 1;
    }
}

/// Gives memory back after many have left; the factor keeps it from breathing.
pub(super) fn shrink<V>(map: &mut HashMap<u32, V, foldhash::fast::RandomState>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}
