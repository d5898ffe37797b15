//! A reader that does not read is told or closed, in time, and costs its neighbours nothing.

use std::time::{Duration, Instant};

use checker::StreamCheck;

use crate::common::{Item, Launch, Node, PATIENCE, Stream, Wire, wait_until};

/// A block of 16 KiB that begins with its number.
fn numbered(number: u64) -> String {
    format!("{number:<16384}")
}

fn number(data: &str) -> u64 {
    assert_eq!(data.len(), 16_384);
    data.trim_end().parse().unwrap()
}

fn blocked(node: &Node) -> bool {
    node.server.metric("fanwheel_readers_blocked") > 0.0
}

/// Publishes on `topic` until a reader is blocked; gives the next number.
fn publish_until_blocked(node: &Node, topic: &str) -> u64 {
    let mut next = 0;
    wait_until("the reader to be blocked", || {
        node.post(topic, numbered(next));
        next += 1;
        blocked(node)
    });
    next
}

#[test]
fn a_reader_that_takes_nothing_is_closed_at_the_deadline_and_its_neighbour_loses_nothing() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1").config("[limits]\nstall = '2s'\n"));
    let mut reader = Stream::open(&node.server, "topic=t");
    let mut stuck = Stream::open_on(Wire::connect_narrow(node.server.public), "topic=t");
    let mut check = StreamCheck::default();
    let mut next = 0;
    let mut publish_and_read = || {
        node.post("t", numbered(next));
        next += 1;
        check.handle_event(number(&reader.next_data()));
    };
    wait_until("the reader to be blocked", || {
        publish_and_read();
        blocked(&node)
    });
    let since = Instant::now();
    wait_until("the stuck reader to be closed", || {
        publish_and_read();
        node.server.metric("fanwheel_connections{transport=\"sse\"}") < 2.0
    });
    let took = since.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
    node.server.wait_closed("stalled", 1.0);
    node.server.wait_metric("fanwheel_readers_blocked", 0.0);
    let verdict = check.finish(0..next);
    assert!(verdict.is_clean() && verdict.received == next, "{verdict:?}");
    let last = stuck.items_until(Instant::now() + PATIENCE).pop();
    assert_eq!(last, Some(Item::Cut), "in the middle of an event there is no proper end");
}

#[test]
fn a_reader_that_goes_on_reading_slowly_is_not_closed() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1").config("[limits]\nstall = '1s'\n"));
    let mut slow = Stream::open_on(Wire::connect_narrow(node.server.public), "topic=t");
    let end = publish_until_blocked(&node, "t") + 10;
    for next in end - 10..end {
        node.post("t", numbered(next));
    }
    let mut check = StreamCheck::default();
    // For three times the deadline it never catches up, but takes some every time it looks.
    for at in 0..end {
        let begun = Instant::now();
        check.handle_event(number(&slow.next_data()));
        let pause = Duration::from_millis(3_000 / end);
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
        assert_eq!(check.received(), at + 1);
    }
    assert!(check.finish(0..end).is_clean());
    assert_eq!(node.server.metric("fanwheel_connections_closed_total{reason=\"stalled\"}"), 0.0);
}

#[test]
fn a_reader_slower_than_the_log_is_told_once_and_goes_on_with_the_newest() {
    let config = "[[class]]\npattern = 'skip.*'\nlog_events = 8\noverflow = 'skip'\n";
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1").config(config));
    let slow = |query| Stream::open_on(Wire::connect_narrow(node.server.public), query);
    let mut single = slow("topic=skip.a");
    let mut several = slow("topic=skip.a&topic=skip.b&topic=other");
    let mut next = 0;
    wait_until("both readers to be blocked", || {
        node.post("skip.a", numbered(next));
        next += 1;
        node.server.metric("fanwheel_readers_blocked") > 1.0
    });
    let newest = next + 40;
    for next in next..=newest {
        node.post("skip.a", numbered(next));
    }
    for stream in [&mut single, &mut several] {
        let mut check = StreamCheck::default();
        let reset = loop {
            let event = stream.next();
            match event.name.as_str() {
                "message" => check.handle_event(number(&event.data)),
                _ => break event,
            }
        };
        assert_eq!((reset.name.as_str(), &reset.json()["reason"]), ("fanwheel.reset", &"overflow".into()));
        assert_eq!(reset.json()["topics"], serde_json::json!(["skip.a"]));
        check.handle_reset();
        assert_eq!(number(&stream.next_data()), newest);
        check.handle_event(newest);
        let verdict = check.finish(0..newest + 1);
        assert!(verdict.is_clean() && verdict.told > 30, "{verdict:?}");
    }
    for data in ["from here on", "everything"] {
        node.post("skip.a", data);
        assert_eq!((single.next_data(), several.next_data()), (data.into(), data.into()));
    }
    assert_eq!(node.server.metric("fanwheel_resets_total{reason=\"overflow\"}"), 2.0);
}

