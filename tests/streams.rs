//! A stream begins as promised, whatever the request looked like, and misses nothing after `open`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use checker::{Published, StreamCheck};
use serde_json::json;

use crate::common::sse::{names, request_for};
use crate::common::{Item, Launch, Node, PATIENCE, Stream, Wire, get, post, request};

/// The body of a chunk, as bytes of the wire.
fn chunk(content: &str) -> String {
    format!("{:x}\r\n{content}\r\n", content.len())
}

#[test]
fn a_stream_begins_with_exactly_the_promised_head_comment_and_block() {
    Node::each(|node| {
        let mut wire = Wire::connect(node.server.public);
        wire.send(request_for("topic=b&topic=a").as_bytes());
        let head = wire.take_head();
        assert_eq!((head.version.as_str(), head.status), ("HTTP/1.1", 200));
        let promised = [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store, no-transform"),
            ("x-accel-buffering", "no"),
            ("transfer-encoding", "chunked"),
        ];
        for (name, value) in promised {
            assert_eq!(head.header(name), Some(value), "{name}");
        }
        assert!(head.header("date").is_some_and(|date| date.ends_with(" GMT") && date.len() == 29), "{head:?}");
        assert_eq!(head.header("content-length"), None);
        assert_eq!(wire.take_chunk(), b":\n", "something comes at once, for proxies and clients to see");
        let block = String::from_utf8(wire.take_chunk()).unwrap();
        let lines: Vec<&str> = block.split('\n').collect();
        let [event, retry, data, "", ""] = lines[..] else { panic!("{block:?}") };
        assert_eq!(event, "event: fanwheel.open");
        let retry_ms: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((1_000..3_000).contains(&retry_ms), "{retry_ms}");
        let data: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data, json!({"topics": ["b", "a"], "resumed": false}));

        node.publish("a", "1\n2");
        let event = chunk("data: 1\ndata: 2\n\n");
        assert_eq!(wire.take_exactly(event.len()), event.as_bytes());
    });
}

#[test]
fn streams_are_told_different_times_to_come_back() {
    let node = Node::embedded();
    let times: HashSet<_> =
        (0..12).map(|_| Stream::begin(node.server.public, "topic=t").expect_open().retry_ms).collect();
    assert!(times.len() > 6, "{times:?}");
}

#[test]
fn http_1_0_is_sent_no_chunks() {
    let node = Node::embedded();
    let mut wire = Wire::connect(node.server.public);
    wire.send(b"GET /events?topic=t HTTP/1.0\r\n\r\n");
    let mut stream = Stream::answered(wire);
    assert_eq!(stream.head.header("transfer-encoding"), None);
    assert_eq!(stream.next_item(Instant::now() + PATIENCE), Some(Item::Comment));
    stream.expect_open();
    for data in ["one", "two\nlines", ""] {
        node.publish("t", data);
        assert_eq!(stream.next_data(), data);
    }
}

#[test]
fn head_is_answered_and_the_connection_goes_on() {
    let node = Node::embedded();
    let mut wire = Wire::connect(node.server.public);
    wire.send(b"HEAD /events?topic=t HTTP/1.1\r\nhost: test\r\n\r\n");
    let head = wire.take_head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(wire.ask("GET", "/topics/t", &[], b"").json()["subscribers"], 0, "HEAD opens no stream");
    assert_eq!(request(node.server.public, "GET", "/events?topic=t&topic=", &[], b"").status(), 400);
    Stream::open_on(wire, "topic=t");
}

#[test]
fn requests_before_a_stream_are_answered_on_its_connection() {
    let node = Node::embedded();
    let mut wire = Wire::connect(node.server.public);
    assert_eq!(wire.ask("GET", "/topics/t", &[], b"").status(), 200);
    assert_eq!(wire.ask("POST", "/topics/t", &[], b"nobody listens").status(), 202);
    wire.ask("GET", "/nowhere", &[], b"").problem(404);
    let mut stream = Stream::open_on(wire, "topic=t");
    node.publish("t", "hello");
    assert_eq!(stream.next_data(), "hello");
}

#[test]
fn pipelined_requests_before_a_stream_are_all_answered_in_order() {
    let node = Node::embedded();
    for earlier in [1, 2, 15] {
        let mut wire = Wire::connect(node.server.public);
        let mut all = String::new();
        for number in 0..earlier {
            all.push_str(&format!("GET /topics/x{number} HTTP/1.1\r\nhost: test\r\n\r\n"));
        }
        wire.send((all + &request_for("topic=t")).as_bytes());
        for number in 0..earlier {
            assert_eq!(wire.take_answer().json()["topic"], format!("x{number}"));
        }
        let mut stream = Stream::answered(wire);
        stream.expect_open();
        node.publish("t", format!("after {earlier}"));
        assert_eq!(stream.next_data(), format!("after {earlier}"));
    }
}

