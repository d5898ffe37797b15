//! The subscriber: one shard's connection to Redis, from which its events come.
//!
//! The client library calls a closure for every push, inside the connection's own task. The closure
//! puts messages into the shard's bounded inbox and never waits; an inbox that runs over keeps a gap
//! mark. Everything else (connecting, subscribing, giving up) is done by [`Subscriber::run`].
//!
//! The library's own resubscription is off: it does not say when it failed. After a new connection
//! the engine asks for every topic again, and each confirmation comes through the inbox.
//!
//! A connection is told to the engine when a first probe has come back on it, and given up when one
//! does not ([`probe`](crate::source::redis::probe)).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::engine::mailbox::Mailbox;
use crate::engine::policy::Classes;
use crate::engine::{Confirmation, Inbound, Wish};
use crate::metrics::SourceCounters;
use crate::source::redis::RedisConfig;
use crate::source::redis::probe::{Probe, Signs, Step, TICK};
use crate::source::redis::publisher::{Failed, Publisher};
use crate::source::redis::pushes::{Pushes, read_probe};
use crate::source::redis::server::Server;
use crate::source::redis::trouble::Trouble;
use crate::topic::Topic;

/// Channels named in one SUBSCRIBE: at 255 bytes each about 64 KiB.
const CHANNELS_PER_COMMAND: usize = 256;
/// From the beginning of one attempt to connect to the next, which waits for the end of the one before;
/// the first is made at once.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(1);
/// A connection that lived shorter than this was none: the next attempt waits as after a failure.
const LIVED: Duration = Duration::from_secs(1);
/// How long the first probe of a connection may take, its subscription included.
const PROOF_TIMEOUT: Duration = Duration::from_secs(1);
/// How soon a call of the script that was refused is made again.
const BARRIER_RETRY: Duration = Duration::from_millis(200);
/// How often a full inbox is tried again, when a connection's coming or going must be told.
const INBOX_RETRY: Duration = Duration::from_millis(5);

/// See the module.
pub struct Subscriber {
    config: RedisConfig,
    inbox: Arc<Mailbox<Inbound>>,
    counters: Arc<SourceCounters>,
    clock: Clock,
    wishes: Wishes,
    /// Probes go over this one's link.
    publisher: Publisher,
    /// The latest probe's number; it never begins anew, so that a late one cannot be taken for another.
    probed: Cell<u64>,
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
    /// The newest question for a marker behind the one under way.
    question: Cell<Option<u64>>,
    barrier_arrived: Notify,
}

impl Wishes {
    /// See [`Interest::renew`](crate::engine::Interest::renew); so with the others.
    pub fn renew(&self, generation: u32) {
        self.0.waiting.borrow_mut().clear();
        self.0.question.set(None);
        self.0.generation.set(Some(generation));
    }

    /// Asks for a topic.
    pub fn subscribe(&self, topic: &Topic) -> Confirmation {
        self.push(Wish::Subscribe(topic.clone()))
    }

    /// Asks for no more of a topic.
    pub fn unsubscribe(&self, topic: &Topic) -> Confirmation {
        self.push(Wish::Unsubscribe(topic.clone()))
    }

    /// Asks for a marker. Those asked for while one is under way are one more.
    pub fn ask_barrier(&self, question: u64) {
        self.0.question.set(Some(question));
        self.0.barrier_arrived.notify_one();
    }

    /// The question with which a marker is to be asked for on this connection.
    fn take_barrier(&self, generation: u32) -> Option<u64> {
        if self.0.generation.get() == Some(generation) { self.0.question.take() } else { None }
    }

