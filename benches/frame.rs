//! Encoding alone: an event into its Server-Sent Events chunk and its WebSocket messages, and a control block. No
//! log, no socket.
//!
//! Events come in three shapes, because cost has three parts: the allocation (120 bytes), the copy
//! per line (4 KiB of 40 lines), and the walk for line ends (1 MiB of line feeds, the worst case: it
//! becomes 6 MiB of empty `data:` lines). WebSocket's JSON has a worst case of its own, text full of quotation marks,
//! and two floors: what a serializer takes for the same bytes, and a plain copy of the data (`data`).

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[path = "subjects/frame.rs"]
mod subject;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanwheel::event::Event;
use fanwheel::frame::WireForm;
use fanwheel::frame::control::{Control, ResetReason};
use fanwheel::frame::sse::Chunk;
use fanwheel::frame::ws;

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

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame/ws");
    for (name, event) in [
        ("120 B, 1 line", subject::one_line()),
        ("120 B of JSON", subject::quote()),
        ("4 KiB, 40 lines", subject::forty_lines()),
        ("1 MiB of line feeds", subject::line_feeds()),
        ("1 MiB of x", subject::prose()),
    ] {
        group.throughput(Throughput::Bytes(event.data.len() as u64));
        assert_eq!(ws::json(&event), serialized(&event), "the floor does the same");
        group.bench_function(format!("json, {name}"), |b| b.iter(|| ws::json(black_box(&event))));
        group.bench_function(format!("serializer, {name}"), |b| b.iter(|| serialized(black_box(&event))));
        group.bench_function(format!("data, {name}"), |b| b.iter(|| ws::data(black_box(&event))));
    }
    group.finish();
}

/// The same message by way of a serializer, which writes into a buffer that has its length.
fn serialized(event: &Event) -> Box<[u8]> {
    #[derive(serde::Serialize)]
    struct Message<'a> {
        topic: &'a str,
        id: Option<String>,
        event: Option<&'a str>,
        data: &'a str,
    }
    let message = Message {
        topic: event.topic.as_str(),
        id: event.stored.map(|stored| stored.id.to_string()),
        event: event.name.as_ref().map(fanwheel::event::EventName::as_str),
        data: std::str::from_utf8(&event.data).unwrap(),
    };
    let mut json = Vec::with_capacity(event.data.len() + 128);
    serde_json::to_writer(&mut json, &message).unwrap();
    ws::text(&json)
}

fn control(c: &mut Criterion) {
    let topics = subject::topics();
    let mut group = c.benchmark_group("frame/control");
    let form = WireForm::SseChunked;
    group.bench_function("open, 1 topic", |b| {
        b.iter(|| Control::open(black_box(&topics[..1]).iter(), 2_000, false, None).bytes(form));
    });
    group.bench_function("reset, 5 topics", |b| {
        b.iter(|| Control::reset(ResetReason::Gap, black_box(&topics).iter(), None).bytes(form));
    });
    group.finish();
}

criterion_group!(benches, encode, messages, control);
criterion_main!(benches);
