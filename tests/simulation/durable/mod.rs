//! Durable topics, simulated: the law of what a client may see, a naive Redis, and what truly happened.
//!
//! ```text
//!  Redis ── what truly happened ──► law ◄── what a client has seen, over all its connections
//! ```

#[allow(dead_code, reason = "what only a world with nodes asks for")]
mod law;
mod law_tests;
#[allow(dead_code, reason = "what only a world with nodes asks for")]
mod redis;
#[allow(dead_code, reason = "what only a world with nodes asks for")]
mod truth;
