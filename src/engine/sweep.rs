//! The way out: readers are handed what lies behind their cursors, in slices.
//!
//! The run queue is served round robin. A *walk* visits the members of one dirty topic and hands
//! each ready one everything pending in one write; readers at the same place share one batch, built
//! once. A reader that was blocked, or was stopped by the size of a batch, is *served* by itself.
//! While a walk is under way new events collect in the log; the walk after it sends them together.
//! That is the whole of batching.

use std::rc::Rc;

use crate::engine::conn::{Conn, ConnId, Flags, Owes, Remainder};
use crate::engine::log::{Log, Seq};
use crate::engine::policy::{BATCH_BYTES_MAX, Overflow};
use crate::engine::registry::TopicState;
use crate::engine::shard::{Run, Shard};
use crate::engine::slab::Key;
use crate::engine::{CloseReason, Sent, Sink};
use crate::frame::WireForm;
use crate::frame::control::ResetReason;

/// Members a walk may look at per send it is allowed: looking costs about 20 ns, sending 5 µs.
const LOOKS_PER_SEND: usize = 16;

/// One frame of a write.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// The frame's number.
    seq: Seq,
    /// Where it ends in the write.
    end: usize,
    /// The slot of the topic whose log holds it.
    topic: u32,
}

/// Frames copied behind one another, so that many readers can be handed them in one write each.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// What `bytes` was built from: topic, form, first and last number.
    built: Option<(Key, WireForm, Seq, Seq)>,
}

/// Buffers that are reused from call to call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    heads: Vec<(u32, usize)>,
}

/// Topics of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// All of them.
    All,
    /// Those without a history.
    Live,
}

/// What was handed over of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything there was.
    Current,
    /// A full batch, and there is more.
    More,
    /// Less than was given, or the connection is gone.
    Stopped,
}

impl<P> Shard<P> {
    /// Serves the run queue for about `sends_max` sends. True exactly when it is not empty after that.
    pub fn sweep<S: Sink<Port = P>>(&mut self, sink: &mut S, sends_max: usize) -> bool {
        let sends_end = self.counters.sends + sends_max as u64;
        let mut looks = sends_max * LOOKS_PER_SEND;
        // What is put into the queue now waits for the next slice: nobody is served twice in one.
        for _ in 0..self.run.len() {
            if self.counters.sends >= sends_end || looks == 0 {
                break;
            }
            match self.run.pop_front() {
                Some(Run::Walk(key, from)) => self.walk(sink, key, from, sends_end, &mut looks),
                Some(Run::Serve(id)) => {
                    looks -= 1;
                    self.readers.served += 1;
                    self.serve(sink, id);
                    self.note_settled(id);
                }
                None => break,
            }
        }
        !self.run.is_empty()
    }

    /// Visits members of a dirty topic from index `from` on, until the slice is used up.
    fn walk<S: Sink<Port = P>>(&mut self, sink: &mut S, key: Key, from: u32, sends_end: u64, looks: &mut usize) {
        let Some(topic) = self.topics.get(key) else { return };
        if from == 0 {
            topic.members.begin_walk();
            topic.walk_covers = topic.log.last_seq();
        }
        let mut at = from;
        loop {
            let topic = self.topics.at(key.slot);
            if at >= topic.members.end() {
                return self.end_walk(key);
            }
            if self.counters.sends >= sends_end || *looks == 0 {
                self.run.push_back(Run::Walk(key, at));
                return;
            }
            let member = topic.members.get(at);
            at += 1;
            *looks -= 1;
            if let Some(slot) = member {
                self.visit(sink, key, slot);
            }
        }
    }

    fn end_walk(&mut self, key: Key) {
        let mut moved = Vec::new();
        let topic = self.topics.at(key.slot);
        topic.members.end_walk(|slot, at| moved.push((slot, at)));
        let (from, to) = (topic.offered, topic.walk_covers);
        topic.offered = to;
        topic.awaits = self.readers.issued;
        topic.queued = topic.log.last_seq() > to;
        if topic.queued {
            self.run.push_back(Run::Walk(key, 0));
        } else {
            self.dirty -= 1;
        }
        // An event that nobody was there for was written nowhere.
        let first = topic.log.position_after(if topic.members.is_empty() { to } else { from });
        let last = topic.log.position_after(to);
        let arrivals = (first..last).filter_map(|at| topic.log.entry(at)).map(|entry| entry.frame.event().received_us);
        self.walked.extend(arrivals);
        for (slot, at) in moved {
            self.note_place(slot, key.slot, at);
        }
    }

