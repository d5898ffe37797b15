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
//! Stopping: every shard closes its streams and ends; then the process does.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc};
use tracing::{error, info};

use crate::clock::Clock;
use crate::config::Config;
use crate::edge::admin::{self, Admin};
use crate::edge::calls::{Call, Peers};
use crate::edge::desk::{Desk, DeskParts};
use crate::edge::http::pages::Pages;
use crate::edge::turn::{Turn, TurnParts};
use crate::edge::{DESCRIPTOR_RESERVE, EdgeLimits, Occupancy, listener};
use crate::engine::mailbox::{Mailbox, MailboxLimits};
use crate::engine::{Inbound, Interest, Publish, Shard};
use crate::event::Event;
use crate::feed::{self, Feed};
use crate::metrics::SourceCounters;
use crate::shutdown::Signals;
use crate::source::memory::{Handle, Sequencer};
use crate::source::redis::publisher::Publisher;
use crate::source::redis::subscriber::Subscriber;
use crate::source::redis::{RedisConfig, RedisProblem};
use crate::topic::Topic;

/// Questions waiting for one shard; each is answered within a turn.
const CALLS_MAX: usize = 1024;
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
    /// A shard's thread has ended by itself.
    #[error("shard {0} has failed; the log says why")]
    ShardFailed(usize),
}

/// What all shards share, and what each is given.
struct ShardSetup {
    index: usize,
    config: Config,
    feed: bool,
    listener: TcpListener,
    inboxes: Vec<Arc<Mailbox<Inbound>>>,
    wake: Arc<Notify>,
    calls: Arc<Mailbox<Call>>,
    peers: Peers,
    occupancy: Arc<Occupancy>,
    edge_limits: EdgeLimits,
    pages: Option<Pages>,
    counters: Vec<Arc<SourceCounters>>,
    clock: Clock,
    /// The embedded broker: its sequencer goes to shard 0, a handle to every shard.
    sequencer: Option<Sequencer>,
    handle: Option<Handle>,
}

/// Runs a node until a signal ends it. `feed` adds the demo's feed; `say` is given the lines that
/// tell where the node is, once it can be reached.
///
/// # Errors
/// When it cannot start, or a shard has failed.
pub fn run(config: Config, feed: bool, say: impl FnOnce(&str)) -> Result<(), ServerError> {
    let descriptors = raise_descriptor_limit();
    let runtime = runtime()?;
    runtime.block_on(async move {
        let public = bind(config.listen, config.shards, "--listen")?;
        let admin = bind(config.admin_listen, 1, "--admin-listen")?.remove(0);
        let away = match &config.redis {
            Some(redis) => redis.check().await?,
            None => None,
        };
        let connections_max = config.connections_max.unwrap_or(descriptors.saturating_sub(DESCRIPTOR_RESERVE));
        let addresses = (public[0].local_addr()?, admin.local_addr()?);
        let (shards, admin_state) = set_up(&config, feed, public, connections_max);
        let mut signals = Signals::listen()?;
        let peers = shards[0].peers.clone();
        let (ended, mut failures) = mpsc::unbounded_channel();
        let threads: Vec<_> = shards.into_iter().map(|shard| start(shard, ended.clone())).collect::<Result<_, _>>()?;
        let admin = tokio::net::TcpListener::from_std(admin)?;
        tokio::task::spawn_local(admin::serve(admin, Arc::new(admin_state)));
        say(&banner(&config, addresses, descriptors, connections_max, away.as_deref()));
        tokio::select! {
            signal = signals.next() => info!(signal, "stopping"),
            Some(index) = failures.recv() => return Err(ServerError::ShardFailed(index)),
        }
        peers.stop().await;
        for thread in threads {
            // A shard that has panicked said so itself.
            let _ = thread.join();
        }
        Ok(())
    })
}

/// Everything the shards share, and what the admin listener tells about.
fn set_up(config: &Config, feed: bool, public: Vec<TcpListener>, connections_max: usize) -> (Vec<ShardSetup>, Admin) {
    let clock = Clock::start();
    let occupancy = Arc::new(Occupancy::new(connections_max));
    let wakes: Vec<Arc<Notify>> = public.iter().map(|_| Arc::new(Notify::new())).collect();
    let inboxes: Vec<_> = wakes.iter().map(|wake| mailbox(MailboxLimits::default(), wake)).collect();
    let call_limits = MailboxLimits { messages_max: CALLS_MAX, bytes_max: CALLS_MAX };
    let calls: Vec<_> = wakes.iter().map(|wake| mailbox(call_limits, wake)).collect();
    let peers = Peers(calls.clone().into());
    let counters: Vec<Arc<SourceCounters>> = wakes.iter().map(|_| Arc::default()).collect();
    let mut sequencer = config.redis.is_none().then(|| Sequencer::new(inboxes.clone(), Arc::clone(&counters[0])));
    let handle = sequencer.as_ref().map(Sequencer::handle);
    let pages = (feed || config.demo_pages).then(|| Pages {
        symbols: if feed { Feed::symbols().collect() } else { Vec::new() },
        source: if config.redis.is_some() { "redis" } else { "embedded broker" },
        counters: counters.clone(),
    });
    let admin = Admin {
        peers: peers.clone(),
        sources: counters.clone(),
        occupancy: Arc::clone(&occupancy),
        clock,
        source: config.redis.as_ref().map_or_else(|| "embedded broker".into(), |redis| redis.shown.clone()),
    };
    let shards =
        public.into_iter().zip(wakes).zip(calls).enumerate().map(|(index, ((listener, wake), calls))| ShardSetup {
            index,
            config: config.clone(),
            feed: feed && index == 0,
            listener,
            inboxes: inboxes.clone(),
            wake,
            calls,
            peers: peers.clone(),
            occupancy: Arc::clone(&occupancy),
            edge_limits: EdgeLimits { connections_max, topics_per_stream_max: config.topics_per_stream_max },
            pages: pages.clone(),
            counters: counters.clone(),
            clock,
            sequencer: sequencer.take(),
            handle: handle.clone(),
        });
    (shards.collect(), admin)
}

