//! `fanwheel publish`: what it takes arrives, or it says why not and ends with the right code.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::common::{Node, Program, RedisServer, Stream};

const MIB: usize = 1 << 20;

/// Publishes in vain; gives the exit code and the sentence.
fn refused(arguments: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let ended = Program::run(&[&["publish"], arguments].concat(), &[], input);
    assert_eq!(ended.stdout, "", "{ended:?}");
    let line = ended.stderr.trim_end().to_owned();
    assert!(line.starts_with("fanwheel: ") && !line.contains('\n'), "no one sentence: {line}");
    (ended.code, line)
}

#[test]
fn what_is_published_through_a_node_arrives_byte_for_byte() {
    Node::each(|node| {
        let topic = "a/b?c=d&e#f é%41+ .";
        let query: String = topic.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut stream = Stream::open(&node.server, &format!("topic={query}"));
        let url = format!("http://{}", node.server.public);
        for (data, input, arrives) in [
            (Some("hello"), "", "hello"),
            (Some(""), "not this", ""),
            (None, "from\nhere\n", "from\nhere\n"),
            (Some("-"), "", ""),
        ] {
            let mut arguments = vec!["publish", topic, "--url", &url, "--event", "a&b c"];
            arguments.extend(data);
            let ended = Program::run(&arguments, &[], input.as_bytes());
            assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""), "{ended:?}");
            assert_eq!(serde_json::from_str::<Value>(&ended.stdout).unwrap(), json!({"topic": topic, "id": null}));
            assert!(ended.stdout.ends_with("}\n") && ended.stdout.lines().count() == 1, "{ended:?}");
            let event = stream.next();
            assert_eq!((&event.name[..], &event.data[..]), ("a&b c", arrives));
        }
        let largest = "x".repeat(MIB);
        let ended = Program::run(&["publish", topic], &[("FANWHEEL_URL", &format!("{url}/"))], largest.as_bytes());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(stream.next_data() == largest);
    });
}

#[test]
fn what_is_published_through_redis_arrives_without_asking_a_node() {
    let node = Node::on_redis();
    let mut stream = Stream::open(&node.server, "topic=t");
    let redis = node.redis().url();
    // The variable yields to the flag: nothing listens there.
    let variables = [("FANWHEEL_URL", "http://127.0.0.1:1")];
    for (event, data) in [(None, "plain"), (Some("tick"), "named\nlines")] {
        let mut arguments = vec!["publish", "t", data, "--redis", &redis];
        arguments.extend(event.iter().flat_map(|event| ["--event", event]));
        let ended = Program::run(&arguments, &variables, b"");
        assert_eq!((ended.code, &ended.stdout[..]), (Some(0), "{\"topic\":\"t\",\"id\":null}\n"), "{ended:?}");
        let arrived = stream.next();
        assert_eq!((&arrived.name[..], &arrived.data[..]), (event.unwrap_or("message"), data));
    }
    let mut other = node.redis().client();
    other.command(&[b"SUBSCRIBE", b"other:t"]);
    let ended = Program::run(&["publish", "t", "x", "--redis", &redis, "--channel-prefix", "other:"], &[], b"");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(other.take_message(), b"x");
}

#[test]
fn a_redis_that_is_away_or_refuses_is_told() {
    let absent = RedisServer::absent();
    let (code, line) = refused(&["t", "x", "--redis", &absent.url()], b"");
    assert!(code == Some(1) && line.contains(&absent.url()) && line.contains("refused"), "{line}");
    let redis = RedisServer::start_with(&["--requirepass", "right"]);
    let (code, line) = refused(&["t", "x", "--redis", &format!("redis://:wr0ng@{}", redis.address)], b"");
    assert!(code == Some(1) && line.contains("password") && !line.contains("wr0ng"), "{line}");
    let redis = RedisServer::start();
    let (code, line) = refused(&["t", "x", "--redis", &format!("rediss://{}", redis.address)], b"");
    assert!(code == Some(1) && line.contains("cannot reach rediss://"), "it speaks no TLS: {line}");
    redis.client().command(&[b"ACL", b"SETUSER", b"default", b"resetchannels"]);
    let (code, line) = refused(&["t", "x", "--redis", &redis.url()], b"");
    assert!(code == Some(1) && line.contains("does not permit it"), "{line}");
}

