//! Everything that needs more than one module: one binary, a module per promise.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod admin;
mod browser;
mod cli_publish;
mod cli_subscribe;
mod commands;
mod common;
mod config_limits;
mod config_verbs;
mod cors;
mod demo;
mod descriptors;
mod durable;
mod durable_redis;
mod durable_script;
mod from_redis;
mod heartbeats;
mod history;
mod hostile;
mod house;
mod http2;
mod limits;
mod opening;
mod order;
mod page_proof;
mod page_resume;
mod places;
mod positions;
mod publishing;
mod redis_away;
mod redis_faults;
mod redis_kinds;
mod simulation;
mod slow_readers;
mod stopping;
mod streams;
mod version;
mod websocket;
mod websocket_clients;
mod ws;
