//! Topic names and the one matcher for patterns.
//!
//! A topic is 1–255 bytes of UTF-8 without control characters that does not begin with `$`. Segments
//! are separated by `.` or `/`; a segment that is exactly `*` or `**` makes the name a pattern, and
//! a pattern is never a topic. What is a [`Topic`] was checked once, at the border, and is not
//! checked again.

use std::fmt;
use std::sync::Arc;

/// Longest topic name, in bytes.
pub const TOPIC_BYTES_MAX: usize = 255;

/// A checked topic name; cloning it copies a pointer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// Why a name is not a topic. The text names the limit and stands in error answers as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The name has no bytes.
    #[error("a topic must not be empty")]
    Empty,
    /// The name is longer than [`TOPIC_BYTES_MAX`].
    #[error("a topic is at most {TOPIC_BYTES_MAX} bytes long")]
    TooLong,
    /// The name contains a control character.
    #[error("a topic must not contain control characters")]
    Control,
    /// The name begins with `$`.
    #[error("topics that begin with `$` are reserved")]
    Reserved,
    /// The name is not UTF-8.
    #[error("a topic must be valid UTF-8")]
    NotUtf8,
    /// A segment is `*` or `**`.
    #[error("a topic must not contain a segment `*` or `**`")]
    Pattern,
}

impl Topic {
    /// Checks `name` and makes it a topic.
    ///
    /// # Errors
    /// The first rule of the module's list that `name` breaks.
    pub fn parse(name: &str) -> Result<Topic, TopicError> {
        if name.is_empty() {
            return Err(TopicError::Empty);
        }
        if name.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(TopicError::Control);
        }
        if name.starts_with('$') {
            return Err(TopicError::Reserved);
        }
        if segments(name).any(|(segment, _)| segment == "*" || segment == "**") {
            return Err(TopicError::Pattern);
        }
        Ok(Topic(name.into()))
    }

    /// As [`Topic::parse`], for bytes that may not be UTF-8.
    ///
    /// # Errors
    /// [`TopicError::NotUtf8`], or what `parse` says.
    pub fn parse_bytes(name: &[u8]) -> Result<Topic, TopicError> {
        Topic::parse(std::str::from_utf8(name).map_err(|_| TopicError::NotUtf8)?)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A pattern over topics: `*` stands for one segment, a closing `**` for one or more.
///
/// A pattern without either matches exactly the topic of that name. Matching walks both names once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Box<str>);

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The text breaks a rule that topics share.
    #[error("{0}")]
    Name(TopicError),
    /// Something follows `**`.
    #[error("`**` must be the last segment of a pattern")]
    NotLast,
}

impl Pattern {
    /// Checks `text` and makes it a pattern.
    ///
    /// # Errors
    /// When `text` breaks a rule of topics other than having `*` segments, or continues after `**`.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        match Topic::parse(text) {
            Ok(_) | Err(TopicError::Pattern) => {}
            Err(error) => return Err(PatternError::Name(error)),
        }
        let mut rest = segments(text).skip_while(|(segment, _)| *segment != "**");
        if rest.next().is_some() && rest.next().is_some() {
            return Err(PatternError::NotLast);
        }
        Ok(Pattern(text.into()))
    }

    /// True exactly when the pattern stands for `topic`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let mut names = segments(topic);
        for (want, want_end) in segments(&self.0) {
            let Some((name, name_end)) = names.next() else {
                return false;
            };
            match want {
                "**" => return true,
                "*" => {}
                literal if literal == name => {}
                _ => return false,
            }
            if want_end != name_end {
                return false;
            }
        }
        names.next().is_none()
    }

    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Segments of a name, each with the separator that ends it (`None` for the last).
fn segments(name: &str) -> impl Iterator<Item = (&str, Option<char>)> {
    let mut rest = Some(name);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.find(['.', '/']) {
            Some(at) => {
                rest = Some(&text[at + 1..]);
                Some((&text[..at], text[at..].chars().next()))
            }
            None => {
                rest = None;
                Some((text, None))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_limits() {
        assert!(Topic::parse("a").is_ok());
        assert!(Topic::parse(&"a".repeat(255)).is_ok());
        assert_eq!(Topic::parse(&"a".repeat(256)), Err(TopicError::TooLong));
        assert_eq!(Topic::parse(""), Err(TopicError::Empty));
        assert_eq!(Topic::parse("a\nb"), Err(TopicError::Control));
        assert_eq!(Topic::parse("a\u{85}b"), Err(TopicError::Control));
        assert_eq!(Topic::parse("$presence/x"), Err(TopicError::Reserved));
        assert_eq!(Topic::parse_bytes(b"\xff"), Err(TopicError::NotUtf8));
        assert!(Topic::parse("https://example.org/a?b=c#d").is_ok());
    }

    #[test]
    fn only_whole_star_segments_make_a_pattern() {
        for topic in ["a*", "*a", "a.b*", "***", "a/**b"] {
            assert!(Topic::parse(topic).is_ok(), "{topic}");
        }
        for pattern in ["*", "**", "a.*", "a/**", "*.b", "a.*.c"] {
            assert_eq!(Topic::parse(pattern), Err(TopicError::Pattern), "{pattern}");
        }
    }

    #[test]
    fn matching() {
        let cases = [
            ("acct.*", "acct.1", true),
            ("acct.*", "acct.1.2", false),
            ("acct.*", "acct", false),
            ("acct.*", "acct/1", false),
            ("acct.**", "acct.1.2", true),
            ("acct.**", "acct.1/2", true),
            ("acct.**", "acct", false),
            ("**", "anything/at.all", true),
            ("*", "one", true),
            ("*", "one.two", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a.b", "a.b", true),
            ("a.b", "a/b", false),
            ("a.*", "a.", true),
        ];
        for (pattern, topic, expected) in cases {
            let pattern = Pattern::parse(pattern).expect("a pattern");
            assert_eq!(pattern.matches(topic), expected, "{pattern:?} {topic}");
        }
        assert_eq!(Pattern::parse("a.**.b"), Err(PatternError::NotLast));
        assert_eq!(Pattern::parse(""), Err(PatternError::Name(TopicError::Empty)));
    }
}
