//! Streams whose topics change while they are open, and those that cannot be told of a loss.

use std::sync::Arc;

use super::{Stage, at, event, topic};
use crate::engine::following::{Joined, NotFollowed};
use crate::engine::history::{Chain, Fence};
use crate::engine::{CloseReason, ConnId, Inbound, Position};
use crate::event::{Event, EventId, Stored, Tag};
use crate::frame::WireForm;

impl Stage {
    /// Adds topics, of which none is confirmed yet.
    fn follow(&mut self, id: ConnId, names: &[&str]) {
        let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
        assert_eq!(self.shard.follow_more(id, &topics, 100), Ok(topics));
    }

    fn leave_topics(&mut self, id: ConnId, names: &[&str]) {
        self.shard.follow_no_more(id, &names.iter().map(|name| topic(name)).collect::<Vec<_>>());
    }

    /// Topics that were confirmed or refused since the last call.
    fn joined(&mut self, id: ConnId) -> Vec<(String, bool)> {
        let joined = self.shard.take_joined().into_iter();
        joined
            .map(|Joined { id: of, topic, is_allowed }| {
                assert_eq!(of, id);
                (topic.as_str().to_owned(), is_allowed)
            })
            .collect()
    }
}

#[test]
fn of_a_topic_that_is_added_nothing_older_comes_also_where_it_is_replayed() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 4);
    stage.got(reader);
    stage.follow(id, &["d.b"]);
    stage.settle(&["d.b"], 10);
    assert_eq!(stage.joined(id), [("d.b".to_owned(), true)]);
    assert_eq!(
        stage.shard.position_of(id).map(|at| at.to_string()),
        EventId::parse("10-0-0000").map(|at| at.to_string())
    );

    stage.wire.0[reader].room = 0;
    let mut stored = vec![event("d.b", 5, 0, 10), event("d.a", 11, 0, 10), event("d.b", 12, 5, 10)];
    stored.extend((13..1_200).map(|ms| event("d.a", ms, if ms == 13 { 11 } else { ms - 1 }, 10)));
    for event in &stored[1..] {
        stage.say(Inbound::Event(Arc::clone(event)));
    }
    assert!(!stage.shard.is_settled(id), "it is blocked");
    let got = read_on(&mut stage, reader, id, &stored, 1_199);
    let expected: Vec<String> = (11..1_200).map(|ms| format!("message {ms}")).collect();
    assert_eq!(got, expected, "all there is of both, and no reset for what came before");
}

/// A reader that is handed all of `stored` from its place on, once it takes anything again.
fn read_on(stage: &mut Stage, reader: usize, id: ConnId, stored: &[Arc<Event>], upto: u64) -> Vec<String> {
    stage.wire.0[reader].room = usize::MAX;
    stage.shard.handle_writable(&mut stage.wire, id);
    stage.sweep();
    while !stage.shard.is_settled(id) {
        stage.answer(stored, upto);
    }
    stage.got(reader)
}

