//! The timer wheel with 20,000 timers, as many as a busy shard has heartbeats. Links lie in a `Vec`,
//! so the numbers are the wheel's alone and not the slab's.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwheel::engine::wheel::{Link, Links, Wheel};

const TIMERS: u32 = 20_000;
/// Heartbeats are set 12 to 18 s ahead.
const AHEAD: std::ops::Range<u32> = 120..180;

struct Table(Vec<Link>);

impl Links for Table {
    fn link(&mut self, key: u32) -> &mut Link {
        &mut self.0[key as usize]
    }
}

/// A wheel at tick 0 with all timers but the last set.
fn wheel(rng: &mut fastrand::Rng) -> (Wheel, Table) {
    let mut links = Table(vec![Link::default(); TIMERS as usize]);
    let mut wheel = Wheel::new(0);
    for key in 0..TIMERS - 1 {
        wheel.insert(&mut links, key, rng.u32(AHEAD));
    }
    (wheel, links)
}

fn insert_and_remove(c: &mut Criterion) {
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut wheel, mut links) = wheel(&mut rng);
    let key = TIMERS - 1;
    c.bench_function("wheel/insert and remove among 20,000", |b| {
        b.iter(|| {
            wheel.insert(&mut links, black_box(key), rng.u32(AHEAD));
            wheel.remove(&mut links, black_box(key));
        });
    });
}

/// One tick: what is due fires and is set again, as heartbeats are. A tick has about 130 of them.
fn advance(c: &mut Criterion) {
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut wheel, mut links) = wheel(&mut rng);
    let mut now = 0;
    let mut group = c.benchmark_group("wheel/advance");
    group.throughput(Throughput::Elements(u64::from(TIMERS) / 150));
    group.bench_function("a tick, due timers set again", |b| {
        b.iter(|| {
            now += 1;
            while let Some(key) = wheel.take_due(&mut links, now) {
                wheel.insert(&mut links, key, now + rng.u32(AHEAD));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, insert_and_remove, advance);
criterion_main!(benches);
