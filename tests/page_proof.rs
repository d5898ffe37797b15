//! The ticker page proves that a cut loses nothing. A proof that cannot fail is none: here a node that lies is caught.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::common::{Complaint, PATIENCE, Page};

/// What the first stream carries, and the second: event 17 is missing without a word, 18 comes twice.
const STREAMS: [&[u64]; 2] = [&[11, 12, 13, 14], &[15, 16, 18, 18, 19]];
/// Symbols take turns.
const SYMBOLS: [&str; 2] = ["EVEN", "ODD"];

fn symbol(number: u64) -> &'static str {
    SYMBOLS[(number % 2) as usize]
}

fn block(number: u64) -> String {
    let data = json!({"symbol": symbol(number), "price": number, "change": 0, "ts": number});
    format!("data: {data}\nid: {number}-0-abcd\n\n")
}

/// Answers one request. A stream is kept open.
fn answer(mut socket: TcpStream, streams: &Mutex<Vec<(String, TcpStream)>>) -> Option<()> {
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1)?.to_owned();
    let mut reply = |kind: &str, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
        socket.write_all(&[head.as_bytes(), body.as_bytes()].concat()).ok()
    };
    if target == "/" {
        reply("text/html; charset=utf-8", include_str!("../src/edge/http/pages/ticker.html"))
    } else if target == "/demo/node" {
        let node = json!({
            "symbols": SYMBOLS, "version": "0", "source": "a script", "source_connected": true, "shards": 1,
            "uptime_s": 1, "connections": 1, "events_received": 0, "deliveries": 0,
        });
        reply("application/json", &node.to_string())
    } else if let Some(rest) = target.strip_prefix("/topics/ticker.") {
        let after: u64 = rest.split_once("after=")?.1.split_once('-')?.0.parse().ok()?;
        let of = |number: &u64| rest.starts_with(symbol(*number)) && *number > after;
        let ids: Vec<_> =
            (10..100).filter(of).map(|number| json!({"id": format!("{number}-0-abcd"), "data": ""})).collect();
        // One at a time: the page must go on to the end.
        let next = ids.get(1).and(ids.first()).map(|first| first["id"].clone());
        let page = json!({"events": ids.first().into_iter().collect::<Vec<_>>(), "next": next, "trimmed": false});
        reply("application/json", &page.to_string())
    } else {
        let mut streams = streams.lock().ok()?;
        let events = STREAMS.get(streams.len())?;
        let (resumed, id) = (!streams.is_empty(), events[0] - 1);
        let open = json!({"topics": ["ticker.EVEN", "ticker.ODD"], "resumed": resumed});
        let open = format!("event: fanwheel.open\nretry: 1000\ndata: {open}\nid: {id}-0-abcd\n\n");
        reply("text/event-stream", &events.iter().fold(open, |text, number| text + &block(*number)))?;
        streams.push((target, socket));
        Some(())
    }
}

#[test]
fn the_page_catches_a_node_that_loses_or_doubles_an_event_over_a_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let streams = Arc::new(Mutex::new(Vec::new()));
    let held = Arc::clone(&streams);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let streams = Arc::clone(&held);
            thread::spawn(move || answer(socket, &streams));
        }
    });
    let mut page = Page::open(&url);
    page.wait_text("[data-testid=proof-received]", "all of the first stream", |text| text == "4");
    page.click("[data-testid=cut]");
    page.wait_text("[data-testid=state]", "lost", |text| text == "Reconnecting");
    assert_eq!(page.value("document.querySelector('[data-testid=cut]').disabled"), true);
    page.wait_text("[data-testid=verdict]", "about the loss", |text| {
        text == "5 events of 2 symbols stand in the history since the cut, and 1 of them did not arrive."
    });
    for (counter, expected) in [
        ("received", "9"),
        ("compared", "5"),
        ("missed", "1"),
        ("doubled", "1"),
        ("resumed", "1 of 1"),
        ("resets", "0"),
    ] {
        assert_eq!(page.text(&format!("[data-testid=proof-{counter}]")).as_deref(), Some(expected), "{counter}");
    }
    let streams = streams.lock().unwrap();
    let targets: Vec<bool> = streams.iter().map(|(target, _)| target.contains("&last_event_id=14-0-abcd")).collect();
    assert_eq!(targets, [false, true], "the second stream is asked for after the last id seen");
    page.assert_quiet(Complaint::OfScripts);
}
