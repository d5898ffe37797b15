//! HTTP/2 with prior knowledge, on the same port (RFC 9113, section 3.3).
//!
//! hyper and h2 keep the protocol. Ordinary requests are answered as over HTTP/1.1; an event stream's
//! body pulls from the engine ([`crate::edge::stream`]).
//!
//! # Overload
//! Streams per connection are bounded, and each event stream takes a place on the node like a
//! connection. Floods that cost the client nothing (resets, settings, pings, continuations, empty
//! frames) are bounded by h2; a request that does not end is dropped after a minute, a connection
//! without requests after [`IDLE`]. Peers are pinged as often as streams get heartbeats, and must
//! answer in the same time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::edge::admission::{Admission, Place};
use crate::edge::desk::{Arriving, Desk, Newcomer, Wants};
use crate::edge::http::answer::Answer;
use crate::edge::http::rewind::Rewind;
use crate::edge::http::{Outcome, events, route};
use crate::edge::stream::{EventBody, Leash, PIECE_BYTES_MAX, Pipe};
use crate::edge::{HEAD_BYTES_MAX, HEAD_TIMEOUT};

/// Requests, streams included, open at once on one connection.
const STREAMS_MAX: u32 = 100;
/// Bytes a client may send before they are read, per stream and per connection: the least that
/// every client expects (RFC 9113, section 6.9.2), which lets a body of 1 MiB through in 16 rounds.
const WINDOW_BYTES: u32 = 65_535;
/// Bytes of headers that may refer to one another, for each direction.
const HEADER_TABLE_BYTES: u32 = 4 << 10;
/// Streams a client may have reset before they were looked at; then the connection ends
/// (CVE-2023-44487, "rapid reset").
const PENDING_RESETS_MAX: usize = 32;
/// Errors of the client answered with a reset; then the connection ends.
const ERROR_RESETS_MAX: usize = 128;
/// A connection without requests is ended after this long.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client may take the last of an answer when its connection ends.
const LAST_ANSWER: Duration = Duration::from_secs(2);

const _: () = assert!(2 * PIECE_BYTES_MAX <= 16 << 10, "what a stream with a closed window holds");

/// Serves one connection until it ends.
pub(super) async fn serve(socket: Rewind, desk: Rc<Desk>, place: Place) {
    let streams = Streams::default();
    let admission = place.admission();
    let service = Service { desk: Rc::clone(&desk), place, streams: streams.clone() };
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .header_table_size(HEADER_TABLE_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(2 * PIECE_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .keep_alive_interval(desk.node.heartbeat)
        .keep_alive_timeout(desk.node.heartbeat)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let wanted = async {
        match admission {
            Admission::Admitted => streams.idle(IDLE).await,
            // It is told so once; the place is needed for the next, and this one may come back.
            Admission::TurnedAway => streams.begun(HEAD_TIMEOUT).await,
        }
    };
    tokio::select! {
        _ = &mut connection => return,
        () = desk.node.stop.wait() => {}
        () = wanted => {}
    }
    // GOAWAY: no more requests; those under way, and streams until they are drained, go on. What
    // is left after that are answers that h2 holds for a client that does not take them.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = &mut connection => {}
        () = streams.idle(LAST_ANSWER) => {}
    }
}

/// The requests of one connection that are under way, each a task.
#[derive(Clone, Default)]
struct Streams(Rc<StreamsInner>);

#[derive(Default)]
struct StreamsInner {
    open: Cell<usize>,
    changed: Notify,
    /// The leash of the request whose task comes next: hyper calls the service and then the executor.
    next: RefCell<Option<Rc<Leash>>>,
}

impl Streams {
    /// Waits until a request has begun, at most for so long.
    async fn begun(&self, limit: Duration) {
        let changed = self.0.changed.notified();
        if self.0.open.get() == 0 {
            let _ = tokio::time::timeout(limit, changed).await;
        }
    }

    /// Waits until no request has been under way for so long.
    async fn idle(&self, limit: Duration) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.open.get() > 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(limit) => return,
            }
        }
    }

    fn count(&self, open: usize) {
        let before = self.0.open.replace(open);
        if (before == 0) != (open == 0) {
            self.0.changed.notify_one();
        }
    }
}

