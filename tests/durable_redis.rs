//! Durable topics on a real Redis: stored, read again, and told when they are lost.

mod manual;
mod refused;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::fetch::Answer;
use crate::common::node::Node;
use crate::common::proxy::{Cut, Way, Who};
use crate::common::redis::{RedisServer, Reply};
use crate::common::server::TestServer;
use crate::common::{Launch, Proxy, Stream, get, post, request, wait_for, wait_until};

fn launch() -> Launch {
    Launch::serve().config("[[class]]\npattern = 'd.*'\nkind = 'durable'\nhistory_events = 1000\n")
}

/// A node whose topics `d.*` are durable, on a Redis that keeps a log.
fn node() -> Node {
    let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    Node { server: launch().flag("--redis", &redis.url()).start(), redis: Some(redis) }
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn publish(node: &Node, topic: &str, data: &str) -> String {
    id_of(&post(node.server.public, &format!("/topics/{topic}"), data.as_bytes()))
}

/// The next event: id and data.
fn next(stream: &mut Stream) -> (String, String) {
    let event = stream.next();
    assert_eq!(event.name, "message", "{event:?}");
    (event.id.expect("an event of a durable topic has an id"), event.data)
}

fn number(id: &str) -> (u64, u64) {
    let mut parts = id.split('-').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap(), parts.next().unwrap())
}

