//! What is said to one connection alone: its first block, resets, heartbeats, its last block; and how
//! it gets on when its socket does not take them.
//!
//! What always holds: a connection is spoken to only while it is not blocked, so its outbox holds
//! the rest of what was said at once, at most `OUTBOX_BYTES_MAX` bytes; it is written after the frame
//! that was cut and before anything from the logs.

use crate::engine::conn::{ConnId, Flags, Owes, Pending};
use crate::engine::policy::{OUTBOX_BYTES_MAX, RETRY_AWAY_MS, RETRY_OPEN_MS, STALL_BYTES_MIN};
use crate::engine::shard::{Shard, shrink};
use crate::engine::{CloseReason, Sent, Sink};
use crate::event::EventId;
use crate::frame::control::{Control, DrainReason, ResetReason};
use crate::frame::ws::{self, CloseCode};
use crate::frame::{WireForm, sse};
use crate::topic::Topic;

impl<P> Shard<P> {
    /// Opens a stream: its `open` block is put after `out`, and from here on nothing is missed untold.
    pub(super) fn put_open(&mut self, id: ConnId, resumed: bool, at: Option<EventId>, out: &mut Vec<u8>) {
        let block = self.open_block(id, resumed, at);
        out.extend_from_slice(&block);
        self.note_opened(id);
    }

    /// The block that opens a stream; none in a form that has no place for it.
    pub(super) fn open_block(&mut self, id: ConnId, resumed: bool, at: Option<EventId>) -> Vec<u8> {
        let retry_ms = self.rng.u32(RETRY_OPEN_MS);
        let topics = self.topic_names(id, |_| true);
        let form = self.conns.get(id).expect("the caller has it").form;
        Control::open(topics.iter(), retry_ms, resumed, at).bytes(form).unwrap_or_default()
    }

    /// A stream is open from here on.
    pub(super) fn note_opened(&mut self, id: ConnId) {
        let seq = self.seq;
        let conn = self.conns.at(id.slot).expect("the caller has it");
        conn.owes.clear(Owes::OPEN);
        conn.flags.set(Flags::OPENED);
        conn.cursor = seq;
        self.counters.opened += 1;
        let heartbeat = self.now + self.heartbeat_interval();
        self.fire_by(id, heartbeat);
    }

    /// Puts a reset after `out`, for the topics that owe it.
    pub(super) fn put_reset(&mut self, id: ConnId, debt: Owes, reason: ResetReason, out: &mut Vec<u8>) {
        let topics = self.topic_names(id, |owes| owes.has(debt));
        let at = self.position(id);
        let conn = self.conns.at(id.slot).expect("the caller has it");
        conn.owes.clear(debt);
        let block = Control::reset(reason, topics.iter(), at).bytes(conn.form);
        out.extend_from_slice(&block.expect("whoever cannot be told of a loss has been dismissed"));
        if let Some(many) = self.many.get_mut(&id.slot) {
            many.iter_mut().for_each(|(_, sub)| sub.owes.clear(debt));
        }
        self.count_reset(reason);
    }

    /// False where the stream's form has no place for a loss: it ends with one.
    pub(super) fn can_be_told(&self, id: ConnId) -> bool {
        self.conns.get(id).is_none_or(|conn| conn.form != WireForm::WsData)
    }

    /// The names of the stream's topics for whose debts `wanted` holds.
    pub(super) fn topic_names(&mut self, id: ConnId, wanted: impl Fn(Owes) -> bool) -> Vec<Topic> {
        let conn = self.conns.get(id).expect("the caller has it");
        match self.many.get(&id.slot) {
            None => vec![self.topics.at(conn.sub.topic).name.clone()],
            Some(many) => many
                .iter()
                .filter(|(_, sub)| wanted(sub.owes))
                .map(|(topic, _)| self.topics.at(topic).name.clone())
                .collect(),
        }
    }

