//! Whatever a client sends, it gets a sentence or a closed connection, and nobody else notices.
//!
//! The table (`tests/hostile/`) has the bytes of each case and what must come of them. All cases run against
//! one server, on which a witness follows a topic that is published to all the while, and a second
//! one a topic to which nothing may ever be published: whatever is smuggled goes there.

mod slow;
mod table;

use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Node, PATIENCE, Stream, TestServer, Wire};

/// A connection that is to be closed is closed sooner than one on which nothing is said (10 s).
const SOON: Duration = Duration::from_secs(8);

/// One row: bytes, and what must come of them.
pub struct Case {
    pub name: String,
    /// Sent in this order, a pause between them.
    pub pieces: Vec<Vec<u8>>,
    pub pause: Duration,
    /// True exactly when the client ends its side after the last piece.
    pub fin: bool,
    pub answers: Vec<Said>,
    pub then: Then,
}

/// One answer.
pub enum Said {
    /// A refusal whose sentence contains this.
    Sentence(u16, &'static str),
    /// An answer whose body contains this.
    Body(u16, &'static str),
    /// A head without its body.
    Head(u16),
    /// A stream's head and first comment; the rest is the stream's.
    Stream,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is closed, and nothing more is said.
    Closed,
    /// Another request is answered on it.
    GoesOn,
    /// It is a stream.
    Streams,
}

impl Case {
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>, answers: Vec<Said>, then: Then) -> Case {
        let pieces = vec![bytes.into()];
        Case { name: name.into(), pieces, pause: Duration::ZERO, fin: false, answers, then }
    }

    pub fn with_fin(self) -> Case {
        Case { fin: true, ..self }
    }

    fn run(&self, server: &TestServer, patience: Duration) {
        let mut wire = Wire::connect(server.public);
        for (number, piece) in self.pieces.iter().enumerate() {
            if number > 0 {
                // Paced: a slow client is what is tried here.
                thread::sleep(self.pause);
            }
            // One that is refused early may be closed before it has sent all.
            let _ = wire.try_send(piece);
        }
        if self.fin {
            let _ = wire.shutdown(Shutdown::Write);
        }
        let deadline = Instant::now() + patience;
        for said in &self.answers {
            // An answer that takes its time is waited for, up to the deadline.
            while wire.unread().is_empty() {
                assert_eq!(wire.fill(deadline), Some(true), "closed, or silent, where an answer was expected");
            }
            said.expect(&mut wire);
        }
        match self.then {
            Then::Closed => {
                while wire.fill(deadline).expect("nothing is said, and nothing closed") {}
                assert!(wire.unread().is_empty(), "said at the end: {}", String::from_utf8_lossy(wire.unread()));
            }
            Then::GoesOn => {
                let answer = wire.ask("GET", "/topics/next", &[], b"");
                assert_eq!((answer.status(), answer.json()["topic"].as_str()), (200, Some("next")));
            }
            Then::Streams => {}
        }
    }
}

impl Said {
    fn expect(&self, wire: &mut Wire) {
        match self {
            Said::Sentence(status, piece) => {
                let answer = wire.take_answer();
                let sentence = answer.problem(*status);
                assert!(sentence.contains(piece), "`{piece}` in `{sentence}`");
                assert!(answer.header("content-length").is_some() && answer.header("date").is_some(), "{answer:?}");
            }
            Said::Body(status, piece) => {
                let answer = wire.take_answer();
                assert_eq!(answer.status(), *status, "{}", answer.text());
                assert!(answer.text().contains(piece), "`{piece}` in `{}`", answer.text());
            }
            Said::Head(status) => assert_eq!(wire.take_head().status, *status),
            Said::Stream => {
                let head = wire.take_head();
                assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
            }
        }
    }
}

/// Runs the cases, some at a time, between two witnesses.
fn run(cases: &[Case], at_once: usize, patience: Duration) {
    let node = Node::embedded_as(crate::common::Launch::serve().flag("--shards", "2"));
    let mut untouched = Stream::open(&node.server, "topic=smuggled");
    let mut witness = Stream::open(&node.server, "topic=witness");
    let over = AtomicBool::new(false);
    let queue = Mutex::new(cases.iter());
    let failed = Mutex::new(Vec::new());
    let (published, seen) = thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&node, &over));
        let reader = scope.spawn(|| read_to_the_end(&mut witness));
        let workers: Vec<_> =
            (0..at_once).map(|_| scope.spawn(|| work(&queue, &node.server, patience, &failed))).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        over.store(true, Ordering::Relaxed);
        (publisher.join().unwrap(), reader.join().unwrap())
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    assert!(published > 10 && seen.iter().copied().eq(0..published), "{published} were published, {seen:?} came");
    node.post("smuggled", "the first of all");
    assert_eq!(untouched.next_data(), "the first of all", "nothing was smuggled");
}

/// Takes cases until there is none; notes those that fail.
fn work(
    queue: &Mutex<std::slice::Iter<'_, Case>>,
    server: &TestServer,
    patience: Duration,
    failed: &Mutex<Vec<String>>,
) {
    loop {
        let Some(case) = queue.lock().unwrap().next() else { return };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.run(server, patience)));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            failed.lock().unwrap().push(format!("{}: {}", case.name, text.unwrap_or_default()));
        }
    }
}

/// Publishes numbers; gives how many.
fn publish_until(node: &Node, over: &AtomicBool) -> u64 {
    let mut wire = Wire::connect(node.server.public);
    let mut number = 0;
    while !over.load(Ordering::Relaxed) || number <= 10 {
        let answer = wire.ask("POST", "/topics/witness", &[], number.to_string().as_bytes());
        assert_eq!(answer.status(), 202);
        number += 1;
        // Paced: a witness, not a load.
        thread::sleep(Duration::from_millis(5));
    }
    node.post("witness", "over");
    number
}

fn read_to_the_end(witness: &mut Stream) -> Vec<u64> {
    std::iter::from_fn(|| witness.next_data().parse().ok()).collect()
}

#[test]
fn hostile_requests_get_a_sentence_or_a_closed_connection_and_nobody_else_notices() {
    let classes = table::classes();
    for (class, cases) in &classes {
        assert!(cases.len() >= 5, "{class} has {} cases", cases.len());
    }
    let cases: Vec<Case> = classes
        .into_iter()
        .flat_map(|(class, cases)| {
            cases.into_iter().map(move |case| Case { name: format!("{class}: {}", case.name), ..case })
        })
        .collect();
    run(&cases, 8, SOON);
}

#[test]
fn slow_heads_are_told_so_and_idle_connections_just_closed() {
    let cases = slow::heads();
    assert!(cases.len() >= 5);
    run(&cases, cases.len(), PATIENCE);
}

#[test]
fn slow_bodies_are_told_so() {
    let cases = slow::bodies();
    assert!(cases.len() >= 5);
    run(&cases, cases.len(), 2 * PATIENCE);
}
