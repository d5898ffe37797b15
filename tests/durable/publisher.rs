//! Publishers that never give up: each event is posted with an idempotency key, to any node, until it is settled.
//!
//! What becomes of an event is known once: stored under an id, or, when nobody asks any more, refused or unknown. A
//! publisher that has been asked to end takes nothing new on, and settles what it has.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use checker::history::{Id, Log, Outcome, Publication, Stamp, Topic};

use super::swarm::{Nodes, hash};
use crate::common::fetch::raw;
use crate::common::{PATIENCE, Wire};

/// Posts under way at a time. One waits for its answer, which with a Redis that syncs each write takes a millisecond.
const THREADS: u64 = 4;
/// An answer that takes longer is asked for again, with the same key.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What is published.
#[derive(Debug, Clone)]
pub struct Plan {
    pub topics: Vec<String>,
    /// Events a second, of all topics together.
    pub rate: u64,
    pub seed: u64,
    /// No event has more bytes than about this.
    pub bytes_max: usize,
}

/// See the module. Ends when dropped.
#[derive(Debug)]
pub struct Publisher {
    plan: Plan,
    nodes: Nodes,
    settled: Receiver<Publication>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    done: AtomicBool,
    /// Events stored.
    stored: AtomicU64,
    /// When the last one gives up, once they have been asked to end.
    until: Mutex<Option<Instant>>,
}

/// One of the threads.
struct Poster {
    plan: Plan,
    nodes: Nodes,
    wire: Option<Wire>,
    rng: fastrand::Rng,
    shared: Arc<Shared>,
}

impl Publisher {
    pub fn start(nodes: &Nodes, plan: &Plan) -> Publisher {
        let (sender, settled) = channel();
        let shared = Arc::<Shared>::default();
        let start = |thread: u64| {
            let rng = fastrand::Rng::with_seed(plan.seed ^ thread.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (nodes, shared) = (Arc::clone(nodes), Arc::clone(&shared));
            let poster = Poster { plan: plan.clone(), nodes, wire: None, rng, shared };
            let sender = sender.clone();
            thread::spawn(move || poster.run(thread, &sender))
        };
        let threads = (0..THREADS).map(start).collect();
        Publisher { plan: plan.clone(), nodes: Arc::clone(nodes), settled, shared, threads }
    }

    pub fn stored(&self) -> u64 {
        self.shared.stored.load(Ordering::Relaxed)
    }

    /// Tells the log what has been settled so far.
    pub fn drain_into(&self, log: &mut Log) {
        self.settled.try_iter().for_each(|publication| log.handle_publication(publication));
    }

    /// Asks it to end: what is under way is settled first.
    pub fn end(&self) {
        self.shared.until.lock().unwrap().get_or_insert(Instant::now() + PATIENCE);
        self.shared.done.store(true, Ordering::SeqCst);
    }

    pub fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// One last event on each topic: where the history ends.
    pub fn publish_ends(self, log: &mut Log) -> Vec<(Topic, Stamp)> {
        assert!(self.has_ended());
        self.drain_into(log);
        let mut poster = Poster {
            plan: self.plan.clone(),
            nodes: Arc::clone(&self.nodes),
            wire: None,
            rng: fastrand::Rng::with_seed(self.plan.seed),
            shared: Arc::clone(&self.shared),
        };
        let mut end = |number: usize| {
            let (topic, name) = (Topic(number as u32), &self.plan.topics[number]);
            let data = format!("the end of {name}");
            let publication = poster.settle(topic, None, &data, &format!("end-{}-{number}", self.plan.seed));
            log.handle_publication(publication);
            match publication.outcome {
                Outcome::Stored(id) => (topic, id.stamp),
                other => panic!("the end of {name} is {other:?}"),
            }
        };
        (0..self.plan.topics.len()).map(&mut end).collect()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end();
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking(), "a publisher has failed");
        }
    }
}

impl Poster {
    fn run(mut self, thread: u64, settled: &Sender<Publication>) {
        let pace = Duration::from_secs(THREADS) / u32::try_from(self.plan.rate.max(1)).unwrap();
        let mut due = Instant::now();
        let mut number = 0;
        while !self.shared.done.load(Ordering::SeqCst) {
            // Paced. One that lags behind posts without a pause until it has caught up.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pace;
            let topic = self.rng.usize(..self.plan.topics.len());
            let name = self.rng.choice([None, Some("tick"), Some("été")]).flatten();
            let key = format!("k-{}-{thread}-{number}", self.plan.seed);
            let data = format!("{{\"topic\":{topic},\"key\":\"{key}\"}}{}", self.padding());
            let publication = self.settle(Topic(topic as u32), name, &data, &key);
            number += 1;
            if settled.send(publication).is_err() {
                return;
            }
        }
    }

    /// Mostly little, sometimes much; with line ends, which become lines of their own.
    fn padding(&mut self) -> String {
        let most = if self.rng.u8(..16) == 0 { self.plan.bytes_max } else { self.plan.bytes_max.min(200) };
        let length = self.rng.usize(..=most);
        (0..length).map(|place| if place % 61 == 60 { '\n' } else { 'x' }).collect()
    }

    /// Posts one event until it is known what became of it.
    fn settle(&mut self, topic: Topic, name: Option<&str>, data: &str, key: &str) -> Publication {
        let event = name.map_or(String::new(), |_| "?event=tick".into());
        let event = if name == Some("été") { "?event=%C3%A9t%C3%A9".into() } else { event };
        let target = format!("/topics/{}{event}", self.plan.topics[topic.0 as usize]);
        let request = raw("POST", &target, &[("idempotency-key", key)], data.as_bytes());
        let hash = hash(name.unwrap_or("message"), data);
        let mut ambiguous = false;
        loop {
            match self.post(&request) {
                Posted::Stored(id) => {
                    self.shared.stored.fetch_add(1, Ordering::Relaxed);
                    return Publication { topic, hash, outcome: Outcome::Stored(id) };
                }
                Posted::Unknown => ambiguous = true,
                Posted::Refused => {}
            }
            if self.shared.until.lock().unwrap().is_some_and(|until| Instant::now() > until) {
                let outcome = if ambiguous { Outcome::Unknown } else { Outcome::Refused };
                return Publication { topic, hash, outcome };
            }
            // Paced: whoever was refused comes back a little later.
            thread::sleep(Duration::from_millis(self.rng.u64(5..30)));
        }
    }

    fn post(&mut self, request: &[u8]) -> Posted {
        let Some(mut wire) = self.wire.take().or_else(|| self.connect()) else { return Posted::Refused };
        let Some(answer) = wire.try_ask(request, Instant::now() + ANSWER_WITHIN) else { return Posted::Unknown };
        let posted = match answer.status() {
            200 => {
                let id = answer.json()["id"].as_str().and_then(Id::parse);
                Posted::Stored(id.unwrap_or_else(|| panic!("no id: {}", answer.text())))
            }
            503 => Posted::Refused,
            504 => Posted::Unknown,
            other => panic!("a post is answered with {other}: {}", answer.text()),
        };
        // Now and then through another node.
        if answer.header("connection") != Some("close") && self.rng.u8(..) < 250 {
            self.wire = Some(wire);
        }
        posted
    }

    fn connect(&mut self) -> Option<Wire> {
        let there: Vec<_> = self.nodes.lock().unwrap().iter().flatten().copied().collect();
        Wire::try_connect(self.rng.choice(there)?)
    }
}

/// What one attempt came to.
enum Posted {
    Stored(Id),
    Refused,
    Unknown,
}
