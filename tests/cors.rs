//! Pages of listed origins may use the node; of others, not.

use crate::common::{Answer, Launch, Node, Stream, TestServer, Wire, request};

const HEADERS: [&str; 3] =
    ["access-control-allow-origin", "access-control-allow-methods", "access-control-allow-credentials"];

fn asked(server: &TestServer, method: &str, target: &str, origin: &str) -> Answer {
    let headers = [("origin", origin), ("access-control-request-method", "GET")];
    request(server.public, method, target, &headers, b"")
}

#[test]
fn listed_origins_are_admitted_everywhere_and_others_nowhere() {
    let launch =
        Launch::serve().flag("--cors-origin", "https://a.example").flag("--cors-origin", "http://localhost:3000");
    let server = launch.start();
    for origin in ["https://a.example", "http://localhost:3000"] {
        for target in ["/events?topic=t", "/topics/t", "/publish"] {
            let answer = asked(&server, "OPTIONS", target, origin);
            assert_eq!(answer.status(), 204);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            let allowed = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
            for header in ["last-event-id", "authorization", "cache-control", "content-type", "idempotency-key"] {
                assert!(allowed.contains(header), "{header} in {allowed}");
            }
            assert!(answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
            assert_eq!(answer.header("vary"), Some("origin"));
        }
        for (method, target, status) in [("POST", "/topics/t", 202), ("GET", "/events", 400), ("GET", "/nowhere", 404)]
        {
            let answer = asked(&server, method, target, origin);
            assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (status, Some(origin)));
        }
        let mut wire = Wire::connect(server.public);
        wire.send(format!("GET /events?topic=t HTTP/1.1\r\nhost: test\r\norigin: {origin}\r\n\r\n").as_bytes());
        let mut stream = Stream::answered(wire);
        assert_eq!(stream.head.header("access-control-allow-origin"), Some(origin));
        assert_eq!(stream.head.header("vary"), Some("origin"));
        stream.expect_open();
    }
    for origin in ["https://a.example.evil", "https://b.example", "null", "http://a.example"] {
        for method in ["OPTIONS", "GET"] {
            let answer = asked(&server, method, "/topics/t", origin);
            assert!(HEADERS.iter().all(|name| answer.header(name).is_none()), "{answer:?}");
            assert_eq!(answer.header("vary"), Some("origin"), "a cache must not give this to others");
        }
    }
}

#[test]
fn without_the_flag_no_other_origin_is_admitted() {
    let node = Node::embedded();
    for method in ["OPTIONS", "GET"] {
        let answer = asked(&node.server, method, "/topics/t", "https://a.example");
        assert!(HEADERS.iter().all(|name| answer.header(name).is_none()), "{answer:?}");
    }
    let ended = Launch::serve().flag("--cors-origin", "a.example").run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("a.example"), "{ended:?}");
}

#[test]
fn a_star_admits_every_origin() {
    let server = Launch::serve().flag("--cors-origin", "*").start();
    let answer = asked(&server, "OPTIONS", "/events", "https://anybody.example");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

/// Without the headers on it a page would see that it failed, and not why.
#[test]
fn refusals_can_be_read_by_pages_of_listed_origins() {
    let server = Launch::serve().flag("--cors-origin", "https://a.example").start();
    let large = vec![b'x'; (1 << 20) + 1];
    let rows: [(&str, &str, &[u8], u16); 7] = [
        ("GET", "/events", b"", 400),
        ("POST", "/topics/$x", b"x", 400),
        ("POST", "/publish", b"[{}]", 400),
        ("GET", "/publish", b"", 405),
        ("GET", "/nowhere", b"", 404),
        ("POST", "/topics/t", &large, 413),
        ("GET", "/topics/%zz", b"", 400),
    ];
    for (method, target, body, status) in rows {
        let answer = request(server.public, method, target, &[("origin", "https://a.example")], body);
        answer.problem(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"), "{target}");
        assert_eq!(answer.header("vary"), Some("origin"), "{target}");
        assert_eq!(answer.header("access-control-expose-headers"), None);
        let answer = request(server.public, method, target, &[("origin", "https://b.example")], body);
        assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (status, None), "{target}");
        assert_eq!(answer.header("vary"), Some("origin"), "{target}");
    }
    // A full node says when to come back, and the page may read that too.
    let full = Launch::serve().flag("--cors-origin", "https://a.example").config("[limits]\nconnections = 1\n").start();
    let _held = Stream::open(&full, "topic=t");
    let answer = request(full.public, "POST", "/topics/t", &[("origin", "https://a.example")], b"x");
    answer.problem(503);
    assert_eq!(answer.header("access-control-expose-headers"), Some("retry-after"));
}

/// Fetch standard, "CORS-preflight fetch": the status must be ok, and what is not named is not allowed.
#[test]
fn a_preflight_allows_what_clients_need_and_nothing_else() {
    let server = Launch::serve().flag("--cors-origin", "https://a.example").start();
    let asks = [
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "x-secret"),
        ("access-control-request-private-network", "true"),
    ];
    let mut headers = vec![("origin", "https://a.example")];
    headers.extend(asks);
    let answer = request(server.public, "OPTIONS", "/publish", &headers, b"");
    assert_eq!((answer.status(), answer.body.len()), (204, 0));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, POST"));
    assert!(answer.header("access-control-allow-headers").is_some_and(|allowed| !allowed.contains("x-secret")));
    assert_eq!(answer.header("access-control-allow-private-network"), None);
    headers[0].1 = "https://b.example";
    let answer = request(server.public, "OPTIONS", "/publish", &headers, b"");
    assert_eq!(answer.status(), 204);
    assert!(answer.head.headers.iter().all(|(name, _)| !name.starts_with("access-control-")), "{answer:?}");
    let twice = [("origin", "https://a.example"), ("origin", "https://a.example")];
    let answer = request(server.public, "GET", "/topics/t", &twice, b"");
    assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (200, None));
}
