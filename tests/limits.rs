//! Limits answer with a sentence that names them, or inside a stream where a browser would give up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Launch, Node, Stream, Wire, get, post, request, wait_until};

const MIB: usize = 1 << 20;

#[test]
fn a_stream_follows_at_most_a_hundred_topics() {
    Node::each(|node| {
        let to = node.server.public;
        let query = |count: usize| (0..count).map(|at| format!("topic=t{at}")).collect::<Vec<_>>().join("&");
        let answer = get(to, &format!("/events?{}", query(101)));
        assert!(answer.problem(400).contains("100"));
        assert_eq!(answer.json()["limit"], 100);
        let mut stream = Stream::begin(to, &query(100));
        assert_eq!(stream.expect_open().json()["topics"].as_array().map(Vec::len), Some(100));
        for topic in ["t99", "t0"] {
            node.publish(topic, topic);
            assert_eq!(stream.next_data(), topic);
        }
    });
}

#[test]
fn a_hundred_topics_of_the_greatest_length_fit_into_a_stream() {
    let node = Node::embedded();
    let topics: Vec<String> = (0..100).map(|at| format!("{at:0>255}")).collect();
    let query: Vec<String> = topics.iter().map(|topic| format!("topic={topic}")).collect();
    let mut stream = Stream::begin(node.server.public, &query.join("&"));
    assert_eq!(crate::common::sse::names(&stream.expect_open().json()["topics"]), topics);
    node.post(&topics[7], "x");
    assert_eq!(stream.next_data(), "x");
}

#[test]
fn a_topic_is_at_most_255_bytes_long() {
    let node = Node::embedded();
    let to = node.server.public;
    let (longest, too_long) = ("x".repeat(255), "x".repeat(256));
    for answer in [
        get(to, &format!("/events?topic={too_long}")),
        get(to, &format!("/topics/{too_long}")),
        post(to, &format!("/topics/{too_long}"), b"x"),
    ] {
        assert!(answer.problem(400).contains("255"));
        assert_eq!(answer.json()["limit"], 255);
    }
    let mut stream = Stream::open(&node.server, &format!("topic={longest}"));
    node.post(&longest, "x");
    assert_eq!(stream.next_data(), "x");
}

#[test]
fn a_head_over_32_kib_is_431() {
    let node = Node::embedded();
    for bytes in [33, 40, 100] {
        for request in [
            format!("GET /topics/t HTTP/1.1\r\nhost: test\r\nlarge: {}\r\n\r\n", "x".repeat(bytes << 10)),
            format!("GET /topics/t?{} HTTP/1.1\r\nhost: test\r\n\r\n", "x".repeat(bytes << 10)),
        ] {
            let mut wire = Wire::connect(node.server.public);
            wire.send(request.as_bytes());
            let answer = wire.take_answer();
            assert!(answer.problem(431).contains("32768"));
            assert_eq!(answer.json()["limit"], 32_768);
        }
    }
    let header = "x".repeat(31 << 10);
    assert_eq!(request(node.server.public, "GET", "/topics/t", &[("large", &header)], b"").status(), 200);
}

#[test]
fn a_node_that_is_full_says_so_inside_the_stream_and_refuses_publishers() {
    let launch = Launch::serve().flag("--shards", "2").config("[limits]\nconnections = 3\n");
    let node = Node::embedded_as(launch);
    let to = node.server.public;
    let mut streams: Vec<_> = (0..3).map(|_| Stream::open(&node.server, "topic=t")).collect();
    for turned_away in 1..=4 {
        let mut stream = Stream::begin(to, "topic=t");
        let data = stream.expect_dismissal("fanwheel.drain");
        assert_eq!(data["reason"], "limit");
        node.server.wait_closed("limit", f64::from(turned_away));
    }
    let answer = post(to, "/topics/t", b"x");
    answer.problem(503);
    assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    wait_until("those turned away to be counted off", || node.server.status()["connections"] == 3);
    streams.pop();
    wait_until("the free place to be usable", || post(to, "/topics/t", b"room").status() == 202);
    assert_eq!(streams[0].next_data(), "room", "those who were there first notice nothing");
    wait_until("the publisher's connection to be counted off", || node.server.status()["connections"] == 2);
    streams.push(Stream::open(&node.server, "topic=t"));
}

#[test]
fn a_node_that_follows_as_many_topics_as_it_may_turns_new_ones_away() {
    let node = Node::embedded_as(
        Launch::serve().flag("--shards", "1").config("[limits]\ntopics = 2\ntopics_per_stream = 2\n"),
    );
    let mut stream = Stream::open(&node.server, "topic=a&topic=b");
    let data = Stream::begin(node.server.public, "topic=c").expect_dismissal("fanwheel.drain");
    assert_eq!(data["reason"], "limit");
    Stream::open(&node.server, "topic=b");
    node.publish("a", "untouched");
    assert_eq!(stream.next_data(), "untouched");
    assert_eq!(get(node.server.public, "/events?topic=a&topic=b&topic=c").json()["limit"], 2);
}

