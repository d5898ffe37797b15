//! WebSockets with clients that others have written: tungstenite (Rust), undici (Node), Chromium.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocket};
use tungstenite::{Bytes, Message};

use crate::common::websocket::{SUBPROTOCOL, handshake};
use crate::common::{Complaint, Launch, PATIENCE, Page, get, wait_until};

/// Follows a topic, publishes on it from both ends, checks that all of it comes back, and closes. In JavaScript, for
/// both programs that speak it.
const TALK: &str = r#"
(async (url) => {
  const socket = new WebSocket(url, "fanwheel.v1.json");
  const seen = [];
  const ended = new Promise((resolve) => { socket.onclose = ({ code, wasClean }) => resolve({ code, wasClean }); });
  const until = (count) => new Promise((resolve) => {
    const look = () => { if (seen.length >= count) resolve(); };
    socket.onmessage = ({ data }) => { seen.push(JSON.parse(data)); look(); };
    look();
  });
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = () => reject(new Error("refused")); });
  const say = (operation) => socket.send(JSON.stringify(operation));
  await until(1);
  say({ op: "subscribe", ref: "s", topics: ["b"] });
  await until(2);
  const texts = ["hello", "\u{1f600} \"quoted\"\n", "x".repeat(200000)];
  texts.forEach((data, ref) => say({ op: "publish", ref, topic: ref % 2 ? "b" : "a", data }));
  await until(2 + 2 * texts.length);
  socket.close(1000, "done");
  const { code, wasClean } = await ended;
  const events = seen.filter(({ topic }) => topic).map(({ topic, data }) => topic + data);
  const answers = seen.filter(({ ref }) => ref !== undefined).map(({ ref, ok }) => ref + " " + ok).sort();
  return {
    protocol: socket.protocol, extensions: socket.extensions, open: seen[0].event, answers,
    same: JSON.stringify(events.sort()) === JSON.stringify(texts.map((data, ref) => (ref % 2 ? "b" : "a") + data).sort()),
    code, wasClean,
  };
})
"#;

fn expected() -> Value {
    json!({
        "protocol": SUBPROTOCOL, "extensions": "", "open": "fanwheel.open", "answers": ["0 true", "1 true", "2 true", "s true"],
        "same": true, "code": 1000, "wasClean": true,
    })
}

#[test]
fn a_browser_talks_and_closes_in_order() {
    let server = Launch::serve().flag("--demo-pages", "true").start();
    let mut page = Page::open(&format!("http://{}/", server.public));
    page.wait_text("body", "the page", |text| !text.is_empty());
    let talked = page.value(&format!("{TALK}(\"ws://{}/ws?topic=a\")", server.public));
    assert_eq!(talked, expected());
    page.assert_quiet(Complaint::Any);
    let refused = page.value(&format!(
        "new Promise((resolve) => {{ const socket = new WebSocket(\"ws://{}/ws\"); socket.onclose = ({{ code }}) => resolve(code); }})",
        server.public
    ));
    assert_eq!(refused, 1006, "without a topic, and without the subprotocol to name one");
    wait_until("it to be gone", || server.metric("fanwheel_connections{transport=\"websocket\"}") == 0.0);
}

#[test]
fn a_page_of_another_origin_must_be_listed() {
    let pages = Launch::serve().flag("--demo-pages", "true").start();
    let origin = format!("http://{}", pages.public);
    let mut page = Page::open(&format!("{origin}/"));
    page.wait_text("body", "the page", |text| !text.is_empty());
    let mut code = |to: std::net::SocketAddr| {
        page.value(&format!(
            "new Promise((resolve) => {{ const socket = new WebSocket(\"ws://{to}/ws?topic=a\");
             socket.onopen = () => {{ resolve(\"open\"); socket.close(); }}; socket.onclose = ({{ code }}) => resolve(code); }})"
        ))
    };
    let closed = Launch::serve().start();
    assert_eq!(code(closed.public), 1006);
    let listed = Launch::serve().flag("--cors-origin", &origin).start();
    assert_eq!(code(listed.public), "open");
}

#[test]
fn node_talks_and_closes_in_order() {
    let server = Launch::serve().start();
    let mut node = Command::new("node")
        // Node 20 has it behind this flag, later ones have it anyway.
        .args(["--experimental-websocket", "--no-warnings", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node, which ./test brings");
    let script = format!(
        "{}(\"ws://{}/ws?topic=a\").then((talked) => console.log(JSON.stringify(talked)))",
        TALK.trim(),
        server.public
    );
    node.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(node.wait().unwrap().success());
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), expected());
}

/// A client of tungstenite on a connection whose head was answered.
fn tungstenite_on(to: std::net::SocketAddr, query: &str) -> WebSocket<TcpStream> {
    let mut socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&handshake(query, Some(SUBPROTOCOL))).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    WebSocket::from_raw_socket(socket, Role::Client, None)
}

#[test]
fn tungstenite_is_told_in_whole_what_it_publishes() {
    let server = Launch::serve().start();
    // It reads nothing while it writes, and a node does not read from who does not take what it is sent: so it follows
    // nothing.
    let mut client = tungstenite_on(server.public, "");
    let mut rng = fastrand::Rng::with_seed(1);
    let texts: Vec<String> = (0..200)
        .map(|number| {
            let length = [10, 200, 20_000, 300_000][rng.usize(0..4).min(3 - usize::from(number % 40 != 0))];
            (0..rng.usize(0..length)).map(|_| rng.choice(['a', 'ü', '\u{1f600}', '"', '\n', '\0']).unwrap()).collect()
        })
        .collect();
    let reader = std::thread::spawn({
        let mut follower = tungstenite_on(server.public, "topic=a");
        let expected = texts.clone();
        move || {
            let mut seen = Vec::new();
            while seen.len() < expected.len() {
                if let Message::Text(text) = follower.read().unwrap() {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    seen.extend(message["topic"].is_string().then(|| message["data"].as_str().unwrap().to_owned()));
                }
            }
            assert!(seen == expected, "all, in order, unchanged");
        }
    });
    wait_until("the other to follow", || get(server.public, "/topics/a").json()["subscribers"] == 1);
    let (mut answered, mut pongs) = (0, 0);
    for (number, data) in texts.iter().enumerate() {
        client
            .send(Message::text(json!({"op": "publish", "ref": number, "topic": "a", "data": data}).to_string()))
            .unwrap();
        if number % 50 == 0 {
            client.send(Message::Ping(Bytes::from(vec![number as u8]))).unwrap();
        }
    }
    while answered < texts.len() || pongs == 0 {
        match client.read().unwrap() {
            Message::Text(text) => answered += usize::from(text.contains("\"ok\":true")),
            Message::Pong(_) => pongs += 1,
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    reader.join().unwrap();
    client.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).unwrap();
    let closed = std::iter::from_fn(|| client.read().ok()).find_map(|message| match message {
        Message::Close(frame) => frame.map(|frame| frame.code),
        _ => None,
    });
    assert_eq!(closed, Some(CloseCode::Normal));
}
