//! What is asked of durable topics over HTTP is checked before anything is read or stored.

use serde_json::json;

use crate::common::fetch::raw;
use crate::common::{Launch, Stream, TestServer, Wire, get, post, request};

/// Topics `d.*` are durable.
fn server() -> TestServer {
    Launch::serve().config("[[class]]\npattern = 'd.*'\nkind = 'durable'\n").start()
}

#[test]
fn positions_that_cannot_be_meant_are_refused_where_topics_have_positions() {
    let server = server();
    for position in ["last=0", "last=1001", "last=x", "last="] {
        let answer = get(server.public, &format!("/events?topic=live&topic=d.a&{position}"));
        assert!(answer.problem(400).contains("`last`"), "{position}");
        assert_eq!(answer.json()["limit"], 1000);
    }
    let sentence = get(server.public, "/events?topic=d.a&last=7&last_event_id=1-1-abcd").problem(400);
    assert!(sentence.contains("choose one"), "{sentence}");
    get(server.public, "/events?topic=d.a&last=7&last=7").problem(400);
    // Live topics have none, so nothing can be wrong with it.
    Stream::open(&server, "topic=live&last=0&last_event_id=x");
}

#[test]
fn whatever_stands_in_the_place_of_an_id_is_answered_with_a_stream() {
    let server = server();
    let long = "1".repeat(9_000);
    for id in ["x", "~", "1-1-abcd~2-2-abcd", "\u{7f}", "\" ()<>@", "1-1-abcde", &long] {
        let mut wire = Wire::connect(server.public);
        let id: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        wire.send(&raw("GET", &format!("/events?topic=d.a&last_event_id={id}"), &[], b""));
        assert!(wire.take_until(b"\r\n").starts_with(b"HTTP/1.1 200 "), "{}", &id[..id.len().min(99)]);
    }
    for ids in ["last-event-id: \u{e9}", "last-event-id: 1-1-abcd\r\nlast-event-id: %%%", "last-event-id:"] {
        let mut wire = Wire::connect(server.public);
        wire.send(format!("GET /events?topic=d.a HTTP/1.1\r\nhost: x\r\n{ids}\r\n\r\n").as_bytes());
        assert!(wire.take_until(b"\r\n").starts_with(b"HTTP/1.1 200 "), "{ids}");
    }
}

#[test]
fn idempotency_keys_are_visible_ascii_and_for_durable_topics() {
    let server = server();
    let long = "k".repeat(129);
    for key in ["", " ", "a b", "k\u{e9}", "a\tb", &long] {
        let answer = request(server.public, "POST", "/topics/d.a", &[("idempotency-key", key)], b"x");
        assert!(answer.problem(400).contains("`Idempotency-Key`"), "{key}");
        assert_eq!(answer.json()["limit"], 128);
        let body = json!([{"topic": "d.a", "data": "x", "idempotency_key": key}]).to_string();
        let answer = post(server.public, "/publish", body.as_bytes());
        assert!(answer.problem(400).contains("event 0, `idempotency_key`"), "{key}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    let sentence = request(server.public, "POST", "/topics/d.a", &twice, b"x").problem(400);
    assert!(sentence.contains("more than once"), "{sentence}");
    let sentence = request(server.public, "POST", "/topics/live", &[("idempotency-key", "a")], b"x").problem(400);
    assert!(sentence.contains("this one is live"), "{sentence}");
}

#[test]
fn a_history_is_asked_for_by_its_rules() {
    let server = server();
    let to = server.public;
    assert!(get(to, "/topics/live/history").problem(400).contains("this one is live"));
    for limit in ["0", "1001", "x", ""] {
        let answer = get(to, &format!("/topics/d.a/history?limit={limit}"));
        assert!(answer.problem(400).contains("`limit`"), "{limit}");
        assert_eq!(answer.json()["limit"], 1000);
    }
    get(to, "/topics/d.a/history?after=1-1-abcd&after=1-1-abcd").problem(400);
    get(to, "/topics/d.*/history").problem(400);
    get(to, "/topics//history").problem(400);
    get(to, "/topics/d/a/history").problem(404);
    let answer = request(to, "POST", "/topics/d.a/history", &[], b"");
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    // A topic of that name is one like others.
    assert_eq!(get(to, "/topics/history").json()["topic"], "history");
}