#[test]
fn large_answers_the_client_does_not_read_yet_are_not_lost_before_a_stream() {
    let node = Node::embedded_as(Launch::serve().flag("--demo-pages", "true"));
    let page = get(node.server.public, "/").body;
    for earlier in [1, 4, 12] {
        let mut wire = Wire::connect_narrow(node.server.public);
        let all = "GET / HTTP/1.1\r\nhost: test\r\n\r\n".repeat(earlier);
        wire.send((all + &request_for("topic=t")).as_bytes());
        // Something else is answered meanwhile, so that the server has met a full socket.
        assert_eq!(get(node.server.public, "/topics/t").status(), 200);
        for number in 0..earlier {
            assert!(wire.take_answer().body == page, "page {number} of {earlier} is damaged");
        }
        let mut stream = Stream::answered(wire);
        stream.expect_open();
        node.publish("t", "after");
        assert_eq!(stream.next_data(), "after");
    }
}

#[test]
fn what_a_client_sends_after_its_request_is_ignored() {
    let node = Node::embedded();
    let mut wire = Wire::connect(node.server.public);
    wire.send((request_for("topic=t") + &request_for("topic=u") + "POST /topics/t HTTP/1.1\r\n").as_bytes());
    let mut stream = Stream::answered(wire);
    assert_eq!(stream.expect_open().json()["topics"], json!(["t"]));
    stream.send(b"content-length: 1\r\n\r\nx and anything else\0\xff");
    for number in 0..3 {
        node.publish("t", number.to_string());
        assert_eq!(stream.next_data(), number.to_string());
        stream.send(&[b'x'; 4_000]);
    }
}

#[test]
fn a_client_that_floods_its_stream_is_closed() {
    let node = Node::embedded();
    let mut other = Stream::open(&node.server, "topic=t");
    let mut stream = Stream::open(&node.server, "topic=t");
    stream.flood();
    node.server.wait_closed("protocol", 1.0);
    node.publish("t", "still here");
    assert_eq!(other.next_data(), "still here");
    node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 1.0);
}

#[test]
fn a_stream_may_be_asked_for_with_a_body() {
    let node = Node::embedded();
    for request in [
        "GET /events?topic=t HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello",
        "GET /events?topic=t HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut wire = Wire::connect(node.server.public);
        wire.send(request.as_bytes());
        let mut stream = Stream::answered(wire);
        stream.expect_open();
        node.publish("t", "and answered");
        assert_eq!(stream.next_data(), "and answered");
    }
}

