//! Redis goes away and comes back, or refuses: streams stay open, are told once, and go on.

use std::time::{Duration, Instant};

use checker::{Published, StreamCheck};

use crate::common::{Item, Launch, Load, Node, RedisServer, Stream, TestServer, get, post, wait_until};

/// Publishes until a node has received it: after a restart that takes until it has subscribed again.
fn publish_until_received(redis: &RedisServer, topic: &str, data: &str) {
    wait_until(&format!("`{topic}` to be subscribed to"), || {
        redis.publish(&format!("fanwheel:{topic}"), data.as_bytes()) > 0
    });
}

#[test]
fn streams_stay_open_over_a_restart_are_told_one_gap_and_go_on() {
    let mut node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    let mut single = Stream::open(&node.server, "topic=a");
    let mut several = Stream::open(&node.server, "topic=a&topic=b&topic=c");
    node.publish("a", "before");
    for restart in 1..=2 {
        for stream in [&mut single, &mut several] {
            assert_eq!(stream.next_data(), "before");
        }
        node.redis_mut().kill();
        let reasons = node.server.wait_not_ready();
        assert!(reasons.iter().any(|reason| reason.contains("source")), "{reasons:?}");
        assert_eq!(node.server.status()["redis"]["connected"], false);
        node.redis_mut().resume();
        node.server.wait_ready();
        assert_eq!(single.expect_reset("gap"), ["a"]);
        assert_eq!(several.expect_reset("gap"), ["a", "b", "c"]);
        publish_until_received(node.redis(), "b", "only b");
        assert_eq!(several.next_data(), "only b", "told once, and nothing else came between");
        publish_until_received(node.redis(), "a", "before");
        assert_eq!(node.server.metric("fanwheel_redis_reconnects_total"), f64::from(restart));
        assert_eq!(node.server.metric("fanwheel_resets_total{reason=\"gap\"}"), f64::from(2 * restart));
    }
    assert_eq!(single.next_data(), "before");
    assert_eq!(get(node.server.admin, "/healthz").status(), 200);
}

#[test]
fn a_subscriber_connection_that_redis_closes_is_made_again_and_told() {
    let node = Node::on_redis();
    let mut stream = Stream::open(&node.server, "topic=a");
    let killed = node.redis().client().command(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
    assert!(killed.integer() >= 1);
    assert_eq!(stream.expect_reset("gap"), ["a"]);
    publish_until_received(node.redis(), "a", "again");
    assert_eq!(stream.next_data(), "again");
}

/// Whatever was published while nobody could hear it lies behind a `gap`; nothing else is missing.
#[test]
fn a_restart_under_load_loses_nothing_untold() {
    let mut node = Node::on_redis();
    let mut streams: Vec<_> = (0..6)
        .map(|at| (Stream::open(&node.server, ["topic=a", "topic=a&topic=b"][at % 2]), StreamCheck::default()))
        .collect();
    let load = Load::start(node.redis().address, Duration::from_micros(300));
    for _ in 0..2 {
        load.wait(200);
        node.redis_mut().kill();
        node.server.wait_not_ready();
        node.redis_mut().resume();
        node.server.wait_ready();
    }
    load.wait(200);
    let published = load.finish();
    publish_until_received(node.redis(), "a", "end");
    for (stream, check) in &mut streams {
        loop {
            let event = stream.next();
            match event.name.as_str() {
                "fanwheel.reset" => check.handle_reset(),
                "message" if event.data == "end" => break,
                "message" => check.handle_event(event.data.parse().unwrap()),
                _ => panic!("{event:?}"),
            }
        }
        let all = 0..published.count;
        let verdict = check.finish(Published { numbers: all.clone(), covered: all, uncertain: &published.uncertain });
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!(verdict.resets, 2, "{verdict:?}");
    }
}

#[test]
fn a_stream_asked_for_while_redis_is_away_is_told_so_in_time_inside_a_200() {
    let mut node = Node::on_redis_as(Launch::serve().config("[limits]\nopen = '1s'\n"));
    node.redis_mut().kill();
    node.server.wait_not_ready();
    let begun = Instant::now();
    let mut stream = Stream::begin(node.server.public, "topic=a");
    assert_eq!(stream.next_item(begun + Duration::from_millis(700)), Some(Item::Comment), "the head comes at once");
    stream.expect_dismissal("fanwheel.unavailable");
    let took = begun.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_millis(2_000)).contains(&took), "{took:?}");
    node.server.wait_closed("unavailable", 1.0);
    node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 0.0);
}

#[test]
fn a_stream_asked_for_while_redis_is_away_opens_when_redis_comes_back() {
    let mut node = Node::on_redis();
    node.redis_mut().kill();
    node.server.wait_not_ready();
    let mut streams: Vec<_> =
        ["topic=a", "topic=a&topic=b"].map(|query| Stream::begin(node.server.public, query)).into();
    node.redis_mut().resume();
    for stream in &mut streams {
        stream.expect_open();
        node.publish("a", "from here on");
        assert_eq!(stream.next_data(), "from here on", "no reset on a stream that has missed nothing");
    }
}

#[test]
fn a_node_started_without_its_redis_waits_for_it() {
    let mut redis = RedisServer::absent();
    let server = Launch::serve().flag("--redis", &redis.url()).start_unready();
    assert!(server.banner.contains("NOT CONNECTED"), "{}", server.banner);
    assert_eq!(get(server.admin, "/readyz").status(), 503);
    assert_eq!(get(server.admin, "/healthz").status(), 200);
    post(server.public, "/topics/a", b"x").problem(503);
    let mut stream = Stream::begin(server.public, "topic=a");
    redis.resume();
    server.wait_ready();
    stream.expect_open();
    // After a failed attempt publishes are refused for a moment without another one.
    wait_until("publishes to be accepted", || post(server.public, "/topics/a", b"x").status() == 202);
    assert_eq!(stream.next_data(), "x");
}

fn limited(redis: &RedisServer) -> TestServer {
    redis.client().command(&[
        b"ACL",
        b"SETUSER",
        b"limited",
        b"on",
        b">pw",
        b"+@all",
        b"resetchannels",
        b"&fanwheel:ok*",
        b"&fanwheel:$probe:*",
    ]);
    let url = format!("redis://limited:pw@{}", redis.address);
    Launch::serve().flag("--shards", "1").flag("--redis", &url).start()
}

#[test]
fn a_channel_redis_refuses_is_told_and_turns_readiness_red_while_others_go_on() {
    let redis = RedisServer::start();
    let server = limited(&redis);
    assert!(!server.banner.contains("pw"), "the banner shows the password: {}", server.banner);
    let mut allowed = Stream::open(&server, "topic=ok.1");
    for query in ["topic=secret", "topic=ok.2&topic=secret&topic=ok.3"] {
        Stream::begin(server.public, query).expect_dismissal("fanwheel.unavailable");
    }
    let reasons = server.wait_not_ready();
    assert!(reasons[0].contains("refused"), "{reasons:?}");
    server.wait_closed("unavailable", 2.0);
    assert_eq!(redis.publish("fanwheel:ok.1", b"still here"), 1);
    assert_eq!(allowed.next_data(), "still here");
    Stream::open(&server, "topic=ok.2&topic=ok.3");
    post(server.public, "/topics/secret", b"x").problem(503);
    assert!(!server.log().contains("pw"), "{}", server.log());
    // What was refused can be asked for again once it is allowed.
    redis.client().command(&[b"ACL", b"SETUSER", b"limited", b"allchannels"]);
    Stream::open(&server, "topic=secret");
}
