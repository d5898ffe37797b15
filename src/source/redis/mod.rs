//! Redis as the source: pub/sub in, PUBLISH and one script out.
//!
//! ```text
//!  Redis ──RESP3 pushes──► subscriber (one connection per shard) ──► inbox ──► engine
//!    ▲                                                                           │
//!    └── PUBLISH, script ── publisher (one connection per shard) ◄── edge        │
//!                               ▲                                                │
//!                               └── markers, reads ◄── interest ◄────────────────┘
//! ```
//!
//! Live topics are PUBLISH and nothing else. Durable ones are the script's (`scripts`): events are published in
//! batches (`batches`), pages read (`reader`), what is too old is dropped ([`janitor`]).
//!
//! What always holds: a topic's confirmation stands in the inbox in its place among the messages;
//! messages of a connection that was given up are dropped; a lost connection is told to the engine
//! before anything of the next one. A subscriber connection counts only after a message that the
//! publisher published has come back on it, and only as long as that goes on ([`probe`]).

mod batches;
pub mod envelope;
pub mod interest;
pub mod janitor;
pub mod probe;
pub mod publisher;
mod pushes;
mod reader;
mod scripts;
pub mod server;
pub mod stored;
pub mod subscriber;
pub mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::engine::policy::Classes;
use crate::source::redis::scripts::Keys;
use crate::source::redis::server::Server;
use crate::source::redis::trouble::Trouble;

/// How long a connection may take until it is usable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long Redis may take to answer a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long written bytes may stay unacknowledged before the link counts as dead.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where Redis is, and under which names the node uses it.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    info: ConnectionInfo,
    /// The URL without its password.
    pub shown: String,
    /// What channel names begin with: topic `chat` is channel `fanwheel:chat`.
    pub channel_prefix: Arc<str>,
    /// Drawn at random: tells this node's probes and markers from those of others on the same Redis.
    node: u64,
    /// Which topics are durable, and what is kept of them.
    classes: Classes,
    /// Where histories are kept.
    keys: Keys,
    /// True exactly when the server's settings were logged.
    described: Arc<AtomicBool>,
}

/// What a Redis was found to be at start.
#[derive(Debug)]
pub enum Found {
    /// It can be used: what it is.
    Ready(String),
    /// Not now, and that may mend itself: why.
    NotYet(String),
}

/// Why a node cannot use a Redis. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RedisProblem {
    /// The URL cannot be read.
    #[error(
        "`{0}` is not a Redis URL ({1}); write redis://[[user]:password@]host[:port][/db], rediss:// for TLS, or redis+unix:///path"
    )]
    Url(String, String),
    /// A kind of Redis that is not supported.
    #[error("`{0}`: Sentinel and Cluster are not supported yet; name the primary")]
    Unsupported(String),
    /// The password or user is wrong, or missing.
    #[error("{0} does not accept the user and password ({1}); put them into the URL: redis://user:password@host")]
    Authentication(String, String),
    /// The server is too old.
    #[error("{0} does not speak RESP3 ({1}); Fanwheel needs Redis 6.0 or later, or a compatible server")]
    TooOld(String, String),
    /// The server is a Sentinel, or part of a cluster.
    #[error("{0} runs in {1} mode: Sentinel and Cluster are not supported yet; name a primary that stands alone")]
    Mode(String, String),
}

