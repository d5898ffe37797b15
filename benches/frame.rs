//! Encoding alone: an event into its Server-Sent Events chunk, and a control block. No log, no socket.
//!
//! Events come in three shapes, because cost has three parts: the allocation (120 bytes), the copy
//! per line (4 KiB of 40 lines), and the walk for line ends (1 MiB of line feeds, the worst case: it
//! becomes 6 MiB of empty `data:` lines).

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[path = "subjects/frame.rs"]
mod subject;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwheel::frame::sse::{self, Chunk, ResetReason};

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame/encode");
    for (name, event) in [
        ("120 B, 1 line", subject::one_line()),
        ("4 KiB, 40 lines", subject::forty_lines()),
        ("1 MiB of line feeds", subject::line_feeds()),
    ] {
        group.throughput(Throughput::Bytes(event.data.len() as u64));
        group.bench_function(name, |b| b.iter(|| Chunk::encode(black_box(&event))));
    }
    group.finish();
}

fn control(c: &mut Criterion) {
    let topics = subject::topics();
    let mut group = c.benchmark_group("frame/control");
    group.bench_function("open, 1 topic", |b| b.iter(|| sse::open(black_box(&topics[..1]).iter(), 2_000, false, None)));
    group.bench_function("reset, 5 topics", |b| {
        b.iter(|| sse::reset(ResetReason::Gap, black_box(&topics).iter(), None));
    });
    group.finish();
}

criterion_group!(benches, encode, control);
criterion_main!(benches);
