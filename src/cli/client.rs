//! An HTTP client for the verbs that speak to a node.
//!
//! What always holds: one request per connection; every wait has an end, and the wait for the next
//! piece of a body has one of its own, so that an endless stream may last and a silent one may not.
//! Pieces are handed on as they arrive. No proxy is taken from the environment.
//!
//! Not chosen: a client crate. ureq limits the time of a body as a whole, which cuts streams; hyper,
//! tokio and rustls are in the program anyway.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, LOCATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::failure::Failure;

/// The node on this machine, as it listens without any flag.
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// How long a connection may take until it can carry a request, over all of the name's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a node takes to say that it cannot answer: 30 s for a body, 2 s for Redis.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// More than any answer of a node; the page of a proxy may be longer, and is not shown anyway.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a path segment may hold as it is (RFC 3986, section 2.3).
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A node, or a proxy before it.
pub(super) struct Node {
    /// As it was written.
    url: String,
    /// Host and port, as the `Host` header says them.
    authority: HeaderValue,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// What stands before the node's own paths; does not end with `/`.
    base: String,
    /// `None` exactly for `http://`.
    tls: Option<TlsConnector>,
}

/// What is asked of a node.
pub(super) struct Ask {
    method: Method,
    /// Path and query, percent-encoded.
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

/// A text that cannot stand in a header.
#[derive(Debug, thiserror::Error)]
#[error("it has control characters")]
pub(super) struct NoHeader;

impl Ask {
    /// Asks for an event stream.
    pub(super) fn stream(target: String) -> Ask {
        let headers = vec![
            (ACCEPT, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        Ask { method: Method::GET, target, headers, body: Bytes::new() }
    }

    /// Sends text: what [`Ask::carrying`] adds.
    pub(super) fn post(target: String) -> Ask {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
        Ask { method: Method::POST, target, headers, body: Bytes::new() }
    }

    pub(super) fn carrying(self, body: Bytes) -> Ask {
        Ask { body, ..self }
    }

    /// Adds a header, by its name in small letters.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Result<Ask, NoHeader> {
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| NoHeader)?;
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nothing was sent.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, String),
    /// The request was sent, perhaps.
    #[error("{0} gave no answer: {1}")]
    Lost(String, String),
}

/// One segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

impl Node {
    /// Reads the URL of a node; without one, it is the node on this machine.
    pub(super) fn parse(url: Option<&str>) -> Result<Node, Failure> {
        let url = url.unwrap_or(DEFAULT_URL);
        let wrong = |why: &str| {
            Failure::Usage(format!("`--url {url}` {why}; write http://host[:port][/path], or https:// for TLS"))
        };
        let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("is not the URL of a node"));
        };
        let tls = match scheme {
            "http" => None,
            "https" => Some(tls()?),
            _ => return Err(wrong("has an unknown scheme")),
        };
        if authority.as_str().contains('@') {
            return Err(wrong("has a user or password, which no node asks for"));
        }
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return Err(wrong("has a port that is none"));
        }
        if uri.query().is_some() || authority.host().is_empty() {
            return Err(wrong("has no host, or a query"));
        }
        Ok(Node {
            url: url.to_owned(),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("has no usable host"))?,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 }),
            base: uri.path().trim_end_matches('/').to_owned(),
            tls,
        })
    }

    /// As it was written.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Asks on a connection of its own, and waits for the answer's head.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, NoAnswer> {
        let unreachable = |why| NoAnswer::Unreachable(self.url.clone(), why);
        let lost = |why| NoAnswer::Lost(self.url.clone(), why);
        let request = self.request(ask).map_err(|error| unreachable(error.to_string()))?;
        let mut connection = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(connection) => connection.map_err(|error| unreachable(error.to_string()))?,
            Err(_) => {
                return Err(unreachable(format!("no connection in {}", humantime::format_duration(CONNECT_TIMEOUT))));
            }
        };
        match timeout(ANSWER_TIMEOUT, connection.send_request(request)).await {
            Ok(Ok(answer)) => Ok(Answer(answer)),
            Ok(Err(error)) => Err(lost(reasons(&error))),
            Err(_) => Err(lost(format!("silent for {}", humantime::format_duration(ANSWER_TIMEOUT)))),
        }
    }

    fn request(&self, ask: Ask) -> http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.base, ask.target))
            .header(HOST, &self.authority)
            .header(USER_AGENT, concat!("fanwheel/", env!("CARGO_PKG_VERSION")));
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(ask.body))
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let socket = TcpStream::connect((&self.host[..], self.port)).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return handshake(socket).await };
        let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
        handshake(tls.connect(name, socket).await?).await
    }
}

async fn handshake<S>(socket: S) -> std::io::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(std::io::Error::other)?;
    // It ends with the answer's body, and whoever reads that hears of its errors.
    tokio::spawn(connection);
    Ok(sender)
}

