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

#[test]
fn many_events_of_one_request_arrive_each_on_its_topic_and_are_answered_in_order() {
    Node::each(|node| {
        let mut stream = Stream::open(&node.server, "topic=a&topic=b/c");
        let body = json!([
            {"topic": "a", "data": "one"},
            {"topic": "b/c", "data": "two\nlines", "event": "tick", "key": "k"},
            {"event": "", "data": "", "topic": "a"},
            {"topic": "nobody", "data": "\u{0}\u{1f600}"},
        ]);
        let answer = post(node.server.public, "/publish", body.to_string().as_bytes());
        assert_eq!(answer.status(), 200);
        let ids = |topics: &[&str]| topics.iter().map(|topic| json!({"topic": topic, "id": null})).collect::<Vec<_>>();
        assert_eq!(answer.json(), json!(ids(&["a", "b/c", "a", "nobody"])));
        assert_eq!(stream.next_data(), "one");
        assert_eq!(stream.next(), Event { name: "tick".into(), data: "two\nlines".into(), ..Event::default() });
        assert_eq!(stream.next_data(), "");
        assert_eq!(post(node.server.public, "/publish", b"[]").json(), json!([]));
    });
}

#[test]
fn a_request_with_one_bad_event_publishes_nothing() {
    let node = Node::embedded();
    let mut stream = Stream::open(&node.server, "topic=t");
    let good = json!({"topic": "t", "data": "x"});
    for (bad, sentence) in [
        (json!({"topic": "t"}), "event 2: `data` is missing"),
        (json!({"topic": "t", "data": 7}), "event 2, `data` must be a string"),
        (json!({"topic": "$t", "data": "x"}), "event 2, `topic`: topics that begin with `$`"),
        (json!({"topic": "t", "data": "x", "retain": true}), "event 2: has a field `retain`"),
        (
            json!({"topic": "t", "data": "x", "idempotency_key": "i"}),
            "event 2, `idempotency_key`: needs a durable topic",
        ),
    ] {
        let body = json!([good, good, bad]).to_string();
        let problem = post(node.server.public, "/publish", body.as_bytes()).problem(400);
        assert!(problem.contains(sentence), "`{sentence}` in `{problem}`");
    }
    let answer = post(node.server.public, "/publish", json!(vec![&good; 1001]).to_string().as_bytes());
    assert!(answer.problem(400).contains("event 1000"));
    assert_eq!(answer.json()["limit"], 1000);
    let large = json!([good, {"topic": "t", "data": "x".repeat(MIB + 1)}]).to_string();
    let answer = post(node.server.public, "/publish", large.as_bytes());
    assert!(answer.problem(413).contains("event 1, `data`"));
    assert_eq!(answer.json()["limit"], MIB);
    let answer = post(node.server.public, "/publish", &vec![b' '; 8 * MIB + 1]);
    answer.problem(413);
    assert_eq!(answer.json()["limit"], 8 * MIB);
    node.post("t", "the first of all");
    assert_eq!(stream.next_data(), "the first of all");
}

/// The first request finds no connection to Redis yet: none of its events may overtake another on
/// the way to it. Requests side by side share the connection.
#[test]
fn events_of_one_request_keep_their_order() {
    Node::each_as(
        || Launch::serve().flag("--shards", "1"),
        |node| {
            let mut streams: Vec<Stream> =
                ["a", "b", "c"].iter().map(|topic| Stream::open(&node.server, &format!("topic={topic}"))).collect();
            let body = |first: usize, topic: &str| {
                let events = (first..first + 1000).map(|number| json!({"topic": topic, "data": number.to_string()}));
                json!(events.collect::<Vec<_>>()).to_string()
            };
            std::thread::scope(|scope| {
                for topic in ["a", "b", "c"] {
                    scope.spawn(move || {
                        for first in [0, 1000] {
                            let answer = post(node.server.public, "/publish", body(first, topic).as_bytes());
                            let outcomes = answer.json();
                            let outcomes = outcomes.as_array().unwrap();
                            assert!(outcomes.len() == 1000 && outcomes.iter().all(|one| one["id"].is_null()));
                            assert!(outcomes.iter().all(|one| one.get("error").is_none()), "{outcomes:?}");
                        }
                    });
                }
                for stream in &mut streams {
                    // Read while it is published: a topic's log is shorter than all of it.
                    scope.spawn(move || {
                        for number in 0..2000 {
                            assert_eq!(stream.next_data(), number.to_string());
                        }
                    });
                }
            });
        },
    );
}

#[test]
fn the_largest_event_fits_into_a_request_however_it_is_escaped() {
    let node = Node::embedded();
    let mut stream = Stream::open(&node.server, "topic=t");
    let body = format!(r#"[{{"topic":"t","data":"{}"}}]"#, r"\u0001".repeat(MIB));
    assert_eq!(post(node.server.public, "/publish", body.as_bytes()).status(), 200);
    assert!(stream.next_data() == "\u{1}".repeat(MIB));
}

#[test]
fn each_event_of_a_request_is_told_when_redis_does_not_store_it() {
    let mut node = Node::on_redis_as(Launch::serve().flag("--shards", "1"));
    node.post("t", "x");
    node.redis_mut().kill();
    let body = json!([{"topic": "a", "data": "x"}, {"topic": "b", "data": "x"}]).to_string();
    let outcomes = || post(node.server.public, "/publish", body.as_bytes()).json();
    // The first may be caught by the connection's end: then nobody knows.
    crate::common::wait_until("the events to be refused", || {
        let outcomes = outcomes();
        let errors: Vec<String> =
            outcomes.as_array().unwrap().iter().map(|one| one["error"].as_str().unwrap().to_owned()).collect();
        assert!(errors.iter().all(|error| ["not stored: ", "unknown: "].iter().any(|word| error.starts_with(word))));
        errors.iter().all(|error| error.starts_with("not stored: "))
    });
    assert_eq!(outcomes()[1], json!({"topic": "b", "error": "not stored: Redis is away"}));
}

/// A client may end its side once it has said all.
#[test]
fn a_publish_is_not_called_off_by_a_client_that_has_said_all() {
    Node::each(|node| {
        let mut stream = Stream::open(&node.server, "topic=t");
        for number in 0..20 {
            let mut wire = Wire::connect(node.server.public);
            wire.send(&raw("POST", "/topics/t", &[], number.to_string().as_bytes()));
            wire.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(wire.take_answer().status(), 202);
            assert_eq!(stream.next_data(), number.to_string());
        }
    });
}