#[test]
fn what_came_before_a_topic_was_confirmed_is_not_for_a_stream_that_was_blocked_then() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 4);
    stage.got(reader);
    stage.follow(id, &["d.b"]);
    stage.wire.0[reader].room = 0;
    stage.event("d.a", 5, 0);
    assert!(!stage.shard.is_settled(id), "it is blocked");
    stage.settle(&["d.b"], 10);
    assert_eq!(stage.joined(id), [("d.b".to_owned(), true)]);
    // Of d.b 7 is retained, and 6 before it is gone: both came before it was confirmed.
    let mut stored = vec![event("d.a", 5, 0, 10), event("d.b", 7, 6, 10), event("d.b", 11, 7, 10)];
    stored.extend((12..1_200).map(|ms| event("d.a", ms, if ms == 12 { 5 } else { ms - 1 }, 10)));
    for event in &stored[2..] {
        stage.say(Inbound::Event(Arc::clone(event)));
    }
    let got = read_on(&mut stage, reader, id, &stored, 1_199);
    let expected: Vec<String> = [5].into_iter().chain(11..1_200).map(|ms| format!("message {ms}")).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_history_that_falls_back_takes_the_place_at_which_a_topic_was_added_with_it() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["d.a"], Position::Now);
    stage.settle(&["d.a"], 100);
    stage.event("d.a", 101, 0);
    stage.follow(id, &["d.b"]);
    stage.settle(&["d.b"], 102);
    stage.event("d.b", 103, 0);
    assert_eq!(stage.got(reader), ["fanwheel.open 100", "message 101", "message 103"]);
    // It goes on from 90, under another tag.
    let tag = Tag::parse("next").expect("a tag");
    let fence = Fence { tag: Tag::NONE, last: at(90), lossy: false };
    stage.chain = Arc::new(Chain { tag, fences: vec![fence] });
    assert!(stage.shard.ingest_gap());
    stage.wishes();
    stage.marker(90);
    stage.answer(&[], 90);
    assert_eq!(stage.got(reader), ["fanwheel.reset diverged 90-0-next"]);
    let of = |name, ms, prev| {
        let mut event = Arc::into_inner(event(name, ms, prev, 10)).expect("nobody else has it");
        event.stored = event.stored.map(|stored| Stored { id: EventId { tag, ..stored.id }, ..stored });
        Arc::new(event)
    };
    stage.wire.0[reader].room = 0;
    let mut stored = vec![of("d.a", 91, 0), of("d.b", 92, 0), of("d.b", 93, 92)];
    stored.extend((94..1_200).map(|ms| of("d.a", ms, if ms == 94 { 91 } else { ms - 1 })));
    for event in &stored {
        stage.say(Inbound::Event(Arc::clone(event)));
    }
    let got = read_on(&mut stage, reader, id, &stored, 1_199);
    let expected: Vec<String> = (91..1_200).map(|ms| format!("message {ms}-0-next")).collect();
    assert_eq!(got, expected, "of d.b, too, what is numbered below the place at which it was added");
}

#[test]
fn a_stream_whose_only_durable_topic_is_not_confirmed_stands_nowhere() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["l.a"], Position::Now);
    stage.say(Inbound::Subscribed(topic("l.a")));
    stage.got(reader);
    stage.follow(id, &["d.b"]);
    assert_eq!(stage.shard.position_of(id), None);
    // It is blocked while the topic is confirmed, and for longer than its log reaches.
    stage.wire.0[reader].room = 0;
    stage.live_event("l.a");
    stage.settle(&["d.b"], 10);
    assert_eq!(stage.shard.position_of(id).map(|at| at.stamp), Some(at(10)));
    let stored: Vec<_> = (11..1_200).map(|ms| event("d.b", ms, if ms == 11 { 0 } else { ms - 1 }, 10)).collect();
    for event in &stored {
        stage.say(Inbound::Event(Arc::clone(event)));
    }
    let got = read_on(&mut stage, reader, id, &stored, 1_199);
    assert_eq!(got.iter().filter(|block| *block == "message").count(), 1);
    let durable: Vec<&String> = got.iter().filter(|block| *block != "message").collect();
    let expected: Vec<String> = (11..1_200).map(|ms| format!("message {ms}")).collect();
    assert_eq!(durable, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_topic_that_is_refused_leaves_the_others_as_they_were() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["l.a"], Position::Now);
    stage.say(Inbound::Subscribed(topic("l.a")));
    stage.got(reader);
    stage.follow(id, &["l.b", "d.c"]);
    stage.say(Inbound::Refused(topic("l.b")));
    stage.say(Inbound::Refused(topic("d.c")));
    assert_eq!(stage.joined(id), [("l.b".to_owned(), false), ("d.c".to_owned(), false)]);
    stage.live_event("l.a");
    assert_eq!((stage.got(reader), stage.shard.gauges().topics), (vec!["message".to_owned()], 1));
    stage.follow(id, &["l.b"]);
    stage.say(Inbound::Subscribed(topic("l.b")));
    assert_eq!(stage.joined(id), [("l.b".to_owned(), true)], "it may ask again");
}

