//! `GET /events`: checks what a stream asks for and writes its head.

use std::fmt::Write as _;

use hyper::body::{Body, Incoming};
use hyper::{Method, Request, StatusCode, Version};
use percent_encoding::percent_decode_str;

use crate::edge::HEAD_BYTES_MAX;
use crate::edge::admission::Admission;
use crate::edge::desk::{Desk, Wants};
use crate::edge::http::answer::Problem;
use crate::edge::http::cors::Verdict;
use crate::edge::http::{Outcome, body, fixed};
use crate::engine::Position;
use crate::frame::WireForm;
use crate::frame::sse;
use crate::topic::{Topic, TopicError};

const CONTENT_TYPE: &str = "text/event-stream";
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
    let topics = topics(request.uri().query().unwrap_or_default(), desk.node.topics_per_stream_max)?;
    if is_head {
        return Ok(Outcome::Answer(head_answer()));
    }
    if !request.body().is_end_stream() {
        // What the body says does not matter, but it must be read before the socket is ours.
        body::read(request, HEAD_BYTES_MAX, "the body of a request for a stream", &desk.load).await?;
    }
    let head = if is_http2 { sse::heartbeat(form).to_vec() } else { head(form, &origin, &desk.date()) };
    let topics = if admission == Admission::TurnedAway { Vec::new() } else { topics };
    Ok(Outcome::Stream(Wants { head, form, topics, position: Position::Now, origin }))
}

/// The stream's topics, each once. Other parameters are left to whoever put them there.
fn topics(query: &str, topics_max: usize) -> Result<Vec<Topic>, Problem> {
    let mut topics: Vec<Topic> = Vec::new();
    for (name, value) in parameters(query)? {
        if name != "topic" {
            continue;
        }
        let topic = Topic::parse(&value).map_err(|error| match error {
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
    if topics.is_empty() {
        return Err(Problem::bad_request("name at least one topic: /events?topic=NAME"));
    }
    Ok(topics)
}

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
        Ok(topics(query, 3)?.iter().map(|topic| topic.as_str().to_owned()).collect())
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
        for query in ["", "x=y", "topic=", "topic=a&topic=", "topic=%ff", "topic=%00", "topic=$x", "topic=a.*"] {
            assert_eq!(problem(query), StatusCode::BAD_REQUEST, "{query}");
        }
        assert_eq!(
            names("topic=1&topic=2&topic=3&topic=4")
                .map_err(|problem| problem == Problem::bad_request("a stream follows at most 3 topics").with_limit(3)),
            Err(true)
        );
    }

    #[test]
    fn only_http_1_1_gets_chunks() {
        let text = |form| String::from_utf8(head(form, &Verdict::Off, "now")).expect("ascii");
        assert!(text(WireForm::SseChunked).ends_with("transfer-encoding: chunked\r\n\r\n2\r\n:\n\r\n"));
        assert!(text(WireForm::SsePlain).ends_with("connection: close\r\n\r\n:\n"));
    }
}
