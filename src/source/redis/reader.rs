//! Reading the past: a [`Read`] of many topics becomes calls of the script, each of bounded size.
//!
//! What always holds: one call names at most [`TOPICS_PER_CALL`] topics and is answered with about
//! [`CALL_BYTES`], at least one page; topics that did not fit are asked for again; at most [`READS_AT_ONCE`] reads
//! of a shard are under way, the others wait. Entries that are not ours are left out.
//!
//! A topic that cannot be read keeps no other waiting. Redis refuses a call as a whole when one of its keys is not
//! permitted: then fewer topics are asked for, and the one that is refused alone is answered as one of which nothing is
//! retained, up to the number in the index. So is one whose key is of another type. Its readers are told `trimmed`, and
//! the log says why. A reply that does not come in time is asked for in smaller pieces.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::engine::PublishError;
use crate::engine::history::{Answer, Marker, Page, Read};
use crate::event::{Event, Stamp};
use crate::source::redis::ANSWER_TIMEOUT;
use crate::source::redis::publisher::{Failed, Shared};
use crate::source::redis::scripts::{Reply, list, text};
use crate::source::redis::stored;
use crate::topic::Topic;

/// Topics in one call.
const TOPICS_PER_CALL: usize = 64;
/// Bytes in one reply, beyond which no further topic is begun. At 1 GB/s Redis copies the most of them in 4 ms; a link
/// of 8 KB/s carries the fewest before the answer counts as lost. A single event may be larger.
const CALL_BYTES: RangeInclusive<usize> = 16 << 10..=4 << 20;
/// A reply of at least half of what was asked for that came in this time can be twice as large the next time.
const QUICK: Duration = ANSWER_TIMEOUT.checked_div(8).expect("eight is not zero");
/// Reads of one shard under way.
const READS_AT_ONCE: usize = 8;
/// Topics that are remembered for having been logged.
const TOPICS_LOGGED_MAX: usize = 256;

/// A topic that is read, and its own number in the call, where the operation has one for each.
type Asked<'a> = (&'a Topic, Option<Stamp>);

/// What reads of a shard share.
pub(super) struct Reads {
    /// Places for reads under way.
    places: Semaphore,
    /// Bytes the next reply may have, within [`CALL_BYTES`].
    bytes: Cell<usize>,
    /// Topics that could not be read the last time, and were logged. At most [`TOPICS_LOGGED_MAX`].
    unreadable: RefCell<HashSet<Topic>>,
}

impl Default for Reads {
    fn default() -> Reads {
        let places = Semaphore::new(READS_AT_ONCE);
        Reads { places, bytes: Cell::new(*CALL_BYTES.end()), unreadable: RefCell::default() }
    }
}

impl Reads {
    /// A reply that could have `asked` bytes came after so long, and had `got`; none if there was no answer.
    fn note(&self, asked: usize, took: Duration, got: Option<usize>) {
        let bytes = self.bytes.get();
        match got {
            None if took >= ANSWER_TIMEOUT => self.bytes.set(bytes.min(asked / 2).max(*CALL_BYTES.start())),
            Some(got) if took < QUICK && got >= asked / 2 => {
                self.bytes.set(bytes.max(asked.saturating_mul(2)).min(*CALL_BYTES.end()));
            }
            _ => {}
        }
    }

    /// A topic could be read, or not: why. Logged once until it can again.
    fn note_topic(&self, topic: &Topic, problem: Option<&str>) {
        let mut unreadable = self.unreadable.borrow_mut();
        let Some(why) = problem else {
            unreadable.remove(topic);
            return;
        };
        if unreadable.len() < TOPICS_LOGGED_MAX && unreadable.insert(topic.clone()) {
            warn!(%topic, why, "a durable topic's history cannot be read: its readers are told that it is trimmed");
        }
    }
}

/// Why the script's reply to a read is of no use.
const STRANGE: &str = "Redis answers what cannot be read";
/// Why what was read is thrown away.
const CHANGED: &str = "the history changed while it was read";

