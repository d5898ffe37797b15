//! Every setting there is, once: what the command line takes, what the file may contain, what
//! `config default` and `config doc` print, and the values that are let in.
//!
//! What always holds: a setting that is not in this table does not exist, and one that is has its
//! flag, its variable, its default and its range everywhere, because all of them are read from here.
//!
//! Not chosen: derived flags beside a derived file format. They are two lists that a third one, the
//! documentation, has to follow, and a derived reader stops at the first value it does not like.

use super::kind::{COUNT_MAX, Kind};
use crate::engine::policy::TOPICS_PER_STREAM_MAX;

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    /// Its place in the file: `limits.stall`.
    pub name: &'static str,
    /// Its flag, if it has one.
    pub flag: Option<Flag>,
    /// What may be written.
    pub kind: Kind,
    /// What holds when nothing is written.
    pub default: Default,
    /// What it does.
    pub meaning: &'static str,
    /// What more of it costs, or less.
    pub cost: &'static str,
}

/// How a setting is given without a file.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without its two dashes.
    pub long: &'static str,
    /// `FANWHEEL_` and the flag in capitals.
    pub variable: &'static str,
    /// What stands for its value in a help text.
    pub value: &'static str,
}

/// What holds when nothing is written.
#[derive(Debug)]
pub(super) enum Default {
    /// This, as TOML.
    Is(&'static str),
    /// No value, which means this; beside it a value one could write, as TOML.
    Absent(&'static str, &'static str),
}

/// More threads than that help no machine there is.
const SHARDS_MAX: u64 = 256;
/// More connections than that no node accepts in a second.
const ACCEPT_RATE_MAX: u64 = 1_000_000;
/// Whoever waits longer for a node to stop has forgotten it.
const DRAIN_MAX_MS: u64 = 600_000;
/// A log longer than this is a history, which live topics do not have.
const LOG_EVENTS_MAX: u64 = 1 << 20;
/// More events than that of one topic belong into a database.
const HISTORY_EVENTS_MAX: u64 = 10_000_000;
const SECOND_MS: u64 = 1_000;
const DAY_MS: u64 = 86_400_000;
/// Any number but none.
const SOME: Kind = Kind::Count { min: 1, max: COUNT_MAX };
/// What the timer wheel can hold; a day is more than anybody waits.
const TIMER: Kind = Kind::Duration { min_ms: crate::engine::wheel::TICK_MS, max_ms: DAY_MS };

/// Where the file's name is given; the one flag that is no key.
pub(super) const CONFIG: Flag = Flag { long: "config", variable: "FANWHEEL_CONFIG", value: "FILE" };

const fn flag(long: &'static str, variable: &'static str, value: &'static str) -> Option<Flag> {
    Some(Flag { long, variable, value })
}

/// All keys outside of `[[class]]`, in the order of the file: those of `[limits]` last.
pub(super) static KEYS: &[Key] = &[
    Key {
        name: "listen",
        flag: flag("listen", "FANWHEEL_LISTEN", "ADDRESS"),
        kind: Kind::Address,
        default: Default::Is("\"127.0.0.1:8080\""),
        meaning: "Where clients connect",
        cost: "whoever reaches it may read and publish",
    },
    Key {
        name: "admin_listen",
        flag: flag("admin-listen", "FANWHEEL_ADMIN_LISTEN", "ADDRESS"),
        kind: Kind::Address,
        default: Default::Is("\"127.0.0.1:9090\""),
        meaning: "Where operators connect: metrics, health, status; keep it private",
        cost: "it has no access control",
    },
    Key {
        name: "redis",
        flag: flag("redis", "FANWHEEL_REDIS", "URL"),
        kind: Kind::RedisUrl,
        default: Default::Absent("the embedded broker", "\"redis://127.0.0.1:6379\""),
        meaning: "Redis that feeds this node; without one the embedded broker does",
        cost: "two connections per shard",
    },
    Key {
        name: "shards",
        flag: flag("shards", "FANWHEEL_SHARDS", "N"),
        kind: Kind::Count { min: 1, max: SHARDS_MAX },
        default: Default::Absent("available cores", "4"),
        meaning: "Threads, each with its own connections",
        cost: "logs and limits count per shard; more than cores gain nothing",
    },
    Key {
        name: "channel_prefix",
        flag: flag("channel-prefix", "FANWHEEL_CHANNEL_PREFIX", "TEXT"),
        kind: Kind::Text,
        default: Default::Is("\"fanwheel:\""),
        meaning: "What channels begin with: topic `chat` is channel `fanwheel:chat`; '' takes over an application's own channels",
        cost: "none",
    },
    Key {
        name: "key_prefix",
        flag: flag("key-prefix", "FANWHEEL_KEY_PREFIX", "TEXT"),
        kind: Kind::Text,
        default: Default::Is("\"fanwheel:\""),
        meaning: "What keys in Redis begin with, where durable topics have their history; nodes that share topics share it",
        cost: "with another one a node has another history",
    },
    Key {
        name: "cors_origin",
        flag: flag("cors-origin", "FANWHEEL_CORS_ORIGIN", "ORIGIN"),
        kind: Kind::Origins,
        default: Default::Is("[]"),
        meaning: "Web origin whose pages may use this node (repeatable; in the variable separated by commas; '*' for all)",
        cost: "pages of that origin may read and publish",
    },
    Key {
        name: "log_level",
        flag: flag("log-level", "FANWHEEL_LOG_LEVEL", "LEVEL"),
        kind: Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
        default: Default::Is("\"info\""),
        meaning: "What is logged",
        cost: "debug and trace may log per topic",
    },
    Key {
        name: "log_format",
        flag: flag("log-format", "FANWHEEL_LOG_FORMAT", "FORMAT"),
        kind: Kind::OneOf(&["text", "json"]),
        default: Default::Is("\"text\""),
        meaning: "How it is logged, to standard error",
        cost: "none",
    },
    Key {
        name: "demo_pages",
        flag: flag("demo-pages", "FANWHEEL_DEMO_PAGES", "BOOL"),
        kind: Kind::Switch,
        default: Default::Is("false"),
        meaning: "Serve the demo's pages on the public listener (`demo` always does)",
        cost: "the pages are public",
    },
    Key {
        name: "limits.connections",
        flag: None,
        kind: SOME,
        default: Default::Absent("the descriptor limit - 256, which is also the most", "19744"),
        meaning: "Connections on the public listener; beyond it streams are asked to come back later",
        cost: "a descriptor and about 4 KiB of kernel memory each",
    },
    Key {
        name: "limits.connections_per_address",
        flag: flag("connections-per-address", "FANWHEEL_CONNECTIONS_PER_ADDRESS", "N"),
        kind: SOME,
        default: Default::Absent("any number, because many users may share a proxy's address", "64"),
        meaning: "Connections of one client address; beyond it streams are asked to come back later",
        cost: "a lock per connection that comes or goes; behind a proxy it limits all users together",
    },
    Key {
        name: "limits.accept_rate",
        flag: flag("accept-rate", "FANWHEEL_ACCEPT_RATE", "N"),
        kind: Kind::Count { min: 1, max: ACCEPT_RATE_MAX },
        default: Default::Absent("any number", "1000"),
        meaning: "New connections per second on this node; a second's worth may come at once",
        cost: "after a restart clients come back no faster than this",
    },
    Key {
        name: "limits.topics",
        flag: None,
        kind: SOME,
        default: Default::Is("200000"),
        meaning: "Topics per shard",
        cost: "a few hundred bytes each, beside its log",
    },
    Key {
        name: "limits.topics_per_stream",
        flag: None,
        kind: Kind::Count { min: 1, max: TOPICS_PER_STREAM_MAX as u64 },
        default: Default::Is("100"),
        meaning: "Topics that one stream may follow",
        cost: "a list entry per stream and topic",
    },
    Key {
        name: "limits.log_memory",
        flag: None,
        kind: Kind::Size,
        default: Default::Is("\"64MiB\""),
        meaning: "All logs and unfinished writes, per shard",
        cost: "memory; with less, slow readers lose events sooner",
    },
    Key {
        name: "limits.history_memory",
        flag: flag("history-memory", "FANWHEEL_HISTORY_MEMORY", "SIZE"),
        kind: Kind::Size,
        default: Default::Is("\"256MiB\""),
        meaning: "All histories of the embedded broker together; beyond it the oldest events of all topics leave. Without effect with Redis",
        cost: "memory; with less, clients that were away longer miss events, and are told",
    },
    Key {
        name: "limits.heartbeat",
        flag: None,
        kind: TIMER,
        default: Default::Is("\"15s\""),
        meaning: "How long a stream may be silent, +-20 %",
        cost: "shorter finds dead peers sooner, at one send per stream and interval",
    },
    Key {
        name: "limits.stall",
        flag: None,
        kind: TIMER,
        default: Default::Is("\"30s\""),
        meaning: "A blocked reader must accept 4 KiB or one event in this time",
        cost: "longer keeps a dead reader's 64 KiB of kernel memory longer",
    },
    Key {
        name: "limits.open",
        flag: None,
        kind: TIMER,
        default: Default::Is("\"10s\""),
        meaning: "A stream whose topics are not confirmed by then is sent away",
        cost: "shorter sends streams away while Redis is slow",
    },
    Key {
        name: "limits.linger",
        flag: None,
        kind: TIMER,
        default: Default::Is("\"5s\""),
        meaning: "A topic stays subscribed this long after its last reader",
        cost: "longer keeps logs nobody reads; shorter subscribes again more often",
    },
    Key {
        name: "limits.drain",
        flag: flag("drain", "FANWHEEL_DRAIN", "DURATION"),
        kind: Kind::Duration { min_ms: 0, max_ms: DRAIN_MAX_MS },
        // Shorter than the 10 s that container platforms commonly wait before they kill.
        default: Default::Is("\"8s\""),
        meaning: "How long the streams' goodbye is spread when the node stops; 0s is at once",
        cost: "the stop takes up to 5 s longer than this; shorter makes clients return together",
    },
];

/// The keys of a `[[class]]`.
pub(super) static CLASS_KEYS: &[Key] = &[
    Key {
        name: "pattern",
        flag: None,
        kind: Kind::Pattern,
        default: Default::Absent("an error; every class needs one", "\"chat.*\""),
        meaning: "The first class whose pattern matches a topic is its class: `*` one segment (between `.` or `/`), a closing `**` one or more",
        cost: "one match per class when a topic is first followed",
    },
    Key {
        name: "kind",
        flag: None,
        kind: Kind::OneOf(&["live", "durable"]),
        default: Default::Is("\"live\""),
        meaning: "What is kept: of live topics nothing, of durable ones a history, from which clients resume; alike on all nodes",
        cost: "durable: a publish is a script in Redis, and its event is kept there",
    },
    Key {
        name: "log_events",
        flag: None,
        kind: Kind::Count { min: 1, max: LOG_EVENTS_MAX },
        default: Default::Is("1024"),
        meaning: "Events in a topic's log, per shard: how far a slow reader may fall behind",
        cost: "memory per topic, out of limits.log_memory",
    },
    Key {
        name: "log_bytes",
        flag: None,
        kind: Kind::Size,
        default: Default::Is("\"1MiB\""),
        meaning: "Bytes in a topic's log, per shard, encodings included; the newest event always fits",
        cost: "memory per topic, out of limits.log_memory",
    },
    Key {
        name: "overflow",
        flag: None,
        kind: Kind::OneOf(&["skip", "disconnect"]),
        default: Default::Is("\"skip\""),
        meaning: "A reader slower than that: `skip` tells a reset and goes on with the newest event, `disconnect` sends it away; durable topics have only `disconnect`, from which it comes back and goes on",
        cost: "none",
    },
    Key {
        name: "history_events",
        flag: None,
        kind: Kind::Count { min: 1, max: HISTORY_EVENTS_MAX },
        default: Default::Is("100000"),
        meaning: "Durable: events kept of each topic",
        cost: "memory where the history is",
    },
    Key {
        name: "history_age",
        flag: None,
        kind: Kind::Span { min_ms: SECOND_MS, max_ms: 365 * DAY_MS },
        default: Default::Is("\"24h\""),
        meaning: "Durable: how long events are kept",
        cost: "memory where the history is",
    },
    Key {
        name: "idempotency_window",
        flag: None,
        kind: Kind::Span { min_ms: SECOND_MS, max_ms: DAY_MS },
        default: Default::Is("\"2m\""),
        meaning: "Durable: how long an idempotency key is remembered",
        cost: "a key in Redis for each publish that has one, for so long",
    },
];

impl Key {
    /// True exactly when only durable classes have it.
    pub(super) fn is_of_history(&self) -> bool {
        ["history_events", "history_age", "idempotency_window"].contains(&self.name)
    }
}
