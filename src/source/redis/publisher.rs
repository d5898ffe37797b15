//! The publisher: one shard's link to Redis for PUBLISH, shared by all its requests and by the probe.
//!
//! ```text
//!            first publish                  made
//!   Down ───────────────────► Connecting ─────────► Up
//!    ▲                             │ failed          │ broken, given up, or the server is a replica
//!    └─────────────────────────────┴─────────────────┘
//! ```
//!
//! Publishes are pipelined on one connection. What always holds: one attempt to connect at a time,
//! in a task of its own and with a deadline; whoever publishes waits for an attempt only when it is
//! not known to be in vain, and is refused at once after one that failed, until one succeeds. A link
//! that ends is noticed when it ends, not by the next publish. Each publish has a deadline.
//!
//! Calls of the script go over the same link: publishes on durable topics (`batches`), reads
//! (`reader`), markers. What the server's run is stays with the link it was told on.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, PushInfo, PushKind, RedisError, Value};
use tokio::sync::Notify;
use tracing::warn;

use crate::clock::Clock;
use crate::engine::history::{Answer, Marker};
use crate::engine::{Archive, Publication, Publish, PublishError, Published, Publishing, Read, Reading};
use crate::event::{Event, EventId, Tag};
use crate::metrics::SourceCounters;
use crate::source::redis::batches::Batches;
use crate::source::redis::reader::Reads;
use crate::source::redis::scripts::Reply;
use crate::source::redis::server::Server;
use crate::source::redis::stored::Foreign;
use crate::source::redis::trouble::{Trouble, refusal_of};
use crate::source::redis::{RedisConfig, envelope, scripts};

/// After a failed attempt to connect the next is made no sooner than this, however many publish.
const REFUSAL: Duration = Duration::from_millis(250);
/// How soon a probe that could not be sent is tried again.
const PROBE_RETRY: Duration = Duration::from_millis(100);

/// See the module. Clones share the link.
#[derive(Clone)]
pub struct Publisher(pub(super) Rc<Shared>);

pub(super) struct Shared {
    pub(super) config: RedisConfig,
    pub(super) clock: Clock,
    pub(super) counters: Arc<SourceCounters>,
    pub(super) foreign: Arc<Foreign>,
    link: RefCell<Link>,
    /// Told when an attempt to connect has ended.
    settled: Notify,
    /// Counts links, so that a failure gives up the one it happened on and no later one.
    generation: Cell<u64>,
    /// True exactly when Redis refused the last publish it answered.
    refusing: Cell<bool>,
    /// As `refusing`, for the script.
    refusing_script: Cell<bool>,
    /// True exactly when something was refused of the last call that published on durable topics.
    pub(super) refusing_events: Cell<bool>,
    /// Events that were to be published so far.
    pub(super) asked: Cell<u64>,
    pub(super) batches: Batches,
    pub(super) reads: Reads,
    /// The highest id that was acknowledged, until it is known to be safe or lost.
    pub(super) acknowledged: Cell<Option<EventId>>,
}

#[derive(Clone)]
enum Link {
    Up(Up),
    /// An attempt is under way; `after` is what the one before it ended with, if it failed.
    Connecting {
        after: Option<Trouble>,
    },
    /// Never tried or just ended, or why and when it failed.
    Down(Option<(Instant, Trouble)>),
}

#[derive(Clone)]
struct Up {
    connection: MultiplexedConnection,
    generation: u64,
    /// True exactly when the connection has ended.
    ended: Arc<AtomicBool>,
    /// The `run_id` of the server at its other end; empty until the script has told it.
    run: Rc<RefCell<String>>,
}

/// Why a call of the script came to nothing.
pub(super) struct Failed {
    pub(super) error: PublishError,
    /// What Redis itself said, if it did: then nothing was done.
    pub(super) said: Option<RedisError>,
}

impl Publisher {
    /// Connects when the first event or probe is published.
    #[must_use]
    pub fn new(config: RedisConfig) -> Publisher {
        Publisher::of_shard(config, Clock::start(), Arc::default())
    }

