//! What the engine may hold, and what it does when a limit is reached.
//!
//! One place for all of the engine's numbers; relations between them are asserted below. `config`
//! fills these structs, nothing here reads a file.

use std::time::Duration;

use crate::engine::log::LogLimits;
use crate::engine::wheel::TICK_MS;
use crate::topic::{Pattern, Topic};

/// What happens to a blocked reader that has fallen behind its topic's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is told once (`fanwheel.reset`, reason `overflow`) and goes on with the newest event.
    #[default]
    Skip,
    /// It is asked to come back (`fanwheel.drain`, reason `overload`) and closed.
    Disconnect,
}

/// What is kept of a class's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Nothing: at most once.
    #[default]
    Live,
    /// A history, in which every event has a number.
    Durable(Retention),
}

/// How much of a durable topic's history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events. Default 100,000.
    pub events_max: usize,
    /// Milliseconds, between an event's number and the newest. Default 24 h.
    pub age_ms: u64,
    /// Milliseconds for which an idempotency key is remembered. Default 2 min.
    pub idempotency_ms: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { events_max: 100_000, age_ms: 24 * 3_600_000, idempotency_ms: 120_000 }
    }
}

/// How the topics of one class behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Class {
    /// Whether there is a history.
    pub kind: Kind,
    /// Events and bytes each topic's log holds.
    pub log: LogLimits,
    /// For readers slower than that. Of a durable topic they are served from its history, or closed and come back.
    pub overflow: Overflow,
}

impl Class {
    /// What is kept of its events, if anything.
    #[must_use]
    pub fn retention(&self) -> Option<Retention> {
        match self.kind {
            Kind::Live => None,
            Kind::Durable(retention) => Some(retention),
        }
    }
}

/// The classes, in the order they are tried.
#[derive(Debug, Clone, Default)]
pub struct Classes(pub Vec<(Pattern, Class)>);

impl Classes {
    /// The class of `topic`: the first whose pattern matches, else live with defaults.
    #[must_use]
    pub fn class_of(&self, topic: &Topic) -> Class {
        self.0
            .iter()
            .find(|(pattern, _)| pattern.matches(topic.as_str()))
            .map_or_else(Class::default, |(_, class)| *class)
    }
}

/// Everything the engine bounds. All of it is per shard.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Classes of topics.
    pub classes: Classes,
    /// Bytes of all logs and of frames that unfinished writes still hold. Default 64 MiB.
    pub log_bytes_max: usize,
    /// Topics a shard follows at once. Default 200,000.
    pub topics_max: usize,
    /// Ticks between heartbeats on an otherwise silent stream, before jitter. Default 15 s.
    pub heartbeat_ticks: u32,
    /// Ticks in which a blocked reader must accept [`STALL_BYTES_MIN`] or one whole event. Default 30 s.
    pub stall_ticks: u32,
    /// Ticks within which a stream must be open. Default 10 s.
    pub open_ticks: u32,
    /// Ticks a topic stays subscribed after its last reader left. Default 5 s.
    pub linger_ticks: u32,
}

impl Limits {
    /// How long a blocked reader may stall.
    #[must_use]
    pub fn stall(&self) -> Duration {
        Duration::from_millis(u64::from(self.stall_ticks) * TICK_MS)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            classes: Classes::default(),
            log_bytes_max: 64 << 20,
            topics_max: 200_000,
            heartbeat_ticks: 150,
            stall_ticks: 300,
            open_ticks: 100,
            linger_ticks: 50,
        }
    }
}

/// Most topics one stream may follow.
pub const TOPICS_PER_STREAM_MAX: usize = 100;
/// Most bytes waiting for one connection alone. The largest control block names 100 topics of 255
/// bytes, each of which JSON may double.
pub const OUTBOX_BYTES_MAX: usize = 64 << 10;
/// Most bytes handed to a socket in one call, unless a single event is larger: what the send buffer holds.
pub const BATCH_BYTES_MAX: usize = 64 << 10;
/// A sweep stops after this many sends so that Redis, accepts and timers get their turn:
/// at about 5 µs each that is 1.3 ms.
pub const SLICE_SENDS: usize = 256;
/// Messages a shard takes from its inbox before the next slice: a quarter of a log of default length.
pub const PORTION: usize = 256;
/// Progress that keeps a blocked reader alive, per `stall_ticks`.
pub const STALL_BYTES_MIN: usize = 4 << 10;
/// Timers handled between two slices.
pub const TIMERS_PER_TURN: usize = 256;
/// Reads of the past a shard has under way at most. The mailbox for their answers is never full.
pub const READS_MAX: usize = 32;
/// Jitter of heartbeats, in percent to either side: keeps streams opened together from beating together.
pub const HEARTBEAT_JITTER_PERCENT: u32 = 20;
/// What `retry:` is drawn from, in ms, on a stream's first block.
pub const RETRY_OPEN_MS: std::ops::Range<u32> = 1_000..3_000;
/// What `retry:` is drawn from, in ms, when a stream is sent away: wider, so that many do not return at once.
pub const RETRY_AWAY_MS: std::ops::Range<u32> = 1_000..6_000;

const _: () = assert!(TOPICS_PER_STREAM_MAX * 2 * (crate::topic::TOPIC_BYTES_MAX + 2) + 1_024 <= OUTBOX_BYTES_MAX);
const _: () = assert!(STALL_BYTES_MIN <= BATCH_BYTES_MAX);
const _: () = assert!(TOPICS_PER_STREAM_MAX <= u8::MAX as usize, "a stream counts the topics it waits for in a byte");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_matches_wins() {
        let class = |events_max| Class { log: LogLimits { events_max, bytes_max: 1 }, ..Class::default() };
        let pattern = |text| Pattern::parse(text).expect("a pattern");
        let classes = Classes(vec![(pattern("chat.vip"), class(1)), (pattern("chat.*"), class(2))]);
        let of = |name| classes.class_of(&Topic::parse(name).expect("a topic")).log.events_max;
        assert_eq!(of("chat.vip"), 1);
        assert_eq!(of("chat.other"), 2);
        assert_eq!(of("news"), LogLimits::default().events_max);
    }
}
