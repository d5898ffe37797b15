//! `POST /topics/{topic}`: the body is the event's data, byte for byte. `GET`: what the node knows of a topic.
//!
//! An idempotency key on a live topic is refused: nothing is remembered there, and whoever repeats the
//! publish would rely on it.

use http::StatusCode;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::edge::desk::Desk;
use crate::edge::http::answer::{Answer, Problem, json};
use crate::edge::http::body::Share;
use crate::edge::http::{body, events, history};
use crate::engine::{Publication, PublishError};
use crate::event::{
    self, EVENT_BYTES_MAX, EVENT_KEY_BYTES_MAX, EVENT_NAME_BYTES_MAX, Event, EventName, EventNameError,
    IDEMPOTENCY_KEY_BYTES_MAX,
};
use crate::topic::{TOPIC_BYTES_MAX, Topic, TopicError};

#[derive(Serialize)]
struct Accepted<'a> {
    topic: &'a str,
    id: Option<String>,
}

#[derive(Serialize)]
struct Known<'a> {
    topic: &'a str,
    kind: &'static str,
    subscribers: usize,
    last_id: Option<String>,
}

/// Answers a request for the topic in a path's segment.
pub async fn answer(request: Request<Incoming>, segment: &str, desk: &Desk) -> Result<Answer, Problem> {
    match *request.method() {
        Method::POST => publish(request, segment, desk).await,
        Method::GET | Method::HEAD => {
            let topic = topic(segment)?;
            let subscribers = desk.node.peers.subscribers(&topic).await;
            let subscribers = subscribers.ok_or_else(|| Problem::unavailable("this node is too busy to count"))?;
            let (kind, last_id) = match desk.node.classes.class_of(&topic).retention() {
                None => ("live", None),
                Some(_) => ("durable", history::last_id(&topic, desk).await?),
            };
            let last_id = last_id.map(|id| id.to_string());
            let known = Known { topic: topic.as_str(), kind, subscribers, last_id };
            Ok(json(StatusCode::OK, &known))
        }
        _ => Err(Problem::method_not_allowed("GET, HEAD, POST, OPTIONS")),
    }
}

async fn publish(request: Request<Incoming>, segment: &str, desk: &Desk) -> Result<Answer, Problem> {
    let topic = topic(segment)?;
    let idempotency_key = key_of(request.headers())?;
    if idempotency_key.is_some() && desk.node.classes.class_of(&topic).retention().is_none() {
        return Err(Problem::bad_request("`Idempotency-Key` needs a durable topic, and this one is live"));
    }
    let (name, key) = name_and_key(request.uri().query().unwrap_or_default())?;
    let (data, share) = body::read(request, EVENT_BYTES_MAX, "an event's data", &desk.load).await?;
    let received_us = desk.node.clock.now_us();
    let event = Event { topic, name, key, data, stored: None, received_us };
    Ok(body::answered(store(Publication { event, idempotency_key }, share, desk).await))
}

/// The request's idempotency key, checked.
fn key_of(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let mut keys = headers.get_all("idempotency-key").iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Problem::bad_request("`Idempotency-Key` is given more than once")),
        (Some(key), None) => match idempotency_key(key.as_bytes()) {
            Ok(key) => Ok(Some(key)),
            Err(problem) => Err(problem.within("`Idempotency-Key`")),
        },
    }
}

async fn store(publication: Publication, mut share: Share, desk: &Desk) -> Result<Answer, Problem> {
    let data = &publication.event.data;
    check_utf8(data)?;
    share.publishing(data.len())?;
    let topic = publication.event.topic.clone();
    let has_key = publication.idempotency_key.is_some();
    let published = desk.publish(publication).await.map_err(|error| match error {
        PublishError::Refused(_) => Problem::unavailable(error.to_string()),
        PublishError::Unknown if has_key => {
            Problem::unknown(format!("{error}; repeat it with the same `Idempotency-Key`"))
        }
        PublishError::Unknown => Problem::unknown(error.to_string()),
        PublishError::Conflict => Problem::conflict(error.to_string()),
    })?;
    let id = published.id.map(|id| id.to_string());
    let status = if id.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json(status, &Accepted { topic: topic.as_str(), id }))
}

/// Checks the topic in a path's segment.
pub(super) fn topic(segment: &str) -> Result<Topic, Problem> {
    topic_name(&percent_decode_str(segment).collect::<Vec<u8>>())
}

fn name_and_key(query: &str) -> Result<(Option<EventName>, Option<Box<str>>), Problem> {
    let (mut name, mut key) = (None, None);
    for (parameter, value) in events::parameters(query)? {
        let slot = match parameter.as_str() {
            "event" => &mut name,
            "key" => &mut key,
            _ => continue,
        };
        // Whoever checks one and whoever uses one might not take the same.
        if slot.replace(value).is_some() {
            return Err(Problem::bad_request(format!("`{parameter}` is given more than once")));
        }
    }
    let name = name.map(|name| event_name(&name)).transpose()?.flatten();
    let key = key.map(event_key).transpose()?;
    Ok((name, key))
}

/// Checks an event's name; the empty one is none.
pub(super) fn event_name(text: &str) -> Result<Option<EventName>, Problem> {
    EventName::parse(text).map_err(|error| match error {
        EventNameError::TooLong => Problem::bad_request(error.to_string()).with_limit(EVENT_NAME_BYTES_MAX),
        _ => Problem::bad_request(error.to_string()),
    })
}

/// Checks an event's key.
pub(super) fn event_key(text: String) -> Result<Box<str>, Problem> {
    if text.len() > EVENT_KEY_BYTES_MAX {
        let error = format!("`key` is at most {EVENT_KEY_BYTES_MAX} bytes long");
        return Err(Problem::bad_request(error).with_limit(EVENT_KEY_BYTES_MAX));
    }
    Ok(text.into_boxed_str())
}

/// Checks an idempotency key.
pub(super) fn idempotency_key(bytes: &[u8]) -> Result<Box<str>, Problem> {
    event::idempotency_key(bytes).map(Box::from).ok_or_else(|| {
        let error = format!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters");
        Problem::bad_request(error).with_limit(IDEMPOTENCY_KEY_BYTES_MAX)
    })
}

/// Checks a topic's name, decoded.
pub(super) fn topic_name(name: &[u8]) -> Result<Topic, Problem> {
    Topic::parse_bytes(name).map_err(|error| match error {
        TopicError::TooLong => Problem::bad_request(error.to_string()).with_limit(TOPIC_BYTES_MAX),
        _ => Problem::bad_request(error.to_string()),
    })
}

/// Event streams are UTF-8; a publisher that sends something else is told, not mended.
fn check_utf8(data: &[u8]) -> Result<(), Problem> {
    std::str::from_utf8(data).map(drop).map_err(|error| {
        let at = error.valid_up_to();
        Problem::bad_request(format!("an event's data must be valid UTF-8, and byte {at} is not"))
    })
}
