//! Everything that arrived on a group of streams of one worker.
//!
//! A block goes to the checks, the order hash and the histograms, or it is a control event. Nothing
//! is kept of it but a header for the [`Decoder`], and nothing is allocated for it. What was seen is
//! judged in [`super::lives`].

use checker::{Ledger, OrderHash};
use serde::Deserialize;

use super::choice::Choice;
use super::conn::Block;
use super::lives::Past;
use super::protocol::{Counts, WorkerPlan};
use crate::latency::Tally;
use crate::payload::{self, Decoder, PREFIX};

/// More notes of last arrivals are not kept, whatever numbers arrive.
const LAST_MAX: usize = 1 << 16;

/// A server that invents reasons for its resets has these counted apart, and the others together.
const REASONS_MAX: usize = 32;
const REASON_LEN_MAX: usize = 64;

/// What has arrived, by stream (numbered from 0 in the group).
pub(super) struct Seen {
    run: u32,
    topics: Vec<String>,
    topics_per_stream: usize,
    publishers: usize,
    payload_len: usize,
    decoder: Decoder,
    /// What follows the header in each payload.
    filler: Vec<u8>,
    choice: Choice,
    /// The stream's life now: its n-th topic, publisher p at `n * publishers + p`.
    pub(super) ledger: Ledger,
    /// Stream s, its n-th topic at `s * topics_per_stream + n`.
    pub(super) orders: Vec<OrderHash>,
    /// Streams that saw a reset: their order is not comparable.
    pub(super) was_reset: Vec<bool>,
    /// When the last reset of reason `gap` came; 0 before. It may stand before older events that the
    /// stream has yet to catch up with: it tells what was lost among those too, see docs/PROTOCOL.md.
    pub(super) gap_told_ns: Vec<u64>,
    /// True exactly when the stream has had another life before.
    pub(super) was_reopened: Vec<bool>,
    /// True exactly when a stream that comes back goes on with the life it had.
    pub(super) spans_cuts: bool,
    /// When each stream's life began; 0 while it has none.
    pub(super) opened_ns: Vec<u64>,
    pub(super) past: Vec<Past>,
    /// Events of this run, doubles included.
    pub(super) received: u64,
    pub(super) received_at_ns: u64,
    pub(super) latency_max_ns: u64,
    pub(super) publish_to_receive: Tally,
    pub(super) intended_to_receive: Tally,
    /// Of events sent at `calm_from_ns` or later; `u64::MAX` while there are none.
    pub(super) calm_to_receive: Tally,
    pub(super) calm_from_ns: u64,
    last_stride: u64,
    /// Per slot, every `last_stride`-th number: when it last arrived, and how often it did.
    pub(super) last: Vec<Vec<(u64, u32)>>,
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
    /// For the worker's streams `first..first + streams`.
    pub(super) fn new(plan: &WorkerPlan, first: usize, streams: usize) -> Self {
        let (topics, per_stream) = (plan.topics.len(), plan.topics_per_stream);
        Self {
            run: plan.run,
            topics: plan.topics.clone(),
            topics_per_stream: per_stream,
            publishers: plan.publishers,
            payload_len: plan.payload,
            decoder: Decoder::new(),
            filler: payload::filler(plan.payload),
            choice: plan.choice(first..first + streams),
            ledger: Ledger::new(streams, per_stream * plan.publishers),
            orders: vec![OrderHash::default(); streams * per_stream],
            was_reset: vec![false; streams],
            gap_told_ns: vec![0; streams],
            was_reopened: vec![false; streams],
            spans_cuts: false,
            opened_ns: vec![0; streams],
            past: Vec::new(),
            received: 0,
            received_at_ns: 0,
            latency_max_ns: 0,
            publish_to_receive: Tally::default(),
            intended_to_receive: Tally::default(),
            calm_to_receive: Tally::default(),
            calm_from_ns: u64::MAX,
            last_stride: plan.last_stride,
            last: vec![Vec::new(); topics * plan.publishers],
            counts: Counts::default(),
        }
    }

    /// Takes one block that arrived on `stream`.
    #[inline]
    pub(super) fn handle_block(&mut self, stream: usize, block: &Block<'_>, now: u64) -> Option<Sign> {
        if block.event.starts_with(b"fanwheel.") {
            return self.handle_control(stream, block, now);
        }
        if block.data_lines == 1 && block.data.len() == self.payload_len {
            self.handle_payload(stream, block.data, now);
        } else {
            self.handle_wrapped(stream, block.raw, now);
        }
        None
    }

    /// Takes a block that is nothing but one line of data.
    #[inline]
    pub(super) fn handle_data(&mut self, stream: usize, data: &[u8], now: u64) {
        if data.len() == self.payload_len {
            self.handle_payload(stream, data, now);
        } else {
            self.handle_wrapped(stream, data, now);
        }
    }

