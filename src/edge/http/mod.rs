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
mod http2;
pub mod pages;
mod rewind;
pub mod topics;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::edge::admission::{Admission, Place};
use crate::edge::desk::{Arriving, Desk, Newcomer, Wants};
use crate::edge::{HEAD_BYTES_MAX, HEAD_TIMEOUT, HEADERS_MAX};
use answer::{Answer, Problem};
use rewind::{Rewind, Speaks};

/// After an answer that ends the connection, unread bytes of the request are thrown away for this
/// long, and so many of them: closing with bytes unread would reset the connection and the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 4 << 20;

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
        recognised = tokio::time::timeout(HEAD_TIMEOUT, Rewind::recognise(socket)) => recognised,
        () = desk.node.stop.wait() => return,
    };
    match recognised {
        Ok(Some((Speaks::Http1, socket))) => serve_http1(socket, desk, place).await,
        Ok(Some((Speaks::Http2, socket))) => http2::serve(socket, desk, place).await,
        // It left, or said too little for too long.
        Ok(None) | Err(_) => {}
    }
}

async fn serve_http1(socket: Rewind, desk: Rc<Desk>, place: Place) {
    let admission = place.admission();
    let handover = Handover::default();
    let service = Service { desk: Rc::clone(&desk), handover: Rc::clone(&handover), admission };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let mut ended = None;
    tokio::select! {
        result = poll_fn(|context| connection.poll_without_shutdown(context)) => ended = Some(result),
        () = desk.node.stop.wait() => Pin::new(&mut connection).graceful_shutdown(),
    }
    let ended = match ended {
        Some(ended) => ended,
        // The request under way is answered; an idle connection ends at once.
        None => poll_fn(|context| connection.poll_without_shutdown(context)).await,
    };
    let mut socket = connection.into_parts().io.into_inner().into_inner();
    let wants = handover.borrow_mut().take();
    match (ended, wants) {
        (Err(error), Some(wants)) if error.is_user() => {
            if let Ok(socket) = socket.into_std() {
                desk.hand_over(Newcomer { port: Arriving::Socket(OwnedFd::from(socket)), place, wants });
            }
        }
        _ => {
            let _ = tokio::time::timeout(LINGER, linger(&mut socket)).await;
        }
    }
}

/// Ends our side, then waits for the peer to end its own.
async fn linger(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.shutdown().await?;
    // On the heap, because every connection's task has room for the largest of its states.
    let mut scratch = vec![0; 4096];
    let mut read = 0;
    while read < LINGER_BYTES_MAX {
        match socket.read(&mut scratch).await? {
            0 => break,
            count => read += count,
        }
    }
    Ok(())
}

struct Service {
    desk: Rc<Desk>,
    handover: Handover,
    admission: Admission,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Answer;
    type Error = TakeOver;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, TakeOver>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let desk = Rc::clone(&self.desk);
        let handover = Rc::clone(&self.handover);
        let admission = self.admission;
        Box::pin(async move {
            match route(request, &desk, admission).await {
                Outcome::Answer(answer) => Ok(answer),
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
    let outcome = match dispatch(request, desk, admission).await {
        Ok(outcome) => outcome,
        Err(problem) => Outcome::Answer(problem.into_answer()),
    };
    match outcome {
        Outcome::Answer(mut answer) => {
            origin.put_on(answer.headers_mut());
            if admission == Admission::TurnedAway {
                // It holds one of few places, and the next connection may find the node less full.
                answer.headers_mut().insert(hyper::header::CONNECTION, http::HeaderValue::from_static("close"));
            }
            Outcome::Answer(answer)
        }
        stream @ Outcome::Stream(_) => stream,
    }
}

async fn dispatch(request: Request<Incoming>, desk: &Desk, admission: Admission) -> Result<Outcome, Problem> {
    if head_bytes(&request) > HEAD_BYTES_MAX {
        return Err(Problem::head_too_large(HEAD_BYTES_MAX));
    }
    let path = request.uri().path().to_owned();
    if request.method() == Method::OPTIONS {
        return Ok(Outcome::Answer(cors::preflight(&desk.node.origins.admit(request.headers()))));
    }
    if path == "/events" {
        return events::open(request, desk, admission).await;
    }
    if admission == Admission::TurnedAway {
        return Err(Problem::unavailable("this node has as many connections as it may"));
    }
    let answer = if let Some(segment) = path.strip_prefix("/topics/").filter(|rest| !rest.contains('/')) {
        topics::answer(request, segment, desk).await?
    } else if let Some(pages) = &desk.node.pages {
        pages.answer(&request, desk).await?
    } else {
        return Err(Problem::not_found());
    };
    Ok(Outcome::Answer(answer))
}

/// Bytes of a request's head. hyper's own limit is that of its buffer, which it lets grow by whole reads.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let line = request.method().as_str().len() + request.uri().to_string().len() + " HTTP/1.1\r\n".len() + 1;
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len() + 4;
    line + request.headers().iter().map(header).sum::<usize>() + 2
}

/// A response from a string of bytes that never changes.
pub(crate) fn fixed(content_type: &'static str, body: &'static str) -> Answer {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
