//! The embedded broker's sequencer: a node without Redis.
//!
//! ```text
//!  publish on shard 0 ─┐                       ┌─► inbox of shard 0
//!  publish on shard 1 ─┼─► sequencer's mailbox ─┼─► inbox of shard 1
//!  publish on shard n ─┘      (one order)      └─► inbox of shard n
//! ```
//!
//! What always holds: all publishes pass one sequencer, so every shard sees one order.
//!
//! # Overload
//! The sequencer never waits. Its own mailbox full: the publish is refused, nothing was taken. A
//! shard's inbox full: the event has been taken and other shards have it; that shard gets a gap
//! mark in its place, and its streams are told.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::engine::mailbox::{Mailbox, MailboxLimits, Taken};
use crate::engine::{
    Archive, Confirmation, Inbound, Interest, Publication, Publish, PublishError, Published, Publishing, Read, Reading,
};
use crate::event::{Event, Tag};
use crate::metrics::SourceCounters;
use crate::topic::Topic;

/// Publishes sequenced before the thread's other work gets its turn.
const BURST: usize = 256;

/// The sequencer. Runs on shard 0's thread.
pub struct Sequencer {
    posted: Arc<Mailbox<Event>>,
    inboxes: Vec<Arc<Mailbox<Inbound>>>,
    counters: Arc<SourceCounters>,
    wake: Arc<Notify>,
}

/// How a shard publishes into the embedded broker, and asks it for topics.
#[derive(Clone)]
pub struct Handle {
    posted: Arc<Mailbox<Event>>,
}

impl Sequencer {
    /// A sequencer for the shards with these inboxes.
    #[must_use]
    pub fn new(inboxes: Vec<Arc<Mailbox<Inbound>>>, counters: Arc<SourceCounters>) -> Sequencer {
        let wake = Arc::new(Notify::new());
        let notify = Arc::clone(&wake);
        let posted = Arc::new(Mailbox::new(MailboxLimits::default(), move || notify.notify_one()));
        Sequencer { posted, inboxes, counters, wake }
    }

    /// A handle for one shard.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { posted: Arc::clone(&self.posted) }
    }

    /// Sequences until it is dropped.
    pub async fn run(self) {
        for inbox in &self.inboxes {
            inbox.push(Inbound::Connected(0), 0);
        }
        loop {
            if self.sequence() {
                tokio::task::yield_now().await;
            } else if self.posted.arm() {
                self.wake.notified().await;
            }
        }
    }

    /// Sequences a burst. False when nothing is left.
    fn sequence(&self) -> bool {
        for _ in 0..BURST {
            let Some(Taken::Message(event)) = self.posted.take() else {
                return false;
            };
            SourceCounters::count(&self.counters.events);
            let event = Arc::new(event);
            let weight = event.weight();
            for inbox in &self.inboxes {
                inbox.push(Inbound::Event(Arc::clone(&event)), weight);
            }
        }
        true
    }
}

impl Publish for Handle {
    fn publish(&self, publication: Publication) -> Publishing {
        let event = publication.event;
        let weight = event.weight();
        let outcome = match self.posted.offer(event, weight) {
            Ok(()) => Ok(Published { id: None }),
            Err(_) => Err(PublishError::Refused("too many publishes are under way")),
        };
        Box::pin(std::future::ready(outcome))
    }
}

/// Every shard gets every event, so there is nothing to ask for.
impl Interest for Handle {
    fn renew(&mut self, _generation: u32) {}

    fn subscribe(&mut self, _topic: &Topic) -> Confirmation {
        Confirmation::Now
    }

    fn unsubscribe(&mut self, _topic: &Topic) -> Confirmation {
        Confirmation::Now
    }

    fn barrier(&mut self) {}

    fn read(&mut self, _number: u64, _read: Read) {}

    fn mark_lossy(&mut self, _tag: Tag) {}
}

impl Archive for Handle {
    fn read(&self, _read: Read) -> Reading {
        Box::pin(std::future::ready(Err("there is no history")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn event(data: String) -> Event {
        Event {
            topic: Topic::parse("t").expect("a topic"),
            name: None,
            key: None,
            data: Bytes::from(data),
            stored: None,
            received_us: 0,
        }
    }

    fn inboxes(messages_max: usize) -> Vec<Arc<Mailbox<Inbound>>> {
        let limits = MailboxLimits { messages_max, bytes_max: 1 << 20 };
        (0..2).map(|_| Arc::new(Mailbox::new(limits, || {}))).collect()
    }

    #[tokio::test]
    async fn every_shard_sees_one_order() {
        let inboxes = inboxes(100);
        let sequencer = Sequencer::new(inboxes.clone(), Arc::default());
        let (a, b) = (sequencer.handle(), sequencer.handle());
        for n in 0..20 {
            let handle = if n % 3 == 0 { &a } else { &b };
            handle.publish(event(n.to_string()).into()).await.expect("room");
        }
        while sequencer.sequence() {}
        for inbox in inboxes {
            for n in 0..20 {
                match inbox.take() {
                    Some(Taken::Message(Inbound::Event(event))) => assert_eq!(event.data, n.to_string().as_bytes()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_full_sequencer_refuses_and_a_full_shard_gets_a_gap_mark() {
        let inboxes = inboxes(4);
        let sequencer = Sequencer::new(inboxes.clone(), Arc::default());
        let handle = sequencer.handle();
        let max = MailboxLimits::default().messages_max;
        for n in 0..max {
            handle.publish(event(n.to_string()).into()).await.expect("room");
        }
        let refused = handle.publish(event("one more".into()).into()).await;
        assert!(matches!(refused, Err(PublishError::Refused(_))));
        while sequencer.sequence() {}
        let taken: Vec<bool> =
            std::iter::from_fn(|| inboxes[0].take()).map(|taken| matches!(taken, Taken::Gap)).collect();
        assert_eq!(taken, [false, false, false, false, true]);
    }
}
