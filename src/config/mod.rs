//! Configuration: as written (flags, `FANWHEEL_*` variables, a TOML file), then as meant, once.
//!
//! Flags override variables override the file. What is wrong is reported all at once, each with the
//! place it stands at and what would be right; also a value that another one overrides.

mod file;
mod flags;
mod keys;
mod kind;
mod show;

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeValue;

use crate::edge::http::cors::Origins;
use crate::engine::log::LogLimits;
use crate::engine::policy::{Class, Classes, Kind, Limits, Overflow, Retention};
use crate::engine::wheel::TICK_MS;
use crate::topic::{Pattern, Topic};
use file::{File, Place, Written};
use keys::{CLASS_KEYS, Default as KeyDefault, KEYS, Key};
use kind::{Raw, Setting};

pub use flags::Flags;
pub use show::{default_file, documentation};

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
    /// What keys in Redis begin with.
    pub key_prefix: String,
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
    /// Bytes of all histories of the embedded broker together.
    pub history_memory: usize,
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

impl ConfigErrors {
    /// True exactly when nothing is wrong but which Redis is meant: a Redis that cannot be used, like
    /// one that refuses the password.
    #[must_use]
    pub fn is_about_redis_alone(&self) -> bool {
        let keys = ["--redis: ", "FANWHEEL_REDIS: ", ": redis: "];
        !self.0.is_empty() && self.0.iter().all(|line| keys.iter().any(|key| line.contains(key)))
    }
}

/// All settings, each within its range, and who gave it.
#[derive(Debug)]
struct Settings {
    /// In the order of [`KEYS`]; `None` is absent.
    keys: Vec<Effective>,
    /// In the order of [`CLASS_KEYS`], without those that its kind does not have.
    classes: Vec<Vec<Effective>>,
}

/// What holds for a key.
#[derive(Debug)]
struct Effective {
    key: &'static Key,
    setting: Option<Setting>,
    /// A flag, a variable, the file's line; `None` is the default.
    by: Option<String>,
}

impl Config {
    /// Puts flags, variables and the file together.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn load(flags: &Flags) -> Result<Config, ConfigErrors> {
        Settings::load(flags).map(|settings| settings.config())
    }

    /// Loads the configuration and prints it as TOML, each key with who gave it; then the class of each topic.
    ///
    /// # Errors
    /// All that is wrong, topics included.
    pub fn check(flags: &Flags, topics: &[String]) -> Result<String, ConfigErrors> {
        let settings = Settings::load(flags);
        let topics = topics.iter().map(|name| Topic::parse(name).map_err(|error| format!("--topic {name}: {error}")));
        let (topics, wrong): (Vec<_>, Vec<_>) = topics.partition(Result::is_ok);
        let wrong = wrong.into_iter().filter_map(Result::err);
        match settings {
            Err(ConfigErrors(mut errors)) => {
                errors.extend(wrong);
                Err(ConfigErrors(errors))
            }
            Ok(settings) => {
                let wrong: Vec<String> = wrong.collect();
                if !wrong.is_empty() {
                    return Err(ConfigErrors(wrong));
                }
                let classes = settings.config().limits.classes;
                let topics = topics.into_iter().flatten().map(|topic| show::class_of(&classes, &topic));
                Ok(topics.fold(show::effective(&settings), |text, line| text + &line))
            }
        }
    }
}

impl Settings {
    fn load(flags: &Flags) -> Result<Settings, ConfigErrors> {
        let path = flags.config.as_deref();
        let (file, unread) = match path.map(File::read) {
            None => (File::default(), None),
            Some(Ok(file)) => (file, None),
            Some(Err(error)) => (File::default(), Some(error)),
        };
        let name = path.map_or_else(String::new, |path| format!("{}: ", path.display()));
        match Settings::merge(flags, file, &name) {
            Ok(settings) if unread.is_none() => Ok(settings),
            Ok(_) => Err(ConfigErrors(unread.into_iter().collect())),
            Err(errors) => Err(ConfigErrors(unread.into_iter().chain(errors.0).collect())),
        }
    }

