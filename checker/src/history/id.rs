//! Ids as they stand on the wire, `<ms>-<n>-<tag>`: read here anew, so that what is judged does not judge itself.

use std::fmt;

/// A number of the history's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Counts within one millisecond.
    pub n: u64,
}

/// A position in a history.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    /// The number.
    pub stamp: Stamp,
    /// The incarnation: four letters or digits.
    pub tag: [u8; 4],
}

impl Id {
    /// Reads `<ms>-<n>-<tag>`; nothing else is an id.
    pub fn parse(text: &str) -> Option<Id> {
        let mut parts = text.split('-');
        let (ms, n) = (digits(parts.next()?)?, digits(parts.next()?)?);
        let tag: [u8; 4] = parts.next()?.as_bytes().try_into().ok()?;
        let whole = parts.next().is_none() && tag.iter().all(u8::is_ascii_alphanumeric);
        whole.then_some(Id { stamp: Stamp { ms, n }, tag })
    }
}

fn digits(text: &str) -> Option<u64> {
    let fits = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stamp, self.tag.escape_ascii())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is_one() {
        assert_eq!(Id::parse("1789900000000-7-k3Zq").unwrap().to_string(), "1789900000000-7-k3Zq");
        for bad in ["", "1-2", "1-2-abc", "1-2-abcde", "1-2-ab-d", "-1-2-abcd", "1--abcd", "+1-2-abcd", "1-2-ab d"] {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
    }
}