    /// As [`Publisher::new`], for a shard: its clock and counters are for what is read.
    #[must_use]
    pub fn of_shard(config: RedisConfig, clock: Clock, counters: Arc<SourceCounters>) -> Publisher {
        Publisher(Rc::new(Shared {
            config,
            clock,
            counters,
            foreign: Arc::default(),
            link: Link::Down(None).into(),
            settled: Notify::new(),
            generation: Cell::new(0),
            refusing: Cell::new(false),
            refusing_script: Cell::new(false),
            refusing_events: Cell::new(false),
            asked: Cell::new(0),
            batches: Batches::default(),
            reads: Reads::default(),
            acknowledged: Cell::new(None),
        }))
    }

    /// Events that were to be published so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.0.asked.get()
    }

    /// What was met on durable topics that is not ours.
    pub(super) fn foreign(&self) -> Arc<Foreign> {
        Arc::clone(&self.0.foreign)
    }

    /// Why there is no link, when that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match &*self.0.link.borrow() {
            Link::Connecting { after } => after.clone(),
            Link::Down(failed) => failed.as_ref().map(|(_, trouble)| trouble.clone()),
            Link::Up(_) => None,
        }
    }

    /// Gives the link up, whatever its state: the next publish is refused for this reason.
    pub fn give_up(&self, trouble: Trouble) {
        // An attempt under way finds out by itself.
        if !matches!(&*self.0.link.borrow(), Link::Connecting { .. }) {
            *self.0.link.borrow_mut() = Link::Down(Some((Instant::now(), trouble)));
        }
    }

    /// Publishes a probe, over a new link if `renewed`, and tries on until Redis has answered.
    ///
    /// # Errors
    /// When Redis refuses the channel.
    pub async fn probe(&self, channel: &str, number: u64, renewed: bool) -> Result<(), RedisError> {
        if renewed && matches!(&*self.0.link.borrow(), Link::Up(_)) {
            *self.0.link.borrow_mut() = Link::Down(None);
        }
        loop {
            if let Ok(up) = self.0.link().await {
                match self.0.send_probe(&up, channel, number).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) if error.code() == Some("NOPERM") => return Err(error),
                    Err(error) => self.0.fail(up.generation, is_refusal(&error).then(|| Trouble::of(&error))),
                }
            }
            tokio::time::sleep(PROBE_RETRY).await;
        }
    }

    /// Has a marker published on a channel: the answer to this question of this connection. Fails when it was not, or
    /// perhaps not.
    pub(super) async fn barrier(&self, channel: &str, generation: u32, question: u64) -> Result<(), Failed> {
        let arguments = |call: &mut Cmd| {
            call.arg(channel).arg(format!("{generation}.{question}"));
        };
        self.0.warn_if_failed("barrier", self.0.try_call("barrier", &[], arguments).await).map(|_| ())
    }

    /// Asks for the place the history has got to, as every read does: whether Redis lets the script work.
    pub(super) async fn try_script(&self) -> Result<(), Failed> {
        let arguments = |call: &mut Cmd| {
            call.arg(&[0, 0]);
        };
        self.0.warn_if_failed("after", self.0.try_call("after", &[], arguments).await).map(|_| ())
    }

    /// Tells all nodes that events beyond the fence of an incarnation are lost.
    ///
    /// # Errors
    /// When that was not, or perhaps not, done.
    pub async fn mark_lossy(&self, tag: Tag) -> Result<(), PublishError> {
        let channel = self.0.config.loss_channel();
        let arguments = |call: &mut Cmd| {
            call.arg(&channel).arg(tag.to_string());
        };
        self.0.call("lossy", &[], arguments).await.map(|_| ())
    }

    /// Reads the past once.
    ///
    /// # Errors
    /// Why it cannot be read now.
    pub async fn read(&self, read: &Read) -> Result<(Marker, Answer), &'static str> {
        self.0.read(read).await
    }
}

impl Publish for Publisher {
    fn publish(&self, publication: Publication) -> Publishing {
        let shared = Rc::clone(&self.0);
        shared.asked.set(shared.asked.get() + 1);
        match shared.config.classes.class_of(&publication.event.topic).retention() {
            Some(retention) => Box::pin(async move { shared.store(publication, retention).await }),
            None => Box::pin(async move { shared.publish(&publication.event).await }),
        }
    }
}

