//! The node: binds, starts the shards and their sources, and stops them in the written order.
//!
//! The only place that knows both sources and edge.
//!
//! ```text
//!  main thread:   signals, the admin listener
//!  shard threads: accept, HTTP, subscriber and publisher of Redis, the turn
//!  shard 0 also:  the embedded broker's sequencer, the demo's feed
//! ```
//!
//! Stopping: readiness turns red, the listeners close, every shard answers the requests under way
//! and asks its streams to leave, spread over the drain; then shards and process end. A second signal
//! ends at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

use crate::clock::Clock;
use crate::config::Config;
use crate::edge::admin::{self, Admin};
use crate::edge::admission::{AdmissionLimits, Admissions};
use crate::edge::calls::{CALLS_MAX, Call, Peers};
use crate::edge::desk::{Desk, Node};
use crate::edge::http::pages::Pages;
use crate::edge::turn::{Turn, TurnParts};
use crate::edge::{DESCRIPTOR_RESERVE, listener};
use crate::engine::mailbox::{Mailbox, MailboxLimits};
use crate::engine::policy::READS_MAX;
use crate::engine::wheel::TICK_MS;
use crate::engine::{Answered, Archive, Inbound, Interest, Publish, Shard};
use crate::event::{Event, Tag};
use crate::feed::{self, Feed};
use crate::metrics::SourceCounters;
use crate::shutdown::{self, Signals, Stop};
use crate::source::memory::{Handle, Sequencer, SequencerParts};
use crate::source::redis::interest::ShardInterest;
use crate::source::redis::publisher::Publisher;
use crate::source::redis::subscriber::Subscriber;
use crate::source::redis::{Found, RedisConfig, RedisProblem, janitor};
use crate::topic::Topic;

/// How long the shards may take to end, beyond the drain.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for this long is dead; longer than a blocked reader is waited for,
/// so that such a one is closed by its own deadline and counted so.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(60);
const USER_TIMEOUT_MARGIN: Duration = Duration::from_secs(10);
/// Symbols the feed quotes at once, so that its timer fires 25 times a second.
const FEED_BURST: u64 = 5;

/// Why a node did not start, or ended. Each is a sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {error}; {remedy}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
        /// What to do.
        remedy: String,
    },
    /// Redis cannot be used.
    #[error(transparent)]
    Redis(#[from] RedisProblem),
    /// A system call failed that should not.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A shard did not end in time.
    #[error("the shards did not stop within {} s", .0.as_secs())]
    StopTimeout(Duration),
    /// The descriptor limit leaves no room for clients.
    #[error(
        "the descriptor limit is {0}, and {DESCRIPTOR_RESERVE} are kept for the node itself; raise it (ulimit -n, LimitNOFILE=)"
    )]
    Descriptors(usize),
    /// A shard's thread has ended by itself.
    #[error("shard {0} has failed; the log says why")]
    ShardFailed(usize),
}

/// What all shards share, and what each is given.
struct ShardSetup {
    index: usize,
    config: Config,
    redis: Option<RedisConfig>,
    feed: bool,
    listener: TcpListener,
    inboxes: Vec<Arc<Mailbox<Inbound>>>,
    wake: Arc<Notify>,
    calls: Arc<Mailbox<Call>>,
    answers: Vec<Arc<Mailbox<Answered>>>,
    peers: Peers,
    admissions: Arc<Admissions>,
    pages: Option<Pages>,
    counters: Vec<Arc<SourceCounters>>,
    clock: Clock,
    stop: Stop,
    unfinished: Arc<AtomicUsize>,
    /// The embedded broker: its sequencer goes to shard 0, a handle to every shard.
    sequencer: Option<Sequencer>,
    handle: Option<Handle>,
}