#[test]
fn a_reader_slower_than_the_log_of_a_class_that_disconnects_is_sent_away() {
    let config = "[[class]]\npattern = 'strict'\nlog_events = 8\noverflow = 'disconnect'\n";
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1").config(config));
    let mut slow = Stream::open_on(Wire::connect_narrow(node.server.public), "topic=strict");
    let next = publish_until_blocked(&node, "strict");
    for next in next..next + 40 {
        node.post("strict", numbered(next));
    }
    let mut items = slow.items_until(Instant::now() + PATIENCE);
    assert_eq!(items.pop(), Some(Item::End));
    let Some(Item::Event(drain)) = items.pop() else { panic!("{items:?}") };
    assert_eq!((drain.name.as_str(), &drain.json()["reason"]), ("fanwheel.drain", &"overload".into()));
    let mut check = StreamCheck::default();
    for item in items {
        match item {
            Item::Event(event) => check.handle_event(number(&event.data)),
            other => panic!("{other:?}"),
        }
    }
    let seen = check.last_seen().unwrap() + 1;
    assert!(check.finish(0..seen).is_clean() && seen < next + 40);
    node.server.wait_closed("overflow", 1.0);
}

#[test]
fn readers_that_never_read_do_not_grow_the_node_beyond_its_budget() {
    let config = "[limits]\nlog_memory = '1MiB'\nstall = '60s'\n";
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1").config(config));
    let mut reader = Stream::open(&node.server, "topic=t0&topic=t1&topic=t2&topic=t3");
    let _stuck: Vec<_> = (0..20)
        .map(|at| Stream::open_on(Wire::connect_narrow(node.server.public), &format!("topic=t{}", at % 4)))
        .collect();
    let mut check = StreamCheck::default();
    for next in 0..300 {
        node.post(&format!("t{}", next % 4), numbered(next));
        check.handle_event(number(&reader.next_data()));
        if next % 20 == 0 {
            let bytes = node.server.metric("fanwheel_log_bytes");
            // The newest event's frame is charged once it is encoded, and makes room with the next event.
            assert!(bytes <= f64::from((1 << 20) + (32 << 10)), "{bytes}");
        }
    }
    assert!(check.finish(0..300).is_clean());
    let blocked = node.server.metric("fanwheel_readers_blocked");
    let closed = node.server.metric("fanwheel_connections_closed_total{reason=\"budget\"}");
    assert!((blocked + closed - 20.0).abs() < f64::EPSILON, "{blocked} are blocked, {closed} were closed");
}

/// Nothing wakes the shard but the socket: no event comes, nobody asks.
#[test]
fn a_blocked_reader_that_reads_again_is_served_without_waiting_for_anything_else() {
    const AT_ONCE: Duration = Duration::from_secs(3);
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    let mut slow = Stream::open_on(Wire::connect_narrow(node.server.public), "topic=t");
    let end = publish_until_blocked(&node, "t") + 20;
    for next in end - 20..end {
        node.post("t", numbered(next));
    }
    let since = Instant::now();
    for next in 0..end {
        assert_eq!(number(&slow.next_data()), next);
    }
    // What a shard does by itself, it does at most every five seconds.
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
}