    #[inline]
    fn handle_payload(&mut self, stream: usize, payload: &[u8], now: u64) {
        let Some(stamp) = self.decoder.decode(payload) else {
            return self.handle_undecodable(payload);
        };
        if stamp.run != self.run {
            self.counts.foreign += 1;
            return;
        }
        let (topic, publisher) = (usize::from(stamp.topic), usize::from(stamp.publisher));
        let is_whole = payload[payload::HEADER_LEN..] == self.filler[..] && stamp.sent_ns <= now;
        // Else it is of a topic that this stream did not ask for.
        let asked_for = self.choice.nth(stream, stamp.topic).filter(|_| publisher < self.publishers);
        self.counts.malformed += u64::from(!is_whole || asked_for.is_none());
        let Some(nth) = asked_for else {
            return;
        };
        self.received += 1;
        self.received_at_ns = now;
        let is_first = self.ledger.handle_event(stream, nth * self.publishers + publisher, stamp.seq);
        if stamp.sent_ns <= self.gap_told_ns[stream] {
            self.ledger.extend_reset(stream, nth * self.publishers + publisher);
        }
        self.orders[stream * self.topics_per_stream + nth].handle_event(publisher as u64, stamp.seq);
        let latency_ns = now.saturating_sub(stamp.sent_ns);
        self.latency_max_ns = self.latency_max_ns.max(latency_ns);
        self.publish_to_receive.record(latency_ns);
        if stamp.sent_ns >= self.calm_from_ns {
            self.calm_to_receive.record(latency_ns);
        }
        self.intended_to_receive.record(now.saturating_sub(stamp.intended_ns));
        if stamp.seq & (self.last_stride - 1) == 0 && is_first && !self.was_reopened[stream] {
            self.note_last(topic * self.publishers + publisher, stamp.seq / self.last_stride, now);
        }
    }

    fn note_last(&mut self, slot: usize, index: u64, now: u64) {
        let (notes, index) = (&mut self.last[slot], index as usize);
        if index >= notes.len() {
            if index >= LAST_MAX {
                return;
            }
            notes.resize(index + 1, (0, 0));
        }
        notes[index] = (now, notes[index].1 + 1);
    }

    /// Payloads inside of something else: JSON around one, several put together.
    #[cold]
    fn handle_wrapped(&mut self, stream: usize, raw: &[u8], now: u64) {
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&raw[at..], PREFIX) {
            at += found;
            let end = (at + self.payload_len).min(raw.len());
            self.handle_payload(stream, &raw[at..end], now);
            at = end;
        }
        self.counts.foreign += u64::from(at == 0);
    }

    #[cold]
    fn handle_undecodable(&mut self, payload: &[u8]) {
        if payload.starts_with(PREFIX) {
            self.counts.malformed += 1;
        } else {
            self.counts.foreign += 1;
        }
    }

    #[cold]
    fn handle_control(&mut self, stream: usize, block: &Block<'_>, now: u64) -> Option<Sign> {
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
            b"fanwheel.reset" => self.handle_reset(stream, block.data, now),
            _ => self.counts.foreign += 1,
        }
        None
    }

    /// A reset that names no topic we know is one of all topics.
    fn handle_reset(&mut self, stream: usize, data: &[u8], now: u64) {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Reset {
            reason: String,
            topics: Vec<String>,
        }
        let mut reset: Reset = serde_json::from_slice(data).unwrap_or_default();
        if reset.reason == "gap" {
            self.gap_told_ns[stream] = now;
        }
        let reasons = &mut self.counts.resets_by_reason;
        let is_known = reasons.contains_key(&reset.reason);
        if !is_known && (reasons.len() >= REASONS_MAX || reset.reason.len() > REASON_LEN_MAX) {
            reset.reason = "other".to_owned();
        }
        *reasons.entry(reset.reason).or_default() += 1;
        self.was_reset[stream] = true;
        let own = self.choice.topics(stream).map(|topic| &self.topics[topic]);
        let is_named: Vec<bool> = own.map(|topic| reset.topics.contains(topic)).collect();
        let names_known = is_named.contains(&true);
        for nth in (0..self.topics_per_stream).filter(|&nth| !names_known || is_named[nth]) {
            for publisher in 0..self.publishers {
                self.ledger.handle_reset(stream, nth * self.publishers + publisher);
            }
        }
    }

    pub(super) fn publishers(&self) -> usize {
        self.publishers
    }

    pub(super) fn topics_per_stream(&self) -> usize {
        self.topics_per_stream
    }

    pub(super) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// The slot in which the n-th check of a stream is published.
    pub(super) fn slot_of(&self, stream: usize, check: usize) -> usize {
        self.choice.topic(stream, check / self.publishers) * self.publishers + check % self.publishers
    }
}