/// Runs a node until a signal ends it. `feed` adds the demo's feed; `say` is given the lines that
/// tell where the node is, once it can be reached; `give_back_memory` is called by each shard when it has time.
///
/// # Errors
/// When it cannot start, or a shard has failed.
pub fn run(config: Config, feed: bool, give_back_memory: fn(), say: impl FnOnce(&str)) -> Result<(), ServerError> {
    let descriptors = raise_descriptor_limit();
    let runtime = runtime()?;
    let ended = runtime.block_on(async move {
        let redis = config.redis.as_ref().map(|url| RedisConfig::parse(url, &config.channel_prefix)).transpose()?;
        let redis = redis.map(|redis| redis.with_histories(&config.key_prefix, config.limits.classes.clone()));
        let user_timeout = USER_TIMEOUT_MIN.max(config.limits.stall() + USER_TIMEOUT_MARGIN);
        let public = bind(config.listen, config.shards, "--listen", user_timeout)?;
        let admin = bind(config.admin_listen, 1, "--admin-listen", user_timeout)?.remove(0);
        let found = match &redis {
            Some(redis) => Some((redis.shown.as_str(), redis.check().await?)),
            None => None,
        };
        let room = descriptors.saturating_sub(DESCRIPTOR_RESERVE);
        if room == 0 {
            return Err(ServerError::Descriptors(descriptors));
        }
        let connections_max = config.connections_max.unwrap_or(room).min(room);
        let addresses = (public[0].local_addr()?, admin.local_addr()?);
        let (stopper, stop) = shutdown::stop();
        let (shards, admin_state) = set_up(&config, redis.as_ref(), feed, public, connections_max, &stop);
        let mut signals = Signals::listen()?;
        let wakes: Vec<Arc<Notify>> = shards.iter().map(|shard| Arc::clone(&shard.wake)).collect();
        let (ended, mut ends) = mpsc::unbounded_channel();
        shards.into_iter().try_for_each(|shard| start(shard, give_back_memory, ended.clone()))?;
        drop(ended);
        let admin = tokio::net::TcpListener::from_std(admin)?;
        tokio::task::spawn_local(admin::serve(admin, Arc::new(admin_state)));
        let source = source_line(found.as_ref());
        say(&banner(&config, addresses, descriptors, connections_max, &source));
        tokio::select! {
            signal = signals.next() => info!(signal, drain = ?config.drain, "stopping; a second signal ends at once"),
            Some(index) = ends.recv() => return Err(ServerError::ShardFailed(index)),
        }
        stopper.set();
        wakes.iter().for_each(|wake| wake.notify_one());
        let stop_timeout = config.drain + STOP_MARGIN;
        // The channel is closed when the last shard has ended.
        let all_ended = async { while ends.recv().await.is_some() {} };
        tokio::select! {
            () = all_ended => Ok(()),
            () = tokio::time::sleep(stop_timeout) => Err(ServerError::StopTimeout(stop_timeout)),
            signal = signals.next() => {
                info!(signal, "ending at once");
                Ok(())
            }
        }
    });
    // As for a shard: a name look-up that hangs must not keep the node from ending.
    runtime.shutdown_background();
    ended
}

/// Everything the shards share, and what the admin listener tells about.
fn set_up(
    config: &Config,
    redis: Option<&RedisConfig>,
    feed: bool,
    public: Vec<TcpListener>,
    connections_max: usize,
    stop: &Stop,
) -> (Vec<ShardSetup>, Admin) {
    let clock = Clock::start();
    let admissions = Arc::new(Admissions::new(AdmissionLimits {
        connections_max,
        per_address_max: config.connections_per_address,
        accepts_per_second: config.accept_rate,
    }));
    let unfinished = Arc::new(AtomicUsize::new(public.len()));
    let wakes: Vec<Arc<Notify>> = public.iter().map(|_| Arc::new(Notify::new())).collect();
    let inboxes: Vec<_> = wakes.iter().map(|wake| mailbox(MailboxLimits::default(), wake)).collect();
    let call_limits = MailboxLimits { messages_max: CALLS_MAX, bytes_max: CALLS_MAX };
    let calls: Vec<_> = wakes.iter().map(|wake| mailbox(call_limits, wake)).collect();
    let answer_limits = MailboxLimits { messages_max: READS_MAX, bytes_max: READS_MAX };
    let answers: Vec<_> = wakes.iter().map(|wake| mailbox(answer_limits, wake)).collect();
    let peers = Peers(calls.clone().into());
    let counters: Vec<Arc<SourceCounters>> = wakes.iter().map(|_| Arc::default()).collect();
    let mut sequencer = redis.is_none().then(|| {
        Sequencer::new(SequencerParts {
            inboxes: inboxes.clone(),
            answers: answers.clone(),
            counters: Arc::clone(&counters[0]),
            classes: config.limits.classes.clone(),
            history_bytes_max: config.history_memory,
            tag: Tag::draw(&mut fastrand::Rng::new()),
            now_ms: Box::new(wall_ms),
        })
    });
    let handles: Vec<Option<Handle>> =
        (0..public.len()).map(|shard| sequencer.as_ref().map(|sequencer| sequencer.handle(shard))).collect();
    let pages = (feed || config.demo_pages).then(|| Pages {
        symbols: if feed { Feed::symbols().collect() } else { Vec::new() },
        source: if redis.is_some() { "redis" } else { "embedded broker" },
        counters: counters.clone(),
    });
    let admin = Admin {
        peers: peers.clone(),
        sources: counters.clone(),
        admissions: Arc::clone(&admissions),
        stop: stop.clone(),
        clock,
        source: redis.map_or_else(|| "embedded broker".into(), |redis| redis.shown.clone()),
    };
    let shards =
        public.into_iter().zip(wakes).zip(calls).enumerate().map(|(index, ((listener, wake), calls))| ShardSetup {
            index,
            config: config.clone(),
            redis: redis.cloned(),
            stop: stop.clone(),
            unfinished: Arc::clone(&unfinished),
            feed: feed && index == 0,
            listener,
            inboxes: inboxes.clone(),
            wake,
            calls,
            answers: answers.clone(),
            peers: peers.clone(),
            admissions: Arc::clone(&admissions),
            pages: pages.clone(),
            counters: counters.clone(),
            clock,
            sequencer: sequencer.take(),
            handle: handles[index].clone(),
        });
    (shards.collect(), admin)
}

