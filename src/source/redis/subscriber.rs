//! The subscriber: one shard's connection to Redis, from which its events come.
//!
//! The client library calls a closure for every push, inside the connection's own task. The closure
//! puts messages into the shard's bounded inbox and never waits; an inbox that runs over keeps a gap
//! mark. Everything else (connecting, subscribing, giving up) is done by [`Subscriber::run`].
//!
//! The library's own resubscription is off: it does not say when it failed. After a new connection
//! the engine asks for every topic again, and each confirmation comes through the inbox.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::engine::mailbox::Mailbox;
use crate::engine::{Confirmation, Inbound, Interest, Wish};
use crate::event::Event;
use crate::metrics::SourceCounters;
use crate::source::redis::{RedisConfig, envelope};
use crate::topic::Topic;

/// Channels named in one SUBSCRIBE: at 255 bytes each about 64 KiB.
const CHANNELS_PER_COMMAND: usize = 256;
/// Pauses between attempts to connect, the first of which is made at once.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(1);
/// A connection that lived shorter than this was none: the next attempt waits as after a failure.
const LIVED: Duration = Duration::from_secs(1);
/// How often a full inbox is tried again, when a connection's coming or going must be told.
const INBOX_RETRY: Duration = Duration::from_millis(5);

/// See the module.
pub struct Subscriber {
    config: RedisConfig,
    inbox: Arc<Mailbox<Inbound>>,
    counters: Arc<SourceCounters>,
    clock: Clock,
    wishes: Wishes,
    /// The connection whose pushes count; closures of others drop theirs.
    generation: Arc<AtomicU32>,
    shard: usize,
}

/// The engine's wishes, on their way to Redis. They are dropped when the connection is, or when the
/// engine begins anew, and it asks again. Wishes wait for the connection they were meant for: the
/// engine may not have heard yet that an earlier one is gone.
#[derive(Clone, Default)]
pub struct Wishes(Rc<WishQueue>);

#[derive(Default)]
struct WishQueue {
    /// The connection the wishes are meant for.
    generation: Cell<Option<u32>>,
    waiting: RefCell<VecDeque<Wish>>,
    arrived: Notify,
}

impl Interest for Wishes {
    fn renew(&mut self, generation: u32) {
        self.0.waiting.borrow_mut().clear();
        self.0.generation.set(Some(generation));
    }

    fn subscribe(&mut self, topic: &Topic) -> Confirmation {
        self.push(Wish::Subscribe(topic.clone()))
    }

    fn unsubscribe(&mut self, topic: &Topic) -> Confirmation {
        self.push(Wish::Unsubscribe(topic.clone()))
    }
}

impl Wishes {
    fn push(&mut self, wish: Wish) -> Confirmation {
        self.0.waiting.borrow_mut().push_back(wish);
        self.0.arrived.notify_one();
        Confirmation::Later
    }

    /// The next wishes of one kind for a connection, in order.
    fn take_batch(&self, generation: u32) -> Vec<Wish> {
        if self.0.generation.get() != Some(generation) {
            return Vec::new();
        }
        let mut waiting = self.0.waiting.borrow_mut();
        let is_subscribe = |wish: &Wish| matches!(wish, Wish::Subscribe(_));
        let kind = waiting.front().map(is_subscribe);
        let count =
            waiting.iter().take(CHANNELS_PER_COMMAND).take_while(|wish| Some(is_subscribe(wish)) == kind).count();
        waiting.drain(..count).collect()
    }
}

/// Tells that a connection has ended, also when its task goes without a word.
struct EndOfConnection(Arc<Notify>);

impl Drop for EndOfConnection {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Why a connection is given up.
struct Lost(String);

impl Subscriber {
    /// A subscriber for one shard.
    #[must_use]
    pub fn new(
        shard: usize,
        config: RedisConfig,
        inbox: Arc<Mailbox<Inbound>>,
        counters: Arc<SourceCounters>,
        clock: Clock,
    ) -> Subscriber {
        let (wishes, generation) = (Wishes::default(), Arc::default());
        Subscriber { config, inbox, counters, clock, wishes, generation, shard }
    }

    /// Where the engine puts its wishes.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        self.wishes.clone()
    }

