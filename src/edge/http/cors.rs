//! Cross-origin use: which pages of other origins may open streams, publish, and read the answers.
//!
//! What always holds: refusals carry the same headers as other answers, so that a page can read
//! why; and wherever the answer depends on the origin, caches are told (`Vary`). Not answered is
//! `Access-Control-Request-Private-Network`: whether a public page may reach a private
//! network is for the browser and its user to say, not for a server that cannot know where it stands.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, ORIGIN,
    RETRY_AFTER, VARY,
};
use http::{Response, StatusCode};

use crate::edge::http::answer::Answer;

/// Origins that may use the node. Nobody else's pages can read its answers.
#[derive(Debug, Clone, Default)]
pub struct Origins(pub Vec<String>);

/// What CORS says of one request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The node admits no other origin at all.
    Off,
    /// This origin is admitted.
    Admitted(HeaderValue),
    /// Every origin is, without its users' credentials.
    AdmittedAll,
    /// This one is not, but others are: caches must know that the answer depends on it.
    NotAdmitted,
}

impl Origins {
    /// Looks at a request's `Origin`. `*` in the list admits every origin; but a browser then hands
    /// out nothing that a cookie or a password opened, which only listed origins may read.
    #[must_use]
    pub fn admit(&self, headers: &HeaderMap) -> Verdict {
        if self.0.is_empty() {
            return Verdict::Off;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        // No browser sends two.
        let (Some(origin), None) = (origins.next(), origins.next()) else {
            return Verdict::NotAdmitted;
        };
        if self.0.iter().any(|one| one.as_bytes() == origin.as_bytes()) {
            Verdict::Admitted(origin.clone())
        } else if self.0.iter().any(|one| one == "*") {
            Verdict::AdmittedAll
        } else {
            Verdict::NotAdmitted
        }
    }
}

impl Verdict {
    /// Puts the headers on an answer.
    pub fn put_on(&self, headers: &mut HeaderMap) {
        match self {
            Verdict::Off => return,
            Verdict::NotAdmitted => {}
            Verdict::AdmittedAll => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Verdict::Admitted(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
    }

    /// The same headers as lines of a stream's head.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut headers = HeaderMap::new();
        self.put_on(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap_or_default())).collect()
    }
}

/// Lets a page read when to come back, which it could not without (Fetch standard, "CORS-safelisted
/// response-header name").
pub fn expose_retry_after(headers: &mut HeaderMap) {
    if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) && headers.contains_key(RETRY_AFTER) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
    }
}

/// The answer to an OPTIONS request. The headers allowed are those that event stream clients and
/// publishers send; GET, HEAD and POST need no leave, but some clients look for them.
#[must_use]
pub fn preflight(verdict: &Verdict) -> Answer {
    let mut answer = Response::new(bytes::Bytes::new());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers: &mut HeaderMap = answer.headers_mut();
    if matches!(verdict, Verdict::Admitted(_) | Verdict::AdmittedAll) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Last-Event-ID, Authorization, Cache-Control, Content-Type, Idempotency-Key"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))])
    }

    #[test]
    fn only_listed_origins_are_admitted() {
        let origins = Origins(vec!["https://a.example".into()]);
        assert!(matches!(origins.admit(&asked_by("https://a.example")), Verdict::Admitted(_)));
        assert!(matches!(origins.admit(&asked_by("https://a.example.evil")), Verdict::NotAdmitted));
        assert!(matches!(origins.admit(&HeaderMap::new()), Verdict::NotAdmitted));
        let mut twice = asked_by("https://a.example");
        twice.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        assert!(matches!(origins.admit(&twice), Verdict::NotAdmitted));
        assert!(matches!(Origins::default().admit(&asked_by("https://a.example")), Verdict::Off));
        let all = Origins(vec!["*".into(), "http://y".into()]);
        assert_eq!(all.admit(&asked_by("http://x")).lines(), "access-control-allow-origin: *\r\nvary: origin\r\n");
        assert_eq!(
            all.admit(&asked_by("http://y")).lines(),
            "access-control-allow-origin: http://y\r\naccess-control-allow-credentials: true\r\nvary: origin\r\n"
        );
    }
}
