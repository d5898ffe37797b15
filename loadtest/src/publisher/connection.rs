//! One publishing connection: what was read of its answers, and what they say.
//!
//! **What always holds:** answers come in the order of the requests, each once. Where events are durable
//! an answer counts as success only if it names the event's id.
//! **Overload:** of an answer's body no more than [`SAID_LEN_MAX`] is kept; an endless head is an error.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use checker::history::{Id, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::{ANSWER_WAIT_NS, Via};
use crate::http::{Body, HEAD_LEN_MAX, Head};

/// Bytes kept of an answer's body: a topic of 255 bytes, six for one where it is escaped, and an id.
const SAID_LEN_MAX: usize = 2_048;
/// Bytes shown of a refusal.
const SHOWN_LEN_MAX: usize = 200;

/// What became of a publish, as far as the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    /// On a durable topic, under this id.
    Stored(Id),
    Refused(String),
    /// It may have been accepted.
    Unsure(String),
}

impl Answer {
    /// What a publisher of a durable topic was told.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Stored(id) => Outcome::Stored(*id),
            Self::Refused(_) => Outcome::Refused,
            Self::Accepted | Self::Unsure(_) => Outcome::Unknown,
        }
    }

    /// Reads `{"id":"…"}`, or the same as the only one of a list, in which `error` stands for a refusal.
    fn of_durable(text: &str) -> Self {
        let said: Value = serde_json::from_str(text).unwrap_or_default();
        let said = said.get(0).unwrap_or(&said);
        let shown = || text.chars().take(SHOWN_LEN_MAX).collect::<String>();
        match (said["id"].as_str().and_then(Id::parse), said["error"].as_str()) {
            (Some(id), _) => Self::Stored(id),
            (None, Some(why)) if why.starts_with("not stored") => Self::Refused(why.to_owned()),
            (None, _) => Self::Unsure(format!("no id in the answer; is the topic durable? {}", shown())),
        }
    }
}

/// One connection and what has been read of its answers.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    is_redis: bool,
    /// True exactly when answers of success must name an id.
    is_durable: bool,
    /// Read and not yet understood.
    unread: Vec<u8>,
    /// The HTTP answer whose body is being read, and what it says so far.
    answer: Option<(Head, Body, Vec<u8>)>,
    is_closed: bool,
}

impl Connection {
    pub(super) fn open(via: &Via, is_durable: bool) -> Result<Self> {
        let addr = via.target().addr;
        let deadline = Duration::from_secs(5);
        let stream = TcpStream::connect_timeout(&addr, deadline).with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_nanos(ANSWER_WAIT_NS)))?;
        let is_redis = matches!(via, Via::Redis { .. });
        Ok(Self { stream, is_redis, is_durable, unread: Vec::new(), answer: None, is_closed: false })
    }

    /// Reads once, if there is something within `wait_ns`.
    pub(super) fn read_until(&mut self, wait_ns: u64) -> Result<()> {
        let timeout = Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 };
        let mut wanted = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut wanted, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            outcome => outcome?,
        };
        let mut part = [0; 16 * 1024];
        let len = self.stream.read(&mut part).context("read an answer")?;
        self.is_closed = len == 0;
        self.unread.extend_from_slice(&part[..len]);
        Ok(())
    }

    /// The complete answers among what was read, and whether the connection is of no more use.
    pub(super) fn take_answers(&mut self) -> Result<(Vec<Answer>, bool)> {
        let mut answers = Vec::new();
        let mut closes = self.is_closed;
        if self.is_redis {
            self.take_redis_answers(&mut answers);
        } else {
            closes |= self.take_http_answers(&mut answers)?;
        }
        Ok((answers, closes))
    }

    /// `:3\r\n` is the number of subscribers, `-ERR why\r\n` a refusal.
    fn take_redis_answers(&mut self, answers: &mut Vec<Answer>) {
        let mut at = 0;
        while let Some(len) = memchr::memmem::find(&self.unread[at..], b"\r\n") {
            let line = &self.unread[at..at + len];
            let refused = || Answer::Refused(format!("Redis: {}", String::from_utf8_lossy(line)));
            answers.push(if line.first() == Some(&b':') { Answer::Accepted } else { refused() });
            at += len + 2;
        }
        self.unread.drain(..at);
    }

    /// True when the server closes after one of these.
    fn take_http_answers(&mut self, answers: &mut Vec<Answer>) -> Result<bool> {
        loop {
            let (head, mut body, mut said) = match self.answer.take() {
                Some(answer) => answer,
                None => match Head::parse(&self.unread)? {
                    Some(head) => {
                        self.unread.drain(..head.len);
                        (head, head.body, Vec::new())
                    }
                    None => return Ok(false),
                },
            };
            let decoded = body.decode_in_place(&mut self.unread)?;
            let kept_len = decoded.body_len.min(SAID_LEN_MAX - said.len());
            said.extend_from_slice(&self.unread[..kept_len]);
            self.unread.drain(..decoded.taken);
            let is_whole = body.is_done() || body == Body::UntilClose && self.is_closed;
            if !is_whole {
                self.answer = Some((head, body, said));
                return Ok(false);
            }
            if (100..200).contains(&head.status) {
                continue;
            }
            answers.push(self.read_answer(head.status, &said));
            if head.closes {
                return Ok(true);
            }
        }
    }

    fn read_answer(&self, status: u16, said: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(said);
        let shown = || format!("status {status}: {}", text.chars().take(SHOWN_LEN_MAX).collect::<String>().trim_end());
        match status {
            200..300 if self.is_durable => Answer::of_durable(&text),
            200..300 => Answer::Accepted,
            // The server has asked another, and got no answer.
            504 => Answer::Unsure(shown()),
            _ => Answer::Refused(shown()),
        }
    }
}

// A head that is refused must not be able to fill memory first.
const _: () = assert!(HEAD_LEN_MAX <= 1 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_durable_topic_names_the_id_or_is_no_success() {
        let id = Id::parse("1795295280917-0-k3Zq").unwrap();
        for text in [r#"{"topic":"a","id":"1795295280917-0-k3Zq"}"#, r#"[{"topic":"a","id":"1795295280917-0-k3Zq"}]"#] {
            assert_eq!(Answer::of_durable(text), Answer::Stored(id), "{text}");
        }
        let outcome = |text| Answer::of_durable(text).outcome();
        assert_eq!(outcome(r#"[{"topic":"a","error":"not stored: away"}]"#), Outcome::Refused);
        for text in [r#"[{"topic":"a","error":"unknown: no answer"}]"#, r#"{"topic":"a","id":null}"#, "{}", "[]", ""] {
            assert_eq!(outcome(text), Outcome::Unknown, "{text}");
        }
    }
}
