//! One event: what a publisher said about a topic, checked once at the border.
//!
//! After that nobody looks at its text again: the data is valid UTF-8, the name has no character
//! that could end its line, and names that begin with `fanwheel.` belong to control events.

use std::fmt;

use bytes::Bytes;

use crate::topic::Topic;

/// Most bytes of data in one event, from any source.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Longest event name, in bytes.
pub const EVENT_NAME_BYTES_MAX: usize = 128;
/// Longest conflation key, in bytes.
pub const EVENT_KEY_BYTES_MAX: usize = 255;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// The idempotency key that these bytes are: 1 to [`IDEMPOTENCY_KEY_BYTES_MAX`] visible ASCII characters.
#[must_use]
pub fn idempotency_key(bytes: &[u8]) -> Option<&str> {
    let visible = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(bytes).ok().filter(|_| visible)
}

/// An event on its way from a source to the logs. Shared by all shards that want it.
#[derive(Debug)]
pub struct Event {
    /// Where it was published.
    pub topic: Topic,
    /// The `event:` field; `None` is the default type `message`.
    pub name: Option<EventName>,
    /// What the event is the latest state of, for topics that conflate.
    pub key: Option<Box<str>>,
    /// Valid UTF-8, at most [`EVENT_BYTES_MAX`] bytes.
    pub data: Bytes,
    /// Where it stands in the history; `None` exactly on live topics.
    pub stored: Option<Stored>,
    /// When this node received it, in µs of its monotonic clock.
    pub received_us: u64,
}

impl Event {
    /// Bytes this event is charged with in inboxes: its text.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.topic.as_str().len()
            + self.name.as_ref().map_or(0, |name| name.as_str().len())
            + self.key.as_ref().map_or(0, |key| key.len())
            + self.data.len()
    }
}

/// An event name that may stand on an `event:` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventName(Box<str>);

/// Why a text is not an event name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventNameError {
    /// Longer than [`EVENT_NAME_BYTES_MAX`].
    #[error("an event name is at most {EVENT_NAME_BYTES_MAX} bytes long")]
    TooLong,
    /// Contains CR, LF, NUL or another control character.
    #[error("an event name must not contain control characters")]
    Control,
    /// Begins with `fanwheel.`.
    #[error("event names that begin with `fanwheel.` are reserved")]
    Reserved,
}

impl EventName {
    /// Checks `text`; the empty name is no name.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Option<EventName>, EventNameError> {
        if text.len() > EVENT_NAME_BYTES_MAX {
            return Err(EventNameError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(EventNameError::Control);
        }
        if text.starts_with("fanwheel.") {
            return Err(EventNameError::Reserved);
        }
        Ok((!text.is_empty()).then(|| EventName(text.into())))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An event's place in the history of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub id: EventId,
    /// The number of the topic's event before it, or the highest that may have been: what shows whether one is missing.
    pub prev: Stamp,
}

/// A number of the history's own clock, `<ms>-<n>`: unique and growing over all topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// Milliseconds.
    pub ms: u64,
    /// Counts events of one millisecond.
    pub n: u64,
}

/// Names an incarnation of the history: four letters or digits, drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag([u8; 4]);

/// A position in the history, `<ms>-<n>-<tag>`: what a client is given as an event's id.
///
/// A number alone would not do: a history that was lost and begun anew, or fell back behind what was read of it,
/// gives numbers again that mean something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The number.
    pub stamp: Stamp,
    /// The incarnation it was given in.
    pub tag: Tag,
}

/// Digits in each part of a number: what a double still holds exactly, and no clock reaches.
const STAMP_DIGITS_MAX: usize = 15;

impl Stamp {
    /// Before every event.
    pub const ZERO: Stamp = Stamp { ms: 0, n: 0 };
    /// After every event that can be written down.
    pub const MAX: Stamp = Stamp { ms: 999_999_999_999_999, n: 999_999_999_999_999 };

