//! What a shard wants of Redis: wishes that end with the connection they were meant for, and those that do not.
//!
//! Subscriptions and markers are the subscriber's business, and are dropped with its connection: the engine asks again.
//! Reads and marks of a loss are tried until they succeed, here, over whichever link the publisher has. What always
//! holds: the engine has at most `READS_MAX` reads under way, for each of which there is a place in the mailbox for
//! answers; an incarnation is being marked once at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::mailbox::Mailbox;
use crate::engine::{Answered, Confirmation, Interest, Read};
use crate::event::Tag;
use crate::source::redis::publisher::Publisher;
use crate::source::redis::subscriber::Wishes;
use crate::topic::Topic;

/// From one attempt to the next; doubled each time up to the second.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);

/// See the module.
pub struct ShardInterest {
    wishes: Wishes,
    publisher: Publisher,
    answers: Arc<Mailbox<Answered>>,
    /// Incarnations that are being marked.
    marking: Rc<RefCell<Vec<Tag>>>,
}

impl ShardInterest {
    /// What one shard wants: `answers` is where it takes what was read.
    #[must_use]
    pub fn new(wishes: Wishes, publisher: Publisher, answers: Arc<Mailbox<Answered>>) -> ShardInterest {
        ShardInterest { wishes, publisher, answers, marking: Rc::default() }
    }
}

impl Interest for ShardInterest {
    fn renew(&mut self, generation: u32) {
        self.wishes.renew(generation);
    }

    fn subscribe(&mut self, topic: &Topic) -> Confirmation {
        self.wishes.subscribe(topic)
    }

    fn unsubscribe(&mut self, topic: &Topic) -> Confirmation {
        self.wishes.unsubscribe(topic)
    }

    fn barrier(&mut self, question: u64) {
        self.wishes.ask_barrier(question);
    }

    fn read(&mut self, number: u64, read: Read) {
        let (publisher, answers) = (self.publisher.clone(), Arc::clone(&self.answers));
        tokio::task::spawn_local(async move {
            let (marker, answer) = until_done(async || publisher.read(&read).await.ok()).await;
            let is_taken = answers.offer(Answered { number, marker, answer }, 0).is_ok();
            debug_assert!(is_taken, "there is a place for every read under way");
        });
    }

    fn mark_lossy(&mut self, tag: Tag) {
        if self.marking.borrow().contains(&tag) {
            return;
        }
        self.marking.borrow_mut().push(tag);
        let (publisher, marking) = (self.publisher.clone(), Rc::clone(&self.marking));
        tokio::task::spawn_local(async move {
            until_done(async || publisher.mark_lossy(tag).await.ok()).await;
            marking.borrow_mut().retain(|&marked| marked != tag);
        });
    }
}

/// Tries until it succeeds.
async fn until_done<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let mut pause = PAUSE.start;
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        tokio::time::sleep(pause.mul_f64(0.75 + 0.25 * fastrand::f64())).await;
        pause = (pause * 2).min(PAUSE.end);
    }
}