    /// `name` goes before the places of the file's errors.
    fn merge(flags: &Flags, file: File, name: &str) -> Result<Settings, ConfigErrors> {
        let File { keys: written, classes, mut errors } = file;
        let mut settings = Settings { keys: absent(KEYS), classes: Vec::new() };
        take(&mut settings.keys, written, "", &mut errors);
        for (index, (mut written, place)) in classes.into_iter().enumerate() {
            let mut class = absent(CLASS_KEYS);
            let title = format!("class {}: ", index + 1);
            if !written.iter().any(|written| written.key.name == "pattern") {
                errors.push((place, format!("{title}pattern: must be given")));
            }
            take_misfits(&mut written, &title, &mut errors);
            take(&mut class, written, &title, &mut errors);
            fit(&mut class);
            settings.classes.push(class);
        }
        errors.sort_by_key(|(place, _)| *place);
        let line =
            |(place, what): (Place, String)| format!("{name}line {}, column {}: {what}", place.line, place.column);
        let mut errors: Vec<String> = errors.into_iter().map(line).collect();
        for given in &flags.given {
            let effective = settings.keys.iter_mut().find(|effective| effective.key.name == given.key.name);
            match (given.key.kind.read(&given.value), effective) {
                (Ok(setting), Some(effective)) => {
                    effective.setting = Some(setting);
                    effective.by = Some(given.by.clone());
                }
                (Ok(_), None) => {}
                (Err(what), _) => errors.push(format!("{}: {what}", given.by)),
            }
        }
        if errors.is_empty() { Ok(settings) } else { Err(ConfigErrors(errors)) }
    }

    fn config(&self) -> Config {
        let keys = Keys(&self.keys);
        let ticks = |name| keys.get(name, duration).map_or(1, ticks);
        Config {
            listen: keys.of("listen", address),
            admin_listen: keys.of("admin_listen", address),
            redis: keys.get("redis", text).filter(|url| !url.is_empty()),
            channel_prefix: keys.of("channel_prefix", text),
            key_prefix: keys.of("key_prefix", text),
            shards: keys.get("shards", count).unwrap_or_else(available_cores),
            origins: Origins(keys.of("cors_origin", list)),
            log_level: keys.of("log_level", |level| word(level)?.parse().ok()),
            log_format: if keys.of("log_format", word) == "json" { LogFormat::Json } else { LogFormat::Text },
            demo_pages: keys.of("demo_pages", switch),
            limits: Limits {
                classes: Classes(self.classes.iter().map(|class| class_of(&Keys(class))).collect()),
                log_bytes_max: keys.of("limits.log_memory", count),
                topics_max: keys.of("limits.topics", count),
                heartbeat_ticks: ticks("limits.heartbeat"),
                stall_ticks: ticks("limits.stall"),
                open_ticks: ticks("limits.open"),
                linger_ticks: ticks("limits.linger"),
            },
            history_memory: keys.of("limits.history_memory", count),
            connections_max: keys.get("limits.connections", count),
            topics_per_stream_max: keys.of("limits.topics_per_stream", count),
            connections_per_address: keys.get("limits.connections_per_address", count),
            accept_rate: keys.get("limits.accept_rate", count).and_then(|rate| u32::try_from(rate).ok()),
            drain: keys.of("limits.drain", duration),
        }
    }
}

/// All keys at their defaults.
fn absent(keys: &'static [Key]) -> Vec<Effective> {
    keys.iter().map(|key| Effective { key, setting: default_of(key), by: None }).collect()
}

fn default_of(key: &Key) -> Option<Setting> {
    let KeyDefault::Is(toml) = key.default else { return None };
    let value = DeValue::parse(toml).expect("defaults are TOML");
    Some(key.kind.read(&Raw::of(value.get_ref())).expect("defaults are within their range"))
}

/// Puts what was written in the place of the defaults, or notes what is wrong with it.
fn take(keys: &mut [Effective], written: Vec<Written>, title: &str, errors: &mut Vec<(Place, String)>) {
    for Written { key, value, place } in written {
        let Some(effective) = keys.iter_mut().find(|effective| effective.key.name == key.name) else { continue };
        match key.kind.read(&value) {
            Ok(setting) => {
                effective.setting = Some(setting);
                effective.by = Some(format!("line {}", place.line));
            }
            Err(what) => errors.push((place, format!("{title}{}: {what}", key.name))),
        }
    }
}