/// Counts a request off, however its task ends.
struct Counted(Streams);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count(self.0.0.open.get() - 1);
    }
}

/// The task of one request. A stream has it for as long as it lives, so it is written out: an `async`
/// block would hold hyper's part of it twice, as what it was given and as what it polls.
struct Task<F> {
    request: F,
    leash: Rc<Leash>,
    /// See [`Leash::poll_released`].
    late: Option<Pin<Box<Sleep>>>,
    _counted: Counted,
}

impl<F> Future for Task<F>
where
    F: Future<Output = ()> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        match task.leash.poll_released(&mut task.late, context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => Pin::new(&mut task.request).poll(context),
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Unpin + 'static,
{
    fn execute(&self, request: F) {
        let leash = self.0.next.take().unwrap_or_default();
        self.count(self.0.open.get() + 1);
        tokio::task::spawn_local(Task { request, leash, late: None, _counted: Counted(self.clone()) });
    }
}

/// A body of either kind. An answer is given out piece by piece: hyper keeps what it was given, however
/// small the window, and after the last of it looks no more at whether the client takes it. Its bytes
/// are named from the heap, because a stream's task has room for either.
enum AnyBody {
    Answer(Box<Bytes>),
    Events(EventBody),
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        match self.get_mut() {
            AnyBody::Answer(rest) if rest.is_empty() => Poll::Ready(None),
            AnyBody::Answer(rest) => {
                let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            AnyBody::Events(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnyBody::Answer(rest) => rest.is_empty(),
            AnyBody::Events(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnyBody::Answer(rest) => SizeHint::with_exact(rest.len() as u64),
            AnyBody::Events(body) => body.size_hint(),
        }
    }
}

struct Service {
    desk: Rc<Desk>,
    place: Place,
    streams: Streams,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<AnyBody>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AnyBody>, std::convert::Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let leash = Rc::new(Leash::default());
        self.streams.0.next.replace(Some(Rc::clone(&leash)));
        let desk = Rc::clone(&self.desk);
        let admission = self.place.admission();
        let is_head = request.method() == Method::HEAD;
        Box::pin(async move {
            Ok(match route(request, &desk, admission).await {
                Outcome::Answer(answer) if is_head => without_body(answer),
                Outcome::Answer(answer) => answer.map(|body| AnyBody::Answer(Box::new(body))),
                Outcome::Stream(wants) => open(wants, desk, leash).await,
            })
        })
    }
}

/// What HEAD is answered (RFC 9110, section 9.3.2): hyper leaves a body out over HTTP/1 only.
fn without_body(answer: Answer) -> Response<AnyBody> {
    let length = answer.body().len();
    let mut response = answer.map(|_| AnyBody::Answer(Box::default()));
    if length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Answers with a stream, and gives its pipe to the turn.
async fn open(mut wants: Wants, desk: Rc<Desk>, leash: Rc<Leash>) -> Response<AnyBody> {
    let Some(place) = desk.node.admissions.enter_stream() else {
        // There is no place even to be told so. A reset is an error of the network to a browser,
        // which comes back after it; any status but 200 would end its EventSource for good.
        leash.cut();
        return std::future::pending().await;
    };
    if place.admission() == Admission::TurnedAway {
        wants.topics = None;
    }
    let pipe = Pipe::new(leash);
    let mut response = Response::new(AnyBody::Events(EventBody::new(Rc::clone(&pipe), Rc::clone(&desk))));
    events::put_headers(response.headers_mut(), &wants.origin);
    desk.hand_over(Newcomer { port: Arriving::Body(pipe), place, wants, early: Vec::new() });
    response
}
