//! Everything that arrived on the reading streams of one worker.
//!
//! A block goes to the checks, the order hash and the histograms, or it is a control event. Nothing
//! is kept of it, and nothing is allocated for it.

use checker::{Ledger, OrderHash, OrderSurvey, Published};
use serde::Deserialize;

use super::conn::Block;
use super::protocol::{Counts, Done, Slot, WorkerPlan};
use crate::latency::Latencies;
use crate::payload::{self, Stamp};

/// What has arrived, by stream (numbered as the worker does).
pub(super) struct Seen {
    run: u32,
    topics: Vec<String>,
    publishers: usize,
    /// What follows the header in each payload.
    filler: Vec<u8>,
    ledger: Ledger,
    /// Stream s, topic t at `s * topics + t`.
    orders: Vec<OrderHash>,
    /// Streams that saw a reset: their order is not comparable.
    was_reset: Vec<bool>,
    /// Events of this run, doubles included.
    pub(super) received: u64,
    pub(super) publish_to_receive: Latencies,
    pub(super) intended_to_receive: Latencies,
    pub(super) counts: Counts,
}

/// What a control block means for the stream itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Opened,
    /// The server will end the stream, and why.
    Leave(&'static str),
}

impl Seen {
    pub(super) fn new(plan: &WorkerPlan) -> Self {
        let topics = plan.topics.len();
        Self {
            run: plan.run,
            topics: plan.topics.clone(),
            publishers: plan.publishers,
            filler: payload::filler(plan.payload),
            ledger: Ledger::new(plan.readers, topics * plan.publishers),
            orders: vec![OrderHash::default(); plan.readers * topics],
            was_reset: vec![false; plan.readers],
            received: 0,
            publish_to_receive: Latencies::default(),
            intended_to_receive: Latencies::default(),
            counts: Counts::default(),
        }
    }

    /// Takes one block; `reader` is `None` for a stalled stream, whose events do not count.
    #[inline]
    pub(super) fn handle_block(&mut self, reader: Option<usize>, block: &Block<'_>, now: u64) -> Option<Sign> {
        if block.event.starts_with(b"fanwheel.") {
            return self.handle_control(reader, block);
        }
        if let Some(stream) = reader {
            self.handle_event(stream, block, now);
        }
        None
    }

    #[inline]
    fn handle_event(&mut self, stream: usize, block: &Block<'_>, now: u64) {
        let Some(stamp) = Stamp::decode(block.data).filter(|stamp| stamp.run == self.run) else {
            self.counts.foreign += 1;
            return;
        };
        let (topic, publisher) = (usize::from(stamp.topic), usize::from(stamp.publisher));
        let filler = block.data.get(payload::HEADER_LEN..);
        let is_whole = block.data_lines == 1 && filler == Some(&self.filler[..]);
        if !is_whole || stamp.sent_ns > now {
            self.counts.malformed += 1;
        }
        if topic >= self.topics.len() || publisher >= self.publishers {
            self.counts.malformed += u64::from(is_whole);
            return;
        }
        self.received += 1;
        self.ledger.handle_event(stream, topic * self.publishers + publisher, stamp.seq);
        self.orders[stream * self.topics.len() + topic].handle_event(publisher as u64, stamp.seq);
        self.publish_to_receive.record(now.saturating_sub(stamp.sent_ns));
        self.intended_to_receive.record(now.saturating_sub(stamp.intended_ns));
    }

    #[cold]
    fn handle_control(&mut self, reader: Option<usize>, block: &Block<'_>) -> Option<Sign> {
        match block.event {
            b"fanwheel.open" => return Some(Sign::Opened),
            b"fanwheel.drain" => {
                self.counts.drains += 1;
                return Some(Sign::Leave("the server said drain"));
            }
            b"fanwheel.unavailable" => {
                self.counts.unavailable += 1;
                return Some(Sign::Leave("the server said unavailable"));
            }
            b"fanwheel.reset" => {
                if let Some(stream) = reader {
                    self.handle_reset(stream, block.data);
                }
            }
            _ => self.counts.foreign += 1,
        }
        None
    }

    /// A reset that names no topic we know is one of all topics.
    fn handle_reset(&mut self, stream: usize, data: &[u8]) {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Reset {
            reason: String,
            topics: Vec<String>,
        }
        let reset: Reset = serde_json::from_slice(data).unwrap_or_default();
        *self.counts.resets_by_reason.entry(reset.reason).or_default() += 1;
        self.was_reset[stream] = true;
        let names_known = reset.topics.iter().any(|topic| self.topics.contains(topic));
        for (index, topic) in self.topics.iter().enumerate() {
            if !names_known || reset.topics.contains(topic) {
                for publisher in 0..self.publishers {
                    self.ledger.handle_reset(stream, index * self.publishers + publisher);
                }
            }
        }
    }

    /// A stream that the server ended is judged up to the last event it brought; what was
    /// published after that is counted as missed.
    pub(super) fn judge(&self, stream: usize, is_ended: bool, slots: &[Slot], done: &mut Done) {
        for (check, slot) in self.ledger.stream(stream).iter().zip(slots) {
            let covered_end = match is_ended {
                true => check.last_seen().map_or(0, |last| last.saturating_add(1)).min(slot.count),
                false => slot.count,
            };
            done.missed_after_close += slot.count - covered_end;
            done.verdict +=
                check.finish(Published { numbers: 0..slot.count, covered: 0..covered_end, uncertain: &slot.uncertain });
        }
    }

    pub(super) fn survey(&self, stream: usize, surveys: &mut [OrderSurvey]) {
        if self.was_reset[stream] {
            return;
        }
        let topics = self.topics.len();
        for (survey, order) in surveys.iter_mut().zip(&self.orders[stream * topics..][..topics]) {
            survey.add(order.count(), order.digest(), 1);
        }
    }
}