    /// Keeps the shard connected until it is dropped.
    pub async fn run(self) {
        let mut pause = Duration::ZERO;
        let mut silent = false;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(PAUSE.start, PAUSE.end).mul_f64(0.75 + 0.25 * fastrand::f64());
            let ended = Arc::new(Notify::new());
            let pushes = Arc::new(self.pushes(Arc::clone(&ended)));
            match self.config.connect(Some(pushes)).await {
                Ok(connection) => {
                    let begun = Instant::now();
                    info!(shard = self.shard, redis = self.config.shown, "subscriber connected");
                    self.tell(Inbound::Connected(self.generation.load(Ordering::Relaxed))).await;
                    let Lost(why) = self.serve(connection, &ended).await;
                    self.generation.fetch_add(1, Ordering::Relaxed);
                    SourceCounters::count(&self.counters.reconnects);
                    warn!(shard = self.shard, redis = self.config.shown, why, "subscriber connection lost");
                    self.tell(Inbound::Disconnected).await;
                    silent = false;
                    if begun.elapsed() > LIVED {
                        pause = Duration::ZERO;
                    }
                }
                // One line when it begins to fail; the metrics say for how long.
                Err(error) if !silent => {
                    warn!(shard = self.shard, redis = self.config.shown, %error, "cannot connect, trying on");
                    silent = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Passes wishes on until the connection is lost.
    async fn serve(&self, mut connection: MultiplexedConnection, ended: &Notify) -> Lost {
        let generation = self.generation.load(Ordering::Relaxed);
        loop {
            let batch = self.wishes.take_batch(generation);
            if !batch.is_empty() {
                tokio::select! {
                    passed = self.pass(&mut connection, batch) => {
                        if let Err(lost) = passed {
                            return lost;
                        }
                    }
                    () = ended.notified() => return Lost("closed by Redis".into()),
                }
                continue;
            }
            tokio::select! {
                () = self.wishes.0.arrived.notified() => {}
                () = ended.notified() => return Lost("closed by Redis".into()),
            }
        }
    }

    /// Sends one command for a batch of wishes of one kind. Redis refuses a command as a whole, so
    /// a refused batch is taken apart to find which channels it means.
    async fn pass(&self, connection: &mut MultiplexedConnection, batch: Vec<Wish>) -> Result<(), Lost> {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let topics = batch.iter().filter_map(Wish::topic);
            let channels: Vec<String> = topics.map(|topic| self.config.channel(topic.as_str())).collect();
            let answer = match batch.first() {
                Some(Wish::Subscribe(_)) => connection.subscribe(channels).await,
                Some(Wish::Unsubscribe(_)) => connection.unsubscribe(channels).await,
                Some(Wish::Renew(_)) | None => Ok(()),
            };
            match answer {
                Ok(()) => {}
                Err(error) if error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() => {
                    return Err(Lost(error.to_string()));
                }
                Err(error) if batch.len() == 1 => {
                    if let Some(topic) = batch[0].topic().cloned() {
                        // Clients choose topics: a line for each would be theirs to write. Readiness says it too.
                        debug!(shard = self.shard, %topic, %error, "Redis refuses a channel");
                        self.tell(Inbound::Refused(topic)).await;
                    }
                }
                Err(_) => {
                    let rest = batch.split_off(batch.len() / 2);
                    batches.push(rest);
                    batches.push(batch);
                }
            }
        }
        Ok(())
    }

    /// Puts a message into the inbox that must not be dropped: waits for room.
    async fn tell(&self, mut message: Inbound) {
        while let Err(back) = self.inbox.offer(message, 0) {
            message = back;
            tokio::time::sleep(INBOX_RETRY).await;
        }
    }

    /// What is called for every push of the next connection.
    fn pushes(
        &self,
        ended: Arc<Notify>,
    ) -> impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync + use<> {
        let mine = self.generation.load(Ordering::Relaxed);
        let ended = EndOfConnection(ended);
        let generation = Arc::clone(&self.generation);
        let inbox = Arc::clone(&self.inbox);
        let counters = Arc::clone(&self.counters);
        let prefix = Arc::clone(&self.config.channel_prefix);
        let clock = self.clock;
        move |push| {
            if push.kind == PushKind::Disconnection {
                ended.0.notify_one();
            } else if generation.load(Ordering::Relaxed) == mine
                && let Some(message) = read_push(push, &prefix, clock, &counters)
            {
                let weight = message.weight();
                inbox.push(message, weight);
                spend_budget();
            }
            Ok(())
        }
    }
}

/// Charges the connection's task with one unit of what the runtime lets a task do before others get
/// their turn. The task itself is charged per read, and one read holds hundreds of messages: it
/// would fill the inbox from a busy socket before the shard's turn could take anything.
fn spend_budget() {
    let spent = pin!(tokio::task::coop::consume_budget());
    // Pending means that the budget is used up. The task notices at its next read, with its own waker.
    let _ = spent.poll(&mut Context::from_waker(Waker::noop()));
}

impl Wish {
    fn topic(&self) -> Option<&Topic> {
        match self {
            Wish::Subscribe(topic) | Wish::Unsubscribe(topic) => Some(topic),
            Wish::Renew(_) => None,
        }
    }
}

/// What a push means to the engine. `None` for pushes that are not about topics.
fn read_push(push: PushInfo, prefix: &str, clock: Clock, counters: &SourceCounters) -> Option<Inbound> {
    let mut values = push.data.into_iter();
    let Value::BulkString(channel) = values.next()? else {
        return None;
    };
    // A topic was checked before it became a channel; this cannot fail for our own subscriptions.
    let topic = Topic::parse_bytes(channel.strip_prefix(prefix.as_bytes())?).ok()?;
    match push.kind {
        PushKind::Message => {
            let Value::BulkString(payload) = values.next()? else {
                return None;
            };
            Some(read_message(topic, payload, clock, counters))
        }
        PushKind::Subscribe => Some(Inbound::Subscribed(topic)),
        PushKind::Unsubscribe => Some(Inbound::Unsubscribed(topic)),
        _ => None,
    }
}

fn read_message(topic: Topic, payload: Vec<u8>, clock: Clock, counters: &SourceCounters) -> Inbound {
    SourceCounters::count(&counters.events);
    let Some(opened) = envelope::open(Bytes::from(payload)) else {
        SourceCounters::count(&counters.too_large);
        return Inbound::TooLarge(topic);
    };
    if opened.mended {
        SourceCounters::count(&counters.not_utf8);
    }
    if opened.malformed {
        SourceCounters::count(&counters.malformed);
    }
    let event =
        Event { topic, name: opened.name, key: opened.key, data: opened.data, id: None, received_us: clock.now_us() };
    Inbound::Event(Arc::new(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EVENT_BYTES_MAX;

    fn topic(name: &str) -> Topic {
        Topic::parse(name).expect("a topic")
    }

    fn push(kind: PushKind, data: &[&[u8]]) -> PushInfo {
        PushInfo { kind, data: data.iter().map(|bytes| Value::BulkString(bytes.to_vec())).collect() }
    }

    #[test]
    fn pushes_become_messages() {
        let counters = SourceCounters::default();
        let read = |push| read_push(push, "p:", Clock::start(), &counters);
        assert!(
            matches!(read(push(PushKind::Message, &[b"p:t", b"x"])), Some(Inbound::Event(event)) if event.topic == topic("t"))
        );
        assert!(matches!(read(push(PushKind::Subscribe, &[b"p:t"])), Some(Inbound::Subscribed(_))));
        assert!(matches!(read(push(PushKind::Unsubscribe, &[b"p:t"])), Some(Inbound::Unsubscribed(_))));
        let huge = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert!(matches!(read(push(PushKind::Message, &[b"p:t", &huge])), Some(Inbound::TooLarge(_))));
        assert!(matches!(read(push(PushKind::Message, &[b"p:t", &huge[1..]])), Some(Inbound::Event(_))));
        for odd in [
            push(PushKind::Message, &[b"q:t", b"x"]),
            push(PushKind::Message, &[b"p:t"]),
            push(PushKind::Invalidate, &[]),
        ] {
            assert!(read(odd).is_none());
        }
    }

    #[test]
    fn wishes_keep_their_order() {
        let mut wishes = Wishes::default();
        wishes.subscribe(&topic("of an earlier connection"));
        wishes.renew(3);
        wishes.subscribe(&topic("a"));
        wishes.subscribe(&topic("b"));
        wishes.unsubscribe(&topic("a"));
        wishes.subscribe(&topic("a"));
        assert!(wishes.take_batch(2).is_empty(), "they are meant for another connection");
        assert_eq!(wishes.take_batch(3), [Wish::Subscribe(topic("a")), Wish::Subscribe(topic("b"))]);
        assert_eq!(wishes.take_batch(3), [Wish::Unsubscribe(topic("a"))]);
        assert_eq!(wishes.take_batch(3), [Wish::Subscribe(topic("a"))]);
        assert!(wishes.take_batch(3).is_empty());
    }
}
