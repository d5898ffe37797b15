//! One topic's log: what an event costs to enter a full log, and what a reader costs to find its place.
//!
//! Isolated from the shard: no budget decisions, no members. Frames are made beforehand, except
//! where the encoding itself is measured.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[path = "subjects/log.rs"]
mod subject;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fanwheel::engine::log::Log;
use fanwheel::frame::{ByteBudget, WireForm};
use subject::{Full, LENGTH};

fn push(c: &mut Criterion) {
    let mut full = Full::new();
    c.bench_function("log/push and evict at the limit of 1,024", |b| b.iter(|| full.push()));
}

fn position(c: &mut Criterion) {
    let log = Full::new().log;
    let mut group = c.benchmark_group("log/position_after");
    for (name, cursor) in [("end", LENGTH), ("one behind", LENGTH - 1), ("middle", LENGTH / 2)] {
        group.bench_function(name, |b| b.iter(|| log.position_after(black_box(cursor))));
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let budget = ByteBudget::default();
    let mut group = c.benchmark_group("log/encode");
    let fresh = || {
        let mut log = Log::new(0);
        log.push(1, subject::frame(&budget));
        log
    };
    group.bench_function("first time, 120 B", |b| {
        b.iter_batched_ref(fresh, |log| log.encode(0, WireForm::SseChunked).len(), BatchSize::SmallInput);
    });
    let mut log = Full::new().log;
    log.encode(7, WireForm::SseChunked);
    group.bench_function("again", |b| b.iter(|| log.encode(black_box(7), WireForm::SseChunked).len()));
    group.finish();
}

criterion_group!(benches, push, position, encode);
criterion_main!(benches);
