//! HTTP/2 with prior knowledge: the same streams and answers, and bounds of its own.
//!
//! `FANWHEEL_TEST_HTTP2_CONNECTIONS` is the number of connections whose memory is measured, with a
//! stream each, and again with a hundred each on a hundredth of them, though at least on ten.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2, INITIAL_WINDOW_SIZE, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, encode, field, request,
};
use crate::common::{Launch, Node, Stream, TestServer, Wire, get, wait_until};

/// What curl, an implementation of others, gets: status and body.
fn curl(server: &TestServer, path: &str, arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--http2-prior-knowledge",
            "--max-time",
            "10",
            "--write-out",
            "\n%{http_version} %{http_code}",
        ])
        .args(arguments)
        .arg(format!("http://{}{path}", server.public))
        .output()
        .expect("these tests need curl");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// Opens a stream and waits until it is open.
fn open(connection: &mut Http2, query: &str) -> u32 {
    let stream = connection.get(&format!("/events?{query}"));
    assert_eq!(connection.status(stream), 200);
    connection.take_until(stream, "\"resumed\":false}\n\n");
    stream
}

#[test]
fn an_independent_client_is_answered_as_over_http_1() {
    let node = Node::embedded();
    let ask = |path, arguments: &[&str]| curl(&node.server, path, arguments);
    let (status, body) = ask("/topics/t", &["--data", "hello"]);
    assert_eq!((status.as_str(), body.as_str()), ("2 202", r#"{"topic":"t","id":null}"#));
    let (status, body) = ask("/events?topic=", &[]);
    assert!(status == "2 400" && body.contains("error"), "{status} {body}");
    assert_eq!(ask("/nothing", &[]).0, "2 404");
    assert_eq!(ask("/events?topic=t", &["--head"]).0, "2 200");
    let (status, body) = ask("/topics/t", &["--header", &format!("large: {}", "x".repeat(30 << 10))]);
    assert!(status == "2 200", "{status} {body}");
    let (status, body) = ask("/topics/t", &["--header", &format!("large: {}", "x".repeat(33 << 10))]);
    assert!(status.ends_with("431") || status.ends_with("000"), "{status} {body}");
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let node = Node::embedded();
    let mut connection = Http2::connect(node.server.public);
    let stream = connection.next_stream();
    let head = [request("POST", "/topics/t"), field("content-length", "1048577")].concat();
    connection.send(HEADERS, END_HEADERS, stream, &head);
    let sentence = connection.take_until(stream, "}");
    assert!(sentence.contains("at most 1048576 bytes"), "{sentence}");
    let reset = connection.find(|frame| frame.stream == stream && frame.kind == RST_STREAM).unwrap();
    assert_eq!(reset.payload, [0; 4], "NO_ERROR (RFC 9113, section 8.1)");
}

#[test]
fn one_connection_carries_a_hundred_streams_beside_those_of_http_1() {
    Node::each(|node| {
        let mut plain = Stream::open(&node.server, "topic=t0&topic=all");
        let mut connection = Http2::connect(node.server.public);
        let streams: Vec<u32> = (0..100).map(|at| connection.get(&format!("/events?topic=t{at}&topic=all"))).collect();
        for &stream in &streams {
            connection.take_until(stream, "\"resumed\":false}\n\n");
        }
        let one_more = connection.get("/events?topic=t");
        let refused = connection.find(|frame| frame.stream == one_more).unwrap();
        assert_eq!((refused.kind, &refused.payload[..]), (RST_STREAM, &7u32.to_be_bytes()[..]), "REFUSED_STREAM");
        node.publish("all", "to all");
        node.publish("t7", "a\nb");
        node.publish("all", "the end");
        for (at, &stream) in streams.iter().enumerate() {
            let between = if at == 7 { "data: a\ndata: b\n\n" } else { "" };
            let all = format!("data: to all\n\n{between}data: the end\n\n");
            assert_eq!(connection.take_until(stream, "the end\n\n").trim_start_matches(":\n"), all, "stream {at}");
        }
        assert_eq!([plain.next_data(), plain.next_data()], ["to all", "the end"]);
        node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 101.0);
        for &stream in &streams {
            connection.send(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        }
        node.server.wait_closed("gone", 100.0);
        // The connection is as good as before.
        let again = open(&mut connection, "topic=t");
        node.publish("t", "again");
        connection.take_until(again, "data: again\n\n");
        drop(connection);
        node.server.wait_closed("gone", 101.0);
        node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 1.0);
        node.server.wait_metric("fanwheel_connections{transport=\"http\"}", 0.0);
    });
}

#[test]
fn events_of_any_size_pass_a_small_window() {
    let node = Node::embedded();
    let mut connection = Http2::connect_with(Wire::connect(node.server.public), &[(INITIAL_WINDOW_SIZE, 10_000)]);
    let stream = open(&mut connection, "topic=t");
    let large = "x".repeat(1 << 20);
    for data in ["first", &large, "last"] {
        node.post("t", data);
        assert_eq!(connection.take_until(stream, "\n\n").trim_start_matches(":\n"), format!("data: {data}\n\n"));
    }
}

#[test]
fn a_stream_with_a_closed_window_is_blocked_and_reset_at_the_deadline() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1").config("[limits]\nstall = '1s'\n"));
    let mut reader = Stream::open(&node.server, "topic=t");
    let mut connection = Http2::connect_with(Wire::connect(node.server.public), &[(INITIAL_WINDOW_SIZE, 2_000)]);
    connection.polite = false;
    let stuck = open(&mut connection, "topic=t");
    let mut published = 0;
    wait_until("the stream to be blocked", || {
        node.post("t", format!("{published:<1000}"));
        assert_eq!(reader.next_data().trim_end(), published.to_string());
        published += 1;
        node.server.metric("fanwheel_readers_blocked") > 0.0
    });
    assert!(published < 40, "{published} events of 1,000 bytes were taken before it was blocked");
    let since = Instant::now();
    let reset = connection.find(|frame| frame.stream == stuck && frame.kind == RST_STREAM).unwrap();
    assert_eq!(reset.payload, 8u32.to_be_bytes(), "CANCEL");
    let took = since.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(4)).contains(&took), "{took:?}");
    node.server.wait_closed("stalled", 1.0);
    node.server.wait_metric("fanwheel_readers_blocked", 0.0);
    // Others of the same connection are not concerned, nor is the node.
    let other = open(&mut connection, "topic=u");
    node.post("u", "for the other");
    connection.take_until(other, "data: for the other\n\n");
    node.post("t", "still");
    assert_eq!(reader.next_data(), "still");
}

