//! `fanwheel config`: what the settings are, and whether these are right.

use std::process::ExitCode;

use clap::Subcommand;

use crate::config::{self, Config, Flags};

/// What is asked.
#[derive(Debug, Subcommand)]
pub(super) enum Question {
    /// Report everything that is wrong, or print what is in effect
    Check {
        #[command(flatten)]
        flags: Flags,
        /// Tell which class this topic gets (repeatable)
        #[arg(long, value_name = "NAME")]
        topic: Vec<String>,
    },
    /// Print a file with every key at its default
    Default,
    /// Print every key with flag, variable, default, unit, range and cost
    Doc,
}

/// Answers it.
pub(super) fn run(question: Question) -> ExitCode {
    match question {
        Question::Check { flags, topic } => {
            for variable in super::unknown_variables() {
                eprintln!("warning: {variable}: unknown variable");
            }
            match Config::check(&flags, &topic) {
                Ok(text) => super::print(text.trim_end()),
                Err(errors) => return super::wrong_configuration(&errors),
            }
        }
        Question::Default => super::print(config::default_file().trim_end()),
        Question::Doc => super::print(config::documentation().trim_end()),
    }
    ExitCode::SUCCESS
}
