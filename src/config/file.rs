//! The configuration file, as it is written.

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use crate::config::class;
use crate::engine::log::LogLimits;
use crate::engine::policy::{Class, Overflow};
use crate::topic::Pattern;

/// All keys. Each top-level one is the flag of its name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub listen: Option<SocketAddr>,
    pub admin_listen: Option<SocketAddr>,
    pub redis: Option<String>,
    pub shards: Option<usize>,
    pub channel_prefix: Option<String>,
    #[serde(rename = "key_prefix")]
    pub _key_prefix: Option<String>,
    pub cors_origin: Option<Vec<String>>,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
    pub demo_pages: Option<bool>,
    #[serde(default)]
    pub class: Vec<ClassTable>,
    #[serde(default)]
    pub limits: LimitsTable,
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    pub connections: Option<usize>,
    pub connections_per_address: Option<usize>,
    pub accept_rate: Option<u32>,
    pub topics: Option<usize>,
    pub topics_per_stream: Option<usize>,
    pub log_memory: Option<Size>,
    pub heartbeat: Option<String>,
    pub stall: Option<String>,
    pub open: Option<String>,
    pub linger: Option<String>,
    pub drain: Option<String>,
}

/// One `[[class]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassTable {
    pattern: String,
    kind: Option<String>,
    log_events: Option<usize>,
    log_bytes: Option<Size>,
    overflow: Option<String>,
}

/// Bytes: a number, or text such as `"64MiB"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Bytes(usize),
    Text(String),
}

impl File {
    /// Reads and parses a file.
    pub(super) fn read(path: &Path) -> Result<File, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        File::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Parses a file's text. The error names line, column and key.
    pub(super) fn parse(text: &str) -> Result<File, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

impl Size {
    /// The number of bytes.
    pub(super) fn check(self, key: &str) -> Result<usize, String> {
        let bytes = match self {
            Size::Bytes(bytes) => bytes,
            Size::Text(text) => {
                let size: bytesize::ByteSize =
                    text.parse().map_err(|_| format!("{key}: `{text}` is no size; write 1048576 or \"1MiB\""))?;
                usize::try_from(size.as_u64()).map_err(|_| format!("{key}: `{text}` is too large"))?
            }
        };
        if bytes == 0 { Err(format!("{key}: must not be 0")) } else { Ok(bytes) }
    }
}

impl ClassTable {
    /// The class, or notes what is wrong with it.
    pub(super) fn check(self, index: usize, errors: &mut Vec<String>) -> Option<(Pattern, Class)> {
        let before = errors.len();
        let name = format!("class {} (`{}`)", index + 1, self.pattern);
        let mut wrong = |what: String| errors.push(format!("{name}: {what}"));
        let pattern = Pattern::parse(&self.pattern).map_err(|error| wrong(format!("pattern: {error}"))).ok();
        match self.kind.as_deref() {
            None | Some("live") => {}
            Some("durable") => {
                wrong("kind: `durable` topics do not exist yet in this version; use kind = \"live\"".into());
            }
            Some(other) => wrong(format!("kind: `{other}` is not `live`")),
        }
        let overflow = match self.overflow.as_deref() {
            None | Some("skip") => Overflow::Skip,
            Some("disconnect") => Overflow::Disconnect,
            Some(other) => {
                wrong(format!("overflow: `{other}` is neither `skip` nor `disconnect`"));
                Overflow::Skip
            }
        };
        let defaults = LogLimits::default();
        let events_max = self.log_events.unwrap_or(defaults.events_max);
        if !(1..=LOG_EVENTS_MAX).contains(&events_max) {
            wrong(format!("log_events: {events_max} is outside 1..={LOG_EVENTS_MAX}"));
        }
        let bytes_max = match self.log_bytes.map(|size| size.check("log_bytes")) {
            None => defaults.bytes_max,
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                wrong(error);
                defaults.bytes_max
            }
        };
        let pattern = pattern.filter(|_| errors.len() == before)?;
        Some((pattern, class(events_max, bytes_max, overflow)))
    }
}

/// A log longer than this is a history, which live topics do not have.
const LOG_EVENTS_MAX: usize = 1 << 20;
