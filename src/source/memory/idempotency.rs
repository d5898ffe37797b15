//! Which publishes of the embedded broker were named by their publishers, and what became of them.
//!
//! What always holds: within its class's window, the same key on the same topic means the event that
//! was stored first. With the same event it is answered with that event's id, with another it is a conflict.
//! Names and events are kept as SHA-256, so a record's size is known, and nobody makes two of them meet.
//!
//! Windows are measured by the node's monotonic clock, as each event brings it: what a publisher is
//! promised does not depend on a wall clock that is set.
//!
//! # Overload
//! At most [`RECORDS_MAX`] records. When they are taken, a publish that brings a key is refused: to
//! forget a record early could store an event twice. Publishes without a key go on.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::event::{Event, EventId, Stamp};

/// What a record costs: two digests, id and end, its place in a table and in a map, which are seldom full.
const RECORD_BYTES: usize = 256;
/// What all records may cost. 32 MiB.
const RECORDS_BYTES_MAX: usize = 32 << 20;
/// Most records: with windows of two minutes, a thousand publishes with a key each second.
pub const RECORDS_MAX: usize = RECORDS_BYTES_MAX / RECORD_BYTES;
/// Records whose window has passed that leave at one look. More than the one that may come with it.
const FORGET_MAX: usize = 64;

type Digest = [u8; SHA256_OUTPUT_LEN];

/// A publish and the name its publisher gave it. Made where the publish comes from: hashing 1 MiB takes
/// about a millisecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Topic and key.
    name: Digest,
    /// Name, key and data of the event.
    event: Digest,
    /// When it was published, µs.
    now_us: u64,
    /// How long it is remembered, µs.
    window_us: u64,
}

impl Claim {
    /// The publish of `event` under `key`.
    #[must_use]
    pub fn new(event: &Event, key: &str, window_ms: u64) -> Claim {
        let name = event.name.as_ref().map_or("", |name| name.as_str());
        Claim {
            name: digest(&[event.topic.as_str(), key], b""),
            event: digest(&[name, event.key.as_deref().unwrap_or_default()], &event.data),
            now_us: event.received_us,
            window_us: window_ms.saturating_mul(1_000),
        }
    }
}

/// Digest of `texts`, each with its length in front so that none reaches into the next, and `rest`.
fn digest(texts: &[&str], rest: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    context.update(rest);
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// What is known of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing, and there is room for it.
    New,
    /// This event was stored under this name.
    Same(EventId),
    /// Another event was.
    Other,
    /// Nothing, and there is no room for it.
    Full,
}

struct Record {
    event: Digest,
    id: EventId,
    ends_us: u64,
}

/// See the module.
#[derive(Default)]
pub struct Records {
    by_name: HashMap<Digest, Record, foldhash::fast::RandomState>,
    /// The same records by their end; the number tells those of one moment apart.
    by_end: BTreeMap<(u64, Stamp), Digest>,
}

impl Records {
    /// What is known of `claim`, now that it is made.
    pub fn look_up(&mut self, claim: &Claim) -> Known {
        for _ in 0..FORGET_MAX {
            let Some(oldest) = self.by_end.first_entry().filter(|oldest| oldest.key().0 <= claim.now_us) else { break };
            self.by_name.remove(&oldest.remove());
        }
        match self.by_name.get(&claim.name) {
            Some(record) if claim.now_us < record.ends_us && record.event == claim.event => Known::Same(record.id),
            Some(record) if claim.now_us < record.ends_us => Known::Other,
            _ if self.by_name.len() >= RECORDS_MAX => Known::Full,
            _ => Known::New,
        }
    }

    /// Remembers that the event of `claim`, which was looked up as new, was stored as `id`.
    pub fn keep(&mut self, claim: &Claim, id: EventId) {
        let ends_us = claim.now_us.saturating_add(claim.window_us);
        let record = Record { event: claim.event, id, ends_us };
        if let Some(past) = self.by_name.insert(claim.name, record) {
            self.by_end.remove(&(past.ends_us, past.id.stamp));
        }
        self.by_end.insert((ends_us, id.stamp), claim.name);
    }

    /// Records kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True exactly when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventName, Tag};
    use crate::topic::Topic;
    use bytes::Bytes;

