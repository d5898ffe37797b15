//! What Redis does not let the script do, and what cannot be read: told, and in nobody else's way.

use super::*;

/// Everything but the script.
const LIVE_RIGHTS: &str = "ACL SETUSER fanwheel on >secret resetchannels &fanwheel:* -@all +hello +subscribe \
                           +unsubscribe +publish";

fn set_user(redis: &RedisServer, line: &str) {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    redis.client().command(&words);
}

/// A node on this Redis, as the user `fanwheel`.
fn node_as_user(redis: &RedisServer) -> TestServer {
    let url = redis.url().replace("redis://", "redis://fanwheel:secret@");
    launch().flag("--redis", &url).flag("--shards", "1").start_unready()
}

/// Two events of `d.a` after the position that is returned, and one of `d.bad` between them.
fn some_events(node: &Node) -> String {
    let position = publish(node, "d.a", "zero");
    publish(node, "d.bad", "x");
    publish(node, "d.a", "one");
    publish(node, "d.a", "two");
    position
}

/// A stream of both topics from there on is told of one, and has all of the other, before and after a lost connection.
fn expect_the_other(node: &Node, position: &str) {
    let query = format!("topic=d.a&topic=d.bad&last_event_id={position}");
    let mut stream = Stream::begin(node.server.public, &query);
    stream.expect_open();
    assert_eq!(stream.expect_reset("trimmed"), ["d.bad"]);
    assert_eq!([next(&mut stream).1, next(&mut stream).1], ["one", "two"]);
    let repairs = node.server.metric("fanwheel_repairs_total");
    node.redis().client().command(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
    publish(node, "d.a", "three");
    assert_eq!(next(&mut stream).1, "three");
    assert!(node.server.metric("fanwheel_repairs_total") > repairs);
}

#[test]
fn a_key_of_another_type_keeps_no_other_topic_waiting() {
    let redis = RedisServer::start();
    let server = launch().flag("--redis", &redis.url()).flag("--shards", "1").start();
    let node = Node { server, redis: Some(redis) };
    let position = some_events(&node);
    let mut client = node.redis().client();
    client.command(&[b"DEL", b"fanwheel:{0}:s:d.bad"]);
    client.command(&[b"SET", b"fanwheel:{0}:s:d.bad", b"a text"]);
    expect_the_other(&node, &position);
    let mut newest = Stream::begin(node.server.public, "topic=d.a&topic=d.bad&last=2");
    newest.expect_open();
    assert_eq!([next(&mut newest).1, next(&mut newest).1], ["two", "three"]);
    let log = node.server.log();
    assert_eq!(log.matches("history cannot be read").count(), 1, "{log}");
    assert!(log.contains("WRONGTYPE"), "{log}");
}

#[test]
fn an_index_that_is_no_number_keeps_no_other_topic_waiting() {
    let node = node();
    let position = some_events(&node);
    let mut client = node.redis().client();
    client.command(&[b"DEL", b"fanwheel:{0}:s:d.bad"]);
    client.command(&[b"HSET", b"fanwheel:{0}:index", b"d.bad", b"garbage"]);
    expect_the_other(&node, &position);
    // It is as if the topic had been forgotten just then; from its next event on all is well.
    let mut stream = Stream::open(&node.server, "topic=d.bad");
    publish(&node, "d.bad", "y");
    assert_eq!(next(&mut stream).1, "y");
    // More digits than any number has.
    client.command(&[b"HSET", b"fanwheel:{0}:index", b"d.long", &[&b"9".repeat(19)[..], b"-1"].concat()]);
    let query = format!("topic=d.a&topic=d.long&last_event_id={position}");
    let mut stream = Stream::begin(node.server.public, &query);
    stream.expect_open();
    assert_eq!(stream.expect_reset("trimmed"), ["d.long"]);
    assert_eq!(next(&mut stream).1, "one");
}

#[test]
fn a_topic_whose_key_is_forbidden_keeps_no_other_waiting() {
    let redis = RedisServer::start();
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REDIS.md")).unwrap();
    let line = manual.lines().find(|line| line.starts_with("ACL SETUSER fanwheel ")).expect("a line to copy");
    let keys = "~fanwheel:{0}:clock ~fanwheel:{0}:index ~fanwheel:{0}:s:d.a*";
    set_user(&redis, &line.replace("~fanwheel:{0}:*", keys));
    let limited = node_as_user(&redis);
    limited.wait_ready();
    let other = launch().flag("--redis", &redis.url()).start();
    let send = |topic: &str, data: &str| id_of(&post(other.public, &format!("/topics/{topic}"), data.as_bytes()));

    let topics: Vec<String> = (0..70).map(|n| format!("d.a{n}")).collect();
    let position = send("d.a0", "before");
    send("d.bad", "x");
    topics.iter().for_each(|topic| {
        send(topic, topic);
    });
    let names: String = topics[..50].iter().map(|topic| format!("topic={topic}&")).collect();
    let rest: String = topics[50..].iter().map(|topic| format!("&topic={topic}")).collect();
    let query = format!("{names}topic=d.bad{rest}");
    let mut stream = Stream::begin(limited.public, &format!("{query}&last_event_id={position}"));
    stream.expect_open();
    assert_eq!(stream.expect_reset("trimmed"), ["d.bad"]);
    topics.iter().for_each(|topic| assert_eq!(&next(&mut stream).1, topic));
    let mut newest = Stream::begin(limited.public, &format!("{query}&last=2"));
    newest.expect_open();
    assert_eq!([next(&mut newest).1, next(&mut newest).1], topics[68..]);

    // Live they come, and a lost connection costs the others nothing.
    send("d.bad", "live");
    assert_eq!(next(&mut stream).1, "live");
    redis.client().command(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"]);
    send("d.a1", "after");
    assert_eq!(next(&mut stream).1, "after");
    let log = limited.log();
    assert_eq!(log.matches("history cannot be read").count(), 1, "{log}");
    assert!(log.contains("no permissions") && !log.contains("refuses the script"), "{log}");
}

#[test]
fn a_node_whose_script_is_refused_is_not_ready_and_says_the_remedy() {
    let redis = RedisServer::start();
    set_user(&redis, LIVE_RIGHTS);
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROTOCOL.md")).unwrap();
    let plain: Vec<&str> = LIVE_RIGHTS.split(' ').collect();
    let written = manual.lines().find(|line| line.contains("ACL SETUSER fanwheel ")).expect("a line to copy");
    assert!(written.replace('\'', "").ends_with(&plain.join(" ")), "{written}");

    let server = node_as_user(&redis);
    let is_told = || {
        let reasons = server.wait_not_ready();
        reasons.into_iter().find(|reason| reason.contains("refuses the script"))
    };
    let reason = wait_for("the reason", is_told);
    assert!(
        reason.contains("no permissions") && reason.contains("ACL SETUSER <user> '~fanwheel:{0}:*' +evalsha"),
        "{reason}"
    );
    // Live topics are served.
    let mut live = Stream::open(&server, "topic=live");
    assert_eq!(post(server.public, "/topics/live", b"x").status(), 202);
    assert_eq!(live.next_data(), "x");

    // The line in the sentence is enough.
    let line = reason.split("allow it: ").nth(1).expect("a remedy").replace('\'', "").replace("<user>", "fanwheel");
    set_user(&redis, &line);
    server.wait_ready();
    let node = Node { server, redis: Some(redis) };
    let mut stream = Stream::open(&node.server, "topic=d.a");
    publish(&node, "d.a", "one");
    assert_eq!(next(&mut stream).1, "one");
    // Taken away again while it runs: with the next marker that is asked for.
    set_user(node.redis(), "ACL SETUSER fanwheel -evalsha");
    let _waits = Stream::begin(node.server.public, "topic=d.b");
    wait_for("the reason", || {
        let reasons = node.server.wait_not_ready();
        reasons.into_iter().find(|reason| reason.contains("refuses the script"))
    });
    set_user(node.redis(), "ACL SETUSER fanwheel +evalsha");
    node.server.wait_ready();
}

#[test]
fn a_demoted_redis_takes_nothing_and_a_promoted_one_all() {
    let node = node();
    let first = publish(&node, "d.a", "one");
    let mut client = node.redis().client();
    // Of a primary that is nowhere: it keeps what it has.
    client.command(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
    let answer = post(node.server.public, "/topics/d.a", b"two");
    assert!(answer.problem(503).contains("Redis is a replica"), "{answer:?}");
    client.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    let third = wait_for("Redis to take events again", || {
        let answer = post(node.server.public, "/topics/d.a", b"three");
        (answer.status() == 200).then(|| id_of(&answer))
    });
    wait_until("that to be all there is", || {
        let history = get(node.server.public, &format!("/topics/d.a/history?after={first}")).json();
        history["events"] == json!([{"id": third, "data": "three"}])
    });
}

#[test]
fn a_redis_that_is_loading_takes_nothing_until_it_has_loaded() {
    // Each key takes its time, and the server looks up often.
    let slow = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let redis = RedisServer::start_with(&slow);
    let mut node = Node { server: launch().flag("--redis", &redis.url()).start(), redis: Some(redis) };
    let first = publish(&node, "d.a", "one");
    let mut client = node.redis().client();
    (0..1_000).for_each(|n| {
        client.command(&[b"SET", format!("other:{n}").as_bytes(), &[b'x'; 64]]);
    });
    client.command(&[b"SAVE"]);
    node.redis_mut().kill();
    node.redis_mut().resume();
    wait_until("publishing to be refused for the loading", || {
        let answer = post(node.server.public, "/topics/d.a", b"two");
        assert_ne!(answer.status(), 200, "it has loaded before anybody looked");
        answer.problem(503).contains("Redis is still loading its data")
    });
    let second = wait_for("Redis to take events again", || {
        let answer = post(node.server.public, "/topics/d.a", b"three");
        (answer.status() == 200).then(|| id_of(&answer))
    });
    wait_until("that to be all there is", || {
        let history = get(node.server.public, &format!("/topics/d.a/history?after={first}")).json();
        history["events"] == json!([{"id": second, "data": "three"}])
    });
    node.server.wait_ready();
}
