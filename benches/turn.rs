//! The engine without sockets: ingest and full sweeps into a sink that takes everything at once.
//!
//! What is left is what the engine itself adds to a delivery; a `send` on loopback costs about
//! 5 µs beside it. Throughput is deliveries (event × stream), so `elem/s` inverted is the cost of
//! one. Events are made beforehand: parsing and allocating them is the source's.
//!
//! | Case | Isolates |
//! |---|---|
//! | 10,000 on one topic, 1 event | a visit: look at the member, one send, move its cursor |
//! | 10,000 on one topic, 32 events | the shared batch: one visit and one send for 32 deliveries |
//! | 2,000 topics × 5 | finding topics, the run queue, short walks |
//! | 500 topics, 1,000 streams × 20 topics | the merge of several logs per stream |

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[path = "subjects/turn.rs"]
mod subject;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use subject::Audience;

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    let mut measure = |name: &str, mut audience: Audience, times: usize| {
        let before = audience.deliveries();
        audience.round(times);
        group.throughput(Throughput::Elements(audience.deliveries() - before));
        group.bench_function(name, |b| b.iter(|| audience.round(times)));
    };
    measure("10,000 on one topic, 1 event", Audience::on_one_topic(), 1);
    measure("10,000 on one topic, 32 events", Audience::on_one_topic(), 32);
    measure("2,000 topics x 5", Audience::on_2_000_topics(), 1);
    measure("500 topics, 1,000 streams x 20 topics", Audience::of_20_topics_each(), 1);
    group.finish();
}

criterion_group!(benches, turn);
criterion_main!(benches);
