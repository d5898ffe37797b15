//! What the judge found.

use std::collections::BTreeMap;
use std::fmt;

use super::{Reader, Reason};

/// Examples kept of each kind; further ones are only counted.
const EXAMPLES_MAX: u64 = 8;

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An event in the range a reader covered did not come, and no reset told it.
    Lost,
    /// An event came again.
    Repeated,
    /// An event came after one with a higher id.
    OutOfOrder,
    /// An event of a history that is over came after one of its successor.
    Stale,
    /// An event came that nobody published, or whose publisher was told that it is not stored.
    Phantom,
    /// An id came with other bytes than elsewhere.
    Changed,
    /// One publication was stored under two ids.
    StoredTwice,
    /// Two events have the same number.
    SameNumber,
    /// An event of a topic that was not asked for.
    WrongTopic,
    /// A control block's id is beyond what was handed over: whoever leaves after it loses something.
    ControlAhead,
    /// A control block's id is behind what was handed over: whoever leaves after it gets something again.
    ControlBehind,
    /// The first block is not what the request asked for.
    OpenWrong,
    /// A position was not honoured, and no reset said so before the next event.
    ResetMissing,
    /// A reset for which there was no reason.
    ResetUnjustified,
    /// A second reset for one loss.
    ResetDoubled,
    /// A reset that told of a loss that was none.
    ResetIdle,
    /// A stream did not begin, or go on after a reset, where it should.
    WrongPlace,
    /// A line `id:` that is no id, or none where one belongs.
    Malformed,
    /// A fault of the harness: a reader did not present the last id it was given.
    Misplaced,
}

/// A broken promise, with what is needed to look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// Whose; `None` where publishers alone show it.
    pub reader: Option<Reader>,
    /// Which of its connections, counted from 0.
    pub connection: usize,
    /// Topics, ids, and what was expected.
    pub what: String,
}

/// Sums over a whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Publications, and those of them that are acknowledged.
    pub publications: u64,
    /// See `publications`.
    pub acknowledged: u64,
    /// Publications whose outcome nobody knows, whether readers saw them or not.
    pub unknown: u64,
    /// Readers.
    pub readers: u64,
    /// Their connections.
    pub connections: u64,
    /// Connections that presented the id with which the one before had ended.
    pub continued: u64,
    /// Connections that the server ended.
    pub closed: u64,
    /// Events that came.
    pub events: u64,
    /// Events that did not come to a reader and that a reset told of.
    pub told: u64,
    /// Resets that came, by reason.
    pub resets: BTreeMap<Reason, u64>,
    /// Broken promises, by kind.
    pub violations: BTreeMap<Kind, u64>,
    /// The first of each kind.
    pub examples: Vec<Violation>,
}

impl Report {
    /// True exactly when no promise was broken.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Broken promises of all kinds.
    pub fn violations(&self) -> u64 {
        self.violations.values().sum()
    }

    /// Resets for all reasons.
    pub fn resets(&self) -> u64 {
        self.resets.values().sum()
    }

    pub(super) fn add(&mut self, violation: Violation) {
        let count = self.violations.entry(violation.kind).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.examples.push(violation);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} publications ({} acknowledged, {} unknown), {} readers, {} connections ({} continued, {} closed), \
             {} events, {} told, resets {:?}: {} violations {:?}",
            self.publications,
            self.acknowledged,
            self.unknown,
            self.readers,
            self.connections,
            self.continued,
            self.closed,
            self.events,
            self.told,
            self.resets,
            self.violations(),
            self.violations,
        )?;
        self.examples.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reader {
            Some(Reader(reader)) => write!(f, "{:?}: reader {reader}, connection {}: ", self.kind, self.connection)?,
            None => write!(f, "{:?}: ", self.kind)?,
        }
        f.write_str(&self.what)
    }
}