    /// Hands a member of a walk what it has not seen, if it is ready.
    fn visit<S: Sink<Port = P>>(&mut self, sink: &mut S, key: Key, slot: u32) {
        let conn = self.conns.at(slot).expect("members exist");
        if !conn.is_ready() && (conn.flags.has(Flags::QUEUED) || !conn.takes_live()) {
            return;
        }
        let many = conn.flags.has(Flags::MANY);
        // It was handed this topic's events with another's.
        if many && self.topics.newest(key.slot) <= conn.cursor {
            return;
        }
        let id = self.conns.key_at(slot).expect("members exist");
        let outcome = if many { self.deliver_many(sink, id) } else { self.deliver(sink, id, key) };
        if outcome == Outcome::More {
            self.enqueue(id);
        }
    }

    /// Serves one reader in its own right: what it is owed, then everything pending. It is not
    /// stopped by a batch's size, so that a log that waits for it waits once; it ends because
    /// nothing is ingested meanwhile.
    fn serve<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) {
        if self.conns.get(id).is_none() {
            return;
        }
        let conn = self.conns.at(id.slot).expect("just found");
        conn.flags.clear(Flags::QUEUED);
        if !conn.is_servable() || !self.pay(sink, id) {
            return;
        }
        if !self.replay(sink, id) && !self.conns.get(id).is_some_and(Conn::takes_live) {
            return;
        }
        let (many, sub) = {
            let conn = self.conns.get(id).expect("it was paid");
            (conn.flags.has(Flags::MANY), conn.sub)
        };
        loop {
            let outcome = if many {
                self.deliver_many(sink, id)
            } else {
                let key = self.topics.key_at(sub.topic);
                self.deliver(sink, id, key)
            };
            if outcome != Outcome::More {
                return;
            }
        }
    }

    /// Says what is owed. False when nothing more may be handed over now.
    fn pay<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) -> bool {
        if self.conns.get(id).expect("the caller has it").owes.has(Owes::UNAVAILABLE) {
            self.dismiss(sink, id, CloseReason::Unavailable);
            return false;
        }
        if self.has_overflowed_for_good(id, Among::Live) {
            self.counters.resets[ResetReason::Overflow as usize] += 1;
            self.dismiss(sink, id, CloseReason::Overflow);
            return false;
        }
        self.skip_what_is_gone(id);
        let (owes, flags) = self.conns.get(id).map(|conn| (conn.owes, conn.flags)).expect("the caller has it");
        if owes == Owes::NOTHING {
            return true;
        }
        if Owes::RESETS.iter().any(|&(debt, _)| owes.has(debt)) && !self.can_be_told(id) {
            self.dismiss(sink, id, CloseReason::Lost);
            return false;
        }
        let mut out = Vec::new();
        if owes.has(Owes::OPEN) {
            if flags.has(Flags::DURABLE) {
                // It is opened, and told what it owes, where it begins in the history.
                return true;
            }
            self.put_open(id, false, None, &mut out);
        }
        for (debt, reason) in Owes::RESETS {
            if owes.has(debt) {
                self.put_reset(id, debt, reason, &mut out);
            }
        }
        self.say(sink, id, &out);
        self.conns.get(id).is_some_and(|conn| !conn.flags.has(Flags::BLOCKED))
    }

    /// True exactly when it has overflowed on a topic whose class disconnects.
    pub(super) fn has_overflowed_for_good(&mut self, id: ConnId, among: Among) -> bool {
        let conn = self.conns.get(id).expect("the caller has it");
        if !conn.flags.has(Flags::OPENED) || conn.flags.has(Flags::REPLAYING) && among == Among::All {
            return false;
        }
        let cursor = conn.cursor;
        let topics = &mut self.topics;
        let mut lost = |topic: u32, from: Seq, owes: Owes| {
            let topic = topics.at(topic);
            if topic.past.is_some() && among == Among::Live {
                return false;
            }
            topic.class.overflow == Overflow::Disconnect && topic.log.floor() > from && !owes.has(Owes::GAP)
        };
        match self.many.get(&id.slot) {
            None => lost(conn.sub.topic, cursor, conn.owes),
            Some(many) => many.iter().any(|(topic, sub)| lost(topic, cursor.max(sub.from), sub.owes)),
        }
    }

    /// Where it has overflowed, moves it to where it goes on and notes the debt.
    fn skip_what_is_gone(&mut self, id: ConnId) {
        let conn = self.conns.at(id.slot).expect("the caller has it");
        if !conn.flags.has(Flags::OPENED) {
            return;
        }
        let Some(many) = self.many.get_mut(&id.slot) else {
            let topic = self.topics.at(conn.sub.topic);
            if topic.past.is_none() && topic.log.floor() > conn.cursor {
                conn.cursor = go_on(&topic.log, &mut conn.owes);
            }
            return;
        };
        for (topic, sub) in many.iter_mut() {
            let topic = self.topics.at(topic);
            if topic.past.is_some() {
                continue;
            }
            let log = &topic.log;
            if log.floor() > conn.cursor.max(sub.from) {
                sub.from = go_on(log, &mut sub.owes);
                conn.owes.add(sub.owes);
            }
        }
    }

    /// Hands a stream of one topic what lies behind its cursor: one event straight from its frame,
    /// several as a batch shared with all readers at the same place.
    fn deliver<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, key: Key) -> Outcome {
        let conn = self.conns.at(id.slot).expect("the caller has it");
        let (form, cursor) = (conn.form, conn.cursor);
        let log = &mut self.topics.at(key.slot).log;
        debug_assert!(log.floor() <= cursor, "only a blocked reader falls behind the floor");
        let (first, last) = (log.position_after(cursor), log.last_seq());
        let Some(entry) = log.entry(first) else {
            conn.cursor = cursor.max(last);
            return Outcome::Current;
        };
        let seq = entry.seq;
        let alone = first + 1 == log.len();
        let length = log.encode(first, form).len();
        if alone || length >= BATCH_BYTES_MAX {
            let sent = sink.send(&conn.port, log.encode(first, form));
            let spans = [Span { seq, end: length, topic: key.slot }];
            return self.settle(sink, id, sent, &spans, if alone { last } else { seq }, alone);
        }
        let mut batch = std::mem::take(&mut self.batch);
        let want = (key, form, seq, last);
        if batch.built != Some(want) {
            batch.build(log, key, form, first);
            batch.built = Some(want);
        }
        let conn = self.conns.get(id).expect("the caller has it");
        let sent = sink.send(&conn.port, &batch.bytes);
        let reached = batch.spans.last().map_or(seq, |span| span.seq);
        let outcome = self.settle(sink, id, sent, &batch.spans, reached, reached == last);
        self.batch = batch;
        outcome
    }

    /// As `deliver`, for a stream of several topics: their logs are merged by number. Of those that are durable a replaying
    /// one is handed nothing here.
    fn deliver_many<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) -> Outcome {
        let conn = self.conns.get(id).expect("the caller has it");
        let (form, is_replaying) = (conn.form, conn.flags.has(Flags::REPLAYING));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.bytes.clear();
        scratch.spans.clear();
        scratch.heads.clear();
        for (topic, sub) in self.many[&id.slot].iter() {
            let newest = self.topics.newest(topic);
            if newest <= conn.cursor {
                continue;
            }
            let from = conn.cursor.max(sub.from);
            let TopicState { log, past, .. } = self.topics.at(topic);
            if newest > from && !log.is_empty() && !(is_replaying && past.is_some()) {
                debug_assert!(log.floor() <= from, "only a blocked reader falls behind the floor");
                scratch.heads.push((topic, log.position_after(from)));
            }
        }
        while let Some((head, topic, seq)) = self.earliest(&scratch.heads) {
            let at = scratch.heads[head].1;
            let frame = self.topics.at(topic).log.encode(at, form);
            if !scratch.bytes.is_empty() && scratch.bytes.len() + frame.len() > BATCH_BYTES_MAX {
                break;
            }
            scratch.bytes.extend_from_slice(frame);
            scratch.spans.push(Span { seq, end: scratch.bytes.len(), topic });
            if at + 1 < self.topics.at(topic).log.len() {
                scratch.heads[head].1 += 1;
            } else {
                scratch.heads.swap_remove(head);
            }
        }
        let all = scratch.heads.is_empty();
        let outcome = if scratch.spans.is_empty() {
            let seq = self.seq;
            self.conns.at(id.slot).expect("the caller has it").cursor = seq;
            Outcome::Current
        } else {
            let last = scratch.spans[scratch.spans.len() - 1].seq;
            let reached = if all { self.seq } else { last };
            let conn = self.conns.get(id).expect("the caller has it");
            let sent = sink.send(&conn.port, &scratch.bytes);
            self.settle(sink, id, sent, &scratch.spans, reached, all)
        };
        if scratch.bytes.capacity() > 2 * BATCH_BYTES_MAX {
            scratch.bytes = Vec::new();
        }
        self.scratch = scratch;
        outcome
    }

    /// The head with the smallest number: its index, topic and number.
    fn earliest(&mut self, heads: &[(u32, usize)]) -> Option<(usize, u32, Seq)> {
        let numbered = heads.iter().enumerate().map(|(index, &(topic, at))| {
            let entry = self.topics.at(topic).log.entry(at).expect("heads point at entries");
            (index, topic, entry.seq)
        });
        numbered.min_by_key(|&(_, _, seq)| seq)
    }

    /// Notes what a write achieved. Everything taken: the cursor is at `reached`. Cut: the frame
    /// that was cut counts as handed over, and its rest is kept.
    fn settle<S: Sink<Port = P>>(
        &mut self,
        sink: &mut S,
        id: ConnId,
        sent: Sent,
        spans: &[Span],
        reached: Seq,
        all: bool,
    ) -> Outcome {
        self.counters.sends += 1;
        let taken = match sent {
            Sent::All => {
                let now = self.now;
                self.counters.deliveries += spans.len() as u64;
                self.counters.bytes_sent += spans.last().map_or(0, |span| span.end) as u64;
                self.counters.batch_events.record(spans.len() as u64);
                let conn = self.conns.at(id.slot).expect("the caller has it");
                conn.cursor = reached;
                conn.last_write = now;
                return if all { Outcome::Current } else { Outcome::More };
            }
            Sent::Part(taken) => taken,
            Sent::Closed => {
                self.close(sink, id, CloseReason::Gone);
                return Outcome::Stopped;
            }
        };
        self.counters.bytes_sent += taken as u64;
        let cut = spans.partition_point(|span| span.end <= taken);
        let begin = if cut == 0 { 0 } else { spans[cut - 1].end };
        let begun = cut + usize::from(taken > begin);
        self.counters.deliveries += begun as u64;
        if begun > 0 {
            let now = self.now;
            self.counters.batch_events.record(begun as u64);
            let conn = self.conns.at(id.slot).expect("the caller has it");
            conn.cursor = spans[begun - 1].seq - u64::from(planted!("repeat"));
            conn.last_write = now;
        }
        let remainder = (taken > begin).then(|| self.remainder(id, spans[cut], taken - begin));
        if let Some(remainder) = &remainder {
            self.remainders.insert((remainder.seq, id.slot));
        }
        self.block(sink, id).remainder = remainder;
        Outcome::Stopped
    }

    fn remainder(&mut self, id: ConnId, span: Span, sent: usize) -> Remainder {
        let form = self.conns.get(id).expect("the caller has it").form;
        let log = &self.topics.at(span.topic).log;
        let entry = log.entry(log.position_after(span.seq - 1)).expect("what is being sent is in the log");
        debug_assert_eq!(entry.seq, span.seq);
        Remainder { seq: span.seq, frame: Rc::clone(&entry.frame), form, sent }
    }
}

impl Batch {
    /// Copies the frames from position `first` on, as many as fit.
    fn build(&mut self, log: &mut Log, key: Key, form: WireForm, first: usize) {
        self.bytes.clear();
        self.spans.clear();
        for at in first..log.len() {
            let frame = log.encode(at, form);
            if !self.bytes.is_empty() && self.bytes.len() + frame.len() > BATCH_BYTES_MAX {
                break;
            }
            self.bytes.extend_from_slice(frame);
            let seq = log.entry(at).expect("just encoded").seq;
            self.spans.push(Span { seq, end: self.bytes.len(), topic: key.slot });
        }
    }
}

/// The cursor of a reader that has fallen behind the floor. It is handed just the newest event; but
/// when it is to be told of a gap anyway, that covers this loss too, and it is handed what there is:
/// a stream that waits for its topics after a gap falls behind without being slow.
fn go_on(log: &Log, owes: &mut Owes) -> Seq {
    if owes.has(Owes::GAP) {
        return log.floor();
    }
    owes.add(Owes::OVERFLOW);
    let newest = log.len().checked_sub(1).and_then(|at| log.entry(at));
    newest.map_or(log.floor(), |entry| (entry.seq - 1).max(log.floor()))
}
