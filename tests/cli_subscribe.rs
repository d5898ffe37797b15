//! `fanwheel subscribe`: a line per event, for ever, through whatever happens to nodes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::redis::free_port;
use crate::common::{Launch, Node, PATIENCE, Program, TestServer, post, wait_for};

/// Starts it on a node, and waits until it follows `t`.
fn following(url: &str) -> Program {
    let program = Program::start(&["subscribe", "t", "--url", url]);
    assert_eq!(program.next_note(), "fanwheel: following t");
    program
}

fn url(node: &Node) -> String {
    format!("http://{}", node.server.public)
}

#[test]
fn it_prints_a_line_per_event() {
    let node = Node::embedded();
    let program = following(&url(&node));
    for (data, line) in [
        ("plain", "plain"),
        ("", ""),
        ("two\nlines\\n", r"two\nlines\\n"),
        ("a\tb \u{1b}[2J\0", "a\tb \\u{1b}[2J\\u{0}"),
    ] {
        node.post("t", data);
        assert_eq!(program.next_line(), line);
    }
    assert_eq!(post(node.server.public, "/topics/t?event=tick%20tock", b"1\n2").status(), 202);
    assert_eq!(program.next_line(), "event: tick tock\t1\\n2");
}

#[test]
fn with_json_every_event_is_an_object() {
    let node = Node::embedded();
    let program = Program::start(&["subscribe", "t", "u/v w", "--json", "--url", &url(&node)]);
    let object = || -> Value { serde_json::from_str(&program.next_line()).unwrap() };
    let open = object();
    assert_eq!((&open["event"], &open["id"]), (&json!("fanwheel.open"), &Value::Null));
    let opened: Value = serde_json::from_str(open["data"].as_str().unwrap()).unwrap();
    assert_eq!(opened["topics"], json!(["t", "u/v w"]));
    node.post("t", "a\n\"\\");
    assert_eq!(object(), json!({"event": "message", "id": null, "data": "a\n\"\\"}));
    assert_eq!(post(node.server.public, "/topics/u%2Fv%20w?event=tick", b"x").status(), 202);
    assert_eq!(object(), json!({"event": "tick", "id": null, "data": "x"}));
}

#[test]
fn losses_are_told_in_words() {
    let mut node = Node::on_redis();
    let program = following(&url(&node));
    node.redis_mut().kill();
    node.redis_mut().resume();
    assert_eq!(program.next_note(), "fanwheel: events were lost (gap) of t");
}

#[test]
fn it_comes_back_to_a_node_that_was_stopped_and_started_again() {
    let listen = format!("127.0.0.1:{}", free_port());
    let start = || -> TestServer {
        Launch::verb("serve").flag("--listen", &listen).flag("--admin-listen", "127.0.0.1:0").start()
    };
    let server = start();
    let url = format!("http://{listen}");
    let program = following(&url);
    server.stop();
    let notes = [program.next_note(), program.next_note()];
    let expected = ["fanwheel: the node closes this stream (shutdown)", "fanwheel: the stream has ended; reconnecting"];
    assert_eq!(notes, expected);
    let server = start();
    // Nothing is said in between, however often it has tried.
    assert_eq!(program.next_note(), format!("fanwheel: connected to {url} again"));
    assert_eq!(program.next_note(), "fanwheel: following t");
    assert_eq!(post(server.public, "/topics/t", b"after").status(), 202);
    assert_eq!(program.next_line(), "after");
    program.signal(Signal::TERM);
    assert_eq!(program.end(), (Some(0), vec![]));
}

/// A server that is told what to answer.
struct Script(TcpListener);

