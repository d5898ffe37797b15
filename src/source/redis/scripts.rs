//! The script in Redis: which keys a call names, how it is sent, what its replies mean.
//!
//! Everything durable is an operation of `redis/fanwheel.lua`, called with EVALSHA. What always holds: a call names all
//! keys it touches; it carries the `run_id` of the server at the other end of *this* connection, once that is known; it
//! is sent again only when Redis said that it does not know the script, for then nothing was done.
//!
//! Nothing Redis replies is taken for granted: what is not as the script writes it is an error.

use std::sync::{Arc, LazyLock};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value};

use crate::engine::history::{Chain, FENCES_MAX, Fence, Marker};
use crate::event::{Stamp, Tag};
use crate::topic::Topic;

/// Tags a call offers: that all four are taken, of fourteen million, does not happen.
const CANDIDATES: usize = 4;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    let text = include_str!("../../../redis/fanwheel.lua");
    // The first line is for FUNCTION LOAD alone.
    Script::new(text.split_once('\n').map_or(text, |(_, rest)| rest))
});

/// The keys of a history, one partition.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// What all of them begin with, up to and with the partition.
    base: Arc<str>,
}

impl Keys {
    pub(super) fn new(key_prefix: &str) -> Keys {
        Keys { base: format!("{key_prefix}{{0}}").into() }
    }

    fn clock(&self) -> String {
        format!("{}:clock", self.base)
    }

    pub(super) fn index(&self) -> String {
        format!("{}:index", self.base)
    }

    pub(super) fn stream(&self, topic: &Topic) -> String {
        format!("{}:s:{topic}", self.base)
    }

    /// All of them, as an ACL names them.
    pub(super) fn pattern(&self) -> String {
        format!("{}:*", self.base)
    }

    /// The record of an idempotency key. In its last part the parting `:` is escaped, so that topic `a:b` with key `c`
    /// and topic `a` with key `b:c` have two.
    pub(super) fn record(&self, topic: &Topic, idempotency_key: &str) -> String {
        let escaped = idempotency_key.replace('%', "%25").replace(':', "%3A");
        format!("{}:i:{topic}:{escaped}", self.base)
    }

    /// A call of an operation with these keys besides clock and index; its arguments are added by the caller.
    pub(super) fn call(&self, operation: &str, keys: &[String], run: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(SCRIPT.get_hash()).arg(keys.len() + 2).arg(self.clock()).arg(self.index());
        let mut rng = fastrand::Rng::new();
        let candidates: String = (0..CANDIDATES).map(|_| Tag::draw(&mut rng).to_string()).collect();
        command.arg(keys).arg(operation).arg(run).arg(candidates);
        command
    }
}

/// Loads the script.
pub(super) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    SCRIPT.load_async(connection).await.map(|_| ())
}

/// Makes a call.
pub(super) async fn run(connection: &mut MultiplexedConnection, call: &Cmd) -> RedisResult<Reply> {
    let answer: RedisResult<Value> = call.query_async(connection).await;
    let answer = match answer {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            load(connection).await?;
            call.query_async(connection).await
        }
        answer => answer,
    };
    Reply::read(answer?).ok_or_else(strange)
}

/// Redis replied what the script never says.
pub(super) fn strange() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "the script's reply cannot be read").into()
}

/// What every operation replies: the server, the incarnation, and its own part.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) run: String,
    pub(super) tag: Tag,
    pub(super) rest: Vec<Value>,
}

impl Reply {
    fn read(value: Value) -> Option<Reply> {
        let mut parts = list(value)?.into_iter();
        let (run, tag) = (text(parts.next()?)?, Tag::parse(&text(parts.next()?)?)?);
        Some(Reply { run, tag, rest: parts.collect() })
    }

    /// Takes what reads begin with: the newest number and the fences.
    pub(super) fn take_marker(&mut self) -> Option<Marker> {
        if self.rest.len() < 2 {
            return None;
        }
        let mut parts = self.rest.drain(..2);
        let (last, fences) = (text(parts.next()?)?, text(parts.next()?)?);
        Some(Marker { last: Stamp::parse(&last)?, chain: Arc::new(chain(self.tag, &fences)?) })
    }
}

/// Reads the incarnations: the current one, and `tag ms-n lossy` for each fence, joined by `,`, oldest first.
pub(super) fn chain(tag: Tag, fences: &str) -> Option<Chain> {
    let fences: Option<Vec<Fence>> = fences.split_terminator(',').map(fence).collect();
    let fences = fences.filter(|fences| fences.len() <= FENCES_MAX)?;
    let tags = || fences.iter().map(|fence| fence.tag).chain([tag]);
    let is_ordered = fences.windows(2).all(|pair| pair[0].last <= pair[1].last);
    let is_distinct = tags().enumerate().all(|(at, tag)| tags().take(at).all(|other| other != tag));
    (is_ordered && is_distinct).then_some(Chain { tag, fences })
}

