//! The lives of streams, and what each had to see.
//!
//! A life is one connection, from open to its end; a stream that is opened again has another. What a
//! life must have seen follows from when it was open:
//!
//! ```text
//!   sent:     e0    e1    e2    e3    e4    e5    e6
//!                 │open                        │end
//!                       └────── demanded ─┘ └───┘ on their way
//! ```
//!
//! Demanded is what was sent after the stream was seen open and, of a life that ended, up to the
//! last event it brought, or `settle` before its end, whichever is later. Nobody can say whether
//! what was sent later still had to arrive: it is neither demanded nor held against anyone.
//!
//! Where topics are durable a stream has one life over all its connections: what was sent while it was away is
//! demanded too.

use checker::{OrderSurvey, Published, StreamCheck};

use super::protocol::{Judgement, Slot};
use super::seen::Seen;

/// A life that is over.
#[derive(Debug)]
pub(super) struct Past {
    stream: usize,
    opened_ns: u64,
    closed_ns: u64,
    checks: Vec<StreamCheck>,
}

impl Seen {
    pub(super) fn begin_life(&mut self, stream: usize, now: u64) {
        if !self.spans_cuts || self.opened_ns[stream] == 0 {
            self.opened_ns[stream] = now;
        }
    }

    /// The stream is over; what it saw is kept for the judgement.
    pub(super) fn end_life(&mut self, stream: usize, now: u64) {
        if self.spans_cuts {
            return;
        }
        let opened_ns = std::mem::take(&mut self.opened_ns[stream]);
        let checks = self.ledger.take_stream(stream);
        let first = stream * self.topics_per_stream();
        let per_stream = self.topics_per_stream();
        self.orders[first..first + per_stream].fill_with(Default::default);
        self.was_reset[stream] = false;
        self.gap_told_ns[stream] = 0;
        self.was_reopened[stream] = true;
        if opened_ns > 0 {
            self.past.push(Past { stream, opened_ns, closed_ns: now, checks });
        }
    }

    /// Holds all lives against what was published in each slot.
    pub(super) fn judge(&self, slots: &[Slot], settle_ns: u64) -> Judgement {
        let mut judge = Judge { slots, settle_ns, found: Judgement::default(), undelivered: Undelivered::new(slots) };
        let mut reopened_ns = self.opened_ns.clone();
        for past in self.past.iter().rev() {
            let reopened_ns = std::mem::replace(&mut reopened_ns[past.stream], past.opened_ns);
            let life = Life { opened_ns: past.opened_ns, closed_ns: Some(past.closed_ns), reopened_ns };
            for (index, check) in past.checks.iter().enumerate() {
                judge.take(check, self.slot_of(past.stream, index), life);
            }
        }
        for stream in self.open_streams() {
            let life = Life { opened_ns: self.opened_ns[stream], closed_ns: None, reopened_ns: 0 };
            for (index, check) in self.ledger.stream(stream).iter().enumerate() {
                judge.take(check, self.slot_of(stream, index), life);
            }
        }
        judge.found.lives = (self.past.len() + self.open_streams().count()) as u64;
        judge.found.undelivered = judge.undelivered.into_ranges();
        judge.found.counts = self.counts.clone();
        judge.found
    }

    fn open_streams(&self) -> impl Iterator<Item = usize> {
        (0..self.opened_ns.len()).filter(|&stream| self.opened_ns[stream] > 0)
    }

    /// Streams that have been open since before `start_ns`: those whose orders can be compared.
    fn steady_streams(&self, start_ns: u64) -> impl Iterator<Item = usize> {
        self.open_streams().filter(move |&stream| self.opened_ns[stream] <= start_ns)
    }

    /// Per topic: how many steady streams read it.
    pub(super) fn steady_by_topic(&self, start_ns: u64) -> Vec<u32> {
        let mut counts = vec![0; self.topic_count()];
        for stream in self.steady_streams(start_ns) {
            for nth in 0..self.topics_per_stream() {
                counts[self.slot_of(stream, nth * self.publishers()) / self.publishers()] += 1;
            }
        }
        counts
    }

    /// Per steady stream: events received, doubles included.
    pub(super) fn steady_received(&self, start_ns: u64) -> Vec<u64> {
        let received = |stream| self.ledger.stream(stream).iter().map(StreamCheck::received).sum();
        self.steady_streams(start_ns).map(received).collect()
    }

