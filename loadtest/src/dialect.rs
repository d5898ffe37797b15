//! How a server is spoken to: what opens a stream on it, what publishes an event.
//!
//! Templates, not code: a server that is not known here is measured by naming its paths.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use checker::history::Id;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::target::{Target, percent_encode};

/// The requests a server understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dialect {
    /// Path and query that open a stream. `{topics}` stands for its topics, percent-encoded, with
    /// `topic_separator` between them.
    pub(crate) subscribe_path: String,
    pub(crate) topic_separator: String,
    pub(crate) open_on: OpenOn,
    pub(crate) transport: Transport,
    pub(crate) publish: PublishRequest,
}

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// Server-Sent Events
    Sse,
    /// WebSocket, with Fanwheel's subprotocol
    Websocket,
}

/// The request that publishes one event by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishRequest {
    pub(crate) method: String,
    /// `{topic}` stands for the topic, percent-encoded.
    pub(crate) path: String,
    /// Lines `Name: value`, besides `Host` and `Content-Length`.
    pub(crate) headers: Vec<String>,
    /// `{payload}` stands for the event, `{topic}` for the topic as it is. Payloads are letters,
    /// digits and spaces: they need no escaping anywhere.
    pub(crate) body: String,
}

/// When a stream counts as open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OpenOn {
    /// When the head of the response is there
    Head,
    /// When the block `fanwheel.open` is there
    Open,
}

impl Dialect {
    pub(crate) fn fanwheel() -> Self {
        Self {
            subscribe_path: "/events?topic={topics}".to_owned(),
            topic_separator: "&topic=".to_owned(),
            open_on: OpenOn::Open,
            transport: Transport::Sse,
            publish: PublishRequest::plain("POST", "/topics/{topic}"),
        }
    }

    /// nginx with nchan, channels named by the last part of the path, several joined by a comma.
    pub(crate) fn nchan() -> Self {
        Self {
            subscribe_path: "/sub/{topics}".to_owned(),
            topic_separator: ",".to_owned(),
            open_on: OpenOn::Head,
            transport: Transport::Sse,
            publish: PublishRequest::plain("POST", "/pub/{topic}"),
        }
    }

    /// Topics in the query, opened with the head, as servers made by hand have it. The Node server is
    /// published to by Redis only.
    pub(crate) fn by_query() -> Self {
        Self {
            open_on: OpenOn::Head,
            publish: PublishRequest::plain("POST", "/publish?topic={topic}"),
            ..Self::fanwheel()
        }
    }

    /// The same server's streams over WebSocket; of Fanwheel alone it is known how.
    pub(crate) fn over(self, transport: Transport) -> Result<Self> {
        if transport == self.transport {
            return Ok(self);
        }
        ensure!(self.subscribe_path == Self::fanwheel().subscribe_path, "--transport websocket is for Fanwheel alone");
        Ok(Self { subscribe_path: "/ws?topic={topics}".to_owned(), transport, ..self })
    }

    /// The request that opens a stream of all `topics`, after its last id if it has one.
    pub(crate) fn subscribe_request<'a>(
        &self,
        target: &Target,
        topics: impl Iterator<Item = &'a str>,
        last: Option<Id>,
    ) -> String {
        let topics: Vec<String> = topics.map(percent_encode).collect();
        let path = self.subscribe_path.replace("{topics}", &topics.join(&self.topic_separator));
        let Target { authority, .. } = target;
        match self.transport {
            Transport::Sse => {
                let last = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
                format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n{last}\r\n")
            }
            Transport::Websocket => {
                let last = last.map_or(String::new(), |last| format!("&last_event_id={last}"));
                // The key of RFC 6455, section 1.2: nobody between here and there keeps answers for later.
                format!(
                    "GET {path}{last} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Protocol: fanwheel.v1.json\r\n\r\n"
                )
            }
        }
    }
}

impl PublishRequest {
    /// The body is the event.
    pub(crate) fn plain(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: vec!["Content-Type: text/plain".to_owned()],
            body: "{payload}".to_owned(),
        }
    }

    /// What stands before and after a payload of `payload_len` bytes on `topic`.
    pub(crate) fn around(&self, target: &Target, topic: &str, payload_len: usize) -> Result<(String, String)> {
        let body = self.body.replace("{topic}", topic);
        let parts: Vec<&str> = body.split("{payload}").collect();
        ensure!(parts.len() == 2, "a publishing body names {{payload}} exactly once: {:?}", self.body);
        let path = self.path.replace("{topic}", &percent_encode(topic));
        let mut before = format!("{} {path} HTTP/1.1\r\nHost: {}\r\n", self.method, target.authority);
        for header in &self.headers {
            let _ = write!(before, "{header}\r\n");
        }
        let len = parts[0].len() + payload_len + parts[1].len();
        let _ = write!(before, "Content-Length: {len}\r\n\r\n{}", parts[0]);
        Ok((before, parts[1].to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::parse("http://127.0.0.1:8080", "http", 80).unwrap()
    }

    #[test]
    fn topics_are_joined_and_encoded() {
        let request = Dialect::fanwheel().subscribe_request(&target(), ["x", "y z"].into_iter(), None);
        assert!(request.starts_with("GET /events?topic=x&topic=y%20z HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"));
        assert!(request.ends_with("Accept: text/event-stream\r\n\r\n"));
    }

    #[test]
    fn a_stream_that_comes_back_says_what_it_had_last() {
        let last = Id::parse("1795295280917-0-k3Zq");
        let request = Dialect::fanwheel().subscribe_request(&target(), ["x"].into_iter(), last);
        assert!(request.ends_with("\r\nLast-Event-ID: 1795295280917-0-k3Zq\r\n\r\n"), "{request}");
    }

    #[test]
    fn a_websocket_says_it_in_the_query() {
        let dialect = Dialect::fanwheel().over(Transport::Websocket).unwrap();
        let last = Id::parse("1795295280917-0-k3Zq");
        let request = dialect.subscribe_request(&target(), ["x", "y"].into_iter(), last);
        let line = "GET /ws?topic=x&topic=y&last_event_id=1795295280917-0-k3Zq HTTP/1.1\r\n";
        assert!(request.starts_with(line) && request.ends_with("\r\n\r\n"), "{request}");
        assert!(Dialect::nchan().over(Transport::Websocket).is_err());
    }

    #[test]
    fn a_body_is_wrapped_around_the_payload_and_counted() {
        let mut request = PublishRequest::plain("POST", "/topics/{topic}");
        let (before, after) = request.around(&target(), "a/b", 3).unwrap();
        assert!(before.starts_with("POST /topics/a%2Fb HTTP/1.1\r\n"), "{before}");
        assert!(before.ends_with("Content-Length: 3\r\n\r\n") && after.is_empty(), "{before}");
        request.body = "{\"to\":\"{topic}\",\"data\":\"{payload}\"}".to_owned();
        let (before, after) = request.around(&target(), "a", 10).unwrap();
        assert!(before.ends_with("Content-Length: 30\r\n\r\n{\"to\":\"a\",\"data\":\""), "{before}");
        assert_eq!(after, "\"}");
        request.body = "{}".to_owned();
        assert!(request.around(&target(), "a", 10).is_err());
    }
}
