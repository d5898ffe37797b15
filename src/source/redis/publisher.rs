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

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, PushInfo, PushKind, RedisError};
use tokio::sync::Notify;
use tracing::warn;

use crate::engine::{Archive, Publication, Publish, PublishError, Published, Publishing, Read, Reading};
use crate::event::Event;
use crate::source::redis::server::Server;
use crate::source::redis::trouble::{Trouble, refusal_of};
use crate::source::redis::{RedisConfig, envelope};

/// After a failed attempt to connect the next is made no sooner than this, however many publish.
const REFUSAL: Duration = Duration::from_millis(250);
/// How soon a probe that could not be sent is tried again.
const PROBE_RETRY: Duration = Duration::from_millis(100);

/// See the module. Clones share the link.
#[derive(Clone)]
pub struct Publisher(Rc<Shared>);

struct Shared {
    config: RedisConfig,
    link: RefCell<Link>,
    /// Told when an attempt to connect has ended.
    settled: Notify,
    /// Counts links, so that a failure gives up the one it happened on and no later one.
    generation: Cell<u64>,
    /// True exactly when Redis refused the last publish it answered.
    refusing: Cell<bool>,
    /// Events that were to be published so far.
    asked: Cell<u64>,
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
}

impl Publisher {
    /// Connects when the first event or probe is published.
    #[must_use]
    pub fn new(config: RedisConfig) -> Publisher {
        Publisher(Rc::new(Shared {
            config,
            link: Link::Down(None).into(),
            settled: Notify::new(),
            generation: Cell::new(0),
            refusing: Cell::new(false),
            asked: Cell::new(0),
        }))
    }

    /// Events that were to be published so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.0.asked.get()
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
}

impl Publish for Publisher {
    fn publish(&self, publication: Publication) -> Publishing {
        let shared = Rc::clone(&self.0);
        Box::pin(async move { shared.publish(&publication.event).await })
    }
}

impl Archive for Publisher {
    fn read(&self, _read: Read) -> Reading {
        Box::pin(std::future::ready(Err("there is no history")))
    }
}

impl Shared {
    async fn publish(self: &Rc<Self>, event: &Event) -> Result<Published, PublishError> {
        self.asked.set(self.asked.get() + 1);
        let up = self.link().await.map_err(|trouble| PublishError::Refused(trouble.refusal()))?;
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.config.channel(event.topic.as_str())).arg(&envelope::seal(event)[..]);
        let answer: redis::RedisResult<u64> = command.query_async(&mut up.connection.clone()).await;
        let Err(error) = answer else {
            self.refusing.set(false);
            return Ok(Published { id: None });
        };
        if is_refusal(&error) {
            if !self.refusing.replace(true) {
                warn!(%error, "Redis refuses PUBLISH; check the user's ACL and the server's memory");
            }
            // What will be another server, or another user, when it is connected to anew.
            if matches!(error.code(), Some("READONLY" | "NOAUTH" | "WRONGPASS")) {
                self.fail(up.generation, Some(Trouble::of(&error)));
            }
            return Err(PublishError::Refused(refusal_of(&error)));
        }
        // Sent, perhaps; the answer is lost with the connection or late.
        self.fail(up.generation, None);
        Err(PublishError::Unknown)
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
                Ok((connection, _)) => {
                    shared.generation.set(shared.generation.get() + 1);
                    Link::Up(Up { connection, generation: shared.generation.get(), ended })
                }
                Err(trouble) => Link::Down(Some((Instant::now(), trouble))),
            };
            shared.settled.notify_waiters();
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
