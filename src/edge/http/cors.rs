//! Cross-origin use: which pages of other origins may open streams, publish, and read the answers.
//!
//! What always holds: refusals carry the same headers as other answers, so that a page can read
//! why; and wherever the answer depends on the origin, caches are told (`Vary`). Not answered is
//! `Access-Control-Request-Private-Network`: whether a public page may reach a private
//! network is for the browser and its user to say, not for a server that cannot know where it stands.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, HeaderMap, HeaderValue,
    ORIGIN, RETRY_AFTER, VARY,
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

    /// True exactly when who sent this request may open a WebSocket: a page of an admitted origin, one that was
    /// itself loaded from the host it connects to, or a program that is no browser and names no origin.
    ///
    /// Browsers do not ask before they open one, and hand its messages to any page: the list is all there is. A proxy
    /// that changes `Host` makes its own pages foreign, and their origin must be listed.
    #[must_use]
    pub fn may_connect(&self, headers: &HeaderMap) -> bool {
        match self.admit(headers) {
            Verdict::Admitted(_) | Verdict::AdmittedAll => true,
            Verdict::Off | Verdict::NotAdmitted => is_same_origin(headers).unwrap_or(!headers.contains_key(ORIGIN)),
        }
    }
}

/// Whether the one origin's host and port are those of the one `Host`. The scheme is not looked at: behind a proxy
/// that ends TLS, the node knows only that of the last step.
fn is_same_origin(headers: &HeaderMap) -> Option<bool> {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    };
    let (scheme, origin) = one(ORIGIN)?.split_once("://")?;
    let host = one(HOST)?;
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Some(false),
    };
    let without_port = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
    Some(!host.is_empty() && without_port(origin) == without_port(host))
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

    #[test]
    fn a_websocket_is_for_programs_pages_of_ours_and_listed_ones() {
        let asks = |origins: &[&'static str], host: &'static str| {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            origins.iter().for_each(|origin| {
                headers.append(ORIGIN, HeaderValue::from_static(origin));
            });
            headers
        };
        let nobody = Origins::default();
        let listed = Origins(vec!["https://a.example".into()]);
        for origins in [&nobody, &listed] {
            assert!(origins.may_connect(&asks(&[], "b.example")), "no browser");
            for (origin, host) in [
                ("http://b.example", "b.example"),
                ("https://b.example", "B.example"),
                ("https://b.example", "b.example:443"),
                ("http://b.example:80", "b.example"),
                ("http://[::1]:8080", "[::1]:8080"),
            ] {
                assert!(origins.may_connect(&asks(&[origin], host)), "{origin} {host}");
            }
            for (origin, host) in [
                ("http://c.example", "b.example"),
                ("http://b.example:8080", "b.example"),
                ("http://b.example", "b.example:443"),
                ("http://b.example.evil", "b.example"),
                ("null", "b.example"),
                ("null", "null"),
                ("", ""),
                ("http://", ""),
                ("file://b.example", "b.example"),
            ] {
                assert!(!origins.may_connect(&asks(&[origin], host)), "{origin} {host}");
            }
            let twice = asks(&["http://b.example", "http://b.example"], "b.example");
            assert!(!origins.may_connect(&twice));
        }
        assert!(listed.may_connect(&asks(&["https://a.example"], "b.example")));
        assert!(Origins(vec!["*".into()]).may_connect(&asks(&["https://a.example"], "b.example")));
    }
}
