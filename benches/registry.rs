//! Topics by name and their member lists, without the streams: what a message costs until its topic
//! is known, what a join and a leave cost, and what merely looking at every member costs a walk.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwheel::engine::policy::Classes;
use fanwheel::engine::registry::{Members, Registry};
use fanwheel::topic::Topic;

const TOPICS: usize = 10_000;
const MEMBERS: u32 = 10_000;

fn find(c: &mut Criterion) {
    let mut registry = Registry::default();
    let topics: Vec<Topic> = (0..TOPICS).map(|n| Topic::parse(&format!("chat.room.{n}")).unwrap()).collect();
    for topic in &topics {
        registry.add(topic.clone(), &Classes::default(), 0);
    }
    // Far from its neighbours each time: 7,919 is prime and the names are no longer in the cache.
    let mut at = 0;
    c.bench_function("registry/find among 10,000", |b| {
        b.iter(|| {
            at = (at + 7_919) % TOPICS;
            registry.find(black_box(&topics[at]))
        });
    });
}

fn members(c: &mut Criterion) {
    let mut members = Members::default();
    for slot in 0..MEMBERS {
        members.join(slot);
    }
    let mut group = c.benchmark_group("registry/members of 10,000");
    group.bench_function("join and leave", |b| {
        b.iter(|| {
            let at = members.join(black_box(MEMBERS));
            members.leave(at)
        });
    });
    group.throughput(Throughput::Elements(u64::from(MEMBERS)));
    group.bench_function("walk", |b| {
        b.iter(|| {
            members.begin_walk();
            let sum: u64 = (0..members.end()).filter_map(|at| members.get(at)).map(u64::from).sum();
            members.end_walk(|_, _| {});
            black_box(sum)
        });
    });
    group.finish();
}

criterion_group!(benches, find, members);
criterion_main!(benches);
