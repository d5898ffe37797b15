//! One publishing connection: what was read of its answers, and what they say.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{ANSWER_WAIT_NS, Via};
use crate::http::{Body, HEAD_LEN_MAX, Head};

/// One connection and what has been read of its answers.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    is_redis: bool,
    /// Read and not yet understood.
    unread: Vec<u8>,
    /// The HTTP answer whose body is being read.
    answer: Option<(Head, Body)>,
    is_closed: bool,
}

impl Connection {
    pub(super) fn open(via: &Via) -> Result<Self> {
        let addr = via.target().addr;
        let deadline = Duration::from_secs(5);
        let stream = TcpStream::connect_timeout(&addr, deadline).with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_nanos(ANSWER_WAIT_NS)))?;
        let is_redis = matches!(via, Via::Redis { .. });
        Ok(Self { stream, is_redis, unread: Vec::new(), answer: None, is_closed: false })
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
    pub(super) fn take_answers(&mut self) -> Result<(Vec<Result<(), String>>, bool)> {
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
    fn take_redis_answers(&mut self, answers: &mut Vec<Result<(), String>>) {
        let mut at = 0;
        while let Some(len) = memchr::memmem::find(&self.unread[at..], b"\r\n") {
            let line = &self.unread[at..at + len];
            let accepted = line.first() == Some(&b':');
            answers.push(if accepted { Ok(()) } else { Err(format!("Redis: {}", String::from_utf8_lossy(line))) });
            at += len + 2;
        }
        self.unread.drain(..at);
    }

    /// True when the server closes after one of these.
    fn take_http_answers(&mut self, answers: &mut Vec<Result<(), String>>) -> Result<bool> {
        loop {
            let (head, mut body) = match self.answer.take() {
                Some(answer) => answer,
                None => match Head::parse(&self.unread)? {
                    Some(head) => {
                        self.unread.drain(..head.len);
                        (head, head.body)
                    }
                    None => return Ok(false),
                },
            };
            let decoded = body.decode_in_place(&mut self.unread)?;
            let text = String::from_utf8_lossy(&self.unread[..decoded.body_len.min(200)]).into_owned();
            self.unread.drain(..decoded.taken);
            let is_whole = body.is_done() || body == Body::UntilClose && self.is_closed;
            if !is_whole {
                self.answer = Some((head, body));
                return Ok(false);
            }
            match head.status {
                100..200 => continue,
                200..300 => answers.push(Ok(())),
                status => answers.push(Err(format!("status {status}: {}", text.trim_end()))),
            }
            if head.closes {
                return Ok(true);
            }
        }
    }
}

// A head that is refused must not be able to fill memory first.
const _: () = assert!(HEAD_LEN_MAX <= 1 << 20);