fn mailbox<T>(limits: MailboxLimits, wake: &Arc<Notify>) -> Arc<Mailbox<T>> {
    let wake = Arc::clone(wake);
    Arc::new(Mailbox::new(limits, move || wake.notify_one()))
}

/// Starts a shard's thread. Its index is sent when it ends.
fn start(setup: ShardSetup, give_back_memory: fn(), ended: mpsc::UnboundedSender<usize>) -> io::Result<()> {
    struct Ended(usize, mpsc::UnboundedSender<usize>);
    impl Drop for Ended {
        fn drop(&mut self) {
            // Nobody listens any more when the node is stopping.
            let _ = self.1.send(self.0);
        }
    }
    thread::Builder::new().name(format!("shard-{}", setup.index)).spawn(move || {
        let _ended = Ended(setup.index, ended);
        let index = setup.index;
        if let Err(error) = run_shard(setup, give_back_memory) {
            error!(shard = index, %error, "the shard has failed");
        }
    })?;
    Ok(())
}

/// The whole life of a shard's thread. A task that the shard cannot do without takes it down when it
/// ends: a shard that is deaf must not look healthy.
fn run_shard(setup: ShardSetup, give_back_memory: fn()) -> io::Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async move {
        let mut needed = JoinSet::new();
        let inbox = Arc::clone(&setup.inboxes[setup.index]);
        let (publish, archive, interest) = source(&setup, &inbox, &mut needed);
        if setup.feed {
            tokio::task::spawn_local(run_feed(Rc::clone(&publish), setup.clock));
        }
        let desk = Rc::new(Desk::new(Node {
            publish,
            archive,
            classes: setup.config.limits.classes.clone(),
            peers: setup.peers,
            admissions: setup.admissions,
            topics_per_stream_max: setup.config.topics_per_stream_max,
            heartbeat: Duration::from_millis(u64::from(setup.config.limits.heartbeat_ticks) * TICK_MS),
            stop: setup.stop,
            unfinished: setup.unfinished,
            origins: setup.config.origins,
            pages: setup.pages,
            clock: setup.clock,
            wake: Arc::clone(&setup.wake),
        }));
        if let Some(sequencer) = setup.sequencer {
            needed.spawn_local(sequencer.run());
        }
        let shard = Shard::new(setup.config.limits, setup.clock.now_tick(), fastrand::u64(..));
        let wake = setup.wake;
        let clock = setup.clock;
        let turn = Turn::new(TurnParts {
            shard,
            inbox,
            calls: setup.calls,
            answers: Arc::clone(&setup.answers[setup.index]),
            interest,
            desk: Rc::clone(&desk),
            wake,
            clock,
            give_back_memory,
            drain_ticks: u32::try_from(setup.config.drain.as_millis()).map_or(u32::MAX, |ms| ms / TICK_MS as u32),
        })?;
        let listener = tokio::net::TcpListener::from_std(setup.listener)?;
        needed.spawn_local(listener::accept(listener, desk));
        tokio::select! {
            () = turn.run() => Ok(()),
            _ = needed.join_next() => Err(io::Error::other("a task it cannot do without has ended")),
        }
    });
    // A name look-up that hangs in the resolver must not keep the node from ending.
    runtime.shutdown_background();
    ended
}