    fn push(&self, wish: Wish) -> Confirmation {
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

/// What the closure of one connection has seen; the subscriber looks at it in its own time.
#[derive(Default)]
struct Seen {
    ended: Notify,
    pushes: AtomicU64,
    /// The highest probe that came back.
    returned: AtomicU64,
    /// Told when one did.
    proven: Notify,
}

/// Tells that a connection has ended, also when its task goes without a word.
struct EndOfConnection(Arc<Seen>);

impl Drop for EndOfConnection {
    fn drop(&mut self) {
        self.0.ended.notify_one();
    }
}

impl Subscriber {
    /// A subscriber for one shard, which is probed through the publisher of the same shard.
    #[must_use]
    pub fn new(
        shard: usize,
        config: RedisConfig,
        inbox: Arc<Mailbox<Inbound>>,
        counters: Arc<SourceCounters>,
        clock: Clock,
        publisher: Publisher,
    ) -> Subscriber {
        counters.tell_waiting(format!("no connection to Redis at {} yet", config.shown));
        let (wishes, generation, probed) = (Wishes::default(), Arc::default(), Cell::new(0));
        Subscriber { config, inbox, counters, clock, wishes, publisher, probed, generation, shard }
    }

    /// Where the engine puts its wishes.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        self.wishes.clone()
    }

    /// Keeps the shard connected until it is dropped.
    pub async fn run(self) {
        let mut pause = PAUSE.start;
        // What the log said last, while there is no connection: one line when it changes, and the
        // metrics say for how long.
        let mut said = None;
        loop {
            let begun = Instant::now();
            let seen = Arc::new(Seen::default());
            let trouble = match self.connect(&seen).await {
                Ok((connection, server)) => {
                    said = None;
                    let proven = Instant::now();
                    let trouble = self.live(connection, &server, &seen).await;
                    if proven.elapsed() > LIVED {
                        pause = PAUSE.start;
                    }
                    trouble
                }
                Err(trouble) => {
                    let why = trouble.sentence(&self.config.shown);
                    self.counters.tell_trouble(why.clone());
                    let kind = Some(std::mem::discriminant(&trouble));
                    if said != kind {
                        warn!(shard = self.shard, redis = self.config.shown, why, "cannot connect, trying on");
                        said = kind;
                    }
                    trouble
                }
            };
            if trouble == Trouble::Replica {
                // Whatever the link leads to: publishing must not be accepted where nobody hears it.
                self.publisher.give_up(trouble);
            }
            tokio::time::sleep_until((begun + pause).into()).await;
            pause = (pause * 2).min(PAUSE.end).mul_f64(0.75 + 0.25 * fastrand::f64());
        }
    }

    /// A connection on which a probe has come back.
    async fn connect(&self, seen: &Arc<Seen>) -> Result<(MultiplexedConnection, Server), Trouble> {
        let pushes = Arc::new(self.pushes(Arc::clone(seen)));
        let (mut connection, server) = self.config.connect(Some(pushes)).await?;
        self.config.describe(&server, &mut connection).await;
        tokio::select! {
            proven = tokio::time::timeout(PROOF_TIMEOUT, self.prove(&mut connection, seen)) => match proven {
                Ok(proven) => proven?,
                Err(_) => return Err(self.lost(PROOF_TIMEOUT)),
            },
            () = seen.ended.notified() => return Err(closed()),
        }
        Ok((connection, server))
    }

    /// Subscribes to the probe's channel, sends the first one, and waits until it is back.
    async fn prove(&self, connection: &mut MultiplexedConnection, seen: &Seen) -> Result<(), Trouble> {
        let channel = self.config.probe_channel(self.shard);
        let refused = |error| self.refused(&error, self.config.probe_channels());
        connection.subscribe(&channel).await.map_err(refused)?;
        if self.config.has_histories() {
            let markers = [self.config.marker_channel(self.shard), self.config.loss_channel()];
            let refused = |error| self.refused(&error, self.config.marker_channels());
            connection.subscribe(&markers[..]).await.map_err(refused)?;
        }
        let number = self.probed.get() + 1;
        self.probed.set(number);
        self.publisher.probe(&channel, number, false).await.map_err(refused)?;
        while seen.returned.load(Ordering::Acquire) < number {
            seen.proven.notified().await;
        }
        Ok(())
    }

    /// Redis refuses one of the shard's own channels, all of which begin with `channel`.
    fn refused(&self, error: &RedisError, channel: String) -> Trouble {
        match error.code() {
            Some("NOPERM") => Trouble::ProbeRefused { channel, error: error.to_string() },
            _ => Trouble::of(error),
        }
    }

    /// The life of a connection, as the engine and the operator are told of it.
    async fn live(&self, connection: MultiplexedConnection, server: &Server, seen: &Seen) -> Trouble {
        info!(shard = self.shard, redis = self.config.shown, version = server.version, "subscriber connected");
        self.tell_connected(server);
        self.tell(Inbound::Connected(self.generation.load(Ordering::Relaxed))).await;
        let trouble = tokio::select! {
            trouble = self.pass_wishes(connection.clone()) => trouble,
            trouble = self.watch(connection, server, seen) => trouble,
            () = self.ask_markers(server) => unreachable!("it goes on for ever"),
            () = seen.ended.notified() => closed(),
        };
        self.generation.fetch_add(1, Ordering::Relaxed);
        SourceCounters::count(&self.counters.reconnects);
        let why = trouble.sentence(&self.config.shown);
        self.counters.tell_trouble(why.clone());
        warn!(shard = self.shard, redis = self.config.shown, why, "subscriber connection lost");
        self.tell(Inbound::Disconnected).await;
        trouble
    }

    fn tell_connected(&self, server: &Server) {
        self.counters.tell_connected(server.version.clone(), server.role_name().to_owned());
    }

    /// Passes wishes on until the connection is of no use.
    async fn pass_wishes(&self, mut connection: MultiplexedConnection) -> Trouble {
        let generation = self.generation.load(Ordering::Relaxed);
        loop {
            let batch = self.wishes.take_batch(generation);
            if batch.is_empty() {
                self.wishes.0.arrived.notified().await;
            } else if let Err(trouble) = self.pass(&mut connection, batch).await {
                return trouble;
            }
        }
    }

    /// Has markers published for this connection, one at a time.
    async fn ask_markers(&self, server: &Server) {
        let generation = self.generation.load(Ordering::Relaxed);
        let channel = self.config.marker_channel(self.shard);
        if self.config.has_histories() {
            // Not only with the first reader: until then the node would look ready.
            self.until_accepted(server, async || self.publisher.try_script().await).await;
        }
        loop {
            let Some(question) = self.wishes.take_barrier(generation) else {
                self.wishes.0.barrier_arrived.notified().await;
                continue;
            };
            self.until_accepted(server, async || self.publisher.barrier(&channel, generation, question).await).await;
        }
    }

    /// Calls the script until that succeeds. While Redis refuses it no durable stream can open: readiness says why.
    async fn until_accepted(&self, server: &Server, attempt: impl AsyncFn() -> Result<(), Failed>) {
        let mut told = None;
        while let Err(failed) = attempt().await {
            if let Some(error) = failed.said {
                let lacks = (error.code() == Some("NOPERM")).then(|| self.config.keys.pattern());
                let why = Trouble::ScriptRefused { lacks, error: error.to_string() }.sentence(&self.config.shown);
                self.counters.tell_trouble(why.clone());
                told = Some(why);
            }
            tokio::time::sleep(BARRIER_RETRY).await;
        }
        // What else was told since is not over.
        if told.is_some() && self.counters.told().trouble == told {
            self.tell_connected(server);
        }
    }

    /// Probes the connection until a probe does not come back.
    async fn watch(&self, connection: MultiplexedConnection, server: &Server, seen: &Seen) -> Trouble {
        let channel = self.config.probe_channel(self.shard);
        let mut probe = Probe::after(self.probed.get());
        let mut sending = None;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut before) = (Instant::now(), self.count(seen));
        loop {
            tokio::select! {
                sent = finish(&mut sending) => {
                    sending = None;
                    if let Err(trouble) = sent {
                        return trouble;
                    }
                    continue;
                }
                _ = ticks.tick() => {}
            }
            let (elapsed, now) = (last.elapsed(), self.count(seen));
            last += elapsed;
            let (pushed, active) = (now.0 != before.0, now.1 != before.1);
            before = now;
            let signs = Signs { pushed, active, returned: now.2, answered: sending.is_none() };
            let (number, renewed) = match probe.handle_tick(elapsed, signs) {
                Step::Wait => continue,
                Step::Send(number) => (number, false),
                Step::Repeat(number) => (number, true),
                Step::Doubt(waited) => {
                    let why = self.lost(waited).sentence(&self.config.shown);
                    warn!(shard = self.shard, redis = self.config.shown, why, "events come, a probe does not");
                    self.counters.tell_trouble(why);
                    continue;
                }
                Step::Trust => {
                    info!(shard = self.shard, redis = self.config.shown, "the probe has come back");
                    self.tell_connected(server);
                    continue;
                }
                Step::GiveUp(waited) => return self.lost(waited),
            };
            self.probed.set(number);
            sending = Some(Box::pin(self.send_probe(connection.clone(), &channel, number, renewed)));
        }
    }

