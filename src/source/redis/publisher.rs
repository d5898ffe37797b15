//! The publisher: one shard's connection to Redis for PUBLISH, shared by all its requests.
//!
//! Requests are pipelined on one connection. A connection that fails is given up by whoever notices
//! and made again by the next publish; while Redis is away, one attempt at a time is made and
//! everybody else is refused at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tracing::warn;

use crate::engine::{Publish, PublishError, Published, Publishing};
use crate::event::Event;
use crate::source::redis::{RedisConfig, envelope};

/// After a failed attempt to connect, publishes are refused without another for this long.
const REFUSAL: Duration = Duration::from_millis(250);

/// See the module. Clones share the connection.
#[derive(Clone)]
pub struct Publisher(Rc<Shared>);

struct Shared {
    config: RedisConfig,
    /// Held while an attempt to connect is under way.
    connecting: tokio::sync::Mutex<()>,
    link: RefCell<Link>,
    /// Counts connections, so that a failure gives up the one it happened on and no later one.
    generation: Cell<u64>,
    /// True exactly when Redis refused the last publish it answered.
    refusing: Cell<bool>,
}

#[derive(Clone)]
enum Link {
    Up(MultiplexedConnection, u64),
    Down { since: Option<Instant> },
}

impl Publisher {
    /// Connects when the first event is published.
    #[must_use]
    pub fn new(config: RedisConfig) -> Publisher {
        Publisher(Rc::new(Shared {
            config,
            connecting: Default::default(),
            link: Link::Down { since: None }.into(),
            generation: Cell::new(0),
            refusing: Cell::new(false),
        }))
    }
}

impl Publish for Publisher {
    fn publish(&self, event: Event) -> Publishing {
        let shared = Rc::clone(&self.0);
        Box::pin(async move { shared.publish(&event).await })
    }
}

impl Shared {
    async fn publish(&self, event: &Event) -> Result<Published, PublishError> {
        let (mut connection, generation) = self.connection().await?;
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.config.channel(event.topic.as_str())).arg(&envelope::seal(event)[..]);
        let answer: redis::RedisResult<u64> = command.query_async(&mut connection).await;
        let error = match answer {
            Ok(_) => {
                self.refusing.set(false);
                return Ok(Published { id: None });
            }
            Err(error) => error,
        };
        if matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension) {
            if !self.refusing.replace(true) {
                warn!(%error, "Redis refuses PUBLISH; check the user's ACL and the server's memory");
            }
            return Err(PublishError::Refused("Redis refuses it"));
        }
        // Sent, perhaps; the answer is lost with the connection or late.
        if matches!(&*self.link.borrow(), Link::Up(_, current) if *current == generation) {
            *self.link.borrow_mut() = Link::Down { since: None };
        }
        Err(PublishError::Unknown)
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), PublishError> {
        if let Some(known) = self.known() {
            return known;
        }
        let _connecting = self.connecting.lock().await;
        // Whoever waited for the attempt of another uses its outcome.
        if let Some(known) = self.known() {
            return known;
        }
        match self.config.connect(None).await {
            Ok(connection) => {
                let generation = self.generation.get() + 1;
                self.generation.set(generation);
                *self.link.borrow_mut() = Link::Up(connection.clone(), generation);
                Ok((connection, generation))
            }
            Err(_) => {
                *self.link.borrow_mut() = Link::Down { since: Some(Instant::now()) };
                Err(AWAY)
            }
        }
    }

    /// What is known without trying: the connection, or that it failed just now.
    fn known(&self) -> Option<Result<(MultiplexedConnection, u64), PublishError>> {
        match &*self.link.borrow() {
            Link::Up(connection, generation) => Some(Ok((connection.clone(), *generation))),
            Link::Down { since: Some(since) } if since.elapsed() < REFUSAL => Some(Err(AWAY)),
            Link::Down { .. } => None,
        }
    }
}

const AWAY: PublishError = PublishError::Refused("Redis is away");
