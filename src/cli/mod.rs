//! The command line: one file per verb. Exit codes: 0, 1 failed, 2 usage or configuration.

mod client;
mod demo;
mod failure;
mod publish;
mod serve;
mod sse;
mod subscribe;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, Flags};

/// Fans events out from Redis or HTTP to very many event streams.
#[derive(Debug, Parser)]
#[command(name = "fanwheel", version, about, arg_required_else_help = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node
    Serve(Flags),
    /// Run a node with a built-in stock ticker and a page to look at
    Demo(Flags),
    // What these say about themselves stands with their flags.
    Publish(publish::Flags),
    Subscribe(subscribe::Flags),
}

/// Wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

/// Runs what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let (flags, demo) = match Command::parse().verb {
        Verb::Serve(flags) => (flags, false),
        Verb::Demo(flags) => (flags, true),
        Verb::Publish(flags) => {
            return publish::run(flags).map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS);
        }
        Verb::Subscribe(flags) => return subscribe::run(flags).unwrap_or_else(|failure| failure.report()),
    };
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    start_logging(&config);
    warn_of_unknown_variables();
    let ended = if demo { demo::run(config) } else { serve::run(config) };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanwheel: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints lines; nobody may be there to read them, and the node runs all the same.
fn print(lines: &str) {
    let _ = writeln!(std::io::stdout(), "{lines}");
}

/// One thread is enough for the verbs that are clients.
fn runtime() -> Result<tokio::runtime::Runtime, failure::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| failure::Failure::Failed(format!("cannot start: {error}")))
}

fn start_logging(config: &Config) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match config.log_format {
        crate::config::LogFormat::Text => builder.init(),
        crate::config::LogFormat::Json => builder.json().init(),
    }
}

/// A misspelt variable would otherwise be a setting that silently does nothing.
fn warn_of_unknown_variables() {
    let command = Command::command();
    let known: Vec<String> = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned))
        .collect();
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("FANWHEEL_") && !name.starts_with("FANWHEEL_TEST_") && !known.iter().any(|one| *one == name)
        {
            tracing::warn!(variable = %name, "unknown variable");
        }
    }
}
