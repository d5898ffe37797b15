//! Publishes on durable topics: everything that waits goes in one call of the script, one call at a time.
//!
//! What always holds: events of a shard are stored in the order in which they were published here, whatever is sent
//! again; an event is sent again only when it was certainly not stored, or when an idempotency key makes it the same
//! event, for long enough, and then once.
//!
//! # Overload
//! While a call is away, events collect, and the next call takes up to [`BATCH_EVENTS_MAX`] of them: the more there are
//! the less each costs Redis. What waits here is what publishers wait for; the edge bounds that. Without a link
//! everything that waits is refused at once.
//!
//! Not chosen: pipelining calls, which would change the order of events when one of them fails.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::Cmd;
use tokio::sync::oneshot;
use tracing::warn;

use crate::engine::policy::Retention;
use crate::engine::{Publication, PublishError, Published};
use crate::event::EventId;
use crate::source::redis::publisher::Shared;
use crate::source::redis::scripts::{Reply, text};
use crate::source::redis::trouble::refusal_of;

/// Events in one call: at about 10 µs each, Redis does nothing else for 3 ms.
const BATCH_EVENTS_MAX: usize = 256;
/// Bytes of events in one call, unless a single one is larger.
const BATCH_BYTES_MAX: usize = 512 << 10;

/// How long a batch whose answer was lost waits for a new link. Those behind it wait too.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);
const AGAIN_PAUSE: Duration = Duration::from_millis(100);
/// A batch is sent again at most 10 s after it was sent first: two answers that are waited for (2 s each), a new link, and
/// the time above. A record that may be forgotten by then would not keep an event from being stored twice.
const REMEMBERED_MS_MIN: u64 = 15_000;

type Outcome = Result<Published, PublishError>;

/// Publishes that wait for their call.
#[derive(Default)]
pub(super) struct Batches {
    waiting: RefCell<VecDeque<Waiting>>,
    /// True exactly while a task takes from `waiting`.
    sending: Cell<bool>,
}

struct Waiting {
    publication: Publication,
    retention: Retention,
    outcome: oneshot::Sender<Outcome>,
}

impl Batches {
    /// The oldest publishes, as many as go in one call.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let mut bytes = 0;
        let fit = waiting.iter().take(BATCH_EVENTS_MAX).take_while(|waiting| {
            let is_first = bytes == 0;
            bytes += waiting.publication.event.weight();
            is_first || bytes <= BATCH_BYTES_MAX
        });
        let count = fit.count();
        waiting.drain(..count).collect()
    }
}

impl Waiting {
    fn tell(self, outcome: Outcome) {
        // Whoever published may have left.
        let _ = self.outcome.send(outcome);
    }

    /// True exactly when it may be sent again without being stored twice.
    fn is_remembered(&self) -> bool {
        self.publication.idempotency_key.is_some() && self.retention.idempotency_ms >= REMEMBERED_MS_MIN
    }

    fn add_arguments(&self, call: &mut Cmd) {
        let event = &self.publication.event;
        call.arg(event.name.as_ref().map_or("", |name| name.as_str())).arg(event.key.as_deref().unwrap_or_default());
        call.arg(&event.data[..]).arg(self.retention.events_max).arg(self.retention.age_ms);
        let is_named = self.publication.idempotency_key.is_some();
        call.arg(if is_named { self.retention.idempotency_ms.max(1) } else { 0 });
    }
}

