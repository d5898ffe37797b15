//! Configuration: as written (flags, `FANWHEEL_*` variables, a TOML file), then as meant, once.
//!
//! Flags override variables override the file. What is wrong is reported all at once, each with the
//! key it stands under and what would be right.

mod file;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::edge::http::cors::Origins;
use crate::engine::log::LogLimits;
use crate::engine::policy::{Class, Classes, Limits, TOPICS_PER_STREAM_MAX};
use crate::engine::wheel::TICK_MS;
use file::File;

/// Flags of `serve` and `demo`. Every flag has a variable: `--admin-listen` is `FANWHEEL_ADMIN_LISTEN`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Read settings from this TOML file
    #[arg(long, env = "FANWHEEL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, env = "FANWHEEL_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where operators connect: metrics, health, status [default: 127.0.0.1:9090]
    #[arg(long, env = "FANWHEEL_ADMIN_LISTEN", value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// Redis that feeds this node; without one the embedded broker does
    #[arg(long, env = "FANWHEEL_REDIS", value_name = "URL", hide_env_values = true)]
    pub redis: Option<String>,
    /// Threads, each with its own connections [default: available cores]
    #[arg(long, env = "FANWHEEL_SHARDS", value_name = "N")]
    pub shards: Option<usize>,
    /// What channels begin with: topic `chat` is channel `fanwheel:chat`; '' takes over an application's own channels [default: fanwheel:]
    #[arg(long, env = "FANWHEEL_CHANNEL_PREFIX", value_name = "TEXT")]
    pub channel_prefix: Option<String>,
    /// What keys in Redis begin with; live topics keep none [default: fanwheel:]
    #[arg(long, env = "FANWHEEL_KEY_PREFIX", value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// Web origin whose pages may use this node (repeatable; '*' for all) [default: none]
    #[arg(long, env = "FANWHEEL_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, env = "FANWHEEL_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, env = "FANWHEEL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Serve the demo's pages on the public listener (`demo` always does)
    #[arg(long, env = "FANWHEEL_DEMO_PAGES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub demo_pages: Option<bool>,
    /// Connections of one client address; absent is any number, because many users may share a proxy's
    #[arg(long, env = "FANWHEEL_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub connections_per_address: Option<usize>,
    /// New connections per second on this node; absent is any number
    #[arg(long, env = "FANWHEEL_ACCEPT_RATE", value_name = "N")]
    pub accept_rate: Option<u32>,
    /// How long the streams' goodbye is spread when the node stops; 0s is at once [default: 8s]
    #[arg(long, env = "FANWHEEL_DRAIN", value_name = "DURATION")]
    pub drain: Option<String>,
}

/// What was meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// The public listener.
    pub listen: SocketAddr,
    /// The admin listener.
    pub admin_listen: SocketAddr,
    /// The URL of the Redis to use; `None` is the embedded broker.
    pub redis: Option<String>,
    /// What channels begin with.
    pub channel_prefix: String,
    /// Threads.
    pub shards: usize,
    /// Other origins that may use the node.
    pub origins: Origins,
    /// What is logged.
    pub log_level: tracing::Level,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Whether pages are served.
    pub demo_pages: bool,
    /// The engine's limits.
    pub limits: Limits,
    /// Connections on the public listener; `None` is what the descriptor limit allows.
    pub connections_max: Option<usize>,
    /// Topics per stream.
    pub topics_per_stream_max: usize,
    /// Connections of one client address; `None` is any number.
    pub connections_per_address: Option<usize>,
    /// New connections per second; `None` is any number.
    pub accept_rate: Option<u32>,
    /// How long streams may take to leave when the node stops.
    pub drain: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs, one object per line.
    Json,
}

/// Everything that is wrong, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

