//! HTTP: hyper reads every head and writes every ordinary answer; event streams are taken back.
//!
//! # Taking a socket back
//! The service of a stream's request checks it, leaves what is wanted in a `Handover`, and fails
//! with [`TakeOver`]. hyper then ends the connection with a user error before it has written
//! anything of an answer, having flushed those before it; `into_parts` gives the socket. It is taken
//! out of tokio (`into_std`), whose record would otherwise keep the dead task, and goes to the turn.
//! Only a request whose body was read to its end is taken over: what hyper has read beyond the head
//! is then bytes nobody asked for, and a stream's client has nothing to say after its request.

pub mod answer;
pub mod body;
pub mod cors;
pub mod events;
pub mod head;
pub mod history;
mod http2;
mod pace;
pub mod pages;
pub mod publish;
mod refusal;
mod rewind;
mod room;
pub mod topics;
mod websocket;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::edge::admission::{Admission, Place};
use crate::edge::desk::{Arriving, Desk, Newcomer, Wants};
use crate::edge::{HEAD_BYTES_MAX, HEAD_TIMEOUT, HEADERS_MAX};
use crate::shutdown::Stop;
use answer::{Answer, Problem};
use pace::Pace;
use refusal::Muted;
use rewind::{Rewind, Speaks};
use room::HeadRoom;

/// After an answer that ends the connection, unread bytes of the request are thrown away for this
/// long, and so many of them: closing with bytes unread would reset the connection and the answer with it.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 2 * publish::BODY_BYTES_MAX;
/// Bytes thrown away at once.
const SCRATCH_BYTES: usize = 16 << 10;

/// A connection that came just before the node was asked to stop has this long to begin its request.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// What a service left for the task that drives its connection.
type Handover = Rc<RefCell<Option<Wants>>>;

/// The error with which a service asks for its connection.
#[derive(Debug, thiserror::Error)]
#[error("the connection is taken over as an event stream")]
pub struct TakeOver;

/// What becomes of a request.
pub enum Outcome {
    /// It is answered.
    Answer(Answer),
    /// Its connection becomes a stream.
    Stream(Wants),
}

/// Serves one connection until it ends or becomes a stream.
pub async fn serve(socket: TcpStream, desk: Rc<Desk>, place: Place) {
    let _task = desk.begin_task();
    let recognised = tokio::select! {
        recognised = Rewind::recognise(socket, HEAD_TIMEOUT) => recognised,
        () = async { desk.node.stop.wait().await; tokio::time::sleep(LAST_LOOK).await } => return,
    };
    match recognised {
        Some((Speaks::Http1, socket)) => serve_http1(socket, desk, place).await,
        Some((Speaks::Http2, socket)) => http2::serve(socket, desk, place).await,
        None => {}
    }
}

async fn serve_http1(socket: Rewind, desk: Rc<Desk>, place: Place) {
    let admission = place.admission();
    let handover = Handover::default();
    let room = HeadRoom::new(desk.load.clone());
    let service = Service { desk: Rc::clone(&desk), handover: Rc::clone(&handover), admission, room: room.clone() };
    // In a box, so that whoever lingers does not keep hyper's room.
    let pace = Pace::default();
    let mut connection = Box::new(connection(Muted::new(socket, room.clone(), pace.clone()), service));
    let ended = tokio::select! {
        ended = drive(&mut connection, &desk.node.stop) => ended,
        // Whoever has not taken the answer by now would not take another word.
        () = pace.overdue() => return,
    };
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner();
    let wants = handover.borrow_mut().take();
    match (ended, wants) {
        (Err(error), Some(wants)) if error.is_user() => {
            if let Ok(socket) = socket.into_std() {
                let early = Vec::from(parts.read_buf);
                desk.hand_over(Newcomer { port: Arriving::Socket(OwnedFd::from(socket)), place, wants, early });
            }
        }
        (ended, _) => {
            let refusal = ended.err().and_then(|error| refusal::problem(&error, &parts.read_buf, &room));
            drop(parts.read_buf);
            room.give_back();
            let last = refusal.map(|problem| problem.into_last_bytes(&desk.date())).unwrap_or_default();
            let _ = tokio::time::timeout(LINGER, linger(&mut socket, last)).await;
        }
    }
}

