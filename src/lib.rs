//! Fanwheel (work in progress).
#[cfg(not(target_os = "linux"))]
compile_error!("Fanwheel runs on Linux (5.10 or later) only: it parks sockets in epoll and sets Linux socket options.");

pub mod topic;
pub mod event;
pub mod frame;
pub mod engine;
pub mod metrics;