impl Shared {
    /// Reads the past: the place at which it was read, and what was.
    pub(super) async fn read(self: &Rc<Self>, read: &Read) -> Result<(Marker, Answer), &'static str> {
        // Never closed: an error would mean that nothing limits.
        let _place = self.reads.places.acquire().await;
        match read {
            Read::After { topics, bytes_max } => {
                let topics: Vec<Asked<'_>> = topics.iter().map(|(topic, after)| (topic, Some(*after))).collect();
                self.read_pages("after", &topics, *bytes_max, None).await
            }
            Read::Tail { topics, upto, events_max, bytes_max } => {
                let topics: Vec<Asked<'_>> = topics.iter().map(|topic| (topic, None)).collect();
                self.read_pages("tail", &topics, *bytes_max, Some((*events_max, *upto))).await
            }
            Read::Start { topics, upto, count } => self.read_start(topics, *upto, *count).await,
        }
    }

    /// Reads a page of each topic. A tail has at most so many events, up to a number.
    async fn read_pages(
        self: &Rc<Self>,
        operation: &str,
        topics: &[Asked<'_>],
        bytes_max: usize,
        tail: Option<(usize, Stamp)>,
    ) -> Result<(Marker, Answer), &'static str> {
        let (mut first, mut pages) = (None, Vec::with_capacity(topics.len()));
        while first.is_none() || pages.len() < topics.len() {
            let rest = &topics[pages.len()..];
            let asked = &rest[..rest.len().min(TOPICS_PER_CALL)];
            let options = |call: &mut Cmd, bytes: usize| {
                call.arg(bytes_max.min(bytes)).arg(bytes);
                if let Some((events_max, upto)) = tail {
                    call.arg(events_max).arg(upto.to_string());
                }
            };
            let (marker, parts) = self.call_permitted(operation, asked, options).await?;
            keep_first(&mut first, &marker)?;
            for (&(topic, _), part) in asked.iter().zip(parts) {
                pages.push(self.page(topic, part, &marker).ok_or(STRANGE)?);
            }
        }
        Ok((first.ok_or(STRANGE)?, Answer::Pages(pages)))
    }

    /// Finds after which number the newest `count` events of all topics together come.
    async fn read_start(
        self: &Rc<Self>,
        topics: &[Topic],
        upto: Stamp,
        count: usize,
    ) -> Result<(Marker, Answer), &'static str> {
        let mut newest = Newest { numbers: BinaryHeap::new(), count };
        let mut first = None;
        let mut unread: Vec<Asked<'_>> = topics.iter().map(|topic| (topic, Some(upto))).collect();
        while first.is_none() || !unread.is_empty() {
            let asked = unread.split_off(unread.len().saturating_sub(TOPICS_PER_CALL));
            let floor = newest.floor();
            let options = |call: &mut Cmd, bytes: usize| {
                call.arg(bytes).arg(count).arg(floor.to_string());
            };
            let (marker, parts) = self.call_permitted("numbers", &asked, options).await?;
            keep_first(&mut first, &marker)?;
            // Of those the reply does not reach, nothing is known yet.
            unread.extend(&asked[parts.len()..]);
            for ((topic, _), part) in asked.into_iter().zip(parts) {
                let (more, numbers) = numbers(part).ok_or(STRANGE)?;
                numbers.iter().for_each(|&number| newest.take(number));
                if let Some(&last) = numbers.last().filter(|&&last| more && last > newest.floor()) {
                    unread.push((topic, Some(last.before())));
                }
            }
        }
        Ok((first.ok_or(STRANGE)?, Answer::Start(newest.start(upto))))
    }

    /// Calls a reading operation for as many of the topics as Redis permits: the place at which it read, and a part for
    /// each topic, in order, but perhaps not for all.
    async fn call_permitted(
        self: &Rc<Self>,
        operation: &str,
        topics: &[Asked<'_>],
        add_options: impl Fn(&mut Cmd, usize),
    ) -> Result<(Marker, Vec<Value>), &'static str> {
        let mut asked = topics;
        loop {
            let bytes = self.reads.bytes.get();
            let called = self.call_read(operation, asked, bytes, |call| add_options(call, bytes)).await;
            let failed = match called {
                Ok(reply) => return parts_of(reply, asked.len()),
                Err(failed) => failed,
            };
            let is_forbidden = failed.said.as_ref().is_some_and(|error| error.code() == Some("NOPERM"));
            asked = match asked {
                [(topic, _)] if is_forbidden => return self.read_newest(operation, topic, failed).await,
                [_, _, ..] if is_forbidden => &asked[..asked.len() / 2],
                _ => return Err(self.explain(operation, failed)),
            };
        }
    }

    async fn call_read(
        self: &Rc<Self>,
        operation: &str,
        topics: &[Asked<'_>],
        bytes: usize,
        add_options: impl FnOnce(&mut Cmd),
    ) -> Result<Reply, Failed> {
        let keys: Vec<String> = topics.iter().map(|(topic, _)| self.config.keys.stream(topic)).collect();
        let begun = Instant::now();
        let called = self.try_call(operation, &keys, |call| {
            add_options(call);
            topics.iter().filter_map(|(_, number)| *number).for_each(|number| {
                call.arg(number.to_string());
            });
        });
        let called = called.await;
        let got = called.as_ref().ok().map(|reply| reply.rest.iter().map(bytes_of).sum());
        self.reads.note(bytes, begun.elapsed(), got);
        called
    }

    /// Answers for a topic whose stream may not be read, as if nothing of it were retained. Fails as the read did where
    /// that is not for the stream alone.
    async fn read_newest(
        self: &Rc<Self>,
        operation: &str,
        topic: &Topic,
        failed: Failed,
    ) -> Result<(Marker, Vec<Value>), &'static str> {
        let named = |call: &mut Cmd| {
            call.arg(topic.as_str());
        };
        let Ok(reply) = self.try_call("newest", &[], named).await else {
            return Err(self.explain(operation, failed));
        };
        let (marker, mut parts) = parts_of(reply, 1)?;
        let mut page = parts.pop().and_then(list).ok_or(STRANGE)?;
        let why = failed.said.map(|error| error.to_string()).unwrap_or_default();
        *page.get_mut(1).ok_or(STRANGE)? = Value::BulkString(why.into());
        Ok((marker, vec![Value::Array(page)]))
    }

    /// Logs why a read failed, if Redis said so: for whoever asked.
    fn explain(&self, operation: &str, failed: Failed) -> &'static str {
        let Err(failed) = self.warn_if_failed::<()>(operation, Err(failed)) else { return STRANGE };
        match failed.error {
            PublishError::Refused(why) => why,
            PublishError::Unknown | PublishError::Conflict => "Redis does not answer",
        }
    }

    /// Reads a page: the topic's newest number; 1 or 0, whether there may be more, or why it cannot be read; messages.
    fn page(&self, topic: &Topic, part: Value, marker: &Marker) -> Option<Page> {
        let mut parts = list(part)?.into_iter();
        // A number that none can be is of no event: the topic may have had any up to the newest of all.
        let last = Stamp::parse(&text(parts.next()?)?).unwrap_or(marker.last);
        let more = text(parts.next()?)?;
        let is_readable = ["0", "1"].contains(&&*more);
        self.reads.note_topic(topic, (!is_readable).then_some(&more));
        let more = more == "1";
        let now_us = self.clock.now_us();
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(parts.len());
        for part in parts {
            let Value::BulkString(message) = part else { return None };
            match stored::open(topic, &Bytes::from(message), now_us, &self.counters) {
                Some(event) if events.last().is_none_or(|before| number(before) < number(&event)) => {
                    events.push(Arc::new(event));
                }
                _ => self.foreign.note(topic, &self.counters),
            }
        }
        // A page without an event moves nobody on: asked for again it would be the same.
        let more = more && !events.is_empty();
        Some(Page { topic: topic.clone(), events, more, last })
    }
}

