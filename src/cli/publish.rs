//! `fanwheel publish`: one event, over HTTP through a node, or straight through Redis.
//!
//! What can be checked is checked before anything is sent: topic, event name, data. An event of
//! which it is not known whether it was accepted is not sent again; the sentence says so.

use std::io::Read;

use bytes::Bytes;
use clap::Args;

use super::client::{self, Ask, NoAnswer, Node};
use super::failure::Failure;
use crate::engine::Publish;
use crate::event::{EVENT_BYTES_MAX, Event, EventName, IDEMPOTENCY_KEY_BYTES_MAX, idempotency_key};
use crate::source::redis::publisher::Publisher;
use crate::source::redis::{Found, RedisConfig};
use crate::topic::Topic;

/// Publish one event and print what the node answers
///
/// Exit codes: 0 accepted, 1 not accepted or not known, 2 wrong usage (nothing was sent).
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Where to: 1-255 bytes, no control characters, not beginning with `$`
    topic: String,
    /// The event's data; `-` or none reads standard input to its end, at most 1 MiB, and sends it as it is,
    /// a trailing line end included
    data: Option<String>,
    /// The event's name: at most 128 bytes, not beginning with `fanwheel.`
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// On durable topics, names this publish: repeated with the same key and event within the class's
    /// idempotency_window it is not stored again, and the first one's id is printed; 1-128 visible ASCII characters;
    /// needs a node
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The node, or the proxy before it [default: http://127.0.0.1:8080]
    #[arg(long, env = URL_VARIABLE, value_name = "URL")]
    url: Option<String>,
    /// Publish through this Redis, without any node: on live topics only. Which topics are durable stands in the
    /// nodes' files; what is published so on one of these is not delivered. Publish that through a node
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// With --redis: what the channel's name begins with
    #[arg(long, env = "FANWHEEL_CHANNEL_PREFIX", value_name = "TEXT", default_value = "fanwheel:")]
    channel_prefix: String,
}

/// Where the node is, for the verbs that speak to one.
pub(super) const URL_VARIABLE: &str = "FANWHEEL_URL";

/// Publishes; prints the answer, one line of JSON.
pub(super) fn run(flags: Flags) -> Result<(), Failure> {
    let usage = |why: &dyn std::fmt::Display| Failure::Usage(why.to_string());
    let topic = Topic::parse(&flags.topic).map_err(|error| usage(&error))?;
    let name = EventName::parse(flags.event.as_deref().unwrap_or_default()).map_err(|error| usage(&error))?;
    let way = Way::choose(&flags, &topic, name.as_ref())?;
    let has_key = flags.idempotency_key.is_some();
    let data = data(flags.data)?;
    let answer = super::runtime()?.block_on(async {
        match way {
            Way::Node(node, ask) => by_node(&node, ask.carrying(data), has_key).await,
            Way::Redis(redis) => {
                by_redis(*redis, Event { topic, name, key: None, data, stored: None, received_us: 0 }).await
            }
        }
    })?;
    super::print(&answer);
    Ok(())
}

/// By which way, with all that was checked.
enum Way {
    /// The request still lacks the data.
    Node(Box<Node>, Ask),
    Redis(Box<RedisConfig>),
}

impl Way {
    fn choose(flags: &Flags, topic: &Topic, name: Option<&EventName>) -> Result<Way, Failure> {
        let Some(redis) = &flags.redis else {
            return Ok(Way::Node(Box::new(Node::parse(flags.url.as_deref())?), ask(flags, topic, name)?));
        };
        if flags.idempotency_key.is_some() {
            let why = "--idempotency-key needs --url: with --redis an event is published as on a live topic";
            return Err(Failure::Usage(why.into()));
        }
        // A URL that stands only in the variable yields to the flag.
        if flags.url != std::env::var(URL_VARIABLE).ok() {
            return Err(Failure::Usage("--url and --redis are two ways; choose one".into()));
        }
        let redis = RedisConfig::parse(redis, &flags.channel_prefix);
        Ok(Way::Redis(Box::new(redis.map_err(|problem| Failure::Usage(problem.to_string()))?)))
    }
}

fn ask(flags: &Flags, topic: &Topic, name: Option<&EventName>) -> Result<Ask, Failure> {
    let mut target = format!("/topics/{}", client::segment(topic.as_str()));
    if let Some(name) = name {
        target.push_str(&format!("?event={}", client::segment(name.as_str())));
    }
    let ask = Ask::post(target);
    let Some(key) = &flags.idempotency_key else { return Ok(ask) };
    let wrong = || {
        Failure::Usage(format!("--idempotency-key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"))
    };
    let key = idempotency_key(key.as_bytes()).ok_or_else(wrong)?;
    ask.with("idempotency-key", key).map_err(|_| wrong())
}

/// The event's data, checked.
fn data(given: Option<String>) -> Result<Bytes, Failure> {
    let too_large = || Failure::Failed(format!("the data of an event is at most {EVENT_BYTES_MAX} bytes"));
    let data = match given {
        Some(text) if text != "-" => text.into_bytes(),
        _ => {
            let mut bytes = Vec::new();
            // One byte more tells what is too large.
            let read = std::io::stdin().take(EVENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
            read.map_err(|error| Failure::Failed(format!("cannot read standard input: {error}")))?;
            bytes
        }
    };
    if data.len() > EVENT_BYTES_MAX {
        return Err(too_large());
    }
    if let Err(error) = std::str::from_utf8(&data) {
        let at = error.valid_up_to();
        return Err(Failure::Failed(format!("the data of an event must be valid UTF-8; byte {at} is not")));
    }
    Ok(data.into())
}

async fn by_node(node: &Node, ask: Ask, has_key: bool) -> Result<String, Failure> {
    let answer = node.ask(ask).await;
    let answer = answer.map_err(|error| {
        Failure::Failed(match error {
            NoAnswer::Unreachable(..) => format!("{error}; is a node running there? --url names another"),
            NoAnswer::Lost(..) if has_key => {
                format!("{error}; it is not known whether the event was accepted, repeat it with the same key")
            }
            NoAnswer::Lost(..) => format!("{error}; it is not known whether the event was accepted"),
        })
    })?;
    if !(200..300).contains(&answer.status()) {
        return Err(Failure::Failed(answer.problem().await));
    }
    match answer.text().await {
        // What is JSON has nothing in it that a terminal obeys.
        Some(text) if serde_json::from_str::<serde_json::Value>(&text).is_ok() => Ok(text.trim_end().to_owned()),
        Some(_) => Err(Failure::Failed(format!("{} does not answer as a node does", node.url()))),
        None => Err(Failure::Failed("the event was accepted, but the rest of the answer was lost".into())),
    }
}

async fn by_redis(redis: RedisConfig, event: Event) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    if let Found::NotYet(why) = redis.check().await.map_err(|problem| failed(&problem))? {
        return Err(Failure::Failed(format!("cannot reach {}: {why}", redis.shown)));
    }
    let topic = serde_json::Value::from(event.topic.as_str());
    Publisher::new(redis).publish(event.into()).await.map_err(|error| failed(&error))?;
    // As a node would answer.
    Ok(format!("{{\"topic\":{topic},\"id\":null}}"))
}
