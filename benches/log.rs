//! One topic's log: what an event costs to enter a full log, and what a reader costs to find its place.
//!
//! Isolated from the shard: no budget decisions, no members. Frames are made beforehand, except
//! where the encoding itself is measured.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fanwheel::engine::log::{Log, LogLimits};
use fanwheel::event::Event;
use fanwheel::frame::{ByteBudget, Frame, WireForm};
use fanwheel::topic::Topic;

const LENGTH: u64 = 1_024;

fn frame(budget: &ByteBudget) -> Rc<Frame> {
    let topic = Topic::parse("bench").unwrap();
    let event = Event { topic, name: None, key: None, data: Bytes::from(vec![b'x'; 120]), id: None, received_us: 0 };
    Rc::new(Frame::new(Arc::new(event), budget))
}

fn full(budget: &ByteBudget) -> Log {
    let mut log = Log::new(0);
    (1..=LENGTH).for_each(|seq| log.push(seq, frame(budget)));
    log
}

fn push(c: &mut Criterion) {
    let budget = ByteBudget::default();
    let limits = LogLimits::default();
    let mut log = full(&budget);
    let frame = frame(&budget);
    let mut seq = LENGTH;
    c.bench_function("log/push and evict at the limit of 1,024", |b| {
        b.iter(|| {
            for _ in 0..log.surplus(limits, frame.charged()) {
                black_box(log.evict_oldest());
            }
            seq += 1;
            log.push(seq, Rc::clone(&frame));
        });
    });
}

fn position(c: &mut Criterion) {
    let log = full(&ByteBudget::default());
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
        log.push(1, frame(&budget));
        log
    };
    group.bench_function("first time, 120 B", |b| {
        b.iter_batched_ref(fresh, |log| log.encode(0, WireForm::SseChunked).len(), BatchSize::SmallInput);
    });
    let mut log = full(&budget);
    log.encode(7, WireForm::SseChunked);
    group.bench_function("again", |b| b.iter(|| log.encode(black_box(7), WireForm::SseChunked).len()));
    group.finish();
}

criterion_group!(benches, push, position, encode);
criterion_main!(benches);
