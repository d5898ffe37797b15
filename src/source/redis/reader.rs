//! Reading the past: a [`Read`] of many topics becomes calls of the script, each of bounded size.
//!
//! What always holds: one call names at most [`TOPICS_PER_CALL`] topics and is answered with about
//! [`CALL_BYTES_MAX`], at least one page; topics that did not fit are asked for again; at most [`READS_AT_ONCE`] reads
//! of a shard are under way, the others wait. Entries that are not ours are left out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use redis::{Cmd, Value};

use crate::engine::PublishError;
use crate::engine::history::{Answer, Marker, Page, Read};
use crate::event::{Event, Stamp};
use crate::source::redis::publisher::Shared;
use crate::source::redis::scripts::{Reply, list, text};
use crate::source::redis::stored;
use crate::topic::Topic;

/// Topics in one call.
const TOPICS_PER_CALL: usize = 64;
/// Bytes in one reply, beyond which no further topic is begun. At 1 GB/s Redis copies them in 4 ms.
const CALL_BYTES_MAX: usize = 4 << 20;
/// Reads of one shard under way.
pub(super) const READS_AT_ONCE: usize = 8;

/// A topic that is read, and its own number in the call, where the operation has one for each.
type Asked<'a> = (&'a Topic, Option<Stamp>);

/// Why the script's reply to a read is of no use.
const STRANGE: &str = "Redis answers what cannot be read";
/// Why what was read is thrown away.
const CHANGED: &str = "the history changed while it was read";

impl Shared {
    /// Reads the past: the place at which it was read, and what was.
    pub(super) async fn read(self: &Rc<Self>, read: &Read) -> Result<(Marker, Answer), &'static str> {
        // Never closed: an error would mean that nothing limits.
        let _place = self.reads.acquire().await;
        match read {
            Read::After { topics, bytes_max } => {
                let topics: Vec<Asked<'_>> = topics.iter().map(|(topic, after)| (topic, Some(*after))).collect();
                self.read_pages("after", &topics, &[*bytes_max, CALL_BYTES_MAX], None).await
            }
            Read::Tail { topics, upto, events_max, bytes_max } => {
                let topics: Vec<Asked<'_>> = topics.iter().map(|topic| (topic, None)).collect();
                self.read_pages("tail", &topics, &[*bytes_max, CALL_BYTES_MAX, *events_max], Some(*upto)).await
            }
            Read::Start { topics, upto, count } => self.read_start(topics, *upto, *count).await,
        }
    }

    /// Reads a page of each topic.
    async fn read_pages(
        self: &Rc<Self>,
        operation: &str,
        topics: &[Asked<'_>],
        bounds: &[usize],
        upto: Option<Stamp>,
    ) -> Result<(Marker, Answer), &'static str> {
        let (mut first, mut pages) = (None, Vec::with_capacity(topics.len()));
        while first.is_none() || pages.len() < topics.len() {
            let rest = &topics[pages.len()..];
            let asked = &rest[..rest.len().min(TOPICS_PER_CALL)];
            let options = |call: &mut Cmd| {
                call.arg(bounds).arg(upto.map(|upto| upto.to_string()));
            };
            let (marker, parts) = self.call_read(operation, asked, options).await?;
            keep_first(&mut first, &marker)?;
            for (&(topic, _), part) in asked.iter().zip(parts) {
                pages.push(self.page(topic, part).ok_or(STRANGE)?);
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
            let options = |call: &mut Cmd| {
                call.arg(CALL_BYTES_MAX).arg(count).arg(floor.to_string());
            };
            let (marker, parts) = self.call_read("numbers", &asked, options).await?;
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

    /// Calls a reading operation for some topics: the place at which it read, and a part for each topic, in order, but
    /// perhaps not for all.
    async fn call_read(
        self: &Rc<Self>,
        operation: &str,
        topics: &[Asked<'_>],
        add_options: impl FnOnce(&mut Cmd),
    ) -> Result<(Marker, Vec<Value>), &'static str> {
        let keys: Vec<String> = topics.iter().map(|(topic, _)| self.config.keys.stream(topic)).collect();
        let reply = self.call(operation, &keys, |call| {
            add_options(call);
            topics.iter().filter_map(|(_, number)| *number).for_each(|number| {
                call.arg(number.to_string());
            });
        });
        let reply = reply.await;
        let mut reply: Reply = reply.map_err(|error| match error {
            PublishError::Refused(why) => why,
            PublishError::Unknown | PublishError::Conflict => "Redis does not answer",
        })?;
        let marker = reply.take_marker().ok_or(STRANGE)?;
        let parts = reply.rest;
        if parts.len() > topics.len() || (parts.is_empty() && !topics.is_empty()) {
            return Err(STRANGE);
        }
        Ok((marker, parts))
    }

    /// Reads a page: the topic's newest number, whether there may be more, messages.
    fn page(&self, topic: &Topic, part: Value) -> Option<Page> {
        let mut parts = list(part)?.into_iter();
        let (last, more) = (Stamp::parse(&text(parts.next()?)?)?, text(parts.next()?)? == "1");
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

/// Whether there may be more, and numbers, newest first.
fn numbers(part: Value) -> Option<(bool, Vec<Stamp>)> {
    let mut parts = list(part)?.into_iter();
    let more = text(parts.next()?)? == "1";
    let numbers: Option<Vec<Stamp>> = parts.map(|part| Stamp::parse(&text(part)?)).collect();
    Some((more, numbers?))
}