fn fence(text: &str) -> Option<Fence> {
    let mut words = text.split(' ');
    let fence = Fence {
        tag: Tag::parse(words.next()?)?,
        last: Stamp::parse(words.next()?)?,
        lossy: match words.next()? {
            "0" => false,
            "1" => true,
            _ => return None,
        },
    };
    words.next().is_none().then_some(fence)
}

/// What stands on a marker's channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// `M <generation>.<question> <last> <tag> <fences>`: the answer to a question that was asked for this connection.
    Place { generation: u32, question: u64, marker: Marker },
    /// `L <tag> <fences>`
    Lossy(Chain),
}

impl Marked {
    pub(super) fn read(message: &[u8]) -> Option<Marked> {
        let text = std::str::from_utf8(message).ok()?;
        match text.split_at_checked(2)? {
            ("M ", rest) => {
                let mut words = rest.splitn(4, ' ');
                let ((generation, question), last) = (words.next()?.split_once('.')?, Stamp::parse(words.next()?)?);
                let (generation, question) = (generation.parse().ok()?, question.parse().ok()?);
                let chain = chain(Tag::parse(words.next()?)?, words.next()?)?;
                Some(Marked::Place { generation, question, marker: Marker { last, chain: Arc::new(chain) } })
            }
            ("L ", rest) => {
                let (tag, fences) = rest.split_once(' ')?;
                Some(Marked::Lossy(chain(Tag::parse(tag)?, fences)?))
            }
            _ => None,
        }
    }
}

/// The elements of a list.
pub(super) fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(parts) => Some(parts),
        _ => None,
    }
}

/// A text or a number.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::Int(number) => Some(number.to_string()),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(text: &str) -> Tag {
        Tag::parse(text).expect("a tag")
    }

    #[test]
    fn records_of_different_topics_and_keys_are_apart() {
        let keys = Keys::new("p:");
        let record = |topic: &str, key: &str| keys.record(&Topic::parse(topic).expect("a topic"), key);
        assert_eq!(record("a:b", "c"), "p:{0}:i:a:b:c");
        assert_eq!(record("a", "b:c"), "p:{0}:i:a:b%3Ac");
        assert_ne!(record("a", "b%3Ac"), record("a", "b:c"));
    }

    #[test]
    fn markers_are_read_and_nothing_else_is_one() {
        let fence = |name, ms, lossy| Fence { tag: tag(name), last: Stamp { ms, n: 4 }, lossy };
        let chain = Chain { tag: tag("cccc"), fences: vec![fence("aaaa", 10, true), fence("bbbb", 10, false)] };
        let last = Stamp { ms: 30, n: 0 };
        let marker = Marker { last, chain: Arc::new(chain.clone()) };
        let place = |marker| Some(Marked::Place { generation: 7, question: 9, marker });
        assert_eq!(Marked::read(b"M 7.9 30-0 cccc aaaa 10-4 1,bbbb 10-4 0"), place(marker));
        assert_eq!(Marked::read(b"L cccc aaaa 10-4 1,bbbb 10-4 0"), Some(Marked::Lossy(chain)));
        let fresh = Marker { last, chain: Arc::new(Chain::begin(tag("cccc"))) };
        assert_eq!(Marked::read(b"M 7.9 30-0 cccc "), place(fresh));
        for other in [
            &b"M 7 30-0 cccc"[..],
            b"M x 30-0 cccc ",
            b"M 7 30 cccc ",
            b"M 7 30-0 cccc aaaa 10-4",
            b"M 7 30-0 cccc aaaa 10-4 2",
            b"M 7 30-0 cccc aaaa 10-4 0 0",
            b"M 7 30-0 cccc cccc 10-4 0",
            b"M 7 30-0 cccc aaaa 10-4 0,bbbb 9-0 0",
            b"L cccc",
            b"X",
            b"\xff\xff\xff",
        ] {
            assert_eq!(Marked::read(other), None, "{}", String::from_utf8_lossy(other));
        }
        let many: Vec<String> = (0..=FENCES_MAX).map(|n| format!("a{n:03} 1-0 0")).collect();
        assert_eq!(super::chain(tag("cccc"), &many.join(",")), None);
    }

    proptest! {
        #[test]
        fn nothing_on_the_channel_panics(message in "[ML] [0-9a-z ,-]{0,60}") {
            let _ = Marked::read(message.as_bytes());
        }
    }
}
