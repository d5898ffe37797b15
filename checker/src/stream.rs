//! The check of one stream and one numbered sequence.
//!
//! **What always holds.** Of the numbers in `low..=high` exactly those in `gaps` have not arrived,
//! and no number outside `low..=high` has. So a new number is judged by where it lies:
//!
//! ```text
//!            low                    high
//!   ─ ─ ─ ─ ─ ├──────▒▒▒▒▒────▒▒─────┤ ─ ─ ─ ─ ─ ─
//!   late:       seen: gap: seen       in order; what it
//!   out of    doubled late            jumps over becomes a gap
//!   order
//! ```
//!
//! A gap is *told* when a reset stands directly before the event that made it. One reset tells one
//! gap: it is used up by the next event that is higher than all before (with or without a gap).
//! Doubled and late arrivals do not use it up.
//!
//! **Size.** 48 bytes while nothing is missing: 20,000 streams × 20 topics = 19.2 MB. The first
//! gap costs an allocation, each further one 24 bytes. Gaps are never forgotten, because a forgotten
//! one would turn a late arrival into a double; whoever expects thousands of gaps on each of
//! thousands of streams pays for them.
//!
//! **Not chosen:** a bitmap of everything seen. Exact as well, but it grows with what went right.

use std::ops::Range;

use crate::Verdict;

/// What one stream was seen to receive of one numbered sequence.
#[derive(Debug, Clone, Default)]
pub struct StreamCheck {
    /// Lowest and highest number that arrived. Meaningless while `received == 0`.
    low: u64,
    high: u64,
    /// Events that arrived, doubles included.
    received: u64,
    doubled: u32,
    out_of_order: u32,
    resets: u32,
    /// True exactly when a reset came before the first event: it tells of all below `low`.
    below_told: bool,
    /// True exactly when a reset came after the event `high` (or nothing has come yet).
    reset_pending: bool,
    /// What is missing between `low` and `high`, or `None` when nothing ever was.
    gaps: Option<Box<Gaps>>,
}

const _: () = assert!(size_of::<StreamCheck>() == 48);

/// What a publisher says it published, for [`StreamCheck::finish`]. A plain range converts.
#[derive(Debug, Clone)]
pub struct Published<'a> {
    /// The numbers published. A number outside that arrives is a phantom.
    pub numbers: Range<u64>,
    /// Those published while the stream was open and subscribed: each must arrive or be told.
    pub covered: Range<u64>,
    /// Numbers (ascending, distinct) whose publishing was refused or never answered: nobody can
    /// say whether they must arrive, so they are neither lost nor phantoms.
    pub uncertain: &'a [u64],
}

impl From<Range<u64>> for Published<'static> {
    fn from(numbers: Range<u64>) -> Self {
        Self { covered: numbers.clone(), numbers, uncertain: &[] }
    }
}

impl StreamCheck {
    /// Takes the number of an event that arrived.
    #[inline]
    pub fn handle_event(&mut self, seq: u64) {
        self.note_event(seq);
    }

    /// The same; true if it had not arrived before.
    #[inline]
    pub fn note_event(&mut self, seq: u64) -> bool {
        self.received += 1;
        if self.received > 1 && seq > self.high {
            let jumped = self.high + 1..seq;
            if !jumped.is_empty() {
                let told = self.reset_pending;
                self.gaps_mut().push(jumped, told);
            }
            self.high = seq;
            self.reset_pending = false;
            true
        } else {
            self.handle_first_or_displaced(seq)
        }
    }

    #[cold]
    fn handle_first_or_displaced(&mut self, seq: u64) -> bool {
        if self.received == 1 {
            (self.low, self.high) = (seq, seq);
            self.below_told = self.reset_pending;
            self.reset_pending = false;
        } else if seq < self.low {
            let between = seq + 1..self.low;
            let told = self.below_told;
            if !between.is_empty() {
                self.gaps_mut().push_front(between, told);
            }
            self.low = seq;
            self.out_of_order = self.out_of_order.saturating_add(1);
        } else if self.gaps.as_mut().is_some_and(|gaps| gaps.fill(seq)) {
            self.out_of_order = self.out_of_order.saturating_add(1);
        } else {
            self.doubled = self.doubled.saturating_add(1);
            return false;
        }
        true
    }

    /// Takes a reset: the gap that directly follows it has been told to the reader.
    pub fn handle_reset(&mut self) {
        self.resets = self.resets.saturating_add(1);
        self.reset_pending = true;
    }