impl Shared {
    /// Publishes an event on a durable topic.
    pub(super) async fn store(self: &Rc<Self>, publication: Publication, retention: Retention) -> Outcome {
        let (outcome, told) = oneshot::channel();
        self.batches.waiting.borrow_mut().push_back(Waiting { publication, retention, outcome });
        if !self.batches.sending.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).send_batches());
        }
        told.await.unwrap_or(Err(PublishError::Unknown))
    }

    async fn send_batches(self: Rc<Self>) {
        loop {
            let batch = self.batches.take();
            if batch.is_empty() {
                break;
            }
            let unknown = self.send_batch(batch).await;
            let (named, nameless): (Vec<Waiting>, Vec<Waiting>) = unknown.into_iter().partition(Waiting::is_remembered);
            nameless.into_iter().for_each(|waiting| waiting.tell(Err(PublishError::Unknown)));
            if !named.is_empty() {
                self.send_again(named).await;
            }
        }
        self.batches.sending.set(false);
    }

    /// Sends a batch once; those of which it is not known whether they were stored.
    async fn send_batch(self: &Rc<Self>, batch: Vec<Waiting>) -> Vec<Waiting> {
        match self.call_publish(&batch).await {
            Ok(outcomes) => batch.into_iter().zip(outcomes).for_each(|(waiting, outcome)| waiting.tell(outcome)),
            Err(PublishError::Unknown) => return batch,
            Err(error) => batch.into_iter().for_each(|waiting| waiting.tell(Err(error))),
        }
        Vec::new()
    }

    /// Sends a batch again of which it is not known whether it was stored, as soon as Redis takes it. A refusal is of
    /// this time only.
    async fn send_again(self: &Rc<Self>, batch: Vec<Waiting>) {
        let deadline = Instant::now() + AGAIN_WITHIN;
        let outcomes = loop {
            match self.call_publish(&batch).await {
                Err(PublishError::Refused(_)) if Instant::now() < deadline => tokio::time::sleep(AGAIN_PAUSE).await,
                outcomes => break outcomes,
            }
        };
        let mut outcomes = outcomes.unwrap_or_default().into_iter();
        for waiting in batch {
            waiting.tell(match outcomes.next() {
                Some(Err(PublishError::Refused(_))) | None => Err(PublishError::Unknown),
                Some(outcome) => outcome,
            });
        }
    }

    async fn call_publish(self: &Rc<Self>, batch: &[Waiting]) -> Result<Vec<Outcome>, PublishError> {
        let mut keys = Vec::with_capacity(batch.len());
        for Waiting { publication, .. } in batch {
            let topic = &publication.event.topic;
            keys.push(self.config.keys.stream(topic));
            keys.extend(publication.idempotency_key.as_ref().map(|key| self.config.keys.record(topic, key)));
        }
        let reply = self.call("publish", &keys, |call| {
            call.arg(&*self.config.channel_prefix);
            batch.iter().for_each(|waiting| waiting.add_arguments(call));
        });
        let outcomes: Vec<Outcome> = outcomes_of(reply.await?, |refusal| self.note_refusal(refusal));
        if !outcomes.iter().any(|outcome| matches!(outcome, Err(PublishError::Refused(_)))) {
            self.refusing_events.set(false);
        }
        if outcomes.len() != batch.len() {
            return Err(PublishError::Unknown);
        }
        let newest = outcomes.iter().filter_map(|outcome| outcome.ok()?.id).max_by_key(|id| id.stamp);
        if let Some(newest) = newest
            && self.acknowledged.get().is_none_or(|known| known.stamp < newest.stamp)
        {
            self.acknowledged.set(Some(newest));
        }
        Ok(outcomes)
    }

    /// Redis, or the script, has refused an event.
    fn note_refusal(&self, refusal: &str) {
        if !self.refusing_events.replace(true) {
            warn!(
                error = refusal,
                "Redis refuses events of durable topics; check the user's ACL and the server's memory"
            );
        }
        if refusal.starts_with("READONLY") {
            self.leave_replica();
        }
    }
}

/// For each event its id, or why it was not stored.
fn outcomes_of(reply: Reply, mut refused: impl FnMut(&str)) -> Vec<Outcome> {
    let outcomes = reply.rest.into_iter().map(|outcome| {
        let outcome = text(outcome).unwrap_or_default();
        if let Some(id) = EventId::parse(&outcome) {
            return Ok(Published { id: Some(id) });
        }
        match outcome.split(' ').next().unwrap_or_default() {
            "" => Err(PublishError::Unknown),
            "CONFLICT" => Err(PublishError::Conflict),
            code => {
                refused(&outcome);
                Err(PublishError::Refused(refusal_of(code)))
            }
        }
    });
    outcomes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Tag};
    use crate::topic::Topic;
    use bytes::Bytes;
    use redis::Value;

    fn push(batches: &Batches, bytes: usize) {
        let event = Event {
            topic: Topic::parse("t").expect("a topic"),
            name: None,
            key: None,
            data: Bytes::from(vec![b'x'; bytes]),
            stored: None,
            received_us: 0,
        };
        let waiting =
            Waiting { publication: event.into(), retention: Retention::default(), outcome: oneshot::channel().0 };
        batches.waiting.borrow_mut().push_back(waiting);
    }

    #[test]
    fn a_batch_is_bounded_and_a_large_event_goes_alone() {
        let batches = Batches::default();
        (0..BATCH_EVENTS_MAX + 1).for_each(|_| push(&batches, 1));
        assert_eq!((batches.take().len(), batches.take().len(), batches.take().len()), (BATCH_EVENTS_MAX, 1, 0));
        [BATCH_BYTES_MAX + 1, 1, BATCH_BYTES_MAX, BATCH_BYTES_MAX / 2].iter().for_each(|&bytes| push(&batches, bytes));
        let sizes: Vec<usize> = (0..4).map(|_| batches.take().len()).collect();
        assert_eq!(sizes, [1, 1, 1, 1]);
    }

    #[test]
    fn outcomes_are_ids_conflicts_and_refusals() {
        let said = ["1-2-abcd", "CONFLICT x", "OOM command not allowed", "", "ERR a topic"];
        let rest = said.map(|said| Value::BulkString(said.into())).into_iter().chain([Value::Nil]).collect();
        let reply = Reply { run: String::new(), tag: Tag::NONE, rest };
        let mut refusals = Vec::new();
        let outcomes = outcomes_of(reply, |refusal| refusals.push(refusal.to_owned()));
        assert_eq!(outcomes[0].map(|published| published.id), Ok(EventId::parse("1-2-abcd")));
        assert_eq!(outcomes[1].err(), Some(PublishError::Conflict));
        assert_eq!(outcomes[2].err(), Some(PublishError::Refused("Redis is out of memory")));
        assert_eq!(outcomes[4].err(), Some(PublishError::Refused("Redis refuses it")));
        assert_eq!([3, 5].map(|at| outcomes[at].err()), [Some(PublishError::Unknown); 2]);
        assert_eq!(refusals, [said[2], said[4]]);
    }
}