fn mailbox<T>(limits: MailboxLimits, wake: &Arc<Notify>) -> Arc<Mailbox<T>> {
    let wake = Arc::clone(wake);
    Arc::new(Mailbox::new(limits, move || wake.notify_one()))
}

/// Starts a shard's thread. Its index is sent when it ends by itself.
fn start(setup: ShardSetup, ended: mpsc::UnboundedSender<usize>) -> io::Result<thread::JoinHandle<()>> {
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
        if let Err(error) = run_shard(setup) {
            error!(shard = index, %error, "the shard cannot run");
        }
    })
}

/// The whole life of a shard's thread.
fn run_shard(setup: ShardSetup) -> io::Result<()> {
    let runtime = runtime()?;
    runtime.block_on(async move {
        let inbox = Arc::clone(&setup.inboxes[setup.index]);
        let (publish, interest) = source(&setup, &inbox);
        if setup.feed {
            tokio::task::spawn_local(run_feed(Rc::clone(&publish), setup.clock));
        }
        let desk = Rc::new(Desk::new(DeskParts {
            publish,
            peers: setup.peers,
            occupancy: setup.occupancy,
            limits: setup.edge_limits,
            origins: setup.config.origins,
            pages: setup.pages,
            clock: setup.clock,
            wake: Arc::clone(&setup.wake),
        }));
        if let Some(sequencer) = setup.sequencer {
            tokio::task::spawn_local(sequencer.run());
        }
        let shard = Shard::new(setup.config.limits, setup.clock.now_tick(), fastrand::u64(..));
        let wake = setup.wake;
        let clock = setup.clock;
        let turn =
            Turn::new(TurnParts { shard, inbox, calls: setup.calls, interest, desk: Rc::clone(&desk), wake, clock })?;
        let listener = tokio::net::TcpListener::from_std(setup.listener)?;
        let accepting = tokio::task::spawn_local(listener::accept(listener, desk));
        turn.run().await;
        accepting.abort();
        Ok(())
    })
}

/// The shard's part of the source: how it publishes, and how it asks for topics.
fn source(setup: &ShardSetup, inbox: &Arc<Mailbox<Inbound>>) -> (Rc<dyn Publish>, Box<dyn Interest>) {
    match (&setup.config.redis, &setup.handle) {
        (Some(redis), _) => from_redis(setup, redis.clone(), inbox),
        (None, Some(handle)) => (Rc::new(handle.clone()), Box::new(handle.clone())),
        (None, None) => unreachable!("a node without Redis has a sequencer"),
    }
}

fn from_redis(
    setup: &ShardSetup,
    redis: RedisConfig,
    inbox: &Arc<Mailbox<Inbound>>,
) -> (Rc<dyn Publish>, Box<dyn Interest>) {
    let counters = Arc::clone(&setup.counters[setup.index]);
    let subscriber = Subscriber::new(setup.index, redis.clone(), Arc::clone(inbox), counters, setup.clock);
    let wishes = subscriber.wishes();
    tokio::task::spawn_local(subscriber.run());
    (Rc::new(Publisher::new(redis)), Box::new(wishes))
}

/// Publishes quotes until the node stops.
async fn run_feed(publish: Rc<dyn Publish>, clock: Clock) {
    let mut feed = Feed::new(fastrand::u64(..));
    let symbols = Feed::symbols().len() as u64;
    let mut timer = tokio::time::interval(Duration::from_millis(feed::ROUND_MS * FEED_BURST / symbols));
    loop {
        timer.tick().await;
        for _ in 0..FEED_BURST {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let quote = feed.next_quote(u64::try_from(since_1970.as_millis()).unwrap_or_default());
            let event = Event {
                topic: Topic::parse(&quote.topic).expect("`ticker.` and a symbol is a topic"),
                name: None,
                key: None,
                data: Bytes::from(quote.data),
                id: None,
                received_us: clock.now_us(),
            };
            // A quote that is not accepted is followed by another within half a second.
            let _ = publish.publish(event).await;
        }
    }
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

fn bind(address: SocketAddr, count: usize, flag: &str) -> Result<Vec<TcpListener>, ServerError> {
    listener::bind(address, count).map_err(|error| {
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

/// What an operator sees first.
fn banner(
    config: &Config,
    (public, admin): (SocketAddr, SocketAddr),
    descriptors: usize,
    connections_max: usize,
    away: Option<&str>,
) -> String {
    let source = match (&config.redis, away) {
        (None, _) => "embedded broker: events live in this process only (--redis URL joins several nodes)".to_owned(),
        (Some(redis), None) => redis.shown.clone(),
        (Some(redis), Some(why)) => format!("{} (NOT CONNECTED: {why}; trying on)", redis.shown),
    };
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
