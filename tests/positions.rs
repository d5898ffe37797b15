//! What is asked of durable topics over HTTP is checked before anything is read or stored.

use serde_json::json;

use crate::common::fetch::raw;
use crate::common::{Launch, Node, Stream, TestServer, Wire, get, post, request};

/// Topics `d.*` are durable.
fn launch() -> Launch {
    Launch::serve().config("[[class]]\npattern = 'd.*'\nkind = 'durable'\n")
}

fn server() -> TestServer {
    launch().start()
}

/// With each source.
fn each(test: impl Fn(&Node)) {
    Node::each_as(launch, test);
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

/// A request for topic `d.a`, with these headers.
fn request_with(headers: &str) -> Vec<u8> {
    format!("GET /events?topic=d.a HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n").into_bytes()
}

#[test]
fn whatever_stands_in_the_place_of_an_id_is_told_in_a_stream_which_goes_on_from_now() {
    each(|node| {
        let last = post(node.server.public, "/topics/d.a", b"before").json()["id"].clone();
        let long = "1".repeat(9_000);
        let ids = ["x", "~", "1-1-abcd~2-2-abcd", "\u{7f}", "\" ()<>@", "1-1-abcde", &long].map(|id| {
            let id: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
            raw("GET", &format!("/events?topic=d.a&last_event_id={id}"), &[], b"")
        });
        let headers = ["last-event-id: \u{e9}", "last-event-id: 1-1-abcd\r\nlast-event-id: %%%"].map(request_with);
        for request in ids.iter().chain(&headers) {
            let mut stream = ask(node, request);
            let open = stream.expect_open();
            assert_eq!((&open.json()["resumed"], open.id), (&json!(false), None), "a position that is none");
            let reset = stream.next();
            assert_eq!(reset.name, "fanwheel.reset");
            assert_eq!(reset.json(), json!({"reason": "unknown-cursor", "topics": ["d.a"]}));
            assert_eq!(reset.id.as_deref(), last.as_str(), "it stands at the newest event");
        }
    });
}

#[test]
fn an_empty_id_is_none_and_says_nothing_of_a_loss() {
    each(|node| {
        let open = ask(node, &request_with("last-event-id:")).expect_open();
        assert_eq!(open.json()["resumed"], false);
        assert!(open.id.is_some(), "it begins now");
    });
}

fn ask(node: &Node, request: &[u8]) -> Stream {
    let mut wire = Wire::connect(node.server.public);
    wire.send(request);
    Stream::answered(wire)
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

#[test]
fn a_broker_in_memory_that_was_started_anew_knows_no_position_of_before() {
    let before = server();
    let id = post(before.public, "/topics/d.a", b"before").json()["id"].as_str().unwrap().to_owned();
    before.stop();
    let server = server();
    let mut stream = Stream::begin(server.public, &format!("topic=d.a&last_event_id={id}"));
    assert_eq!(stream.expect_open().json()["resumed"], false);
    assert_eq!(stream.expect_reset("epoch"), ["d.a"]);
    let next = post(server.public, "/topics/d.a", b"after").json()["id"].as_str().unwrap().to_owned();
    assert_eq!(stream.next().id.as_deref(), Some(&*next));
    assert_ne!(id.rsplit('-').next(), next.rsplit('-').next(), "another tag");
}
