//! What may be written for a setting, and what it is once read.
//!
//! What always holds: a [`Setting`] is within its kind's range; nothing later checks it again.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeValue;

use crate::source::redis::{RedisConfig, without_password};
use crate::topic::Pattern;

/// What may be written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `host:port`, the host a number.
    Address,
    /// Any text.
    Text,
    /// Where a Redis is; empty is none.
    RedisUrl,
    /// Web origins.
    Origins,
    /// A pattern of topics.
    Pattern,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// True or false.
    Switch,
    /// A whole number.
    Count {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Bytes, a number or text such as `"64MiB"`.
    Size,
    /// Text such as `"15s"`, measured by the timer wheel.
    Duration {
        /// The shortest, in ms.
        min_ms: u64,
        /// The longest, in ms.
        max_ms: u64,
    },
    /// Text such as `"7d"`, measured elsewhere.
    Span {
        /// The shortest, in ms.
        min_ms: u64,
        /// The longest, in ms.
        max_ms: u64,
    },
}

/// The most of what has no range of its own: more than any machine has of anything.
pub(super) const COUNT_MAX: u64 = u32::MAX as u64;

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    /// On the command line or in a variable: text, whatever it means.
    Words(Vec<String>),
    /// From here on in the file.
    Text(String),
    /// Its digits; negative or not, and of any size.
    Number(String, u32),
    Switch(bool),
    List(Vec<Raw>),
    /// What no setting takes, by its name.
    Other(&'static str),
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Setting {
    Address(SocketAddr),
    Text(String),
    /// With its password.
    RedisUrl(String),
    List(Vec<String>),
    Pattern(Pattern),
    Word(&'static str),
    Switch(bool),
    Count(u64),
    Bytes(u64),
    Duration(Duration),
}

impl Kind {
    /// Reads a value, or says what is wrong with it.
    pub(super) fn read(self, raw: &Raw) -> Result<Setting, String> {
        match self {
            Kind::Address => {
                let text = raw.text()?;
                let address = text.parse().map_err(|_| format!("`{text}` is no address; write 127.0.0.1:8080"))?;
                Ok(Setting::Address(address))
            }
            Kind::Text => Ok(Setting::Text(raw.text()?)),
            Kind::RedisUrl => {
                let url = raw.text()?;
                if !url.is_empty() {
                    RedisConfig::parse(&url, "").map_err(|error| error.to_string())?;
                }
                Ok(Setting::RedisUrl(url))
            }
            Kind::Origins => raw.list().and_then(origins),
            Kind::Pattern => Ok(Setting::Pattern(Pattern::parse(&raw.text()?).map_err(|error| error.to_string())?)),
            Kind::OneOf(words) => word(words, &raw.text()?),
            Kind::Switch => raw.switch(),
            Kind::Count { min, max } => match raw.number()? {
                number if (min..=max).contains(&number) => Ok(Setting::Count(number)),
                number => Err(format!("{number} is outside {self}")),
            },
            Kind::Size => bytes(raw),
            Kind::Duration { min_ms, max_ms } | Kind::Span { min_ms, max_ms } => {
                let text = raw.text()?;
                let duration =
                    humantime::parse_duration(&text).map_err(|error| format!("`{text}` is no duration: {error}"))?;
                if duration < Duration::from_millis(min_ms) || duration > Duration::from_millis(max_ms) {
                    return Err(format!("`{text}` is outside {self}"));
                }
                Ok(Setting::Duration(duration))
            }
        }
    }

    /// In what it is written.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Kind::Address => "address and port",
            Kind::Text => "text",
            Kind::RedisUrl => "URL",
            Kind::Origins => "list of origins",
            Kind::Pattern => "pattern",
            Kind::OneOf(_) => "word",
            Kind::Switch => "true or false",
            Kind::Count { .. } => "number",
            Kind::Size => "bytes, or text such as \"64MiB\"",
            Kind::Duration { .. } => "text such as \"15s\" or \"1m 30s\", in steps of 100ms",
            Kind::Span { .. } => "text such as \"2m\", \"24h\" or \"7d\"",
        }
    }
}

/// The range.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms| written(Duration::from_millis(ms));
        match self {
            Kind::Address => f.write_str("any; port 0 is one of the kernel's choice"),
            Kind::Text => f.write_str("any"),
            Kind::RedisUrl => {
                f.write_str("redis://[[user]:password@]host[:port][/db], rediss:// or redis+unix:///path")
            }
            Kind::Origins => f.write_str("scheme://host[:port] without a path, or *"),
            Kind::Pattern => f.write_str("1-255 bytes"),
            Kind::OneOf(words) => f.write_str(&words.join(", ")),
            Kind::Switch => f.write_str("true, false"),
            Kind::Count { min, max: COUNT_MAX } => write!(f, "{min}.."),
            Kind::Count { min, max } => write!(f, "{min}..={max}"),
            Kind::Size => f.write_str("at least 1"),
            Kind::Duration { min_ms, max_ms } | Kind::Span { min_ms, max_ms } => {
                write!(f, "{}..={}", ms(*min_ms), ms(*max_ms))
            }
        }
    }
}

