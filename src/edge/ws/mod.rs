//! WebSocket (RFC 6455): the server's side of the protocol, without sockets.
//!
//! ```text
//!  request's head ──► handshake ──► 101, and which wire form
//!
//!  scratch buffer ──► session ──► decoder ──► messages ──► operation (publish, subscribe, …)
//!                        └──► pongs, the echo of a close, the close frame that names a violation
//! ```
//!
//! What always holds: nothing here knows a socket, a clock or a task; bytes come in as a slice that is unmasked in
//! place, and an answer is a frame that somebody else writes. A session between two messages holds no memory of its
//! own and equals a new one, so a parked connection need not keep it. The frames that go out are
//! [`crate::frame::ws`]'s.
//!
//! # Overload
//! Of a message that is not complete at most its limit is held, and only what has come, never what was announced;
//! [`session::Session::held`] says how much, for the shard's budget. Of pings only the newest is answered.

pub mod decoder;
pub mod handshake;
pub mod operation;
pub mod session;
pub mod talk;
pub mod violation;

use std::time::Duration;

use crate::edge::BODY_TIMEOUT;
use crate::edge::http::publish::BODY_BYTES_MAX;
use crate::event::EVENT_BYTES_MAX;

/// Most bytes of one message, in all its fragments: as of a body of `POST /topics/{topic}`.
pub const MESSAGE_BYTES_MAX: usize = EVENT_BYTES_MAX;

/// How long a client may take over a message, like over a request's body.
pub const MESSAGE_TIMEOUT: Duration = BODY_TIMEOUT;

// A message may publish no more than a request may.
const _: () = assert!(MESSAGE_BYTES_MAX <= BODY_BYTES_MAX);