impl Config {
    /// Puts flags, variables and the file together.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn load(flags: Flags) -> Result<Config, ConfigErrors> {
        let file = match &flags.config {
            None => File::default(),
            Some(path) => File::read(path).map_err(|error| ConfigErrors(vec![error]))?,
        };
        Config::merge(flags, file)
    }

    fn merge(flags: Flags, file: File) -> Result<Config, ConfigErrors> {
        let mut errors = Vec::new();
        let defaults = Limits::default();
        let prefix = flags.channel_prefix.or(file.channel_prefix).unwrap_or_else(|| "fanwheel:".into());
        let redis = flags.redis.or(file.redis).filter(|url| !url.is_empty());
        let shards = flags.shards.or(file.shards).unwrap_or_else(available_cores);
        if !(1..=SHARDS_MAX).contains(&shards) {
            errors.push(format!("shards: {shards} is outside 1..={SHARDS_MAX}"));
        }
        let level = flags.log_level.or(file.log_level).unwrap_or_else(|| "info".into());
        let log_level = note(
            &mut errors,
            level.parse().map_err(|_| format!("log_level: `{level}` is none of error, warn, info, debug, trace")),
        );
        let format = flags.log_format.or(file.log_format).unwrap_or_else(|| "text".into());
        let log_format = note(
            &mut errors,
            match format.as_str() {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                other => Err(format!("log_format: `{other}` is neither text nor json")),
            },
        );
        let origins =
            if flags.cors_origin.is_empty() { file.cors_origin.unwrap_or_default() } else { flags.cors_origin };
        for origin in &origins {
            if origin != "*" && (!origin.contains("://") || origin.ends_with('/')) {
                errors
                    .push(format!("cors_origin: `{origin}` is no origin; write scheme://host[:port], without a path"));
            }
        }
        let mut classes = Vec::new();
        for (index, class) in file.class.into_iter().enumerate() {
            classes.extend(class.check(index, &mut errors));
        }
        let written = file.limits;
        let mut ticks = |key: &str, value: Option<String>, default: u32| match value {
            None => default,
            Some(text) => note(&mut errors, ticks(key, &text)).unwrap_or(default),
        };
        let heartbeat_ticks = ticks("limits.heartbeat", written.heartbeat, defaults.heartbeat_ticks);
        let stall_ticks = ticks("limits.stall", written.stall, defaults.stall_ticks);
        let open_ticks = ticks("limits.open", written.open, defaults.open_ticks);
        let linger_ticks = ticks("limits.linger", written.linger, defaults.linger_ticks);
        let log_bytes_max = match written.log_memory {
            None => defaults.log_bytes_max,
            Some(size) => note(&mut errors, size.check("limits.log_memory")).unwrap_or(0),
        };
        let topics_per_stream_max = written.topics_per_stream.unwrap_or(TOPICS_PER_STREAM_MAX);
        if !(1..=TOPICS_PER_STREAM_MAX).contains(&topics_per_stream_max) {
            errors.push(format!(
                "limits.topics_per_stream: {topics_per_stream_max} is outside 1..={TOPICS_PER_STREAM_MAX}"
            ));
        }
        let connections_per_address = flags.connections_per_address.or(written.connections_per_address);
        for (key, value) in [
            ("limits.connections", written.connections),
            ("limits.topics", written.topics),
            ("limits.connections_per_address", connections_per_address),
        ] {
            if value == Some(0) {
                errors.push(format!("{key}: must not be 0"));
            }
        }
        let accept_rate = flags.accept_rate.or(written.accept_rate);
        if let Some(rate) = accept_rate.filter(|rate| !(1..=ACCEPT_RATE_MAX).contains(rate)) {
            errors.push(format!("limits.accept_rate: {rate} is outside 1..={ACCEPT_RATE_MAX}"));
        }
        let drain = match flags.drain.or(written.drain) {
            None => DRAIN_DEFAULT,
            Some(text) => note(&mut errors, drain(&text)).unwrap_or(DRAIN_DEFAULT),
        };
        let (Some(log_level), Some(log_format), true) = (log_level, log_format, errors.is_empty()) else {
            return Err(ConfigErrors(errors));
        };
        Ok(Config {
            listen: flags.listen.or(file.listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin_listen: flags.admin_listen.or(file.admin_listen).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9090))),
            redis,
            channel_prefix: prefix,
            shards,
            origins: Origins(origins),
            log_level,
            log_format,
            demo_pages: flags.demo_pages.or(file.demo_pages).unwrap_or(false),
            limits: Limits {
                classes: Classes(classes),
                log_bytes_max,
                topics_max: written.topics.unwrap_or(defaults.topics_max),
                heartbeat_ticks,
                stall_ticks,
                open_ticks,
                linger_ticks,
            },
            connections_max: written.connections,
            topics_per_stream_max,
            connections_per_address,
            accept_rate,
            drain,
        })
    }
}

/// More threads than that help no machine there is.
const SHARDS_MAX: usize = 256;

/// More connections than that no node accepts in a second.
const ACCEPT_RATE_MAX: u32 = 1_000_000;
/// Shorter than the 10 s that container platforms commonly wait before they kill.
const DRAIN_DEFAULT: Duration = Duration::from_secs(8);
/// Whoever waits longer for a node to stop has forgotten it.
const DRAIN_MAX: Duration = Duration::from_secs(600);

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// Keeps the value, or notes the error.
fn note<T, E: std::fmt::Display>(errors: &mut Vec<String>, result: Result<T, E>) -> Option<T> {
    result.map_err(|error| errors.push(error.to_string())).ok()
}

/// A duration such as `15s`, in timer ticks; at least one.
fn ticks(key: &str, text: &str) -> Result<u32, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{key}: `{text}` is no duration: {error}"))?;
    let tick = Duration::from_millis(TICK_MS);
    if duration < tick || duration > Duration::from_secs(86_400) {
        return Err(format!("{key}: `{text}` is outside {TICK_MS}ms..=24h"));
    }
    Ok(u32::try_from(duration.as_millis() / u128::from(TICK_MS)).expect("a day has 864,000 ticks"))
}