    /// What the last reset told is still going on: the gap that directly follows has been told too.
    pub fn extend_reset(&mut self) {
        self.reset_pending = true;
    }

    /// The highest number that arrived.
    pub fn last_seen(&self) -> Option<u64> {
        (self.received > 0).then_some(self.high)
    }

    /// Events that arrived so far, doubles included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Resets so far.
    pub fn resets(&self) -> u64 {
        u64::from(self.resets)
    }

    /// Judges what arrived against what was published.
    ///
    /// ```
    /// let mut check = checker::StreamCheck::default();
    /// for seq in [0, 1, 3, 3, 2, 5] {
    ///     check.handle_event(seq);
    /// }
    /// let verdict = check.finish(0..7);
    /// assert_eq!((verdict.doubled, verdict.out_of_order), (1, 1)); // 3 and 2
    /// assert_eq!(verdict.lost, 2); // 4 and 6
    /// ```
    pub fn finish<'a>(&self, published: impl Into<Published<'a>>) -> Verdict {
        let Published { numbers, covered, uncertain } = published.into();
        let (mut lost, mut told) = (0, 0);
        self.for_each_missing(|missing, was_told| {
            let count = overlap(&missing, &covered) - count_in(uncertain, &clip(&missing, &covered));
            *(if was_told { &mut told } else { &mut lost }) += count;
        });
        let seen_published = self.seen_in(&numbers);
        let uncertain_outside =
            uncertain.iter().filter(|seq| !numbers.contains(seq) && self.seen_in(&(**seq..**seq + 1)) == 1);
        Verdict {
            expected: len(&covered) - count_in(uncertain, &covered),
            received: self.received,
            lost,
            told,
            doubled: u64::from(self.doubled),
            out_of_order: u64::from(self.out_of_order),
            resets: u64::from(self.resets),
            phantoms: self.received - u64::from(self.doubled) - seen_published - uncertain_outside.count() as u64,
        }
    }

    /// Calls `visit` with each range of `covered` that did not arrive, ascending: lost, or told.
    pub fn for_each_undelivered(&self, covered: &Range<u64>, mut visit: impl FnMut(Range<u64>)) {
        self.for_each_missing(|missing, _| {
            let undelivered = clip(&missing, covered);
            if !undelivered.is_empty() {
                visit(undelivered);
            }
        });
    }

    /// Calls `visit` with each range of numbers that did not arrive, ascending, and whether it was told.
    fn for_each_missing(&self, mut visit: impl FnMut(Range<u64>, bool)) {
        if self.received == 0 {
            return visit(0..u64::MAX, self.reset_pending);
        }
        visit(0..self.low, self.below_told);
        for gap in self.gaps() {
            visit(gap.numbers.clone(), gap.told);
        }
        visit(self.high.saturating_add(1)..u64::MAX, self.reset_pending);
    }

    /// How many distinct numbers of `range` arrived.
    fn seen_in(&self, range: &Range<u64>) -> u64 {
        let mut missing = 0;
        self.for_each_missing(|gap, _| missing += overlap(&gap, range));
        len(range) - missing
    }

    fn gaps(&self) -> &[Gap] {
        self.gaps.as_ref().map_or(&[], |gaps| &gaps.0)
    }

    fn gaps_mut(&mut self) -> &mut Gaps {
        self.gaps.get_or_insert_default()
    }
}

/// Outstanding gaps: ascending, apart from one another, none empty.
#[derive(Debug, Clone, Default)]
struct Gaps(Vec<Gap>);

#[derive(Debug, Clone)]
struct Gap {
    numbers: Range<u64>,
    told: bool,
}

impl Gaps {
    fn push(&mut self, numbers: Range<u64>, told: bool) {
        self.0.push(Gap { numbers, told });
    }

    fn push_front(&mut self, numbers: Range<u64>, told: bool) {
        self.0.insert(0, Gap { numbers, told });
    }

    /// Takes `seq` out of the gap it lies in; false if it lies in none.
    fn fill(&mut self, seq: u64) -> bool {
        let at = self.0.partition_point(|gap| gap.numbers.end <= seq);
        let Some(gap) = self.0.get_mut(at).filter(|gap| gap.numbers.contains(&seq)) else {
            return false;
        };
        let above = Gap { numbers: seq + 1..gap.numbers.end, told: gap.told };
        gap.numbers.end = seq;
        if !above.numbers.is_empty() {
            self.0.insert(at + 1, above);
        }
        if self.0[at].numbers.is_empty() {
            self.0.remove(at);
        }
        true
    }
}

