//! What a check found: counts that add up over streams and topics.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// The counts of one stream and topic, or a sum of them.
///
/// Without phantoms, and when everything published was covered,
/// `expected = (received - doubled) + lost + told`, less what was uncertain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Verdict {
    /// Numbers that had to arrive: covered, and certain to have been published.
    pub expected: u64,
    /// Events that arrived, doubles and phantoms included.
    pub received: u64,
    /// Expected numbers that neither arrived nor were told by a reset.
    pub lost: u64,
    /// Expected numbers that did not arrive and lie in the gap that follows a reset.
    pub told: u64,
    /// Arrivals of a number that had arrived before.
    pub doubled: u64,
    /// First arrivals of a number after a higher number had arrived.
    pub out_of_order: u64,
    /// Resets.
    pub resets: u64,
    /// Distinct numbers that arrived though they were never published.
    pub phantoms: u64,
}

impl Verdict {
    /// True exactly when nothing was lost, doubled, out of order or invented. Told gaps are allowed.
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.out_of_order + self.phantoms == 0
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.expected += other.expected;
        self.received += other.received;
        self.lost += other.lost;
        self.told += other.told;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.resets += other.resets;
        self.phantoms += other.phantoms;
    }
}

impl Add for Verdict {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for Verdict {
    fn sum<I: Iterator<Item = Self>>(verdicts: I) -> Self {
        verdicts.fold(Self::default(), Add::add)
    }
}