    /// Why a probe is away: it could not be sent, or it was.
    fn lost(&self, waited: Duration) -> Trouble {
        self.publisher.trouble().unwrap_or(Trouble::ProbeLost(waited))
    }

    /// Pushes seen, events published or received, highest probe that came back.
    fn count(&self, seen: &Seen) -> (u64, u64, u64) {
        let events = self.counters.events.load(Ordering::Relaxed) + self.publisher.asked();
        (seen.pushes.load(Ordering::Relaxed), events, seen.returned.load(Ordering::Acquire))
    }

    /// Sends a probe over the publisher's link, and asks the subscriber's own server whether it is
    /// still a primary.
    async fn send_probe(
        &self,
        mut connection: MultiplexedConnection,
        channel: &str,
        number: u64,
        renewed: bool,
    ) -> Result<(), Trouble> {
        let sent = async {
            let sent = self.publisher.probe(channel, number, renewed).await;
            sent.map_err(|error| self.refused(&error, self.config.probe_channels()))
        };
        let asked = async {
            // No answer is no news: whether the connection lives is for the probe to say.
            Server::ask(&mut connection).await.map_or(Ok(()), |server| server.require())
        };
        // The first that objects is enough: the other may try on for as long as it is let.
        tokio::try_join!(sent, asked).map(|_| ())
    }

