//! Readers that are served by their position in the history, until their cursors say all.
//!
//! ```text
//!  joins ──► waits for its topics, a marker, the end of a hold
//!    │
//!    ├─ from now on ───────────────────────────────────────────────► live: served by its cursor
//!    └─ from a position ──► replaying: tail and log, or pages ──► at the watermark ──► live
//!                               ▲                                                      │
//!                               └────── was blocked for longer than its log reaches ◄──┘
//! ```
//!
//! A replaying reader is handed the events of all its durable topics merged by number, up to the shard's watermark and
//! never beyond it: what comes after that is handed to it by its cursor. Where all of a topic after its position is in
//! the shard (`floor <= position`) it is taken from tail and log, otherwise from shared pages. Its live topics are handed to it
//! by its cursor all the while: nobody can say when it will be at the watermark, and they have no place among numbers.
//!
//! What always holds: everything of its durable topics up to `Place::at` was handed over or told, nothing after it. An
//! event whose predecessor lies behind the position shows a loss, which is told before the next event of any topic, not in
//! its place among them (see `write_losses`).
//!
//! Not chosen: a cursor in sequence numbers for replays. Events of the past have none, and those two kinds of order
//! agree only from the watermark on.

use std::rc::Rc;

use crate::engine::conn::{ConnId, Flags, Many, Place, Remainder};
use crate::engine::history::{Chain, Verdict};
use crate::engine::pages::Cached;
use crate::engine::policy::BATCH_BYTES_MAX;
use crate::engine::shard::Shard;
use crate::engine::writing::{Item, What, Writing};
use crate::engine::{CloseReason, Sent, Sink};
use crate::event::{EventId, Stamp, Tag};
use crate::frame::control::{Control, ResetReason};
use crate::frame::{Frame, WireForm};
use crate::topic::Topic;

/// Where a topic's next events are taken from.
#[derive(Debug)]
struct Head {
    /// The topic's slot.
    topic: u32,
    from: Shelf,
    /// Position of the next event there.
    next: usize,
    /// Its number.
    stamp: Option<Stamp>,
    /// Events are missing up to here, before the next one.
    loss: Option<Stamp>,
}

/// See [`Head`].
#[derive(Debug)]
enum Shelf {
    /// Tail and log.
    Log,
    /// The page that goes on from the reader's position.
    Page(Rc<Cached>),
}

/// Where the heads of a reader's topics lie, and up to where they are known.
enum Heads {
    Found(Vec<Head>, Stamp),
    /// Pages of these topics are needed first, each going on from a number.
    Missing(Vec<(Topic, Stamp)>),
    /// Something is gone, and whether this reader has missed it will be seen when its shard has got there.
    Unclear,
}