    const WINDOW_MS: u64 = 10;

    fn claim(topic: &str, key: &str, data: &'static str, now_us: u64) -> Claim {
        Claim::new(&event(topic, "", None, data, now_us), key, WINDOW_MS)
    }

    fn event(topic: &str, name: &str, key: Option<&str>, data: &'static str, received_us: u64) -> Event {
        Event {
            topic: Topic::parse(topic).expect("a topic"),
            name: EventName::parse(name).expect("a name"),
            key: key.map(Into::into),
            data: Bytes::from_static(data.as_bytes()),
            stored: None,
            received_us,
        }
    }

    fn id(n: u64) -> EventId {
        EventId { stamp: Stamp { ms: 1, n }, tag: Tag::parse("aaaa").expect("a tag") }
    }

    #[test]
    fn a_key_means_the_event_that_was_stored_first_until_its_window_has_passed() {
        let mut records = Records::default();
        let first = claim("t", "k", "data", 1_000);
        assert_eq!(records.look_up(&first), Known::New);
        records.keep(&first, id(1));
        assert_eq!(records.look_up(&claim("t", "k", "data", 10_999)), Known::Same(id(1)));
        assert_eq!(records.look_up(&claim("t", "k", "other", 10_999)), Known::Other);
        assert_eq!(records.look_up(&claim("u", "k", "data", 10_999)), Known::New);
        assert_eq!(records.look_up(&claim("t", "k", "other", 11_000)), Known::New);
        assert!(records.is_empty());
    }

    #[test]
    fn everything_a_reader_would_see_makes_an_event_another() {
        let of = |name, key, data| Claim::new(&event("t", name, key, data, 0), "k", WINDOW_MS).event;
        let all = [
            of("", None, "data"),
            of("", None, "dat"),
            of("n", None, "data"),
            of("", Some("n"), "data"),
            of("n", Some("n"), "data"),
            of("nn", None, "data"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == one), Some(at));
        }
        let named = |topic: &str, key: &str| claim(topic, key, "", 0).name;
        assert_ne!(named("a:b", "c"), named("a", "b:c"));
        assert_ne!(named("ab", "c"), named("a", "bc"));
    }

    /// Windows of different classes end out of order, and more may end at once than leave at one look.
    #[test]
    fn what_has_ended_is_forgotten_although_not_all_of_it_leaves_at_once() {
        let mut records = Records::default();
        let keep = |records: &mut Records, n: u64, window_ms| {
            let claim = Claim::new(&event("t", "", None, "", 0), &n.to_string(), window_ms);
            assert_eq!(records.look_up(&claim), Known::New);
            records.keep(&claim, id(n));
        };
        keep(&mut records, 0, 1_000);
        let many = FORGET_MAX as u64 * 2;
        (1..=many).for_each(|n| keep(&mut records, n, WINDOW_MS));
        // The last to have ended is still there, but means nothing.
        let again = claim("t", &many.to_string(), "", WINDOW_MS * 1_000);
        assert_eq!(records.look_up(&again), Known::New);
        assert_eq!(records.len(), 1 + FORGET_MAX);
        records.keep(&again, id(many + 1));
        assert_eq!(records.look_up(&again), Known::Same(id(many + 1)));
        assert_eq!(records.len(), 2, "its first record is gone, its second has not ended");
        assert_eq!(records.by_end.len(), 2);
        assert_eq!(records.look_up(&claim("t", "0", "", 999_999)), Known::Same(id(0)));
    }

    #[test]
    fn full_means_that_new_keys_are_refused_and_old_ones_still_known() {
        let mut records = Records::default();
        for n in 0..RECORDS_MAX as u64 {
            records.keep(&claim("t", &n.to_string(), "", 0), id(n));
        }
        assert_eq!(records.look_up(&claim("t", "new", "", 1)), Known::Full);
        assert_eq!(records.look_up(&claim("t", "7", "", 1)), Known::Same(id(7)));
        assert_eq!(records.look_up(&claim("t", "7", "other", 1)), Known::Other);
        assert_eq!(records.look_up(&claim("t", "new", "", WINDOW_MS * 1_000)), Known::New);
    }
}
