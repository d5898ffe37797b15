//! Which Redis is used, which is refused and why; and what a publisher is told meanwhile.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::proxy::{Way, Who};
use crate::common::{Answer, Launch, Node, Proxy, RedisServer, Resp, Stream, TestServer, post, wait_for, wait_until};

/// What is known needs no waiting; a busy machine does.
const AT_ONCE: Duration = Duration::from_millis(500);
/// An answer that does not come is given up after 2 s, a connection after 1 s.
const ANSWER_BOUND: Duration = Duration::from_secs(3);
/// Where nobody is: a replica of it stays one.
const NOBODY: [&[u8]; 3] = [b"REPLICAOF", b"127.0.0.1", b"1"];

fn reason(server: &TestServer, part: &str) -> String {
    let mut found = None;
    wait_until(&format!("readiness to say `{part}`"), || {
        found = server.wait_not_ready().into_iter().find(|reason| reason.contains(part));
        found.is_some()
    });
    found.unwrap_or_default()
}

fn timed_post(server: &TestServer) -> (Answer, Duration) {
    let begun = Instant::now();
    (post(server.public, "/topics/a", b"x"), begun.elapsed())
}

#[track_caller]
fn expect_refused(server: &TestServer) -> String {
    let (answer, took) = timed_post(server);
    assert!(took < AT_ONCE, "refused after {took:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    answer.problem(503)
}

#[test]
fn a_replica_is_refused_at_start_and_used_once_it_is_promoted() {
    let redis = RedisServer::start();
    redis.client().command(&NOBODY);
    let server = Launch::serve().flag("--redis", &redis.url()).start_unready();
    assert!(server.banner.contains("NOT CONNECTED") && server.banner.contains("replica"), "{}", server.banner);
    reason(&server, "is a replica");
    let mut stream = Stream::begin(server.public, "topic=a");
    redis.client().command(&[b"REPLICAOF", b"NO", b"ONE"]);
    server.wait_ready();
    stream.expect_open();
    assert_eq!(post(server.public, "/topics/a", b"x").status(), 202);
    assert_eq!(stream.next_data(), "x");
    assert_eq!(server.status()["redis"]["role"], "primary");
}

#[test]
fn a_primary_that_becomes_a_replica_is_left_told_and_taken_back() {
    let node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    let mut stream = Stream::open(&node.server, "topic=a");
    assert_eq!(timed_post(&node.server).0.status(), 202);
    assert_eq!(stream.next_data(), "x");
    let begun = Instant::now();
    node.redis().client().command(&NOBODY);
    reason(&node.server, "is a replica");
    assert!(begun.elapsed() < Duration::from_secs(3), "noticed after {:?}", begun.elapsed());
    wait_until("publishing to be refused for it", || expect_refused(&node.server).contains("replica"));
    node.redis().client().command(&[b"REPLICAOF", b"NO", b"ONE"]);
    assert_eq!(stream.expect_reset("gap"), ["a"]);
    node.server.wait_ready();
    wait_until("publishing to be possible", || timed_post(&node.server).0.status() == 202);
    assert_eq!(stream.next_data(), "x");
    let lines = node.server.log().matches("is a replica").count();
    assert!((1..=2).contains(&lines), "lost for it, then perhaps refused for it: once each, not {lines} times");
}

/// The old server lives, answers, and hears nothing of what is published on the new one.
#[test]
fn a_name_that_leads_to_another_redis_is_followed_although_the_old_one_answers() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::start(old.address);
    let server = Launch::serve().flag("--shards", "1").flag("--redis", &proxy.url()).start();
    let mut stream = Stream::open(&server, "topic=a");
    old.publish("fanwheel:a", b"events are under way");
    assert_eq!(stream.next_data(), "events are under way");
    proxy.lead_to(new.address);
    let begun = Instant::now();
    old.client().command(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    assert_eq!(stream.expect_reset("gap"), ["a"]);
    assert!(begun.elapsed() < Duration::from_secs(3), "noticed after {:?}", begun.elapsed());
    new.wait_subscribers("fanwheel:a", 1);
    old.wait_subscribers("fanwheel:a", 0);
    server.wait_ready();
    assert_eq!(post(server.public, "/topics/a", b"x").status(), 202);
    assert_eq!(stream.next_data(), "x");
}

#[test]
fn a_probe_that_the_acl_refuses_is_told_once_with_the_line_that_helps() {
    let redis = RedisServer::start();
    let mut admin = redis.client();
    let mut allow = |words: &[&str]| {
        let rule = [&["ACL", "SETUSER", "u"], words].concat();
        let rule: Vec<&[u8]> = rule.iter().map(|word| word.as_bytes()).collect();
        admin.command(&rule);
    };
    allow(&["on", ">pw", "resetchannels", "&fanwheel:a", "-@all", "+subscribe", "+unsubscribe", "+publish"]);
    let url = format!("redis://u:pw@{}", redis.address);
    let server = Launch::serve().flag("--shards", "1").flag("--redis", &url).start_unready();
    let line = "ACL SETUSER <user> +subscribe +publish '&fanwheel:$probe:*'";
    assert!(reason(&server, "refuses").contains(line));
    allow(&["&fanwheel:$probe:*", "-publish"]);
    let begun = Instant::now();
    wait_until("some more attempts", || begun.elapsed() > Duration::from_millis(1_500));
    assert!(reason(&server, "refuses").contains("publish"), "subscribing is allowed, publishing is not");
    assert_eq!(server.log().matches(line).count(), 1, "{}", server.log());
    allow(&["+publish"]);
    server.wait_ready();
    let mut stream = Stream::open(&server, "topic=a");
    assert_eq!(post(server.public, "/topics/a", b"x").status(), 202);
    assert_eq!(stream.next_data(), "x");
    assert!(post(server.public, "/topics/b", b"x").problem(503).contains("does not permit"));
    // What it may not look at is unknown, and no reason not to work.
    assert!(server.log().contains("persistence=\"unknown\""), "{}", server.log());
}

#[test]
fn a_cluster_or_a_sentinel_is_refused_with_a_sentence() {
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let ended = Launch::serve().flag("--redis", &cluster.url()).run();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cluster mode") && ended.stderr.contains("primary"), "{ended:?}");

    let (port, _sentinel, _files) = sentinel();
    let ended = Launch::serve().flag("--redis", &format!("redis://127.0.0.1:{port}")).run();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("sentinel mode") && ended.stderr.contains("primary"), "{ended:?}");
}

