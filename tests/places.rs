//! Places for connections: per node, per address, per second. Who finds none is told inside a stream.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::common::{Launch, Node, PATIENCE, Stream, TestServer, Wire, wait_until};

fn from(server: &TestServer, last: u8) -> Wire {
    Wire::connect_from(Ipv4Addr::new(127, 0, 3, last), server.public)
}

fn turned_away(node: &Node, reason: &str) -> f64 {
    node.server.metric(&format!("fanwheel_connections_turned_away_total{{reason=\"{reason}\"}}"))
}

#[test]
fn an_address_has_as_many_connections_as_it_may() {
    let node = Node::embedded_as(Launch::serve().flag("--connections-per-address", "2"));
    let mut first: Vec<Stream> = (0..2).map(|_| Stream::open_on(from(&node.server, 1), "topic=t")).collect();
    let mut surplus = Stream::begin_on(from(&node.server, 1), "topic=t");
    assert_eq!(surplus.expect_dismissal("fanwheel.drain")["reason"], "limit");
    let mut post = from(&node.server, 1);
    post.send(b"POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx");
    let answer = post.take_answer();
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
    assert_eq!(turned_away(&node, "address"), 2.0);
    // Others are not concerned.
    let mut other = Stream::open_on(from(&node.server, 2), "topic=t");
    node.post("t", "to all");
    for stream in first.iter_mut().chain([&mut other]) {
        assert_eq!(stream.next_data(), "to all");
    }
    // A place that is given up is free again, whether its connection was a stream or not.
    first.pop();
    node.server.wait_closed("gone", 1.0);
    let mut asks = from(&node.server, 1);
    asks.send(b"GET /topics/t HTTP/1.0\r\n\r\n");
    assert_eq!(asks.take_answer().status(), 200);
    drop(asks);
    wait_until("the place to be free again", || {
        let mut stream = Stream::begin_on(from(&node.server, 1), "topic=t");
        stream.next().name == "fanwheel.open"
    });
}

#[test]
fn more_connections_than_the_rate_allows_are_asked_back() {
    let node = Node::embedded_as(Launch::serve().flag("--accept-rate", "10"));
    let since = Instant::now();
    let count = 40;
    let mut streams: Vec<Stream> = (0..count).map(|_| Stream::begin(node.server.public, "topic=t")).collect();
    let opened = streams.iter_mut().map(Stream::expect_one_of_open_and_limit).filter(|&opened| opened).count();
    let most = 10 + (since.elapsed().as_secs_f64() * 10.0) as usize + 1;
    assert!((10..=most).contains(&opened), "{opened} were opened, at most {most}");
    assert_eq!(turned_away(&node, "rate"), (count - opened) as f64);
    let deadline = Instant::now() + PATIENCE;
    while !Stream::begin(node.server.public, "topic=t").expect_one_of_open_and_limit() {
        assert!(Instant::now() < deadline, "nobody is admitted any more");
    }
}

#[test]
fn a_full_node_does_not_keep_those_it_turns_away() {
    let node = Node::embedded_as(Launch::serve().config("[limits]\nconnections = 1\n"));
    let mut only = Stream::open(&node.server, "topic=t");
    // They say nothing, and do not read what they are told.
    let silent: Vec<Wire> = (0..300).map(|_| Wire::connect(node.server.public)).collect();
    wait_until("the surplus to be closed", || turned_away(&node, "connections") >= 300.0);
    assert!(node.server.status()["connections"].as_u64() <= Some(129));
    drop(silent);
    node.server.wait_metric("fanwheel_connections{transport=\"http\"}", 0.0);
    let mut told = Stream::begin(node.server.public, "topic=t");
    assert!(!told.expect_one_of_open_and_limit());
    assert_eq!(told.next_item(Instant::now() + Duration::from_secs(5)), Some(crate::common::Item::End));
    drop(told);
    only.send(b"x");
    node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 1.0);
}

impl Stream {
    /// True when the stream is opened, false when it is told that there is no place.
    fn expect_one_of_open_and_limit(&mut self) -> bool {
        let first = self.next();
        match first.name.as_str() {
            "fanwheel.open" => true,
            "fanwheel.drain" => {
                assert_eq!(first.json()["reason"], "limit");
                false
            }
            other => panic!("{other}"),
        }
    }
}