#[test]
fn a_position_means_nothing_to_a_stream_of_live_topics() {
    let node = Node::embedded();
    let mut wire = Wire::connect(node.server.public);
    wire.send(
        b"GET /events?topic=t&last_event_id=1-1-abcd&last=7 HTTP/1.1\r\nLast-Event-ID: \xff:\"()\r\nhost: x\r\n\r\n",
    );
    let open = Stream::answered(wire).expect_open();
    assert_eq!((open.id, open.data), (None, r#"{"topics":["t"],"resumed":false}"#.into()));
}

#[test]
fn several_topics_on_one_stream_come_in_one_order() {
    Node::each(|node| {
        let mut stream = Stream::open(&node.server, "topic=a&topic=b&topic=c");
        let mut alone = Stream::open(&node.server, "topic=b");
        let mut publisher = node.redis.as_ref().map(crate::common::RedisServer::client);
        for number in 0..300 {
            let topic = ["a", "b", "c"][number % 3];
            match &mut publisher {
                Some(redis) => drop(redis.publish(&format!("fanwheel:{topic}"), number.to_string().as_bytes())),
                None => node.publish(topic, number.to_string()),
            }
        }
        for number in 0..300 {
            assert_eq!(stream.next_data(), number.to_string());
            if number % 3 == 1 {
                assert_eq!(alone.next_data(), number.to_string());
            }
        }
    });
}

#[test]
fn repeated_topics_are_a_set() {
    Node::each(|node| {
        let mut stream = Stream::begin(node.server.public, "topic=a&topic=b&topic=a&topic=a");
        assert_eq!(names(&stream.expect_open().json()["topics"]), ["a", "b"]);
        assert_eq!(get(node.server.public, "/topics/a").json()["subscribers"], 1);
        for data in ["once", "and again"] {
            node.publish("a", data);
            assert_eq!(stream.next_data(), data);
        }
    });
}

#[test]
fn topics_of_any_letters_are_followed_and_published_to() {
    Node::each(|node| {
        let topic = "https://example.org/a b/ü?x=1&y=%2F+#*a";
        let encoded = "https%3A%2F%2Fexample.org%2Fa%20b%2F%C3%BC%3Fx%3D1%26y%3D%252F%2B%23%2Aa";
        let mut stream = Stream::begin(node.server.public, &format!("topic={encoded}"));
        assert_eq!(stream.expect_open().json()["topics"], json!([topic]));
        let answer = post(node.server.public, &format!("/topics/{encoded}"), b"over HTTP");
        assert_eq!(answer.json()["topic"], topic);
        assert_eq!(stream.next_data(), "over HTTP");
        if let Some(redis) = &node.redis {
            assert_eq!(redis.publish(&format!("fanwheel:{topic}"), b"over Redis"), 1);
            assert_eq!(stream.next_data(), "over Redis");
        }
        let known = get(node.server.public, &format!("/topics/{encoded}")).json();
        assert_eq!(known, json!({"topic": topic, "kind": "live", "subscribers": 1, "last_id": null}));
    });
}

#[test]
fn clients_that_leave_at_any_time_are_noticed() {
    let node = Node::embedded();
    for _ in 0..20 {
        drop(Wire::connect(node.server.public));
        let mut wire = Wire::connect(node.server.public);
        wire.send(request_for("topic=t").as_bytes());
        drop(wire);
        drop(Stream::begin(node.server.public, "topic=t"));
        drop(Stream::open(&node.server, "topic=t&topic=u"));
    }
    for transport in ["sse", "http"] {
        node.server.wait_metric(&format!("fanwheel_connections{{transport=\"{transport}\"}}"), 0.0);
    }
    assert_eq!(get(node.server.public, "/topics/t").json()["subscribers"], 0);
}

/// A publisher numbers events on one topic without a pause; streams join and leave all the while.
/// Whatever is published after a stream has read its `open` must arrive, without a hole.
#[test]
fn nothing_published_after_open_is_missed() {
    const JOINERS: usize = 3;
    const JOINS: usize = 25;
    // With the shortest linger, joins also meet subscriptions that are just being given up.
    Node::each_as(
        || Launch::serve().flag("--shards", "2").config("[limits]\nlinger = '100ms'\n"),
        |node| {
            let started: Vec<AtomicU64> = (0..JOINERS).map(|_| AtomicU64::new(0)).collect();
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut wire = Wire::connect(node.server.public);
                    let mut redis = node.redis.as_ref().map(crate::common::RedisServer::client);
                    while !done.load(Ordering::SeqCst) {
                        // Paced, because a burst that no shard keeps up with would be told as a gap.
                        thread::sleep(Duration::from_micros(300));
                        for (topic, started) in started.iter().enumerate() {
                            let number = started.fetch_add(1, Ordering::SeqCst).to_string();
                            match &mut redis {
                                Some(redis) => drop(redis.publish(&format!("fanwheel:t{topic}"), number.as_bytes())),
                                None => drop(wire.ask("POST", &format!("/topics/t{topic}"), &[], number.as_bytes())),
                            }
                        }
                    }
                });
                let joiners: Vec<_> = started
                    .iter()
                    .enumerate()
                    .map(|(topic, started)| {
                        scope.spawn(move || {
                            (0..JOINS).for_each(|join| join_and_check(node, topic, join, started));
                        })
                    })
                    .collect();
                let results: Vec<_> = joiners.into_iter().map(thread::ScopedJoinHandle::join).collect();
                done.store(true, Ordering::SeqCst);
                results.into_iter().for_each(|result| result.unwrap());
            });
        },
    );
}

fn join_and_check(node: &Node, topic: usize, join: usize, started: &AtomicU64) {
    // Every second stream also follows a topic of its own, which nobody followed before.
    let fresh = if join.is_multiple_of(2) { String::new() } else { format!("&topic=fresh.{topic}.{join}") };
    let mut stream = Stream::open(&node.server, &format!("topic=t{topic}{fresh}"));
    let covered = started.load(Ordering::SeqCst);
    let mut check = StreamCheck::default();
    while check.last_seen().is_none_or(|last| last < covered + 10) {
        check.handle_event(stream.next_data().parse().unwrap());
    }
    let end = check.last_seen().unwrap() + 1;
    let verdict = check.finish(Published { numbers: 0..end, covered: covered..end, uncertain: &[] });
    assert!(verdict.is_clean() && verdict.resets == 0, "join {join}: {verdict:?}");
}