    /// Reads `<ms>-<n>`; nothing else is a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Stamp> {
        let (ms, n) = text.split_once('-')?;
        Some(Stamp { ms: digits(ms)?, n: digits(n)? })
    }

    /// The number before it: nothing lies between them.
    #[must_use]
    pub fn before(self) -> Stamp {
        match (self.ms, self.n) {
            (0, 0) => Stamp::ZERO,
            (ms, 0) => Stamp { ms: ms - 1, n: Stamp::MAX.n },
            (ms, n) => Stamp { ms, n: n - 1 },
        }
    }

    /// The number an event gets that is published `now` (ms since 1970) after this one.
    #[must_use]
    pub fn next(self, now: u64) -> Stamp {
        if now > self.ms { Stamp { ms: now, n: 0 } } else { Stamp { ms: self.ms, n: self.n + 1 } }
    }
}

impl Tag {
    /// None: of no history.
    pub const NONE: Tag = Tag(*b"0000");

    /// Reads four letters or digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Tag> {
        let tag: [u8; 4] = text.as_bytes().try_into().ok()?;
        tag.iter().all(u8::is_ascii_alphanumeric).then_some(Tag(tag))
    }

    /// A new one.
    #[must_use]
    pub fn draw(rng: &mut fastrand::Rng) -> Tag {
        Tag(std::array::from_fn(|_| rng.alphanumeric() as u8))
    }
}

impl EventId {
    /// Reads `<ms>-<n>-<tag>`; nothing else is an id.
    #[must_use]
    pub fn parse(text: &str) -> Option<EventId> {
        let (stamp, tag) = text.rsplit_once('-')?;
        Some(EventId { stamp: Stamp::parse(stamp)?, tag: Tag::parse(tag)? })
    }
}

fn digits(text: &str) -> Option<u64> {
    let fits = (1..=STAMP_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| fmt::Write::write_char(f, char::from(byte)))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stamp, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_a_line_are_refused() {
        for bad in ["a\nb", "a\rb", "a\0b", "a\u{1b}", "\u{85}"] {
            assert_eq!(EventName::parse(bad), Err(EventNameError::Control), "{bad:?}");
        }
        assert_eq!(EventName::parse("fanwheel.open"), Err(EventNameError::Reserved));
        assert_eq!(EventName::parse(&"e".repeat(129)), Err(EventNameError::TooLong));
        assert_eq!(EventName::parse(""), Ok(None));
        assert!(EventName::parse("fanwheels turn").is_ok_and(|name| name.is_some()));
    }

    #[test]
    fn idempotency_keys_are_visible_and_short() {
        let longest = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX);
        for key in ["7", "!~", &longest] {
            assert_eq!(idempotency_key(key.as_bytes()), Some(key));
        }
        for wrong in ["", " ", "a b", "\u{7f}", "\u{e9}", "a\n", &(longest + "k")] {
            assert_eq!(idempotency_key(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(idempotency_key(b"\xff"), None);
    }

    #[test]
    fn ids_are_read_as_they_are_written_and_nothing_else_is_one() {
        let stamp = Stamp { ms: 1_789_900_000_000, n: 7 };
        let id = EventId { stamp, tag: Tag(*b"k3Zq") };
        assert_eq!(id.to_string(), "1789900000000-7-k3Zq");
        assert_eq!(EventId::parse("1789900000000-7-k3Zq"), Some(id));
        for bad in ["", "1-2", "1-2-abc", "1-2-abcde", "1-2-ab-d", "-1-2-abcd", "1--abcd", "+1-2-abcd", "1-2-ab d"] {
            assert_eq!(EventId::parse(bad), None, "{bad}");
        }
        assert_eq!(EventId::parse("1234567890123456-0-abcd"), None, "more than a double holds");
        assert_eq!(Stamp::parse("0-0"), Some(Stamp::ZERO));
    }

    #[test]
    fn numbers_grow_and_nothing_lies_before_the_next() {
        let at = |ms, n| Stamp { ms, n };
        assert_eq!([at(5, 3).next(4), at(5, 3).next(5), at(5, 3).next(6)], [at(5, 4), at(5, 4), at(6, 0)]);
        assert_eq!(at(5, 3).before(), at(5, 2));
        assert!(at(4, 99) < at(5, 0).before() && at(5, 0).before() < at(5, 0));
        assert_eq!(Stamp::ZERO.before(), Stamp::ZERO);
    }
}
