//! Goes through everything each reader was told, connection by connection.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::log::{CONTROL, Control, Readings};
use super::truth::{Key, Truth};
use super::visit::Visit;
use super::{Cause, Fault, Id, Kind, Log, Outcome, Position, Reader, Reason, Report, Topic, Violation};

/// What is remembered of a reader from one connection to the next.
pub(super) struct Life<'a> {
    pub(super) log: &'a Log,
    pub(super) truth: &'a Truth,
    pub(super) report: &'a mut Report,
    pub(super) reader: Reader,
    pub(super) connection: usize,
    /// The last id it was given.
    pub(super) last: Option<Id>,
    /// Losses that it was told of, per topic: the place of the fault in the log.
    losses_told: HashSet<(usize, Topic)>,
    /// Events that were passed over together with a loss after them: a reset may still tell of them.
    pub(super) late: BTreeSet<(Topic, u32)>,
    /// Topics of which old events had left before the last connection ended, with the first event that has not come:
    /// the place of the reset that tells of it may still be ahead.
    pub(super) owed: BTreeMap<Topic, u32>,
    /// Of older generations it takes what is left: it began with the oldest, or the newest few, after they were over.
    pub(super) began_in: u32,
}

impl Log {
    /// Judges everything. Call it when nothing more comes.
    pub fn judge(&self) -> Report {
        let mut report = Report { publications: self.publications.len() as u64, ..Report::default() };
        for publication in &self.publications {
            report.acknowledged += u64::from(matches!(publication.outcome, Outcome::Stored(_)));
            report.unknown += u64::from(publication.outcome == Outcome::Unknown);
        }
        report.readers = self.readers.len() as u64;
        let (truth, broken) = Truth::of(self);
        broken.into_iter().for_each(|violation| report.add(violation));
        for (number, readings) in self.readers.iter().enumerate() {
            Life {
                log: self,
                truth: &truth,
                report: &mut report,
                reader: Reader(number as u32),
                connection: 0,
                last: None,
                losses_told: HashSet::new(),
                late: BTreeSet::new(),
                owed: BTreeMap::new(),
                began_in: 0,
            }
            .judge(readings);
        }
        report
    }
}