#[test]
fn data_that_no_event_can_have_is_told_before_anything_is_sent() {
    // Nobody listens there, which would be told otherwise.
    let url = "http://127.0.0.1:1";
    let (code, line) = refused(&["t", "--url", url], &vec![b'x'; MIB + 1]);
    assert!(code == Some(1) && line.contains("at most 1048576 bytes"), "{line}");
    let (code, line) = refused(&["t", "-", "--url", url], b"ab\xff");
    assert!(code == Some(1) && line.contains("UTF-8") && line.contains("byte 2"), "{line}");
}

#[test]
fn wrong_usage_is_found_before_anything_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}");
    let redis = format!("redis://{address}");
    for (arguments, part) in [
        (&["", "x", "--url", &url][..], "must not be empty"),
        (&["$x", "x", "--url", &url], "`$`"),
        (&["a.*", "x", "--redis", &redis], "segment"),
        (&["t", "x", "--url", &url, "--event", "a\nb"], "control characters"),
        (&["t", "x", "--redis", &redis, "--event", "fanwheel.open"], "reserved"),
        (&["t", "x", "--url", &url, "--idempotency-key", "a\nb"], "--idempotency-key"),
        (&["t", "x", "--url", &url, "--idempotency-key", "a b"], "visible ASCII"),
        (&["t", "x", "--url", &url, "--idempotency-key", ""], "1 to 128"),
        (&["t", "x", "--redis", &redis, "--idempotency-key", "k"], "--url"),
        (&["t", "x", "--redis", &redis, "--url", &url], "choose one"),
        (&["t", "x", "--redis", &url], "redis://["),
        (&["t", "x", "--url", &redis], "http://host"),
    ] {
        let (code, line) = refused(arguments, b"");
        assert!(code == Some(2) && line.contains(part), "{part} in {line}");
    }
    for arguments in [&["publish"][..], &["publish", "t", "x", "y"], &["publish", "t", "--evnt", "x"]] {
        assert_eq!(Program::run(arguments, &[], b"").code, Some(2));
    }
    assert!(listener.accept().is_err(), "it has connected");
}

#[test]
fn what_the_node_refuses_is_told_with_its_sentence_and_status() {
    let node = Node::embedded();
    let url = format!("http://{}", node.server.public);
    let (code, line) = refused(&["t", "x", "--url", &url, "--idempotency-key", "k"], b"");
    assert!(code == Some(1) && line.contains("durable topic") && line.contains("400"), "{line}");
    let (code, line) = refused(&["t", "x", "--url", &format!("{url}/elsewhere")], b"");
    assert!(code == Some(1) && line.contains("404"), "{line}");
}

#[test]
fn a_page_of_somebody_else_is_no_success() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let page = std::thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        // The request ends with its data.
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\nx") {
            let mut piece = [0; 1 << 10];
            let count = socket.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..count]);
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").unwrap();
    });
    let (code, line) = refused(&["t", "x", "--url", &url], b"");
    assert!(code == Some(1) && line.contains("does not answer as a node does"), "{line}");
    page.join().unwrap();
}

#[test]
fn no_answer_is_told_with_what_is_known() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let closing = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let (code, line) = refused(&["t", "x", "--url", &url], b"");
    assert!(code == Some(1) && line.contains("not known whether"), "{line}");
    closing.join().unwrap();
    // The listener went with its thread.
    let (code, line) = refused(&["t", "x", "--url", &url], b"");
    assert!(code == Some(1) && line.contains(&url) && line.contains("is a node running there"), "{line}");
}