/// Runs a connection to its end, or to the end of what is under way when the node stops.
async fn drive(connection: &mut http1::Connection<Muted, Service>, stop: &Stop) -> hyper::Result<()> {
    // In this order: a connection that hyper has not looked at yet would be closed, whatever it asks.
    tokio::select! {
        biased;
        ended = poll_fn(|context| connection.poll_without_shutdown(context)) => return ended,
        () = stop.wait() => {}
    }
    // The request under way is answered; an idle connection ends at once.
    Pin::new(&mut *connection).graceful_shutdown();
    poll_fn(|context| connection.poll_without_shutdown(context)).await
}

/// A connection in the hands of hyper. A client that has ended its side still gets its answer: what
/// it has published is not called off half way.
fn connection(socket: Muted, service: Service) -> http1::Connection<Muted, Service> {
    http1::Builder::new()
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(socket, service)
}

/// Says the last, ends our side, then waits for the peer to end its own.
pub(crate) async fn linger(socket: &mut TcpStream, last: Vec<u8>) -> std::io::Result<()> {
    socket.write_all(&last).await?;
    drop(last);
    socket.shutdown().await?;
    let mut read = 0;
    while read < LINGER_BYTES_MAX {
        socket.readable().await?;
        match discard(socket) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads into a buffer that exists for this call only: thousands may linger.
fn discard(socket: &TcpStream) -> std::io::Result<usize> {
    socket.try_read(&mut [0; SCRATCH_BYTES])
}

struct Service {
    desk: Rc<Desk>,
    handover: Handover,
    admission: Admission,
    room: HeadRoom,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Full<Bytes>>;
    type Error = TakeOver;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, TakeOver>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let desk = Rc::clone(&self.desk);
        let handover = Rc::clone(&self.handover);
        let admission = self.admission;
        let answering = self.room.answer();
        Box::pin(async move {
            let _answering = answering;
            match route(request, &desk, admission).await {
                Outcome::Answer(answer) => Ok(answer.map(Full::new)),
                Outcome::Stream(wants) => {
                    *handover.borrow_mut() = Some(wants);
                    Err(TakeOver)
                }
            }
        })
    }
}

/// Finds who answers.
async fn route(request: Request<Incoming>, desk: &Desk, admission: Admission) -> Outcome {
    let origin = desk.node.origins.admit(request.headers());
    let has_body = !request.body().is_end_stream();
    let outcome = match dispatch(request, desk, admission).await {
        Ok(outcome) => outcome,
        Err(problem) => Outcome::Answer(problem.into_answer()),
    };
    match outcome {
        Outcome::Answer(mut answer) => {
            origin.put_on(answer.headers_mut());
            cors::expose_retry_after(answer.headers_mut());
            // Nothing waits for a body that nobody reads. And one that is turned away holds one of few
            // places; the next connection may find the node less full.
            if has_body && !body::was_read(&answer) || admission == Admission::TurnedAway {
                head::close_after(&mut answer);
            }
            Outcome::Answer(answer)
        }
        stream @ Outcome::Stream(_) => stream,
    }
}

async fn dispatch(request: Request<Incoming>, desk: &Desk, admission: Admission) -> Result<Outcome, Problem> {
    head::check(&request).map_err(Problem::closing)?;
    let path = request.uri().path().to_owned();
    if request.method() == Method::OPTIONS {
        return Ok(Outcome::Answer(cors::preflight(&desk.node.origins.admit(request.headers()))));
    }
    if path == "/events" {
        return events::open(request, desk, admission).await;
    }
    if path == "/ws" {
        return websocket::open(&request, desk, admission);
    }
    if admission == Admission::TurnedAway {
        return Err(Problem::unavailable(
            "there is no place for this connection: its node, its address or this second has as many as it may",
        ));
    }
    let answer = if path == "/publish" {
        publish::answer(request, desk).await?
    } else if let Some(segment) = path.strip_prefix("/topics/").and_then(|rest| rest.strip_suffix("/history"))
        && !segment.contains('/')
    {
        history::answer(request, segment, desk).await?
    } else if let Some(segment) = path.strip_prefix("/topics/").filter(|rest| !rest.contains('/')) {
        topics::answer(request, segment, desk).await?
    } else if let Some(pages) = &desk.node.pages {
        pages.answer(&request, desk).await?
    } else {
        return Err(Problem::not_found());
    };
    Ok(Outcome::Answer(answer))
}

/// A response from a string of bytes that never changes.
pub(crate) fn fixed(content_type: &'static str, body: &'static str) -> Answer {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
