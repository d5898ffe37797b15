//! What a Redis says of itself: version, role, mode; and, once, what its operator should know.
//!
//! `HELLO` without arguments needs no right in any ACL and is answered also while data is loading.
//! What the ACL forbids to look at is said as `unknown`: it is never a reason not to work.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value};
use tracing::{info, warn};

use crate::source::redis::trouble::Trouble;

/// The first version with RESP3.
const OLDEST_MAJOR: u32 = 6;
/// How long the look at its settings may delay a connection.
const FACTS_TIMEOUT: Duration = Duration::from_millis(500);
const UNKNOWN: &str = "unknown";
/// What persistence without one begins with.
const NO_LOG: &str = "no append-only file";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As `7.0.15`; `unknown` where a compatible server does not say.
    pub version: String,
    /// `master` or `replica`.
    pub role: String,
    /// `standalone`, `cluster` or `sentinel`.
    pub mode: String,
}

impl Server {
    /// Asks on a connection.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ask(connection: &mut impl ConnectionLike) -> RedisResult<Server> {
        let answer: Value = redis::cmd("HELLO").query_async(connection).await?;
        Ok(Server::read(answer))
    }

    fn read(answer: Value) -> Server {
        let pairs: Vec<(String, Value)> = Vec::from_redis_value(answer).unwrap_or_default();
        let field = |name: &str| {
            let value = pairs.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
            value.and_then(|value| String::from_redis_value(value).ok()).unwrap_or_else(|| UNKNOWN.into())
        };
        Server { version: field("version"), role: field("role"), mode: field("mode") }
    }

    /// True exactly when what is published here reaches nobody beyond it.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        ["replica", "slave"].contains(&self.role.as_str())
    }

    /// Why it cannot be used, if so.
    ///
    /// # Errors
    /// The reason.
    pub fn require(&self) -> Result<(), Trouble> {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major < OLDEST_MAJOR) {
            return Err(Trouble::TooOld(format!("it is {}", self.version)));
        }
        if ["sentinel", "cluster"].contains(&self.mode.as_str()) {
            return Err(Trouble::Mode(self.mode.clone()));
        }
        if self.is_replica() { Err(Trouble::Replica) } else { Ok(()) }
    }

    /// The role as people call it.
    #[must_use]
    pub fn role_name(&self) -> &str {
        if self.role == "master" { "primary" } else { &self.role }
    }

    /// One line about the server, and a warning where its settings will hurt later.
    /// `has_histories` when topics are durable.
    pub async fn log_facts(&self, connection: &mut impl ConnectionLike, redis: &str, has_histories: bool) {
        let facts = tokio::time::timeout(FACTS_TIMEOUT, Facts::ask(connection)).await.unwrap_or_default();
        let Facts { persistence, maxmemory, eviction, pubsub_buffer } = &facts;
        let (version, role) = (&self.version, self.role_name());
        info!(redis, version, role, persistence, maxmemory, eviction, pubsub_buffer, "Redis found");
        if facts.evicts() {
            let hint = if has_histories {
                "histories of durable topics will vanish; set maxmemory-policy to noeviction"
            } else {
                "harmless for live topics, which keep nothing in Redis; what is stored there may vanish"
            };
            warn!(redis, maxmemory, eviction, hint, "Redis evicts keys when its memory is full");
        }
        if has_histories && facts.lacks_log() {
            let hint = "set appendonly to yes; with appendfsync everysec a crash costs about the last second";
            warn!(redis, persistence, hint, "durable topics are only as durable as Redis, which keeps no log");
        }
    }
}

/// What an operator should know of a Redis.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    persistence: String,
    maxmemory: String,
    eviction: String,
    /// `hard soft seconds`: beyond it Redis cuts a subscriber off.
    pubsub_buffer: String,
}

impl Default for Facts {
    fn default() -> Facts {
        let unknown = || UNKNOWN.to_owned();
        Facts { persistence: unknown(), maxmemory: unknown(), eviction: unknown(), pubsub_buffer: unknown() }
    }
}

impl Facts {
    async fn ask(connection: &mut impl ConnectionLike) -> Facts {
        let unknown = || UNKNOWN.to_owned();
        let persistence = info_of(connection, "persistence").await;
        let memory = info_of(connection, "memory").await;
        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("client-output-buffer-limit");
        let limits: RedisResult<Vec<(String, String)>> = config.query_async(connection).await;
        let limits = limits.ok().and_then(|limits| limits.into_iter().next()).map(|(_, limits)| limits);
        Facts {
            persistence: persistence.map_or_else(unknown, |info| persistence_of(&info)),
            maxmemory: memory.as_deref().and_then(|info| field(info, "maxmemory")).map_or_else(unknown, str::to_owned),
            eviction: memory
                .as_deref()
                .and_then(|info| field(info, "maxmemory_policy"))
                .map_or_else(unknown, str::to_owned),
            pubsub_buffer: limits.as_deref().and_then(pubsub_limit).unwrap_or_else(unknown),
        }
    }

