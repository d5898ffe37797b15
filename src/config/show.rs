//! Settings printed: the defaults as a file, the documentation of each key, and what is in effect.
//!
//! All three are read from the table of keys, so none can be forgotten.

use std::fmt::Write;
use std::time::Duration;

use super::keys::{CLASS_KEYS, Default as KeyDefault, KEYS, Key};
use super::kind::written;
use super::{Effective, Settings, available_cores};
use crate::engine::policy::Classes;
use crate::topic::Topic;

/// A complete file with every key at its default. What is absent by default stands in a comment.
#[must_use]
pub fn default_file() -> String {
    let mut text = String::new();
    for key in KEYS {
        head(&mut text, key);
        comment(&mut text, key);
        let name = inner(key);
        match key.default {
            KeyDefault::Is(toml) => line(&mut text, &format!("{name} = {toml}")),
            KeyDefault::Absent(meaning, example) => {
                line(&mut text, &format!("# {name} = {example}   # absent: {meaning}"));
            }
        }
    }
    line(
        &mut text,
        "\n# Any number of classes; the first whose pattern matches a topic counts. Without any:\n# [[class]]",
    );
    for key in CLASS_KEYS.iter().filter(|key| !key.is_of_history()) {
        comment(&mut text, key);
        line(&mut text, &format!("# {} = {}", key.name, sample(key)));
    }
    line(&mut text, "\n# A durable class has more:\n# [[class]]\n# pattern = \"acct.*\"\n# kind = \"durable\"");
    for key in CLASS_KEYS.iter().filter(|key| key.is_of_history()) {
        comment(&mut text, key);
        line(&mut text, &format!("# {} = {}", key.name, sample(key)));
    }
    text
}

/// Every key with flag, variable, default, unit, range and cost.
#[must_use]
pub fn documentation() -> String {
    let mut text = "A flag overrides its variable, which overrides the file.\n".to_owned();
    for key in KEYS {
        document(&mut text, key.name, key);
    }
    for key in CLASS_KEYS {
        document(&mut text, &format!("class.{}", key.name), key);
    }
    text
}

/// What holds, as a file; each key with who gave it. Passwords are masked.
pub(super) fn effective(settings: &Settings) -> String {
    let mut text = String::new();
    for effective in &settings.keys {
        head(&mut text, effective.key);
        line(&mut text, &effective.shown());
    }
    for class in &settings.classes {
        line(&mut text, "\n[[class]]");
        class.iter().for_each(|effective| line(&mut text, &effective.shown()));
    }
    text
}

/// Which class a topic gets, as a comment.
pub(super) fn class_of(classes: &Classes, topic: &Topic) -> String {
    let found = classes.0.iter().position(|(pattern, _)| pattern.matches(topic.as_str()));
    let class = match found {
        Some(index) => format!("class {} (`{}`)", index + 1, classes.0[index].0.as_str()),
        None => "no class matches; the defaults".to_owned(),
    };
    let kept = match classes.class_of(topic).retention() {
        None => "live".to_owned(),
        Some(kept) => {
            let [age, window] = [kept.age_ms, kept.idempotency_ms].map(|ms| written(Duration::from_millis(ms)));
            format!("durable: {} events, {age}; idempotency keys {window}", kept.events_max)
        }
    };
    format!("\n# topic {topic}: {class}, {kept}\n")
}

impl Effective {
    fn shown(&self) -> String {
        let name = inner(self.key);
        match (&self.setting, &self.key.default) {
            (Some(setting), _) => {
                let by = self.by.as_ref().map_or_else(|| "default".to_owned(), Clone::clone);
                format!("{name} = {setting}   # {by}")
            }
            (None, _) if self.key.name == "shards" => format!("{name} = {}   # available cores", available_cores()),
            (None, KeyDefault::Absent(meaning, _)) => format!("# {name}: {meaning}"),
            (None, KeyDefault::Is(toml)) => format!("{name} = {toml}   # default"),
        }
    }
}

fn document(text: &mut String, title: &str, key: &Key) {
    line(text, &format!("\n{title}\n    {}", key.meaning));
    if let Some(flag) = &key.flag {
        line(text, &format!("    flag      --{} {}\n    variable  {}", flag.long, flag.value, flag.variable));
    }
    let default = match key.default {
        KeyDefault::Is(toml) => toml.to_owned(),
        KeyDefault::Absent(meaning, _) => format!("absent: {meaning}"),
    };
    line(text, &format!("    default   {default}\n    unit      {}", key.kind.unit()));
    line(text, &format!("    range     {}\n    cost      {}", key.kind, key.cost));
}

/// The line `[limits]` before its first key.
fn head(text: &mut String, key: &Key) {
    if key.name.starts_with("limits.") && !text.contains("[limits]") {
        line(text, "\n[limits]");
    }
}

fn comment(text: &mut String, key: &Key) {
    line(text, &format!("# {}. Range: {}. Cost: {}.", key.meaning, key.kind, key.cost));
}

/// Its name inside its table.
fn inner(key: &Key) -> &'static str {
    key.name.strip_prefix("limits.").unwrap_or(key.name)
}

fn sample(key: &Key) -> &'static str {
    match key.default {
        KeyDefault::Is(toml) | KeyDefault::Absent(_, toml) => toml,
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}