impl Life<'_> {
    fn judge(&mut self, readings: &Readings) {
        let count = readings.connections.len();
        for (number, connection) in readings.connections.iter().enumerate() {
            self.connection = number;
            self.report.connections += 1;
            self.report.closed += u64::from(connection.end == Some(super::End::Closed));
            self.expect_continued(connection.position);
            let end = readings.connections.get(number + 1).map_or(readings.items.len(), |next| next.first_item);
            let mut visit = Visit::begin(self, connection);
            for &item in &readings.items[connection.first_item..end] {
                if item & CONTROL == 0 {
                    visit.handle_event(item as usize);
                    continue;
                }
                match &visit.life.log.controls[(item ^ CONTROL) as usize] {
                    Control::Open { topics, resumed, id, at_ms } => visit.handle_open(topics, *resumed, *id, *at_ms),
                    Control::Reset { reason, topics, id, at_ms } => visit.handle_reset(*reason, topics, *id, *at_ms),
                    Control::Malformed(text) => visit.life.violate(Kind::Malformed, || format!("`id: {text}`")),
                }
            }
            visit.finish(readings.dry && number + 1 == count);
        }
        for (topic, place) in std::mem::take(&mut self.late) {
            self.lose(topic, place);
        }
    }

    fn expect_continued(&mut self, position: Position) {
        match (self.last, position) {
            (Some(last), Position::After(presented)) if last == presented => self.report.continued += 1,
            (Some(last), other) => {
                self.violate(Kind::Misplaced, || format!("{other:?} was presented instead of {last}"));
            }
            (None, Position::After(presented)) if self.connection > 0 => {
                self.violate(Kind::Misplaced, || format!("{presented} was presented, and no id was ever given"));
            }
            (None, _) => {}
        }
    }

    pub(super) fn violate(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        let (reader, connection) = (Some(self.reader), self.connection);
        self.report.add(Violation { kind, reader, connection, what: what() });
    }

    pub(super) fn lose(&mut self, topic: Topic, place: u32) {
        let (name, id) = (self.name(topic), self.truth.id_at(topic, place));
        self.violate(Kind::Lost, || format!("{id} of {name} did not come"));
    }

    pub(super) fn name(&self, topic: Topic) -> String {
        self.log.topics.get(topic.0 as usize).cloned().unwrap_or_else(|| format!("{topic:?}"))
    }

    /// What the log has to say for a reset of a topic: `None` when it is right.
    pub(super) fn object_to(&mut self, reason: Reason, topic: Topic, at_ms: u64) -> Option<Kind> {
        let wanted = |cause: Cause| match reason {
            Reason::Trimmed => matches!(cause, Cause::Trim { .. }),
            Reason::Epoch | Reason::Diverged => cause == Cause::Loss,
            Reason::UnknownCursor | Reason::Other => false,
        };
        let faults = self.log.faults.iter().enumerate();
        let mut covering = faults.filter(|(_, fault)| wanted(fault.cause) && fault.covers(topic, at_ms)).peekable();
        if covering.peek().is_none() {
            return Some(Kind::ResetUnjustified);
        }
        // Trimming goes on and on: whether something was lost is seen by what did not come.
        let fresh = reason == Reason::Trimmed || covering.any(|(place, _)| self.losses_told.insert((place, topic)));
        (!fresh).then_some(Kind::ResetDoubled)
    }

    /// From which place on no event of a topic can have left by then: 0 where nothing can have, and no place before
    /// this generation.
    pub(super) fn first_kept(&self, topic: Topic, at_ms: u64, generation: u32) -> u32 {
        let unsure = self.truth.unsure[topic.0 as usize] as u32;
        let first = |fault: &Fault| match fault.cause {
            Cause::Trim { kept, age_ms } if fault.begun_ms <= at_ms && fault.covers(topic, fault.begun_ms) => {
                let until_ms = at_ms.min(fault.ended_ms);
                let all = self.truth.count_until(topic, until_ms);
                let by_number = kept.map(|kept| all.saturating_sub(kept.saturating_sub(unsure)));
                let by_age = age_ms.map(|age_ms| self.truth.count_until(topic, until_ms.saturating_sub(age_ms + 1)));
                by_number.into_iter().chain(by_age).max().unwrap_or(all)
            }
            _ => 0,
        };
        let trimmed = self.log.faults.iter().map(first).max().unwrap_or(0);
        trimmed.max(self.truth.count_before(topic, Key { generation, ..Key::default() }))
    }

    /// True exactly when old events of a topic may have left by then.
    pub(super) fn may_be_trimmed(&self, topic: Topic, at_ms: u64) -> bool {
        let trims = |fault: &&Fault| matches!(fault.cause, Cause::Trim { .. }) && fault.begun_ms <= at_ms;
        self.log.faults.iter().filter(trims).any(|fault| fault.covers(topic, fault.begun_ms))
    }

    /// An event was passed over by something that came after a loss.
    pub(super) fn leave_behind(&mut self, topic: Topic, place: u32) {
        if self.truth.key_at(topic, place).generation >= self.began_in {
            self.late.insert((topic, place));
        }
    }

    /// The event at `place` was given as the oldest retained when a trim was told: what cannot have left is not gone.
    pub(super) fn expect_retained(&mut self, topic: Topic, place: u32, at_ms: u64) {
        let trims = |fault: &Fault| matches!(fault.cause, Cause::Trim { .. }) && fault.covers(topic, at_ms);
        if !self.log.faults.iter().any(trims) {
            return;
        }
        let first = self.first_kept(topic, at_ms, self.truth.generation_of(topic, place));
        if place > first {
            let name = self.name(topic);
            self.violate(Kind::WrongPlace, || format!("{place} events of {name} are gone where {first} can have left"));
        }
    }
}
