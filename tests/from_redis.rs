//! What any program says with PUBLISH arrives as an event, whatever bytes it is made of.

use crate::common::{Event, Launch, Node, Stream, post, wait_until};

const MIB: usize = 1 << 20;

#[test]
fn any_text_published_in_redis_arrives() {
    let node = Node::on_redis();
    let mut redis = node.redis().client();
    let mut stream = Stream::open(&node.server, "topic=chat");
    for (payload, arrives) in [
        ("hello", "hello"),
        ("one\ntwo\n\nfour", "one\ntwo\n\nfour"),
        ("one\rtwo\r\nthree", "one\ntwo\nthree"),
        ("", ""),
        ("\n", "\n"),
        (" space", " space"),
        ("FW1{}\nno envelope", "FW1{}\nno envelope"),
        ("{\"json\":\"€\"}", "{\"json\":\"€\"}"),
    ] {
        assert!(redis.publish("fanwheel:chat", payload.as_bytes()) >= 1);
        assert_eq!(stream.next_data(), arrives);
    }
    for payload in ["x".repeat(MIB), "\n".repeat(MIB)] {
        redis.publish("fanwheel:chat", payload.as_bytes());
        assert!(stream.next_data() == payload, "1 MiB of {:?} is damaged", &payload[..1]);
    }
    assert_eq!(node.server.metric("fanwheel_source_not_utf8_total"), 0.0);
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_and_counted() {
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    let mut redis = node.redis().client();
    let mut stream = Stream::open(&node.server, "topic=chat");
    for (payload, arrives) in [(&b"a\xffb"[..], "a\u{fffd}b"), (b"\xc3", "\u{fffd}"), (b"\xff\nx", "\u{fffd}\nx")] {
        redis.publish("fanwheel:chat", payload);
        assert_eq!(stream.next_data(), arrives);
    }
    // Each of these bytes becomes three: the event is larger than what was published may be.
    redis.publish("fanwheel:chat", &vec![0xff; MIB]);
    assert!(stream.next_data() == "\u{fffd}".repeat(MIB));
    assert_eq!(node.server.metric("fanwheel_source_not_utf8_total"), 4.0);
    assert_eq!(node.server.metric("fanwheel_source_malformed_total"), 0.0);
}

#[test]
fn an_event_over_the_limit_is_dropped_told_in_its_place_and_counted() {
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    let mut redis = node.redis().client();
    let mut stream = Stream::open(&node.server, "topic=chat");
    let mut several = Stream::open(&node.server, "topic=chat&topic=news");
    let mut other = Stream::open(&node.server, "topic=news");
    redis.publish("fanwheel:chat", b"before");
    redis.publish("fanwheel:chat", &vec![b'x'; MIB + 1]);
    redis.publish("fanwheel:chat", b"after");
    redis.publish("fanwheel:news", b"news");
    for stream in [&mut stream, &mut several] {
        assert_eq!(stream.next_data(), "before");
        assert_eq!(stream.expect_reset("too-large"), ["chat"]);
        assert_eq!(stream.next_data(), "after");
    }
    assert_eq!(several.next_data(), "news");
    assert_eq!(other.next_data(), "news", "whoever does not follow the topic is told nothing");
    assert_eq!(node.server.metric("fanwheel_source_too_large_total"), 1.0);
    assert_eq!(node.server.metric("fanwheel_resets_total{reason=\"too-large\"}"), 2.0);
}

#[test]
fn an_envelope_names_the_event_and_a_malformed_one_is_plain_data() {
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    let mut redis = node.redis().client();
    let mut stream = Stream::open(&node.server, "topic=chat");
    let event = |name: &str, data: &str| Event { name: name.into(), data: data.into(), ..Event::default() };
    for (payload, expected) in [
        (&b"\xffFW1{\"event\":\"tick\"}\none\ntwo"[..], event("tick", "one\ntwo")),
        (b"\xffFW1{\"event\":\"t\",\"key\":\"k\",\"later\":[1]}\nx", event("t", "x")),
        (b"\xffFW1{}\n", event("message", "")),
        (b"\xffFW1{\"event\":\"a\\nb\"}\nx", event("message", "\u{fffd}FW1{\"event\":\"a\\nb\"}\nx")),
        (b"\xffFW1{\"event\":\"fanwheel.open\"}\nx", event("message", "\u{fffd}FW1{\"event\":\"fanwheel.open\"}\nx")),
        (b"\xffFW1 no json\nx", event("message", "\u{fffd}FW1 no json\nx")),
        (b"\xffFW1{\"event\":\"no end\"}", event("message", "\u{fffd}FW1{\"event\":\"no end\"}")),
    ] {
        redis.publish("fanwheel:chat", payload);
        assert_eq!(stream.next(), expected);
    }
    assert_eq!(node.server.metric("fanwheel_source_malformed_total"), 4.0);
    // The envelope is not part of the data that is limited.
    let largest = [b"\xffFW1{\"event\":\"large\"}\n", &vec![b'x'; MIB][..]].concat();
    redis.publish("fanwheel:chat", &largest);
    let arrived = stream.next();
    assert_eq!((arrived.name.as_str(), arrived.data.len()), ("large", MIB));
}

#[test]
fn an_application_s_own_channels_can_be_taken_over() {
    let node = Node::on_redis_as(Launch::serve().flag("--channel-prefix", ""));
    let mut stream = Stream::open(&node.server, "topic=fanwheel:x&topic=orders/1");
    node.redis().publish("orders/1", b"one");
    assert_eq!(stream.next_data(), "one");
    node.redis().publish("fanwheel:x", b"two");
    assert_eq!(stream.next_data(), "two");
    assert_eq!(post(node.server.public, "/topics/orders%2F1", b"three").status(), 202);
    assert_eq!(stream.next_data(), "three");
}

/// More at once than a log holds: a reader that reads loses nothing.
#[test]
fn a_burst_longer_than_the_log_is_delivered_whole() {
    let node = Node::on_redis_as(Launch::serve().config("[[class]]\npattern = 'chat'\nlog_events = 16\n"));
    let mut stream = Stream::open(&node.server, "topic=chat");
    let mut redis = node.redis().client();
    let numbers: Vec<String> = (0..3_000).map(|number: u32| number.to_string()).collect();
    let payloads: Vec<&[u8]> = numbers.iter().map(String::as_bytes).collect();
    redis.publish_all("fanwheel:chat", &payloads);
    for number in &numbers {
        assert_eq!(&stream.next_data(), number);
    }
}

#[test]
fn a_topic_is_given_up_some_time_after_its_last_reader_and_can_be_followed_again() {
    let launch = Launch::serve().flag("--shards", "1").config("[limits]\nlinger = '200ms'\n");
    let node = Node::on_redis_as(launch);
    let redis = node.redis();
    let first = Stream::open(&node.server, "topic=chat");
    let mut second = Stream::open(&node.server, "topic=chat&topic=news");
    assert_eq!(redis.subscribers("fanwheel:chat"), 1);
    drop(first);
    wait_until("the first reader's leaving to be noticed", || {
        node.server.metric("fanwheel_connections{transport=\"sse\"}") < 2.0
    });
    node.publish("chat", "still followed");
    assert_eq!(second.next_data(), "still followed");
    drop(second);
    redis.wait_subscribers("fanwheel:chat", 0);
    redis.wait_subscribers("fanwheel:news", 0);
    node.server.wait_metric("fanwheel_topics", 0.0);
    for round in 0..3 {
        let mut again = Stream::open(&node.server, "topic=chat");
        assert_eq!(redis.subscribers("fanwheel:chat"), 1);
        assert_eq!(redis.publish("fanwheel:chat", b"again"), 1, "round {round}");
        assert_eq!(again.next_data(), "again");
        drop(again);
        redis.wait_subscribers("fanwheel:chat", 0);
    }
}
