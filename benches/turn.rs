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

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwheel::engine::policy::{Limits, SLICE_SENDS};
use fanwheel::engine::{CloseReason, ConnId, Inbound, Ingested, Sent, Shard, Sink, Wish};
use fanwheel::event::Event;
use fanwheel::frame::WireForm;
use fanwheel::topic::Topic;

/// Takes everything, keeps nothing.
struct Everything;

impl Sink for Everything {
    type Port = ();

    fn park(&mut self, (): &(), _: ConnId) -> bool {
        true
    }

    fn send(&mut self, (): &(), bytes: &[u8]) -> Sent {
        black_box(bytes);
        Sent::All
    }

    fn watch_writable(&mut self, (): &(), _: ConnId, _: bool) {}

    fn unpark(&mut self, (): (), reason: CloseReason) {
        panic!("a stream was closed: {reason:?}");
    }
}

/// A shard whose streams are all open. `topics_of` lists each stream's topics, by number.
struct Bench {
    shard: Shard<()>,
    events: Vec<Arc<Event>>,
}

impl Bench {
    fn new(topics: usize, streams: usize, topics_of: impl Fn(usize) -> Vec<usize>) -> Bench {
        let topics: Vec<Topic> = (0..topics).map(|n| Topic::parse(&format!("topic.{n}")).unwrap()).collect();
        let mut shard = Shard::new(Limits::default(), 0, 1);
        ingest(&mut shard, Inbound::Connected(1));
        for stream in 0..streams {
            let topics: Vec<Topic> = topics_of(stream).into_iter().map(|topic| topics[topic].clone()).collect();
            shard.join(&mut Everything, (), &topics, WireForm::SseChunked, b"").expect("it joins");
        }
        for wish in shard.take_wishes() {
            if let Wish::Subscribe(topic) = wish {
                shard.handle_subscribed(&topic);
            }
        }
        sweep(&mut shard);
        assert_eq!(shard.counters().opened, streams as u64);
        let events = topics.into_iter().map(|topic| {
            let data = Bytes::from(vec![b'x'; 120]);
            Arc::new(Event { topic, name: None, key: None, data, id: None, received_us: 0 })
        });
        Bench { shard, events: events.collect() }
    }

    /// One event for every topic, `times` times, and everything it takes to deliver them.
    fn round(&mut self, times: usize) {
        for _ in 0..times {
            for event in &self.events {
                ingest(&mut self.shard, Inbound::Event(Arc::clone(event)));
            }
        }
        sweep(&mut self.shard);
        self.shard.note_written(0);
    }
}

fn ingest(shard: &mut Shard<()>, message: Inbound) {
    match shard.ingest(&mut Everything, message) {
        Ingested::Done => {}
        Ingested::Full(_) => panic!("the logs have room: every round ends swept"),
    }
}

fn sweep(shard: &mut Shard<()>) {
    while shard.sweep(&mut Everything, SLICE_SENDS) {}
}

fn turn(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    let mut measure = |name: &str, mut bench: Bench, times: usize| {
        let before = bench.shard.counters().deliveries;
        bench.round(times);
        let deliveries = bench.shard.counters().deliveries - before;
        group.throughput(Throughput::Elements(deliveries));
        group.bench_function(name, |b| b.iter(|| bench.round(times)));
    };
    let one_topic = || Bench::new(1, 10_000, |_| vec![0]);
    measure("10,000 on one topic, 1 event", one_topic(), 1);
    measure("10,000 on one topic, 32 events", one_topic(), 32);
    measure("2,000 topics x 5", Bench::new(2_000, 10_000, |stream| vec![stream / 5]), 1);
    let twenty = |stream: usize| (0..20).map(|n| (stream + n * 25) % 500).collect();
    measure("500 topics, 1,000 streams x 20 topics", Bench::new(500, 1_000, twenty), 1);
    group.finish();
}

criterion_group!(benches, turn);
criterion_main!(benches);
