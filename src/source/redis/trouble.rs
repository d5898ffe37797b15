//! Why a shard is without its Redis: one value, from which the log's line, the reason of a red
//! readiness and the publisher's sentence come.

use std::time::Duration;

use redis::{ErrorKind, RedisError};

/// What a user needs for the script, besides the rights for live topics, as `ACL SETUSER` takes it.
const SCRIPT_RIGHTS: &str = "+evalsha +script|load +hscan +info +time +type +unlink +del +get +set +hget +hmget +hset \
                             +hdel +xadd +xdel +xtrim +xrange +xrevrange";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, or none any more.
    Away(String),
    /// The user or password is wrong.
    Authentication(String),
    /// It does not speak RESP3, or is older than 6.0.
    TooOld(String),
    /// It runs as a Sentinel or in a cluster: the mode it names.
    Mode(String),
    /// What is published on a replica reaches nobody beyond it.
    Replica,
    /// The ACL forbids the channel on which connections are probed.
    ProbeRefused {
        /// The channel's name, up to what is random.
        channel: String,
        /// What Redis said.
        error: String,
    },
    /// It does not let the script of durable topics work.
    ScriptRefused {
        /// The keys it needs, as a pattern, where a right is missing.
        lacks: Option<String>,
        /// What Redis said.
        error: String,
    },
    /// Published, and not received on the subscriber connection for this long.
    ProbeLost(Duration),
}

impl Trouble {
    /// What an error of the client library means.
    #[must_use]
    pub fn of(error: &RedisError) -> Trouble {
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                Trouble::Authentication(error.to_string())
            }
            (ErrorKind::RESP3NotSupported, _) => Trouble::TooOld(error.to_string()),
            (_, Some("READONLY")) => Trouble::Replica,
            _ => Trouble::Away(error.to_string()),
        }
    }

    /// For an operator: what it is, and what to do.
    #[must_use]
    pub fn sentence(&self, redis: &str) -> String {
        match self {
            Trouble::Away(error) => format!("no connection to Redis at {redis}: {error}"),
            Trouble::Authentication(error) => {
                format!("Redis at {redis} does not accept the user and password: {error}")
            }
            Trouble::TooOld(what) => format!("Redis at {redis} is too old, 6.0 is needed: {what}"),
            Trouble::Mode(mode) => format!("Redis at {redis} runs in {mode} mode, which is not supported yet"),
            Trouble::Replica => format!("Redis at {redis} is a replica; name the primary, or promote it"),
            Trouble::ProbeRefused { channel, error } => format!(
                "Redis at {redis} refuses the channel that proves that messages come back ({error}); \
                 allow it: ACL SETUSER <user> +subscribe +publish '&{channel}*'"
            ),
            Trouble::ScriptRefused { lacks, error } => {
                let remedy = lacks
                    .as_ref()
                    .map_or(String::new(), |keys| format!("; allow it: ACL SETUSER <user> '~{keys}' {SCRIPT_RIGHTS}"));
                format!("Redis at {redis} refuses the script without which no durable topic opens ({error}){remedy}")
            }
            Trouble::ProbeLost(waited) => format!(
                "Redis at {redis}: a probe did not come back on the subscriber connection within {:.1} s",
                waited.as_secs_f64()
            ),
        }
    }

    /// For whoever publishes: why it was refused.
    #[must_use]
    pub fn refusal(&self) -> &'static str {
        match self {
            Trouble::Away(_) | Trouble::ProbeLost(_) => "Redis is away",
            Trouble::Authentication(_) => "Redis does not accept this node's user and password",
            Trouble::TooOld(_) | Trouble::Mode(_) => "this kind of Redis is not supported",
            Trouble::Replica => "Redis is a replica",
            Trouble::ProbeRefused { .. } => "Redis does not permit it",
            Trouble::ScriptRefused { .. } => "Redis refuses it",
        }
    }
}

/// Why Redis itself refuses a publish, in general terms: who publishes need not know the details. `code` is the first
/// word of what it said.
#[must_use]
pub fn refusal_of(code: &str) -> &'static str {
    match code {
        "NOPERM" => "Redis does not permit it",
        "LOADING" => "Redis is still loading its data",
        "OOM" => "Redis is out of memory",
        "READONLY" => "Redis is a replica",
        "MISCONF" => "Redis cannot save its data",
        "BUSY" => "Redis is busy with a script",
        "NOAUTH" | "WRONGPASS" => "Redis does not accept this node's user and password",
        "CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" => "this kind of Redis is not supported",
        _ => "Redis refuses it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{Value, parse_redis_value};

    fn said(error: &str) -> RedisError {
        match parse_redis_value(format!("-{error}\r\n").as_bytes()).and_then(Value::extract_error) {
            Err(error) => error,
            Ok(value) => panic!("{value:?} is no error"),
        }
    }

    #[test]
    fn what_redis_refuses_is_named_in_general_terms() {
        for (error, sentence) in [
            ("NOPERM this user has no permissions", "Redis does not permit it"),
            ("LOADING Redis is loading the dataset in memory", "Redis is still loading its data"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "Redis is out of memory"),
            ("READONLY You can't write against a read only replica.", "Redis is a replica"),
            ("MISCONF Redis is configured to save RDB snapshots", "Redis cannot save its data"),
            ("BUSY Redis is busy running a script.", "Redis is busy with a script"),
            ("NOAUTH Authentication required.", "Redis does not accept this node's user and password"),
            ("CLUSTERDOWN The cluster is down", "this kind of Redis is not supported"),
            ("ERR something else", "Redis refuses it"),
        ] {
            assert_eq!(refusal_of(said(error).code().unwrap_or_default()), sentence);
        }
        assert_eq!(Trouble::of(&said("READONLY x")), Trouble::Replica);
        assert!(matches!(Trouble::of(&said("WRONGPASS x")), Trouble::Authentication(_)));
        assert!(matches!(Trouble::of(&said("ERR max number of clients reached")), Trouble::Away(_)));
    }

    #[test]
    fn the_remedy_of_a_refused_script_is_the_line_of_the_manual() {
        let trouble = Trouble::ScriptRefused { lacks: Some("fanwheel:{0}:*".into()), error: "NOPERM".into() };
        let sentence = trouble.sentence("r");
        assert!(sentence.ends_with(&format!("ACL SETUSER <user> '~fanwheel:{{0}}:*' {SCRIPT_RIGHTS}")), "{sentence}");
        assert!(include_str!("../../../docs/REDIS.md").contains(SCRIPT_RIGHTS));
        let full = Trouble::ScriptRefused { lacks: None, error: "OOM command not allowed".into() };
        assert!(!full.sentence("r").contains("ACL"));
    }

    #[test]
    fn the_remedy_of_a_refused_probe_is_the_line_to_type() {
        let trouble = Trouble::ProbeRefused { channel: "fanwheel:$probe:".into(), error: "NOPERM".into() };
        assert!(trouble.sentence("r").ends_with("ACL SETUSER <user> +subscribe +publish '&fanwheel:$probe:*'"));
    }
}