fn len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

fn clip(range: &Range<u64>, to: &Range<u64>) -> Range<u64> {
    range.start.max(to.start)..range.end.min(to.end)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> u64 {
    len(&clip(a, b))
}

/// How many of the ascending `numbers` lie in `range`.
fn count_in(numbers: &[u64], range: &Range<u64>) -> u64 {
    if range.is_empty() {
        return 0;
    }
    let below = |bound| numbers.partition_point(|&seq| seq < bound);
    (below(range.end) - below(range.start)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seqs: &[u64]) -> StreamCheck {
        let mut check = StreamCheck::default();
        seqs.iter().for_each(|&seq| check.handle_event(seq));
        check
    }

    #[test]
    fn what_arrives_whole_and_in_order_is_clean() {
        let verdict = seen(&[0, 1, 2, 3]).finish(0..4);
        assert!(verdict.is_clean());
        assert_eq!((verdict.expected, verdict.received), (4, 4));
    }

    #[test]
    fn nothing_at_all_is_lost_unless_a_reset_told_it() {
        let mut check = StreamCheck::default();
        assert_eq!(check.finish(0..5).lost, 5);
        check.handle_reset();
        let verdict = check.finish(0..5);
        assert_eq!((verdict.lost, verdict.told, verdict.resets), (0, 5, 1));
    }

    #[test]
    fn a_late_arrival_is_out_of_order_and_no_longer_lost() {
        let verdict = seen(&[0, 2, 1]).finish(0..3);
        assert_eq!((verdict.lost, verdict.out_of_order, verdict.doubled), (0, 1, 0));
    }

    #[test]
    fn a_late_arrival_that_comes_twice_is_doubled() {
        let verdict = seen(&[0, 3, 1, 1]).finish(0..4);
        assert_eq!((verdict.lost, verdict.out_of_order, verdict.doubled), (1, 1, 1));
    }

    #[test]
    fn a_reset_tells_one_gap_and_no_more() {
        let mut check = seen(&[0]);
        check.handle_reset();
        check.handle_event(3);
        check.handle_event(5);
        let verdict = check.finish(0..6);
        assert_eq!((verdict.told, verdict.lost), (2, 1));
    }

    #[test]
    fn a_reset_without_a_gap_is_used_up_by_the_next_event() {
        let mut check = seen(&[0]);
        check.handle_reset();
        check.handle_event(1);
        check.handle_event(3);
        assert_eq!(check.finish(0..4).lost, 1);
    }

    #[test]
    fn what_a_publisher_is_unsure_of_is_neither_lost_nor_a_phantom() {
        let published = |uncertain| Published { numbers: 0..4, covered: 0..4, uncertain };
        let verdict = seen(&[0, 2]).finish(published(&[1, 2]));
        assert_eq!((verdict.expected, verdict.lost, verdict.phantoms), (2, 1, 0));
    }

    #[test]
    fn numbers_before_the_stream_was_open_are_not_demanded_and_never_published_ones_are_phantoms() {
        let published = Published { numbers: 0..10, covered: 5..10, uncertain: &[] };
        let verdict = seen(&[4, 5, 6, 7, 8, 9, 12]).finish(published);
        assert_eq!((verdict.lost, verdict.phantoms, verdict.expected), (0, 1, 5));
    }

    #[test]
    fn a_reset_that_is_extended_tells_a_further_gap_and_is_not_counted_again() {
        let mut check = seen(&[0]);
        check.handle_reset();
        check.handle_event(1);
        check.extend_reset();
        check.handle_event(3);
        let verdict = check.finish(0..4);
        assert_eq!((verdict.told, verdict.lost, verdict.resets), (1, 0, 1));
    }

    #[test]
    fn what_did_not_arrive_is_named_whether_it_was_told_or_not() {
        let mut check = seen(&[0, 2]);
        check.handle_reset();
        check.handle_event(5);
        let mut undelivered = Vec::new();
        check.for_each_undelivered(&(0..9), |range| undelivered.push(range));
        assert_eq!(undelivered, [1..2, 3..5, 6..9]);
    }

    #[test]
    fn the_ends_of_the_number_range_do_not_overflow() {
        let verdict = seen(&[u64::MAX, 0, u64::MAX - 1]).finish(0..2);
        assert_eq!((verdict.lost, verdict.phantoms, verdict.out_of_order), (1, 2, 2));
    }
}
