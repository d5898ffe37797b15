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
    /// The place in the topic's history; `None` exactly on live topics.
    pub id: Option<EventId>,
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

/// A place in the history of durable topics, `<ms>-<n>-<tag>`. Live events have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// Milliseconds of the history's own clock.
    pub ms: u64,
    /// Counts events of one millisecond.
    pub n: u64,
    /// Names the incarnation of the history; four characters of visible ASCII.
    pub tag: [u8; 4],
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-", self.ms, self.n)?;
        self.tag.iter().try_for_each(|&byte| fmt::Write::write_char(f, char::from(byte)))
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
    fn ids_print_as_they_go_over_the_wire() {
        let id = EventId { ms: 1_789_900_000_000, n: 7, tag: *b"k3Zq" };
        assert_eq!(id.to_string(), "1789900000000-7-k3Zq");
    }
}
