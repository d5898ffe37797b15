//! Ordinary answers: JSON, and problems as JSON. A problem's sentence names the limit or the field.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::Response;
use serde::Serialize;

use crate::edge::HEADERS_MAX;

/// An ordinary answer.
pub type Answer = Response<Bytes>;

/// Why a request is not answered as it wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    error: String,
    limit: Option<usize>,
    allow: Option<&'static str>,
    /// True exactly when the connection ends with the answer.
    closes: bool,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), limit: None, allow: None, closes: false }
    }

    /// 400.
    pub fn bad_request(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    /// 403.
    pub fn forbidden(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, error)
    }

    /// 404.
    pub fn not_found() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
    }

    /// 405, with the methods that are allowed.
    pub fn method_not_allowed(allow: &'static str) -> Problem {
        let error = format!("this path answers {allow}");
        Problem { allow: Some(allow), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, error) }
    }

    /// 408.
    pub fn timeout(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::REQUEST_TIMEOUT, error)
    }

    /// 413.
    pub fn too_large(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    }

    /// 422.
    pub fn conflict(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    /// 426, with the protocol that is spoken here, and its version.
    pub fn upgrade_required(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UPGRADE_REQUIRED, error)
    }

    /// 431.
    pub fn head_too_large(limit: usize) -> Problem {
        let error = format!("a request's head is at most {limit} bytes and {HEADERS_MAX} headers");
        Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, error).with_limit(limit)
    }

    /// 501.
    pub fn not_implemented(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_IMPLEMENTED, error)
    }

    /// 505.
    pub fn other_version() -> Problem {
        let error = "this port speaks HTTP/1.0 and HTTP/1.1";
        Problem::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, error)
    }

    /// 503 with `Retry-After`: nothing was stored.
    pub fn unavailable(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    /// 504: it is not known whether anything was stored.
    pub fn unknown(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, error)
    }

    /// Names the limit that was passed.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Problem {
        Problem { limit: Some(limit), ..self }
    }

    /// The same, with which the connection ends: what follows on it cannot be trusted.
    #[must_use]
    pub fn closing(self) -> Problem {
        Problem { closes: true, ..self }
    }

    /// The same, with the place where it was found before the sentence.
    #[must_use]
    pub fn within(self, place: &str) -> Problem {
        Problem { error: format!("{place}: {}", self.error), ..self }
    }

    /// The answer as bytes, with the connection's end behind it: for requests that hyper refuses.
    #[must_use]
    pub fn into_last_bytes(self, date: &str) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_str()).into_bytes();
        let body = self.body();
        let length = body.len();
        for (name, value) in self.closing().into_answer().headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        let rest = format!("content-length: {length}\r\ndate: {date}\r\n\r\n");
        bytes.extend_from_slice(rest.as_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&ProblemBody { error: &self.error, limit: self.limit }).expect("text and a number serialize")
    }

    /// The answer.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        let mut answer = json_bytes(self.status, self.body());
        if let Some(allow) = self.allow {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if self.closes {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    json_bytes(status, serde_json::to_vec(body).expect("strings, numbers and lists serialize"))
}

fn json_bytes(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
