//! The desk: what the request tasks of one shard share with its turn.
//!
//! All of it lives on the shard's thread. Tasks hand connections to the turn through
//! [`Desk::hand_over`]; nothing else of a task outlives its request.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::edge::admission::{Admissions, Place};
use crate::edge::calls::Peers;
use crate::edge::http::body::Load;
use crate::edge::http::cors::Origins;
use crate::edge::http::cors::Verdict;
use crate::edge::http::pages::Pages;
use crate::edge::reactor::Happened;
use crate::edge::stream::Pipe;
use crate::engine::policy::Classes;
use crate::engine::{Archive, ConnId, Position, Publication, Publish, PublishError, Publishing};
use crate::frame::WireForm;
use crate::shutdown::Stop;
use crate::topic::Topic;

/// See the module.
pub struct Desk {
    /// What its tasks know of their node.
    pub node: Node,
    /// Bodies under way.
    pub load: Load,
    /// Reads of the past under way.
    pub reads: Reads,
    newcomers: RefCell<Vec<Newcomer>>,
    happened: RefCell<Vec<(ConnId, Happened)>>,
    answers: RefCell<VecDeque<(ConnId, Box<[u8]>)>>,
    /// Connections that hyper serves.
    tasks: Cell<usize>,
    /// Events published over HTTP, by [`OUTCOMES`].
    published: Rc<Cell<[u64; OUTCOMES.len()]>>,
    date: RefCell<(u64, String)>,
}

/// What the tasks of one shard know of their node.
pub struct Node {
    /// Where publishes go.
    pub publish: Rc<dyn Publish>,
    /// Where the past is read.
    pub archive: Rc<dyn Archive>,
    /// Which topics have a past.
    pub classes: Classes,
    /// All shards, for questions about the node.
    pub peers: Peers,
    /// Connections of the node.
    pub admissions: Arc<Admissions>,
    /// Topics per stream, see [`TOPICS_PER_STREAM_MAX`](crate::engine::policy::TOPICS_PER_STREAM_MAX).
    pub topics_per_stream_max: usize,
    /// How often silent peers hear of the node.
    pub heartbeat: Duration,
    /// Pages of other origins that may use this node.
    pub origins: Origins,
    /// The demo pages, if they are served.
    pub pages: Option<Pages>,
    /// The node's clock.
    pub clock: Clock,
    /// Wakes the shard's turn.
    pub wake: Arc<Notify>,
    /// Whether the node stops.
    pub stop: Stop,
    /// Shards of the node that have something left to do when it stops.
    pub unfinished: Arc<AtomicUsize>,
}

/// What may become of an event that is published over HTTP: taken by the source, certainly not, or
/// not known. The metric's labels.
pub const OUTCOMES: [&str; 3] = ["accepted", "refused", "unknown"];

/// Reads of the past that the requests of one shard have under way at most. Those of its streams are the engine's.
pub const VISITS_MAX: usize = 64;

/// Reads of the past that the requests of one shard have under way. `0 <= count <= VISITS_MAX`.
#[derive(Default)]
pub struct Reads(Rc<Cell<usize>>);

/// One of them; counted until it is dropped.
pub struct ReadSlot(Rc<Cell<usize>>);

impl Reads {
    /// Counts one more. `None` when there are too many.
    pub fn begin(&self) -> Option<ReadSlot> {
        let count = self.0.get();
        (count < VISITS_MAX).then(|| {
            self.0.set(count + 1);
            ReadSlot(Rc::clone(&self.0))
        })
    }
}

impl Drop for ReadSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection whose head was checked, on its way to the engine.
pub struct Newcomer {
    /// What it will be written to.
    pub port: Arriving,
    /// Its place on the node.
    pub place: Place,
    /// What to do with it.
    pub wants: Wants,
    /// What its client has sent behind the head.
    pub early: Vec<u8>,
}

/// What a newcomer will be written to.
pub enum Arriving {
    /// A socket that was taken back from hyper, non-blocking.
    Socket(OwnedFd),
    /// The body of an HTTP/2 stream.
    Body(Rc<Pipe>),
}

