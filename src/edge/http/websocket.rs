//! `GET /ws`: checks a WebSocket's handshake, and what its stream is asked to follow.
//!
//! A browser can tell its page nothing of an answer that refuses the handshake. So a node that is full says so with a
//! close frame, as it tells event streams inside a `200`; only what a program must mend is refused.

use hyper::Request;

use crate::edge::admission::Admission;
use crate::edge::desk::{Desk, Wants};
use crate::edge::http::answer::Problem;
use crate::edge::http::{Outcome, events};
use crate::edge::ws::handshake::Handshake;
use crate::frame::WireForm;

/// Refuses the request, or says which stream its connection becomes.
pub(super) fn open<B>(request: &Request<B>, desk: &Desk, admission: Admission) -> Result<Outcome, Problem> {
    let handshake = Handshake::of(request, &desk.node.origins)?;
    let (topics, position) = events::asked(request, desk)?;
    if topics.is_empty() && handshake.form == WireForm::WsData {
        return Err(Problem::bad_request(
            "name at least one topic: /ws?topic=NAME; a client of the subprotocol fanwheel.v1.json can do so later",
        ));
    }
    let topics = (admission == Admission::Admitted).then_some(topics);
    let origin = desk.node.origins.admit(request.headers());
    Ok(Outcome::Stream(Wants { head: handshake.head(&desk.date()), form: handshake.form, topics, position, origin }))
}