    /// Writes bytes for this connection alone: now, and what is not taken from its outbox.
    pub(super) fn say<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get(id).filter(|_| !bytes.is_empty()) else { return };
        debug_assert!(!conn.flags.has(Flags::BLOCKED), "a blocked connection owes; it is not spoken to");
        self.counters.sends += 1;
        match sink.send(&conn.port, bytes) {
            Sent::All => {
                self.counters.bytes_sent += bytes.len() as u64;
                let now = self.now;
                self.conns.at(id.slot).expect("just found").last_write = now;
            }
            Sent::Part(taken) if bytes.len() - taken > OUTBOX_BYTES_MAX => {
                self.close(sink, id, CloseReason::Stalled);
            }
            Sent::Part(taken) => {
                self.counters.bytes_sent += taken as u64;
                self.block(sink, id).outbox.extend_from_slice(&bytes[taken..]);
            }
            Sent::Closed => self.close(sink, id, CloseReason::Gone),
        }
    }

    /// Sends a heartbeat, which is never queued: a socket that takes none of it is blocked, and a
    /// blocked reader gets none.
    pub(super) fn beat<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, heartbeat: &[u8]) {
        let conn = self.conns.get(id).expect("the timer's connection exists");
        self.counters.sends += 1;
        let taken = match sink.send(&conn.port, heartbeat) {
            Sent::All => heartbeat.len(),
            Sent::Part(taken) => taken,
            Sent::Closed => return self.close(sink, id, CloseReason::Gone),
        };
        self.counters.bytes_sent += taken as u64;
        self.counters.heartbeats += u64::from(taken > 0);
        if taken < heartbeat.len() {
            let rest = if taken > 0 { &heartbeat[taken..] } else { &[] };
            self.block(sink, id).outbox.extend_from_slice(rest);
        }
        if taken > 0 {
            let now = self.now;
            self.conns.at(id.slot).expect("just found").last_write = now;
        }
    }

    /// The socket took less than it was given: from now on it is asked, not offered.
    pub(super) fn block<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) -> &mut Pending {
        let since = self.now;
        let due = since + self.limits.stall_ticks;
        self.counters.blocked += 1;
        self.keep_place(id);
        let conn = self.conns.at(id.slot).expect("the caller has it");
        conn.flags.set(Flags::BLOCKED);
        let waits_to_open = !conn.flags.has(Flags::OPENED) && (conn.waiting > 0 || conn.flags.has(Flags::DURABLE));
        sink.watch_writable(&conn.port, id, true);
        if !waits_to_open {
            self.fire_by(id, due);
        }
        self.pending.entry(id.slot).or_insert_with(|| Pending { since, ..Pending::default() })
    }

    /// Writes what a blocked connection has left; when nothing is left it is served again.
    pub(super) fn flush<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) {
        let conn = self.conns.get(id).expect("the caller has it");
        let pending = self.pending.get_mut(&id.slot).expect("it is blocked");
        let mut taken = 0;
        let mut whole_event = false;
        let mut stopped = None;
        if let Some(remainder) = &mut pending.remainder {
            let rest = &remainder.frame.bytes(remainder.form)[remainder.sent..];
            self.counters.sends += 1;
            match sink.send(&conn.port, rest) {
                Sent::All => {
                    taken += rest.len();
                    whole_event = true;
                    self.remainders.remove(&(remainder.seq, id.slot));
                    pending.remainder = None;
                }
                Sent::Part(part) => {
                    taken += part;
                    remainder.sent += part;
                    stopped = Some(Sent::Part(part));
                }
                Sent::Closed => stopped = Some(Sent::Closed),
            }
        }
        if stopped.is_none() && pending.outbox_sent < pending.outbox.len() {
            let rest = &pending.outbox[pending.outbox_sent..];
            self.counters.sends += 1;
            match sink.send(&conn.port, rest) {
                Sent::All => {
                    taken += rest.len();
                    pending.outbox_sent = pending.outbox.len();
                }
                Sent::Part(part) => {
                    taken += part;
                    pending.outbox_sent += part;
                    stopped = Some(Sent::Part(part));
                }
                Sent::Closed => stopped = Some(Sent::Closed),
            }
        }
        self.counters.bytes_sent += taken as u64;
        pending.accepted += taken;
        if whole_event || pending.accepted >= STALL_BYTES_MIN {
            pending.since = self.now;
            pending.accepted = 0;
        }
        match stopped {
            Some(Sent::Closed) => self.close(sink, id, CloseReason::Gone),
            Some(_) => {}
            None => self.unblock(sink, id),
        }
    }

    /// Nothing is left to write: it is closed if that was asked for, else it stands in the run queue.
    fn unblock<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) {
        let closing = self.pending.remove(&id.slot).and_then(|pending| pending.closing);
        shrink(&mut self.pending);
        let now = self.now;
        let heartbeat = now + self.heartbeat_interval();
        let conn = self.conns.at(id.slot).expect("the caller has it");
        conn.flags.clear(Flags::BLOCKED);
        conn.last_write = now;
        if let Some(reason) = closing {
            return self.close(sink, id, reason);
        }
        let opened = conn.flags.has(Flags::OPENED);
        sink.watch_writable(&conn.port, id, false);
        if opened {
            self.fire_by(id, heartbeat);
        }
        self.enqueue(id);
    }

    /// Answers a connection: now, or behind what it has yet to take. One that lets more than `OUTBOX_BYTES_MAX` collect is
    /// closed.
    pub fn reply<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, bytes: &[u8]) {
        if self.conns.get(id).is_none() {
            return;
        }
        let Some(pending) = self.pending.get_mut(&id.slot) else { return self.say(sink, id, bytes) };
        if pending.closing.is_some() {
            return;
        }
        if pending.outbox.len() - pending.outbox_sent + bytes.len() > OUTBOX_BYTES_MAX {
            return self.close(sink, id, CloseReason::Stalled);
        }
        pending.outbox.extend_from_slice(bytes);
    }

    /// Says the last to a connection, and closes it when that is taken; in the middle of a frame it just closes.
    pub fn end_with<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, last: &[u8], reason: CloseReason) {
        match self.conns.get(id).map(|conn| conn.flags.has(Flags::BLOCKED)) {
            None => return,
            Some(true) => return self.close(sink, id, reason),
            Some(false) => self.say(sink, id, last),
        }
        self.close_when_taken(sink, id, reason);
    }

    /// Closes a connection as soon as nothing is left to write.
    fn close_when_taken<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, reason: CloseReason) {
        // What is pending under this slot is this connection's: nobody joined meanwhile.
        let Some(pending) = self.pending.get_mut(&id.slot) else {
            return self.close(sink, id, reason);
        };
        pending.closing = Some(reason);
        let due = self.now + self.limits.stall_ticks;
        self.fire_by(id, due);
    }

    /// Says the last block and closes, at a block's border; in the middle of one it just closes. Only
    /// at shutdown a blocked reader that was not sent away already is waited for: its frame is finished
    /// first, and the end of the drain closes those that do not take it.
    pub(super) fn dismiss<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, reason: CloseReason) {
        let Some(conn) = self.conns.get(id) else { return };
        let form = conn.form;
        if !conn.flags.has(Flags::BLOCKED) {
            let last = self.last_block(form, reason);
            self.say(sink, id, &last);
        } else if reason == CloseReason::Shutdown && self.pending[&id.slot].closing.is_none() {
            let last = self.last_block(form, reason);
            self.pending.get_mut(&id.slot).expect("it is blocked").outbox.extend_from_slice(&last);
        } else {
            return self.close(sink, id, reason);
        }
        self.close_when_taken(sink, id, reason);
    }

    /// Head, `drain` and end, for a connection that never joins.
    pub fn turn_away<S: Sink<Port = P>>(
        &mut self,
        sink: &mut S,
        port: P,
        form: WireForm,
        head: &[u8],
        reason: CloseReason,
    ) {
        let all = [head, &self.last_block(form, reason)].concat();
        // It is small and the socket is fresh: what does not fit now is not waited for.
        let _ = sink.send(&port, &all);
        self.counters.closed[reason as usize] += 1;
        sink.unpark(port, reason);
    }

    /// What a stream that is sent away is told, and the end of its body, or the close frame.
    fn last_block(&mut self, form: WireForm, reason: CloseReason) -> Vec<u8> {
        let retry_ms = self.rng.u32(RETRY_AWAY_MS);
        let block = match reason {
            CloseReason::Unavailable => Some(Control::unavailable(retry_ms)),
            CloseReason::Overflow => Some(Control::drain(DrainReason::Overload, retry_ms)),
            CloseReason::Limit => Some(Control::drain(DrainReason::Limit, retry_ms)),
            CloseReason::Lost => None,
            _ => Some(Control::drain(DrainReason::Shutdown, retry_ms)),
        };
        let mut last = block.and_then(|block| block.bytes(form)).unwrap_or_default();
        match form {
            WireForm::SseChunked | WireForm::SsePlain => last.extend_from_slice(sse::body_end(form)),
            WireForm::WsJson | WireForm::WsData => last.extend_from_slice(&close_frame(reason)),
        }
        last
    }
}

/// The last frame of a WebSocket that is sent away.
pub(super) fn close_frame(reason: CloseReason) -> Box<[u8]> {
    let code = match reason {
        CloseReason::Unavailable | CloseReason::Limit | CloseReason::Overflow => CloseCode::TRY_AGAIN,
        CloseReason::Lost => CloseCode::EVENTS_LOST,
        _ => CloseCode::GOING_AWAY,
    };
    ws::close(Some(code), reason.label())
}
