//! A message of a durable topic: what the script stores in the stream and publishes, byte for byte.
//!
//! `0xFF "FW2 <id> <prev> <name bytes> <key bytes>"` LF, then event name, key and data without anything between them.
//! `0xFF` never occurs in UTF-8, and an envelope of live topics begins with `FW1`, so nothing can look like one. Only
//! the script makes them. What it could not check (that texts are UTF-8) is mended here; whatever else is not as
//! written above is no message of ours, and is not delivered.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tracing::warn;

use crate::event::{
    EVENT_BYTES_MAX, EVENT_KEY_BYTES_MAX, EVENT_NAME_BYTES_MAX, Event, EventId, EventName, Stamp, Stored,
};
use crate::frame::text_data;
use crate::metrics::SourceCounters;
use crate::topic::Topic;

/// What a message begins with.
const MAGIC: &[u8] = b"\xffFW2 ";
/// Longest first line after that: two numbers of 31 characters, a tag, two lengths of three, and what parts them.
const LINE_MAX: usize = 31 + 5 + 1 + 31 + 1 + 3 + 1 + 3;
/// Topics that are remembered for having been logged.
const TOPICS_LOGGED_MAX: usize = 256;

/// Reads a message. `None` when it is none of ours.
#[must_use]
pub fn open(topic: &Topic, message: &Bytes, received_us: u64, counters: &SourceCounters) -> Option<Event> {
    let rest = message.strip_prefix(MAGIC)?;
    let end = memchr::memchr(b'\n', &rest[..rest.len().min(LINE_MAX + 1)])?;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    let mut words = line.split(' ');
    let (id, prev) = (EventId::parse(words.next()?)?, Stamp::parse(words.next()?)?);
    let name_end = length(words.next()?, EVENT_NAME_BYTES_MAX)?;
    let key_end = name_end + length(words.next()?, EVENT_KEY_BYTES_MAX)?;
    let texts = message.slice(MAGIC.len() + end + 1..);
    if words.next().is_some() || texts.len() < key_end || texts.len() - key_end > EVENT_BYTES_MAX {
        return None;
    }
    // Names are kept from the wire, but never an event for the sake of its name.
    let name = std::str::from_utf8(&texts[..name_end]).ok().and_then(|name| EventName::parse(name).ok());
    let key = std::str::from_utf8(&texts[name_end..key_end]).ok();
    let (data, data_mended) = text_data(texts.slice(key_end..));
    if data_mended || name.is_none() || key.is_none() {
        SourceCounters::count(&counters.not_utf8);
    }
    Some(Event {
        topic: topic.clone(),
        name: name.flatten(),
        key: key.filter(|key| !key.is_empty()).map(Into::into),
        data,
        stored: Some(Stored { id, prev }),
        received_us,
    })
}

fn length(word: &str, max: usize) -> Option<usize> {
    let is_number = (1..=3).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten().filter(|&length| length <= max)
}

/// Messages on durable topics that are not ours: counted, and told once for each topic.
///
/// The lock is taken only for such messages, by the connection's task and by readers of the same thread.
#[derive(Debug, Default)]
pub struct Foreign(Mutex<HashSet<Topic>>);