/// Most of the bodies are more than the shard has room for. With FANWHEEL_TEST_BODIES=5000 it is the
/// full trial, for which this process and the server each need as many descriptors.
#[test]
fn unfinished_bodies_cannot_use_up_the_memory() {
    let count: usize = std::env::var("FANWHEEL_TEST_BODIES").map_or(300, |count| count.parse().unwrap());
    for (shards, sent) in [(1, MIB - 1), (1, 100_000), (2, MIB - 1)] {
        let node = Node::embedded_as(Launch::serve().flag("--shards", &shards.to_string()));
        let mut witness = Stream::open(&node.server, "topic=witness");
        let idle = node.server.pss_bytes();
        let peak = AtomicUsize::new(0);
        let mut wires = thread::scope(|scope| {
            let senders: Vec<_> = (0..8).map(|_| scope.spawn(|| unfinished(&node, count / 8, sent))).collect();
            while senders.iter().any(|sender| !sender.is_finished()) {
                peak.fetch_max(node.server.pss_bytes(), Ordering::Relaxed);
                // Between two looks at the condition.
                thread::sleep(Duration::from_millis(10));
            }
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<Wire>>()
        });
        let refused = refused(&mut wires);
        let peak = peak.into_inner().max(node.server.pss_bytes());
        let bound = idle + 64 * MIB * shards + 16 * MIB;
        println!("{count} bodies, {sent} bytes of each, {shards} shards: {} MiB over idle", (peak - idle) / MIB);
        assert!(peak <= bound, "{peak} of {bound} bytes, {refused} of {count} refused");
        // As many as there is room for were let in; 300 of 100,000 bytes are no more than that.
        let too_many = count * sent > (64 * shards + 16) * MIB;
        assert_eq!(refused > 0, too_many, "{refused} of {count} bodies were refused");
        assert!(count - refused >= 40, "{refused} of {count} bodies were refused");
        // Small ones find room between the large.
        wait_until("a small one to be taken", || {
            post(node.server.public, "/topics/witness", b"undisturbed").status() == 202
        });
        assert_eq!(witness.next_data(), "undisturbed");
        drop(wires);
        wait_until("the room to be free again", || {
            post(node.server.public, "/topics/t", &vec![b'x'; MIB]).status() == 202
        });
    }
}

/// A browser never comes back after a 503, so a stream's connection is just closed.
#[test]
fn large_heads_find_no_room_beside_bodies_that_have_used_it_up() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    let mut bodies = unfinished(&node, 60, MIB - 1);
    let mut refused_bodies = 0;
    wait_until("the bodies to have used it up", || {
        refused_bodies += refused(&mut bodies);
        // 56 MiB, of which each of the others has one and what its connection needs.
        refused_bodies >= 8
    });
    let begin = |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nhost: test\r\nx: {}", "x".repeat(20_000));
        let mut wire = Wire::connect(node.server.public);
        let _ = wire.try_send(head.as_bytes());
        wire
    };
    let mut ordinary: Vec<Wire> = (0..200).map(|_| begin("/topics/t")).collect();
    wait_until("some to find no room", || refused(&mut ordinary) > 0);
    let mut streams: Vec<Wire> = (0..5).map(|_| begin("/events?topic=t")).collect();
    for wire in &mut streams {
        while wire.fill(Instant::now() + crate::common::PATIENCE).expect("it is closed") {}
        assert!(wire.unread().is_empty(), "{}", String::from_utf8_lossy(wire.unread()));
    }
    assert_eq!(get(node.server.public, "/topics/t").status(), 200, "a small head needs none");
    let mut stream = Stream::open(&node.server, "topic=t");
    drop((bodies, ordinary));
    wait_until("the room to be free again", || post(node.server.public, "/topics/t", b"x").status() == 202);
    assert_eq!(stream.next_data(), "x");
}

/// Begins bodies of 1 MiB and sends so much of each.
fn unfinished(node: &Node, count: usize, sent: usize) -> Vec<Wire> {
    let head = format!("POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: {MIB}\r\n\r\n");
    let bytes = [head.as_bytes(), &vec![b'x'; sent]].concat();
    let begin = |_| {
        let mut wire = Wire::connect(node.server.public);
        // One that is refused need not be read to its end.
        let _ = wire.try_send(&bytes);
        wire
    };
    (0..count).map(begin).collect()
}

/// How many were refused, each with a sentence and a time to come back.
fn refused(wires: &mut [Wire]) -> usize {
    let mut refused = 0;
    for wire in wires {
        // The answer was written before the last of the body was read.
        if wire.fill(Instant::now() + Duration::from_millis(1)) != Some(true) {
            continue;
        }
        let answer = wire.take_answer();
        assert!(answer.problem(503).contains("together"));
        assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), Some("close")));
        refused += 1;
    }
    refused
}