/// A duration such as `8s`; none at all is allowed.
fn drain(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("limits.drain: `{text}` is no duration: {error}"))?;
    if duration > DRAIN_MAX { Err(format!("limits.drain: `{text}` is outside 0s..=10m")) } else { Ok(duration) }
}

/// A class whose fields were checked.
fn class(events_max: usize, bytes_max: usize, overflow: crate::engine::policy::Overflow) -> Class {
    Class { log: LogLimits { events_max, bytes_max }, overflow }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::Overflow;
    use crate::topic::Topic;

    fn load(text: &str) -> Result<Config, ConfigErrors> {
        Config::merge(Flags::default(), File::parse(text).map_err(|error| ConfigErrors(vec![error]))?)
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = load("").expect("fine");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(config.redis.is_none());
        assert_eq!(config.limits.heartbeat_ticks, 150);
        assert_eq!(config.limits.log_bytes_max, 64 << 20);
        assert_eq!((config.connections_per_address, config.accept_rate), (None, None));
        assert_eq!(config.drain, Duration::from_secs(8));
    }

    #[test]
    fn flags_override_the_file() {
        let file = File::parse("shards = 3\nchannel_prefix = 'x:'\nlog_level = 'warn'").expect("fine");
        let flags = Flags { shards: Some(5), ..Flags::default() };
        let config = Config::merge(flags, file).expect("fine");
        assert_eq!((config.shards, config.log_level), (5, tracing::Level::WARN));
    }

    #[test]
    fn who_may_connect_and_how_the_node_stops_are_flags_and_keys() {
        let text = "[limits]\nconnections_per_address = 3\naccept_rate = 7\ndrain = '2s'";
        let config = load(text).expect("fine");
        assert_eq!((config.connections_per_address, config.accept_rate), (Some(3), Some(7)));
        assert_eq!(config.drain, Duration::from_secs(2));
        let flags = Flags {
            connections_per_address: Some(4),
            accept_rate: Some(1_000_000),
            drain: Some("0s".into()),
            ..Flags::default()
        };
        let config = Config::merge(flags, File::parse(text).expect("fine")).expect("fine");
        assert_eq!((config.connections_per_address, config.accept_rate), (Some(4), Some(1_000_000)));
        assert_eq!(config.drain, Duration::ZERO);
    }

    #[test]
    fn classes_are_tried_in_order() {
        let config = load(
            "[[class]]\npattern = 'a.*'\nkind = 'live'\nlog_events = 7\nlog_bytes = '64KiB'\noverflow = 'disconnect'\n\
             [[class]]\npattern = '**'\nlog_events = 9\n[limits]\nstall = '2s'\nlog_memory = '1MiB'",
        )
        .expect("fine");
        let of = |name| config.limits.classes.class_of(&Topic::parse(name).expect("a topic"));
        assert_eq!(of("a.b").log, LogLimits { events_max: 7, bytes_max: 64 << 10 });
        assert_eq!(of("a.b").overflow, Overflow::Disconnect);
        assert_eq!(of("c").log, LogLimits { events_max: 9, bytes_max: 1 << 20 });
        assert_eq!((config.limits.stall_ticks, config.limits.log_bytes_max), (20, 1 << 20));
    }

    #[test]
    fn everything_wrong_is_reported_at_once() {
        let errors = load(
            "shards = 0\nlog_format = 'xml'\ncors_origin = ['example.org']\n\
             [[class]]\npattern = 'a.**.b'\nkind = 'durable'\noverflow = 'conflate'\nlog_events = 0\n\
             [limits]\nheartbeat = 'soon'\nstall = '1ms'\nlog_memory = 'much'\ntopics_per_stream = 101\nconnections = 0\n\
             connections_per_address = 0\naccept_rate = 1000001\ndrain = '11m'",
        )
        .expect_err("nearly all of it is wrong");
        for part in [
            "shards: 0",
            "log_format",
            "cors_origin",
            "class 1 (`a.**.b`): pattern",
            "`durable` topics do not exist yet",
            "overflow",
            "log_events",
            "limits.heartbeat",
            "limits.stall",
            "limits.log_memory",
            "limits.topics_per_stream",
            "limits.connections:",
            "limits.connections_per_address",
            "limits.accept_rate",
            "limits.drain",
        ] {
            assert!(errors.to_string().contains(part), "{part} in\n{errors}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_with_their_place() {
        let error = load("shards = 2\nshrads = 3").expect_err("a typing error").to_string();
        assert!(error.contains("shrads") && error.contains("line 2"), "{error}");
    }
}