impl Foreign {
    /// One was met.
    pub fn note(&self, topic: &Topic, counters: &SourceCounters) {
        SourceCounters::count(&counters.foreign);
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < TOPICS_LOGGED_MAX && logged.insert(topic.clone()) {
            warn!(
                %topic,
                "a message on a durable topic is not Fanwheel's and was not delivered; publish over HTTP or with the \
                 function fanwheel_publish, not with PUBLISH, or make the topic's class live"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The message of an event, as the script makes it.
    fn seal(event: &Event) -> Bytes {
        let Stored { id, prev } = event.stored.expect("it is stored");
        let (name, key) = (event.name.as_ref().map_or("", |name| name.as_str()), event.key.as_deref().unwrap_or(""));
        let line = format!("FW2 {id} {prev} {} {}\n", name.len(), key.len());
        [b"\xff", line.as_bytes(), name.as_bytes(), key.as_bytes(), &event.data].concat().into()
    }

    fn topic() -> Topic {
        Topic::parse("t").expect("a topic")
    }

    fn opened(message: &[u8]) -> Option<Event> {
        open(&topic(), &Bytes::copy_from_slice(message), 7, &SourceCounters::default())
    }

    #[test]
    fn a_message_is_read_as_the_script_writes_it() {
        let event = opened(b"\xffFW2 1789-4-aB3d 1788-0 4 3\ntickkeydata\n").expect("a message");
        let stored = event.stored.expect("it is stored");
        assert_eq!((stored.id.to_string(), stored.prev.to_string()), ("1789-4-aB3d".into(), "1788-0".into()));
        assert_eq!((event.name.as_ref().map(EventName::as_str), event.key.as_deref()), (Some("tick"), Some("key")));
        assert_eq!((&event.data[..], event.received_us), (&b"data\n"[..], 7));
        let longest = format!("\u{0}FW2 {0}-{0}-aB3d {0}-{0} 128 255\n{1}", "9".repeat(15), "x".repeat(383));
        let longest = [b"\xff", &longest.as_bytes()[1..]].concat();
        assert!(opened(&longest).is_some_and(|event| event.data.is_empty()));
    }

    #[test]
    fn what_is_not_ours_is_none() {
        for message in [
            &b"plain"[..],
            b"",
            b"\xffFW1{}\nx",
            b"\xffFW2 1-2-abcd 1-1 0 0",
            b"\xffFW2 1-2-abcd 1-1 0\nx",
            b"\xffFW2 1-2-abcd 1-1 0 0 0\nx",
            b"\xffFW2 1-2-abcd 1-1 +0 0\nx",
            b"\xffFW2 1-2-abcd 1-1 2 0\nx",
            b"\xffFW2 1-2-abcd 1-1 129 0\nx",
            b"\xffFW2 1-2 1-1 0 0\nx",
            b"\xffFW2 1-2-abcd  0 0\nx",
        ] {
            assert!(opened(message).is_none(), "{message:?}");
        }
        let large = |bytes: usize| opened(&[b"\xffFW2 1-2-abcd 1-1 0 0\n", &vec![b'x'; bytes][..]].concat());
        assert!(large(EVENT_BYTES_MAX).is_some() && large(EVENT_BYTES_MAX + 1).is_none());
    }

    #[test]
    fn texts_that_are_not_as_they_should_be_cost_no_event() {
        let counters = SourceCounters::default();
        let read = |message: &'static [u8]| open(&topic(), &Bytes::from_static(message), 0, &counters);
        let event = read(b"\xffFW2 1-2-abcd 1-1 3 1\na\nb\xffx\xff").expect("a message");
        assert_eq!((event.name, event.key, &event.data[..]), (None, None, "x\u{fffd}".as_bytes()));
        assert_eq!(counters.not_utf8.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(name in "[a-z\"é]{0,12}", key in "\\PC{1,20}", data in "\\PC{0,40}", ms in 0..1_u64 << 45, n in 0..9_u64) {
            let id = EventId::parse(&format!("{ms}-{n}-k3Zq")).expect("an id");
            let event = Event {
                topic: topic(),
                name: EventName::parse(&name).expect("a name"),
                key: Some(key.into_boxed_str()),
                data: Bytes::from(data),
                stored: Some(Stored { id, prev: id.stamp.before() }),
                received_us: 7,
            };
            let opened = opened(&seal(&event)).expect("a message");
            prop_assert_eq!(format!("{opened:?}"), format!("{event:?}"));
        }

        #[test]
        fn nothing_that_arrives_panics(line in "[0-9a-z -]{0,40}", rest in proptest::collection::vec(any::<u8>(), 0..60)) {
            let message = [MAGIC, line.as_bytes(), b"\n", &rest].concat();
            if let Some(event) = opened(&message) {
                prop_assert!(std::str::from_utf8(&event.data).is_ok());
            }
        }
    }
}