impl<P> Shard<P> {
    /// Brings a reader to where its cursor says all. True exactly when it is there.
    pub(super) fn replay<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) -> bool {
        let Some(&place) = self.places.get(&id.slot) else { return true };
        let flags = self.conns.get(id).expect("the caller has it").flags;
        if !flags.has(Flags::REPLAYING) {
            if flags.has(Flags::OPENED) {
                if !self.must_replay(id, place) {
                    self.places.remove(&id.slot);
                    return true;
                }
                self.begin_replay(id);
            } else if !self.begin_reading(sink, id, place) {
                return self.is_live(id);
            }
        }
        self.replay_on(sink, id)
    }

    /// True exactly when it is open, writable and served by its cursor.
    fn is_live(&self, id: ConnId) -> bool {
        let flags = self.conns.get(id).map(|conn| conn.flags);
        flags
            .is_some_and(|flags| flags.has(Flags::OPENED) && !flags.has(Flags::BLOCKED) && !flags.has(Flags::REPLAYING))
    }

    pub(super) fn begin_replay(&mut self, id: ConnId) {
        self.conns.at(id.slot).expect("the caller has it").flags.set(Flags::REPLAYING);
        self.counters.replays += 1;
    }

    /// A stream's position, if it has a durable topic: nothing lies between it and what comes next, and everything
    /// before it was handed over.
    pub(super) fn position(&mut self, id: ConnId) -> Option<EventId> {
        let conn = self.conns.get(id)?;
        if !conn.flags.has(Flags::DURABLE) || !conn.flags.has(Flags::OPENED) {
            return None;
        }
        let has_joined = |many: &Many| many.iter().any(|(topic, sub)| !sub.joining && self.topics.is_durable(topic));
        if !self.many.get(&id.slot).is_none_or(has_joined) {
            return None;
        }
        if let Some(place) = self.places.get(&id.slot) {
            // Before its first event, or before it is told that it cannot go on where it wanted to, it stands nowhere.
            return (!place.astray && !place.fresh).then_some(place.at);
        }
        let (cursor, only) = (conn.cursor, conn.sub.topic);
        let topics = &mut self.topics;
        let mut pending = |topic: u32, from: u64| {
            let topic = topics.at(topic);
            topic.past.as_ref()?;
            topic.log.entry(topic.log.position_after(from))?.frame.stored().map(|stored| stored.id.stamp)
        };
        if planted!("early-id") {
            return Some(self.partition.position());
        }
        let first = match self.many.get(&id.slot) {
            None => pending(only, cursor),
            Some(many) => many.iter().filter_map(|(topic, sub)| pending(topic, cursor.max(sub.from))).min(),
        };
        Some(match first {
            Some(first) => self.partition.chain().position_at(first.before()),
            None => self.partition.position(),
        })
    }

    /// Notes where an open stream with durable topics stands, because its cursor may not say it for long.
    pub(super) fn keep_place(&mut self, id: ConnId) {
        if let Some(at) = self.position(id) {
            self.places.entry(id.slot).or_insert_with(|| Place::at(at));
        }
    }

    /// True exactly when its logs do not reach back to its cursor, or it has yet to be told of a loss on its way.
    fn must_replay(&mut self, id: ConnId, place: Place) -> bool {
        let conn = self.conns.get(id).expect("the caller has it");
        let (cursor, only) = (conn.cursor, conn.sub.topic);
        let chain = self.partition.chain();
        if place.lost || chain.loss_between(place.at.tag, chain.tag).is_some() {
            return true;
        }
        let topics = &mut self.topics;
        let mut lost = |topic: u32, from: u64| {
            let topic = topics.at(topic);
            topic.past.is_some() && topic.log.floor() > from
        };
        match self.many.get(&id.slot) {
            None => lost(only, cursor),
            Some(many) => many.iter().any(|(topic, sub)| lost(topic, cursor.max(sub.from))),
        }
    }

    pub(super) fn set_place(&mut self, id: ConnId, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.places.get_mut(&id.slot) {
            change(place);
        }
    }

    /// The names of the stream's durable topics.
    pub(super) fn durable_topics(&mut self, id: ConnId) -> Vec<Topic> {
        self.durable_slots(id).into_iter().map(|slot| self.topics.at(slot).name.clone()).collect()
    }

    pub(super) fn durable_slots(&mut self, id: ConnId) -> Vec<u32> {
        let only = self.conns.get(id).expect("the caller has it").sub.topic;
        let mut slots = match self.many.get(&id.slot) {
            None => vec![only],
            Some(many) => many.iter().map(|(topic, _)| topic).collect(),
        };
        slots.retain(|&slot| self.topics.at(slot).past.is_some());
        slots
    }

    /// Hands a replaying reader one write. True exactly when it is live now.
    fn replay_on<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId) -> bool {
        let place = self.places[&id.slot];
        if place.awaited > 0 {
            return false;
        }
        let chain = self.partition.chain();
        let mut upto = self.partition.watermark();
        if planted!("beyond-watermark") {
            upto = Stamp::MAX;
        }
        let form = self.conns.get(id).expect("the caller has it").form;
        let (bytes, items) = (Vec::new(), Vec::new());
        let mut writing = Writing { form, bytes, items, reached: place.at, fresh: place.fresh, last: false };
        self.judge(id, place, &chain, upto, &mut writing);
        let heads = self.heads(id, writing.reached.stamp, upto, place.fresh);
        let is_unclear = matches!(heads, Heads::Unclear);
        let (missing, finished) = match heads {
            Heads::Missing(topics) => (topics, false),
            Heads::Unclear => (Vec::new(), false),
            Heads::Found(heads, limit) => {
                let done = self.merge(id, heads, limit, &chain, &mut writing);
                (Vec::new(), done && limit == upto)
            }
        };
        if finished {
            self.finish(id, &chain, upto, &mut writing);
        }
        if !self.hand_over(sink, id, writing) {
            return false;
        }
        if !missing.is_empty() {
            let awaited = self.partition.pages.await_pages(id, missing, upto);
            self.set_place(id, |place| place.awaited = u32::try_from(awaited).expect("bounded by its topics"));
            return false;
        }
        if is_unclear {
            self.partition.await_news(id);
            return false;
        }
        if !finished {
            self.enqueue(id);
            return false;
        }
        self.go_live(id);
        true
    }

    /// Opens it where it stands, or tells it that it stands on nothing.
    fn judge(&mut self, id: ConnId, place: Place, chain: &Chain, upto: Stamp, writing: &mut Writing) {
        if place.fresh {
            return;
        }
        let verdict = chain.judge(place.at, upto);
        if !self.conns.get(id).expect("the caller has it").flags.has(Flags::OPENED) {
            let resumed = verdict == Verdict::Honoured;
            let at = if planted!("ahead-of-replay") { self.partition.position() } else { place.at };
            self.write_open(id, resumed, resumed.then_some(at), writing);
            writing.reached = place.at;
        }
        match verdict {
            Verdict::Honoured if place.lost => self.write_reset(id, ResetReason::Diverged, place.at, writing),
            Verdict::Honoured => {}
            Verdict::Diverged(fence) => self.write_reset(id, ResetReason::Diverged, fence, writing),
            Verdict::Unknown => {
                let here = self.partition.position();
                self.write_reset(id, ResetReason::Epoch, here, writing);
            }
        }
    }

    fn write_open(&mut self, id: ConnId, resumed: bool, at: Option<EventId>, writing: &mut Writing) {
        let block = self.open_block(id, resumed, at);
        let reached = at.unwrap_or(writing.reached);
        writing.put(&block, What::Open(at.is_some()), reached);
    }

    /// Concerns all of the stream's durable topics.
    fn write_reset(&mut self, id: ConnId, reason: ResetReason, at: EventId, writing: &mut Writing) {
        let topics = self.durable_topics(id);
        writing.put_reset(&Control::reset(reason, topics.iter(), Some(at)), What::Reset(reason), at);
    }

    /// Where the events after `at` are to be found.
    fn heads(&mut self, id: ConnId, at: Stamp, upto: Stamp, fresh: bool) -> Heads {
        if at >= upto {
            return Heads::Found(Vec::new(), upto);
        }
        let (mut found, mut missing, mut limit) = (Vec::new(), Vec::new(), upto);
        for slot in self.durable_slots(id) {
            // Up to here nothing of this topic is for this stream: it was told so, or added the topic later.
            let told = self.told.get(&(id.slot, slot)).copied().unwrap_or(at).max(at);
            let topic = self.topics.at(slot);
            let past = topic.past.as_ref().expect("it is durable");
            if past.floor() <= told {
                let next = past.position_after(&topic.log, told);
                let stamp = past.stored(&topic.log, next).map(|stored| stored.id.stamp);
                found.push(Head { topic: slot, from: Shelf::Log, next, stamp, loss: None });
                continue;
            }
            let name = topic.name.clone();
            let Some(page) = self.partition.pages.find(&name, told) else {
                missing.push((name, told));
                continue;
            };
            let next = page.position_after(told);
            let first = page.events.get(next).and_then(|frame| frame.stored());
            // Between events of one page nothing is missing.
            let before = first.filter(|_| next == 0).map(|stored| stored.prev);
            let before = before.or(page.events.is_empty().then_some(page.last));
            let loss = before.filter(|&before| before > told && !fresh && !planted!("no-loss"));
            limit = limit.min(page.end);
            if loss.is_some_and(|loss| loss > upto) {
                self.partition.pages.forget(&name, told);
                return Heads::Unclear;
            }
            let stamp = first.map(|stored| stored.id.stamp);
            found.push(Head { topic: slot, from: Shelf::Page(page), next, stamp, loss });
        }
        if missing.is_empty() { Heads::Found(found, limit) } else { Heads::Missing(missing) }
    }

    /// Writes what lies before `limit`, in order. True exactly when all of it fits.
    fn merge(&mut self, id: ConnId, mut heads: Vec<Head>, limit: Stamp, chain: &Chain, writing: &mut Writing) -> bool {
        self.write_losses(id, &heads, limit, chain, writing);
        loop {
            if writing.last {
                return false;
            }
            let next = heads.iter().enumerate().filter_map(|(index, head)| Some((head.stamp?, index)));
            let Some((stamp, index)) = next.min().filter(|&(stamp, _)| stamp <= limit) else {
                if limit > writing.reached.stamp {
                    self.pass(id, chain.id_of(limit), chain, writing);
                    writing.reached = chain.id_of(limit);
                }
                return true;
            };
            let Some((frame, tag)) = self.frame_at(&heads[index], writing.form) else { return true };
            let length = frame.bytes(writing.form).len();
            if !writing.bytes.is_empty() && writing.bytes.len() + length > BATCH_BYTES_MAX {
                return false;
            }
            if writing.fresh && !self.conns.get(id).expect("the caller has it").flags.has(Flags::OPENED) {
                self.write_open(id, false, None, writing);
            }
            let reached = EventId { stamp, tag };
            self.pass(id, reached, chain, writing);
            if writing.last {
                return false;
            }
            writing.fresh = false;
            let bytes = frame.bytes(writing.form);
            if planted!("swap") && writing.items.len() == 2 {
                writing.bytes.splice(0..0, bytes.iter().copied());
            } else {
                writing.bytes.extend_from_slice(bytes);
            }
            writing.items.push(Item {
                end: writing.bytes.len(),
                reached,
                what: What::Event(heads[index].topic, Rc::clone(&frame)),
            });
            writing.reached = reached;
            self.step(&mut heads[index]);
        }
    }

    /// Writes what is gone before anything that is there: whoever is cut behind an event that is older than what shows
    /// a loss could find elsewhere an older page, or a log, on which nothing is missing any more. For the same reason
    /// it is one block for all topics: between two of them a position would hide the second loss.
    fn write_losses(&mut self, id: ConnId, heads: &[Head], limit: Stamp, chain: &Chain, writing: &mut Writing) {
        let losses: Vec<(u32, Stamp)> =
            heads.iter().filter_map(|head| head.loss.map(|lost| (head.topic, lost))).collect();
        let Some(furthest) = losses.iter().map(|&(_, lost)| lost).max() else { return };
        let next = heads.iter().filter_map(|head| head.stamp).min().map_or(limit, |next| limit.min(next.before()));
        let place = chain.id_of(furthest.min(next));
        self.pass(id, place, chain, writing);
        let at = if place.stamp > writing.reached.stamp { place } else { writing.reached };
        let names: Vec<Topic> = losses.iter().map(|&(topic, _)| self.topics.at(topic).name.clone()).collect();
        let block = Control::reset(ResetReason::Trimmed, names.iter(), Some(at));
        if planted!("loss-twice") {
            writing.put_reset(&block, What::Trimmed(losses.clone()), at);
        }
        writing.put_reset(&block, What::Trimmed(losses), at);
    }

    /// Forgets what a stream was told that it stands behind now, or no longer stands at all.
    pub(super) fn forget_told(&mut self, slot: u32) {
        while let Some((&key, _)) = self.told.range((slot, 0)..=(slot, u32::MAX)).next() {
            self.told.remove(&key);
        }
    }

    /// On its way to `to` it may pass a place at which events are known to be lost: it is told there.
    fn pass(&mut self, id: ConnId, to: EventId, chain: &Chain, writing: &mut Writing) {
        let lost = chain.loss_between(writing.reached.tag, to.tag).filter(|_| !writing.fresh);
        if let Some(lost) = lost {
            self.write_reset(id, ResetReason::Diverged, lost, writing);
        }
    }

    /// The event a head stands on, and its tag.
    fn frame_at(&mut self, head: &Head, form: WireForm) -> Option<(Rc<Frame>, Tag)> {
        let frame = match &head.from {
            Shelf::Log => {
                let topic = self.topics.at(head.topic);
                let (past, log) = (topic.past.as_ref()?, &mut topic.log);
                past.encode(log, head.next, form)?.0
            }
            Shelf::Page(page) => Rc::clone(page.events.get(head.next)?),
        };
        let tag = frame.stored()?.id.tag;
        Some((frame, tag))
    }

    /// Moves a head to its next event.
    fn step(&mut self, head: &mut Head) {
        head.next += 1;
        let stored = match &head.from {
            Shelf::Log => {
                let topic = self.topics.at(head.topic);
                topic.past.as_ref().and_then(|past| past.stored(&topic.log, head.next))
            }
            Shelf::Page(page) => page.events.get(head.next).and_then(|frame| frame.stored()),
        };
        head.stamp = stored.map(|stored| stored.id.stamp);
    }

    /// Everything up to the watermark is written: what is left to say.
    fn finish(&mut self, id: ConnId, chain: &Chain, upto: Stamp, writing: &mut Writing) {
        let is_open = self.conns.get(id).expect("the caller has it").flags.has(Flags::OPENED);
        if !is_open && writing.items.is_empty() {
            let here = self.partition.position();
            self.write_open(id, false, Some(here), writing);
        }
        let here = chain.position_at(upto);
        self.pass(id, here, chain, writing);
        writing.reached = here;
    }

    /// Hands a write over. True exactly when all of it was taken.
    fn hand_over<S: Sink<Port = P>>(&mut self, sink: &mut S, id: ConnId, writing: Writing) -> bool {
        let Writing { form, bytes, mut items, reached, last, .. } = writing;
        if bytes.is_empty() {
            // Where there is no place for `open`, a stream is open without it.
            self.note_handed(id, &items, 0);
            self.set_place(id, |place| place.at = reached);
            return true;
        }
        self.counters.sends += 1;
        let port = &self.conns.get(id).expect("the caller has it").port;
        let taken = match sink.send(port, &bytes) {
            Sent::All => bytes.len(),
            Sent::Part(taken) => taken,
            Sent::Closed => {
                self.close(sink, id, CloseReason::Gone);
                return false;
            }
        };
        self.counters.bytes_sent += taken as u64;
        let whole = items.partition_point(|item| item.end <= taken);
        let begin = if whole == 0 { 0 } else { items[whole - 1].end };
        let is_begun = taken > begin;
        items.truncate(whole + usize::from(is_begun));
        self.note_handed(id, &items, taken);
        if taken == bytes.len() {
            if last {
                self.close(sink, id, CloseReason::Lost);
                return false;
            }
            self.set_place(id, |place| place.at = reached);
            return true;
        }
        let cut = items.pop().filter(|_| is_begun);
        let seq = self.seq;
        let pending = self.block(sink, id);
        match cut {
            Some(Item { what: What::Event(_, frame), .. }) => {
                pending.remainder = Some(Remainder { seq, frame, form, sent: taken - begin });
                self.remainders.insert((seq, id.slot));
            }
            Some(Item { end, what, .. }) => {
                pending.outbox.extend_from_slice(&bytes[taken..end]);
                pending.closing = matches!(what, What::Last).then_some(CloseReason::Lost);
            }
            None => {}
        }
        false
    }

    /// Notes what a socket has taken, or has begun to take.
    fn note_handed(&mut self, id: ConnId, items: &[Item], taken: usize) {
        let mut events = 0;
        let current = self.partition.chain().tag;
        let is_fresh = self.places.get(&id.slot).is_some_and(|place| place.fresh);
        for item in items {
            match &item.what {
                What::Open(is_placed) => {
                    self.note_opened(id);
                    self.set_place(id, |place| {
                        place.astray = !is_placed && !place.fresh;
                        place.fresh &= !is_placed;
                    });
                }
                What::Reset(reason) => {
                    self.count_reset(*reason);
                    self.crossed.remove(&id.slot);
                    self.set_place(id, |place| (place.lost, place.astray) = (false, false));
                }
                What::Last => {}
                What::Trimmed(losses) => {
                    self.count_reset(ResetReason::Trimmed);
                    self.told.extend(losses.iter().map(|&(topic, lost)| ((id.slot, topic), lost)));
                }
                What::Event(topic, _) => {
                    events += 1;
                    // Whatever is missing behind it is another loss.
                    self.told.remove(&(id.slot, *topic));
                }
            }
            // Whoever asked for no certain position begins with its first event.
            let is_somewhere = !(is_fresh && matches!(item.what, What::Open(false)));
            if is_somewhere && item.reached.tag != current {
                self.crossed.entry(id.slot).or_insert(item.reached.tag);
            }
        }
        self.counters.deliveries += events;
        if events > 0 {
            self.counters.batch_events.record(events);
        }
        let reached = items.last().map(|item| item.reached);
        self.set_place(id, |place| {
            place.at = reached.unwrap_or(place.at);
            place.fresh &= events == 0;
        });
        let now = self.now;
        if taken > 0 {
            self.conns.at(id.slot).expect("the caller has it").last_write = now;
        }
    }

    /// It stands at the watermark: from here on its cursor says all.
    fn go_live(&mut self, id: ConnId) {
        self.places.remove(&id.slot);
        self.forget_told(id.slot);
        // While the shard catches up it may have yet to pass from one incarnation into the next.
        let (here, current) = (self.partition.position().tag, self.partition.chain().tag);
        if here != current {
            self.crossed.entry(id.slot).or_insert(here);
        }
        let seq = if planted!("live-early") { self.seq.saturating_sub(1) } else { self.seq };
        let topics = &mut self.topics;
        let conn = self.conns.at(id.slot).expect("the caller has it");
        conn.flags.clear(Flags::REPLAYING);
        let Some(many) = self.many.get_mut(&id.slot) else {
            conn.cursor = seq;
            return;
        };
        let mut all = true;
        for (topic, sub) in many.iter_mut() {
            match topics.at(topic).past {
                Some(_) => sub.from = seq,
                None => all = false,
            }
        }
        // Of its live topics it has yet to be handed what came meanwhile.
        if all {
            conn.cursor = seq;
        }
    }

    /// An answer a reader waits for has come; or one that is of no use, since the history has changed.
    pub(super) fn handle_arrival(&mut self, id: ConnId, is_current: bool) {
        if self.conns.get(id).is_none() {
            return;
        }
        let mut ready = false;
        self.set_place(id, |place| {
            place.awaited = place.awaited.saturating_sub(1);
            ready = place.awaited == 0;
        });
        match (ready, is_current) {
            (false, _) => {}
            (true, true) => self.enqueue(id),
            (true, false) => self.partition.await_news(id),
        }
    }
}
