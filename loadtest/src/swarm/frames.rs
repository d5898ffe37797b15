//! The frames of a WebSocket that a server sends, and the messages of Fanwheel's subprotocol in them.
//!
//! As with event streams no bytes are held here: half a frame is pointed out, and put in front of the next read. A
//! message is not parsed as JSON where it is an event: its fields stand in one order, and payloads have nothing to
//! escape; what is otherwise is an error, not a loss. The node's pings are counted as heartbeats and not answered: it does
//! not ask for that, and a client that answers would be measured for it.

use anyhow::{Result, bail, ensure};

use super::conn::{BLOCK_LEN_MAX, Block, Item};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// Emits the whole frames at the front of `bytes`; returns their length.
pub(super) fn take_frames(bytes: &[u8], emit: &mut impl FnMut(Item<'_>)) -> Result<usize> {
    let mut taken = 0;
    while let Some((first, payload, len)) = frame(&bytes[taken..])? {
        match first {
            TEXT => emit(message(payload)?),
            PING => {}
            CLOSE => emit(Item::End),
            other => bail!("a frame that begins with {other:#x}"),
        }
        taken += len;
    }
    Ok(taken)
}

/// The frame at the front: its first byte, its payload, its length. `None` while it is not complete.
#[inline]
fn frame(bytes: &[u8]) -> Result<Option<(u8, &[u8], usize)>> {
    let [first, short, rest @ ..] = bytes else { return Ok(None) };
    let (begin, len) = match (*short, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize),
        (126 | 127, _) => return Ok(None),
        (len, _) => (2, usize::from(len)),
    };
    ensure!(len <= BLOCK_LEN_MAX, "a frame of more than {BLOCK_LEN_MAX} bytes");
    Ok(bytes.get(begin..begin + len).map(|payload| (*first, payload, begin + len)))
}

/// `{"topic":…,"id":…,"event":…,"data":"…"}`, or a control event, which has no `topic`.
#[inline]
fn message(text: &[u8]) -> Result<Item<'_>> {
    let fields = |text| {
        let (id, rest) = word(strip(text, b"\"id\":")?)?;
        let (event, rest) = word(strip(rest, b",\"event\":")?)?;
        Some((id, event, strip(rest, b",\"data\":")?.strip_suffix(b"}")?))
    };
    let is_event = text.starts_with(b"{\"topic\":\"");
    let body = if is_event { after_topic(text) } else { text.strip_prefix(b"{") };
    let Some((id, event, data)) = body.and_then(fields) else {
        bail!("a message in another order: {}", text.escape_ascii());
    };
    if !is_event {
        let event = event.unwrap_or_default();
        return Ok(Item::Block(Block { event, data, data_lines: 1, id, retry: None, raw: text }));
    }
    let data = data.strip_prefix(b"\"").and_then(|data| data.strip_suffix(b"\""));
    Ok(match (id, event, data) {
        (None, None, Some(data)) => Item::Data(data),
        (id, event, Some(data)) => {
            Item::Block(Block { event: event.unwrap_or_default(), data, data_lines: 1, id, retry: None, raw: data })
        }
        (_, _, None) => bail!("data that is no string: {}", text.escape_ascii()),
    })
}

/// What follows the topic, which has nothing to escape, and the comma.
fn after_topic(text: &[u8]) -> Option<&[u8]> {
    let topic = &text[b"{\"topic\":\"".len()..];
    let end = memchr::memchr(b'"', topic)?;
    strip(&topic[end + 1..], b",")
}

fn strip<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    text.strip_prefix(prefix)
}

/// `null` or a string at the front, and what follows it.
fn word(text: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if let Some(rest) = text.strip_prefix(b"null") {
        return Some((None, rest));
    }
    let text = text.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', text)?;
    Some((Some(&text[..end]), &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(bytes: &[u8]) -> Result<(Vec<String>, usize)> {
        let mut seen = Vec::new();
        let text = |bytes: Option<&[u8]>| bytes.map_or(String::from("-"), |bytes| bytes.escape_ascii().to_string());
        let taken = take_frames(bytes, &mut |item| {
            seen.push(match item {
                Item::Data(data) => text(Some(data)),
                Item::Block(block) => {
                    format!("{} {} {}", text(block.id), text(Some(block.event)), text(Some(block.data)))
                }
                Item::End => "end".to_owned(),
                Item::Head { .. } => unreachable!(),
            });
        })?;
        Ok((seen, taken))
    }

    fn frame_of(text: &str) -> Vec<u8> {
        match u8::try_from(text.len()) {
            Ok(len @ 0..126) => [&[TEXT, len], text.as_bytes()].concat(),
            _ => [&[TEXT, 126][..], &(text.len() as u16).to_be_bytes(), text.as_bytes()].concat(),
        }
    }

    #[test]
    fn messages_are_taken_apart_wherever_they_are_cut() {
        let long = "x".repeat(300);
        let all = [
            frame_of(r#"{"id":null,"event":"fanwheel.open","data":{"topics":["t"],"resumed":false}}"#),
            frame_of(r#"{"topic":"t","id":null,"event":null,"data":"one"}"#),
            vec![PING, 0],
            frame_of(&format!(r#"{{"topic":"t","id":"1-0-abcd","event":"e","data":"{long}"}}"#)),
            vec![CLOSE, 2, 3, 0xe9],
        ]
        .concat();
        let expected = [
            "- fanwheel.open {\\\"topics\\\":[\\\"t\\\"],\\\"resumed\\\":false}".to_owned(),
            "one".to_owned(),
            format!("1-0-abcd e {long}"),
            "end".to_owned(),
        ];
        assert_eq!(seen(&all).unwrap(), (expected.to_vec(), all.len()));
        for cut in 0..all.len() {
            let (mut first, taken) = seen(&all[..cut]).unwrap();
            first.extend(seen(&all[taken..]).unwrap().0);
            assert_eq!(first, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in
            ["", "hello", "{}", r#"{"topic":"t","data":"x"}"#, r#"{"topic":"t","id":null,"event":null,"data":7}"#]
        {
            assert!(seen(&frame_of(text)).is_err(), "{text}");
        }
        assert!(seen(&[0x82, 0]).is_err() && seen(&[TEXT, 127, 0, 0, 0, 1, 0, 0, 0, 0]).is_err());
    }
}
