//! What the wire tests share: real programs, plain sockets, and nothing of the library.
//!
//! Nothing here sleeps for a fixed time: whoever waits, waits for a condition, up to [`PATIENCE`].

pub mod browser;
pub mod fetch;
pub mod http2;
pub mod load;
pub mod node;
pub mod program;
pub mod proxy;
pub mod redis;
pub mod server;
pub mod sse;
pub mod trial;
pub mod websocket;
pub mod wire;

use std::time::{Duration, Instant};

pub use browser::{Complaint, Page};
pub use fetch::{Answer, get, post, request};
pub use load::Load;
pub use node::Node;
pub use program::Program;
pub use proxy::Proxy;
pub use redis::{RedisServer, Resp};
pub use server::{Launch, TestServer};
pub use sse::{Event, Item, Stream};
pub use wire::Wire;

/// How long a condition may take on a busy machine before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something; `what` completes "waited in vain for …".
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
