//! Questions to shards: how many follow a topic, what was counted. Asked through bounded mailboxes,
//! answered by each shard in its turn; a shard that does not answer in time is not turning.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::edge::desk::OUTCOMES;
use crate::engine::mailbox::Mailbox;
use crate::engine::{Counters, Gauges};
use crate::topic::Topic;

/// Questions waiting for one shard; each is answered within a turn.
pub const CALLS_MAX: usize = 1024;
/// Of these, how many clients may ask: an operator's question always finds room.
const PUBLIC_CALLS_MAX: usize = CALLS_MAX / 2;
/// How long a shard may take to answer: a turn takes a few milliseconds.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A question to one shard.
#[derive(Debug)]
pub enum Call {
    /// How many streams follow a topic.
    Subscribers(Topic, oneshot::Sender<usize>),
    /// What was counted.
    Report(oneshot::Sender<Box<Report>>),
}

/// One shard's numbers.
#[derive(Debug, Clone)]
pub struct Report {
    /// Done so far.
    pub counters: Counters,
    /// Held now.
    pub gauges: Gauges,
    /// Turns of the loop.
    pub turns: u64,
    /// Messages waiting in the inbox.
    pub inbox_len: usize,
    /// Messages dropped because the inbox was full.
    pub inbox_dropped: u64,
    /// Events published over HTTP through this shard, by [`OUTCOMES`].
    pub published: [u64; OUTCOMES.len()],
}

/// The mailboxes of all shards of the node.
#[derive(Debug, Clone)]
pub struct Peers(pub Arc<[Arc<Mailbox<Call>>]>);

impl Peers {
    /// Streams of the whole node that follow `topic`; `None` when a shard is too busy to say.
    pub async fn subscribers(&self, topic: &Topic) -> Option<usize> {
        if self.0.iter().any(|mailbox| mailbox.len() >= PUBLIC_CALLS_MAX) {
            return None;
        }
        self.ask(|reply| Call::Subscribers(topic.clone(), reply)).await.into_iter().sum()
    }

    /// Every shard's numbers; `None` for one that did not answer in time.
    pub async fn reports(&self) -> Vec<Option<Box<Report>>> {
        self.ask(Call::Report).await
    }

    async fn ask<T>(&self, mut call: impl FnMut(oneshot::Sender<T>) -> Call) -> Vec<Option<T>> {
        // All are asked before the first answer is awaited.
        let asked: Vec<_> = self
            .0
            .iter()
            .map(|mailbox| {
                let (reply, answer) = oneshot::channel();
                mailbox.offer(call(reply), 1).ok().map(|()| answer)
            })
            .collect();
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(match answer {
                Some(answer) => tokio::time::timeout_at(deadline, answer).await.ok().and_then(Result::ok),
                None => None,
            });
        }
        answers
    }
}
