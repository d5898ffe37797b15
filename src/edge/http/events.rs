//! `GET /events`: checks what a stream asks for and writes its head.
//!
//! A position that is no id of ours is told in the stream, never refused: a browser sends what it last
//! heard, and would never come back.

use std::fmt::Write as _;

use hyper::body::{Body, Incoming};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use percent_encoding::percent_decode_str;

use crate::edge::HEAD_BYTES_MAX;
use crate::edge::admission::Admission;
use crate::edge::desk::{Desk, Wants};
use crate::edge::http::answer::Problem;
use crate::edge::http::cors::Verdict;
use crate::edge::http::{Outcome, body, fixed};
use crate::engine::Position;
use crate::event::EventId;
use crate::frame::WireForm;
use crate::frame::sse;
use crate::topic::{Topic, TopicError};

const CONTENT_TYPE: &str = "text/event-stream";
/// Most events that `last=N` asks for: one page of what a client may want to show.
pub const LAST_EVENTS_MAX: usize = 1_000;
/// `no-transform` keeps proxies from compressing, which would hold events back.
const CACHE_CONTROL: &str = "no-store, no-transform";

/// Answers the request, or says which stream its connection becomes.
pub async fn open(request: Request<Incoming>, desk: &Desk, admission: Admission) -> Result<Outcome, Problem> {
    let is_head = match *request.method() {
        Method::GET => false,
        Method::HEAD => true,
        _ => return Err(Problem::method_not_allowed("GET, HEAD, OPTIONS")),
    };
    let origin = desk.node.origins.admit(request.headers());
    let is_http2 = request.version() == Version::HTTP_2;
    let form = if request.version() == Version::HTTP_11 { WireForm::SseChunked } else { WireForm::SsePlain };
    let (topics, position) = asked(&request, desk)?;
    if topics.is_empty() {
        return Err(Problem::bad_request("name at least one topic: /events?topic=NAME"));
    }
    if is_head {
        return Ok(Outcome::Answer(head_answer()));
    }
    if !request.body().is_end_stream() {
        // What the body says does not matter, but it must be read before the socket is ours.
        body::read(request, HEAD_BYTES_MAX, "the body of a request for a stream", &desk.load).await?;
    }
    let head = if is_http2 { sse::heartbeat(form).to_vec() } else { head(form, &origin, &desk.date()) };
    let topics = (admission == Admission::Admitted).then_some(topics);
    Ok(Outcome::Stream(Wants { head, form, topics, position, origin }))
}

/// What a stream is asked to follow, and from where.
pub(super) fn asked<B>(request: &Request<B>, desk: &Desk) -> Result<(Vec<Topic>, Position), Problem> {
    let parameters = parameters(request.uri().query().unwrap_or_default())?;
    let topics = topics(&parameters, desk.node.topics_per_stream_max)?;
    let is_durable = topics.iter().any(|topic| desk.node.classes.class_of(topic).retention().is_some());
    // Live topics have no positions, and what is said of them means nothing.
    let position = if is_durable { position(request.headers(), &parameters)? } else { Position::Now };
    Ok((topics, position))
}

/// The stream's topics, each once. Other parameters are left to whoever put them there.
fn topics(parameters: &[Parameter], topics_max: usize) -> Result<Vec<Topic>, Problem> {
    let mut topics: Vec<Topic> = Vec::new();
    for (_, value) in parameters.iter().filter(|(name, _)| name == "topic") {
        let topic = Topic::parse(value).map_err(|error| match error {
            TopicError::Pattern => Problem::bad_request("pattern subscriptions are not available"),
            TopicError::TooLong => Problem::bad_request(error.to_string()).with_limit(crate::topic::TOPIC_BYTES_MAX),
            _ => Problem::bad_request(error.to_string()),
        })?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
        if topics.len() > topics_max {
            let error = format!("a stream follows at most {topics_max} topics");
            return Err(Problem::bad_request(error).with_limit(topics_max));
        }
    }
    Ok(topics)
}

