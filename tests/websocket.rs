//! WebSockets of a whole node: what is published, followed, resumed and closed over them.

use serde_json::{Value, json};

use crate::common::websocket::{Message, SUBPROTOCOL, WebSocket};
use crate::common::{Launch, Node, RedisServer, Stream, TestServer, Wire, get, post, wait_until};
use crate::ws::frame;

const DURABLE: &str = "[[class]]\npattern = \"d.**\"\nkind = \"durable\"\n";

fn publish(topic: &str, data: &str) -> Value {
    json!({"op": "publish", "topic": topic, "data": data})
}

#[test]
fn what_one_publishes_all_are_sent_over_both_transports() {
    Node::each(|node| {
        let mut chunks = Stream::open(&node.server, "topic=chat");
        let mut reader = WebSocket::open(&node.server, "topic=chat");
        let mut plain = WebSocket::begin(node.server.public, "topic=chat", None);
        let mut writer = WebSocket::open(&node.server, "");
        // Who has no place for `open` is known to be there by their number.
        wait_until("all to follow", || get(node.server.public, "/topics/chat").json()["subscribers"] == 3);
        for number in 0..20 {
            let text = format!("{number} \"ü\" \n\u{1}");
            let answer = writer.done(publish("chat", &text));
            assert_eq!(answer.get("id"), None, "a live event has none: {answer}");
            let message = reader.next_json();
            assert_eq!(message, json!({"topic": "chat", "id": null, "event": null, "data": text}));
            assert_eq!(plain.next_text(), text);
            assert_eq!(chunks.next().data, text);
        }
        let named = json!({"op": "publish", "topic": "chat", "data": "x", "event": "said"});
        writer.done(named);
        assert_eq!(reader.next_json()["event"], "said");
        node.publish("chat", "from elsewhere");
        assert_eq!(reader.next_event(), ("chat".into(), "from elsewhere".into()));
    });
}

#[test]
fn topics_are_added_and_left_while_it_is_open() {
    Node::each_as(
        || Launch::serve().config(DURABLE),
        |node| {
            let mut socket = WebSocket::open(&node.server, "topic=a");
            socket.done(json!({"op": "subscribe", "topics": ["b", "a", "d.1"]}));
            for (topic, data) in [("a", "1"), ("b", "2"), ("d.1", "3"), ("b", "4")] {
                socket.done(publish(topic, data));
                assert_eq!(socket.next_event(), (topic.into(), data.into()));
            }
            socket.done(json!({"op": "unsubscribe", "topics": ["b", "nobody knows"]}));
            socket.done(publish("b", "unheard"));
            let id = socket.done(publish("d.1", "5"))["id"].clone();
            assert_eq!(socket.next_json(), json!({"topic": "d.1", "id": id, "event": null, "data": "5"}));
            socket.done(json!({"op": "unsubscribe", "topics": ["a", "d.1"]}));
            wait_until("nobody to follow", || get(node.server.public, "/topics/d.1").json()["subscribers"] == 0);
            let answer = socket.done(json!({"op": "subscribe", "topics": ["d.1"]}));
            assert_eq!(answer["id"], id, "nothing was stored since: {answer}");
            let next = socket.done(publish("d.1", "6"));
            assert_eq!(socket.next_json()["id"], next["id"]);
        },
    );
}