/// The shard's part of the source: how it publishes, and how it asks for topics.
fn source(
    setup: &ShardSetup,
    inbox: &Arc<Mailbox<Inbound>>,
    needed: &mut JoinSet<()>,
) -> (Rc<dyn Publish>, Rc<dyn Archive>, Box<dyn Interest>) {
    match (&setup.redis, &setup.handle) {
        (Some(redis), _) => from_redis(setup, redis.clone(), inbox, needed),
        (None, Some(handle)) => (Rc::new(handle.clone()), Rc::new(handle.clone()), Box::new(handle.clone())),
        (None, None) => unreachable!("a node without Redis has a sequencer"),
    }
}

fn from_redis(
    setup: &ShardSetup,
    redis: RedisConfig,
    inbox: &Arc<Mailbox<Inbound>>,
    needed: &mut JoinSet<()>,
) -> (Rc<dyn Publish>, Rc<dyn Archive>, Box<dyn Interest>) {
    let counters = Arc::clone(&setup.counters[setup.index]);
    let publisher = Publisher::of_shard(redis.clone(), setup.clock, Arc::clone(&counters));
    if setup.index == 0 && redis.has_histories() {
        needed.spawn_local(janitor::run(publisher.clone()));
    }
    let inbox = Arc::clone(inbox);
    let subscriber = Subscriber::new(setup.index, redis, inbox, counters, setup.clock, publisher.clone());
    let answers = Arc::clone(&setup.answers[setup.index]);
    let interest = ShardInterest::new(subscriber.wishes(), publisher.clone(), answers);
    needed.spawn_local(subscriber.run());
    (Rc::new(publisher.clone()), Rc::new(publisher), Box::new(interest))
}

/// Publishes quotes until the node stops.
async fn run_feed(publish: Rc<dyn Publish>, clock: Clock) {
    let mut feed = Feed::new(fastrand::u64(..));
    let symbols = Feed::symbols().len() as u64;
    let mut timer = tokio::time::interval(Duration::from_millis(feed::ROUND_MS * FEED_BURST / symbols));
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        timer.tick().await;
        for _ in 0..FEED_BURST {
            let quote = feed.next_quote(wall_ms());
            let event = Event {
                topic: Topic::parse(&quote.topic).expect("`ticker.` and a symbol is a topic"),
                name: None,
                key: None,
                data: Bytes::from(quote.data),
                stored: None,
                received_us: clock.now_us(),
            };
            // A quote that is not accepted is followed by another within half a second.
            let _ = publish.publish(event.into()).await;
        }
    }
}

/// The wall clock, in ms since 1970; 0 before that.
fn wall_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or_default()
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

fn bind(
    address: SocketAddr,
    count: usize,
    flag: &str,
    user_timeout: Duration,
) -> Result<Vec<TcpListener>, ServerError> {
    listener::bind(address, count, user_timeout).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => format!("another program listens there, end it or choose another {flag}"),
            io::ErrorKind::PermissionDenied => format!("ports below 1024 need a privilege, choose another {flag}"),
            io::ErrorKind::AddrNotAvailable => format!("this machine has no such address, choose another {flag}"),
            _ => format!("choose another {flag}"),
        };
        ServerError::Bind { address, error, remedy }
    })
}

/// Raises the soft limit of descriptors to the hard one and gives what holds now.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// What feeds the node, as its operator is told at start.
fn source_line(found: Option<&(&str, Found)>) -> String {
    match found {
        None => "embedded broker: events live in this process only (--redis URL joins several nodes)".to_owned(),
        Some((redis, Found::Ready(what))) => format!("{redis} ({what})"),
        Some((redis, Found::NotYet(why))) => format!("{redis} (NOT CONNECTED: {why}; trying on)"),
    }
}

/// What an operator sees first.
fn banner(
    config: &Config,
    (public, admin): (SocketAddr, SocketAddr),
    descriptors: usize,
    connections_max: usize,
    source: &str,
) -> String {
    format!(
        "fanwheel {version}\n  \
         listening    http://{public}\n  \
         admin        http://{admin}\n  \
         source       {source}\n  \
         shards       {shards}\n  \
         descriptors  {descriptors} (connections: {connections_max})",
        version = env!("CARGO_PKG_VERSION"),
        shards = config.shards,
    )
}