impl Archive for Publisher {
    fn read(&self, read: Read) -> Reading {
        let publisher = self.clone();
        Box::pin(async move { Publisher::read(&publisher, &read).await })
    }
}

impl Shared {
    async fn publish(self: &Rc<Self>, event: &Event) -> Result<Published, PublishError> {
        let up = self.link().await.map_err(|trouble| PublishError::Refused(trouble.refusal()))?;
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.config.channel(event.topic.as_str())).arg(&envelope::seal(event)[..]);
        let answer: redis::RedisResult<u64> = command.query_async(&mut up.connection.clone()).await;
        let Err(error) = answer else {
            self.refusing.set(false);
            return Ok(Published { id: None });
        };
        if is_refusal(&error) && !self.refusing.replace(true) {
            warn!(%error, "Redis refuses PUBLISH; check the user's ACL and the server's memory");
        }
        Err(self.failure(&up, &error))
    }

    /// Calls an operation of the script. Refused: nothing was done.
    pub(super) async fn call(
        self: &Rc<Self>,
        operation: &str,
        keys: &[String],
        add_arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Reply, PublishError> {
        let called = self.try_call(operation, keys, add_arguments).await;
        self.warn_if_failed(operation, called).map_err(|failed| failed.error)
    }

    /// As [`Shared::call`]; what Redis refuses is not logged.
    pub(super) async fn try_call(
        self: &Rc<Self>,
        operation: &str,
        keys: &[String],
        add_arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Reply, Failed> {
        let link = self.link().await;
        let up = link.map_err(|trouble| Failed { error: PublishError::Refused(trouble.refusal()), said: None })?;
        let mut call = self.config.keys.call(operation, keys, &up.run.borrow());
        add_arguments(&mut call);
        match scripts::run(&mut up.connection.clone(), &call).await {
            Ok(reply) => {
                self.refusing_script.set(false);
                up.run.borrow_mut().clone_from(&reply.run);
                self.note_incarnation(reply.tag);
                Ok(reply)
            }
            Err(error) => {
                let failure = self.failure(&up, &error);
                Err(Failed { error: failure, said: is_refusal(&error).then_some(error) })
            }
        }
    }

    /// Logs what Redis refused.
    pub(super) fn warn_if_failed<T>(&self, operation: &str, called: Result<T, Failed>) -> Result<T, Failed> {
        called.inspect_err(|failed| {
            if let Some(error) = &failed.said {
                self.warn_of_script(operation, error);
            }
        })
    }

    /// Asks Redis something that changes nothing; `None` when there is no answer.
    pub(super) async fn ask(self: &Rc<Self>, command: &Cmd) -> Option<Value> {
        let up = self.link().await.ok()?;
        command.query_async(&mut up.connection.clone()).await.ok()
    }

    /// Logs that Redis does not let the script work, once until it does again.
    pub(super) fn warn_of_script(&self, operation: &str, error: &dyn std::fmt::Display) {
        if !self.refusing_script.replace(true) {
            warn!(operation, %error, "Redis refuses the script of durable topics; check the user's ACL and the server's memory");
        }
    }

    /// What a failed command means for its link, and for whoever asked.
    fn failure(&self, up: &Up, error: &RedisError) -> PublishError {
        if is_refusal(error) {
            // What will be another server, or another user, when it is connected to anew.
            if matches!(error.code(), Some("READONLY" | "NOAUTH" | "WRONGPASS")) {
                self.fail(up.generation, Some(Trouble::of(error)));
            }
            return PublishError::Refused(refusal_of(error.code().unwrap_or_default()));
        }
        // Sent, perhaps; the answer is lost with the connection or late.
        self.fail(up.generation, None);
        PublishError::Unknown
    }

    /// Gives up the link, which leads to a replica now.
    pub(super) fn leave_replica(&self) {
        let generation = self.generation.get();
        self.fail(generation, Some(Trouble::Replica));
    }

    /// The current incarnation, as a reply tells it. When it is another than that of the last acknowledged event, that
    /// event may be lost, and then all nodes are told.
    fn note_incarnation(self: &Rc<Self>, tag: Tag) {
        let Some(acknowledged) = self.acknowledged.get().filter(|acknowledged| acknowledged.tag != tag) else { return };
        self.acknowledged.set(None);
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                if let Ok((marker, _)) = shared.read(&Read::After { topics: Vec::new(), bytes_max: 0 }).await {
                    let mut fences = marker.chain.fences.iter();
                    let fence = fences.find(|fence| fence.tag == acknowledged.tag);
                    let lost = fence.is_some_and(|fence| fence.last < acknowledged.stamp && !fence.lossy);
                    if !lost || Publisher(Rc::clone(&shared)).mark_lossy(acknowledged.tag).await.is_ok() {
                        return;
                    }
                }
                tokio::time::sleep(REFUSAL).await;
            }
        });
    }

    /// True when the probe was published on a primary. What the server says of its role is asked with
    /// each: a link outlives the role of the server it leads to.
    async fn send_probe(&self, up: &Up, channel: &str, number: u64) -> Result<bool, RedisError> {
        let (mut first, mut second) = (up.connection.clone(), up.connection.clone());
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(number);
        let (server, answer) = tokio::join!(Server::ask(&mut first), command.query_async::<u64>(&mut second));
        answer?;
        if server?.is_replica() {
            self.fail(up.generation, Some(Trouble::Replica));
            return Ok(false);
        }
        Ok(true)
    }

    /// A link is of no use any more; a later one is none of its business.
    fn fail(&self, generation: u64, trouble: Option<Trouble>) {
        if matches!(&*self.link.borrow(), Link::Up(up) if up.generation == generation) {
            *self.link.borrow_mut() = Link::Down(trouble.map(|trouble| (Instant::now(), trouble)));
        }
    }

    /// The link, or why there is none. Waits for an attempt, if that is not known to be in vain.
    async fn link(self: &Rc<Self>) -> Result<Up, Trouble> {
        loop {
            // Made before the look: what is told after it is not missed.
            let settled = self.settled.notified();
            if let Some(known) = self.known() {
                return known;
            }
            settled.await;
        }
    }

    /// What is known now; `None` while an attempt is worth waiting for.
    fn known(self: &Rc<Self>) -> Option<Result<Up, Trouble>> {
        let link = self.link.borrow().clone();
        match link {
            Link::Up(up) if !up.ended.load(Ordering::Acquire) => Some(Ok(up)),
            Link::Up(_) | Link::Down(None) => {
                self.begin(None);
                None
            }
            Link::Connecting { after: None } => None,
            Link::Connecting { after: Some(trouble) } => Some(Err(trouble)),
            Link::Down(Some((since, trouble))) => {
                if since.elapsed() >= REFUSAL {
                    self.begin(Some(trouble.clone()));
                }
                Some(Err(trouble))
            }
        }
    }

    /// Begins an attempt, in a task of its own: whoever asked for it may leave.
    fn begin(self: &Rc<Self>, after: Option<Trouble>) {
        *self.link.borrow_mut() = Link::Connecting { after };
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ended = Arc::new(AtomicBool::new(false));
            let made = shared.config.connect(Some(Arc::new(notice_end(&ended)))).await;
            *shared.link.borrow_mut() = match made {
                Ok((mut connection, _)) => {
                    if shared.config.has_histories() {
                        // Where it is refused or lost, the first call says so.
                        let _ = scripts::load(&mut connection).await;
                    }
                    shared.generation.set(shared.generation.get() + 1);
                    Link::Up(Up { connection, generation: shared.generation.get(), ended, run: Rc::default() })
                }
                Err(trouble) => Link::Down(Some((Instant::now(), trouble))),
            };
            shared.settled.notify_waiters();
            if shared.acknowledged.get().is_some() {
                // Redis may have come back with less than it acknowledged: the reply tells, also where nobody publishes.
                let _ = shared.read(&Read::After { topics: Vec::new(), bytes_max: 0 }).await;
            }
        });
    }
}

/// Called for every push of a link, of which there is one kind: its end.
fn notice_end(ended: &Arc<AtomicBool>) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync + use<> {
    let ended = Arc::clone(ended);
    move |push| {
        if push.kind == PushKind::Disconnection {
            ended.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// True exactly when Redis answered, and said no.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}