/// From where a stream wants its durable topics. The header is what a browser comes back with, to the same URL.
fn position(headers: &HeaderMap, parameters: &[Parameter]) -> Result<Position, Problem> {
    let after = |text: &[u8]| {
        let id = std::str::from_utf8(text).ok().and_then(EventId::parse);
        id.map_or(Position::Unknown, Position::After)
    };
    let asked = match (single(parameters, "last_event_id")?, single(parameters, "last")?) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request("`last` and `last_event_id` are two positions; choose one"));
        }
        (Some("") | None, None) => Position::Now,
        (Some("earliest"), None) => Position::Earliest,
        (Some(text), None) => after(text.as_bytes()),
        (None, Some(text)) => Position::Last(count(text, "last", LAST_EVENTS_MAX)? as u32),
    };
    // A client without a position may send an empty one.
    let mut headers = headers.get_all("last-event-id").iter().map(http::HeaderValue::as_bytes);
    Ok(headers.rfind(|text| !text.is_empty()).map_or(asked, after))
}

/// The value of a parameter that may be given once.
pub(super) fn single<'p>(parameters: &'p [Parameter], name: &str) -> Result<Option<&'p str>, Problem> {
    let mut values = parameters.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Problem::bad_request(format!("`{name}` is given more than once"))),
        (value, None) => Ok(value),
    }
}

/// A parameter that counts from 1 to `max`.
pub(super) fn count(text: &str, name: &str, max: usize) -> Result<usize, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=max).contains(number));
    number.ok_or_else(|| Problem::bad_request(format!("`{name}` is a number from 1 to {max}")).with_limit(max))
}

/// A parameter's name and value.
pub(super) type Parameter = (String, String);

