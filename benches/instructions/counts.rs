//! Instructions instead of nanoseconds: what `frame`, `log`, `turn` and `wheel` measure with criterion, counted
//! under callgrind. A count is the same on a busy machine, so a slow-down of a few percent fails a test.
//!
//! What always holds: inputs are fixed and chance is seeded; setting up and dropping the subject are not
//! counted; what takes a few instructions is done 1,000 times, so that 3 % are more than one.
//!
//! It needs valgrind and `gungraun-runner` of the very version in Cargo.lock. `instructions.py` calls it, says
//! what is missing, and holds the counts against `instructions.json`; `./test` and `./test bench` call that.
//! gungraun's own baselines lie in `target/` and hold for one machine: not chosen, since a baseline is worth
//! something only where it is committed. Caches are not simulated: callgrind's are not those of any machine.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[path = "../subjects/frame.rs"]
mod frame;
#[path = "../subjects/log.rs"]
mod log;
#[path = "../subjects/turn.rs"]
mod turn;
#[path = "../subjects/wheel.rs"]
mod wheel;

use std::hint::black_box;

use fanwheel::event::Event;
use fanwheel::frame::WireForm;
use fanwheel::frame::control::{Control, ResetReason};
use fanwheel::frame::sse::Chunk;
use fanwheel::frame::ws;
use fanwheel::topic::Topic;
use gungraun::prelude::*;
use gungraun::{Callgrind, LibraryBenchmarkConfig};
use log::{Full, LENGTH};
use turn::Audience;
use wheel::Heartbeats;

const TIMES: u64 = 1_000;

#[library_benchmark]
#[bench::one_line(frame::one_line(), TIMES)]
#[bench::forty_lines(frame::forty_lines(), TIMES / 100)]
#[bench::line_feeds(frame::line_feeds(), 1)]
fn encode(event: Event, times: u64) -> Event {
    for _ in 0..times {
        black_box(Chunk::encode(black_box(&event)));
    }
    event
}

#[library_benchmark]
#[bench::quote(frame::quote(), TIMES)]
#[bench::prose(frame::prose(), 1)]
fn message(event: Event, times: u64) -> Event {
    for _ in 0..times {
        black_box(ws::json(black_box(&event)));
    }
    event
}

#[library_benchmark]
#[bench::of_1_topic(frame::topics())]
fn open(topics: Vec<Topic>) -> Vec<Topic> {
    for _ in 0..TIMES {
        black_box(Control::open(black_box(&topics[..1]).iter(), 2_000, false, None).bytes(WireForm::SseChunked));
    }
    topics
}

#[library_benchmark]
#[bench::of_5_topics(frame::topics())]
fn reset(topics: Vec<Topic>) -> Vec<Topic> {
    for _ in 0..TIMES {
        black_box(Control::reset(ResetReason::Gap, black_box(&topics).iter(), None).bytes(WireForm::SseChunked));
    }
    topics
}

#[library_benchmark]
#[bench::at_the_limit(Full::new())]
fn push_and_evict(mut full: Full) -> Full {
    for _ in 0..TIMES {
        full.push();
    }
    full
}

#[library_benchmark]
#[bench::end(Full::new(), LENGTH)]
#[bench::one_behind(Full::new(), LENGTH - 1)]
#[bench::middle(Full::new(), LENGTH / 2)]
fn position_after(full: Full, cursor: u64) -> Full {
    for _ in 0..TIMES {
        black_box(full.log.position_after(black_box(cursor)));
    }
    full
}

#[library_benchmark]
#[bench::first_time(Full::new())]
#[bench::again(encoded(Full::new()))]
fn encode_in_log(full: Full) -> Full {
    encoded(full)
}

fn encoded(mut full: Full) -> Full {
    for at in 0..full.log.len() {
        black_box(full.log.encode(black_box(at), WireForm::SseChunked).len());
    }
    full
}

#[library_benchmark]
#[bench::on_one_topic_1_event(settled(Audience::on_one_topic(), 1), 1)]
#[bench::on_one_topic_32_events(settled(Audience::on_one_topic(), 32), 32)]
#[bench::on_2_000_topics(settled(Audience::on_2_000_topics(), 1), 1)]
#[bench::of_20_topics_each(settled(Audience::of_20_topics_each(), 1), 1)]
fn round(mut audience: Audience, times: usize) -> Audience {
    audience.round(times);
    audience
}

/// After the first round nothing has to grow any more.
fn settled(mut audience: Audience, times: usize) -> Audience {
    audience.round(times);
    assert_ne!(audience.deliveries(), 0, "a round delivers");
    audience
}

#[library_benchmark]
#[bench::among_20_000(Heartbeats::new())]
fn insert_and_remove(mut heartbeats: Heartbeats) -> Heartbeats {
    for _ in 0..TIMES {
        heartbeats.insert_and_remove();
    }
    heartbeats
}

// 20 s, after which every heartbeat was due once.
#[library_benchmark]
#[bench::for_200_ticks(Heartbeats::new())]
fn advance(mut heartbeats: Heartbeats) -> Heartbeats {
    for _ in 0..200 {
        heartbeats.tick();
    }
    heartbeats
}

library_benchmark_group!(name = of_frame, benchmarks = [encode, message, open, reset]);
library_benchmark_group!(name = of_log, benchmarks = [push_and_evict, position_after, encode_in_log]);
library_benchmark_group!(name = of_turn, benchmarks = [round]);
library_benchmark_group!(name = of_wheel, benchmarks = [insert_and_remove, advance]);

main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [of_frame, of_log, of_turn, of_wheel]
);
