//! What a payload on a channel of Redis means.
//!
//! Any text is an event's data. An event name or key travels in an envelope in front of it:
//! `0xFF "FW1"`, one line of JSON (`event` and `key`, both optional, others ignored), LF, the data.
//! `0xFF` never occurs in UTF-8, so no text can look like one. A malformed envelope is plain data.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::event::{EVENT_BYTES_MAX, EVENT_KEY_BYTES_MAX, Event, EventName};
use crate::frame::text_data;

/// What an envelope begins with.
const MAGIC: &[u8] = b"\xffFW1";

#[derive(Default, Serialize, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<std::borrow::Cow<'a, str>>,
}

/// A payload, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The event's name.
    pub name: Option<EventName>,
    /// The event's key.
    pub key: Option<Box<str>>,
    /// Valid UTF-8. At most [`EVENT_BYTES_MAX`] bytes were sent; each that is not UTF-8 has become three.
    pub data: Bytes,
    /// True exactly when bytes that are not UTF-8 were replaced.
    pub mended: bool,
    /// True exactly when it looked like an envelope and was none.
    pub malformed: bool,
}

/// Reads a payload; `None` when its data is larger than [`EVENT_BYTES_MAX`].
#[must_use]
pub fn open(payload: Bytes) -> Option<Opened> {
    let envelope = payload.strip_prefix(MAGIC).map(|rest| parse(&payload, rest));
    let malformed = matches!(envelope, Some(None));
    let (name, key, data) = envelope.flatten().unwrap_or((None, None, payload));
    if data.len() > EVENT_BYTES_MAX {
        return None;
    }
    let (data, mended) = text_data(data);
    Some(Opened { name, key, data, mended, malformed })
}

/// The payload for an event: its data alone, when it has neither name nor key.
#[must_use]
pub fn seal(event: &Event) -> Bytes {
    if event.name.is_none() && event.key.is_none() {
        return event.data.clone();
    }
    let fields = Fields {
        event: event.name.as_ref().map(|name| name.as_str().into()),
        key: event.key.as_deref().map(Into::into),
    };
    let mut payload = MAGIC.to_vec();
    serde_json::to_writer(&mut payload, &fields).expect("two strings serialize");
    payload.push(b'\n');
    payload.extend_from_slice(&event.data);
    payload.into()
}

fn parse(payload: &Bytes, rest: &[u8]) -> Option<(Option<EventName>, Option<Box<str>>, Bytes)> {
    let end = memchr::memchr(b'\n', rest)?;
    if !rest.starts_with(b"{") {
        return None;
    }
    let fields: Fields<'_> = serde_json::from_slice(&rest[..end]).ok()?;
    let name = EventName::parse(fields.event.as_deref().unwrap_or_default()).ok()?;
    let key = fields.key.map(|key| key.into_owned().into_boxed_str());
    if key.as_ref().is_some_and(|key| key.len() > EVENT_KEY_BYTES_MAX) {
        return None;
    }
    Some((name, key, payload.slice(MAGIC.len() + end + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Topic;
    use proptest::prelude::*;

    fn opened(payload: &'static [u8]) -> Opened {
        open(Bytes::from_static(payload)).expect("small")
    }

    #[test]
    fn an_envelope_names_the_event() {
        let event = opened(b"\xffFW1{\"event\":\"tick\",\"other\":[1]}\nline one\nline two");
        assert_eq!(event.name.expect("named").as_str(), "tick");
        assert_eq!(&event.data[..], b"line one\nline two");
        assert!(!event.malformed && !event.mended);
        assert_eq!(opened(b"\xffFW1{}\n").data, Bytes::new());
    }

    #[test]
    fn a_malformed_envelope_is_plain_data() {
        for payload in [
            &b"\xffFW1"[..],
            b"\xffFW1{\"event\":\"a\"}",
            b"\xffFW1{\"event\":1}\nx",
            b"\xffFW1[]\nx",
            b"\xffFW1{\"event\":\"a\\nb\"}\nx",
            b"\xffFW1{\"event\":\"fanwheel.open\"}\nx",
        ] {
            let event = opened(payload);
            assert!(event.malformed && event.mended && event.name.is_none(), "{payload:?}");
            assert!(event.data.starts_with("\u{fffd}FW1".as_bytes()));
        }
        assert!(!opened(b"FW1{}\nx").malformed);
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(name in "[a-z\"\\\\é]{0,12}", key in proptest::option::of("\\PC{0,20}"), data in "\\PC{0,40}") {
            let event = Event {
                topic: Topic::parse("t").expect("a topic"),
                name: EventName::parse(&name).expect("a name"),
                key: key.map(String::into_boxed_str),
                data: Bytes::from(data),
                stored: None,
                received_us: 0,
            };
            let opened = open(seal(&event)).expect("small");
            prop_assert_eq!(opened, Opened { name: event.name, key: event.key, data: event.data, mended: false, malformed: false });
        }

        #[test]
        fn nothing_that_arrives_panics(payload in proptest::collection::vec(any::<u8>(), 0..60), magic in any::<bool>()) {
            let bytes = if magic { [MAGIC, &payload[..]].concat() } else { payload };
            let opened = open(Bytes::from(bytes)).expect("small");
            prop_assert!(std::str::from_utf8(&opened.data).is_ok());
        }
    }
}