fn calls(node: &Node, command: &str) -> u64 {
    let stats = node.redis().client().command(&[b"INFO", b"commandstats"]).text();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn what_is_stored_is_read_from_anywhere_and_goes_on_live() {
    Node::each_as(launch, |node| {
        let first = publish(node, "d.a", "one");
        let second = publish(node, "d.b", "two\r\nlines");
        let mut stream = Stream::begin(node.server.public, "topic=d.a&topic=d.b&last_event_id=earliest");
        stream.expect_open();
        assert_eq!(next(&mut stream), (first.clone(), "one".to_owned()));
        assert_eq!(next(&mut stream), (second.clone(), "two\nlines".to_owned()));
        let third = publish(node, "d.a", "three");
        assert_eq!(next(&mut stream), (third.clone(), "three".to_owned()));

        let mut resumed = Stream::begin(node.server.public, &format!("topic=d.a&topic=d.b&last_event_id={first}"));
        assert_eq!(resumed.expect_open().json()["resumed"], true);
        assert_eq!([next(&mut resumed).1, next(&mut resumed).1], ["two\nlines", "three"]);
        let mut newest = Stream::begin(node.server.public, "topic=d.a&topic=d.b&last=2");
        newest.expect_open();
        assert_eq!([next(&mut newest).1, next(&mut newest).1], ["two\nlines", "three"]);

        let history = get(node.server.public, &format!("/topics/d.a/history?after={first}")).json();
        assert_eq!(history["events"], json!([{"id": third, "data": "three"}]));
        assert_eq!(get(node.server.public, "/topics/d.b").json()["last_id"], Value::from(second));
    });
}

#[test]
fn what_waits_goes_in_few_calls_and_in_order() {
    let node = node();
    publish(&node, "d.a", "before");
    let (before, count) = (calls(&node, "evalsha"), 500);
    let events: Vec<Value> =
        (0..count).map(|n| json!({"topic": format!("d.{}", n % 7), "data": n.to_string()})).collect();
    let answers = post(node.server.public, "/publish", json!(events).to_string().as_bytes()).json();
    let ids: Vec<(u64, u64)> =
        answers.as_array().unwrap().iter().map(|answer| number(answer["id"].as_str().unwrap())).collect();
    assert_eq!(ids.len(), count);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    let used = calls(&node, "evalsha") - before;
    assert!(used <= 20, "{used} calls for {count} events");
}

#[test]
fn a_script_that_redis_has_forgotten_is_loaded_again() {
    let node = node();
    let first = publish(&node, "d.a", "one");
    node.redis().client().command(&[b"SCRIPT", b"FLUSH"]);
    let second = publish(&node, "d.a", "two");
    assert!(number(&first) < number(&second));
}

#[test]
fn what_was_published_beside_the_script_is_counted_and_not_delivered() {
    let node = node();
    let mut stream = Stream::open(&node.server, "topic=d.a");
    node.redis().publish("fanwheel:d.a", b"plain");
    publish(&node, "d.a", "ours");
    assert_eq!(next(&mut stream).1, "ours");
    node.server.wait_metric("fanwheel_source_foreign_total", 1.0);
    wait_until("the log to name the remedy", || node.server.log().contains("fanwheel_publish"));
}

#[test]
fn over_a_restart_with_a_log_nothing_is_lost_and_nothing_is_told() {
    let mut node = node();
    let mut stream = Stream::open(&node.server, "topic=d.a");
    let first = publish(&node, "d.a", "one");
    assert_eq!(next(&mut stream).1, "one");
    node.redis_mut().kill();
    node.redis_mut().resume();
    let second = wait_for("Redis to take events again", || {
        let answer = post(node.server.public, "/topics/d.a", b"two");
        (answer.status() == 200).then(|| id_of(&answer))
    });
    assert_eq!(next(&mut stream), (second.clone(), "two".to_owned()));
    assert_ne!(first.rsplit('-').next(), second.rsplit('-').next(), "another incarnation");
    let mut resumed = Stream::begin(node.server.public, &format!("topic=d.a&last_event_id={first}"));
    assert_eq!(resumed.expect_open().json()["resumed"], true);
    assert_eq!(next(&mut resumed).1, "two");
}

#[test]
fn a_flushed_redis_is_a_new_epoch_and_told() {
    let node = node();
    let mut stream = Stream::open(&node.server, "topic=d.a");
    let first = publish(&node, "d.a", "one");
    assert_eq!(next(&mut stream).1, "one");
    node.redis().client().command(&[b"FLUSHALL"]);
    publish(&node, "d.a", "two");
    stream.expect_reset("epoch");
    publish(&node, "d.a", "three");
    wait_until("an event after the reset", || next(&mut stream).1 == "three");
    let mut resumed = Stream::begin(node.server.public, &format!("topic=d.a&last_event_id={first}"));
    assert_eq!(resumed.expect_open().json()["resumed"], false);
    resumed.expect_reset("epoch");
}

#[test]
fn what_redis_refuses_is_refused_and_nothing_is_stored() {
    let node = Node::on_redis_as(launch().flag("--shards", "1"));
    publish(&node, "d.a", "one");
    let mut client = node.redis().client();
    client.command(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    for _ in 0..3 {
        let answer = post(node.server.public, "/topics/d.a", b"two");
        assert!(answer.problem(503).contains("Redis is out of memory"), "{answer:?}");
    }
    client.command(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    assert_eq!(client.command(&[b"XLEN", b"fanwheel:{0}:s:d.a"]), Reply::Integer(1));
    client.command(&[b"SET", b"fanwheel:{0}:s:d.bad", b"x"]);
    let batch = json!([{"topic": "d.bad", "data": "x"}, {"topic": "d.a", "data": "y"}]).to_string();
    let answers = post(node.server.public, "/publish", batch.as_bytes()).json();
    assert!(answers[0]["error"].as_str().unwrap().contains("Redis refuses it"), "{answers}");
    assert!(answers[1]["id"].is_string(), "{answers}");
    publish(&node, "d.a", "three");
    client.command(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert_eq!(post(node.server.public, "/topics/d.a", b"four").status(), 503);
    let told = || node.server.log().matches("Redis refuses events of durable topics").count();
    wait_until("it to be said each time it begins", || told() == 2);
}

#[test]
fn with_an_idempotency_key_an_answer_that_was_lost_is_asked_for_again() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.address);
    let node = Node { server: launch().flag("--redis", &proxy.url()).start(), redis: Some(redis) };
    let key = [("idempotency-key", "a:b%")];
    let first = id_of(&request(node.server.public, "POST", "/topics/d.a", &key, b"x"));
    assert_eq!(id_of(&request(node.server.public, "POST", "/topics/d.a", &key, b"x")), first);
    request(node.server.public, "POST", "/topics/d.a", &key, b"y").problem(422);

    // Records are looked up by the script alone, once for each call with a key.
    let before = calls(&node, "get");
    proxy.hold(Who::Others, Way::Down);
    let to = node.server.public;
    let named = thread::spawn(move || request(to, "POST", "/topics/d.a", &[("idempotency-key", "2")], b"z"));
    let mut client = node.redis().client();
    wait_until("it to be stored", || client.command(&[b"XLEN", b"fanwheel:{0}:s:d.a"]) == Reply::Integer(2));
    proxy.cut(Cut::Reset);
    proxy.heal();
    let second = id_of(&named.join().unwrap());
    assert_eq!(calls(&node, "get") - before, 2, "it was asked for again");
    assert_eq!(client.command(&[b"XLEN", b"fanwheel:{0}:s:d.a"]), Reply::Integer(2), "stored once");
    assert!(number(&first) < number(&second));
}

#[test]
fn keys_and_channels_have_prefixes_of_their_own() {
    let redis = RedisServer::start();
    let prefixes = launch().flag("--key-prefix", "k:").flag("--channel-prefix", "c:").flag("--redis", &redis.url());
    let node = Node { server: prefixes.start(), redis: Some(redis) };
    let mut stream = Stream::open(&node.server, "topic=d.a");
    let id = publish(&node, "d.a", "x");
    assert_eq!(next(&mut stream), (id.clone(), "x".to_owned()), "over its channel");
    let mut resumed = Stream::begin(node.server.public, "topic=d.a&last_event_id=earliest");
    resumed.expect_open();
    assert_eq!(next(&mut resumed).0, id, "from its key");
    assert_eq!(node.redis().channels().iter().filter(|channel| channel.ends_with(":d.a")).count(), 1);
    let mut client = node.redis().client();
    assert_eq!(client.command(&[b"XLEN", b"k:{0}:s:d.a"]), Reply::Integer(1));
    assert_eq!(client.command(&[b"EXISTS", b"fanwheel:{0}:s:d.a", b"fanwheel:{0}:clock"]), Reply::Integer(0));
}

#[test]
fn what_might_be_stored_twice_is_not_sent_again() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.address);
    let classes = "[[class]]\npattern = 'd.short'\nkind = 'durable'\nidempotency_window = '14s'\n\
                   [[class]]\npattern = 'd.*'\nkind = 'durable'\n";
    let launch = Launch::serve().config(classes).flag("--redis", &proxy.url()).flag("--shards", "1");
    let node = Node { server: launch.start(), redis: Some(redis) };
    for (topic, key) in [("d.nameless", None), ("d.short", Some(("idempotency-key", "1")))] {
        let stream = format!("fanwheel:{{0}}:s:{topic}");
        let key: Vec<_> = key.into_iter().collect();
        id_of(&request(node.server.public, "POST", &format!("/topics/{topic}"), &key, b"first"));
        let length = |client: &mut crate::common::Resp| client.command(&[b"XLEN", stream.as_bytes()]);
        let mut client = node.redis().client();
        proxy.hold(Who::Others, Way::Down);
        let to = node.server.public;
        let target = format!("/topics/{topic}");
        let second = key.first().map(|&(name, _)| (name, "2")).into_iter().collect::<Vec<_>>();
        let lost = thread::spawn(move || request(to, "POST", &target, &second, b"second"));
        wait_until("it to be stored", || length(&mut client) == Reply::Integer(2));
        proxy.cut(Cut::Reset);
        proxy.heal();
        lost.join().unwrap().problem(504);
        // What is published later goes behind what would be sent again.
        wait_until("the node to publish again", || post(node.server.public, "/topics/d.b", b"x").status() == 200);
        assert_eq!(length(&mut client), Reply::Integer(2), "{topic}: each once");
    }
}