impl RedisConfig {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is none, or names a kind of Redis that is not supported.
    pub fn parse(url: &str, channel_prefix: &str) -> Result<RedisConfig, RedisProblem> {
        let shown = without_password(url);
        if ["redis-sentinel:", "redis+sentinel:", "redis-cluster:", "redis+cluster:"].iter().any(|s| url.starts_with(s))
        {
            return Err(RedisProblem::Unsupported(shown));
        }
        let info = url.into_connection_info().map_err(|error| RedisProblem::Url(shown.clone(), error.to_string()))?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(2))
            .with_retries(2);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(USER_TIMEOUT);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let (channel_prefix, node) = (channel_prefix.into(), fastrand::u64(..));
        let (classes, keys) = (Classes::default(), Keys::new("fanwheel:"));
        Ok(RedisConfig { info, shown, channel_prefix, node, classes, keys, described: Arc::default() })
    }

    /// With histories, kept under keys that begin with `key_prefix`. Without this all topics are live.
    #[must_use]
    pub fn with_histories(self, key_prefix: &str, classes: Classes) -> RedisConfig {
        RedisConfig { keys: Keys::new(key_prefix), classes, ..self }
    }

    /// True exactly when some topics may be durable.
    #[must_use]
    pub fn has_histories(&self) -> bool {
        self.classes.0.iter().any(|(_, class)| class.retention().is_some())
    }

    /// Tries the connection once, at start.
    ///
    /// # Errors
    /// What will not mend itself: a wrong password, a server that is too old or of another kind.
    pub async fn check(&self) -> Result<Found, RedisProblem> {
        match self.connect(None).await {
            Ok((mut connection, server)) => {
                self.describe(&server, &mut connection).await;
                Ok(Found::Ready(format!("Redis {}, {}", server.version, server.role_name())))
            }
            Err(Trouble::Authentication(error)) => Err(RedisProblem::Authentication(self.shown.clone(), error)),
            Err(Trouble::TooOld(error)) => Err(RedisProblem::TooOld(self.shown.clone(), error)),
            Err(Trouble::Mode(mode)) => Err(RedisProblem::Mode(self.shown.clone(), mode)),
            Err(Trouble::Away(error)) => Ok(Found::NotYet(error)),
            Err(trouble) => Ok(Found::NotYet(trouble.sentence(&self.shown))),
        }
    }

    /// A new physical connection to a server that can be used. It never reconnects by itself.
    async fn connect(
        &self,
        pushes: Option<Arc<dyn AsyncPushSender>>,
    ) -> Result<(MultiplexedConnection, Server), Trouble> {
        // The deadline below covers all of it, also the look-up of a name and the answer to HELLO.
        let mut config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(ANSWER_TIMEOUT));
        if let Some(pushes) = pushes {
            config = config.set_push_sender(pushes);
        }
        let attempt = async {
            let client = Client::open(self.info.clone())?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let server = Server::ask(&mut connection).await?;
            redis::RedisResult::Ok((connection, server))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok((connection, server))) => server.require().map(|()| (connection, server)),
            Ok(Err(error)) => Err(Trouble::of(&error)),
            Err(_) => Err(Trouble::Away(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    /// Logs once what operators should know of the server.
    async fn describe(&self, server: &Server, connection: &mut MultiplexedConnection) {
        if !self.described.swap(true, Ordering::Relaxed) {
            server.log_facts(connection, &self.shown, self.has_histories()).await;
        }
    }

    /// The channel of a topic.
    fn channel(&self, topic: &str) -> String {
        format!("{}{topic}", self.channel_prefix)
    }

    /// What the channels begin with on which connections are probed. No topic begins with `$`, and
    /// with the prefix in front the ACL that covers the topics covers these.
    fn probe_channels(&self) -> String {
        self.channel("$probe:")
    }

    /// The channel on which a shard's own markers come.
    fn marker_channel(&self, shard: usize) -> String {
        format!("{}{:016x}:{shard}", self.marker_channels(), self.node)
    }

    /// The channel on which all nodes are told of a loss.
    fn loss_channel(&self) -> String {
        format!("{}{{0}}", self.marker_channels())
    }

    /// What the channels of markers begin with.
    fn marker_channels(&self) -> String {
        self.channel("$marker:")
    }

    /// The channel on which a shard's connections are probed.
    fn probe_channel(&self, shard: usize) -> String {
        format!("{}{:016x}:{shard}", self.probe_channels(), self.node)
    }
}

/// The URL as it may be shown: what may be a password is masked, also in a URL that is written wrongly.
#[must_use]
pub fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    // The last `@`: a password that was not percent-encoded may contain others, or `/`.
    let shown = match rest.rsplit_once('@') {
        Some((credentials, host)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            format!("{scheme}{user}:***@{host}")
        }
        None => format!("{scheme}{rest}"),
    };
    match shown.split_once("pass=") {
        Some((before, after)) => {
            let next = after.find('&').map_or("", |at| &after[at..]);
            format!("{before}pass=***{next}")
        }
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked() {
        assert_eq!(without_password("redis://u:p@h:1/0"), "redis://u:***@h:1/0");
        assert_eq!(without_password("redis://:p@h"), "redis://:***@h");
        assert_eq!(without_password("redis://h/0"), "redis://h/0");
        assert_eq!(without_password("redis://u:a/b@c@h"), "redis://u:***@h");
        assert_eq!(without_password("u:p@h"), "u:***@h");
        assert_eq!(without_password("redis+unix:///s?db=1&pass=x&user=y"), "redis+unix:///s?db=1&pass=***&user=y");
    }

    #[test]
    fn what_is_no_redis_url_is_said() {
        for url in ["", "localhost", "http://x", "redis://"] {
            assert!(matches!(RedisConfig::parse(url, ""), Err(RedisProblem::Url(..))), "{url}");
        }
        assert!(matches!(RedisConfig::parse("redis-sentinel://x", ""), Err(RedisProblem::Unsupported(_))));
        assert!(RedisConfig::parse("redis://127.0.0.1:6379", "p:").is_ok_and(|config| config.channel("t") == "p:t"));
    }

    #[test]
    fn probes_of_nodes_and_shards_are_apart_and_no_topic_is_meant() {
        let config = || RedisConfig::parse("redis://127.0.0.1:6379", "p:").expect("a URL");
        let (one, other) = (config(), config());
        assert!(one.probe_channel(0).starts_with("p:$probe:"));
        assert_ne!(one.probe_channel(0), one.probe_channel(1));
        assert_ne!(one.probe_channel(0), other.probe_channel(0));
        assert!(crate::topic::Topic::parse(one.probe_channel(0).strip_prefix("p:").expect("prefixed")).is_err());
    }
}
