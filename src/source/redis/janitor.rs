//! Drops what is too old where nobody publishes: a publish trims its own topic, and no other.
//!
//! Every node has one, on its first shard, and all of them do the same: a piece of the index every few seconds. What
//! always holds: of a topic no more is dropped than its class says, and a topic is forgotten only when its last event
//! is `FORGET_MS` behind the newest of all; the horizon then remembers that there may have been events.

use std::rc::Rc;
use std::time::Duration;

use redis::Value;

use crate::source::redis::publisher::{Publisher, Shared};
use crate::source::redis::scripts::{list, text};
use crate::topic::Topic;

/// From one piece to the next, with jitter so that nodes do not keep step.
const PAUSE: Duration = Duration::from_secs(5);
/// How far the last event of a topic is behind the newest of all when the topic is forgotten: 30 days.
const FORGET_MS: u64 = 30 * 24 * 3_600_000;
/// Topics of one piece. An index of few topics comes whole, whatever was asked for.
const PIECE: usize = 64;

/// Tidies until it is dropped.
pub async fn run(publisher: Publisher) {
    let mut cursor = "0".to_owned();
    loop {
        tokio::time::sleep(PAUSE.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        // What fails now is done when the cursor comes round again.
        cursor = publisher.0.tidy(&cursor).await.unwrap_or_else(|| "0".to_owned());
    }
}

impl Shared {
    /// Tidies a piece of the index; where the next begins.
    async fn tidy(self: &Rc<Self>, cursor: &str) -> Option<String> {
        let mut command = redis::cmd("HSCAN");
        command.arg(self.config.keys.index()).arg(cursor).arg("COUNT").arg(PIECE);
        let mut parts = list(self.ask(&command).await?)?.into_iter();
        let (next, fields) = (text(parts.next()?)?, list(parts.next()?)?);
        // Of the pairs the names; that of the epoch is no topic.
        let names = fields.into_iter().step_by(2).filter_map(|name| match name {
            Value::BulkString(name) => Topic::parse_bytes(&name).ok(),
            _ => None,
        });
        let topics: Vec<Topic> = names.collect();
        for piece in topics.chunks(PIECE) {
            let keys: Vec<String> = piece.iter().map(|topic| self.config.keys.stream(topic)).collect();
            let tidied = self.call("tidy", &keys, |call| {
                call.arg(FORGET_MS);
                for topic in piece {
                    call.arg(self.config.classes.class_of(topic).retention().map_or(0, |retention| retention.age_ms));
                }
            });
            tidied.await.ok()?;
        }
        Some(next)
    }
}
