//! Streams that are opened while Redis is away: they wait, small, and open when it is back.
//!
//! `FANWHEEL_TEST_WAITING` is the number of clients that wait.

use std::time::{Duration, Instant};

use crate::common::{Launch, Node, PATIENCE, Stream, Wire, post, wait_until};

/// The most that a waiting stream may add to the server's memory, in bytes.
const WAITING_BYTES_MAX: f64 = 1024.0;
/// What the requests themselves leave behind, however many streams they become: all come at once.
const BURST_BYTES_MAX: f64 = 4.0 * 1024.0 * 1024.0;

fn begin(node: &Node) -> Wire {
    let mut wire = Wire::connect(node.server.public);
    wire.send(b"GET /events?topic=t HTTP/1.1\r\nhost: test\r\n\r\n");
    wire
}

#[test]
fn who_comes_while_redis_stands_still_waits_small_and_is_opened_when_it_goes_on() {
    let count: usize = std::env::var("FANWHEEL_TEST_WAITING").map_or(500, |text| text.parse().expect("a number"));
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "2"));
    // What the first requests of a process cost is not what each stream costs.
    drop((0..50).map(|_| Stream::open(&node.server, "topic=other")).collect::<Vec<_>>());
    node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 0.0);
    node.redis().pause();
    node.server.wait_metric("fanwheel_source_connected", 0.0);
    let (since, before) = (Instant::now(), node.server.pss_bytes() as f64);
    let waiting: Vec<Wire> = (0..count).map(|_| begin(&node)).collect();
    let mut waiting: Vec<Stream> = waiting.into_iter().map(Stream::answered).collect();
    assert!(waiting.iter().all(|stream| stream.head.status == 200), "a browser takes no other status");
    let growth = node.server.pss_bytes() as f64 - before;
    let each = growth / count as f64;
    assert!(growth < WAITING_BYTES_MAX * count as f64 + BURST_BYTES_MAX, "{each:.0} bytes for each stream that waits");
    let came = since.elapsed();
    assert!(came < Duration::from_secs(8), "{count} clients took {came:?} to come: those that came first have waited");
    node.redis().unpause();
    let back = Instant::now();
    waiting.iter_mut().for_each(|stream| drop(stream.expect_open()));
    println!("{count} waiting: {each:.0} bytes each, all open {:?} after Redis went on", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(4), "{:?}", back.elapsed());
    node.publish("t", "to all");
    for stream in &mut waiting {
        assert_eq!(stream.next_data(), "to all");
    }
}

#[test]
fn who_has_waited_for_too_long_is_asked_to_come_back() {
    let mut node = Node::on_redis_as(Launch::serve().config("[limits]\nopen = '1s'\n"));
    node.redis_mut().kill();
    node.server.wait_not_ready();
    let mut early = Stream::answered(begin(&node));
    early.expect_dismissal("fanwheel.unavailable");
    let mut late = Stream::answered(begin(&node));
    node.redis_mut().resume();
    let first = late.next();
    // It was opened if Redis was back within its second.
    assert!(["fanwheel.open", "fanwheel.unavailable"].contains(&first.name.as_str()), "{first:?}");
    let deadline = Instant::now() + PATIENCE;
    while Stream::answered(begin(&node)).next().name != "fanwheel.open" {
        assert!(Instant::now() < deadline, "no stream is opened again");
    }
}

/// While a request is read it takes kilobytes; the pages stay with a node that has nothing to do, unless
/// it gives them back.
#[test]
fn what_many_requests_at_once_took_is_given_back() {
    const COUNT: usize = 1_000;
    const EACH_MAX: usize = 1_024;
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    drop((0..50).map(|_| Stream::open(&node.server, "topic=other")).collect::<Vec<_>>());
    node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 0.0);
    let before = node.server.anonymous_bytes();
    let mut wires: Vec<Wire> = (0..COUNT).map(|_| Wire::connect(node.server.public)).collect();
    wires.iter_mut().for_each(|wire| wire.send(b"GET /events?topic=t HTTP/1.1\r\n"));
    wait_until("all to be read", || node.server.anonymous_bytes() > before + 2 * COUNT * EACH_MAX);
    wires.iter_mut().for_each(|wire| wire.send(b"host: test\r\n\r\n"));
    let mut streams: Vec<Stream> = wires.into_iter().map(Stream::answered).collect();
    streams.iter_mut().for_each(|stream| drop(stream.expect_open()));
    wait_until("the memory to be given back", || node.server.anonymous_bytes() < before + COUNT * EACH_MAX);
}

/// Logs are freed by a timer, when nobody has followed their topics for a while.
#[test]
fn what_logs_took_is_given_back_when_all_have_left() {
    const TOPICS: usize = 16;
    const EVENTS: usize = 1_000;
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    let query: Vec<String> = (0..TOPICS).map(|topic| format!("topic=t{topic}")).collect();
    let before = node.server.anonymous_bytes();
    let stream = Stream::open(&node.server, &query.join("&"));
    for topic in 0..TOPICS {
        let event = format!(r#"{{"topic":"t{topic}","data":"{}"}}"#, "x".repeat(400));
        let body = format!("[{}]", vec![event; EVENTS].join(","));
        assert_eq!(post(node.server.public, "/publish", body.as_bytes()).status(), 200);
    }
    node.server.wait_metric("fanwheel_events_received_total", (TOPICS * EVENTS) as f64);
    let full = node.server.anonymous_bytes();
    assert!(full > before + TOPICS * EVENTS * 800, "the logs hold {} bytes", full - before);
    drop(stream);
    wait_until("the memory to be given back", || node.server.anonymous_bytes() < before + (full - before) / 4);
}