    /// True exactly when it is known that there is no append-only file.
    fn lacks_log(&self) -> bool {
        self.persistence.starts_with(NO_LOG)
    }

    fn evicts(&self) -> bool {
        ![UNKNOWN, "0"].contains(&self.maxmemory.as_str()) && ![UNKNOWN, "noeviction"].contains(&self.eviction.as_str())
    }
}

async fn info_of(connection: &mut impl ConnectionLike, section: &str) -> Option<String> {
    redis::cmd("INFO").arg(section).query_async(connection).await.ok()
}

/// The value of a line `name:value`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn persistence_of(info: &str) -> String {
    let aof = field(info, "aof_enabled") == Some("1");
    let saved = field(info, "rdb_last_save_time").is_some();
    match (aof, saved, field(info, "rdb_last_bgsave_status")) {
        (true, ..) => "append-only file".into(),
        (false, true, Some("ok")) => format!("{NO_LOG}; snapshots as `save` says"),
        (false, true, _) => format!("{NO_LOG}; the last snapshot failed"),
        (false, false, _) => UNKNOWN.into(),
    }
}

/// `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60` → the last three.
fn pubsub_limit(limits: &str) -> Option<String> {
    let mut words = limits.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    Some([words.next()?, words.next()?, words.next()?].join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: &str, role: &str, mode: &str) -> Server {
        Server { version: version.into(), role: role.into(), mode: mode.into() }
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_what_is_not_said_is_not() {
        assert_eq!(server("7.0.15", "master", "standalone").require(), Ok(()));
        assert_eq!(server(UNKNOWN, UNKNOWN, UNKNOWN).require(), Ok(()));
        assert_eq!(server("6.0.0", "replica", "standalone").require(), Err(Trouble::Replica));
        assert_eq!(server("7.4.0", "master", "cluster").require(), Err(Trouble::Mode("cluster".into())));
        assert_eq!(server("7.4.0", UNKNOWN, "sentinel").require(), Err(Trouble::Mode("sentinel".into())));
        assert!(matches!(server("5.0.14", "master", "standalone").require(), Err(Trouble::TooOld(_))));
    }

    #[test]
    fn an_answer_to_hello_is_read_in_both_of_its_forms() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let pairs = vec![
            (text("server"), text("redis")),
            (text("version"), text("7.0.15")),
            (text("proto"), Value::Int(3)),
            (text("mode"), text("standalone")),
            (text("role"), text("master")),
            (text("modules"), Value::Array(vec![])),
        ];
        let flat = pairs.iter().cloned().flat_map(|(name, value)| [name, value]).collect();
        for answer in [Value::Map(pairs), Value::Array(flat)] {
            assert_eq!(Server::read(answer), server("7.0.15", "master", "standalone"));
        }
        assert_eq!(Server::read(Value::Nil), server(UNKNOWN, UNKNOWN, UNKNOWN));
    }

    #[test]
    fn settings_are_read_and_eviction_is_noticed() {
        assert_eq!(pubsub_limit("normal 0 0 0 slave 1 2 3 pubsub 32 8 60").as_deref(), Some("32 8 60"));
        assert_eq!(pubsub_limit("normal 0 0 0 pubsub 32"), None);
        let info = "# Memory\r\nmaxmemory:100\r\nmaxmemory_human:100B\r\nmaxmemory_policy:allkeys-lru\r\n";
        assert_eq!((field(info, "maxmemory"), field(info, "maxmemory_policy")), (Some("100"), Some("allkeys-lru")));
        let facts = |maxmemory: &str, eviction: &str| Facts {
            maxmemory: maxmemory.into(),
            eviction: eviction.into(),
            ..Facts::default()
        };
        assert!(facts("100", "allkeys-lru").evicts() && !facts("0", "allkeys-lru").evicts());
        assert!(!facts("100", "noeviction").evicts() && !Facts::default().evicts());
        assert_eq!(persistence_of("aof_enabled:1\r\n"), "append-only file");
        let kept = |info| Facts { persistence: persistence_of(info), ..Facts::default() };
        assert!(kept("aof_enabled:0\r\nrdb_last_save_time:1\r\n").lacks_log());
        assert!(!kept("aof_enabled:1\r\n").lacks_log() && !kept("").lacks_log());
        assert!(
            persistence_of("aof_enabled:0\r\nrdb_last_save_time:1\r\nrdb_last_bgsave_status:err\r\n")
                .contains("failed")
        );
    }
}