/// Parameters of a form-urlencoded query; all of it must be UTF-8.
pub fn parameters(query: &str) -> Result<Vec<(String, String)>, Problem> {
    if percent_decode_str(query).decode_utf8().is_err() {
        return Err(Problem::bad_request("the query string must be valid UTF-8 when decoded"));
    }
    Ok(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}

/// What HEAD is answered.
fn head_answer() -> crate::edge::http::answer::Answer {
    let mut answer = fixed(CONTENT_TYPE, "");
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(hyper::header::CACHE_CONTROL, http::HeaderValue::from_static(CACHE_CONTROL));
    answer
}

/// A stream's headers where hyper writes them.
pub(super) fn put_headers(headers: &mut http::HeaderMap, origin: &Verdict) {
    headers.insert(hyper::header::CONTENT_TYPE, http::HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(hyper::header::CACHE_CONTROL, http::HeaderValue::from_static(CACHE_CONTROL));
    headers.insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    origin.put_on(headers);
}

/// A stream's head, and the comment that makes proxies and clients see it at once.
fn head(form: WireForm, verdict: &Verdict, date: &str) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {CONTENT_TYPE}\r\ncache-control: {CACHE_CONTROL}\r\n\
         x-accel-buffering: no\r\ndate: {date}\r\nconnection: close\r\n"
    );
    if form == WireForm::SseChunked {
        head.push_str("transfer-encoding: chunked\r\n");
    }
    let _ = write!(head, "{}\r\n", verdict.lines());
    let mut head = head.into_bytes();
    head.extend_from_slice(sse::heartbeat(form));
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str) -> Result<Vec<String>, Problem> {
        Ok(topics(&parameters(query)?, 3)?.iter().map(|topic| topic.as_str().to_owned()).collect())
    }

    #[test]
    fn repeated_topics_are_a_set() {
        assert_eq!(names("topic=a&topic=b&topic=a&x=y"), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(names("topic=a%2Fb+c"), Ok(vec!["a/b c".into()]));
        assert_eq!(names("topic=a&topic=a&topic=b&topic=c&topic=a").map(|names| names.len()), Ok(3));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |query| names(query).expect_err("refused").into_answer().status();
        for query in ["topic=", "topic=a&topic=", "topic=%ff", "topic=%00", "topic=$x", "topic=a.*"] {
            assert_eq!(problem(query), StatusCode::BAD_REQUEST, "{query}");
        }
        assert_eq!(
            names("topic=1&topic=2&topic=3&topic=4")
                .map_err(|problem| problem == Problem::bad_request("a stream follows at most 3 topics").with_limit(3)),
            Err(true)
        );
    }

    fn asked(headers: &[&'static [u8]], query: &str) -> Result<Position, Problem> {
        let value = |value| http::HeaderValue::from_bytes(value).expect("a header's value");
        let name = http::HeaderName::from_static("last-event-id");
        position(&headers.iter().map(|text| (name.clone(), value(text))).collect(), &parameters(query)?)
    }

    #[test]
    fn the_header_goes_before_the_query_and_the_last_header_before_the_others() {
        let after = |text| Ok(Position::After(EventId::parse(text).expect("an id")));
        assert_eq!(asked(&[], "topic=a"), Ok(Position::Now));
        assert_eq!(asked(&[b""], "last_event_id="), Ok(Position::Now));
        assert_eq!(asked(&[], "last_event_id=1-2-abcd"), after("1-2-abcd"));
        assert_eq!(asked(&[b""], "last_event_id=earliest"), Ok(Position::Earliest));
        assert_eq!(asked(&[b"3-4-abcd"], "last_event_id=1-2-abcd"), after("3-4-abcd"));
        assert_eq!(asked(&[b"3-4-abcd"], "last=7"), after("3-4-abcd"));
        assert_eq!(asked(&[b"3-4-abcd", b"5-6-abcd"], ""), after("5-6-abcd"));
        assert_eq!(asked(&[b"3-4-abcd", b""], ""), after("3-4-abcd"));
        assert_eq!([1, 1000].map(|last| asked(&[], &format!("last={last}"))), [1, 1000].map(|n| Ok(Position::Last(n))));
    }

    #[test]
    fn what_is_no_id_is_unknown_and_never_refused() {
        let long = "1".repeat(20_000);
        for query in ["1", "earliest ", "1-1-abcd~2-2-abcd", "1-1-abcd%00", "%0A", "1-1-abcde", "%C3%BC", &long] {
            assert_eq!(asked(&[], &format!("last_event_id={query}")), Ok(Position::Unknown), "{query}");
        }
        for header in [&b"earliest"[..], b"\xff:\"()", b"1-1-abcd, 2-2-abcd", b"0", b"~"] {
            assert_eq!(asked(&[b"1-1-abcd", header], ""), Ok(Position::Unknown), "{header:?}");
        }
    }

    #[test]
    fn positions_that_cannot_be_meant_are_refused() {
        for query in ["last=0", "last=1001", "last=x", "last=", "last=%2B1", "last=99999999999999999999"] {
            let refused = asked(&[], query).expect_err("refused");
            assert_eq!(refused, Problem::bad_request("`last` is a number from 1 to 1000").with_limit(1000), "{query}");
        }
        for query in ["last=1&last_event_id=1-1-abcd", "last=1&last_event_id=", "last=1&last=1"] {
            assert!(asked(&[b"1-1-abcd"], query).is_err(), "{query}");
        }
        assert!(asked(&[], "last_event_id=1-1-abcd&last_event_id=1-1-abcd").is_err());
    }

    #[test]
    fn only_http_1_1_gets_chunks() {
        let text = |form| String::from_utf8(head(form, &Verdict::Off, "now")).expect("ascii");
        assert!(text(WireForm::SseChunked).ends_with("transfer-encoding: chunked\r\n\r\n2\r\n:\n\r\n"));
        assert!(text(WireForm::SsePlain).ends_with("connection: close\r\n\r\n:\n"));
    }
}
