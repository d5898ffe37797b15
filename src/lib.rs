//! Fanwheel: a fan-out engine. Events come in from Redis or over HTTP and go out to very many
//! long-lived connections.
//!
//! ```text
//!  publishers                  Fanwheel node                                   subscribers
//!  PUBLISH ───────────► Redis ─► source ─► engine (shard 0: one thread) ─► edge ─► sockets
//!  POST /topics/{topic} ──────────►  │     engine (shard 1: one thread) ─► edge ─► sockets
//!  (no Redis? the embedded broker    └─ one subscriber connection per shard
//!   is the source)
//! ```
//!
//! An event passes three places and never turns back: source → engine → edge.
//!
//! **The layer rule**: `main, cli → server → {source, edge} → engine → frame → {topic, event}`.
//! `source` and `edge` never name each other: the edge publishes through the engine's trait
//! `Publish`, and `server` joins the two. `metrics`, `clock` and `shutdown` are leaves anyone may
//! use. Each part owns its limits; `config` fills them. A test reads the `use` lines.
//!
//! In reading order:

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "Fanwheel runs on 64-bit Linux (5.10 or later) only: it parks sockets in epoll and sets Linux socket options."
);

/// True exactly when this fault is planted: only in debug builds, and only where a test asks for it.
macro_rules! planted {
    ($name:literal) => {{
        #[cfg(fanwheel_mutants)]
        let planted = $crate::mutant::is_planted($name);
        #[cfg(not(fanwheel_mutants))]
        let planted = false;
        planted
    }};
}

#[cfg(fanwheel_mutants)]
pub mod mutant;

pub mod event;
pub mod topic;

pub mod frame;

pub mod engine;

pub mod source;

pub mod edge;

pub mod server;

pub mod config;

pub mod cli;

pub mod clock;
pub mod feed;
pub mod metrics;
pub mod shutdown;