#[test]
fn a_topic_that_is_not_confirmed_when_the_source_is_lost_is_in_the_gap() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["l.a"], Position::Now);
    stage.say(Inbound::Subscribed(topic("l.a")));
    stage.got(reader);
    stage.follow(id, &["l.b"]);
    stage.say(Inbound::Disconnected);
    assert_eq!(stage.joined(id), [("l.b".to_owned(), true)]);
    assert!(!stage.shard.is_settled(id));
    stage.say(Inbound::Connected(2));
    stage.say(Inbound::Subscribed(topic("l.a")));
    assert_eq!(stage.got(reader), Vec::<String>::new(), "one is still missing");
    stage.say(Inbound::Subscribed(topic("l.b")));
    stage.live_event("l.b");
    assert_eq!(stage.got(reader), ["fanwheel.reset gap", "message"]);
    assert!(stage.shard.is_settled(id));
}

#[test]
fn of_a_topic_that_is_left_nothing_comes_not_even_what_was_on_its_way() {
    let mut stage = Stage::new();
    let (reader, id) = stage.join(&["l.a", "d.b"], Position::Now);
    stage.say(Inbound::Subscribed(topic("l.a")));
    stage.settle(&["d.b"], 4);
    stage.got(reader);
    let live = |stage: &mut Stage| {
        let event = Event {
            topic: topic("l.a"),
            name: None,
            key: None,
            data: bytes::Bytes::from_static(b"x"),
            stored: None,
            received_us: 0,
        };
        stage.shard.ingest(&mut stage.wire, Inbound::Event(Arc::new(event)))
    };
    assert!(matches!(live(&mut stage), crate::engine::Ingested::Done));
    stage.leave_topics(id, &["l.a"]);
    stage.sweep();
    stage.event("d.b", 5, 0);
    assert_eq!(stage.got(reader), ["message 5"]);
    stage.leave_topics(id, &["d.b", "d.b", "nobody knows"]);
    stage.event("d.b", 6, 5);
    assert_eq!((stage.got(reader), stage.shard.position_of(id)), (Vec::new(), None));
    // With nothing left it can begin anew.
    stage.follow(id, &["l.c"]);
    stage.say(Inbound::Subscribed(topic("l.c")));
    stage.live_event("l.c");
    assert_eq!(stage.got(reader), ["message"]);
    stage.leave(id);
    assert!(stage.shard.is_empty());
}

#[test]
fn too_many_topics_are_refused_and_none_is_added() {
    let mut stage = Stage::new();
    let (_, id) = stage.join(&["l.a"], Position::Now);
    stage.say(Inbound::Subscribed(topic("l.a")));
    let wanted = ["l.a", "l.b", "l.c"].map(topic);
    assert_eq!(stage.shard.follow_more(id, &wanted, 2), Err(NotFollowed::TooMany));
    assert_eq!(stage.shard.gauges().topics, 1);
    assert_eq!(stage.shard.follow_more(id, &wanted[..2], 2), Ok(vec![topic("l.b")]));
}

#[test]
fn who_has_no_place_for_a_loss_is_closed_at_one() {
    let closed = |end: &dyn Fn(&mut Stage), position| {
        let mut stage = Stage::new();
        let (reader, _) = stage.join_as(WireForm::WsData, &["l.a", "d.b"], position);
        stage.say(Inbound::Subscribed(topic("l.a")));
        stage.settle(&["d.b"], 20);
        end(&mut stage);
        let socket = &stage.wire.0[reader];
        assert!(socket.took.ends_with(b"\x88\x06\x0f\xa0lost"), "{:?}", socket.took);
        socket.closed
    };
    let gap = |stage: &mut Stage| {
        stage.say(Inbound::Disconnected);
        stage.say(Inbound::Connected(2));
        stage.say(Inbound::Subscribed(topic("l.a")));
    };
    let after = |ms: u64| Position::After(EventId { stamp: at(ms), tag: Tag::NONE });
    // What lies between 4 and 15 is gone.
    // The tail does not reach back; then its page is read.
    let trimmed = |stage: &mut Stage| (0..2).for_each(|_| stage.answer(&[event("d.b", 16, 15, 10)], 20));
    assert_eq!(closed(&gap, Position::Now), Some(CloseReason::Lost));
    assert_eq!(closed(&|_| {}, Position::Unknown), Some(CloseReason::Lost));
    assert_eq!(closed(&trimmed, after(4)), Some(CloseReason::Lost));
}