#[test]
fn streams_count_like_connections() {
    let node = Node::embedded_as(Launch::serve().config("[limits]\nconnections = 4\n"));
    let mut connection = Http2::connect(node.server.public);
    let admitted: Vec<u32> = (0..3).map(|_| open(&mut connection, "topic=t")).collect();
    let surplus = connection.get("/events?topic=t");
    let goodbye = connection.take_until(surplus, "}\n\n");
    assert!(goodbye.contains("event: fanwheel.drain\nretry: ") && goodbye.contains("\"limit\""), "{goodbye}");
    connection.wait_end(surplus);
    connection.send(RST_STREAM, 0, admitted[0], &8u32.to_be_bytes());
    node.server.wait_closed("gone", 1.0);
    open(&mut connection, "topic=t");
}

#[test]
fn a_large_answer_waits_for_its_window_and_holds_up_no_stop_beyond_the_drain() {
    let node = Node::embedded_as(Launch::serve().config("[limits]\ndrain = '1s'\n"));
    let events = format!("[{}]", vec![r#"{"topic":"t","data":"x"}"#; 1_000].join(","));
    let ask = |settings: &[(u16, u32)]| {
        let mut connection = Http2::connect_with(Wire::connect(node.server.public), settings);
        let stream = connection.next_stream();
        connection.send(HEADERS, END_HEADERS, stream, &request("POST", "/publish"));
        for piece in events.as_bytes().chunks(16 << 10) {
            connection.send(DATA, 0, stream, piece);
        }
        connection.send(DATA, END_STREAM, stream, &[]);
        (connection, stream)
    };
    let (mut reader, stream) = ask(&[(INITIAL_WINDOW_SIZE, 100)]);
    let answer = reader.take_until(stream, "}]");
    assert_eq!(answer.matches(r#"{"topic":"t","id":null}"#).count(), 1_000);
    reader.wait_end(stream);
    let (mut stuck, stream) = ask(&[(INITIAL_WINDOW_SIZE, 1)]);
    stuck.polite = false;
    stuck.find(|frame| frame.kind == DATA && frame.stream == stream).expect("the first byte");
    let since = Instant::now();
    node.server.terminate();
    // It acknowledges GOAWAY's ping, and goes on not to read.
    stuck.polite = true;
    let stuck = thread::spawn(move || while stuck.next_frame_unread().is_some() {});
    node.server.stop();
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    stuck.join().unwrap();
}

#[test]
fn what_head_is_answered_has_no_body() {
    let node = Node::embedded();
    let mut connection = Http2::connect(node.server.public);
    for path in ["/topics/t", "/nothing", "/events?topic=t", "/events?topic="] {
        let stream = connection.next_stream();
        connection.send(HEADERS, END_HEADERS | END_STREAM, stream, &request("HEAD", path));
        let head = connection.find(|frame| frame.stream == stream && frame.kind == HEADERS).unwrap();
        if head.flags & END_STREAM == 0 {
            let end = connection.find(|frame| frame.stream == stream).unwrap();
            assert_eq!((end.kind, end.flags & END_STREAM, end.payload.len()), (DATA, END_STREAM, 0), "{path}");
        }
    }
}

#[test]
fn a_connection_that_was_turned_away_gives_its_place_up() {
    let node = Node::embedded_as(Launch::serve().config("[limits]\nconnections = 2\n"));
    let full: Vec<Stream> = (0..2).map(|_| Stream::open(&node.server, "topic=t")).collect();
    let mut connection = Http2::connect(node.server.public);
    let stream = connection.get("/events?topic=t");
    assert!(connection.take_until(stream, "}\n\n").contains("\"limit\""));
    while connection.next_frame().is_some() {}
    node.server.wait_metric("fanwheel_connections{transport=\"http\"}", 0.0);
    drop(full);
    node.server.wait_closed("gone", 2.0);
    open(&mut Http2::connect(node.server.public), "topic=t");
}

#[test]
fn a_peer_that_answers_no_pings_is_let_go() {
    let node = Node::embedded_as(Launch::serve().config("[limits]\nheartbeat = '400ms'\n"));
    let mut polite = Http2::connect(node.server.public);
    let stream = open(&mut polite, "topic=t");
    let polite = thread::spawn(move || polite.take_until(stream, "data: still here\n\n"));
    let mut rude = Http2::connect(node.server.public);
    open(&mut rude, "topic=t");
    rude.polite = false;
    rude.find(|frame| frame.kind == PING).expect("it is pinged");
    while rude.next_frame().is_some() {}
    node.server.wait_closed("gone", 1.0);
    node.post("t", "still here");
    polite.join().unwrap();
}

/// A flood: its name, whether it ends the connection, and what it sends over and over.
type Flood = (&'static str, bool, fn(&mut Http2) -> Vec<u8>);

/// Each costs its sender next to nothing.
const FLOODS: [Flood; 9] = [
    ("requests that are reset at once (CVE-2023-44487)", true, |connection| {
        let stream = connection.next_stream();
        let open = encode(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/events?topic=t"));
        [open, encode(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    }),
    ("requests whose window is overflown, so that the server resets them (CVE-2025-8671)", true, |connection| {
        let stream = connection.next_stream();
        let open = encode(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/events?topic=t"));
        [open, encode(WINDOW_UPDATE, 0, stream, &i32::MAX.to_be_bytes())].concat()
    }),
    ("settings (CVE-2019-9515)", false, |_| encode(SETTINGS, 0, 0, &[])),
    ("pings (CVE-2019-9512)", false, |_| encode(PING, 0, 0, &[0; 8])),
    ("headers that never end (VU#421644)", true, |connection| {
        let begin = if connection.next_stream() == 1 {
            encode(HEADERS, END_STREAM, 1, &request("GET", "/topics/t"))
        } else {
            Vec::new()
        };
        [begin, encode(CONTINUATION, 0, 1, &field("filler", &"x".repeat(4 << 10)))].concat()
    }),
    ("empty data without end (CVE-2019-9518)", true, |connection| {
        let begin = if connection.next_stream() == 1 {
            encode(HEADERS, END_HEADERS, 1, &request("POST", "/topics/t"))
        } else {
            Vec::new()
        };
        [begin, encode(DATA, 0, 1, &[])].concat()
    }),
    ("windows of zero", true, |_| encode(WINDOW_UPDATE, 0, 0, &[0; 4])),
    ("frames of unknown kinds", false, |_| encode(99, 0, 0, &[0; 1024])),
    ("acknowledgements of nothing", true, |_| encode(SETTINGS, ACK, 0, &[])),
];

/// Bytes of the server's memory that are its own.
fn memory(server: &TestServer) -> u64 {
    get(server.admin, "/status").json()["memory_bytes"].as_u64().unwrap()
}

#[test]
fn floods_end_the_connection_or_cost_nothing() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    let mut witness = Stream::open(&node.server, "topic=t");
    let before = memory(&node.server);
    for (name, ends, frames) in FLOODS {
        let mut connection = Http2::connect(node.server.public);
        connection.polite = false;
        let mut sent = 0;
        // 2 MiB, or until the server has had enough; its answers are not read.
        while sent < 2 << 20 {
            let burst: Vec<u8> = (0..200).flat_map(|_| frames(&mut connection)).collect();
            sent += burst.len();
            if connection.wire.try_send(&burst).is_err() {
                break;
            }
        }
        let ended = ends && std::iter::from_fn(|| connection.next_frame()).count() > 0;
        assert_eq!(ended, ends, "{name}: {sent} bytes were taken");
        let grown = memory(&node.server).saturating_sub(before);
        assert!(grown < 24 << 20, "{name}: {grown} bytes more after {sent} were sent");
        node.post("t", name);
        assert_eq!(witness.next_data(), name);
        drop(connection);
        node.server.wait_metric("fanwheel_connections{transport=\"http\"}", 0.0);
    }
    node.server.wait_metric("fanwheel_connections{transport=\"sse\"}", 1.0);
}

#[test]
fn what_is_no_preface_is_http_1_and_what_is_may_come_in_pieces() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    for begin in ["P", "PRI", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut wire = Wire::connect(node.server.public);
        wire.send(begin.as_bytes());
        wire.send(b"X / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert!(wire.take_head().status >= 400, "{begin}");
    }
    // Whoever comes later is answered later: by then the first piece was read.
    let mut slow =
        Http2::in_pieces(node.server.public, || assert_eq!(get(node.server.public, "/topics/t").status(), 200));
    let stream = slow.get("/topics/t");
    assert_eq!(slow.status(stream), 200, "a preface may come in pieces");
    let mut wire = Wire::connect(node.server.public);
    for byte in b"PUT /topics/t HTTP/1.1\r\nhost: test\r\n\r\n" {
        wire.send(&[*byte]);
    }
    assert_eq!(wire.take_answer().status(), 405);
}

#[test]
fn a_stop_ends_streams_and_connections_in_order() {
    let node = Node::embedded();
    let mut connection = Http2::connect(node.server.public);
    let stream = open(&mut connection, "topic=t");
    let client = thread::spawn(move || {
        let goodbye = connection.take_until(stream, "}\n\n");
        while connection.next_frame().is_some() {}
        (goodbye, connection.goes_away)
    });
    let since = Instant::now();
    node.server.stop();
    assert!(since.elapsed() < Duration::from_secs(4), "everybody has left after {:?}", since.elapsed());
    let (goodbye, told) = client.join().unwrap();
    assert!(goodbye.contains("event: fanwheel.drain\nretry: ") && told, "{goodbye}");
}

/// Opens connections with so many streams each; gives the server's growth per connection.
fn growth(connections: usize, streams: usize) -> f64 {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "2"));
    drop(Http2::connect(node.server.public));
    let before = node.server.pss_bytes() as f64;
    let mut open: Vec<Http2> = Vec::new();
    for _ in 0..connections {
        let mut connection = Http2::connect(node.server.public);
        let opened: Vec<u32> = (0..streams).map(|_| connection.get("/events?topic=t")).collect();
        opened.iter().for_each(|&stream| drop(connection.take_until(stream, "\"resumed\":false}\n\n")));
        open.push(connection);
    }
    node.post("t", "to all");
    for connection in &mut open {
        (0..streams).for_each(|at| drop(connection.take_until(1 + 2 * at as u32, "data: to all\n\n")));
    }
    (node.server.pss_bytes() as f64 - before) / connections as f64
}

#[test]
fn a_closed_window_keeps_two_pieces_and_no_copy_of_the_event() {
    let node = Node::embedded_as(Launch::serve().flag("--shards", "1"));
    let mut connections: Vec<Http2> = (0..4)
        .map(|_| Http2::connect_with(Wire::connect(node.server.public), &[(INITIAL_WINDOW_SIZE, 1_000)]))
        .collect();
    for connection in &mut connections {
        connection.polite = false;
        let streams: Vec<u32> = (0..100).map(|_| connection.get("/events?topic=t")).collect();
        streams.iter().for_each(|&stream| drop(connection.take_until(stream, "\"resumed\":false}\n\n")));
    }
    let idle = node.server.pss_bytes();
    let event = "x".repeat(512 << 10);
    node.post("t", &event);
    node.server.wait_metric("fanwheel_readers_blocked", 400.0);
    let each = node.server.pss_bytes().saturating_sub(idle) as f64 / 400.0;
    println!("{each:.0} bytes more for each stream with a closed window");
    // The event itself, in the log and as it is sent, is shared by all of them.
    let shared = 4.0 * event.len() as f64 / 400.0;
    assert!(each < 16.0 * 1024.0 + shared, "{each:.0} bytes, of which {shared:.0} are a share of the event");
}

#[test]
fn an_idle_stream_and_its_connection_stay_small() {
    let count: usize =
        std::env::var("FANWHEEL_TEST_HTTP2_CONNECTIONS").map_or(200, |text| text.parse().expect("a number"));
    let alone = growth(count, 1);
    // Fewer than ten would show what the node itself has grown by.
    let together = growth((count / 100).max(10), 100) / 100.0;
    println!(
        "{count} connections: {alone:.0} bytes each with a stream; {together:.0} bytes a stream, a hundred on each"
    );
    assert!(alone < 36.0 * 1024.0, "{alone} bytes a connection");
    assert!(together < 6.0 * 1024.0, "{together} bytes a stream");
}
