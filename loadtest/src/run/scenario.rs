//! Scenarios: flags from a file, in front of those written on the command line.
//!
//! A scenario is a flat TOML file whose keys are this program's flags, so that each of them can be
//! overridden and none needs a second name. `summary` says what it is for.

use std::fs;

use anyhow::{Context as _, Result, bail};
use toml::{Table, Value};

use super::options::Flags;

/// The scenarios that come with this program.
const BUILT_IN: [(&str, &str); 13] = [
    ("broadcast", include_str!("../../scenarios/broadcast.toml")),
    ("many-topics", include_str!("../../scenarios/many-topics.toml")),
    ("ticker", include_str!("../../scenarios/ticker.toml")),
    ("idle", include_str!("../../scenarios/idle.toml")),
    ("connect-storm", include_str!("../../scenarios/connect-storm.toml")),
    ("saturation", include_str!("../../scenarios/saturation.toml")),
    ("overload", include_str!("../../scenarios/overload.toml")),
    ("burst", include_str!("../../scenarios/burst.toml")),
    ("slow-readers", include_str!("../../scenarios/slow-readers.toml")),
    ("churn", include_str!("../../scenarios/churn.toml")),
    ("reconnect-storm", include_str!("../../scenarios/reconnect-storm.toml")),
    ("resume", include_str!("../../scenarios/resume.toml")),
    ("broker-restart", include_str!("../../scenarios/broker-restart.toml")),
];

/// A file, read.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) summary: String,
    /// As they would stand on a command line.
    flags: Vec<String>,
}

impl Scenario {
    /// One of the built-in ones by its name, or a file by its path.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Self::parse(name, text);
        }
        if !name.ends_with(".toml") {
            let known = BUILT_IN.map(|(name, _)| name).join(", ");
            bail!("--scenario {name}: not one of {known}; a file's name ends in .toml");
        }
        let text = fs::read_to_string(name).with_context(|| format!("--scenario {name}"))?;
        Self::parse(name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut table: Table = text.parse().with_context(|| format!("scenario {name}"))?;
        let summary = match table.remove("summary") {
            Some(Value::String(summary)) => summary,
            _ => String::new(),
        };
        let mut flags = Vec::new();
        for (key, value) in table {
            let value = match value {
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Boolean(is_on) => is_on.to_string(),
                _ => bail!("scenario {name}: {key}: a text, a number, true or false"),
            };
            flags.push(format!("--{key}={value}"));
        }
        Ok(Self { summary, flags })
    }

    /// The flags of `loadtest run` that it stands for, with `extra` ones behind them.
    pub(crate) fn to_flags(&self, name: &str, extra: &[String]) -> Result<Flags> {
        let words = std::iter::once(format!("--scenario={name}"));
        Ok(Flags::parse(words.chain(self.flags.iter().cloned()).chain(extra.iter().cloned()))?)
    }

    /// The same as text.
    pub(crate) fn words(&self, extra: &[String]) -> String {
        self.flags.iter().chain(extra).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// `arguments` with the flags of the scenario they name put in front.
    pub(crate) fn expand(arguments: Vec<String>) -> Result<Vec<String>> {
        let mut given = arguments.iter().skip(1);
        if !given.next().is_some_and(|verb| verb == "run" || verb == "swarm") {
            return Ok(arguments);
        }
        let mut given = given.skip_while(|argument| *argument != "--scenario" && !argument.starts_with("--scenario="));
        let name = match given.next().map(|argument| argument.strip_prefix("--scenario=")) {
            None => return Ok(arguments),
            Some(Some(name)) => name.to_owned(),
            Some(None) => given.next().context("--scenario: its name is missing")?.clone(),
        };
        let scenario = Self::load(&name)?;
        let mut expanded = arguments;
        // Behind the program and the verb.
        let at = expanded.len().min(2);
        expanded.splice(at..at, scenario.flags);
        Ok(expanded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn every_built_in_scenario_is_a_set_of_flags_and_says_what_it_is_for() {
        for (name, _) in BUILT_IN {
            let scenario = Scenario::load(name).unwrap();
            assert!(!scenario.summary.is_empty(), "{name}");
            let line = Flags::parse(scenario.flags);
            line.map_err(|error| format!("{name}: {error}")).unwrap();
        }
    }

    #[test]
    fn what_is_written_on_the_command_line_overrides_the_scenario() {
        let expanded = Scenario::expand(words("loadtest run --streams 7 --scenario broadcast")).unwrap();
        assert_eq!(expanded[..2], ["loadtest", "run"]);
        assert!(expanded.contains(&"--rate=12".to_owned()));
        let flags = Flags::parse(expanded[2..].iter().cloned()).unwrap();
        assert_eq!((flags.streams, flags.rate), (7, 12.0));
        for line in ["loadtest compare --scenarios idle", "loadtest run --streams 1", "loadtest"] {
            assert_eq!(Scenario::expand(words(line)).unwrap(), words(line));
        }
    }

    #[test]
    fn a_scenario_that_is_not_there_or_not_flat_is_refused() {
        assert!(Scenario::load("nothing").unwrap_err().to_string().contains("broadcast"));
        assert!(Scenario::load("/nowhere/x.toml").is_err());
        assert!(Scenario::parse("x", "streams = [1]").unwrap_err().to_string().contains("streams"));
        let unknown = Scenario::parse("x", "stream = 1").unwrap();
        assert!(Flags::parse(unknown.flags).is_err());
    }
}
