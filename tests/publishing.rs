//! What is published over HTTP arrives byte for byte, or is refused with a sentence.

use serde_json::json;

use crate::common::fetch::raw;
use crate::common::{Event, Launch, Node, Stream, Wire, get, post, request};

const MIB: usize = 1 << 20;

#[test]
fn a_publish_is_accepted_and_arrives_byte_for_byte() {
    Node::each(|node| {
        let mut stream = Stream::open(&node.server, "topic=t");
        for data in [
            "plain",
            " leading space",
            "",
            "\n",
            "trailing\n",
            "a\nb\n\nc",
            ":colon",
            "data: x",
            "€ ü \u{1f600} \u{feff}",
            "\0\t\u{7f}",
        ] {
            node.post("t", data);
            assert_eq!(stream.next_data(), data);
        }
        // Line ends of any kind are told as LF: the format has no other.
        for (data, arrives) in
            [("a\rb", "a\nb"), ("a\r\nb", "a\nb"), ("\r", "\n"), ("a\n\rb\r", "a\n\nb\n"), ("\r\r\n", "\n\n")]
        {
            node.post("t", data);
            assert_eq!(stream.next_data(), arrives);
        }
    });
}

#[test]
fn events_of_the_largest_size_arrive_whole() {
    Node::each(|node| {
        let mut stream = Stream::open(&node.server, "topic=t");
        for data in ["x".repeat(MIB), "\n".repeat(MIB), "€".repeat(MIB / 3)] {
            node.post("t", &data);
            assert!(stream.next_data() == data, "{} bytes of {:?} are damaged", data.len(), &data[..3]);
        }
    });
}

#[test]
fn one_byte_more_than_the_limit_is_refused_by_name() {
    let node = Node::embedded();
    let data = vec![b'x'; MIB + 1];
    let mut chunked = b"POST /topics/t HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in data.chunks(100_000) {
        chunked.extend(format!("{:x}\r\n", piece.len()).bytes());
        chunked.extend_from_slice(piece);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    for request in [raw("POST", "/topics/t", &[], &data), chunked] {
        let mut wire = Wire::connect(node.server.public);
        wire.send(&request);
        let answer = wire.take_answer();
        assert!(answer.problem(413).contains("1048576"));
        assert_eq!(answer.json()["limit"], MIB);
    }
    assert_eq!(get(node.server.public, "/topics/t").status(), 200);
}

#[test]
fn a_body_may_be_chunked_and_may_wait_to_be_asked_for() {
    let node = Node::embedded();
    let mut stream = Stream::open(&node.server, "topic=t");
    let mut wire = Wire::connect(node.server.public);
    wire.send(b"POST /topics/t HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n");
    assert_eq!(wire.take_answer().status(), 202);
    assert_eq!(stream.next_data(), "one two");
    wire.send(b"POST /topics/t HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(wire.take_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue");
    wire.send(b"three");
    assert_eq!(wire.take_answer().status(), 202);
    assert_eq!(stream.next_data(), "three");
}

#[test]
fn data_that_is_not_utf8_is_refused_and_the_byte_is_named() {
    let node = Node::embedded();
    for (data, byte) in [(&b"\xff"[..], "byte 0 "), (b"abc\xc3(", "byte 3 "), (b"\xe2\x82", "byte 0 ")] {
        let sentence = post(node.server.public, "/topics/t", data).problem(400);
        assert!(sentence.contains(byte), "{sentence}");
    }
}

#[test]
fn events_are_named_as_asked_and_nothing_is_smuggled_in_by_a_name() {
    Node::each(|node| {
        let to = node.server.public;
        let mut stream = Stream::open(&node.server, "topic=t");
        let longest = "n".repeat(128);
        for (query, name) in
            [("tick", "tick"), ("a%20b%3A%20c", "a b: c"), ("%C3%BC", "ü"), ("", "message"), (&longest, &longest)]
        {
            assert_eq!(post(to, &format!("/topics/t?event={query}&key=k"), b"x").status(), 202);
            let expected = Event { name: name.into(), data: "x".into(), ..Event::default() };
            assert_eq!(stream.next(), expected);
        }
        for query in ["a%0Adata%3A%20x", "a%0D", "%00", "fanwheel.x", "fanwheel.open", "%7F", "%C2%85"] {
            post(to, &format!("/topics/t?event={query}"), b"x").problem(400);
        }
        let answer = post(to, &format!("/topics/t?event={longest}n"), b"x");
        assert!(answer.problem(400).contains("128"));
        assert_eq!(answer.json()["limit"], 128);
        let answer = post(to, &format!("/topics/t?key={}", "k".repeat(256)), b"x");
        assert!(answer.problem(400).contains("255"));
        assert_eq!(answer.json()["limit"], 255);
        post(to, "/topics/t?event=%ff", b"x").problem(400);
        node.post("t", "nothing came between");
        assert_eq!(stream.next_data(), "nothing came between");
    });
}

#[test]
fn an_idempotency_key_needs_a_durable_topic() {
    let node = Node::embedded();
    let answer = request(node.server.public, "POST", "/topics/t", &[("idempotency-key", "a")], b"x");
    assert!(answer.problem(400).contains("durable"));
}