/// Killed when dropped.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn sentinel() -> (u16, Killed, TempDir) {
    let files = TempDir::new().unwrap();
    let config = files.path().join("sentinel.conf");
    // A port that was free a moment ago.
    let port = RedisServer::absent().address.port();
    std::fs::write(&config, format!("bind 127.0.0.1\nport {port}\n")).unwrap();
    let mut command = Command::new("redis-server");
    command.arg(&config).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
    let child = Killed(command.spawn().unwrap());
    wait_for("the sentinel", || Resp::try_connect(([127, 0, 0, 1], port).into()));
    (port, child, files)
}

#[test]
fn what_operators_should_know_of_their_redis_is_logged_once() {
    let redis = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let server = Launch::serve().flag("--shards", "2").flag("--redis", &redis.url()).start();
    let log = server.log();
    for part in
        ["role=\"primary\"", "no append-only file", "maxmemory=\"104857600\"", "pubsub_buffer=\"33554432 8388608 60\""]
    {
        assert_eq!(log.matches(part).count(), if part.starts_with("maxmemory") { 2 } else { 1 }, "{part} in {log}");
    }
    assert_eq!(log.matches("evicts keys").count(), 1, "{log}");
    assert!(server.banner.contains(&format!("{} (Redis ", redis.url())), "{}", server.banner);
    assert_eq!(server.status()["redis"]["last_error"], serde_json::Value::Null);
    assert!(server.status()["redis"]["version"].as_str().is_some_and(|version| version.contains('.')));
}

#[test]
fn publishing_is_refused_at_once_while_redis_is_down_and_nothing_is_in_doubt_when_it_is_back() {
    let mut node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    for _ in 0..2 {
        assert_eq!(timed_post(&node.server).0.status(), 202);
        node.redis_mut().kill();
        node.server.wait_not_ready();
        for _ in 0..10 {
            assert!(expect_refused(&node.server).contains("away"));
        }
        node.redis_mut().resume();
        let begun = Instant::now();
        loop {
            let (answer, took) = timed_post(&node.server);
            assert!(took < AT_ONCE + Duration::from_secs(1), "answered after {took:?}");
            if answer.status() == 202 {
                break;
            }
            answer.problem(503);
            assert!(begun.elapsed() < ANSWER_BOUND, "refused for {:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_publish_without_an_answer_is_in_doubt_and_none_hangs() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.address);
    let server = Launch::serve().flag("--shards", "1").flag("--redis", &proxy.url()).start();
    let mut listener = redis.client();
    listener.command(&[b"SUBSCRIBE", b"fanwheel:a"]);
    proxy.hold(Who::Others, Way::Down);
    let (answer, took) = timed_post(&server);
    answer.problem(504);
    assert!(took < ANSWER_BOUND, "in doubt after {took:?}");
    assert_eq!(listener.take_message(), b"x", "which is why it is in doubt");
    // From now on links cannot be made; once that is known nobody waits to hear it.
    wait_until("that to be known", || {
        let (answer, took) = timed_post(&server);
        assert!([503, 504].contains(&answer.status()) && took < ANSWER_BOUND, "{answer:?} after {took:?}");
        answer.status() == 503
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_300) {
        expect_refused(&server);
    }
    proxy.heal();
    wait_until("publishing to be possible", || timed_post(&server).0.status() == 202);
}

#[test]
fn a_redis_that_accepts_and_never_answers_keeps_nobody_waiting() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.address);
    proxy.half_open();
    let server = Launch::serve().flag("--redis", &proxy.url()).start_unready();
    assert!(server.banner.contains("no answer within 1 s"), "{}", server.banner);
    reason(&server, "no answer within 1 s");
    let (answer, took) = timed_post(&server);
    answer.problem(503);
    assert!(took < ANSWER_BOUND, "refused after {took:?}");
    proxy.heal();
    server.wait_ready();
    assert_eq!(timed_post(&server).0.status(), 202);
}
