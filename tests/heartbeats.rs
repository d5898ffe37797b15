//! A silent stream is kept alive; one that is not silent needs no heartbeat.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Item, Launch, Node, PATIENCE, Stream, Wire};

/// 1 s ± 20 %, a tick of 100 ms, and what a busy machine adds.
const BEAT: std::ops::Range<Duration> = Duration::from_millis(690)..Duration::from_millis(1_600);

fn node() -> Node {
    Node::embedded_as(Launch::serve().config("[limits]\nheartbeat = '1s'\n"))
}

#[test]
fn a_silent_stream_is_sent_comments_at_the_interval_and_nothing_else() {
    let node = node();
    let mut old = Wire::connect(node.server.public);
    old.send(b"GET /events?topic=t HTTP/1.0\r\n\r\n");
    let mut streams = [
        Stream::begin(node.server.public, "topic=t"),
        Stream::begin(node.server.public, "topic=t&topic=u"),
        Stream::answered(old),
    ];
    thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(|| {
                assert_eq!(stream.next_item(Instant::now() + PATIENCE), Some(Item::Comment));
                stream.expect_open();
                let mut last = Instant::now();
                for beat in 0..3 {
                    // The client's decoder fails on a blank line without an event.
                    assert_eq!(stream.next_item(Instant::now() + PATIENCE), Some(Item::Comment));
                    assert!(BEAT.contains(&last.elapsed()), "beat {beat} after {:?}", last.elapsed());
                    last = Instant::now();
                }
            });
        }
    });
    assert!(node.server.metric("fanwheel_heartbeats_total") >= 9.0);
}

#[test]
fn a_stream_with_events_is_sent_no_heartbeat() {
    let node = node();
    let mut stream = Stream::open(&node.server, "topic=t");
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_millis(2_500) {
        node.post("t", sent.to_string());
        sent += 1;
        let event = stream.next_item(Instant::now() + PATIENCE);
        assert!(matches!(event, Some(Item::Event(_))), "{event:?} after {sent} events");
        // Nothing more comes in the pause until the next event.
        assert_eq!(stream.next_item(Instant::now() + Duration::from_millis(250)), None, "after {sent} events");
    }
    assert_eq!(node.server.metric("fanwheel_heartbeats_total"), 0.0);
    assert_eq!(stream.next_item(Instant::now() + PATIENCE), Some(Item::Comment), "and then it begins to beat");
}