/// As TOML; a password is masked.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Address(address) => write!(f, "\"{address}\""),
            Setting::Text(text) => quoted(f, text),
            Setting::RedisUrl(url) => quoted(f, &without_password(url)),
            Setting::List(words) => write!(f, "{}", toml::Value::from(words.clone())),
            Setting::Pattern(pattern) => quoted(f, pattern.as_str()),
            Setting::Word(word) => quoted(f, word),
            Setting::Switch(on) => write!(f, "{on}"),
            Setting::Count(number) | Setting::Bytes(number) => write!(f, "{number}"),
            Setting::Duration(duration) => write!(f, "\"{}\"", written(*duration)),
        }
    }
}

impl Raw {
    /// Takes a value out of the file.
    pub(super) fn of(value: &DeValue<'_>) -> Raw {
        match value {
            DeValue::String(text) => Raw::Text(text.to_string()),
            DeValue::Integer(number) => Raw::Number(number.as_str().to_owned(), number.radix()),
            DeValue::Float(_) => Raw::Other("a fraction"),
            DeValue::Boolean(on) => Raw::Switch(*on),
            DeValue::Datetime(_) => Raw::Other("a date"),
            DeValue::Array(items) => Raw::List(items.iter().map(|item| Raw::of(item.get_ref())).collect()),
            DeValue::Table(_) => Raw::Other("a table"),
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Raw::Words(_) | Raw::Text(_) => "text",
            Raw::Number(..) => "a number",
            Raw::Switch(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Other(name) => name,
        }
    }

    /// True exactly when it is this text.
    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, Raw::Text(said) if said == text)
    }

    /// The text, or what it is instead.
    pub(super) fn text(&self) -> Result<String, String> {
        match self {
            Raw::Words(words) => Ok(words.join(",")),
            Raw::Text(text) => Ok(text.clone()),
            other => Err(format!("must be text, not {}", other.type_name())),
        }
    }

    fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Raw::Words(words) => Ok(words.clone()),
            Raw::List(items) => items.iter().map(Raw::text).collect(),
            other => Err(format!("must be a list of text, not {}", other.type_name())),
        }
    }

    fn switch(&self) -> Result<Setting, String> {
        match self {
            Raw::Switch(on) => Ok(Setting::Switch(*on)),
            Raw::Words(words) => match words.join(",").parse() {
                Ok(on) => Ok(Setting::Switch(on)),
                Err(_) => Err(format!("`{}` is neither true nor false", words.join(","))),
            },
            other => Err(format!("must be true or false, not {}", other.type_name())),
        }
    }

    fn number(&self) -> Result<u64, String> {
        let (digits, radix) = match self {
            Raw::Words(words) => (words.join(","), 10),
            Raw::Number(digits, radix) => (digits.clone(), *radix),
            other => return Err(format!("must be a whole number, not {}", other.type_name())),
        };
        u64::from_str_radix(&digits, radix)
            .map_err(|_| format!("`{digits}` is no whole number from 0 on, or too large"))
    }
}

/// A duration as it can be read again: days are the largest unit, since months and years are no whole number of them.
pub(super) fn written(duration: Duration) -> String {
    let days = duration.as_secs() / 86_400;
    let rest = duration - Duration::from_secs(days * 86_400);
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (_, true) => format!("{days}d"),
        (_, false) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "{}", toml::Value::from(text))
}

fn origins(origins: Vec<String>) -> Result<Setting, String> {
    for origin in &origins {
        if origin != "*" && (!origin.contains("://") || origin.ends_with('/')) {
            return Err(format!("`{origin}` is no origin; write scheme://host[:port], without a path"));
        }
    }
    Ok(Setting::List(origins))
}

fn word(words: &'static [&'static str], text: &str) -> Result<Setting, String> {
    match words.iter().find(|word| **word == text) {
        Some(word) => Ok(Setting::Word(word)),
        None => Err(format!("`{text}` is none of: {}", words.join(", "))),
    }
}

fn bytes(raw: &Raw) -> Result<Setting, String> {
    let bytes = match raw {
        Raw::Number(..) => raw.number()?,
        _ => {
            let text = raw.text().map_err(|_| "must be a number of bytes, or text such as \"1MiB\"".to_owned())?;
            let size: bytesize::ByteSize =
                text.parse().map_err(|_| format!("`{text}` is no size; write 1048576 or \"1MiB\""))?;
            size.as_u64()
        }
    };
    if bytes == 0 { Err("must not be 0".into()) } else { Ok(Setting::Bytes(bytes)) }
}