impl Script {
    fn listen(port: u16) -> Script {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Script(listener)
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Answers the next request with these bytes, and ends the connection. Gives the request's head.
    fn answer(&self, bytes: &str) -> String {
        let mut socket: TcpStream = wait_for("a request", || self.0.accept().ok()).0;
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        socket.write_all(bytes.as_bytes()).unwrap();
        String::from_utf8(head).unwrap()
    }
}

fn stream_of(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{text}")
}

#[test]
fn it_goes_on_with_the_last_id_after_the_time_it_was_told() {
    let script = Script::listen(0);
    let program = Program::start(&["subscribe", "t", "--last-event-id", "first é", "--json", "--url", &script.url()]);
    let head = script.answer(&stream_of("retry: 150\nid: 7\ndata: a\n\nid: 8\ndata: never ended\n"));
    let ended = Instant::now();
    assert!(head.starts_with("GET /events?topic=t HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nlast-event-id: first é\r\n"), "{head}");
    assert_eq!(program.next_line(), r#"{"event":"message","id":"7","data":"a"}"#);
    let head = script.answer(&stream_of("data: b\n\n"));
    assert!(ended.elapsed() >= Duration::from_millis(149), "{:?}", ended.elapsed());
    assert!(head.contains("\r\nlast-event-id: 7\r\n"), "{head}");
    assert_eq!(program.next_line(), r#"{"event":"message","id":null,"data":"b"}"#);
    // An event without id does not erase it.
    let open = "event: fanwheel.open\ndata: {\"topics\":[\"t\"],\"resumed\":true}\nid: 9\n\n";
    assert!(script.answer(&stream_of(open)).contains("\r\nlast-event-id: 7\r\n"));
    // A control event has one too: the stream was there, and had nothing to say.
    assert!(script.answer(&stream_of("")).contains("\r\nlast-event-id: 9\r\n"));
}

#[test]
fn resets_are_told_on_standard_error() {
    let script = Script::listen(0);
    let program = Program::start(&["subscribe", "t", "u", "--last-event-id", "1-1-abcd", "--url", &script.url()]);
    let reset = |reason: &str| {
        format!("event: fanwheel.reset\ndata: {{\"reason\":\"{reason}\",\"topics\":[\"t\",\"u\"]}}\nid: 5-0-abcd\n\n")
    };
    script.answer(&stream_of(&format!("{}{}data: a\n\n", reset("trimmed"), reset("epoch"))));
    assert_eq!(program.next_line(), "a");
    script.answer("HTTP/1.1 403 x\r\ncontent-length: 0\r\n\r\n");
    let (code, notes) = program.end();
    assert_eq!(code, Some(1), "{notes:?}");
    let told = [
        "fanwheel: events were lost (trimmed) of t, u",
        "fanwheel: the history is another one (epoch): events may have been lost of t, u",
    ];
    assert_eq!(notes[..2], told);
}

#[test]
fn a_5xx_is_asked_again_and_a_4xx_is_final() {
    let script = Script::listen(0);
    let program = Program::start(&["subscribe", "t", "--url", &script.url()]);
    let problem = |status: &str, sentence: &str| {
        let body = json!({"error": sentence}).to_string();
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    script.answer(&stream_of("retry: 20\n\ndata: a\n\n"));
    script.answer(&problem("503 x", "busy"));
    script.answer(&problem("500 x", "broken"));
    script.answer(&stream_of("data: b\n\n"));
    script.answer(&problem("403 x", "not for you"));
    let notes = [
        "fanwheel: the stream has ended; reconnecting".to_owned(),
        format!("fanwheel: connected to {} again", script.url()),
        "fanwheel: the stream has ended; reconnecting".to_owned(),
        "fanwheel: not for you (403 Forbidden)".to_owned(),
    ];
    assert_eq!((program.next_line(), program.next_line()), ("a".into(), "b".into()));
    assert_eq!(program.end(), (Some(1), notes.to_vec()));
}

#[test]
fn what_a_node_refuses_is_told_with_its_sentence() {
    let node = Node::embedded();
    let topics: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    let url = url(&node);
    let mut arguments = vec!["subscribe", "--url", &url];
    arguments.extend(topics.iter().map(String::as_str));
    let (code, notes) = Program::start(&arguments).end();
    assert_eq!(
        (code, &notes[..]),
        (Some(1), &["fanwheel: a stream follows at most 100 topics (400 Bad Request)".into()][..])
    );
}

#[test]
fn what_is_no_stream_is_final() {
    let script = Script::listen(0);
    for (answer, part) in [
        ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 1\r\n\r\nx", "does not answer with a stream"),
        ("HTTP/1.1 204 x\r\n\r\n", "204"),
        ("HTTP/1.1 302 x\r\nlocation: https://elsewhere/\r\ncontent-length: 0\r\n\r\n", "https://elsewhere/"),
    ] {
        let program = Program::start(&["subscribe", "t", "--url", &script.url()]);
        script.answer(answer);
        let (code, notes) = program.end();
        assert!(code == Some(1) && notes.len() == 1 && notes[0].contains(part), "{notes:?}");
    }
}

#[test]
fn a_node_that_comes_later_is_waited_for() {
    let port = free_port();
    let program = Program::start(&["subscribe", "t", "--url", &format!("http://127.0.0.1:{port}")]);
    let note = program.next_note();
    assert!(note.contains("cannot reach") && note.ends_with("; reconnecting"), "{note}");
    let script = Script::listen(port);
    script.answer(&stream_of("data: at last\n\n"));
    assert_eq!(program.next_line(), "at last");
}

#[test]
fn it_ends_quietly_when_nobody_reads_its_lines() {
    let node = Node::embedded();
    let mut program = Program::start_unread(&["subscribe", "t", "--url", &url(&node)]);
    let head = Command::new("head").arg("-1").stdin(program.output()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(program.next_note(), "fanwheel: following t");
    node.post("t", "one");
    let printed = head.wait_with_output().unwrap();
    assert_eq!(printed.stdout, b"one\n");
    // No second event is needed for it to notice.
    assert_eq!(program.end(), (Some(0), vec![]));
}

#[test]
fn signals_end_it_with_success_also_while_its_reader_is_stuck() {
    let node = Node::embedded();
    for signal in [Signal::TERM, Signal::INT] {
        let program = following(&url(&node));
        program.signal(signal);
        assert_eq!(program.end(), (Some(0), vec![]));
    }
    let mut program = Program::start_unread(&["subscribe", "t", "--url", &url(&node)]);
    let mut output = program.output();
    assert_eq!(program.next_note(), "fanwheel: following t");
    node.post("t", "x".repeat(1 << 20));
    // The line has begun, and the rest of it is larger than the pipe.
    output.read_exact(&mut [0]).unwrap();
    program.signal(Signal::TERM);
    assert_eq!(program.end(), (Some(0), vec![]));
}

#[test]
fn wrong_usage_ends_it_with_2() {
    for (arguments, part) in [
        (&["subscribe", "t", ""][..], "must not be empty"),
        (&["subscribe", "a.*"], "segment"),
        (&["subscribe", "t", "--last-event-id", "a\nb"], "--last-event-id"),
        (&["subscribe", "t", "--url", "localhost"], "http://host"),
        (&["subscribe"], "TOPIC"),
    ] {
        let (code, notes) = Program::start(arguments).end();
        assert!(code == Some(2) && notes.join("\n").contains(part), "{part} in {notes:?}");
    }
}
