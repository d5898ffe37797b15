//! The timer wheel with 20,000 timers, as many as a busy shard has heartbeats. Links lie in a `Vec`,
//! so the numbers are the wheel's alone and not the slab's.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[path = "subjects/wheel.rs"]
mod subject;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use subject::{AHEAD, Heartbeats, TIMERS};

fn insert_and_remove(c: &mut Criterion) {
    let mut heartbeats = Heartbeats::new();
    c.bench_function("wheel/insert and remove among 20,000", |b| b.iter(|| heartbeats.insert_and_remove()));
}

/// A tick has about 130 timers that are due: each fires once in the mean of `AHEAD`.
fn advance(c: &mut Criterion) {
    let mut heartbeats = Heartbeats::new();
    let mut group = c.benchmark_group("wheel/advance");
    group.throughput(Throughput::Elements(u64::from(TIMERS * 2 / (AHEAD.start + AHEAD.end))));
    group.bench_function("a tick, due timers set again", |b| b.iter(|| heartbeats.tick()));
    group.finish();
}

criterion_group!(benches, insert_and_remove, advance);
criterion_main!(benches);
