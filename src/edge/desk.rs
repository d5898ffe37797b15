//! The desk: what the request tasks of one shard share with its turn.
//!
//! All of it lives on the shard's thread. Tasks hand connections to the turn through
//! [`Desk::hand_over`]; nothing else of a task outlives its request.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::edge::calls::Peers;
use crate::edge::http::body::Load;
use crate::edge::http::cors::Origins;
use crate::edge::http::pages::Pages;
use crate::edge::{EdgeLimits, Occupancy};
use crate::engine::Publish;
use crate::frame::WireForm;
use crate::topic::Topic;

/// See the module.
pub struct Desk {
    /// What its tasks know of their node.
    pub node: Node,
    /// Bodies under way.
    pub load: Load,
    newcomers: RefCell<Vec<Newcomer>>,
    date: RefCell<(u64, String)>,
}

/// What the tasks of one shard know of their node.
pub struct Node {
    /// Where publishes go.
    pub publish: Rc<dyn Publish>,
    /// All shards, for questions about the node.
    pub peers: Peers,
    /// Connections of the node.
    pub occupancy: Arc<Occupancy>,
    /// Limits.
    pub limits: EdgeLimits,
    /// Pages of other origins that may use this node.
    pub origins: Origins,
    /// The demo pages, if they are served.
    pub pages: Option<Pages>,
    /// The node's clock.
    pub clock: Clock,
    /// Wakes the shard's turn.
    pub wake: Arc<Notify>,
}

/// A connection whose head was checked and whose socket was taken back from hyper.
pub struct Newcomer {
    /// The socket, non-blocking, counted in [`Occupancy`].
    pub socket: OwnedFd,
    /// What to do with it.
    pub wants: Wants,
}

/// What a taken-over connection is for.
pub struct Wants {
    /// The response's head, ready to be written, with the first comment.
    pub head: Vec<u8>,
    /// How it wants its events.
    pub form: WireForm,
    /// Distinct. Empty exactly when the node is full and the stream is only told so.
    pub topics: Vec<Topic>,
}

impl Desk {
    /// A desk with nobody waiting.
    #[must_use]
    pub fn new(node: Node) -> Desk {
        Desk { node, load: Load::default(), newcomers: RefCell::default(), date: RefCell::default() }
    }

    /// Gives a connection to the turn.
    pub fn hand_over(&self, newcomer: Newcomer) {
        self.newcomers.borrow_mut().push(newcomer);
        self.node.wake.notify_one();
    }

    /// Takes the connections that were handed over.
    pub fn take_newcomers(&self) -> Vec<Newcomer> {
        std::mem::take(&mut self.newcomers.borrow_mut())
    }

    /// The `date` header's value, formatted at most once a second.
    pub fn date(&self) -> String {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut cached = self.date.borrow_mut();
        if cached.0 != second {
            *cached = (second, httpdate::fmt_http_date(now));
        }
        cached.1.clone()
    }
}
