//! A shard without sockets: its streams are open, its sink takes everything at once. Events are made
//! beforehand: parsing and allocating them is the source's.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use fanwheel::engine::policy::{Limits, SLICE_SENDS};
use fanwheel::engine::{CloseReason, ConnId, Inbound, Ingested, Joining, Position, Sent, Shard, Sink, Wish};
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

/// A shard whose streams are all open.
pub(crate) struct Audience {
    shard: Shard<()>,
    /// One for each topic.
    events: Vec<Arc<Event>>,
}

impl Audience {
    /// 10,000 streams of one topic: a visit is a look at the member, one send, the move of its cursor.
    pub(crate) fn on_one_topic() -> Audience {
        Audience::new(1, 10_000, |_| vec![0])
    }

    /// 2,000 topics of 5 streams: finding topics, the run queue, short walks.
    pub(crate) fn on_2_000_topics() -> Audience {
        Audience::new(2_000, 10_000, |stream| vec![stream / 5])
    }

    /// 1,000 streams of 20 topics out of 500: the merge of several logs per stream.
    pub(crate) fn of_20_topics_each() -> Audience {
        Audience::new(500, 1_000, |stream| (0..20).map(|n| (stream + n * 25) % 500).collect())
    }

    /// `topics_of` lists each stream's topics, by number.
    fn new(topics: usize, streams: usize, topics_of: impl Fn(usize) -> Vec<usize>) -> Audience {
        let topics: Vec<Topic> = (0..topics).map(|n| Topic::parse(&format!("topic.{n}")).unwrap()).collect();
        let mut shard = Shard::new(Limits::default(), 0, 1);
        ingest(&mut shard, Inbound::Connected(1));
        for stream in 0..streams {
            let topics: Vec<Topic> = topics_of(stream).into_iter().map(|topic| topics[topic].clone()).collect();
            let joining = Joining { topics: &topics, position: Position::Now, form: WireForm::SseChunked, head: b"" };
            shard.join(&mut Everything, (), &joining).expect("it joins");
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
            Arc::new(Event { topic, name: None, key: None, data, stored: None, received_us: 0 })
        });
        Audience { shard, events: events.collect() }
    }

    /// One event for every topic, `times` times, and everything it takes to deliver them.
    pub(crate) fn round(&mut self, times: usize) {
        for _ in 0..times {
            for event in &self.events {
                ingest(&mut self.shard, Inbound::Event(Arc::clone(event)));
            }
        }
        sweep(&mut self.shard);
        self.shard.note_written(0);
    }

    /// Deliveries (event × stream) so far.
    pub(crate) fn deliveries(&self) -> u64 {
        self.shard.counters().deliveries
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