#[test]
fn a_topic_is_one_segment_of_the_path() {
    let node = Node::embedded();
    let to = node.server.public;
    let mut stream = Stream::open(&node.server, "topic=a/b");
    assert_eq!(post(to, "/topics/a%2Fb", b"x").json(), json!({"topic": "a/b", "id": null}));
    assert_eq!(stream.next_data(), "x");
    post(to, "/topics/a/b", b"x").problem(404);
    // Decoded once, and a plus is a plus in a path.
    assert_eq!(post(to, "/topics/a%252Fb+c", b"x").json()["topic"], "a%2Fb+c");
}

#[test]
fn names_that_are_no_topics_are_refused() {
    let node = Node::embedded();
    for name in ["*", "a.*", "**", "a%2F**", "*.b", "$x", "%0A", "%ff", "", "a%00", "a%7f"] {
        for answer in [
            post(node.server.public, &format!("/topics/{name}"), b"x"),
            get(node.server.public, &format!("/topics/{name}")),
            get(node.server.public, &format!("/events?topic={name}")),
        ] {
            answer.problem(400);
        }
    }
    let sentence = get(node.server.public, "/events?topic=a.*").problem(400);
    assert_eq!(sentence, "pattern subscriptions are not available");
    for name in ["a*", "**a", "a.b*.c", "a$"] {
        assert_eq!(post(node.server.public, &format!("/topics/{name}"), b"x").status(), 202, "{name}");
    }
}

#[test]
fn what_is_not_there_is_404_and_what_may_not_be_done_is_405() {
    let node = Node::embedded();
    let to = node.server.public;
    for target in ["/", "/topics", "/event", "/events/", "/metrics", "/readyz", "/Topics/t"] {
        get(to, target).problem(404);
    }
    for (method, target, allow) in [
        ("POST", "/events?topic=t", "GET, HEAD, OPTIONS"),
        ("DELETE", "/events", "GET, HEAD, OPTIONS"),
        ("PUT", "/topics/t", "GET, HEAD, POST, OPTIONS"),
        ("PATCH", "/topics/t", "GET, HEAD, POST, OPTIONS"),
    ] {
        let answer = request(to, method, target, &[], b"");
        answer.problem(405);
        assert_eq!(answer.header("allow"), Some(allow));
    }
    get(to, "/events").problem(400);
}

#[test]
fn what_is_published_over_http_reaches_programs_that_listen_to_redis() {
    let node = Node::on_redis();
    let mut listener = node.redis().client();
    listener.command(&[b"SUBSCRIBE", b"fanwheel:t"]);
    node.post("t", "plain\r\ntext");
    assert_eq!(listener.take_message(), b"plain\r\ntext");
    let to = node.server.public;
    assert_eq!(post(to, "/topics/t?event=tick&key=k%22", b"line\nline").status(), 202);
    assert_eq!(listener.take_message(), b"\xffFW1{\"event\":\"tick\",\"key\":\"k\\\"\"}\nline\nline");
    assert_eq!(post(to, "/topics/t?event=tick", b"").status(), 202);
    assert_eq!(listener.take_message(), b"\xffFW1{\"event\":\"tick\"}\n");
}

#[test]
fn nodes_on_one_redis_share_their_events() {
    let node = Node::on_redis();
    let other = Launch::serve().flag("--redis", &node.redis().url()).start();
    let mut stream = Stream::open(&other, "topic=t");
    assert_eq!(post(node.server.public, "/topics/t?event=tick", b"x").status(), 202);
    assert_eq!(stream.next().name, "tick");
}

#[test]
fn publishes_are_refused_while_redis_is_away() {
    // Each shard publishes on a connection of its own, and each finds out for itself.
    let mut node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    node.post("t", "x");
    node.redis_mut().kill();
    // The first may be caught by the connection's end: then nobody knows.
    crate::common::wait_until("publishes to be refused", || {
        let answer = post(node.server.public, "/topics/t", b"x");
        assert!([503, 504].contains(&answer.status()), "{answer:?}");
        answer.status() == 503
    });
    let answer = post(node.server.public, "/topics/t", b"x");
    answer.problem(503);
    assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|s| s > 0)));
    node.redis_mut().resume();
    crate::common::wait_until("publishes to be accepted", || {
        post(node.server.public, "/topics/t", b"x").status() == 202
    });
}

/// Every publish of a burst of clients that are sent on one connection each is answered and delivered.
#[test]
fn pipelined_publishes_are_answered_and_delivered_in_order() {
    Node::each(|node: &Node| {
        let mut stream = Stream::open(&node.server, "topic=t");
        let mut wire = Wire::connect(node.server.public);
        let all: Vec<u8> =
            (0..100).flat_map(|number| raw("POST", "/topics/t", &[], number.to_string().as_bytes())).collect();
        wire.send(&all);
        for number in 0..100 {
            assert_eq!(wire.take_answer().status(), 202);
            assert_eq!(stream.next_data(), number.to_string());
        }
    });
}
