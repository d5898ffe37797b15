//! Redis as the source: pub/sub in, PUBLISH out.
//!
//! ```text
//!  Redis ──RESP3 pushes──► subscriber (one connection per shard) ──► inbox ──► engine
//!    ▲
//!    └── PUBLISH ── publisher (one connection per shard, pipelined) ◄── edge
//! ```
//!
//! What always holds: a topic's confirmation stands in the inbox in its place among the messages;
//! messages of a connection that was given up are dropped; a lost connection is told to the engine
//! before anything of the next one.

pub mod envelope;
pub mod publisher;
pub mod subscriber;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

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
        Ok(RedisConfig { info, shown, channel_prefix: channel_prefix.into() })
    }

    /// Tries the connection once, at start.
    ///
    /// # Errors
    /// What will not mend itself: a wrong password, a server that is too old. That nobody answers
    /// is no error but `Ok(Some(why))`: Redis may come later.
    pub async fn check(&self) -> Result<Option<String>, RedisProblem> {
        match self.connect(None).await {
            Ok(_) => Ok(None),
            Err(error) if is_authentication(&error) => {
                Err(RedisProblem::Authentication(self.shown.clone(), error.to_string()))
            }
            Err(error) if error.kind() == redis::ErrorKind::RESP3NotSupported => {
                Err(RedisProblem::TooOld(self.shown.clone(), error.to_string()))
            }
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    /// A new physical connection. It never reconnects by itself.
    async fn connect(&self, pushes: Option<Arc<dyn AsyncPushSender>>) -> redis::RedisResult<MultiplexedConnection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        if let Some(pushes) = pushes {
            config = config.set_push_sender(pushes);
        }
        let client = Client::open(self.info.clone())?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The channel of a topic.
    fn channel(&self, topic: &str) -> String {
        format!("{}{topic}", self.channel_prefix)
    }
}

fn is_authentication(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| matches!(code, "WRONGPASS" | "NOAUTH"))
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
}
