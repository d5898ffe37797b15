//! Courses of events that chance takes too rarely.

use std::sync::Arc;

use bytes::Bytes;
use fanwheel::engine::policy::Limits;
use fanwheel::engine::{CloseReason, Inbound, Ingested, Joining, Position, Shard, Wish};
use fanwheel::event::Event;
use fanwheel::frame::WireForm;
use fanwheel::topic::Topic;

use super::decode::Item;
use super::socket::{Port, Socket, Sockets, Taste};

/// A shard at tick 0 and its sockets.
struct Stage {
    shard: Shard<Port>,
    sockets: Sockets,
    topic: Topic,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(Limits::default())
    }

    fn with(limits: Limits) -> Stage {
        let (rng, all) = (fastrand::Rng::with_seed(0), Vec::new());
        let sockets = Sockets { all, rng, moment: 0, tick: 0, parsed: Default::default(), sends: 0 };
        Stage { shard: Shard::new(limits, 0, 0), sockets, topic: Topic::parse("t").unwrap() }
    }

    /// A stream of the topic; gives its number.
    fn join(&mut self) -> usize {
        let number = self.sockets.all.len();
        self.sockets.all.push(Socket::new(WireForm::SsePlain, b"head", Taste::Everything, 0));
        let topics = [self.topic.clone()];
        let joining = Joining { topics: &topics, position: Position::Now, form: WireForm::SsePlain, head: b"head" };
        self.shard.join(&mut self.sockets, Port(number), &joining).expect("it is let in");
        number
    }

    fn say(&mut self, message: Inbound) {
        assert!(matches!(self.shard.ingest(&mut self.sockets, message), Ingested::Done));
        while self.shard.sweep(&mut self.sockets, 20) {}
    }

    fn publish(&mut self, text: &str) {
        let (topic, data) = (self.topic.clone(), Bytes::copy_from_slice(text.as_bytes()));
        self.say(Inbound::Event(Arc::new(Event { topic, name: None, key: None, data, stored: None, received_us: 0 })));
    }

    /// What stream `number` got since the last call.
    fn got(&mut self, number: usize) -> Vec<String> {
        let arrived = self.sockets.all[number].arrived.drain(..);
        let blocks = arrived.filter_map(|arrival| match arrival.item {
            Item::Block(block) if block.name == "message" => Some(block.data),
            Item::Block(block) => Some(block.name),
            _ => None,
        });
        blocks.collect()
    }
}

/// The topic is asked for on a connection that a gap befalls, so it is asked for twice. Between the
/// two confirmations everybody leaves, it is cancelled, and somebody comes back.
#[test]
fn a_confirmation_that_is_late_does_not_hide_a_hole() {
    let mut stage = Stage::new();
    let (topic, linger) = (stage.topic.clone(), Limits::default().linger_ticks);
    stage.say(Inbound::Connected(1));
    let first = stage.join();
    let asked = [Wish::Renew(1), Wish::Subscribe(topic.clone())];
    assert_eq!(stage.shard.take_wishes(), asked);
    assert!(stage.shard.ingest_gap());
    assert_eq!(stage.shard.take_wishes(), asked, "and again");
    stage.say(Inbound::Subscribed(topic.clone()));
    assert_eq!(stage.got(first), ["fanwheel.open"]);

    let id = stage.sockets.all[first].id.unwrap();
    stage.shard.handle_gone(&mut stage.sockets, id, CloseReason::Gone);
    stage.shard.advance(&mut stage.sockets, linger);
    let second = stage.join();
    assert_eq!(stage.shard.take_wishes(), [Wish::Unsubscribe(topic.clone()), Wish::Subscribe(topic.clone())]);

    stage.say(Inbound::Subscribed(topic.clone()));
    stage.publish("before the hole");
    stage.say(Inbound::Unsubscribed(topic.clone()));
    stage.say(Inbound::Subscribed(topic));
    stage.publish("after the hole");
    assert_eq!(stage.got(second), ["fanwheel.open", "before the hole", "fanwheel.reset", "after the hole"]);
}

#[test]
fn a_topic_refused_after_it_was_cancelled_is_forgotten() {
    let mut stage = Stage::new();
    let (topic, linger) = (stage.topic.clone(), Limits::default().linger_ticks);
    stage.say(Inbound::Connected(1));
    let first = stage.join();
    stage.say(Inbound::Subscribed(topic.clone()));
    let id = stage.sockets.all[first].id.unwrap();
    stage.shard.handle_gone(&mut stage.sockets, id, CloseReason::Gone);
    stage.shard.advance(&mut stage.sockets, linger);
    stage.say(Inbound::Refused(topic));
    assert_eq!(stage.shard.gauges().topics, 0);
}

#[test]
fn a_blocked_reader_that_goes_on_taking_4_kib_is_kept() {
    let mut stage = Stage::new();
    let stall = Limits::default().stall_ticks;
    stage.say(Inbound::Connected(1));
    let reader = stage.join();
    stage.say(Inbound::Subscribed(stage.topic.clone()));
    stage.sockets.all[reader].taste = Taste::Room(10);
    stage.publish(&"x".repeat(60_000));
    let id = stage.sockets.all[reader].id.unwrap();
    for (tick, bytes) in [(stall - 1, 4_096), (2 * stall - 2, 4_096), (3 * stall - 4, 4_095)] {
        stage.sockets.tick = tick;
        stage.shard.advance(&mut stage.sockets, tick);
        assert!(stage.sockets.all[reader].is_open(), "at tick {tick}");
        stage.sockets.all[reader].taste = Taste::Room(bytes);
        stage.sockets.all[reader].begin_asking();
        stage.shard.handle_writable(&mut stage.sockets, id);
        stage.sockets.all[reader].end_asking(tick);
    }
    stage.shard.advance(&mut stage.sockets, 3 * stall - 3);
    assert!(stage.sockets.all[reader].is_open(), "the last 4 KiB are not {stall} ticks ago");
    stage.shard.advance(&mut stage.sockets, 3 * stall - 2);
    assert_eq!(stage.sockets.all[reader].closed, Some(CloseReason::Stalled));
}

/// The frame a stalled reader holds has left its log, so it is the oldest thing the shard keeps.
#[test]
fn the_oldest_frame_goes_first_also_when_only_a_stalled_reader_holds_it() {
    let mut stage = Stage::with(Limits { log_bytes_max: 200_000, ..Limits::default() });
    stage.say(Inbound::Connected(1));
    let reader = stage.join();
    stage.say(Inbound::Subscribed(stage.topic.clone()));
    stage.sockets.all[reader].taste = Taste::Room(10);
    let text = "x".repeat(60_000);
    // The first is kept twice, as data and encoded; nobody is there for the encoding of the others.
    stage.publish(&text);
    stage.publish(&text);
    assert!(stage.sockets.all[reader].is_open(), "there is room for both");
    stage.publish(&text);
    assert_eq!(stage.sockets.all[reader].closed, Some(CloseReason::Budget));
    let kept = stage.shard.gauges().log_bytes;
    assert!((120_000..180_000).contains(&kept), "the second and the third stay in the log: {kept} bytes");
}