/// TLS with the roots of this system (or of `SSL_CERT_FILE`).
fn tls() -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Failure::Failed(
            "no root certificates on this machine; install ca-certificates, or set SSL_CERT_FILE".into(),
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Failed(format!("no TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An error with what caused it: hyper's own words are few.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// An answer whose head has come.
pub(super) struct Answer(Response<Incoming>);

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    End,
    /// It broke off, or nothing came for too long: why.
    Lost(String),
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// True exactly when the body is an event stream.
    pub(super) fn is_stream(&self) -> bool {
        let kind = self.0.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
    }

    /// The next piece of the body, which must come within `silence_max`.
    pub(super) async fn next(&mut self, silence_max: Duration) -> Piece {
        loop {
            let frame = match timeout(silence_max, self.0.body_mut().frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Piece::Lost(reasons(&error)),
                Ok(None) => return Piece::End,
                Err(_) => return Piece::Lost(format!("silent for {}", humantime::format_duration(silence_max))),
            };
            if let Ok(data) = frame.into_data() {
                return Piece::Data(data);
            }
        }
    }

    /// The whole body, if it is text of a moderate length and comes in time.
    pub(super) async fn text(self) -> Option<String> {
        let body = timeout(ANSWER_TIMEOUT, Limited::new(self.0.into_body(), ANSWER_BYTES_MAX).collect()).await.ok()?;
        String::from_utf8(body.ok()?.to_bytes().into()).ok()
    }

    /// What an answer that is none of the expected says: the node's sentence, or what there is of
    /// one, with the status.
    pub(super) async fn problem(self) -> String {
        let status = self.0.status();
        let elsewhere = self.0.headers().get(LOCATION).and_then(|to| to.to_str().ok()).map(str::to_owned);
        if let Some(to) = elsewhere.filter(|_| status.is_redirection()) {
            return format!("redirected to {to}, which is not followed; name the node itself with --url ({status})");
        }
        let answer: Option<serde_json::Value> = self.text().await.and_then(|text| serde_json::from_str(&text).ok());
        match answer.as_ref().and_then(|answer| answer["error"].as_str()) {
            Some(sentence) => format!("{sentence} ({status})"),
            None => format!("answered with {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    #[test]
    fn urls_of_nodes() {
        for (url, host, port, base) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, ""),
            ("http://example.org/", "example.org", 80, ""),
            ("http://[::1]:1/some/path/", "::1", 1, "/some/path"),
        ] {
            let node = Node::parse(Some(url)).expect(url);
            assert_eq!((&node.host[..], node.port, &node.base[..]), (host, port, base));
        }
        for url in ["", "/", "localhost:80", "http://", "ftp://x", "http://u:p@x", "http://x/?a", "http://x:99999"] {
            let failure = Node::parse(Some(url)).err();
            assert!(matches!(&failure, Some(Failure::Usage(why)) if why.contains(url)), "{url}: {failure:?}");
        }
    }

    /// The answer of a server that answers one request with these bytes, and then waits for the connection's end.
    async fn answered_with(bytes: &'static [u8]) -> (Answer, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a client");
            assert!(socket.read(&mut [0; 4 << 10]).await.expect("a request") > 0);
            socket.write_all(bytes).await.expect("room");
            // An end with a reset is one.
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        let node = Node::parse(Some(&url)).expect("a URL");
        (node.ask(Ask::stream("/events".into())).await.expect("an answer"), server)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
    }

    #[test]
    fn a_silent_stream_is_lost_and_what_came_of_a_chunk_is_handed_on() {
        run(async {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                transfer-encoding: chunked\r\n\r\nff\r\n:half";
            let (mut answer, server) = answered_with(head).await;
            assert!(answer.status() == 200 && answer.is_stream());
            assert_eq!(answer.next(Duration::from_secs(20)).await, Piece::Data(Bytes::from_static(b":half")));
            assert_eq!(answer.next(Duration::from_millis(20)).await, Piece::Lost("silent for 20ms".into()));
            drop(answer);
            timeout(Duration::from_secs(20), server).await.expect("its connection is closed").expect("no panic");
        });
    }

    #[test]
    fn problems_are_told_with_the_best_words_there_are() {
        run(async {
            for (bytes, sentence) in [
                (&b"HTTP/1.1 400 x\r\ncontent-length: 16\r\n\r\n{\"error\":\"no \"}\n"[..], "no  (400 Bad Request)"),
                (b"HTTP/1.1 431 x\r\ncontent-length: 0\r\n\r\n", "answered with 431 Request Header Fields Too Large"),
                (b"HTTP/1.1 502 x\r\ncontent-length: 6\r\n\r\n<html>", "answered with 502 Bad Gateway"),
            ] {
                assert_eq!(answered_with(bytes).await.0.problem().await, sentence);
            }
            let (answer, _) =
                answered_with(b"HTTP/1.1 301 x\r\nlocation: https://b/\r\ncontent-length: 0\r\n\r\n").await;
            assert!(answer.problem().await.contains("https://b/"));
        });
    }
}
