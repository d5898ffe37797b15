//! A node that is asked to stop: it says so, tells everybody, finishes what it has begun, and ends.
//!
//! `FANWHEEL_TEST_STREAMS` is the number of streams that are open when the signal comes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::sse::request_for;
use crate::common::{Item, Launch, Node, PATIENCE, Stream, Wire, get, wait_until};

fn streams() -> usize {
    std::env::var("FANWHEEL_TEST_STREAMS").map_or(300, |text| text.parse().expect("a number"))
}

/// The body ends properly.
fn expect_end(stream: &mut Stream) {
    assert_eq!(stream.next_item(Instant::now() + PATIENCE), Some(Item::End));
}

#[test]
fn every_stream_is_told_over_the_drain_and_asked_back_at_a_time_of_its_own() {
    let count = streams();
    let mut node = Node::embedded_as(Launch::serve().flag("--shards", "2").config("[limits]\ndrain = '3s'\n"));
    let mut streams: Vec<Stream> = (0..count).map(|_| Stream::open(&node.server, "topic=t")).collect();
    let since = Instant::now();
    node.server.terminate();
    let reasons = node.server.wait_not_ready();
    assert_eq!(reasons, ["the node is stopping"]);
    wait_until("the listener to be closed", || Wire::try_connect(node.server.public).is_none());
    // Half of the time has not passed: about half of the streams are still served.
    if since.elapsed() < Duration::from_millis(1_200) {
        let open = node.server.metric("fanwheel_connections{transport=\"sse\"}");
        assert!(open > 0.0 && open < count as f64 + 1.0, "{open}");
    }
    node.server.wait_exit();
    let took = since.elapsed();
    assert!((Duration::from_millis(1_000)..Duration::from_millis(4_500)).contains(&took), "{took:?}");
    let mut retries = BTreeSet::new();
    for stream in &mut streams {
        let goodbye = stream.next();
        assert_eq!((goodbye.name.as_str(), &goodbye.json()["reason"]), ("fanwheel.drain", &"shutdown".into()));
        assert_eq!(goodbye.json()["retry_ms"].as_u64(), goodbye.retry_ms);
        retries.insert(goodbye.retry_ms);
        expect_end(stream);
    }
    assert!(retries.len() > count / 2, "{} different times for {count} streams", retries.len());
}

#[test]
fn a_node_that_was_at_rest_spreads_its_goodbyes_too_and_ends_with_the_last() {
    let mut node = Node::embedded_as(Launch::serve().flag("--shards", "1").config("[limits]\ndrain = '4s'\n"));
    let mut streams: Vec<Stream> = (0..250).map(|_| Stream::open(&node.server, "topic=t")).collect();
    // Nothing happens for longer than the drain takes: the shard rests.
    let rest = Instant::now() + Duration::from_millis(4_200);
    assert!(streams[0].next_item(rest).is_none(), "no heartbeat is due yet");
    let since = Instant::now();
    node.server.terminate();
    streams.iter_mut().for_each(|stream| drop(stream.expect_dismissal("fanwheel.drain")));
    let told = since.elapsed();
    node.server.wait_exit();
    let ended = since.elapsed();
    assert!(told > Duration::from_millis(2_000), "all of them were told within {told:?}");
    assert!(ended - told < Duration::from_millis(700), "told after {told:?}, ended after {ended:?}");
}

#[test]
fn a_node_without_streams_ends_at_once_also_with_idle_connections() {
    let node = Node::embedded();
    let mut idle = Wire::connect(node.server.public);
    idle.send(b"GET /topics/t HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(idle.take_answer().status(), 200);
    let _silent = Wire::connect(node.server.public);
    wait_until("both connections to be accepted", || node.server.status()["connections"] == 2);
    let since = Instant::now();
    node.server.stop();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(idle.fill(Instant::now() + PATIENCE), Some(false));
}

#[test]
fn who_came_just_before_the_signal_is_answered() {
    let mut node = Node::embedded();
    assert_eq!(get(node.server.public, "/topics/t").status(), 200);
    // The kernel accepts for it meanwhile.
    node.server.signal(Signal::STOP);
    let mut asks = Wire::connect(node.server.public);
    asks.send(b"GET /topics/t HTTP/1.1\r\nhost: test\r\n\r\n");
    let mut follows = Wire::connect(node.server.public);
    follows.send(request_for("topic=t").as_bytes());
    node.server.terminate();
    node.server.signal(Signal::CONT);
    assert_eq!(asks.take_answer().status(), 200);
    let mut stream = Stream::answered(follows);
    let first = stream.next();
    if first.name == "fanwheel.open" {
        // It came before its shard had heard of the signal.
        stream.expect_dismissal("fanwheel.drain");
    } else {
        assert_eq!((first.name.as_str(), &first.json()["reason"]), ("fanwheel.drain", &"shutdown".into()));
    }
    node.server.wait_exit();
}

#[test]
fn a_request_under_way_is_answered() {
    let mut node = Node::embedded();
    let mut post = Wire::connect(node.server.public);
    post.send(b"POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(post.take_head().status, 100, "it waits for the body");
    let mut stream = Stream::open(&node.server, "topic=t");
    node.server.terminate();
    node.server.wait_not_ready();
    assert_eq!(stream.next().name, "fanwheel.drain");
    post.send(b"hello");
    let answer = post.take_answer();
    assert_eq!((answer.status(), answer.header("connection")), (202, Some("close")));
    node.server.wait_exit();
}

#[test]
fn a_blocked_reader_is_told_behind_what_it_has_not_taken() {
    let mut node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    let mut slow = Stream::open_on(Wire::connect_narrow(node.server.public), "topic=t");
    let mut witness = Stream::open(&node.server, "topic=u");
    let mut published = 0;
    wait_until("the reader to be blocked", || {
        node.post("t", format!("{published:<16384}"));
        published += 1;
        node.server.metric("fanwheel_readers_blocked") > 0.0
    });
    node.server.terminate();
    // It stands behind the slow one, whose goodbye has been said by then.
    witness.expect_dismissal("fanwheel.drain");
    let mut expected = 0;
    let goodbye = loop {
        let event = slow.next();
        if event.name != "message" {
            break event;
        }
        assert_eq!(event.data.trim_end(), expected.to_string());
        expected += 1;
    };
    assert_eq!(goodbye.json()["reason"], "shutdown");
    expect_end(&mut slow);
    node.server.wait_exit();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut node = Node::embedded();
    let mut stuck = Wire::connect(node.server.public);
    stuck.send(b"POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(stuck.take_head().status, 100);
    let since = Instant::now();
    node.server.terminate();
    node.server.wait_not_ready();
    node.server.terminate();
    node.server.wait_exit();
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert!(node.server.log().contains("ending at once"), "{}", node.server.log());
}

#[test]
fn who_does_not_leave_is_not_waited_for_longer_than_the_drain() {
    let node = Node::embedded_as(Launch::serve().config("[limits]\ndrain = '1s'\n"));
    let mut stuck = Wire::connect(node.server.public);
    stuck.send(b"POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhell");
    wait_until("it to be accepted", || node.server.status()["connections"] == 1);
    let since = Instant::now();
    node.server.stop();
    let took = since.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[test]
fn a_signal_while_redis_is_away_ends_it_too() {
    let mut node = Node::on_redis();
    let mut stream = Stream::open(&node.server, "topic=t");
    node.redis_mut().kill();
    node.server.wait_not_ready();
    assert_eq!(get(node.server.admin, "/healthz").status(), 200);
    node.server.terminate();
    assert_eq!(stream.next().name, "fanwheel.drain");
    node.server.wait_exit();
}