    /// Of steady streams that miss nothing: others may have seen as many events, but different ones.
    pub(super) fn survey(&self, start_ns: u64, slots: &[Slot]) -> Vec<OrderSurvey> {
        let mut surveys = vec![OrderSurvey::default(); self.topic_count()];
        for stream in self.steady_streams(start_ns).filter(|&stream| !self.was_reset[stream]) {
            for nth in (0..self.topics_per_stream()).filter(|&nth| self.is_whole(stream, nth, slots)) {
                let topic = self.slot_of(stream, nth * self.publishers()) / self.publishers();
                let order = self.orders[stream * self.topics_per_stream() + nth];
                surveys[topic].add(order.count(), order.digest(), 1);
            }
        }
        surveys
    }
}

/// When a stream was open.
#[derive(Debug, Clone, Copy)]
struct Life {
    opened_ns: u64,
    /// `None` while it is open.
    closed_ns: Option<u64>,
    /// When its next life began; 0 if it has none.
    reopened_ns: u64,
}

impl Seen {
    /// True exactly when the stream has seen all there was of its n-th topic.
    fn is_whole(&self, stream: usize, nth: usize, slots: &[Slot]) -> bool {
        let checks = nth * self.publishers()..(nth + 1) * self.publishers();
        checks.into_iter().all(|index| {
            let mut is_whole = true;
            let covered = 0..slots[self.slot_of(stream, index)].count;
            self.ledger.stream(stream)[index].for_each_undelivered(&covered, |_| is_whole = false);
            is_whole
        })
    }
}

struct Judge<'a> {
    slots: &'a [Slot],
    settle_ns: u64,
    found: Judgement,
    undelivered: Undelivered,
}

impl Judge<'_> {
    fn take(&mut self, check: &StreamCheck, slot_index: usize, life: Life) {
        let slot = &self.slots[slot_index];
        let sent_before = |ns: u64| slot.sent_ns.partition_point(|&sent_ns| sent_ns < ns) as u64;
        let mut covered = 0..slot.count;
        if let Some(closed_ns) = life.closed_ns {
            let seen = check.last_seen().map_or(0, |last| last.saturating_add(1));
            covered.end = seen.max(sent_before(closed_ns.saturating_sub(self.settle_ns))).min(slot.count);
            let until = if life.reopened_ns > 0 { sent_before(life.reopened_ns) } else { slot.count };
            let from = covered.end.max(sent_before(life.opened_ns));
            self.found.missed_after_close += until.saturating_sub(from);
        }
        covered.start = sent_before(life.opened_ns).min(covered.end);
        check.for_each_undelivered(&covered, |numbers| self.undelivered.add(slot_index, &numbers));
        self.found.verdict += check.finish(Published { numbers: 0..slot.count, covered, uncertain: &slot.uncertain });
    }
}

/// Which numbers did not arrive on how many streams, in memory that grows with what was published only.
struct Undelivered {
    /// Per slot, once anything is missing: by how much the number of streams changes at each number.
    steps: Vec<Vec<i64>>,
    counts: Vec<u64>,
}

impl Undelivered {
    fn new(slots: &[Slot]) -> Self {
        Self { steps: vec![Vec::new(); slots.len()], counts: slots.iter().map(|slot| slot.count).collect() }
    }

    fn add(&mut self, slot: usize, numbers: &std::ops::Range<u64>) {
        let steps = &mut self.steps[slot];
        if steps.is_empty() {
            steps.resize(self.counts[slot] as usize + 1, 0);
        }
        steps[numbers.start as usize] += 1;
        steps[numbers.end as usize] -= 1;
    }

    /// (slot, first, end, streams), ascending.
    fn into_ranges(self) -> Vec<(usize, u64, u64, u64)> {
        let mut ranges = Vec::new();
        for (slot, steps) in self.steps.iter().enumerate() {
            let (mut streams, mut since) = (0, 0);
            for (number, &step) in steps.iter().enumerate().filter(|(_, step)| **step != 0) {
                if streams > 0 {
                    ranges.push((slot, since as u64, number as u64, streams as u64));
                }
                (streams, since) = (streams + step, number);
            }
        }
        ranges
    }
}
