//! A program that publishes numbers while Redis goes away and comes back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Resp, wait_until};

/// The name of connections that belong to the test.
pub const OURS: &str = "test";

/// See the module. It publishes on `fanwheel:a` until it is dropped.
#[derive(Debug)]
pub struct Load {
    done: Arc<AtomicBool>,
    published: Arc<Mutex<Numbers>>,
    thread: Option<JoinHandle<()>>,
}

/// What was published.
#[derive(Debug, Default, Clone)]
pub struct Numbers {
    /// Every number below this one was sent.
    pub count: u64,
    /// Of these nobody can vouch.
    pub uncertain: Vec<u64>,
}

impl Load {
    /// Publishes straight to Redis, at this pace.
    pub fn start(redis: SocketAddr, pace: Duration) -> Load {
        let (done, published) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Numbers>>::default());
        let (until, into) = (Arc::clone(&done), Arc::clone(&published));
        let thread = thread::spawn(move || publish(redis, pace, &until, &into));
        Load { done, published, thread: Some(thread) }
    }

    pub fn count(&self) -> u64 {
        self.published.lock().unwrap().count
    }

    /// Waits until so many more are published.
    pub fn wait(&self, more: u64) {
        let goal = self.count() + more;
        wait_until("events to be published", || self.count() >= goal);
    }

    /// Ends it, and gives what it published.
    pub fn finish(mut self) -> Numbers {
        self.end();
        self.published.lock().unwrap().clone()
    }

    fn end(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            assert!(thread::panicking(), "the publisher has failed");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn publish(redis: SocketAddr, pace: Duration, done: &AtomicBool, published: &Mutex<Numbers>) {
    let mut connection: Option<Resp> = None;
    while !done.load(Ordering::SeqCst) {
        // Paced, because a burst that no shard keeps up with would be told as a gap of its own.
        thread::sleep(pace);
        let Some(client) = &mut connection else {
            connection = Resp::try_connect(redis).and_then(|client| client.try_named(OURS));
            continue;
        };
        let number = published.lock().unwrap().count;
        let answered = client.try_publish("fanwheel:a", number.to_string().as_bytes()).is_some();
        let mut published = published.lock().unwrap();
        published.count += 1;
        if !answered {
            published.uncertain.push(number);
            connection = None;
        }
    }
}