/// What a taken-over connection is for.
pub struct Wants {
    /// What is written first: over HTTP/1.1 the response's head, and in any case a comment.
    pub head: Vec<u8>,
    /// How it wants its events.
    pub form: WireForm,
    /// Distinct. `None` exactly when the node is full and the stream is only told so.
    pub topics: Option<Vec<Topic>>,
    /// From where it wants those that are durable.
    pub position: Position,
    /// What CORS says of it.
    pub origin: Verdict,
}

impl Desk {
    /// A desk with nobody waiting.
    #[must_use]
    pub fn new(node: Node) -> Desk {
        Desk {
            node,
            load: Load::default(),
            reads: Reads::default(),
            newcomers: RefCell::default(),
            happened: RefCell::default(),
            answers: RefCell::default(),
            tasks: Cell::default(),
            published: Rc::default(),
            date: RefCell::default(),
        }
    }

    /// Publishes an event, and counts what becomes of it.
    pub fn publish(&self, publication: Publication) -> Publishing {
        let publishing = self.node.publish.publish(publication);
        let published = Rc::clone(&self.published);
        Box::pin(async move {
            let outcome = publishing.await;
            let index = match outcome {
                Ok(_) => 0,
                Err(PublishError::Refused(_) | PublishError::Conflict) => 1,
                Err(PublishError::Unknown) => 2,
            };
            let mut counts = published.get();
            counts[index] += 1;
            published.set(counts);
            outcome
        })
    }

    /// Events published over HTTP, by [`OUTCOMES`].
    pub fn published(&self) -> [u64; OUTCOMES.len()] {
        self.published.get()
    }

    /// Counts a connection that hyper serves, until what this gives is dropped.
    pub fn begin_task(self: &Rc<Self>) -> Task {
        self.tasks.set(self.tasks.get() + 1);
        Task(Rc::clone(self))
    }

    /// Connections that hyper serves.
    pub fn tasks(&self) -> usize {
        self.tasks.get()
    }

    /// Tells the turn what happened to a stream that is a body.
    pub fn tell(&self, id: ConnId, what: Happened) {
        self.happened.borrow_mut().push((id, what));
        self.node.wake.notify_one();
    }

    /// Takes what happened to streams that are bodies.
    pub fn take_happened(&self) -> Vec<(ConnId, Happened)> {
        std::mem::take(&mut self.happened.borrow_mut())
    }

    /// Gives the turn the answer to an operation of a WebSocket's client.
    pub fn answer(&self, id: ConnId, answer: Box<[u8]>) {
        self.answers.borrow_mut().push_back((id, answer));
        self.node.wake.notify_one();
    }

    /// Takes the oldest answers to operations, so many at most.
    pub fn take_answers(&self, count: usize) -> Vec<(ConnId, Box<[u8]>)> {
        let mut answers = self.answers.borrow_mut();
        let count = count.min(answers.len());
        answers.drain(..count).collect()
    }

    /// Gives a connection to the turn.
    pub fn hand_over(&self, newcomer: Newcomer) {
        self.newcomers.borrow_mut().push(newcomer);
        self.node.wake.notify_one();
    }

    /// True exactly when connections were handed over and not taken.
    pub fn has_newcomers(&self) -> bool {
        !self.newcomers.borrow().is_empty()
    }

    /// Takes the connections that were handed over.
    pub fn take_newcomers(&self) -> Vec<Newcomer> {
        std::mem::take(&mut self.newcomers.borrow_mut())
    }

    /// The `date` header's value, formatted at most once a second.
    pub fn date(&self) -> String {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut cached = self.date.borrow_mut();
        if cached.0 != second {
            *cached = (second, httpdate::fmt_http_date(now));
        }
        cached.1.clone()
    }
}

/// See [`Desk::begin_task`].
pub struct Task(Rc<Desk>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.tasks.set(self.0.tasks.get() - 1);
        if self.0.node.stop.is_set() {
            // The turn waits for the last one.
            self.0.node.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_reads_are_under_way_and_each_makes_room_at_its_end() {
        let reads = Reads::default();
        let mut under_way: Vec<ReadSlot> = std::iter::from_fn(|| reads.begin()).take(VISITS_MAX + 1).collect();
        assert_eq!(under_way.len(), VISITS_MAX);
        under_way.pop();
        assert!(reads.begin().is_some(), "and it is over at once");
        assert_eq!(std::iter::from_fn(|| reads.begin().map(std::mem::forget)).count(), 1);
    }
}
