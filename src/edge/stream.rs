//! The body of an event stream over HTTP/2, which pulls.
//!
//! ```text
//!  Shard ──send──► Pipe: one piece ──poll_frame──► hyper's task ──► h2 ──► socket
//!    ▲                                  │
//!    └──── Writable, Gone ◄──── desk ◄──┘
//! ```
//!
//! Many streams share a connection, and its flow control is HTTP/2's own, so such a stream stays with
//! hyper. To the engine its body is a socket that takes one piece at a time: none while hyper has not
//! asked for the next. hyper asks when it has passed the one before on, for which the client must have
//! opened its window; so a stream whose client does not read is blocked after two pieces
//! ([`PIECE_BYTES_MAX`] each), like one whose socket is full.
//!
//! A piece is a copy of at most 8 KiB. Handing out the log's own bytes was not chosen: a stream that
//! stalls would hold whole events, up to 1 MiB each, that no budget sees. As it is the engine keeps
//! the rest of a cut frame as a remainder, charged like any other.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::edge::desk::Desk;
use crate::edge::reactor::Happened;
use crate::engine::{ConnId, Sent};

/// Most bytes in one piece. hyper holds one and h2 another while a client's window is closed:
/// together 16 KiB.
pub const PIECE_BYTES_MAX: usize = 8 << 10;
/// How long a stream that has ended may take to write its last piece.
const LAST_PIECE: Duration = Duration::from_secs(5);
/// How long any other request may take, its body and its answer included: the body may take 30 s.
const REQUEST: Duration = Duration::from_secs(60);

/// Where the engine and hyper's task meet. Both live on the shard's thread.
#[derive(Debug, Default)]
pub struct Pipe {
    state: RefCell<State>,
    leash: Rc<Leash>,
}

#[derive(Debug, Default)]
struct State {
    /// The engine's name for the stream, once it has one.
    id: Option<ConnId>,
    /// Written and not yet fetched. Empty is none.
    piece: Bytes,
    /// True exactly when hyper has asked for a piece since it fetched the last. Set at first, so that
    /// the opening block need not wait for hyper's first question.
    wanted: Wanted,
    /// True exactly when the engine waits to be told that a piece is wanted.
    watched: bool,
    /// True exactly when the last piece was less than the engine would have sent.
    left: bool,
    /// True exactly when the engine has let go of the stream.
    ended: bool,
    /// True exactly when hyper has let go of the body.
    gone: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wanted {
    #[default]
    Yes,
    No,
}

impl Pipe {
    /// The stream's pipe; `leash` ends its task.
    #[must_use]
    pub fn new(leash: Rc<Leash>) -> Rc<Pipe> {
        leash.set(Held::Stream);
        Rc::new(Pipe { state: RefCell::default(), leash })
    }

    /// Learns the engine's name for it.
    pub fn park(&self, id: ConnId) {
        self.state.borrow_mut().id = Some(id);
    }

    /// As [`crate::engine::Sink::send`].
    pub fn send(&self, bytes: &[u8]) -> Sent {
        let mut state = self.state.borrow_mut();
        if state.gone {
            return Sent::Closed;
        }
        if state.wanted == Wanted::No {
            state.left = true;
            return Sent::Part(0);
        }
        let taken = bytes.len().min(PIECE_BYTES_MAX);
        state.piece = Bytes::copy_from_slice(&bytes[..taken]);
        state.wanted = Wanted::No;
        state.left = taken < bytes.len();
        state.wake();
        if taken == bytes.len() { Sent::All } else { Sent::Part(taken) }
    }

    /// As [`crate::engine::Sink::watch_writable`].
    pub fn watch_writable(&self, wanted: bool) {
        self.state.borrow_mut().watched = wanted;
    }

    /// The engine has let go. What was written is still fetched, unless the client takes nothing.
    pub fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.ended = true;
        // Who has not taken everything is cut off: its client would have to read to see a proper end.
        let held = if state.left { Held::Cut } else { Held::Until(Instant::now() + LAST_PIECE) };
        self.leash.set(held);
        state.wake();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The body that hyper polls.
pub struct EventBody {
    pipe: Rc<Pipe>,
    desk: Rc<Desk>,
}

impl EventBody {
    /// The other end of `pipe`.
    #[must_use]
    pub fn new(pipe: Rc<Pipe>, desk: Rc<Desk>) -> EventBody {
        EventBody { pipe, desk }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        let mut state = self.pipe.state.borrow_mut();
        if !state.piece.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut state.piece)))));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        remember(&mut state.waker, context);
        state.wanted = Wanted::Yes;
        if let Some(id) = state.id.filter(|_| state.watched) {
            self.desk.tell(id, Happened::Writable);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.pipe.state.borrow();
        state.ended && state.piece.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        let mut state = self.pipe.state.borrow_mut();
        state.gone = true;
        if let Some(id) = state.id.filter(|_| !state.ended) {
            self.desk.tell(id, Happened::Gone);
        }
    }
}

/// What ends the task of a request over HTTP/2, from outside.
///
/// hyper does not look at a body while the client's window is closed, nor does it bound how long
/// an answer may take; dropping the task resets the stream (CANCEL) and frees what it
/// holds. The last piece is h2's alone: the end of the connection frees it.
#[derive(Debug)]
pub struct Leash {
    held: Cell<Held>,
    waker: RefCell<Option<Waker>>,
}

/// How long a task may go on.
#[derive(Debug, Clone, Copy)]
enum Held {
    /// Until then.
    Until(Instant),
    /// As long as the engine keeps the stream.
    Stream,
    /// It must end now.
    Cut,
}

impl Default for Leash {
    fn default() -> Leash {
        Leash { held: Held::Until(Instant::now() + REQUEST).into(), waker: RefCell::default() }
    }
}

impl Leash {
    /// Ends the task at once.
    pub fn cut(&self) {
        self.set(Held::Cut);
    }

    fn set(&self, held: Held) {
        self.held.set(held);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready when the task must end. `late` is the task's own timer, which it has only while there is
    /// a deadline: a stream's task is kept for long.
    pub fn poll_released(&self, late: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = match self.held.get() {
            Held::Cut => return Poll::Ready(()),
            Held::Stream => None,
            Held::Until(deadline) => Some(deadline),
        };
        remember(&mut self.waker.borrow_mut(), context);
        if late.as_ref().map(|timer| timer.deadline()) != deadline {
            *late = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        }
        late.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(context))
    }
}

/// Keeps the waker of the task that asks.
fn remember(waker: &mut Option<Waker>, context: &Context<'_>) {
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
        *waker = Some(context.waker().clone());
    }
}