    /// Sends one command for a batch of wishes of one kind. Redis refuses a command as a whole, so
    /// a refused batch is taken apart to find which channels it means.
    async fn pass(&self, connection: &mut MultiplexedConnection, batch: Vec<Wish>) -> Result<(), Trouble> {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let topics = batch.iter().filter_map(Wish::topic);
            let channels: Vec<String> = topics.map(|topic| self.config.channel(topic.as_str())).collect();
            let answer = match batch.first() {
                Some(Wish::Subscribe(_)) => connection.subscribe(channels).await,
                Some(Wish::Unsubscribe(_)) => connection.unsubscribe(channels).await,
                Some(_) | None => Ok(()),
            };
            match answer {
                Ok(()) => {}
                Err(error) if error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() => {
                    return Err(Trouble::of(&error));
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
        seen: Arc<Seen>,
    ) -> impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync + use<> {
        let mine = self.generation.load(Ordering::Relaxed);
        let end = EndOfConnection(Arc::clone(&seen));
        let generation = Arc::clone(&self.generation);
        let inbox = Arc::clone(&self.inbox);
        let counters = Arc::clone(&self.counters);
        let pushes = Pushes {
            prefix: Arc::clone(&self.config.channel_prefix),
            classes: if self.config.has_histories() { self.config.classes.clone() } else { Classes::default() },
            foreign: self.publisher.foreign(),
            markers: self.config.marker_channel(self.shard),
            losses: self.config.loss_channel(),
            generation: mine,
            clock: self.clock,
        };
        let probes = self.config.probe_channel(self.shard);
        move |push| {
            seen.pushes.fetch_add(1, Ordering::Relaxed);
            if push.kind == PushKind::Disconnection {
                end.0.ended.notify_one();
            } else if let Some(number) = read_probe(&push, &probes) {
                seen.returned.fetch_max(number, Ordering::Release);
                seen.proven.notify_one();
            } else if generation.load(Ordering::Relaxed) == mine
                && let Some(message) = pushes.read(push, &counters)
            {
                let weight = message.weight();
                inbox.push(message, weight);
                spend_budget();
            }
            Ok(())
        }
    }
}

/// Waits for the end of what is under way; for ever when nothing is.
async fn finish<T>(under_way: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match under_way {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}

fn closed() -> Trouble {
    Trouble::Away("Redis closed the connection".into())
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
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::parse(name).expect("a topic")
    }

    #[test]
    fn markers_are_asked_for_once_and_on_the_connection_they_are_meant_for() {
        let wishes = Wishes::default();
        wishes.renew(3);
        wishes.ask_barrier(7);
        wishes.ask_barrier(8);
        assert_eq!(wishes.take_barrier(2), None);
        assert_eq!((wishes.take_barrier(3), wishes.take_barrier(3)), (Some(8), None));
        wishes.ask_barrier(9);
        wishes.renew(4);
        assert_eq!(wishes.take_barrier(4), None);
    }

    #[test]
    fn wishes_keep_their_order() {
        let wishes = Wishes::default();
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
