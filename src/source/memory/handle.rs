//! What a shard holds of the embedded broker: where its publishes, barriers and reads go in.
//!
//! What always holds: nothing here waits for the sequencer but the answers to publishes on durable
//! topics and to reads. The node ends if the sequencer does, so nobody waits in vain.
//!
//! # Overload
//! Publishes are limited by their mailbox: refused, nothing was taken. Barriers and shards' reads are not
//! refused: a shard has at most one barrier waiting, which stands for all it asks meanwhile, and
//! `READS_MAX` reads; the mailbox has a place for each. Reads of its requests have `VISITS_MAX` places.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Notify, oneshot};

use crate::engine::mailbox::{Mailbox, MailboxLimits};
use crate::engine::policy::{Classes, READS_MAX, Retention};
use crate::engine::{
    Answer, Archive, Confirmation, Interest, Marker, Publication, Publish, PublishError, Published, Publishing, Read,
    Reading,
};
use crate::event::{Event, Tag};
use crate::source::memory::idempotency::Claim;
use crate::topic::Topic;

/// Reads of a shard for whoever is not a stream, waiting at once: as many as requests over HTTP may have under way.
pub(super) const VISITS_MAX: usize = 64;

/// A publish on its way to the sequencer. Small for live topics: the mailbox has 16,384 places.
pub(super) struct Posted {
    pub(super) event: Event,
    /// `None` exactly on live topics.
    pub(super) durable: Option<Box<Durable>>,
}

/// What is to be done with an event on a durable topic.
pub(super) struct Durable {
    pub(super) retention: Retention,
    pub(super) claim: Option<Claim>,
    pub(super) reply: oneshot::Sender<Result<Published, PublishError>>,
}

/// What is asked of the sequencer.
pub(super) enum Ask {
    /// A marker, for this shard.
    Barrier(usize),
    /// A read, for this shard, and its number there.
    Read(usize, u64, Read),
    /// A read for a request of this shard.
    Visit(usize, Read, oneshot::Sender<(Marker, Answer)>),
}

/// Where all shards put in and the sequencer takes out.
pub(super) struct Intake {
    pub(super) posted: Mailbox<Posted>,
    pub(super) asked: Mailbox<Ask>,
    /// For each shard: its newest question while a barrier of its is in `asked`, else 0.
    pub(super) questions: Vec<AtomicU64>,
    /// For each shard: its visits in `asked`. At most [`VISITS_MAX`].
    pub(super) visits: Vec<AtomicUsize>,
    classes: Classes,
}

impl Intake {
    pub(super) fn new(shards: usize, classes: Classes, wake: &Arc<Notify>) -> Intake {
        let places = shards * (1 + READS_MAX + VISITS_MAX);
        let notify = || {
            let wake = Arc::clone(wake);
            move || wake.notify_one()
        };
        Intake {
            posted: Mailbox::new(MailboxLimits::default(), notify()),
            asked: Mailbox::new(MailboxLimits { messages_max: places, bytes_max: places }, notify()),
            questions: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            visits: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            classes,
        }
    }

    /// The sequencer is about to rest. False when something is there: then it must not.
    pub(super) fn arm(&self) -> bool {
        self.posted.arm() && self.asked.arm()
    }

    /// Asks what was counted before.
    fn ask(&self, ask: Ask) {
        let is_taken = self.asked.offer(ask, 0).is_ok();
        debug_assert!(is_taken, "there is a place for everything a shard may ask at once");
    }

    /// Takes one of a shard's places for visits. False when there is none.
    fn take_place(&self, shard: usize) -> bool {
        let one_more = |visits| (visits < VISITS_MAX).then_some(visits + 1);
        self.visits[shard].fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }
}

/// How a shard publishes into the embedded broker, and asks it for the past.
#[derive(Clone)]
pub struct Handle {
    shard: usize,
    intake: Arc<Intake>,
}

impl Handle {
    pub(super) fn new(shard: usize, intake: Arc<Intake>) -> Handle {
        Handle { shard, intake }
    }

    fn publish_durably(&self, publication: Publication, retention: Retention) -> Publishing {
        let Publication { event, idempotency_key } = publication;
        let weight = event.weight();
        let claim = idempotency_key.map(|key| Claim::new(&event, &key, retention.idempotency_ms));
        let (reply, answer) = oneshot::channel();
        let durable = Some(Box::new(Durable { retention, claim, reply }));
        match self.intake.posted.offer(Posted { event, durable }, weight) {
            Ok(()) => Box::pin(async { answer.await.unwrap_or(Err(PublishError::Unknown)) }),
            Err(_) => refused(),
        }
    }
}

fn refused() -> Publishing {
    Box::pin(std::future::ready(Err(PublishError::Refused("too many publishes are under way"))))
}

/// Live events are answered as soon as they are taken, durable ones when they are stored.
impl Publish for Handle {
    fn publish(&self, publication: Publication) -> Publishing {
        let class = self.intake.classes.class_of(&publication.event.topic);
        if let Some(retention) = class.retention() {
            return self.publish_durably(publication, retention);
        }
        let event = publication.event;
        let weight = event.weight();
        match self.intake.posted.offer(Posted { event, durable: None }, weight) {
            Ok(()) => Box::pin(std::future::ready(Ok(Published { id: None }))),
            Err(_) => refused(),
        }
    }
}

/// Every shard gets every event, so there is nothing to ask for but the past.
impl Interest for Handle {
    fn renew(&mut self, _generation: u32) {}

    fn subscribe(&mut self, _topic: &Topic) -> Confirmation {
        Confirmation::Now
    }

    fn unsubscribe(&mut self, _topic: &Topic) -> Confirmation {
        Confirmation::Now
    }

    fn barrier(&mut self, question: u64) {
        if self.intake.questions[self.shard].swap(question, Ordering::AcqRel) == 0 {
            self.intake.ask(Ask::Barrier(self.shard));
        }
    }

    fn read(&mut self, number: u64, read: Read) {
        self.intake.ask(Ask::Read(self.shard, number, read));
    }

    /// There is one incarnation, from start to end: nothing can be lost behind it.
    fn mark_lossy(&mut self, _tag: Tag) {}
}

impl Archive for Handle {
    fn read(&self, read: Read) -> Reading {
        if !self.intake.take_place(self.shard) {
            return Box::pin(std::future::ready(Err("too many reads of the history are under way")));
        }
        let (reply, answer) = oneshot::channel();
        self.intake.ask(Ask::Visit(self.shard, read, reply));
        Box::pin(async { answer.await.map_err(|_| "the node stops") })
    }
}
