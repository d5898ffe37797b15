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
        for target in ["/events?topic=t", "/topics/t"] {
            let answer = asked(&server, "OPTIONS", target, origin);
            assert_eq!(answer.status(), 204);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            let allowed = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
            for header in ["last-event-id", "authorization", "cache-control"] {
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
