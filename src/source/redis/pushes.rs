//! What a push on a subscriber connection means: an event, a confirmation, a marker, a probe.
//!
//! Called by the client library for every push, inside the connection's own task: nothing here waits.

use std::sync::Arc;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};

use crate::clock::Clock;
use crate::engine::Inbound;
use crate::engine::policy::Classes;
use crate::event::Event;
use crate::metrics::SourceCounters;
use crate::source::redis::envelope;
use crate::source::redis::scripts::Marked;
use crate::source::redis::stored::{self, Foreign};
use crate::topic::Topic;

/// The number of a probe that has come back. A forged one (whoever may publish there may) could only
/// hide a deaf connection from its own node.
pub(super) fn read_probe(push: &PushInfo, channel: &str) -> Option<u64> {
    match (&push.kind, &push.data[..]) {
        (PushKind::Message, [Value::BulkString(on), Value::BulkString(number)]) if on == channel.as_bytes() => {
            std::str::from_utf8(number).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// How the pushes of one connection are read.
pub(super) struct Pushes {
    /// What channels of topics begin with.
    pub(super) prefix: Arc<str>,
    /// Those that may be durable; empty when none is.
    pub(super) classes: Classes,
    pub(super) foreign: Arc<Foreign>,
    /// The channel of this shard's markers.
    pub(super) markers: String,
    /// The channel on which losses are told.
    pub(super) losses: String,
    /// Of the connection: markers that were asked for on another are none.
    pub(super) generation: u32,
    pub(super) clock: Clock,
}

impl Pushes {
    /// What a push means to the engine. `None` for pushes that are not about topics, and for messages that are not ours.
    pub(super) fn read(&self, push: PushInfo, counters: &SourceCounters) -> Option<Inbound> {
        let mut values = push.data.into_iter();
        let Value::BulkString(channel) = values.next()? else {
            return None;
        };
        // A topic was checked before it became a channel; this cannot fail for our own subscriptions.
        let Ok(topic) = Topic::parse_bytes(channel.strip_prefix(self.prefix.as_bytes())?) else {
            return self.read_marker(&channel, &push.kind, values.next()?);
        };
        match push.kind {
            PushKind::Message => {
                let Value::BulkString(payload) = values.next()? else {
                    return None;
                };
                self.read_message(topic, payload, counters)
            }
            PushKind::Subscribe => Some(Inbound::Subscribed(topic)),
            PushKind::Unsubscribe => Some(Inbound::Unsubscribed(topic)),
            _ => None,
        }
    }

    fn read_marker(&self, channel: &[u8], kind: &PushKind, value: Value) -> Option<Inbound> {
        let Value::BulkString(message) = value else {
            return None;
        };
        let is_known = channel == self.markers.as_bytes() || channel == self.losses.as_bytes();
        match Marked::read(&message).filter(|_| is_known && *kind == PushKind::Message)? {
            Marked::Place { generation, question, marker } => {
                (generation == self.generation).then(|| Inbound::Marker(question, Arc::new(marker)))
            }
            Marked::Lossy(chain) => Some(Inbound::Chain(Arc::new(chain))),
        }
    }

    fn read_message(&self, topic: Topic, payload: Vec<u8>, counters: &SourceCounters) -> Option<Inbound> {
        SourceCounters::count(&counters.events);
        let (payload, received_us) = (Bytes::from(payload), self.clock.now_us());
        if self.classes.class_of(&topic).retention().is_some() {
            let event = stored::open(&topic, &payload, received_us, counters);
            if event.is_none() {
                self.foreign.note(&topic, counters);
            }
            return event.map(|event| Inbound::Event(Arc::new(event)));
        }
        let Some(opened) = envelope::open(payload) else {
            SourceCounters::count(&counters.too_large);
            return Some(Inbound::TooLarge(topic));
        };
        if opened.mended {
            SourceCounters::count(&counters.not_utf8);
        }
        if opened.malformed {
            SourceCounters::count(&counters.malformed);
        }
        let envelope::Opened { name, key, data, .. } = opened;
        Some(Inbound::Event(Arc::new(Event { topic, name, key, data, stored: None, received_us })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::{Class, Kind, Retention};
    use crate::event::EVENT_BYTES_MAX;
    use crate::topic::Pattern;

    fn topic(name: &str) -> Topic {
        Topic::parse(name).expect("a topic")
    }

    fn push(kind: PushKind, data: &[&[u8]]) -> PushInfo {
        PushInfo { kind, data: data.iter().map(|bytes| Value::BulkString(bytes.to_vec())).collect() }
    }

    /// Topics below `d.` are durable.
    fn pushes() -> Pushes {
        let durable = Class { kind: Kind::Durable(Retention::default()), ..Class::default() };
        Pushes {
            prefix: "p:".into(),
            classes: Classes(vec![(Pattern::parse("d.*").expect("a pattern"), durable)]),
            foreign: Arc::default(),
            markers: "p:$marker:7:0".into(),
            losses: "p:$marker:{0}".into(),
            generation: 3,
            clock: Clock::start(),
        }
    }

    #[test]
    fn on_a_durable_topic_only_our_messages_are_delivered() {
        let (pushes, counters) = (pushes(), SourceCounters::default());
        let read = |payload: &[u8]| pushes.read(push(PushKind::Message, &[b"p:d.x", payload]), &counters);
        let event = match read(b"\xffFW2 2-0-abcd 1-0 1 0\nnx") {
            Some(Inbound::Event(event)) => event,
            other => panic!("{other:?}"),
        };
        assert!(event.stored.is_some() && event.data == "x" && event.topic == topic("d.x"));
        for foreign in [&b"plain"[..], b"\xffFW1{}\nx", b"\xffFW2 2-0-abcd\n"] {
            assert!(read(foreign).is_none());
        }
        assert_eq!(counters.foreign.load(std::sync::atomic::Ordering::Relaxed), 3);
    }

    #[test]
    fn markers_are_those_of_this_connection() {
        let (pushes, counters) = (pushes(), SourceCounters::default());
        let read =
            |channel: &[u8], message: &[u8]| pushes.read(push(PushKind::Message, &[channel, message]), &counters);
        assert!(matches!(read(b"p:$marker:7:0", b"M 3.17 5-0 abcd "), Some(Inbound::Marker(17, _))));
        assert!(matches!(read(b"p:$marker:{0}", b"L abcd aaaa 1-0 1"), Some(Inbound::Chain(_))));
        assert!(read(b"p:$marker:7:0", b"M 2.17 5-0 abcd ").is_none(), "of an earlier one");
        assert!(read(b"p:$marker:7:1", b"M 3.17 5-0 abcd ").is_none(), "of another shard");
        assert!(read(b"p:$marker:7:0", b"M 3.17 5-0").is_none());
        assert!(pushes.read(push(PushKind::Subscribe, &[b"p:$marker:7:0", b"1"]), &counters).is_none());
    }

    #[test]
    fn pushes_become_messages() {
        let counters = SourceCounters::default();
        let pushes = pushes();
        let read = |push| pushes.read(push, &counters);
        assert!(
            matches!(read(push(PushKind::Message, &[b"p:t", b"x"])), Some(Inbound::Event(event)) if event.topic == topic("t"))
        );
        assert!(matches!(read(push(PushKind::Subscribe, &[b"p:t"])), Some(Inbound::Subscribed(_))));
        assert!(matches!(read(push(PushKind::Unsubscribe, &[b"p:t"])), Some(Inbound::Unsubscribed(_))));
        let huge = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert!(matches!(read(push(PushKind::Message, &[b"p:t", &huge])), Some(Inbound::TooLarge(_))));
        assert!(matches!(read(push(PushKind::Message, &[b"p:t", &huge[1..]])), Some(Inbound::Event(_))));
        for odd in [
            push(PushKind::Message, &[b"q:t", b"x"]),
            push(PushKind::Message, &[b"p:t"]),
            push(PushKind::Invalidate, &[]),
        ] {
            assert!(read(odd).is_none());
        }
    }

    #[test]
    fn a_probe_is_known_by_its_channel_and_is_no_event() {
        let number = |push| read_probe(&push, "p:$probe:1:0");
        assert_eq!(number(push(PushKind::Message, &[b"p:$probe:1:0", b"42"])), Some(42));
        for other in [
            push(PushKind::Message, &[b"p:$probe:1:1", b"42"]),
            push(PushKind::Message, &[b"p:$probe:1:0", b"x"]),
            push(PushKind::Subscribe, &[b"p:$probe:1:0", b"1"]),
        ] {
            assert_eq!(number(other), None);
        }
        let stray = push(PushKind::Message, &[b"p:$probe:1:1", b"42"]);
        assert!(pushes().read(stray, &SourceCounters::default()).is_none());
    }
}