#[test]
fn a_loss_after_acknowledgement_is_marked_for_all() {
    let redis = RedisServer::start();
    let mut node = Node { server: launch().flag("--redis", &redis.url()).start(), redis: Some(redis) };
    publish(&node, "d.a", "kept");
    node.redis().client().command(&[b"SAVE"]);
    publish(&node, "d.a", "lost");
    let begun = Instant::now();
    // It comes back with the snapshot. Nobody publishes: the node asks by itself.
    node.redis_mut().kill();
    node.redis_mut().resume();
    let mut client = node.redis().client();
    wait_until("the fence to be lossy", || {
        let fences = client.try_command(&[b"HGET", b"fanwheel:{0}:clock", b"fences"]);
        matches!(fences, Some(Reply::Bulk(Some(fences))) if fences.ends_with(b" 1"))
    });
    assert!(begun.elapsed() < Duration::from_millis(3_500), "not only when the janitor comes round");
}

#[test]
fn the_newest_of_many_topics_are_found_together() {
    Node::each_as(launch, |node| {
        let topics: Vec<String> = (0..100).map(|n| format!("d.{n}")).collect();
        let events: Vec<Value> =
            (0..300).map(|n| json!({"topic": topics[n * 7 % 100], "data": n.to_string()})).collect();
        assert_eq!(post(node.server.public, "/publish", json!(events).to_string().as_bytes()).status(), 200);
        let query: String = topics.iter().map(|topic| format!("topic={topic}&")).collect();
        let mut stream = Stream::begin(node.server.public, &format!("{query}last=150"));
        stream.expect_open();
        let seen: Vec<String> = (0..150).map(|_| next(&mut stream).1).collect();
        assert_eq!(seen, (150..300).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_topic_on_which_nobody_publishes_is_trimmed_too() {
    let redis = RedisServer::start();
    let launch = Launch::serve().config("[[class]]\npattern = 'd.*'\nkind = 'durable'\nhistory_age = '1s'\n");
    let node = Node { server: launch.flag("--redis", &redis.url()).start(), redis: Some(redis) };
    publish(&node, "d.old", "x");
    let mut client = node.redis().client();
    wait_until("its events to be too old", || {
        publish(&node, "d.new", "y");
        client.command(&[b"XLEN", b"fanwheel:{0}:s:d.old"]) == Reply::Integer(0)
    });
}

#[test]
fn the_place_of_large_events_is_found_in_pieces() {
    Node::each_as(launch, |node| {
        let data = |n: u32| format!("{n} {}", "x".repeat(600_000));
        for n in 0..18 {
            publish(node, &format!("d.{}", n % 3), &data(n));
        }
        let mut stream = Stream::begin(node.server.public, "topic=d.0&topic=d.1&topic=d.2&last=15");
        stream.expect_open();
        // Where it begins is found by all of them.
        assert!(next(&mut stream).1 == data(3));
    });
}
