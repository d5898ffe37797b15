//! The flags of `serve`, `demo` and `config check`, made from the table of keys.
//!
//! Values are taken as text: what is wrong with them is reported together with the file's errors,
//! not by the first one that the command line's parser meets.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::keys::{CONFIG, Default as KeyDefault, Flag, KEYS, Key};
use super::kind::{Kind, Raw};

/// What flags and variables say.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The file.
    pub config: Option<PathBuf>,
    pub(super) given: Vec<Given>,
}

/// A key that a flag or a variable gives a value.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub key: &'static Key,
    pub value: Raw,
    /// `--shards` or `FANWHEEL_SHARDS`.
    pub by: String,
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, clap::Error> {
        let mut flags = Flags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>(CONFIG.long).cloned();
        self.given = KEYS.iter().filter_map(|key| given(key, matches)).collect();
        Ok(())
    }
}

fn given(key: &'static Key, matches: &ArgMatches) -> Option<Given> {
    let flag = key.flag.as_ref()?;
    let words = matches.get_many::<String>(flag.long)?.cloned().collect();
    let by = match matches.value_source(flag.long)? {
        ValueSource::EnvVariable => flag.variable.to_owned(),
        _ => format!("--{}", flag.long),
    };
    Some(Given { key, value: Raw::Words(words), by })
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file =
            argument(&CONFIG).value_parser(clap::value_parser!(PathBuf)).help("Read settings from this TOML file");
        KEYS.iter().filter_map(argument_of).fold(command.arg(file), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args(command)
    }
}

fn argument(flag: &Flag) -> Arg {
    Arg::new(flag.long).long(flag.long).env(flag.variable).value_name(flag.value).action(ArgAction::Set)
}

fn argument_of(key: &'static Key) -> Option<Arg> {
    let default = match key.default {
        KeyDefault::Is("[]") => "none",
        KeyDefault::Is(toml) => toml.trim_matches('"'),
        KeyDefault::Absent(meaning, _) => meaning,
    };
    let help = match key.kind {
        Kind::OneOf(words) => format!("{}: {} [default: {default}]", key.meaning, words.join(", ")),
        _ => format!("{} [default: {default}]", key.meaning),
    };
    let argument = argument(key.flag.as_ref()?).help(help);
    Some(match key.kind {
        Kind::Switch => argument.num_args(0..=1).default_missing_value("true"),
        Kind::Origins => argument.action(ArgAction::Append).value_delimiter(','),
        // It may contain a password.
        Kind::RedisUrl => argument.hide_env_values(true),
        // A number below none is a wrong value, not an unknown flag.
        Kind::Count { .. } => argument.allow_negative_numbers(true),
        _ => argument,
    })
}