#[test]
fn a_stream_goes_on_over_the_other_transport_and_another_node() {
    let redis = RedisServer::start();
    let start = || Launch::serve().config(DURABLE).flag("--redis", &redis.url()).start();
    let nodes: [TestServer; 2] = [start(), start()];
    let ids: Vec<String> = (0..6)
        .map(|number| {
            let answer = post(nodes[number % 2].public, &format!("/topics/d.{}", number % 3), b"x");
            answer.json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut seen = Vec::new();
    let mut last = "earliest".to_owned();
    for turn in 0..3 {
        let query = format!("topic=d.0&topic=d.1&topic=d.2&last_event_id={last}");
        let server = &nodes[turn % 2];
        if turn % 2 == 0 {
            let mut socket = WebSocket::begin(server.public, &query, Some(SUBPROTOCOL));
            let open = socket.next_json();
            assert_eq!(open["data"]["resumed"], turn > 0, "{open}");
            seen.extend((0..2).map(|_| socket.next_json()["id"].as_str().unwrap().to_owned()));
        } else {
            let mut stream = Stream::begin(server.public, &query);
            assert_eq!(stream.expect_open().json()["resumed"], true);
            seen.extend((0..2).map(|_| stream.next().id.unwrap()));
        }
        last = seen.last().unwrap().clone();
    }
    assert_eq!(seen, ids);
}

#[test]
fn bad_operations_are_answered_and_change_nothing() {
    let server = Launch::serve().config("[limits]\ntopics_per_stream = 3\n").start();
    let mut socket = WebSocket::open(&server, "topic=a&topic=b");
    for (operation, sentence, limit) in [
        (json!({"op": "publish", "topic": "a"}), "`data` is missing", None),
        (json!({"op": "publish", "topic": "a.*", "data": ""}), "`topic`: ", None),
        (json!({"op": "subscribe", "topics": ["c", "d"]}), "a connection follows at most 3 topics", Some(3)),
        (json!({"op": "subscribe", "topics": ["c", "d", "e", "f"]}), "`topics`", Some(3)),
        (json!({"op": "ack", "queue": "q", "tokens": ["t"]}), "there are no queues", None),
        (json!({"op": "shout"}), "`op` is one of", None),
    ] {
        let answer = socket.ask(operation);
        assert_eq!(answer["ok"], false, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(sentence), "{sentence} in {answer}");
        assert_eq!(answer.get("limit").and_then(Value::as_u64), limit, "{answer}");
    }
    socket.done(json!({"op": "subscribe", "topics": ["a", "c"]}));
    socket.done(publish("c", "still open"));
    assert_eq!(socket.next_event(), ("c".into(), "still open".into()));
}

#[test]
fn without_the_subprotocol_there_is_nothing_to_say_and_no_place_for_a_loss() {
    let mut node = Node::on_redis();
    let mut socket = WebSocket::begin(node.server.public, "topic=a", None);
    // It is not told that it is open.
    node.server.wait_metric("fanwheel_streams_opened_total", 1.0);
    socket.send(&frame::text("{}"));
    assert_eq!(socket.expect_close().0, 1008);
    let mut socket = WebSocket::begin(node.server.public, "topic=a", None);
    node.server.wait_metric("fanwheel_streams_opened_total", 2.0);
    node.redis_mut().kill();
    node.redis_mut().resume();
    assert_eq!(socket.expect_close(), (4000, "lost".into()));
    node.server.wait_closed("lost", 1.0);
    let refused = Wire::connect(node.server.public).ask("GET", "/ws", &[], b"");
    assert_eq!(refused.status(), 426, "{refused:?}");
}

#[test]
fn a_gap_is_told_in_the_subprotocol() {
    let mut node = Node::on_redis();
    let mut socket = WebSocket::open(&node.server, "topic=a&topic=b");
    node.redis_mut().kill();
    node.redis_mut().resume();
    let told = socket.next_json();
    assert_eq!(told, json!({"id": null, "event": "fanwheel.reset", "data": {"reason": "gap", "topics": ["a", "b"]}}));
    socket.done(publish("a", "on it goes"));
    assert_eq!(socket.next_event(), ("a".into(), "on it goes".into()));
}

#[test]
fn who_is_sent_away_is_told_and_closed_in_order() {
    let mut server = Launch::serve().config("[limits]\nconnections = 1\n").start();
    let mut socket = WebSocket::open(&server, "topic=a");
    let mut surplus = WebSocket::begin(server.public, "topic=a", Some(SUBPROTOCOL));
    let told = surplus.next_json();
    assert_eq!((&told["event"], &told["data"]["reason"]), (&json!("fanwheel.drain"), &json!("limit")), "{told}");
    assert_eq!(surplus.expect_close().0, 1013);
    server.terminate();
    let told = socket.next_json();
    assert_eq!((&told["event"], &told["data"]["reason"]), (&json!("fanwheel.drain"), &json!("shutdown")), "{told}");
    assert_eq!(socket.next(), Some(Message::Close(1001, "shutdown".into())));
    socket.send(&frame::close(1001, ""));
    assert_eq!(socket.next(), None);
    server.wait_exit();
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_from_and_gets_them_all_later() {
    let server = Launch::serve().start();
    let mut socket = WebSocket::begin_on(Wire::connect_narrow(server.public), "", Some(SUBPROTOCOL));
    let before = server.anonymous_bytes();
    let (long, mut sent) = ("x".repeat(48), 0_u64);
    let is_blocked = || server.metric("fanwheel_readers_blocked") >= 1.0;
    while !is_blocked() {
        assert!(sent < 100_000, "{sent} answers were taken by nobody");
        for _ in 0..100 {
            socket.say(&json!({"op": "publish", "ref": format!("{sent} {long}"), "topic": "a", "data": ""}));
            sent += 1;
        }
    }
    let grown = server.anonymous_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for one that does not read");
    assert_eq!(socket.next_json()["event"], "fanwheel.open");
    for number in 0..sent {
        let answer = socket.next_json();
        assert_eq!(answer, json!({"ref": format!("{number} {long}"), "ok": true}));
    }
    wait_until("it to be served again", || !is_blocked());
    socket.done(publish("a", "on it goes"));
}
