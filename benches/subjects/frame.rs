//! What is encoded: events in three shapes, because cost has three parts, and topics for control blocks.

use bytes::Bytes;
use fanwheel::event::{EVENT_BYTES_MAX, Event};
use fanwheel::topic::Topic;

/// The allocation: hardly any bytes to copy.
pub(crate) fn one_line() -> Event {
    event(vec![b'x'; 120])
}

/// The copy, line by line: 4 KiB of 40 lines.
pub(crate) fn forty_lines() -> Event {
    event([vec![b'x'; 101], b"\n".to_vec()].concat().repeat(40))
}

/// The walk for line ends at its worst: 1 MiB becomes 6 MiB of empty `data:` lines.
pub(crate) fn line_feeds() -> Event {
    event(vec![b'\n'; EVENT_BYTES_MAX])
}

/// The escapes of JSON inside JSON: a quotation mark in every eighth byte.
pub(crate) fn quote() -> Event {
    let data = r#"{"symbol":"AAPL","price":229.87,"change":-0.42,"ts":1795295280917,"volume":48211904,"venue":"XNAS","bid":229.86}"#;
    event(data.as_bytes().to_vec())
}

/// What needs no escape, at its longest.
pub(crate) fn prose() -> Event {
    event(vec![b'x'; EVENT_BYTES_MAX])
}

pub(crate) fn topics() -> Vec<Topic> {
    (0..5).map(|n| Topic::parse(&format!("topic.{n}")).unwrap()).collect()
}

fn event(data: Vec<u8>) -> Event {
    let topic = Topic::parse("bench").unwrap();
    Event { topic, name: None, key: None, data: Bytes::from(data), stored: None, received_us: 0 }
}
