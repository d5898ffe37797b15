//! Everything that needs more than one module: one binary, a module per promise.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod admin;
mod browser;
mod commands;
mod common;
mod config_limits;
mod config_verbs;
mod cors;
mod demo;
mod from_redis;
mod heartbeats;
mod house;
mod http2;
mod limits;
mod order;
mod publishing;
mod redis_away;
mod simulation;
mod slow_readers;
mod streams;
mod version;