/// Keeps the place of the first call. What is read by several is of one history, or is read again.
fn keep_first(first: &mut Option<Marker>, marker: &Marker) -> Result<(), &'static str> {
    let first = first.get_or_insert_with(|| marker.clone());
    if first.chain.is_as(&marker.chain) && first.last <= marker.last { Ok(()) } else { Err(CHANGED) }
}

/// A read's reply: its place, and parts for some of so many topics.
fn parts_of(mut reply: Reply, topics: usize) -> Result<(Marker, Vec<Value>), &'static str> {
    let marker = reply.take_marker().ok_or(STRANGE)?;
    let parts = reply.rest;
    if parts.len() > topics || (parts.is_empty() && topics > 0) {
        return Err(STRANGE);
    }
    Ok((marker, parts))
}

/// Bytes of a reply's texts.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::BulkString(bytes) => bytes.len(),
        Value::Array(parts) => parts.iter().map(bytes_of).sum(),
        _ => 0,
    }
}

fn number(event: &Event) -> Option<Stamp> {
    event.stored.map(|stored| stored.id.stamp)
}

/// The newest numbers seen, at most `count`.
struct Newest {
    numbers: BinaryHeap<Reverse<Stamp>>,
    count: usize,
}

impl Newest {
    fn take(&mut self, number: Stamp) {
        self.numbers.push(Reverse(number));
        if self.numbers.len() > self.count {
            self.numbers.pop();
        }
    }

    /// Nothing up to this is among the newest.
    fn floor(&self) -> Stamp {
        let is_full = self.numbers.len() >= self.count;
        self.numbers.peek().filter(|_| is_full).map_or(Stamp::ZERO, |lowest| lowest.0)
    }

    fn start(&self, upto: Stamp) -> Stamp {
        self.numbers.peek().map_or(upto, |lowest| lowest.0.before())
    }
}

/// 1 if there may be more, else something else, and numbers, newest first.
fn numbers(part: Value) -> Option<(bool, Vec<Stamp>)> {
    let mut parts = list(part)?.into_iter();
    let more = text(parts.next()?)? == "1";
    // What was added by hand may have numbers that none of ours can be.
    Some((more, parts.filter_map(|part| Stamp::parse(&text(part)?)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_come_late_are_asked_for_in_smaller_pieces() {
        let (reads, most, least) = (Reads::default(), *CALL_BYTES.end(), *CALL_BYTES.start());
        let late = || reads.note(reads.bytes.get(), ANSWER_TIMEOUT, None);
        // All that were under way count once.
        reads.note(most, ANSWER_TIMEOUT, None);
        reads.note(most, ANSWER_TIMEOUT, None);
        assert_eq!(reads.bytes.get(), most / 2);
        (0..20).for_each(|_| late());
        assert_eq!(reads.bytes.get(), least);
        reads.note(least, Duration::ZERO, Some(least / 2 - 1));
        reads.note(least, QUICK, Some(least));
        reads.note(least, Duration::ZERO, None);
        assert_eq!(reads.bytes.get(), least, "small, slow, or lost: that says nothing");
        (0..20).for_each(|_| reads.note(reads.bytes.get(), Duration::ZERO, Some(most)));
        assert_eq!(reads.bytes.get(), most);
        reads.note(least, Duration::ZERO, Some(most));
        assert_eq!(reads.bytes.get(), most, "an older one takes nothing back");
    }
}
