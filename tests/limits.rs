//! Limits answer with a sentence that names them, or inside a stream where a browser would give up.

use crate::common::{Launch, Node, Stream, Wire, get, post, request, wait_until};

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