/// Takes out what a class of this kind cannot have, and notes that.
fn take_misfits(written: &mut Vec<Written>, title: &str, errors: &mut Vec<(Place, String)>) {
    let kind = written.iter().find(|written| written.key.name == "kind");
    let is_durable = kind.is_some_and(|kind| kind.value.says("durable"));
    // Of a kind that is none it cannot be said what it has.
    let is_live = kind.is_none_or(|kind| kind.value.says("live"));
    written.retain(|Written { key, value, place }| {
        let what = match key.name {
            "overflow" if is_durable && !value.says("disconnect") => {
                let said = value.text().map_or_else(|_| "this".into(), |text| format!("`{text}`"));
                format!("{said} does not go with kind = \"durable\"; use overflow = \"disconnect\"")
            }
            _ if is_live && key.is_of_history() => "needs kind = \"durable\"; live topics have no history".into(),
            _ => return true,
        };
        errors.push((*place, format!("{title}{}: {what}", key.name)));
        false
    });
}

/// Makes a class what its kind has: its keys, and their defaults.
fn fit(class: &mut Vec<Effective>) {
    let is_durable = Keys(class).of("kind", word) == "durable";
    class.retain(|effective| is_durable || !effective.key.is_of_history());
    for effective in class.iter_mut().filter(|effective| is_durable && effective.key.name == "overflow") {
        effective.setting = Some(Setting::Word("disconnect"));
    }
}

fn class_of(keys: &Keys<'_>) -> (Pattern, Class) {
    let log = LogLimits { events_max: keys.of("log_events", count), bytes_max: keys.of("log_bytes", count) };
    let overflow = match keys.of("overflow", word) {
        "disconnect" => Overflow::Disconnect,
        _ => Overflow::Skip,
    };
    let kind = match keys.of("kind", word) {
        "durable" => Kind::Durable(Retention {
            events_max: keys.of("history_events", count),
            age_ms: keys.of("history_age", milliseconds),
            idempotency_ms: keys.of("idempotency_window", milliseconds),
        }),
        _ => Kind::Live,
    };
    (keys.of("pattern", pattern), Class { kind, log, overflow })
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// A duration in timer ticks; its kind lets in a day at most.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / u128::from(TICK_MS)).expect("a day has 864,000 ticks")
}

/// Settings by their names.
struct Keys<'s>(&'s [Effective]);

impl Keys<'_> {
    /// The value; `None` is absent.
    fn get<T>(&self, name: &str, of: impl FnOnce(&Setting) -> Option<T>) -> Option<T> {
        let found = self.0.iter().find(|effective| effective.key.name == name);
        let setting = found.expect("the table has this key").setting.as_ref()?;
        Some(of(setting).expect("a setting is of its key's kind"))
    }

    /// The value of a key that always has one.
    fn of<T>(&self, name: &str, of: impl FnOnce(&Setting) -> Option<T>) -> T {
        self.get(name, of).expect("the key has a default, or its absence was an error")
    }
}

fn address(setting: &Setting) -> Option<SocketAddr> {
    if let Setting::Address(address) = setting { Some(*address) } else { None }
}

fn text(setting: &Setting) -> Option<String> {
    if let Setting::Text(text) | Setting::RedisUrl(text) = setting { Some(text.clone()) } else { None }
}

fn list(setting: &Setting) -> Option<Vec<String>> {
    if let Setting::List(words) = setting { Some(words.clone()) } else { None }
}

fn word(setting: &Setting) -> Option<&'static str> {
    if let Setting::Word(word) = setting { Some(word) } else { None }
}

fn switch(setting: &Setting) -> Option<bool> {
    if let Setting::Switch(on) = setting { Some(*on) } else { None }
}

fn count(setting: &Setting) -> Option<usize> {
    match setting {
        // The crate is for 64 bits only.
        Setting::Count(number) | Setting::Bytes(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

fn pattern(setting: &Setting) -> Option<Pattern> {
    if let Setting::Pattern(pattern) = setting { Some(pattern.clone()) } else { None }
}

fn duration(setting: &Setting) -> Option<Duration> {
    if let Setting::Duration(duration) = setting { Some(*duration) } else { None }
}

fn milliseconds(setting: &Setting) -> Option<u64> {
    u64::try_from(duration(setting)?.as_millis()).ok()
}

#[cfg(test)]
mod tests;
